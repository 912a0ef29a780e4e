"""Progress of the running stage, from components to whoever watches.

Components call a plain function; here it is led to the reporter of this process: rich bars for the
command line, nothing for a worker. One reporter a process, since Prefect runs tasks in threads that
share no context variable with the command line.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from components.progress import Progress as Reporter
from components.progress import no_progress

_lock = threading.Lock()
_reporter: Reporter = no_progress


def report(step: str, done: int, total: int) -> None:
    """Pass progress on to the reporter of this process.

    Parameters
    ----------
    step : str
        Name of the step.
    done, total : int
        Units done, units in all.
    """
    with _lock:
        _reporter(step, done, total)


class _Bars:
    """One bar a step; a step that starts again gets a new bar."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._ids: dict[str, TaskID] = {}

    def __call__(self, step: str, done: int, total: int) -> None:
        current = self._ids.get(step)
        if current is None or self._bars.tasks[current].finished:
            current = self._ids[step] = self._bars.add_task(step, total=total)
        self._bars.update(current, completed=done, total=total)


@contextlib.contextmanager
def progress_bars(enabled: bool = True) -> Iterator[Console]:
    """Show a rich progress bar for every step that runs inside the block, on standard error.

    Parameters
    ----------
    enabled : bool
        False keeps silent.

    Yields
    ------
    Console
        For messages that must not tear the bars.
    """
    global _reporter  # noqa: PLW0603
    console = Console(stderr=True, quiet=not enabled)
    if not enabled or not sys.stderr.isatty():
        # Without a terminal a bar would fill the log: one line at the end of each step instead.
        _reporter = _lines(console) if enabled else no_progress
        try:
            yield console
        finally:
            _reporter = no_progress
        return
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=36),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        _reporter = _Bars(bars)
        try:
            yield console
        finally:
            _reporter = no_progress


def _lines(console: Console) -> Reporter:
    seen: dict[str, int] = {}

    def say(step: str, done: int, total: int) -> None:
        quarter = 4 * done // max(total, 1)
        if seen.get(step) != quarter:
            seen[step] = quarter
            console.print(f"{step}: {done}/{total}", highlight=False)

    return say

"""How long work tells how far it is: one call signature, no library."""

from __future__ import annotations

from collections.abc import Callable

#: ``progress(step, done, total)``: name of the step, units done so far, units in all.
Progress = Callable[[str, int, int], None]


def no_progress(step: str, done: int, total: int) -> None:
    """Say nothing: the default wherever a `Progress` is accepted."""

"""Command line: arguments to configuration to flow; progress on stderr, results on stdout."""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
from collections.abc import Callable
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any, Final, get_type_hints

import typer

from components.config_file import config_yaml
from components.errors import InputError, SlopewatchError
from components.provenance import software
from flows.options import ConfigOption, Given, JsonOption, SetOption, VerboseOption
from flows.progress import progress_bars

app = typer.Typer(
    name="slopewatch",
    help="Sentinel-1 D-InSAR deformation maps to a living inventory of active landslides.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

#: Does what a verb promises; its first argument is what was given of the configuration.
Work = Callable[..., Any]

#: What verbs have in common, after the options of their own.
_SHARED: Final = {
    "config": Parameter("config", Parameter.KEYWORD_ONLY, default=None, annotation=ConfigOption),
    "overrides": Parameter("overrides", Parameter.KEYWORD_ONLY, default=None, annotation=SetOption),
    "as_json": Parameter("as_json", Parameter.KEYWORD_ONLY, default=False, annotation=JsonOption),
    "verbose": Parameter(
        "verbose", Parameter.KEYWORD_ONLY, default=False, annotation=VerboseOption
    ),
}


def verb(
    name: str,
    show: Callable[[Any], None],
    *,
    group: typer.Typer = app,
    reads: tuple[str, ...] = ("config", "overrides"),
) -> Callable[[Work], Work]:
    """Make a command of a function: its own options, and those that all verbs share.

    Parameters
    ----------
    name : str
        As typed.
    show : callable
        Prints the result for people.
    group : typer.Typer
        Where the command belongs.
    reads : tuple of {"config", "overrides"}
        What of the configuration the verb takes.

    Returns
    -------
    callable
        Decorator. The function takes `Given`, then its own options as Typer declares them; it imports
        and runs the flow, and returns its result. ``--json`` and ``--verbose`` are seen to here.
    """
    shared = [_SHARED[key] for key in (*reads, "as_json", "verbose")]

    def register(work: Work) -> Work:
        hints = get_type_hints(work, include_extras=True)
        _, *own = inspect.signature(work).parameters.values()
        parameters = [*(p.replace(annotation=hints[p.name]) for p in own), *shared]

        @functools.wraps(work)
        def command(**values: Any) -> None:
            given = Given(values.pop("config", None), tuple(values.pop("overrides", None) or ()))
            as_json, verbose = values.pop("as_json"), values.pop("verbose")
            execute(lambda: work(given, **values), as_json=as_json, verbose=verbose, show=show)

        # Typer reads the options from these two.
        command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        group.command(name)(command)
        return work

    return register


def quiet_prefect(verbose: bool) -> None:
    """Set Prefect up for a command: its errors reach the user through our messages only.

    Parameters
    ----------
    verbose : bool
        Leave Prefect's log on.
    """
    if not verbose:
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
        os.environ.setdefault("PREFECT_LOGGING_SERVER_LEVEL", "CRITICAL")


def execute(
    work: Callable[[], Any], *, as_json: bool, verbose: bool, show: Callable[[Any], None]
) -> None:
    """Run a verb: bars while it works, its result at the end, a coded message where it fails.

    Parameters
    ----------
    work : callable
        Imports and runs the flow; returns its result.
    as_json : bool
        Print the result as one JSON line instead of text.
    verbose : bool
        Let tracebacks through.
    show : callable
        Prints the result for people.

    Raises
    ------
    typer.Exit
        1 for a coded error, 130 for an interruption. A fault of ours keeps its traceback.
    """
    quiet_prefect(verbose)
    try:
        with progress_bars(enabled=not as_json or sys.stderr.isatty()):
            result = work()
    except SlopewatchError as e:
        if verbose:
            raise
        _fail(e.code, str(e), as_json)
    except KeyboardInterrupt:
        _fail("interrupted", "interrupted; the same command goes on where it was", as_json, 130)
    except Exception as e:
        if verbose or not _unreachable(e):
            raise
        error = InputError("SW-703", str(e).splitlines()[0], path=os.environ.get("PREFECT_API_URL"))
        _fail(error.code, str(error), as_json)
    else:
        if as_json:
            typer.echo(json.dumps(_plain(result)))
        else:
            show(result)


def _fail(code: str, message: str, as_json: bool, status: int = 1) -> None:
    typer.echo(message, err=True)
    if as_json:
        typer.echo(json.dumps({"error": code, "message": message}))
    raise typer.Exit(status)


def _unreachable(error: Exception) -> bool:
    return "Failed to reach API" in str(error) or "connect to ephemeral" in str(error)


def _plain(value: Any) -> Any:
    if hasattr(value, "as_json"):
        return value.as_json()
    if hasattr(value, "__dataclass_fields__"):
        return {k: _plain(getattr(value, k)) for k in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


@app.command("config")
def config_command(config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Write the configuration with a comment for every key.

    Example: slopewatch config > slopewatch.yaml
    """
    try:
        typer.echo(config_yaml(Given(config, tuple(overrides or ())).config()), nl=False)
    except SlopewatchError as e:
        _fail(e.code, str(e), as_json=False)


@app.command("version")
def version_command(as_json: JsonOption = False) -> None:
    """Print the versions of slopewatch and of what can change its results.

    Example: slopewatch version --json
    """
    versions = software()
    lines = [f"{k} {v}" for k, v in versions.items()]
    typer.echo(json.dumps(versions) if as_json else "\n".join(lines))


def main() -> None:
    """Entry point of the command ``slopewatch``."""
    from flows import verbs  # noqa: F401 - registers the verbs

    app()

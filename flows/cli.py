"""Command line: arguments to configuration to flow; progress on stderr, results on stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import yaml

from components.config import Config, config_yaml, load_config
from components.errors import InputError, SlopewatchError
from components.provenance import software
from flows.progress import progress_bars

app = typer.Typer(
    name="slopewatch",
    help="Sentinel-1 D-InSAR deformation maps to a living inventory of active landslides.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

Number = TypeVar("Number", int, float)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file; see `slopewatch config`.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="SECTION.KEY=VALUE", help="Override one key; repeatable."),
]
WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", "-w", help="Folder of the region; made if missing.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON object as the last line of standard output.")
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show Prefect's log and full tracebacks.")
]
LabelsOption = Annotated[
    Path | None, typer.Option("--labels", help="Interpreters' polygons (shapefile, GeoPackage, …).")
]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", help="Weights (.safetensors with its card beside it).")
]
ProductsArgument = Annotated[
    list[Path], typer.Argument(help="HyP3 folders or archives, dolphin/OPERA files, YAML files.")
]


def settings(
    config: Path | None, overrides: list[str] | None, shortcuts: dict[str, Any] | None = None
) -> Config:
    """Configuration of a command: file, then ``--set``, then the verb's own options.

    Parameters
    ----------
    config : Path or None
        YAML file.
    overrides : list of str or None
        ``section.key=value``, values in YAML.
    shortcuts : dict, optional
        ``section.key`` → value; None values are left out, paths are made absolute.

    Returns
    -------
    Config

    Raises
    ------
    InputError
        SW-701 for anything that is not a known key with a valid value.
    """
    values: dict[str, Any] = {}
    for item in overrides or []:
        key, separator, text = item.partition("=")
        if not separator:
            raise InputError("SW-701", f"`{item}` is not SECTION.KEY=VALUE")
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as e:
            raise InputError("SW-701", f"value of `{key}` is not YAML: {text!r}") from e
    for key, value in (shortcuts or {}).items():
        if value is not None:
            values[key] = str(value.resolve()) if isinstance(value, Path) else value
    return load_config(config, values)


def numbers(option: str, text: str | None, kind: type[Number]) -> list[Number] | None:
    """Numbers with commas between them.

    Parameters
    ----------
    option : str
        Name of the option, for the message.
    text : str or None
        As given.
    kind : {float, int}
        What they are.

    Returns
    -------
    list or None

    Raises
    ------
    InputError
        SW-701 where it is not a list of such numbers.
    """
    if text is None:
        return None
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as e:
        raise InputError(
            "SW-701", f"{option} {text!r}: {kind.__name__}s with commas are needed"
        ) from e


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
        typer.echo(config_yaml(settings(config, overrides)), nl=False)
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

"""What verbs take: options that several of them share, said once, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from components.config import Config
from components.config_file import load_config, parse_overrides
from components.errors import InputError

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
ModelOption = Annotated[Path, typer.Option("--weights", help="The model (.safetensors).")]
WindowOption = Annotated[int | None, typer.Option("--window", help="Window side [px].")]


@dataclass(frozen=True)
class Given:
    """Configuration as a command was given it.

    Parameters
    ----------
    file : Path or None
        YAML file.
    overrides : tuple of str
        ``section.key=value``, values in YAML.
    """

    file: Path | None = None
    overrides: tuple[str, ...] = ()

    def config(self, shortcuts: Mapping[str, Any] | None = None) -> Config:
        """Configuration of a command: file, then ``--set``, then the verb's own options.

        Parameters
        ----------
        shortcuts : mapping, optional
            ``section.key`` → value; None values are left out, paths are made absolute.

        Returns
        -------
        Config

        Raises
        ------
        InputError
            SW-701 for anything that is not a known key with a valid value.
        """
        values = parse_overrides(self.overrides)
        for key, value in (shortcuts or {}).items():
            if value is not None:
                values[key] = str(value.resolve()) if isinstance(value, Path) else value
        return load_config(self.file, values)


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

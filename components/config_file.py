"""Settings as people write them: a YAML file, and overrides typed beside it.

The commented YAML that ``slopewatch config`` prints is generated from the fields of `components.config`, so
that the description of a key cannot drift from the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from components.config import Config, Section
from components.errors import InputError


def parse_overrides(items: Iterable[str]) -> dict[str, Any]:
    """Overrides as they are typed.

    Parameters
    ----------
    items : iterable of str
        ``section.key=value``, values in YAML; a later one wins.

    Returns
    -------
    dict
        ``section.key`` → value, as `load_config` takes it.

    Raises
    ------
    InputError
        SW-701 for another form.
    """
    values: dict[str, Any] = {}
    for item in items:
        key, separator, text = item.partition("=")
        if not separator:
            raise InputError("SW-701", f"`{item}` is not SECTION.KEY=VALUE")
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as e:
            raise InputError("SW-701", f"value of `{key}` is not YAML: {text!r}") from e
    return values


def load_config(path: Path | None, overrides: dict[str, Any] | None = None) -> Config:
    """Read a configuration file and lay overrides over it.

    Parameters
    ----------
    path : Path or None
        YAML file; None for the defaults.
    overrides : dict, optional
        ``{"section.key": value}``.

    Returns
    -------
    Config

    Raises
    ------
    InputError
        SW-101 where the file is missing; SW-701 where it is not YAML, holds an unknown key or a
        value out of bounds (the message names the key).
    """
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = yaml.safe_load(path.read_text()) or {}
        except FileNotFoundError:
            raise InputError("SW-101", "no such configuration file", path=path) from None
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as e:
            raise InputError("SW-701", str(e).replace("\n", " "), path=path) from e
        if not isinstance(data, dict):
            raise InputError("SW-701", "the file must hold sections with keys", path=path)
    for dotted, value in (overrides or {}).items():
        section, _, key = dotted.partition(".")
        inner = data.get(section) or {}
        if not key or not isinstance(inner, dict):
            raise InputError("SW-701", f"`{dotted}` is not section.key", path=path)
        data[section] = {**inner, key: value}
    data = {k: v for k, v in data.items() if v is not None}
    try:
        return Config.model_validate(data)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(x) for x in first["loc"])
        got = first.get("input")
        raise InputError(
            "SW-701",
            f"`{where}`: {first['msg']} (got {got!r}); {len(e.errors())} problem(s)",
            path=path,
        ) from e


def config_yaml(config: Config | None = None) -> str:
    """The configuration as YAML in which every key is commented with its description and default.

    Parameters
    ----------
    config : Config, optional
        Values; the defaults if left out.

    Returns
    -------
    str
        Text that `load_config` reads back to an equal configuration.
    """
    return "\n".join(_yaml_lines(config or Config())) + "\n"


def _yaml_lines(config: Config) -> Iterator[str]:
    yield "# slopewatch configuration. Every key may be left out; unknown keys are refused."
    for name, field in type(config).model_fields.items():
        section: Section = getattr(config, name)
        yield ""
        yield f"# {(type(section).__doc__ or field.description or '').splitlines()[0]}"
        yield f"{name}:"
        values = section.model_dump(mode="json")
        for key, inner in type(section).model_fields.items():
            for line in (inner.description or "").splitlines():
                yield f"  # {line}"
            text = yaml.safe_dump(values[key], default_flow_style=True, width=1000)
            yield f"  {key}: {text.removesuffix(chr(10)).removesuffix('...').strip()}"

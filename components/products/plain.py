"""Any GeoTIFF or NetCDF whose meaning the user states in a small YAML beside it.

The YAML is ``<file>.yaml`` or ``<stem>.yaml`` (or .yml) beside the raster, or is given itself as the
product and names the raster under ``file``. Nothing is guessed: without quantity, unit and sign there is
no displacement.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from components.config import IngestConfig
from components.errors import InputError
from components.insar.geometry import los_from_angles
from components.layers import DAYS_PER_YEAR, SENTINEL1_WAVELENGTH_M
from components.products.base import (
    LOS_LAYERS,
    LayerSource,
    OrbitDirection,
    Product,
    check_dates,
    description_beside,
    parse_date,
)
from components.products.opera import variables
from components.products.raster import probe, resolve

NAME: Final = "plain"

_RASTERS: Final = (".tif", ".tiff", ".nc", ".nc4", ".grd", ".vrt")
_YAMLS: Final = (".yaml", ".yml")

#: Quantity → unit → canonical size of one unit ([m], [rad] or [m/yr]).
UNITS: Final[dict[str, dict[str, float]]] = {
    "displacement": {"m": 1.0, "cm": 1e-2, "mm": 1e-3},
    "velocity": {"m/yr": 1.0, "cm/yr": 1e-2, "mm/yr": 1e-3},
    "unwrapped_phase": {"rad": 1.0},
}

_COHERENCE_UNITS: Final = {"fraction": 1.0, "percent": 1e-2, "byte": 1.0 / 255.0}

#: Words of units in a file's own tags that mean a phase.
_PHASE_WORDS: Final = ("rad", "radian", "radians")

EXAMPLE: Final = """\
quantity: displacement        # displacement | velocity | unwrapped_phase
unit: mm                      # m, cm, mm | m/yr, cm/yr, mm/yr | rad
sign: toward                  # a positive value means: toward | away from the satellite
dates: [2023-01-05, 2023-07-04]   # reference (older), secondary
"""


class Description(BaseModel):
    """The YAML beside a plain raster; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    file: Path | None = None
    """The raster, relative to the YAML or absolute; left out where the YAML bears the raster's name."""
    quantity: Literal["displacement", "velocity", "unwrapped_phase"]
    """What the numbers are."""
    unit: str
    """Their unit: m, cm, mm; m/yr, cm/yr, mm/yr; rad."""
    sign: Literal["toward", "away"]
    """What a positive number means: motion toward the satellite or away from it."""
    dates: tuple[str, str]
    """Reference (older) and secondary acquisition, ISO or YYYYMMDD."""
    wavelength_m: float | None = Field(default=None, gt=0.001, lt=2)
    """Radar wavelength [m]; needed for a phase, Sentinel-1's otherwise."""
    variable: str | None = None
    """Variable of a NetCDF file with several."""
    nodata: float | None = None
    """Value of a missing pixel; the file's own by default. NaN is always missing."""
    crs: str | None = None
    """CRS for files that name none, e.g. EPSG:32632."""
    coherence: Path | None = None
    """Raster of coherence."""
    coherence_unit: Literal["fraction", "percent", "byte"] = "fraction"
    """Scale of the coherence: 0..1, 0..100 or 0..255."""
    coherence_nodata: float | None = None
    """Value of missing coherence; the file's own by default."""
    mask: Path | None = None
    """Raster of good pixels: 1 is good, anything else is not."""
    elevation: Path | None = None
    """Raster of elevation [m]."""
    los_east: Path | None = None
    """Raster of the east component of the unit vector from the ground to the satellite."""
    los_north: Path | None = None
    """Raster of the north component."""
    los_up: Path | None = None
    """Raster of the up component."""
    incidence_deg: float | None = Field(default=None, gt=0, lt=90)
    """One incidence angle for the whole map [deg], with `heading_deg`."""
    heading_deg: float | None = Field(default=None, ge=-360, le=360)
    """Flight heading [deg, clockwise from north] of a right-looking radar."""
    track: str | None = Field(default=None, min_length=1)
    """Track name."""
    orbit_direction: Literal["ascending", "descending"] | None = None
    """Flight direction; follows from `heading_deg` where left out."""
    looks: float | None = Field(default=None, gt=0)
    """Number of looks."""

    @field_validator("dates", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        # YAML reads 2023-01-05 as a date and 20230105 as a number.
        return [str(v) for v in value] if isinstance(value, list | tuple) else value


def detect(path: Path) -> bool:
    """Whether a path is a raster file or a description of one, by its ending.

    Parameters
    ----------
    path : Path
        Any path.

    Returns
    -------
    bool
    """
    return path.is_file() and path.suffix.lower() in (*_RASTERS, *_YAMLS)


def read(path: Path, cfg: IngestConfig) -> list[Product]:
    """The product of a described raster.

    Parameters
    ----------
    path : Path
        The raster, or its YAML.
    cfg : IngestConfig
        ``track`` names the track where the YAML does not.

    Returns
    -------
    list of Product
        One.

    Raises
    ------
    InputError
        SW-101 where a file is missing; SW-102 where one is unreadable; SW-103 without CRS; SW-104 for layers
        on different grids; SW-105 where quantity, unit, sign or wavelength is not stated or contradicts the
        file; SW-106 for missing or reversed dates; SW-114 for an invalid YAML.
    """
    yaml_path = path if path.suffix.lower() in _YAMLS else description_beside(path)
    if yaml_path is None:
        raise InputError(
            "SW-105",
            "the file does not say what its numbers mean",
            path=path,
            remedy=f"Put a file {path.stem}.yaml beside it, e.g.:\n{EXAMPLE}",
        )
    d = _description(yaml_path)
    raster = _raster(path, yaml_path, d)
    start, end = (parse_date(text, yaml_path) for text in d.dates)
    check_dates(start, end, yaml_path)
    main = _displacement(raster, yaml_path, d, start, end)
    _refuse_contradiction(main, yaml_path, d)
    sources, files = _layers(main, yaml_path, d)
    geobox, sources = resolve(sources, d.crs)
    orbit = _orbit(d)
    return [
        Product(
            path=path,
            reader=NAME,
            track=d.track or cfg.track or orbit,
            orbit_direction=orbit,
            date_start=start,
            date_end=end,
            geobox=geobox,
            wavelength_m=d.wavelength_m or SENTINEL1_WAVELENGTH_M,
            looks=d.looks,
            layers=sources,
            files=(yaml_path, raster, *files),
        )
    ]


def _description(path: Path) -> Description:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise InputError("SW-114", str(e).replace("\n", " "), path=path) from e
    except OSError as e:
        raise InputError("SW-102", e.strerror or str(e), path=path) from e
    if not isinstance(data, dict):
        raise InputError("SW-114", "the file must hold `key: value` lines", path=path)
    if data.get("quantity") == "wrapped_phase":
        raise InputError(
            "SW-105",
            "a wrapped phase is ambiguous by whole cycles",
            path=path,
            remedy="Unwrap it (e.g. with SNAPHU) and give `quantity: unwrapped_phase`.",
        )
    try:
        return Description.model_validate(data)
    except ValidationError as e:
        first = e.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "?"
        missing = first["type"] == "missing"
        what = (
            f"`{key}` is missing"
            if missing
            else f"`{key}`: {first['msg']} (got {first['input']!r})"
        )
        if key == "dates":
            raise InputError("SW-106", what, path=path, remedy=f"For example:\n{EXAMPLE}") from e
        code = "SW-105" if key in {"quantity", "unit", "sign"} else "SW-114"
        raise InputError(code, what, path=path, remedy=f"For example:\n{EXAMPLE}") from e


def _raster(path: Path, yaml_path: Path, d: Description) -> Path:
    if path != yaml_path:
        stated = None if d.file is None else (yaml_path.parent / d.file).resolve()
        if stated is not None and stated != path.resolve():
            raise InputError("SW-114", f"`file` names another raster: {d.file}", path=yaml_path)
        return path
    if d.file is not None:
        return _existing(yaml_path, d.file, "file")
    # `map.tif.yaml` describes `map.tif`; `map.yaml` describes `map` with any raster ending.
    candidates = [yaml_path.with_suffix(""), *(yaml_path.with_suffix(s) for s in _RASTERS)]
    found = [c for c in candidates if c.suffix.lower() in _RASTERS and c.is_file()]
    if len(found) != 1:
        raise InputError(
            "SW-101",
            f"{len(found)} rasters of the YAML's name beside it",
            path=yaml_path,
            remedy="Name the raster in the YAML: `file: …`.",
        )
    return found[0]


def _existing(yaml_path: Path, file: Path, key: str) -> Path:
    path = (yaml_path.parent / file.expanduser()).resolve()
    if not path.is_file():
        raise InputError(
            "SW-101", f"`{key}` names a file that is not there: {path}", path=yaml_path
        )
    return path


def _displacement(
    raster: Path, yaml_path: Path, d: Description, start: date, end: date
) -> LayerSource:
    """Source of the displacement: unit, sign, wavelength and period in one factor."""
    size = UNITS[d.quantity].get(d.unit)
    if size is None:
        raise InputError(
            "SW-105",
            f"`{d.unit}` is no unit of `quantity: {d.quantity}` "
            f"(known: {', '.join(UNITS[d.quantity])})",
            path=yaml_path,
        )
    if d.quantity == "unwrapped_phase":
        if d.wavelength_m is None:
            raise InputError(
                "SW-105",
                "`wavelength_m` is missing: a phase is no displacement without it",
                path=yaml_path,
                remedy=f"Sentinel-1: wavelength_m: {SENTINEL1_WAVELENGTH_M}",
            )
        size *= d.wavelength_m / (4.0 * np.pi)
    elif d.quantity == "velocity":
        size *= (end - start).days / DAYS_PER_YEAR
    return LayerSource(
        str(raster),
        variable=_variable(raster, yaml_path, d.variable),
        nodata=d.nodata,
        scale=size if d.sign == "toward" else -size,
    )


def _variable(raster: Path, yaml_path: Path, stated: str | None) -> str | None:
    if raster.suffix.lower() not in {".nc", ".nc4", ".grd"}:
        return None
    there = variables(raster)
    if stated is None and len(there) > 1:
        raise InputError(
            "SW-114", f"`variable` is missing; there are {', '.join(there)}", path=yaml_path
        )
    if stated is not None and there and stated not in there:
        raise InputError(
            "SW-114", f"`variable`: no {stated}; there are {', '.join(there)}", path=yaml_path
        )
    return stated if there else None


def _refuse_contradiction(main: LayerSource, yaml_path: Path, d: Description) -> None:
    """Refuse a phase that is promised as a displacement where the file's own tags say so."""
    tags = probe(main.datasets[0], crs=d.crs).tags
    told = next((tags[k] for k in ("DATA_UNITS", "units", "UNITS") if k in tags), None)
    if told is None:
        return
    is_phase = told.strip().lower() in _PHASE_WORDS
    if is_phase and d.quantity != "unwrapped_phase":
        raise InputError(
            "SW-105",
            f"the YAML says `quantity: {d.quantity}`, the raster's own tag says {told}",
            path=yaml_path,
        )


def _layers(
    main: LayerSource, yaml_path: Path, d: Description
) -> tuple[dict[str, LayerSource], list[Path]]:
    sources = {"los_displacement": main}
    files = []
    for name in ("coherence", "mask", "elevation", *LOS_LAYERS):
        stated: Path | None = getattr(d, name)
        if stated is None:
            continue
        file = _existing(yaml_path, stated, name)
        files.append(file)
        if name == "coherence":
            scale = _COHERENCE_UNITS[d.coherence_unit]
            sources[name] = LayerSource(str(file), nodata=d.coherence_nodata, scale=scale)
        else:
            sources[name] = LayerSource(str(file), kind="mask" if name == "mask" else "linear")
    given = [name for name in LOS_LAYERS if name in sources]
    if given and len(given) < len(LOS_LAYERS):
        raise InputError(
            "SW-114", "give all of `los_east`, `los_north`, `los_up`, or none", path=yaml_path
        )
    if (d.incidence_deg is None) != (d.heading_deg is None):
        raise InputError("SW-114", "give both `incidence_deg` and `heading_deg`", path=yaml_path)
    if not given and d.incidence_deg is not None and d.heading_deg is not None:
        look = los_from_angles(d.incidence_deg, d.heading_deg)
        for name, value in zip(LOS_LAYERS, look, strict=True):
            sources[name] = LayerSource("", kind="constant", offset=float(value))
    return sources, files


def _orbit(d: Description) -> OrbitDirection:
    if d.orbit_direction is not None:
        return d.orbit_direction
    if d.heading_deg is None:
        return "unknown"
    heading = (d.heading_deg + 180.0) % 360.0 - 180.0
    return "ascending" if -90.0 < heading < 90.0 else "descending"

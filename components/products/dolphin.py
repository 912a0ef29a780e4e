"""dolphin's GeoTIFF layout: a folder of ``displacement_<d1>_<d2>.tif`` or one such file.

LOS displacement [m] since the first date, positive toward the satellite, NaN nodata; beside it
``recommended_mask_<d1>_<d2>.tif`` (1 = good) and ``temporal_coherence_<d1>_<d2>.tif``, of which one file may
serve the whole stack. The layout names neither track nor geometry: ``ingest.track``, ``ingest.incidence_deg``
and ``ingest.heading_deg`` state them.
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Final

from components.config import IngestConfig
from components.errors import InputError
from components.layers import SENTINEL1_WAVELENGTH_M
from components.products.base import (
    LayerSource,
    Product,
    description_beside,
    existing_files,
    parse_date,
)
from components.products.raster import resolve

NAME: Final = "dolphin"

_FILE = re.compile(
    r"(?P<layer>displacement|recommended_mask|temporal_coherence)"
    r"_(?P<d1>\d{8})(?:T\d{6}Z?)?_(?P<d2>\d{8})(?:T\d{6}Z?)?\.tiff?"
)

#: Look vector components, under the names of OPERA's static layers.
_LOOK_FILES: Final = {
    "los_east": "los_east.tif",
    "los_north": "los_north.tif",
    "los_up": "los_up.tif",
}


def detect(path: Path) -> bool:
    """Whether a path is a displacement map of dolphin or a folder of them.

    Parameters
    ----------
    path : Path
        Folder or file.

    Returns
    -------
    bool
        False for a file with a YAML beside it: what the user states has precedence.
    """
    if path.is_dir():
        return any(_is_displacement(p) for p in existing_files(path))
    return _is_displacement(path) and description_beside(path) is None


def _is_displacement(path: Path) -> bool:
    found = _FILE.fullmatch(path.name)
    return found is not None and found["layer"] == "displacement"


def _dates(path: Path) -> tuple[date, date]:
    found = _FILE.fullmatch(path.name)
    if found is None:
        raise InputError("SW-106", "no dates in the file name", path=path)
    return parse_date(found["d1"], path), parse_date(found["d2"], path)


def read(path: Path, cfg: IngestConfig) -> list[Product]:
    """Products of a dolphin folder, or of one displacement file with its siblings.

    Parameters
    ----------
    path : Path
        Folder or ``displacement_<d1>_<d2>.tif``.
    cfg : IngestConfig
        ``track`` names the track.

    Returns
    -------
    list of Product
        One a displacement file.

    Raises
    ------
    InputError
        SW-102 for an unreadable file; SW-104 for layers on different grids; SW-106 for dates that are none
        or reversed.
    """
    siblings = existing_files(path if path.is_dir() else path.parent)
    chosen = [p for p in siblings if _is_displacement(p)] if path.is_dir() else [path]
    return [_product(p, siblings, cfg) for p in chosen]


def _coherence(displacement: Path, siblings: list[Path]) -> Path | None:
    """The coherence of the nearest date range; a stack often has a single one."""
    start, end = _dates(displacement)

    def distance(path: Path) -> tuple[int, str]:
        first, last = _dates(path)
        return abs((first - start).days) + abs((last - end).days), path.name

    found = [
        p for p in siblings if (m := _FILE.fullmatch(p.name)) and m["layer"] == "temporal_coherence"
    ]
    return min(found, key=distance, default=None)


def _product(path: Path, siblings: list[Path], cfg: IngestConfig) -> Product:
    start, end = _dates(path)
    sources = {"los_displacement": LayerSource(str(path))}
    files = [path]
    coherence = _coherence(path, siblings)
    if coherence is not None:
        sources["coherence"] = LayerSource(str(coherence))
        files.append(coherence)
    for sibling in siblings:
        found = _FILE.fullmatch(sibling.name)
        if found and found["layer"] == "recommended_mask" and _dates(sibling) == (start, end):
            sources["mask"] = LayerSource(str(sibling), kind="mask")
            files.append(sibling)
    look = {n: path.with_name(f) for n, f in _LOOK_FILES.items() if path.with_name(f) in siblings}
    if len(look) == len(_LOOK_FILES):
        sources |= {name: LayerSource(str(file)) for name, file in look.items()}
        files += look.values()
    geobox, sources = resolve(sources)
    return Product(
        path=path,
        reader=NAME,
        track=cfg.track or "unknown",
        orbit_direction="unknown",
        date_start=start,
        date_end=end,
        geobox=geobox,
        wavelength_m=SENTINEL1_WAVELENGTH_M,
        looks=None,
        layers=sources,
        files=tuple(files),
    )

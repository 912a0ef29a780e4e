"""HyP3 INSAR_GAMMA and burst products of the Alaska Satellite Facility: a folder or its .zip.

Files are ``<product>_<layer>.tif`` with an optional ``_clip`` or ``_clipped`` ending, and
``<product>.txt`` of ``key: value`` lines. Unwrapped phase is positive away from the satellite, ``los_disp``
[m] positive toward it; ``lv_theta`` is the elevation angle and ``lv_phi`` the direction counter-clockwise
from east, both of the vector from the ground to the satellite; 0 is nodata; the water mask is 1 on land.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Final

import numpy as np

from components.config import IngestConfig
from components.errors import InputError
from components.grid import Window
from components.layers import SENTINEL1_WAVELENGTH_M
from components.products.base import (
    LayerSource,
    OrbitDirection,
    Product,
    description_beside,
    existing_files,
    parse_date,
)
from components.products.convert import read_canonical
from components.products.raster import resolve

NAME: Final = "hyp3"

_FILE = re.compile(
    r"(?P<product>.+)_(?P<layer>unw_phase|wrapped_phase|corr|amp|los_disp|vert_disp|lv_theta|lv_phi|dem"
    r"|inc_map_ell|inc_map|water_mask)(?P<crop>_clip|_clipped)?\.tiff?",
    re.IGNORECASE,
)
_DATES = re.compile(r"(?:^|_)(\d{8})(?:T\d{6})?_(\d{8})(?:T\d{6})?(?:_|$)")
_GRANULE_DATE = re.compile(r"_(\d{8})T\d{6}")

#: Absolute minus relative orbit, modulo 175, plus one: by satellite letter.
_ORBIT_OFFSETS: Final[Mapping[str, int]] = {"A": 73, "B": 27}
_ORBITS_A_CYCLE: Final = 175


@dataclass(frozen=True)
class _Group:
    """Files of one product: its name, how it was cropped, layer → GDAL path, parameter text."""

    product: str
    crop: str
    rasters: Mapping[str, str]
    files: tuple[Path, ...]
    parameters: Mapping[str, str]


def detect(path: Path) -> bool:
    """Whether a path is a HyP3 product.

    Parameters
    ----------
    path : Path
        Folder, file or archive.

    Returns
    -------
    bool
        True for every .zip (no other reader reads archives), for a folder with files of HyP3's suffixes, and
        for a file of such a name that carries dates and has no YAML beside it.
    """
    if path.is_dir():
        return any(_FILE.fullmatch(p.name) for p in existing_files(path))
    if path.suffix.lower() == ".zip":
        return True
    found = _FILE.fullmatch(path.name)
    return (
        found is not None
        and _DATES.search(found["product"]) is not None
        and description_beside(path) is None
    )


def read(path: Path, cfg: IngestConfig) -> list[Product]:
    """Products of a HyP3 folder, archive or single file.

    Where a folder holds a product both whole and cropped, the crop is taken, and it alone.

    Parameters
    ----------
    path : Path
        Folder, .zip or one of its GeoTIFF files.
    cfg : IngestConfig
        ``track`` names the track; without it the orbit direction does.

    Returns
    -------
    list of Product
        One for each product name in the folder.

    Raises
    ------
    InputError
        SW-102 for an unreadable archive or file; SW-104 for layers on different grids; SW-106 without
        dates; SW-113 without displacement or unwrapped phase; SW-114 for an unreadable parameter file.
    """
    groups = _zip_groups(path) if path.suffix.lower() == ".zip" else _folder_groups(path)
    if not groups:
        raise InputError(
            "SW-113",
            "no file `…_los_disp.tif` or `…_unw_phase.tif`",
            path=path,
            remedy="Fetch the complete product; HyP3's wrapped phase has to be unwrapped first.",
        )
    return [_product(path, group, cfg) for group in groups]


def _folder_groups(path: Path) -> list[_Group]:
    folder, only = path, None
    if path.is_file():
        folder = path.parent
        found = _FILE.fullmatch(path.name)
        only = None if found is None else (found["product"], found["crop"] or "")
    files = existing_files(folder)

    def parameters(product: str) -> tuple[Mapping[str, str], tuple[Path, ...]]:
        for name in (f"{product}.txt", f"{folder.name}.txt"):
            text = folder / name
            if text in files:
                try:
                    return _parse(text.read_bytes(), text), (text,)
                except OSError as e:
                    raise InputError("SW-102", e.strerror or str(e), path=text) from e
        return {}, ()

    return _group({p.name: str(p) for p in files}, lambda name: (folder / name,), parameters, only)


def _zip_groups(path: Path) -> list[_Group]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if not n.endswith("/"))
            texts = {n.rpartition("/")[2]: archive.read(n) for n in names if n.endswith(".txt")}
    except (zipfile.BadZipFile, OSError, EOFError) as e:
        raise InputError("SW-102", f"not a readable archive: {e}", path=path) from e
    rasters = {n.rpartition("/")[2]: f"/vsizip/{path.resolve()}/{n}" for n in names}

    def parameters(product: str) -> tuple[Mapping[str, str], tuple[Path, ...]]:
        text = texts.get(f"{product}.txt")
        return ({} if text is None else _parse(text, path)), ()

    return _group(rasters, lambda _: (path,), parameters, None)


def _group(
    rasters: Mapping[str, str],
    files_of: Callable[[str], tuple[Path, ...]],
    parameters: Callable[[str], tuple[Mapping[str, str], tuple[Path, ...]]],
    only: tuple[str, str] | None,
) -> list[_Group]:
    found: dict[str, dict[str, dict[str, str]]] = {}
    for name in sorted(rasters):
        if match := _FILE.fullmatch(name):
            crops = found.setdefault(match["product"], {})
            crops.setdefault(match["crop"] or "", {})[match["layer"].lower()] = name
    groups = []
    for product, crops in sorted(found.items()):
        usable = {c: n for c, n in crops.items() if "los_disp" in n or "unw_phase" in n}
        if only is not None:
            usable = {c: n for c, n in usable.items() if (product, c) == only}
        if not usable:
            continue
        crop = max(usable)  # "_clipped" over "_clip" over the whole
        names = usable[crop]
        values, text_files = parameters(product)
        files = {f for n in names.values() for f in files_of(n)} | set(text_files)
        groups.append(
            _Group(
                product,
                crop,
                {layer: rasters[n] for layer, n in names.items()},
                tuple(sorted(files)),
                values,
            )
        )
    return groups


def _parse(text: bytes, path: Path) -> Mapping[str, str]:
    """``key: value`` lines with lower-case keys; other lines mean nothing here."""
    try:
        lines = text.decode("utf-8").splitlines()
    except UnicodeDecodeError as e:
        raise InputError("SW-114", "the parameter file is not text", path=path) from e
    pairs = (line.partition(":") for line in lines)
    return {key.strip().lower(): value.strip() for key, colon, value in pairs if colon}


def _number(group: _Group, key: str, path: Path) -> float | None:
    text = group.parameters.get(key)
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError("SW-114", f"`{key}` is not a number: {text!r}", path=path) from None


def _dates(group: _Group, path: Path) -> tuple[date, date]:
    names = [group.product, path.name if path.is_dir() else path.stem]
    named = next((m for name in names if (m := _DATES.search(name))), None)
    told = [
        _GRANULE_DATE.search(group.parameters.get(f"{which} granule", ""))
        for which in ("reference", "secondary")
    ]
    by_name = None if named is None else (parse_date(named[1], path), parse_date(named[2], path))
    by_file = (
        None
        if told[0] is None or told[1] is None
        else (parse_date(told[0][1], path), parse_date(told[1][1], path))
    )
    if by_name and by_file and by_name != by_file:
        raise InputError(
            "SW-106",
            f"the name says {by_name[0]} to {by_name[1]}, the parameter file {by_file[0]} to {by_file[1]}",
            path=path,
        )
    dates = by_file or by_name
    if dates is None:
        raise InputError(
            "SW-106",
            f"no dates in the name `{group.product}`, and no parameter file `{group.product}.txt`",
            path=path,
            remedy="Keep HyP3's file names, put the parameter file back, or describe the raster in a YAML.",
        )
    return dates


def _orbit(
    group: _Group, sources: Mapping[str, LayerSource], shape: tuple[int, int], path: Path
) -> OrbitDirection:
    told = group.parameters.get("reference pass direction", "").lower()
    if told.startswith("asc"):
        return "ascending"
    if told.startswith("desc"):
        return "descending"
    heading = _number(group, "heading", path)
    if heading is not None:
        heading = (heading + 180.0) % 360.0 - 180.0
        return "ascending" if -90.0 < heading < 90.0 else "descending"
    if "los_east" not in sources:
        return "unknown"
    # A right-looking satellite stands in the west on ascending passes and in the east on descending ones.
    height, width = min(512, shape[0]), min(512, shape[1])
    centre = Window((shape[0] - height) // 2, (shape[1] - width) // 2, height, width)
    east = read_canonical(sources["los_east"], centre)
    east = east[np.isfinite(east)]
    if east.size == 0:
        return "unknown"
    return "ascending" if float(np.median(east)) < 0 else "descending"


def _relative_orbit(group: _Group, path: Path) -> int | None:
    absolute = _number(group, "reference orbit number", path)
    granule = re.match(r"S1([A-Z])", group.parameters.get("reference granule", ""))
    offset = None if granule is None else _ORBIT_OFFSETS.get(granule[1])
    if absolute is None or offset is None:
        return None
    return (int(absolute) - offset) % _ORBITS_A_CYCLE + 1


def _product(path: Path, group: _Group, cfg: IngestConfig) -> Product:
    start, end = _dates(group, path)
    r = group.rasters
    to_displacement = -SENTINEL1_WAVELENGTH_M / (4.0 * np.pi)
    sources: dict[str, LayerSource] = {}
    if "los_disp" in r:
        sources["los_displacement"] = LayerSource(r["los_disp"], nodata=0.0)
    else:
        sources["los_displacement"] = LayerSource(r["unw_phase"], nodata=0.0, scale=to_displacement)
    if "wrapped_phase" in r:
        sources["wrapped_phase"] = LayerSource(r["wrapped_phase"], nodata=0.0, kind="wrapped")
    if "corr" in r:
        sources["coherence"] = LayerSource(r["corr"], nodata=0.0)
    if "lv_theta" in r and "lv_phi" in r:
        look = LayerSource(r["lv_theta"], nodata=0.0, second=r["lv_phi"])
        sources["los_east"] = replace(look, kind="hyp3_east")
        sources["los_north"] = replace(look, kind="hyp3_north")
        sources["los_up"] = replace(look, kind="hyp3_up")
    if "dem" in r:
        sources["elevation"] = LayerSource(r["dem"])
    if "water_mask" in r:
        sources["mask"] = LayerSource(r["water_mask"], kind="mask")
    geobox, sources = resolve(sources)
    orbit = _orbit(group, sources, (int(geobox.shape[0]), int(geobox.shape[1])), path)
    range_looks = _number(group, "range looks", path)
    azimuth_looks = _number(group, "azimuth looks", path)
    return Product(
        path=path,
        reader=NAME,
        track=cfg.track or orbit,
        orbit_direction=orbit,
        date_start=start,
        date_end=end,
        geobox=geobox,
        wavelength_m=SENTINEL1_WAVELENGTH_M,
        looks=range_looks * azimuth_looks if range_looks and azimuth_looks else None,
        layers=sources,
        files=group.files,
        relative_orbit=_relative_orbit(group, path),
    )

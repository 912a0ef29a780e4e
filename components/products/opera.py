"""OPERA DISP-S1: one NetCDF file a pair, e.g.

``OPERA_L3_DISP-S1_IW_F11116_VV_20160708T…Z_20160801T…Z_v1.0_…Z.nc``. Root variables ``displacement`` [m,
positive toward the satellite, NaN nodata], ``recommended_mask`` (1 = good), ``temporal_coherence``,
``water_mask`` (1 = land). The file is read through GDAL; what it keeps in its group of identification is not.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Final

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from components.config import IngestConfig
from components.errors import InputError
from components.layers import SENTINEL1_WAVELENGTH_M
from components.products.base import LayerSource, Product, description_beside, parse_date
from components.products.raster import resolve, unreadable

NAME: Final = "opera"

_FILE = re.compile(
    r"OPERA_L3_DISP-S1_IW_(?P<frame>F\d{5})_[HV]{2}_(?P<d1>\d{8})T\d{6}Z_(?P<d2>\d{8})T\d{6}Z_.*\.nc"
)

#: Canonical layer → variables that can give it, best first, and how it is read.
_LAYERS: Final = {
    "los_displacement": (("displacement",), "linear"),
    "coherence": (("temporal_coherence",), "linear"),
    "mask": (("recommended_mask", "water_mask"), "mask"),
}


def detect(path: Path) -> bool:
    """Whether a file is an OPERA DISP-S1 product, by its name.

    Parameters
    ----------
    path : Path
        Any path.

    Returns
    -------
    bool
        False for a file with a YAML beside it: what the user states has precedence.
    """
    return (
        path.is_file()
        and _FILE.fullmatch(path.name) is not None
        and description_beside(path) is None
    )


def variables(path: Path) -> tuple[str, ...]:
    """Names of the rasters in a NetCDF file.

    Parameters
    ----------
    path : Path
        NetCDF file.

    Returns
    -------
    tuple of str
        Empty where the file has a single one, which GDAL opens by the file's own name.

    Raises
    ------
    InputError
        SW-102 where the file is unreadable.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as src:
                return tuple(name.rpartition(":")[2] for name in src.subdatasets)
    except RasterioError as e:
        raise unreadable(str(path), e) from e


def read(path: Path, cfg: IngestConfig) -> list[Product]:
    """The product of a DISP-S1 file.

    Parameters
    ----------
    path : Path
        The .nc file, under its own name.
    cfg : IngestConfig
        ``track`` names the track; without it the frame does.

    Returns
    -------
    list of Product
        One.

    Raises
    ------
    InputError
        SW-102 for an unreadable file; SW-106 for reversed dates; SW-113 without a displacement.
    """
    found = _FILE.fullmatch(path.name)
    if found is None:
        raise InputError("SW-106", "no dates in the file name", path=path)
    there = variables(path)
    sources: dict[str, LayerSource] = {}
    for layer, (names, kind) in _LAYERS.items():
        name = next((n for n in names if n in there), None)
        if name is not None:
            sources[layer] = LayerSource(
                str(path), variable=name, kind="mask" if kind == "mask" else "linear"
            )
    if "los_displacement" not in sources:
        raise InputError("SW-113", f"no variable `displacement` in {', '.join(there)}", path=path)
    geobox, sources = resolve(sources)
    return [
        Product(
            path=path,
            reader=NAME,
            track=cfg.track or found["frame"],
            orbit_direction="unknown",
            date_start=parse_date(found["d1"], path),
            date_end=parse_date(found["d2"], path),
            geobox=geobox,
            wavelength_m=SENTINEL1_WAVELENGTH_M,
            looks=None,
            layers=sources,
            files=(path,),
        )
    ]

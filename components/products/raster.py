"""Rasters through GDAL: their grid, their pixels and whether the file is whole.

Every read opens the file anew, so that any number of threads may read at once and no handle outlives its
use.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.windows import Window as RasterWindow

from components.errors import InputError
from components.grid import Window, same_grid
from components.products.base import LayerSource

#: TIFF blocks whose place in the file is compared with the file's size, at most.
_MAX_BLOCKS: Final = 20_000


class RasterInfo(NamedTuple):
    """What a raster says about itself.

    Parameters
    ----------
    geobox : GeoBox
        Its grid.
    nodata : float or None
        Declared nodata value.
    scale, offset : float
        Declared scaling of the band (CF ``scale_factor``, ``add_offset``), 1 and 0 by default.
    tags : dict
        Metadata of the dataset.
    """

    geobox: GeoBox
    nodata: float | None
    scale: float
    offset: float
    tags: dict[str, str]


def _geobox(src: Any, dataset: str, crs: str | None) -> GeoBox:
    own = src.crs
    if own is None and crs is None:
        raise InputError("SW-103", "the raster names no coordinate reference system", path=dataset)
    affine = src.transform
    if affine.is_identity:
        raise InputError(
            "SW-103",
            "the raster has no georeference (pixel coordinates only)",
            path=dataset,
            remedy="Export it with its corner coordinates and pixel size; radar-coordinate files must be "
            "geocoded first.",
        )
    if affine.b or affine.d or affine.a <= 0 or affine.e >= 0:
        raise InputError(
            "SW-103",
            "the raster is rotated or not north-up",
            path=dataset,
            remedy="Bring it north-up: gdalwarp SOURCE TARGET.",
        )
    if crs is None:
        # A CRS without a code and its coded twin count as different: name both by the code.
        epsg = own.to_epsg()
        crs = f"EPSG:{epsg}" if epsg else own.to_wkt()
    return GeoBox((src.height, src.width), affine, crs)


def probe(dataset: str, band: int = 1, crs: str | None = None) -> RasterInfo:
    """Read a raster's grid and declarations, none of its pixels.

    Parameters
    ----------
    dataset : str
        Name that GDAL opens.
    band : int
        Band, counted from 1.
    crs : str, optional
        CRS stated by the user; overrides the file's.

    Returns
    -------
    RasterInfo

    Raises
    ------
    InputError
        SW-101 or SW-102 where the file is missing or unreadable; SW-103 without CRS, georeference or
        north-up orientation; SW-105 for complex numbers; SW-113 where the band is missing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(dataset) as src:
                if src.count < band:
                    raise InputError("SW-113", f"no band {band} in {src.count}", path=dataset)
                if np.dtype(src.dtypes[band - 1]).kind == "c":
                    raise InputError(
                        "SW-105",
                        "complex numbers: an interferogram, not a displacement",
                        path=dataset,
                        remedy="Give the unwrapped phase or the displacement.",
                    )
                return RasterInfo(
                    _geobox(src, dataset, crs),
                    src.nodatavals[band - 1],
                    float(src.scales[band - 1]),
                    float(src.offsets[band - 1]),
                    src.tags(),
                )
    except RasterioError as e:
        raise unreadable(dataset, e) from e


def unreadable(dataset: str, error: Exception) -> InputError:
    """The coded error for a raster that GDAL could not read.

    Parameters
    ----------
    dataset : str
        Name that GDAL was asked to open.
    error : Exception
        What it said.

    Returns
    -------
    InputError
        SW-101 where a plain file is missing, else SW-102.
    """
    if not dataset.startswith(("/vsi", "netcdf:")) and not Path(dataset).exists():
        return InputError("SW-101", "no such file", path=dataset)
    # GDAL's own reason, where there is one, is in the cause of rasterio's error.
    return InputError("SW-102", str(error.__cause__ or error).replace("\n", " "), path=dataset)


def read_window(dataset: str, band: int, window: Window) -> npt.NDArray[Any]:
    """Raw pixels of a window.

    Parameters
    ----------
    dataset : str
        Name that GDAL opens.
    band : int
        Band, counted from 1.
    window : Window
        Inside the raster.

    Returns
    -------
    ndarray
        Shape (height, width), in the file's dtype.

    Raises
    ------
    InputError
        SW-101 or SW-102 where the file is missing, truncated or corrupt.
    """
    try:
        with rasterio.open(dataset) as src:
            pixels: npt.NDArray[Any] = src.read(
                band, window=RasterWindow(window.col, window.row, window.width, window.height)
            )
            return pixels
    except RasterioError as e:
        raise unreadable(dataset, e) from e


def resolve(
    sources: dict[str, LayerSource], crs: str | None = None
) -> tuple[GeoBox, dict[str, LayerSource]]:
    """Complete layer sources with what their files declare, and make sure that they share one grid.

    A nodata value that the source does not state is taken from the file; the file's own scaling is folded
    into the source's.

    Parameters
    ----------
    sources : dict
        Canonical layer name → source; ``los_displacement`` among them.
    crs : str, optional
        CRS stated by the user for files that name none.

    Returns
    -------
    geobox : GeoBox
        The common grid.
    sources : dict
        The completed sources.

    Raises
    ------
    InputError
        SW-104 where a layer is on another grid; and the errors of `probe`.
    """
    infos: dict[tuple[str, int], RasterInfo] = {}
    for source in sources.values():
        for dataset in source.datasets:
            key = dataset, source.band
            if key not in infos:
                infos[key] = probe(dataset, source.band, crs)
    displacement = sources["los_displacement"]
    geobox = infos[displacement.datasets[0], displacement.band].geobox
    for (dataset, _), info in infos.items():
        if not same_grid(geobox, info.geobox):
            raise InputError(
                "SW-104",
                f"{_grid_text(info.geobox)} differs from the displacement's {_grid_text(geobox)}",
                path=dataset,
            )
    out = {}
    for name, source in sources.items():
        if not source.datasets:
            out[name] = source
            continue
        info = infos[source.datasets[0], source.band]
        nodata = info.nodata if source.nodata is None else source.nodata
        out[name] = replace(
            source,
            # NaN is missing anyway, and would make equal products unequal.
            nodata=None if nodata is None or np.isnan(nodata) else nodata,
            scale=source.scale * info.scale,
            offset=source.offset + source.scale * info.offset,
        )
    return geobox, out


def _grid_text(geobox: GeoBox) -> str:
    height, width = geobox.shape
    a = geobox.affine
    crs = geobox.crs
    name = f"EPSG:{crs.epsg}" if crs is not None and crs.epsg else "a CRS without code"
    return f"{height} × {width} px of {a.a:g} × {-a.e:g} at ({a.c:.10g}, {a.f:.10g}) in {name}"


def check_whole(dataset: str) -> None:
    """Refuse a TIFF whose blocks lie beyond the end of the file: a broken download or copy.

    Only the block table is read. Other formats, and files inside an archive, carry their own checks.

    Parameters
    ----------
    dataset : str
        Name that GDAL opens.

    Raises
    ------
    InputError
        SW-102 for a truncated file; SW-101 where it is missing.
    """
    path = Path(dataset)
    if dataset.startswith(("/vsi", "netcdf:")):
        return
    try:
        size = path.stat().st_size
        with rasterio.open(dataset) as src:
            if src.driver != "GTiff":
                return
            rows, cols = src.block_shapes[0]
            across = -(-src.width // cols)
            total = across * -(-src.height // rows)
            # The last block first in mind: it is the one that truncation takes.
            step = max(1, total // _MAX_BLOCKS)
            for i in {*range(0, total, step), total - 1}:
                block = f"{i % across}_{i // across}"
                offset = src.get_tag_item(f"BLOCK_OFFSET_{block}", "TIFF", 1)
                length = src.get_tag_item(f"BLOCK_SIZE_{block}", "TIFF", 1)
                if offset and length and int(offset) + int(length) > size:
                    raise InputError(
                        "SW-102",
                        f"truncated: a block ends at byte {int(offset) + int(length)}, the file at {size}",
                        path=path,
                    )
    except FileNotFoundError:
        raise InputError("SW-101", "no such file", path=path) from None
    except (RasterioIOError, OSError) as e:
        raise unreadable(dataset, e) from e

"""The region's grid, and elevation from a user's raster resampled onto it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.warp import Resampling, reproject, transform_bounds
from scipy import ndimage

from components.errors import InputError
from components.simulation.fields import Float

#: Share of the grid that an elevation raster must cover; the rest is filled from the nearest pixel.
_COVERED_MIN = 0.98
#: Centre of a region without DEM: its zone's central meridian, and 30° from the equator [m].
_EASTING, _NORTHING_NORTH, _NORTHING_SOUTH = 500_000.0, 3_320_000.0, 6_680_000.0


class Elevation(NamedTuple):
    """Elevation on the region's grid.

    Parameters
    ----------
    elevation : ndarray of float32 [H, W]
        Height [m].
    geobox : GeoBox
        The grid.
    """

    elevation: Float
    geobox: GeoBox


def region_grid(
    shape: tuple[int, int], resolution_m: float, epsg: int, centre: tuple[float, float] | None
) -> GeoBox:
    """Grid of a region, its edges on whole multiples of the pixel size.

    Parameters
    ----------
    shape : (int, int)
        Height and width [px].
    resolution_m : float
        Pixel size [m].
    epsg : int
        Code of a projected CRS in metres.
    centre : (float, float), optional
        Easting and northing [m]; default on the zone's central meridian.

    Returns
    -------
    GeoBox

    Raises
    ------
    InputError
        SW-701 where the code is unknown or no projection in metres.
    """
    try:
        crs = rasterio.crs.CRS.from_epsg(epsg)
    except CRSError:
        raise InputError("SW-701", f"`simulate.epsg`: unknown code {epsg}") from None
    if not crs.is_projected or crs.linear_units_factor[1] != 1.0:
        raise InputError("SW-701", f"`simulate.epsg`: {epsg} is not a projection in metres")
    southern = 32700 < epsg < 32761
    x, y = centre or (_EASTING, _NORTHING_SOUTH if southern else _NORTHING_NORTH)
    west = round((x - 0.5 * shape[1] * resolution_m) / resolution_m) * resolution_m
    north = round((y + 0.5 * shape[0] * resolution_m) / resolution_m) * resolution_m
    affine = Affine(resolution_m, 0.0, west, 0.0, -resolution_m, north)
    return GeoBox(shape, affine, f"EPSG:{epsg}")


def read_dem(path: Path, shape: tuple[int, int], resolution_m: float, epsg: int) -> Elevation:
    """Lay the region over the middle of an elevation raster and resample it.

    Parameters
    ----------
    path : Path
        Raster of heights [m] with CRS.
    shape : (int, int)
        Height and width of the region [px].
    resolution_m : float
        Its pixel size [m].
    epsg : int
        Its projected CRS.

    Returns
    -------
    Elevation
        Without gaps: those of up to 2 % of the region are filled from the nearest pixel.

    Raises
    ------
    InputError
        SW-101 where the file is missing, SW-102 where it cannot be read, SW-103 without CRS, SW-115
        where it does not cover the region.
    """
    if not path.exists():
        raise InputError("SW-101", "no such elevation raster", path=path)
    try:
        with warnings.catch_warnings():
            # Said below as an error with its code.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            source = rasterio.open(path)
        with source:
            if source.crs is None:
                raise InputError("SW-103", "the elevation raster has no CRS", path=path)
            bounds = transform_bounds(source.crs, f"EPSG:{epsg}", *source.bounds)
            centre = (0.5 * (bounds[0] + bounds[2]), 0.5 * (bounds[1] + bounds[3]))
            geobox = region_grid(shape, resolution_m, epsg, centre)
            raw = source.read(1, masked=True).astype(np.float32).filled(np.nan)
            out = np.full(shape, np.nan, dtype=np.float32)
            reproject(
                raw,
                out,
                src_transform=source.transform,
                src_crs=source.crs,
                src_nodata=np.nan,
                dst_transform=geobox.affine,
                dst_crs=f"EPSG:{epsg}",
                dst_nodata=np.nan,
                resampling=Resampling.cubic,
            )
    except (RasterioError, CRSError) as e:
        raise InputError("SW-102", str(e), path=path) from e
    there = np.isfinite(out)
    covered = float(there.mean())
    if covered < _COVERED_MIN:
        size = f"{shape[0]} x {shape[1]} px of {resolution_m:g} m"
        raise InputError(
            "SW-115",
            f"the elevation raster covers {covered:.0%} of a region of {size} around its middle",
            path=path,
            remedy="Lower simulate.height and simulate.width, or give a larger raster.",
        )
    if covered < 1.0:
        nearest = ndimage.distance_transform_edt(
            ~there, return_distances=False, return_indices=True
        )
        out = out[tuple(nearest)]
    return Elevation(out, geobox)

"""The region grid: an `odc.geo.geobox.GeoBox` (shape, affine transform and CRS as one value)."""

from __future__ import annotations

from typing import Any

from affine import Affine
from odc.geo.geobox import GeoBox


def geobox_to_dict(geobox: GeoBox) -> dict[str, Any]:
    """Plain JSON form of a grid.

    Parameters
    ----------
    geobox : GeoBox
        The grid.

    Returns
    -------
    dict
        ``crs`` (``EPSG:…`` where there is a code, else WKT), ``transform`` (six numbers, row-major
        a b c d e f), ``shape`` (height, width).
    """
    if geobox.crs is None:
        msg = "a region grid needs a CRS"
        raise ValueError(msg)
    crs = f"EPSG:{geobox.crs.epsg}" if geobox.crs.epsg else geobox.crs.to_wkt()
    return {
        "crs": crs,
        "transform": list(geobox.affine)[:6],
        "shape": [int(n) for n in geobox.shape],
    }


def geobox_from_dict(value: dict[str, Any]) -> GeoBox:
    """Inverse of `geobox_to_dict`.

    Parameters
    ----------
    value : dict
        ``crs``, ``transform``, ``shape``.

    Returns
    -------
    GeoBox
    """
    return GeoBox(tuple(value["shape"]), Affine(*value["transform"]), value["crs"])


def same_grid(a: GeoBox, b: GeoBox, tolerance_px: float = 1e-3) -> bool:
    """Whether two grids are the same to the pixel.

    Parameters
    ----------
    a, b : GeoBox
        Grids.
    tolerance_px : float
        Largest shift of any corner, in pixels of `a`.

    Returns
    -------
    bool
    """
    if a.shape != b.shape or a.crs != b.crs:
        return False
    to_a = ~a.affine * b.affine
    height, width = a.shape
    corners = ((0, 0), (width, 0), (0, height), (width, height))
    return all(
        abs(x - u) <= tolerance_px and abs(y - v) <= tolerance_px
        for x, y in corners
        for u, v in [to_a * (x, y)]
    )

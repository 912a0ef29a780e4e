"""Outlines of landslides: polygons on pixel edges with holes, and their size on the ellipsoid.

Pixel edges, not contour lines: a contour through pixel centres shrinks a landslide of 6 × 6 pixels to
69 % of its area and fills its holes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import shapely
from pyproj import Geod, Transformer
from rasterio import features

if TYPE_CHECKING:
    from affine import Affine
    from numpy.typing import NDArray

_GEOD = Geod(ellps="WGS84")


class Extent(NamedTuple):
    """Size and place of a polygon on the WGS 84 ellipsoid.

    Parameters
    ----------
    area_m2 : float
        Geodesic area, holes not counted [m²].
    perimeter_m : float
        Geodesic length of all rings, those of holes too [m].
    lon, lat : float
        Centroid [degree].
    """

    area_m2: float
    perimeter_m: float
    lon: float
    lat: float


def pixel_polygon(
    mask: NDArray[np.bool_], row: int, col: int, transform: Affine
) -> shapely.MultiPolygon:
    """Outline of a mask along pixel edges.

    Parameters
    ----------
    mask : ndarray of bool, shape (h, w)
        True on the landslide; at least one pixel.
    row, col : int
        Upper-left pixel of the mask in the map.
    transform : Affine
        Map pixel (column, row) → map coordinates.

    Returns
    -------
    MultiPolygon
        Valid; its area is exactly ``mask.sum()`` pixels. Pixels that touch only at a corner are
        separate parts. Parts in the order of their bounds, so equal masks give equal bytes.

    Raises
    ------
    ValueError
        If the mask is empty.
    """
    if not mask.any():
        msg = "an empty mask has no outline"
        raise ValueError(msg)
    a, b, c, d, e, f = tuple(transform)[:6]
    shifted = type(transform)(a, b, a * col + b * row + c, d, e, d * col + e * row + f)
    parts: list[shapely.Polygon] = []
    for geometry, _ in features.shapes(
        mask.astype(np.uint8), mask=mask, connectivity=4, transform=shifted
    ):
        polygon = shapely.Polygon(geometry["coordinates"][0], geometry["coordinates"][1:])
        if not polygon.is_valid:  # a ring that touches itself at a corner
            polygon = shapely.make_valid(polygon, method="structure", keep_collapsed=False)
        parts.extend(p for p in shapely.get_parts(polygon) if isinstance(p, shapely.Polygon))
    parts = sorted((p.normalize() for p in parts), key=lambda p: (p.bounds, p.wkb))
    return shapely.MultiPolygon(parts)


def geodesic_extent(polygon: shapely.MultiPolygon, to_lonlat: Transformer) -> Extent:
    """Area, perimeter and centroid on the ellipsoid.

    Parameters
    ----------
    polygon : MultiPolygon
        In map coordinates.
    to_lonlat : pyproj.Transformer
        Map coordinates → longitude, latitude [degree] (``always_xy``).

    Returns
    -------
    Extent
    """
    area = perimeter = 0.0
    for part in polygon.geoms:
        for i, ring in enumerate([part.exterior, *part.interiors]):
            x, y = shapely.get_coordinates(ring).T
            ring_area, length = _GEOD.polygon_area_perimeter(*to_lonlat.transform(x, y))
            # The sign tells the ring's orientation only.
            area += abs(ring_area) if i == 0 else -abs(ring_area)
            perimeter += length
    lon, lat = to_lonlat.transform(polygon.centroid.x, polygon.centroid.y)
    return Extent(area, perimeter, float(lon), float(lat))


def lonlat_transformer(crs: object) -> Transformer:
    """Transformer from a projected CRS to WGS 84 longitude and latitude.

    Parameters
    ----------
    crs : CRS-like
        Anything that `pyproj` understands.

    Returns
    -------
    pyproj.Transformer
    """
    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True)

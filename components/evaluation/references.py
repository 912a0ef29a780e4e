"""Interpreters' polygons as reference objects on the pixel grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import shapely
from affine import Affine
from rasterio import features

from components.dataset.labels import for_picture
from components.evaluation.footprints import Footprint

if TYPE_CHECKING:
    import geopandas as gpd
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

#: Reference objects of which less was observable are ignored: nobody could have found them.
VISIBLE_MIN: Final = 0.3


@dataclass(frozen=True)
class ReferenceSet:
    """Reference objects of one track and period.

    Parameters
    ----------
    footprints : list of Footprint
        In the order of the label file.
    counts : dict of str to int
        ``polygons`` that hold for this map; of them ``vanished`` (no pixel centre inside, left out),
        ``ignored_label``, ``ignored_small``, ``ignored_unobservable`` and ``counted``.
    """

    footprints: list[Footprint] = field(repr=False)
    counts: dict[str, int]


def rasterise(polygon: shapely.Geometry, geobox: GeoBox) -> Footprint | None:
    """Pixels whose centre lies in a polygon.

    Parameters
    ----------
    polygon : Polygon or MultiPolygon
        In the grid's CRS.
    geobox : GeoBox
        The grid, north-up.

    Returns
    -------
    Footprint or None
        Cropped to the pixels; None where no centre lies inside.
    """
    a, _, west, _, e, north = tuple(geobox.affine)[:6]
    x0, y0, x1, y1 = polygon.bounds
    height, width = (int(n) for n in geobox.shape)
    col0, col1 = max(int((x0 - west) // a), 0), min(int((x1 - west) // a) + 1, width)
    row0, row1 = max(int((y1 - north) // e), 0), min(int((y0 - north) // e) + 1, height)
    if col1 <= col0 or row1 <= row0:
        return None
    mask = features.rasterize(
        [polygon],
        out_shape=(row1 - row0, col1 - col0),
        transform=Affine(a, 0.0, west + a * col0, 0.0, e, north + e * row0),
        dtype="uint8",
    ).astype(bool)
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    mask = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    return Footprint(row0 + int(rows[0]), col0 + int(cols[0]), mask)


def reference_objects(
    frame: gpd.GeoDataFrame,
    geobox: GeoBox,
    valid: NDArray[np.bool_],
    track: str,
    period: str,
    *,
    min_pixels: int,
) -> ReferenceSet:
    """Reference objects of one map.

    Parameters
    ----------
    frame : GeoDataFrame
        Of `components.dataset.labels.read_labels`.
    geobox : GeoBox
        The region grid.
    valid : ndarray of bool, shape (H, W)
        Observable pixels of the map.
    track, period : str
        The map.
    min_pixels : int
        Smaller objects are ignored.

    Returns
    -------
    ReferenceSet
    ----------
        Objects are ignored where the label says so, where they are too small, and where less than
        `VISIBLE_MIN` of them was observable.
    """
    counts = dict.fromkeys(
        (
            "polygons",
            "vanished",
            "ignored_label",
            "ignored_small",
            "ignored_unobservable",
            "counted",
        ),
        0,
    )
    out: list[Footprint] = []
    rows = for_picture(frame, track, period)
    geometries = frame.geometry.to_numpy()
    flags = frame["ignore"].to_numpy()
    for i in rows:
        counts["polygons"] += 1
        shape = rasterise(geometries[i], geobox)
        if shape is None:
            counts["vanished"] += 1
            continue
        height, width = shape.mask.shape
        seen = valid[shape.row : shape.row + height, shape.col : shape.col + width][shape.mask]
        if flags[i]:
            fate = "ignored_label"
        elif shape.n_pixels < min_pixels:
            fate = "ignored_small"
        elif seen.mean() < VISIBLE_MIN:
            fate = "ignored_unobservable"
        else:
            fate = "counted"
        counts[fate] += 1
        out.append(Footprint(shape.row, shape.col, shape.mask, ignore=fate != "counted"))
    return ReferenceSet(out, counts)

"""Polygons as pixels: drawn once, cut out for every tile.

Every polygon is drawn once, on its own window of the (up-sampled) region grid, by the rule that a pixel
belongs to it where its centre does; a tile's mask is a cut-out of that drawing. So masks of overlapping
tiles agree to the pixel, the share of a landslide that a tile shows is exact, and the cost grows with the
labels and not with tiles × labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize

from components.dataset.labels import Labels, for_picture
from components.grid import Window


class Drawn(NamedTuple):
    """A polygon as pixels of the up-sampled region grid.

    Parameters
    ----------
    window : Window
        Smallest window that holds it; may reach beyond the region.
    mask : ndarray, bool
        Of the window's shape.
    pixels : int
        Pixels in all.
    """

    window: Window
    mask: NDArray[np.bool_]
    pixels: int


def draw(geometry: Any, transform: Affine) -> Drawn:
    """Pixels of a polygon by the pixel-centre rule.

    Parameters
    ----------
    geometry : shapely Polygon or MultiPolygon
        In the CRS of `transform`.
    transform : Affine
        Pixel → CRS, of the whole grid.

    Returns
    -------
    Drawn
        With no pixel where the polygon contains no pixel centre.
    """
    inverse = ~transform
    x0, y0, x1, y1 = geometry.bounds
    cols, rows = zip(*(inverse * c for c in ((x0, y0), (x1, y1), (x0, y1), (x1, y0))), strict=True)
    r0, c0 = int(np.floor(min(rows))), int(np.floor(min(cols)))
    height = max(int(np.ceil(max(rows))) - r0, 1)
    width = max(int(np.ceil(max(cols))) - c0, 1)
    burned = rasterize(
        [(geometry, 1)],
        out_shape=(height, width),
        transform=transform * Affine.translation(c0, r0),
        fill=0,
        all_touched=False,
        dtype="uint8",
    ).astype(bool)
    return Drawn(Window(r0, c0, height, width), burned, int(burned.sum()))


def draw_all(geometries: Iterable[Any], transform: Affine, upsample: int) -> list[Drawn]:
    """`draw` for many polygons on a finer grid.

    Parameters
    ----------
    geometries : iterable of shapely Polygon or MultiPolygon
        In the CRS of `transform`.
    transform : Affine
        Pixel → CRS of the region grid.
    upsample : int
        Fine pixels a region pixel along each axis, ≥ 1.

    Returns
    -------
    list of Drawn
        Windows count fine pixels.
    """
    fine = transform * Affine.scale(1.0 / upsample)
    return [draw(g, fine) for g in geometries]


class LabelFinder:
    """Which labels of a picture meet a tile: one tree of label windows for each track and period.

    Parameters
    ----------
    labels : Labels
        Of `components.dataset.labels.read_labels`.
    drawn : sequence of Drawn
        The same labels as pixels.
    pictures : sequence of tuple of str
        Every (track, period) that will be asked for.
    """

    def __init__(
        self, labels: Labels, drawn: Sequence[Drawn], pictures: Sequence[tuple[str, str]]
    ) -> None:
        self.drawn = drawn
        self._rows = {
            p: [i for i in for_picture(labels.frame, *p) if drawn[i].pixels] for p in pictures
        }
        self._trees = {
            p: shapely.STRtree([_box(drawn[i].window) for i in rows])
            for p, rows in self._rows.items()
        }

    def cut(
        self, picture: tuple[str, str], fine: Window
    ) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Masks of all labels with a pixel in a tile.

        Parameters
        ----------
        picture : tuple of str
            Track and period.
        fine : Window
            The tile [up-sampled px].

        Yields
        ------
        tuple of int and ndarray
            Row of the label, ascending, and its bool mask of the tile's shape.
        """
        for i in sorted(self._rows[picture][k] for k in self._trees[picture].query(_box(fine))):
            window, mask, _ = self.drawn[i]
            common = window.intersect(fine)
            if common is None:
                continue
            out = np.zeros((fine.height, fine.width), dtype=bool)
            out[_relative(common, fine)] = mask[_relative(common, window)]
            if out.any():
                yield i, out


def _box(window: Window) -> Any:
    return shapely.box(window.col, window.row, window.col_end, window.row_end)


def _relative(part: Window, whole: Window) -> tuple[slice, slice]:
    r, c = part.row - whole.row, part.col - whole.col
    return slice(r, r + part.height), slice(c, c + part.width)

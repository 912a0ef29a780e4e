"""Landslides as small masks with a position on the pixel grid, and where they overlap.

Masks are crops, never full maps: memory grows with the landslides, not with the map. Only pairs whose
boxes touch are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import shapely

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.grid import Window


@dataclass(frozen=True)
class Footprint:
    """One landslide on the pixel grid.

    Parameters
    ----------
    row, col : int
        Upper-left pixel of the crop in the map.
    mask : ndarray of bool, shape (h, w)
        True on the landslide; at least one pixel.
    score : float
        Confidence of a detection; any scale, only the order counts. 1 for a reference.
    ignore : bool
        A reference that counts neither as hit nor as miss.
    """

    row: int
    col: int
    mask: NDArray[np.bool_] = field(repr=False)
    score: float = 1.0
    ignore: bool = False

    @cached_property
    def n_pixels(self) -> int:
        """Pixels of the landslide."""
        return int(self.mask.sum())

    @cached_property
    def centroid(self) -> tuple[float, float]:
        """Mean row and column of the pixels (pixel indices, centre of a pixel = its index)."""
        rows, cols = np.nonzero(self.mask)
        return self.row + float(rows.mean()), self.col + float(cols.mean())

    def holds(self, row: int, col: int) -> bool:
        """Whether a map pixel belongs to the landslide.

        Parameters
        ----------
        row, col : int
            Map pixel.

        Returns
        -------
        bool
        """
        r, c = row - self.row, col - self.col
        return 0 <= r < self.mask.shape[0] and 0 <= c < self.mask.shape[1] and bool(self.mask[r, c])


class Overlaps(NamedTuple):
    """All overlapping pairs of detections and references, in the order of (detection, reference).

    Parameters
    ----------
    detection, reference : ndarray of int, shape (n,)
        Indices.
    intersection : ndarray of int, shape (n,)
        Common pixels, > 0.
    iou : ndarray of float, shape (n,)
        Intersection over union, in (0, 1].
    centred : ndarray of bool, shape (n,)
        The detection's centroid lies in the reference, or the reference's in the detection.
    """

    detection: NDArray[np.int64]
    reference: NDArray[np.int64]
    intersection: NDArray[np.int64]
    iou: NDArray[np.float64]
    centred: NDArray[np.bool_]


def boxes(footprints: Sequence[Footprint]) -> NDArray[np.object_]:
    """Bounding boxes in pixel edges, for spatial indexing.

    Parameters
    ----------
    footprints : sequence of Footprint
        Any.

    Returns
    -------
    ndarray of shapely boxes, shape (n,)
        x = columns, y = rows.
    """
    if not footprints:
        return np.empty(0, dtype=object)
    e = np.array([(f.col, f.row, *f.mask.shape) for f in footprints], dtype=float)
    out: NDArray[np.object_] = shapely.box(e[:, 0], e[:, 1], e[:, 0] + e[:, 3], e[:, 1] + e[:, 2])
    return out


def intersection(a: Footprint, b: Footprint) -> int:
    """Pixels that two landslides share.

    Parameters
    ----------
    a, b : Footprint
        On the same map.

    Returns
    -------
    int
    """
    r0, c0 = max(a.row, b.row), max(a.col, b.col)
    r1 = min(a.row + a.mask.shape[0], b.row + b.mask.shape[0])
    c1 = min(a.col + a.mask.shape[1], b.col + b.mask.shape[1])
    if r1 <= r0 or c1 <= c0:
        return 0
    inside_a = a.mask[r0 - a.row : r1 - a.row, c0 - a.col : c1 - a.col]
    inside_b = b.mask[r0 - b.row : r1 - b.row, c0 - b.col : c1 - b.col]
    return int(np.count_nonzero(inside_a & inside_b))


def overlaps(detections: Sequence[Footprint], references: Sequence[Footprint]) -> Overlaps:
    """All pairs that share a pixel.

    Parameters
    ----------
    detections, references : sequence of Footprint
        On the same map.

    Returns
    -------
    Overlaps
    """
    pairs: list[tuple[int, int]] = []
    if detections and references:
        tree = shapely.STRtree(boxes(references))
        found = tree.query(boxes(detections), predicate="intersects")
        pairs = sorted(zip(found[0].tolist(), found[1].tolist(), strict=True))
    kept: list[tuple[int, int, int, float, bool]] = []
    for d, r in pairs:
        a, b = detections[d], references[r]
        common = intersection(a, b)
        if common:
            iou = common / (a.n_pixels + b.n_pixels - common)
            kept.append((d, r, common, iou, b.holds(*pixel_of(a)) or a.holds(*pixel_of(b))))
    columns = list(zip(*kept, strict=True)) if kept else [()] * 5
    return Overlaps(
        np.array(columns[0], dtype=np.int64),
        np.array(columns[1], dtype=np.int64),
        np.array(columns[2], dtype=np.int64),
        np.array(columns[3], dtype=np.float64),
        np.array(columns[4], dtype=np.bool_),
    )


def pixel_of(footprint: Footprint) -> tuple[int, int]:
    """Map pixel that holds the centroid.

    Parameters
    ----------
    footprint : Footprint
        Any.

    Returns
    -------
    tuple of int
        Row and column.
    """
    row, col = footprint.centroid
    return int(np.floor(row + 0.5)), int(np.floor(col + 0.5))


def paint(
    footprints: Iterable[Footprint], row: int, col: int, height: int, width: int
) -> NDArray[np.bool_]:
    """Union of landslides inside a window.

    Parameters
    ----------
    footprints : iterable of Footprint
        Any; those outside leave no trace.
    row, col, height, width : int
        The window.

    Returns
    -------
    ndarray of bool, shape (height, width)
    """
    out = np.zeros((height, width), dtype=np.bool_)
    for f in footprints:
        r0, c0 = max(f.row, row), max(f.col, col)
        r1 = min(f.row + f.mask.shape[0], row + height)
        c1 = min(f.col + f.mask.shape[1], col + width)
        if r1 > r0 and c1 > c0:
            out[r0 - row : r1 - row, c0 - col : c1 - col] |= f.mask[
                r0 - f.row : r1 - f.row, c0 - f.col : c1 - f.col
            ]
    return out


def inside(footprints: Sequence[Footprint], areas: Sequence[Window] | None) -> NDArray[np.bool_]:
    """Which landslides belong to an area: those whose centroid falls in it.

    Parameters
    ----------
    footprints : sequence of Footprint
        Any.
    areas : sequence of Window or None
        Pixel windows; None for the whole map.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    if areas is None:
        return np.ones(len(footprints), dtype=np.bool_)
    out = np.zeros(len(footprints), dtype=np.bool_)
    for i, f in enumerate(footprints):
        row, col = pixel_of(f)
        out[i] = any(w.row <= row < w.row_end and w.col <= col < w.col_end for w in areas)
    return out

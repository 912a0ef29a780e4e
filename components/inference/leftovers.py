"""What is left beside and inside finished landslides: the same ground seen again.

A landslide inside a larger one of its class is dropped, and so is a sliver that a window cut off a
landslide which a better-placed window drew whole, a pixel or two smaller. Both are decided among
landslides that touch; such a cluster is decided once no more landslides can come near it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components

from components.inference.average import SLIVER_PX, Made
from components.inference.coverage import Coverage
from components.inference.instances import Instance, order_of
from components.inference.pool import superseded
from components.inference.runs import Bool, Int, Runs, common_pixels, runs_of
from components.inference.seams import overlapping_pairs

EIGHT = np.ones((3, 3), dtype=bool)


class Cleared(NamedTuple):
    """Landslides that are done, those that must wait, and how many were dropped."""

    done: list[Instance]
    waiting: list[Made]
    absorbed: int
    slivers: int


def bounds(made: list[Made]) -> Int:
    """Boxes of landslides.

    Parameters
    ----------
    made : list of Made
        Landslides.

    Returns
    -------
    ndarray, int64, ``[n, 4]``
        Row, col, row end, col end.
    """
    return np.asarray([m.instance.bounds for m in made], np.int64).reshape(-1, 4)


def grown(boxes: Int, shape: tuple[int, int]) -> Int:
    """Boxes with a margin of `SLIVER_PX`, clipped to the raster.

    Parameters
    ----------
    boxes : ndarray, int64, ``[n, 4]``
        Row, col, row end, col end.
    shape : tuple of int
        Raster height and width.

    Returns
    -------
    ndarray, int64, ``[n, 4]``
    """
    low = np.maximum(boxes[:, :2] - SLIVER_PX, 0)
    return np.concatenate([low, np.minimum(boxes[:, 2:] + SLIVER_PX, np.asarray(shape))], axis=1)


def clear(made: list[Made], settled: Bool, coverage: Coverage, containment: float) -> Cleared:
    """Drop what was seen again, among landslides whose surroundings are complete.

    Parameters
    ----------
    made : list of Made
        Landslides.
    settled : ndarray, bool
        Whether no further landslide can come near each of them.
    coverage : Coverage
        The windows.
    containment : float
        Share of the smaller of two nested masks, in (0, 1].

    Returns
    -------
    Cleared
        Whatever was settled before or is settled later, the same landslides are dropped.
    """
    if not made:
        return Cleared([], [], 0, 0)
    boxes = bounds(made)
    category = np.asarray([m.instance.category for m in made], np.int64)
    thin = np.asarray([m.sliver for m in made])
    near = np.where(thin[:, None], grown(boxes, coverage.shape), boxes)
    first, second = overlapping_pairs(near, category)
    pixels = _common(made, boxes, first, second)
    cuts = _cuts(made, thin, first, second, coverage)
    one = np.concatenate([first[pixels > 0], cuts[:, 0]])
    two = np.concatenate([second[pixels > 0], cuts[:, 1]])
    graph = sparse.coo_array((np.ones(len(one), np.int8), (one, two)), shape=(len(made),) * 2)
    n, cluster = connected_components(graph, directed=False)
    ready = np.ones(n, bool)
    ready[cluster[~settled]] = False
    ready = ready[cluster]
    waiting = [made[k] for k in np.flatnonzero(~ready).tolist()]

    busy = np.unique(np.concatenate([one, two]))
    busy = busy[ready[busy]]
    busy = busy[order_of([made[k].instance for k in busy.tolist()])]
    place = np.full(len(made), -1, np.int64)
    place[busy] = np.arange(len(busy))
    use = (pixels > 0) & ready[first]
    absorbed = superseded(
        np.asarray([made[k].instance.area_px for k in busy], np.int64),
        np.asarray([made[k].instance.score for k in busy], np.float64),
        place[first[use]],
        place[second[use]],
        pixels[use],
        containment,
    )
    gone = np.zeros(len(made), bool)
    gone[busy[absorbed]] = True
    # A sliver falls where the landslide that it was cut off stands.
    slivers = np.unique(cuts[ready[cuts[:, 0]] & ~gone[cuts[:, 0]] & ~gone[cuts[:, 1]], 0])
    gone[slivers] = True
    done = [made[k].instance for k in np.flatnonzero(ready & ~gone).tolist()]
    return Cleared(done, waiting, int(np.count_nonzero(absorbed)), len(slivers))


def _common(made: list[Made], boxes: Int, first: Int, second: Int) -> Int:
    """Common pixels of pairs of landslides."""
    some, place = np.unique(np.concatenate([first, second]), return_inverse=True)
    return common_pixels(_runs(made, boxes, some), place[: len(first)], place[len(first) :])


def _runs(made: list[Made], boxes: Int, some: Int) -> Runs:
    masks = [made[k].instance.mask.ravel() for k in some.tolist()]
    row, col, row_end, col_end = boxes[some].T
    height, width = row_end - row, col_end - col
    flat = np.concatenate([*masks, np.empty(0, bool)])
    return runs_of(flat, np.cumsum(height * width) - height * width, height, width, row, col)


def _cuts(made: list[Made], thin: Bool, first: Int, second: Int, coverage: Coverage) -> Int:
    """Pairs of a sliver and a landslide close to it that a better-placed window drew without it.

    Better placed: it holds all of the sliver, further from its own edges than the sliver is deep.
    """
    found = []
    for a, b in ((first, second), (second, first)):
        for k in np.flatnonzero(thin[a] & ~thin[b]).tolist():
            sliver, other = made[a[k]], made[b[k]]
            better = np.setdiff1d(other.windows, sliver.windows)
            if _hold(better, sliver.instance, coverage) and _close(sliver, other):
                found.append((a[k], b[k]))
    return np.asarray(found, np.int64).reshape(-1, 2)


def _hold(windows: Int, instance: Instance, coverage: Coverage) -> bool:
    """Whether one of some windows holds a landslide, not near its edges inside the raster."""
    frame, shape = coverage.boxes[windows], np.asarray(coverage.shape)
    box = np.asarray(instance.bounds)
    low = frame[:, :2] + SLIVER_PX * (frame[:, :2] > 0)
    high = frame[:, 2:] - SLIVER_PX * (frame[:, 2:] < shape)
    return bool(((low <= box[:2]) & (box[2:] <= high)).all(axis=1).any())


def _close(sliver: Made, other: Made) -> bool:
    """Whether two masks come within `SLIVER_PX` of each other."""
    a, b = sliver.instance, other.instance
    wide = ndimage.binary_dilation(np.pad(a.mask, SLIVER_PX), EIGHT, iterations=SLIVER_PX)
    row, col = a.row - SLIVER_PX, a.col - SLIVER_PX
    r0, r1 = max(row, b.row), min(row + wide.shape[0], b.bounds[2])
    c0, c1 = max(col, b.col), min(col + wide.shape[1], b.bounds[3])
    if r0 >= r1 or c0 >= c1:
        return False
    here = wide[r0 - row : r1 - row, c0 - col : c1 - col]
    return bool((here & b.mask[r0 - b.row : r1 - b.row, c0 - b.col : c1 - b.col]).any())

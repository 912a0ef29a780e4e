"""Where windows meet without common ground: what is cut there cannot be joined."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from components.grid.windows import Window
from components.inference.runs import Int
from components.inference.seams import overlapping_pairs


def unjoined(windows: Iterable[Window]) -> int:
    """Count the windows at whose border a landslide is cut and cannot be joined.

    Two pixels side by side are joined by a window that holds both. A window counts where it has a border that
    another one continues and no window looks across, be it along a part of it; and where it shares no
    ground with any other.

    Parameters
    ----------
    windows : iterable of Window
        All windows of a map, inside the raster. A single window counts never.

    Returns
    -------
    int
        Number of windows.

    Examples
    --------
    >>> unjoined([Window(0, 0, 8, 8), Window(0, 8, 8, 8)]), unjoined([Window(0, 0, 8, 8), Window(0, 6, 8, 8)])
    (2, 0)
    """
    boxes = np.asarray([(w.row, w.col, w.row_end, w.col_end) for w in windows], np.int64)
    if len(boxes) < 2:
        return 0
    alone = np.ones(len(boxes), bool)
    alone[np.concatenate(overlapping_pairs(boxes, np.zeros(len(boxes), np.int64)))] = False
    return int(np.count_nonzero(alone | _cut(boxes) | _cut(boxes[:, [1, 0, 3, 2]])))


def _cut(boxes: Int) -> NDArray[np.bool_]:
    """Windows with such a border above or below."""
    order = np.argsort(boxes[:, 0], kind="stable")
    starts, lows, ends, highs = boxes[order].T
    tallest = int((ends - starts).max())
    cut = np.zeros(len(boxes), bool)
    for row in np.intersect1d(starts, ends).tolist():
        near = slice(
            int(np.searchsorted(starts, row - tallest)), int(np.searchsorted(starts, row, "right"))
        )
        places = np.unique(np.concatenate([lows[near], highs[near]]))
        low, high = np.searchsorted(places, lows[near]), np.searchsorted(places, highs[near])
        above, below = ends[near] == row, starts[near] == row
        across = (starts[near] < row) & (ends[near] > row)
        covered = [_covered(low[some], high[some], len(places)) for some in (above, below, across)]
        blind = np.concatenate([[0], np.cumsum(covered[0] & covered[1] & ~covered[2])])
        cut[order[near]] |= (above | below) & (blind[high] > blind[low])
    return cut


def _covered(low: Int, high: Int, n: int) -> NDArray[np.bool_]:
    steps = np.bincount(low, minlength=n) - np.bincount(high, minlength=n)
    return np.asarray(np.cumsum(steps) > 0)

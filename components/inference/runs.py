"""Masks as horizontal runs, many at once: cutting, connected parts and common pixels without a loop.

A mask of a small landslide has some ten runs and a hundred pixels; a block has thousands of masks. One
set of arrays holds the runs of all of them, sorted by mask, row and column, so that each step below is
a few passes over arrays however many masks there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

Int = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of pixels of several masks.

    Parameters
    ----------
    first : ndarray, int64, ``[n + 1]``
        Mask k has the runs ``first[k]`` to ``first[k + 1] - 1``.
    row : ndarray, int64
        Row of each run on the map; runs of a mask are sorted by row, then column, and do not touch.
    start, end : ndarray, int64
        First column and column end (half-open).
    """

    first: Int
    row: Int
    start: Int
    end: Int

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def owner(self) -> Int:
        """Mask of each run."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))

    def areas(self) -> Int:
        """Pixels of each mask."""
        total = np.concatenate([[0], np.cumsum(self.end - self.start)])
        areas: Int = total[self.first[1:]] - total[self.first[:-1]]
        return areas

    def boxes(self) -> Int:
        """Tight boxes ``[n, 4]``: row, col, row end, col end; an empty mask has zeros."""
        out = np.zeros((len(self), 4), np.int64)
        some = np.flatnonzero(np.diff(self.first))
        if len(some):
            at = self.first[some]
            out[some, 0] = self.row[at]
            out[some, 1] = np.minimum.reduceat(self.start, at)
            out[some, 2] = self.row[self.first[some + 1] - 1] + 1
            out[some, 3] = np.maximum.reduceat(self.end, at)
        return out

    def take(self, masks: Int) -> Runs:
        """The runs of some masks, in the order given."""
        index, first = expand(self.first, masks)
        return Runs(first, self.row[index], self.start[index], self.end[index])

    def keep(self, wanted: Bool) -> Runs:
        """Without some of the runs; the masks stay, if empty."""
        before = np.concatenate([[0], np.cumsum(wanted)])
        return Runs(before[self.first], self.row[wanted], self.start[wanted], self.end[wanted])

    def cut(self, masks: Int, boxes: Int) -> Runs:
        """Some masks, each cut to a box.

        Parameters
        ----------
        masks : ndarray, int64, ``[m]``
            Masks; one may be named several times.
        boxes : ndarray, int64, ``[m, 4]``
            Row, col, row end, col end for each.

        Returns
        -------
        Runs
            Of m masks.
        """
        index, first = expand(self.first, masks)
        box = np.repeat(np.arange(len(masks)), np.diff(first))
        row = self.row[index]
        start = np.maximum(self.start[index], boxes[box, 1])
        end = np.minimum(self.end[index], boxes[box, 3])
        inside = (row >= boxes[box, 0]) & (row < boxes[box, 2]) & (start < end)
        return Runs(first, row, start, end).keep(inside)


def expand(first: Int, which: Int) -> tuple[Int, Int]:
    """Positions of the entries of some groups, and where each group begins among them.

    Parameters
    ----------
    first : ndarray, int64, ``[n + 1]``
        Group k has the entries ``first[k]`` to ``first[k + 1] - 1``.
    which : ndarray, int64, ``[m]``
        Groups.

    Returns
    -------
    index : ndarray, int64
        Entries of all the groups.
    begin : ndarray, int64, ``[m + 1]``
        As `first`, for the result.
    """
    counts = first[which + 1] - first[which]
    begin = np.concatenate([[0], np.cumsum(counts)])
    index = np.arange(int(begin[-1])) + np.repeat(first[which] - begin[:-1], counts)
    return index, begin


def runs_of(flat: Bool, offset: Int, height: Int, width: Int, row: Int, col: Int) -> Runs:
    """Runs of masks that lie one behind the other in memory.

    Parameters
    ----------
    flat : ndarray, bool
        The masks' pixels, each mask row by row.
    offset : ndarray, int64, ``[n]``
        Where each mask begins in `flat`; increasing, and without gaps.
    height, width : ndarray, int64, ``[n]``
        Their shapes.
    row, col : ndarray, int64, ``[n]``
        Their first pixel on the map.

    Returns
    -------
    Runs
    """
    if not flat.any():
        empty = np.empty(0, np.int64)
        return Runs(np.zeros(len(offset) + 1, np.int64), empty, empty, empty)
    # The first pixel of each mask row: a run never reaches over it.
    rows = np.where(width > 0, height, 0)
    begin = np.concatenate([[0], np.cumsum(rows)])
    within = np.arange(int(begin[-1])) - np.repeat(begin[:-1], rows)
    margin = np.zeros(len(flat) + 1, bool)
    margin[np.repeat(offset, rows) + within * np.repeat(width, rows)] = True
    margin[-1] = True
    opens = flat.copy()
    opens[1:] &= ~flat[:-1] | margin[1:-1]
    closes = flat.copy()
    closes[:-1] &= ~flat[1:] | margin[1:-1]
    at, end = np.flatnonzero(opens), np.flatnonzero(closes) + 1
    owner = np.searchsorted(offset, at, side="right") - 1
    inner_row, inner_col = np.divmod(at - offset[owner], width[owner])
    first = np.searchsorted(owner, np.arange(len(offset) + 1))
    start = inner_col + col[owner]
    return Runs(first, inner_row + row[owner], start, start + (end - at))


class Parts(NamedTuple):
    """Connected parts of masks, numbered over all masks in order of their first run.

    Parameters
    ----------
    part : ndarray, int64
        Part of each run.
    owner : ndarray, int64, ``[p]``
        Mask of each part.
    area : ndarray, int64, ``[p]``
        Pixels.
    """

    part: Int
    owner: Int
    area: Int


def connected_parts(runs: Runs) -> Parts:
    """Connected parts with eight neighbours.

    Parameters
    ----------
    runs : Runs
        Masks.

    Returns
    -------
    Parts
    """
    n = len(runs.row)
    owner = runs.owner
    root = runs.first[owner]
    # Nearly always each run touches the next: then the mask is one part, and nothing else is to do.
    chained = (
        (owner[1:] == owner[:-1])
        & (runs.row[1:] == runs.row[:-1] + 1)
        & (runs.start[1:] <= runs.end[:-1])
        & (runs.end[1:] >= runs.start[:-1])
    )
    torn = np.zeros(len(runs), bool)
    torn[owner[1:][~chained & (owner[1:] == owner[:-1])]] = True
    loose = np.flatnonzero(torn[owner])
    if len(loose):
        some = Runs(np.asarray([0, len(loose)]), *(a[loose] for a in _columns(runs)))
        lower, upper = _touching(some, owner[loose])
        graph = sparse.coo_array(
            (np.ones(len(lower), np.int8), (lower, upper)), shape=(len(loose), len(loose))
        )
        _, label = connected_components(graph, directed=False)
        least = np.full(int(label.max()) + 1, n, np.int64)
        np.minimum.at(least, label, loose)
        root = root.copy()
        root[loose] = least[label]
    roots, part = np.unique(root, return_inverse=True)
    area = np.bincount(part, weights=runs.end - runs.start, minlength=len(roots))
    return Parts(part.astype(np.int64), owner[roots], area.astype(np.int64))


def _touching(runs: Runs, owner: Int) -> tuple[Int, Int]:
    """Pairs of runs of one mask in neighbouring rows that touch, at least at a corner."""
    step = int(runs.end.max()) + 3
    line = np.cumsum(
        np.concatenate([[0], (np.diff(owner) != 0) * 2 + (np.diff(owner) == 0) * _steps(runs.row)])
    )
    starts, ends = line * step + runs.start, line * step + runs.end
    low = np.searchsorted(ends, (line + 1) * step + runs.start, side="left")
    high = np.searchsorted(starts, (line + 1) * step + runs.end, side="right")
    counts = np.maximum(high - low, 0)
    upper = np.repeat(np.arange(len(line)), counts)
    begin = np.cumsum(counts) - counts
    lower = np.arange(len(upper)) + np.repeat(low - begin, counts)
    return lower, upper


def _steps(row: Int) -> Int:
    """From run to run of one mask: same row 0, next row 1, further 2, so that keys stay small."""
    return np.minimum(np.diff(row), 2)


class Common(NamedTuple):
    """Runs of two masks that share pixels, pair by pair.

    Parameters
    ----------
    pair : ndarray, int64
        Position of the pair.
    run_a, run_b : ndarray, int64
        The runs.
    pixels : ndarray, int64
        Pixels that they share, > 0.
    """

    pair: Int
    run_a: Int
    run_b: Int
    pixels: Int


def common_runs(runs: Runs, a: Int, b: Int) -> Common:
    """Common pixels of pairs of masks, run by run.

    Parameters
    ----------
    runs : Runs
        Masks.
    a, b : ndarray, int64, ``[m]``
        Pairs.

    Returns
    -------
    Common
    """
    if not len(a) or not len(runs.row):
        empty = np.empty(0, np.int64)
        return Common(empty, empty, empty, empty)
    some = np.diff(runs.first) > 0
    top = np.zeros(len(runs), np.int64)
    depth = np.zeros(len(runs), np.int64)
    top[some] = runs.row[runs.first[:-1][some]]
    depth[some] = runs.row[runs.first[1:][some] - 1] + 1 - top[some]
    base = np.cumsum(depth) - depth  # number of the mask's first row among the rows of all masks
    line = np.repeat(base - top, np.diff(runs.first)) + runs.row
    step = int(runs.end.max()) + 1
    starts, ends = line * step + runs.start, line * step + runs.end

    index, begin = expand(runs.first, a)
    pair = np.repeat(np.arange(len(a)), np.diff(begin))
    other = b[pair]
    depth_in = runs.row[index] - top[other]
    meets = (depth_in >= 0) & (depth_in < depth[other])
    index, pair = index[meets], pair[meets]
    key = (base[other[meets]] + depth_in[meets]) * step
    low = np.searchsorted(ends, key + runs.start[index], side="right")
    high = np.searchsorted(starts, key + runs.end[index], side="left")
    counts = np.maximum(high - low, 0)
    first = np.cumsum(counts) - counts
    run_a = np.repeat(index, counts)
    run_b = np.arange(len(run_a)) + np.repeat(low - first, counts)
    pixels = np.minimum(runs.end[run_a], runs.end[run_b]) - np.maximum(
        runs.start[run_a], runs.start[run_b]
    )
    return Common(np.repeat(pair, counts), run_a, run_b, pixels)


def common_pixels(runs: Runs, a: Int, b: Int) -> Int:
    """Number of common pixels of pairs of masks.

    Parameters
    ----------
    runs : Runs
        Masks.
    a, b : ndarray, int64, ``[m]``
        Pairs.

    Returns
    -------
    ndarray, int64, ``[m]``
    """
    common = common_runs(runs, a, b)
    return np.bincount(common.pair, weights=common.pixels, minlength=len(a)).astype(np.int64)


def _columns(runs: Runs) -> tuple[Int, Int, Int]:
    return runs.row, runs.start, runs.end

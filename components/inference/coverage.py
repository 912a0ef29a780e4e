"""Which windows look at some ground, how well, and whether they have reported yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from components.grid.windows import Window
from components.inference.runs import Int

#: The weight rises from the window's edge over this share of its side.
TAPER_SHARE: Final = 0.25


class Coverage:
    """The windows of a plan in canonical order, found by place.

    Ids are names only: windows are sorted by position, so that another numbering gives the same map.

    Parameters
    ----------
    windows : mapping of int to Window
        Windows by id.
    shape : tuple of int
        Raster height and width [px].
    shortest : mapping of int to float, optional
        By window id: of landslides of which it holds less than this length [px], a window says nothing.

    Attributes
    ----------
    position : dict of int to int
        Id → position in canonical order.
    ids : list of int
        Ids in canonical order.
    boxes : ndarray, int64, ``[n, 4]``
        Row, col, row end, col end in canonical order.
    shortest : ndarray, float64, ``[n]``
        In canonical order; 0 where none was given.
    """

    def __init__(
        self,
        windows: Mapping[int, Window],
        shape: tuple[int, int],
        shortest: Mapping[int, float] | None = None,
    ) -> None:
        self.shape = shape
        self.ids = sorted(windows, key=lambda i: (*windows[i], i))
        self.position = {i: k for k, i in enumerate(self.ids)}
        self.boxes = np.asarray(
            [(w.row, w.col, w.row_end, w.col_end) for w in (windows[i] for i in self.ids)], np.int64
        ).reshape(-1, 4)
        self.shortest = np.asarray([(shortest or {}).get(i, 0.0) for i in self.ids], np.float64)
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        self._cell = int(max(8, np.median(sides))) if len(sides) else 8
        self._n_cols = shape[1] // self._cell + 1
        self._first, self._member = self._cells()
        self._ramps = (_Ramps(shape[0]), _Ramps(shape[1]))
        for box in self.boxes.tolist():
            self._ramps[0].add(box[0], box[2])
            self._ramps[1].add(box[1], box[3])
        for ramps in self._ramps:
            ramps.close()

    def _cells(self) -> tuple[Int, Int]:
        """Windows of each cell of a coarse grid."""
        window, cell = _cells_of(self.boxes, self._cell, self._n_cols)
        order = np.argsort(cell, kind="stable")
        n = (self.shape[0] // self._cell + 1) * self._n_cols
        return np.searchsorted(cell[order], np.arange(n + 1)), window[order]

    def looking_at(self, boxes: Int) -> tuple[Int, Int]:
        """Pairs of a box and a window that share ground.

        Parameters
        ----------
        boxes : ndarray, int64, ``[n, 4]``
            Half-open blocks inside the raster.

        Returns
        -------
        box, window : ndarray, int64
            Positions; each pair once, sorted by box.
        """
        box, cell = _cells_of(boxes, self._cell, self._n_cols)
        counts = self._first[cell + 1] - self._first[cell]
        begin = np.cumsum(counts) - counts
        entry = np.arange(int(counts.sum())) + np.repeat(self._first[cell] - begin, counts)
        box, cell, window = np.repeat(box, counts), np.repeat(cell, counts), self._member[entry]
        corner = np.maximum(boxes[box, :2], self.boxes[window, :2])
        end = np.minimum(boxes[box, 2:], self.boxes[window, 2:])
        # A pair meets in several cells; it counts in the one that holds the corner of its overlap.
        home = (
            (corner < end).all(axis=1)
            & (corner[:, 0] // self._cell == cell // self._n_cols)
            & (corner[:, 1] // self._cell == cell % self._n_cols)
        )
        return box[home], window[home]

    def row_weights(self, window: Int, row: Int) -> NDArray[np.float32]:
        """Weights of rows.

        Parameters
        ----------
        window : ndarray, int64
            Windows.
        row : ndarray, int64
            A row of each, on the map.

        Returns
        -------
        ndarray, float32
            In (0, 1]. The weight of a pixel is that of its row times that of its column: near a
            window's edge less of the surroundings was seen. Raster edges are no window's fault,
            nobody sees beyond them, and they are not tapered.
        """
        return self._ramps[0].at(window, row - self.boxes[window, 0])

    @property
    def col_table(self) -> NDArray[np.float32]:
        """Weights of columns, one table of each kind of window behind the other."""
        return self._ramps[1].table

    def col_places(self, window: Int, col: Int) -> Int:
        """Where the weights of columns lie in `col_table`; those of the next columns follow.

        Parameters
        ----------
        window : ndarray, int64
            Windows.
        col : ndarray, int64
            A column of each, on the map.

        Returns
        -------
        ndarray, int64
        """
        places: Int = self._ramps[1].begin[window] + col - self.boxes[window, 1]
        return places

    def col_weight_sums(self, window: Int, start: Int, end: Int) -> NDArray[np.float64]:
        """Sums of column weights over blocks of columns.

        Parameters
        ----------
        window, start, end : ndarray, int64
            Windows, and half-open blocks of columns of the map inside them.

        Returns
        -------
        ndarray, float64
        """
        left = self.boxes[window, 1]
        return self._ramps[1].sums(window, start - left, end - left)


def _cells_of(boxes: Int, cell: int, n_cols: int) -> tuple[Int, Int]:
    """Pairs of a box and a cell of a grid that it touches, sorted by box."""
    low = boxes[:, :2] // cell
    span = (boxes[:, 2:] - 1) // cell - low + 1
    counts = span[:, 0] * span[:, 1]
    box = np.repeat(np.arange(len(boxes)), counts)
    within = np.arange(len(box)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows, cols = np.divmod(within, span[box, 1])
    return box, (low[box, 0] + rows) * n_cols + low[box, 1] + cols


class _Ramps:
    """Weights along one axis for all windows; equal windows share one table."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._known: dict[tuple[int, bool, bool], int] = {}
        self._tables: list[NDArray[np.float32]] = []
        self._totals: list[NDArray[np.float64]] = []
        self._length = 0
        self._begin: list[int] = []

    def add(self, start: int, end: int) -> None:
        length = end - start
        key = (length, start > 0, end < self.limit)
        if key not in self._known:
            rise = max(1.0, TAPER_SHARE * length)
            up = np.minimum(1.0, (np.arange(length) + 0.5) / rise)
            ramp = np.ones(length)
            if start > 0:
                ramp = np.minimum(ramp, up)
            if end < self.limit:
                ramp = np.minimum(ramp, up[::-1])
            ramp = np.append(ramp, 0.0)  # so that a table is as long as that of its sums
            self._known[key] = self._length
            self._tables.append(ramp.astype(np.float32))
            self._totals.append(np.cumsum(self._tables[-1], dtype=np.float64) - self._tables[-1])
            self._length += length + 1
        self._begin.append(self._known[key])

    def close(self) -> None:
        self.table = np.concatenate([*self._tables, np.empty(0, np.float32)])
        self.total = np.concatenate([*self._totals, np.empty(0, np.float64)])
        self.begin = np.asarray(self._begin, np.int64)

    def at(self, window: Int, place: Int) -> NDArray[np.float32]:
        weights: NDArray[np.float32] = self.table[self.begin[window] + place]
        return weights

    def sums(self, window: Int, start: Int, end: Int) -> NDArray[np.float64]:
        begin = self.begin[window]
        sums: NDArray[np.float64] = self.total[begin + end] - self.total[begin + start]
        return sums

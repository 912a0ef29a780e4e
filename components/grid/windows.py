"""Windows over a raster: exact cover, overlap, blocks.

Rows grow downward, columns to the right; a window is the half-open block
``[row, row + height) × [col, col + width)``.
"""

from __future__ import annotations

from typing import NamedTuple


class Window(NamedTuple):
    """A rectangular block of pixels.

    Parameters
    ----------
    row, col : int
        Upper-left pixel.
    height, width : int
        Size in pixels.
    """

    row: int
    col: int
    height: int
    width: int

    @property
    def row_end(self) -> int:
        """First row below the window."""
        return self.row + self.height

    @property
    def col_end(self) -> int:
        """First column right of the window."""
        return self.col + self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices into the raster."""
        return slice(self.row, self.row_end), slice(self.col, self.col_end)

    def intersect(self, other: Window) -> Window | None:
        """Common ground of two windows.

        Parameters
        ----------
        other : Window
            Another window of the same raster.

        Returns
        -------
        Window or None
            None where they share no pixel.
        """
        r0, c0 = max(self.row, other.row), max(self.col, other.col)
        r1, c1 = min(self.row_end, other.row_end), min(self.col_end, other.col_end)
        return Window(r0, c0, r1 - r0, c1 - c0) if r1 > r0 and c1 > c0 else None

    def buffer(self, pixels: int, shape: tuple[int, int]) -> Window:
        """The window grown on all sides and clipped to the raster.

        Parameters
        ----------
        pixels : int
            Halo width.
        shape : tuple of int
            Raster height and width.

        Returns
        -------
        Window
        """
        r0, c0 = max(self.row - pixels, 0), max(self.col - pixels, 0)
        r1 = min(self.row_end + pixels, shape[0])
        c1 = min(self.col_end + pixels, shape[1])
        return Window(r0, c0, r1 - r0, c1 - c0)


def tile_starts(length: int, size: int, stride: int) -> list[int]:
    """First indices of tiles that cover a line; the last is moved inward to end with the line.

    Parameters
    ----------
    length : int
        Length of the line, > 0.
    size : int
        Tile length, > 0. A line shorter than a tile has the one start 0.
    stride : int
        Distance of starts, in [1, size].

    Returns
    -------
    list of int
        Strictly increasing.

    Examples
    --------
    >>> tile_starts(10, 4, 3)
    [0, 3, 6]
    >>> tile_starts(11, 4, 3)
    [0, 3, 6, 7]
    """
    if length < 1 or size < 1 or not 1 <= stride <= size:
        msg = f"need length, size >= 1 and 1 <= stride <= size; got {length=}, {size=}, {stride=}"
        raise ValueError(msg)
    if length <= size:
        return [0]
    starts = list(range(0, length - size + 1, stride))
    if starts[-1] != length - size:
        starts.append(length - size)
    return starts


def plan_windows(shape: tuple[int, int], size: int, overlap: float) -> list[Window]:
    """Square windows of equal size with overlap that cover a raster, in row-major order.

    Parameters
    ----------
    shape : tuple of int
        Raster height and width.
    size : int
        Window side in pixels. Along a raster side shorter than this the window has the raster's
        length.
    overlap : float
        Shared fraction of neighbouring windows, in [0, 1).

    Returns
    -------
    list of Window
    """
    if not 0.0 <= overlap < 1.0:
        msg = f"overlap must be in [0, 1); got {overlap}"
        raise ValueError(msg)
    stride = max(1, round(size * (1.0 - overlap)))
    height, width = min(size, shape[0]), min(size, shape[1])
    return [
        Window(r, c, height, width)
        for r in tile_starts(shape[0], size, stride)
        for c in tile_starts(shape[1], size, stride)
    ]


def block_windows(shape: tuple[int, int], size: int) -> list[Window]:
    """Disjoint blocks that cover a raster exactly once, in row-major order; edge blocks are smaller.

    Parameters
    ----------
    shape : tuple of int
        Raster height and width.
    size : int
        Block side in pixels.

    Returns
    -------
    list of Window
    """
    return [
        Window(r, c, min(size, shape[0] - r), min(size, shape[1] - c))
        for r in range(0, shape[0], size)
        for c in range(0, shape[1], size)
    ]

"""A map small enough to draw: layers averaged over squares of pixels, read strip by strip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from components.grid import Window

if TYPE_CHECKING:
    from affine import Affine
    from numpy.typing import NDArray

#: ``reader(names, window)``: layers of a window, absent layers left out.
Reader = Callable[[Sequence[str], Window], dict[str, "NDArray[np.generic]"]]

#: Rows read at once, about; bounds the memory together with the map's width.
_STRIP: Final = 512


@dataclass(frozen=True)
class Overview:
    """Layers of one map or part of it, ready to draw.

    Parameters
    ----------
    velocity : ndarray of float, shape (h, w)
        Line-of-sight velocity [mm/yr], + toward the satellite; NaN without measurement.
    elevation : ndarray of float, shape (h, w), or None
        Elevation [m]; None where the region has none.
    bounds : tuple of float
        West, south, east, north in map coordinates [m].
    pixel_m : float
        Ground size of a drawn pixel [m].
    """

    velocity: NDArray[np.float32] = field(repr=False)
    elevation: NDArray[np.float32] | None = field(repr=False)
    bounds: tuple[float, float, float, float]
    pixel_m: float


def reduction(height: int, width: int, max_px: int) -> int:
    """Side of the squares that are averaged to one drawn pixel.

    Parameters
    ----------
    height, width : int
        Size of the map [px].
    max_px : int
        Longest side of the drawing [px].

    Returns
    -------
    int
        At least 1.
    """
    return max(1, -(-max(height, width) // max_px))


def block_mean(values: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Mean of the finite values of each square.

    Parameters
    ----------
    values : ndarray of float, shape (H, W)
        NaN for missing.
    side : int
        Side of the squares; those at the lower and right edge may be cut.

    Returns
    -------
    ndarray of float32, shape (ceil(H/side), ceil(W/side))
        NaN where less than half of a square is known, so that drawn ground is measured ground.
    """
    if side == 1:
        return values.astype(np.float32)
    height, width = values.shape
    padded = np.full((-(-height // side) * side, -(-width // side) * side), np.nan)
    padded[:height, :width] = values
    inside = np.zeros(padded.shape, dtype=bool)
    inside[:height, :width] = True

    def total(a: NDArray[np.float64]) -> NDArray[np.float64]:
        rows, cols = a.shape[0] // side, a.shape[1] // side
        out: NDArray[np.float64] = a.reshape(rows, side, cols, side).sum(axis=(1, 3))
        return out

    finite = np.isfinite(padded)
    n, n_inside = total(finite.astype(float)), total(inside.astype(float))
    sums = total(np.where(finite, padded, 0.0))
    mean = np.full(n.shape, np.nan)
    enough = n * 2 >= n_inside
    mean[enough] = sums[enough] / n[enough]
    return mean.astype(np.float32)


def read_overview(reader: Reader, window: Window, transform: Affine, max_px: int) -> Overview:
    """Read a part of a map at drawing size.

    Parameters
    ----------
    reader : callable
        ``reader(names, window)`` → arrays of the layers that exist.
    window : Window
        The part.
    transform : Affine
        Map pixel → map coordinates, north-up.
    max_px : int
        Longest side of the drawing [px].

    Returns
    -------
    Overview
    """
    side = reduction(window.height, window.width, max_px)
    rows = max(side, _STRIP // side * side)
    velocity: list[NDArray[np.float32]] = []
    elevation: list[NDArray[np.float32]] = []
    for row in range(window.row, window.row_end, rows):
        strip = Window(row, window.col, min(rows, window.row_end - row), window.width)
        layers = reader(("los_velocity", "valid", "elevation"), strip)
        v = layers["los_velocity"].astype(np.float32)
        if "valid" in layers:
            v = np.where(layers["valid"].astype(bool), v, np.float32(np.nan))
        velocity.append(block_mean(v, side))
        if "elevation" in layers:
            elevation.append(block_mean(layers["elevation"].astype(np.float32), side))
    a, _, west, _, e, north = tuple(transform)[:6]
    drawn = np.concatenate(velocity)
    terrain = np.concatenate(elevation) if elevation else None
    if terrain is not None and not np.isfinite(terrain).any():
        terrain = None
    left, top = west + a * window.col, north + e * window.row
    # The drawing ends with whole squares, which may reach beyond the map's edge.
    bounds = (
        left,
        top + e * side * drawn.shape[0],
        left + a * side * drawn.shape[1],
        top,
    )
    return Overview(drawn, terrain, bounds, abs(a) * side)


def surroundings(bounds: tuple[int, int, int, int], shape: tuple[int, int], least: int) -> Window:
    """Square around a landslide: the smallest still shows its surroundings, the largest fits.

    Parameters
    ----------
    bounds : tuple of int
        First row, first column, row end, column end of the one in the middle [px].
    shape : tuple of int
        Height and width of the map [px].
    least : int
        Least side [px].

    Returns
    -------
    Window
        Inside the map.
    """
    height, width = bounds[2] - bounds[0], bounds[3] - bounds[1]
    side = min(max(least, int(2.2 * max(height, width))), *shape)
    row = min(max(bounds[0] + height // 2 - side // 2, 0), shape[0] - side)
    col = min(max(bounds[1] + width // 2 - side // 2, 0), shape[1] - side)
    return Window(row, col, side, side)

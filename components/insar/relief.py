"""Where a pixel stands between the valleys and the summits around it.

The elevation-relief ratio of Pike and Wilson (1971, Geological Society of America Bulletin 82, 1079), of a
pixel instead of an area: ``h = (z − L) / (U − L)``, with the height L of the low and U of the high ground
within `REACH_M`. Landslides lie low above the rivers that cut their feet; rock glaciers, frost heave and snow
lie high.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Half side of the surroundings [m]: a valley and the ridges on both sides, but no second massif.
REACH_M: Final = 12_500.0

#: Side of the cells whose low and high ground is known [m], and the ranks of the pixels that stand for
#: them: single pixels of a terrain model can be wrong.
CELL_M: Final = 1_000.0
_SHARES: Final = (0.1, 0.9)

#: Ground of less relief than this is flat [m]: the noise of a terrain model must not fill the range.
_LEAST_RELIEF_M: Final = 50.0


class Relief:
    """Low and high ground around every place of a map.

    Parameters
    ----------
    low, high : ndarray of float, shape (rows, columns)
        Low and high ground [m] of the cells of `cell_side` that cover the map, as `cell_relief` gives
        them; NaN where nothing is known.
    pixel_m : float
        Pixel size [m], > 0.

    Notes
    -----
    A map of 32,768 px of 25 m has some 820 cells a side: what is kept is small whatever the map.
    """

    def __init__(self, low: NDArray[np.float64], high: NDArray[np.float64], pixel_m: float) -> None:
        self._cell = cell_side(pixel_m)
        half = max(1, round(REACH_M / (self._cell * pixel_m)))
        self._low = _smooth(_extreme(low, half, ndimage.minimum_filter, np.inf), half)
        self._high = _smooth(_extreme(high, half, ndimage.maximum_filter, -np.inf), half)

    def height(
        self, elevation: NDArray[np.floating], row: int = 0, col: int = 0
    ) -> NDArray[np.float32]:
        """Relative height of a part of the map.

        Parameters
        ----------
        elevation : ndarray, float, shape (h, w)
            Elevation [m]; NaN where missing.
        row, col : int
            Its first pixel on the map.

        Returns
        -------
        ndarray of float32, shape (h, w)
            In [0, 1]: 0 at the low, 1 at the high ground of the surroundings; NaN where the elevation is.
        """
        low, high = (self._at(grid, elevation.shape, row, col) for grid in (self._low, self._high))
        relief = np.maximum(high - low, _LEAST_RELIEF_M)
        return np.clip((elevation - low) / relief, 0.0, 1.0).astype(np.float32)

    def _at(
        self, grid: NDArray[np.float64], shape: tuple[int, ...], row: int, col: int
    ) -> NDArray[np.float64]:
        """Linear between the centres of cells, constant beyond the outer ones."""
        rows, cols = (
            (np.arange(first, first + n) + 0.5) / self._cell - 0.5
            for first, n in zip((row, col), shape, strict=True)
        )
        places = np.meshgrid(rows, cols, indexing="ij")
        out: NDArray[np.float64] = ndimage.map_coordinates(grid, places, order=1, mode="nearest")
        return out


def relative_height(elevation: NDArray[np.floating], pixel_m: float) -> NDArray[np.float32]:
    """Relative height of a map that lies in memory.

    Parameters
    ----------
    elevation : ndarray, float, shape (H, W)
        Elevation [m]; NaN where missing.
    pixel_m : float
        Pixel size [m], > 0.

    Returns
    -------
    ndarray of float32, shape (H, W)
        As `Relief.height`.
    """
    return Relief(*cell_relief(elevation, cell_side(pixel_m)), pixel_m).height(elevation)


def cell_side(pixel_m: float) -> int:
    """Side of a cell.

    Parameters
    ----------
    pixel_m : float
        Pixel size [m], > 0.

    Returns
    -------
    int
        Pixels; about `CELL_M`.
    """
    return max(1, round(CELL_M / pixel_m))


def cell_relief(
    elevation: NDArray[np.floating], side: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Low and high ground of the cells of a map, or of a part that begins at a cell's edge.

    Parameters
    ----------
    elevation : ndarray, float, shape (h, w)
        Elevation [m]; NaN where missing.
    side : int
        Side of a cell [px].

    Returns
    -------
    low, high : ndarray of float, shape (ceil(h / side), ceil(w / side))
        Height [m] below which a tenth, or nine tenths, of the known pixels lie; NaN without any.
    """
    rows, cols = (-(-n // side) for n in elevation.shape)
    padded = np.full((rows * side, cols * side), np.nan)
    padded[: elevation.shape[0], : elevation.shape[1]] = elevation
    pixels = padded.reshape(rows, side, cols, side).swapaxes(1, 2).reshape(rows, cols, -1)
    pixels.sort(axis=-1)  # NaN comes last
    last = np.maximum(np.isfinite(pixels).sum(axis=-1) - 1, 0)
    low, high = (
        np.take_along_axis(pixels, np.rint(share * last).astype(np.int64)[..., None], -1)[..., 0]
        for share in _SHARES
    )
    return low, high


def _extreme(
    grid: NDArray[np.float64], half: int, pick: Callable[..., NDArray[np.float64]], nothing: float
) -> NDArray[np.float64]:
    """Least or greatest value within `half` cells; unknown cells do not count."""
    out = pick(np.where(np.isnan(grid), nothing, grid), 2 * half + 1, mode="nearest")
    return np.where(np.isfinite(out), out, np.nan)


def _smooth(grid: NDArray[np.float64], half: int) -> NDArray[np.float64]:
    """Mean over as many cells, so that no step is left where a summit comes within reach."""
    known = np.isfinite(grid)
    weight = ndimage.uniform_filter(known.astype(np.float64), 2 * half + 1, mode="nearest")
    total = ndimage.uniform_filter(np.where(known, grid, 0.0), 2 * half + 1, mode="nearest")
    with np.errstate(invalid="ignore", divide="ignore"):
        out: NDArray[np.float64] = np.where(weight > 1e-9, total / weight, np.nan)
    return out

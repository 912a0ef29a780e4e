"""Windows in which nothing stands out of the noise.

A landslide moves some pixels together. The test takes the mean velocity of blocks of 3 × 3 pixels, less
the mean of the surrounding 40 pixels or so (atmosphere is longer than that), in units of the map's noise. A
window in which no block reaches a bound cannot hold a detection. docs/performance.md says how the bound
was chosen, and how much is skipped.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from components.dataset.presets import SIGMA_FLOOR
from components.grid.windows import Window

#: Side of a block [px].
BLOCK_PX: Final = 3

#: Side of the surroundings [blocks], odd.
AROUND_BLOCKS: Final = 13

_MM_PER_YEAR: Final = 365.25 * 1e3


def velocity_mm_per_year(displacement_m: NDArray[np.float32], days: int) -> NDArray[np.float32]:
    """Velocity from displacement, for presets that read no velocity.

    Parameters
    ----------
    displacement_m : ndarray, float32
        [m].
    days : int
        Length of the period.

    Returns
    -------
    ndarray, float32
        [mm/yr].
    """
    return displacement_m * np.float32(_MM_PER_YEAR / days)


def block_contrast(
    velocity: NDArray[np.float32], valid: NDArray[np.bool_], sigma: float
) -> NDArray[np.float32]:
    """How far each block stands out of its surroundings.

    Parameters
    ----------
    velocity : ndarray, float32, ``[H, W]``
        [mm/yr]; NaN for no data.
    valid : ndarray, bool, ``[H, W]``
        Usable pixels.
    sigma : float
        Noise of the whole map [mm/yr].

    Returns
    -------
    ndarray, float32, ``[⌈H/3⌉, ⌈W/3⌉]``
        |block mean - mean of the surroundings| / σ, both over usable pixels; 0 for blocks without any.
    """
    known = valid & np.isfinite(velocity)
    count = _block_sums(known.astype(np.float32))
    total = _block_sums(np.where(known, velocity, np.float32(0.0)))
    around = _around(total) / np.maximum(_around(count), np.float32(1e-3))
    contrast = np.abs(total / np.maximum(count, np.float32(1.0)) - around)
    contrast[count == 0] = 0
    return (contrast / max(sigma, SIGMA_FLOOR)).astype(np.float32)


def largest_in(contrast: NDArray[np.float32], window: Window) -> float:
    """The largest contrast of the blocks that a window touches.

    Parameters
    ----------
    contrast : ndarray, float32
        Of `block_contrast`.
    window : Window
        In pixels of the array that was given to `block_contrast`.

    Returns
    -------
    float
        [σ].
    """
    rows = slice(window.row // BLOCK_PX, -(-window.row_end // BLOCK_PX))
    cols = slice(window.col // BLOCK_PX, -(-window.col_end // BLOCK_PX))
    return float(contrast[rows, cols].max())


def _block_sums(values: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = values.shape
    padded = np.pad(values, ((0, -height % BLOCK_PX), (0, -width % BLOCK_PX)))
    rows, cols = padded.shape[0] // BLOCK_PX, padded.shape[1] // BLOCK_PX
    sums: NDArray[np.float32] = padded.reshape(rows, BLOCK_PX, cols, BLOCK_PX).sum(axis=(1, 3))
    return sums


def _around(sums: NDArray[np.float32]) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = ndimage.uniform_filter(sums, AROUND_BLOCKS, mode="constant")
    return mean

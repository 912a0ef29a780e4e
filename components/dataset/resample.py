"""Up-sampling by whole factors, so that small landslides have enough pixels for the network.

Pixels are areas: pixel ``i`` becomes pixels ``f·i … f·i + f - 1``, and the picture does not shift. NumPy
only: inference prepares its windows with the same function.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def upsample_nearest(array: NDArray[Any], factor: int) -> NDArray[Any]:
    """Repeat every pixel `factor` × `factor` times.

    Parameters
    ----------
    array : ndarray, ``[..., H, W]``
        Any dtype.
    factor : int
        ≥ 1.

    Returns
    -------
    ndarray, ``[..., factor·H, factor·W]``
        Same dtype.
    """
    if factor == 1:
        return array
    return np.repeat(np.repeat(array, factor, axis=-2), factor, axis=-1)


def upsample_bilinear(array: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Bilinear up-sampling that neither spreads nor eats missing data.

    Parameters
    ----------
    array : ndarray, float32, ``[H, W]``
        NaN for missing pixels.
    factor : int
        ≥ 1.

    Returns
    -------
    ndarray, float32, ``[factor·H, factor·W]``
        Interpolated between pixel centres, with weights of missing neighbours given to the others;
        NaN exactly where the pixel below is NaN. Beyond the outermost centres the edge value holds.
    """
    if factor == 1:
        return array
    known = np.isfinite(array)
    filled = np.where(known, array, 0.0).astype(np.float64)
    total = _along(_along(filled, factor, 0), factor, 1)
    weight = _along(_along(known.astype(np.float64), factor, 0), factor, 1)
    here = upsample_nearest(known, factor)
    out = np.full(here.shape, np.nan, np.float32)
    np.divide(total, weight, out=total, where=here)
    out[here] = total[here]
    return out


def _along(array: NDArray[np.float64], factor: int, axis: int) -> NDArray[np.float64]:
    n = array.shape[axis]
    position = np.clip((np.arange(n * factor) + 0.5) / factor - 0.5, 0.0, n - 1.0)
    low = np.minimum(position.astype(np.int64), max(n - 2, 0))
    high = np.minimum(low + 1, n - 1)
    share = (position - low).reshape([-1 if k == axis else 1 for k in range(array.ndim)])
    out: NDArray[np.float64] = array.take(low, axis) * (1.0 - share)
    out += array.take(high, axis) * share
    return out

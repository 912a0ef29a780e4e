"""Robust measures of scatter."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

#: Median absolute deviation → standard deviation of a normal distribution.
MAD_TO_SIGMA: Final = 1.4826


def mad_sigma(values: npt.ArrayLike) -> float:
    """Standard deviation estimated from the median absolute deviation about the median.

    Insensitive to landslides and unwrapping errors as long as they cover less than half of the values.

    Parameters
    ----------
    values : array_like
        Any shape and unit; NaN and infinite values are left out.

    Returns
    -------
    float
        ``1.4826 · median |x − median x|``, in the unit of the values; NaN where there is no finite value.
    """
    array: npt.NDArray[np.floating[Any]] = np.asarray(values, dtype=np.float64)
    finite = array[np.isfinite(array)]
    if finite.size == 0:
        return float("nan")
    return float(MAD_TO_SIGMA * np.median(np.abs(finite - np.median(finite))))

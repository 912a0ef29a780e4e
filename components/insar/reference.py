"""Referencing: InSAR measures differences, so the ground taken as stable has to be chosen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Reference(NamedTuple):
    """Displacement of the ground that is taken as stable.

    Parameters
    ----------
    value : float
        Median displacement of that ground [m, + toward], to be subtracted; NaN where there is none.
    n_pixels : int
        Number of pixels it rests on.
    threshold : float
        Coherence that these pixels reach; 0 where all finite pixels were taken.
    """

    value: float
    n_pixels: int
    threshold: float


def stable_median(
    displacement: npt.ArrayLike,
    coherence: npt.ArrayLike | None,
    threshold: float,
    *,
    min_pixels: int = 100,
    step: float = 0.1,
) -> Reference:
    """Median displacement of coherent ground.

    The threshold is lowered in steps until enough pixels reach it; at 0 all finite pixels count. The median
    stands still under landslides as long as they cover less than half of the ground.

    Parameters
    ----------
    displacement : array_like
        LOS displacement [m, + toward], any shape; NaN where missing.
    coherence : array_like or None
        Coherence in [0, 1], same shape; None: all finite pixels count.
    threshold : float
        Coherence to start from, in [0, 1].
    min_pixels : int
        Fewer pixels than this (or than 1 in 1000 of the finite ones) are too few.
    step : float
        By how much the threshold is lowered at a time, > 0.

    Returns
    -------
    Reference
        ``value`` is NaN where no pixel is finite.
    """
    if not step > 0:
        msg = f"step must be > 0; got {step}"
        raise ValueError(msg)
    d = np.asarray(displacement)
    finite = np.isfinite(d)
    n_finite = int(np.count_nonzero(finite))
    if n_finite == 0:
        return Reference(float("nan"), 0, 0.0)
    d = d[finite]
    if coherence is None:
        return Reference(float(np.median(d)), n_finite, 0.0)
    gamma = np.asarray(coherence)[finite]
    enough = max(min_pixels, n_finite // 1000)
    for i in range(1 + int(np.ceil(threshold / step))):
        level = round(max(threshold - i * step, 0.0), 9)
        # NaN coherence is never coherent.
        chosen = gamma >= level
        n = int(np.count_nonzero(chosen))
        if level > 0 and n >= enough:
            return Reference(float(np.median(d[chosen])), n, float(level))
    return Reference(float(np.median(d)), n_finite, 0.0)

"""The baseline that a model must beat: threshold the velocity, cluster what is left.

The rule of deformation mapping since Barra et al. (2017): ground is active where its velocity leaves
the noise of the map by k standard deviations; neighbouring active pixels are one object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from components.evaluation.footprints import Footprint

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EIGHT = np.ones((3, 3), dtype=np.int8)


def threshold_clusters(
    velocity: NDArray[np.float32],
    valid: NDArray[np.bool_],
    *,
    k: float = 2.0,
    min_pixels: int = 12,
) -> list[Footprint]:
    """Clusters of pixels that move faster than the noise.

    Parameters
    ----------
    velocity : ndarray of float, shape (H, W)
        Line-of-sight velocity [mm/yr].
    valid : ndarray of bool, shape (H, W)
        Pixels with a measurement; NaN pixels are left out in any case.
    k : float
        Threshold of ``|v − median|`` in robust standard deviations (1.4826·MAD) of the map, > 0.
    min_pixels : int
        Smallest cluster (8-connected).

    Returns
    -------
    list of Footprint
        Score = mean ``|v − median|/σ`` of the cluster; in row-major order. Empty where nothing is
        valid or the map has no spread.
    """
    usable = valid & np.isfinite(velocity)
    values = velocity[usable].astype(np.float64)
    if values.size == 0:
        return []
    median = float(np.median(values))
    sigma = 1.4826 * float(np.median(np.abs(values - median)))
    if sigma == 0.0:
        return []
    with np.errstate(invalid="ignore"):
        deviation = np.where(usable, np.abs(velocity - median) / sigma, 0.0)
    labels, n = ndimage.label(deviation > k, structure=_EIGHT)
    sizes = np.bincount(labels.ravel(), minlength=n + 1)
    out = []
    for i, place in enumerate(ndimage.find_objects(labels), start=1):
        if place is None or sizes[i] < min_pixels:
            continue
        mask = labels[place] == i
        score = float(deviation[place][mask].mean())
        out.append(Footprint(place[0].start, place[1].start, mask, score))
    return out

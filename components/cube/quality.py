"""Which pixels of a product can be used, why the others cannot, and what must be refused outright."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from components.errors import InputError

#: Why a pixel is not valid, in the order of the question; each pixel counts for the first that holds.
REASONS: Final = ("nodata", "product_mask", "low_coherence", "layover_shadow")

#: Rounding that a coherence may be off [0, 1] by; more is another unit.
COHERENCE_SLACK: Final = 1e-3


class Validity(NamedTuple):
    """Usable pixels and the count of every reason against the others.

    Parameters
    ----------
    valid : ndarray of bool
        Pixel holds a usable displacement.
    counts : dict
        ``total``, one entry for each of `REASONS`, ``valid``; the reasons and ``valid`` sum to ``total``.
    """

    valid: npt.NDArray[np.bool_]
    counts: dict[str, int]


def validity(
    displacement: npt.NDArray[np.floating[Any]],
    coherence: npt.NDArray[np.floating[Any]] | None,
    product_mask: npt.NDArray[np.bool_] | None,
    layover_shadow: npt.NDArray[np.bool_],
    coherence_min: float,
) -> Validity:
    """Usable pixels: finite, accepted by the product, coherent enough, neither in layover nor in shadow.

    Parameters
    ----------
    displacement : ndarray
        Any unit; NaN where missing.
    coherence : ndarray or None
        In [0, 1]; a pixel without coherence is not coherent. None where the product has none at all: then
        coherence is not asked.
    product_mask : ndarray of bool or None
        The product's own mask, True where good.
    layover_shadow : ndarray of bool
        True in layover or shadow.
    coherence_min : float
        Smallest coherence of a usable pixel.

    Returns
    -------
    Validity
    """
    open_pixels = np.ones(displacement.shape, dtype=bool)
    counts = {"total": int(displacement.size)}
    # NaN >= threshold is False, as wanted.
    passes: dict[str, npt.NDArray[np.bool_] | None] = {
        "nodata": np.isfinite(displacement),
        "product_mask": product_mask,
        "low_coherence": None if coherence is None else coherence >= coherence_min,
        "layover_shadow": ~layover_shadow,
    }
    for reason in REASONS:
        good = passes[reason]
        if good is None:
            counts[reason] = 0
            continue
        counts[reason] = int(np.count_nonzero(open_pixels & ~good))
        open_pixels &= good
    counts["valid"] = int(np.count_nonzero(open_pixels))
    return Validity(open_pixels, counts)


def refuse_infinite(values: npt.NDArray[np.floating[Any]], layer: str, path: object) -> None:
    """Refuse infinite values: they are neither data nor nodata, and resampling would spread them.

    Parameters
    ----------
    values : ndarray
        One block of a layer.
    layer : str
        Its name, for the message.
    path : path-like
        The product, for the message.

    Raises
    ------
    InputError
        SW-109 with the number of infinite pixels.
    """
    bad = int(np.count_nonzero(np.isinf(values)))
    if bad:
        raise InputError("SW-109", f"{bad} infinite pixel(s) in `{layer}`", path=str(path))


def refuse_coherence_out_of_range(values: npt.NDArray[np.floating[Any]], path: object) -> None:
    """Refuse coherence that is not a fraction.

    Parameters
    ----------
    values : ndarray
        One block; NaN where missing.
    path : path-like
        The product, for the message.

    Raises
    ------
    InputError
        SW-110 with the range found.
    """
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return
    low, high = float(finite.min()), float(finite.max())
    if low < -COHERENCE_SLACK or high > 1.0 + COHERENCE_SLACK:
        raise InputError("SW-110", f"coherence spans {low:g} to {high:g}", path=str(path))

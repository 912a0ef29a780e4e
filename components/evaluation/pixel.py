"""Pixel metrics from the four counts, each with one definition.

The counts are taken on ground that could be observed; ignored pixels enter none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.errors import ProcessingError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Largest rounding difference allowed between Dice and 2·IoU/(1+IoU) of one set of counts.
IDENTITY_TOLERANCE = 1e-9


@dataclass(frozen=True)
class PixelCounts:
    """Pixels by reference and prediction; counts of disjoint ground add up.

    Parameters
    ----------
    tp, fp, fn, tn : int
        True positive, false positive, false negative, true negative pixels.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    def __add__(self, other: PixelCounts) -> PixelCounts:
        return PixelCounts(
            self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn
        )

    @property
    def total(self) -> int:
        """Pixels compared."""
        return self.tp + self.fp + self.fn + self.tn


def ratio(numerator: float, denominator: float) -> float | None:
    """Quotient, or None where it is undefined.

    Parameters
    ----------
    numerator, denominator : float
        Any numbers.

    Returns
    -------
    float or None
        None where the denominator is 0: a metric without cases is unknown, neither 0 nor 1.
    """
    return numerator / denominator if denominator else None


def count_pixels(
    predicted: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    ignore: NDArray[np.bool_] | None = None,
) -> PixelCounts:
    """Compare two masks of the same ground.

    Parameters
    ----------
    predicted, reference : ndarray of bool
        Same shape.
    ignore : ndarray of bool, optional
        True where the reference is unknown or the ground unobservable.

    Returns
    -------
    PixelCounts

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if predicted.shape != reference.shape or (
        ignore is not None and ignore.shape != reference.shape
    ):
        msg = f"masks of one ground must have one shape; got {predicted.shape}, {reference.shape}"
        raise ValueError(msg)
    if ignore is not None:
        keep = ~ignore
        predicted, reference = predicted[keep], reference[keep]
    tp = int((predicted & reference).sum())
    fp = int(predicted.sum()) - tp
    fn = int(reference.sum()) - tp
    return PixelCounts(tp, fp, fn, predicted.size - tp - fp - fn)


def pixel_metrics(counts: PixelCounts) -> dict[str, float | None]:
    """Metrics of one set of counts.

    Parameters
    ----------
    counts : PixelCounts
        The four counts.

    Returns
    -------
    dict
        ``iou_fg`` = TP/(TP+FP+FN), ``dice`` = F1 = 2TP/(2TP+FP+FN), ``precision`` = TP/(TP+FP),
        ``recall`` = TP/(TP+FN), ``accuracy_px`` = (TP+TN)/all, ``miou_2class`` = mean of the IoU of
        landslide and of background. None where undefined.

    Raises
    ------
    ProcessingError
        SW-603 where Dice and IoU contradict each other.
    """
    tp, fp, fn, tn = counts.tp, counts.fp, counts.fn, counts.tn
    iou = ratio(tp, tp + fp + fn)
    dice = ratio(2 * tp, 2 * tp + fp + fn)
    check_identity(dice, iou)
    background = ratio(tn, tn + fp + fn)
    return {
        "iou_fg": iou,
        "dice": dice,
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "accuracy_px": ratio(tp + tn, counts.total),
        "miou_2class": None if iou is None or background is None else (iou + background) / 2,
    }


def check_identity(dice: float | None, iou: float | None) -> None:
    """Refuse a Dice and an IoU that cannot come from the same counts.

    Published tables have broken ``F1 = 2·IoU/(1+IoU)``; ours must not.

    Parameters
    ----------
    dice, iou : float or None
        In [0, 1]; None where undefined.

    Raises
    ------
    ProcessingError
        SW-603.
    """
    if dice is None and iou is None:
        return
    if dice is None or iou is None or abs(dice - 2 * iou / (1 + iou)) >= IDENTITY_TOLERANCE:
        raise ProcessingError("SW-603", f"dice {dice} and IoU {iou} are not of the same counts")

"""What methods and figures are called, for tables and pages; loads nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

#: Names of the baselines.
USUAL, TUNED = "threshold", "threshold-tuned"

#: Methods by what they are; networks given by name speak for themselves.
_LABELS: Final = {USUAL: "2σ threshold", TUNED: "tuned threshold"}

#: Figure → what it is and how many decimals it is shown with. docs/metrics.md says it at length.
FIGURES: Final[dict[str, tuple[str, int]]] = {
    "iou50.f1": ("object F1, IoU ≥ 0.5", 3),
    "iou50.precision": ("object precision, IoU ≥ 0.5", 3),
    "iou50.recall": ("object recall, IoU ≥ 0.5", 3),
    "iou50.pq": ("panoptic quality", 3),
    "iou50.mean_matched_iou": ("mean IoU of the matches", 3),
    "iou25.f1": ("object F1, IoU ≥ 0.25", 3),
    "iou25.precision": ("object precision, IoU ≥ 0.25", 3),
    "iou25.recall": ("object recall, IoU ≥ 0.25", 3),
    "iou75.f1": ("object F1, IoU ≥ 0.75", 3),
    "iou75.precision": ("object precision, IoU ≥ 0.75", 3),
    "iou75.recall": ("object recall, IoU ≥ 0.75", 3),
    "iou50.fp_per_1000km2": ("false alarms per 1,000 km²", 2),
    "coco.ap": ("COCO AP (IoU 0.50:0.95), all scores", 3),
    "coco.ap50": ("COCO AP50", 3),
    "coco.ap75": ("COCO AP75", 3),
    "coco.ap_small": ("COCO AP-small (< 32² px)", 3),
    "pixels.iou_fg": ("pixel IoU", 3),
    "pixels.dice": ("pixel F1", 3),
    "pixels.precision": ("pixel precision", 3),
    "pixels.recall": ("pixel recall", 3),
    "boundary.f1_1px": ("boundary F1, 1 px", 3),
    "boundary.f1_2px": ("boundary F1, 2 px", 3),
    "area.bias": ("area bias of the matches", 3),
    "ece.before": ("ECE of the raw score", 3),
    "ece.after": ("ECE of the calibrated score", 3),
}


def method_label(name: str) -> str:
    """A method's name for people.

    Parameters
    ----------
    name : str
        Key of ``methods``.

    Returns
    -------
    str
    """
    return _LABELS.get(name, name)


def model_of(metrics: Mapping[str, Any]) -> str:
    """Which of the methods is the model that is measured.

    Parameters
    ----------
    metrics : mapping
        Of `components.evaluation.accuracy.measure`.

    Returns
    -------
    str
        Key of ``methods``.
    """
    name: str = metrics["settings"]["methods"][0]
    return name

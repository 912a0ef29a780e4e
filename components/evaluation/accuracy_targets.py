"""The targets of the released weights, and whether they are met."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from components.evaluation.experiments import cell, table
from components.evaluation.labels import FIGURES, USUAL, model_of

#: Split, figure, label, whether more is better, target.
TARGETS: Final = (
    ("test", "iou50.f1", "object F1 at IoU 0.5", True, 0.85),
    ("test", "iou50.mean_matched_iou", "mean IoU of the matches", True, 0.78),
    ("test", "pixels.iou_fg", "pixel IoU", True, 0.75),
    ("test", "iou50.fp_per_1000km2", "false alarms per 1,000 km²", False, 2.0),
    ("null", "iou50.fp_per_1000km2", "the same without landslides", False, 1.0),
)

#: Method, label, lead in object F1 that is aimed at.
LEADS: Final = (
    (USUAL, "lead over the 2σ threshold", 0.15),
    ("unet", "lead over U-Net and components", 0.05),
    ("plain-small", "lead over the plain Mask R-CNN", 0.02),
)


def _verdict(value: float, target: float, more: bool) -> str:
    short = target - value if more else value - target
    return "met" if short <= 0 else f"missed by {cell(float(short))}"


def targets_section(metrics: Mapping[str, Any]) -> list[str]:
    """What was aimed at, what was measured, and by how much it is missed.

    Parameters
    ----------
    metrics : mapping
        Of `components.evaluation.accuracy.measure`.

    Returns
    -------
    list of str
        Paragraphs of Markdown; empty where nothing with a target was measured.
    """
    model = model_of(metrics)
    rows = []
    for split, name, text, more, target in TARGETS:
        if split not in metrics["splits"]:
            continue
        figure = metrics["splits"][split]["methods"][model]["figures"][name]
        sign = "≥" if more else "≤"
        got = "–" if figure["value"] is None else _verdict(figure["value"], target, more)
        rows.append([text, f"{sign} {target:g}", cell(figure, FIGURES[name][1]), got])
    differences = metrics["splits"].get("test", {}).get("differences", {})
    for name, text, target in LEADS:
        if name in differences:
            figure = differences[name]["iou50.f1"]
            got = "–" if figure["value"] is None else _verdict(figure["value"], target, True)
            rows.append([f"{text}, F1", f"≥ {target:g}", cell(figure), got])
    if not rows:
        return []
    return ["## Against the targets", table(["", "target", "measured", ""], rows)]

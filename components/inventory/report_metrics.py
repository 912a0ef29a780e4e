"""Model and baseline side by side, for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from components.evaluation.objects import SIZE_BINS
from components.inventory.plain import number

if TYPE_CHECKING:
    pass

#: Metric in the report: label, path in metrics.json, how it is shown, whether more is better.
_METRICS: Final = (
    ("Objects · F1", ("objects", "f1"), "percent", True),
    ("Objects · precision", ("objects", "precision"), "percent", True),
    ("Objects · recall", ("objects", "recall"), "percent", True),
    ("Objects · mean IoU of matches", ("objects", "mean_matched_iou"), "percent", True),
    ("Objects · panoptic quality", ("objects", "pq"), "percent", True),
    ("Objects · false alarms per 1000 km²", ("objects", "fp_per_1000km2"), "number", False),
    ("Objects · F1 from IoU 0.25", ("objects_iou25", "f1"), "percent", True),
    ("Objects · F1 by centroid", ("objects_centroid", "f1"), "percent", True),
    ("COCO AP50, all scores", ("coco", "ap50"), "percent", True),
    ("COCO AP, all scores", ("coco", "ap"), "percent", True),
    ("Pixels · IoU", ("pixels", "iou_fg"), "percent", True),
    ("Pixels · F1 (Dice)", ("pixels", "dice"), "percent", True),
    ("Pixels · precision", ("pixels", "precision"), "percent", True),
    ("Pixels · recall", ("pixels", "recall"), "percent", True),
    ("Pixels · mean IoU of both classes", ("pixels", "miou_2class"), "percent", True),
    ("Pixels · accuracy", ("pixels", "accuracy_px"), "percent", True),
)


def shown(value: float | None, kind: str) -> str:
    """A figure for people.

    Parameters
    ----------
    value : float or None
        The figure.
    kind : {"percent", "number"}
        How it is shown.

    Returns
    -------
    str
        A dash where there is none.
    """
    if value is None:
        return "–"
    return f"{number(100 * value, 1)} %" if kind == "percent" else number(value, 1)


def metric_rows(metrics: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Every metric of both, what it means, and which is better.

    Parameters
    ----------
    metrics : mapping or None
        Content of ``metrics.json``.

    Returns
    -------
    list of dict
        ``label``, ``definition``, ``model``, ``baseline``, ``better``; empty without metrics.
    """
    if metrics is None:
        return []
    out = []
    for label, (group, name), kind, more in _METRICS:
        model, baseline = (
            metrics[m]["pooled"].get(group, {}).get(name) for m in ("model", "baseline")
        )
        better = ""
        if model is not None and baseline is not None and model != baseline:
            better = "model" if (model > baseline) is more else "baseline"
        key = f"{group}.{name}"
        out.append(
            {
                "label": label,
                "definition": metrics["definitions"].get(
                    key,
                    metrics["definitions"].get(
                        group, metrics["definitions"].get(f"objects.{name}", "")
                    ),
                ),
                "model": shown(model, kind),
                "baseline": shown(baseline, kind),
                "better": better,
            }
        )
    return out


def size_rows(metrics: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Precision, recall and F1 of both by size of the landslide.

    Parameters
    ----------
    metrics : mapping or None
        Content of ``metrics.json``.

    Returns
    -------
    list of dict
        ``name``, ``n``, ``model``, ``baseline``; empty without metrics.
    """
    if metrics is None:
        return []
    out = []
    for name in SIZE_BINS:  # JSON keeps no order
        model, base = (metrics[m]["pooled"]["sizes"][name] for m in ("model", "baseline"))
        out.append(
            {
                "name": name,
                "n": model["tp"] + model["fn"],
                "model": [shown(model[k], "percent") for k in ("precision", "recall", "f1")],
                "baseline": [shown(base[k], "percent") for k in ("precision", "recall", "f1")],
            }
        )
    return out


def precision_recall(metrics: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Points of the precision–recall drawing in a square of 100 units, y downward.

    Parameters
    ----------
    metrics : mapping or None
        Content of ``metrics.json``.

    Returns
    -------
    dict or None
        By method a polyline as SVG has it, and ``mark``, the operating point of the model.
    """
    if metrics is None:
        return None
    lines = {}
    for method in ("model", "baseline"):
        points = [p for p in metrics[method]["pooled"]["curve"] if p["recall"] is not None]
        lines[method] = " ".join(
            f"{100 * p['recall']:.1f},{100 - 100 * p['precision']:.1f}" for p in points
        )
    objects = metrics["model"]["pooled"]["objects"]
    mark = None
    if objects["recall"] is not None and objects["precision"] is not None:
        mark = {
            "x": round(100 * objects["recall"], 1),
            "y": round(100 - 100 * objects["precision"], 1),
        }
    return {**lines, "mark": mark}

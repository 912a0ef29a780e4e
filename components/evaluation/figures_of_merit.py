"""From `Scores` to figures with intervals: every figure on the sample and on each bootstrap draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from components.evaluation.calibrate import expected_calibration_error, reliability
from components.evaluation.coco_ap import average_precision
from components.evaluation.intervals import interval
from components.evaluation.objects import (
    IGNORED,
    SIZE_BINS,
    UNMATCHED,
    ObjectCounts,
    object_metrics,
)
from components.evaluation.pixel import PixelCounts, pixel_metrics
from components.evaluation.scores import TOLERANCES, Scores, coco_by_block

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Bool = NDArray[np.bool_]

#: Rules of the headline table.
HEADLINE_RULES: Final = ("iou25", "iou50", "iou75")

_OBJECT_FIGURES: Final = (
    "precision", "recall", "f1", "pq", "mean_matched_iou", "fp_per_1000km2",
)  # fmt: skip
_PIXEL_FIGURES: Final = ("iou_fg", "dice", "precision", "recall")

#: Edges of the classes of references: fact → (unit, edges).
CLASSES: Final[dict[str, tuple[str, tuple[float, ...]]]] = {
    "snr": ("|v|/σ", (2.0, 3.0, 5.0, 10.0, np.inf)),
    "rate": ("|LOS| rate [mm/yr]", (0.0, 10.0, 20.0, 40.0, 80.0, np.inf)),
    "coherence": ("coherence", (0.0, 0.5, 0.6, 0.7, 0.8, np.inf)),
}

#: Facts whose values are names.
NAMES: Final = {"shape": "shape", "motion": "motion"}

#: Other thresholds of a score, and the figures that are told of them.
THRESHOLDS: Final = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
THRESHOLD_FIGURES: Final = ("precision", "recall", "f1", "fp_per_1000km2")

#: Edges of the completeness table: pixels of the footprint, |LOS| rate [mm/yr].
SIZE_EDGES: Final = (0, 25, 50, 100, 200, 400, 10**9)
RATE_EDGES: Final = (0.0, 5.0, 10.0, 20.0, 40.0, 80.0, np.inf)


def object_counts(
    s: Scores, rule: str, wanted: Bool | None = None, alarms: Bool | None = None
) -> Float:
    """Object counts by block at the operating threshold.

    Parameters
    ----------
    s : Scores
        Of one method.
    rule : str
        Of `components.evaluation.scores.RULES`.
    wanted : ndarray of bool, shape (references,), optional
        References that count; all by default.
    alarms : ndarray of bool, shape (detections,), optional
        Detections whose false alarms count; all by default.

    Returns
    -------
    ndarray of float, shape (blocks, 5)
        TP, FP, FN, ignored detections, sum of the IoU of the matches.
    """
    d, r, n = s.detections, s.references, len(s.km2)
    counted = r.counted[rule] if wanted is None else r.counted[rule] & wanted
    operating = d.score >= s.score_min
    matched = d.reference[rule]
    hits = operating & (matched >= 0)
    hits[hits] = counted[matched[hits]]
    found = np.zeros(len(r.block), bool)
    found[matched[hits]] = True
    at = r.block[matched[hits]]
    may = operating if alarms is None else operating & alarms
    return np.stack(
        [
            np.bincount(at, minlength=n),
            np.bincount(d.block[may & (matched == UNMATCHED)], minlength=n),
            np.bincount(r.block[counted & ~found], minlength=n),
            np.bincount(d.block[may & (matched == IGNORED)], minlength=n),
            np.bincount(at, d.iou[rule][hits], minlength=n),
        ],
        axis=1,
    ).astype(float)


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> Float:
    return np.array([np.nan if r[name] is None else r[name] for r in rows], dtype=np.float64)


def _object_rows(sums: Float, km2: Float) -> list[Mapping[str, Any]]:
    return [
        object_metrics(ObjectCounts(*row), area)
        for row, area in zip(sums.tolist(), km2.tolist(), strict=True)
    ]


def threshold_rows(s: Scores, weights: Float) -> list[dict[str, Any]]:
    """What other thresholds of the score would give.

    Parameters
    ----------
    s : Scores
        Of one method with scores in [0, 1].
    weights : ndarray of float, shape (1 + draws, blocks)
        Of `components.evaluation.intervals.draw_weights`.

    Returns
    -------
    list of dict
        By rising threshold, `THRESHOLDS` and the operating one: ``score_min``, ``operating``, and with
        intervals ``precision``, ``recall``, ``f1`` and ``fp_per_1000km2`` at an IoU of 0.5.
    """
    km2 = weights @ s.km2
    out = []
    for score_min in sorted({*THRESHOLDS, s.score_min}):
        at = replace(s, score_min=score_min)
        rows = _object_rows(weights @ object_counts(at, "iou50"), km2)
        figures = {n: interval(_column(rows, n)) for n in THRESHOLD_FIGURES}
        out.append({"score_min": score_min, "operating": score_min == s.score_min, **figures})
    return out


def statistics(s: Scores, weights: Float, raw: Callable[[Float], Float] | None) -> dict[str, Float]:
    """Every headline figure on the sample and on each draw.

    Parameters
    ----------
    s : Scores
        Of one method.
    weights : ndarray of float, shape (1 + draws, blocks)
        Of `components.evaluation.intervals.draw_weights`.
    raw : callable or None
        From calibrated to raw scores; None where the scores are no probabilities and have no
        calibration error.

    Returns
    -------
    dict of str to ndarray, shape (1 + draws,)
        ``iou50.f1`` and so on; see docs/metrics.md.
    """
    out: dict[str, Float] = {}
    km2 = weights @ s.km2
    for rule in HEADLINE_RULES:
        rows = _object_rows(weights @ object_counts(s, rule), km2)
        for name in _OBJECT_FIGURES:
            out[f"{rule}.{name}"] = _column(rows, name)
    pixels = [pixel_metrics(PixelCounts(*row)) for row in (weights @ s.pixels).tolist()]
    for name in _PIXEL_FIGURES:
        out[f"pixels.{name}"] = _column(pixels, name)
    for tolerance in TOLERANCES:
        found, found_near, wanted, wanted_near = (weights @ s.boundary[tolerance]).T
        with np.errstate(invalid="ignore", divide="ignore"):
            p, r = found_near / found, wanted_near / wanted
            out[f"boundary.f1_{tolerance}px"] = 2 * p * r / (p + r)
    out["area.bias"] = _area_bias(s, weights)
    coco, blocks = coco_by_block(s)
    groups = weights[:, blocks]
    ap = average_precision(coco, groups)
    out |= {"coco.ap": ap.mean(axis=1), "coco.ap50": ap[:, 0], "coco.ap75": ap[:, 5]}
    out["coco.ap_small"] = average_precision(coco, groups, "small").mean(axis=1)
    if raw is not None:
        scores, hits, block = scored(s)
        for name, values in (("ece.before", raw(scores)), ("ece.after", scores)):
            out[name] = np.array(
                [expected_calibration_error(values, hits, w[block]) for w in weights]
            )
    return out


def scored(s: Scores) -> tuple[Float, Bool, NDArray[np.int64]]:
    """Detections of all scores that are hit or false alarm at IoU 0.5.

    Parameters
    ----------
    s : Scores
        Of one method.

    Returns
    -------
    scores, hits, blocks : ndarray, shape (n,)
    """
    matched = s.detections.reference["iou50"]
    counts = matched != IGNORED
    return s.detections.score[counts], matched[counts] >= 0, s.detections.block[counts]


def _area_bias(s: Scores, weights: Float) -> Float:
    d, r = s.detections, s.references
    matched = d.reference["iou50"]
    hits = (matched >= 0) & (d.score >= s.score_min)
    at, n = r.block[matched[hits]], len(s.km2)
    found = weights @ np.bincount(at, d.n_pixels[hits], minlength=n)
    wanted = weights @ np.bincount(at, r.facts["n_pixels"][matched[hits]], minlength=n)
    with np.errstate(invalid="ignore", divide="ignore"):
        bias: Float = found / wanted - 1
    return bias


def counts(s: Scores) -> dict[str, int | float]:
    """Numbers behind the figures.

    Parameters
    ----------
    s : Scores
        Of one method.

    Returns
    -------
    dict
        ``references``, ``references_any_size``, ``detections`` (at the threshold), ``ignored``
        (of them), ``detections_all_scores``, ``below_min_pixels``, ``blocks``, ``km2``.
    """
    total = object_counts(s, "iou50").sum(axis=0)
    return {
        "references": int(s.references.counted["iou50"].sum()),
        "references_any_size": int(s.references.counted["any"].sum()),
        "detections": int((s.detections.score >= s.score_min).sum()),
        "ignored": int(total[3]),
        "detections_all_scores": len(s.detections.score),
        "below_min_pixels": s.below_min_pixels,
        "blocks": len(s.km2),
        "km2": float(s.km2.sum()),
    }


def strata(s: Scores, weights: Float) -> dict[str, list[dict[str, Any]]]:
    """Figures by class of the references.

    Parameters
    ----------
    s, weights
        As in `statistics`.

    Returns
    -------
    dict of str to list
        ``size``: bins of `SIZE_BINS`, references of every size, with false alarms by their own
        size: ``n``, ``precision``, ``recall``, ``f1``, ``mean_matched_iou``. The keys of `CLASSES`
        and `NAMES`: headline references, ``n``, ``recall``, ``recall_iou25``,
        ``mean_matched_iou``; false alarms have no such classes.
    """
    km2 = weights @ s.km2
    facts = s.references.facts
    lows = [*SIZE_BINS.values(), 10**12]
    out: dict[str, list[dict[str, Any]]] = {"size": []}
    for name, low, high in zip(SIZE_BINS, lows, lows[1:], strict=False):
        wanted = (facts["n_pixels"] >= low) & (facts["n_pixels"] < high)
        alarms = (s.detections.n_pixels >= low) & (s.detections.n_pixels < high)
        rows = _object_rows(weights @ object_counts(s, "any", wanted, alarms), km2)
        figures = ("precision", "recall", "f1", "mean_matched_iou", "fp_per_1000km2")
        row: dict[str, Any] = {"class": name, "n": int(rows[0]["n_reference"])}
        out["size"].append(row | {k: interval(_column(rows, k)) for k in figures})
    for fact, (_, edges) in CLASSES.items():
        out[fact] = []
        for low_edge, high_edge in pairwise(edges):
            wanted = (facts[fact] >= low_edge) & (facts[fact] < high_edge)
            name = class_label(low_edge, high_edge)
            out[fact].append({"class": name, **_recall(s, weights, km2, wanted)})
    for fact in NAMES:
        names = np.unique(facts[fact][s.references.counted["iou50"]])
        out[fact] = [
            {"class": str(name), **_recall(s, weights, km2, facts[fact] == name)} for name in names
        ]
    return out


def class_label(low: float, high: float | None) -> str:
    """Name of a class by its edges.

    Parameters
    ----------
    low : float
        Lower edge; 0 is no bound.
    high : float or None
        Upper edge; None or infinite is no bound.

    Returns
    -------
    str
    """
    if high is None or np.isinf(high):
        return f"≥ {low:g}"
    return f"< {high:g}" if low == 0 else f"{low:g}–{high:g}"


def _recall(s: Scores, weights: Float, km2: Float, wanted: Bool) -> dict[str, Any]:
    none = np.zeros(len(s.detections.score), bool)
    strict = _object_rows(weights @ object_counts(s, "iou50", wanted, none), km2)
    loose = _object_rows(weights @ object_counts(s, "iou25", wanted, none), km2)
    return {
        "n": int(strict[0]["n_reference"]),
        "recall": interval(_column(strict, "recall")),
        "recall_iou25": interval(_column(loose, "recall")),
        "mean_matched_iou": interval(_column(strict, "mean_matched_iou")),
    }


def completeness(s: Scores, weights: Float) -> list[dict[str, Any]]:
    """Probability of detection by size and rate, of all landslides on observable ground.

    Parameters
    ----------
    s, weights
        As in `statistics`.

    Returns
    -------
    list of dict
        One a cell: ``size`` and ``rate`` as [low, high) (high None: no bound), ``n`` landslides,
        ``found`` of them, ``probability`` as `interval` gives it.
    """
    c = s.completeness
    seen = c.score >= s.score_min
    out = []
    for low, high in pairwise(SIZE_EDGES):
        for slow, fast in pairwise(RATE_EDGES):
            here = (c.n_pixels >= low) & (c.n_pixels < high) & (c.rate >= slow) & (c.rate < fast)
            n = weights @ np.bincount(c.block[here], minlength=len(s.km2))
            k = weights @ np.bincount(c.block[here & seen], minlength=len(s.km2))
            with np.errstate(invalid="ignore"):
                probability = interval(k / n)
            out.append(
                {
                    "size": [low, high if high < 10**9 else None],
                    "rate": [slow, float(fast) if np.isfinite(fast) else None],
                    "n": int(n[0]),
                    "found": int(k[0]),
                    "probability": probability,
                }
            )
    return out


def reliability_rows(
    s: Scores, raw: Callable[[Float], Float]
) -> dict[str, list[dict[str, float | int]]]:
    """Reliability tables before and after calibration.

    Parameters
    ----------
    s : Scores
        Of one method.
    raw : callable
        From calibrated to raw scores.

    Returns
    -------
    dict
        ``before`` and ``after``, as `components.evaluation.calibrate.reliability` gives them.
    """
    scores, hits, _ = scored(s)
    return {"before": reliability(raw(scores), hits), "after": reliability(scores, hits)}

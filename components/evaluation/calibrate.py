"""Fitting the calibration of the score, and how far a score is from being a probability."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

from components.errors import WorkspaceError
from components.inference.calibration import Calibration, apply_calibration, checked_calibration
from components.inference.predict import read_card
from components.workspace import MANIFEST, coded_os_errors
from models.weights import card_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]

#: Bins of equal width of the reliability table and of the ECE.
BINS: Final = 10

#: Folds of whole blocks in the choice between the methods.
FOLDS: Final = 5

#: Detections that a knot of the isotonic fit stands for at least.
_KNOT: Final = 20

#: Calibrated probabilities keep this distance from certainty: no finite sample proves it.
_CERTAIN: Final = 1e-3

#: Bounds of the temperature: hits that scores part cleanly would drive it to 0, and all scores to
#: certainty.
_TEMPERATURES: Final = (0.25, 8.0)


class Fit(NamedTuple):
    """A calibration and the reason for choosing it.

    Parameters
    ----------
    calibration : mapping
        For the card: ``method`` and its parameters.
    ece : dict of str to float
        Expected calibration error on held-out blocks: ``none`` (raw scores) and by method.
    n : int
        Detections used.
    """

    calibration: Calibration
    ece: dict[str, float]
    n: int


def expected_calibration_error(
    scores: Float, hits: NDArray[np.bool_], weights: Float | None = None
) -> float:
    """ECE = Σ_b n_b/n · |mean score − share of hits| over `BINS` bins of equal width (Guo et al. 2017).

    Parameters
    ----------
    scores : ndarray of float, shape (n,)
        In [0, 1].
    hits : ndarray of bool, shape (n,)
        Whether the detection matched a reference.
    weights : ndarray of float, shape (n,), optional
        How often each counts; once by default.

    Returns
    -------
    float
        In [0, 1]; NaN without detections.
    """
    w = np.ones(len(scores)) if weights is None else weights
    total = w.sum()
    if not total:
        return float("nan")
    b = _bin(scores)
    gap = np.bincount(b, w * (scores - hits), minlength=BINS)
    return float(np.abs(gap).sum() / total)


def reliability(scores: Float, hits: NDArray[np.bool_]) -> list[dict[str, float | int]]:
    """Mean score and share of hits by bin of the score.

    Parameters
    ----------
    scores, hits
        As in `expected_calibration_error`.

    Returns
    -------
    list of dict
        ``low``, ``high``, ``n``, ``score``, ``hits``; empty bins are left out.
    """
    b = _bin(scores)
    out: list[dict[str, float | int]] = []
    for k in range(BINS):
        here = b == k
        if here.any():
            out.append(
                {
                    "low": k / BINS,
                    "high": (k + 1) / BINS,
                    "n": int(here.sum()),
                    "score": float(scores[here].mean()),
                    "hits": float(hits[here].mean()),
                }
            )
    return out


def _bin(scores: Float) -> NDArray[np.int64]:
    return np.clip((scores * BINS).astype(np.int64), 0, BINS - 1)


def fit_temperature(scores: Float, hits: NDArray[np.bool_]) -> dict[str, Any]:
    """Temperature of least negative log-likelihood.

    Parameters
    ----------
    scores, hits
        As in `expected_calibration_error`.

    Returns
    -------
    dict
        For the card. Temperature 1 where there are no hits or nothing else: the likelihood then has
        no minimum.
    """
    temperature = 1.0
    if 0 < hits.sum() < len(hits):

        def loss(log_t: float) -> float:
            trial = {"method": "temperature", "temperature": float(np.exp(log_t))}
            p = np.clip(apply_calibration(trial, scores), 1e-12, 1 - 1e-12)
            return float(-np.where(hits, np.log(p), np.log1p(-p)).mean())

        low, high = np.log(_TEMPERATURES)
        found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
        temperature = float(np.exp(found.x))
    return {"method": "temperature", "temperature": round(temperature, 4)}


def fit_isotonic(scores: Float, hits: NDArray[np.bool_]) -> dict[str, Any]:
    """Rising curve of least squares by pooling adjacent violators, as knots joined by lines.

    Parameters
    ----------
    scores, hits
        As in `expected_calibration_error`.

    Returns
    -------
    dict
        For the card: ``scores`` and ``probabilities``, both strictly rising from 0 to 1. Without
        detections the straight line.
    """
    order = np.argsort(scores, kind="stable")
    parts = np.array_split(order, max(1, len(order) // _KNOT)) if len(order) else []
    # (mean score, share of hits, detections); a violator joins the knot before it.
    knots: list[tuple[float, float, int]] = []
    for part in parts:
        x, y, n = float(scores[part].mean()), float(hits[part].mean()), len(part)
        while knots and knots[-1][1] >= y:
            x0, y0, n0 = knots.pop()
            x, y, n = (x * n + x0 * n0) / (n + n0), (y * n + y0 * n0) / (n + n0), n + n0
        knots.append((x, y, n))
    xs, ys = [0.0], [0.0]
    for mean, share, _ in knots:
        x, p = round(mean, 6), round(min(max(share, _CERTAIN), 1 - _CERTAIN), 6)
        if xs[-1] < x < 1 and p > ys[-1]:
            xs.append(x)
            ys.append(p)
    return {"method": "isotonic", "scores": [*xs, 1.0], "probabilities": [*ys, 1.0]}


_METHODS: Final[dict[str, Callable[[Float, NDArray[np.bool_]], dict[str, Any]]]] = {
    "temperature": fit_temperature,
    "isotonic": fit_isotonic,
}


def fit_calibration(
    scores: Float, hits: NDArray[np.bool_], blocks: NDArray[np.int64], seed: int = 0
) -> Fit:
    """Fit both methods and choose by the ECE on blocks that the fit did not see.

    Parameters
    ----------
    scores : ndarray of float, shape (n,)
        Raw scores in [0, 1].
    hits : ndarray of bool, shape (n,)
        Whether the detection matched a reference.
    blocks : ndarray of int, shape (n,)
        Block of ground of each detection: a block is in one fold, whole.
    seed : int
        Of the folds.

    Returns
    -------
    Fit
        Fitted on everything, by the method of the smaller held-out error; temperature where equal.
    """
    names = np.unique(blocks)
    np.random.default_rng(seed).shuffle(names)
    fold = {int(b): i % FOLDS for i, b in enumerate(names)}
    folds = np.array([fold[int(b)] for b in blocks], dtype=np.int64)
    ece = {"none": expected_calibration_error(scores, hits)}
    for method, fit in _METHODS.items():
        held_out = scores.copy()
        for k in range(FOLDS):
            here = folds == k
            held_out[here] = apply_calibration(fit(scores[~here], hits[~here]), scores[here])
        ece[method] = expected_calibration_error(held_out, hits)
    best = min(_METHODS, key=lambda m: (np.nan_to_num(ece[m], nan=np.inf), m != "temperature"))
    return Fit(_METHODS[best](scores, hits), ece, len(scores))


def write_card(
    weights: Path, calibration: Mapping[str, Any] | None, score_threshold: float
) -> Path:
    """Put calibration and operating threshold into the card beside the weights.

    Parameters
    ----------
    weights : Path
        The ``.safetensors`` file.
    calibration : mapping or None
        As `checked_calibration` accepts it.
    score_threshold : float
        Of calibrated scores.

    Returns
    -------
    Path
        The card; it appears whole or not at all.

    Raises
    ------
    ModelError
        SW-401 where there is no card, or the calibration is none.
    WorkspaceError
        SW-201 where the weights belong to a workspace, whose files do not change, or the card is not
        writable.
    """
    if (weights.parent / MANIFEST).is_file():
        raise WorkspaceError(
            "SW-201",
            "these weights belong to a workspace, whose files do not change",
            path=weights,
            remedy="Copy weights and card to a folder of their own and calibrate the copy.",
        )
    card = {
        **read_card(weights), "calibration": calibration, "score_threshold": score_threshold,
    }  # fmt: skip
    checked_calibration(card, weights)
    path = card_path(weights)
    with coded_os_errors(path):
        part = path.with_name(path.name + ".part")
        text = json.dumps(card, indent=1, sort_keys=True, ensure_ascii=False)
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(path)
    return path

"""The calibrated score: from the network's score to the share of such detections that are landslides.

A card may hold ``calibration``, fitted on the validation split of the public benchmark
(`components.evaluation.calibrate`):

- ``{"method": "temperature", "temperature": T}``: σ(logit(s) / T), Guo et al. (2017), "On calibration
  of modern neural networks";
- ``{"method": "isotonic", "scores": […], "probabilities": […]}``: straight lines between knots, both
  strictly rising from 0 to 1; Zadrozny and Elkan (2002), with the steps joined by lines.

Both rise strictly, so that no ranking changes. The map is applied once, to stitched landslides;
``score_threshold`` of a calibrated card is a calibrated score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from components.errors import ModelError
from components.inference.instances import Instance

#: Scores nearer to 0 or 1 than this are taken for this near: their logit stays finite.
_EDGE: Final = 1e-12

Calibration = Mapping[str, Any]


def checked_calibration(card: Mapping[str, Any], weights: Path) -> Calibration | None:
    """The calibration of a card, refused where it is none.

    Parameters
    ----------
    card : mapping
        Model card.
    weights : Path
        Named in the message.

    Returns
    -------
    mapping or None
        None where the card holds no calibration: scores stay as they are.

    Raises
    ------
    ModelError
        SW-401 for an unknown method, a temperature that is not positive, or knots that do not rise
        strictly from 0 to 1.
    """
    found = card.get("calibration")
    if found is None:
        return None
    if not isinstance(found, Mapping) or not _is_sound(found):
        raise ModelError("SW-401", f"the card's calibration is not one: {found!r}", path=weights)
    return found


def _is_sound(calibration: Calibration) -> bool:
    try:
        if calibration["method"] == "temperature":
            return 0 < float(calibration["temperature"]) < np.inf
        if calibration["method"] == "isotonic":
            knots = [np.asarray(calibration[k], float) for k in ("scores", "probabilities")]
            rising = all(
                k.ndim == 1 and k[0] == 0 and k[-1] == 1 and bool((np.diff(k) > 0).all())
                for k in knots
            )
            return knots[0].shape == knots[1].shape and rising
    except (KeyError, TypeError, ValueError, IndexError):
        return False
    return False


def apply_calibration(calibration: Calibration | None, scores: ArrayLike) -> NDArray[np.float64]:
    """Calibrated scores.

    Parameters
    ----------
    calibration : mapping or None
        As `checked_calibration` returns it; None leaves the scores as they are.
    scores : array_like of float
        In [0, 1].

    Returns
    -------
    ndarray of float64
        Same shape, in [0, 1], in the same order.
    """
    s = np.asarray(scores, np.float64)
    if calibration is None:
        return s
    if calibration["method"] == "temperature":
        z = logit(np.clip(s, _EDGE, 1 - _EDGE)) / float(calibration["temperature"])
        return np.asarray(expit(z), np.float64)
    return np.asarray(np.interp(s, calibration["scores"], calibration["probabilities"]), np.float64)


def invert_calibration(calibration: Calibration | None, scores: ArrayLike) -> NDArray[np.float64]:
    """Scores as they were before `apply_calibration`.

    Parameters
    ----------
    calibration : mapping or None
        As applied.
    scores : array_like of float
        Calibrated scores, in [0, 1].

    Returns
    -------
    ndarray of float64
        Same shape, in [0, 1]; equal to the original up to rounding.
    """
    s = np.asarray(scores, np.float64)
    if calibration is None:
        return s
    if calibration["method"] == "temperature":
        z = logit(np.clip(s, _EDGE, 1 - _EDGE)) * float(calibration["temperature"])
        return np.asarray(expit(z), np.float64)
    return np.asarray(np.interp(s, calibration["probabilities"], calibration["scores"]), np.float64)


def calibrated(instances: Sequence[Instance], calibration: Calibration | None) -> list[Instance]:
    """Stitched landslides with calibrated scores.

    Parameters
    ----------
    instances : sequence of Instance
        With the scores of the stitcher.
    calibration : mapping or None
        As `checked_calibration` returns it.

    Returns
    -------
    list of Instance
        In the same order.
    """
    scores = apply_calibration(calibration, [i.score for i in instances])
    return [replace(i, score=float(s)) for i, s in zip(instances, scores, strict=True)]

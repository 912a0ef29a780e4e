"""Threshold and calibration of each method: the card's, or fixed on the maps of the split ``val``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from components.cube.read import CubeInfo, cube_info, list_cubes, read_layers
from components.evaluation import figures_of_merit as merit
from components.evaluation.baseline import threshold_clusters
from components.evaluation.calibrate import Fit, fit_calibration
from components.evaluation.footprints import Footprint
from components.evaluation.kept_maps import RegionMaps
from components.evaluation.labels import TUNED
from components.evaluation.scores import Scores, pool, score_simulated
from components.evaluation.simtruth import Truth, read_truth
from components.grid import Window
from components.inference.calibration import (
    Calibration,
    apply_calibration,
    checked_calibration,
)
from components.inference.instance_file import load_instances
from components.inference.predict import read_card
from components.training.selection import THRESHOLDS, Matches, best_operating_point
from components.workspace import Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Thresholds of the baseline [σ]: the usual one, and those among which validation chooses.
SIGMA: Final = 2.0

SIGMAS: Final = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)


#: Key of a card's calibration: how the operating threshold was chosen, for people.
OPERATING: Final = "operating"


@dataclass(frozen=True)
class Setting:
    """How a method is run.

    Parameters
    ----------
    score_min : float
        Operating threshold, of calibrated scores.
    sigma : float or None
        Threshold of a baseline [σ]; None for a network.
    calibration : mapping or None
        Applied to the raw scores.
    fit : Fit or None
        Where the calibration was fitted here.
    source : str
        Where threshold and calibration come from, for people.
    """

    score_min: float
    sigma: float | None = None
    calibration: Calibration | None = None
    fit: Fit | None = None
    source: str = ""


@dataclass(frozen=True, eq=False)
class Loaded:
    """What scoring needs of a region, read once.

    Parameters
    ----------
    region : RegionMaps
        Where it is.
    info : CubeInfo
        Its cube.
    truth : Truth
        Its landslides.
    valid : ndarray of bool [H, W]
        Ground that was measured.
    velocity : ndarray of float32 [H, W]
        LOS velocity [mm/yr].
    """

    region: RegionMaps
    info: CubeInfo
    truth: Truth
    valid: NDArray[np.bool_]
    velocity: NDArray[np.float32]


def load_region(region: RegionMaps) -> Loaded:
    """Read what scoring needs of a region.

    Parameters
    ----------
    region : RegionMaps
        Where it is.

    Returns
    -------
    Loaded
    """
    ws = Workspace(region.workspace)
    [cube] = list_cubes(ws)
    info = cube_info(cube)
    names = ("los_velocity", "valid", "coherence")
    layers = read_layers(ws, info.track, info.period, names, Window(0, 0, *info.shape))
    valid = layers["valid"].astype(bool)
    truth = read_truth(
        region.labels, region.truth, info.geobox, valid, layers["coherence"], info.days
    )
    return Loaded(region, info, truth, valid, layers["los_velocity"])


def score_region(loaded: Loaded, name: str, setting: Setting, min_pixels: int) -> Scores:
    """Compare the map of a method with the truth of a region.

    Parameters
    ----------
    loaded : Loaded
        The region.
    name : str
        The method.
    setting : Setting
        How it is run.
    min_pixels : int
        Minimum mapping unit [px].

    Returns
    -------
    Scores
    """
    if setting.sigma is not None:
        found = threshold_clusters(
            loaded.velocity, loaded.valid, k=setting.sigma, min_pixels=min_pixels
        )
    else:
        instances = load_instances(loaded.region.maps[name])
        scores = apply_calibration(setting.calibration, [i.score for i in instances])
        found = [
            Footprint(i.row, i.col, i.mask, float(s))
            for i, s in zip(instances, scores, strict=True)
        ]
    return score_simulated(
        found,
        loaded.truth,
        loaded.valid,
        loaded.info.pixel_size_m,
        score_min=setting.score_min,
        min_pixels=min_pixels,
    )


def settle(
    validation: Sequence[Loaded],
    name: str,
    weights: Path,
    *,
    refit: bool,
    min_pixels: int,
    alarms: float | None = None,
) -> Setting:
    """Threshold and calibration of a network: its card's, or fitted on the validation maps.

    Parameters
    ----------
    validation : sequence of Loaded
        Maps of the validation split.
    name : str
        The method.
    weights : Path
        Its card decides where it holds a calibration, unless `refit`.
    refit : bool
        Fit in any case.
    min_pixels : int
        Minimum mapping unit.
    alarms : float, optional
        Fit the threshold for at most so many false alarms per 1,000 km²; otherwise for the best F1.

    Returns
    -------
    Setting
    """
    card = read_card(weights)
    calibration = checked_calibration(card, weights)
    if calibration is not None and not refit and card.get("score_threshold") is not None:
        threshold = float(card["score_threshold"])
        return Setting(threshold, None, calibration, None, "the weights' card")
    raw = Setting(0.0)
    pooled = pool([score_region(m, name, raw, min_pixels) for m in validation])
    scores, hits, blocks = merit.scored(pooled)
    fit = fit_calibration(scores, hits, blocks)
    calibrated = apply_calibration(fit.calibration, scores)
    n = int(pooled.references.counted["iou50"].sum())
    threshold = best_operating_point(Matches(calibrated, hits, n)).score_threshold
    calibration = dict(fit.calibration) | {OPERATING: "best F1 on the split val"}
    if alarms is not None:
        threshold = _few_alarms(calibrated[~hits], float(pooled.km2.sum()), alarms)
        rule = f"at most {alarms:g} false alarms per 1,000 km² of the split val"
        calibration |= {OPERATING: rule}
    return Setting(threshold, None, calibration, fit, "the split val")


def _few_alarms(false: NDArray[np.float64], km2: float, alarms: float) -> float:
    """The least threshold, in ten-thousandths, that leaves so many false alarms per 1,000 km² or fewer."""
    allowed = int(alarms * km2 / 1000.0)
    if len(false) <= allowed:
        return float(THRESHOLDS[0])
    first_out = np.sort(false)[::-1][allowed]
    return float(min(max(np.floor(1e4 * first_out + 1.0) / 1e4, THRESHOLDS[0]), 1.0))


def tuned(validation: Sequence[Loaded], min_pixels: int) -> Setting:
    """The plain threshold of best object F1 on validation; the smaller where equal.

    Parameters
    ----------
    validation : sequence of Loaded
        Maps of the validation split.
    min_pixels : int
        Minimum mapping unit [px].

    Returns
    -------
    Setting
        With one of `SIGMAS`.
    """

    def f1(sigma: float) -> float:
        setting = Setting(0.0, sigma)
        pooled = pool([score_region(m, TUNED, setting, min_pixels) for m in validation])
        tp, fp, fn, *_ = merit.object_counts(pooled, "iou50").sum(axis=0)
        return float(2 * tp / max(2 * tp + fp + fn, 1))

    best = max(SIGMAS, key=lambda k: (f1(k), -k))
    return Setting(0.0, best, source="the split val")

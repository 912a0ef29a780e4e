"""The benchmark's figures: methods on the same maps, thresholds fixed on one split, reported on others.

Maps are kept with raw scores, so that a calibration is fitted and applied here without running a network
again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from components.cube.read import CubeInfo, cube_info, list_cubes, read_layers
from components.errors import ProcessingError
from components.evaluation import figures_of_merit as merit
from components.evaluation.baseline import threshold_clusters
from components.evaluation.bootstrap import BLOCK_M
from components.evaluation.calibrate import Fit, fit_calibration
from components.evaluation.footprints import Footprint
from components.evaluation.intervals import (
    COVERAGE,
    DRAWS,
    SEED,
    differences,
    draw_weights,
    interval,
)
from components.evaluation.scores import Scores, pool, score_simulated
from components.evaluation.simtruth import REFERENCE_PIXELS, Truth, read_truth
from components.grid import Window
from components.inference import plan as planning
from components.inference import run as inference
from components.inference import stitch as stitching
from components.inference.calibration import (
    Calibration,
    apply_calibration,
    checked_calibration,
    invert_calibration,
)
from components.inference.instance_file import load_instances, save_instances
from components.inference.predict import read_card
from components.progress import Progress, no_progress
from components.training.selection import Matches, best_operating_point
from components.workspace import Artefact, Workspace, read_artefact, stage_key, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.config import InferConfig

#: Raised when figures change for the same maps.
ALGORITHM: Final = "accuracy-1"

#: Thresholds of the baseline [σ]: the usual one, and those among which validation chooses.
SIGMA: Final = 2.0
SIGMAS: Final = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)

#: Names of the baselines.
USUAL, TUNED = "threshold", "threshold-tuned"

# What says where and how fast, and what is applied after the map is kept.
_NO_MATTER: Final = {"weights", "device", "threads", "batch_size"}
_AFTER: Final = {"calibration", "score_threshold"}


@dataclass(frozen=True)
class RegionMaps:
    """One region of the benchmark and the maps that networks made of it.

    Parameters
    ----------
    name, split : str
        Of `components.evaluation.simv1.Region`.
    workspace : Path
        Holds its cube.
    labels, truth : Path
        Of the simulator.
    maps : mapping of str to Path
        Method → ``instances.npz`` with raw scores.
    """

    name: str
    split: str
    workspace: Path
    labels: Path
    truth: Path
    maps: Mapping[str, Path]


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
class _Loaded:
    """What scoring needs of a region, read once."""

    region: RegionMaps
    info: CubeInfo
    truth: Truth
    valid: NDArray[np.bool_]
    velocity: NDArray[np.float32]


def map_key(cube: Artefact, weights: Path, cfg: InferConfig) -> str:
    """Identity of a kept map: cube, tensors and settings, but neither calibration nor threshold.

    Parameters
    ----------
    cube : Artefact
        Stage ``cube``.
    weights : Path
        With its card beside it.
    cfg : InferConfig
        Windows and stitching.

    Returns
    -------
    str
    """
    card = {k: v for k, v in read_card(weights).items() if k not in _AFTER}
    settings = cfg.model_dump(mode="json", exclude=_NO_MATTER)
    versions = (ALGORITHM, planning.ALGORITHM, stitching.ALGORITHM)
    return stage_key("maps", *versions, cube.key, card, settings)


def find_map(ws: Workspace, cube: Artefact, weights: Path, cfg: InferConfig) -> Artefact | None:
    """A kept map, if it is there.

    Parameters
    ----------
    ws, cube, weights, cfg
        As in `map_key`.

    Returns
    -------
    Artefact or None
    """
    key = map_key(cube, weights, cfg)
    return ws.find(ws.place("maps", key[:12]), key)


def keep_map(
    ws: Workspace, cube: Artefact, weights: Path, cfg: InferConfig, detections: Artefact
) -> Artefact:
    """Keep the stitched landslides of one network beside those of others, with raw scores.

    Parameters
    ----------
    ws, cube, weights, cfg
        As in `map_key`.
    detections : Artefact
        Stage ``detections`` of exactly these.

    Returns
    -------
    Artefact
        Stage ``maps``: ``instances.npz``.
    """
    key = map_key(cube, weights, cfg)
    final = ws.place("maps", key[:12])
    instances = load_instances(detections.folder / inference.INSTANCES)
    raw = invert_calibration(detections.meta["calibration"], [i.score for i in instances])
    meta = {"model_hash": detections.meta["model_hash"], "stitch": detections.meta["stitch"]}
    with ws.publish("maps", final, key, meta) as folder:
        save_instances(
            folder / inference.INSTANCES,
            [replace(i, score=float(s)) for i, s in zip(instances, raw, strict=True)],
        )
    return Artefact("maps", key, str(final), meta)


def _load(region: RegionMaps) -> _Loaded:
    ws = Workspace(region.workspace)
    [cube] = list_cubes(ws)
    info = cube_info(cube)
    names = ("los_velocity", "valid", "coherence")
    layers = read_layers(ws, info.track, info.period, names, Window(0, 0, *info.shape))
    valid = layers["valid"].astype(bool)
    truth = read_truth(
        region.labels, region.truth, info.geobox, valid, layers["coherence"], info.days
    )
    return _Loaded(region, info, truth, valid, layers["los_velocity"])


def _score(loaded: _Loaded, name: str, setting: Setting, min_pixels: int) -> Scores:
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
    validation: Sequence[_Loaded], name: str, weights: Path, *, refit: bool, min_pixels: int
) -> Setting:
    """Threshold and calibration of a network: its card's, or fitted on the validation maps.

    Parameters
    ----------
    validation : sequence
        Maps of the validation split.
    name : str
        The method.
    weights : Path
        Its card decides where it holds a calibration, unless `refit`.
    refit : bool
        Fit in any case.
    min_pixels : int
        Minimum mapping unit.

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
    pooled = pool([_score(m, name, raw, min_pixels) for m in validation])
    scores, hits, blocks = merit.scored(pooled)
    fit = fit_calibration(scores, hits, blocks)
    calibrated = apply_calibration(fit.calibration, scores)
    n = int(pooled.references.counted["iou50"].sum())
    best = best_operating_point(Matches(calibrated, hits, n))
    return Setting(best.score_threshold, None, fit.calibration, fit, "the split val")


def _tuned(validation: Sequence[_Loaded], min_pixels: int) -> Setting:
    """The σ of best object F1 on validation; the smaller where equal."""

    def f1(sigma: float) -> float:
        setting = Setting(0.0, sigma)
        pooled = pool([_score(m, TUNED, setting, min_pixels) for m in validation])
        tp, fp, fn, *_ = merit.object_counts(pooled, "iou50").sum(axis=0)
        return float(2 * tp / max(2 * tp + fp + fn, 1))

    best = max(SIGMAS, key=lambda k: (f1(k), -k))
    return Setting(0.0, best, source="the split val")


def publish_accuracy(
    ws: Workspace,
    regions: Sequence[RegionMaps],
    weights: Mapping[str, Path],
    *,
    benchmark: str,
    splits: Sequence[str],
    refit: bool,
    min_pixels: int,
    progress: Progress = no_progress,
) -> Artefact:
    """`measure`, and publish what came out.

    Parameters
    ----------
    ws : Workspace
        Of the benchmark.
    regions, weights, splits, refit, min_pixels, progress
        As in `measure`.
    benchmark : str
        What the figures are of.

    Returns
    -------
    Artefact
        Stage ``accuracy``: ``metrics.json``. Meta: ``benchmark``, and by network ``score_threshold``
        and ``calibration`` as they were used.

    Raises
    ------
    ProcessingError
        SW-602 where no region is of the split ``val``.
    """
    key = stage_key(
        "accuracy",
        ALGORITHM,
        benchmark,
        [(r.name, [(k, _key_of(p.parent)) for k, p in r.maps.items()]) for r in regions],
        [_key_of(c.folder) for r in regions for c in list_cubes(Workspace(r.workspace))],
        {name: read_card(path) for name, path in weights.items()},
        list(splits),
        refit,
        min_pixels,
    )
    final = ws.place("accuracy")
    if found := ws.find(final, key):
        return found
    metrics, settings = measure(
        regions, weights, splits=splits, refit=refit, min_pixels=min_pixels, progress=progress
    )
    metrics["benchmark"] = benchmark
    meta = {
        "benchmark": benchmark,
        "networks": {
            name: {
                "score_threshold": settings[name].score_min,
                "calibration": _for_card(settings[name], benchmark),
            }
            for name in weights
        },
    }
    with ws.publish("accuracy", final, key, meta) as folder:
        write_json(folder / "metrics.json", metrics)
    return Artefact("accuracy", key, str(final), meta)


def read_accuracy(artefact: Artefact) -> dict[str, Any]:
    """Figures of a published benchmark, methods and splits in their order.

    Parameters
    ----------
    artefact : Artefact
        Of `publish_accuracy`.

    Returns
    -------
    dict
        Content of ``metrics.json``; JSON on disk is sorted, and the model comes first here.
    """
    found: dict[str, Any] = json.loads((artefact.folder / "metrics.json").read_text())
    methods, splits = found["settings"]["methods"], found["settings"]["splits"]

    def ordered(entries: dict[str, Any]) -> dict[str, Any]:
        return {m: entries[m] for m in methods if m in entries}

    return found | {
        "methods": ordered(found["methods"]),
        "splits": {s: {k: ordered(v) for k, v in found["splits"][s].items()} for s in splits},
    }


def _key_of(folder: Path) -> str | None:
    found = read_artefact(folder)
    return None if found is None else found.key


def _for_card(setting: Setting, benchmark: str) -> dict[str, Any] | None:
    if setting.calibration is None:
        return None
    out = dict(setting.calibration)
    if setting.fit is not None:
        out |= {"fitted_on": f"{benchmark}, split val", "n": setting.fit.n}
        out["ece"] = {k: round(v, 6) for k, v in setting.fit.ece.items() if np.isfinite(v)}
    return out


def measure(
    regions: Sequence[RegionMaps],
    weights: Mapping[str, Path],
    *,
    splits: Sequence[str],
    refit: bool,
    min_pixels: int,
    progress: Progress = no_progress,
) -> tuple[dict[str, Any], dict[str, Setting]]:
    """All figures of all methods.

    Parameters
    ----------
    regions : sequence of RegionMaps
        At least one of the split ``val``.
    weights : mapping of str to Path
        Networks by name; the first is the model, others are compared with it.
    splits : sequence of str
        Splits to report.
    refit : bool
        Fit calibration and threshold even where a card holds them.
    min_pixels : int
        Minimum mapping unit.
    progress : Progress
        Told after each region.

    Returns
    -------
    metrics : dict
        ``methods``, ``regions``, ``splits`` and ``settings``; see docs/metrics.md.
    settings : dict
        Of each method.

    Raises
    ------
    ProcessingError
        SW-602 where no region is of the split ``val``.
    """
    loaded = []
    for i, region in enumerate(regions):
        progress("truth", i, len(regions))
        loaded.append(_load(region))
    progress("truth", len(regions), len(regions))
    validation = [m for m in loaded if m.region.split == "val"]
    if not validation:
        raise ProcessingError("SW-602", "no validation map: thresholds are fixed on the split val")
    settings: dict[str, Setting] = {
        name: settle(validation, name, path, refit=refit, min_pixels=min_pixels)
        for name, path in weights.items()
    }
    settings[USUAL] = Setting(0.0, SIGMA, source="custom (Barra et al. 2017)")
    settings[TUNED] = _tuned(validation, min_pixels)
    model = next(iter(weights))
    out: dict[str, Any] = {}
    total, done = len(splits) * len(settings), 0
    for split in splits:
        maps = [m for m in loaded if m.region.split == split]
        methods: dict[str, Any] = {}
        figures: dict[str, dict[str, NDArray[np.float64]]] = {}
        for name, setting in settings.items():
            progress("score", done, total)
            pooled = pool([_score(m, name, setting, min_pixels) for m in maps])
            draws = draw_weights(len(pooled.km2))
            methods[name], figures[name] = _method(pooled, draws, setting)
            done += 1
        out[split] = {
            "methods": methods,
            "differences": {
                name: differences(figures[model], figures[name])
                for name in settings
                if name != model
            },
        }
    progress("score", total, total)
    metrics = {
        "methods": {
            name: _method_facts(setting, weights.get(name)) for name, setting in settings.items()
        },
        "regions": [
            {
                "name": m.region.name,
                "split": m.region.split,
                "track": m.info.track,
                "km2": m.valid.size * m.info.pixel_size_m**2 / 1e6,
                "observable_km2": float(m.valid.sum()) * m.info.pixel_size_m**2 / 1e6,
                **m.truth.counts,
            }
            for m in loaded
        ],
        "splits": out,
        "settings": {
            "algorithm": ALGORITHM,
            "methods": list(settings),
            "splits": list(splits),
            "min_pixels": min_pixels,
            "reference_pixels": REFERENCE_PIXELS,
            "pixel_km2": loaded[0].info.pixel_size_m ** 2 / 1e6,
            "block_km": BLOCK_M / 1000,
            "draws": DRAWS,
            "seed": SEED,
            "coverage": COVERAGE,
        },
    }
    return metrics, settings


def _method(
    pooled: Scores, draws: NDArray[np.float64], setting: Setting
) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    is_network = setting.sigma is None

    def raw(scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return invert_calibration(setting.calibration, scores)

    figures = merit.statistics(pooled, draws, raw if is_network else None)
    out: dict[str, Any] = {
        "figures": {k: interval(v) for k, v in figures.items()},
        "counts": merit.counts(pooled),
        "strata": merit.strata(pooled, draws),
        "completeness": merit.completeness(pooled, draws),
    }
    if is_network:
        out["reliability"] = merit.reliability_rows(pooled, raw)
    return out, figures


def _method_facts(setting: Setting, weights: Path | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"score_min": setting.score_min, "source": setting.source}
    if weights is None:
        return facts | {"kind": "threshold", "sigma": setting.sigma}
    card = read_card(weights)
    keys = ("form", "preset", "parameters", "sha256")
    facts |= {"kind": "network", **{k: card.get(k) for k in keys}}
    facts["calibration"] = setting.calibration
    if setting.fit is not None:
        facts["validation"] = {"n": setting.fit.n, "ece": setting.fit.ece}
    return facts

"""The benchmark's figures: methods on the same maps, thresholds fixed on one split, reported on others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.cube.read import list_cubes
from components.errors import ProcessingError
from components.evaluation import figures_of_merit as merit
from components.evaluation.bootstrap import BLOCK_M
from components.evaluation.intervals import (
    COVERAGE,
    DRAWS,
    SEED,
    differences,
    draw_weights,
    interval,
)
from components.evaluation.kept_maps import ALGORITHM, RegionMaps
from components.evaluation.labels import TUNED, USUAL
from components.evaluation.scores import Scores, pool
from components.evaluation.settling import SIGMA, Setting, load_region, score_region, settle, tuned
from components.evaluation.simtruth import REFERENCE_PIXELS
from components.inference.calibration import invert_calibration
from components.inference.predict import read_card
from components.inference.verifier import CARD_KEY
from components.progress import Progress, no_progress
from components.workspace import Artefact, Workspace, read_artefact, stage_key, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray


def publish_accuracy(
    ws: Workspace,
    regions: Sequence[RegionMaps],
    weights: Mapping[str, Path],
    *,
    benchmark: str,
    splits: Sequence[str],
    refit: bool,
    min_pixels: int,
    alarms: float | None = None,
    progress: Progress = no_progress,
) -> Artefact:
    """`measure`, and publish what came out.

    Parameters
    ----------
    ws : Workspace
        Of the benchmark.
    regions, weights, splits, refit, min_pixels, alarms, progress
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
        alarms,
    )
    final = ws.place("accuracy")
    if found := ws.find(final, key):
        return found
    metrics, settings = measure(
        regions,
        weights,
        splits=splits,
        refit=refit,
        min_pixels=min_pixels,
        alarms=alarms,
        progress=progress,
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
    alarms: float | None = None,
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
    alarms : float, optional
        Where the model is fitted: the threshold leaves at most so many false alarms per 1,000 km² of the
        split val. Without, and for all other networks, it is that of the best F1.
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
        loaded.append(load_region(region))
    progress("truth", len(regions), len(regions))
    validation = [m for m in loaded if m.region.split == "val"]
    if not validation:
        raise ProcessingError("SW-602", "no validation map: thresholds are fixed on the split val")
    model = next(iter(weights))
    settings: dict[str, Setting] = {
        name: settle(
            validation,
            name,
            path,
            refit=refit,
            min_pixels=min_pixels,
            alarms=alarms if name == model else None,
        )
        for name, path in weights.items()
    }
    settings[USUAL] = Setting(0.0, SIGMA, source="custom (Barra et al. 2017)")
    settings[TUNED] = tuned(validation, min_pixels)
    out: dict[str, Any] = {}
    total, done = len(splits) * len(settings), 0
    for split in splits:
        maps = [m for m in loaded if m.region.split == split]
        methods: dict[str, Any] = {}
        figures: dict[str, dict[str, NDArray[np.float64]]] = {}
        for name, setting in settings.items():
            progress("score", done, total)
            pooled = pool([score_region(m, name, setting, min_pixels) for m in maps])
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
        out["thresholds"] = merit.threshold_rows(pooled, draws)
        out["reliability"] = merit.reliability_rows(pooled, raw)
    return out, figures


def _method_facts(setting: Setting, weights: Path | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"score_min": setting.score_min, "source": setting.source}
    if weights is None:
        return facts | {"kind": "threshold", "sigma": setting.sigma}
    card = read_card(weights)
    keys = ("form", "preset", "parameters", "sha256")
    facts |= {"kind": "network", **{k: card.get(k) for k in keys}}
    facts |= {"verified": CARD_KEY in card, "calibration": setting.calibration}
    if setting.fit is not None:
        facts["validation"] = {"n": setting.fit.n, "ece": setting.fit.ece}
    return facts

"""Flow `benchmark-networks`: experiments that set networks side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, task

from components.config import Config
from components.evaluation.compare import Outcome, Setting
from components.evaluation.experiments import Experiment
from components.evaluation.networks import NEED_REGIONS, check, run_on_scenes
from components.evaluation.samples import VALIDATION_SHARE, pretraining_gain, small_sample
from components.evaluation.subsets import known_subset, subset
from components.provenance import digest
from flows.dataset import build
from flows.ingest import ingest
from flows.progress import report
from flows.simulate import simulate
from flows.tiling import tile


@dataclass(frozen=True)
class NetworksResult:
    """Experiments of a run.

    Parameters
    ----------
    outcomes : tuple of Outcome
        In the order in which they were run.
    """

    outcomes: tuple[Outcome, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON form: by experiment its file, rows, and trainings done and found done.

        Returns
        -------
        dict
        """
        return {
            o.experiment.name: {
                "file": str(o.path),
                "rows": o.experiment.model_dump(mode="json")["rows"],
                "trained": o.trained,
                "reused": o.reused,
            }
            for o in self.outcomes
        }


def _dump(s: Setting) -> dict[str, Any]:
    return {
        "config": s.config.model_dump(mode="json"),
        "steps": s.steps,
        "seeds": s.seeds,
        "root": str(s.root),
        "out": str(s.out),
        "command": s.command,
    }


def _setting(values: dict[str, Any]) -> Setting:
    return Setting(
        Config.model_validate(values["config"]),
        values["steps"],
        values["seeds"],
        Path(values["root"]),
        Path(values["out"]),
        values["command"],
    )


def _small(o: Outcome) -> dict[str, Any]:
    return {"path": str(o.path), "trained": o.trained, "reused": o.reused}


@task(name="compare-networks", tags=["gpu", "slopewatch"], timeout_seconds=96 * 3600)
def compare_on_scenes(
    name: str, setting: dict[str, Any], weights: dict[str, str]
) -> dict[str, Any]:
    """Run an experiment on simulated tiles; trainings that are done are not done again."""
    files = {k: Path(p) for k, p in weights.items()}
    return _small(run_on_scenes(name, _setting(setting), files, report))


@task(name="compare-small-samples", tags=["gpu", "slopewatch"], timeout_seconds=96 * 3600)
def compare_on_samples(
    name: str,
    setting: dict[str, Any],
    sets: dict[str, tuple[str, dict[str, int]]],
    independent: str,
    initial: str | None,
) -> dict[str, Any]:
    """Run an experiment on small COCO sets; trainings that are done are not done again."""
    s = _setting(setting)
    folders = {k: (Path(folder), counts) for k, (folder, counts) in sets.items()}
    if name == "small-sample" or initial is None:
        return _small(small_sample(s, folders, Path(independent), report))
    [(folder, counts)] = folders.values()
    made = pretraining_gain(s, folder, counts, Path(independent), Path(initial), report)
    return _small(made)


@flow(name="benchmark-networks")
def benchmark_networks(
    workspace: Path,
    steps: int,
    seeds: int = 3,
    only: list[str] | None = None,
    weights: dict[str, Path] | None = None,
    config: Config = Config(),
    out: Path = Path("docs/experiments"),
    command: str = "slopewatch benchmark networks",
) -> NetworksResult:
    """Set networks side by side: same tiles, same schedule, several seeds, paired intervals.

    Args:
        workspace: Folder of trainings and regions; what is done is not done again.
        steps: Optimiser steps of each training.
        seeds: Trainings of each row.
        only: Experiments; empty for all that the weights at hand allow.
        weights: Weights by name: all for `frontier`, the first for `pretraining`.
        config: Sections `train`, `pretrain`, `experiments` and, for regions, `simulate` to `dataset`.
        out: Folder of the JSON files.
        command: What makes the files again, for the files.
    """
    files = weights or {}
    s = Setting(config, steps, seeds, workspace / "trainings", out, command)
    names = check(only or [], files, s)
    done = []
    for name in names:
        if name in NEED_REGIONS:
            initial = str(next(iter(files.values()))) if name == "pretraining" else None
            made = compare_on_samples(name, _dump(s), *_samples(workspace, name, config), initial)
        else:
            made = compare_on_scenes(name, _dump(s), {k: str(p) for k, p in files.items()})
        path = Path(made["path"])
        experiment = Experiment.model_validate_json(path.read_text(encoding="utf-8"))
        done.append(Outcome(experiment, path, made["trained"], made["reused"]))
    return NetworksResult(tuple(done))


def _samples(
    workspace: Path, name: str, config: Config
) -> tuple[dict[str, tuple[str, dict[str, int]]], str]:
    """Small sets of an experiment with their counts, and the set of the independent region."""
    e = config.experiments
    stride = {"stride": config.tile.size}
    apart = config.model_copy(update={"tile": config.tile.model_copy(update=stride)})
    far = _dataset(workspace / "independent", e.region_seed + 1, apart, "blocks", (0.0, 0.0, 1.0))
    region = workspace / "region"
    total = sum(e.sample)
    shares = (e.sample[0] / total, e.sample[1] / total, e.sample[2] / total)
    if name == "pretraining":
        val = round(VALIDATION_SHARE * e.landslides)
        landslides = {"train": e.landslides - val, "val": val}
        return {"labelled": _subset(region, "labelled", config, "blocks", shares, landslides)}, far
    return {
        split: _subset(region, split, config, split, shares, None) for split in ("random", "blocks")
    }, far


def _subset(
    region: Path,
    name: str,
    config: Config,
    split: str,
    shares: tuple[float, float, float],
    landslides: dict[str, int] | None,
) -> tuple[str, dict[str, int]]:
    """A small set of the region, made anew where it is not there."""
    e = config.experiments
    folder = region.parent / "sets" / name
    sections = ("simulate", "region", "ingest", "tile", "dataset", "pretrain", "experiments")
    key = digest(*(getattr(config, k).model_dump(mode="json") for k in sections), split, shares)
    counts = known_subset(folder, key)
    if counts is None:
        source = _dataset(region, e.region_seed, config, split, shares)
        tiles = None if landslides else dict(zip(("train", "val", "test"), e.sample, strict=True))
        counts = subset(Path(source), folder, key, tiles, landslides)
    return str(folder), counts


def _dataset(
    folder: Path, seed: int, config: Config, split: str, shares: tuple[float, float, float]
) -> str:
    """The dataset of a simulated region, by the product's own path."""
    side = config.experiments.region_side
    update = {"seed": seed, "height": side, "width": side, "tracks": ("descending", "ascending")}
    simulated = config.model_copy(update={"simulate": config.simulate.model_copy(update=update)})
    truth = simulate(folder / "simulated", simulated)
    chosen = {"labels": truth.labels, "split": split, "fractions": shares}
    chosen["preset"] = config.pretrain.preset
    labelled = config.model_copy(update={"dataset": config.dataset.model_copy(update=chosen)})
    ingest(folder, list(truth.products), labelled)
    tile(folder, labelled)
    return str(build(folder, labelled).folder)

"""Trainings of an experiment: each done once, tested once, and known by what decides it.

A folder a training, ``<work>/<form>-s<seed>-<key>/``, holds weights, card, learning curve and
``done.json``, which is written last. A call that finds it whole does not train again; a killed one goes on
from its last checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from components.inference.predict import Predictor
from components.progress import Progress, no_progress
from components.provenance import digest
from components.training import loop, scenes, tiletest
from models.forms import FORMS
from models.weights import file_sha256

if TYPE_CHECKING:
    from components.config import PretrainConfig, TrainConfig
    from components.training.tiles import Tiles

#: Raised when the same settings give another experiment.
ALGORITHM: Final = "1"

#: Settings that change where and how fast, not what.
_MACHINE: Final = {"device", "devices", "threads", "workers", "initial_weights"}

#: Seconds that the speed of a network is measured for, and passes at least.
_SPEED_SECONDS: Final = 5.0
_SPEED_PASSES: Final = 3


@dataclass(frozen=True)
class Work:
    """One training.

    Parameters
    ----------
    label : str
        Row of the table that it is for.
    train : TrainConfig
        Network, schedule, seed, initial weights.
    scenes : PretrainConfig or None
        Simulated tiles to train on …
    dataset : Path or None
        … or a COCO folder.
    """

    label: str
    train: TrainConfig
    scenes: PretrainConfig | None = None
    dataset: Path | None = None

    @property
    def key(self) -> str:
        """Digest of all that decides the weights."""
        data: Any = None
        if self.scenes is not None:
            data = scenes.describe(self.scenes)["data"]
        elif self.dataset is not None:
            files = ("annotations/train.json", "annotations/val.json", "dataset.json")
            data = [file_sha256(self.dataset / name) for name in files]
        start = self.train.initial_weights
        return digest(
            ALGORITHM,
            loop.ALGORITHM,
            FORMS[self.train.model].as_dict(),
            self.train.model_dump(mode="json", exclude=_MACHINE),
            None if start is None else file_sha256(start),
            data,
        )

    @property
    def side(self) -> int:
        """Side of a tile in training [px]."""
        if self.scenes is not None:
            return self.scenes.tile
        if self.train.crop is not None or self.dataset is None:
            return self.train.crop or 0
        return int(json.loads((self.dataset / "dataset.json").read_text())["tile_size"])

    def folder(self, work: Path) -> Path:
        """Its folder.

        Parameters
        ----------
        work : Path
            Of all trainings.

        Returns
        -------
        Path
        """
        return work / f"{self.train.model}-s{self.train.seed}-{self.key[:12]}"


@dataclass(frozen=True)
class Trained:
    """A training that is done.

    Parameters
    ----------
    work : Work
        What was asked for.
    weights : Path
        The ``.safetensors`` file.
    steps : int
        Optimiser steps.
    seconds : float
        Training and validation.
    fresh : bool
        Whether this call trained, rather than found it done.
    """

    work: Work
    weights: Path
    steps: int
    seconds: float
    fresh: bool


def train_once(work: Work, root: Path, progress: Progress = no_progress) -> Trained:
    """Train, or find that it is done.

    Parameters
    ----------
    work : Work
        The training.
    root : Path
        Folder of all trainings.
    progress : Progress
        Told of steps and validations.

    Returns
    -------
    Trained

    Raises
    ------
    SlopewatchError
        As `components.training.loop.train`.
    """
    loop.check_form(work.train.model)
    folder = work.folder(root)
    weights = folder / "weights.safetensors"
    done = _read(folder / "done.json")
    if done is not None and weights.is_file() and done["sha256"] == file_sha256(weights):
        return Trained(work, weights, done["steps"], done["seconds"], fresh=False)
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / "work"
    if work.scenes is not None:
        made = loop.pretrain(folder, aside, work.train, work.scenes, progress)
    elif work.dataset is not None:
        made = loop.train(work.dataset, folder, aside, work.train, progress)
    else:
        msg = "a training needs scenes or a dataset"
        raise ValueError(msg)
    facts = {
        "label": work.label,
        "form": work.train.model,
        "steps": made.steps,
        "seconds": made.seconds,
        "pixels": made.steps * work.train.batch_size * work.side**2,
        "sha256": file_sha256(made.weights),
    }
    write_whole(folder / "done.json", facts)
    shutil.rmtree(aside, ignore_errors=True)
    return Trained(work, made.weights, made.steps, made.seconds, fresh=True)


def count_once(
    trained: Trained,
    tiles: Tiles,
    identity: str,
    progress: Progress = no_progress,
    keep: Path | None = None,
) -> list[list[float]]:
    """Counts of a training on test tiles, or those that were made before.

    Parameters
    ----------
    trained : Trained
        The training.
    tiles : Tiles
        Test tiles.
    identity : str
        Digest that tells these tiles from any other.
    progress : Progress
        Told of every batch.
    keep : Path, optional
        Folder for the counts; empty: that of the weights.

    Returns
    -------
    list of list of float
        As `components.training.tiletest.COLUMNS`, one row a tile.
    """
    cfg = trained.work.train
    key = digest(tiletest.ALGORITHM, identity, file_sha256(trained.weights))
    path = (keep or trained.weights.parent) / f"test-{key[:12]}.json"
    if (found := _read(path)) is not None:
        counts: list[list[float]] = found["counts"]
        return counts
    threshold, counts = tiletest.count_tiles(
        trained.weights,
        tiles,
        batch_size=cfg.batch_size,
        device=cfg.device,
        threads=cfg.threads,
        progress=progress,
    )
    write_whole(path, {"threshold": threshold, "counts": counts})
    return counts


def speed_km2s(
    weights: Path,
    tiles: Tiles,
    pixel_m: float,
    *,
    batch_size: int,
    device: str,
    threads: int | None,
) -> float:
    """Ground that a network covers in a second: forward pass and pasting of masks, no overlap.

    Parameters
    ----------
    weights : Path
        The ``.safetensors`` file.
    tiles : Tiles
        The first batch is used.
    pixel_m : float
        Pixel size [m].
    batch_size : int
        Tiles a pass.
    device : {"auto", "cpu", "cuda"}
        Where to compute, in the fastest numbers that processor and weights allow.
    threads : int, optional
        CPU threads.

    Returns
    -------
    float
        Median over the passes [km²/s], after one that is not counted.
    """
    predictor = Predictor(weights, device, threads=threads)
    images = np.stack([tiles[i][0].numpy() for i in range(min(batch_size, len(tiles)))])
    predictor.predict(images)
    km2 = images.shape[0] * images.shape[2] * images.shape[3] * pixel_m**2 / 1e6
    times: list[float] = []
    while len(times) < _SPEED_PASSES or sum(times) < _SPEED_SECONDS:
        began = time.perf_counter()
        predictor.predict(images)
        times.append(time.perf_counter() - began)
    return float(km2 / statistics.median(times))


def epochs_of(steps: int, epoch_steps: int) -> tuple[int, int]:
    """Epochs of equal length for a number of steps.

    Parameters
    ----------
    steps : int
        Wanted in all, ≥ 1.
    epoch_steps : int
        Wanted in an epoch.

    Returns
    -------
    epochs, steps_per_epoch : int
        Their product is `steps` or, for the sake of equal epochs, a little more.
    """
    epochs = max(1, round(steps / epoch_steps))
    return epochs, math.ceil(steps / epochs)


def write_whole(path: Path, value: Any) -> None:
    """Write JSON whole or not at all.

    Parameters
    ----------
    path : Path
        In an existing folder.
    value : Any
        JSON-able.
    """
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as f:
        f.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
        f.flush()
        os.fsync(f.fileno())
    part.replace(path)


def _read(path: Path) -> dict[str, Any] | None:
    """Content, or None where it is missing or damaged: then it is made again."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def is_done(work: Work, root: Path) -> bool:
    """Whether a training needs no more work.

    Parameters
    ----------
    work : Work
        The training.
    root : Path
        Folder of all trainings.

    Returns
    -------
    bool
    """
    return (work.folder(root) / "done.json").is_file()


def done_trainings(root: Path) -> Iterator[dict[str, Any]]:
    """Facts of all trainings that are done.

    Parameters
    ----------
    root : Path
        Folder of all trainings; may be missing.

    Yields
    ------
    dict
        Content of each ``done.json``.
    """
    for path in sorted(root.glob("*/done.json")):
        if (found := _read(path)) is not None:
            yield found

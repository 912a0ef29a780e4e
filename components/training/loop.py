"""Train a network on a COCO folder: resumable, reproducible, weights with a card at the end.

On one machine, with the same number of threads, the same data and configuration give the same bytes,
whether or not the training was killed and resumed between. (On a GPU, RoIAlign sums in no fixed order:
there the figures agree, the last digits do not.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import lightning
import torch

from components.errors import ModelError
from components.progress import Progress, no_progress
from components.training.card import machine_free, quantisation, training_card
from components.training.checkpoints import is_whole, last_whole
from components.training.epoch_end import PICTURE, EpochEnd, metrics_csv, read_times
from components.training.failures import coded_failures
from components.training.initial import start_from, start_from_torchvision
from components.training.loggers import open_loggers
from components.training.machine import bfloat16, device_of, quiet, reproducible
from components.training.module import GRADIENT_CLIP, DetectorModule
from components.training.picture import draw_predictions
from components.training.ranks import Group, check_devices, started
from components.training.schedule import CosineSchedule, PaperSchedule, Schedule
from components.training.selection import Operating
from components.training.sources import Source, coco_source, scene_source
from models.build import Detector, build_model
from models.forms import FORMS
from models.weights import file_sha256, load_tensors, save_weights

if TYPE_CHECKING:
    from components.config import PretrainConfig, TrainConfig

#: Raised when the same configuration gives other weights than before.
ALGORITHM: Final = "2"


@dataclass(frozen=True)
class TrainResult:
    """What training made.

    Parameters
    ----------
    weights, card : Path
        The model; ``metrics.csv`` lies beside it.
    metrics : dict
        Validation figures of the kept epoch: ``f1``, ``precision``, ``recall``,
        ``score_threshold``; empty without a validation fold.
    steps : int
        Optimiser steps.
    seconds : float
        Training and validation over all attempts; a killed epoch is not counted.
    """

    weights: Path
    card: Path
    metrics: dict[str, float]
    steps: int
    seconds: float


def train(
    dataset_dir: Path,
    out_dir: Path,
    work_dir: Path,
    cfg: TrainConfig,
    progress: Progress = no_progress,
) -> TrainResult:
    """Train, select and write a model.

    Parameters
    ----------
    dataset_dir : Path
        Of `components.dataset.coco.build_dataset`.
    out_dir : Path
        Receives ``weights.safetensors``, which are the averaged weights of the best validated epoch,
        with ``card.json``, ``metrics.csv`` and, where there is a validation fold, a picture of their
        detections on some of its tiles, ``predictions.png``.
    work_dir : Path
        Checkpoints, ``timing.json``, and curve and picture of the running training. A call with
        the same data and configuration resumes from the last whole checkpoint found here.
    cfg : TrainConfig
        Network and training.
    progress : Progress
        Told of steps and validations.

    Returns
    -------
    TrainResult

    Raises
    ------
    InputError
        SW-304 for a category that the dataset does not list; SW-306 where the training fold is empty;
        SW-307 where the dataset is damaged; SW-701 where the devices cannot share a batch.
    ModelError
        SW-401 or SW-402 for `initial_weights`; SW-404 for an unusable image; SW-405 where the loss
        is not finite; SW-406 for an unknown form; SW-407 where all checkpoints are damaged; SW-408
        out of memory; SW-409 where a device or a process of the training is gone. The checkpoints
        are kept.
    """
    check_form(cfg.model)
    return _train(coco_source(Path(dataset_dir), cfg), out_dir, work_dir, cfg, progress)


def pretrain(
    out_dir: Path,
    work_dir: Path,
    cfg: TrainConfig,
    scenes: PretrainConfig,
    progress: Progress = no_progress,
) -> TrainResult:
    """Train on endless simulated tiles instead of a dataset.

    Parameters
    ----------
    out_dir, work_dir : Path
        As in `train`.
    cfg : TrainConfig
        Network and training; an epoch is ``scenes.tiles_per_epoch`` tiles.
    scenes : PretrainConfig
        The tiles.
    progress : Progress
        Told of steps and validations.

    Returns
    -------
    TrainResult

    Raises
    ------
    InputError
        SW-308 for a seed of the scenes that belongs to benchmarks; SW-701 as `train`.
    ModelError
        As `train`.
    """
    check_form(cfg.model)
    return _train(scene_source(scenes, cfg), out_dir, work_dir, cfg, progress)


def _train(
    source: Source, out_dir: Path, work_dir: Path, cfg: TrainConfig, progress: Progress
) -> TrainResult:
    """Train on any source."""
    out_dir, work_dir = Path(out_dir), Path(work_dir)
    recipe = _recipe(source, cfg)
    device = device_of(cfg.device)
    check_devices(cfg, device)
    work_dir.mkdir(parents=True, exist_ok=True)
    out_dir.mkdir(parents=True, exist_ok=True)
    with reproducible(cfg, device), quiet(), coded_failures(cfg, work_dir):
        model, origin = _new_model(source.info, cfg)
        with started(source, work_dir, cfg) as group:
            end = _fit(model, source, work_dir, cfg, recipe, device, progress, group)
        best = work_dir / end.record.best_file
        if not is_whole(best):
            raise ModelError("SW-407", "the best weights are missing or damaged", path=best)
        load_tensors(best, model)
        if source.validation is not None and end.record.best is not None:
            figures = Operating(**end.record.best)
            draw_predictions(
                model,
                source.validation,
                source.info["channels"],
                out_dir / PICTURE,
                figures,
                end.record.best_epoch,
            )
    steps = int(end.record.rows[-1]["step"])
    card = training_card(cfg, source, recipe, end, steps, {"algorithm": ALGORITHM, **origin})
    card |= quantisation(model, source.validation)
    weights = out_dir / "weights.safetensors"
    (out_dir / "metrics.csv").write_text(metrics_csv(end.record.rows))
    save_weights(weights, model, card)
    seconds = sum(sum(t.values()) for t in read_times(work_dir).values())
    return TrainResult(
        weights, out_dir / "card.json", dict(end.record.best or {}), steps, round(seconds, 3)
    )


def take_part(
    source: Source, work_dir: Path, cfg: TrainConfig, group: Group, ready: Callable[[], None]
) -> None:
    """Train along as a further process of a training on several devices; nothing is written.

    Parameters
    ----------
    source : Source
        What the first process reads.
    work_dir : Path
        As for `train`.
    cfg : TrainConfig
        As for `train`.
    group : Group
        Place of this process.
    ready : callable
        Called when all that can fail early has been done.

    Raises
    ------
    SlopewatchError
        As for `train`.
    """
    device = device_of(cfg.device)
    with reproducible(cfg, device), quiet():
        model, _ = _new_model(source.info, cfg)
        ready()
        recipe = _recipe(source, cfg)
        _fit(model, source, work_dir, cfg, recipe, device, no_progress, group)


def check_form(name: str) -> None:
    """Refuse the name of a network form that does not exist.

    Parameters
    ----------
    name : str
        Key of `models.forms.FORMS`.

    Raises
    ------
    ModelError
        SW-406, with the forms that there are.
    """
    if name not in FORMS:
        raise ModelError("SW-406", f"{name!r}; known are {', '.join(FORMS)}")


def _new_model(info: dict[str, Any], cfg: TrainConfig) -> tuple[Detector, dict[str, Any]]:
    """Network before the first step, and where its weights come from."""
    torch.manual_seed(cfg.seed)
    model = build_model(FORMS[cfg.model], len(info["channels"]), len(info["categories"]) + 1)
    if cfg.initial_weights is not None:
        return model, {"initial": start_from(cfg.initial_weights, model, cfg.model, info)}
    if cfg.pretrained is not None:
        return model, {"pretrained": start_from_torchvision(cfg, model)}
    return model, {}


def make_schedule(cfg: TrainConfig, total_steps: int) -> Schedule:
    """Schedule that the configuration names.

    Parameters
    ----------
    cfg : TrainConfig
        ``schedule`` and, for ``cosine``, ``learning_rate``, ``weight_decay`` and ``warmup_steps``.
    total_steps : int
        Of the whole training.

    Returns
    -------
    Schedule
    """
    if cfg.schedule == "paper":
        return PaperSchedule(total_steps)
    return CosineSchedule(
        learning_rate=cfg.learning_rate,
        weight_decay=cfg.weight_decay,
        warmup_steps=cfg.warmup_steps,
        total_steps=total_steps,
    )


def _fit(
    model: Detector,
    source: Source,
    work_dir: Path,
    cfg: TrainConfig,
    recipe: str,
    device: str,
    progress: Progress,
    group: Group,
) -> EpochEnd:
    """Run Lightning from the last whole checkpoint to the end."""

    def epoch() -> int:
        return int(module.global_step) // steps

    loader = source.loader(epoch, group.share)
    steps = len(loader)
    module = DetectorModule(
        model,
        schedule=make_schedule(cfg, steps * cfg.epochs),
        # The paper averages nothing.
        ema_decay=0.0 if cfg.schedule == "paper" else cfg.ema_decay,
        seed=cfg.seed,
    )
    end = EpochEnd(
        work_dir,
        source.validation,
        source.info["channels"],
        recipe=recipe,
        steps_per_epoch=steps,
        epochs=cfg.epochs,
        validate_every=cfg.validate_every,
        patience=cfg.patience,
        batch_size=cfg.batch_size,
        progress=progress,
        share=group.share,
    )
    checkpoint = last_whole(work_dir, recipe)
    if checkpoint is not None:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        end.load_state_dict(state["callbacks"][end.state_key])
        if end.record.stopped or end.record.rows[-1]["epoch"] + 1 >= cfg.epochs:
            return end
    trainer = lightning.Trainer(
        accelerator=device,
        devices=group.share.world,
        strategy=group.strategy(parts_rest=cfg.schedule == "paper"),
        sync_batchnorm=device == "gpu" and not group.alone,
        use_distributed_sampler=False,
        precision="bf16-mixed" if bfloat16(cfg.precision, device) else "32-true",
        max_epochs=cfg.epochs,
        gradient_clip_val=GRADIENT_CLIP,
        callbacks=[end],
        default_root_dir=work_dir,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with _logged(end, work_dir, cfg, recipe, group), group.left():
        trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    return end


@contextmanager
def _logged(
    end: EpochEnd, work_dir: Path, cfg: TrainConfig, recipe: str, group: Group
) -> Iterator[None]:
    """Optional loggers of the first process, closed however training ends."""
    if group.share.rank == 0:
        settings = machine_free(cfg)
        end.loggers = open_loggers(work_dir, f"{cfg.model}-{recipe[:12]}", settings)
    status = "failed"
    try:
        yield
        status = "success"
    finally:
        for logger in end.loggers:
            logger.finalize(status)


def _recipe(source: Source, cfg: TrainConfig) -> str:
    """Digest of what decides the weights: data and configuration."""
    parts: list[Any] = [ALGORITHM, FORMS[cfg.model].as_dict()]
    parts.append(machine_free(cfg))
    if cfg.initial_weights is not None and cfg.initial_weights.is_file():
        parts.append(file_sha256(cfg.initial_weights))
    if cfg.pretrained is not None:
        local = Path(cfg.pretrained)
        parts.append(file_sha256(local) if local.is_file() else cfg.pretrained)
    parts += source.identity
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

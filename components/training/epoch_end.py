"""What happens after each epoch: validation, selection, early stop, log, checkpoint, in this order."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import lightning
import torch
from lightning.pytorch.loggers import Logger
from safetensors.torch import save_file

from components.progress import Progress
from components.training.checkpoints import prune, write_checked
from components.training.loading import collate
from components.training.module import DetectorModule
from components.training.order import ALONE, Share
from components.training.picture import draw_predictions
from components.training.selection import (
    Matches,
    Operating,
    best_operating_point,
    match_image,
    pool,
)
from components.training.tiles import Tiles
from models.build import detect

if TYPE_CHECKING:
    from torch import nn

#: Losses in the order of metrics.csv.
LOSSES: Final = (
    "loss_objectness",
    "loss_rpn_box_reg",
    "loss_classifier",
    "loss_box_reg",
    "loss_mask",
    "loss_segmentation",
)

#: Picture of the last validation, in the work folder.
PICTURE: Final = "predictions.png"

#: Columns of metrics.csv. No times: the file's bytes are reproducible.
COLUMNS: Final = (
    "epoch",
    "step",
    "learning_rate",
    *LOSSES,
    "val_f1",
    "val_precision",
    "val_recall",
    "val_threshold",
)


def validate(
    model: nn.Module,
    tiles: Tiles,
    progress: Progress,
    *,
    batch_size: int,
    share: Share = ALONE,
) -> Operating:
    """Object figures of a network on the validation fold.

    Parameters
    ----------
    model : torch.nn.Module
        On any device.
    tiles : Tiles
        Whole tiles without augmentation.
    progress : Progress
        Told of every batch.
    batch_size : int
        Tiles a forward pass.
    share : Share
        With several processes each looks at a part of the tiles, and all get the figures of the whole.

    Returns
    -------
    Operating
        At the best score threshold.
    """
    found: dict[int, Matches] = {}
    for start in range(share.rank * batch_size, len(tiles), share.world * batch_size):
        at = range(start, min(start + batch_size, len(tiles)))
        images, targets = collate([tiles[i] for i in at])
        for i, detections, target in zip(at, detect(model, images), targets, strict=True):
            found[i] = match_image(
                detections, target["masks"], target["labels"], target.get("ignore")
            )
        progress("validate", at.stop, len(tiles))
    if share.world > 1:
        parts: list[dict[int, Matches] | None] = [None] * share.world
        torch.distributed.all_gather_object(parts, found)
        found = {i: m for part in parts if part is not None for i, m in part.items()}
    return best_operating_point(pool([found[i] for i in sorted(found)]))


@dataclass
class Record:
    """State of selection and log; it travels in the checkpoints.

    Parameters
    ----------
    rows : list of dict
        Lines of metrics.csv.
    best : dict or None
        `Operating` of the best validation.
    best_epoch : int
        Its epoch, from 0; −1 before the first.
    best_file : str
        Name of its weights in the work folder.
    previous_file : str
        The best before, which the previous checkpoint may still name.
    stopped : bool
        Whether early stop has ended the training.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, float] | None = None
    best_epoch: int = -1
    best_file: str = ""
    previous_file: str = ""
    stopped: bool = False


class EpochEnd(lightning.Callback):
    """Validate, select, log and save after each epoch.

    Parameters
    ----------
    work_dir : Path
        Folder of the checkpoints.
    tiles : Tiles or None
        Validation fold; None to keep the last epoch.
    channels : sequence of str
        Names of the image's channels.
    recipe : str
        Digest that the checkpoints carry.
    steps_per_epoch, epochs : int
        Length of the training.
    validate_every : int
        Epochs between validations; the last epoch is always validated.
    patience : int
        Early stop after so many epochs without a better validation.
    batch_size : int
        Tiles a forward pass in validation.
    progress : Progress
        Told of every step.
    share : Share
        Part of this process; only the first writes.

    Attributes
    ----------
    loggers : list of Logger
        Told of every epoch, beside ``metrics.csv``.
    """

    def __init__(
        self,
        work_dir: Path,
        tiles: Tiles | None,
        channels: Sequence[str],
        *,
        recipe: str,
        steps_per_epoch: int,
        epochs: int,
        validate_every: int,
        patience: int,
        batch_size: int,
        progress: Progress,
        share: Share = ALONE,
    ) -> None:
        self.record = Record()
        self.loggers: list[Logger] = []
        self._dir = work_dir
        self._tiles = tiles
        self._channels = channels
        self._recipe = recipe
        self._steps = steps_per_epoch
        self._epochs = epochs
        self._every = validate_every
        self._patience = patience
        self._batch_size = batch_size
        self._progress = progress
        self._share = share
        self._started = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """State for the checkpoint."""
        return asdict(self.record)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """State from the checkpoint."""
        self.record = Record(**state_dict)

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,  # noqa: ARG002
        pl_module: lightning.LightningModule,  # noqa: ARG002
        checkpoint: dict[str, Any],
    ) -> None:
        """Mark the checkpoint with its recipe."""
        checkpoint["recipe"] = self._recipe

    def on_train_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,  # noqa: ARG002
    ) -> None:
        """Start the clock."""
        self._started = time.perf_counter()
        self._progress("train", trainer.global_step, self._steps * self._epochs)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Tell how far training is."""
        self._progress("train", trainer.global_step, self._steps * self._epochs)

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Validate, select, log, save."""
        if not isinstance(pl_module, DetectorModule):
            msg = f"{type(pl_module).__name__} is not a DetectorModule"
            raise TypeError(msg)
        epoch = trainer.global_step // self._steps - 1
        trained = time.perf_counter()
        last = epoch + 1 == self._epochs
        outcome = None
        if last or (epoch + 1) % self._every == 0:
            outcome = self._select(pl_module, epoch)
        if epoch - self.record.best_epoch >= self._patience and self.record.best_epoch >= 0:
            self.record.stopped = trainer.should_stop = True
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self._log(pl_module, epoch, trainer.global_step, rate, outcome)
        validated = time.perf_counter()
        if self._share.rank:
            # Saving is a collective operation, in which only the first process writes.
            trainer.save_checkpoint(self._dir / "not-written.ckpt")
            return
        write_checked(self._dir, "epoch", epoch, ".ckpt", trainer.save_checkpoint)
        prune(self._dir, {self.record.best_file, self.record.previous_file})
        self._clock(epoch, trained, validated)

    def _select(self, module: DetectorModule, epoch: int) -> Operating | None:
        """Validate the averaged weights and keep them where they are the best so far."""
        network = module.averaged.model
        outcome = None
        if self._tiles is not None:
            if self._share.world > 1:
                # Statistics of normalisation differ in the processes: those of the first are kept.
                for value in network.state_dict().values():
                    torch.distributed.broadcast(value, 0)
            outcome = validate(
                network,
                self._tiles,
                self._progress,
                batch_size=self._batch_size,
                share=self._share,
            )
            if self._share.rank == 0:
                draw_predictions(
                    network, self._tiles, self._channels, self._dir / PICTURE, outcome, epoch
                )
        # On equal figures the later epoch wins: it has seen more.
        if outcome is None or self.record.best is None or outcome.f1 >= self.record.best["f1"]:
            self.record.previous_file = self.record.best_file
            if self._share.rank == 0:
                tensors = {k: v.cpu().contiguous() for k, v in network.state_dict().items()}
                path = write_checked(
                    self._dir, "best", epoch, ".safetensors", lambda part: save_file(tensors, part)
                )
                self.record.best_file = path.name
            self.record.best_epoch = epoch
            self.record.best = None if outcome is None else outcome._asdict()
        return outcome

    def _log(
        self, module: DetectorModule, epoch: int, step: int, rate: float, outcome: Operating | None
    ) -> None:
        sums, module.loss_sums = module.loss_sums, {}
        steps = sums.get("steps", 1.0)
        row: dict[str, Any] = {"epoch": epoch, "step": step, "learning_rate": float(rate)}
        row |= {name: sums[name] / steps for name in LOSSES if name in sums}
        if outcome is not None:
            row |= {
                "val_f1": outcome.f1,
                "val_precision": outcome.precision,
                "val_recall": outcome.recall,
                "val_threshold": outcome.score_threshold,
            }
        self.record.rows.append(row)
        if self._share.rank == 0:
            part = self._dir / ".metrics.part"
            part.write_text(metrics_csv(self.record.rows))
            part.replace(self._dir / "metrics.csv")
        numbers = {k: float(v) for k, v in row.items()}
        for logger in self.loggers:
            logger.log_metrics(numbers, step)
            logger.save()

    def _clock(self, epoch: int, trained: float, validated: float) -> None:
        """Add the epoch's times to timing.json, apart from the reproducible files."""
        times = read_times(self._dir)
        now = time.perf_counter()
        times[f"{epoch:05d}"] = {
            "train": round(trained - self._started, 3),
            "validate": round(validated - trained, 3),
            "save": round(now - validated, 3),
        }
        part = self._dir / ".timing.part"
        part.write_text(json.dumps(times, indent=1, sort_keys=True) + "\n")
        part.replace(self._dir / "timing.json")
        self._started = now


def read_times(work_dir: Path) -> dict[str, dict[str, float]]:
    """Seconds of every epoch.

    Parameters
    ----------
    work_dir : Path
        Folder of the checkpoints.

    Returns
    -------
    dict
        Epoch → ``train``, ``validate``, ``save`` [s]; empty where the file is missing or unusable,
        since times are no part of the result.
    """
    try:
        times: dict[str, dict[str, float]] = json.loads((work_dir / "timing.json").read_text())
    except (OSError, ValueError):
        return {}
    return times


def metrics_csv(rows: list[dict[str, Any]]) -> str:
    """Text of metrics.csv.

    Parameters
    ----------
    rows : list of dict
        One an epoch; missing values stay empty.

    Returns
    -------
    str
        With a header line; floats with six significant digits.
    """
    lines = [",".join(COLUMNS)]
    for row in rows:
        cells = (row.get(name) for name in COLUMNS)
        lines.append(",".join(_cell(c) for c in cells))
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)

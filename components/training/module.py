"""The training step: losses, optimiser, learning rate, averaged weights."""

from __future__ import annotations

import copy
import math
from typing import Any, Final

import lightning
import torch
from torch import Tensor, nn

from components.errors import ModelError
from components.training.schedule import Schedule, freeze
from models.build import Detector
from models.mask_rcnn import SmallObjectMaskRCNN

#: One batch: images [C, H, W] and their targets.
Batch = tuple[list[Tensor], list[dict[str, Tensor]]]

#: Largest norm of the gradient.
GRADIENT_CLIP: Final = 5.0


class AveragedModel:
    """Exponential moving average of a network's weights and normalisation statistics.

    ``average ← d · average + (1 − d) · current`` with ``d = min(decay, (1 + n) / (10 + n))`` after n
    updates, so that the first random weights are soon forgotten. Integer buffers are copied.

    Parameters
    ----------
    model : torch.nn.Module
        Copied.
    decay : float
        In [0, 1); 0 makes the average the current network.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the current weights.

        Parameters
        ----------
        model : torch.nn.Module
            Of the same form.
        """
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = model.state_dict()
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                value.lerp_(current[name], 1 - decay)
            else:
                value.copy_(current[name])
        self.updates += 1


class DetectorModule(lightning.LightningModule):
    """Lightning module of a detector.

    Parameters
    ----------
    model : SmallObjectMaskRCNN or ComponentUNet
        Trained in place.
    schedule : Schedule
        Optimiser, learning rate, and the stage in which the trunk rests.
    ema_decay : float
        Of the averaged weights.
    seed : int
        With the number of the step, the only source of random numbers in a step; so a resumed
        training draws what an undisturbed one would.

    Attributes
    ----------
    averaged : AveragedModel
        The weights that are validated and kept.
    loss_sums : dict
        Sums of the losses of the running epoch, and the number of steps under ``"steps"``.
    """

    def __init__(
        self,
        model: Detector,
        *,
        schedule: Schedule,
        ema_decay: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.averaged = AveragedModel(model, ema_decay)
        self.loss_sums: dict[str, float] = {}
        self._schedule = schedule
        self._trunk_frozen = False
        self._seed = seed

    def on_fit_start(self) -> None:
        """Bring the average to the device of the network."""
        self.averaged.model.to(self.device)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Freeze or wake the trunk where a stage of the schedule begins.

        Parameters
        ----------
        batch, batch_idx : object
            Not used.
        """
        frozen = self._schedule.trunk_frozen(self.global_step)
        if frozen != self._trunk_frozen:
            freeze(_trunk(self.model), frozen=frozen)
            self._trunk_frozen = frozen

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Loss of one batch.

        Parameters
        ----------
        batch : tuple
            Images and targets.
        batch_idx : int
            Not used.

        Returns
        -------
        Tensor
            Sum of the losses.

        Raises
        ------
        ModelError
            SW-405 where the loss is not finite.
        """
        # Every process of a training on several devices draws its own numbers; the first draws
        # what a single one would.
        torch.manual_seed(
            self._seed * 1_000_003 + self.global_step + self.global_rank * 1_000_000_007
        )
        images, targets = batch
        losses = self.model(images, targets)
        if not isinstance(losses, dict):
            msg = "the network is not in training mode"
            raise RuntimeError(msg)
        values = self._shared_mean({name: float(v.detach()) for name, v in losses.items()})
        bad = sorted(name for name, value in values.items() if not math.isfinite(value))
        if bad:
            raise ModelError("SW-405", f"{', '.join(bad)} not finite at step {self.global_step}")
        for name, value in {**values, "steps": 1.0}.items():
            self.loss_sums[name] = self.loss_sums.get(name, 0.0) + value
        return torch.stack(list(losses.values())).sum()

    def _shared_mean(self, values: dict[str, float]) -> dict[str, float]:
        """Mean over the processes, so that all of them see a loss that is not finite, and stop."""
        if self.trainer.world_size == 1:
            return values
        mean = self.trainer.strategy.reduce(
            torch.tensor(list(values.values()), device=self.device), reduce_op="mean"
        )
        return dict(zip(values, torch.as_tensor(mean).tolist(), strict=True))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Update the average after every optimiser step.

        Parameters
        ----------
        outputs, batch, batch_idx : object
            Not used.
        """
        self.averaged.update(self.model)

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """Optimiser of the schedule, whose rate is set anew at every optimiser step.

        Returns
        -------
        dict
            ``optimizer`` and ``lr_scheduler``, as Lightning expects them.
        """
        optimizer = self._schedule.optimizer(self.model)
        # A plain function, since of other callables the schedule would put the state into checkpoints.
        rate = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: self._schedule.factor(step),  # noqa: PLW0108
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the average to a checkpoint.

        Parameters
        ----------
        checkpoint : dict
            Changed in place.
        """
        checkpoint["averaged"] = self.averaged.model.state_dict()
        checkpoint["averaged_updates"] = self.averaged.updates

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the average from a checkpoint.

        Parameters
        ----------
        checkpoint : dict
            As `on_save_checkpoint` left it.
        """
        self.averaged.model.load_state_dict(checkpoint["averaged"])
        self.averaged.updates = checkpoint["averaged_updates"]


def _trunk(model: Detector) -> nn.Module:
    """The part that describes the image; of a U-Net, the contracting half."""
    return model.backbone.trunk if isinstance(model, SmallObjectMaskRCNN) else model.down

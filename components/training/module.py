"""The training step: losses, optimiser, learning rate, averaged weights."""

from __future__ import annotations

import copy
import math
from typing import Any, Final

import lightning
import torch
from torch import Tensor, nn

from components.errors import ModelError
from models.build import Detector

#: One batch: images [C, H, W] and their targets.
Batch = tuple[list[Tensor], list[dict[str, Tensor]]]

#: Share of the peak learning rate at the end of the cosine.
FINAL_SHARE: Final = 0.02

#: Largest norm of the gradient.
GRADIENT_CLIP: Final = 5.0


def learning_rate_factor(step: int, warmup: int, total: int) -> float:
    """Learning rate of a step as a share of the peak: linear rise, then half a cosine.

    The cosine (Loshchilov & Hutter 2017, arXiv:1608.03983) runs from the end of the warm-up to the
    last step and ends at `FINAL_SHARE`.

    Parameters
    ----------
    step : int
        Optimiser steps done so far, from 0.
    warmup : int
        Steps of the linear rise, ≥ 0.
    total : int
        Steps of the whole training.

    Returns
    -------
    float
        In (0, 1].
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * done))


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
    learning_rate, weight_decay : float
        Of AdamW; biases and normalisation do not decay.
    warmup_steps, total_steps : int
        Of the learning rate.
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
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
        total_steps: int,
        ema_decay: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.averaged = AveragedModel(model, ema_decay)
        self.loss_sums: dict[str, float] = {}
        self._learning_rate = learning_rate
        self._weight_decay = weight_decay
        self._warmup_steps = warmup_steps
        self._total_steps = total_steps
        self._seed = seed

    def on_fit_start(self) -> None:
        """Bring the average to the device of the network."""
        self.averaged.model.to(self.device)

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
        torch.manual_seed(self._seed * 1_000_003 + self.global_step)
        images, targets = batch
        losses = self.model(images, targets)
        if not isinstance(losses, dict):
            msg = "the network is not in training mode"
            raise RuntimeError(msg)
        values = {name: float(value.detach()) for name, value in losses.items()}
        bad = sorted(name for name, value in values.items() if not math.isfinite(value))
        if bad:
            raise ModelError("SW-405", f"{', '.join(bad)} not finite at step {self.global_step}")
        for name, value in {**values, "steps": 1.0}.items():
            self.loss_sums[name] = self.loss_sums.get(name, 0.0) + value
        return torch.stack(list(losses.values())).sum()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Update the average after every optimiser step.

        Parameters
        ----------
        outputs, batch, batch_idx : object
            Not used.
        """
        self.averaged.update(self.model)

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """AdamW with warm-up and cosine decay, one step of the schedule an optimiser step.

        Returns
        -------
        dict
            ``optimizer`` and ``lr_scheduler``, as Lightning expects them.
        """
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": self._weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=self._learning_rate,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: learning_rate_factor(step, self._warmup_steps, self._total_steps),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

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

"""Learning-rate schedules by name: the modern default, and the paper's two stages.

``cosine`` is AdamW with a linear warm-up and half a cosine. ``paper`` is stochastic gradient descent in
two stages of equal length: 0.01 for the heads while the trunk of the backbone is frozen, then 0.001 for
all layers. The paper gives rates and order; momentum 0.9 and weight decay 1e-4 are those of Mask R-CNN
(He et al. 2017, doi:10.1109/ICCV.2017.322, section 3.1).
"""

from __future__ import annotations

import math
from typing import Any, Final, Literal, Protocol

import torch
from torch import nn

ScheduleName = Literal["cosine", "paper"]

#: Share of the peak learning rate at the end of the cosine.
FINAL_SHARE: Final = 0.02

#: Learning rates of the paper's two stages: heads, all layers.
PAPER_RATES: Final = (0.01, 0.001)
PAPER_MOMENTUM: Final = 0.9
PAPER_WEIGHT_DECAY: Final = 1e-4


class Schedule(Protocol):
    """Optimiser, its rate at every step, and what rests."""

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Optimiser of all parameters."""

    def factor(self, step: int) -> float:
        """Learning rate of a step as a share of the optimiser's."""

    def trunk_frozen(self, step: int) -> bool:
        """Whether the trunk of the backbone rests in a step."""


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


class CosineSchedule:
    """AdamW, linear warm-up, half a cosine; all layers from the first step.

    Parameters
    ----------
    learning_rate : float
        Peak, > 0.
    weight_decay : float
        Of weights; biases and normalisation do not decay.
    warmup_steps, total_steps : int
        As in `learning_rate_factor`.
    """

    def __init__(
        self, *, learning_rate: float, weight_decay: float, warmup_steps: int, total_steps: int
    ) -> None:
        self._learning_rate = learning_rate
        self._weight_decay = weight_decay
        self._warmup_steps = warmup_steps
        self._total_steps = total_steps

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW of all parameters.

        Parameters
        ----------
        model : torch.nn.Module
            To be trained.

        Returns
        -------
        torch.optim.Optimizer
        """
        return torch.optim.AdamW(_groups(model, self._weight_decay), lr=self._learning_rate)

    def factor(self, step: int) -> float:
        """Share of the peak rate.

        Parameters
        ----------
        step : int
            Optimiser steps done so far.

        Returns
        -------
        float
            In (0, 1].
        """
        return learning_rate_factor(step, self._warmup_steps, self._total_steps)

    def trunk_frozen(self, step: int) -> bool:  # noqa: ARG002
        """Nothing is frozen.

        Parameters
        ----------
        step : int
            Not used.

        Returns
        -------
        bool
            False.
        """
        return False


class PaperSchedule:
    """Momentum descent in two stages of half the steps each: heads, then all layers.

    Parameters
    ----------
    total_steps : int
        Of the whole training; of an odd number the second stage has one more.
    """

    def __init__(self, total_steps: int) -> None:
        self._heads_until = total_steps // 2

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD of all parameters; frozen ones have no gradient and rest.

        Parameters
        ----------
        model : torch.nn.Module
            To be trained.

        Returns
        -------
        torch.optim.Optimizer
        """
        return torch.optim.SGD(
            _groups(model, PAPER_WEIGHT_DECAY), lr=PAPER_RATES[0], momentum=PAPER_MOMENTUM
        )

    def factor(self, step: int) -> float:
        """1 in the first stage, 0.1 in the second.

        Parameters
        ----------
        step : int
            Optimiser steps done so far.

        Returns
        -------
        float
        """
        return 1.0 if step < self._heads_until else PAPER_RATES[1] / PAPER_RATES[0]

    def trunk_frozen(self, step: int) -> bool:
        """Whether a step belongs to the first stage.

        Parameters
        ----------
        step : int
            Optimiser steps done so far.

        Returns
        -------
        bool
        """
        return step < self._heads_until


def freeze(part: nn.Module, *, frozen: bool) -> None:
    """Let a part of the network rest, or wake it.

    Parameters
    ----------
    part : torch.nn.Module
        Neither its weights nor the running statistics of its normalisation move while it rests.
    frozen : bool
        Whether it rests.
    """
    part.requires_grad_(not frozen)
    part.train(not frozen)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases and normalisation do not."""
    return [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]

"""Footprint guide: a segmentation of the finest level that leads the detector.

From random weights and few tiles, a detector learns slowly: a handful of sampled boxes an image is all
that its heads see. A segmentation gets a gradient from every pixel. The guide learns where landslides
are at the finest level, and gives its features and probabilities back to every level, so that proposals,
boxes and masks start from them (the semantic branch of Chen et al. 2019, arXiv:1901.07518, without
the cascade).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.norms import HEAD_NORMS, NormName
from models.targets import learnable

#: Share of landslide pixels that the untrained guide expects; spares the first steps from learning
#: that nearly everything is background (Lin et al. 2017, arXiv:1708.02002, section 3.3).
PRIOR: Final = 0.02

#: Weight of the cross-entropy beside Dice: its mean is small, since most pixels are easy.
BALANCE: Final = 5.0


class Guided(NamedTuple):
    """What the guide gives.

    Parameters
    ----------
    levels : OrderedDict of Tensor
        Pyramid levels with the guide's context added, shapes unchanged.
    logits : Tensor
        float [B, classes, h, w] at the finest level.
    """

    levels: OrderedDict[str, Tensor]
    logits: Tensor


class FootprintGuide(nn.Module):
    """Segmentation head whose context flows back into the pyramid.

    Parameters
    ----------
    channels : int
        Channels of the pyramid levels.
    width : int
        Channels of the head.
    classes : int
        Classes without background.
    norm : {"batch", "group", "frozen"}
        Normalisation; see `models.norms.HEAD_NORMS`.
    """

    def __init__(self, channels: int, width: int, classes: int, norm: NormName) -> None:
        super().__init__()
        make_norm = HEAD_NORMS[norm]
        self.hidden = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            make_norm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            make_norm(width),
            nn.ReLU(inplace=True),
        )
        self.logits = nn.Conv2d(width, classes, 1)
        self.context = nn.Conv2d(width + classes, channels, 1)
        if self.logits.bias is not None:
            nn.init.constant_(self.logits.bias, math.log(PRIOR / (1 - PRIOR)))

    def forward(self, levels: OrderedDict[str, Tensor]) -> Guided:
        """Segment the finest level and guide all.

        Parameters
        ----------
        levels : OrderedDict of Tensor
            float [B, channels, h, w] each, finest first; every size a divisor of the finest one.

        Returns
        -------
        Guided
        """
        finest = next(iter(levels.values()))
        hidden = self.hidden(finest)
        logits = self.logits(hidden)
        context = torch.cat([hidden, logits.sigmoid()], dim=1)
        out: OrderedDict[str, Tensor] = OrderedDict()
        for name, level in levels.items():
            factor = finest.shape[-2] // level.shape[-2]
            pooled = functional.avg_pool2d(context, factor) if factor > 1 else context
            out[name] = level + self.context(pooled)
        return Guided(out, logits)


def segmentation_loss(
    logits: Tensor, targets: Sequence[dict[str, Tensor]], shape: torch.Size
) -> Tensor:
    """Binary cross-entropy plus Dice of the footprint, ignored ground left out.

    The Dice term (Milletari et al. 2016, doi:10.1109/3DV.2016.79) keeps the few landslide pixels
    from drowning in background.

    Parameters
    ----------
    logits : Tensor
        float [B, classes, h, w].
    targets : sequence of dict
        ``masks``, ``labels`` and optionally ``ignore``.
    shape : torch.Size
        Height and width of the batch [px], a multiple of those of `logits`.

    Returns
    -------
    Tensor
        Scalar.
    """
    full = logits.new_zeros((logits.shape[0], logits.shape[1], *shape))
    for i, target in enumerate(targets):
        for label in range(1, logits.shape[1] + 1):
            chosen = target["masks"][target["labels"] == label]
            if len(chosen):
                height, width = chosen.shape[-2:]
                full[i, label - 1, :height, :width] = chosen.amax(dim=0)
    stride = shape[0] // logits.shape[-2]
    known = functional.avg_pool2d(learnable(targets, shape), stride) > 0.5
    share = functional.avg_pool2d(full, stride) * known
    each = functional.binary_cross_entropy_with_logits(logits, share, reduction="none")
    prob = logits.sigmoid() * known
    overlap = 2 * (prob * share).sum() + 1
    dice = overlap / (prob.sum() + share.sum() + 1)
    return (each * known).mean() * BALANCE + (1 - dice)

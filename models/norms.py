"""Normalisation of feature maps, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Literal

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

NormName = Literal["batch", "group", "frozen"]

#: Makes a normalisation for a number of channels.
NormLayer = Callable[[int], nn.Module]

#: Groups of GroupNorm (Wu & He 2018, arXiv:1803.08494), fewer where channels are few.
GROUPS: Final = 32


def group_norm(channels: int) -> nn.Module:
    """GroupNorm with up to 32 groups of at least two channels.

    ``y = γ · (x − μ_g) / √(σ_g² + ε) + β``, with mean and variance over the channels of one group and
    all pixels of one image (Wu & He 2018, arXiv:1803.08494, equations 1 and 7). A group of a single
    channel has no variance on a map of one pixel.

    Parameters
    ----------
    channels : int
        Channels of the map.

    Returns
    -------
    torch.nn.Module
    """
    groups = math.gcd(GROUPS, channels)
    return nn.GroupNorm(max(1, groups // 2) if groups == channels else groups, channels)


#: Name → layer of the trunk. ``batch`` learns from the batch (Ioffe & Szegedy 2015, arXiv:1502.03167);
#: ``group`` does not depend on the batch's size; ``frozen`` keeps the statistics and scales of loaded
#: weights and is of no use with random ones.
TRUNK_NORMS: Final[dict[NormName, NormLayer]] = {
    "batch": nn.BatchNorm2d,
    "group": group_norm,
    "frozen": FrozenBatchNorm2d,
}

#: Name → layer of the pyramid and the guide, which have no loaded statistics to keep: what freezes
#: the trunk, a small batch, speaks for GroupNorm here.
HEAD_NORMS: Final[dict[NormName, NormLayer]] = {**TRUNK_NORMS, "frozen": group_norm}

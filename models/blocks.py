"""Residual blocks: ResNet's basic and bottleneck, ResNeXt's grouped bottleneck.

    y = relu(F(x) + shortcut(x))

(He et al. 2016, doi:10.1109/CVPR.2016.90, equations 1 and 2), with F two 3 × 3 convolutions (basic)
or 1 × 1, 3 × 3, 1 × 1 (bottleneck; the stride is in the 3 × 3). In a ResNeXt block (Xie et al. 2017,
arXiv:1611.05431, equation 3)

    F(x) = Σᵢ Tᵢ(x),    Tᵢ: 1 × 1 to d channels, 3 × 3, 1 × 1 back,    i = 1 … C

which a bottleneck with C groups in its 3 × 3 computes at once (their figure 3). Any 3 × 3 called
``conv2`` can be deformable. Parameters carry torchvision's names.
"""

from __future__ import annotations

from typing import Final, Literal

from torch import Tensor, nn

from models.deformable import DeformableConv2d, DeformName
from models.norms import NormLayer

BlockName = Literal["basic", "bottleneck"]

#: Output channels over base width.
EXPANSION: Final[dict[BlockName, int]] = {"basic": 1, "bottleneck": 4}

#: Base width to which a `group_width` belongs (Xie et al. 2017, table 1).
REFERENCE_WIDTH: Final = 64


def _conv3x3(
    in_channels: int, out_channels: int, stride: int, groups: int, deform: DeformName
) -> nn.Module:
    if deform == "none":
        return nn.Conv2d(
            in_channels, out_channels, 3, stride=stride, padding=1, groups=groups, bias=False
        )
    return DeformableConv2d(
        in_channels, out_channels, 3, stride=stride, groups=groups, modulated=deform == "v2"
    )


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions; the second can be deformable.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels.
    stride : int
        Stride [px].
    shortcut : torch.nn.Module or None
        Projection of the input where its shape differs from the output's.
    norm : callable
        Makes a normalisation.
    deform : {"none", "v1", "v2"}
        Kind of the second convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        shortcut: nn.Module | None,
        norm: NormLayer,
        deform: DeformName,
    ) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, out_channels, stride, 1, "none")
        self.bn1 = norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(out_channels, out_channels, 1, 1, deform)
        self.bn2 = norm(out_channels)
        self.downsample = shortcut

    @property
    def last_norm(self) -> nn.Module:
        """Normalisation before the sum."""
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block.

        Parameters
        ----------
        x : Tensor
            float [B, in_channels, H, W].

        Returns
        -------
        Tensor
            float [B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉].
        """
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        y: Tensor = self.relu(out)
        return y


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3 and 1 × 1 convolution; the middle one can be grouped and deformable.

    Parameters
    ----------
    in_channels, inner, out_channels : int
        Channels before, between and after.
    stride : int
        Stride [px].
    shortcut : torch.nn.Module or None
        Projection of the input where its shape differs from the output's.
    norm : callable
        Makes a normalisation.
    groups : int
        Groups of the 3 × 3; a divisor of `inner`. More than 1 makes it a ResNeXt block.
    deform : {"none", "v1", "v2"}
        Kind of the 3 × 3.
    """

    def __init__(
        self,
        in_channels: int,
        inner: int,
        out_channels: int,
        stride: int,
        shortcut: nn.Module | None,
        norm: NormLayer,
        groups: int,
        deform: DeformName,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = norm(inner)
        self.conv2 = _conv3x3(inner, inner, stride, groups, deform)
        self.bn2 = norm(inner)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn3 = norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut

    @property
    def last_norm(self) -> nn.Module:
        """Normalisation before the sum."""
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block.

        Parameters
        ----------
        x : Tensor
            float [B, in_channels, H, W].

        Returns
        -------
        Tensor
            float [B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉].
        """
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        y: Tensor = self.relu(out)
        return y


def residual_stage(
    in_channels: int,
    width: int,
    depth: int,
    stride: int,
    *,
    block: BlockName,
    groups: int,
    group_width: int,
    deform: DeformName,
    norm: NormLayer,
) -> nn.Sequential:
    """One stage: blocks of one kind, the first of which changes resolution and channels.

    Parameters
    ----------
    in_channels : int
        Channels of the input.
    width : int
        Base width; the stage puts out ``width · EXPANSION[block]`` channels.
    depth : int
        Number of blocks.
    stride : int
        Stride of the first block [px].
    block : {"basic", "bottleneck"}
        ResNet block where `groups` is 1. A grouped stage is of bottlenecks always (two grouped 3 × 3
        in a row would be a wide dense block: Xie et al. 2017, section 3.3).
    groups : int
        1 for a ResNet stage, 32 for the paper's ResNeXt.
    group_width : int
        Channels of a group at a base width of 64, growing with `width`: 4 in ``32x4d``.
    deform : {"none", "v1", "v2"}
        Kind of each block's ``conv2``.
    norm : callable
        Makes a normalisation.

    Returns
    -------
    torch.nn.Sequential
    """
    out_channels = width * EXPANSION[block]
    shortcut: nn.Module | None = None
    if stride != 1 or in_channels != out_channels:
        shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), norm(out_channels)
        )
    blocks: list[nn.Module] = []
    for i in range(depth):
        entry = in_channels if i == 0 else out_channels
        step, projection = (stride, shortcut) if i == 0 else (1, None)
        if block == "basic" and groups == 1:
            blocks.append(BasicBlock(entry, out_channels, step, projection, norm, deform))
            continue
        inner = width
        if groups > 1:
            inner = int(width * group_width / REFERENCE_WIDTH) * groups
        blocks.append(
            Bottleneck(entry, inner, out_channels, step, projection, norm, groups, deform)
        )
    return nn.Sequential(*blocks)

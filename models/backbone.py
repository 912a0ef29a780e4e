"""Backbone: a residual trunk with any number of input channels, and a feature pyramid on it.

The trunk is the residual network of He et al. (2016, doi:10.1109/CVPR.2016.90) with two changes for
objects of a few pixels: the stem takes N channels, and its max-pool can be left out, which halves
every stride (2, 4, 8, 16 instead of 4, 8, 16, 32). The pyramid is that of Lin et al. (2017,
doi:10.1109/CVPR.2017.106). Parameters carry torchvision's names inside the trunk.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

BlockName = Literal["basic", "bottleneck"]

#: Residual blocks by name; both follow torchvision's constructor.
BLOCKS: Final[dict[BlockName, type[BasicBlock | Bottleneck]]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
}


class LocalContrast(nn.Module):
    """Append to every channel its difference to the local mean.

    Deformation maps carry atmosphere of far larger amplitude and extent than a landslide's motion.
    The difference to the mean of a window takes it away before the first convolution, which would
    otherwise spend its first epochs on learning to do so. No parameters.

    Parameters
    ----------
    window : int
        Side of the window [px], odd; larger than a landslide, smaller than the atmosphere.
    gain : float
        Factor of the difference, which is small beside the value.

    Notes
    -----
    Presets put 0 where there is no data: zeros do not enter the mean, and their difference is 0.
    """

    def __init__(self, window: int, gain: float = 3.0) -> None:
        super().__init__()
        self.window = window
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """Image with its contrast.

        Parameters
        ----------
        x : Tensor
            float [B, C, H, W].

        Returns
        -------
        Tensor
            float [B, 2·C, H, W].
        """
        present = (x != 0).to(x.dtype)
        mean = self._sums(x) / self._sums(present).clamp(min=1)
        return torch.cat([x, (x - mean) * present * self.gain], dim=1)

    def _sums(self, x: Tensor) -> Tensor:
        """Sums over the window, cut at the edges, from running sums: the cost is not the window's."""
        half = self.window // 2
        for axis in (-1, -2):
            ends = (half + 1, half) if axis == -1 else (0, 0, half + 1, half)
            running = functional.pad(x, ends).cumsum(axis)
            size = x.shape[axis]
            x = running.narrow(axis, self.window, size) - running.narrow(axis, 0, size)
        return x


class ResNetTrunk(nn.Module):
    """Residual trunk that returns the output of its four stages.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    block : {"basic", "bottleneck"}
        Residual block.
    depths : sequence of int
        Blocks of each of the four stages.
    widths : sequence of int
        Base width of each stage; a bottleneck stage puts out four times that.
    max_pool : bool
        Whether the stem halves the resolution a second time: finest stride 4 with it, 2 without.
    contrast_window : int
        Window of `LocalContrast` [px], odd; 0 leaves it out.
    """

    def __init__(
        self,
        in_channels: int,
        block: BlockName,
        depths: Sequence[int],
        widths: Sequence[int],
        *,
        max_pool: bool,
        contrast_window: int = 0,
    ) -> None:
        super().__init__()
        self.contrast = LocalContrast(contrast_window) if contrast_window else None
        planes = in_channels * (2 if self.contrast is not None else 1)
        self.conv1 = nn.Conv2d(planes, widths[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if max_pool else nn.Identity()
        kind = BLOCKS[block]
        inplanes = widths[0]
        self.stage_names = tuple(f"layer{i + 1}" for i in range(len(depths)))
        self.out_channels: list[int] = []
        for i, (name, depth, width) in enumerate(
            zip(self.stage_names, depths, widths, strict=True)
        ):
            stride = 1 if i == 0 else 2
            self.add_module(name, _stage(kind, inplanes, width, depth, stride))
            inplanes = width * kind.expansion
            self.out_channels.append(inplanes)
        first = 4 if max_pool else 2
        self.strides: tuple[int, ...] = tuple(first * 2**i for i in range(len(depths)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        # A block whose last normalisation starts at zero is the identity: trains faster from
        # random weights (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
        for module in self.modules():
            if isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)
            elif isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Stage outputs, finest first.

        Parameters
        ----------
        x : Tensor
            float [B, in_channels, H, W]; H and W multiples of the coarsest stride.

        Returns
        -------
        OrderedDict of Tensor
            ``"0"`` … ``"3"``: [B, out_channels[i], H / strides[i], W / strides[i]].
        """
        if self.contrast is not None:
            x = self.contrast(x)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        out: OrderedDict[str, Tensor] = OrderedDict()
        for i, name in enumerate(self.stage_names):
            x = self.get_submodule(name)(x)
            out[str(i)] = x
        return out


def _stage(
    kind: type[BasicBlock | Bottleneck], inplanes: int, width: int, depth: int, stride: int
) -> nn.Sequential:
    outplanes = width * kind.expansion
    shortcut: nn.Module | None = None
    if stride != 1 or inplanes != outplanes:
        shortcut = nn.Sequential(
            nn.Conv2d(inplanes, outplanes, 1, stride=stride, bias=False), nn.BatchNorm2d(outplanes)
        )
    blocks = [kind(inplanes, width, stride, shortcut)]
    blocks += [kind(outplanes, width) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


class PyramidBackbone(nn.Module):
    """Trunk and feature pyramid: the ``backbone`` of a torchvision detector.

    Parameters
    ----------
    trunk : ResNetTrunk
        Source of the levels.
    channels : int
        Channels of every pyramid level.
    extra_level : bool
        Whether a coarser level is added by sub-sampling the coarsest one (P6 of the paper).

    Attributes
    ----------
    out_channels : int
        Channels of every level, as torchvision expects it.
    strides : tuple of int
        Stride of each level [px], finest first.
    """

    def __init__(self, trunk: ResNetTrunk, channels: int, *, extra_level: bool) -> None:
        super().__init__()
        self.trunk = trunk
        self.fpn = FeaturePyramidNetwork(
            trunk.out_channels,
            channels,
            extra_blocks=LastLevelMaxPool() if extra_level else None,
            norm_layer=nn.BatchNorm2d,
        )
        self.out_channels = channels
        extra = (trunk.strides[-1] * 2,) if extra_level else ()
        self.strides: tuple[int, ...] = trunk.strides + extra

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Pyramid levels, finest first.

        Parameters
        ----------
        x : Tensor
            float [B, C, H, W].

        Returns
        -------
        OrderedDict of Tensor
            Levels ``"0"``, ``"1"``, … (and ``"pool"``), each [B, out_channels, H / s, W / s].
        """
        levels: OrderedDict[str, Tensor] = self.fpn(
            self.trunk(x.contiguous(memory_format=torch.channels_last))
        )
        return levels

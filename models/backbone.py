"""Backbone: a residual trunk with any number of input channels, and a feature pyramid on it.

The trunk is the residual network of He et al. (2016, doi:10.1109/CVPR.2016.90) with changes: the stem
takes N channels; its max-pool can be left out for objects of a few pixels, which halves every stride
(2, 4, 8, 16 instead of 4, 8, 16, 32); each stage has its own kind of block (see `models.blocks`). The
pyramid is that of Lin et al. (2017, doi:10.1109/CVPR.2017.106), with attention on any of its levels
(see `models.attention`). Parameters carry torchvision's names.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork

from models.attention import AttentionName, attention_layer
from models.blocks import EXPANSION, BasicBlock, BlockName, Bottleneck, residual_stage
from models.contrast import LocalContrast
from models.deformable import DeformableConv2d, DeformName
from models.norms import HEAD_NORMS, TRUNK_NORMS, NormName


class ResNetTrunk(nn.Module):
    """Residual trunk that returns the output of its stages.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    block : {"basic", "bottleneck"}
        Residual block.
    depths : sequence of int
        Blocks of each stage.
    widths : sequence of int
        Base width of each stage; a bottleneck stage puts out four times that.
    groups : sequence of int
        Groups of each stage's 3 × 3 convolutions: 1 for ResNet, 32 for ResNeXt.
    group_width : int
        Channels of a group at a base width of 64.
    deform : sequence of {"none", "v1", "v2"}
        Deformable convolution of each stage.
    norm : {"batch", "group", "frozen"}
        Normalisation.
    max_pool : bool
        Whether the stem halves the resolution a second time: finest stride 4 with it, 2 without.
    contrast_window : int
        Window of `models.contrast.LocalContrast` [px], odd; 0 leaves it out.
    contrast_products : sequence of (int, int)
        Its products.
    """

    def __init__(
        self,
        in_channels: int,
        block: BlockName,
        depths: Sequence[int],
        widths: Sequence[int],
        *,
        groups: Sequence[int],
        group_width: int,
        deform: Sequence[DeformName],
        norm: NormName,
        max_pool: bool,
        contrast_window: int,
        contrast_products: Sequence[tuple[int, int]] = (),
    ) -> None:
        super().__init__()
        self.contrast = None
        planes = in_channels
        if contrast_window:
            self.contrast = LocalContrast(contrast_window, contrast_products)
            planes = self.contrast.planes(in_channels)
        make_norm = TRUNK_NORMS[norm]
        self.conv1 = nn.Conv2d(planes, widths[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if max_pool else nn.Identity()
        self.stage_names = tuple(f"layer{i + 1}" for i in range(len(depths)))
        self.out_channels: list[int] = []
        entry = widths[0]
        for i, name in enumerate(self.stage_names):
            stage = residual_stage(
                entry,
                widths[i],
                depths[i],
                1 if i == 0 else 2,
                block=block,
                groups=groups[i],
                group_width=group_width,
                deform=deform[i],
                norm=make_norm,
            )
            self.add_module(name, stage)
            entry = widths[i] * EXPANSION[block]
            self.out_channels.append(entry)
        first = 4 if max_pool else 2
        self.strides: tuple[int, ...] = tuple(first * 2**i for i in range(len(depths)))
        self._initialise(zero_last=norm != "frozen")

    def _initialise(self, *, zero_last: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, DeformableConv2d):
                module.reset_parameters()  # its offsets are no convolution like the others
        # A block whose last normalisation starts at zero is the identity: trains faster from
        # random weights (Goyal et al. 2017, arXiv:1706.02677, section 5.1). Frozen, it would stay so.
        for module in self.modules():
            if zero_last and isinstance(module, (BasicBlock, Bottleneck)):
                weight = module.last_norm.weight
                if isinstance(weight, Tensor):
                    nn.init.zeros_(weight)

    def entry(self, x: Tensor) -> Tensor:
        """What the first stage reads, before its rectifier.

        Parameters
        ----------
        x : Tensor
            float [B, in_channels, H, W].

        Returns
        -------
        Tensor
            float [B, widths[0], h, w] at the finest stride.
        """
        if self.contrast is not None:
            x = self.contrast(x)
        y: Tensor = self.maxpool(self.bn1(self.conv1(x)))
        return y

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Stage outputs, finest first.

        Parameters
        ----------
        x : Tensor
            float [B, in_channels, H, W]; H and W multiples of the coarsest stride.

        Returns
        -------
        OrderedDict of Tensor
            ``"0"``, ``"1"``, …: [B, out_channels[i], H / strides[i], W / strides[i]].
        """
        # Of the largest value, which the pooling takes, the rectifier may as well come later.
        x = self.relu(self.entry(x))
        out: OrderedDict[str, Tensor] = OrderedDict()
        for i, name in enumerate(self.stage_names):
            x = self.get_submodule(name)(x)
            out[str(i)] = x
        return out


class PyramidBackbone(nn.Module):
    """Trunk and feature pyramid: the ``backbone`` of a torchvision detector.

    Parameters
    ----------
    trunk : ResNetTrunk
        Source of the levels.
    channels : int
        Channels of every pyramid level.
    attention : sequence of {"none", "cbam", "sa"}
        Attention on each level, finest first (P2 to P5 of the paper).
    attention_keys : int
        Largest side of the grid of keys of self-attention.
    norm : {"batch", "group", "frozen"}
        Normalisation of the pyramid; see `models.norms.HEAD_NORMS`.
    extra_level : bool
        Whether a coarser level is added by sub-sampling the coarsest one (P6 of the paper).

    Attributes
    ----------
    out_channels : int
        Channels of every level, as torchvision expects it.
    strides : tuple of int
        Stride of each level [px], finest first.
    """

    def __init__(
        self,
        trunk: ResNetTrunk,
        channels: int,
        *,
        attention: Sequence[AttentionName],
        attention_keys: int,
        norm: NormName,
        extra_level: bool,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.fpn = FeaturePyramidNetwork(trunk.out_channels, channels, norm_layer=HEAD_NORMS[norm])
        self.attention = nn.ModuleList(
            attention_layer(name, channels, attention_keys) for name in attention
        )
        self.extra_level = extra_level
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
        for name, layer in zip(levels, self.attention, strict=True):
            levels[name] = layer(levels[name])
        if self.extra_level:
            coarsest = next(reversed(levels.values()))
            levels["pool"] = functional.max_pool2d(coarsest, 1, stride=2)
        return levels

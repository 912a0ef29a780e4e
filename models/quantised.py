"""Trunk, pyramid and guide of a small-object network in integers of 8 bits, for a CPU.

A processor with VNNI instructions multiplies bytes twice as fast as bfloat16 numbers, and a map is mostly
convolutions (`models.int8`). The first convolution and the heads, where coordinates and scores come from,
keep the precision of the run.

Activations get their scales from images that the network was shown once (`activation_ranges`); the weights'
card keeps them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.forms import ModelSpec
from models.guide import FootprintGuide
from models.int8 import STEPS, QuantisedConv, Scale, scale_of, to_bytes
from models.roi import table_levels

if TYPE_CHECKING:
    from models.inference import InferenceNetwork

#: Lowest and highest value of every activation, by the name of the convolution that reads it.
Ranges = dict[str, list[float]]

#: Where a weights card keeps them.
RANGES: Final = "activation_ranges"

#: Share of the values of an activation that its scale holds; the rest is cut off at the ends.
HELD: Final = 0.9999

#: Values that the ends of a range are taken from, at most: a sample serves as well.
_SAMPLE: Final = 1 << 19


def quantisable(spec: ModelSpec) -> str:
    """Why a form cannot be computed in integers.

    Parameters
    ----------
    spec : ModelSpec
        The form.

    Returns
    -------
    str
        Empty where it can be.
    """
    if spec.block != "basic" or set(spec.groups) != {1} or set(spec.deform) != {"none"}:
        return "its trunk is not of basic blocks with plain convolutions"
    if set(spec.attention) != {"none"} or spec.extra_level:
        return "its pyramid has attention or an extra level"
    if spec.norm != "batch" or not spec.guide_width:
        return "it has no batch normalisation or no footprint guide"
    return ""


@torch.inference_mode()
def activation_ranges(network: InferenceNetwork, batches: Iterable[Tensor]) -> Ranges:
    """Lowest and highest value of every activation that is to become bytes.

    Parameters
    ----------
    network : InferenceNetwork
        In float32 and of a form that is `quantisable`.
    batches : iterable of Tensor
        float32 [B, C, H, W] each: images such as the network will read.

    Returns
    -------
    dict of str to [float, float]
        Name of a convolution → ends of what it reads (of a shortcut: of what it gives). The share `HELD`
        of the values lies below the upper end, and as much above the lower one.
    """
    ranges: Ranges = {}

    def see(name: str, values: Tensor) -> None:
        flat = values.detach().flatten()
        flat = flat[:: max(1, len(flat) // _SAMPLE)].float()
        rank = min(len(flat), max(1, round(HELD * len(flat))))
        ends = ranges.setdefault(name, [0.0, 0.0])
        ends[0] = min(ends[0], -float((-flat).kthvalue(rank).values))
        ends[1] = max(ends[1], float(flat.kthvalue(rank).values))

    handles = []
    for name, conv in _convolutions(network).items():
        if _is_shortcut(name):
            handles.append(conv.register_forward_hook(lambda _m, _x, y, name=name: see(name, y)))
        else:
            handles.append(conv.register_forward_pre_hook(lambda _m, x, name=name: see(name, x[0])))
    try:
        for images in batches:
            batch, _ = network.pad(images)
            network.features(batch.tensors)
    finally:
        for handle in handles:
            handle.remove()
    return ranges


def _convolutions(network: InferenceNetwork) -> dict[str, nn.Conv2d]:
    """The convolutions that are computed in integers, by name."""
    trunk = network.backbone.trunk
    parts: dict[str, nn.Module] = {name: trunk.get_submodule(name) for name in trunk.stage_names}
    parts |= {"fpn": network.backbone.fpn, "guide": _guide(network)}
    return {
        f"{part}.{name}": module
        for part, root in parts.items()
        for name, module in root.named_modules()
        if isinstance(module, nn.Conv2d)
    }


def _guide(network: InferenceNetwork) -> FootprintGuide:
    if network.guide is None:
        msg = "a form without a footprint guide cannot be computed in integers"
        raise ValueError(msg)
    return network.guide


def _is_shortcut(name: str) -> bool:
    return ".downsample." in name


class _Block(NamedTuple):
    """A basic residual block."""

    first: QuantisedConv
    second: QuantisedConv
    shortcut: QuantisedConv | None
    other: Scale
    give: Scale


class QuantisedFeatures:
    """Pyramid levels and guide of an `InferenceNetwork`, computed in integers.

    Parameters
    ----------
    network : InferenceNetwork
        In float32, its normalisations folded, of a form that is `quantisable`.
    ranges : mapping
        Of `activation_ranges`.
    dtype : torch.dtype
        Precision of what comes out.

    Raises
    ------
    KeyError
        Where the ranges lack a convolution.
    TypeError, ValueError
        Where what they say of one is no range.
    """

    def __init__(
        self, network: InferenceNetwork, ranges: Mapping[str, Any], dtype: torch.dtype
    ) -> None:
        trunk = network.backbone.trunk
        convolutions = _convolutions(network)
        read = {name: scale_of(ranges[name]) for name in convolutions}
        stages = trunk.stage_names
        levels = range(len(stages))
        blocks = [f"{s}.{i}" for s in stages for i in range(len(trunk.get_submodule(s)))]
        # What a block gives is read by the next one, and by its shortcut and the pyramid on its scale.
        coarsest = f"fpn.inner_blocks.{levels[-1]}.0"
        given = dict(
            zip(blocks, [read[f"{b}.conv1"] for b in blocks[1:]] + [read[coarsest]], strict=True)
        )
        for i, stage in enumerate(stages):
            read[f"fpn.inner_blocks.{i}.0"] = given[[b for b in blocks if b.startswith(stage)][-1]]

        def conv(name: str, reads: str = "") -> QuantisedConv:
            return QuantisedConv.of(convolutions[name], read[reads or name], dtype)

        self._entry = read[f"{blocks[0]}.conv1"]
        self._stages: list[list[_Block]] = [[] for _ in stages]
        for b in blocks:
            shortcut = f"{b}.downsample.0"
            projects = shortcut in convolutions
            self._stages[stages.index(b.split(".")[0])].append(
                _Block(
                    conv(f"{b}.conv1"),
                    conv(f"{b}.conv2"),
                    conv(shortcut, f"{b}.conv1") if projects else None,
                    read[shortcut] if projects else read[f"{b}.conv1"],
                    given[b],
                )
            )
        self._lateral = [conv(f"fpn.inner_blocks.{i}.0") for i in levels]
        self._smooth = [conv(f"fpn.layer_blocks.{i}.0") for i in levels]
        self._hidden = [conv("guide.hidden.0"), conv("guide.hidden.3")]
        self._logits = conv("guide.logits")
        self._context = [
            _context(_guide(network), self._logits.read, side, dtype) for side in (1, 2)
        ]

    def __call__(self, x: Tensor) -> tuple[OrderedDict[str, Tensor], Tensor]:
        """Levels and guide of a batch.

        Parameters
        ----------
        x : Tensor
            What the first stage reads, before its rectifier: real [B, C, h, w]. Bytes of what is not
            negative cut off the rest.

        Returns
        -------
        levels : OrderedDict of Tensor
            As `PyramidBackbone` gives them, with the guide's context; of `models.roi.table_levels`.
        logits : Tensor
            Of the guide, [B, classes, h, w].
        """
        x = to_bytes(x, self._entry)
        found: list[Tensor] = []
        for stage in self._stages:
            for block in stage:
                inner = block.first(x, block.second.read, relu=True)
                other = x if block.shortcut is None else block.shortcut(x, block.other)
                x = block.second.add(inner, other, block.other, block.give, relu=True)
            found.append(x)
        levels = self._pyramid(found)
        finest = to_bytes(levels[0], self._hidden[0].read)
        hidden = self._hidden[0](finest, self._hidden[1].read, relu=True)
        hidden = self._hidden[1](hidden, self._logits.read, relu=True)
        logits = self._logits(hidden)
        prob = (logits.float().sigmoid() * STEPS).round_().to(torch.uint8)
        context = _side_by_side(hidden, prob)
        out = table_levels(levels)
        torch.add(self._context[0](context), levels[0], out=out[0])
        pooled = self._context[1](context)
        for level, place in zip(levels[1:], out[1:], strict=True):
            torch.add(pooled, level, out=place)
            # The mean of the products is the product of the means.
            pooled = functional.avg_pool2d(pooled, 2)
        return OrderedDict((str(i), level) for i, level in enumerate(out)), logits

    def _pyramid(self, found: list[Tensor]) -> list[Tensor]:
        levels: list[Tensor] = []
        above: Tensor | None = None
        for i in reversed(range(len(found))):
            give = self._smooth[i].read
            if above is None:
                above = self._lateral[i](found[i], give)
            else:
                size = found[i].shape[-2:]
                wide = functional.interpolate(above, size=size, mode="nearest")
                above = self._lateral[i].add(found[i], wide, self._smooth[i + 1].read, give)
            levels.insert(0, self._smooth[i](above))
        return levels


def _side_by_side(*parts: Tensor) -> Tensor:
    """Channels of several tensors in one, channels last (`torch.cat` would lay them out channels first)."""
    return torch.cat([p.permute(0, 2, 3, 1) for p in parts], dim=-1).permute(0, 3, 1, 2)


def _context(guide: FootprintGuide, hidden: Scale, side: int, dtype: torch.dtype) -> QuantisedConv:
    """The guide's way back into a level: mean over its cells and 1 × 1 convolution in one."""
    weight = guide.context.weight.detach().float().clone()
    # The last channels are probabilities; the scale of their bytes goes into the weights.
    weight[:, -guide.logits.out_channels :] *= (1 / STEPS) / hidden.step
    spread = (weight.expand(-1, -1, side, side) / side**2).contiguous()
    return QuantisedConv(spread, guide.context.bias, (side, side), (0, 0), hidden, dtype)

"""Network forms: what a form states, and the table of those that have a name.

The paper (Liu et al. 2022, doi:10.3390/rs14143362) calls its stages bottom and top without numbers. The
reading here: ResNeXt blocks in C2 to C4, modulated deformable convolution in C5, attention on P2 to P5.
Forms with ``-c2``, ``-c45`` and ``-v1`` in their names are the other readings.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from models.attention import AttentionName
from models.blocks import BlockName
from models.deformable import DeformName
from models.norms import NormName


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One form of Mask R-CNN: everything that shapes the parameters or the detections.

    Parameters
    ----------
    block : {"basic", "bottleneck"}
        Residual block of the trunk.
    depths, widths : tuple of int
        Blocks and base width of each stage.
    groups : tuple of int
        Groups of each stage's 3 × 3 convolutions: 1 for ResNet, 32 for ResNeXt.
    group_width : int
        Channels of a group at a base width of 64 (4 in ``32x4d``); of no effect without groups.
    deform : tuple of {"none", "v1", "v2"}
        Deformable convolution of each stage, plain or modulated.
    norm : {"batch", "group", "frozen"}
        Normalisation.
    finest_stride : {2, 4}
        Stride of the finest level [px]; 2 leaves out the stem's max-pool.
    extra_level : bool
        A fifth, coarser level for the anchors.
    fpn_channels : int
        Channels of every level.
    attention : tuple of {"none", "cbam", "sa"}
        Attention on the pyramid level of each stage.
    attention_keys : int
        Largest side of the grid of keys of self-attention; of no effect without it.
    anchor_sizes : tuple of tuple of float
        Anchor sides of each level [px]; the same number at each level.
    aspect_ratios : tuple of float
        Height over width of the anchors.
    box_pool, box_width : int
        Side of the box RoI [cells] and width of the box head.
    mask_pool : int
        Side of the mask RoI [cells]; masks come out twice as large.
    mask_layers : tuple of int
        Channels of the mask head's convolutions.
    candidates : int
        Boxes of each level that enter the suppression of proposals.
    proposals : int
        Proposals an image, after suppression.
    rpn_samples, box_samples : int
        Anchors and RoIs an image that enter the losses. Images hold few objects: small samples keep
        the background from outweighing them.
    canonical_scale, canonical_level : int
        A RoI of side `canonical_scale` px is read at stride ``2 ** canonical_level``.
    contrast_window : int
        Window of the local contrast that is added to the input [px], odd; 0 leaves it out.
    contrast_products : tuple of (int, int)
        Pairs of channels (i, j): the contrast of i times j is added too (see `models.contrast`).
    guide_width : int
        Width of the footprint guide (see `models.guide`); 0 leaves it out.
    network : "mask-rcnn"
        Tells the kinds of form apart in a card.
    """

    block: BlockName
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    groups: tuple[int, ...]
    group_width: int
    deform: tuple[DeformName, ...]
    norm: NormName
    finest_stride: int
    extra_level: bool
    fpn_channels: int
    attention: tuple[AttentionName, ...]
    attention_keys: int
    anchor_sizes: tuple[tuple[float, ...], ...]
    aspect_ratios: tuple[float, ...]
    box_pool: int
    box_width: int
    mask_pool: int
    mask_layers: tuple[int, ...]
    candidates: int
    proposals: int
    rpn_samples: int
    box_samples: int
    canonical_scale: int
    canonical_level: int
    contrast_window: int
    contrast_products: tuple[tuple[int, int], ...]
    guide_width: int
    network: Literal["mask-rcnn"] = "mask-rcnn"

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary for a JSON card.

        Returns
        -------
        dict
            Reverse with `spec_from_dict`.
        """
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class UNetSpec:
    """One form of U-Net whose probability map is cut into connected components.

    Parameters
    ----------
    widths : tuple of int
        Channels at strides 1, 2, 4, …
    norm : {"batch", "group"}
        Normalisation.
    contrast_window : int
        Window of the local contrast that is added to the input [px], odd; 0 leaves it out.
    threshold : float
        Probability from which a pixel belongs to a component, in (0, 1).
    network : "unet"
        Tells the kinds of form apart in a card.
    """

    widths: tuple[int, ...]
    norm: Literal["batch", "group"]
    contrast_window: int
    threshold: float
    network: Literal["unet"] = "unet"

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary for a JSON card.

        Returns
        -------
        dict
            Reverse with `spec_from_dict`.
        """
        return asdict(self)


#: Any form.
Spec = ModelSpec | UNetSpec


def least_channels(spec: Spec) -> int:
    """Channels that an image must have at least for a form.

    Parameters
    ----------
    spec : ModelSpec or UNetSpec
        The form.

    Returns
    -------
    int
        1, or more where products of channels are among the input.
    """
    products = spec.contrast_products if isinstance(spec, ModelSpec) else ()
    return 1 + max((max(pair) for pair in products), default=0)


#: Groups of a ResNeXt stage (Xie et al. 2017, arXiv:1611.05431; 32 paths in the paper).
CARDINALITY: Final = 32

_LEVELS: Final = 4

#: What the lean forms share: a stride-2 finest level, small anchors and heads, few samples.
_DEMO: Final = ModelSpec(
    block="basic", depths=(1, 1, 1, 1), widths=(32, 64, 128, 192), groups=(1,) * _LEVELS,
    group_width=4, deform=("none",) * _LEVELS, norm="batch", finest_stride=2, extra_level=False,
    fpn_channels=64, attention=("none",) * _LEVELS, attention_keys=16,
    anchor_sizes=((4, 7), (11, 17), (26, 40), (60, 90)), aspect_ratios=(0.5, 1.0, 2.0),
    box_pool=7, box_width=256, mask_pool=14, mask_layers=(64, 64), candidates=240, proposals=60,
    rpn_samples=32, box_samples=32, canonical_scale=56, canonical_level=3, contrast_window=41,
    contrast_products=(), guide_width=32,
)  # fmt: skip

_RESNET18_S2: Final = replace(
    _DEMO, depths=(2, 2, 2, 2), widths=(64, 128, 256, 512), fpn_channels=128,
    anchor_sizes=((4, 7), (11, 17), (26, 40), (60, 96)), box_width=512, mask_layers=(128, 128),
    candidates=320, proposals=80, rpn_samples=64, box_samples=64, guide_width=64,
)  # fmt: skip

#: Half of ResNet-18's width, with the geometry of `resnet18-s2`. Groups are twice as wide as in the
#: large forms, so that a ResNeXt stage costs about what the basic one costs.
_SMALL: Final = replace(
    _RESNET18_S2, widths=(32, 64, 128, 256), group_width=8, fpn_channels=64, box_width=256,
    mask_layers=(64, 64), guide_width=32,
)  # fmt: skip

#: The paper's proportions.
_RESNET101: Final = replace(
    _DEMO, block="bottleneck", depths=(3, 4, 23, 3), widths=(64, 128, 256, 512), finest_stride=4,
    extra_level=True, fpn_channels=256, attention_keys=32,
    anchor_sizes=((8,), (16,), (32,), (64,), (128,)), box_width=1024, mask_layers=(256,) * 4,
    candidates=1200, proposals=300, rpn_samples=256, box_samples=256, canonical_scale=112,
    canonical_level=4, contrast_window=0, guide_width=0,
)  # fmt: skip

_RESNET50: Final = replace(_RESNET101, depths=(3, 4, 6, 3))


def staged(
    base: ModelSpec,
    *,
    resnext: Collection[int] = (),
    dcn: Collection[int] = (),
    version: DeformName = "v2",
    attention: AttentionName = "none",
) -> ModelSpec:
    """A form with other blocks in some of its stages.

    Parameters
    ----------
    base : ModelSpec
        Of plain ResNet stages.
    resnext, dcn : collection of int
        Stages with ResNeXt blocks and with deformable convolution, by the number of their output:
        2 for C2, the finest.
    version : {"v1", "v2"}
        Of the deformable convolution.
    attention : {"none", "cbam", "sa"}
        On all levels of the stages (P2, P3, …).

    Returns
    -------
    ModelSpec
    """
    stages = range(2, 2 + len(base.depths))
    return replace(
        base,
        groups=tuple(CARDINALITY if s in resnext else 1 for s in stages),
        deform=tuple(version if s in dcn else "none" for s in stages),
        attention=(attention,) * len(base.depths),
    )


def _table2(base: ModelSpec, suffix: str) -> dict[str, ModelSpec]:
    """The five rows of the paper's Table 2 on one trunk."""
    bottom, top = (2, 3, 4), (5,)
    return {
        f"baseline{suffix}": base,
        f"resnext{suffix}": staged(base, resnext=bottom),
        f"resnext-dcb{suffix}": staged(base, resnext=bottom, dcn=top),
        f"resnext-dcb-cbam{suffix}": staged(base, resnext=bottom, dcn=top, attention="cbam"),
        f"resnext-dcb-sa{suffix}": staged(base, resnext=bottom, dcn=top, attention="sa"),
    }


def _readings(base: ModelSpec, suffix: str) -> dict[str, ModelSpec]:
    """Other readings of the same rows: which stages, which deformable convolution."""
    bottom = (2, 3, 4)
    return {
        f"resnext-c2{suffix}": staged(base, resnext=(2,)),
        f"resnext-c2-dcb{suffix}": staged(base, resnext=(2,), dcn=(5,)),
        f"resnext-dcb-c45{suffix}": staged(base, resnext=bottom, dcn=(4, 5)),
        f"resnext-dcb-v1{suffix}": staged(base, resnext=bottom, dcn=(5,), version="v1"),
    }


#: Form → network.
FORMS: Final[dict[str, Spec]] = {
    "demo": _DEMO,
    "slopewatch-s2": replace(
        _RESNET18_S2,
        depths=(1, 2, 2, 2),
        widths=(64, 128, 192, 256),
        fpn_channels=96,
        box_width=384,
        mask_layers=(96, 96),
        contrast_products=((2, 4),),  # of preset `multi`: velocity and LOS sensitivity
    ),
    "resnet18-s2": _RESNET18_S2,
    "resnet50-fpn": _RESNET50,
    **_table2(_RESNET101, ""),
    **_readings(_RESNET101, ""),
    **{k: v for k, v in _table2(_RESNET50, "-50").items() if k != "baseline-50"},
    **_table2(_SMALL, "-small"),
    **_readings(_SMALL, "-small"),
    "plain-small": replace(_SMALL, contrast_window=0, guide_width=0),
    "unet": UNetSpec(
        widths=(20, 40, 80, 160, 320), norm="batch", contrast_window=41, threshold=0.5
    ),
}


def spec_from_dict(values: dict[str, Any]) -> Spec:
    """Rebuild a form from the dictionary of a JSON card.

    Parameters
    ----------
    values : dict
        As `ModelSpec.as_dict` or `UNetSpec.as_dict` gives it; JSON's lists count as tuples.

    Returns
    -------
    ModelSpec or UNetSpec

    Raises
    ------
    TypeError
        Where a key is missing or unknown.
    """
    kinds: dict[Any, type[ModelSpec | UNetSpec]] = {
        "mask-rcnn": ModelSpec,
        "unet": UNetSpec,
    }
    kind = kinds.get(values.get("network"))
    if kind is None:
        msg = f"network {values.get('network')!r}; known are {', '.join(kinds)}"
        raise TypeError(msg)
    return kind(**{key: _tuples(value) for key, value in values.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value

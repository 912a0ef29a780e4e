"""From a form to a network, and from a network to detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.forms import ModelSpec, Spec, UNetSpec, least_channels
from models.mask_rcnn import SmallObjectMaskRCNN
from models.unet import ComponentUNet

#: Any network: losses in training, detections in evaluation.
Detector = SmallObjectMaskRCNN | ComponentUNet


def build_model(
    spec: Spec,
    in_channels: int,
    num_classes: int,
    *,
    max_detections: int = 200,
    score_min: float = 0.05,
    proposals: int | None = None,
) -> Detector:
    """Build one form with random weights, in channels_last layout.

    Parameters
    ----------
    spec : ModelSpec or UNetSpec
        A row of `models.forms.FORMS`, or the specification in a weights card.
    in_channels : int
        Channels of the image, 1 or more.
    num_classes : int
        Classes with background, 2 or more.
    max_detections : int
        Detections an image at most.
    score_min : float
        Detections of lower score are dropped, in [0, 1].
    proposals : int, optional
        Proposals an image in evaluation instead of the form's, with candidates in proportion, for
        crowded images; of no effect on a U-Net.

    Returns
    -------
    SmallObjectMaskRCNN or ComponentUNet
        In training mode.

    Raises
    ------
    ValueError
        Where a count is out of range, or the specification is inconsistent.
    """
    if in_channels < 1 or num_classes < 2 or max_detections < 1 or (proposals or 1) < 1:
        msg = (
            "in_channels >= 1, num_classes >= 2, max_detections >= 1 and proposals >= 1 are needed; "
            f"got {in_channels}, {num_classes}, {max_detections}, {proposals}"
        )
        raise ValueError(msg)
    model: Detector
    if isinstance(spec, UNetSpec):
        _check_unet(spec)
        model = ComponentUNet(
            spec, in_channels, num_classes, max_detections=max_detections, score_min=score_min
        )
    else:
        _check_mask_rcnn(spec, in_channels)
        model = SmallObjectMaskRCNN(
            spec,
            in_channels,
            num_classes,
            max_detections=max_detections,
            score_min=score_min,
            proposals=proposals or spec.proposals,
        )
    model.to(memory_format=torch.channels_last)
    return model


def _check_mask_rcnn(spec: ModelSpec, in_channels: int) -> None:
    stages = len(spec.depths)
    levels = stages + spec.extra_level
    if len(spec.anchor_sizes) != levels or len({len(s) for s in spec.anchor_sizes}) != 1:
        msg = f"anchor_sizes {spec.anchor_sizes} must give {levels} levels the same number of sides"
        raise ValueError(msg)
    if spec.finest_stride not in (2, 4):
        msg = f"finest_stride {spec.finest_stride} must be 2 or 4"
        raise ValueError(msg)
    for name in ("widths", "groups", "deform", "attention"):
        values = getattr(spec, name)
        if len(values) != stages:
            msg = f"{name} {values} must give each of the {stages} stages a value"
            raise ValueError(msg)
    _one_of("norm", [spec.norm], ("batch", "group", "frozen"))
    _one_of("block", [spec.block], ("basic", "bottleneck"))
    _one_of("deform", spec.deform, ("none", "v1", "v2"))
    _one_of("attention", spec.attention, ("none", "cbam", "sa"))
    if min(spec.candidates, spec.proposals, spec.attention_keys, spec.group_width) < 1:
        msg = "candidates, proposals, attention_keys and group_width must be 1 or more"
        raise ValueError(msg)
    if spec.contrast_products and (not spec.contrast_window or in_channels < least_channels(spec)):
        msg = f"contrast_products {spec.contrast_products} need a contrast of their channels"
        raise ValueError(msg)
    for groups, width in zip(spec.groups, spec.widths, strict=True):
        if groups < 1 or (groups > 1 and width * spec.group_width < 64):
            msg = f"{groups} groups of {spec.group_width}/64 are none at a width of {width}"
            raise ValueError(msg)


def _check_unet(spec: UNetSpec) -> None:
    if len(spec.widths) < 2 or min(spec.widths) < 1 or not 0 < spec.threshold < 1:
        msg = f"a U-Net needs two widths and a threshold in (0, 1); got {spec.widths}, {spec.threshold}"
        raise ValueError(msg)
    _one_of("norm", [spec.norm], ("batch", "group"))


def _one_of(name: str, values: Sequence[str], known: Sequence[str]) -> None:
    odd = [v for v in values if v not in known]
    if odd:
        msg = f"{name} {odd[0]!r}; known are {', '.join(known)}"
        raise ValueError(msg)


def detection_limit(model: Detector) -> int:
    """Detections of an image at most: by the cap, and by the proposals where there are any.

    Parameters
    ----------
    model : SmallObjectMaskRCNN or ComponentUNet
        The network.

    Returns
    -------
    int
        A network that gives so many may have seen more.
    """
    if isinstance(model, ComponentUNet):
        return model.max_detections
    proposed: int = model.rpn._post_nms_top_n["testing"] * (model.num_classes - 1)
    return min(int(model.roi_heads.detections_per_img), proposed)


class Detections(NamedTuple):
    """Detections of one image, best first.

    Parameters
    ----------
    boxes : Tensor
        float32 [n, 4]: x1, y1, x2, y2 in pixel edges.
    labels : Tensor
        int64 [n], from 1.
    scores : Tensor
        float32 [n] in [0, 1].
    masks : Tensor or list of Tensor
        float32 [n, M, M], or n of [h, w]: probabilities on a grid that fills the box.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor | list[Tensor]


@torch.inference_mode()
def detect(model: nn.Module, images: Sequence[Tensor] | Tensor) -> list[Detections]:
    """Run a network on a batch without pasting masks into whole images.

    Parameters
    ----------
    model : torch.nn.Module
        As `build_model` gives it; put into evaluation mode here.
    images : sequence of Tensor or Tensor
        float32 [C, H, W] each, or [B, C, H, W]; normalised; moved to the model's device.

    Returns
    -------
    list of Detections
        One an image, on the CPU.
    """
    model.eval()
    device = next(model.parameters()).device
    results = model([image.to(device) for image in images])
    out = []
    for r in results:
        masks = r["masks"]
        out.append(
            Detections(
                r["boxes"].float().cpu(),
                r["labels"].cpu(),
                r["scores"].float().cpu(),
                [m.float().cpu() for m in masks]
                if isinstance(masks, list)
                else masks[:, 0].float().cpu(),
            )
        )
    return out

"""Parameters and operations of a form, counted without computing.

Convention: one multiplication with its addition (a MAC) is **two** FLOPs. Counted are convolutions,
deformable convolutions (with the four MACs a sample of bilinear interpolation), matrix products and
attention; not normalisation, activations, pooling, suppression and RoIAlign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from models.build import build_model
from models.forms import Spec
from models.mask_rcnn import SmallObjectMaskRCNN

#: MACs of one bilinear sample.
_BILINEAR: Final = 4


@dataclass(frozen=True)
class Cost:
    """Size and operations of a network for one image.

    Parameters
    ----------
    parameters : int
        Learned numbers.
    image_flops : int
        What every image costs: trunk, pyramid, guide and proposals; all of a U-Net.
    box_flops : int
        The box head on as many proposals as the form keeps; 0 for a U-Net.
    mask_flops : int
        The mask head on one detection; 0 for a U-Net.
    """

    parameters: int
    image_flops: int
    box_flops: int
    mask_flops: int

    @property
    def total_flops(self) -> int:
        """Operations of an image without detections."""
        return self.image_flops + self.box_flops


def _deformable_flops(
    x: Sequence[int], weight: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any
) -> int:
    batch, out_channels, height, width = out_shape
    points = batch * height * width * weight[2] * weight[3]
    return 2 * points * (weight[1] * out_channels + _BILINEAR * x[1])


def count(spec: Spec, in_channels: int, num_classes: int, size: int) -> Cost:
    """Count a form; nothing is computed and no memory taken.

    Parameters
    ----------
    spec : ModelSpec or UNetSpec
        The form.
    in_channels : int
        Channels of the image.
    num_classes : int
        Classes with background.
    size : int
        Side of the image [px]; rounded up to the coarsest stride.

    Returns
    -------
    Cost
    """
    with torch.device("meta"):
        model = build_model(spec, in_channels, num_classes).eval()
        side = -(-size // model.transform.stride) * model.transform.stride
        image = torch.empty((1, in_channels, side, side))
    parameters = sum(p.numel() for p in model.parameters())
    boxes = masks = 0
    with torch.no_grad():
        if isinstance(model, SmallObjectMaskRCNN):
            heads = model.roi_heads
            channels, spec_ = model.spec.fpn_channels, model.spec
            with _counter() as whole:
                features = model.backbone(image)
                if model.guide is not None:
                    features = model.guide(features).levels
                model.rpn.head(list(features.values()))
            with torch.device("meta"):
                proposals = torch.empty((spec_.proposals, channels, *(spec_.box_pool,) * 2))
                detection = torch.empty((1, channels, *(spec_.mask_pool,) * 2))
            with _counter() as box:
                heads.box_predictor(heads.box_head(proposals))
            with _counter() as mask:
                heads.mask_predictor(heads.mask_head(detection))
            boxes, masks = box.get_total_flops(), mask.get_total_flops()
        else:
            with _counter() as whole:
                model.segment(image)
    return Cost(parameters, whole.get_total_flops(), boxes, masks)


def _counter() -> FlopCounterMode:
    return FlopCounterMode(
        display=False,
        custom_mapping={torch.ops.torchvision.deform_conv2d: _deformable_flops},
    )

"""Mask R-CNN for small objects in N channels, in named forms.

One row of `FORMS` is one network: Mask R-CNN (He et al. 2017, doi:10.1109/ICCV.2017.322) put together
from torchvision's parts, with four differences to its ready one. Images arrive normalised and are
never resized; masks come back in box coordinates, not pasted into the whole image; boxes are exact to
half a pixel, which matters at 4 px (see `ImagesAsTheyAre`); ignored ground teaches nothing (see
`models.targets`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from models.backbone import BlockName, PyramidBackbone, ResNetTrunk
from models.guide import FootprintGuide, segmentation_loss
from models.targets import IgnoringRoIHeads, IgnoringRPN


@dataclass(frozen=True)
class ModelSpec:
    """One network form: everything that shapes the parameters or the detections.

    Parameters
    ----------
    block : {"basic", "bottleneck"}
        Residual block of the trunk.
    depths, widths : tuple of int
        Blocks and base width of each of the four stages.
    finest_stride : {2, 4}
        Stride of the finest level [px]; 2 leaves out the stem's max-pool.
    extra_level : bool
        A fifth, coarser level for the anchors.
    fpn_channels : int
        Channels of every level.
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
    proposals : int
        Proposals an image, after suppression.
    rpn_samples, box_samples : int
        Anchors and RoIs an image that enter the losses. Images hold few objects: small samples keep
        the background from outweighing them.
    canonical_scale, canonical_level : int
        A RoI of side `canonical_scale` px is read at stride ``2 ** canonical_level``.
    contrast_window : int
        Window of the local contrast that is added to the input [px], odd; 0 leaves it out.
    guide_width : int
        Width of the footprint guide (see `models.guide`); 0 leaves it out.
    """

    block: BlockName
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    finest_stride: int
    extra_level: bool
    fpn_channels: int
    anchor_sizes: tuple[tuple[float, ...], ...]
    aspect_ratios: tuple[float, ...]
    box_pool: int
    box_width: int
    mask_pool: int
    mask_layers: tuple[int, ...]
    proposals: int
    rpn_samples: int
    box_samples: int
    canonical_scale: int
    canonical_level: int
    contrast_window: int
    guide_width: int

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary for a JSON card.

        Returns
        -------
        dict
            Reverse with `spec_from_dict`.
        """
        return asdict(self)


_RATIOS: Final = (0.5, 1.0, 2.0)

#: Form → network. `demo` learns in minutes on two cores; `resnet18-s2` is the small-object form;
#: `resnet50-fpn` and `resnet101-fpn` have the paper's proportions.
FORMS: Final[dict[str, ModelSpec]] = {
    "demo": ModelSpec(
        block="basic", depths=(1, 1, 1, 1), widths=(32, 64, 128, 192), finest_stride=2,
        extra_level=False, fpn_channels=64, anchor_sizes=((4, 7), (11, 17), (26, 40), (60, 90)),
        aspect_ratios=_RATIOS, box_pool=7, box_width=256, mask_pool=14, mask_layers=(64, 64),
        proposals=60, rpn_samples=32, box_samples=32,
        canonical_scale=56, canonical_level=3, contrast_window=41, guide_width=32,
    ),
    "resnet18-s2": ModelSpec(
        block="basic", depths=(2, 2, 2, 2), widths=(64, 128, 256, 512), finest_stride=2,
        extra_level=False, fpn_channels=128, anchor_sizes=((4, 7), (11, 17), (26, 40), (60, 96)),
        aspect_ratios=_RATIOS, box_pool=7, box_width=512, mask_pool=14, mask_layers=(128, 128),
        proposals=80, rpn_samples=64, box_samples=64,
        canonical_scale=56, canonical_level=3, contrast_window=41, guide_width=64,
    ),
    "slopewatch-s2": ModelSpec(
        block="basic", depths=(1, 2, 2, 2), widths=(64, 128, 192, 256), finest_stride=2,
        extra_level=False, fpn_channels=96, anchor_sizes=((4, 7), (11, 17), (26, 40), (60, 96)),
        aspect_ratios=_RATIOS, box_pool=7, box_width=384, mask_pool=14, mask_layers=(96, 96),
        proposals=80, rpn_samples=64, box_samples=64,
        canonical_scale=56, canonical_level=3, contrast_window=41, guide_width=64,
    ),
    "resnet50-fpn": ModelSpec(
        block="bottleneck", depths=(3, 4, 6, 3), widths=(64, 128, 256, 512), finest_stride=4,
        extra_level=True, fpn_channels=256, anchor_sizes=((8,), (16,), (32,), (64,), (128,)),
        aspect_ratios=_RATIOS, box_pool=7, box_width=1024, mask_pool=14, mask_layers=(256,) * 4,
        proposals=300, rpn_samples=256, box_samples=256,
        canonical_scale=112, canonical_level=4, contrast_window=0, guide_width=0,
    ),
    "resnet101-fpn": ModelSpec(
        block="bottleneck", depths=(3, 4, 23, 3), widths=(64, 128, 256, 512), finest_stride=4,
        extra_level=True, fpn_channels=256, anchor_sizes=((8,), (16,), (32,), (64,), (128,)),
        aspect_ratios=_RATIOS, box_pool=7, box_width=1024, mask_pool=14, mask_layers=(256,) * 4,
        proposals=300, rpn_samples=256, box_samples=256,
        canonical_scale=112, canonical_level=4, contrast_window=0, guide_width=0,
    ),
}  # fmt: skip


def spec_from_dict(values: dict[str, Any]) -> ModelSpec:
    """Rebuild a `ModelSpec` from the dictionary of a JSON card.

    Parameters
    ----------
    values : dict
        As `ModelSpec.as_dict` gives it; JSON's lists count as tuples.

    Returns
    -------
    ModelSpec

    Raises
    ------
    TypeError
        Where a key is missing or unknown.
    """
    return ModelSpec(**{key: _tuples(value) for key, value in values.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value


class ImagesAsTheyAre(nn.Module):
    """Torchvision's image transform without resizing and normalisation.

    Outside, a box ``x1, y1, x2, y2`` is in pixel edges: a single pixel i spans i … i + 1. Inside,
    torchvision's RoIAlign reads pixel i at coordinate i. The half pixel between the two is taken off
    on the way in and put back on the way out, so that mask targets of small objects are not shifted.

    Parameters
    ----------
    stride : int
        Images are padded with zeros at bottom and right to a multiple of this [px].
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(
        self, images: Sequence[Tensor] | Tensor, targets: Sequence[dict[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        """Batch the images.

        Parameters
        ----------
        images : sequence of Tensor
            float [C, H, W] each, or one tensor [B, C, H, W].
        targets : sequence of dict, optional
            With ``boxes`` [n, 4] (pixel edges) and ``masks`` [n, H, W].

        Returns
        -------
        images : ImageList
            The padded batch with the sizes of the images.
        targets : list of dict or None
            Boxes in pixel-centre coordinates.
        """
        sizes = [(int(i.shape[-2]), int(i.shape[-1])) for i in images]
        height = _ceil_to(max(h for h, _ in sizes), self.stride)
        width = _ceil_to(max(w for _, w in sizes), self.stride)
        batch = torch.stack(
            [functional.pad(i, (0, width - i.shape[-1], 0, height - i.shape[-2])) for i in images]
        )
        shifted = None
        if targets is not None:
            shifted = [{**t, "boxes": t["boxes"] - 0.5} for t in targets]
        return ImageList(batch, sizes), shifted

    def postprocess(
        self,
        result: list[dict[str, Tensor]],
        image_shapes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """Boxes back to pixel edges, clipped to the image; masks stay in box coordinates.

        Parameters
        ----------
        result : list of dict
            Detections of each image.
        image_shapes : list of tuple of int
            Height and width of the images.

        Returns
        -------
        list of dict
            The same detections with ``boxes`` in pixel edges.
        """
        if self.training:
            return result
        for detections, (height, width) in zip(result, image_shapes, strict=True):
            limit = detections["boxes"].new_tensor([width, height, width, height])
            detections["boxes"] = torch.minimum((detections["boxes"] + 0.5).clamp(min=0), limit)
        return result


def _ceil_to(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


class SmallObjectMaskRCNN(GeneralizedRCNN):  # type: ignore[misc]  # torchvision is untyped
    """Mask R-CNN with an optional footprint guide.

    In training, ``model(images, targets)`` returns the losses ``loss_objectness``,
    ``loss_rpn_box_reg``, ``loss_classifier``, ``loss_box_reg``, ``loss_mask`` and, with the guide,
    ``loss_segmentation``. In evaluation, ``model(images)`` returns one dictionary an image:
    ``boxes`` float32 [n, 4] (x1, y1, x2, y2 in pixel edges), ``labels`` int64 [n] (from 1),
    ``scores`` float32 [n] in [0, 1], descending, and ``masks`` float32 [n, 1, M, M]: probabilities on
    a grid of M × M cells that fills the box. `models.paste.paste_masks` brings them to pixels.

    Parameters
    ----------
    spec : ModelSpec
        The form.
    in_channels : int
        Channels of the image.
    num_classes : int
        Classes with background.
    max_detections : int
        Detections an image at most.
    score_min : float
        Detections of lower score are dropped.
    """

    def __init__(
        self,
        spec: ModelSpec,
        in_channels: int,
        num_classes: int,
        *,
        max_detections: int,
        score_min: float,
    ) -> None:
        trunk = ResNetTrunk(
            in_channels,
            spec.block,
            spec.depths,
            spec.widths,
            max_pool=spec.finest_stride == 4,
            contrast_window=spec.contrast_window,
        )
        backbone = PyramidBackbone(trunk, spec.fpn_channels, extra_level=spec.extra_level)
        channels = spec.fpn_channels
        levels = [str(i) for i in range(len(spec.depths))]
        anchors = AnchorGenerator(spec.anchor_sizes, (spec.aspect_ratios,) * len(spec.anchor_sizes))

        def roi_align(side: int) -> MultiScaleRoIAlign:
            return MultiScaleRoIAlign(
                levels,
                side,
                sampling_ratio=2,
                canonical_scale=spec.canonical_scale,
                canonical_level=spec.canonical_level,
            )

        rpn = IgnoringRPN(
            anchors,
            RPNHead(channels, anchors.num_anchors_per_location()[0]),
            # Anchors seldom reach torchvision's 0.7 on boxes of a few pixels.
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.3,
            batch_size_per_image=spec.rpn_samples,
            positive_fraction=0.5,
            pre_nms_top_n={"training": spec.proposals * 4, "testing": spec.proposals * 4},
            post_nms_top_n={"training": spec.proposals, "testing": spec.proposals},
            nms_thresh=0.7,
        )
        roi_heads = IgnoringRoIHeads(
            roi_align(spec.box_pool),
            TwoMLPHead(channels * spec.box_pool**2, spec.box_width),
            FastRCNNPredictor(spec.box_width, num_classes),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=spec.box_samples,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=score_min,
            nms_thresh=0.5,
            detections_per_img=max_detections,
            mask_roi_pool=roi_align(spec.mask_pool),
            mask_head=MaskRCNNHeads(channels, spec.mask_layers, 1),
            mask_predictor=MaskRCNNPredictor(
                spec.mask_layers[-1], spec.mask_layers[-1], num_classes
            ),
        )
        super().__init__(backbone, rpn, roi_heads, ImagesAsTheyAre(max(backbone.strides)))
        self.spec = spec
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.guide: FootprintGuide | None = None
        if spec.guide_width:
            self.guide = FootprintGuide(channels, spec.guide_width, num_classes - 1)

    def forward(
        self, images: Sequence[Tensor] | Tensor, targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, detections in evaluation (see the class).

        Parameters
        ----------
        images : sequence of Tensor
            float32 [C, H, W] each, normalised.
        targets : sequence of dict, optional
            ``boxes`` float32 [n, 4], ``labels`` int64 [n], ``masks`` uint8 [n, H, W] and, optionally,
            ``ignore`` bool [H, W] (see `models.targets`); needed in training. An image without
            objects has n = 0.

        Returns
        -------
        dict of Tensor or list of dict
            As the class says.

        Raises
        ------
        ValueError
            Where training lacks targets, or images have another number of channels.
        """
        if self.training and targets is None:
            msg = "targets are needed in training"
            raise ValueError(msg)
        for i, image in enumerate(images):
            if image.shape[-3] != self.in_channels:
                msg = f"image {i} has {image.shape[-3]} channels, the network {self.in_channels}"
                raise ValueError(msg)
        batch, shifted = self.transform(images, targets)
        features: OrderedDict[str, Tensor] = self.backbone(batch.tensors)
        extra: dict[str, Tensor] = {}
        if self.guide is not None:
            features, logits = self.guide(features)
            if targets is not None:
                shape = batch.tensors.shape[-2:]
                extra["loss_segmentation"] = segmentation_loss(logits, targets, shape)
        proposals, losses = self.rpn(batch, features, shifted)
        detections, roi_losses = self.roi_heads(features, proposals, batch.image_sizes, shifted)
        if not self.training:
            found: list[dict[str, Tensor]] = self.transform.postprocess(
                detections, batch.image_sizes
            )
            return found
        return {**losses, **roi_losses, **extra}


def build_model(
    spec: ModelSpec,
    in_channels: int,
    num_classes: int,
    *,
    max_detections: int = 200,
    score_min: float = 0.05,
) -> SmallObjectMaskRCNN:
    """Build one form with random weights, in channels_last layout.

    Parameters
    ----------
    spec : ModelSpec
        A row of `FORMS`, or the specification in a weights card.
    in_channels : int
        Channels of the image, 1 or more.
    num_classes : int
        Classes with background, 2 or more.
    max_detections : int
        Detections an image at most.
    score_min : float
        Detections of lower score are dropped, in [0, 1].

    Returns
    -------
    SmallObjectMaskRCNN
        In training mode.

    Raises
    ------
    ValueError
        Where a count is out of range, or the specification is inconsistent.
    """
    levels = len(spec.depths) + spec.extra_level
    if in_channels < 1 or num_classes < 2 or max_detections < 1:
        msg = (
            "in_channels >= 1, num_classes >= 2 and max_detections >= 1 are needed; got "
            f"{in_channels}, {num_classes}, {max_detections}"
        )
        raise ValueError(msg)
    if len(spec.anchor_sizes) != levels or len({len(s) for s in spec.anchor_sizes}) != 1:
        msg = f"anchor_sizes {spec.anchor_sizes} must give {levels} levels the same number of sides"
        raise ValueError(msg)
    if spec.finest_stride not in (2, 4) or len(spec.depths) != len(spec.widths):
        msg = "finest_stride must be 2 or 4, and depths and widths of equal length"
        raise ValueError(msg)
    model = SmallObjectMaskRCNN(
        spec, in_channels, num_classes, max_detections=max_detections, score_min=score_min
    )
    model.to(memory_format=torch.channels_last)
    return model


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
    masks : Tensor
        float32 [n, M, M]: probabilities on a grid that fills the box.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor


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
    return [
        Detections(
            r["boxes"].float().cpu(),
            r["labels"].cpu(),
            r["scores"].float().cpu(),
            r["masks"][:, 0].float().cpu(),
        )
        for r in results
    ]

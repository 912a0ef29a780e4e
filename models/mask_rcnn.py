"""Mask R-CNN for small objects in N channels.

Mask R-CNN (He et al. 2017, doi:10.1109/ICCV.2017.322) put together from torchvision's parts, with four
differences to its ready one. Images arrive normalised and are never resized; masks come back in box
coordinates, not pasted into the whole image; boxes are exact to half a pixel, which matters at 4 px
(see `models.images`); ignored ground teaches nothing (see `models.targets`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from models.backbone import PyramidBackbone, ResNetTrunk
from models.coordinates import ExactPredictor, ExactRPNHead
from models.forms import ModelSpec
from models.guide import FootprintGuide, segmentation_loss
from models.images import ImagesAsTheyAre
from models.targets import IgnoringRoIHeads, IgnoringRPN


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
    proposals : int
        Proposals an image in evaluation.
    """

    def __init__(
        self,
        spec: ModelSpec,
        in_channels: int,
        num_classes: int,
        *,
        max_detections: int,
        score_min: float,
        proposals: int,
    ) -> None:
        trunk = ResNetTrunk(
            in_channels,
            spec.block,
            spec.depths,
            spec.widths,
            groups=spec.groups,
            group_width=spec.group_width,
            deform=spec.deform,
            norm=spec.norm,
            max_pool=spec.finest_stride == 4,
            contrast_window=spec.contrast_window,
            contrast_products=spec.contrast_products,
        )
        backbone = PyramidBackbone(
            trunk,
            spec.fpn_channels,
            attention=spec.attention,
            attention_keys=spec.attention_keys,
            norm=spec.norm,
            extra_level=spec.extra_level,
        )
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
            ExactRPNHead(channels, anchors.num_anchors_per_location()[0]),
            # Anchors seldom reach torchvision's 0.7 on boxes of a few pixels.
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.3,
            batch_size_per_image=spec.rpn_samples,
            positive_fraction=0.5,
            pre_nms_top_n={
                "training": spec.candidates,
                "testing": -(-spec.candidates * proposals // spec.proposals),
            },
            post_nms_top_n={"training": spec.proposals, "testing": proposals},
            nms_thresh=0.7,
        )
        roi_heads = IgnoringRoIHeads(
            roi_align(spec.box_pool),
            TwoMLPHead(channels * spec.box_pool**2, spec.box_width),
            ExactPredictor(spec.box_width, num_classes),
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
            self.guide = FootprintGuide(channels, spec.guide_width, num_classes - 1, spec.norm)

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
        self.transform.check(images, targets, self.in_channels)
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

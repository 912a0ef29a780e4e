"""A trained network made ready for maps: the same detections, sooner.

Same parameters and same steps as `SmallObjectMaskRCNN` in evaluation, with these differences:

* batch normalisations are folded into the convolutions before them, and weights are converted once
  to the precision of the run, not at every call;
* anchors are decoded after the best of them were chosen, in float32: in bfloat16 a coordinate beyond
  256 px is rounded to 2 px;
* regions are read with one gather (`models.roi`);
* the number of proposals grows with the image, so that a larger window finds as much on the same
  ground, and proposals of hopeless objectness are dropped before the box head.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from models.mask_rcnn import Detections, SmallObjectMaskRCNN
from models.roi import FeatureTable, feature_table, levels_of, roi_align

#: The form's number of proposals is meant for an image of this area [px].
PROPOSAL_AREA: Final = 256 * 256


def fold_batch_norms(module: nn.Module) -> int:
    """Fold batch normalisations into the convolutions before them, in place.

    A normalisation with fixed statistics is a scale and a shift of each channel, which the convolution's
    weights and bias take over (Jacob et al. 2018, arXiv:1712.05877, equation 14).

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode. Pairs are neighbours in a `Sequential`, or attributes ``convX`` and ``bnX`` of a
        residual block; a normalisation that belongs to no such pair stays.

    Returns
    -------
    int
        Pairs folded.
    """
    folded = 0
    for parent in list(module.modules()):
        children = dict(parent.named_children())
        pairs = [(name, name.replace("conv", "bn")) for name in children if name.startswith("conv")]
        if isinstance(parent, nn.Sequential):
            names = list(children)
            pairs = list(itertools.pairwise(names))
        for first, second in pairs:
            conv, norm = children.get(first), children.get(second)
            if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
                setattr(parent, first, torch.nn.utils.fuse_conv_bn_eval(conv, norm))
                setattr(parent, second, nn.Identity())
                folded += 1
    return folded


class _InputCast(nn.Module):
    """The trunk's local contrast in float32 and channels-first layout, then the run's precision."""

    def __init__(self, contrast: nn.Module | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.contrast = contrast
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        if self.contrast is not None:
            x = self.contrast(x)
        return x.to(self.dtype, memory_format=torch.channels_last)


class InferenceNetwork(nn.Module):
    """A network in evaluation, as the module says.

    Parameters
    ----------
    model : SmallObjectMaskRCNN
        The trained network; it is copied and stays as it is.
    dtype : torch.dtype
        Precision of convolutions and matrix products: float32, bfloat16 or float16. Coordinates
        and scores are float32.
    objectness_min : float
        Proposals of lower objectness are dropped, in [0, 1].

    Attributes
    ----------
    in_channels : int
        Channels of the image.
    """

    def __init__(
        self, model: SmallObjectMaskRCNN, dtype: torch.dtype, objectness_min: float = 0.0
    ) -> None:
        super().__init__()
        model = copy.deepcopy(model).eval()
        self.in_channels = model.in_channels
        self.spec = model.spec
        self.dtype = dtype
        self.logit_min = math.log(objectness_min / (1 - objectness_min)) if objectness_min else None
        self.backbone, self.guide = model.backbone, model.guide
        self.rpn, self.roi_heads = model.rpn, model.roi_heads
        self.pad, self.postprocess = model.transform, model.transform.postprocess
        fold_batch_norms(self)
        self.to(dtype).to(memory_format=torch.channels_last)
        self.backbone.trunk.contrast = _InputCast(self.backbone.trunk.contrast, dtype)
        self._cells_last(self.roi_heads.box_head.fc6)
        # Coordinates keep float32, whatever the network's precision.
        self.cell_anchors = [a.float().clone() for a in model.rpn.anchor_generator.cell_anchors]

    def _cells_last(self, layer: nn.Linear) -> None:
        """Reorder the box head's inputs from channels, cells to cells, channels, as they are read."""
        side, channels = self.spec.box_pool, self.spec.fpn_channels
        weight = layer.weight.detach().view(-1, channels, side, side).permute(0, 2, 3, 1)
        layer.weight = nn.Parameter(weight.reshape(len(layer.weight), -1).contiguous(), False)

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Detections of a batch.

        Parameters
        ----------
        images : Tensor
            float32 [B, C, H, W], normalised.

        Returns
        -------
        list of dict
            As `SmallObjectMaskRCNN` in evaluation.
        """
        batch, _ = self.pad(images)
        tensors: Tensor = batch.tensors
        features = self.backbone(tensors)
        if self.guide is not None:
            features, _ = self.guide(features)
        levels = list(features.values())
        proposals = self._proposals(levels, tensors.shape, batch.image_sizes)
        # An extra level serves the anchors only.
        table = feature_table(levels[: len(self.spec.depths)], tensors.shape[-2])
        found = self._boxes(table, proposals, batch.image_sizes)
        self._masks(table, found)
        return self.postprocess(found, batch.image_sizes)  # type: ignore[no-any-return]

    def _proposals(
        self, levels: Sequence[Tensor], shape: torch.Size, sizes: Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        """Boxes of each image that may hold an object, best first."""
        area = shape[-2] * shape[-1]
        wanted = math.ceil(self.spec.proposals * max(1.0, area / PROPOSAL_AREA))
        logits, deltas = self.rpn.head(list(levels))
        boxes, scores, numbers = [], [], []
        for i, (logit, delta) in enumerate(zip(logits, deltas, strict=True)):
            b, s = self._decode(i, logit, delta, shape, 4 * wanted)
            boxes.append(b)
            scores.append(s)
            numbers.append(torch.full_like(s, i, dtype=torch.int64))
        every, logit, number = torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(numbers, 1)
        out = []
        for k, size in enumerate(sizes):
            box, score, level = clip_boxes_to_image(every[k], size), logit[k], number[k]
            keep = remove_small_boxes(box, self.rpn.min_size)
            if self.logit_min is not None:
                keep = keep[score[keep] >= self.logit_min]
            box, score, level = box[keep], score[keep], level[keep]
            best = batched_nms(box, score, level, self.rpn.nms_thresh)[:wanted]
            out.append(box[best])
        return out

    def _decode(
        self, level: int, logit: Tensor, delta: Tensor, shape: torch.Size, most: int
    ) -> tuple[Tensor, Tensor]:
        """The best anchors of a level moved to their objects: float32 [B, n, 4], and logits [B, n]."""
        batch, per_cell, height, width = logit.shape
        score = logit.permute(0, 2, 3, 1).reshape(batch, -1).float()
        best, index = score.topk(min(most, score.shape[1]), dim=1)
        cell, kind = index // per_cell, index % per_cell
        moves = delta.permute(0, 2, 3, 1).reshape(batch, -1, 4)
        moves = moves.gather(1, index[..., None].expand(-1, -1, 4)).float()
        x = (cell % width) * (shape[-1] // width)
        y = (cell // width) * (shape[-2] // height)
        anchors = self.cell_anchors[level].to(x.device)[kind] + torch.stack([x, y, x, y], dim=-1)
        coder = self.rpn.box_coder
        flat = coder.decode_single(moves.view(-1, 4), anchors.view(-1, 4))
        return flat.view(batch, -1, 4), best

    def _boxes(
        self, table: FeatureTable, proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        heads = self.roi_heads
        features = self._read(table, proposals, self.spec.box_pool)
        logits, deltas = heads.box_predictor(heads.box_head(features))
        boxes, scores, labels = heads.postprocess_detections(
            logits.float(), deltas.float(), proposals, sizes
        )
        return [
            {"boxes": b, "scores": s, "labels": n}
            for b, s, n in zip(boxes, scores, labels, strict=True)
        ]

    def _masks(self, table: FeatureTable, found: list[dict[str, Tensor]]) -> None:
        """Add the masks of the classes found."""
        heads = self.roi_heads
        boxes = [f["boxes"] for f in found]
        features = self._read(table, boxes, self.spec.mask_pool).permute(0, 3, 1, 2)
        side = 2 * self.spec.mask_pool
        labels = torch.cat([f["labels"] for f in found])
        if len(labels):
            logits = heads.mask_predictor(heads.mask_head(features))
            chosen = logits[torch.arange(len(labels), device=labels.device), labels]
            masks = chosen.float().sigmoid()[:, None]
        else:
            masks = boxes[0].new_zeros((0, 1, side, side))
        for f, m in zip(found, masks.split([len(b) for b in boxes]), strict=True):
            f["masks"] = m

    def _read(self, table: FeatureTable, boxes: list[Tensor], cells: int) -> Tensor:
        joined = torch.cat(boxes)
        images = torch.cat([torch.full((len(b),), i, device=b.device) for i, b in enumerate(boxes)])
        level = levels_of(joined, table, self.spec.canonical_scale, self.spec.canonical_level)
        return roi_align(table, joined, images, level, cells)


@torch.inference_mode()
def detect_batch(network: InferenceNetwork, images: Tensor) -> list[Detections]:
    """Detections of a batch, on the CPU.

    Parameters
    ----------
    network : InferenceNetwork
        On the images' device.
    images : Tensor
        float32 [B, C, H, W], normalised.

    Returns
    -------
    list of Detections
        One an image.
    """
    return [
        Detections(
            r["boxes"].float().cpu(),
            r["labels"].cpu(),
            r["scores"].float().cpu(),
            r["masks"][:, 0].float().cpu(),
        )
        for r in network(images)
    ]

"""A trained network made ready for maps: the same detections, sooner.

Same parameters and same steps as `SmallObjectMaskRCNN` in evaluation, with these differences:

* batch normalisations are folded into the convolutions before them, and weights are converted once
  to the precision of the run, not at every call;
* anchors are decoded after the best of them were chosen, in float32: in bfloat16 a coordinate beyond
  256 px is rounded to 2 px;
* regions are read with one gather (`models.roi`);
* the number of proposals grows with the image, so that a larger window finds as much on the same
  ground;
* trunk, pyramid and guide can be computed in integers of 8 bits (`models.quantised`);
* anchors are looked at only around ground that the footprint guide holds possible: the guide has seen
  every pixel by then, and finds almost all of a map hopeless.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from models.build import Detections
from models.deformable import DeformableConv2d
from models.mask_rcnn import SmallObjectMaskRCNN
from models.quantised import QuantisedFeatures
from models.roi import FeatureTable, feature_table, levels_of, roi_align

#: Ground to which the guide gives less is hopeless. An untrained guide gives 0.02 everywhere, so that
#: everything is looked at; docs/performance.md has figures of a trained one.
GUIDE_MIN: Final = 0.01

#: Anchors are looked at this many cells around possible ground: an anchor of a level reaches as far.
GUIDE_REACH: Final = 2

#: Where more than this share of a level is possible, a plain convolution is faster.
DENSE_SHARE: Final = 0.3

#: Suppression begins with so many boxes for each that is wanted.
NMS_FIRST: Final = 5

#: Rows of the matrix products are filled up to multiples of these: a library keeps one prepared kernel for
#: every shape that it has met, and memory would grow with each new number of cells, boxes or masks.
CELL_ROWS: Final = 512
BOX_ROWS: Final = 32
MASK_ROWS: Final = 16

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


def _growth(height: int, width: int) -> float:
    return max(1.0, height * width / PROPOSAL_AREA)


def _filled(rows: Tensor, multiple: int) -> Tensor:
    """Rows of zeros added up to a multiple."""
    missing = -len(rows) % multiple
    return functional.pad(rows, (0, 0) * (rows.ndim - 1) + (0, missing)) if missing else rows


class _InputCast(nn.Module):
    """The trunk's local contrast in float32 and channels-first layout, then the run's precision."""

    def __init__(self, contrast: nn.Module | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.contrast = contrast
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        x = x.to(self.dtype) if self.contrast is None else self.contrast(x, self.dtype)
        return x.contiguous(memory_format=torch.channels_last)


class InferenceNetwork(nn.Module):
    """A network in evaluation, as the module says.

    Parameters
    ----------
    model : SmallObjectMaskRCNN
        The trained network; it is copied and stays as it is.
    dtype : torch.dtype
        Precision of convolutions and matrix products: float32, bfloat16 or float16. Coordinates
        and scores are float32.
    guide_min : float
        Anchors away from ground of this guide probability are not looked at; 0 looks at all.
    ranges : mapping, optional
        Of `models.quantised.activation_ranges`: trunk, pyramid and guide are computed in integers. Needs
        a form that is `models.quantised.quantisable`, and a CPU.

    Attributes
    ----------
    in_channels : int
        Channels of the image.
    """

    def __init__(
        self,
        model: SmallObjectMaskRCNN,
        dtype: torch.dtype,
        guide_min: float = GUIDE_MIN,
        ranges: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        model = copy.deepcopy(model).eval()
        self.in_channels = model.in_channels
        self.spec = model.spec
        self.dtype = dtype
        self.guide_min = guide_min
        self.backbone, self.guide = model.backbone, model.guide
        self.rpn, self.roi_heads = model.rpn, model.roi_heads
        self.pad, self.postprocess = model.transform, model.transform.postprocess
        fold_batch_norms(self)
        self._quantised = None if ranges is None else QuantisedFeatures(self, ranges, dtype)
        self.to(dtype).to(memory_format=torch.channels_last)
        for part in self.modules():
            if isinstance(part, DeformableConv2d):  # offsets of a fraction of a pixel
                part.float()
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
        features, logits = self.features(tensors)
        possible: Tensor | None = None
        if logits is not None and self.guide_min > 0:
            possible = logits.float().sigmoid().amax(dim=1, keepdim=True) >= self.guide_min
        levels = list(features.values())
        proposals = self._proposals(levels, possible, tensors.shape, batch.image_sizes)
        # An extra level serves the anchors only.
        table = feature_table(levels[: len(self.spec.depths)], tensors.shape[-2])
        found = self._boxes(table, proposals, batch.image_sizes)
        self._masks(table, found)
        return self.postprocess(found, batch.image_sizes)  # type: ignore[no-any-return]

    def features(self, images: Tensor) -> tuple[OrderedDict[str, Tensor], Tensor | None]:
        """Pyramid levels with the guide's context, and the guide.

        Parameters
        ----------
        images : Tensor
            float32 [B, C, H, W], normalised; H and W multiples of the coarsest stride.

        Returns
        -------
        levels : OrderedDict of Tensor
            Finest first.
        logits : Tensor or None
            float [B, classes, h, w] at the finest level; None for a form without a guide.
        """
        if self._quantised is not None:
            return self._quantised(self.backbone.trunk.entry(images))
        levels = self.backbone(images)
        if self.guide is None:
            return levels, None
        levels, logits = self.guide(levels)
        return levels, logits

    def limit(self, height: int, width: int) -> int:
        """Detections of an image at most: a network that gives so many may have seen more.

        Parameters
        ----------
        height, width : int
            Of the image [px].

        Returns
        -------
        int
            The cap, or what the proposals allow where that is less.
        """
        classes = int(self.roi_heads.box_predictor.cls_score.out_features) - 1
        return min(int(self.roi_heads.detections_per_img), self._wanted(height, width) * classes)

    def _wanted(self, height: int, width: int) -> int:
        return math.ceil(int(self.rpn.post_nms_top_n()) * _growth(height, width))

    def _proposals(
        self,
        levels: Sequence[Tensor],
        possible: Tensor | None,
        shape: torch.Size,
        sizes: Sequence[tuple[int, int]],
    ) -> list[Tensor]:
        """Boxes of each image that may hold an object, best first."""
        most = math.ceil(self.rpn.pre_nms_top_n() * _growth(shape[-2], shape[-1]))
        wanted = self._wanted(shape[-2], shape[-1])
        found = [self._anchors(i, x, possible, shape) for i, x in enumerate(levels)]
        out = []
        for k, size in enumerate(sizes):
            boxes, scores, numbers = [], [], []
            for i, (image, logit, moves, anchors) in enumerate(found):
                mine = torch.nonzero(image == k)[:, 0]
                best, order = logit[mine].topk(min(most, len(mine)))
                chosen = mine[order]
                boxes.append(self.rpn.box_coder.decode_single(moves[chosen], anchors[chosen]))
                scores.append(best)
                numbers.append(torch.full_like(order, i))
            box = clip_boxes_to_image(torch.cat(boxes), size)
            keep = remove_small_boxes(box, self.rpn.min_size)
            score, level = torch.cat(scores)[keep], torch.cat(numbers)[keep]
            best = self._kept(box[keep], score, level, wanted)
            out.append(box[keep[best]])
        return out

    def _kept(self, boxes: Tensor, scores: Tensor, levels: Tensor, wanted: int) -> Tensor:
        """The best boxes that no better one of their level suppresses, `wanted` at most, best first.

        A box is suppressed by better ones only: where the first few leave enough, the others, whose
        pairs would be many more, need not be looked at.
        """
        order = scores.argsort(descending=True, stable=True)
        n = NMS_FIRST * wanted
        while True:
            few = order[:n]
            best = batched_nms(boxes[few], scores[few], levels[few], self.rpn.nms_thresh)[:wanted]
            if len(best) == wanted or n >= len(order):
                return few[best]
            n *= 2

    def _anchors(
        self, level: int, features: Tensor, possible: Tensor | None, shape: torch.Size
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Anchors of a level: image, logit, box regression [n, 4] and box [n, 4] of each."""
        height, width = features.shape[-2:]
        cells = self._cells(features, possible)
        if cells is None:
            (logits,), (deltas,) = self.rpn.head([features])
            logits, deltas = (x.permute(0, 2, 3, 1).flatten(0, 2) for x in (logits, deltas))
            cells = torch.arange(len(logits), device=logits.device)
        else:
            logits, deltas = self._head_at(features, cells)
        per_cell = logits.shape[1]
        y = cells // width % height * (shape[-2] // height)
        x = cells % width * (shape[-1] // width)
        corners = torch.stack([x, y, x, y], dim=-1)[:, None]
        anchors = corners + self.cell_anchors[level].to(corners.device)
        images = (cells // (height * width)).repeat_interleave(per_cell)
        moves = deltas.float().reshape(-1, 4)
        return images, logits.float().flatten(), moves, anchors.reshape(-1, 4)

    def _cells(self, features: Tensor, possible: Tensor | None) -> Tensor | None:
        """Cells of a level near possible ground, image by image in row-major order; None for all."""
        convolutions = list(self.rpn.head.conv)
        if possible is None or len(convolutions) != 1:
            return None
        size = features.shape[-2:]
        share = functional.adaptive_max_pool2d(possible.float(), size)
        near = functional.max_pool2d(share, 2 * GUIDE_REACH + 1, stride=1, padding=GUIDE_REACH)
        cells = torch.nonzero(near.flatten())[:, 0]
        return cells if len(cells) <= DENSE_SHARE * near.numel() else None

    def _head_at(self, features: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """The proposal head at some cells only: logits [n, A] and deltas [n, 4·A]."""
        head = self.rpn.head
        conv = head.conv[0][0]
        channels, height, width = features.shape[1:]
        n = len(cells)
        cells = torch.cat([cells, cells[:1].expand(-n % CELL_ROWS if n else 0)])
        rows = features.permute(0, 2, 3, 1).reshape(-1, channels)
        step = torch.arange(-1, 2, device=cells.device)
        y = (cells // width % height)[:, None] + step
        x = (cells % width)[:, None] + step
        beyond = ((y < 0) | (y >= height))[:, :, None] | ((x < 0) | (x >= width))[:, None, :]
        image = cells // (height * width) * height
        y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
        index = (image[:, None] + y)[:, :, None] * width + x[:, None, :]
        near = rows.index_select(0, index.flatten())
        near.index_fill_(0, torch.nonzero(beyond.flatten())[:, 0], 0)
        weight = conv.weight.permute(0, 2, 3, 1).flatten(1)
        hidden = functional.linear(near.view(len(cells), 9 * channels), weight, conv.bias).relu_()
        logits, deltas = (
            functional.linear(hidden, layer.weight.flatten(1), layer.bias)[:n]
            for layer in (head.cls_logits, head.bbox_pred)
        )
        return logits, deltas

    def _boxes(
        self, table: FeatureTable, proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        heads = self.roi_heads
        features = self._read(table, proposals, self.spec.box_pool)
        n = len(features)
        logits, deltas = heads.box_predictor(heads.box_head(_filled(features, BOX_ROWS)))
        logits, deltas = logits[:n], deltas[:n]
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
            filled = _filled(features, MASK_ROWS)
            logits = heads.mask_predictor(heads.mask_head(filled))[: len(labels)]
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

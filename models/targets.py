"""Which anchors and proposals learn what, with ground that is nobody's.

Some ground holds an object that is neither to be found nor background: it is cut by the tile's edge,
too small, or below the noise. Torchvision would teach it as background. Here anchors and proposals
that lie mostly on such ground, and match no object, are left out of the losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

#: Key of the ignored ground in a target: bool [H, W].
IGNORE: Final = "ignore"

#: Share of a box on ignored ground from which it is left out.
IGNORED_SHARE: Final = 0.5


def ignored_share(boxes: Tensor, ignore: Tensor) -> Tensor:
    """Share of each box's area that lies on ignored ground.

    Parameters
    ----------
    boxes : Tensor
        float [n, 4]: x1, y1, x2, y2 in pixel-centre coordinates (pixel i spans i − ½ … i + ½).
    ignore : Tensor
        bool [H, W].

    Returns
    -------
    Tensor
        float32 [n] in [0, 1], of the part inside the image with edges rounded to pixels; 0 for boxes
        without such a part.
    """
    height, width = ignore.shape
    # Summed-area table: the sum over any rectangle from four look-ups.
    table = torch.zeros((height + 1, width + 1), dtype=torch.float32, device=ignore.device)
    table[1:, 1:] = ignore.float().cumsum(0).cumsum(1)
    edges = (boxes + 0.5).round().long()
    x1, x2 = edges[:, 0].clamp(0, width), edges[:, 2].clamp(0, width)
    y1, y2 = edges[:, 1].clamp(0, height), edges[:, 3].clamp(0, height)
    total = table[y2, x2] - table[y1, x2] - table[y2, x1] + table[y1, x1]
    area = ((x2 - x1) * (y2 - y1)).clamp(min=1)
    return total / area


class IgnoringRPN(RegionProposalNetwork):  # type: ignore[misc]  # torchvision is untyped
    """Region proposal network whose loss skips ignored ground (parameters as torchvision's)."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Label anchors 1 (object), 0 (background) or −1 (not used).

        Parameters
        ----------
        anchors : list of Tensor
            float [n, 4] of each image.
        targets : list of dict
            ``boxes`` and, where there is ignored ground, ``ignore``.

        Returns
        -------
        labels : list of Tensor
            float32 [n] of each image.
        boxes : list of Tensor
            float32 [n, 4]: matched object of each anchor.
        """
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for label, anchor, target in zip(labels, anchors, targets, strict=True):
            if _has_ignored(target):
                share = ignored_share(anchor, target[IGNORE])
                label[(label == 0) & (share >= IGNORED_SHARE)] = -1
        return labels, boxes


class IgnoringRoIHeads(RoIHeads):  # type: ignore[misc]  # torchvision is untyped
    """Box and mask heads whose losses skip ignored ground (parameters as torchvision's)."""

    def select_training_samples(
        self, proposals: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Choose the proposals that enter the losses.

        Parameters
        ----------
        proposals : list of Tensor
            float [n, 4] of each image.
        targets : list of dict
            ``boxes``, ``labels``, ``masks`` and, where there is ignored ground, ``ignore``.

        Returns
        -------
        tuple of list of Tensor
            Proposals, indices of the matched objects, labels and box regression targets, as in
            torchvision.
        """
        kept = list(proposals)
        for i, target in enumerate(targets):
            if _has_ignored(target):
                share = ignored_share(proposals[i], target[IGNORE])
                overlap = self.box_similarity(target["boxes"], proposals[i])
                free = torch.ones_like(share, dtype=torch.bool)
                if len(overlap):
                    free = overlap.amax(dim=0) < self.proposal_matcher.low_threshold
                kept[i] = proposals[i][~(free & (share >= IGNORED_SHARE))]
        chosen: tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]] = (
            super().select_training_samples(kept, targets)
        )
        return chosen


def learnable(targets: Sequence[dict[str, Tensor]], shape: torch.Size) -> Tensor:
    """Pixels whose class is known.

    Parameters
    ----------
    targets : sequence of dict
        With or without ``ignore``.
    shape : torch.Size
        Height and width of the batch [px], with padding.

    Returns
    -------
    Tensor
        float32 [B, 1, H, W]: 0 on ignored ground and 1 elsewhere.
    """
    device = targets[0]["boxes"].device
    known = torch.ones((len(targets), 1, *shape), device=device)
    for i, target in enumerate(targets):
        if _has_ignored(target):
            height, width = target[IGNORE].shape
            known[i, 0, :height, :width] = (~target[IGNORE]).float()
    return known


def _has_ignored(target: dict[str, Tensor]) -> bool:
    return IGNORE in target and bool(target[IGNORE].any())

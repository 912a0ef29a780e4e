"""Heads whose boxes keep float32, whatever precision the rest computes in.

Torchvision decodes boxes in the precision of the regression's output. In bfloat16 a coordinate beyond
128 px is rounded to whole pixels and beyond 256 px to even ones: small boxes lose their edges, and one
of a pixel's width can lose it altogether, whose logarithm is then infinite in the loss.
"""

from __future__ import annotations

from torch import Tensor
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.rpn import RPNHead


class ExactRPNHead(RPNHead):  # type: ignore[misc]  # torchvision is untyped
    """Proposal head with float32 outputs (parameters as torchvision's)."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness and box regression of each level.

        Parameters
        ----------
        x : list of Tensor
            float [B, C, h, w] of each level.

        Returns
        -------
        logits, deltas : list of Tensor
            float32 [B, A, h, w] and [B, 4·A, h, w] of each level.
        """
        logits, deltas = super().forward(x)
        return [t.float() for t in logits], [t.float() for t in deltas]


class ExactPredictor(FastRCNNPredictor):  # type: ignore[misc]
    """Class and box regression with float32 outputs (parameters as torchvision's)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits and box regression.

        Parameters
        ----------
        x : Tensor
            float [n, width].

        Returns
        -------
        logits, deltas : Tensor
            float32 [n, classes] and [n, 4·classes].
        """
        logits, deltas = super().forward(x)
        return logits.float(), deltas.float()

"""Masks from box coordinates to pixels.

The exact inverse of the RoIAlign that makes the mask targets: the value at a pixel's centre is the
bilinear interpolation of the cells of the box's grid, held constant beyond the outermost cell centres.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class PastedMask(NamedTuple):
    """A mask probability at pixel resolution, cropped to its box.

    Parameters
    ----------
    row, col : int
        First row and column in the image.
    prob : Tensor
        float32 [h, w] in [0, 1].
    """

    row: int
    col: int
    prob: Tensor


def paste_masks(
    masks: Tensor | list[Tensor], boxes: Tensor, shape: tuple[int, int]
) -> list[PastedMask]:
    """Bring masks of boxes to the pixels whose centres lie in the boxes.

    Parameters
    ----------
    masks : Tensor or list of Tensor
        float32 [n, M, M], or n of [h, w]: probabilities on a grid that fills the box.
    boxes : Tensor
        float32 [n, 4]: x1, y1, x2, y2 in pixel edges.
    shape : tuple of int
        Height and width of the image [px].

    Returns
    -------
    list of PastedMask
        One a mask, in order; a box that covers no pixel centre gives an empty array.
    """
    out = []
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.tolist(), strict=True):
        row, rows = _grid(y1, y2, shape[0])
        col, cols = _grid(x1, x2, shape[1])
        if not (len(rows) and len(cols)):
            out.append(PastedMask(row, col, mask.new_zeros((len(rows), len(cols)))))
            continue
        grid = torch.stack(torch.meshgrid(cols, rows, indexing="xy"), dim=-1).to(mask)
        prob = functional.grid_sample(
            mask[None, None],
            grid[None],
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
        out.append(PastedMask(row, col, prob[0, 0]))
    return out


def _grid(low: float, high: float, size: int) -> tuple[int, Tensor]:
    """First pixel whose centre is in [low, high), and the centres in [-1, 1] of the box."""
    first = max(0, math.ceil(low - 0.5))
    last = min(size, math.ceil(high - 0.5))
    if high <= low or last <= first:
        return first, torch.empty(0)
    centres = torch.arange(first, last, dtype=torch.float32) + 0.5
    return first, (centres - low) / (high - low) * 2 - 1

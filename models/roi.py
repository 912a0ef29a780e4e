"""RoIAlign as one weighted gather from all pyramid levels.

The same numbers as torchvision's `MultiScaleRoIAlign` (He et al. 2017, section 3, sampling ratio 2, corners
not aligned), computed otherwise: a cell of a region is the mean of four bilinear samples, that is a weighted
sum of sixteen feature vectors. With channels last these are rows of a table, and one `embedding_bag` gathers
them in the precision of the features. Torchvision's kernel wants float32 in channels-first layout, and on
a CPU the conversion alone costs more than the gather.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

#: Samples a cell along each axis.
SAMPLES = 2


class FeatureTable(NamedTuple):
    """Feature vectors of all images and levels, one a row.

    Parameters
    ----------
    rows : Tensor
        float [R, C].
    heights, widths, offsets : Tensor
        int64 [L]: size of each level and its first row; inside a level, rows go by image, row, column.
    scales : Tensor
        float32 [L]: level pixels an image pixel.
    """

    rows: Tensor
    heights: Tensor
    widths: Tensor
    offsets: Tensor
    scales: Tensor


def table_levels(levels: Sequence[Tensor]) -> list[Tensor]:
    """Room for pyramid levels, laid out as one table from the beginning.

    Parameters
    ----------
    levels : sequence of Tensor
        float [B, C, h, w] each, of one type, finest first.

    Returns
    -------
    list of Tensor
        Of the same shapes and type, channels last, one behind the other in memory; to be filled.
    """
    rows = levels[0].new_empty(sum(x.numel() for x in levels))
    parts = torch.split(rows, [x.numel() for x in levels])
    return [
        part.view(x.shape[0], *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2)
        for part, x in zip(parts, levels, strict=True)
    ]


def feature_table(levels: Sequence[Tensor], image_height: int) -> FeatureTable:
    """Lay pyramid levels out as one table.

    Parameters
    ----------
    levels : sequence of Tensor
        float [B, C, h, w] each, finest first. In channels_last layout this is one copy of memory, and none
        for those of `table_levels`.
    image_height : int
        Height of the padded image [px], a multiple of every level's.

    Returns
    -------
    FeatureTable
    """
    device = levels[0].device
    sizes = [x.shape[0] * x.shape[2] * x.shape[3] for x in levels]
    offsets = [sum(sizes[:i]) for i in range(len(sizes))]
    return FeatureTable(
        rows=_rows(levels),
        heights=torch.tensor([x.shape[2] for x in levels], device=device),
        widths=torch.tensor([x.shape[3] for x in levels], device=device),
        offsets=torch.tensor(offsets, device=device),
        # Torchvision rounds the scale to a power of two.
        scales=torch.tensor(
            [2.0 ** round(math.log2(x.shape[2] / image_height)) for x in levels], device=device
        ),
    )


def _rows(levels: Sequence[Tensor]) -> Tensor:
    flat = [x.permute(0, 2, 3, 1) for x in levels]
    memory, at = levels[0].untyped_storage().data_ptr(), levels[0].storage_offset()
    for x in flat:
        if x.untyped_storage().data_ptr() != memory or x.storage_offset() != at:
            break
        if not x.is_contiguous():
            break
        at += x.numel()
    else:
        channels = flat[0].shape[-1]
        return flat[0].as_strided(
            (sum(x.numel() for x in flat) // channels, channels), (channels, 1)
        )
    return torch.cat([x.reshape(-1, x.shape[-1]) for x in flat])


def levels_of(boxes: Tensor, table: FeatureTable, scale: int, level: int) -> Tensor:
    """The level at which each box is read (Lin et al. 2017, equation 1).

    Parameters
    ----------
    boxes : Tensor
        float32 [n, 4]: x1, y1, x2, y2 [image px].
    table : FeatureTable
        Gives the number and the strides of the levels.
    scale, level : int
        A box of side `scale` px is read at stride ``2 ** level``.

    Returns
    -------
    Tensor
        int64 [n], from 0.
    """
    first = -torch.log2(table.scales[0])
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    wanted = torch.floor(level + torch.log2(side / scale) + 1e-6)
    return (wanted - first).clamp(0, len(table.scales) - 1).long()


def roi_align(
    table: FeatureTable, boxes: Tensor, images: Tensor, levels: Tensor, cells: int
) -> Tensor:
    """Feature vectors of the cells of boxes.

    Parameters
    ----------
    table : FeatureTable
        Of `feature_table`.
    boxes : Tensor
        float32 [n, 4]: x1, y1, x2, y2 in pixel-centre coordinates [image px].
    images, levels : Tensor
        int64 [n]: image and level of each box.
    cells : int
        Cells a side.

    Returns
    -------
    Tensor
        [n, cells, cells, C], in the precision of the table.
    """
    scaled = boxes * table.scales[levels, None]
    height, width = table.heights[levels], table.widths[levels]
    rows, row_weights = _taps(scaled[:, 1], scaled[:, 3], height, cells)
    cols, col_weights = _taps(scaled[:, 0], scaled[:, 2], width, cells)
    base = table.offsets[levels] + images * height * width
    rows = base[:, None, None] + rows * width[:, None, None]
    index = rows[:, :, None, :, None] + cols[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * col_weights[:, None, :, None, :]
    taps = (2 * SAMPLES) ** 2
    out = functional.embedding_bag(
        index.reshape(-1, taps),
        table.rows,
        per_sample_weights=weights.reshape(-1, taps).to(table.rows.dtype),
        mode="sum",
    )
    return out.view(len(boxes), cells, cells, table.rows.shape[1])


def _taps(low: Tensor, high: Tensor, size: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Positions and weights of the pixels that enter each cell along one axis: [n, cells, 4] each."""
    step = (high - low).clamp(min=1.0) / cells
    at = (torch.arange(cells * SAMPLES, device=low.device) + 0.5) / SAMPLES
    position = low[:, None] + at * step[:, None]
    last = size[:, None] - 1
    inside = (position >= -1) & (position <= size[:, None])
    position = torch.minimum(position.clamp(min=0), last.to(position))
    first = position.floor().long()
    share = position - first
    pixels = torch.stack([first, torch.minimum(first + 1, last)], dim=-1)
    weights = torch.stack([1 - share, share], dim=-1) * (inside / SAMPLES)[..., None]
    shape = (len(low), cells, 2 * SAMPLES)
    return pixels.view(shape), weights.view(shape)

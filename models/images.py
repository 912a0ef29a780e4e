"""Images into a detector and boxes out of it: padded, never resized, exact to half a pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.image_list import ImageList


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

    def check(
        self,
        images: Sequence[Tensor] | Tensor,
        targets: Sequence[dict[str, Tensor]] | None,
        in_channels: int,
    ) -> None:
        """Refuse what the network cannot take.

        Parameters
        ----------
        images : sequence of Tensor
            float [C, H, W] each.
        targets : sequence of dict or None
            Needed in training.
        in_channels : int
            Channels that the network reads.

        Raises
        ------
        ValueError
            Where training lacks targets, or images have another number of channels.
        """
        if self.training and targets is None:
            msg = "targets are needed in training"
            raise ValueError(msg)
        for i, image in enumerate(images):
            if image.shape[-3] != in_channels:
                msg = f"image {i} has {image.shape[-3]} channels, the network {in_channels}"
                raise ValueError(msg)

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
        if isinstance(images, Tensor) and images.shape[-2:] == (height, width):
            batch = images
        else:
            batch = torch.stack(
                [
                    functional.pad(i, (0, width - i.shape[-1], 0, height - i.shape[-2]))
                    for i in images
                ]
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

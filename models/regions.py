"""Connected regions of a mask, 8 neighbours, on any device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def label_regions(mask: Tensor) -> Tensor:
    """Number the connected regions of a mask.

    Every pixel takes the largest pixel number among its neighbours in the mask, and then the number
    that this pixel has taken itself, until nothing changes; the second step lets a number cross a
    region in few rounds.

    Parameters
    ----------
    mask : Tensor
        bool [H, W].

    Returns
    -------
    Tensor
        int64 [H, W]: 0 outside, 1 … n in the regions, numbered by their last pixel in reading order.
        Pixels that touch at a corner belong together.
    """
    height, width = mask.shape
    # float64 holds every pixel number of any map exactly, and can be pooled.
    number = torch.arange(1, height * width + 1, device=mask.device, dtype=torch.float64)
    label = number.view(height, width) * mask
    while True:
        grown = functional.max_pool2d(label[None, None], 3, stride=1, padding=1)[0, 0] * mask
        flat = functional.pad(grown.flatten(), (1, 0))  # entry 0: outside
        jumped = flat[flat[1:].long()].view(height, width)
        if torch.equal(jumped, label):
            break
        label = jumped
    roots = number[label.flatten() == number]
    return torch.searchsorted(roots, label, right=True)

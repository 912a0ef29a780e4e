"""Deformable convolution, plain (v1) and modulated (v2).

    y(p) = Σₖ wₖ · x(p + pₖ + Δpₖ(p)) · mₖ(p)

over the points pₖ of the kernel's grid; x between pixels is bilinear, and 0 outside the map. The
offsets Δp and the modulation m come from a convolution of x with the kernel's own size and stride.
Version 1 (Dai et al. 2017, arXiv:1703.06211, equation 2) has m = 1, version 2 (Zhu et al. 2019,
arXiv:1811.11168, equation 1) learns it.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

DeformName = Literal["none", "v1", "v2"]

#: Values of an offset: rows, then columns.
_AXES: Final = 2


class DeformableConv2d(nn.Module):
    """Square convolution without bias whose sampling points move with the content.

    The convolution of offsets and modulation starts at zero, and ``m = 2·σ(·)``, so that at first the
    layer is exactly the plain convolution of the same weights: loaded weights keep their meaning.
    (Zhu et al. take ``m = σ(·)``, which starts at half the plain convolution.)

    Parameters
    ----------
    in_channels, out_channels : int
        Channels.
    kernel : int
        Side of the kernel [px], odd.
    stride : int
        Stride [px].
    groups : int
        Groups of the convolution; the offsets are the same for all channels.
    modulated : bool
        Version 2 with it, version 1 without.

    Attributes
    ----------
    weight : Parameter
        float [out_channels, in_channels / groups, kernel, kernel], named as in a plain convolution.
    offset : torch.nn.Conv2d
        Channels 2k and 2k + 1: row and column offset [px] of point k; then, for version 2, one
        channel a point before the sigmoid.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        modulated: bool = True,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = kernel // 2
        self.points = kernel**2
        self.modulated = modulated
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel, kernel))
        self.offset = nn.Conv2d(
            in_channels,
            (_AXES + modulated) * self.points,
            kernel,
            stride=stride,
            padding=self.padding,
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Random weights (He et al. 2015, arXiv:1502.01852), offsets 0, modulation 1."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.offset.weight)
        if self.offset.bias is not None:
            nn.init.zeros_(self.offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve.

        Parameters
        ----------
        x : Tensor
            float [B, in_channels, H, W].

        Returns
        -------
        Tensor
            float [B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉], of the dtype of `x`.
        """
        # Offsets of a fraction of a pixel do not survive half precision.
        exact = nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
        with exact:
            full = x.float()
            moved = self.offset(full)
            mask = None
            if self.modulated:
                mask = 2 * moved[:, _AXES * self.points :].sigmoid()
            out: Tensor = deform_conv2d(
                full,
                moved[:, : _AXES * self.points],
                self.weight,
                stride=self.stride,
                padding=self.padding,
                mask=mask,
            )
        return out.to(x.dtype)

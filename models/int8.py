"""Convolutions of bytes: real numbers as 8-bit integers, oneDNN's operators on them.

A real number is ``step · (q − zero)`` (Jacob et al. 2018, arXiv:1712.05877): weights have one step a channel
and no zero, activations one step a tensor, sums are of 32 bits, and a convolution, its rectifier and the next
rounding are one operator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

#: Highest byte, and the one that stands for 0 where values have both signs.
STEPS: Final = 255
_MIDDLE: Final = 128

#: Values that are rounded at once: they stay in a processor's cache.
_BLOCK: Final = 1 << 17


class Scale(NamedTuple):
    """How a byte stands for a real number: ``step · (q − zero)``.

    Parameters
    ----------
    step : float
        Difference of neighbouring bytes.
    zero : int
        The byte that stands for 0.
    """

    step: float
    zero: int


def processor_has_int8() -> bool:
    """Whether the processor has instructions for products of bytes (VNNI).

    Returns
    -------
    bool
    """
    return bool(torch.cpu._is_vnni_supported() and torch._C._has_mkldnn)


class QuantisedConv:
    """A convolution of bytes.

    Parameters
    ----------
    weight : Tensor
        float [out, in, kh, kw].
    bias : Tensor or None
        float [out].
    stride, padding : (int, int)
        Of the convolution [px].
    read : Scale
        Of its input.
    dtype : torch.dtype
        Of outputs that are not bytes.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        read: Scale,
        dtype: torch.dtype,
    ) -> None:
        weight = weight.detach().float()
        steps = weight.flatten(1).abs().amax(1).clamp(min=1e-8) / 127
        rounded = (weight / steps[:, None, None, None]).round().to(torch.int8)
        self.read = read
        self._dtype = dtype
        self._bias = torch.zeros(len(weight)) if bias is None else bias.detach().float()
        # Stride, padding, dilation, groups, as oneDNN's operators want them.
        self._geometry = (list(stride), list(padding), [1, 1], 1)
        self._steps, self._zeros = steps, torch.zeros(len(weight), dtype=torch.int32)
        self._packed = torch.ops.onednn.qconv_prepack(
            rounded, steps, read.step, read.zero, *self._geometry, None
        )

    @classmethod
    def of(cls, conv: nn.Conv2d, read: Scale, dtype: torch.dtype) -> QuantisedConv:
        """A trained convolution.

        Parameters
        ----------
        conv : torch.nn.Conv2d
            Without groups and dilation.
        read : Scale
            Of its input.
        dtype : torch.dtype
            Of outputs that are not bytes.

        Returns
        -------
        QuantisedConv
        """
        padding = tuple(int(p) for p in conv.padding)
        return cls(conv.weight, conv.bias, conv.stride, padding, read, dtype)

    def __call__(self, x: Tensor, give: Scale | None = None, *, relu: bool = False) -> Tensor:
        """Convolve.

        Parameters
        ----------
        x : Tensor
            uint8 [B, in, H, W], channels last.
        give : Scale, optional
            Of the output; without it the output is real.
        relu : bool
            Whether negative values become 0.

        Returns
        -------
        Tensor
            uint8, or the real type, [B, out, h, w].
        """
        return torch.ops.onednn.qconv2d_pointwise(  # type: ignore[no-any-return]
            *self._head(x), self._bias, *self._geometry, *self._tail(give),
            "relu" if relu else "none", [], "",
        )  # fmt: skip

    def add(
        self,
        x: Tensor,
        other: Tensor,
        other_scale: Scale | None,
        give: Scale | None = None,
        *,
        relu: bool = False,
    ) -> Tensor:
        """Convolve and add to another tensor, which is overwritten.

        Parameters
        ----------
        x : Tensor
            uint8 [B, in, H, W], channels last.
        other : Tensor
            Summand [B, out, h, w] of the output's type.
        other_scale : Scale or None
            Of the summand, where it is of bytes.
        give : Scale, optional
            Of the output; without it the output is real.
        relu : bool
            Whether negative sums become 0.

        Returns
        -------
        Tensor
            As `__call__`.
        """
        step, zero = other_scale or (1.0, 0)
        return torch.ops.onednn.qconv2d_pointwise.binary(  # type: ignore[no-any-return]
            *self._head(x), other, self._bias, *self._geometry, *self._tail(give),
            step, zero, "sum", 1.0, "relu" if relu else "none", [], "",
        )  # fmt: skip

    def _head(self, x: Tensor) -> tuple[Any, ...]:
        return x, self.read.step, self.read.zero, self._packed, self._steps, self._zeros

    def _tail(self, give: Scale | None) -> tuple[float, int, torch.dtype]:
        return (1.0, 0, self._dtype) if give is None else (give.step, give.zero, torch.uint8)


def scale_of(ends: Sequence[float]) -> Scale:
    """The scale that holds a range.

    Parameters
    ----------
    ends : (float, float)
        Lowest, at most 0, and highest value, at least 0.

    Returns
    -------
    Scale
        Its zero is byte 0 for values that are not negative, else the middle one.

    Raises
    ------
    ValueError
        Where that is no range.
    """
    low, high = (float(end) for end in ends)
    if not (math.isfinite(low) and math.isfinite(high) and low <= 0 <= high):
        msg = f"{list(ends)!r} is no range"
        raise ValueError(msg)
    # A tensor of zeros only has a scale too.
    size = max(-low, high, 1e-6)
    return Scale(size / (_MIDDLE - 1), _MIDDLE) if low < 0 else Scale(size / STEPS, 0)


def to_bytes(x: Tensor, scale: Scale) -> Tensor:
    """Round a real tensor.

    Parameters
    ----------
    x : Tensor
        Real [B, C, H, W].
    scale : Scale
        What is beyond its ends is cut off.

    Returns
    -------
    Tensor
        uint8, channels last.
    """
    batch, channels, height, width = x.shape
    flat = x.permute(0, 2, 3, 1).reshape(-1)
    out = torch.empty(flat.shape, dtype=torch.uint8)
    # Rounded half up by cutting off what stands behind the point.
    shift = torch.tensor(scale.zero + 0.5)
    real = torch.empty(min(_BLOCK, len(flat)))
    whole = torch.empty(real.shape, dtype=torch.int32)
    for first in range(0, len(flat), _BLOCK):
        part = flat[first : first + _BLOCK]
        q = real[: len(part)].copy_(part)
        torch.add(shift, q, alpha=1 / scale.step, out=q).clamp_(0, STEPS)
        out[first : first + _BLOCK] = whole[: len(part)].copy_(q)
    return out.view(batch, height, width, channels).permute(0, 3, 1, 2)

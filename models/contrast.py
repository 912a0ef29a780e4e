"""Local contrast: what an image holds beyond the mean of a window around each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Side of the largest window [px] whose pixels 16 bits can count.
_SHORT: Final = 181


class _Presence(NamedTuple):
    """Where a channel has values, how many a window around each pixel, and the gain where there is one."""

    present: Tensor
    number: Tensor
    gain: Tensor


class LocalContrast(nn.Module):
    """Append to every channel its difference to the local mean.

    Deformation maps carry atmosphere of far larger amplitude and extent than a landslide's motion.
    The difference to the mean of a window takes it away before the first convolution, which would
    otherwise spend its first epochs on learning to do so. No parameters.

    Parameters
    ----------
    window : int
        Side of the window [px], odd; larger than a landslide, smaller than the atmosphere.
    products : sequence of (int, int)
        Pairs of channels (i, j): the difference of i times the value of j is appended too.
    gain : float
        Factor of the difference, which is small beside the value.

    Notes
    -----
    Presets put 0 where there is no data: zeros do not enter the mean, and their difference is 0.

    A product is worth its channel where only the two together say something. Downslope motion m seen along
    the line of sight is v = m · C with m ≥ 0, so v · C = m · C² is not negative on a landslide, whichever
    way it faces; heave and settlement have either sign. A network learns to multiply slowly.
    """

    def __init__(
        self, window: int, products: Sequence[tuple[int, int]] = (), gain: float = 3.0
    ) -> None:
        super().__init__()
        self.window = window
        self.products = tuple(products)
        self.gain = gain

    def planes(self, channels: int) -> int:
        """Channels out.

        Parameters
        ----------
        channels : int
            Channels in.

        Returns
        -------
        int
        """
        return 2 * channels + len(self.products)

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Image with its contrast.

        Parameters
        ----------
        x : Tensor
            float [B, C, H, W].
        dtype : torch.dtype, optional
            Of what comes out, where it is not that of `x`.

        Returns
        -------
        Tensor
            float [B, planes(C), H, W]: values, differences, products.
        """
        n = x.shape[1]
        out = x.new_empty((x.shape[0], self.planes(n), *x.shape[2:]), dtype=dtype or x.dtype)
        out[:, :n] = x
        # A plane with all that is made of it stays in a processor's cache; a GPU takes them at once.
        step = 1 if x.device.type == "cpu" else n
        seen: list[_Presence] = []
        for first in range(0, n, step):
            values = x[:, first : first + step]
            there = self._presence(values, seen)
            mean = self._sums(values) / there.number
            difference = (values - mean) * there.gain
            out[:, n + first : n + first + step] = difference
            for k, (i, j) in enumerate(self.products):
                if first <= i < first + step:
                    out[:, 2 * n + k] = difference[:, i - first] * x[:, j]
        return out

    def _presence(self, values: Tensor, seen: list[_Presence]) -> _Presence:
        """What is there, counted once for all channels that are known on the same ground."""
        present = values.bool()
        exporting = torch.onnx.is_in_onnx_export()
        if not exporting:  # a graph has no branches
            for other in seen:
                if torch.equal(other.present, present):
                    return other
        # ONNX has no sums of 16 bits.
        short = not exporting and self.window <= _SHORT
        count = self._sums(present.to(torch.int16 if short else torch.int32)).clamp_(min=1)
        made = _Presence(present, count.to(values.dtype), present.to(values.dtype) * self.gain)
        seen.append(made)
        return made

    def _sums(self, x: Tensor) -> Tensor:
        """Sums over the window, cut at the edges, in the type of `x`."""
        half, (height, width) = self.window // 2, x.shape[-2:]
        # Down the columns sums of 1, 2, 4, … rows, of which the window is put together: neighbouring
        # rows are added as they lie in memory.
        power = functional.pad(x, (0, 0, half, half))
        total, at, length = power.narrow(-2, 0, height), 1, 1  # the window is odd
        while 2 * length <= self.window:
            n = power.shape[-2] - length
            power = power.narrow(-2, 0, n) + power.narrow(-2, length, n)
            length *= 2
            if self.window & length:
                total = total + power.narrow(-2, at, height)
                at += length
        running = functional.pad(total, (half + 1, half)).cumsum(-1, dtype=x.dtype)
        return running.narrow(-1, self.window, width) - running.narrow(-1, 0, width)

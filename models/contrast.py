"""Local contrast: what an image holds beyond the mean of a window around each pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


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

    def forward(self, x: Tensor) -> Tensor:
        """Image with its contrast.

        Parameters
        ----------
        x : Tensor
            float [B, C, H, W].

        Returns
        -------
        Tensor
            float [B, planes(C), H, W]: values, differences, products.
        """
        present = (x != 0).to(x.dtype)
        mean = self._sums(x) / self._sums(present).clamp(min=1)
        difference = (x - mean) * present * self.gain
        products = [difference[:, i : i + 1] * x[:, j : j + 1] for i, j in self.products]
        return torch.cat([x, difference, *products], dim=1)

    def _sums(self, x: Tensor) -> Tensor:
        """Sums over the window, cut at the edges, from running sums: the cost is not the window's."""
        half = self.window // 2
        for axis in (-1, -2):
            ends = (half + 1, half) if axis == -1 else (0, 0, half + 1, half)
            running = functional.pad(x, ends).cumsum(axis)
            size = x.shape[axis]
            x = running.narrow(axis, self.window, size) - running.narrow(axis, 0, size)
        return x

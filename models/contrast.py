"""Local contrast: what an image holds beyond the mean of a window around each pixel."""

from __future__ import annotations

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
    gain : float
        Factor of the difference, which is small beside the value.

    Notes
    -----
    Presets put 0 where there is no data: zeros do not enter the mean, and their difference is 0.
    """

    def __init__(self, window: int, gain: float = 3.0) -> None:
        super().__init__()
        self.window = window
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """Image with its contrast.

        Parameters
        ----------
        x : Tensor
            float [B, C, H, W].

        Returns
        -------
        Tensor
            float [B, 2·C, H, W].
        """
        present = (x != 0).to(x.dtype)
        mean = self._sums(x) / self._sums(present).clamp(min=1)
        return torch.cat([x, (x - mean) * present * self.gain], dim=1)

    def _sums(self, x: Tensor) -> Tensor:
        """Sums over the window, cut at the edges, from running sums: the cost is not the window's."""
        half = self.window // 2
        for axis in (-1, -2):
            ends = (half + 1, half) if axis == -1 else (0, 0, half + 1, half)
            running = functional.pad(x, ends).cumsum(axis)
            size = x.shape[axis]
            x = running.narrow(axis, self.window, size) - running.narrow(axis, 0, size)
        return x

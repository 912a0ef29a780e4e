"""Attention on one level of the pyramid: CBAM, or self-attention over pooled keys."""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

AttentionName = Literal["none", "cbam", "sa"]

#: Channels over hidden units of CBAM's perceptron (Woo et al. 2018, section 5.1).
REDUCTION: Final = 16

#: Side of CBAM's spatial kernel [px] (Woo et al. 2018, table 3).
SPATIAL_KERNEL: Final = 7


class ChannelAttention(nn.Module):
    """Weigh the channels by what they hold anywhere in the map.

    ``M_c(F) = σ(MLP(avg(F)) + MLP(max(F)))``, mean and maximum over the pixels, one perceptron
    ``W₁ · relu(W₀ ·)`` for both (Woo et al. 2018, arXiv:1807.06521, equation 2).

    Parameters
    ----------
    channels : int
        Channels of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // REDUCTION)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Weights of the channels.

        Parameters
        ----------
        x : Tensor
            float [B, C, H, W].

        Returns
        -------
        Tensor
            float [B, C, 1, 1] in (0, 1).
        """
        weights: Tensor = self.mlp(x.mean(dim=(2, 3))) + self.mlp(x.amax(dim=(2, 3)))
        return weights.sigmoid()[:, :, None, None]


class SpatialAttention(nn.Module):
    """Weigh the pixels by what they hold in any channel.

    ``M_s(F) = σ(f⁷ˣ⁷([avg(F); max(F)]))``, mean and maximum over the channels (Woo et al. 2018,
    arXiv:1807.06521, equation 3).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, SPATIAL_KERNEL, padding=SPATIAL_KERNEL // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Weights of the pixels.

        Parameters
        ----------
        x : Tensor
            float [B, C, H, W].

        Returns
        -------
        Tensor
            float [B, 1, H, W] in (0, 1).
        """
        both = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        weights: Tensor = self.conv(both)
        return weights.sigmoid()


class CBAM(nn.Module):
    """Convolutional block attention: channels first, then pixels.

    ``F' = M_c(F) · F``, ``F'' = M_s(F') · F'`` (Woo et al. 2018, arXiv:1807.06521, equation 1).

    Parameters
    ----------
    channels : int
        Channels of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels)
        self.spatial = SpatialAttention()

    def forward(self, x: Tensor) -> Tensor:
        """Weighted map.

        Parameters
        ----------
        x : Tensor
            float [B, C, H, W].

        Returns
        -------
        Tensor
            float [B, C, H, W].
        """
        x = x * self.channel(x)
        weighted: Tensor = x * self.spatial(x)
        return weighted


class SelfAttention(nn.Module):
    """Non-local block in its embedded Gaussian form, with pooled keys and values.

    ``z_i = x_i + W_z Σ_j softmax_j(θ(x_i) · φ(x_j)) g(x_j)``: every pixel i gathers from all positions
    j what resembles it (Wang et al. 2018, arXiv:1711.07971, equations 1, 4 and 6). θ, φ and g are
    1 × 1 convolutions to half the channels. Keys φ and values g are the maxima of f × f pixels (their
    section 3.3), with the smallest f that leaves at most `keys` × `keys` positions: the weights take
    H · W · keys² numbers, linear in the map, where the plain form takes (H · W)². W_z starts at zero,
    so that the block is the identity at first.

    Parameters
    ----------
    channels : int
        Channels of the map, 2 or more.
    keys : int
        Largest side of the grid of keys and values. A map no larger is not pooled.
    """

    def __init__(self, channels: int, keys: int) -> None:
        super().__init__()
        self.keys = keys
        inner = channels // 2
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        self.out = nn.Conv2d(inner, channels, 1)
        nn.init.zeros_(self.out.weight)
        if self.out.bias is not None:
            nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map with what each pixel gathered.

        Parameters
        ----------
        x : Tensor
            float [B, C, H, W].

        Returns
        -------
        Tensor
            float [B, C, H, W].
        """
        factor = -(-max(x.shape[-2:]) // self.keys)
        query = self.theta(x).flatten(2).transpose(1, 2)
        key = self._pooled(self.phi(x), factor)
        value = self._pooled(self.g(x), factor)
        weights = torch.softmax(query @ key, dim=-1)
        gathered = (weights @ value.transpose(1, 2)).transpose(1, 2)
        z: Tensor = x + self.out(gathered.reshape(*gathered.shape[:2], *x.shape[-2:]))
        return z

    def _pooled(self, x: Tensor, factor: int) -> Tensor:
        if factor > 1:
            x = functional.max_pool2d(x, factor, stride=factor, ceil_mode=True)
        return x.flatten(2)


def attention_layer(name: AttentionName, channels: int, keys: int) -> nn.Module:
    """Attention by name.

    Parameters
    ----------
    name : {"none", "cbam", "sa"}
        ``none`` gives the identity.
    channels : int
        Channels of the map.
    keys : int
        Of `SelfAttention`.

    Returns
    -------
    torch.nn.Module
    """
    if name == "cbam":
        return CBAM(channels)
    return SelfAttention(channels, keys) if name == "sa" else nn.Identity()

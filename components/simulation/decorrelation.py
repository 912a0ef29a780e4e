"""Coherence of mountain ground and the phase noise that follows from it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.simulation.fields import Bool, Float, smooth_noise
from components.simulation.terrain import Ground


class Multilooked(NamedTuple):
    """One draw of multilooked interferometric statistics.

    Parameters
    ----------
    phase : ndarray of float32
        Phase noise [rad], in [-π, π].
    coherence : ndarray of float32
        Sample coherence, in [0, 1]; biased upward at low coherence, as every estimate is.
    """

    phase: Float
    coherence: Float


def draw_multilooked(
    rng: np.random.Generator, coherence: NDArray[np.floating], looks: int
) -> Multilooked:
    """Draw phase noise and sample coherence of L looks, exactly.

    The sum over L pairs of circular Gaussian samples ``s₂ = γ s₁ + √(1 - γ²) z`` is a complex Wishart
    matrix. Its Bartlett decomposition (Goodman 1963) needs one gamma variate for the power of each
    image and one complex normal, instead of L pairs: with ``t² ~ Γ(L)``, ``r² ~ Γ(L - 1)``, n complex
    normal, the interferogram is ``t (γ t + √(1 - γ²) n)`` and the powers are ``t²`` and
    ``|γ t + √(1 - γ²) n|² + (1 - γ²) r²``.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    coherence : ndarray
        True coherence, in [0, 1].
    looks : int
        Number of independent looks, >= 2.

    Returns
    -------
    Multilooked
        Of the shape of `coherence`.
    """
    if looks < 2:
        msg = f"looks must be >= 2; got {looks}"
        raise ValueError(msg)
    gamma = np.clip(np.asarray(coherence, dtype=np.float32), 0.0, 1.0)
    loss2 = 1.0 - gamma * gamma
    loss = np.sqrt(0.5 * loss2)  # ½: each part of the complex normal
    power1 = rng.standard_gamma(looks, gamma.shape, dtype=np.float32)
    real = gamma * np.sqrt(power1) + loss * rng.standard_normal(gamma.shape, dtype=np.float32)
    imag = loss * rng.standard_normal(gamma.shape, dtype=np.float32)
    common = real * real + imag * imag
    power2 = common + loss2 * rng.standard_gamma(looks - 1, gamma.shape, dtype=np.float32)
    phase: Float = np.arctan2(imag, real)
    sample: Float = np.sqrt(common / np.maximum(power2, np.float32(1e-12)))
    return Multilooked(phase, sample)


def ground_coherence(rng: np.random.Generator, ground: Ground) -> Float:
    """Coherence that the ground itself keeps over a period.

    Rock and debris 0.6-0.85, sparse vegetation 0.45-0.65, patches of forest 0.2-0.35 below the tree
    line, fields on valley floors 0.3-0.5, water nil.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    ground : Ground
        Terrain.

    Returns
    -------
    ndarray of float32 [H, W]
        In [0, 1].
    """
    shape, res = ground.shape, ground.resolution_m
    base = 0.64 + 0.07 * smooth_noise(rng, shape, res, 2500.0)
    base += 0.05 * smooth_noise(rng, shape, res, 300.0)
    low, high = np.percentile(ground.elevation[::4, ::4], [5, 95])
    relative = (ground.elevation - np.float32(low)) / np.float32(max(high - low, 1.0))
    forest = smooth_noise(rng, shape, res, 700.0) + 0.6 * smooth_noise(rng, shape, res, 180.0)
    # Forest thins out toward the tree line at two thirds of the relief.
    forest -= 0.9 + 2.5 * np.clip(relative - 0.45, 0.0, None)
    share = np.clip(0.5 + 2.0 * forest, 0.0, 1.0)
    base += share * (np.float32(0.27) - base)
    fields = np.clip((8.0 - ground.sliding_slope) / 4.0, 0.0, 1.0)
    base += fields * (np.float32(0.4) + 0.1 * smooth_noise(rng, shape, res, 250.0) - base)
    out: Float = np.clip(base, 0.12, 0.88).astype(np.float32)
    out[ground.water] = 0.03
    return out


def period_coherence(rng: np.random.Generator, ground: Ground, lasting: Float) -> Float:
    """Coherence of one period: what the ground keeps, less the weather of both dates.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    ground : Ground
        Terrain.
    lasting : ndarray of float32 [H, W]
        `ground_coherence`.

    Returns
    -------
    ndarray of float32 [H, W]
        In [0, 1].
    """
    weather = smooth_noise(rng, ground.shape, ground.resolution_m, 3000.0)
    factor = np.clip(0.96 + 0.04 * weather, 0.8, 1.05)
    out: Float = np.clip(lasting * factor, 0.0, 0.95).astype(np.float32)
    return out


def gradient_coherence(phase: Float, inside: Bool) -> Float:
    """Factor by which a steep phase gradient inside the resolution cell lowers coherence.

    The looks of a cell over which the phase runs linearly through Δφ add up to sinc(Δφ/2).

    Parameters
    ----------
    phase : ndarray of float32 [h, w]
        Deformation phase [rad].
    inside : ndarray of bool [h, w]
        The moving ground; outside the factor is 1.

    Returns
    -------
    ndarray of float32 [h, w]
        In (0, 1].
    """
    if min(phase.shape) < 2:
        return np.ones_like(phase)
    dy, dx = np.gradient(phase)
    factor = np.abs(np.sinc(dy / (2.0 * np.pi)) * np.sinc(dx / (2.0 * np.pi)))
    return np.where(inside, np.maximum(factor, 0.05), 1.0).astype(np.float32)

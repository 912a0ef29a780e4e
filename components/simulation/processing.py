"""What the processor does to an interferogram: its pixel, its filter, its stack, its coherence.

A product of coarse pixels that is brought to a finer grid holds noise that is correlated over its own
pixels and as strong as before. That is another thing than filtered noise, which is correlated because
the filter took its short waves away: blobs of noise are what small landslides look like.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from scipy import ndimage

from components.simulation.conditions import Conditions
from components.simulation.decorrelation import draw_multilooked
from components.simulation.fields import Float, block_mean

#: Where the Gaussian that stands for the phase filter is cut off [standard deviations].
_TRUNCATE: Final = 3.0


class Noise(NamedTuple):
    """Phase noise of a processed interferogram.

    Parameters
    ----------
    phase : ndarray of float32 [H, W]
        Noise [rad].
    coherence : ndarray of float32 [H, W]
        Sample coherence, in [0, 1].
    kept : float32
        Standard deviation relative to that of the multilooked interferogram.
    """

    phase: Float
    coherence: Float
    kept: np.float32


def draw_noise(rng: np.random.Generator, coherence: Float, conditions: Conditions) -> Noise:
    """Draw phase noise as a processor leaves it.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    coherence : ndarray of float32 [H, W]
        True coherence.
    conditions : Conditions
        ``looks``, ``coarse``, ``filter_px``, ``noise_gain``.

    Returns
    -------
    Noise
    """
    factor = conditions.coarse
    ground = coherence if factor == 1 else block_mean(coherence, factor)
    phase, sample = draw_multilooked(rng, ground, conditions.looks)
    drawn = float(phase.std())
    gain = np.float32(conditions.noise_gain)
    if factor == 1 and not conditions.filter_px:
        return Noise(phase if gain == 1 else phase * gain, sample, gain)
    # Grids are changed, and filters work, on the interferogram and not on the phase: near ±π they differ.
    parts: list[Float] = [np.cos(phase), np.sin(phase)]
    if factor > 1:
        parts = [_between(part, factor, coherence.shape) for part in parts]
        sample = _between(sample, factor, coherence.shape)
    if conditions.filter_px:
        parts = [
            ndimage.gaussian_filter(part, conditions.filter_px, truncate=_TRUNCATE)
            for part in parts
        ]
    out: Float = np.arctan2(parts[1], parts[0]) * gain
    return Noise(out, sample, np.float32(out.std() / max(drawn, 1e-6)))


def as_processed(deformation: Float, conditions: Conditions) -> Float:
    """Deformation as the product's pixels and its filter leave it.

    Parameters
    ----------
    deformation : ndarray of float32 [h, w]
        Any unit; 0 outside.
    conditions : Conditions
        ``coarse`` and ``filter_px``.

    Returns
    -------
    ndarray of float32 [h, w]
    """
    if conditions.coarse > 1:
        deformation = ndimage.uniform_filter(deformation, conditions.coarse, mode="constant")
    if conditions.filter_px:
        deformation = ndimage.gaussian_filter(
            deformation, conditions.filter_px, truncate=_TRUNCATE, mode="constant"
        )
    return deformation


def reported(sample: Float, conditions: Conditions) -> Float:
    """Coherence as the product reports it.

    Phase linking and stacks report a coherence that stays high where the phase is noisy.

    Parameters
    ----------
    sample : ndarray of float32 [H, W]
        Sample coherence, in (0, 1].
    conditions : Conditions
        ``coherence_exponent``.

    Returns
    -------
    ndarray of float32 [H, W]
        In (0, 1].
    """
    exponent = np.float32(conditions.coherence_exponent)
    return sample if exponent == 1 else sample**exponent


def _between(values: Float, factor: int, shape: tuple[int, ...]) -> Float:
    """Linear interpolation of coarse pixels at the centres of the fine ones."""
    rows, cols = (
        np.clip((np.arange(n, dtype=np.float32) + 0.5) / factor - 0.5, 0.0, m - 1.0)
        for n, m in zip(shape, values.shape, strict=True)
    )
    out = values
    for axis, at in ((0, rows), (1, cols)):
        low = at.astype(np.intp)
        high = np.minimum(low + 1, out.shape[axis] - 1)
        share = (at - low).astype(np.float32)
        share = share[:, None] if axis == 0 else share[None, :]
        out = np.take(out, low, axis) * (1 - share) + np.take(out, high, axis) * share
    return out

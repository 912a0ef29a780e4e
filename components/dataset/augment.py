"""Augmentation that keeps the physics: what a mirrored, noisier or poorer map would have looked like.

Mirrors and turns. All channels are scalars of the scene: velocity and phase along the line of sight,
coherence, slope, and C = s·u. Mirroring (or turning) the ground mirrors the downslope direction s *and* the
look vector u, and a dot product does not change when both its vectors are mirrored. So the mirrored
channels are exactly what a satellite with the mirrored look vector would have measured on the mirrored
terrain; nothing has to be recomputed. A channel with a single component of u would break under a mirror:
such channels are not in the table below, and unknown channels are refused.

Reversed look. Displacement is m·(s·u) for downslope motion m: reversing u changes the signs of velocity,
phase and C together, and keeps v/C. Applied to half of the samples, it removes the track's preference for
one sign, which the network would otherwise learn as a law of nature.

Atmosphere. What is added has the spectrum of the simulator's turbulence, so that it looks like the rest of a
map's atmosphere: most of its power lies at the longest waves of a tile, and waves of the size of a landslide
(500 m and less) stay below 0.16 σ at the largest strength.

NumPy and SciPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from components.dataset.presets import TERRAIN
from components.errors import ModelError
from components.simulation.atmosphere import turbulence_psd
from components.simulation.fields import SpectralField

Float = NDArray[np.float32]
T = TypeVar("T", bound=np.generic)

#: Channel names that this module knows to be scalars under mirrors and turns.
_SCALARS: Final = frozenset(
    {"velocity", "coherence", "cos", "sin", "valid", "red", "green", "blue"} | TERRAIN
)

#: Channels of the interferogram: zero where there is no data, before and after augmentation.
_SIGNAL: Final = ("valid", "velocity", "coherence", "cos", "sin", "red", "green", "blue")


@dataclass(frozen=True)
class Strength:
    """How far augmentation goes.

    Parameters
    ----------
    reverse : float
        Probability of the reversed look.
    gain : float
        Velocities are scaled by a factor in [1/gain, gain], log-uniform.
    atmosphere : float
        Largest rms of the added atmosphere over a tile: in units of the map noise σ for velocity, in
        radians for phase.
    white : float
        Largest standard deviation of added white noise, same units.
    coherence_noise : float
        Largest standard deviation of noise added to coherence.
    gaps : float
        Probability of knocking out patches of data.
    drop_coherence : float
        Probability that the whole coherence channel is zero, as for a product that lacks it.
    lower_coherence : float
        Probability that all coherence is lowered, as in a worse season.
    lowest_coherence : float
        Smallest factor of such a lowering, in (0, 1].
    drop_terrain : float
        Probability that the terrain's channels (C, slope, relative height) are zero, as for a product
        that brings no terrain.
    turn_phase : float
        Probability of a random constant added to the phase (the reference point is arbitrary).
    brightness, render_noise, sharpen : float
        For the colour render: largest relative change of brightness, largest noise, probability of
        sharpening.
    """

    reverse: float = 0.5
    gain: float = 1.25
    atmosphere: float = 0.5
    white: float = 0.3
    coherence_noise: float = 0.03
    gaps: float = 0.3
    drop_coherence: float = 0.1
    lower_coherence: float = 0.3
    lowest_coherence: float = 0.5
    drop_terrain: float = 0.15
    turn_phase: float = 0.5
    brightness: float = 0.25
    render_noise: float = 0.03
    sharpen: float = 0.3


class Sample(NamedTuple):
    """Image and object masks.

    Parameters
    ----------
    image : ndarray, float32, ``[C, H, W]``
        Channels of a preset.
    masks : ndarray, bool, ``[N, H, W]``
        Objects; turned along with the image.
    """

    image: Float
    masks: NDArray[np.bool_]


def check_channels(channels: Sequence[str]) -> None:
    """Refuse channels that mirrors and turns would make inconsistent.

    Parameters
    ----------
    channels : sequence of str
        Names, as in `components.dataset.presets.CHANNELS`.

    Raises
    ------
    ModelError
        SW-404 for a channel that is not a known scalar, e.g. a component of the look vector.
    """
    unknown = sorted(set(channels) - _SCALARS)
    if unknown:
        raise ModelError(
            "SW-404",
            f"channels {unknown} are not known to keep their meaning under mirrors and turns",
            remedy="Switch augmentation off, or use scalar channels.",
        )


def augment(
    image: Float,
    masks: NDArray[np.bool_],
    channels: Sequence[str],
    rng: np.random.Generator,
    strength: Strength | None = None,
    *,
    pixel_m: float = 25.0,
) -> Sample:
    """Random mirror, turn, noise and loss of data.

    Parameters
    ----------
    image : ndarray, float32, ``[C, H, W]``
        Channels of a preset; not changed.
    masks : ndarray, bool, ``[N, H, W]``
        Objects; not changed.
    channels : sequence of str
        Names of the channels.
    rng : Generator
        The only source of chance.
    strength : Strength, optional
        How far to go.
    pixel_m : float
        Pixel size [m]; it sets the shape of the added atmosphere.

    Returns
    -------
    Sample
        Same shapes. Pixels without data stay zero in all channels of the interferogram.

    Raises
    ------
    ModelError
        SW-404, see `check_channels`.
    """
    check_channels(channels)
    strength = strength or Strength()
    k = int(rng.integers(8))
    image, masks = turn(image, k), turn(masks, k)
    at = {name: i for i, name in enumerate(channels)}
    known = np.any([image[at[n]] != 0 for n in _SIGNAL if n in at], axis=0)
    image = image.copy()
    if rng.random() < strength.reverse:
        image = reverse_look(image, channels)
    if "red" in at:
        image = _repaint(image, rng, strength)
    else:
        _disturb(image, at, rng, strength, pixel_m)
    known = known & _gaps(known.shape, rng, strength)
    for name in _SIGNAL:
        if name in at:
            image[at[name]] *= known
    if "coherence" in at and rng.random() < strength.drop_coherence:
        image[at["coherence"]] = 0.0
    if rng.random() < strength.drop_terrain:
        for name in TERRAIN & at.keys():
            image[at[name]] = 0.0
    return Sample(np.ascontiguousarray(image), np.ascontiguousarray(masks))


def turn(array: NDArray[T], k: int) -> NDArray[T]:
    """One of the eight symmetries of the square, on the last two axes.

    Parameters
    ----------
    array : ndarray, ``[..., H, W]``
        Image or masks.
    k : int
        0 to 7: ``k % 4`` quarter turns anticlockwise, then for ``k >= 4`` a mirror of the columns.
        Quarter turns that would change the shape of a non-square array become half turns.

    Returns
    -------
    ndarray
        A view.
    """
    quarters = k % 4
    if quarters % 2 and array.shape[-1] != array.shape[-2]:
        quarters = 2
    out = np.rot90(array, quarters, axes=(-2, -1))
    return out[..., ::-1] if k >= 4 else out


def reverse_look(image: Float, channels: Sequence[str]) -> Float:
    """The scene as seen against the look direction: signs of velocity, phase and C change together.

    Parameters
    ----------
    image : ndarray, float32, ``[C, H, W]``
        Channels of a preset.
    channels : sequence of str
        Their names.

    Returns
    -------
    ndarray, float32, ``[C, H, W]``
        A copy. In the colour render the reversed phase is green and blue exchanged, since these two
        are the cosines a third of a cycle before and after red.
    """
    image = image.copy()
    at = {name: i for i, name in enumerate(channels)}
    for name in ("velocity", "sin", "los_sensitivity"):
        if name in at:
            image[at[name]] *= -1.0
    if "green" in at:
        image[[at["green"], at["blue"]]] = image[[at["blue"], at["green"]]]
    return image


def atmosphere(shape: tuple[int, int], pixel_m: float, rng: np.random.Generator) -> Float:
    """Turbulence of one tile, mean 0 and rms 1 over it.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns.
    pixel_m : float
        Pixel size [m].
    rng : Generator
        Source of chance.

    Returns
    -------
    ndarray, float32
        Of that shape, with the spectrum of `components.simulation.atmosphere.turbulence_psd`.
    """
    field = _turbulence(shape, pixel_m).draw(rng)
    field -= field.mean()
    return np.asarray(field / max(float(field.std()), 1e-6), dtype=np.float32)


@lru_cache(maxsize=8)
def _turbulence(shape: tuple[int, int], pixel_m: float) -> SpectralField:
    return SpectralField(shape, pixel_m, turbulence_psd)


def _disturb(
    image: Float,
    at: dict[str, int],
    rng: np.random.Generator,
    strength: Strength,
    pixel_m: float,
) -> None:
    """Atmosphere and noise on the physical channels, in place."""
    shape = (image.shape[1], image.shape[2])
    added = atmosphere(shape, pixel_m, rng) * np.float32(rng.uniform(0.0, strength.atmosphere))
    added += rng.standard_normal(shape, dtype=np.float32) * np.float32(
        rng.uniform(0.0, strength.white)
    )
    if "velocity" in at:
        gain = np.float32(np.exp(rng.uniform(-1.0, 1.0) * np.log(strength.gain)))
        # The channel is asinh(v/σ)/2: noise is added to v/σ, where it is what it would be on the map.
        rate = np.sinh(2.0 * image[at["velocity"]])
        image[at["velocity"]] = 0.5 * np.arcsinh(rate * gain + added)
    if "cos" in at:
        if rng.random() < strength.turn_phase:
            added = added + np.float32(rng.uniform(-np.pi, np.pi))
        cos, sin = image[at["cos"]].copy(), image[at["sin"]].copy()
        image[at["cos"]] = cos * np.cos(added) - sin * np.sin(added)
        image[at["sin"]] = sin * np.cos(added) + cos * np.sin(added)
    if "coherence" in at:
        coherence = image[at["coherence"]]
        if rng.random() < strength.lower_coherence:
            coherence = coherence * np.float32(rng.uniform(strength.lowest_coherence, 1.0))
        noise = rng.standard_normal(shape, dtype=np.float32)
        noise *= np.float32(rng.uniform(0.0, strength.coherence_noise))
        image[at["coherence"]] = np.clip(coherence + noise, 0.0, 1.0)


def _repaint(image: Float, rng: np.random.Generator, strength: Strength) -> Float:
    """Brightness, noise and sharpening of the colour render: it is a picture, not a measurement."""
    image = image * np.float32(rng.uniform(1.0 - strength.brightness, 1.0 + strength.brightness))
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    image = image + noise * np.float32(rng.uniform(0.0, strength.render_noise))
    if rng.random() < strength.sharpen:
        blurred = uniform_filter(image, size=(0, 3, 3), mode="nearest")
        image = image + np.float32(rng.uniform(0.2, 1.0)) * (image - blurred)
    return np.clip(image, 0.0, 1.0).astype(np.float32)


def _gaps(
    shape: tuple[int, ...], rng: np.random.Generator, strength: Strength
) -> NDArray[np.bool_]:
    """False in up to three small patches: decorrelated ground, each at most a tenth of a side."""
    keep = np.ones(shape, dtype=bool)
    if rng.random() < strength.gaps:
        for _ in range(int(rng.integers(1, 4))):
            height, width = (int(rng.integers(1, max(n // 10, 2))) for n in shape)
            r = int(rng.integers(0, shape[0] - height + 1))
            c = int(rng.integers(0, shape[1] - width + 1))
            keep[r : r + height, c : c + width] = False
    return keep

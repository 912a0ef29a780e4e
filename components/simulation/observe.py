"""One interferogram of a simulated map: deformation, delay, noise and artefacts put together.

Sign: phase positive away from the satellite, φ = -4π d_LOS / λ with d_LOS positive toward it; delay
of the later acquisition counts positive, that of the earlier negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from components.insar.phase import phase_std, wrap
from components.layers import SENTINEL1_WAVELENGTH_M
from components.simulation.artefacts import (
    Islands,
    dem_error_phase,
    miscounted,
    unseen,
    unwrapping_islands,
)
from components.simulation.atmosphere import Acquisition
from components.simulation.conditions import REFERENCE, Conditions
from components.simulation.decorrelation import gradient_coherence, period_coherence
from components.simulation.fields import Bool, Float, smooth
from components.simulation.labels import Label, draw_label, local_sigma
from components.simulation.landslides import Landslide
from components.simulation.look import Look
from components.simulation.negatives import Negative
from components.simulation.processing import as_processed, draw_noise, reported
from components.simulation.terrain import Ground

#: Range × azimuth looks of the simulated products; their product is `REFERENCE.looks`.
RANGE_LOOKS, AZIMUTH_LOOKS = 10, 2

#: Displacement [m] of a phase [rad] is this times the phase.
METRES_PER_RADIAN = np.float32(-SENTINEL1_WAVELENGTH_M / (4.0 * np.pi))

#: The unwrapper gives up below this coherence; readers use pixels from the other one up.
_UNWRAP_COHERENCE = 0.1
USABLE_COHERENCE = 0.3
#: A true value of 0 would be read as nodata.
_NUDGE = np.float32(1e-6)


@dataclass(frozen=True)
class Track:
    """What is fixed for one track over a map.

    Parameters
    ----------
    look : Look
        Geometry.
    unseen : ndarray of bool [H, W]
        Layover and shadow.
    """

    look: Look
    unseen: Bool


@dataclass(frozen=True)
class Observation:
    """One simulated interferogram and its truth.

    Parameters
    ----------
    unwrapped : ndarray of float32 [H, W]
        Unwrapped phase [rad], positive away from the satellite; 0 is nodata.
    wrapped : ndarray of float32 [H, W]
        Wrapped phase [rad] of every pixel, never 0.
    coherence : ndarray of float32 [H, W]
        Sample coherence, in (0, 1].
    usable : ndarray of bool [H, W]
        Unwrapped, and of sample coherence from 0.3 up.
    sigma_m : ndarray of float32 [H, W]
        Standard deviation of what could hide a landslide: local contrast of the delays, and the
        phase noise of the coherence [m].
    labels : tuple of Label
        Visible landslides.
    islands : Islands
        Unwrapping errors.
    """

    unwrapped: Float
    wrapped: Float
    coherence: Float
    usable: Bool
    sigma_m: Float
    labels: tuple[Label, ...]
    islands: Islands

    @property
    def displacement(self) -> Float:
        """LOS displacement [m], positive toward the satellite; NaN where not unwrapped."""
        out: Float = self.unwrapped * METRES_PER_RADIAN
        out[self.unwrapped == 0] = np.nan
        return out


def make_track(ground: Ground, look: Look) -> Track:
    """Work out what a track cannot see.

    Parameters
    ----------
    ground : Ground
        Terrain.
    look : Look
        Geometry.

    Returns
    -------
    Track
    """
    return Track(look, unseen(ground, look))


def observe(
    rng: np.random.Generator,
    ground: Ground,
    track: Track,
    landslides: Sequence[Landslide],
    negatives: Sequence[Negative],
    lasting_coherence: Float,
    height_error: Float,
    pair: tuple[Acquisition, Acquisition],
    days: tuple[float, float],
    conditions: Conditions = REFERENCE,
) -> Observation:
    """Simulate the interferogram of two acquisitions.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    ground : Ground
        Terrain.
    track : Track
        Geometry.
    landslides, negatives : sequence
        What moves.
    lasting_coherence : ndarray of float32 [H, W]
        Coherence that the ground keeps.
    height_error : ndarray of float32 [H, W]
        Error of the terrain model [m].
    pair : (Acquisition, Acquisition)
        Earlier and later pass.
    days : (float, float)
        Their days since the first acquisition.
    conditions : Conditions
        Processing and air.

    Returns
    -------
    Observation
    """
    look = track.look
    coherence = period_coherence(rng, ground, lasting_coherence)
    if conditions.coherence_gain != 1:
        np.clip(coherence * np.float32(conditions.coherence_gain), 0.0, 0.95, out=coherence)
    deformation: Float = np.zeros(ground.shape, dtype=np.float32)
    shown: list[Float] = []
    for slide in landslides:
        phase = slide.los_displacement(look.los, *days) / METRES_PER_RADIAN
        # A neighbour's footprint may reach into this window, never into this footprint.
        coherence[slide.window] *= gradient_coherence(phase, slide.mask)
        phase = miscounted(phase)
        deformation[slide.window] += phase
        shown.append(as_processed(phase, conditions) * METRES_PER_RADIAN)
    for item in negatives:
        w = item.window
        np.minimum(coherence[w], item.coherence, out=coherence[w])
        if item.rate_mm_yr:
            motion = item.los_displacement(look.los, days[1] - days[0])
            deformation[w] += motion / METRES_PER_RADIAN
    coherence[track.unseen] = 0.05

    noise, sample, kept = draw_noise(rng, coherence, conditions)
    deformation = as_processed(deformation, conditions)
    islands = unwrapping_islands(rng, coherence, ground.resolution_m)
    delay = pair[1].delay - pair[0].delay
    delay += dem_error_phase(height_error, pair[1].baseline_m - pair[0].baseline_m, look)
    delay *= np.float32(conditions.delay_gain)

    # Coherence is estimated in a window of 3 × 3 multilooked pixels, as processors do.
    sample = ndimage.uniform_filter(sample, 3, mode="nearest")
    np.clip(sample, 1e-3, 1.0, out=sample)
    nodata = track.unseen | ground.water | (smooth(coherence, 1.0) < _UNWRAP_COHERENCE)
    usable: Bool = ~nodata & (sample >= USABLE_COHERENCE)
    sigma = np.hypot(
        local_sigma(delay, usable, ground.resolution_m),
        kept * np.asarray(phase_std(coherence, conditions.looks), dtype=np.float32),
    )
    sigma *= np.abs(METRES_PER_RADIAN)
    labels = [
        label
        for slide, displacement in zip(landslides, shown, strict=True)
        if (label := draw_label(slide, displacement, sigma, usable)) is not None
    ]
    total = noise
    total += delay
    total += deformation
    total += np.float32(2.0 * np.pi) * islands.cycles
    total += np.float32(rng.uniform(-np.pi, np.pi))
    total[total == 0] = _NUDGE
    wrapped = np.asarray(wrap(total), dtype=np.float32)
    wrapped[wrapped == 0] = _NUDGE
    total[nodata] = 0.0
    sample = reported(sample, conditions)
    return Observation(total, wrapped, sample, usable, sigma, tuple(labels), islands)

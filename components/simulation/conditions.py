"""Under which conditions a map is observed: one reference set, and a wide draw for training.

A network that has seen one kind of noise takes any other kind for deformation. For training, the
conditions are drawn anew for each scene, wider than nature's usual range (domain randomisation, Tobin et
al. 2017, doi:10.1109/IROS.2017.8202133): products are filtered or not, stacked or not, of many looks or
few, over calm or humid air, and landslides move as a block or taper towards their edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np


@dataclass(frozen=True)
class Conditions:
    """What is not the ground's own: processing, air, and how abruptly motion ends.

    Parameters
    ----------
    looks : int
        Independent looks of the multilooked interferogram, >= 2.
    coarse : int
        Pixels of the map along a side of the product's own pixel, >= 1: the noise is correlated over
        that many, the deformation averaged.
    filter_px : float
        Standard deviation of the Gaussian that stands for the phase filter [px]; 0 for none. It smooths
        noise and deformation alike.
    noise_gain : float
        Factor of the phase noise: below 1 for an average of several interferograms.
    delay_gain : float
        Factor of the atmospheric delay, likewise.
    turbulence_rad : (float, float)
        Smallest and largest rms of turbulence over an unbounded map [rad].
    stratified_rad_m : (float, float)
        Largest gradient of the stratified delay [rad/m]: usual, and in the tail of one in ten.
    ramp_rad : float
        Largest rms of the orbital ramp [rad].
    cells_per_1000km2 : float
        Turbulent cells of an acquisition.
    dem_error_m : float
        Rms error of the terrain model [m].
    coherence_gain : float
        Factor of the coherence.
    coherence_exponent : float
        The product reports the coherence to this power, in (0, 1]: below 1 it praises itself.
    relief : float
        Factor of the heights of generated terrain: near 0 for a plain.
    negatives_gain : float
        Factor of the density of what can be taken for a landslide.
    least_motion : (float, float)
        Range of the motion at the slower end of a landslide, relative to the faster one.
    taper : (float, float)
        Range of the exponent q of the cross profile ``1 - rim^q``: 2 tapers, 8 is a block.
    """

    looks: int = 20
    coarse: int = 1
    filter_px: float = 0.0
    noise_gain: float = 1.0
    delay_gain: float = 1.0
    turbulence_rad: tuple[float, float] = (0.3, 1.0)
    stratified_rad_m: tuple[float, float] = (1.2e-3, 5e-3)
    ramp_rad: float = 0.8
    cells_per_1000km2: float = 6.0
    dem_error_m: float = 5.0
    coherence_gain: float = 1.0
    coherence_exponent: float = 1.0
    relief: float = 1.0
    negatives_gain: float = 1.0
    least_motion: tuple[float, float] = (0.1, 0.3)
    taper: tuple[float, float] = (2.0, 8.0)


#: The conditions of simulated regions, benchmarks and tests.
REFERENCE: Final = Conditions()


def draw_conditions(rng: np.random.Generator) -> Conditions:
    """Draw conditions for one training scene; three in ten are the reference.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    Conditions
    """
    if rng.uniform() < 0.3:
        return REFERENCE
    stacked = 1.0 if rng.uniform() < 0.6 else float(rng.uniform(0.25, 1.0))
    humid = _log_uniform(rng, 0.5, 3.0)
    least = float(rng.uniform(0.05, 0.8))
    taper = _log_uniform(rng, 1.3, 8.0)
    return Conditions(
        looks=int(_log_uniform(rng, 6, 60)),
        # Products of 25 to 100 m on a grid of 25 m.
        coarse=1 if rng.uniform() < 0.5 else int(rng.integers(2, 5)),
        filter_px=0.0 if rng.uniform() < 0.45 else float(rng.uniform(0.4, 1.8)),
        noise_gain=stacked,
        delay_gain=stacked,
        turbulence_rad=(0.3 * humid, 1.0 * humid),
        stratified_rad_m=(1.2e-3 * humid, 5e-3 * humid),
        ramp_rad=0.8,
        cells_per_1000km2=float(rng.uniform(0.0, 25.0)),
        dem_error_m=float(rng.uniform(1.0, 10.0)),
        coherence_gain=float(
            rng.uniform(0.8, 1.15) if rng.uniform() < 0.8 else rng.uniform(0.5, 0.8)
        ),
        coherence_exponent=1.0 if rng.uniform() < 0.6 else _log_uniform(rng, 0.25, 1.0),
        relief=1.0 if rng.uniform() < 0.85 else _log_uniform(rng, 0.02, 0.5),
        negatives_gain=_log_uniform(rng, 1.0, 6.0),
        least_motion=(least, min(least + 0.2, 1.0)),
        taper=(taper, 1.5 * taper),
    )


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))

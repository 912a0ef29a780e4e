"""Phase, displacement, velocity and what decorrelation makes of their accuracy.

All functions work elementwise, keep the floating dtype of their input (integers become float64) and pass
NaN through.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from components.layers import DAYS_PER_YEAR

FloatArray = npt.NDArray[np.floating[Any]]

#: Standard deviation of a phase about which nothing is known: uniform on a circle [rad].
PHASE_STD_MAX: Final = float(np.pi / np.sqrt(3.0))

_MM_PER_M: Final = 1000.0


def _floating(values: npt.ArrayLike) -> FloatArray:
    array = np.asarray(values)
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            msg = f"{name} must be > 0; got {value}"
            raise ValueError(msg)


def displacement_from_phase(phase: npt.ArrayLike, wavelength_m: float) -> FloatArray:
    """LOS displacement of an unwrapped phase: ``d = −λ φ / 4π``.

    Parameters
    ----------
    phase : array_like
        Unwrapped phase [rad], positive away from the satellite.
    wavelength_m : float
        Radar wavelength [m], > 0.

    Returns
    -------
    ndarray
        Displacement [m], positive toward the satellite.
    """
    _positive(wavelength_m=wavelength_m)
    return _floating(phase) * (-wavelength_m / (4.0 * np.pi))


def phase_from_displacement(displacement_m: npt.ArrayLike, wavelength_m: float) -> FloatArray:
    """Unwrapped phase of a LOS displacement: ``φ = −4π d / λ``.

    Parameters
    ----------
    displacement_m : array_like
        Displacement [m], positive toward the satellite.
    wavelength_m : float
        Radar wavelength [m], > 0.

    Returns
    -------
    ndarray
        Phase [rad], positive away from the satellite.
    """
    _positive(wavelength_m=wavelength_m)
    return _floating(displacement_m) * (-4.0 * np.pi / wavelength_m)


def wrap(phase: npt.ArrayLike) -> FloatArray:
    """Wrap a phase into one cycle.

    Parameters
    ----------
    phase : array_like
        Phase [rad].

    Returns
    -------
    ndarray
        The same phase modulo 2π, in [−π, π].

    Examples
    --------
    >>> float(wrap(2.5 * np.pi)) == 0.5 * np.pi
    True
    """
    values = _floating(phase)
    out = values - 2.0 * np.pi * np.round(values / (2.0 * np.pi))
    # In float32 the number nearest to π is larger than π: stay inside the declared range.
    limit = out.dtype.type(np.pi)
    if float(limit) > np.pi:
        limit = np.nextafter(limit, out.dtype.type(0))
    clipped: FloatArray = np.clip(out, -limit, limit)
    return clipped


def velocity(displacement_m: npt.ArrayLike, days: float) -> FloatArray:
    """Mean LOS velocity of a displacement that took some days.

    Parameters
    ----------
    displacement_m : array_like
        Displacement [m], positive toward the satellite.
    days : float
        Length of the period, > 0.

    Returns
    -------
    ndarray
        Velocity [mm/yr], positive toward the satellite.
    """
    _positive(days=days)
    return _floating(displacement_m) * (_MM_PER_M * DAYS_PER_YEAR / days)


def phase_std(coherence: npt.ArrayLike, looks: float) -> FloatArray:
    """Phase standard deviation of distributed scatterers: the Cramér–Rao bound.

    ``σ = sqrt((1 − γ²) / (2 L γ²))`` (Rodriguez & Martin 1992), capped at π/√3, the value of a uniform
    phase. The bound is met for many looks; at few looks and low coherence the true value is larger.

    Parameters
    ----------
    coherence : array_like
        Interferometric coherence γ; values outside [0, 1] are clipped.
    looks : float
        Number L of independent looks, > 0.

    Returns
    -------
    ndarray
        Standard deviation [rad], in [0, π/√3].
    """
    _positive(looks=looks)
    gamma = np.clip(_floating(coherence), 0.0, 1.0)
    squared = gamma * gamma
    # Below this coherence the cap holds anyway; the floor only keeps the division finite.
    floor = 1e-12
    sigma = np.sqrt((1.0 - squared) / (2.0 * looks * np.maximum(squared, floor)))
    capped: FloatArray = np.minimum(sigma, sigma.dtype.type(PHASE_STD_MAX))
    return capped


def velocity_std(
    coherence: npt.ArrayLike, looks: float, wavelength_m: float, days: float
) -> FloatArray:
    """Velocity standard deviation from decorrelation alone (no atmosphere).

    Parameters
    ----------
    coherence : array_like
        Interferometric coherence; values outside [0, 1] are clipped.
    looks : float
        Number of independent looks, > 0.
    wavelength_m : float
        Radar wavelength [m], > 0.
    days : float
        Length of the period, > 0.

    Returns
    -------
    ndarray
        Standard deviation [mm/yr].
    """
    _positive(wavelength_m=wavelength_m)
    return velocity(phase_std(coherence, looks) * (wavelength_m / (4.0 * np.pi)), days)

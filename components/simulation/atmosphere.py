"""Delay of one acquisition: turbulence, stratification, turbulent cells and orbital ramp.

Delays are drawn per acquisition and differenced, so that two consecutive periods share the
acquisition between them, with opposite sign, as real interferograms do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.simulation.conditions import REFERENCE, Conditions
from components.simulation.fields import Bool, Float, SpectralField, smooth_noise
from components.simulation.terrain import Ground

#: Wavelengths [m] where the spectrum of turbulence bends (Hanssen 2001, sec. 4.7).
OUTER_M, LARGE_M, SMALL_M = 50e3, 1500.0, 250.0
#: Exponents of the two-dimensional spectrum in the three bands: those of a profile (-5/3, -8/3, -2/3)
#: less one.
EXPONENTS = (-8.0 / 3.0, -11.0 / 3.0, -5.0 / 3.0)
_SHORTEST_M = 20.0

#: Share of acquisitions in the tail of stratification, and how much it varies over the map.
_STRATIFIED_TAIL = 0.1
_STRATIFIED_LATERAL = 0.3


def turbulence_psd(k: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two-dimensional spectrum of turbulence, flat beyond 50 km, of unit variance in all.

    The variance is that of an unbounded map: a smaller map, which holds only the shorter
    wavelengths, has the smaller one that it has in nature.

    Parameters
    ----------
    k : ndarray of float64
        Wavenumber [cycles/m], > 0.

    Returns
    -------
    ndarray of float64
        Power spectral density [m²].
    """
    return _bends(k) / _UNIT_VARIANCE


def _bends(k: NDArray[np.float64]) -> NDArray[np.float64]:
    k0, k1, k2 = 1.0 / OUTER_M, 1.0 / LARGE_M, 1.0 / SMALL_M
    e0, e1, e2 = EXPONENTS
    at_large = (k1 / k0) ** e0
    at_small = at_large * (k2 / k1) ** e1
    logk = np.log(np.maximum(k, k0))
    # Piecewise linear in log-log: one interpolation instead of three powers.
    knots = np.log([k0, k1, k2, 1.0])
    values = np.log([1.0, at_large, at_small, at_small * (1.0 / k2) ** e2])
    out: NDArray[np.float64] = np.exp(np.interp(logk, knots, values))
    return out


def _variance() -> float:
    k = np.geomspace(1e-2 / OUTER_M, 1.0 / _SHORTEST_M, 4000)
    return float(np.trapezoid(2.0 * np.pi * k * _bends(k), k))


_UNIT_VARIANCE = _variance()


@dataclass(frozen=True)
class Cell:
    """A turbulent cell: a blob of delay that can be taken for deformation.

    Parameters
    ----------
    row, col : int
        Upper left pixel of its window.
    mask : ndarray of bool [h, w]
        Where its delay exceeds half of its peak.
    """

    row: int
    col: int
    mask: Bool


@dataclass(frozen=True)
class Acquisition:
    """What one pass over the map contributes to its interferograms.

    Parameters
    ----------
    delay : ndarray of float32 [H, W]
        Phase of the two-way path delay [rad], positive where the path is longer.
    baseline_m : float
        Perpendicular orbit offset from a common reference [m].
    cells : tuple of Cell
        Its turbulent cells.
    """

    delay: Float
    baseline_m: float
    cells: tuple[Cell, ...]


class Atmosphere:
    """Sampler of acquisitions over one map.

    Parameters
    ----------
    ground : Ground
        Terrain.
    conditions : Conditions
        How much of each kind of delay there is.
    """

    def __init__(self, ground: Ground, conditions: Conditions = REFERENCE) -> None:
        self._ground = ground
        self._conditions = conditions
        self._turbulence = SpectralField(ground.shape, ground.resolution_m, turbulence_psd)

    def turbulence(self, rng: np.random.Generator, rms_rad: float) -> Float:
        """Draw turbulence alone.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of randomness.
        rms_rad : float
            Rms over an unbounded map [rad].

        Returns
        -------
        ndarray of float32 [H, W]
            Delay [rad].
        """
        return self._turbulence.draw(rng) * np.float32(rms_rad)

    def draw(self, rng: np.random.Generator) -> Acquisition:
        """Draw the delay of one acquisition.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of randomness.

        Returns
        -------
        Acquisition
        """
        ground, conditions = self._ground, self._conditions
        delay = self.turbulence(rng, rng.uniform(*conditions.turbulence_rad))
        delay += self._stratified(rng)
        delay += ramp(rng, ground.shape, rng.uniform(0.0, conditions.ramp_rad))
        cells = _add_cells(rng, delay, ground.resolution_m, conditions.cells_per_1000km2)
        return Acquisition(delay, float(rng.normal(0.0, 60.0 / np.sqrt(2.0))), cells)

    def _stratified(self, rng: np.random.Generator) -> Float:
        usual, tail = self._conditions.stratified_rad_m
        bound = tail if rng.uniform() < _STRATIFIED_TAIL else usual
        gradient = np.float32(rng.uniform(-bound, bound))
        h = self._ground.elevation
        lateral = smooth_noise(rng, self._ground.shape, self._ground.resolution_m, 10e3)
        lateral = np.tanh(lateral) * np.float32(_STRATIFIED_LATERAL)
        out: Float = gradient * (1.0 + lateral) * (h - h.mean(dtype=np.float64).astype(np.float32))
        return out


def ramp(rng: np.random.Generator, shape: tuple[int, int], rms_rad: float) -> Float:
    """Orbital ramp of first or second order.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    shape : (int, int)
        Height and width [px].
    rms_rad : float
        Rms over the map [rad].

    Returns
    -------
    ndarray of float32 [H, W]
        Phase [rad] of zero mean.
    """
    y = np.linspace(-1.0, 1.0, shape[0])[:, None]
    x = np.linspace(-1.0, 1.0, shape[1])[None, :]
    a = rng.standard_normal(5)
    plane = a[0] * y + a[1] * x
    if rng.uniform() < 0.3:
        plane = plane + a[2] * y * x + a[3] * (y * y - 1 / 3) + a[4] * (x * x - 1 / 3)
    plane = (plane - plane.mean()) * (rms_rad / max(float(plane.std()), 1e-9))
    out: Float = np.broadcast_to(plane, shape).astype(np.float32)
    return out


def _add_cells(
    rng: np.random.Generator, delay: Float, resolution_m: float, per_1000km2: float
) -> tuple[Cell, ...]:
    """Add turbulent cells to a delay, in place."""
    height, width = delay.shape
    count = int(rng.poisson(per_1000km2 * delay.size * resolution_m**2 / 1e9))
    cells = []
    for _ in range(count):
        radius = rng.uniform(400.0, 1300.0) / resolution_m
        row, col = rng.uniform(0, height), rng.uniform(0, width)
        peak = rng.uniform(1.0, 2.5) * (1.0 if rng.uniform() < 0.5 else -1.0)
        reach = 2.2 * radius
        rows = slice(max(0, int(row - reach)), min(height, int(row + reach) + 1))
        cols = slice(max(0, int(col - reach)), min(width, int(col + reach) + 1))
        y = (np.arange(rows.start, rows.stop, dtype=np.float32) - np.float32(row))[:, None]
        x = (np.arange(cols.start, cols.stop, dtype=np.float32) - np.float32(col))[None, :]
        size = (rows.stop - rows.start, cols.stop - cols.start)
        rough = smooth_noise(rng, size, 1.0, max(2.0, 0.5 * radius))
        r2 = (x * x + y * y) / np.float32(radius**2) * np.exp(np.float32(0.35) * rough)
        # Ends at the border of the window with 1 % of the peak.
        blob = np.exp(-r2).astype(np.float32)
        delay[rows, cols] += np.float32(peak) * blob
        cells.append(Cell(rows.start, cols.start, blob > 0.5))
    return tuple(cells)

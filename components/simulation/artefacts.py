"""Processing artefacts: unwrapping errors, DEM error, ground that the radar cannot see."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from components.insar.geometry import layover_shadow
from components.layers import SENTINEL1_WAVELENGTH_M
from components.simulation.fields import Bool, Float, block_mean, smooth_noise
from components.simulation.look import Look
from components.simulation.terrain import Ground

#: Height [m] and Earth radius [m] of the orbit, for slant range.
ORBIT_HEIGHT_M = 693e3
EARTH_RADIUS_M = 6371e3

_TWO_PI = np.float32(2.0 * np.pi)


class Islands(NamedTuple):
    """Components that were unwrapped to a wrong number of cycles.

    Parameters
    ----------
    cycles : ndarray of int8 [H, W]
        Cycles to add.
    masks : list of (row, col, mask)
        Each island in its window.
    """

    cycles: NDArray[np.int8]
    masks: list[tuple[int, int, Bool]]


def unwrapping_islands(rng: np.random.Generator, coherence: Float, resolution_m: float) -> Islands:
    """Shift islands of coherent ground by whole cycles.

    An island is ground of coherence above 0.45, between 0.05 and 4 km², that lower coherence cuts off
    from the rest; each third one is shifted.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    coherence : ndarray of float32 [H, W]
        True coherence.
    resolution_m : float
        Pixel size [m].

    Returns
    -------
    Islands
    """
    height, width = coherence.shape
    factor = max(1, round(75.0 / resolution_m))
    pieces, count = ndimage.label(block_mean(coherence, factor) > 0.45)
    cell_km2 = (factor * resolution_m) ** 2 / 1e6
    size = np.bincount(pieces.ravel(), minlength=count + 1)[1:] * cell_km2
    cycles = np.zeros(coherence.shape, dtype=np.int8)
    masks = []
    for i, box in enumerate(ndimage.find_objects(pieces)):
        if not 0.05 <= size[i] <= 4.0 or rng.uniform() > 1.0 / 3.0:
            continue
        shift = (1 if rng.uniform() < 0.5 else -1) * (2 if rng.uniform() < 0.15 else 1)
        rows = slice(box[0].start * factor, min(box[0].stop * factor, height))
        cols = slice(box[1].start * factor, min(box[1].stop * factor, width))
        fine = np.kron(pieces[box] == i + 1, np.ones((factor, factor), dtype=bool))
        mask: Bool = fine[: rows.stop - rows.start, : cols.stop - cols.start]
        cycles[rows, cols][mask] = shift
        masks.append((rows.start, cols.start, mask))
    return Islands(cycles, masks)


def miscounted(phase: Float) -> Float:
    """What an unwrapper makes of a landslide that steep edges enclose.

    Between neighbours whose phases differ by more than π the unwrapper cannot count cycles. Ground that
    no way of smaller steps joins to the surroundings is put as close to them as whole cycles allow; where
    one flank or the head is gradual, the count comes in from there.

    Parameters
    ----------
    phase : ndarray of float32 [h, w]
        True deformation phase [rad], 0 outside the landslide.

    Returns
    -------
    ndarray of float32 [h, w]
        Unwrapped phase [rad], congruent with the true one modulo 2π.
    """
    padded = np.pad(phase, 1)
    steps = [np.diff(padded, axis=axis) for axis in (0, 1)]
    if max(float(np.abs(step).max()) for step in steps) <= np.pi:
        return phase
    # Pixels at even places, the steps between them at odd ones: 4-connected pieces of this lattice are
    # what small steps join.
    lattice = np.zeros([2 * n - 1 for n in padded.shape], dtype=bool)
    lattice[::2, ::2] = True
    lattice[1::2, ::2] = np.abs(steps[0]) <= np.pi
    lattice[::2, 1::2] = np.abs(steps[1]) <= np.pi
    pieces = ndimage.label(lattice)[0][::2, ::2]
    out = padded.copy()
    around = pieces[0, 0]
    for piece in np.unique(pieces[pieces != around]):
        inside = pieces == piece
        rim = ndimage.binary_dilation(inside) & (pieces == around)
        # A piece inside another one has no rim of its own; it shares the surroundings' level.
        level = float(np.median(padded[rim])) if rim.any() else 0.0
        edge = inside & ndimage.binary_dilation(~inside)
        cycles = np.round((float(np.median(padded[edge])) - level) / (2.0 * np.pi))
        out[inside] -= np.float32(cycles) * _TWO_PI
    return out[1:-1, 1:-1]


def dem_error(
    rng: np.random.Generator, shape: tuple[int, int], resolution_m: float, rms_m: float = 5.0
) -> Float:
    """Height error of the terrain model, correlated over about 200 m.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    shape : (int, int)
        Height and width [px].
    resolution_m : float
        Pixel size [m].
    rms_m : float
        Rms [m].

    Returns
    -------
    ndarray of float32 [H, W]
        Error [m].
    """
    return np.float32(rms_m) * smooth_noise(rng, shape, resolution_m, 120.0)


def slant_range(incidence_deg: NDArray[np.floating]) -> Float:
    """Distance to the satellite over a spherical Earth.

    Parameters
    ----------
    incidence_deg : ndarray
        Incidence on the ellipsoid [deg].

    Returns
    -------
    ndarray of float32
        Distance [m].
    """
    theta = np.deg2rad(np.asarray(incidence_deg, dtype=np.float64))
    orbit = EARTH_RADIUS_M + ORBIT_HEIGHT_M
    distance = np.sqrt(orbit**2 - (EARTH_RADIUS_M * np.sin(theta)) ** 2)
    out: Float = (distance - EARTH_RADIUS_M * np.cos(theta)).astype(np.float32)
    return out


def dem_error_phase(error_m: Float, baseline_m: float, look: Look) -> Float:
    """Phase of a height error: ``4π B⊥ δh / (λ R sin θ)``.

    Parameters
    ----------
    error_m : ndarray of float32 [H, W]
        Height error [m].
    baseline_m : float
        Perpendicular baseline of the pair [m].
    look : Look
        Geometry.

    Returns
    -------
    ndarray of float32 [H, W]
        Phase [rad].
    """
    # Incidence changes slowly: one value a column and row pair would do; the mean range does here.
    theta = float(look.incidence_deg.mean(dtype=np.float64))
    factor = (
        4.0
        * np.pi
        * baseline_m
        / (SENTINEL1_WAVELENGTH_M * float(slant_range(np.array(theta))) * np.sin(np.deg2rad(theta)))
    )
    return error_m * np.float32(factor)


def unseen(ground: Ground, look: Look) -> Bool:
    """Layover and shadow of a track, cleaned of single pixels.

    Parameters
    ----------
    ground : Ground
        Terrain.
    look : Look
        Geometry.

    Returns
    -------
    ndarray of bool [H, W]
    """
    mask = layover_shadow(ground.slope, ground.aspect, look.east, look.north, look.up)
    count = ndimage.uniform_filter(mask.astype(np.float32), 3, mode="nearest")
    out: Bool = count > 0.5
    return out

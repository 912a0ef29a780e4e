"""Hard negatives on the ground: what moves, or loses coherence, and is no landslide."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from components.layers import DAYS_PER_YEAR
from components.simulation.fields import Bool, Float, smooth_noise
from components.simulation.footprints import Body, lay_out, make_outline
from components.simulation.landslides import downslope_vector
from components.simulation.placement import SeedMap, mark
from components.simulation.terrain import Ground


@dataclass(frozen=True)
class Kind:
    """One kind of hard negative.

    Parameters
    ----------
    name : str
        Its name in the truth.
    per_1000km2 : float
        Density.
    area_km2 : (float, float)
        Smallest and largest area; log-uniform between.
    slope_deg : (float, float)
        Slopes of the smoothed terrain where it is seeded.
    relief : (float, float)
        Part of the relief where it is seeded: 0 lowest ground, 1 summits.
    motion : str
        ``vertical``, ``downslope`` or ``none``.
    rate_mm_yr : (float, float)
        Range of the rate's absolute value; log-uniform.
    uplift : float
        Share that moves up (vertical only).
    coherence : (float, float)
        Range of the greatest coherence it keeps.
    """

    name: str
    per_1000km2: float
    area_km2: tuple[float, float]
    slope_deg: tuple[float, float]
    relief: tuple[float, float]
    motion: str
    rate_mm_yr: tuple[float, float]
    uplift: float
    coherence: tuple[float, float]


KINDS = (
    # pumping, mining: bowls on valley floors and gentle ground
    Kind("subsidence", 4.0, (0.3, 3.0), (0, 15), (0, 0.7), "vertical", (25, 160), 0.15, (0.9, 0.9)),
    # metres a year: nothing but noise is left
    Kind("glacier", 4.0, (0.5, 3.0), (5, 35), (0.75, 1), "none", (0, 0), 0.0, (0.03, 0.15)),
    # the closest relative: told apart by coherence, size and where it lies
    Kind(
        "rock_glacier", 3.0, (0.1, 0.5), (8, 30), (0.75, 1), "downslope", (50, 400), 0, (0.35, 0.5)
    ),
    # heave and settlement of wet ground between two dates
    Kind("frost", 25.0, (0.02, 0.15), (2, 20), (0.5, 1), "vertical", (12, 50), 0.5, (0.5, 0.8)),
    Kind("snow", 6.0, (0.1, 1.5), (2, 40), (0.8, 1), "vertical", (10, 40), 0.5, (0.1, 0.3)),
    # fields, gravel bars
    Kind("river_plain", 8.0, (0.1, 1.5), (0, 8), (0, 0.5), "none", (0, 0), 0, (0.1, 0.25)),
)

_TRIES = 12


@dataclass(frozen=True)
class Negative:
    """One hard negative.

    Parameters
    ----------
    kind : str
        Name of its `Kind`.
    row, col : int
        Upper left pixel of its window.
    mask : ndarray of bool [h, w]
        Its ground.
    rate_mm_yr : float
        Rate of its fastest point, signed as its direction.
    east, north, up : ndarray of float32 [h, w]
        Motion relative to the rate.
    coherence : ndarray of float32 [h, w]
        The greatest coherence that each pixel keeps.
    """

    kind: str
    row: int
    col: int
    mask: Bool
    rate_mm_yr: float
    east: Float
    north: Float
    up: Float
    coherence: Float

    @property
    def window(self) -> tuple[slice, slice]:
        """The window's rows and columns."""
        height, width = self.mask.shape
        return slice(self.row, self.row + height), slice(self.col, self.col + width)

    def los_displacement(self, los: tuple[Float, Float, Float], days: float) -> Float:
        """Displacement along the line of sight over some days, at constant rate.

        Parameters
        ----------
        los : tuple of ndarray [H, W]
            East, north and up component of the unit vector ground to satellite, of the whole map.
        days : float
            Length of the period.

        Returns
        -------
        ndarray of float32 [h, w]
            d_LOS [m], positive toward the satellite, in the window.
        """
        w = self.window
        seen = self.east * los[0][w] + self.north * los[1][w] + self.up * los[2][w]
        out: Float = seen * np.float32(self.rate_mm_yr / 1000.0 * days / DAYS_PER_YEAR)
        return out


@dataclass(frozen=True)
class Negatives:
    """Hard negatives of a map.

    Parameters
    ----------
    items : tuple of Negative
        In order of kind and placing.
    counts : dict
        Kind → number placed, and ``unplaced``.
    """

    items: tuple[Negative, ...]
    counts: dict[str, int] = field(default_factory=dict)


def place_negatives(
    rng: np.random.Generator, ground: Ground, footprints: Bool, gain: float = 1.0
) -> Negatives:
    """Place hard negatives where their kinds occur, clear of landslides and of each other.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    ground : Ground
        Terrain.
    footprints : ndarray of bool [H, W]
        Ground of landslides.
    gain : float
        Factor of the densities of `KINDS`.

    Returns
    -------
    Negatives
        Kinds for which the map has no room are placed less often than their density says.
    """
    taken = ndimage.binary_dilation(footprints, iterations=3)
    km2 = ground.elevation.size * ground.resolution_m**2 / 1e6
    low, high = np.percentile(ground.elevation[::4, ::4], [1, 99])
    relative = (ground.elevation - np.float32(low)) / np.float32(max(high - low, 1.0))
    items: list[Negative] = []
    counts: dict[str, int] = {}
    unplaced = 0
    for kind in KINDS:
        wanted = int(rng.poisson(gain * kind.per_1000km2 * km2 / 1000.0))
        eligible = (
            (ground.sliding_slope >= kind.slope_deg[0])
            & (ground.sliding_slope <= kind.slope_deg[1])
            & (relative >= kind.relief[0])
            & ((relative <= kind.relief[1]) | (kind.relief[1] >= 1))
            & ~ground.water
        )
        # The middle of a landslide is no place, so do not try it.
        seeds = SeedMap(rng, ground, eligible & ~taken)
        placed = 0
        for _ in range(wanted):
            item = _try(rng, ground, kind, seeds, taken) if seeds.any else None
            if item is None:
                unplaced += 1
            else:
                items.append(item)
                placed += 1
        counts[kind.name] = placed
    counts["unplaced"] = unplaced
    return Negatives(tuple(items), counts)


def _try(
    rng: np.random.Generator, ground: Ground, kind: Kind, seeds: SeedMap, taken: Bool
) -> Negative | None:
    area_m2 = 1e6 * float(np.exp(rng.uniform(*np.log(kind.area_km2))))
    shape = "tongue" if kind.name in {"glacier", "rock_glacier"} else "irregular"
    outline = make_outline(rng, shape)
    for _ in range(_TRIES):
        body = lay_out(rng, ground, outline, seeds.draw(), area_m2)
        if body is None or taken[body.window][body.mask].any():
            continue
        if kind.motion == "downslope" and body.follow < 0.5:
            continue
        mark(taken, body)
        return _make(rng, ground, kind, body)
    return None


def _make(rng: np.random.Generator, ground: Ground, kind: Kind, body: Body) -> Negative:
    profile = np.where(body.mask, 1.0 - body.rim**2, 0.0).astype(np.float32)
    nothing = np.zeros_like(profile)
    rate = 0.0
    east = north = up = nothing
    if kind.motion != "none":
        rate = float(np.exp(rng.uniform(*np.log(kind.rate_mm_yr))))
    if kind.motion == "vertical":
        up = profile
        rate *= 1.0 if rng.uniform() < kind.uplift else -1.0
    elif kind.motion == "downslope":
        s = downslope_vector(ground.sliding_slope[body.window], ground.sliding_aspect[body.window])
        east, north, up = (component * profile for component in s)
    most = rng.uniform(*kind.coherence)
    # Patchy inside, as ground is; the edge is soft over a tenth of the width.
    patches = smooth_noise(rng, (profile.shape[0], profile.shape[1]), 1.0, 3.0)
    soft = np.clip(4.0 * (1.0 - body.rim), 0.0, 1.0)
    kept = np.clip(most + 0.06 * patches, 0.02, 0.9)
    coherence = np.where(body.mask, 1.0 + soft * (kept - 1.0), 1.0).astype(np.float32)
    return Negative(kind.name, body.row, body.col, body.mask, rate, east, north, up, coherence)

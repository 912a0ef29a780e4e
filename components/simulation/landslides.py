"""Landslides with exact truth: where they are, how they move, when.

Motion is downslope: ``d = m · s`` with the magnitude m >= 0 and the unit vector s down the smoothed
terrain, so that the satellite sees ``d_LOS = m (s · u)``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from components.layers import DAYS_PER_YEAR
from components.simulation.conditions import REFERENCE, Conditions
from components.simulation.fields import Bool, Float, Labels, block_mean, upsample
from components.simulation.footprints import SHAPES, Body, lay_out, make_outline, sample_areas
from components.simulation.histories import History, draw_history
from components.simulation.terrain import Ground

MOTIONS = ("retrogressive", "thrust")

#: Slopes on which landslides start [deg].
SLOPE_RANGE_DEG = (10.0, 45.0)
#: Velocity: median [mm/yr] and σ of its logarithm, bounds [mm/yr].
_VELOCITY_MEDIAN, _VELOCITY_SIGMA_LN = 50.0, 1.0
_VELOCITY_RANGE = (5.0, 1000.0)

_TRIES = 40
_FOLLOW_MIN = 0.65
#: Landslides keep this distance [px]; closer ones could not be told apart on the map.
_GAP_PX = 3


@dataclass(frozen=True)
class Landslide:
    """One landslide.

    Parameters
    ----------
    slide_id : int
        1, 2, …
    shape, motion : str
        Of `SHAPES` and `MOTIONS`.
    rotational : bool
        The direction of motion dips 15° more than the slope at the head and 15° less at the toe.
    velocity_mm_yr : float
        Nominal rate of the fastest point along its direction of motion [mm/yr].
    history : History
        Activity relative to the nominal rate.
    row, col : int
        Upper left pixel of the window.
    mask : ndarray of bool [h, w]
        Footprint.
    magnitude : ndarray of float32 [h, w]
        Motion relative to the nominal rate, in [0, 1]; 0 outside the footprint.
    east, north, up : ndarray of float32 [h, w]
        Unit vector of motion.
    slope_deg, aspect_deg, elevation_m : float
        Means over the footprint.
    """

    slide_id: int
    shape: str
    motion: str
    rotational: bool
    velocity_mm_yr: float
    history: History
    row: int
    col: int
    mask: Bool
    magnitude: Float
    east: Float
    north: Float
    up: Float
    slope_deg: float
    aspect_deg: float
    elevation_m: float

    @property
    def window(self) -> tuple[slice, slice]:
        """The window's rows and columns."""
        height, width = self.mask.shape
        return slice(self.row, self.row + height), slice(self.col, self.col + width)

    @property
    def pixels(self) -> int:
        """Size of the footprint [px]."""
        return int(self.mask.sum())

    def rate_mm_yr(self, day0: float, day1: float) -> float:
        """Mean rate of the fastest point between two days [mm/yr].

        Parameters
        ----------
        day0, day1 : float
            Days since the first acquisition.

        Returns
        -------
        float
        """
        return self.velocity_mm_yr * self.history.mean_activity(day0, day1)

    def los_displacement(self, los: tuple[Float, Float, Float], day0: float, day1: float) -> Float:
        """Displacement along the line of sight between two days.

        Parameters
        ----------
        los : tuple of ndarray [H, W]
            East, north and up component of the unit vector ground to satellite, of the whole map.
        day0, day1 : float
            Days since the first acquisition.

        Returns
        -------
        ndarray of float32 [h, w]
            d_LOS [m], positive toward the satellite, in the landslide's window.
        """
        w = self.window
        seen = self.east * los[0][w] + self.north * los[1][w] + self.up * los[2][w]
        metres = self.rate_mm_yr(day0, day1) / 1000.0 * (day1 - day0) / DAYS_PER_YEAR
        out: Float = self.magnitude * seen * np.float32(metres)
        return out


@dataclass(frozen=True)
class Placement:
    """Landslides on a map and how many did not fit.

    Parameters
    ----------
    landslides : tuple of Landslide
        In order of `slide_id`.
    footprints : ndarray of int32 [H, W]
        `slide_id` of each pixel, 0 outside.
    counts : dict
        ``wanted``, ``placed``, ``unplaced``, and the reasons of rejected tries ``edge``, ``overlap``,
        ``terrain``.
    """

    landslides: tuple[Landslide, ...]
    footprints: Labels
    counts: dict[str, int] = field(default_factory=dict)


def slide_motion(
    rng: np.random.Generator,
    body: Body,
    motion: str,
    *,
    abrupt: bool = True,
    conditions: Conditions = REFERENCE,
) -> Float:
    """Relative magnitude of motion over a footprint.

    ``g(s̃) (1 - rim^q)``: retrogressive landslides move most at the toe, thrust ones at the head. One
    flank may be abrupt, ending within a pixel.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    body : Body
        Footprint with slope coordinates.
    motion : str
        One of `MOTIONS`.
    abrupt : bool
        Whether one flank is abrupt.
    conditions : Conditions
        Ranges of the profiles.

    Returns
    -------
    ndarray of float32 [h, w]
        In [0, 1], 0 outside the footprint.
    """
    p, q = rng.uniform(1.0, 2.0), rng.uniform(*conditions.taper)
    least = rng.uniform(*conditions.least_motion)
    side = 1.0 if rng.uniform() < 0.5 else -1.0
    s = body.along if motion == "retrogressive" else 1.0 - body.along
    along = least + (1.0 - least) * s**p
    across = 1.0 - body.rim**q
    if abrupt:
        inside_px = (1.0 - body.rim) * body.half_width_px
        sharp = 1.0 / (1.0 + np.exp(-4.0 * inside_px))
        across = np.where(body.across * side > 0, sharp, across)
    return np.where(body.mask, along * across, 0.0).astype(np.float32)


def downslope_vector(
    slope_deg: NDArray[np.floating], aspect_deg: NDArray[np.floating]
) -> tuple[Float, Float, Float]:
    """Unit vector down the slope: ``s = (cos β sin α, cos β cos α, -sin β)``.

    Parameters
    ----------
    slope_deg, aspect_deg : ndarray
        Dip β [deg] and downslope azimuth α [deg, clockwise from north].

    Returns
    -------
    tuple of ndarray of float32
        East, north, up.
    """
    beta, alpha = np.deg2rad(slope_deg), np.deg2rad(aspect_deg)
    east = (np.cos(beta) * np.sin(alpha)).astype(np.float32)
    north = (np.cos(beta) * np.cos(alpha)).astype(np.float32)
    return east, north, (-np.sin(beta)).astype(np.float32)


def make_landslide(
    rng: np.random.Generator,
    ground: Ground,
    body: Body,
    shape: str,
    slide_id: int,
    history: History,
    conditions: Conditions = REFERENCE,
) -> Landslide:
    """Give a footprint its motion.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    ground : Ground
        Terrain.
    body : Body
        Footprint.
    shape : str
        Its kind.
    slide_id : int
        Identity.
    history : History
        Activity over time.
    conditions : Conditions
        Ranges of the motion's profiles.

    Returns
    -------
    Landslide
    """
    motion = str(rng.choice(MOTIONS))
    velocity = float(
        np.clip(
            _VELOCITY_MEDIAN * np.exp(_VELOCITY_SIGMA_LN * rng.standard_normal()),
            *_VELOCITY_RANGE,
        )
    )
    abrupt = bool(rng.uniform() < 0.5)
    rotational = shape == "semicircular" and bool(rng.uniform() < 0.5)
    magnitude = slide_motion(rng, body, motion, abrupt=abrupt, conditions=conditions)
    slope, aspect = ground.sliding_slope[body.window], ground.sliding_aspect[body.window]
    dip = slope + 15.0 * (1.0 - 2.0 * body.along) if rotational else slope
    east, north, up = downslope_vector(dip, aspect)
    inside = body.mask
    return Landslide(
        slide_id=slide_id,
        shape=shape,
        motion=motion,
        rotational=rotational,
        velocity_mm_yr=velocity,
        history=history,
        row=body.row,
        col=body.col,
        mask=inside,
        magnitude=magnitude,
        east=east,
        north=north,
        up=up,
        slope_deg=float(slope[inside].mean()),
        aspect_deg=float(np.rad2deg(np.arctan2(east[inside].mean(), north[inside].mean())) % 360.0),
        elevation_m=float(ground.elevation[body.window][inside].mean()),
    )


def landslide_count(ground: Ground, per_1000km2: float) -> int:
    """Number of landslides of a density on slopes that can slide.

    Parameters
    ----------
    ground : Ground
        Terrain.
    per_1000km2 : float
        Landslides on 1000 km² of slopes within `SLOPE_RANGE_DEG`.

    Returns
    -------
    int
    """
    pixels = int(_can_slide(ground).sum())
    return round(per_1000km2 * pixels * ground.resolution_m**2 / 1e9)


def _can_slide(ground: Ground) -> Bool:
    low, high = SLOPE_RANGE_DEG
    out: Bool = (ground.sliding_slope >= low) & (ground.sliding_slope <= high) & ~ground.water
    return out


def place_landslides(
    rng: np.random.Generator,
    ground: Ground,
    n: int,
    periods: int,
    period_days: int,
    conditions: Conditions = REFERENCE,
) -> Placement:
    """Place landslides on slopes, more of them low above the rivers, without overlap.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    ground : Ground
        Terrain.
    n : int
        Number wanted.
    periods, period_days : int
        Number and length [days] of the periods that the histories span.
    conditions : Conditions
        Ranges of the motion's profiles.

    Returns
    -------
    Placement
        The largest first; those for which no room was found are counted as ``unplaced``.
    """
    footprints: Labels = np.zeros(ground.shape, dtype=np.int32)
    counts = {"wanted": n, "placed": 0, "unplaced": 0, "edge": 0, "overlap": 0, "terrain": 0}
    seeds = SeedMap(rng, ground, _can_slide(ground))
    slides: list[Landslide] = []
    if n and not seeds.any:
        counts["unplaced"] = n
        return Placement((), footprints, counts)
    taken = np.zeros(ground.shape, dtype=bool)
    for area_km2 in np.sort(sample_areas(rng, n))[::-1].tolist():
        shape = str(rng.choice(SHAPES))
        history = draw_history(rng, periods, period_days)
        outline = make_outline(rng, shape)
        for _ in range(_TRIES):
            body = lay_out(rng, ground, outline, seeds.draw(), area_km2 * 1e6)
            reason = refusal(ground, body, taken)
            if body is not None and reason is None:
                slide = make_landslide(
                    rng, ground, body, shape, len(slides) + 1, history, conditions
                )
                slides.append(slide)
                footprints[body.window][body.mask] = slide.slide_id
                mark(taken, body)
                break
            counts[str(reason)] += 1
        else:
            counts["unplaced"] += 1
    counts["placed"] = len(slides)
    return Placement(tuple(slides), footprints, counts)


def refusal(ground: Ground, body: Body | None, taken: Bool) -> str | None:
    """Why a footprint cannot lie where it is.

    Parameters
    ----------
    ground : Ground
        Terrain.
    body : Body or None
        Footprint; None where it does not fit on the map.
    taken : ndarray of bool [H, W]
        Ground that other bodies occupy.

    Returns
    -------
    str or None
        ``edge``, ``overlap`` or ``terrain`` (water, too flat or steep, or not along the fall line);
        None where it can.
    """
    if body is None:
        return "edge"
    inside = body.mask
    if taken[body.window][inside].any():
        return "overlap"
    slope = ground.sliding_slope[body.window][inside]
    flat = float((slope < 0.5 * SLOPE_RANGE_DEG[0]).mean())
    if (
        body.follow < _FOLLOW_MIN
        or flat > 0.1
        or float(slope.mean()) > SLOPE_RANGE_DEG[1]
        or bool(ground.water[body.window][inside].any())
    ):
        return "terrain"
    return None


def mark(taken: Bool, body: Body) -> None:
    """Mark the ground of a body, with a margin, as taken.

    Parameters
    ----------
    taken : ndarray of bool [H, W]
        Changed in place.
    body : Body
        Footprint.
    """
    rows, cols = body.window
    low_row, low_col = max(rows.start - _GAP_PX, 0), max(cols.start - _GAP_PX, 0)
    window = slice(low_row, rows.stop + _GAP_PX), slice(low_col, cols.stop + _GAP_PX)
    view = taken[window]
    grown = np.zeros(view.shape, dtype=bool)
    row, col = rows.start - low_row, cols.start - low_col
    grown[row : row + body.mask.shape[0], col : col + body.mask.shape[1]] = body.mask
    view |= ndimage.binary_dilation(grown, iterations=_GAP_PX)


class SeedMap:
    """Draws the middle of a body: eligible pixels, those low above the valleys preferred.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    ground : Ground
        Terrain.
    eligible : ndarray of bool [H, W]
        Where a seed may lie.
    """

    _VALLEY_M = 3000.0
    _BATCH = 4096

    def __init__(self, rng: np.random.Generator, ground: Ground, eligible: Bool) -> None:
        self._rng = rng
        self._width = ground.shape[1]
        self._pixels = np.flatnonzero(eligible)
        factor = max(1, int(400.0 / ground.resolution_m))
        coarse = block_mean(ground.elevation, factor)
        reach = max(3, int(self._VALLEY_M / (factor * ground.resolution_m)))
        valley = ndimage.minimum_filter(coarse, reach, mode="nearest")
        full = (coarse.shape[0] * factor, coarse.shape[1] * factor)
        above = ground.elevation - upsample(valley, full)[: ground.shape[0], : ground.shape[1]]
        weight = 1.0 + 3.0 * np.exp(-above.ravel()[self._pixels] / np.float32(300.0))
        self._cumulative = np.cumsum(weight, dtype=np.float64)
        self._drawn: list[int] = []

    @property
    def any(self) -> bool:
        """Whether there is an eligible pixel."""
        return bool(self._pixels.size)

    def draw(self) -> tuple[int, int]:
        """Draw a seed.

        Returns
        -------
        (int, int)
            Row and column.
        """
        if not self._drawn:
            # In batches: a search in millions of weights costs little for many at a time.
            u = self._rng.uniform(0.0, self._cumulative[-1], self._BATCH)
            self._drawn = self._pixels[np.searchsorted(self._cumulative, u)].tolist()
        row, col = divmod(self._drawn.pop(), self._width)
        return row, col

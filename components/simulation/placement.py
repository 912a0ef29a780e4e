"""Where landslides lie: on slopes, low above the rivers, without overlap."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from components.simulation.conditions import REFERENCE, Conditions
from components.simulation.fields import Bool, Labels, block_mean, upsample
from components.simulation.footprints import SHAPES, Body, lay_out, make_outline, sample_areas
from components.simulation.histories import draw_history
from components.simulation.landslides import Landslide, make_landslide
from components.simulation.terrain import Ground

#: Slopes on which landslides start [deg].
SLOPE_RANGE_DEG = (10.0, 45.0)

#: Tries a landslide, and the least that a footprint follows the fall line (`Body.follow`).
_TRIES = 40
_FOLLOW_MIN = 0.65

#: Landslides keep this distance [px]; closer ones could not be told apart on the map.
_GAP_PX = 3


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

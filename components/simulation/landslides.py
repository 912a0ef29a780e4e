"""Landslides with exact truth: where they are, how they move, when.

Motion is downslope: ``d = m · s`` with the magnitude m >= 0 and the unit vector s down the smoothed
terrain, so that the satellite sees ``d_LOS = m (s · u)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.layers import DAYS_PER_YEAR
from components.simulation.conditions import REFERENCE, Conditions
from components.simulation.fields import Bool, Float
from components.simulation.footprints import Body
from components.simulation.histories import History
from components.simulation.terrain import Ground

MOTIONS = ("retrogressive", "thrust")

#: Velocity: median [mm/yr] and σ of its logarithm, bounds [mm/yr].
_VELOCITY_MEDIAN, _VELOCITY_SIGMA_LN = 50.0, 1.0
_VELOCITY_RANGE = (5.0, 1000.0)


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

"""Sentinel-1 look geometry over a map: incidence across the swath and the look vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from components.insar.geometry import los_from_angles
from components.simulation.fields import Float

Direction = Literal["ascending", "descending"]

#: Flight heading [deg, clockwise from north].
HEADINGS: Final[dict[str, float]] = {"ascending": -13.0, "descending": -167.0}

#: Incidence at near and far range [deg] and the width of the swath between them [m].
INCIDENCE_RANGE_DEG: Final = (29.0, 46.0)
_SWATH_M = 250e3


@dataclass(frozen=True)
class Look:
    """How one track sees a map.

    Parameters
    ----------
    direction : {"ascending", "descending"}
        Orbit direction; the radar looks to the right.
    heading_deg : float
        Flight heading [deg, clockwise from north].
    incidence_deg : ndarray of float32 [H, W]
        Incidence angle on the ellipsoid [deg].
    east, north, up : ndarray of float32 [H, W]
        Unit vector ground to satellite.
    """

    direction: Direction
    heading_deg: float
    incidence_deg: Float
    east: Float
    north: Float
    up: Float

    @property
    def los(self) -> tuple[Float, Float, Float]:
        """East, north and up component of the unit vector ground to satellite."""
        return self.east, self.north, self.up


def make_look(
    rng: np.random.Generator,
    shape: tuple[int, int],
    resolution_m: float,
    direction: Direction,
) -> Look:
    """Put a map somewhere in the swath of a pass.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    shape : (int, int)
        Height and width [px].
    resolution_m : float
        Pixel size [m].
    direction : {"ascending", "descending"}
        Orbit direction.

    Returns
    -------
    Look
    """
    heading = HEADINGS[direction]
    near, far = INCIDENCE_RANGE_DEG
    azimuth = np.deg2rad(heading + 90.0)
    north_m = (0.5 * (shape[0] - 1) - np.arange(shape[0]))[:, None] * resolution_m
    east_m = (np.arange(shape[1]) - 0.5 * (shape[1] - 1))[None, :] * resolution_m
    ground_range = east_m * np.sin(azimuth) + north_m * np.cos(azimuth)
    middle = rng.uniform(near + 4.0, far - 4.0)
    incidence = np.clip(middle + (far - near) / _SWATH_M * ground_range, near, far)
    incidence_deg = incidence.astype(np.float32)
    east, north, up = los_from_angles(incidence_deg, heading)
    return Look(
        direction,
        heading,
        incidence_deg,
        east.astype(np.float32),
        north.astype(np.float32),
        up.astype(np.float32),
    )

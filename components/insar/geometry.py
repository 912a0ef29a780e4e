"""Look vectors, terrain derivatives and what a slope looks like from the satellite.

Unit vectors u = (E, N, U) point from the ground to the satellite. Slope β and aspect α are in degrees; α is
the downslope azimuth, clockwise from north. Rasters are north-up: rows grow southward, columns eastward.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]


class LookVector(NamedTuple):
    """Unit vector from the ground to the satellite.

    Parameters
    ----------
    east, north, up : ndarray
        Components, each in [−1, 1].
    """

    east: FloatArray
    north: FloatArray
    up: FloatArray


class Terrain(NamedTuple):
    """First derivatives of the terrain as angles.

    Parameters
    ----------
    slope : ndarray
        Inclination [deg], in [0, 90).
    aspect : ndarray
        Downslope azimuth [deg, clockwise from north], in [0, 360); NaN on level ground.
    """

    slope: FloatArray
    aspect: FloatArray


def _floating(values: npt.ArrayLike) -> FloatArray:
    array = np.asarray(values)
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)


def los_from_hyp3(lv_theta: npt.ArrayLike, lv_phi: npt.ArrayLike) -> LookVector:
    """Look vector of HyP3's (GAMMA's) two angle rasters.

    Parameters
    ----------
    lv_theta : array_like
        Elevation angle of the look vector above the horizontal [rad]; incidence is π/2 minus this.
    lv_phi : array_like
        Direction of the look vector in the horizontal plane [rad], counter-clockwise from east.

    Returns
    -------
    LookVector
        ``E = cos θ cos φ``, ``N = cos θ sin φ``, ``U = sin θ``.
    """
    theta, phi = _floating(lv_theta), _floating(lv_phi)
    horizontal = np.cos(theta)
    return LookVector(horizontal * np.cos(phi), horizontal * np.sin(phi), np.sin(theta))


def hyp3_from_los(
    east: npt.ArrayLike, north: npt.ArrayLike, up: npt.ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Inverse of `los_from_hyp3`.

    Parameters
    ----------
    east, north, up : array_like
        Unit vector from the ground to the satellite.

    Returns
    -------
    lv_theta, lv_phi : ndarray
        Elevation angle [rad] and direction counter-clockwise from east [rad], in (−π, π].
    """
    e, n, u = _floating(east), _floating(north), _floating(up)
    return np.arctan2(u, np.hypot(e, n)), np.arctan2(n, e)


def los_from_angles(incidence_deg: npt.ArrayLike, heading_deg: npt.ArrayLike) -> LookVector:
    """Look vector of a right-looking radar from incidence and flight heading.

    The radar looks to azimuth heading + 90°; the satellite stands in the opposite direction, at azimuth
    heading − 90° (for an ascending pass: in the west).

    Parameters
    ----------
    incidence_deg : array_like
        Angle between the vertical and the line of sight on the ground [deg], in (0, 90).
    heading_deg : array_like
        Flight direction [deg, clockwise from north]: near −12 ascending, near −168 descending.

    Returns
    -------
    LookVector
    """
    theta = np.radians(_floating(incidence_deg))
    heading = np.radians(_floating(heading_deg))
    return LookVector(
        -np.sin(theta) * np.cos(heading), np.sin(theta) * np.sin(heading), np.cos(theta)
    )


def slope_aspect(elevation: npt.ArrayLike, pixel_size_m: float | tuple[float, float]) -> Terrain:
    """Slope and aspect by the 3 × 3 weighted differences of Horn (1981).

    Beyond the edge the terrain is continued linearly, so that a plane comes out exact everywhere. A pixel
    with a missing neighbour is missing. Work on blocks with a halo of one pixel.

    Parameters
    ----------
    elevation : array_like
        Elevation [m], shape (rows, columns), at least 2 × 2, north-up; NaN where missing.
    pixel_size_m : float or tuple of float
        Pixel size [m], > 0; two numbers are (row spacing, column spacing).

    Returns
    -------
    Terrain
        In the floating dtype of `elevation`.
    """
    z = _floating(elevation)
    if z.ndim != 2 or min(z.shape) < 2:
        msg = f"elevation must be a raster of at least 2 × 2 pixels; got shape {z.shape}"
        raise ValueError(msg)
    dy, dx = pixel_size_m if isinstance(pixel_size_m, tuple) else (pixel_size_m, pixel_size_m)
    if not (dx > 0 and dy > 0):
        msg = f"pixel_size_m must be > 0; got {pixel_size_m}"
        raise ValueError(msg)
    p = np.pad(z, 1, mode="reflect", reflect_type="odd")
    # Weighted sums of the outer columns and rows of each 3 × 3 neighbourhood.
    column_sum = p[:-2] + 2.0 * p[1:-1] + p[2:]
    row_sum = p[:, :-2] + 2.0 * p[:, 1:-1] + p[:, 2:]
    dz_east = (column_sum[:, 2:] - column_sum[:, :-2]) / (8.0 * dx)
    dz_north = (row_sum[:-2] - row_sum[2:]) / (8.0 * dy)
    gradient = np.hypot(dz_east, dz_north)
    # Horn's weights do not touch the centre pixel: a hole there must stay a hole.
    gradient = np.where(np.isnan(z), np.nan, gradient).astype(z.dtype)
    slope = np.degrees(np.arctan(gradient))
    aspect = np.degrees(np.arctan2(-dz_east, -dz_north)) % 360.0
    # A tiny negative angle modulo 360 rounds up to 360 itself.
    aspect = np.where(aspect >= 360.0, 0.0, aspect)
    aspect = np.where(gradient > 0, aspect, np.nan).astype(z.dtype)
    return Terrain(slope, aspect)


def downslope_sensitivity(
    slope_deg: npt.ArrayLike,
    aspect_deg: npt.ArrayLike,
    los_east: npt.ArrayLike,
    los_north: npt.ArrayLike,
    los_up: npt.ArrayLike,
) -> FloatArray:
    """Share of downslope motion that the line of sight sees: ``C = s · u``.

    ``s = (cos β sin α, cos β cos α, −sin β)`` is the unit vector down the slope. LOS velocity = C × downslope
    velocity.

    Parameters
    ----------
    slope_deg, aspect_deg : array_like
        Terrain; the aspect of level ground may be NaN.
    los_east, los_north, los_up : array_like
        Unit vector from the ground to the satellite.

    Returns
    -------
    ndarray
        C in [−1, 1]; positive: downslope motion approaches the satellite. Level ground, which has no
        downslope direction, has C = 0.
    """
    slope, aspect = _floating(slope_deg), _floating(aspect_deg)
    beta, alpha = np.radians(slope), np.radians(aspect)
    east, north, up = _floating(los_east), _floating(los_north), _floating(los_up)
    along = np.cos(beta) * (np.sin(alpha) * east + np.cos(alpha) * north)
    c = along - np.sin(beta) * up
    # 0 × up, not 0: where there is no look vector there is no sensitivity either.
    sensitivity: FloatArray = np.clip(np.where(slope == 0, 0.0 * up, c), -1.0, 1.0)
    return sensitivity.astype(np.result_type(slope, up), copy=False)


def slope_toward_radar(
    slope_deg: npt.ArrayLike,
    aspect_deg: npt.ArrayLike,
    los_east: npt.ArrayLike,
    los_north: npt.ArrayLike,
) -> FloatArray:
    """Inclination of the terrain in the range direction: ``α_r = atan(tan β cos(α − az_u))``.

    Parameters
    ----------
    slope_deg, aspect_deg : array_like
        Terrain; the aspect of level ground may be NaN.
    los_east, los_north : array_like
        Horizontal part of the unit vector from the ground to the satellite; gives its azimuth az_u.

    Returns
    -------
    ndarray
        Angle [deg], in (−90, 90); positive where the slope faces the radar.
    """
    slope, aspect = _floating(slope_deg), _floating(aspect_deg)
    azimuth = np.arctan2(_floating(los_east), _floating(los_north))
    facing = np.cos(np.radians(aspect) - azimuth)
    angle = np.degrees(np.arctan(np.tan(np.radians(slope)) * facing))
    out: FloatArray = np.where(slope == 0, 0.0 * azimuth, angle)
    return out.astype(np.result_type(slope, azimuth), copy=False)


def layover_shadow(
    slope_deg: npt.ArrayLike,
    aspect_deg: npt.ArrayLike,
    los_east: npt.ArrayLike,
    los_north: npt.ArrayLike,
    los_up: npt.ArrayLike,
) -> npt.NDArray[np.bool_]:
    """Pixels in active layover or active shadow.

    Layover where the slope toward the radar reaches the incidence angle (``sin(θ − α_r) ≤ 0``), shadow where
    it falls away by 90° − θ or more. Ground that other slopes overlay or shade (passive) is not found.

    Parameters
    ----------
    slope_deg, aspect_deg : array_like
        Terrain; the aspect of level ground may be NaN.
    los_east, los_north, los_up : array_like
        Unit vector from the ground to the satellite.

    Returns
    -------
    ndarray of bool
        False where an input is missing.
    """
    incidence = np.degrees(np.arccos(np.clip(_floating(los_up), -1.0, 1.0)))
    toward = slope_toward_radar(slope_deg, aspect_deg, los_east, los_north)
    # Comparisons with NaN are False, as wanted.
    mask: npt.NDArray[np.bool_] = (toward >= incidence) | (toward <= incidence - 90.0)
    return mask

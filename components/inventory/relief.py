"""Colours of a map: velocity over shaded terrain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.colors import ListedColormap, Normalize

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.inventory.overview import Overview

#: Grey of ground that was not measured.
NO_DATA: Final = 0.80


def _diverging(steps: int = 256) -> ListedColormap:
    """Red (away) over near-white (still) to blue (toward), lightness linear in OKLab on both sides.

    OKLab: Ottosson (2020). Equal steps of velocity are equal steps of perceived lightness, and both
    signs weigh the same.
    """
    t = np.linspace(-1.0, 1.0, steps)
    size = np.abs(t)
    lightness = 0.97 - 0.53 * size
    hue = np.where(t < 0, np.deg2rad(27.0), np.deg2rad(258.0))
    # Chroma rises and stays: it saturates before the gamut's edge at low lightness does.
    chroma = np.where(t < 0, 0.175, 0.15) * np.minimum(1.0, 1.35 * size)
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    lms = (
        np.stack(
            [
                lightness + 0.3963377774 * a + 0.2158037573 * b,
                lightness - 0.1055613458 * a - 0.0638541728 * b,
                lightness - 0.0894841775 * a - 1.2914855480 * b,
            ]
        )
        ** 3
    )
    linear = (
        np.array(
            [
                [4.0767416621, -3.3077115913, 0.2309699292],
                [-1.2684380046, 2.6097574011, -0.3413193965],
                [-0.0041960863, -0.7034186147, 1.7076147010],
            ]
        )
        @ lms
    ).clip(0.0, 1.0)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return ListedColormap(srgb.T.tolist(), name="away_toward")


VELOCITY_COLOURS: Final = _diverging()


def velocity_limit(velocity: NDArray[np.float32]) -> float:
    """Symmetric colour limit: the 98th percentile of the speed, rounded up to a plain number.

    Parameters
    ----------
    velocity : ndarray of float
        LOS velocity [mm/yr], NaN for missing.

    Returns
    -------
    float
        One of 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten, at least 1.
    """
    known = np.abs(velocity[np.isfinite(velocity)])
    wanted = max(float(np.percentile(known, 98)) if known.size else 1.0, 1.0)
    power = 10.0 ** np.floor(np.log10(wanted))
    for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10):
        if step * power >= wanted * (1 - 1e-9):
            return float(step * power)
    return float(10 * power)


def hillshade(elevation: NDArray[np.float32], pixel_m: float) -> NDArray[np.float64]:
    """Shaded relief, lit mainly from the north-west at 45° and a little from west and north.

    The side lights keep valleys along the main light readable. Not stretched to the picture's own
    range: a slope has one shade on the map and in every close view.

    Parameters
    ----------
    elevation : ndarray of float, shape (h, w)
        Elevation [m], first row north; NaN for missing.
    pixel_m : float
        Pixel size [m].

    Returns
    -------
    ndarray of float, shape (h, w)
        In [0, 1]; flat and missing ground is 0.71.
    """
    if min(elevation.shape) < 2:
        return np.full(elevation.shape, np.sqrt(0.5))
    filled = np.where(np.isfinite(elevation), elevation, np.nanmean(elevation)).astype(float)
    down, east = np.gradient(filled, pixel_m)
    length = np.sqrt(1.0 + down**2 + east**2)
    shade = np.zeros(filled.shape)
    for azimuth, weight in ((315.0, 0.6), (270.0, 0.2), (0.0, 0.2)):
        a = np.deg2rad(azimuth)
        # Surface normal (−dz/dE, −dz/dN, 1) · light (sin a, cos a, 1)/√2; rows run south.
        facing = (-east * np.sin(a) + down * np.cos(a) + 1.0) / (length * np.sqrt(2.0))
        shade += weight * np.clip(facing, 0.0, 1.0)
    return shade


def compose(overview: Overview, limit: float) -> NDArray[np.float64]:
    """Colours of a map: velocity times shade, grey where nothing was measured.

    Parameters
    ----------
    overview : Overview
        The layers.
    limit : float
        Velocity of full colour [mm/yr].

    Returns
    -------
    ndarray of float, shape (h, w, 3)
        RGB in [0, 1].
    """
    v = overview.velocity
    colour = np.asarray(VELOCITY_COLOURS(Normalize(-limit, limit, clip=True)(np.nan_to_num(v))))
    known = np.isfinite(v)[..., None]
    rgb = np.where(known, colour[..., :3], NO_DATA)
    if overview.elevation is not None:
        # Never brighter than the colour itself, never so dark that the sign is lost.
        shade = 0.40 + 0.60 * hillshade(overview.elevation, overview.pixel_m)
        rgb = rgb * shade[..., None]
    return rgb

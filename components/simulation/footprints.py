"""Outlines of landslides: four shapes laid along the fall line of the terrain.

A footprint is defined in slope coordinates: s̃ runs from the head (0) to the toe (1) along a curved
axis that follows the fall line, t̃ across it (±1 at half the nominal width). An outline gives each
pixel its rim value: 0 on the axis, 1 on the boundary, larger outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import gammaincc, gammainccinv

from components.simulation.fields import Bool, Float, smooth_noise
from components.simulation.terrain import Ground

SHAPES = ("semicircular", "rectangular", "tongue", "irregular")

#: Inverse-gamma distribution of landslide areas [km²] (form of Malamud et al. 2004).
AREA_RHO = 1.4
AREA_A_KM2 = 0.05
AREA_S_KM2 = -0.005
AREA_RANGE_KM2 = (0.005, 10.0)

_AXIS_POINTS = 13
#: Share of the previous direction kept at each step along the axis: large bodies turn slowly.
_AXIS_INERTIA = 0.5

Rim = Callable[[Float, Float], Float]


def sample_areas(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Draw landslide areas from the truncated three-parameter inverse gamma distribution.

    ``A = a / Γ(ρ, 1) + s``; the probability of more than A falls as A^-ρ for large A, its density as
    A^-(ρ+1) (Malamud et al. 2004).

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    n : int
        Number of areas.

    Returns
    -------
    ndarray of float64 [n]
        Areas [km²] within `AREA_RANGE_KM2`.
    """
    low, high = (AREA_A_KM2 / (area - AREA_S_KM2) for area in AREA_RANGE_KM2)
    # P(A < x) = Q(ρ, a / (x - s)), the regularised upper incomplete gamma function
    p_low, p_high = gammaincc(AREA_RHO, low), gammaincc(AREA_RHO, high)
    gamma = gammainccinv(AREA_RHO, rng.uniform(p_low, p_high, n))
    areas: NDArray[np.float64] = AREA_A_KM2 / gamma + AREA_S_KM2
    return areas


@dataclass(frozen=True)
class Outline:
    """A shape in slope coordinates.

    Parameters
    ----------
    rim : callable
        ``rim(s̃, t̃)``: 0 on the axis, 1 on the boundary, larger outside; float32 arrays.
    length_to_width : float
        Length along the slope over width across it.
    fill : float
        Area over length × width.
    roughness : float
        Amplitude of the boundary's noise, relative to the half width.
    """

    rim: Rim
    length_to_width: float
    fill: float
    roughness: float


def _f32(values: NDArray[np.floating]) -> Float:
    return np.asarray(values, dtype=np.float32)


def _profile_rim(profile: Callable[[Float], Float]) -> Rim:
    def rim(s: Float, t: Float) -> Float:
        inside = (s > 0) & (s < 1)
        half = profile(np.clip(s, 0.0, 1.0))
        out = np.abs(t) / np.maximum(half, np.float32(1e-3))
        return _f32(np.where(inside, out, np.float32(9.0)))

    return rim


def make_outline(rng: np.random.Generator, shape: str) -> Outline:
    """Draw a shape of one of the four kinds.

    Semicircular: arc at the crown, open toe. Rectangular: shorter than wide. Tongue: width grows
    downslope 1.5 to 3 times. Irregular: 2 to 5 lobes grown together.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    shape : str
        One of `SHAPES`.

    Returns
    -------
    Outline
    """
    if shape == "semicircular":
        ratio, rough = rng.uniform(0.5, 0.9), 0.08

        def profile(s: Float) -> Float:
            return _f32(np.sqrt(np.maximum(1.0 - (1.0 - s) ** 2, 0.0)))

        rim = _profile_rim(profile)
    elif shape == "rectangular":
        ratio, rough = rng.uniform(0.5, 1.0), 0.06

        def profile(s: Float) -> Float:
            return _f32((1.0 - np.abs(2.0 * s - 1.0) ** 10) ** 0.1)

        rim = _profile_rim(profile)
    elif shape == "tongue":
        ratio, rough = rng.uniform(1.5, 4.0), 0.1
        head = 1.0 / rng.uniform(1.5, 3.0)

        def profile(s: Float) -> Float:
            ends = (1.0 - np.abs(2.0 * s - 1.0) ** 5) ** 0.3
            return _f32((head + (1.0 - head) * s) * ends)

        rim = _profile_rim(profile)
    elif shape == "irregular":
        ratio, rough = rng.uniform(0.7, 2.0), 0.22
        rim = _lobes(rng)
    else:
        msg = f"shape must be one of {SHAPES}; got {shape!r}"
        raise ValueError(msg)
    return Outline(rim, float(ratio), _fill(rim), rough)


def _lobes(rng: np.random.Generator) -> Rim:
    count = int(rng.integers(2, 6))
    # The first lobe is in the middle and large enough to touch all others.
    centre = np.concatenate([[[0.5, 0.0]], rng.uniform([0.2, -0.6], [0.8, 0.6], (count - 1, 2))])
    size = np.concatenate([[[0.42, 0.6]], rng.uniform([0.15, 0.25], [0.3, 0.5], (count - 1, 2))])

    def rim(s: Float, t: Float) -> Float:
        squares = [
            ((s - np.float32(c[0])) / np.float32(r[0])) ** 2
            + ((t - np.float32(c[1])) / np.float32(r[1])) ** 2
            for c, r in zip(centre, size, strict=True)
        ]
        return _f32(np.sqrt(np.minimum.reduce(squares)))

    return rim


def _fill(rim: Rim) -> float:
    s, t = np.meshgrid(
        np.linspace(-0.1, 1.1, 61, dtype=np.float32), np.linspace(-1.3, 1.3, 66, dtype=np.float32)
    )
    return float((rim(s, t) <= 1.0).mean() * 1.2 * 2.6 / 2.0)


@dataclass(frozen=True)
class Body:
    """A footprint laid on the terrain, in a window of the map.

    Parameters
    ----------
    row, col : int
        Upper left pixel of the window.
    mask : ndarray of bool [h, w]
        The footprint, one 4-connected piece without holes.
    along, across : ndarray of float32 [h, w]
        Slope coordinates s̃ (0 head, 1 toe) and t̃.
    rim : ndarray of float32 [h, w]
        0 on the axis, 1 on the boundary.
    half_width_px : float
        Half of the nominal width [px].
    follow : float
        Mean cosine between the axis and the fall line inside the footprint, in [-1, 1].
    """

    row: int
    col: int
    mask: Bool
    along: Float
    across: Float
    rim: Float
    half_width_px: float
    follow: float

    @property
    def window(self) -> tuple[slice, slice]:
        """The window's rows and columns."""
        height, width = self.mask.shape
        return slice(self.row, self.row + height), slice(self.col, self.col + width)


def lay_out(
    rng: np.random.Generator,
    ground: Ground,
    outline: Outline,
    centre: tuple[int, int],
    area_m2: float,
) -> Body | None:
    """Lay an outline of some area on the terrain.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the boundary's noise.
    ground : Ground
        Terrain.
    outline : Outline
        Shape.
    centre : (int, int)
        Row and column of the middle of the axis.
    area_m2 : float
        Nominal area [m²].

    Returns
    -------
    Body or None
        None where it would cross the map's edge or be smaller than 4 pixels.
    """
    length = np.sqrt(area_m2 * outline.length_to_width / outline.fill) / ground.resolution_m
    half_width = 0.5 * length / outline.length_to_width
    axis = _trace_axis(ground, centre, float(length))
    if axis is None:
        return None
    margin = 1.2 * half_width + 3.0
    low = np.floor(axis.min(axis=0) - margin).astype(int)
    high = np.ceil(axis.max(axis=0) + margin).astype(int) + 1
    if low.min() < 0 or high[0] > ground.shape[0] or high[1] > ground.shape[1]:
        return None
    size = (int(high[0] - low[0]), int(high[1] - low[1]))
    along, across, direction = _slope_coordinates(axis, (int(low[0]), int(low[1])), size)
    along = along / np.float32(length)
    across = across / np.float32(half_width)
    scale = max(0.5 * float(half_width), 2.0)
    # One noise for both: along the slope it moves head and toe, across it the flanks.
    noise = np.float32(outline.roughness) * smooth_noise(rng, size, 1.0, scale)
    rim = outline.rim(along + np.float32(half_width / length) * noise, across + noise)
    mask = largest_piece(rim <= 1.0)
    if mask.sum() < 4:
        return None
    window = slice(low[0], high[0]), slice(low[1], high[1])
    aspect = np.deg2rad(ground.sliding_aspect[window])
    cosine = -np.cos(aspect) * direction[..., 0] + np.sin(aspect) * direction[..., 1]
    return Body(
        row=int(low[0]),
        col=int(low[1]),
        mask=mask,
        along=np.clip(along, 0.0, 1.0),
        across=across,
        rim=np.minimum(rim, 1.0),
        half_width_px=float(half_width),
        follow=float(cosine[mask].mean()),
    )


def largest_piece(mask: Bool) -> Bool:
    """The largest 4-connected piece of a mask, its holes filled.

    Parameters
    ----------
    mask : ndarray of bool [h, w]
        Any mask.

    Returns
    -------
    ndarray of bool [h, w]
        All False where the mask is empty. Of equal pieces the first in reading order.
    """
    pieces, count = ndimage.label(mask)
    if count > 1:
        mask = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    out: Bool = ndimage.binary_fill_holes(mask)
    return out


def _trace_axis(
    ground: Ground, centre: tuple[int, int], length_px: float
) -> NDArray[np.float64] | None:
    """Vertices [n, (row, col)] from head to toe along the fall line; None beyond the map's edge."""
    height, width = ground.shape
    step = length_px / (_AXIS_POINTS - 1)
    half = _AXIS_POINTS // 2
    arms = []
    for sign in (-1.0, 1.0):
        row, col = float(centre[0]), float(centre[1])
        drow = dcol = 0.0
        arm: list[tuple[float, float]] = []
        for _ in range(half):
            r, c = int(row + 0.5), int(col + 0.5)
            if not (0 <= r < height and 0 <= c < width):
                return None
            aspect = np.deg2rad(float(ground.sliding_aspect[r, c]))
            inertia = _AXIS_INERTIA if arm else 0.0
            drow = inertia * drow - (1.0 - inertia) * sign * np.cos(aspect)
            dcol = inertia * dcol + (1.0 - inertia) * sign * np.sin(aspect)
            norm = max(float(np.hypot(drow, dcol)), 1e-6)
            drow, dcol = drow / norm, dcol / norm
            row, col = row + step * drow, col + step * dcol
            arm.append((row, col))
        arms.append(arm)
    up, down = arms
    return np.array([*up[::-1], (float(centre[0]), float(centre[1])), *down])


def _slope_coordinates(
    axis: NDArray[np.float64], origin: tuple[int, int], size: tuple[int, int]
) -> tuple[Float, Float, Float]:
    """Distance along and across the axis [px], and the axis' direction (row, col) at each pixel."""
    points = np.indices(size, dtype=np.float32).reshape(2, -1).T
    vertices = (axis - np.array(origin)).astype(np.float32)
    tangent = np.gradient(vertices, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    # |p - v|² without the term in p, which is the same for every vertex
    product = points[:, :1] * vertices[:, 0] + points[:, 1:] * vertices[:, 1]
    near = np.argmin((vertices**2).sum(axis=1) - 2.0 * product, axis=1)
    offset = points - vertices[near]
    direction = tangent[near]
    step = np.linalg.norm(vertices[1] - vertices[0])
    along = near * step + (offset * direction).sum(axis=1)
    across = offset[:, 0] * direction[:, 1] - offset[:, 1] * direction[:, 0]
    return (
        along.reshape(size).astype(np.float32),
        across.reshape(size).astype(np.float32),
        direction.reshape(*size, 2),
    )

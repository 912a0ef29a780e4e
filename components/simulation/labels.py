"""What an interpreter would draw: the part of a landslide that stands out of the noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from components.simulation.fields import Bool, Float, block_mean, smooth
from components.simulation.landslides import Landslide

#: Displacement counts as visible from so many standard deviations of the local noise.
VISIBLE_SIGMA = 2.0
#: Objects of which less is visible are marked `ignore`.
VISIBLE_FRACTION_MIN = 0.3
VISIBLE_PIXELS_MIN = 6

#: Deformation stands out against what lies within this distance [m]; longer waves do not disturb.
_CONTRAST_M = 300.0
_HOLE_PX = 12


@dataclass(frozen=True)
class Label:
    """The visible part of one landslide on one map.

    Parameters
    ----------
    slide_id : int
        The landslide.
    row, col : int
        Upper left pixel of the window.
    mask : ndarray of bool [h, w]
        One 4-connected piece without small holes.
    visible_fraction : float
        Its size relative to the footprint, in (0, 1].
    ignore : bool
        Whether less than 30 % of the footprint or fewer than 6 pixels are visible.
    snr : float
        Median of |d_LOS| / σ over the visible pixels, >= 2.
    """

    slide_id: int
    row: int
    col: int
    mask: Bool
    visible_fraction: float
    ignore: bool
    snr: float


def local_sigma(noise: Float, valid: Bool, resolution_m: float) -> Float:
    """Local standard deviation of the noise that could hide a landslide.

    What is longer than about a kilometre is taken out first: it does not disturb the eye.

    Parameters
    ----------
    noise : ndarray of float32 [H, W]
        Everything in the map that is not deformation, any unit; finite where valid.
    valid : ndarray of bool [H, W]
        Pixels that count.
    resolution_m : float
        Pixel size [m].

    Returns
    -------
    ndarray of float32 [H, W]
        In the unit of `noise`, > 0.
    """
    weight = valid.astype(np.float32)
    sigma_px = _CONTRAST_M / resolution_m
    factor = max(1, min(int(sigma_px // 4), min(noise.shape) // 8))
    tiny = np.float32(1e-3)
    share = smooth(weight, sigma_px) + tiny
    contrast = noise - smooth(np.where(valid, noise, np.float32(0)), sigma_px) / share
    squares = block_mean(np.where(valid, contrast * contrast, np.float32(0)), factor)
    counts = block_mean(weight, factor)
    coarse_sigma = sigma_px / factor
    variance = ndimage.gaussian_filter(squares, coarse_sigma, mode="nearest")
    variance /= ndimage.gaussian_filter(counts, coarse_sigma, mode="nearest") + tiny
    sigma = np.sqrt(np.maximum(variance, np.float32(1e-20)))
    rows = np.minimum(np.arange(noise.shape[0]) // factor, sigma.shape[0] - 1)
    cols = np.minimum(np.arange(noise.shape[1]) // factor, sigma.shape[1] - 1)
    return np.ascontiguousarray(sigma[rows][:, cols])


def draw_label(slide: Landslide, displacement: Float, sigma: Float, valid: Bool) -> Label | None:
    """Draw the visible part of a landslide.

    Parameters
    ----------
    slide : Landslide
        The landslide.
    displacement : ndarray of float32 [h, w]
        Its d_LOS as the map shows it (without noise) [m], in its window.
    sigma : ndarray of float32 [H, W]
        Local noise of the map [m].
    valid : ndarray of bool [H, W]
        Pixels of the map that hold a usable displacement.

    Returns
    -------
    Label or None
        None where nothing is visible.
    """
    window = slide.window
    snr = np.abs(displacement) / sigma[window]
    seen = slide.mask & (snr >= VISIBLE_SIGMA) & valid[window]
    if not seen.any():
        return None
    mask = clean(seen, slide.mask)
    pixels = int(mask.sum())
    fraction = pixels / slide.pixels
    ignore = fraction < VISIBLE_FRACTION_MIN or pixels < VISIBLE_PIXELS_MIN
    return Label(
        slide.slide_id, slide.row, slide.col, mask, fraction, ignore, float(np.median(snr[seen]))
    )


def clean(seen: Bool, footprint: Bool) -> Bool:
    """One outline instead of a sprinkle: gaps closed, largest piece, small holes filled.

    Parameters
    ----------
    seen : ndarray of bool [h, w]
        Visible pixels.
    footprint : ndarray of bool [h, w]
        Where the outline may lie.

    Returns
    -------
    ndarray of bool [h, w]
        One 4-connected piece, all False where nothing can be drawn.
    """
    padded = np.pad(seen, 2)
    closed = ndimage.binary_closing(padded, np.ones((3, 3), dtype=bool))[2:-2, 2:-2] & footprint
    # Spurs and specks that nobody draws
    opened = ndimage.binary_opening(np.pad(closed, 1), iterations=1)[1:-1, 1:-1]
    pieces, count = ndimage.label(opened if opened.any() else closed)
    if not count:
        return np.zeros_like(seen)
    size = np.bincount(pieces.ravel())
    mask = pieces == 1 + int(np.argmax(size[1:]))
    holes, _ = ndimage.label(~np.pad(mask, 1, constant_values=False))
    hole_size: NDArray[np.int64] = np.bincount(holes.ravel())
    small = hole_size <= _HOLE_PX
    small[0] = False
    out: Bool = mask | small[holes][1:-1, 1:-1]
    return out

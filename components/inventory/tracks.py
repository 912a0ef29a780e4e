"""What other tracks say of a landslide: the motion that two lines of sight see together.

One line of sight cannot tell a slope that slides from ground that heaves or settles. Two can: sliding by m
shows as C·m on every track, with the sensitivity C = s·u of each, vertical motion by h as U·h, with the up
component U of each look vector. Which of the two one-parameter models fits both velocities, by weighted
least squares (science brief §2: one slope velocity of two tracks)? A slope to which the other track is
blind says nothing, and is not held against the landslide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from scipy import ndimage

from components.evaluation.footprints import Footprint
from components.grid import Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bool = NDArray[np.bool_]
    Layers = Mapping[str, NDArray[np.generic]]

Motion = Literal["downslope", "vertical", "unclear", "neither"]

#: Layers that a look reads.
LAYERS: Final = ("los_velocity", "valid", "los_sensitivity", "los_up")

#: Ground around a landslide against which its motion is measured: from so far to so far outside [px]. The
#: reference of a map and its long-wave atmosphere are the same inside and there.
RING_PX: Final = (3, 10)
MARGIN_PX: Final = RING_PX[1] + 1

#: Pixels that share their noise: filters and multilooking make neighbours alike.
_CORRELATED_PX: Final = 9.0

#: Share of the expected velocity by which real motion may differ from the model: not every part of a
#: landslide moves exactly down the slope.
_MODEL_SHARE: Final = 0.25

#: Least share of a landslide's pixels, and least pixels of its ring, that a track must have measured.
_SEEN_SHARE: Final = 0.5
_RING_LEAST: Final = 20

#: A model is refused from this χ² of one degree of freedom on (2σ).
_REFUSED: Final = 4.0

#: Two periods say the same of the ground where this share of the longer one is common.
_COMMON_SHARE: Final = 0.5


@dataclass(frozen=True)
class Look:
    """What one track sees of a landslide.

    Parameters
    ----------
    velocity : float
        Median velocity inside less that of the ring [mm/yr], + toward the satellite.
    sigma : float
        Its standard deviation from the scatter in the ring [mm/yr], > 0.
    sensitivity, up : float
        Mean C and mean up component of the look vector inside.
    """

    velocity: float
    sigma: float
    sensitivity: float
    up: float


@dataclass(frozen=True)
class CrossTrack:
    """What other tracks say of a landslide.

    Parameters
    ----------
    motion : str
        Of `motion`; empty where no other track sees it.
    seen : tuple of str
        The other tracks that see it.
    found : int
        Tracks on which it was found, this one included.
    linked : tuple of str
        Identities of the outlines of other tracks by which it was found there.
    """

    motion: Motion | Literal[""] = ""
    seen: tuple[str, ...] = ()
    found: int = 1
    linked: tuple[str, ...] = ()


def compare(
    views: Sequence[tuple[str, Layers]], window: Window, footprint: Footprint
) -> CrossTrack:
    """Measure a landslide on all tracks and tell its motion.

    Parameters
    ----------
    views : sequence of (str, mapping)
        Track and its `LAYERS` in the window; the landslide's own track first.
    window : Window
        Of the layers, with `MARGIN_PX` around the landslide where the map has them.
    footprint : Footprint
        The landslide.

    Returns
    -------
    CrossTrack
        With ``motion`` and ``seen``.
    """
    height, width = footprint.mask.shape
    box = Window(footprint.row - window.row, footprint.col - window.col, height, width)
    part = box.buffer(MARGIN_PX, (window.height, window.width))
    mask = np.zeros((part.height, part.width), bool)
    top, left = box.row - part.row, box.col - part.col
    mask[top : top + height, left : left + width] = footprint.mask
    looks = {
        track: measured
        for track, layers in views
        if (measured := look({n: layer[part.slices] for n, layer in layers.items()}, mask))
    }
    if views[0][0] not in looks or len(looks) < 2:
        return CrossTrack()
    others = tuple(track for track in looks if track != views[0][0])
    return CrossTrack(motion(list(looks.values())), others)


def look(layers: Layers, mask: Bool) -> Look | None:
    """Measure a landslide on one track.

    Parameters
    ----------
    layers : mapping of str to ndarray, shape (h, w)
        `LAYERS` in a window with room for the ring.
    mask : ndarray of bool, shape (h, w)
        The landslide in that window.

    Returns
    -------
    Look or None
        None where the track has measured too little of it or of its surroundings, or has no geometry.
    """
    velocity, c, up = (
        layers[n].astype(np.float64) for n in ("los_velocity", "los_sensitivity", "los_up")
    )
    valid = layers["valid"].astype(bool) & np.isfinite(velocity)
    away = ndimage.distance_transform_cdt(~mask, metric="chessboard")
    inside = mask & valid & np.isfinite(c) & np.isfinite(up)
    ring = (away >= RING_PX[0]) & (away <= RING_PX[1]) & valid
    if inside.sum() < _SEEN_SHARE * mask.sum() or ring.sum() < _RING_LEAST:
        return None
    around = velocity[ring]
    base = float(np.median(around))
    scatter = 1.4826 * float(np.median(np.abs(around - base)))
    independent = max(float(inside.sum()) / _CORRELATED_PX, 1.0)
    sigma = max(scatter / np.sqrt(independent), 1e-3)
    v = float(np.median(velocity[inside])) - base
    return Look(v, sigma, float(c[inside].mean()), float(up[inside].mean()))


def motion(looks: Sequence[Look]) -> Motion:
    """Which motion explains what several tracks see.

    Parameters
    ----------
    looks : sequence of Look
        Of at least two tracks.

    Returns
    -------
    str
        ``downslope`` or ``vertical`` where only that explains all velocities (to 2σ); ``unclear`` where
        both do, as on slopes on which both tracks see both alike; ``neither`` where none does.
    """
    down = _misfit(looks, np.array([x.sensitivity for x in looks]), least=0.0) < _REFUSED
    vertical = _misfit(looks, np.array([x.up for x in looks]), least=-np.inf) < _REFUSED
    if down and vertical:
        return "unclear"
    if down:
        return "downslope"
    return "vertical" if vertical else "neither"


def _misfit(looks: Sequence[Look], gain: NDArray[np.float64], least: float) -> float:
    """χ² per degree of freedom of v = gain · rate with rate ≥ `least`."""
    v = np.array([x.velocity for x in looks])
    variance = np.array([x.sigma for x in looks]) ** 2
    for _ in range(3):  # the model's own error follows the rate that it explains
        weight = gain / variance
        rate = max(float(weight @ v) / max(float(weight @ gain), 1e-12), least)
        variance = np.array([x.sigma for x in looks]) ** 2 + (_MODEL_SHARE * gain * rate) ** 2
    return float((((v - gain * rate) ** 2) / variance).sum()) / max(len(looks) - 1, 1)


def common_share(a: tuple[str, str], b: tuple[str, str]) -> float:
    """Common days of two periods over the longer one.

    Parameters
    ----------
    a, b : tuple of str
        First and last day (ISO).

    Returns
    -------
    float
        In [0, 1].
    """
    (a0, a1), (b0, b1) = (tuple(map(date.fromisoformat, x)) for x in (a, b))
    days = (min(a1, b1) - max(a0, b0)).days
    return max(days, 0) / max((a1 - a0).days, (b1 - b0).days, 1)


def partners(
    track: str, dates: tuple[str, str], others: Sequence[tuple[str, tuple[str, str]]]
) -> list[int]:
    """For each other track the map of the most common period.

    Parameters
    ----------
    track : str
        Of the map in question.
    dates : tuple of str
        Its period.
    others : sequence of (str, tuple of str)
        Track and period of all maps.

    Returns
    -------
    list of int
        Indices into `others`, by track; none of a track whose periods have too little in common.
    """
    best: dict[str, tuple[float, int]] = {}
    for i, (name, period) in enumerate(others):
        share = common_share(dates, period)
        if name != track and share >= _COMMON_SHARE and share > best.get(name, (0.0, 0))[0]:
            best[name] = (share, i)
    return [best[name][1] for name in sorted(best)]

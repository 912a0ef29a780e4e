"""Traits of a detection: what an analyst would ask of it, as numbers.

How far does the ground inside stand out of its surroundings, does the line of sight see it as sliding,
does motion run along the slope, how is it spread over the outline, how coherent is the ground, and where
on the slope does it lie? The verifier (`components.inference.verifier`) weighs the answers. All are
of the stitched landslide and of the ground around it, so that neither windows nor the long waves of the
atmosphere count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.inference.instances import Instance

#: Layers that traits are taken from; all but the first two may be missing or NaN.
LAYERS: Final = (
    *("los_velocity", "valid", "coherence", "los_sensitivity"),
    *("slope", "aspect", "elevation", "relative_height"),
)

#: Ground around an outline that is looked at [px].
MARGIN_PX: Final = 14

#: Distance from the outline [px] of the rim, the ring whose median is the zero of velocity, and the
#: ground farther away.
_RIM: Final = (0.0, 2.0)
_RING: Final = (2.0, 6.0)
_FAR: Final = (6.0, 14.0)

#: Fewer pixels than this say nothing.
_LEAST: Final = 4

#: Below this |C| the line of sight is nearly blind, and velocity is divided by this.
_BLIND: Final = 0.1

#: Name → meaning, in the order of the values.
TRAITS: Final = {
    "network": "logit of the network's score",
    "certainty": "mean mask probability inside",
    "doubt": "share of the pixels inside whose probability is below 0.8",
    "size": "ln of the pixels",
    "elongation": "ratio of the axes of the outline",
    "fill": "share of the bounding box",
    "valid": "share of measured pixels inside",
    "noise": "ln of the scatter of velocity in the ring [mm/yr]",
    "contrast": "|median velocity inside less that of the ring|, asinh of 10 mm/yr",
    "stands_out": "the same over the scatter in the ring, asinh",
    "rim": "velocity of the rim less the ring's, by the sign of the contrast, over the scatter, asinh",
    "far": "velocity of the far ground less the ring's, likewise",
    "quiet": "share of the pixels inside that stand out of the ring by less than twice the scatter",
    "still": "share of those that stand out by less than the scatter",
    "beyond": "share of the rim's pixels that stand out by twice the scatter or more",
    "spread": "scatter of velocity inside over that of the ring, asinh",
    "downslope": "mean C, by the sign of the contrast: positive where sliding explains it",
    "sight": "|mean C|",
    "sight_spread": "scatter of C inside",
    "slide_rate": "contrast over C, + downslope, asinh of 10 mm/yr",
    "follows_sight": "correlation of velocity with C inside, by the sign of the contrast",
    "flat": "share of the squared velocity inside that a constant leaves",
    "dome": "share that a dome leaves, 1 at the middle and 0 at the outline",
    "block": "share that a steep-sided block leaves",
    "flat_sliding": "share that C leaves",
    "dome_sliding": "share that a dome times C leaves",
    "edge": "median velocity of the edge over that of the core, both less the ring's",
    "trend": "|correlation| of velocity with the position along the long axis",
    "trend_slope": "correlation of velocity with the position down the slope, by the sign of the contrast",
    "along_slope": "|cosine| between long axis and the mean downslope direction",
    "aspect_spread": "1 less the length of the mean downslope direction",
    "coherence": "mean coherence inside",
    "coherence_low": "its tenth percentile inside",
    "coherence_spread": "its scatter inside",
    "coherence_step": "mean coherence inside less the ring's",
    "coherence_far": "mean coherence of the far ground",
    "slope": "mean slope inside, in 45°",
    "slope_spread": "its scatter inside",
    "slope_step": "mean slope inside less the ring's",
    "height": "mean relative height inside",
    "height_step": "relative height inside less that of the far ground",
    "relief": "ln of the relief inside [m]",
}


def traits(
    instance: Instance, layers: Mapping[str, NDArray[Any]], row: int, col: int
) -> NDArray[np.float64]:
    """Traits of one stitched landslide.

    Parameters
    ----------
    instance : Instance
        The landslide.
    layers : mapping of str to ndarray, each of shape (H, W)
        `LAYERS` in canonical units of a window that holds the landslide; a layer that the map lacks may be
        absent. ``valid`` is bool; NaN is no data.
    row, col : int
        First row and column of the window on the map.

    Returns
    -------
    ndarray of float64, shape (len(TRAITS),)
        In the order of `TRAITS`; NaN for what is not known.
    """
    height, width = instance.mask.shape
    top, left = instance.row - row, instance.col - col
    shape = layers["valid"].shape
    r0, c0 = max(top - MARGIN_PX, 0), max(left - MARGIN_PX, 0)
    r1, c1 = min(top + height + MARGIN_PX, shape[0]), min(left + width + MARGIN_PX, shape[1])
    view = (slice(r0, r1), slice(c0, c1))
    mask = np.zeros((r1 - r0, c1 - c0), bool)
    mask[top - r0 : top - r0 + height, left - c0 : left - c0 + width] = instance.mask
    cut = {name: layers[name][view] for name in LAYERS if name in layers}
    away = ndimage.distance_transform_edt(~mask)
    axes = _axes(instance.mask)
    found = dict.fromkeys(TRAITS, np.nan)
    found |= _outline(instance, axes)
    found |= _ground(mask, away, cut)
    found |= _motion(mask, away, axes.long, cut)
    return np.array([found[name] for name in TRAITS])


class _Axes(NamedTuple):
    """Of an outline: variances along both axes [px²], and the direction of the long one (row, column)."""

    major: float
    minor: float
    long: NDArray[np.float64]


def _axes(mask: NDArray[np.bool_]) -> _Axes:
    at = np.argwhere(mask).astype(np.float64)
    at -= at.mean(axis=0)
    # A pixel has an extent of its own: 1/12 in every direction.
    values, vectors = np.linalg.eigh(at.T @ at / len(at) + np.eye(2) / 12)
    return _Axes(float(values[1]), float(values[0]), vectors[:, 1])


def _outline(instance: Instance, axes: _Axes) -> dict[str, float]:
    """What the network says, and the outline's shape."""
    mask = instance.mask
    prob = instance.prob[mask]
    score = min(max(instance.score, 1e-4), 1 - 1e-4)
    return {
        "network": float(np.log(score / (1 - score))),
        "certainty": float(prob.mean()),
        "doubt": float((prob < 0.8).mean()),
        "size": float(np.log(mask.sum())),
        "elongation": float(np.sqrt(axes.major / axes.minor)),
        "fill": float(mask.mean()),
    }


def _ground(
    mask: NDArray[np.bool_], away: NDArray[np.float64], cut: Mapping[str, NDArray[Any]]
) -> dict[str, float]:
    """Coherence and terrain inside and around."""
    ring = (away > _RING[0]) & (away <= _RING[1])
    far = (away > _FAR[0]) & (away <= _FAR[1])
    valid = cut["valid"]
    out: dict[str, float] = {}
    if "coherence" in cut:
        inside = _known(cut["coherence"], mask & valid)
        if len(inside) >= _LEAST:
            out["coherence"] = inside.mean()
            out["coherence_low"] = _rank(inside, 0.1)
            out["coherence_spread"] = inside.std()
            out["coherence_step"] = out["coherence"] - _mean(cut["coherence"], ring & valid)
            out["coherence_far"] = _mean(cut["coherence"], far & valid)
    if "slope" in cut:
        inside = _known(cut["slope"], mask) / 45.0
        if len(inside) >= _LEAST:
            out["slope"] = inside.mean()
            out["slope_spread"] = inside.std()
            out["slope_step"] = out["slope"] - _mean(cut["slope"], ring) / 45.0
    if "relative_height" in cut:
        out["height"] = _mean(cut["relative_height"], mask)
        out["height_step"] = out["height"] - _mean(cut["relative_height"], far)
    if "elevation" in cut:
        inside = _known(cut["elevation"], mask)
        if len(inside) >= _LEAST:
            out["relief"] = np.log1p(np.ptp(inside))
    return out


def _motion(
    mask: NDArray[np.bool_],
    away: NDArray[np.float64],
    long: NDArray[np.float64],
    cut: Mapping[str, NDArray[Any]],
) -> dict[str, float]:
    """Velocity: how it stands out, how it is spread over the outline, what kind of motion explains it."""
    valid = cut["valid"]
    velocity = np.where(valid, cut["los_velocity"], np.nan)
    inside = mask & np.isfinite(velocity)
    out = {"valid": float(inside.sum() / mask.sum())}
    measured = np.isfinite(velocity) & ~mask
    ring = velocity[measured & (away > _RING[0]) & (away <= _RING[1])]
    if inside.sum() < _LEAST or len(ring) < _LEAST:
        return out
    zero = _median(ring)
    scatter = 1.4826 * _median(np.abs(ring - zero)) + 0.1
    v = (velocity[inside] - zero).astype(np.float64)
    contrast = _median(v)
    sign = 1.0 if contrast >= 0 else -1.0
    v *= sign
    rim = velocity[measured & (away > _RIM[0]) & (away <= _RIM[1])]
    far = velocity[measured & (away > _FAR[0]) & (away <= _FAR[1])]
    for name, around in (("rim", rim), ("far", far)):
        if len(around) >= _LEAST:
            out[name] = float(np.arcsinh(sign * (_median(around) - zero) / scatter))
    if len(rim) >= _LEAST:
        out["beyond"] = float((sign * (rim - zero) >= 2.0 * scatter).mean())
    out |= {
        "noise": float(np.log(scatter)),
        "contrast": float(np.arcsinh(abs(contrast) / 10.0)),
        "stands_out": float(np.arcsinh(abs(contrast) / scatter)),
        "quiet": float((v < 2.0 * scatter).mean()),
        "still": float((v < scatter).mean()),
        "spread": float(np.arcsinh(v.std() / scatter)),
    }
    depth = ndimage.distance_transform_edt(mask)
    inner = depth[inside]
    edge, core = v[inner < 1.5], v[inner >= min(3.0, inner.max())]
    if len(edge) and len(core):
        middle = _median(core)
        out["edge"] = float(np.clip(_median(edge) / (middle if abs(middle) > 0.1 else 0.1), -2, 3))
    rim_ = 1.0 - inner / inner.max()
    dome, block = 1.0 - rim_**2, 1.0 - rim_**8
    power = float(v @ v) + 1e-9
    out["flat"] = _left(v, np.ones_like(v), power)
    out["dome"] = _left(v, dome, power)
    out["block"] = _left(v, block, power)
    at = np.argwhere(inside).astype(np.float64)
    at -= at.mean(axis=0)
    out["trend"] = abs(_correlation(at @ long, v))
    out |= _sliding(v, dome, power, sign, inside, cut)
    out |= _downslope(v, at, long, inside, cut)
    return out


def _sliding(
    v: NDArray[np.float64],
    dome: NDArray[np.float64],
    power: float,
    sign: float,
    inside: NDArray[np.bool_],
    cut: Mapping[str, NDArray[Any]],
) -> dict[str, float]:
    """Does v = C·m with a positive m explain what is seen? ``v`` is turned by ``sign``."""
    if "los_sensitivity" not in cut:
        return {}
    c = cut["los_sensitivity"][inside].astype(np.float64)
    known = np.isfinite(c)
    if known.sum() < _LEAST:
        return {}
    v, dome, c = v[known], dome[known], c[known]
    power = min(power, float(v @ v) + 1e-9)
    mean = float(c.mean())
    sight = mean if abs(mean) >= _BLIND else (_BLIND if mean >= 0 else -_BLIND)
    return {
        "downslope": sign * mean,
        "sight": abs(mean),
        "sight_spread": float(c.std()),
        "slide_rate": float(np.arcsinh(sign * _median(v) / sight / 10.0)),
        "follows_sight": sign * _correlation(c, v),
        "flat_sliding": _left(v, c, power),
        "dome_sliding": _left(v, dome * c, power),
    }


def _downslope(
    v: NDArray[np.float64],
    at: NDArray[np.float64],
    long: NDArray[np.float64],
    inside: NDArray[np.bool_],
    cut: Mapping[str, NDArray[Any]],
) -> dict[str, float]:
    """Outline and motion beside the direction in which the slope falls."""
    if "aspect" not in cut:
        return {}
    aspect = np.radians(_known(cut["aspect"], inside).astype(np.float64))
    if len(aspect) < _LEAST:
        return {}
    # Rows count southward; aspect is clockwise from north.
    down = np.array([-np.cos(aspect).mean(), np.sin(aspect).mean()])
    length = float(np.hypot(*down))
    out = {"aspect_spread": 1.0 - length}
    if length > 1e-6:
        out["along_slope"] = abs(float(long @ down)) / length
        out["trend_slope"] = _correlation(at @ down, v)
    return out


def _left(v: NDArray[np.float64], shape: NDArray[np.float64], power: float) -> float:
    """Share of the squares of v that the best multiple of a shape leaves, in [0, 1]."""
    norm = float(shape @ shape)
    return 1.0 if norm < 1e-9 else max(0.0, 1.0 - float(shape @ v) ** 2 / norm / power)


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return 0.0 if norm < 1e-9 else float(a @ b) / norm


def _known(layer: NDArray[Any], where: NDArray[np.bool_]) -> NDArray[Any]:
    values: NDArray[Any] = layer[where]
    known: NDArray[Any] = values[np.isfinite(values)]
    return known


def _mean(layer: NDArray[Any], where: NDArray[np.bool_]) -> float:
    values = _known(layer, where)
    return float(values.mean()) if len(values) >= _LEAST else np.nan


def _rank(values: NDArray[Any], share: float) -> float:
    """The value below which a share of the others lies."""
    k = int(share * (len(values) - 1))
    return float(np.partition(values, k)[k])


def _median(values: NDArray[Any]) -> float:
    return _rank(values, 0.5)

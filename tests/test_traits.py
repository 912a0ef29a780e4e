"""Traits of detections: known answers for known motion, and what they must not depend on."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from components.inference.instances import Instance
from components.inference.traits import LAYERS, MARGIN_PX, TRAITS, traits

SIDE = 72
TOP, LEFT, HEIGHT, WIDTH = 28, 26, 14, 20
NAMES = list(TRAITS)

Layers = dict[str, NDArray[np.generic]]


def ground(seed: int = 0, noise: float = 1.0) -> Layers:
    """A slope that falls to the east, seen well by the line of sight; velocity is noise [mm/yr]."""
    rng = np.random.default_rng(seed)
    shape = (SIDE, SIDE)
    cols = np.broadcast_to(np.arange(SIDE, dtype=np.float32), shape)
    return {
        "los_velocity": (noise * rng.standard_normal(shape)).astype(np.float32),
        "valid": np.ones(shape, bool),
        "coherence": np.full(shape, 0.7, np.float32),
        "los_sensitivity": (0.5 + 0.005 * (cols - 36)).astype(np.float32),
        "slope": np.full(shape, 22.5, np.float32),
        "aspect": np.full(shape, 90.0, np.float32),
        "elevation": (2000.0 - 10.0 * cols).astype(np.float32),
        "relative_height": (0.9 - 0.005 * cols).astype(np.float32),
    }


def landslide(score: float = 0.8) -> Instance:
    """An ellipse with its long axis down the slope."""
    rows, cols = np.mgrid[:HEIGHT, :WIDTH]
    at = ((rows - 6.5) / 7.0) ** 2 + ((cols - 9.5) / 10.0) ** 2
    mask = at <= 1.0
    return Instance(1, score, TOP, LEFT, mask, np.where(mask, 0.9, 0.0).astype(np.float32), 1, 1)


def inside(i: Instance) -> tuple[slice, slice]:
    return (
        slice(i.row, i.row + i.mask.shape[0]),
        slice(i.col, i.col + i.mask.shape[1]),
    )


def moved(layers: Layers, i: Instance, velocity: NDArray[np.floating] | float) -> Layers:
    """The same ground with a velocity added inside the outline."""
    v = layers["los_velocity"].copy()
    v[inside(i)] += np.where(i.mask, velocity, 0.0)
    return {**layers, "los_velocity": v.astype(np.float32)}


def known(i: Instance, layers: Layers) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return dict(zip(NAMES, traits(i, layers, 0, 0), strict=True))


def test_sliding_follows_the_line_of_sight_and_gives_its_rate() -> None:
    i, quiet = landslide(), ground(noise=0.2)
    c = quiet["los_sensitivity"][inside(i)]
    t = known(i, moved(quiet, i, 40.0 * c))
    assert np.sinh(t["slide_rate"]) * 10 == pytest.approx(40.0, rel=0.02)
    assert t["downslope"] == pytest.approx(c[i.mask].mean(), rel=1e-4)
    assert t["follows_sight"] > 0.9
    assert t["flat_sliding"] < 0.01 < t["dome_sliding"]
    assert t["along_slope"] == pytest.approx(1.0, abs=0.02)
    assert t["aspect_spread"] == pytest.approx(0.0, abs=1e-6)


def test_upslope_is_against_the_line_of_sight() -> None:
    i, quiet = landslide(), ground(noise=0.2)
    t = known(i, moved(quiet, i, -40.0 * quiet["los_sensitivity"][inside(i)]))
    assert t["downslope"] < -0.4
    assert t["slide_rate"] < 0


def test_heave_is_a_dome_and_does_not_follow_the_line_of_sight() -> None:
    i, quiet = landslide(), ground(noise=0.2)
    depth = ndimage.distance_transform_edt(np.pad(i.mask, 1))[1:-1, 1:-1]
    dome = 1.0 - (1.0 - depth / depth.max()) ** 2
    t = known(i, moved(quiet, i, 30.0 * dome))
    assert t["dome"] < 0.01
    assert t["dome"] < t["dome_sliding"]
    assert t["dome"] < t["flat"]
    assert t["dome"] < t["block"]
    assert t["edge"] < 0.5


def test_a_piece_of_a_plateau_has_a_rim_that_moves_with_it() -> None:
    """What an interpreter would never draw: the ground beside it moves alike."""
    i, quiet = landslide(), ground(noise=0.5)
    wide = {**quiet, "los_velocity": quiet["los_velocity"] + np.float32(300.0)}
    t, alone = known(i, wide), known(i, moved(quiet, i, 300.0))
    assert abs(t["stands_out"]) < 1.0
    assert alone["stands_out"] > 5.0


def test_the_maps_reference_does_not_count() -> None:
    i, quiet = landslide(), ground()
    layers = moved(quiet, i, 25.0)
    shifted = {**layers, "los_velocity": layers["los_velocity"] + np.float32(64.0)}
    a, b = traits(i, layers, 0, 0), traits(i, shifted, 0, 0)
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_both_sides_of_the_satellite_give_the_same_traits() -> None:
    """Velocity and C change sign together when the slope is seen from the other side."""
    i, quiet = landslide(), ground()
    layers = moved(quiet, i, 25.0)
    other = {
        **layers,
        "los_velocity": -layers["los_velocity"],
        "los_sensitivity": -layers["los_sensitivity"],
    }
    # Medians are of the lower of two middle values, which a mirror makes the upper.
    a, b = traits(i, layers, 0, 0), traits(i, other, 0, 0)
    np.testing.assert_allclose(a, b, rtol=0.02, atol=0.03)


@given(turns=st.integers(0, 3), mirrored=st.booleans(), seed=st.integers(0, 50))
def test_turned_and_mirrored_ground_gives_the_same_traits(
    turns: int, mirrored: bool, seed: int
) -> None:
    i, quiet = landslide(), ground(seed)
    layers = moved(quiet, i, 25.0)
    whole = np.zeros((SIDE, SIDE), bool)
    prob = np.zeros((SIDE, SIDE), np.float32)
    whole[inside(i)], prob[inside(i)] = i.mask, i.prob

    def turn(a: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.rot90(a[:, ::-1] if mirrored else a, turns)

    turned = {name: turn(a) for name, a in layers.items()}
    # Aspect is a direction: east to west in the mirror; a quarter turn to the left takes 90° off.
    aspect = (360.0 - layers["aspect"]) if mirrored else layers["aspect"]
    turned["aspect"] = np.rot90((aspect - 90.0 * turns) % 360.0, turns)
    mask, p = turn(whole), turn(prob)
    rows, cols = (np.flatnonzero(mask.any(axis=1 - k)) for k in (0, 1))
    cut = (slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1))
    other = Instance(1, i.score, int(rows[0]), int(cols[0]), mask[cut], p[cut], 1, 1)
    np.testing.assert_allclose(
        traits(i, layers, 0, 0), traits(other, turned, 0, 0), rtol=1e-4, atol=1e-5
    )


@given(row=st.integers(0, TOP - MARGIN_PX), col=st.integers(0, LEFT - MARGIN_PX))
def test_any_window_with_room_for_the_surroundings_gives_the_same(row: int, col: int) -> None:
    i, layers = landslide(), moved(ground(), landslide(), 25.0)
    cut = {name: a[row:, col:] for name, a in layers.items()}
    np.testing.assert_array_equal(traits(i, layers, 0, 0), traits(i, cut, row, col))


@pytest.mark.parametrize("missing", [n for n in LAYERS if n not in {"los_velocity", "valid"}])
def test_a_layer_that_is_absent_is_one_without_data(missing: str) -> None:
    i, layers = landslide(), moved(ground(), landslide(), 25.0)
    without = {name: a for name, a in layers.items() if name != missing}
    empty = {**layers, missing: np.full((SIDE, SIDE), np.nan, np.float32)}
    a, b = known(i, without), known(i, empty)
    assert a == pytest.approx(b, nan_ok=True)
    assert sum(np.isnan(v) for v in a.values()) > 0


def test_ground_without_measurement_leaves_motion_unknown() -> None:
    i, layers = landslide(), ground()
    t = known(i, {**layers, "valid": np.zeros((SIDE, SIDE), bool)})
    assert t["valid"] == 0
    for name in ("contrast", "stands_out", "flat", "dome", "trend", "slide_rate", "coherence"):
        assert np.isnan(t[name])
    assert np.isfinite(t["size"])
    assert np.isfinite(t["slope"])


def test_at_the_edge_of_the_map_and_of_one_pixel() -> None:
    layers = ground()
    corner = Instance(1, 0.0, 0, SIDE - 1, np.ones((1, 1), bool), np.ones((1, 1), np.float32), 1, 1)
    t = known(corner, layers)
    assert t["size"] == 0
    assert np.isfinite(t["network"])
    assert np.isnan(t["contrast"])


def test_an_outline_that_is_too_wide_or_too_narrow_shows() -> None:
    i, quiet = landslide(), ground(noise=1.0)
    fits = known(i, moved(quiet, i, 30.0))
    assert fits["quiet"] == fits["still"] == 0
    assert fits["beyond"] < 0.1
    half = i.mask & (np.arange(WIDTH) < WIDTH // 2)
    v = quiet["los_velocity"].copy()
    v[inside(i)] += np.where(half, 30.0, 0.0).astype(np.float32)
    wide = known(i, {**quiet, "los_velocity": v})
    assert wide["quiet"] == pytest.approx(0.5, abs=0.06)
    whole = np.zeros((SIDE, SIDE), bool)
    whole[inside(i)] = i.mask
    # Two pixels wider on all sides than the outline, which diagonal steps round off.
    grown = 30.0 * ndimage.binary_dilation(whole, iterations=2)
    moving = (quiet["los_velocity"] + grown).astype(np.float32)
    narrow = known(i, {**quiet, "los_velocity": moving})
    assert narrow["beyond"] > 0.8

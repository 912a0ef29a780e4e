"""Landslides: sizes, shapes, motion, histories, and what an interpreter would draw of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, ndimage
from scipy.stats import invgamma

from components.simulation.fields import stream
from components.simulation.footprints import (
    AREA_A_KM2,
    AREA_RANGE_KM2,
    AREA_RHO,
    AREA_S_KM2,
    SHAPES,
    lay_out,
    make_outline,
    sample_areas,
)
from components.simulation.histories import HISTORIES, draw_history
from components.simulation.labels import clean, draw_label, local_sigma
from components.simulation.landslides import (
    Landslide,
    downslope_vector,
    make_landslide,
    slide_motion,
)
from components.simulation.look import make_look
from components.simulation.negatives import KINDS, place_negatives
from components.simulation.observe import METRES_PER_RADIAN
from components.simulation.placement import place_landslides
from components.simulation.scene import Scene, simulate_scene
from components.simulation.terrain import Ground, Terrain, generate_terrain, make_ground


def plane(slope_deg: float, aspect_deg: float, n: int = 160) -> Ground:
    """Inclined plane of 25 m pixels."""
    north = -np.arange(n)[:, None] * 25.0
    east = np.arange(n)[None, :] * 25.0
    along = east * np.sin(np.deg2rad(aspect_deg)) + north * np.cos(np.deg2rad(aspect_deg))
    z = (9e3 - np.tan(np.deg2rad(slope_deg)) * along).astype(np.float32)
    return make_ground(Terrain(z, np.zeros((n, n), dtype=bool)), 25.0)


def slide_on(ground: Ground, shape: str = "rectangular", seed: int = 1) -> Landslide:
    rng = stream(seed, "slide")
    body = lay_out(rng, ground, make_outline(rng, shape), (80, 80), 0.5e6)
    assert body is not None
    return make_landslide(rng, ground, body, shape, 1, draw_history(rng, 2, 180, "steady"))


def test_areas_follow_the_truncated_inverse_gamma() -> None:
    areas = sample_areas(stream(1), 200_000)
    low, high = AREA_RANGE_KM2
    assert areas.min() >= low
    assert areas.max() <= high
    law = invgamma(AREA_RHO, loc=AREA_S_KM2, scale=AREA_A_KM2)
    x = np.geomspace(low, high, 50)[1:-1]
    expected = (law.cdf(x) - law.cdf(low)) / (law.cdf(high) - law.cdf(low))
    found = np.searchsorted(np.sort(areas), x) / areas.size
    assert np.abs(found - expected).max() < 0.005
    assert np.median(areas) == pytest.approx(0.042, abs=0.003)
    assert areas.mean() == pytest.approx(0.10, abs=0.01)
    # Density falls as area to the power of -2.4 in the tail (Malamud et al. 2004).
    edges = np.geomspace(0.6, 6, 7)
    density = np.histogram(areas, edges)[0] / np.diff(edges)
    slope = np.polyfit(np.log(np.sqrt(edges[1:] * edges[:-1])), np.log(density), 1)[0]
    assert slope == pytest.approx(-2.4, abs=0.15)


@pytest.mark.parametrize("shape", SHAPES)
def test_footprints_have_their_area_and_lie_along_the_slope(shape: str) -> None:
    ground = plane(25.0, 120.0)
    ratios, lengths = [], []
    for i in range(12):
        rng = stream(2, shape, i)
        outline = make_outline(rng, shape)
        body = lay_out(rng, ground, outline, (80, 80), 0.6e6)
        assert body is not None
        assert ndimage.label(body.mask)[1] == 1
        assert body.follow > 0.99
        ratios.append(body.mask.sum() * 625 / 0.6e6)
        lengths.append(outline.length_to_width)
        # s̃ grows downhill.
        z = ground.elevation[body.window]
        assert z[body.mask & (body.along > 0.7)].mean() < z[body.mask & (body.along < 0.3)].mean()
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.12)
    if shape == "tongue":
        assert min(lengths) >= 1.5
    if shape in {"rectangular", "semicircular"}:
        assert max(lengths) <= 1.0


def test_tongues_widen_and_crowns_are_arcs() -> None:
    s = np.full((1, 401), 0.25, dtype=np.float32)
    t = np.linspace(-1.2, 1.2, 401, dtype=np.float32)[None]
    for shape, least, most in (("tongue", 1.15, 3.0), ("semicircular", 1.2, 1.7)):
        rim = make_outline(stream(3), shape).rim
        head, toe = (rim(s, t) <= 1).sum(), (rim(s * 3, t) <= 1).sum()
        assert least < toe / head < most


def test_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="shape must be one of"):
        make_outline(stream(1), "round")


@pytest.mark.parametrize("motion", ["retrogressive", "thrust"])
def test_motion_peaks_where_its_kind_says(motion: str) -> None:
    rng = stream(4)
    body = lay_out(rng, plane(25.0, 200.0), make_outline(rng, "rectangular"), (80, 80), 0.6e6)
    assert body is not None
    m = slide_motion(rng, body, motion, abrupt=False)
    assert m.min() >= 0
    assert m.max() <= 1
    assert (m[~body.mask] == 0).all()
    middle = body.mask & (np.abs(body.across) < 0.4)
    head, toe = (m[middle & sel].mean() for sel in (body.along < 0.2, body.along > 0.8))
    assert (toe > 1.7 * head) if motion == "retrogressive" else (head > 1.7 * toe)


@pytest.mark.parametrize(("slope", "aspect"), [(30.0, 90.0), (30.0, 270.0), (20.0, 315.0)])
@pytest.mark.parametrize("direction", ["ascending", "descending"])
def test_displacement_is_motion_times_downslope_projection(
    slope: float, aspect: float, direction: str
) -> None:
    ground = plane(slope, aspect)
    slide = slide_on(ground)
    look = make_look(stream(5), ground.shape, 25.0, direction)  # type: ignore[arg-type]
    d = slide.los_displacement(look.los, 0.0, 180.0)
    b, a = np.deg2rad(slope), np.deg2rad(aspect)
    s = np.array([np.cos(b) * np.sin(a), np.cos(b) * np.cos(a), -np.sin(b)])
    theta = np.deg2rad(look.incidence_deg[slide.window])
    h = np.deg2rad(look.heading_deg)
    # Right-looking: the satellite stands at azimuth heading - 90°.
    u = np.stack(
        [
            np.sin(theta) * np.sin(h - np.pi / 2),
            np.sin(theta) * np.cos(h - np.pi / 2),
            np.cos(theta),
        ]
    )
    metres = slide.velocity_mm_yr / 1000 * 180 / 365.2425
    by_hand = slide.magnitude * metres * np.tensordot(s, u, axes=1)
    np.testing.assert_allclose(d, by_hand, atol=2e-3 * np.abs(by_hand).max())


def test_motion_away_from_the_satellite_is_negative_and_its_phase_positive() -> None:
    # East-facing slope, satellite in the west: the mass moves off eastward and down.
    ground = plane(30.0, 90.0)
    look = make_look(stream(6), ground.shape, 25.0, "ascending")
    d = slide_on(ground).los_displacement(look.los, 0.0, 180.0)
    assert d.min() < 0
    assert d.max() <= 0
    assert (d / METRES_PER_RADIAN).max() > 0


def test_downslope_vector_is_a_unit_vector_down_the_fall_line() -> None:
    e, n, u = downslope_vector(np.array([30.0]), np.array([90.0]))
    np.testing.assert_allclose([e[0], n[0], u[0]], [np.cos(np.pi / 6), 0, -0.5], atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(HISTORIES)),
    st.integers(0, 1000),
    st.integers(1, 5),
    st.floats(0, 500),
    st.floats(1, 400),
)
def test_mean_activity_is_the_integral(
    kind: str, seed: int, periods: int, day0: float, length: float
) -> None:
    history = draw_history(np.random.default_rng(seed), periods, 180, kind)

    def rate(t: float) -> float:
        if not history.start_day <= t <= history.stop_day:
            return 0.0
        trend = history.first + (history.last - history.first) * t / history.span_days
        wave = 0.7 * np.sin(2 * np.pi * (t - history.phase_day) / 365.2425)
        return float(trend + (wave if kind == "seasonal" else 0.0))

    breaks = [b for b in (history.start_day, history.stop_day) if day0 < b < day0 + length] or None
    total = integrate.quad(rate, day0, day0 + length, points=breaks, limit=200)[0]
    assert history.mean_activity(day0, day0 + length) == pytest.approx(total / length, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_states_change_between_periods(seed: int, periods: int) -> None:
    rng = np.random.default_rng(seed)

    def activity(kind: str) -> list[float]:
        history = draw_history(rng, periods, 180, kind)
        return [history.mean_activity(180.0 * k, 180.0 * (k + 1)) for k in range(periods)]

    starting, stopping = activity("starting"), activity("stopping")
    assert starting[0] == 0
    assert starting[-1] > 0
    assert stopping[0] > 0
    assert stopping[-1] == 0
    accelerating, slowing = activity("accelerating"), activity("slowing")
    assert (np.diff(accelerating) > 0).all()
    assert (np.diff(slowing) < 0).all()
    assert min(slowing) > 0
    assert activity("steady") == pytest.approx([1.0] * periods)


def test_an_outline_is_drawn_not_a_sprinkle() -> None:
    footprint = np.zeros((40, 40), dtype=bool)
    footprint[5:35, 5:35] = True
    rng = np.random.default_rng(1)
    seen = footprint & (rng.uniform(size=(40, 40)) < 0.85)
    mask = clean(seen, footprint)
    assert ndimage.label(mask)[1] == 1
    assert (mask & ~footprint).sum() == 0
    assert mask.sum() > 0.95 * footprint.sum()
    # A large hole stays, a second piece goes.
    seen = footprint.copy()
    seen[12:20, 12:20] = False
    seen[:, 29:32] = False
    mask = clean(seen, footprint)
    assert not mask[14:18, 14:18].any()
    assert not mask[:, 31:].any()
    assert not clean(np.zeros_like(seen), footprint).any()


def test_local_sigma_measures_short_noise_and_leaves_long_waves_out() -> None:
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 0.3, (300, 300)).astype(np.float32)
    noise += np.linspace(0, 30, 300, dtype=np.float32)[:, None]
    valid = np.ones((300, 300), dtype=bool)
    valid[100:130, 100:130] = False
    noise[~valid] = np.nan
    sigma = local_sigma(noise, valid, 25.0)
    assert np.isfinite(sigma).all()
    assert np.median(sigma[40:-40, 40:-40]) == pytest.approx(0.3, abs=0.03)


def test_label_is_what_stands_out() -> None:
    slide = slide_on(plane(25.0, 270.0))
    look = make_look(stream(7), (160, 160), 25.0, "descending")
    d = slide.los_displacement(look.los, 0.0, 180.0)
    valid = np.ones((160, 160), dtype=bool)
    peak = float(np.abs(d).max())
    quiet = draw_label(slide, d, np.full((160, 160), peak / 50, dtype=np.float32), valid)
    assert quiet is not None
    assert quiet.visible_fraction > 0.8
    assert not quiet.ignore
    loud = draw_label(slide, d, np.full((160, 160), peak / 2.2, dtype=np.float32), valid)
    assert loud is not None
    assert loud.ignore
    assert loud.visible_fraction < 0.3
    assert draw_label(slide, d, np.full((160, 160), peak, dtype=np.float32), valid) is None
    assert draw_label(slide, d, np.full((160, 160), 1e-6, dtype=np.float32), ~valid) is None


@pytest.fixture(scope="module")
def mountains() -> Ground:
    return make_ground(generate_terrain(stream(20), (400, 400), 25.0), 25.0)


def test_landslides_lie_on_slopes_and_apart(mountains: Ground) -> None:
    placement = place_landslides(stream(21), mountains, 40, 2, 180)
    counts = placement.counts
    assert counts["placed"] + counts["unplaced"] == counts["wanted"] == 40
    assert counts["placed"] >= 36
    ids = [s.slide_id for s in placement.landslides]
    assert ids == list(range(1, len(ids) + 1))
    for slide in placement.landslides:
        inside = placement.footprints == slide.slide_id
        assert inside.sum() == slide.pixels
        assert 5 < slide.slope_deg <= 45
        assert not (inside & mountains.water).any()
        # Three pixels around it belong to no other one.
        around = ndimage.binary_dilation(inside, iterations=3) & ~inside
        assert (placement.footprints[around] == 0).all()
        assert (slide.up[slide.mask] <= 0.27).all()  # downhill (rotational toes may rise by 15°)


def test_flat_ground_bears_no_landslide() -> None:
    flat = make_ground(Terrain(np.zeros((100, 100), np.float32), np.zeros((100, 100), bool)), 25.0)
    placement = place_landslides(stream(1), flat, 5, 1, 180)
    assert placement.landslides == ()
    assert placement.counts["unplaced"] == 5


def test_negatives_keep_clear_of_landslides(mountains: Ground) -> None:
    placement = place_landslides(stream(22), mountains, 30, 1, 180)
    negatives = place_negatives(stream(23), mountains, placement.footprints > 0)
    assert sum(negatives.counts[k.name] for k in KINDS) == len(negatives.items) > 0
    taken = placement.footprints > 0
    for item in negatives.items:
        assert not (taken[item.window] & item.mask).any()
        assert (item.coherence[~item.mask] == 1).all()
        taken[item.window] |= item.mask


def test_bowls_sink_away_from_the_satellite(mountains: Ground) -> None:
    items = [
        n
        for seed in range(12)
        for n in place_negatives(stream(24, seed), mountains, np.zeros((400, 400), bool)).items
        if n.kind == "subsidence"
    ]
    assert any(n.rate_mm_yr < 0 for n in items)
    look = make_look(stream(25), (400, 400), 25.0, "ascending")
    for n in items:
        d = n.los_displacement(look.los, 365.2425)
        extreme = float(d.ravel()[np.abs(d).argmax()])
        assert np.sign(extreme) == np.sign(n.rate_mm_yr)
        assert abs(extreme) <= abs(n.rate_mm_yr) / 1000 * look.up.max()


@pytest.fixture(scope="module")
def scene() -> Scene:
    return simulate_scene(stream(30), (384, 384), landslides_per_1000km2=500.0)


def test_scene_shows_its_landslides(scene: Scene) -> None:
    assert scene.displacement.shape == scene.footprints.shape == (384, 384)
    assert scene.displacement.dtype == np.float32
    clear = [label for label in scene.labels if not label.ignore]
    assert len(clear) >= 5
    agree = 0
    for label in clear:
        inside = scene.visible == label.slide_id
        assert inside.sum() == label.mask.sum()
        assert (scene.footprints[inside] == label.slide_id).all()
        near = ndimage.binary_dilation(inside, iterations=6) & (scene.footprints == 0) & scene.valid
        contrast = np.nanmedian(scene.displacement[inside & scene.valid]) - np.nanmedian(
            scene.displacement[near]
        )
        slide = scene.landslides[label.slide_id - 1]
        los = (scene.los_east, scene.los_north, scene.los_up)
        truth = slide.los_displacement(los, 0.0, float(scene.days))
        agree += np.sign(contrast) == np.sign(np.median(truth[label.mask]))
    assert agree >= 0.85 * len(clear)


def test_scene_is_consistent(scene: Scene) -> None:
    assert scene.valid[scene.valid].size > 0.6 * scene.valid.size
    assert np.isfinite(scene.displacement[scene.valid]).all()
    assert not (scene.valid & scene.layover_shadow).any()
    assert (scene.coherence[scene.valid] >= 0.3).all()
    both = np.isfinite(scene.displacement)
    phase = scene.displacement[both] / METRES_PER_RADIAN
    np.testing.assert_allclose(np.cos(phase - scene.wrapped_phase[both]), 1, atol=1e-4)
    assert set(scene.layers) >= {"los_displacement", "coherence", "los_sensitivity", "slope"}


def test_scene_without_landslides_and_with_given_terrain() -> None:
    ground = plane(20.0, 90.0, n=96)
    out = simulate_scene(
        stream(31),
        (96, 96),
        landslides_per_1000km2=0.0,
        negatives=False,
        elevation=ground.elevation,
        direction="ascending",
    )
    assert out.landslides == out.labels == ()
    assert not out.visible.any()
    np.testing.assert_array_equal(out.elevation, ground.elevation)
    np.testing.assert_allclose(out.slope, 20.0, atol=0.01)


def test_scene_refuses_impossible_shapes() -> None:
    with pytest.raises(ValueError, match="at least 32"):
        simulate_scene(stream(1), (16, 64))
    with pytest.raises(ValueError, match="elevation must have shape"):
        simulate_scene(stream(1), (64, 64), elevation=np.zeros((32, 32), np.float32))

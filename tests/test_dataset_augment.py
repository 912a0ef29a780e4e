"""Augmentation keeps the physics: recomputed from mirrored terrain and look vector, not assumed."""

import numpy as np
import pytest

from components.dataset.augment import (
    Strength,
    atmosphere,
    augment,
    check_channels,
    reverse_look,
    turn,
)
from components.dataset.presets import CHANNELS, render
from components.errors import ModelError

STILL = Strength(
    reverse=0,
    gain=1,
    atmosphere=0,
    white=0,
    coherence_noise=0,
    gaps=0,
    drop_coherence=0,
    lower_coherence=0,
    drop_terrain=0,
    turn_phase=0,
    brightness=0,
    render_noise=0,
    sharpen=0,
)


def terrain(n=40):
    y, x = np.mgrid[:n, :n].astype(float)
    return 300 * np.sin(x / 9 + 0.4) * np.cos(y / 13) + 4 * x - 7 * y


def sensitivity(elevation, look, pixel=25.0):
    """C = s·u from scratch: s is the steepest descent along the ground, u the look vector (E, N, U)."""
    down_rows, along_cols = np.gradient(elevation, pixel)
    east, north = along_cols, -down_rows
    g2 = east**2 + north**2
    steep = np.sqrt(g2)
    horizontal = 1 / np.sqrt(1 + g2)
    s = np.stack([-east / steep, -north / steep, -steep]) * horizontal
    return np.tensordot(look, s, axes=1)


def look_vector(incidence=39.0, azimuth=100.0):
    i, a = np.deg2rad([incidence, azimuth])
    return np.array([np.sin(i) * np.sin(a), np.sin(i) * np.cos(a), np.cos(i)])


@pytest.mark.parametrize("k", range(8))
def test_turning_the_scalar_equals_turning_terrain_and_look(k):
    elevation, look = terrain(), look_vector()
    # Turn the horizontal look vector as the picture is turned: quarter turns anticlockwise …
    east, north, up = look
    for _ in range(k % 4):
        east, north = -north, east
    if k >= 4:  # … then a mirror of the columns
        east = -east
    recomputed = sensitivity(turn(elevation, k), np.array([east, north, up]))
    np.testing.assert_allclose(recomputed, turn(sensitivity(elevation, look), k), atol=1e-9)


def test_a_component_of_the_look_vector_would_break_and_is_refused():
    with pytest.raises(ModelError, match=r"SW-404.*los_east"):
        check_channels(("velocity", "los_east"))
    for channels in CHANNELS.values():
        check_channels(channels)


def layers(seed=0, n=48):
    rng = np.random.default_rng(seed)
    velocity = rng.normal(0, 40, (n, n)).astype(np.float32)
    valid = rng.random((n, n)) > 0.2
    return {
        "los_velocity": velocity,
        "los_displacement": velocity / np.float32(2e3),
        "coherence": rng.uniform(0.3, 1, (n, n)).astype(np.float32),
        "los_sensitivity": rng.uniform(-1, 1, (n, n)).astype(np.float32),
        "slope": rng.uniform(1, 45, (n, n)).astype(np.float32),
        "valid": valid,
    }


@pytest.mark.parametrize("preset", sorted(CHANNELS))
def test_reversed_look_equals_the_render_of_the_reversed_layers(preset):
    scene = layers()
    away = {
        **scene,
        **{name: -scene[name] for name in ("los_velocity", "los_displacement", "los_sensitivity")},
    }
    np.testing.assert_allclose(
        reverse_look(render(preset, scene, 9.0), CHANNELS[preset]),
        render(preset, away, 9.0),
        atol=1e-6,
    )


@pytest.mark.parametrize("preset", sorted(CHANNELS))
def test_without_strength_only_a_turn_remains(preset):
    image = render(preset, layers(), 9.0)
    masks = np.zeros((1, 48, 48), bool)
    masks[0, 3:9, 5:20] = True
    seen = set()
    for seed in range(24):
        out = augment(image, masks, CHANNELS[preset], np.random.default_rng(seed), STILL)
        k = next(k for k in range(8) if np.array_equal(turn(masks, k), out.masks))
        np.testing.assert_allclose(out.image, turn(image, k), atol=2e-6)
        seen.add(k)
    assert len(seen) > 5


@pytest.mark.parametrize("preset", sorted(CHANNELS))
def test_full_strength_keeps_bounds_and_missing_data(preset):
    scene = layers()
    channels = CHANNELS[preset]
    image = render(preset, scene, 9.0)
    before = image.copy()
    marks = (~scene["valid"])[None]
    for seed in range(30):
        out = augment(image, marks, channels, np.random.default_rng(seed))
        assert out.image.dtype == np.float32
        assert out.image.shape == image.shape
        assert np.isfinite(out.image).all()
        for name, band in zip(channels, out.image, strict=True):
            if name in {"coherence", "red", "green", "blue", "valid"}:
                assert band.min() >= 0
                assert band.max() <= 1
            if name not in {"los_sensitivity", "slope"}:
                assert not band[out.masks[0]].any()  # no data stays no data
        if "cos" in channels:
            i, j = channels.index("cos"), channels.index("sin")
            length = np.hypot(out.image[i], out.image[j])
            assert np.all((np.abs(length - 1) < 1e-4) | (length == 0))
    np.testing.assert_array_equal(image, before)


def test_gain_scales_the_rate_itself():
    image = render("rate", layers(), 9.0)
    none = np.zeros((0, 48, 48), bool)
    strength = Strength(**{**vars(STILL), "gain": 1.25})
    for seed in range(10):
        rng = np.random.default_rng(seed)
        out = augment(image, none, CHANNELS["rate"], rng, strength)
        k = int(np.random.default_rng(seed).integers(8))
        before, after = turn(image, k)[0], out.image[0]
        ratio = np.sinh(2 * after[before != 0]) / np.sinh(2 * before[before != 0])
        assert np.ptp(ratio) < 1e-3
        assert 0.8 - 1e-4 <= ratio.mean() <= 1.25 + 1e-4


@pytest.mark.parametrize("preset", ["rate", "multi"])
def test_terrain_is_dropped_whole_and_at_the_stated_rate(preset):
    image = render(preset, layers(n=16), 9.0)
    none = np.zeros((0, 16, 16), bool)
    channels = CHANNELS[preset]
    terrain_at = [channels.index(n) for n in ("los_sensitivity", "slope") if n in channels]
    dropped = 0
    for seed in range(400):
        out = augment(image, none, channels, np.random.default_rng(seed)).image
        known = [bool(out[i].any()) for i in terrain_at]
        assert len(set(known)) == 1  # C is computed from the slope: both are there, or neither
        dropped += not known[0]
    assert 0.10 < dropped / 400 < 0.20


def test_coherence_is_lowered_by_one_factor():
    image = render("sincos", layers(), 9.0)
    none = np.zeros((0, 48, 48), bool)
    strength = Strength(**{**vars(STILL), "lower_coherence": 1})
    factors = []
    for seed in range(40):
        out = augment(image, none, CHANNELS["sincos"], np.random.default_rng(seed), strength)
        k = int(np.random.default_rng(seed).integers(8))
        before = turn(image, k)
        ratio = out.image[0][before[0] > 0] / before[0][before[0] > 0]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
        np.testing.assert_allclose(out.image[1:], before[1:], atol=2e-6)  # the phase stays
        factors.append(float(ratio[0]))
    assert 0.5 <= min(factors) < 0.6
    assert 0.9 < max(factors) <= 1.0


@pytest.mark.parametrize("preset", ["sincos", "multi"])
def test_turned_phase_is_one_constant_and_changes_no_difference(preset):
    image = render(preset, layers(), 9.0)
    none = np.zeros((0, 48, 48), bool)
    channels = CHANNELS[preset]
    i, j = channels.index("cos"), channels.index("sin")
    strength = Strength(**{**vars(STILL), "turn_phase": 1})
    constants = []
    for seed in range(30):
        out = augment(image, none, channels, np.random.default_rng(seed), strength).image
        before = turn(image, int(np.random.default_rng(seed).integers(8)))
        there = np.hypot(before[i], before[j]) > 0
        turned = (out[i] + 1j * out[j])[there] / (before[i] + 1j * before[j])[there]
        np.testing.assert_allclose(turned, turned[0], atol=1e-5)
        constants.append(float(np.angle(turned[0])))
    assert min(constants) < -2
    assert max(constants) > 2


def test_added_atmosphere_is_the_same_delay_in_rate_and_phase():
    """On a map without motion the added signal can be read back from both."""
    scene = layers()
    still = {**scene, "los_velocity": np.zeros((48, 48), np.float32)}
    still["los_displacement"] = still["los_velocity"]
    image = render("multi", still, 9.0)
    none = np.zeros((0, 48, 48), bool)
    channels = CHANNELS["multi"]
    at = {name: i for i, name in enumerate(channels)}
    strength = Strength(**{**vars(STILL), "atmosphere": 0.5})
    rms = []
    for seed in range(40):
        out = augment(image, none, channels, np.random.default_rng(seed), strength).image
        there = out[at["valid"]] > 0
        rate = np.sinh(2 * out[at["velocity"]])[there]
        phase = np.arctan2(out[at["sin"]], out[at["cos"]])[there]
        np.testing.assert_allclose(rate, phase, atol=1e-5)
        rms.append(float(rate.std()))
    assert max(rms) < 0.55
    assert max(rms) > 0.4


def test_atmosphere_has_the_turbulence_spectrum():
    """Slope of the mean periodogram between 250 m and 1500 m: -11/3 (Hanssen 2001, sec. 4.7)."""
    n, pixel = 128, 25.0
    k = np.hypot(np.fft.fftfreq(n, pixel)[:, None], np.fft.fftfreq(n, pixel)[None])
    window = np.outer(np.hanning(n), np.hanning(n))
    power = np.zeros((n, n))
    for seed in range(60):
        field = atmosphere((n, n), pixel, np.random.default_rng(seed))
        assert field.dtype == np.float32
        assert field.mean() == pytest.approx(0, abs=1e-4)
        assert field.std() == pytest.approx(1, abs=1e-4)
        power += np.abs(np.fft.fft2(field * window)) ** 2
    band = (k > 1 / 1000) & (k < 1 / 300)
    slope = np.polyfit(np.log(k[band]), np.log(power[band]), 1)[0]
    assert slope == pytest.approx(-11 / 3, abs=0.3)
    # Waves shorter than 500 m (20 px), the size of a landslide, hold less than a tenth of the power:
    # at the largest strength, rms 0.5 σ, they stay below 0.16 σ.
    assert power[k > 1 / 500].sum() < 0.1 * power.sum()

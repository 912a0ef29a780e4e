"""Augmentation keeps the physics: recomputed from mirrored terrain and look vector, not assumed."""

import numpy as np
import pytest

from components.dataset.augment import (
    Strength,
    augment,
    check_channels,
    reverse_look,
    smooth_field,
    turn,
)
from components.dataset.presets import CHANNELS, render
from components.errors import ModelError

STILL = Strength(
    reverse=0,
    gain=1,
    wave=0,
    white=0,
    coherence_noise=0,
    gaps=0,
    drop_coherence=0,
    drop_sensitivity=0,
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


def test_sensitivity_is_dropped_at_the_stated_rate():
    image = render("rate", layers(n=16), 9.0)
    none = np.zeros((0, 16, 16), bool)
    dropped = sum(
        not augment(image, none, CHANNELS["rate"], np.random.default_rng(s)).image[2].any()
        for s in range(400)
    )
    assert 0.10 < dropped / 400 < 0.20


def test_waves_are_long():
    field = smooth_field((128, 96), np.random.default_rng(0))
    assert field.shape == (128, 96)
    assert field.std() == pytest.approx(1, abs=1e-4)
    power = np.abs(np.fft.fft2(field * np.outer(np.hanning(128), np.hanning(96)))) ** 2
    fy, fx = np.fft.fftfreq(128)[:, None] * 128, np.fft.fftfreq(96)[None] * 96
    assert power[np.hypot(fy, fx) > 6].sum() < 0.01 * power.sum()

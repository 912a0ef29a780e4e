"""The model inputs: exact values, cyclic colour, no data."""

import numpy as np
import pytest

from components.dataset.presets import (
    CHANNELS,
    CYCLE_M,
    OPTIONAL_LAYERS,
    REQUIRED_LAYERS,
    brightness,
    render,
)
from components.errors import InputError, ProcessingError


def scene(shape=(6, 5), seed=0):
    rng = np.random.default_rng(seed)
    layers = {
        "los_displacement": rng.normal(0, 0.02, shape).astype(np.float32),
        "los_velocity": rng.normal(0, 40, shape).astype(np.float32),
        "coherence": rng.uniform(0, 1, shape).astype(np.float32),
        "los_sensitivity": rng.uniform(-1, 1, shape).astype(np.float32),
        "slope": rng.uniform(0, 45, shape).astype(np.float32),
        "relative_height": rng.uniform(0, 1, shape).astype(np.float32),
        "valid": np.ones(shape, bool),
    }
    for name in ("los_displacement", "los_velocity", "coherence"):
        layers[name][0, 0] = np.nan
    layers["valid"][0, :2] = False
    layers["los_sensitivity"][1, 1] = np.nan
    return layers


@pytest.mark.parametrize("preset", sorted(CHANNELS))
def test_shape_dtype_and_nothing_is_nan(preset):
    image = render(preset, scene(), 10.0)
    assert image.shape == (len(CHANNELS[preset]), 6, 5)
    assert image.dtype == np.float32
    assert np.isfinite(image).all()


def test_rate_holds_the_stated_values():
    layers = scene()
    v, gamma, c = render("rate", layers, 8.0)
    assert v[2, 3] == pytest.approx(np.arcsinh(layers["los_velocity"][2, 3] / 8.0) / 2, rel=1e-6)
    assert np.sign(v[2, 3]) == np.sign(layers["los_velocity"][2, 3])
    assert gamma[2, 3] == layers["coherence"][2, 3]
    assert gamma[0, 1] == 0  # not valid: coherence is not offered
    assert v[0, 1] == 0
    assert c[0, 1] == layers["los_sensitivity"][0, 1]  # terrain is known there
    assert c[1, 1] == 0


def test_sincos_and_multi_rewrap_the_displacement_at_half_the_wavelength():
    layers = scene()
    gamma, cos, sin = render("sincos", layers, 1.0)
    psi = 2 * np.pi * layers["los_displacement"].astype(float) / 0.0277328815
    where = layers["valid"]
    np.testing.assert_allclose(cos[where], np.cos(psi)[where], atol=2e-6)
    np.testing.assert_allclose(sin[where], np.sin(psi)[where], atol=2e-6)
    assert cos[0, 0] == sin[0, 0] == gamma[0, 0] == 0
    multi = dict(zip(CHANNELS["multi"], render("multi", layers, 8.0), strict=True))
    np.testing.assert_array_equal(multi["cos"], cos)
    np.testing.assert_array_equal(multi["velocity"], render("rate", layers, 8.0)[0])
    np.testing.assert_allclose(multi["slope"], layers["slope"] / 45, rtol=1e-6)
    np.testing.assert_array_equal(multi["valid"], where)


def test_terrain_adds_the_relative_height_and_zero_means_unknown():
    layers = scene()
    layers["relative_height"][2, 3] = 0.0
    layers["relative_height"][4, 4] = np.nan
    image = render("terrain", layers, 8.0)
    np.testing.assert_array_equal(image[:7], render("multi", layers, 8.0))
    height = dict(zip(CHANNELS["terrain"], image, strict=True))["relative_height"]
    assert height[2, 3] == np.float32(0.05)  # the lowest ground is known ground
    assert height[4, 4] == 0
    assert height[0, 0] == np.maximum(layers["relative_height"][0, 0], np.float32(0.05))


def test_fringe_is_cyclic_dark_at_rest_and_tells_the_signs_apart():
    d = np.linspace(-0.01, 0.01, 21, dtype=np.float32)[None]
    valid = np.ones_like(d, bool)
    once = render("fringe_rgb", {"los_displacement": d, "valid": valid}, 1.0)
    later = render(
        "fringe_rgb", {"los_displacement": d + np.float32(3 * CYCLE_M), "valid": valid}, 1.0
    )
    np.testing.assert_allclose(once, later, atol=2e-5)
    assert once.min() >= 0
    assert once.max() <= 1
    grey = brightness(d)[0]
    assert grey.argmin() == 10
    assert np.all(np.diff(grey[10:]) > 0)
    np.testing.assert_allclose(grey, grey[::-1], atol=1e-3)
    assert np.abs(once[..., 5] - once[..., 15]).max() > 0.05


def test_brightness_bounds_cycle_and_nan():
    d = np.array([0.0, 0.005, np.nan, 0.02])
    b = brightness(d, cycle_mm=10.0)
    assert np.isnan(b[2])
    assert np.isfinite(b[[0, 1, 3]]).all()
    assert b[0] == pytest.approx(b[3], abs=1e-3)  # 20 mm is two whole cycles
    assert 0 <= b[0] < b[1] <= 255


def test_optional_layers_become_zero_and_others_are_refused():
    layers = scene()
    for name in OPTIONAL_LAYERS:
        layers.pop(name)
    assert not render("terrain", layers, 8.0)[[3, 4, 5, 7]].any()
    v, gamma, c = render("rate", layers, 8.0)
    assert v.any()
    assert not gamma.any()
    assert not c.any()
    for preset, names in REQUIRED_LAYERS.items():
        for name in set(names) - OPTIONAL_LAYERS:
            less = {k: a for k, a in layers.items() if k != name}
            with pytest.raises(ProcessingError, match="SW-504"):
                render(preset, less, 8.0)


def test_bad_sigma_and_preset():
    with pytest.raises(InputError, match="SW-108"):
        render("rate", scene(), float("nan"))
    assert np.isfinite(render("rate", scene(), 0.0)).all()
    assert np.isfinite(render("sincos", scene(), float("nan"))).all()
    with pytest.raises(InputError, match="SW-701"):
        render("rgb", scene(), 1.0)

"""Simulated physics against figures that are known from elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.special import gamma as gamma_function

from components.layers import SENTINEL1_WAVELENGTH_M
from components.simulation.artefacts import dem_error_phase, miscounted, slant_range, unseen
from components.simulation.atmosphere import EXPONENTS, Atmosphere, ramp, turbulence_psd
from components.simulation.decorrelation import draw_multilooked, gradient_coherence
from components.simulation.fields import (
    SpectralField,
    block_mean,
    smooth,
    smooth_noise,
    stream,
    upsample,
)
from components.simulation.look import make_look
from components.simulation.terrain import Terrain, generate_terrain, make_ground

# γ → standard deviation of the phase [rad] (design/science.md, simulator)
PHASE_STD = {
    4: {0.2: 1.43, 0.4: 1.02, 0.6: 0.65, 0.8: 0.34},
    20: {0.2: 0.95, 0.4: 0.42, 0.6: 0.22, 0.8: 0.12},
}


@pytest.mark.parametrize("looks", [4, 20])
@pytest.mark.parametrize("coherence", [0.2, 0.4, 0.6, 0.8])
def test_phase_noise_has_the_tabulated_spread(looks: int, coherence: float) -> None:
    drawn = draw_multilooked(stream(1, looks), np.full(400_000, coherence), looks)
    expected = PHASE_STD[looks][coherence]
    # ±3 %, and half a unit of the table's last digit
    assert drawn.phase.std() == pytest.approx(expected, rel=0.03, abs=0.005 + 0.03 * expected)
    assert abs(drawn.phase.mean()) < 0.01


@pytest.mark.parametrize(("looks", "coherence"), [(4, 0.3), (8, 0.7), (20, 0.5)])
def test_shortcut_equals_drawing_every_look(looks: int, coherence: float) -> None:
    rng = np.random.default_rng(5)
    n = 100_000

    def normal() -> np.ndarray:
        return (rng.standard_normal((looks, n)) + 1j * rng.standard_normal((looks, n))) / np.sqrt(2)

    first = normal()
    second = coherence * first + np.sqrt(1 - coherence**2) * normal()
    cross = (second * first.conj()).sum(axis=0)
    power = (abs(first) ** 2).sum(axis=0) * (abs(second) ** 2).sum(axis=0)
    drawn = draw_multilooked(rng, np.full(n, coherence), looks)
    assert drawn.phase.std() == pytest.approx(np.angle(cross).std(), rel=0.015)
    sample = abs(cross) / np.sqrt(power)
    for q in (5, 50, 95):
        assert np.percentile(drawn.coherence, q) == pytest.approx(
            np.percentile(sample, q), abs=0.006
        )


def test_coherence_estimate_of_noise_has_the_known_bias() -> None:
    looks = 20
    drawn = draw_multilooked(stream(2), np.zeros(200_000), looks)
    # Touzi et al. 1999 for γ = 0
    bias = gamma_function(looks) * gamma_function(1.5) / gamma_function(looks + 0.5)
    assert drawn.coherence.mean() == pytest.approx(bias, rel=0.005)
    assert drawn.coherence.max() <= 1


def test_one_look_is_refused() -> None:
    with pytest.raises(ValueError, match="looks must be >= 2"):
        draw_multilooked(stream(1), np.zeros(3), 1)


@pytest.mark.parametrize(
    ("spacing_m", "shortest_m", "longest_m", "exponent"),
    [
        (150.0, 2_000.0, 30_000.0, EXPONENTS[0]),
        (50.0, 310.0, 1_250.0, EXPONENTS[1]),
        (20.0, 50.0, 210.0, EXPONENTS[2]),
    ],
)
def test_turbulence_has_the_slope_of_each_band(
    spacing_m: float, shortest_m: float, longest_m: float, exponent: float
) -> None:
    n = 512
    sampler = SpectralField((n, n), spacing_m, turbulence_psd)
    # The taper keeps the long waves, cut at the edge, from leaking over the steep spectrum.
    taper = np.hanning(n)[:, None] * np.hanning(n)[None, :]
    k = np.hypot(np.fft.fftfreq(n, spacing_m)[:, None], np.fft.fftfreq(n, spacing_m)[None, :])
    power = np.zeros((n, n))
    for i in range(6):
        field = sampler.draw(stream(3, i)).astype(float)
        power += np.abs(np.fft.fft2((field - field.mean()) * taper)) ** 2
    edges = np.geomspace(1 / longest_m, 1 / shortest_m, 9)
    which = np.digitize(k.ravel(), edges)
    means = [(k.ravel()[which == i].mean(), power.ravel()[which == i].mean()) for i in range(1, 9)]
    x, y = np.log(np.array(means)).T
    assert np.polyfit(x, y, 1)[0] == pytest.approx(exponent, abs=0.2)


def test_turbulence_has_unit_variance_over_a_large_map() -> None:
    sampler = SpectralField((512, 512), 800.0, turbulence_psd)
    rms = np.sqrt(np.mean([np.square(sampler.draw(stream(4, i))).mean() for i in range(6)]))
    assert rms == pytest.approx(1.0, abs=0.08)


def test_small_maps_see_less_turbulence() -> None:
    def spread(n: int) -> float:
        sampler = SpectralField((n, n), 25.0, turbulence_psd)
        return float(np.mean([sampler.draw(stream(5, i)).std() for i in range(8)]))

    assert spread(64) < 0.5 * spread(1024) < 0.5


def test_upsample_keeps_constants_and_ramps() -> None:
    flat = upsample(np.full((5, 7), 3.0, dtype=np.float32), (50, 63))
    np.testing.assert_allclose(flat, 3.0, rtol=1e-6)
    ramped = upsample(np.broadcast_to(np.arange(20, dtype=np.float32), (20, 20)), (80, 80))
    inner = ramped[:, 12:-12]
    np.testing.assert_allclose(np.diff(inner, axis=1), 0.25, atol=1e-5)
    # Pixel centres: the middle of cell 10 lies between fine pixels 41 and 42.
    assert (ramped[40, 41] + ramped[40, 42]) / 2 == pytest.approx(10.0, abs=1e-4)


def test_smoothing_on_block_means_equals_the_plain_kernel() -> None:
    field = smooth_noise(stream(6), (240, 260), 1.0, 12.0)
    plain = ndimage.gaussian_filter(field, 20.0, mode="nearest")
    fast = smooth(field, 20.0)
    # The border is continued differently; one kernel's width inside it makes no difference.
    assert np.abs(fast - plain)[60:-60, 60:-60].max() < 0.03 * plain.std()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_block_mean_keeps_the_mean_of_whole_blocks(h: int, w: int, factor: int) -> None:
    field = np.random.default_rng(h * w).normal(size=(h * factor, w * factor)).astype(np.float32)
    out = block_mean(field, factor)
    assert out.shape == (h, w)
    assert out.mean() == pytest.approx(field.mean(), abs=1e-5)


def test_smooth_noise_has_unit_variance_everywhere() -> None:
    stack = np.stack([smooth_noise(stream(7, i), (60, 50), 1.0, 8.0) for i in range(400)])
    assert stack.std() == pytest.approx(1.0, abs=0.05)
    assert stack[:, :4].std() == pytest.approx(1.0, abs=0.15)


def test_ramp_has_the_rms_asked_for() -> None:
    plane = ramp(stream(8), (40, 70), 1.7)
    assert plane.std() == pytest.approx(1.7, rel=1e-4)
    assert abs(plane.mean()) < 1e-5


def test_terrain_is_mountains_not_noise() -> None:
    terrain = generate_terrain(stream(9), (512, 512), 25.0)
    ground = make_ground(terrain, 25.0)
    z = terrain.elevation
    assert z.max() - z.min() > 1000
    assert 15 < np.median(ground.slope) < 35
    assert np.percentile(ground.slope, 99) < 60
    # Water finds its way out: at valley scale hardly a pit is left.
    coarse = block_mean(z, 16)
    pits = coarse[1:-1, 1:-1] == ndimage.minimum_filter(coarse, 3)[1:-1, 1:-1]
    noise = block_mean(smooth_noise(stream(9), (512, 512), 25.0, 400.0), 16)
    noise_pits = noise[1:-1, 1:-1] == ndimage.minimum_filter(noise, 3)[1:-1, 1:-1]
    assert pits.mean() < 0.4 * noise_pits.mean()
    # Rivers flow in the lowest ground around them.
    assert terrain.water.any()
    lower = z[terrain.water].mean()
    assert lower < np.percentile(z, 25)
    np.testing.assert_array_equal(z, generate_terrain(stream(9), (512, 512), 25.0).elevation)


def test_stratified_delay_follows_elevation() -> None:
    slope = np.broadcast_to(np.linspace(0, 3000, 200, dtype=np.float32), (200, 200)).copy()
    ground = make_ground(Terrain(slope, np.zeros((200, 200), dtype=bool)), 25.0)
    atmosphere = Atmosphere(ground)
    delay = np.stack([atmosphere._stratified(stream(10, i)) for i in range(40)])
    per_metre = (delay[:, :, -1] - delay[:, :, 0]).mean(axis=1) / 3000
    assert np.abs(per_metre).max() < 7e-3
    assert (per_metre > 0).any()
    assert (per_metre < 0).any()


def test_layover_and_shadow_of_known_slopes() -> None:
    look = make_look(stream(11), (60, 60), 25.0, "ascending")  # satellite in the west
    theta = float(look.incidence_deg.mean())
    east_m = np.arange(60, dtype=np.float32)[None, :] * np.float32(25.0)

    def hidden(slope_deg: float, *, facing_west: bool) -> float:
        sign = 1.0 if facing_west else -1.0
        z = (1e4 + sign * np.tan(np.deg2rad(slope_deg)) * east_m) * np.ones((60, 1))
        ground = make_ground(Terrain(z.astype(np.float32), np.zeros((60, 60), dtype=bool)), 25.0)
        return float(unseen(ground, look)[5:-5, 5:-5].mean())

    assert hidden(theta + 8, facing_west=True) == 1
    assert hidden(theta - 8, facing_west=True) == 0
    assert hidden(90 - theta - 8, facing_west=False) == 0
    assert hidden(90 - theta + 8, facing_west=False) == 1


def test_look_geometry_of_sentinel_1() -> None:
    for direction, east_sign, heading in (("ascending", -1, -13.0), ("descending", 1, -167.0)):
        look = make_look(stream(12), (100, 120), 25.0, direction)  # type: ignore[arg-type]
        assert look.heading_deg == heading
        assert (np.sign(look.east) == east_sign).all()
        assert (look.up > 0).all()
        np.testing.assert_allclose(look.east**2 + look.north**2 + look.up**2, 1, atol=1e-5)
        np.testing.assert_allclose(np.rad2deg(np.arccos(look.up)), look.incidence_deg, atol=0.01)
        assert look.incidence_deg.min() >= 29
        assert look.incidence_deg.max() <= 46
        # Far range, where incidence is larger, is the side away from the satellite.
        growth = look.incidence_deg[:, -1].mean() - look.incidence_deg[:, 0].mean()
        assert np.sign(growth) == -east_sign


def test_dem_error_phase_by_hand() -> None:
    look = make_look(stream(13), (40, 40), 25.0, "descending")
    theta = np.deg2rad(look.incidence_deg.mean())
    distance = float(slant_range(look.incidence_deg).mean())
    phase = dem_error_phase(np.full((40, 40), 10.0, dtype=np.float32), 60.0, look)
    by_hand = 4 * np.pi * 60 * 10 / (SENTINEL1_WAVELENGTH_M * distance * np.sin(theta))
    assert phase.mean() == pytest.approx(by_hand, rel=0.01)
    assert 0.2 < by_hand < 0.35  # about 0.25 rad for 10 m and 60 m


def test_miscounted_cycles_keep_the_wrapped_phase() -> None:
    y, x = np.mgrid[:30, :30]
    inside = (y - 15) ** 2 + (x - 15) ** 2 < 100
    slow = np.where(inside, 2.0, 0.0).astype(np.float32)
    np.testing.assert_array_equal(miscounted(slow), slow)
    fast = np.where(inside, -11.0, 0.0).astype(np.float32)
    seen = miscounted(fast)
    np.testing.assert_allclose(np.cos(seen - fast), 1, atol=1e-5)
    assert seen[15, 15] == pytest.approx(-11 + 4 * np.pi, abs=1e-4)
    assert (seen[~inside] == 0).all()


def test_a_gradual_flank_saves_the_count() -> None:
    profile = np.concatenate([np.zeros(5), np.linspace(0, 12, 16), np.zeros(9)])
    phase = np.zeros((30, 30), dtype=np.float32)
    phase[8:22] = profile  # rises by less than π a pixel, ends in a cliff of almost two cycles
    np.testing.assert_array_equal(miscounted(phase), phase)


def test_steep_phase_lowers_coherence() -> None:
    ramped = np.broadcast_to(np.arange(9, dtype=np.float32) * np.float32(np.pi), (9, 9))
    inside = np.ones((9, 9), dtype=bool)
    factor = gradient_coherence(ramped, inside)
    np.testing.assert_allclose(factor, 2 / np.pi, rtol=1e-5)  # sinc of half a cycle
    np.testing.assert_array_equal(gradient_coherence(ramped, ~inside), 1)

"""Physics of InSAR against known numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.insar.geometry import (
    downslope_sensitivity,
    hyp3_from_los,
    layover_shadow,
    los_from_angles,
    los_from_hyp3,
    slope_aspect,
    slope_toward_radar,
)
from components.insar.noise import mad_sigma
from components.insar.phase import (
    PHASE_STD_MAX,
    displacement_from_phase,
    phase_from_displacement,
    phase_std,
    velocity,
    velocity_std,
    wrap,
)
from components.insar.reference import stable_median
from components.layers import DAYS_PER_YEAR, LAYERS, SENTINEL1_WAVELENGTH_M

WAVELENGTH = SENTINEL1_WAVELENGTH_M
ASCENDING, DESCENDING = -12.0, -168.0


# --- phase ---------------------------------------------------------------------------------------


def test_one_cycle_of_phase_is_half_a_wavelength_away() -> None:
    assert displacement_from_phase(2 * np.pi, WAVELENGTH) == pytest.approx(-WAVELENGTH / 2)
    # 1 cm toward the satellite is −2.27 rad at C band.
    assert phase_from_displacement(0.01, WAVELENGTH) == pytest.approx(-2.27, abs=0.005)


@given(st.floats(-1e3, 1e3), st.floats(0.01, 1.0))
def test_phase_and_displacement_round_trip(phase: float, wavelength: float) -> None:
    back = phase_from_displacement(displacement_from_phase(phase, wavelength), wavelength)
    assert back == pytest.approx(phase, rel=1e-12, abs=1e-12)


@given(st.floats(-1e4, 1e4))
def test_wrap_changes_by_whole_cycles_into_the_declared_range(phase: float) -> None:
    wrapped = float(wrap(phase))
    cycles = (phase - wrapped) / (2 * np.pi)
    assert cycles == pytest.approx(round(cycles), abs=1e-9)
    assert -np.pi <= wrapped <= np.pi


def test_wrap_of_float32_stays_inside_the_stored_range() -> None:
    low, high = LAYERS["wrapped_phase"].valid_range or (0, 0)
    wrapped = wrap(np.array([np.pi, -np.pi, 3 * np.pi, np.nan], dtype=np.float32))
    assert wrapped.dtype == np.float32
    assert np.isnan(wrapped[3])
    assert wrapped[:3].astype(float).min() >= low
    assert wrapped[:3].astype(float).max() <= high


def test_velocity_of_a_year_and_of_a_sentinel_pair() -> None:
    assert velocity(0.02, DAYS_PER_YEAR) == pytest.approx(20.0)
    # A quarter wavelength in 12 days is 42 cm/yr: the limit between neighbouring pixels.
    assert velocity(WAVELENGTH / 4, 12) == pytest.approx(422, abs=1)
    with pytest.raises(ValueError, match="days"):
        velocity(0.02, 0)


def test_floating_dtype_is_kept() -> None:
    d = np.ones((2, 2), dtype=np.float32)
    assert phase_from_displacement(d, WAVELENGTH).dtype == np.float32
    assert velocity(d, 12).dtype == np.float32
    assert phase_std(d, 10).dtype == np.float32


def test_phase_std_is_the_bound_and_the_multilook_simulation_meets_it() -> None:
    assert phase_std(1.0, 10) == 0.0
    assert phase_std(0.0, 10) == pytest.approx(PHASE_STD_MAX)
    assert phase_std(0.5, 10) == pytest.approx(np.sqrt(0.75 / (20 * 0.25)))
    # Truth from simulated circular Gaussian pairs: many looks meet the bound.
    rng = np.random.default_rng(0)
    gamma, looks, n = 0.7, 50, 4000
    a, b = rng.normal(size=(2, 2, looks, n))
    first = a[0] + 1j * a[1]
    second = gamma * first + np.sqrt(1 - gamma**2) * (b[0] + 1j * b[1])
    measured = np.std(np.angle(np.sum(first * np.conj(second), axis=0)))
    assert measured == pytest.approx(float(phase_std(gamma, looks)), rel=0.05)


def test_velocity_std_scales_with_wavelength_and_time() -> None:
    sigma = velocity_std(0.5, 10, WAVELENGTH, 12)
    expected = np.sqrt(0.75 / 5) * WAVELENGTH / (4 * np.pi) * 1000 * DAYS_PER_YEAR / 12
    assert sigma == pytest.approx(expected)
    assert velocity_std(0.5, 10, WAVELENGTH, 24) == pytest.approx(expected / 2)
    assert np.isnan(velocity_std(np.nan, 10, WAVELENGTH, 12))


# --- geometry ------------------------------------------------------------------------------------


@given(st.floats(20, 50), st.floats(-360, 360))
def test_look_vectors_have_length_one(incidence: float, heading: float) -> None:
    e, n, u = los_from_angles(incidence, heading)
    assert e**2 + n**2 + u**2 == pytest.approx(1.0)
    assert u == pytest.approx(np.cos(np.radians(incidence)))


def test_the_satellite_stands_in_the_west_ascending_and_in_the_east_descending() -> None:
    assert los_from_angles(39, ASCENDING).east < 0
    assert los_from_angles(39, DESCENDING).east > 0
    # Both passes of a near-polar, right-looking satellite look a little northward, so it stands south.
    assert los_from_angles(39, ASCENDING).north < 0
    assert los_from_angles(39, DESCENDING).north < 0


@pytest.mark.parametrize("heading", [ASCENDING, DESCENDING])
def test_hyp3_angles_give_the_same_vector(heading: float) -> None:
    incidence = 39.0
    # HyP3's conventions written out: elevation angle, and azimuth of the satellite from east
    # counter-clockwise. The satellite is at compass azimuth heading − 90.
    lv_theta = np.radians(90 - incidence)
    lv_phi = np.radians(90 - (heading - 90))
    from_hyp3 = los_from_hyp3(lv_theta, lv_phi)
    np.testing.assert_allclose(from_hyp3, los_from_angles(incidence, heading), atol=1e-12)
    np.testing.assert_allclose(los_from_hyp3(*hyp3_from_los(*from_hyp3)), from_hyp3, atol=1e-12)


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_a_plane_has_its_slope_and_aspect_everywhere(east: float, north: float) -> None:
    dy, dx = 20.0, 25.0
    rows, cols = np.mgrid[0:5, 0:6].astype(float)
    z = 1000 + east * cols * dx - north * rows * dy  # rows grow southward
    slope, aspect = slope_aspect(z, (dy, dx))
    steepness = np.hypot(east, north)
    np.testing.assert_allclose(slope, np.degrees(np.arctan(steepness)), atol=1e-6)
    if steepness > 1e-6:
        downhill = np.degrees(np.arctan2(-east, -north)) % 360
        difference = (aspect - downhill + 180) % 360 - 180
        np.testing.assert_allclose(difference, 0, atol=1e-4)
        assert aspect.min() >= 0
        assert aspect.max() < 360


def test_aspect_points_downhill() -> None:
    rows, cols = np.mgrid[0:4, 0:4].astype(float)
    assert slope_aspect(-cols, 1.0).aspect[1, 1] == pytest.approx(90)  # falls toward the east
    assert slope_aspect(-rows, 1.0).aspect[1, 1] == pytest.approx(180)  # falls toward the south
    assert slope_aspect(rows, 1.0).aspect[1, 1] == pytest.approx(0)
    flat = slope_aspect(np.zeros((3, 3), dtype=np.float32), 1.0)
    assert np.isnan(flat.aspect).all()
    assert (flat.slope == 0).all()
    assert flat.slope.dtype == flat.aspect.dtype == np.float32


def test_a_hole_in_the_terrain_spreads_by_one_pixel_only() -> None:
    z = np.random.default_rng(0).normal(size=(7, 7))
    z[3, 3] = np.nan
    missing = np.isnan(slope_aspect(z, 10.0).slope)
    expected = np.zeros((7, 7), dtype=bool)
    expected[2:5, 2:5] = True
    np.testing.assert_array_equal(missing, expected)


def test_blocks_with_a_halo_equal_the_whole() -> None:
    z = np.random.default_rng(1).normal(size=(40, 30))
    whole = slope_aspect(z, 10.0).slope
    part = slope_aspect(z[9:31, 9:21], 10.0).slope[1:-1, 1:-1]
    np.testing.assert_array_equal(part, whole[10:30, 10:20])


def test_sensitivity_of_the_science_brief() -> None:
    """Ascending, θ = 39°, 35° slopes: east-facing −0.95, west-facing +0.06 (blind)."""
    u = los_from_angles(39, ASCENDING)
    assert downslope_sensitivity(35, 90, *u) == pytest.approx(-0.95, abs=0.01)
    assert downslope_sensitivity(35, 270, *u) == pytest.approx(0.06, abs=0.01)
    # R = sin(θ − α_r): 0.96 and 0.08.
    r = [np.sin(np.radians(39 - slope_toward_radar(35, a, u.east, u.north))) for a in (90, 270)]
    assert r == pytest.approx([0.96, 0.08], abs=0.01)


@given(st.floats(0, 80), st.floats(0, 360), st.floats(20, 50), st.floats(-360, 360))
def test_sensitivity_is_the_dot_product(b: float, a: float, inc: float, head: float) -> None:
    u = los_from_angles(inc, head)
    beta, alpha = np.radians(b), np.radians(a)
    s = (np.cos(beta) * np.sin(alpha), np.cos(beta) * np.cos(alpha), -np.sin(beta))
    expected = 0.0 if b == 0 else float(np.dot(s, u))
    assert downslope_sensitivity(b, a, *u) == pytest.approx(expected, abs=1e-12)


def test_level_ground_has_no_sensitivity_and_a_missing_look_vector_stays_missing() -> None:
    u = los_from_angles(39, ASCENDING)
    assert downslope_sensitivity(0.0, np.nan, *u) == 0.0
    assert np.isnan(downslope_sensitivity(0.0, np.nan, np.nan, np.nan, np.nan))
    assert not layover_shadow(0.0, np.nan, *u)
    assert not layover_shadow(np.nan, np.nan, *u)


def test_layover_and_shadow_begin_at_the_incidence_angle() -> None:
    u = los_from_angles(39, ASCENDING)
    toward = np.degrees(np.arctan2(u.east, u.north)) % 360  # aspect that faces the radar
    away = (toward + 180) % 360
    across = (toward + 90) % 360
    slopes = np.array([38.9, 39.1, 50.9, 51.1])
    np.testing.assert_array_equal(layover_shadow(slopes, toward, *u), [False, True, True, True])
    np.testing.assert_array_equal(layover_shadow(slopes, away, *u), [False, False, False, True])
    assert not layover_shadow(slopes, across, *u).any()


# --- noise and reference -------------------------------------------------------------------------


def test_mad_sigma_sees_the_noise_and_not_the_landslides() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=(200, 200))
    values[:40] = 500.0  # 20 % outliers
    values[50, :10] = [np.nan, np.inf, -np.inf] + [np.nan] * 7
    # Outliers on one side widen the estimate: the quantile moves from 0.5 to 0.5/0.8 of the clean part.
    assert 2.0 < mad_sigma(values) < 3.0
    assert mad_sigma(values[60:]) == pytest.approx(2.0, rel=0.02)
    assert np.isnan(mad_sigma([np.nan, np.inf]))


def test_stable_median_takes_coherent_ground_only() -> None:
    rng = np.random.default_rng(0)
    d = rng.normal(0.01, 0.001, size=(100, 100)).astype(np.float32)
    gamma = np.full((100, 100), 0.9, dtype=np.float32)
    d[:60], gamma[:60] = 5.0, 0.2  # incoherent majority
    d[60, :5] = np.nan
    found = stable_median(d, gamma, 0.7)
    assert found.value == pytest.approx(0.01, abs=1e-4)
    assert found.n_pixels == 4000 - 5
    assert found.threshold == pytest.approx(0.7)


def test_stable_median_lowers_the_threshold_where_little_reaches_it() -> None:
    d = np.linspace(0, 1, 1000)
    gamma = np.full(1000, 0.55)
    found = stable_median(d, gamma, 0.7)
    assert found.threshold == pytest.approx(0.5)
    assert found.n_pixels == 1000
    everything = stable_median(d, np.full(1000, np.nan), 0.7)
    assert (everything.threshold, everything.n_pixels) == (0.0, 1000)
    assert stable_median(d, None, 0.7).value == pytest.approx(0.5)
    assert np.isnan(stable_median([np.nan], [0.9], 0.7).value)

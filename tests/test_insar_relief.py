"""Height between valley and summit: known answers, gaps, and independence of how a map is cut."""

import numpy as np
import pytest

from components.insar.relief import Relief, cell_relief, cell_side, relative_height

PIXEL_M = 100.0


def ramp(rows=400, cols=30, low=1000.0, high=3000.0):
    """Terrain that rises southward, much longer than the surroundings reach."""
    return np.repeat(np.linspace(low, high, rows)[:, None], cols, axis=1)


def test_valley_is_zero_summit_is_one_and_order_is_kept():
    rng = np.random.default_rng(0)
    z = 1500 + 500 * np.sin(np.arange(120) / 12.0)[:, None] + rng.normal(0, 1, (120, 120))
    h = relative_height(z, PIXEL_M)
    assert h.dtype == np.float32
    assert h.min() == 0
    assert h.max() == 1
    assert h[np.unravel_index(z.argmin(), z.shape)] == 0
    assert h[np.unravel_index(z.argmax(), z.shape)] == 1
    # The whole map lies within reach of every pixel: one linear function of the height.
    inner = (h > 0) & (h < 1)
    slope, intercept = np.polyfit(z[inner], h[inner], 1)
    np.testing.assert_allclose(h[inner], slope * z[inner] + intercept, atol=1e-4)


def test_middle_of_a_long_ramp_is_half_way_up():
    h = relative_height(ramp(), PIXEL_M)
    np.testing.assert_allclose(h[180:220].mean(), 0.5, atol=0.02)
    # Far from its ends each place sees as much below as above, wherever it stands on the ramp.
    assert np.ptp(h[150:250].mean(axis=1)) < 0.1


def test_height_does_not_depend_on_the_datum_or_the_unit():
    z = np.random.default_rng(1).normal(0, 1, (90, 110)).cumsum(0).cumsum(1)
    z = 1000 * (z - z.min()) / np.ptp(z)
    np.testing.assert_allclose(
        relative_height(z, PIXEL_M), relative_height(z + 4000, PIXEL_M), atol=1e-5
    )
    np.testing.assert_allclose(
        relative_height(z, PIXEL_M), relative_height(3 * z, PIXEL_M), atol=1e-5
    )


def test_flat_ground_is_no_mountain():
    z = np.random.default_rng(2).normal(100, 1, (80, 80))
    assert np.ptp(relative_height(z, PIXEL_M)) < 0.2


def test_gaps_stay_gaps_and_do_not_spread():
    z = ramp(200, 60)
    holed = z.copy()
    holed[40:60, 10:30] = np.nan
    h = relative_height(holed, PIXEL_M)
    assert np.array_equal(np.isnan(h), np.isnan(holed))
    known = ~np.isnan(h)
    np.testing.assert_allclose(h[known], relative_height(z, PIXEL_M)[known], atol=0.05)
    assert np.isnan(relative_height(np.full((30, 30), np.nan), PIXEL_M)).all()


@pytest.mark.parametrize("pixel_m", [25.0, 100.0, 3000.0])
def test_parts_give_what_the_whole_map_gives(pixel_m):
    z = np.random.default_rng(3).normal(0, 100, (97, 131)).cumsum(1)
    side = cell_side(pixel_m)
    cells = (-(-z.shape[0] // side), -(-z.shape[1] // side))
    low, high = np.full(cells, np.nan), np.full(cells, np.nan)
    for row in range(cells[0]):  # cell by cell
        for col in range(cells[1]):
            part = z[row * side : (row + 1) * side, col * side : (col + 1) * side]
            low[row, col], high[row, col] = (a.item() for a in cell_relief(part, side))
    relief = Relief(low, high, pixel_m)
    whole = relative_height(z, pixel_m)
    np.testing.assert_allclose(relief.height(z[13:50, 7:99], 13, 7), whole[13:50, 7:99], atol=1e-6)

"""Separated ground and its references against known answers: islands, rivers, landslides that are cut off."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from components.insar.components import (
    LEAST_PIXELS,
    Cells,
    Referencing,
    Sample,
    by_component,
    cell_side,
    ground,
    whole_map,
)
from components.insar.reference import stable_median

PIXEL_M = 50.0
#: 10 px.
SIDE = cell_side(PIXEL_M)
NOISE_M = 0.001


@dataclass
class Found:
    """A referenced map."""

    references: Referencing
    subtracted: np.ndarray
    level: np.ndarray

    def median(self, where: np.ndarray | tuple[slice, slice]) -> float:
        return float(np.nanmedian(self.level[where]))


def reference(
    d: np.ndarray,
    coherence: np.ndarray | None = None,
    *,
    least_km2: float = 25.0,
    pixel_m: float = PIXEL_M,
    block: int = 64,
) -> Found:
    """Reference a map the way ingest does, in blocks; every valid pixel is in the sample."""
    cells = Cells(d.shape, cell_side(pixel_m))
    counts = np.zeros(cells.shape, dtype=np.int32)
    samples = []
    for row in range(0, d.shape[0], block):
        for col in range(0, d.shape[1], block):
            part = np.s_[row : row + block, col : col + block]
            valid = np.isfinite(d[part])
            slices, some = cells.count(valid, row, col)
            counts[slices] += some
            chosen = np.flatnonzero(valid)
            gamma = None if coherence is None else coherence[part].ravel()[chosen]
            where = cells.index(chosen, valid.shape[1], row, col)
            samples.append((d[part].ravel()[chosen], gamma, where))
    sample = Sample(
        np.concatenate([s[0] for s in samples]),
        None if coherence is None else np.concatenate([s[1] for s in samples]),
        np.concatenate([s[2] for s in samples]),
    )
    references = by_component(
        cells,
        counts,
        sample,
        threshold=0.7,
        least_km2=least_km2,
        pixel_km2=pixel_m**2 / 1e6,
    )
    subtracted = np.array(references.at(0, 0, d.shape))
    return Found(references, subtracted, d - subtracted)


def sea(height: int, width: int) -> np.ndarray:
    return np.full((height, width), np.nan)


def land(d: np.ndarray, where: tuple[slice, slice] | np.ndarray, level: float) -> None:
    """Ground at a level [m], with noise."""
    rng = np.random.default_rng(0)
    d[where] = level + rng.normal(0, NOISE_M, d[where].shape)


# -- what is one component ---------------------------------------------------------------------------


def test_islands_with_different_constants_come_out_level() -> None:
    d = sea(240, 400)
    west, east = np.s_[20:220, 15:175], np.s_[33:217, 220:390]
    land(d, west, 0.03)
    land(d, east, -0.06)
    found = reference(d)
    assert [round(c.km2, 1) for c in found.references.found] == [80.0, 78.2]
    values = [c.reference.value for c in found.references.found]
    assert values == pytest.approx([0.03, -0.06], abs=1e-4)
    assert found.references.n_small == 0
    for island in (west, east):
        assert abs(found.median(island)) < 1e-6
        assert np.unique(found.subtracted[island]).size == 1


def test_the_largest_component_comes_first() -> None:
    d = sea(240, 400)
    land(d, np.s_[20:220, 15:150], 0.03)
    land(d, np.s_[20:220, 200:390], -0.06)
    found = reference(d).references.found
    assert [round(c.reference.value, 2) for c in found] == [-0.06, 0.03]
    assert found[0].km2 > found[1].km2


@pytest.mark.parametrize("turned", [False, True], ids=["upright", "slanting"])
@pytest.mark.parametrize("offset", range(0, SIDE, 3))
@pytest.mark.parametrize(
    ("gap_m", "parts"),
    # A river; a gap of nearly a cell; three cells.
    [(200.0, 1), (450.0, 1), (1500.0, 2)],
)
def test_gaps_part_from_some_cells_width_on(
    gap_m: float, parts: int, offset: int, turned: bool
) -> None:
    d = sea(200, 420)
    rows, cols = np.indices(d.shape)
    # Distance from a line through the middle [m]; slanting, it runs at 27 degrees to the columns.
    across = cols - 210 - offset + (0.5 * (rows - 100) if turned else 0.0)
    across = across * PIXEL_M * (np.cos(np.arctan(0.5)) if turned else 1.0)
    land(d, across < -gap_m / 2, 0.03)
    land(d, across >= gap_m / 2, -0.06)
    assert len(reference(d).references.found) == parts


def test_a_river_without_coherence_in_noisy_ground_parts_nothing() -> None:
    # 25 m pixels, three in ten without coherence, and a river that winds.
    rng = np.random.default_rng(2)
    d = rng.normal(0.02, NOISE_M, (400, 500))
    rows, cols = np.indices(d.shape)
    d[np.abs(cols - 250 - 40 * np.sin(rows / 30.0)) < 4] = np.nan
    d[rng.random(d.shape) < 0.3] = np.nan
    found = reference(d, pixel_m=25.0)
    assert (len(found.references.found), found.references.n_components) == (1, 1)


def test_scattered_pixels_at_sea_join_nothing() -> None:
    # A sixth of the pixels of open water reaches a coherence of 0.3 with 20 looks.
    rng = np.random.default_rng(3)
    d = np.where(rng.random((240, 480)) < 0.91**19, rng.normal(0, 0.01, (240, 480)), np.nan)
    land(d, np.s_[:, :190], 0.03)
    land(d, np.s_[:, 280:], -0.06)
    found = reference(d)
    assert len(found.references.found) == 2
    assert abs(found.median(np.s_[:, :190])) < 1e-4
    assert abs(found.median(np.s_[:, 280:])) < 1e-4
    # A stray pixel takes the reference of the shore that it lies by.
    assert np.unique(found.subtracted[:, 190:205]).size == 1
    assert np.unique(found.subtracted[:, 265:280]).size == 1
    assert np.unique(found.subtracted).size == 2


def test_a_cell_with_two_shores_joins_them() -> None:
    # A strait of 400 m in the middle of a column of cells: a tenth of each cell on either side.
    d = sea(200, 420)
    land(d, np.s_[:, :201], 0.03)
    land(d, np.s_[:, 209:], -0.06)
    counts = Cells(d.shape, SIDE).count(np.isfinite(d))[1]
    assert (counts[:, 20] < 0.25 * SIDE**2).all()
    found = reference(d)
    assert len(found.references.found) == 1
    assert np.unique(found.subtracted).size == 1


@given(
    hnp.arrays(
        np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 16)
    )
)
def test_ground_is_full_cells_and_their_shore(counts: np.ndarray) -> None:
    pixels = np.full(counts.shape, 16)
    got = ground(counts, pixels)
    full = counts >= 4
    assert (got >= full).all()
    assert not got[counts == 0].any()
    near = ndimage.maximum_filter(full.astype(int), 3, mode="constant") == 1
    np.testing.assert_array_equal(got, near & (counts > 0))


@given(
    hnp.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))),
    st.integers(1, 12),
    st.integers(1, 25),
)
def test_counts_of_blocks_sum_to_those_of_the_map(valid: np.ndarray, side: int, block: int) -> None:
    cells = Cells(valid.shape, side)
    total = np.zeros(cells.shape, dtype=np.int64)
    where = []
    for row in range(0, valid.shape[0], block):
        for col in range(0, valid.shape[1], block):
            part = valid[row : row + block, col : col + block]
            slices, counts = cells.count(part, row, col)
            total[slices] += counts
            where.append(cells.index(np.flatnonzero(part), part.shape[1], row, col))
    rows, cols = np.nonzero(valid)
    expected = np.zeros(cells.shape, dtype=np.int64)
    np.add.at(expected, (rows // side, cols // side), 1)
    np.testing.assert_array_equal(total, expected)
    by_pixel = np.bincount(np.concatenate(where), minlength=total.size)
    np.testing.assert_array_equal(by_pixel.reshape(total.shape), expected)
    np.testing.assert_array_equal(
        cells.pixels(), Cells(valid.shape, side).count(np.ones_like(valid))[1]
    )


@pytest.mark.parametrize(("pixel_m", "side"), [(25.0, 20), (40.0, 13), (80.0, 6), (2000.0, 1)])
def test_cells_are_of_half_a_kilometre(pixel_m: float, side: int) -> None:
    assert cell_side(pixel_m) == side


# -- small components --------------------------------------------------------------------------------


def cut_off(level: float, beside: float = 0.02) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Ground with a landslide of 1.4 km² in a belt without coherence; an island at −3 cm farther off."""
    d = sea(260, 420)
    land(d, np.s_[:, :200], beside)
    land(d, np.s_[:, 300:], -0.03)
    d[80:160, 100:190] = np.nan
    landslide = np.s_[110:130, 131:159]
    land(d, landslide, level)
    return d, landslide


def test_a_landslide_that_is_cut_off_keeps_its_motion() -> None:
    d, landslide = cut_off(0.02 - 0.04)
    found = reference(d)
    assert (found.references.n_components, found.references.n_small) == (3, 1)
    assert found.median(landslide) == pytest.approx(-0.04, abs=2e-4)
    # Told to be a component of its own, it would stand still.
    alone = reference(d, least_km2=1.0)
    assert alone.references.n_small == 0
    assert abs(alone.median(landslide)) < 1e-6


def test_a_small_component_takes_the_nearest_reference_as_a_whole() -> None:
    d = sea(240, 500)
    land(d, np.s_[:, :150], 0.03)
    land(d, np.s_[:, 350:], -0.06)
    # An island of 19.5 km² in between, 1.5 km from the west and 2 km from the east coast.
    small = np.s_[90:150, 180:310]
    land(d, small, 0.01)
    found = reference(d)
    assert (len(found.references.found), found.references.n_small) == (2, 1)
    assert np.unique(found.subtracted[small]).size == 1
    assert found.median(small) == pytest.approx(-0.02, abs=2e-4)
    # And its shore with it, though cells there are nearer to the east.
    land(d, np.s_[100:140, 310:312], 0.01)
    assert np.unique(reference(d).subtracted[90:150, 180:312]).size == 1


def test_where_no_component_is_large_the_whole_map_has_one_reference() -> None:
    d = sea(240, 240)
    land(d, np.s_[20:90, 20:90], 0.03)
    land(d, np.s_[150:220, 120:220], -0.06)
    found = reference(d)
    assert [c.reference for c in found.references.found] == [stable_median(d, None, 0.7)]
    assert (found.references.n_components, found.references.n_small) == (2, 2)
    assert found.references.found[0].km2 == pytest.approx(np.isfinite(d).sum() * 0.0025)
    assert np.unique(found.subtracted).size == 1


def test_a_component_with_few_sampled_pixels_is_small() -> None:
    # 99 and 100 pixels of 1 km², each a cell.
    d = sea(30, 40)
    land(d, np.s_[:9, :11], 0.03)
    land(d, np.s_[20:30, 20:30], -0.06)
    assert LEAST_PIXELS == 100
    found = reference(d, pixel_m=1000.0)
    assert [c.km2 for c in found.references.found] == [100.0]
    assert found.references.n_small == 1


def test_coherence_is_lowered_for_each_component_by_itself() -> None:
    d = sea(240, 400)
    coherence = np.full(d.shape, 0.9)
    land(d, np.s_[:, :160], 0.03)
    land(d, np.s_[:, 240:], -0.06)
    coherence[:, 240:] = 0.45
    d[:, 320:], coherence[:, 320:] = 0.4, 0.35  # unwrapping error on bad ground
    west, east = sorted(reference(d, coherence).references.found, key=lambda c: -c.reference.value)
    assert west.reference.threshold == pytest.approx(0.7)
    assert east.reference.threshold == pytest.approx(0.4)
    assert east.reference.value == pytest.approx(-0.06, abs=1e-4)
    assert east.reference.n_pixels == 240 * 80


# -- properties --------------------------------------------------------------------------------------


@given(st.floats(-5, 5), st.integers(0, 1), st.integers(0, 2**32 - 1))
def test_a_constant_on_one_component_changes_nothing(shift: float, which: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    d = rng.normal(0, 0.02, (120, 200)).astype(np.float32)
    coherence = rng.uniform(0.3, 1, d.shape)
    d[:, 70:100] = np.nan
    parts = np.s_[:, :70], np.s_[:, 100:]
    before = reference(d, coherence, least_km2=10.0)
    moved = d.copy()
    moved[parts[which]] += np.float32(shift)
    after = reference(moved, coherence, least_km2=10.0)
    assert len(before.references.found) == 2
    # The rounding of float32 at the size of the shift.
    np.testing.assert_allclose(after.level, before.level, atol=3e-7 * (1 + abs(shift)))
    spread = [np.nanstd(f.level) for f in (before, after)]
    assert spread[0] == pytest.approx(spread[1], rel=1e-4)


@given(hnp.arrays(bool, (30, 34)), st.sampled_from([7, 16, 64]), st.integers(0, 3))
def test_pixels_of_one_cell_share_a_reference_whatever_the_blocks(
    coarse: np.ndarray, block: int, turns: int
) -> None:
    # Islands of many shapes, of whole cells of 5 px of 100 m.
    valid = np.kron(coarse, np.ones((5, 5), dtype=bool))
    d = np.where(valid, np.random.default_rng(1).normal(0, 0.1, valid.shape), np.nan)
    if not valid.any():
        return
    found = reference(d, pixel_m=100.0, least_km2=3.0, block=block)
    whole = reference(d, pixel_m=100.0, least_km2=3.0, block=1000)
    np.testing.assert_array_equal(found.subtracted, whole.subtracted)
    # No component of the pixels has two references.
    labels, n = ndimage.label(valid, np.ones((3, 3)))
    lowest, highest = (
        f(found.subtracted, labels, range(1, n + 1)) for f in (ndimage.minimum, ndimage.maximum)
    )
    np.testing.assert_array_equal(lowest, highest)
    # Turned by right angles, large components are the same; a small one may lie equally near to two.
    turned = reference(np.rot90(d, turns).copy(), pixel_m=100.0, least_km2=3.0)
    assert turned.references.n_components == found.references.n_components
    np.testing.assert_allclose(
        sorted((c.km2, c.reference.value) for c in turned.references.found),
        sorted((c.km2, c.reference.value) for c in found.references.found),
    )


@pytest.mark.parametrize("offset", [0, SIDE // 2, 7])
def test_where_the_cells_begin_does_not_matter_for_wide_straits(offset: int) -> None:
    d = sea(260, 460)
    land(d, np.s_[20:220, 15:175], 0.03)
    land(d, np.s_[33:217, 220:390], -0.06)
    before = reference(d)
    after = reference(np.roll(d, (offset, offset), (0, 1)))
    np.testing.assert_array_equal(np.roll(before.level, (offset, offset), (0, 1)), after.level)


@given(st.integers(0, 2**32 - 1))
def test_one_component_is_referenced_as_the_whole_map(seed: int) -> None:
    rng = np.random.default_rng(seed)
    d = rng.normal(0, 0.02, (120, 100)).astype(np.float32)
    d[rng.random(d.shape) < 0.3] = np.nan
    coherence = rng.uniform(0.3, 1, d.shape).astype(np.float32)
    found = reference(d, coherence, least_km2=10.0)
    valid = np.isfinite(d)
    sample = Sample(d[valid], coherence[valid], np.zeros(valid.sum(), dtype=np.intp))
    whole = whole_map(sample, 0.7, float(valid.sum() * 0.0025))
    assert [c.reference for c in found.references.found] == [c.reference for c in whole.found]
    np.testing.assert_array_equal(found.level, d - whole.at(0, 0, d.shape))
    assert found.references.beside_first(sample.cell) == 0


def test_nothing_is_subtracted_without_references() -> None:
    none = Referencing()
    assert (none.at(3, 4, (5, 6)) == 0).all()
    assert none.at(3, 4, (5, 6)).dtype == np.float32
    assert none.beside_first(np.array([0, 1])) == 0


def test_any_part_of_the_map_has_the_references_of_the_whole() -> None:
    d, _ = cut_off(0.0)
    found = reference(d)
    for row, col, height, width in ((0, 0, 1, 1), (13, 177, 90, 140), (255, 0, 5, 420)):
        part = found.references.at(row, col, (height, width))
        np.testing.assert_array_equal(part, found.subtracted[row : row + height, col : col + width])

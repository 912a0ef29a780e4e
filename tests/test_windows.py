"""Grids and windows: every pixel exactly as often as promised."""

import json
from itertools import pairwise

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from components.grid import (
    Window,
    block_windows,
    geobox_from_dict,
    geobox_to_dict,
    plan_windows,
    same_grid,
    tile_starts,
)

SIDES = st.integers(1, 90)
SHAPES = st.tuples(SIDES, SIDES)


@st.composite
def windows(draw: st.DrawFn, shape: tuple[int, int]) -> Window:
    row, col = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))
    height = draw(st.integers(1, shape[0] - row))
    width = draw(st.integers(1, shape[1] - col))
    return Window(row, col, height, width)


def visits(shape: tuple[int, int], found: list[Window]) -> np.ndarray:
    count = np.zeros(shape, dtype=int)
    for window in found:
        assert window.row >= 0
        assert window.col >= 0
        assert window.row_end <= shape[0]
        assert window.col_end <= shape[1]
        count[window.slices] += 1
    return count


@settings(deadline=None)
@given(SHAPES, st.integers(1, 40))
def test_blocks_cover_every_pixel_exactly_once_in_row_major_order(
    shape: tuple[int, int], size: int
) -> None:
    blocks = block_windows(shape, size)
    assert (visits(shape, blocks) == 1).all()
    assert blocks == sorted(blocks)
    assert max(max(b.height, b.width) for b in blocks) <= size


@settings(deadline=None)
@given(SHAPES, st.integers(1, 40), st.floats(0, 0.95))
def test_windows_cover_every_pixel_and_have_one_size(
    shape: tuple[int, int], size: int, overlap: float
) -> None:
    planned = plan_windows(shape, size, overlap)
    assert (visits(shape, planned) >= 1).all()
    assert {(w.height, w.width) for w in planned} == {(min(size, shape[0]), min(size, shape[1]))}
    assert planned == sorted(set(planned))


@settings(deadline=None)
@given(SHAPES, st.integers(2, 40), st.floats(0, 0.9))
def test_neighbouring_windows_share_at_least_the_overlap(
    shape: tuple[int, int], size: int, overlap: float
) -> None:
    cols = sorted({w.col for w in plan_windows(shape, size, overlap)})
    stride = max(1, round(size * (1 - overlap)))
    assert all(b - a <= stride for a, b in pairwise(cols))


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 50), st.data())
def test_starts_are_few_increasing_and_reach_the_end(
    length: int, size: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, size))
    starts = tile_starts(length, size, stride)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - size)
    gaps = np.diff(starts)
    assert ((gaps >= 1) & (gaps <= stride)).all()
    # One more tile than a cover needs would be a duplicate.
    assert len(starts) == 1 + -(-max(0, length - size) // stride)


@pytest.mark.parametrize(
    ("length", "size", "stride"), [(0, 4, 2), (5, 0, 1), (5, 4, 0), (5, 4, 5), (-1, 4, 2)]
)
def test_impossible_tiling_is_refused_with_the_values(length: int, size: int, stride: int) -> None:
    with pytest.raises(ValueError, match=f"stride={stride}"):
        tile_starts(length, size, stride)


@pytest.mark.parametrize("overlap", [-0.1, 1.0, 1.5, float("nan")])
def test_overlap_out_of_range_is_refused(overlap: float) -> None:
    with pytest.raises(ValueError, match="overlap"):
        plan_windows((10, 10), 4, overlap)


@settings(deadline=None)
@given(SHAPES.flatmap(lambda s: st.tuples(st.just(s), windows(s), windows(s))))
def test_intersection_is_the_common_pixels(case: tuple[tuple[int, int], Window, Window]) -> None:
    shape, a, b = case
    common = (visits(shape, [a]) + visits(shape, [b])) == 2
    found = a.intersect(b)
    assert found == b.intersect(a)
    expected = np.zeros(shape, dtype=bool)
    if found is not None:
        expected[found.slices] = True
    np.testing.assert_array_equal(common, expected)


@settings(deadline=None)
@given(SHAPES.flatmap(lambda s: st.tuples(st.just(s), windows(s))), st.integers(0, 20))
def test_buffer_grows_by_the_halo_and_stays_inside(
    case: tuple[tuple[int, int], Window], halo: int
) -> None:
    shape, window = case
    grown = window.buffer(halo, shape)
    # A pixel belongs to it where its distance to the window is at most the halo.
    rows, cols = np.indices(shape)
    down = np.maximum(window.row - rows, rows - (window.row_end - 1))
    across = np.maximum(window.col - cols, cols - (window.col_end - 1))
    near = np.maximum(down, across) <= halo
    np.testing.assert_array_equal(visits(shape, [grown]) == 1, near)


GRID = GeoBox((300, 200), Affine(25.0, 0, 400_000.0, 0, -25.0, 4_000_000.0), "EPSG:32647")


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.floats(0.1, 1000),
    st.floats(-1e6, 1e6),
    st.floats(-1e7, 1e7),
    st.sampled_from(["EPSG:32647", "EPSG:4326", "EPSG:3035"]),
)
def test_a_grid_survives_json(
    shape: tuple[int, int], size: float, x: float, y: float, crs: str
) -> None:
    grid = GeoBox(shape, Affine(size, 0, x, 0, -size, y), crs)
    back = geobox_from_dict(json.loads(json.dumps(geobox_to_dict(grid))))
    assert back == grid
    assert same_grid(back, grid)


def test_a_grid_whose_crs_has_no_code_survives_json() -> None:
    local = "+proj=tmerc +lat_0=31 +lon_0=99.5 +k=1 +x_0=0 +y_0=0 +datum=WGS84 +units=m"
    grid = GeoBox((30, 20), GRID.affine, local)
    assert same_grid(geobox_from_dict(geobox_to_dict(grid)), grid)


def test_a_grid_without_crs_is_refused() -> None:
    with pytest.raises(ValueError, match="CRS"):
        geobox_to_dict(GeoBox((3, 3), GRID.affine, None))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (Affine.identity(), True),
        (Affine.translation(1e-4, 0), True),
        (Affine.translation(0.5, 0), False),
        (Affine.translation(0, -1), False),
        (Affine.scale(1.001), False),  # 0.3 px at the far corner
        (Affine.rotation(0.01), False),
    ],
)
def test_same_grid_looks_at_every_corner(change: Affine, same: bool) -> None:
    assert same_grid(GRID, GeoBox(GRID.shape, GRID.affine * change, GRID.crs)) is same


def test_other_crs_or_shape_is_another_grid() -> None:
    assert not same_grid(GRID, GeoBox(GRID.shape, GRID.affine, "EPSG:32648"))
    assert not same_grid(GRID, GeoBox((300, 201), GRID.affine, GRID.crs))

"""The split never leaks: properties over random regions, and the sizes of the demo."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from components.dataset.splits import FOLDS, check_leakage, split_blocks, split_random
from components.errors import InputError
from components.grid import Window, tile_starts

SHARES = (0.6, 0.2, 0.2)


def grid(shape, size, stride):
    return [
        Window(r, c, min(size, shape[0]), min(size, shape[1]))
        for r in tile_starts(shape[0], size, stride)
        for c in tile_starts(shape[1], size, stride)
    ]


def painted(windows, shape):
    canvas = np.zeros(shape, dtype=int)
    for w in windows:
        canvas[w.slices] += 1
    return canvas


def gap(a, b):
    """Empty pixels between two windows along the axis where they are farther apart."""
    rows = max(a.row - b.row_end, b.row - a.row_end)
    cols = max(a.col - b.col_end, b.col - a.col_end)
    return max(rows, cols)


@settings(max_examples=50, deadline=None)
@given(
    height=st.integers(20, 160),
    width=st.integers(20, 160),
    size=st.integers(10, 24),
    stride_share=st.floats(0.4, 1.0),
    block=st.integers(3, 40),
    drop=st.floats(0, 0.5),
    fractions=st.sampled_from([SHARES, (0.5, 0.25, 0.25), (0.8, 0.0, 0.2), (0.7, 0.3, 0.0)]),
    seed=st.integers(0, 9),
)
def test_blocks_never_leak(height, width, size, stride_share, block, drop, fractions, seed):
    shape = (height, width)
    tiles = grid(shape, size, max(1, int(size * stride_share)))
    rng = np.random.default_rng(seed)
    tiles = [t for t in tiles if rng.random() >= drop] * 2  # two periods of the same ground
    assume(tiles)
    try:
        split = split_blocks(tiles, shape, block_px=block, fractions=fractions, seed=seed)
    except InputError as e:
        if e.code != "SW-305":
            raise
        return
    folds = {f: [t for t, g in zip(tiles, split.fold, strict=True) if g == f] for f in FOLDS}
    for name, share in zip(FOLDS, fractions, strict=True):
        assert bool(folds[name]) == (share > 0)
    # by brute force, and independent of check_leakage
    train, test = set(folds["train"]), set(folds["test"])
    assert all(gap(a, b) >= size for a in train for b in test)
    covers = {f: painted(w, shape) > 0 for f, w in folds.items()}
    areas = {f: painted(split.areas[f], shape) for f in FOLDS}
    assert sum(covers.values(), np.zeros(shape, int)).max() <= 1
    assert sum(areas.values(), np.zeros(shape, int)).max() <= 1  # disjoint
    for f in FOLDS:
        assert not (covers[f] & (areas[f] == 0)).any()  # tiles lie in their fold's ground
    assert split.leakage == check_leakage(tiles, split.fold, size)
    assert (split.leakage.leaking_tiles, split.leakage.shared_tiles) == (0, 0)
    assert split.left_out + sum(split.counts().values()) == len(tiles)
    half = len(tiles) // 2
    assert split.fold[:half] == split.fold[half:]  # periods of one ground stay together


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("upright", [True, False])
def test_demo_region_keeps_most_tiles(seed, upright):
    shape = (2048, 2048) if upright else (2048, 2304)
    tiles = grid(shape, 256, 192) * 2
    split = split_blocks(tiles, shape, block_px=400, fractions=SHARES, seed=seed)
    assert split.left_out < 0.5 * len(tiles)
    kept = sum(split.counts().values())
    for name, share in zip(FOLDS, SHARES, strict=True):
        assert abs(split.counts()[name] / kept - share) < 0.15


def test_both_ends_of_the_region_can_be_the_test_end():
    tiles = grid((900, 300), 50, 50)
    ends = {
        split_blocks(tiles, (900, 300), block_px=50, fractions=SHARES, seed=s).areas["test"][0].row
        for s in range(8)
    }
    assert 0 in ends
    assert max(ends) > 600


def test_too_small_and_empty():
    with pytest.raises(InputError, match="SW-305"):
        split_blocks(grid((300, 300), 256, 40), (300, 300), block_px=40, fractions=SHARES, seed=0)
    with pytest.raises(InputError, match="SW-306"):
        split_blocks([], (300, 300), block_px=40, fractions=SHARES, seed=0)
    with pytest.raises(InputError, match="SW-305"):
        split_random([Window(0, 0, 9, 9)], fractions=SHARES, seed=0)


def test_random_split_has_the_shares_and_reports_its_leak():
    shape = (200, 200)
    tiles = grid(shape, 20, 15)
    split = split_random(tiles, fractions=SHARES, seed=3)
    n = len(tiles)
    assert split.counts()["train"] == round(0.6 * n)
    assert split.left_out == 0
    folds = {f: [t for t, g in zip(tiles, split.fold, strict=True) if g == f] for f in FOLDS}
    by_hand = sum(any(gap(a, b) < 20 for b in folds["test"]) for a in folds["train"])
    assert split.leakage.leaking_tiles == by_hand > 0
    covers = {f: painted(w, shape) > 0 for f, w in folds.items()}
    for f in FOLDS:
        others = np.any([covers[g] for g in FOLDS if g != f], axis=0)
        np.testing.assert_array_equal(painted(split.areas[f], shape), covers[f] & ~others)
    assert split.fold == split_random(tiles, fractions=SHARES, seed=3).fold
    assert split.fold != split_random(tiles, fractions=SHARES, seed=4).fold


def test_check_leakage_counts_at_the_exact_distance():
    train, near, far = Window(0, 0, 10, 10), Window(19, 0, 10, 10), Window(20, 0, 10, 10)
    assert check_leakage([train, near], ["train", "test"], 10).leaking_tiles == 1
    assert check_leakage([train, far], ["train", "test"], 10).leaking_tiles == 0
    touching, overlapping = Window(10, 0, 10, 10), Window(9, 9, 10, 10)
    assert check_leakage([train, touching], ["train", "val"], 10).shared_tiles == 0
    assert check_leakage([train, overlapping], ["train", "val"], 10).shared_tiles == 2

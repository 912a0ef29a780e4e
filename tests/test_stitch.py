"""Stitching against an oracle detector: the truth, cut by windows, must come back as it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scenes import (
    FOUR,
    detection,
    key,
    keys,
    keys_of_truth,
    natural_scene,
    oracle,
    pieces_of,
    place,
    ring,
    same,
    spiral,
    window_map,
)
from scipy import ndimage

from components.errors import ProcessingError
from components.grid.windows import Window
from components.inference.instances import Detection, Instance
from components.inference.stitch import stitch as stitch_counted


def stitch(
    detections: Sequence[Detection], windows: dict[int, Window], shape: tuple[int, int]
) -> list[Instance]:
    return stitch_counted(detections, windows, shape).instances


def drawn(instance: Instance, shape: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    r0, c0, r1, c1 = instance.bounds
    mask[r0:r1, c0:c1] = instance.mask
    return mask


# -- exact under the oracle ------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(8, 40),
    overlap=st.floats(0.15, 0.7),
    height=st.integers(20, 70),
    width=st.integers(20, 70),
    density=st.floats(0.1, 0.6),
)
def test_any_map_comes_back_as_it_was(
    seed: int, size: int, overlap: float, height: int, width: int, density: float
) -> None:
    # Clusters of random pixels: winding, with holes, nested, touching at corners and sides.
    rng = np.random.default_rng(seed)
    truth = ndimage.label(rng.random((height, width)) < density, FOUR)[0].astype(np.int64)
    category = {k: int(rng.integers(1, 3)) for k in range(1, int(truth.max()) + 1)}
    windows = window_map(truth.shape, size, overlap)
    found = stitch(oracle(truth, windows, category), windows, truth.shape)
    assert keys(found) == keys_of_truth(truth, category)
    assert all(1 <= i.n_windows <= i.n_covering for i in found)
    assert all(i.score == 1.0 for i in found)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.integers(20, 90), st.floats(0.1, 0.6))
def test_natural_shapes_do_not_depend_on_the_windows(seed: int, size: int, overlap: float) -> None:
    truth = natural_scene(seed, gap=1)
    windows = window_map(truth.shape, size, overlap)
    assert keys(stitch(oracle(truth, windows), windows, truth.shape)) == keys_of_truth(truth)


@pytest.mark.parametrize(("size", "overlap"), [(40, 0.2), (40, 0.5), (64, 0.33), (400, 0.33)])
def test_a_landslide_over_one_to_forty_windows_is_one(size: int, overlap: float) -> None:
    truth = np.zeros((300, 300), np.int64)
    place(truth, np.ones((7, 290), bool), 146, 5, 1)
    windows = window_map(truth.shape, size, overlap)
    found = stitch(oracle(truth, windows), windows, truth.shape)
    assert keys(found) == keys_of_truth(truth)
    expected = sum(bool(truth[w.slices].any()) for w in windows.values())
    assert found[0].n_windows == expected
    assert (size == 400) == (expected == 1)


def test_forty_windows() -> None:
    truth = np.zeros((32, 990), np.int64)
    truth[10:22, 3:987] = 1
    windows = window_map(truth.shape, 32, 0.25)
    (one,) = stitch(oracle(truth, windows), windows, truth.shape)
    assert key(one) == next(iter(keys_of_truth(truth)))
    assert one.n_windows == one.n_covering == len(windows) >= 40


def test_parallel_diagonals_one_pixel_apart_stay_two() -> None:
    truth = np.zeros((160, 160), np.int64)
    y, x = np.mgrid[:160, :160]
    along, across = y + x, y - x
    inside = (along > 30) & (along < 290)
    truth[inside & (across >= 1) & (across < 8)] = 1
    truth[inside & (across <= -1) & (across > -8)] = 2
    for size, overlap in [(32, 0.25), (64, 0.33), (64, 0.5)]:
        windows = window_map(truth.shape, size, overlap)
        assert keys(stitch(oracle(truth, windows), windows, truth.shape)) == keys_of_truth(truth)
        for seed in range(5):
            noise = oracle(truth, windows, noise=2, rng=np.random.default_rng(seed))
            found = [drawn(i, truth.shape) for i in stitch(noise, windows, truth.shape)]
            assert len(found) == 2
            for own in (truth == 1, truth == 2):
                # One holds the pixels on which all windows agree, and none on which none does.
                least = ndimage.binary_erosion(own, FOUR, iterations=2)
                most = ndimage.binary_dilation(own, FOUR, iterations=2)
                assert sum(bool(m[least].all() and not m[~most].any()) for m in found) == 1


def test_rings_keep_their_holes_and_what_lies_in_them() -> None:
    truth = np.zeros((150, 150), np.int64)
    place(truth, ring(120, 9), 12, 15, 1)
    place(truth, ring(60, 8), 42, 45, 2)
    truth[68:74, 70:78] = 3
    for size in (40, 64, 100):
        windows = window_map(truth.shape, size, 0.3)
        assert keys(stitch(oracle(truth, windows), windows, truth.shape)) == keys_of_truth(truth)


@pytest.mark.parametrize("size", [24, 40, 64])
def test_a_spiral_is_several_pieces_in_a_window_and_one_landslide(size: int) -> None:
    truth = np.zeros((140, 140), np.int64)
    place(truth, spiral(130, 5, 4), 5, 5, 1)
    windows = window_map(truth.shape, size, 0.3)
    seen = oracle(truth, windows)
    assert max(Counter(d.window_id for d in seen).values()) > 2
    assert keys(stitch(seen, windows, truth.shape)) == keys_of_truth(truth)


@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (1, 6), (6, 1)])
def test_six_pixels_on_seams_and_corners(shape: tuple[int, int]) -> None:
    windows = window_map((80, 80), 32, 0.25)
    edges = sorted({e for w in windows.values() for e in (w.row, w.row_end)})
    for row in {max(0, e + d) for e in edges for d in (-3, -2, -1, 0, 1)}:
        truth = np.zeros((80, 80), np.int64)
        cols = [max(0, e + d) for e, d in zip(edges, (-1, 0, -2, -1, 0, -3), strict=False)]
        for label, col in enumerate(cols, 1):
            place(truth, np.ones(shape, bool), row, col, label)
        found = stitch(oracle(truth, windows), windows, truth.shape)
        assert keys(found) == keys_of_truth(truth)


def test_classes_stay_apart_where_they_touch_and_nest() -> None:
    truth = np.zeros((100, 100), np.int64)
    truth[10:90, 10:90] = 1
    truth[30:70, 30:70] = 2
    truth[45:55, 5:30] = 3
    category = {1: 1, 2: 2, 3: 3}
    windows = window_map(truth.shape, 40, 0.3)
    # The classes even claim the same ground: class 2 lies inside the full square of class 1.
    seen = oracle(truth, windows, category)
    full = (truth > 0).astype(np.int64)
    full[45:55, :10] = 0
    seen = [d for d in seen if d.category != 1] + oracle(full, windows, {1: 1})
    found = keys(stitch(seen, windows, truth.shape))
    expected = keys_of_truth(full) + keys_of_truth(np.where(truth == 3, 3, 0), category)
    left = Counter(k for k in found if k[0] != 2)
    assert left == expected
    assert keys_of_truth(np.where(truth == 2, 2, 0), category) <= found


def test_nothing_is_lost_at_raster_edges() -> None:
    truth = np.zeros((90, 110), np.int64)
    spots = [(0, 0), (0, 107), (88, 0), (88, 107), (0, 50), (88, 50), (40, 0), (40, 107)]
    for label, (r, c) in enumerate(spots, 1):
        place(truth, np.ones((2, 3), bool), r, c, label)
    for size in (32, 48, 200):
        windows = window_map(truth.shape, size, 0.33)
        assert keys(stitch(oracle(truth, windows), windows, truth.shape)) == keys_of_truth(truth)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.5))
def test_missing_windows_cost_only_the_ground_that_nobody_saw(seed: int, missing: float) -> None:
    rng = np.random.default_rng(seed)
    truth = ndimage.label(rng.random((60, 60)) < 0.5, FOUR)[0].astype(np.int64)
    windows = {i: w for i, w in window_map(truth.shape, 16, 0.4).items() if rng.random() > missing}
    found = stitch(oracle(truth, windows), windows, truth.shape)
    # By brute force: pieces of windows that share a pixel of an object are one.
    parent: dict[tuple[int, int], tuple[int, int]] = {}

    def root(p: tuple[int, int]) -> tuple[int, int]:
        while parent.setdefault(p, p) != p:
            p = parent[p]
        return p

    for w in windows.values():
        for _, mask in pieces_of(truth[w.slices]):
            pixels = [(r + w.row, c + w.col) for r, c in np.argwhere(mask).tolist()]
            for p in pixels:
                parent[root(p)] = root(pixels[0])
    groups: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for p in list(parent):
        groups.setdefault(root(p), set()).add(p)
    assert keys(found) == Counter((1, frozenset(g)) for g in groups.values())


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6))
def test_the_order_and_numbering_of_the_input_do_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = natural_scene(seed % 50, (120, 120))
    windows = window_map(truth.shape, 40, 0.4)
    seen = [
        replace(d, score=float(rng.uniform(0.1, 1)))
        for d in oracle(truth, windows, noise=2, rng=rng)
    ]
    seen = [replace(d, prob=d.prob * np.float32(rng.uniform(0.4, 1))) for d in seen]
    one = stitch(seen, windows, truth.shape)
    names = rng.permutation(1000)[: len(windows)].tolist()
    order = rng.permutation(len(seen))
    again = stitch(
        [replace(seen[k], window_id=names[seen[k].window_id]) for k in order],
        {names[i]: windows[i] for i in rng.permutation(len(windows)).tolist()},
        truth.shape,
    )
    same(one, again)


# -- noise -----------------------------------------------------------------------------------------


def test_masks_off_by_two_pixels_still_make_one_landslide_each() -> None:
    objects = exact = merged = 0
    for seed, (size, overlap) in enumerate([(64, 0.25), (64, 0.33), (96, 0.5), (128, 0.33)] * 2):
        truth = natural_scene(seed)
        windows = window_map(truth.shape, size, overlap)
        seen = oracle(truth, windows, noise=2, rng=np.random.default_rng(seed))
        sizes = np.bincount(truth.ravel())
        claims: Counter[int] = Counter()
        for i in stitch(seen, windows, truth.shape):
            r0, c0, r1, c1 = i.bounds
            inside = np.bincount(truth[r0:r1, c0:c1][i.mask], minlength=len(sizes))
            claims[int(inside[1:].argmax()) + 1] += 1
            merged += int(np.count_nonzero(inside[1:] > 0.5 * sizes[1:]) > 1)
        objects += len(sizes) - 1
        exact += sum(claims[k] == 1 for k in range(1, len(sizes)))
    assert merged == 0
    assert exact >= 0.98 * objects, f"{exact} of {objects}"


def test_the_mean_of_noisy_masks_is_nearer_to_the_truth_than_their_union() -> None:
    truth = np.zeros((128, 128), np.int64)
    truth[30:90, 20:110] = 1
    windows = window_map(truth.shape, 64, 0.5)
    rng = np.random.default_rng(3)
    errors = []
    for _ in range(10):
        seen = oracle(truth, windows, noise=2, rng=rng)
        (one,) = stitch(seen, windows, truth.shape)
        union = np.zeros(truth.shape, bool)
        for d in seen:
            h, w = d.prob.shape
            union[d.row : d.row + h, d.col : d.col + w] |= d.prob > 0
        errors.append((abs(one.area_px - 5400), abs(int(union.sum()) - 5400)))
    mean, of_union = np.mean(errors, axis=0)
    assert mean < 0.7 * of_union


# -- single rules ----------------------------------------------------------------------------------


def test_a_second_detection_in_the_same_window_is_dropped() -> None:
    w = Window(0, 0, 64, 64)
    mask = np.zeros((64, 64), bool)
    mask[10:30, 10:30] = True
    shifted, part = np.roll(mask, 2, axis=0), np.zeros_like(mask)
    part[12:18, 12:18] = True
    seen = [
        detection(0, w, mask, score=0.9),
        detection(0, w, shifted, score=0.8),
        detection(0, w, part, score=0.95),  # nested: the whole wins over a part
        detection(0, w, mask, score=0.7, category=2),  # another class is another object
    ]
    found, counts = stitch_counted(seen, {0: w}, (64, 64))
    assert sorted((i.category, i.score, i.area_px) for i in found) == [(1, 0.9, 400), (2, 0.7, 400)]
    assert counts.duplicates == 2
    assert counts.instances == 2


def test_a_weak_large_mask_does_not_swallow_strong_small_ones() -> None:
    w = Window(0, 0, 64, 64)
    blob, small, other = (np.zeros((64, 64), bool) for _ in range(3))
    blob[5:60, 5:60], small[10:20, 10:20], other[40:50, 40:50] = True, True, True
    seen = [
        detection(0, w, blob, score=0.2),
        detection(0, w, small, score=0.9),
        detection(0, w, other, score=0.8),
    ]
    assert [i.score for i in stitch(seen, {0: w}, (64, 64))] == [0.9, 0.8]


def test_two_landslides_that_one_window_saw_whole_are_not_joined_by_another() -> None:
    # Window `b` has them near its edge, and would make them one.
    a, b = Window(0, 0, 64, 80), Window(0, 36, 64, 120)
    left, right = np.zeros((64, 156), bool), np.zeros((64, 156), bool)
    left[20:40, 40:46], right[20:40, 48:54] = True, True
    fused = left | right
    fused[28:32, 40:54] = True
    seen = [
        detection(0, a, left[:, :80]),
        detection(0, a, right[:, :80]),
        detection(1, b, fused[:, 36:]),
    ]
    found = stitch(seen, {0: a, 1: b}, (64, 156))
    assert [i.bounds for i in found] == [(20, 40, 40, 46), (20, 48, 40, 54)]


def test_one_class_does_not_join_another_across_a_seam() -> None:
    a, b = Window(0, 0, 32, 32), Window(0, 20, 32, 32)
    mask = np.zeros((32, 52), bool)
    mask[10:20, 15:40] = True
    seen = [
        detection(0, a, mask[:, :32], category=1),
        detection(1, b, mask[:, 20:], category=2),
    ]
    assert sorted(i.category for i in stitch(seen, {0: a, 1: b}, (32, 52))) == [1, 2]


def test_agreement_counts_the_windows_that_looked() -> None:
    truth = np.zeros((64, 64), np.int64)
    truth[28:36, 28:36] = 1  # inside all nine windows' common ground or near it
    windows = window_map(truth.shape, 48, 0.67)
    assert len(windows) == 4
    seen = oracle(truth, windows)
    (all_of_them,) = stitch(seen, windows, truth.shape)
    assert (all_of_them.n_windows, all_of_them.n_covering) == (4, 4)
    (three,) = stitch(seen[1:], windows, truth.shape)
    assert (three.n_windows, three.n_covering, three.agreement) == (3, 4, 0.75)
    del windows[0]  # it did not run: it did not disagree either
    (of_three,) = stitch(seen[1:], windows, truth.shape)
    assert (of_three.n_windows, of_three.n_covering) == (3, 3)


def test_a_coarse_window_is_asked_about_long_landslides_only() -> None:
    """Four fine windows, and a coarse one over them that is silent about what is shorter than 30 px."""
    truth = np.zeros((64, 64), np.int64)
    truth[28:36, 26:38] = 1  # 12 px long: in all four fine windows
    truth[50:56, 4:60] = 2  # 56 px long: cut by the fine windows
    windows = window_map(truth.shape, 48, 0.67)
    coarse = len(windows)
    seen = oracle(truth, windows)
    windows[coarse] = Window(0, 0, 64, 64)
    long = detection(coarse, windows[coarse], truth == 2)
    shape, silent = truth.shape, {coarse: 30.0}
    short, both = stitch_counted([*seen, long], windows, shape, shortest=silent).instances
    assert (short.n_windows, short.n_covering, short.agreement) == (4, 4, 1.0)
    assert (both.n_windows, both.n_covering) == (3, 3)
    # It says nothing: that tells of the long one, and of the short one nothing.
    short, missed = stitch_counted(seen, windows, shape, shortest=silent).instances
    assert (short.n_windows, short.n_covering) == (4, 4)
    assert (missed.n_windows, missed.n_covering) == (2, 3)
    # A window that is asked about everything counts for both.
    short, missed = stitch_counted(seen, windows, shape).instances
    assert (short.n_windows, short.n_covering) == (4, 5)
    assert (missed.n_windows, missed.n_covering) == (2, 3)
    # 30 px of length are asked for, and a window that holds a shorter piece is not.
    windows[coarse] = Window(0, 0, 64, 32)
    (_, missed) = stitch_counted(seen, windows, shape, shortest=silent).instances
    assert (missed.n_windows, missed.n_covering) == (2, 2)


def test_the_window_that_sees_it_in_the_middle_decides_mask_and_score() -> None:
    a, b = Window(0, 0, 64, 64), Window(0, 40, 64, 64)
    shape = (64, 104)
    at_edge, central = np.zeros(shape, bool), np.zeros(shape, bool)
    at_edge[20:40, 52:64] = True  # near the edge of `a`, cut there
    central[20:40, 50:70] = True  # amid `b`
    seen = [
        detection(0, a, at_edge[:, :64], score=0.2),
        detection(1, b, central[:, 40:], score=0.9),
    ]
    (one,) = stitch(seen, {0: a, 1: b}, shape)
    assert one.bounds[3] == 70
    assert 0.75 < one.score < 0.9


def test_raster_edges_are_not_tapered() -> None:
    # A window over all of the raster, and two of half its side in opposite corners: with a taper at the
    # raster's edges, which is half as wide in these, they would have more say there.
    windows = {0: Window(0, 0, 64, 64), 1: Window(0, 0, 32, 32), 2: Window(32, 32, 32, 32)}
    upper, lower = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    upper[:8, :8], lower[56:, 56:] = True, True
    seen = [
        detection(0, windows[0], upper, score=0.4),
        detection(0, windows[0], lower, score=0.4),
        detection(1, windows[1], upper[:32, :32], score=0.8),
        detection(2, windows[2], lower[32:, 32:], score=0.8),
    ]
    found = stitch(seen, windows, (64, 64))
    assert [i.score for i in found] == pytest.approx([0.6, 0.6])
    assert [(i.n_windows, i.area_px) for i in found] == [(2, 64), (2, 64)]


def test_specks_are_taken_off_and_counted() -> None:
    w = Window(0, 0, 40, 40)
    mask = np.zeros((40, 40), bool)
    mask[5:15, 5:15] = True
    mask[20, 20] = True  # a speck
    mask[30, 30:32] = True  # a part of two pixels stays
    found, counts = stitch_counted([detection(0, w, mask)], {0: w}, (40, 40))
    assert [i.area_px for i in found] == [102]
    assert counts.specks == 1
    (single,) = stitch(
        [detection(0, w, mask & (np.arange(1600).reshape(40, 40) == 820))], {0: w}, (40, 40)
    )
    assert single.area_px == 1


def test_masks_below_the_threshold_are_counted() -> None:
    w = Window(0, 0, 40, 40)
    faint = Detection(0, 1, 0.9, 3, 3, np.full((4, 4), 0.49, np.float32))
    nothing = Detection(0, 1, 0.9, 3, 3, np.empty((0, 4), np.float32))
    found, counts = stitch_counted([faint, nothing], {0: w}, (40, 40))
    assert found == []
    assert (counts.detections, counts.empty, counts.instances) == (2, 2, 0)


def test_no_detections_no_landslides() -> None:
    assert stitch([], {0: Window(0, 0, 8, 8)}, (8, 8)) == []
    assert stitch([], {}, (8, 8)) == []


@pytest.mark.parametrize(
    "bad",
    [
        Detection(7, 1, 0.5, 0, 0, np.ones((2, 2), np.float32)),
        Detection(0, 1, 0.5, 31, 0, np.ones((2, 2), np.float32)),
        Detection(0, 1, 1.5, 0, 0, np.ones((2, 2), np.float32)),
        Detection(0, 1, float("nan"), 0, 0, np.ones((2, 2), np.float32)),
        Detection(0, 1, 0.5, 0, 0, np.full((2, 2), np.nan, np.float32)),
        Detection(0, 1, 0.5, 0, 0, np.full((2, 2), 1.1, np.float32)),
    ],
)
def test_detections_that_do_not_match_their_window_are_refused(bad: Detection) -> None:
    with pytest.raises(ProcessingError) as e:
        stitch([bad], {0: Window(0, 0, 32, 32)}, (32, 32))
    assert e.value.code == "SW-505"


def test_a_window_outside_the_raster_is_refused() -> None:
    with pytest.raises(ProcessingError) as e:
        stitch([], {0: Window(0, 0, 32, 33)}, (32, 32))
    assert e.value.code == "SW-505"

"""Stitching against an oracle detector: the truth, cut by windows, must come back as it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from components.errors import ProcessingError, WorkspaceError
from components.grid.windows import Window, plan_windows
from components.inference.instances import (
    Detection,
    Instance,
    dequantise,
    load_instances,
    quantise,
    save_instances,
)
from components.inference.seams import overlapping_pairs
from components.inference.stitch import stitch, stitch_counted

EIGHT = np.ones((3, 3), bool)
FOUR = ndimage.generate_binary_structure(2, 1)

Key = tuple[int, frozenset[tuple[int, int]]]
Truth = NDArray[np.int64]


# -- scenes and the oracle -------------------------------------------------------------------------


def detection(
    window_id: int, w: Window, mask: NDArray[np.bool_], *, category: int = 1, score: float = 1.0
) -> Detection:
    """A detection from a mask in window coordinates."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    r, c = int(rows[0]), int(cols[0])
    prob = mask[r : rows[-1] + 1, c : cols[-1] + 1].astype(np.float32)
    return Detection(window_id, category, score, w.row + r, w.col + c, prob)


def oracle(
    truth: Truth,
    windows: dict[int, Window],
    category: dict[int, int] | None = None,
    *,
    noise: int = 0,
    rng: np.random.Generator | None = None,
) -> list[Detection]:
    """Each connected piece of each object in each window, with probability one.

    With noise the piece is eroded or dilated by a random number of pixels up to `noise`, drawn for each
    window and piece; at the window's edge as if the object went on, which is what it does.
    """
    out = []
    for i, w in windows.items():
        for label, mask in pieces_of(truth[w.slices]):
            seen = mask
            if rng is not None and noise:
                seen = noisy(mask, int(rng.integers(-noise, noise + 1)))
            if seen.any():
                out.append(detection(i, w, seen, category=(category or {}).get(label, 1)))
    return out


def pieces_of(view: Truth) -> list[tuple[int, NDArray[np.bool_]]]:
    """Connected pieces of every object in a view."""
    out = []
    for label, where in enumerate(ndimage.find_objects(view), 1):
        if where is not None:
            pieces, n = ndimage.label(view[where] == label, EIGHT)
            for k in range(1, n + 1):
                mask = np.zeros(view.shape, bool)
                mask[where] = pieces == k
                out.append((label, mask))
    return out


def noisy(mask: NDArray[np.bool_], step: int) -> NDArray[np.bool_]:
    if step == 0:
        return mask
    work = ndimage.binary_dilation if step > 0 else ndimage.binary_erosion
    n = abs(step)
    grown: NDArray[np.bool_] = work(np.pad(mask, n, mode="edge"), FOUR, iterations=n)
    return grown[n:-n, n:-n]


def keys_of_truth(truth: Truth, category: dict[int, int] | None = None) -> Counter[Key]:
    return Counter(
        ((category or {}).get(k, 1), frozenset(map(tuple, np.argwhere(truth == k).tolist())))
        for k in np.unique(truth[truth > 0]).tolist()
    )


def key(instance: Instance) -> Key:
    pixels = np.argwhere(instance.mask) + np.array([instance.row, instance.col])
    return instance.category, frozenset(map(tuple, pixels.tolist()))


def keys(instances: Sequence[Instance]) -> Counter[Key]:
    return Counter(map(key, instances))


def window_map(shape: tuple[int, int], size: int, overlap: float) -> dict[int, Window]:
    return dict(enumerate(plan_windows(shape, size, overlap)))


def spiral(size: int, width: int, gap: int) -> NDArray[np.bool_]:
    """A band that winds inward: seen through a window, several parallel bars."""
    out = np.zeros((size, size), bool)
    step = width + gap
    corners = [(0, 0), (0, size - width)]
    low, high = 0, size - width
    while high - low > 2 * step:
        corners += [(high, high), (high, low), (low + step, low), (low + step, high - step)]
        low, high = low + step, high - step
    for (r0, c0), (r1, c1) in pairwise(corners):
        rows, cols = sorted((r0, r1)), sorted((c0, c1))
        out[rows[0] : rows[1] + width, cols[0] : cols[1] + width] = True
    return out


def ring(size: int, width: int) -> NDArray[np.bool_]:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    d = np.hypot(y, x)
    return (d <= size / 2) & (d > size / 2 - width)


def place(truth: Truth, mask: NDArray[np.bool_], row: int, col: int, label: int) -> None:
    view = truth[row : row + mask.shape[0], col : col + mask.shape[1]]
    view[mask[: view.shape[0], : view.shape[1]]] = label


def natural_scene(seed: int, shape: tuple[int, int] = (200, 200), gap: int = 2) -> Truth:
    """Ellipses, bands and rings at least six pixels wide and `gap` pixels apart."""
    rng = np.random.default_rng(seed)
    truth = np.zeros(shape, np.int64)
    y, x = np.mgrid[: shape[0], : shape[1]]
    label = 0
    for _ in range(60):
        cy, cx, th = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(0, np.pi)
        u = (y - cy) * np.cos(th) + (x - cx) * np.sin(th)
        v = (x - cx) * np.cos(th) - (y - cy) * np.sin(th)
        kind = rng.integers(3)
        if kind == 0:
            mask = (u / rng.uniform(4, 50)) ** 2 + (v / rng.uniform(4, 12)) ** 2 < 1
        elif kind == 1:
            mask = (abs(u) < rng.uniform(15, 90)) & (abs(v) < rng.uniform(3, 5))
        else:
            radius = rng.uniform(15, 45)
            mask = (np.hypot(u, v) < radius) & (np.hypot(u, v) > radius - rng.uniform(6, 9))
        clear = not truth[ndimage.binary_dilation(mask, EIGHT, iterations=gap)].any()
        if clear and mask.sum() >= 40 and ndimage.label(mask, EIGHT)[1] == 1:
            label += 1
            truth[mask] = label
    return truth


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
            assert len(stitch(noise, windows, truth.shape)) == 2


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
    assert len(one) == len(again)
    for a, b in zip(one, again, strict=True):
        assert (a.category, a.score, a.bounds) == (b.category, b.score, b.bounds)
        assert (a.n_windows, a.n_covering) == (b.n_windows, b.n_covering)
        np.testing.assert_array_equal(a.mask, b.mask)
        np.testing.assert_array_equal(a.prob, b.prob)


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
    a, b = Window(0, 0, 64, 64), Window(0, 32, 64, 64)
    shape = (64, 96)
    mask = np.zeros(shape, bool)
    mask[0:8, 40:56] = True  # touches the upper raster edge, equally far from both inner edges
    seen = [
        detection(0, a, mask[:, :64], score=0.4),
        detection(1, b, mask[:, 32:], score=0.8),
    ]
    (one,) = stitch(seen, {0: a, 1: b}, shape)
    assert one.score == pytest.approx(0.6)
    assert one.n_windows == 2


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


# -- parts -----------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(1, 200))
def test_the_grid_hash_finds_exactly_the_overlapping_pairs(seed: int, n: int, largest: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 400, (n, 2))
    boxes = np.hstack([corner, corner + rng.integers(1, largest + 1, (n, 2))])
    groups = rng.integers(0, 2, n)
    first, second = overlapping_pairs(boxes, groups)
    expected = [
        (i, j)
        for i in range(n)
        for j in range(i + 1, n)
        if groups[i] == groups[j]
        and (np.maximum(boxes[i, :2], boxes[j, :2]) < np.minimum(boxes[i, 2:], boxes[j, 2:])).all()
    ]
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == expected


def test_instances_are_stored_exactly_and_reproducibly(tmp_path: Path) -> None:
    truth = natural_scene(1)
    windows = window_map(truth.shape, 64, 0.4)
    rng = np.random.default_rng(0)
    seen = [
        replace(d, score=float(rng.random()), prob=d.prob * np.float32(rng.uniform(0.5, 1)))
        for d in oracle(truth, windows, noise=1, rng=rng)
    ]
    found = stitch(seen, windows, truth.shape)
    save_instances(tmp_path / "a.npz", found)
    save_instances(tmp_path / "b.npz", found)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    back = load_instances(tmp_path / "a.npz")
    assert len(back) == len(found) > 5
    for a, b in zip(found, back, strict=True):
        assert (a.category, a.score, a.row, a.col) == (b.category, b.score, b.row, b.col)
        assert (a.n_windows, a.n_covering) == (b.n_windows, b.n_covering)
        assert (a.mask.dtype, a.prob.dtype) == (b.mask.dtype, b.prob.dtype)
        np.testing.assert_array_equal(a.mask, b.mask)
        np.testing.assert_array_equal(a.prob, b.prob)
    save_instances(tmp_path / "none.npz", [])
    assert load_instances(tmp_path / "none.npz") == []


def test_a_damaged_instance_file_is_refused(tmp_path: Path) -> None:
    save_instances(tmp_path / "a.npz", stitch([], {}, (4, 4)))
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data[: len(data) // 2])
    for path in (tmp_path / "a.npz", tmp_path / "absent.npz"):
        with pytest.raises(WorkspaceError) as e:
            load_instances(path)
        assert e.value.code == "SW-206"


def test_bytes_of_probabilities_keep_the_threshold() -> None:
    parts = np.arange(255, dtype=np.uint8)
    np.testing.assert_array_equal(quantise(dequantise(parts)), parts)
    np.testing.assert_array_equal(
        dequantise(quantise(np.array([0, 0.5, 1], np.float32))), [0, 0.5, 1]
    )

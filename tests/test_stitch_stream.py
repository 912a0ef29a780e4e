"""The stream: the same landslides whatever the order of windows and the size of steps, and early."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import (
    FOUR,
    Truth,
    keys,
    keys_of_truth,
    natural_scene,
    oracle,
    place,
    ring,
    same,
    spiral,
    window_map,
)
from scipy import ndimage

from components.errors import ProcessingError
from components.grid.windows import Window
from components.inference.counts import StitchCounts
from components.inference.instances import Detection, Instance, order_of
from components.inference.stitch import Stitcher, stitch


def clusters(seed: int) -> Truth:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(30, 90, 2).tolist())
    labels = ndimage.label(rng.random(shape) < rng.uniform(0.1, 0.6), FOUR)[0]
    return np.asarray(labels, np.int64)


def a_detector(truth: Truth, windows: dict[int, Window], seed: int, noise: int) -> list[Detection]:
    """Two classes, soft masks, scores, and here and there the same object twice."""
    rng = np.random.default_rng(seed)
    category = {k: int(rng.integers(1, 3)) for k in range(1, int(truth.max()) + 1)}
    seen = []
    for d in oracle(truth, windows, category, noise=noise, rng=rng):
        soft = (d.prob * rng.uniform(0.45, 1, d.prob.shape)).astype(np.float32)
        seen.append(replace(d, score=float(rng.uniform(0.1, 1)), prob=soft))
    again = [replace(d, score=float(rng.uniform(0.1, 1))) for d in seen if rng.random() < 0.1]
    return seen + again


def streamed(
    seen: list[Detection],
    windows: dict[int, Window],
    shape: tuple[int, int],
    order: list[int],
    step: int,
    shortest: dict[int, float] | None = None,
) -> tuple[list[Instance], StitchCounts]:
    by_window: dict[int, list[Detection]] = {i: [] for i in windows}
    for d in seen:
        by_window[d.window_id].append(d)
    stitcher = Stitcher(windows, shape, shortest=shortest, step=step)
    found = [i for w in order for i in stitcher.add(w, by_window[w])]
    found += stitcher.finish()
    return [found[k] for k in order_of(found)], stitcher.counts


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    natural=st.booleans(),
    size=st.integers(12, 60),
    overlap=st.floats(0.15, 0.6),
    noise=st.integers(0, 2),
    step=st.sampled_from([1, 5, 40, 300]),
    shuffled=st.booleans(),
)
def test_steps_and_order_do_not_matter(
    seed: int, natural: bool, size: int, overlap: float, noise: int, step: int, shuffled: bool
) -> None:
    truth = natural_scene(seed, (130, 100), gap=1) if natural else clusters(seed)
    windows = window_map(truth.shape, size, overlap)
    seen = a_detector(truth, windows, seed, noise)
    order = list(windows)
    if shuffled:
        order = np.random.default_rng(seed).permutation(len(windows)).tolist()
    whole = stitch(seen, windows, truth.shape)
    found, counts = streamed(seen, windows, truth.shape, order, step)
    same(whole.instances, found)
    assert counts == whole.counts
    # Nothing is lost on the way: each detection is in the counts or in a landslide.
    assert counts.detections == len(seen)
    assert counts.instances == len(found)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(10, 40),
    overlap=st.floats(0.15, 0.6),
    step=st.sampled_from([1, 20]),
    scales=st.sampled_from([(1,), (1, 2), (2, 1, 5)]),
)
def test_the_truth_comes_back_in_any_steps_and_scales(
    seed: int, size: int, overlap: float, step: int, scales: tuple[int, ...]
) -> None:
    truth = clusters(seed)
    plans = [w for s in scales for w in window_map(truth.shape, s * size, overlap).values()]
    windows = dict(enumerate(dict.fromkeys(plans)))
    found, _ = streamed(oracle(truth, windows), windows, truth.shape, list(windows), step)
    assert keys(found) == keys_of_truth(truth)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), step=st.sampled_from([1, 5, 40]), shuffled=st.booleans())
def test_steps_and_order_do_not_matter_where_coarse_windows_are_silent_about_short_landslides(
    seed: int, step: int, shuffled: bool
) -> None:
    truth = natural_scene(seed, (130, 100), gap=1)
    windows = window_map(truth.shape, 40, 0.4)
    coarse = range(len(windows), len(windows) + len(window_map(truth.shape, 80, 0.4)))
    windows |= zip(coarse, window_map(truth.shape, 80, 0.4).values(), strict=True)
    seen = [
        d
        for d in a_detector(truth, windows, seed, 1)
        if d.window_id < coarse.start or max(d.prob.shape) >= 25
    ]
    order = list(windows)
    if shuffled:
        order = np.random.default_rng(seed).permutation(order).tolist()
    shortest = dict.fromkeys(coarse, 25.0)
    whole = stitch(seen, windows, truth.shape, shortest=shortest)
    found, counts = streamed(seen, windows, truth.shape, order, step, shortest)
    same(whole.instances, found)
    assert counts == whole.counts
    # Asking fewer windows changes what was asked, and nothing of what was found.
    for one, asked in zip(
        whole.instances, stitch(seen, windows, truth.shape).instances, strict=True
    ):
        assert one.n_windows == asked.n_windows
        assert one.n_covering <= asked.n_covering or max(one.mask.shape) >= 25
        np.testing.assert_array_equal(one.mask, asked.mask)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(16, 48), st.floats(0.2, 0.5), st.sampled_from([1, 30]))
def test_nodata_borders_cost_nothing(seed: int, size: int, overlap: float, step: int) -> None:
    """A slanted swath of valid ground; windows that hold none of it are skipped."""
    rng = np.random.default_rng(seed)
    truth = clusters(seed)
    y, x = np.mgrid[: truth.shape[0], : truth.shape[1]]
    across = y * np.cos(0.3) + x * np.sin(0.3)
    low = rng.uniform(0, 40)
    truth[(across < low) | (across > low + 45)] = 0
    truth = ndimage.label(truth > 0, FOUR)[0].astype(np.int64)
    windows = window_map(truth.shape, size, overlap)
    seen = oracle(truth, windows)
    empty = {i for i, w in windows.items() if not truth[w.slices].any()}
    stitcher = Stitcher(windows, truth.shape, step=step)
    found: list[Instance] = []
    for i in windows:
        if i in empty:
            stitcher.skip(i)
        else:
            found += stitcher.add(i, [d for d in seen if d.window_id == i])
    found += stitcher.finish()
    assert keys(found) == keys_of_truth(truth)
    # A skipped window is as one that was never planned.
    ran = {i: w for i, w in windows.items() if i not in empty}
    same(stitch(seen, ran, truth.shape).instances, [found[k] for k in order_of(found)])


def test_landslides_are_handed_out_while_windows_come_and_nothing_is_held_back() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((2400, 96), np.int64)
    for label, row in enumerate(range(4, 2390, 12), 1):
        place(
            truth,
            np.ones((7, int(rng.integers(3, 30))), bool),
            row,
            int(rng.integers(0, 60)),
            label,
        )
    windows = window_map(truth.shape, 48, 0.33)
    seen: dict[int, list[Detection]] = {i: [] for i in windows}
    for d in oracle(truth, windows):
        seen[d.window_id].append(d)
    stitcher = Stitcher(windows, truth.shape, step=1)
    found: list[Instance] = []
    held = []
    for i, w in windows.items():
        found += stitcher.add(i, seen[i])
        held.append(stitcher.held)
        # All that lies two windows above is done.
        assert len(found) >= np.count_nonzero(np.arange(11, 2390, 12) < w.row - 48)
    assert max(held) < 60  # detections and landslides in a band of two windows, of 1,000
    found += stitcher.finish()
    assert keys(found) == keys_of_truth(truth)
    assert stitcher.held == 0


def test_a_landslide_around_the_map_holds_nothing_back_but_itself() -> None:
    truth = np.zeros((300, 300), np.int64)
    place(truth, ring(296, 6), 2, 2, 1)
    label = 1
    for row in range(60, 240, 20):
        for col in range(60, 240, 20):
            label += 1
            place(truth, np.ones((6, 6), bool), row, col, label)
    windows = window_map(truth.shape, 40, 0.3)
    seen = oracle(truth, windows)
    stitcher = Stitcher(windows, truth.shape, step=1)
    order = list(windows)
    found = [i for w in order[:-1] for i in stitcher.add(w, [d for d in seen if d.window_id == w])]
    assert len(found) > 0.6 * (label - 1)
    assert all(i.area_px == 36 for i in found)
    found += stitcher.add(order[-1], [d for d in seen if d.window_id == order[-1]])
    found += stitcher.finish()
    assert keys(found) == keys_of_truth(truth)


@pytest.mark.parametrize("step", [1, 50])
def test_a_spiral_over_many_windows_in_random_order(step: int) -> None:
    truth = np.zeros((140, 140), np.int64)
    place(truth, spiral(130, 5, 4), 5, 5, 1)
    windows = window_map(truth.shape, 24, 0.3)
    assert len(windows) > 40
    order = np.random.default_rng(2).permutation(len(windows)).tolist()
    found, counts = streamed(oracle(truth, windows), windows, truth.shape, order, step)
    assert keys(found) == keys_of_truth(truth)
    assert counts.refused == 0


def test_windows_must_be_planned_and_come_once_and_all() -> None:
    w = Window(0, 0, 8, 8)
    d = Detection(0, 1, 0.5, 0, 0, np.ones((2, 2), np.float32))
    for wrong in (
        lambda s: list(s.add(7, [])),
        lambda s: s.skip(7),
        lambda s: [*s.add(0, []), *s.add(0, [])],
        lambda s: [s.skip(0), *s.add(0, [])],
        lambda s: list(s.add(1, [d])),
        lambda s: [*s.add(0, []), *s.finish()],
    ):
        with pytest.raises(ProcessingError) as e:
            wrong(Stitcher({0: w, 1: w}, (8, 8)))
        assert e.value.code == "SW-505"

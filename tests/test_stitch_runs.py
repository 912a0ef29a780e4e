"""Masks as runs against the same masks as arrays."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from components.inference.runs import (
    Runs,
    common_pixels,
    connected_parts,
    runs_of,
)
from components.inference.seams import overlapping_pairs

MAP = (40, 40)
EIGHT = np.ones((3, 3), bool)


def masks(seed: int, n: int) -> tuple[list[NDArray[np.bool_]], Runs]:
    """Random masks on the map, some empty, some without a row, and their runs."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(0, 12, (n, 2))
    corner = rng.integers(0, 28, (n, 2))
    crops = [rng.random(s) < rng.uniform(0, 1) for s in shape]
    full = []
    for crop, (r, c) in zip(crops, corner.tolist(), strict=True):
        mask = np.zeros(MAP, bool)
        mask[r : r + crop.shape[0], c : c + crop.shape[1]] = crop
        full.append(mask)
    flat = np.concatenate([*(c.ravel() for c in crops), np.empty(0, bool)])
    size = shape.prod(axis=1)
    return full, runs_of(flat, np.cumsum(size) - size, *shape.T, *corner.T)


def draw(runs: Runs, k: int) -> NDArray[np.bool_]:
    mask = np.zeros(MAP, bool)
    for i in range(runs.first[k], runs.first[k + 1]):
        mask[runs.row[i], runs.start[i] : runs.end[i]] = True
    return mask


case = (st.integers(0, 10**6), st.integers(0, 12))


@settings(max_examples=60, deadline=None)
@given(*case)
def test_runs_are_the_masks(seed: int, n: int) -> None:
    full, runs = masks(seed, n)
    assert len(runs) == n
    for k, mask in enumerate(full):
        np.testing.assert_array_equal(draw(runs, k), mask)
    assert runs.areas().tolist() == [m.sum() for m in full]
    for box, mask in zip(runs.boxes().tolist(), full, strict=True):
        where = np.argwhere(mask)
        tight = [*where.min(0), *(where.max(0) + 1)] if len(where) else [0, 0, 0, 0]
        assert box == tight


@settings(max_examples=60, deadline=None)
@given(*case)
def test_parts_are_those_of_ndimage_in_reading_order(seed: int, n: int) -> None:
    full, runs = masks(seed, n)
    parts = connected_parts(runs)
    expected = []
    for k, mask in enumerate(full):
        labels, count = ndimage.label(mask, EIGHT)
        expected += [(k, int((labels == i).sum())) for i in range(1, count + 1)]
        for i in range(runs.first[k], runs.first[k + 1]):
            first = int(np.argmax(parts.owner == k))
            assert parts.part[i] - first + 1 == labels[runs.row[i], runs.start[i]]
    assert list(zip(parts.owner.tolist(), parts.area.tolist(), strict=True)) == expected


@settings(max_examples=60, deadline=None)
@given(*case)
def test_common_pixels_and_cuts(seed: int, n: int) -> None:
    full, runs = masks(seed, n)
    a, b = (x.ravel() for x in np.meshgrid(np.arange(n), np.arange(n)))
    expected = [int((full[i] & full[j]).sum()) for i, j in zip(a, b, strict=True)]
    assert common_pixels(runs, a, b).tolist() == expected
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 30, (len(a), 2))
    boxes = np.hstack([corner, corner + rng.integers(0, 20, (len(a), 2))])
    cuts = runs.cut(a, boxes)
    for k, (r0, c0, r1, c1) in enumerate(boxes.tolist()):
        mask = np.zeros(MAP, bool)
        mask[r0:r1, c0:c1] = full[a[k]][r0:r1, c0:c1]
        np.testing.assert_array_equal(draw(cuts, k), mask)


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

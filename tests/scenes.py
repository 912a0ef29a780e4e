"""Maps with known landslides, and an oracle that reports the truth as windows see it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from components.grid.windows import Window, plan_windows
from components.inference.instances import Detection, Instance

EIGHT = np.ones((3, 3), bool)
FOUR = ndimage.generate_binary_structure(2, 1)

Key = tuple[int, frozenset[tuple[int, int]]]
Truth = NDArray[np.int64]


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


def same(one: Sequence[Instance], two: Sequence[Instance]) -> None:
    """Both hold the same landslides, to the bit."""
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert (a.category, a.score, a.bounds) == (b.category, b.score, b.bounds)
        assert (a.n_windows, a.n_covering) == (b.n_windows, b.n_covering)
        assert (a.mask.dtype, a.prob.dtype) == (b.mask.dtype, b.prob.dtype)
        np.testing.assert_array_equal(a.mask, b.mask)
        np.testing.assert_array_equal(a.prob, b.prob)

"""Truth maps, and an oracle detector that sees them through windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from components.grid.windows import Window
from components.inference.instances import Detection, Instance

EIGHT = np.ones((3, 3), bool)
FOUR = ndimage.generate_binary_structure(2, 1)

Key = tuple[int, frozenset[tuple[int, int]]]


def cropped(mask: NDArray[np.bool_]) -> tuple[int, int, NDArray[np.bool_]]:
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    r, c = int(rows[0]), int(cols[0])
    return r, c, mask[r : rows[-1] + 1, c : cols[-1] + 1]


def detection(
    window_id: int, w: Window, mask: NDArray[np.bool_], *, category: int = 1, score: float = 1.0
) -> Detection:
    """Detection of a mask in window coordinates."""
    r, c, small = cropped(mask)
    return Detection(window_id, category, score, w.row + r, w.col + c, small.astype(np.float32))


def oracle(
    truth: NDArray[np.integer],
    windows: dict[int, Window],
    category: dict[int, int] | None = None,
    *,
    noise: int = 0,
    rng: np.random.Generator | None = None,
    dropped: float = 0.0,
) -> list[Detection]:
    """Each connected piece of each object in each window is a detection of probability one.

    With noise, the mask is eroded or dilated by a random number of pixels up to `noise`, drawn
    for each window and piece, as the object continues beyond the window's edge.
    """
    out = []
    for i, w in windows.items():
        view = truth[w.slices]
        for label in np.unique(view[view > 0]).tolist():
            pieces, n = ndimage.label(view == label, EIGHT)
            for k in range(1, n + 1):
                if rng is not None and dropped and rng.random() < dropped:
                    continue
                mask = pieces == k
                if noise and rng is not None:
                    mask = noisy(mask, int(rng.integers(-noise, noise + 1)))
                if mask.any():
                    out.append(detection(i, w, mask, category=(category or {}).get(label, 1)))
    return out


def noisy(mask: NDArray[np.bool_], step: int) -> NDArray[np.bool_]:
    if step == 0:
        return mask
    padded = np.pad(mask, abs(step) + 1, mode="edge")
    work = ndimage.binary_dilation if step > 0 else ndimage.binary_erosion
    grown = work(padded, FOUR, iterations=abs(step))
    inner = slice(abs(step) + 1, -abs(step) - 1)
    return np.asarray(grown[inner, inner])


def truth_keys(truth: NDArray[np.integer], category: dict[int, int] | None = None) -> set[Key]:
    return {
        ((category or {}).get(k, 1), frozenset(map(tuple, np.argwhere(truth == k).tolist())))
        for k in np.unique(truth[truth > 0]).tolist()
    }


def key(instance: Instance) -> Key:
    pixels = np.argwhere(instance.mask) + (instance.row, instance.col)
    return instance.category, frozenset(map(tuple, pixels.tolist()))


def full_mask(instance: Instance, shape: tuple[int, int]) -> NDArray[np.bool_]:
    out = np.zeros(shape, bool)
    r0, c0, r1, c1 = instance.bounds
    out[r0:r1, c0:c1] = instance.mask
    return out


def spiral(size: int, width: int, gap: int) -> NDArray[np.bool_]:
    """A square spiral from the outside inward."""
    out = np.zeros((size, size), bool)
    pitch = width + gap
    r = c = 0
    last = size - 1
    for turn in range(size // (2 * pitch)):
        a, b = turn * pitch, last - turn * pitch
        if b - a < 2 * pitch:
            break
        out[a : a + width, max(0, a - pitch) : b + 1] = True
        out[a : b + 1, b - width + 1 : b + 1] = True
        out[b - width + 1 : b + 1, a : b + 1] = True
        out[a + pitch : b + 1, a : a + width] = True
        r, c = a, b
    del r, c
    return out


def ring(size: int, width: int) -> NDArray[np.bool_]:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    d = np.hypot(y, x)
    return np.asarray((d <= size / 2) & (d > size / 2 - width))


def rescored(detections: list[Detection], rng: np.random.Generator) -> list[Detection]:
    return [replace(d, score=float(rng.uniform(0.1, 1.0))) for d in detections]

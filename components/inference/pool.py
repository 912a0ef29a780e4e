"""Detections that the stitcher holds: checked, in canonical order, as columns.

A detection is thresholded once; its mask is kept as runs, its probabilities as they came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.errors import ProcessingError
from components.inference.coverage import Coverage
from components.inference.instances import Detection, canonical_order
from components.inference.runs import Bool, Int, Runs, common_pixels, runs_of
from components.inference.seams import overlapping_pairs, touches_cut

Float = NDArray[np.float32]

#: Two masks of one window or two landslides of this IoU are one object seen twice.
DUPLICATE_IOU: Final = 0.5

#: Of two nested masks the larger stays, unless its score is below this share of the smaller's.
NESTED_SCORE: Final = 0.5


@dataclass(frozen=True, eq=False)
class Pool:
    """Detections as columns.

    Parameters
    ----------
    window : ndarray, int64, ``[n]``
        Position of the window in canonical order.
    index : ndarray, int64
        Canonical order inside the window.
    category : ndarray, int64
        Class.
    score : ndarray, float64
        In [0, 1].
    crop : ndarray, int64, ``[n, 4]``
        Ground of the probabilities: row, col, row end, col end.
    box : ndarray, int64, ``[n, 4]``
        Tight box of the thresholded mask.
    cut : ndarray, bool
        Whether the mask reaches an edge of its window that is not an edge of the raster.
    prob : list of ndarray, float32
        Probabilities of each crop, row by row.
    runs : Runs
        The thresholded masks.
    """

    window: Int
    index: Int
    category: Int
    score: NDArray[np.float64]
    crop: Int
    box: Int
    cut: Bool
    prob: list[Float]
    runs: Runs

    def __len__(self) -> int:
        return len(self.window)

    def rank(self) -> Int:
        """Canonical rank of each detection."""
        rank = np.empty(len(self), np.int64)
        rank[np.lexsort((self.index, self.window))] = np.arange(len(self))
        return rank

    def take(self, which: Int) -> Pool:
        """Some detections, in the order given."""
        return Pool(
            self.window[which],
            self.index[which],
            self.category[which],
            self.score[which],
            self.crop[which],
            self.box[which],
            self.cut[which],
            [self.prob[k] for k in which.tolist()],
            self.runs.take(which),
        )

    def join(self, other: Pool) -> Pool:
        """These detections, then the others."""
        runs = Runs(
            np.concatenate([self.runs.first, other.runs.first[1:] + self.runs.first[-1]]),
            np.concatenate([self.runs.row, other.runs.row]),
            np.concatenate([self.runs.start, other.runs.start]),
            np.concatenate([self.runs.end, other.runs.end]),
        )
        return Pool(
            np.concatenate([self.window, other.window]),
            np.concatenate([self.index, other.index]),
            np.concatenate([self.category, other.category]),
            np.concatenate([self.score, other.score]),
            np.concatenate([self.crop, other.crop]),
            np.concatenate([self.box, other.box]),
            np.concatenate([self.cut, other.cut]),
            self.prob + other.prob,
            runs,
        )


def empty_pool() -> Pool:
    """No detections.

    Returns
    -------
    Pool
    """
    none, zero = np.empty(0, np.int64), np.zeros(1, np.int64)
    return Pool(
        *(none, none, none, np.empty(0), none.reshape(0, 4), none.reshape(0, 4), np.empty(0, bool)),
        *([], Runs(zero, none, none, none)),
    )


class Gathered(NamedTuple):
    """Detections of windows that are worth stitching, and how many were not.

    Parameters
    ----------
    pool : Pool
        In canonical order.
    empty : int
        Detections without a pixel at the threshold.
    duplicates : int
        Second detections of the same object in the same window.
    """

    pool: Pool
    empty: int
    duplicates: int


def gather(
    detections: Sequence[Detection],
    coverage: Coverage,
    *,
    mask_threshold: float,
    containment: float,
) -> Gathered:
    """Check and sort detections, threshold them, and drop duplicates.

    Parameters
    ----------
    detections : sequence of Detection
        All detections of some windows, in any order.
    coverage : Coverage
        The windows.
    mask_threshold : float
        Probability of a landslide pixel, in (0, 1).
    containment : float
        Share of the smaller of two nested masks, in (0, 1].

    Returns
    -------
    Gathered

    Raises
    ------
    ProcessingError
        SW-505 where a detection leaves its window, or a score or probability is outside [0, 1].
    """
    if not detections:
        return Gathered(empty_pool(), 0, 0)
    for d in detections:
        if d.prob.ndim != 2:
            raise ProcessingError("SW-505", f"mask probabilities of shape {d.prob.shape}")
    numbers = np.asarray(
        [
            (coverage.position[d.window_id], d.category, d.row, d.col, *d.prob.shape)
            for d in detections
        ],
        np.int64,
    )
    score = np.asarray([d.score for d in detections], np.float64)
    # Copies: a crop may be a view that keeps the probabilities of many windows alive.
    prob = [np.array(d.prob, np.float32).ravel() for d in detections]
    order = canonical_order((*numbers.T, -score), lambda k: prob[k].tobytes())
    numbers, score = numbers[order], score[order]
    prob = [prob[k] for k in order.tolist()]
    flat = np.concatenate(prob)
    first = np.concatenate([[0], np.cumsum(numbers[:, 4] * numbers[:, 5])])
    _check(numbers, score, flat, first, coverage)
    window, category, row, col, height, width = numbers.T
    crop = np.stack([row, col, row + height, col + width], axis=1)
    runs = runs_of(flat >= np.float32(mask_threshold), first[:-1], height, width, row, col)
    box = runs.boxes()
    index = np.arange(len(window)) - np.searchsorted(window, window)
    cut = touches_cut(coverage.boxes[window], box, coverage.shape)
    pool = Pool(window, index, category, score, crop, box, cut, prob, runs)
    some = np.flatnonzero(np.diff(runs.first))
    n_empty = len(pool) - len(some)
    if n_empty:
        pool = pool.take(some)
    gone = _duplicates(pool, containment)
    if gone.any():
        pool = pool.take(np.flatnonzero(~gone))
    return Gathered(pool, n_empty, int(np.count_nonzero(gone)))


def _check(
    numbers: Int,
    score: NDArray[np.float64],
    prob: Float,
    first: Int,
    coverage: Coverage,
) -> None:
    window, _, row, col, height, width = numbers.T
    box = coverage.boxes[window]
    leaves = (
        (row < box[:, 0])
        | (col < box[:, 1])
        | (row + height > box[:, 2])
        | (col + width > box[:, 3])
    )
    if leaves.any():
        k = int(np.argmax(leaves))
        raise ProcessingError(
            "SW-505",
            f"a detection at row {row[k]}, column {col[k]} of {height[k]} × {width[k]} px leaves its "
            f"window {coverage.ids[int(window[k])]} ({tuple(box[k].tolist())})",
        )
    # `~(…)` so that NaN is caught too
    wrong = ~((score >= 0.0) & (score <= 1.0))
    if wrong.any():
        k = int(np.argmax(wrong))
        raise ProcessingError("SW-505", f"score {score[k]} in window {coverage.ids[window[k]]}")
    if len(prob) and not (float(prob.min()) >= 0.0 and float(prob.max()) <= 1.0):
        outside = ~((prob >= 0.0) & (prob <= 1.0))
        k = int(np.searchsorted(first, int(np.argmax(outside)), side="right")) - 1
        raise ProcessingError(
            "SW-505", f"mask probability outside [0, 1] in window {coverage.ids[window[k]]}"
        )


def _duplicates(pool: Pool, containment: float) -> Bool:
    first, second = overlapping_pairs(pool.box, _pairing(pool.window, pool.category))
    pixels = common_pixels(pool.runs, first, second)
    return superseded(pool.runs.areas(), pool.score, first, second, pixels, containment)


def _pairing(window: Int, category: Int) -> Int:
    """A number for each pair of window and class."""
    kinds, kind = np.unique(category, return_inverse=True)
    return window * max(len(kinds), 1) + kind


def superseded(
    areas: Int,
    scores: NDArray[np.float64],
    first: Int,
    second: Int,
    pixels: Int,
    containment: float,
) -> Bool:
    """Which masks are another look at an object that a better mask already stands for.

    In order of score: of two near-equal masks (`DUPLICATE_IOU`) the better score stays; of two nested
    ones the larger, unless its score is below `NESTED_SCORE` of the smaller's.

    Parameters
    ----------
    areas : ndarray, int64, ``[n]``
        Pixels of each mask; masks are in canonical order, which settles equal scores and areas.
    scores : ndarray, float64, ``[n]``
        In [0, 1].
    first, second, pixels : ndarray, int64, ``[m]``
        Pairs, and the pixels that they share.
    containment : float
        Share of the smaller of two nested masks, in (0, 1].

    Returns
    -------
    ndarray, bool, ``[n]``
    """
    gone = [False] * len(areas)
    area, score = areas.tolist(), scores.tolist()
    partners: dict[int, list[tuple[int, int]]] = {}
    shared = pixels > 0
    rows = (first[shared].tolist(), second[shared].tolist(), pixels[shared].tolist())
    for i, j, n in zip(*rows, strict=True):
        partners.setdefault(i, []).append((j, n))
        partners.setdefault(j, []).append((i, n))

    def better(k: int) -> tuple[float, int, int]:
        return -score[k], -area[k], k

    settled: set[int] = set()
    for k in sorted(partners, key=better):
        for other, n in sorted(partners[k], key=lambda p: better(p[0])):
            if other not in settled or gone[other]:
                continue
            twice = n >= DUPLICATE_IOU * (area[k] + area[other] - n)
            nested = n >= containment * min(area[k], area[other])
            larger = area[k] > area[other]
            if nested and not twice and larger and score[k] >= NESTED_SCORE * score[other]:
                gone[other] = True
            elif twice or nested:
                gone[k] = True
                break
        settled.add(k)
    return np.asarray(gone, bool)

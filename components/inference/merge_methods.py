"""Other ways to join detections of windows, for comparison with the stitcher.

Three rules in wide use, written from their published description: non-maximum suppression (NMS), and
non-maximum merging (NMM), greedy or not. All compare bounding boxes of detections of one class, by
intersection over union or over the smaller box. They are what seams are compared with: boxes of parallel
landslides overlap although the landslides do not, and boxes of the two halves of a long landslide hardly
do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from components.grid.windows import Window
from components.inference.coverage import Coverage
from components.inference.instances import Detection, Instance, canonical_order, order_of
from components.inference.runs import Int
from components.inference.seams import overlapping_pairs

Method = Literal["nms", "nmm", "greedy-nmm"]
METHODS: Final[tuple[Method, ...]] = ("nms", "nmm", "greedy-nmm")

Metric = Literal["iou", "ios"]
METRICS: Final[tuple[Metric, ...]] = ("ios", "iou")


def merge(
    detections: Sequence[Detection],
    windows: dict[int, Window],
    shape: tuple[int, int],
    method: Method,
    *,
    metric: Metric = "ios",
    match_threshold: float = 0.5,
    mask_threshold: float = 0.5,
) -> list[Instance]:
    """Join detections by their bounding boxes.

    Parameters
    ----------
    detections : sequence of Detection
        Of the whole map, in any order.
    windows : dict of int to Window
        Windows that were run.
    shape : tuple of int
        Raster height and width [px].
    method : {"nms", "nmm", "greedy-nmm"}
        In order of score, the next detection that is left takes those of lower score whose box
        matches its own: NMS drops them, the others unite masks with them. With NMM a detection that
        was taken hands on what matches it; with greedy NMM it does not.
    metric : {"ios", "iou"}
        Intersection of two boxes over the smaller one, or over their union.
    match_threshold : float
        Boxes match from here on, in (0, 1].
    mask_threshold : float
        Probability of a landslide pixel, in (0, 1).

    Returns
    -------
    list of Instance
        In canonical order. The score is the best of the members'; all windows that touch the box
        count as covering.
    """
    masks, kept = [], []
    for d in detections:
        mask = d.prob >= np.float32(mask_threshold)
        if mask.any():
            masks.append(mask)
            kept.append(d)
    if not kept:
        return []
    numbers = np.asarray([(d.category, d.row, d.col, *d.prob.shape) for d in kept], np.int64)
    score = np.asarray([d.score for d in kept])
    order = canonical_order((-score, *numbers.T), lambda k: kept[k].prob.tobytes()).tolist()
    kept, masks = [kept[k] for k in order], [masks[k] for k in order]
    boxes = np.asarray([_tight(d, m) for d, m in zip(kept, masks, strict=True)], np.int64)
    matches = _matches(boxes, numbers[order, 0], metric, match_threshold)
    groups = _take(matches, len(kept), hand_on=method == "nmm")
    coverage = Coverage(windows, shape)
    found = []
    for head, taken in groups.items():
        members = [head] if method == "nms" else [head, *taken]
        found.append(_unite([kept[k] for k in members], [masks[k] for k in members], coverage))
    return [found[k] for k in order_of(found).tolist()]


def _tight(d: Detection, mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        d.row + int(rows[0]),
        d.col + int(cols[0]),
        d.row + int(rows[-1]) + 1,
        d.col + int(cols[-1]) + 1,
    )


def _matches(boxes: Int, category: Int, metric: Metric, threshold: float) -> dict[int, list[int]]:
    """For each detection those after it whose box matches."""
    first, second = overlapping_pairs(boxes, category)
    corner = np.maximum(boxes[first, :2], boxes[second, :2])
    common = (np.minimum(boxes[first, 2:], boxes[second, 2:]) - corner).prod(axis=1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    a, b = area[first], area[second]
    value = common / (np.minimum(a, b) if metric == "ios" else a + b - common)
    out: dict[int, list[int]] = {}
    for i, j in zip(
        first[value >= threshold].tolist(), second[value >= threshold].tolist(), strict=True
    ):
        out.setdefault(i, []).append(j)
    return out


def _take(matches: dict[int, list[int]], n: int, *, hand_on: bool) -> dict[int, list[int]]:
    """Heads of groups and what they took; detections are in order of score."""
    taken_by: dict[int, int] = {}
    groups: dict[int, list[int]] = {}
    for k in range(n):
        head = taken_by.get(k, k)
        if head == k:
            groups[k] = []
        elif not hand_on:
            continue
        for other in matches.get(k, ()):
            if other not in taken_by:
                taken_by[other] = head
                groups[head].append(other)
    return groups


def _unite(
    members: Sequence[Detection], masks: Sequence[NDArray[np.bool_]], coverage: Coverage
) -> Instance:
    boxes = np.asarray([_tight(d, m) for d, m in zip(members, masks, strict=True)], np.int64)
    row, col = boxes[:, :2].min(axis=0).tolist()
    row_end, col_end = boxes[:, 2:].max(axis=0).tolist()
    mask = np.zeros((row_end - row, col_end - col), bool)
    for d, m, (r0, c0, r1, c1) in zip(members, masks, boxes.tolist(), strict=True):
        mask[r0 - row : r1 - row, c0 - col : c1 - col] |= m[
            r0 - d.row : r1 - d.row, c0 - d.col : c1 - d.col
        ]
    _, near = coverage.looking_at(np.asarray([(row, col, row_end, col_end)], np.int64))
    return Instance(
        category=members[0].category,
        score=max(d.score for d in members),
        row=row,
        col=col,
        mask=mask,
        prob=mask.astype(np.float32),
        n_windows=len({d.window_id for d in members}),
        n_covering=len(near),
    )

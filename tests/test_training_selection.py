"""Selection: matching on masks, ignored ground, and the threshold with the best F1."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.training.selection import (
    Matches,
    best_operating_point,
    match_image,
    pool,
)
from models.build import Detections


def solid(
    boxes: list[list[float]], scores: list[float], labels: list[int] | None = None
) -> Detections:
    """Detections that fill their boxes."""
    n = len(boxes)
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(n, 4),
        torch.tensor(labels or [1] * n, dtype=torch.int64),
        torch.tensor(scores),
        torch.ones((n, 4, 4)),
    )


def truth(*boxes: tuple[int, int, int, int]) -> torch.Tensor:
    masks = torch.zeros((len(boxes), 40, 40), dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    return masks


ONE = torch.ones(1, dtype=torch.int64)


def test_iou_at_the_limit_is_a_hit() -> None:
    # 10 × 10 against 10 × 5 inside it: IoU is exactly 0.5
    found = solid([[5, 5, 15, 10]], [0.9])
    masks = truth((5, 5, 15, 15))
    assert match_image(found, masks, ONE).hits.tolist() == [True]
    assert match_image(found, masks, ONE, iou=0.51).hits.tolist() == [False]


def test_one_object_is_hit_once_by_the_best_score() -> None:
    found = solid([[5, 5, 15, 15], [5, 5, 15, 15]], [0.4, 0.8])
    matches = match_image(found, truth((5, 5, 15, 15)), ONE)
    assert matches.scores.tolist() == pytest.approx([0.8, 0.4])
    assert matches.hits.tolist() == [True, False]


def test_classes_do_not_mix() -> None:
    found = solid([[5, 5, 15, 15]], [0.9], [2])
    assert not match_image(found, truth((5, 5, 15, 15)), ONE).hits.any()


def test_ignored_ground_neither_rewards_nor_punishes() -> None:
    found = solid([[20, 20, 30, 30], [5, 5, 15, 15], [0, 30, 4, 34]], [0.9, 0.8, 0.7])
    ignore = truth((18, 18, 32, 32))[0].bool()
    matches = match_image(found, truth((5, 5, 15, 15)), ONE, ignore)
    assert matches.scores.tolist() == pytest.approx([0.8, 0.7])
    assert matches.hits.tolist() == [True, False]
    assert matches.n_reference == 1


def test_nothing_found_nothing_there() -> None:
    nothing = solid([], [])
    matches = match_image(nothing, truth(), torch.zeros(0, dtype=torch.int64))
    assert best_operating_point(pool([matches])).f1 == 0
    assert best_operating_point(pool([])).score_threshold == 0.5


def test_operating_point_by_hand() -> None:
    # 4 references; hits at 0.9, 0.8, 0.6; misses at 0.7, 0.3, 0.2
    matches = Matches(
        np.array([0.9, 0.8, 0.7, 0.6, 0.3, 0.2]),
        np.array([True, True, False, True, False, False]),
        4,
    )
    best = best_operating_point(matches)
    assert best.f1 == pytest.approx(2 * 3 / (4 + 4))  # 4 kept, 3 hits
    assert best.precision == best.recall == pytest.approx(0.75)
    assert best.score_threshold == pytest.approx(0.45)  # middle of 0.31 … 0.60


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.05, 1), st.booleans()), max_size=30),
    st.integers(0, 10),
)
def test_operating_point_is_close_to_the_best_of_all(
    detections: list[tuple[float, bool]], missed: int
) -> None:
    scores = np.array([s for s, _ in detections])
    hits = np.array([h for _, h in detections], dtype=bool)
    n = int(hits.sum()) + missed
    best = best_operating_point(Matches(scores, hits, n))
    every = [
        2 * hits[scores >= t].sum() / max((scores >= t).sum() + n, 1)
        for t in np.round(np.arange(0.05, 0.96, 0.01), 2)
    ]
    assert best.f1 >= 0.99 * max(every)
    if best.f1 > 0:
        harmonic = 2 * best.precision * best.recall / (best.precision + best.recall)
        assert best.f1 == pytest.approx(harmonic)

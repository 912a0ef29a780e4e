"""Pixel metrics: hand-counted cases and identities."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import ProcessingError
from components.evaluation.pixel import (
    PixelCounts,
    check_identity,
    count_pixels,
    pixel_metrics,
    ratio,
)

COUNT = st.integers(0, 10**9)


def test_hand_counted() -> None:
    predicted = np.array([[1, 1, 0, 0], [1, 0, 0, 1]], bool)
    reference = np.array([[1, 0, 0, 1], [1, 0, 0, 0]], bool)
    ignore = np.array([[0, 0, 0, 0], [0, 0, 1, 1]], bool)
    counts = count_pixels(predicted, reference, ignore)
    assert counts == PixelCounts(tp=2, fp=1, fn=1, tn=2)
    m = pixel_metrics(counts)
    assert m["iou_fg"] == 0.5
    assert m["dice"] == pytest.approx(2 / 3)
    assert m["precision"] == m["recall"] == pytest.approx(2 / 3)
    assert m["accuracy_px"] == pytest.approx(4 / 6)
    assert m["miou_2class"] == pytest.approx(0.5)
    assert count_pixels(predicted, reference) == PixelCounts(2, 2, 1, 3)


@given(COUNT, COUNT, COUNT, COUNT)
def test_identities(tp: int, fp: int, fn: int, tn: int) -> None:
    m = pixel_metrics(PixelCounts(tp, fp, fn, tn))
    if tp + fp + fn == 0:
        assert m["iou_fg"] is None
        assert m["dice"] is None
        return
    assert abs(m["dice"] - 2 * m["iou_fg"] / (1 + m["iou_fg"])) < 1e-9
    assert m["dice"] >= m["iou_fg"]
    if m["precision"] and m["recall"]:
        harmonic = 2 * m["precision"] * m["recall"] / (m["precision"] + m["recall"])
        assert m["dice"] == pytest.approx(harmonic, rel=1e-9)


def test_published_contradiction_is_refused() -> None:
    # F1 0.8412 beside IoU 0.9026 (Liu et al. 2022, Table 2) cannot be of one set of counts.
    with pytest.raises(ProcessingError) as e:
        check_identity(0.8412, 0.9026)
    assert e.value.code == "SW-603"
    with pytest.raises(ProcessingError):
        check_identity(None, 0.5)


def test_counts_add_up_over_blocks() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 30, 40)) < 0.4
    parts = [count_pixels(a[r, :], b[r, :]) for r in (slice(0, 7), slice(7, 30))]
    assert parts[0] + parts[1] == count_pixels(a, b)
    assert (parts[0] + parts[1]).total == 1200


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="one shape"):
        count_pixels(np.zeros((2, 2), bool), np.zeros((2, 3), bool))


def test_undefined_is_none() -> None:
    assert ratio(0, 0) is None
    assert pixel_metrics(PixelCounts(tn=5))["accuracy_px"] == 1.0

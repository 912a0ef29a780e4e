"""Calibration of the score: strictly rising, invertible, and closer to the truth than before."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from components.errors import ModelError
from components.evaluation.calibrate import (
    expected_calibration_error,
    fit_calibration,
    fit_isotonic,
    fit_temperature,
    reliability,
)
from components.inference.calibration import (
    apply_calibration,
    calibrated,
    checked_calibration,
    invert_calibration,
)
from components.inference.instances import Instance

KNOTS = {
    "method": "isotonic",
    "scores": [0.0, 0.3, 0.8, 1.0],
    "probabilities": [0.0, 0.6, 0.7, 1.0],
}


def draw(n: int, temperature: float, seed: int = 0):
    """Scores of a network that is over-confident by a known temperature, and what came true."""
    rng = np.random.default_rng(seed)
    p = rng.beta(0.7, 0.7, n).clip(0.01, 0.99)
    hits = rng.random(n) < p
    return expit(temperature * logit(p)), hits, rng.integers(0, 40, n)


def test_temperature_is_recovered() -> None:
    scores, hits, _ = draw(20_000, 2.5)
    assert fit_temperature(scores, hits)["temperature"] == pytest.approx(2.5, rel=0.05)


def test_temperature_formula() -> None:
    got = apply_calibration({"method": "temperature", "temperature": 2.0}, [0.9])
    assert got[0] == pytest.approx(1 / (1 + np.exp(-np.log(9) / 2)))


def test_isotonic_agrees_with_pooling_adjacent_violators_of_scipy() -> None:
    from scipy.optimize import isotonic_regression

    rng = np.random.default_rng(3)
    scores = np.sort(rng.random(400))
    hits = rng.random(400) < scores**2
    knots = fit_isotonic(scores, hits)
    means = [hits[k : k + 20].mean() for k in range(0, 400, 20)]
    levels = np.unique(isotonic_regression(np.array(means)).x.clip(0.001, 0.999))
    np.testing.assert_allclose(knots["probabilities"][1:-1], levels, atol=1e-6)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_calibration_lowers_the_error_on_new_draws(method: str) -> None:
    scores, hits, _ = draw(4000, 3.0, seed=1)
    fit = fit_temperature if method == "temperature" else fit_isotonic
    calibration = fit(scores, hits)
    fresh, outcome, _ = draw(4000, 3.0, seed=2)
    before = expected_calibration_error(fresh, outcome)
    after = expected_calibration_error(apply_calibration(calibration, fresh), outcome)
    assert before > 0.1
    assert after < 0.03


def test_choice_is_by_the_error_on_held_out_blocks() -> None:
    # A curve that no temperature bends: scores bear no relation to the logit of the truth.
    rng = np.random.default_rng(5)
    scores = rng.random(6000)
    hits = rng.random(6000) < 0.05 + 0.3 * scores
    fit = fit_calibration(scores, hits, rng.integers(0, 50, 6000))
    assert fit.calibration["method"] == "isotonic"
    assert fit.ece["isotonic"] < fit.ece["temperature"] < fit.ece["none"]
    assert fit.n == 6000
    few = fit_calibration(*(a[:200] for a in draw(200, 3.0)))
    assert set(few.ece) == {"none", "temperature", "isotonic"}


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("hit", [True, False])
def test_next_to_no_detections(n: int, hit: bool) -> None:
    scores, hits = np.linspace(0.2, 0.6, n), np.full(n, hit)
    fit = fit_calibration(scores, hits, np.zeros(n, np.int64))
    assert checked_calibration({"calibration": fit.calibration}, None) is not None
    assert fit_temperature(scores, hits)["temperature"] == 1.0


scores_of_hits = st.lists(
    st.tuples(st.floats(0, 1, allow_nan=False), st.booleans()), min_size=1, max_size=300
)


@given(scores_of_hits)
def test_every_fit_rises_strictly_and_can_be_undone(rows) -> None:
    scores, hits = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    for fit in (fit_temperature, fit_isotonic):
        calibration = fit(scores, hits)
        assert checked_calibration({"calibration": calibration}, None) == calibration
        # Network scores, a thousandth apart: none may fall together or change places.
        s = np.linspace(0.02, 0.98, 961)
        p = apply_calibration(calibration, s)
        assert (np.diff(p) > 0).all()
        assert p.min() >= 0
        assert p.max() <= 1
        np.testing.assert_allclose(invert_calibration(calibration, p), s, atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "guess"},
        {"method": "temperature", "temperature": 0},
        {"method": "temperature", "temperature": "warm"},
        {**KNOTS, "probabilities": [0.0, 0.7, 0.6, 1.0]},
        {**KNOTS, "scores": [0.0, 0.3, 1.0]},
        {**KNOTS, "scores": [0.1, 0.3, 0.8, 1.0]},
        ["temperature", 2],
    ],
)
def test_a_calibration_that_is_none_is_refused(wrong, tmp_path) -> None:
    with pytest.raises(ModelError) as e:
        checked_calibration({"calibration": wrong}, tmp_path / "w.safetensors")
    assert e.value.code == "SW-401"
    assert checked_calibration({}, tmp_path) is None


def test_instances_keep_everything_but_the_score() -> None:
    def instance(score: float) -> Instance:
        return Instance(1, score, 3, 4, np.ones((2, 2), bool), np.ones((2, 2), np.float32), 1, 2)

    before = [instance(0.3), instance(0.55)]
    after = calibrated(before, KNOTS)
    assert [i.score for i in after] == pytest.approx([0.6, 0.65])
    assert after[0].mask is before[0].mask
    assert [i.score for i in calibrated(before, None)] == [0.3, 0.55]
    assert calibrated([], KNOTS) == []


def test_error_and_reliability_by_hand() -> None:
    scores = np.array([0.05, 0.05, 0.91, 0.95, 1.0])
    hits = np.array([False, True, True, True, False])
    first, last = abs(0.1 - 1) / 5, abs(2.86 - 2) / 5
    assert expected_calibration_error(scores, hits) == pytest.approx(first + last)
    doubled = expected_calibration_error(scores, hits, np.array([2.0, 2, 0, 0, 0]))
    assert doubled == pytest.approx(0.45)
    rows = reliability(scores, hits)
    assert [(r["low"], r["n"]) for r in rows] == [(0.0, 2), (0.9, 3)]
    assert rows[1]["hits"] == pytest.approx(2 / 3)
    assert np.isnan(expected_calibration_error(np.zeros(0), np.zeros(0, bool)))

"""What a processor does to noise and deformation: coarse pixels, filters, coherence that praises itself."""

from __future__ import annotations

import numpy as np
import pytest

from components.simulation.conditions import REFERENCE, Conditions
from components.simulation.decorrelation import draw_multilooked
from components.simulation.processing import as_processed, draw_noise, reported
from components.simulation.scene import simulate_scene

SIDE = 360


def lag(values: np.ndarray, by: int) -> float:
    """Autocorrelation at a distance along both axes."""
    centred = values - values.mean()
    pairs = (centred[by:] * centred[:-by]).mean() + (centred[:, by:] * centred[:, :-by]).mean()
    return float(pairs / 2 / centred.var())


def noise(**change: float) -> np.ndarray:
    coherence = np.full((SIDE, SIDE), 0.7, dtype=np.float32)
    return draw_noise(np.random.default_rng(0), coherence, Conditions(**change)).phase  # type: ignore[arg-type]


def test_the_reference_is_multilooked_noise_and_nothing_else() -> None:
    coherence = np.linspace(0.2, 0.9, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
    phase, sample, kept = draw_noise(np.random.default_rng(5), coherence, REFERENCE)
    want = draw_multilooked(np.random.default_rng(5), coherence, REFERENCE.looks)
    np.testing.assert_array_equal(phase, want.phase)
    np.testing.assert_array_equal(sample, want.coherence)
    assert kept == 1
    field = np.random.default_rng(1).standard_normal((20, 20)).astype(np.float32)
    assert as_processed(field, REFERENCE) is field
    assert reported(sample, REFERENCE) is sample


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_noise_of_coarse_pixels_is_correlated_and_strong(factor: int) -> None:
    fine, coarse = noise(), noise(coarse=factor)
    # Linear interpolation between independent values: the variance is that of the weights' squares.
    at = (np.arange(factor) + 0.5) / factor - 0.5
    share = np.where(at < 0, -at, at)
    kept = np.mean((1 - share) ** 2 + share**2)
    assert coarse.std() / fine.std() == pytest.approx(kept, rel=0.04)  # √ of both axes
    assert abs(lag(fine, 1)) < 0.02
    assert lag(coarse, 1) > {2: 0.5, 3: 0.7, 4: 0.8}[factor]
    assert abs(lag(coarse, 2 * factor)) < 0.04


def test_filtered_noise_is_weak_where_coarse_noise_is_not() -> None:
    fine, filtered = noise(), noise(filter_px=1.3)
    # White noise behind a Gaussian of s: std falls to 1 / (2 √π s).
    assert filtered.std() / fine.std() == pytest.approx(1 / (2 * np.sqrt(np.pi) * 1.3), rel=0.05)
    assert noise(coarse=3).std() > 2.5 * filtered.std()


def test_coarse_pixels_average_the_deformation() -> None:
    field = np.zeros((60, 60), dtype=np.float32)
    field[10:30, 10:30] = 0.02
    field[50, 50] = 0.02
    out = as_processed(field, Conditions(coarse=3))
    assert out.sum() == pytest.approx(float(field.sum()), rel=1e-5)
    assert out[20, 20] == pytest.approx(0.02)
    assert out[50, 50] == pytest.approx(0.02 / 9)


def test_a_coarse_product_hides_small_landslides_from_the_interpreter() -> None:
    def labels(coarse: int) -> tuple[int, float]:
        scene = simulate_scene(
            np.random.default_rng(3),
            (320, 320),
            landslides_per_1000km2=900.0,
            conditions=Conditions(coarse=coarse),
        )
        sizes = [label.mask.sum() for label in scene.labels if not label.ignore]
        return len(sizes), float(np.median(sizes))

    (fine, fine_px), (coarse, coarse_px) = labels(1), labels(4)
    assert coarse < 0.9 * fine
    assert coarse_px > fine_px


def test_a_product_that_praises_itself_reports_more_and_keeps_the_order() -> None:
    sample = np.linspace(0.05, 1, 50, dtype=np.float32)
    out = reported(sample, Conditions(coherence_exponent=0.3))
    assert (out[:-1] > sample[:-1]).all()
    assert out[-1] == 1
    assert (np.diff(out) > 0).all()


def test_relief_flattens_the_ground_until_nothing_slides() -> None:
    def scene(relief: float):  # type: ignore[no-untyped-def]
        conditions = Conditions(relief=relief)
        return simulate_scene(
            np.random.default_rng(2),
            (160, 160),
            landslides_per_1000km2=900.0,
            conditions=conditions,
        )

    mountains, plain = scene(1.0), scene(0.02)
    assert np.ptp(plain.elevation) == pytest.approx(0.02 * np.ptp(mountains.elevation), rel=1e-3)
    assert len(mountains.landslides) > 5
    assert len(plain.landslides) == 0

"""Panels for the reviewer: the right ones first, drawn where the landslide is."""

import io

import numpy as np
import pytest
from affine import Affine
from PIL import Image

from components.inference.instances import Instance
from components.inventory.evidence import draw_evidence, least_certain
from components.inventory.selection import Landslide

GRID = Affine(25.0, 0, 500_000, 0, -25.0, 5_200_000)
OUTLINE, HALO = (255, 196, 0), (27, 31, 36)


def landslide(
    name: str, row: int, col: int, side: int = 8, score: float = 0.5, seen: int = 2, of: int = 3
) -> Landslide:
    prob = np.full((side, side), 0.8, np.float32)
    prob[0] = 0.6
    return Landslide(
        name, Instance(1, score, row, col, np.ones((side, side), bool), prob, seen, of)
    )


def reader(names, window):
    rng = np.random.default_rng(1)
    v = rng.normal(0, 2, (400, 420)).astype(np.float32)
    v[60:68, 200:208] = 40.0
    layers = {"los_velocity": v, "valid": np.ones(v.shape, bool)}
    return {n: layers[n][window.slices] for n in names if n in layers}


def draw(x: Landslide):
    found = draw_evidence(x, reader, (400, 420), GRID)
    image = np.asarray(Image.open(io.BytesIO(found.png)).convert("RGB")).astype(int)
    side = image.shape[0]
    return found, image[:, :side], image[:, -side:]


def test_the_least_certain_come_first() -> None:
    slides = [
        landslide("c", 0, 0, score=0.9),
        landslide("b", 0, 0, score=0.4, seen=3),
        landslide("d", 0, 0, score=0.4, seen=1),
        landslide("a", 0, 0, score=0.4, seen=3),
    ]
    assert [x.id for x in least_certain(slides)] == ["d", "a", "b", "c"]
    assert [x.id for x in least_certain(slides, 1)] == ["d"]
    assert least_certain([]) == []


def test_panel_shows_velocity_probability_and_outline() -> None:
    found, velocity, probability = draw(landslide("x", 60, 200))
    assert (found.id, found.n_windows, found.n_covering) == ("x", 2, 3)
    assert found.probability == pytest.approx((7 * 0.8 + 0.6) / 8)
    assert found.side_m == 48 * 25
    for side in (velocity, probability):
        bright = (side == OUTLINE).all(axis=-1)
        rows, cols = np.nonzero(bright)
        # 8 px of 48, magnified four times, in the middle: an outline as wide as the landslide.
        assert (np.ptp(rows) + 1, np.ptp(cols) + 1) == (32, 32)
        assert abs(rows.mean() - side.shape[0] / 2) <= 4
        assert (side == HALO).all(axis=-1).sum() == 4 * 32
    middle = velocity[96, 96]
    assert middle[2] > middle[0] + 60  # toward the satellite is blue
    inside, weak, outside = probability[100, 96], probability[82, 96], probability[5, 5]
    assert inside.sum() < weak.sum() < outside.sum()
    assert outside.min() > 245


def test_same_landslide_same_bytes() -> None:
    assert draw(landslide("x", 60, 200))[0] == draw(landslide("x", 60, 200))[0]


@pytest.mark.parametrize(("row", "col", "side"), [(0, 0, 8), (392, 412, 8), (20, 30, 300)])
def test_panels_at_the_edge_and_of_large_landslides_are_whole(
    row: int, col: int, side: int
) -> None:
    found, velocity, probability = draw(landslide("x", row, col, side))
    assert velocity.shape == probability.shape
    assert velocity.shape[0] <= 192
    assert (probability == OUTLINE).all(axis=-1).any()
    assert len(found.png) < 20_000

"""Pictures: colours mean what they say, reading is bounded, bytes are reproducible."""

from pathlib import Path

import numpy as np
import pytest
import shapely
from affine import Affine
from PIL import Image

from components.grid import Window
from components.inventory.figures import Outlines, Zoom, draw_map, draw_zooms, save_png
from components.inventory.overview import Overview, block_mean, read_overview, reduction
from components.inventory.relief import VELOCITY_COLOURS, compose, hillshade, velocity_limit

GRID = Affine(25.0, 0, 500_000, 0, -25.0, 5_200_000)


def layers(height: int, width: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "los_velocity": rng.normal(0, 5, (height, width)).astype(np.float32),
        "valid": rng.random((height, width)) < 0.9,
        "elevation": np.add.outer(np.arange(height), np.arange(width)).astype(np.float32),
    }


def reader_of(arrays, sizes=None):
    def reader(names, window):
        if sizes is not None:
            sizes.append(window.height * window.width)
        return {n: arrays[n][window.slices] for n in names if n in arrays}

    return reader


def test_toward_is_blue_away_is_red_and_unmeasured_is_grey() -> None:
    v = np.array([[20.0, -20.0, 0.0, np.nan]], np.float32)
    rgb = compose(Overview(v, None, (0, 0, 4, 1), 1.0), 20.0)[0]
    assert rgb[0].argmax() == 2
    assert rgb[1].argmax() == 0
    assert rgb[2].min() > 0.9  # still ground is nearly white
    assert np.ptp(rgb[3]) < 1e-12


def test_colours_are_perceptually_even() -> None:
    rgb = np.array(VELOCITY_COLOURS(np.linspace(0, 1, 101)))[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_lms = np.array(
        [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
         [0.0883024619, 0.2817188376, 0.6299787005]]
    )  # fmt: skip
    lightness = np.cbrt(linear @ to_lms.T) @ np.array([0.2104542553, 0.793617785, -0.0040720468])
    steps = np.diff(lightness)
    assert (steps[:48] > 0).all()
    assert (steps[52:] < 0).all()
    assert np.abs(lightness - lightness[::-1]).max() < 0.03
    assert steps[:45].std() / steps[:45].mean() < 0.35


def test_relief_is_lit_from_the_north_west() -> None:
    row, col = np.mgrid[:40, :40].astype(np.float32)
    flat = hillshade(np.zeros((40, 40), np.float32), 25.0)
    assert flat == pytest.approx(np.sqrt(0.5))
    # Rows run south, columns east: this ground falls to the north-west.
    facing_light = hillshade((row + col) * 5, 25.0)
    assert facing_light.min() > flat.max()
    assert hillshade(-(row + col) * 5, 25.0).max() < flat.min()


def test_velocity_limit_is_robust_and_round() -> None:
    v = np.full(1000, 3.3, np.float32)
    v[:5] = 9000.0
    v[5:9] = np.nan
    assert velocity_limit(v) == 4.0
    assert velocity_limit(np.full(3, np.nan, np.float32)) == 1.0
    assert velocity_limit(np.array([-95.0], np.float32)) == 100.0


def test_block_mean_needs_half_of_a_square() -> None:
    v = np.array([[1, 3, 5], [5, 7, np.nan], [np.nan, np.nan, 9]], np.float32)
    got = block_mean(v, 2)
    assert got[0, 0] == 4
    assert got[0, 1] == 5  # the only one of the two pixels inside the map
    assert np.isnan(got[1, 0])
    assert got[1, 1] == 9
    assert reduction(2048, 1000, 1600) == 2
    assert reduction(10, 10, 1600) == 1


def test_overview_is_read_in_strips_and_averages_the_map() -> None:
    arrays = layers(1300, 90)
    sizes: list[int] = []
    got = read_overview(reader_of(arrays, sizes), Window(0, 0, 1300, 90), GRID, 400)
    assert max(sizes) <= 512 * 90
    assert got.velocity.shape == (325, 23)
    v = np.where(arrays["valid"], arrays["los_velocity"], np.nan)
    assert got.velocity[10, 5] == pytest.approx(np.nanmean(v[40:44, 20:24]), rel=1e-5)
    # 23 squares of 4 pixels reach 2 pixels over the eastern edge.
    assert got.bounds == (500_000, 5_200_000 - 1300 * 25, 500_000 + 92 * 25, 5_200_000)
    assert got.pixel_m == 100
    part = read_overview(reader_of(arrays), Window(100, 10, 50, 40), GRID, 400)
    assert part.bounds == (500_250, 5_196_250, 501_250, 5_197_500)
    arrays.pop("elevation")
    assert read_overview(reader_of(arrays), Window(0, 0, 9, 9), GRID, 400).elevation is None


def test_a_map_without_elevation_has_no_relief() -> None:
    arrays = layers(20, 20)
    arrays["elevation"][:] = np.nan
    view = read_overview(reader_of(arrays), Window(0, 0, 20, 20), GRID, 400)
    assert view.elevation is None
    assert np.isfinite(compose(view, 10.0)).all()


def test_pictures_have_reproducible_bytes(tmp_path: Path) -> None:
    arrays = layers(60, 90)
    view = read_overview(reader_of(arrays), Window(0, 0, 60, 90), GRID, 400)
    hole = shapely.box(500_500, 5_199_300, 500_700, 5_199_500)
    ring = shapely.box(500_300, 5_199_000, 501_000, 5_199_800).difference(hole)
    outlines = Outlines([shapely.MultiPolygon([ring])], [hole])
    for name in ("a", "b"):
        figure = draw_map(view, outlines, title="T", subtitle="S", crs="C")
        save_png(figure, tmp_path / f"map_{name}.png")
        zooms = draw_zooms([Zoom(view, "one"), Zoom(view, "two")], outlines, limit=10)
        save_png(zooms, tmp_path / f"zoom_{name}.png")
    for kind in ("map", "zoom"):
        a, b = ((tmp_path / f"{kind}_{n}.png").read_bytes() for n in ("a", "b"))
        assert a == b
        with Image.open(tmp_path / f"{kind}_a.png") as picture:
            assert set(picture.info) <= {"dpi"}  # neither time nor software
            assert picture.size[0] <= 1700


def test_a_tall_map_stays_a_page(tmp_path: Path) -> None:
    view = Overview(np.zeros((300, 60), np.float32), None, (0, 0, 1500, 7500), 25.0)
    figure = draw_map(view, Outlines(), title="T", subtitle="S", crs="C")
    assert figure.get_size_inches()[1] < 14
    with pytest.raises(ValueError, match="at least one"):
        draw_zooms([], Outlines(), limit=1)

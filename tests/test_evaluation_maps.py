"""References from polygons, and whole maps scored."""

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from components.evaluation.footprints import Footprint
from components.evaluation.references import rasterise, reference_objects
from components.evaluation.tally import DEFINITIONS, score_map
from components.grid import Window
from components.inventory.polygons import pixel_polygon

GRID = GeoBox((60, 80), Affine(25.0, 0, 500_000, 0, -25.0, 4_000_000), "EPSG:32633")


def box(row: int, col: int, height: int, width: int, score: float = 1.0, *, ignore: bool = False):
    return Footprint(row, col, np.ones((height, width), bool), score, ignore)


def test_polygon_to_pixels_and_back() -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        mask = rng.random((7, 9)) < 0.6
        mask[3, 4] = True
        found = rasterise(pixel_polygon(mask, 11, 13, GRID.affine), GRID)
        assert found is not None
        rows, cols = np.nonzero(mask)
        back = np.zeros((7, 9), bool)
        back[found.row - 11 :, found.col - 13 :][: found.mask.shape[0], : found.mask.shape[1]] = (
            found.mask
        )
        assert np.array_equal(back, mask)
        assert (found.row, found.col) == (11 + rows.min(), 13 + cols.min())


def test_polygons_at_the_edge_are_clipped_and_specks_vanish() -> None:
    west, north = 500_000, 4_000_000
    over_the_edge = shapely.box(west - 100, north - 50, west + 50, north + 100)
    found = rasterise(over_the_edge, GRID)
    assert (found.row, found.col, found.mask.shape) == (0, 0, (2, 2))
    assert rasterise(shapely.box(west + 1, north - 10, west + 9, north - 1), GRID) is None
    assert rasterise(shapely.box(west - 90, north + 5, west - 50, north + 50), GRID) is None


def labels(rows):
    frame = gpd.GeoDataFrame(rows, crs="EPSG:32633")
    return frame.assign(category_id=1)


def test_fates_of_references() -> None:
    def polygon(row: int, col: int, height: int, width: int) -> shapely.Geometry:
        return pixel_polygon(np.ones((height, width), bool), row, col, GRID.affine)

    every = {"track": "", "period": "", "ignore": False}
    frame = labels(
        [
            {**every, "geometry": polygon(0, 0, 5, 5)},
            {**every, "geometry": polygon(10, 0, 5, 5), "ignore": True},
            {**every, "geometry": polygon(20, 0, 2, 2)},
            {**every, "geometry": polygon(30, 60, 5, 5)},
            {**every, "geometry": polygon(40, 0, 5, 5), "track": "ascending"},
            {**every, "geometry": polygon(50, 0, 5, 5), "period": "20230101_20230701"},
        ]
    )
    valid = np.ones((60, 80), bool)
    valid[:, 61:] = False  # a fifth of the fourth is seen
    got = reference_objects(frame, GRID, valid, "descending", "20230101_20230701", min_pixels=12)
    assert [f.ignore for f in got.footprints] == [False, True, True, True, False]
    assert got.counts == {
        "polygons": 5, "vanished": 0, "ignored_label": 1, "ignored_small": 1,
        "ignored_unobservable": 1, "counted": 2,
    }  # fmt: skip


def score(detections, references, valid, areas=None, score_min=0.5):
    return score_map(
        detections, references, valid, areas,
        iou=0.5, score_min=score_min, min_pixels=12, pixel_km2=625e-6,
    )  # fmt: skip


def test_a_perfect_map_scores_one() -> None:
    references = [box(5, 5, 6, 6), box(30, 30, 10, 10)]
    detections = [box(5, 5, 6, 6, 0.9), box(30, 30, 10, 10, 0.8)]
    m = score(detections, references, np.ones((60, 80), bool)).metrics()
    assert m["pixels"] == dict.fromkeys(m["pixels"], 1.0)
    for rule in ("objects", "objects_iou25", "objects_centroid"):
        assert (m[rule]["f1"], m[rule]["pq"], m[rule]["fp"]) == (1.0, 1.0, 0)
    assert m["coco"]["ap"] == pytest.approx(1.0)
    for key in DEFINITIONS:
        group, _, name = key.partition(".")
        assert group in m
        assert not name or name in m[group]


def test_pixels_by_hand_with_ignored_and_unseen_ground() -> None:
    valid = np.ones((60, 80), bool)
    valid[:3] = False
    references = [box(0, 0, 6, 10), box(20, 20, 10, 10, ignore=True)]
    detections = [
        box(0, 0, 6, 5, 0.9),  # half of the first; 15 of 30 pixels are seen
        box(20, 20, 10, 12, 0.9),  # 100 pixels ignored, 20 beside
        box(40, 40, 3, 3, 0.9),  # below the mapping unit
        box(50, 50, 5, 5, 0.1),  # below the threshold
    ]
    tally = score(detections, references, valid)
    c = tally.pixels
    assert (c.tp, c.fn, c.fp) == (15, 15, 20)
    assert c.total == 57 * 80 - 100
    assert tally.km2 == pytest.approx(57 * 80 * 625e-6)
    assert tally.n == {
        "detections": 2, "detections_all_scores": 3, "below_min_pixels": 1, "references": 1,
    }  # fmt: skip
    assert tally.objects["objects"].total.ignored == 1
    # Blocks of ground add up to the whole.
    halves = [Window(0, 0, 60, 33), Window(0, 33, 60, 47)]
    parts = [score(detections, references, valid, [w]).pixels for w in halves]
    assert parts[0] + parts[1] == c
    assert score(detections, references, valid, halves).pixels == c


def test_areas_confine_ap_like_the_counts() -> None:
    references = [box(5, 5, 6, 6), box(5, 60, 6, 6)]
    detections = [box(5, 5, 6, 6, 0.9), box(30, 60, 6, 6, 0.95)]
    valid = np.ones((60, 80), bool)
    left = score(detections, references, valid, [Window(0, 0, 60, 40)]).metrics()
    assert left["coco"]["ap"] == pytest.approx(1.0)
    assert left["objects"]["f1"] == 1.0
    right = score(detections, references, valid, [Window(0, 40, 60, 40)]).metrics()
    assert right["coco"]["ap"] == 0.0
    assert (right["objects"]["fp"], right["objects"]["fn"]) == (1, 1)


def test_tallies_add_up() -> None:
    valid = np.ones((60, 80), bool)
    a = score([box(5, 5, 6, 6, 0.9)], [box(5, 5, 6, 6)], valid)
    b = score([box(9, 9, 6, 6, 0.8)], [box(30, 30, 6, 6)], valid)
    a.add(b)
    m = a.metrics()
    assert (m["objects"]["tp"], m["objects"]["fp"], m["objects"]["fn"]) == (1, 1, 1)
    assert m["n"]["references"] == 2
    assert m["objects"]["fp_per_1000km2"] == pytest.approx(1000 / (2 * 60 * 80 * 625e-6))
    assert m["curve"][-1] == {"score": 0.8, "precision": 0.5, "recall": 0.5}

"""Scores of simulated maps, their blocks and their intervals."""

from typing import NamedTuple

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from odc.geo.geobox import GeoBox

from components.config import SimulateConfig
from components.evaluation import simv1
from components.evaluation.bootstrap import BlockGrid
from components.evaluation.boundary import boundaries, edge
from components.evaluation.coco_ap import (
    MapObjects,
    average_precision,
    coco_matches,
    coco_metrics,
)
from components.evaluation.figures_of_merit import (
    completeness,
    counts,
    object_counts,
    reliability_rows,
    statistics,
    strata,
    threshold_rows,
)
from components.evaluation.footprints import Footprint, overlaps
from components.evaluation.intervals import differences, draw_weights, interval
from components.evaluation.scores import pool, score_simulated
from components.evaluation.simtruth import Truth, read_truth
from components.evaluation.tally import score_map
from components.simulation.region import simulate_region
from components.simulation.reserved import RESERVED


class Map(NamedTuple):
    truth: Truth
    valid: np.ndarray
    labels: gpd.GeoDataFrame


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Map:
    out = tmp_path_factory.mktemp("truth") / "region"
    config = SimulateConfig(
        seed=900_900, height=512, width=448, periods=1, landslides_per_1000km2=1500
    )
    sim = simulate_region(out, config)
    with rasterio.open(sim.dem) as dem:
        grid = GeoBox(dem.shape, dem.transform, dem.crs)
    with rasterio.open(next(sim.products[0].glob("*_corr.tif"))) as src:
        coherence = src.read(1)
    valid = coherence >= 0.3
    truth = read_truth(sim.labels, sim.truth, grid, valid, coherence, 180)
    return Map(truth, valid, gpd.read_file(sim.labels))


def shifted(f: Footprint, by: int, score: float) -> Footprint:
    return Footprint(f.row, f.col + by, f.mask, score)


def noisy(truth: Truth, seed: int = 1) -> list[Footprint]:
    """Most references, some of them displaced, and boxes that are none."""
    rng = np.random.default_rng(seed)
    found = [
        shifted(r, int(rng.integers(0, 3)), float(rng.beta(5, 2)))
        for r in truth.references
        if rng.random() < 0.8 and r.col + r.mask.shape[1] + 3 < 448
    ]
    for _ in range(60):
        row, col = rng.integers(0, 430, 2)
        found.append(Footprint(int(row), int(col), np.ones((5, 6), bool), float(rng.beta(2, 4))))
    return found


def scored(m: Map, found, score_min: float = 0.4):
    return score_simulated(found, m.truth, m.valid, 25.0, score_min=score_min, min_pixels=12)


def test_truth_of_a_simulated_region(simulated: Map) -> None:
    t = simulated.truth
    c = t.counts
    fates = ("ignored_label", "ignored_unobservable", "not_visible", "small", "counted")
    assert c["landslides"] == sum(c[k] for k in fates) == len(t.references)
    assert c["drawn"] == len(simulated.labels) == c["landslides"] - c["not_visible"]
    assert c["ignored_label"] == simulated.labels["ignore"].sum()
    big = (simulated.labels.area / 625 >= 25) & (simulated.labels["ignore"] == 0)
    assert sum(not f.ignore for f in t.headline()) == c["counted"]
    assert c["counted"] <= big.sum()
    assert c["counted"] > 10
    counted = ~np.array([f.ignore for f in t.references])
    assert (t.facts["snr"][counted] >= 2).all()
    assert (t.facts["coherence"][counted] > 0.2).all()


def test_an_oracle_is_perfect(simulated: Map) -> None:
    found = [
        Footprint(f.row, f.col, f.mask, 0.9) for f in simulated.truth.references if not f.ignore
    ]
    s = scored(simulated, found)
    figures = {k: v[0] for k, v in statistics(s, draw_weights(len(s.km2), 3), lambda x: x).items()}
    for name in ("iou25.f1", "iou50.f1", "iou75.pq", "coco.ap", "coco.ap_small"):
        assert figures[name] == pytest.approx(1), name
    assert figures["boundary.f1_1px"] == pytest.approx(1)
    assert figures["iou50.fp_per_1000km2"] == figures["area.bias"] == 0
    assert figures["pixels.recall"] == figures["pixels.precision"] == 1
    assert figures["ece.before"] == pytest.approx(0.1)
    assert counts(s)["references"] == simulated.truth.counts["counted"]


def test_sums_over_blocks_equal_the_map_scored_by_the_product(simulated: Map) -> None:
    found = noisy(simulated.truth)
    s = scored(simulated, found)
    figures = statistics(s, draw_weights(len(s.km2), 5), None)
    tally = score_map(
        found, simulated.truth.headline(), simulated.valid, None,
        iou=0.5, score_min=0.4, min_pixels=12, pixel_km2=625e-6,
    )  # fmt: skip
    m = tally.metrics()
    for name in ("f1", "pq", "precision", "recall", "fp_per_1000km2", "mean_matched_iou"):
        assert figures[f"iou50.{name}"][0] == pytest.approx(m["objects"][name]), name
        assert figures[f"iou25.{name}"][0] == pytest.approx(m["objects_iou25"][name]), name
    for name in ("iou_fg", "dice"):
        assert figures[f"pixels.{name}"][0] == pytest.approx(m["pixels"][name]), name
    for name in ("ap", "ap50", "ap75", "ap_small"):
        assert figures[f"coco.{name}"][0] == pytest.approx(m["coco"][name]), name
    assert 0.1 < figures["iou50.f1"][0] < 0.95
    total = object_counts(s, "iou50").sum(axis=0)
    assert counts(s)["detections"] == sum(
        d.score >= 0.4 and d.n_pixels >= 12 for d in found
    ) == total[0] + total[1] + total[3]  # fmt: skip
    assert counts(s)["below_min_pixels"] == sum(d.n_pixels < 12 for d in found)


def test_strata_share_out_references_and_false_alarms(simulated: Map) -> None:
    s = scored(simulated, noisy(simulated.truth))
    draws = draw_weights(len(s.km2), 20)
    rows = strata(s, draws)
    n = counts(s)
    assert sum(r["n"] for r in rows["size"]) == n["references_any_size"] > n["references"]
    for fact in ("snr", "rate", "coherence", "shape", "motion"):
        assert sum(r["n"] for r in rows[fact]) == n["references"], fact
    alarms = sum(r["fp_per_1000km2"]["value"] or 0 for r in rows["size"])
    assert alarms == pytest.approx(object_counts(s, "any").sum(axis=0)[1] / s.km2.sum() * 1000)
    cells = completeness(s, draws)
    assert sum(c["n"] for c in cells) == len(simulated.truth.footprints)
    assert all(c["probability"]["value"] == c["found"] / c["n"] for c in cells if c["n"])
    assert sum(c["found"] for c in cells) == (s.completeness.score >= 0.4).sum() > 10
    tables = reliability_rows(s, lambda x: x**2)
    assert sum(r["n"] for r in tables["before"]) == sum(r["n"] for r in tables["after"])


def test_a_detection_on_a_landslide_that_none_could_see_is_neither(simulated: Map) -> None:
    hidden = [f for f in simulated.truth.references if f.ignore and f.n_pixels >= 50]
    found = [Footprint(f.row, f.col, f.mask, 0.9) for f in hidden[:3]]
    total = object_counts(scored(simulated, found), "iou50").sum(axis=0)
    assert total[[0, 1, 3]].tolist() == [0, 0, 3]


def test_pooled_maps_add_up(simulated: Map) -> None:
    alone = [scored(simulated, noisy(simulated.truth, k)) for k in (1, 2)]
    both = pool(alone)
    for rule in ("iou25", "iou50", "iou75", "any"):
        parts = np.concatenate([object_counts(s, rule) for s in alone])
        np.testing.assert_array_equal(object_counts(both, rule), parts)
    once = np.ones((1, len(both.km2)))
    together = coco_metrics(both.objects)
    assert statistics(both, once, None)["coco.ap"][0] == pytest.approx(together["ap"])
    # Blocks of the first map alone give the first map.
    first = np.concatenate([np.ones(len(alone[0].km2)), np.zeros(len(alone[1].km2))])[None]
    for name, values in statistics(both, first, None).items():
        expected = statistics(alone[0], np.ones((1, len(alone[0].km2))), None)[name]
        assert values[0] == pytest.approx(expected[0]), name
    assert pool(alone[:1]) is alone[0]


def test_a_weight_of_two_is_the_map_twice() -> None:
    rng = np.random.default_rng(8)
    square = np.ones((6, 6), bool)
    references = [Footprint(20 * r, 20 * c, square) for r in range(4) for c in range(4)]
    detections = [
        Footprint(f.row, f.col + int(rng.integers(0, 6)), square, float(rng.random()))
        for f in references
    ]
    one = MapObjects(detections, references, overlaps(detections, references))
    few = MapObjects(detections[:5], references[:7], overlaps(detections[:5], references[:7]))
    matches = coco_matches([one, few])
    weights = np.where(matches.place[:, 0] == 1, 2.0, 1.0)[None]
    got = average_precision(matches, weights)[0]
    expected = average_precision(m := coco_matches([one, few, few]), np.ones((1, len(m.place))))
    np.testing.assert_allclose(got, expected[0])


def test_blocks_are_whole_and_cover_the_map() -> None:
    grid = BlockGrid.of((2048, 1000), 25.0)
    assert len(grid) == len(grid.windows) == 5 * 2
    seen = np.zeros((2048, 1000), int)
    for k, w in enumerate(grid.windows):
        seen[w.slices] += 1
        corners = [(w.row, w.col), (w.row_end - 1, w.col_end - 1)]
        assert [grid.at(*c) for c in corners] == [k, k]
    assert (seen == 1).all()
    assert len(BlockGrid.of((100, 100), 25.0)) == 1


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    weights = draw_weights(60, 400)
    assert (weights.sum(axis=1) == 60).all()
    hits = 0
    for _ in range(300):
        blocks = rng.normal(5.0, 2.0, 60)
        got = interval(weights @ blocks / 60)
        hits += got["low"] <= 5.0 <= got["high"]
    assert 0.90 < hits / 300 < 0.98


def test_paired_differences_are_narrower_than_their_parts() -> None:
    rng = np.random.default_rng(4)
    weights = draw_weights(50)
    ground = rng.normal(0, 3, 50)  # what both methods meet on the same ground
    a = {"f1": weights @ (ground + 0.5 + rng.normal(0, 0.2, 50)), "only": weights @ ground}
    b = {"f1": weights @ (ground + rng.normal(0, 0.2, 50))}
    assert set(differences(a, b)) == {"f1"}
    d = differences(a, b)["f1"]
    assert d["low"] > 0
    width = interval(a["f1"])["high"] - interval(a["f1"])["low"]
    assert d["high"] - d["low"] < width / 5
    nothing = interval(np.full(11, np.nan))
    assert nothing == {"value": None, "low": None, "high": None}


def test_boundaries_against_distances_of_all_pairs() -> None:
    rng = np.random.default_rng(6)
    a, b = np.zeros((2, 40, 40), bool)
    a[5:15, 5:15] = a[20:31, 22:29] = True
    b[5:15, 7:17] = b[21:33, 22:30] = True
    ignore = rng.random(a.shape) < 0.1
    assert edge(a[:18, :18]).sum() == 36
    assert edge(np.ones((5, 5), bool)).sum() == 0  # nobody sees beyond the map
    for tolerance in (1, 2):
        got = boundaries(a, b, ignore, tolerance)
        for side, other, near in ((a, b, got.found_near), (b, a, got.wanted_near)):
            points = np.argwhere(edge(other))
            expected = np.zeros_like(a)
            for row, col in np.argwhere(edge(side) & ~ignore):
                squares = ((points - (row, col)) ** 2).sum(axis=1)
                expected[row, col] = squares.min() <= tolerance**2
            np.testing.assert_array_equal(near, expected)
            assert near.sum() > 0


def test_the_benchmark_is_what_it_claims() -> None:
    everything = simv1.regions()
    seeds = [r.config.seed for r in everything]
    assert len(set(seeds)) == len(seeds)
    assert all(s in RESERVED for s in seeds)
    test = [r for r in everything if r.split == "test"]
    assert sum(r.config.height * r.config.width * 625e-6 for r in test) >= 10_000
    assert {r.config.tracks[0] for r in test} == {"ascending", "descending"}
    assert all((r.config.landslides_per_1000km2 == 0) == (r.split == "null") for r in everything)
    assert [r.name for r in simv1.regions(("test",), limit=1)] == ["test-900001"]
    assert everything[0].split == "val"
    assert SimulateConfig().seed not in RESERVED
    assert "trial" in simv1.identity(None, 256)
    assert "trial" in simv1.identity(1, simv1.SIDE)
    assert simv1.identity(None, simv1.SIDE).startswith("sim-v1")


def test_thresholds_trade_misses_for_false_alarms_and_meet_the_operating_point(
    simulated: Map,
) -> None:
    found = noisy(simulated.truth)
    s = scored(simulated, found, score_min=0.4)
    draws = draw_weights(len(s.km2))
    rows = threshold_rows(s, draws)
    assert [r["score_min"] for r in rows] == [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    [operating] = [r for r in rows if r["operating"]]
    headline = statistics(s, draws, None)
    for name in ("precision", "recall", "f1", "fp_per_1000km2"):
        assert operating[name]["value"] == pytest.approx(headline[f"iou50.{name}"][0])
    alarms = [r["fp_per_1000km2"]["value"] for r in rows]
    recalls = [r["recall"]["value"] for r in rows]
    assert alarms == sorted(alarms, reverse=True)
    assert recalls == sorted(recalls, reverse=True)
    assert alarms[0] > alarms[-1]
    # Each row is what a map of that threshold would have been scored.
    alone = scored(simulated, found, score_min=0.7)
    sums = object_counts(alone, "iou50").sum(axis=0)
    row = next(r for r in rows if r["score_min"] == 0.7)
    assert row["recall"]["value"] == pytest.approx(sums[0] / (sums[0] + sums[2]))
    assert row["fp_per_1000km2"]["value"] == pytest.approx(1000 * sums[1] / alone.km2.sum())

"""Detections in a workspace → evaluation, inventory, report."""

import hashlib
import html
import json
import re
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from affine import Affine
from geopandas.testing import assert_geodataframe_equal
from odc.geo.geobox import GeoBox

from components.config import EvaluateConfig, InventoryConfig
from components.cube.store import StoreWriter, chunking, create_store
from components.errors import InputError, ProcessingError
from components.evaluation.evaluate import evaluate_detections, operating_threshold
from components.grid import Window, geobox_to_dict
from components.inference.instance_file import save_instances
from components.inference.instances import Instance
from components.inventory.attributes import attribute_table
from components.inventory.build import build_inventory, inventory_table
from components.inventory.export import fixed_dates
from components.inventory.pictures import choose_zooms
from components.inventory.plain import number, plain_date
from components.inventory.polygons import pixel_polygon
from components.inventory.report import MapEntry, Report, render_report
from components.inventory.rows import read_groups
from components.inventory.selection import Landslide, select
from components.layers import layers_of
from components.workspace import Artefact, Workspace, write_json

SHAPE = (96, 128)
GRID = GeoBox(SHAPE, Affine(25.0, 0, 500_000, 0, -25.0, 5_200_000), "EPSG:32633")
DATES = [("2023-01-01", "2023-06-30"), ("2023-06-30", "2023-12-27"), ("2023-12-27", "2024-06-24")]

#: Landslides of the simulated region: row, col, height, width, velocity, periods.
SLIDES = [
    (10, 10, 8, 6, -60.0, (0, 1, 2)),
    (40, 60, 12, 10, 45.0, (0, 1)),
    (70, 100, 6, 9, -80.0, (1, 2)),
    (15, 90, 7, 7, -50.0, (0, 1, 2)),
]


def period_of(k: int) -> str:
    return "_".join(d.replace("-", "") for d in DATES[k])


def instance(row: int, col: int, h: int, w: int, score: float) -> Instance:
    mask = np.ones((h, w), bool)
    return Instance(1, score, row, col, mask, mask.astype(np.float32), 2, 4)


def put(ws: Workspace, stage: str, place: Path, store: str, scope, arrays, meta) -> None:
    with ws.publish(stage, place, f"{stage}-{meta.get('period', '')}", meta) as folder:
        create_store(folder / store, GRID, layers_of(scope), chunking(SHAPE, 64, 64))
        for window in (Window(r, c, min(64, 96 - r), 64) for r in (0, 64) for c in (0, 64)):
            part = {k: v[window.slices] for k, v in arrays.items()}
            StoreWriter(folder / store).write(window, part)


def make_workspace(root: Path, periods: int, *, landslides: bool = True) -> Workspace:
    """A region with known layers, and detections as inference publishes them."""
    ws = Workspace(root)
    flat = np.ones(SHAPE, np.float32)
    rows = np.arange(96, dtype=np.float32)[:, None] * flat
    region = {"elevation": 1000 + 5 * rows, "slope": 20 * flat, "aspect": 90 * flat}
    grid = geobox_to_dict(GRID)
    put(ws, "region", ws.place("region"), "region.zarr", "region", region, {"grid": grid})
    put(
        ws, "track", ws.place("track", "descending"), "track.zarr", "track",
        {"los_sensitivity": -0.5 * flat}, {"track": "descending"},
    )  # fmt: skip
    labels = []
    for k in range(periods):
        rng = np.random.default_rng(k)
        v = rng.normal(0, 3, SHAPE).astype(np.float32)
        instances = []
        for row, col, h, w, speed, when in SLIDES:
            if k in when and landslides:
                v[row : row + h, col : col + w] = speed
                instances.append(instance(row, col, h, w, 0.9 - 0.01 * col / 10))
                polygon = pixel_polygon(np.ones((h, w), bool), row, col, GRID.affine)
                labels.append({"track": "descending", "period": period_of(k), "geometry": polygon})
        instances += [instance(80, 10, 5, 5, 0.2), instance(85, 40, 2, 3, 0.95)]
        valid = np.ones(SHAPE, bool)
        valid[:, :4] = False
        v[~valid] = np.nan
        facts = {"track": "descending", "period": period_of(k)}
        start, end = DATES[k]
        put(
            ws, "cube", ws.place("cube", *facts.values()), "cube.zarr", "period",
            {"los_velocity": v, "los_displacement": v * 0.0005, "los_velocity_std": 2 * flat,
             "coherence": 0.7 * flat, "valid": valid},
            {**facts, "date_start": start, "date_end": end, "days": 180, "sha256": f"{k}" * 64,
             "sigma_velocity": 3.0, "valid_fraction": float(valid.mean()), "grid": grid},
        )  # fmt: skip
        windows = {"total": 6, "done": 5, "skipped": 1, "failed": 0, "capped": 0}
        meta = {**facts, "model_hash": "m" * 64, "score_threshold": 0.5, "windows": windows}
        place = ws.place("detections", *facts.values())
        with ws.publish("detections", place, f"detections-{k}-{landslides}", meta) as folder:
            save_instances(folder / "instances.npz", instances)
    if labels:
        frame = gpd.GeoDataFrame(labels, crs="EPSG:32633")
        with fixed_dates():
            frame.to_file(root / "labels.gpkg", layer="landslides")
    return ws


def bytes_of(artefact: Artefact) -> dict[str, str]:
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(artefact.folder.iterdir())
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Workspace, Artefact, Artefact]:
    ws = make_workspace(tmp_path_factory.mktemp("ws"), 2)
    found = ws.artefacts("detections")
    evaluation = evaluate_detections(
        ws, found, ws.root / "labels.gpkg", EvaluateConfig(), InventoryConfig()
    )
    return ws, evaluation, build_inventory(ws, found, InventoryConfig(), evaluation)


def test_evaluation_knows_the_truth(built) -> None:
    _, evaluation, _ = built
    metrics = json.loads((evaluation.folder / "metrics.json").read_text())
    model = metrics["model"]["pooled"]
    assert model["objects"]["f1"] == model["pixels"]["iou_fg"] == model["coco"]["ap"] == 1.0
    assert model["objects"]["tp"] == 7
    assert model["n"]["below_min_pixels"] == 2
    assert set(metrics["model"]["maps"]) == {f"descending/{period_of(k)}" for k in (0, 1)}
    baseline = metrics["baseline"]["pooled"]
    assert baseline["objects"]["recall"] == 1.0
    assert baseline["pixels"]["precision"] < 1.0  # noise clusters touch or stand alone
    assert metrics["settings"]["area"] == "the whole map"
    assert metrics["settings"]["score_min"] == 0.5
    assert evaluation.meta["detections"] == ["detections-0-True", "detections-1-True"]


def test_evaluation_on_held_out_blocks_only(built, tmp_path: Path) -> None:
    ws = make_workspace(tmp_path / "ws", 1)
    with ws.publish("dataset", ws.place("dataset"), "d", {}) as folder:
        write_json(folder / "dataset.json", {"test_blocks": [[0, 0, 96, 64]]})
    found = ws.artefacts("detections")
    evaluation = evaluate_detections(
        ws, found, ws.root / "labels.gpkg", EvaluateConfig(), InventoryConfig()
    )
    metrics = json.loads((evaluation.folder / "metrics.json").read_text())
    assert metrics["n"] == {"maps": 1, "references": 3, "references_in_area": 1}
    assert metrics["settings"]["observable_km2"] == pytest.approx(96 * 60 * 625e-6)
    with ws.publish("dataset", ws.place("dataset"), "e", {}) as folder:
        write_json(folder / "dataset.json", {"test_blocks": []})
    with pytest.raises(ProcessingError) as e:
        evaluate_detections(ws, found, ws.root / "labels.gpkg", EvaluateConfig(), InventoryConfig())
    assert e.value.code == "SW-601"


def test_inventory_rows_say_what_was_planted(built) -> None:
    _, _, inventory = built
    table = gpd.read_file(inventory.folder / "landslides.gpkg", layer="landslides")
    assert len(table) == inventory.meta["n_landslides"] == 7
    assert inventory.meta["n_lineages"] == table["lineage_id"].nunique() == 4
    first = table[table["period"] == period_of(0)].sort_values("v_mean").iloc[0]
    assert first["v_mean"] == first["v_median"] == first["v_p95"] == -60
    assert first["v_slope"] == pytest.approx(120)
    assert first["n_pixels"] == 48
    assert first["geometry"].area == 48 * 625
    assert first["area_m2"] == pytest.approx(48 * 625 / 0.9996**2, rel=1e-4)
    assert first["elevation_min"] == 1050
    assert first["relief"] == 35
    assert first["coherence"] == pytest.approx(0.7)
    assert (first["n_windows"], first["agreement"]) == (2, 0.5)
    assert first["product_sha256"] == "0" * 64
    summary = json.loads((inventory.folder / "summary.json").read_text())
    assert [m["new"] for m in summary["maps"]] == [3, 1]
    assert summary["maps"][1]["continuing"] == 3
    assert summary["maps"][0]["counts"] == {
        "detections": 5, "below_score": 1, "below_min_pixels": 1, "duplicates": 0, "kept": 3,
            "vertical": 0,
    }  # fmt: skip
    assert summary["mapped_km2"] == pytest.approx(2 * 96 * 124 * 625e-6 / 0.9996**2, rel=1e-4)
    assert inventory.meta["windows"] == {"total": 12, "done": 10, "skipped": 2, "failed": 0}


def test_again_does_nothing_and_elsewhere_gives_the_same_bytes(built, tmp_path: Path) -> None:
    ws, evaluation, inventory = built
    found = ws.artefacts("detections")
    again = build_inventory(ws, found[::-1], InventoryConfig(), evaluation)
    assert again.reused
    assert again.key == inventory.key
    other = make_workspace(tmp_path / "elsewhere", 2)
    others = other.artefacts("detections")
    config = EvaluateConfig(), InventoryConfig()
    second = evaluate_detections(other, others, other.root / "labels.gpkg", *config)
    assert bytes_of(second) == bytes_of(evaluation)
    assert bytes_of(build_inventory(other, others, InventoryConfig(), second)) == bytes_of(
        inventory
    )


def test_a_later_period_changes_no_earlier_row(built, tmp_path: Path) -> None:
    _, _, inventory = built
    ws = make_workspace(tmp_path / "ws", 3)
    after = inventory_table(ws, ws.artefacts("detections"), InventoryConfig())
    before = gpd.read_parquet(inventory.folder / "landslides.parquet")
    kept = after[after["id"].isin(before["id"])].reset_index(drop=True)
    assert_geodataframe_equal(kept, before, check_dtype=False)  # text as object or as string
    assert after["lineage_id"].nunique() == 4  # the third period brings no stranger


def test_nothing_found_is_said_and_exported(tmp_path: Path) -> None:
    ws = make_workspace(tmp_path / "ws", 1, landslides=False)
    inventory = build_inventory(ws, ws.artefacts("detections"), InventoryConfig())
    assert inventory.meta["n_landslides"] == 0
    table = gpd.read_file(inventory.folder / "landslides.gpkg", layer="landslides")
    assert len(table) == 0
    assert table.crs.to_epsg() == 32633
    text = (inventory.folder / "report.html").read_text()
    assert "No landslides." in text
    assert not list(inventory.folder.glob("zoom_*"))


def test_report_is_self_contained(built) -> None:
    _, _, inventory = built
    text = (inventory.folder / "report.html").read_text()
    assert text.count('src="data:image/png;base64,') == text.count("<img") == 4 + 7
    plain = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?:|//[a-z]|<link|@import|url\(|<iframe", plain)
    table = gpd.read_parquet(inventory.folder / "landslides.parquet")
    for identity in table["id"]:
        assert identity in text
    for word in ("Evaluation", "Baseline", "Provenance", "m" * 64, "0.50", "Skipped"):
        assert word in text


def test_report_warns_where_terrain_is_unknown(built) -> None:
    _, _, inventory = built
    assert "No terrain model" not in (inventory.folder / "report.html").read_text()
    table = gpd.read_parquet(inventory.folder / "landslides.parquet").drop(columns="geometry")
    report = Report(
        title="t", maps=[], table=table.assign(elevation_mean=float("nan")), crs="c",
        region_km2=5.0, pixel_m=25.0, settings={},
    )  # fmt: skip
    assert "No terrain model" in render_report(report)
    empty = Report(
        title="t", maps=[], table=attribute_table([]), crs="c", region_km2=5.0, pixel_m=25.0,
        settings={},
    )  # fmt: skip
    assert "No terrain model" not in render_report(empty)


def test_report_escapes_what_it_is_given() -> None:
    evil = '<script>alert("x")</script>'
    entry = MapEntry(
        track=evil, period="20230101_20230630", date_start="2023-01-01", date_end="2023-06-30",
        n_landslides=0, new=0, continuing=0, not_found=2, area_km2=0.0, mapped_km2=5.0,
        windows={"total": 3, "failed": 2}, provenance={"model": evil},
    )  # fmt: skip
    report = Report(
        title=evil, maps=[entry], table=attribute_table([]), crs=evil, region_km2=5.0,
        pixel_m=25.0, settings={evil: evil}, card={"classes": [evil]}, software={evil: "1"},
    )  # fmt: skip
    text = render_report(report)
    assert evil not in text
    assert html.escape(evil, quote=True).replace("&quot;", "&#34;") in text
    assert "has gaps" in text  # failed windows are never silent


def test_numbers_and_dates_for_people() -> None:
    assert [number(1234.5, 1), number(-0.001, 1), number(-3, 0), number(float("nan"))] == [
        "1,234.5", "0.0", "−3", "–",
    ]  # fmt: skip
    assert plain_date("2023-02-05") == "5 Feb 2023"


def test_selection_counts_every_loss_and_identity_follows_the_ground() -> None:
    grid = geobox_to_dict(GRID)
    facts = {"track": "D", "period": "P", "score_min": 0.5, "min_pixels": 12}
    instances = [
        instance(5, 5, 4, 4, 0.9),
        instance(5, 5, 4, 4, 0.8),  # the same outline again
        instance(5, 5, 4, 4, 0.4),
        instance(9, 9, 3, 3, 0.9),
    ]
    got = select(instances, grid=grid, **facts)
    assert got.counts == {
        "detections": 4, "below_score": 1, "below_min_pixels": 1, "duplicates": 1, "kept": 1,
    }  # fmt: skip
    assert got.landslides[0].instance.score == 0.9
    # The same ground in a region that begins 3 pixels further north-west: the same identity.
    larger = {**grid, "transform": [25.0, 0, 500_000 - 75, 0, -25.0, 5_200_000 + 75]}
    moved = select([instance(8, 8, 4, 4, 0.9)], grid=larger, **facts)
    assert moved.landslides[0].id == got.landslides[0].id
    other = select(instances, grid=grid, **{**facts, "period": "Q"})
    assert other.landslides[0].id != got.landslides[0].id


def test_groups_cover_every_landslide_once_in_bounded_windows() -> None:
    rng = np.random.default_rng(0)
    slides = [
        Landslide(str(i), instance(*(int(x) for x in rng.integers(0, 3000, 2)), 9, 11, 0.9))
        for i in range(200)
    ]
    slides.append(Landslide("big", instance(10, 10, 600, 20, 0.9)))
    seen = []
    for window, members in read_groups(slides, block=512):
        seen += members
        assert window.height * window.width <= max(522**2, 600 * 20)
        for i in members:
            x = slides[i].instance
            inner = Window(x.row, x.col, *x.mask.shape)
            assert window.intersect(inner) == inner
    assert sorted(seen) == list(range(201))


def test_thresholds_by_rank_of_source() -> None:
    artefact = Artefact("detections", "k", "/nowhere", {"score_threshold": 0.4})
    assert operating_threshold(InventoryConfig(score_min=0.7), artefact, None) == 0.7
    assert operating_threshold(InventoryConfig(), artefact, {"score_threshold": 0.3}) == 0.4
    bare = Artefact("detections", "k", "/nowhere")
    assert operating_threshold(InventoryConfig(), bare, {"score_threshold": 0.3}) == 0.3
    assert operating_threshold(InventoryConfig(), bare, None) == 0.5


def test_bad_input_is_refused(tmp_path: Path) -> None:
    ws = Workspace(tmp_path)
    with pytest.raises(ProcessingError) as e:
        build_inventory(ws, [], InventoryConfig())
    assert e.value.code == "SW-602"
    with pytest.raises(ProcessingError) as e:
        evaluate_detections(ws, [], tmp_path / "l.gpkg", EvaluateConfig(), InventoryConfig())
    assert e.value.code == "SW-602"
    orphan = Artefact("detections", "k", str(tmp_path), {"track": "D", "period": "P"})
    with pytest.raises(ProcessingError) as e:
        evaluate_detections(ws, [orphan], None, EvaluateConfig(), InventoryConfig())
    assert e.value.code == "SW-601"
    with pytest.raises(InputError) as f:
        build_inventory(ws, [orphan], InventoryConfig())
    assert f.value.code == "SW-702"
    assert not (tmp_path / "inventory").exists()


def test_close_views_are_the_largest_and_the_fastest(built) -> None:
    _, _, inventory = built
    frame = gpd.read_parquet(inventory.folder / "landslides.parquet")
    frame = frame[frame["period"] == period_of(1)].reset_index(drop=True)
    chosen = choose_zooms(frame, 2)
    assert frame["area_m2"].idxmax() == chosen[0]
    assert frame["v_p95"].abs().idxmax() == chosen[1]
    assert len(set(choose_zooms(frame, 99))) == len(frame)

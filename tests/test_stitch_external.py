"""`slopewatch stitch`: COCO files of anybody's model to a GeoPackage, and what it refuses."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pycocotools import mask as coco_mask
from rasterio import features
from region import ROOT, command, last_json
from scenes import Truth, natural_scene, oracle, place, ring, window_map
from typer.testing import CliRunner

from components.errors import InputError, SlopewatchError, WorkspaceError
from components.grid.windows import Window
from components.inference.coco_results import CocoImages, read_images, read_results
from components.inference.instances import Detection
from components.inference.stitch import stitch
from components.inventory.external import Settings, georeference, stitch_external
from flows import verbs  # noqa: F401 - registers the verbs
from flows.cli import app

TRANSFORM = Affine(25, 0, 500_000, 0, -25, 3_400_000)
CRS = "EPSG:32647"
CATEGORIES = [{"id": 3, "name": "slide"}, {"id": 8, "name": "flow"}]


def full(d: Detection, w: Window) -> NDArray[np.uint8]:
    out = np.zeros((w.height, w.width), np.uint8)
    r, c = d.row - w.row, d.col - w.col
    out[r : r + d.prob.shape[0], c : c + d.prob.shape[1]] = d.prob >= 0.5
    return out


def compressed(mask: NDArray[np.uint8]) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def uncompressed(mask: NDArray[np.uint8]) -> dict[str, Any]:
    flat = np.concatenate([[0], mask.ravel(order="F"), [2]])
    ends = np.flatnonzero(np.diff(flat[1:]) != 0) + 1
    counts = np.diff(np.concatenate([[0], ends])).tolist()
    return {"size": list(mask.shape), "counts": counts if mask[0, 0] == 0 else [0, *counts]}


def images_of(windows: dict[int, Window]) -> dict[str, Any]:
    rows = [
        {"id": i, "width": w.width, "height": w.height, "row_off": w.row, "col_off": w.col}
        for i, w in windows.items()
    ]
    return {"images": rows, "categories": CATEGORIES}


def results_of(
    seen: list[Detection],
    windows: dict[int, Window],
    encode: Callable[[NDArray[np.uint8]], Any] = compressed,
) -> list[dict[str, Any]]:
    return [
        {
            "image_id": d.window_id,
            "category_id": d.category,
            "score": d.score,
            "segmentation": encode(full(d, windows[d.window_id])),
        }
        for d in seen
    ]


def write(folder: Path, images: Any, results: Any) -> tuple[Path, Path]:
    paths = folder / "images.json", folder / "results.json"
    for path, value in zip(paths, (images, results), strict=True):
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    return paths


def scene() -> tuple[Truth, dict[int, Window], list[Detection]]:
    truth = np.zeros((150, 140), np.int64)
    place(truth, ring(120, 9), 12, 15, 1)
    place(truth, np.ones((12, 130), bool), 134, 5, 2)
    truth[60:70, 60:78] = 3
    windows = window_map(truth.shape, 64, 0.4)
    return truth, windows, oracle(truth, windows, {1: 3, 2: 8, 3: 8})


def grid(truth: Truth) -> GeoBox:
    return GeoBox(truth.shape, TRANSFORM, CRS)


# -- what comes out --------------------------------------------------------------------------------


def test_the_truth_comes_back_as_polygons_with_holes_and_geodesic_areas(tmp_path: Path) -> None:
    truth, windows, seen = scene()
    paths = write(tmp_path, images_of(windows), results_of(seen, windows))
    found = stitch_external(*paths, grid(truth), tmp_path / "out" / "found.gpkg")
    assert (found.windows, found.detections, found.landslides) == (len(windows), len(seen), 3)
    assert found.by_category == {"slide": 1, "flow": 2}
    assert found.class_overlaps == {}
    assert found.counts["links"] > 10
    table = gpd.read_file(found.out, layer="landslides")
    assert table.crs == CRS
    assert list(table.columns[:-1]) == [
        "category_id", "category", "score", "area_m2", "n_windows", "agreement",
    ]  # fmt: skip
    assert table["category"].tolist() == ["slide", "flow", "flow"]
    assert table["category_id"].tolist() == [3, 8, 8]
    assert (table["score"] == 1).all()
    assert (table["agreement"] == 1).all()
    assert table["n_windows"].tolist()[1:] == [
        sum(bool((truth[w.slices] == k).any()) for w in windows.values()) for k in (3, 2)
    ]
    for (_, row), label in zip(table.iterrows(), (1, 3, 2), strict=True):
        back = features.rasterize([row.geometry], truth.shape, transform=TRANSFORM)
        np.testing.assert_array_equal(back, truth == label)
        # At the edge of the zone's middle third the scale is within 0.1 % of one.
        assert row.area_m2 == pytest.approx(625 * (truth == label).sum(), rel=2e-3)
    assert sum(len(p.interiors) for p in table.geometry[0].geoms) == 1


def test_all_encodings_and_orders_of_the_results_give_the_same_bytes(tmp_path: Path) -> None:
    truth, windows, seen = scene()
    rows = results_of(seen, windows)
    shuffled = [rows[k] for k in np.random.default_rng(0).permutation(len(rows))]
    images = images_of(windows)
    files = []
    for n, (a, b) in enumerate(
        [
            (images, rows),
            ({**images, "images": images["images"][::-1]}, shuffled),
            (images, results_of(seen, windows, uncompressed)),
        ]
    ):
        paths = write(tmp_path, a, json.dumps(b, indent=n))
        files.append(stitch_external(*paths, grid(truth), tmp_path / f"{n}.gpkg").out.read_bytes())
    assert files[0] == files[1] == files[2]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_polygons_are_masks_on_pixel_edges(tmp_path: Path) -> None:
    truth = np.zeros((60, 90), np.int64)
    truth[20:40, 10:80] = 1
    truth[5:12, 3:9] = 2
    windows = window_map(truth.shape, 60, 0.5)
    rows = []
    for d in oracle(truth, windows, {1: 3, 2: 3}):
        w = windows[d.window_id]
        r, c = d.row - w.row, d.col - w.col
        h, k = d.prob.shape
        square = [c, r, c + k, r, c + k, r + h, c, r + h]
        rows.append(
            {"image_id": d.window_id, "category_id": 3, "score": 0.5, "segmentation": [square]}
        )
    paths = write(tmp_path, images_of(windows), rows)
    table = gpd.read_file(stitch_external(*paths, grid(truth), tmp_path / "a.gpkg").out)
    assert table.area.tolist() == [42 * 625, 1400 * 625]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30), st.floats(0, 1))
def test_masks_are_decoded_as_the_reference_encodes_them(
    tmp_path_factory: pytest.TempPathFactory, seed: int, height: int, width: int, density: float
) -> None:
    rng = np.random.default_rng(seed)
    masks = [(rng.random((height, width)) < density).astype(np.uint8) for _ in range(3)]
    windows = {5: Window(4, 6, height, width)}
    rows = [
        {"image_id": 5, "category_id": 3, "score": 0.5, "segmentation": encode(m)}
        for m in masks
        for encode in (compressed, uncompressed)
    ]
    _, path = write(tmp_path_factory.mktemp("rle"), {}, rows)
    ((window_id, found),) = read_results(path, CocoImages(windows, {3: "slide"}))
    assert window_id == 5
    for d, mask in zip(found, np.repeat(masks, 2, axis=0), strict=True):
        np.testing.assert_array_equal(full(d, windows[5]), mask)


def test_no_results_are_an_empty_layer(tmp_path: Path) -> None:
    truth, windows, _ = scene()
    for results in ([], " [ ]\n"):
        paths = write(tmp_path, images_of(windows), results)
        for method in ("seam", "nmm"):
            found = stitch_external(*paths, grid(truth), tmp_path / "a.gpkg", Settings(method))
            table = gpd.read_file(found.out, layer="landslides")
            assert len(table) == found.landslides == found.detections == 0
            assert table.crs == CRS
            assert {"category", "area_m2", "agreement"} <= set(table.columns)


def test_classes_that_claim_the_same_ground_are_kept_and_reported(tmp_path: Path) -> None:
    truth = np.zeros((100, 100), np.int64)
    truth[20:80, 20:80] = 1
    windows = window_map(truth.shape, 64, 0.4)
    inner = np.where(np.pad(np.ones((20, 20), int), 40) > 0, 1, 0)
    seen = oracle(truth, windows, {1: 3}) + oracle(inner, windows, {1: 8})
    paths = write(tmp_path, images_of(windows), results_of(seen, windows))
    found = stitch_external(*paths, grid(truth), tmp_path / "a.gpkg")
    assert found.by_category == {"slide": 1, "flow": 1}
    assert found.class_overlaps == {"flow & slide": 1}


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "stitch.md").read_text()
    images, results = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    paths = write(tmp_path, images, results)
    found = stitch_external(*paths, GeoBox((64, 104), TRANSFORM, CRS), tmp_path / "a.gpkg")
    (row,) = gpd.read_file(found.out).itertuples()
    assert row.geometry.bounds == (500_750, 3_399_000, 502_000, 3_399_500)
    assert f"| 1 | landslide | {row.score:.2f} | {round(row.area_m2, -2):,.0f} | 2 | 1 |" in page


# -- the other methods -----------------------------------------------------------------------------


def test_boxes_split_long_landslides_and_fuse_parallel_ones_where_seams_do_not(
    tmp_path: Path,
) -> None:
    truth = np.zeros((200, 400), np.int64)
    y, x = np.mgrid[:200, :400]
    truth[(abs(y - x + 20) < 5) & (y < 100) & (y > 8)] = 1  # two diagonals, their boxes overlap
    truth[(abs(y - x - 0) < 5) & (y < 100) & (y > 8)] = 2
    truth[150:160, 10:390] = 3  # six windows long
    windows = window_map(truth.shape, 110, 0.25)
    seen = oracle(truth, windows, {1: 3, 2: 3, 3: 3})
    paths = write(tmp_path, images_of(windows), results_of(seen, windows))
    counts = {}
    for method in ("seam", "nms", "nmm", "greedy-nmm"):
        found = stitch_external(*paths, grid(truth), tmp_path / "a.gpkg", Settings(method))
        rows = gpd.read_file(found.out)
        below = rows.geometry.bounds["maxy"] < TRANSFORM.f - 140 * 25
        counts[method] = (int((~below).sum()), int(below.sum()))
    assert counts["seam"] == (2, 1)
    assert counts["nms"][1] > 1
    assert counts["greedy-nmm"][1] > 1
    assert counts["nmm"][0] == 1


def boxed(row: int, col: int, height: int, width: int, score: float) -> Detection:
    return Detection(0, 3, score, row, col, np.ones((height, width), np.float32))


@pytest.mark.parametrize(
    ("method", "metric", "scores"),
    [
        ("nms", "iou", [0.9, 0.7]),
        ("greedy-nmm", "iou", [0.9, 0.7]),
        ("nmm", "iou", [0.9]),
        ("nms", "ios", [0.9, 0.7]),
    ],
)
def test_chains_of_boxes(tmp_path: Path, method: Any, metric: Any, scores: list[float]) -> None:
    """Three boxes, each overlapping the next by 60 %: the second is taken, the third by NMM only."""
    windows = {0: Window(0, 0, 40, 60)}
    seen = [boxed(5, 5 + 4 * k, 10, 16, s) for k, s in enumerate((0.9, 0.8, 0.7))]
    paths = write(tmp_path, images_of(windows), results_of(seen, windows))
    place = GeoBox((40, 60), TRANSFORM, CRS)
    threshold = 0.6 if metric == "iou" else 0.7
    done = stitch_external(
        *paths,
        place,
        tmp_path / "a.gpkg",
        Settings(method, metric=metric, match_threshold=threshold),
    )
    table = gpd.read_file(done.out)
    assert sorted(table["score"], reverse=True) == scores
    width = {"nms": 16, "greedy-nmm": 20, "nmm": 24}[method]
    best = table.loc[table["score"].idxmax()]
    assert best.geometry.area == width * 10 * 625


# -- what is refused -------------------------------------------------------------------------------

GOOD = {"image_id": 1, "category_id": 3, "score": 0.5}
SIZE = [64, 64]
SQUARE = {"size": SIZE, "counts": [100, 5, 64 * 64 - 105]}


def result(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "segmentation": SQUARE, **changes}


def polygon(*ring: float) -> dict[str, Any]:
    return result(segmentation=[list(ring)])


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (result(image_id=99), "image 99"),
        (result(image_id="1"), "`image_id` '1'"),
        (result(category_id=1), "category 1"),
        (result(score=1.01), "score 1.01"),
        (result(score=-0.1), "score -0.1"),
        (result(score=float("nan")), "score nan"),
        (result(score=None), "score None"),
        (result(segmentation=None), "no segmentation"),
        (result(segmentation="mask"), "segmentation is a str"),
        (result(segmentation={"size": [64, 65], "counts": [64 * 65]}), "size [64, 65]"),
        (result(segmentation={"size": SIZE, "counts": [64 * 64 - 1]}), "4095 px"),
        (result(segmentation={"size": SIZE, "counts": [-4, 64 * 64 + 4]}), "add up"),
        (result(segmentation={"size": SIZE, "counts": "PPPP"}), "break off"),
        (result(segmentation={"size": SIZE, "counts": "~"}), "character"),
        (result(segmentation={"size": SIZE, "counts": [4096.5]}), "whole numbers"),
        (polygon(1, 1, 5, 5), "2 points"),
        (polygon(1, 1, 5, 5, 9), "2 points"),
        (polygon(1, 1, 80, 1, 80, 9), "leaves the image"),
        (polygon(1, -9, 8, 1, 8, 9), "leaves the image"),
        (polygon(1, 1, float("nan"), 1, 8, 9), "not numbers"),
        (result(segmentation=[[1, "x", 3, 4, 5, 6]]), "not numbers"),
        ([], "not a JSON object"),
    ],
)
def test_bad_results_are_named_and_nothing_is_left(tmp_path: Path, bad: Any, says: str) -> None:
    windows = {1: Window(0, 0, 64, 64), 2: Window(0, 40, 64, 64)}
    paths = write(tmp_path, images_of(windows), [result(), bad])
    out = tmp_path / "out"
    with pytest.raises(InputError) as e:
        stitch_external(*paths, GeoBox((64, 104), TRANSFORM, CRS), out / "a.gpkg")
    assert e.value.code == "SW-508"
    assert "result 1" in e.value.what
    assert says in e.value.what
    assert e.value.path == str(paths[1])
    assert list(out.iterdir()) == []


def image(**changes: Any) -> dict[str, Any]:
    base = {"id": 1, "width": 64, "height": 64, "row_off": 0, "col_off": 0}
    return {k: v for k, v in {**base, **changes}.items() if v is not ...}


@pytest.mark.parametrize(
    ("images", "categories", "says"),
    [
        ([image(), image(col_off=40)], CATEGORIES, "two images have id 1"),
        ([image(row_off=...)], CATEGORIES, "image 1 has `row_off` None"),
        ([image(col_off=...)], CATEGORIES, "image 1 has `col_off` None"),
        ([image(col_off=1.5)], CATEGORIES, "`col_off` 1.5"),
        ([image(id=...)], CATEGORIES, "image entry 0 has `id` None"),
        ([image(height=0)], CATEGORIES, "0 × 64"),
        ([image(col_off=41)], CATEGORIES, "leaves the raster"),
        ([image(row_off=-1)], CATEGORIES, "leaves the raster"),
        ([image()], [], "no categories"),
        ([image()], [{"id": 1}], "no `name`"),
        ([image()], [*CATEGORIES, CATEGORIES[0]], "two categories have id 3"),
        ({"1": image()}, CATEGORIES, "`images` is not a list"),
        ([image()], ..., "`categories` is not a list"),
    ],
)
def test_bad_images_are_named(tmp_path: Path, images: Any, categories: Any, says: str) -> None:
    data = {"images": images, "categories": categories}
    path = tmp_path / "images.json"
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not ...}))
    with pytest.raises(InputError) as e:
        read_images(path, (64, 104))
    assert (e.value.code, e.value.path) == ("SW-508", str(path))
    assert says in e.value.what


@pytest.mark.parametrize(
    "text", ["", "{}", "[", "[1", "[{} {}]", "[{},]", '[{"a": 1}', "[] 1", "\xff", "[{]}"]
)
def test_files_that_are_not_the_json_expected(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(text.encode("latin-1"))
    images = CocoImages({1: Window(0, 0, 8, 8)}, {3: "slide"})
    with pytest.raises(InputError) as e:
        list(read_results(path, images))
    assert e.value.code in {"SW-102", "SW-508"}
    if text not in {"[1", "[{} {}]", "[{},]", '[{"a": 1}'}:  # an entry before the damage
        assert e.value.code == "SW-102"
    with pytest.raises(InputError) as e:
        list(read_results(tmp_path / "absent.json", images))
    assert e.value.code == "SW-101"


def test_long_lists_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.inference import json_list

    monkeypatch.setattr(json_list, "_CHUNK", 7)
    path = tmp_path / "a.json"
    values = [{"a": [1, 2, {"b": '],[\\"'}], "é": None}, 17, "x" * 100, [], 3.5e-7]
    for indent in (None, 3):
        path.write_text(json.dumps(values, indent=indent), encoding="utf-8")
        assert list(json_list.entries(path)) == values


def test_references_that_are_no_grid(tmp_path: Path) -> None:
    six, shape = list(TRANSFORM)[:6], [150, 140]
    bare = tmp_path / "bare.tif"
    with rasterio.open(bare, "w", driver="GTiff", width=4, height=4, count=1, dtype="uint8",
                       transform=TRANSFORM):  # fmt: skip
        pass
    (tmp_path / "text.tif").write_text("raster")
    cases: list[tuple[str, tuple[Any, ...]]] = [
        ("SW-701", (None, None, None, None)),
        ("SW-701", (None, six, CRS, None)),
        ("SW-701", (bare, six, CRS, shape)),
        ("SW-701", (None, six[:5], CRS, shape)),
        ("SW-701", (None, [0, 0, 1, 0, 0, 1], CRS, shape)),
        ("SW-701", (None, six, "EPSG:nowhere", shape)),
        ("SW-701", (None, six, CRS, [0, 140])),
        ("SW-101", (tmp_path / "absent.tif", None, None, None)),
        ("SW-102", (tmp_path / "text.tif", None, None, None)),
        ("SW-103", (bare, None, None, None)),
    ]
    for code, arguments in cases:
        with pytest.raises(SlopewatchError) as e:
            georeference(*arguments)
        assert e.value.code == code, arguments
    assert georeference(None, six, CRS, shape) == GeoBox((150, 140), TRANSFORM, CRS)


def test_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    truth, windows, seen = scene()
    paths = write(tmp_path, images_of(windows), results_of(seen, windows))
    for out, code in [
        (tmp_path / "a.shp", "SW-701"),
        (tmp_path / "images.json" / "a.gpkg", "SW-201"),
        (Path("/proc/a.gpkg"), "SW-201"),
    ]:
        with pytest.raises(SlopewatchError) as e:
            stitch_external(*paths, grid(truth), out)
        assert e.value.code == code, out


def test_a_full_disk_leaves_the_file_of_before(tmp_path: Path) -> None:
    import resource

    truth, windows, seen = scene()
    paths = write(tmp_path, images_of(windows), results_of(seen, windows))
    out = tmp_path / "out" / "a.gpkg"
    stitch_external(*paths, grid(truth), out)
    before = out.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(WorkspaceError) as e:
            stitch_external(*paths, grid(truth), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert e.value.code == "SW-202"
    assert out.read_bytes() == before
    assert [p.name for p in out.parent.iterdir()] == ["a.gpkg"]


# -- the verb --------------------------------------------------------------------------------------


def test_the_verb(tmp_path: Path) -> None:
    truth = natural_scene(3, (150, 140))
    windows = window_map(truth.shape, 64, 0.4)
    seen = oracle(truth, windows, dict.fromkeys(range(1, 99), 3))
    images, results = write(tmp_path, images_of(windows), results_of(seen, windows))
    raster, out = tmp_path / "ref.tif", tmp_path / "found.gpkg"
    with rasterio.open(raster, "w", driver="GTiff", width=140, height=150, count=1, dtype="uint8",
                       crs=CRS, transform=TRANSFORM):  # fmt: skip
        pass
    inputs = ("--images", images, "--results", results, "--out", out)
    stated = ("--transform", "25,0,500000,0,-25,3400000", "--crs", CRS, "--shape", "150,140")
    found = last_json(command("stitch", *inputs, *stated), tmp_path / "home")
    assert found["out"] == str(out)
    assert found["landslides"] == len(stitch(seen, windows, truth.shape).instances)
    assert found["counts"]["detections"] == len(seen)
    written = out.read_bytes()
    assert len(gpd.read_file(out)) == found["landslides"]
    again = stitch_external(
        images, results, georeference(raster, None, None, None), tmp_path / "again.gpkg"
    )
    tables = [gpd.read_file(p) for p in (out, again.out)]
    pd.testing.assert_frame_equal(*tables)
    for wrong, code in [
        (("--raster", raster, "--method", "wbf"), "SW-701"),
        (("--raster", raster, "--metric", "giou"), "SW-701"),
        (("--transform", "1,2,x", *stated[2:]), "SW-701"),
        ((*stated[:-1], "150.5,140"), "SW-701"),
        (("--raster", tmp_path / "absent.tif"), "SW-101"),
        (("--raster", raster, "--results", tmp_path / "absent.json"), "SW-101"),
    ]:
        done = CliRunner().invoke(app, ["stitch", *map(str, (*inputs, *wrong)), "--json"])
        assert done.exit_code == 1
        assert json.loads(done.stdout.splitlines()[-1])["error"] == code
    assert out.read_bytes() == written
    assert sorted(os.listdir(tmp_path)) == [
        "again.gpkg", "found.gpkg", "home", "images.json", "ref.tif", "results.json",
    ]  # fmt: skip

"""Tiles, COCO and the torch dataset against masks that are known to the pixel."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import torch
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from shapely.geometry import MultiPolygon, Polygon, box

from components.config import DatasetConfig, TileConfig
from components.cube.store import StoreWriter, chunking, create_store
from components.dataset.coco import build_dataset
from components.dataset.drawing import draw
from components.dataset.presets import CHANNELS, TERRAIN, render
from components.dataset.resample import upsample_bilinear, upsample_nearest
from components.dataset.tiles import TILE_LAYERS, TileStore, build_tiles
from components.dataset.torch_dataset import TileDataset
from components.errors import InputError, ModelError, WorkspaceError
from components.grid import Window, geobox_to_dict
from components.layers import LAYERS, layers_of
from components.workspace import Artefact, Workspace

CRS = "EPSG:32647"
ORIGIN = (500_000.0, 3_300_000.0)
PERIODS = ("20230101_20230630", "20230630_20231227")
SIGMA = 8.0


def geobox(shape):
    return GeoBox(shape, Affine(25.0, 0.0, ORIGIN[0], 0.0, -25.0, ORIGIN[1]), CRS)


def at(row, col, height, width):
    """A polygon on pixel edges."""
    x, y = ORIGIN[0] + 25 * col, ORIGIN[1] - 25 * row
    return box(x, y - 25 * height, x + 25 * width, y)


def fields(shape, seed):
    rng = np.random.default_rng(seed)
    v = rng.normal(0, SIGMA, shape).astype(np.float32)
    values = {
        "los_velocity": v,
        "los_displacement": v * np.float32(180 / 365.2425e3),
        "coherence": rng.uniform(0.3, 1, shape).astype(np.float32),
        "valid": np.ones(shape, bool),
        "los_sensitivity": rng.uniform(-1, 1, shape).astype(np.float32),
        "slope": rng.uniform(0, 45, shape).astype(np.float32),
        "relative_height": rng.uniform(0, 1, shape).astype(np.float32),
    }
    values["valid"][:, :7] = False  # a strip without data along the left border
    for name in ("los_velocity", "los_displacement", "coherence"):
        values[name][:, :7] = np.nan
    return values


def publish(ws, stage, parts, scope, shape, values, meta):
    final = ws.place(stage, *parts)
    with ws.publish(stage, final, hashlib.sha256(repr(parts).encode()).hexdigest(), meta) as folder:
        store = folder / f"{stage}.zarr"
        create_store(store, geobox(shape), layers_of(scope), chunking(shape, 64, 128))
        held = {k: v for k, v in values.items() if LAYERS[k].scope == scope}
        StoreWriter(store).write(Window(0, 0, *shape), held)
    return Artefact(stage, "", str(final), meta)


def make_workspace(root: Path, shape=(400, 150), periods=PERIODS):
    """A workspace as ingest leaves it: region, one track, one cube a period."""
    ws = Workspace(root)
    grid = geobox_to_dict(geobox(shape))
    publish(ws, "region", (), "region", shape, fields(shape, 0), {"grid": grid})
    publish(ws, "track", ("descending",), "track", shape, fields(shape, 0), {})
    cubes = []
    for i, period in enumerate(periods):
        meta = {"track": "descending", "period": period, "sigma_velocity": SIGMA, "grid": grid}
        parts = ("descending", period)
        cube = publish(ws, "cube", parts, "period", shape, fields(shape, i), meta)
        cubes.append(replace(cube, key=f"{i}" * 64))
    return ws, cubes


TILES = TileConfig(size=50, stride=50)
CFG = DatasetConfig(block_km=1.25, min_pixels=6)

#: Landslide, its pixels in all.
RING = at(5, 60, 20, 20).difference(at(10, 65, 6, 6))
EDGE = at(20, 90, 4, 20)  # half in one tile, half in the next
SLIVER = at(30, 98, 4, 20)  # a tenth in one tile
TINY = at(2, 102, 1, 3)
PARTS = MultiPolygon([at(60, 60, 3, 3), at(66, 66, 3, 3)])
SHAPES = [RING, EDGE, SLIVER, TINY, PARTS, *[at(r, 60, 6, 9) for r in range(110, 400, 50)]]


def write_labels(path, shapes=SHAPES, **columns):
    frame = gpd.GeoDataFrame(
        {"slide_id": range(1, len(shapes) + 1), **columns}, geometry=list(shapes), crs=CRS
    )
    pyogrio.write_dataframe(frame, path)
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("built")
    ws, cubes = make_workspace(root / "ws")
    tiles = build_tiles(ws, cubes, TILES)
    labels = write_labels(root / "labels.gpkg")
    return ws, cubes, tiles, labels, build_dataset(ws, tiles, labels, CFG)


def coco_of(dataset, fold):
    with open(os.devnull, "w") as quiet:
        stdout, sys.stdout = sys.stdout, quiet
        try:
            return COCO(str(dataset.folder / "annotations" / f"{fold}.json"))
        finally:
            sys.stdout = stdout


def all_annotations(dataset):
    out = []
    for fold in ("train", "val", "test"):
        coco = coco_of(dataset, fold)
        out += [
            (coco.imgs[a["image_id"]], a, coco.annToMask(a).astype(bool))
            for a in coco.dataset["annotations"]
        ]
    return out


def tree_bytes(folder):
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


# ---- tiles -------------------------------------------------------------------------------------


def test_tiles_are_the_cube(built):
    _, _, tiles, _, _ = built
    store = TileStore(tiles.folder)
    assert tiles.meta["counts"] == {"planned": 48, "kept": 48, "too_little_valid": 0}
    assert [t.index for t in store.tiles] == list(range(48))
    for tile in store.tiles[::7]:
        truth = fields((400, 150), PERIODS.index(tile.period))
        truth.update({k: fields((400, 150), 0)[k] for k in TERRAIN})
        for name, data in store.read(tile, TILE_LAYERS).items():
            np.testing.assert_array_equal(data, truth[name][tile.window.slices])
        assert tile.valid_fraction == pytest.approx(truth["valid"][tile.window.slices].mean())
    stored = xr.open_zarr(tiles.folder / "tiles.zarr", consolidated=False)
    assert dict(stored.sizes) == {"tile": 48, "y": 50, "x": 50}
    assert stored["los_velocity"].attrs["units"] == "mm year-1"


def test_tiles_with_too_little_data_are_left_out_and_counted(tmp_path):
    ws, cubes = make_workspace(tmp_path / "ws", (100, 100), PERIODS[:1])
    tiles = build_tiles(ws, cubes, TileConfig(size=50, stride=50, valid_fraction_min=0.9))
    assert tiles.meta["counts"] == {"planned": 4, "kept": 2, "too_little_valid": 2}
    assert {t.window.col for t in TileStore(tiles.folder).tiles} == {50}
    with pytest.raises(InputError, match="SW-306"):
        build_tiles(ws, cubes, TileConfig(size=100, stride=50, valid_fraction_min=1.0))
    with pytest.raises(WorkspaceError, match="SW-205"):
        build_tiles(ws, [], TileConfig())


def test_upsampled_tiles_and_a_region_smaller_than_a_tile(tmp_path):
    shape = (40, 45)
    ws, cubes = make_workspace(tmp_path / "ws", shape, PERIODS[:1])
    store = TileStore(build_tiles(ws, cubes, TileConfig(size=48, stride=48, upsample=2)).folder)
    (tile,) = store.tiles
    assert tile.window == Window(0, 0, 40, 45)
    data = store.read(tile, ("los_velocity", "valid"))
    truth = fields(shape, 0)
    np.testing.assert_array_equal(data["los_velocity"], upsample_bilinear(truth["los_velocity"], 2))
    np.testing.assert_array_equal(data["valid"], upsample_nearest(truth["valid"], 2))


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_upsampling_neither_shifts_nor_spreads_gaps(factor):
    y, x = np.mgrid[:12, :15].astype(np.float32)
    plane = 3 * x - 2 * y
    fine = upsample_bilinear(plane, factor)
    yy, xx = (np.mgrid[: 12 * factor, : 15 * factor] + 0.5) / factor - 0.5
    inner = (slice(factor, -factor), slice(factor, -factor))
    np.testing.assert_allclose(fine[inner], (3 * xx - 2 * yy)[inner], atol=1e-4)
    plane[4, 5] = np.nan
    gaps = np.isnan(upsample_bilinear(plane, factor))
    np.testing.assert_array_equal(gaps, upsample_nearest(np.isnan(plane), factor))
    constant = np.where(np.isnan(plane), np.nan, 7).astype(np.float32)
    again = upsample_bilinear(constant, factor)
    np.testing.assert_allclose(again[np.isfinite(again)], 7)


# ---- drawing and COCO --------------------------------------------------------------------------


def test_draw_follows_pixel_centres():
    transform = geobox((100, 100)).affine
    drawn = draw(RING, transform)
    assert drawn.window == Window(5, 60, 20, 20)
    assert drawn.pixels == 400 - 36
    assert not drawn.mask[5:11, 5:11].any()
    rng = np.random.default_rng(0)
    for _ in range(8):
        ring = rng.uniform(-60, 60, (6, 2)) * 25
        polygon = Polygon(np.array(ORIGIN) + ring + [1000, -1000]).convex_hull
        drawn = draw(polygon, transform)
        rows, cols = np.mgrid[: drawn.window.height, : drawn.window.width]
        centres = [
            transform * (drawn.window.col + c + 0.5, drawn.window.row + r + 0.5)
            for r, c in zip(rows.ravel(), cols.ravel(), strict=True)
        ]
        inside = gpd.GeoSeries.from_xy(*np.array(centres).T).within(polygon).to_numpy()
        np.testing.assert_array_equal(drawn.mask.ravel(), inside)


def test_masks_areas_boxes_and_fractions_are_exact(built):
    *_, dataset = built
    found = all_annotations(dataset)
    assert len(found) > 10
    whole = {}
    for i, shape in enumerate(SHAPES, start=1):
        drawn = draw(shape, geobox((400, 150)).affine)
        canvas = np.zeros((400, 150), bool)
        canvas[drawn.window.slices] = drawn.mask
        whole[i] = canvas
    for image, a, mask in found:
        window = Window(*image["window"])
        truth = whole[a["slide_id"]][window.slices]
        np.testing.assert_array_equal(mask, truth)  # the hole of RING, both parts of PARTS
        assert a["area"] == truth.sum()
        rows, cols = np.nonzero(truth)
        assert a["bbox"] == [
            cols.min(),
            rows.min(),
            np.ptp(cols) + 1,
            np.ptp(rows) + 1,
        ]
        visible = truth.sum() / whole[a["slide_id"]].sum()
        assert a["visible_fraction"] == pytest.approx(visible, abs=1e-6)
        assert a["pixels_in_all"] == whole[a["slide_id"]].sum()
        assert a["iscrowd"] == int(visible < 0.3 or truth.sum() < 6)
        assert bool(a["ignored_for"]) == bool(a["iscrowd"])
    ids = {a["slide_id"] for _, a, _ in found}
    assert {1, 2, 3, 4, 5} & ids
    for fold in ("train", "val", "test"):
        coco = coco_of(dataset, fold)
        per_image = [(a["image_id"], a["slide_id"]) for a in coco.dataset["annotations"]]
        assert len(per_image) == len(set(per_image))  # several parts: one annotation


def test_cut_and_tiny_landslides_are_ignored_with_the_reason(tmp_path):
    ws, cubes = make_workspace(tmp_path / "ws", (100, 150), PERIODS[:1])
    tiles = build_tiles(ws, cubes, TileConfig(size=50, stride=50, valid_fraction_min=0))
    blind = at(20, 0, 10, 8)  # seven of its eight columns have no data
    unseen = at(20, 120, 10, 10)
    labels = write_labels(
        tmp_path / "l.gpkg", [*SHAPES[:5], blind, unseen], ignore=[0, 0, 0, 0, 0, 0, 1]
    )
    cfg = DatasetConfig(fractions=(1.0, 0.0, 0.0))
    dataset = build_dataset(ws, tiles, labels, cfg)
    reasons = {}
    for image, a, _ in all_annotations(dataset):
        reasons[(a["slide_id"], image["window"][1])] = a["ignored_for"]
    assert reasons[(1, 50)] == []
    assert reasons[(2, 50)] == reasons[(2, 100)] == []  # exactly half is enough
    assert reasons[(3, 50)] == ["tile_edge"]
    assert reasons[(3, 100)] == []
    assert reasons[(4, 100)] == ["size"]
    assert reasons[(6, 0)] == ["no_data"]
    assert reasons[(7, 100)] == ["label"]
    info = json.loads((dataset.folder / "dataset.json").read_text())
    assert info["counts"]["annotations"]["ignored_for_tile_edge"] == 1
    assert info["counts"]["annotations"]["train_iscrowd"] == 4
    for image, _, _ in all_annotations(dataset):
        semantic = np.asarray(Image.open(dataset.folder / "masks" / image["mask_file"]))
        assert set(np.unique(semantic)) <= {0, 1, 255}


def test_images_are_the_render_and_negatives_are_kept(built):
    *_, tiles, _, dataset = built
    store = TileStore(tiles.folder)
    by_ground = {(t.period, tuple(t.window)): t for t in store.tiles}
    counts = dataset.meta["counts"]
    info = json.loads((dataset.folder / "dataset.json").read_text())
    n = 0
    for fold in ("train", "val", "test"):
        coco = coco_of(dataset, fold)
        assert len(coco.imgs) == counts["tiles"][fold] == dataset.meta["folds"][fold] > 0
        empty = [i for i in coco.imgs if not coco.getAnnIds(imgIds=[i], iscrowd=False)]
        assert len(empty) == counts["tiles"].get(f"{fold}_negative", 0)
        n += len(empty)
        for image in coco.imgs.values():
            with np.load(dataset.folder / "images" / image["file_name"]) as archive:
                stored = archive["image"]
            tile = by_ground[(image["period"], tuple(image["window"]))]
            truth = render("rate", store.read(tile, TILE_LAYERS), SIGMA)
            np.testing.assert_array_equal(stored, truth.astype(np.float16))
            area = [Window(*w) for w in info["fold_areas"][fold]]
            overlap = [w.intersect(tile.window) for w in area]
            assert sum(w.height * w.width for w in overlap if w) == 2500
    assert n > 0
    assert info["test_blocks"] == info["fold_areas"]["test"]
    assert info["split"]["leaking_tiles"] == info["split"]["shared_tiles"] == 0
    split = pyogrio.read_dataframe(dataset.folder / "split.gpkg")
    assert split.crs.to_epsg() == 32647
    test_area = sum(h * w for _, _, h, w in info["test_blocks"]) * 625
    assert split[split["fold"] == "test"].area.sum() == pytest.approx(test_area)


def test_truth_scored_against_itself_is_perfect(built, capsys):
    *_, dataset = built
    coco = coco_of(dataset, "train")
    results = [
        {**{k: a[k] for k in ("image_id", "category_id", "segmentation", "bbox")}, "score": 1.0}
        for a in coco.dataset["annotations"]
        if not a["iscrowd"]
    ]
    for kind in ("segm", "bbox"):
        scored = COCOeval(coco, coco.loadRes(results), kind)
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
        assert scored.stats[0] == 1.0
    capsys.readouterr()


def test_labels_hold_for_their_track_and_period_only(tmp_path):
    ws, cubes = make_workspace(tmp_path / "ws", (100, 150))
    tiles = build_tiles(ws, cubes, TILES)
    cfg = DatasetConfig(fractions=(1.0, 0.0, 0.0))
    shapes = [at(10, 60, 8, 8), at(60, 60, 8, 8), at(60, 110, 8, 8)]
    path = write_labels(
        tmp_path / "l.gpkg",
        shapes,
        track=["descending", None, "ascending"],
        period=[PERIODS[0], None, None],
    )
    dataset = build_dataset(ws, tiles, path, cfg)
    seen = sorted((a["slide_id"], i["period"]) for i, a, _ in all_annotations(dataset))
    assert seen == [(1, PERIODS[0]), (2, PERIODS[0]), (2, PERIODS[1])]
    assert dataset.meta["counts"]["annotations"]["labels_of_other_pictures"] == 1
    other = write_labels(tmp_path / "o.gpkg", shapes[:1], track=["ascending"])
    with pytest.raises(InputError, match="SW-302"):
        build_dataset(ws, tiles, other, cfg)
    beside = write_labels(tmp_path / "b.gpkg", [at(2, 2, 1, 1)])
    with pytest.raises(InputError, match="SW-306"):
        build_dataset(ws, tiles, beside, cfg)
    assert build_dataset(ws, tiles, path, cfg).reused  # the failures left it in place


def test_same_inputs_same_bytes_and_nothing_twice(built, tmp_path):
    ws, cubes, tiles, labels, dataset = built
    assert build_tiles(ws, cubes[::-1], TILES).reused
    moved = tmp_path / "elsewhere.gpkg"
    moved.write_bytes(labels.read_bytes())
    assert build_dataset(ws, tiles, moved, CFG.model_copy(update={"labels": moved})).reused
    ws2, cubes2 = make_workspace(tmp_path / "ws2")
    tiles2 = build_tiles(ws2, cubes2, TILES)
    dataset2 = build_dataset(ws2, tiles2, labels, CFG)
    assert tree_bytes(tiles.folder) == tree_bytes(tiles2.folder)
    assert tree_bytes(dataset.folder) == tree_bytes(dataset2.folder)


# ---- torch -------------------------------------------------------------------------------------


def same(a, b):
    return torch.equal(a[0], b[0]) and all(torch.equal(a[1][k], b[1][k]) for k in a[1])


def test_torch_targets(built):
    *_, dataset = built
    data = TileDataset(dataset.folder, "train")
    coco = coco_of(dataset, "train")
    assert data.image_ids == sorted(coco.imgs)
    empty = 0
    for i in range(len(data)):
        image, target = data[i]
        truth = coco.loadAnns(coco.getAnnIds(imgIds=[data.image_ids[i]], iscrowd=False))
        n = len(truth)
        assert data.has_objects(i) == (n > 0)
        empty += n == 0
        assert image.dtype == torch.float32
        assert image.shape == (3, 50, 50)
        assert target["boxes"].shape == (n, 4)
        assert target["boxes"].dtype == torch.float32
        assert target["labels"].dtype == target["image_id"].dtype == torch.int64
        assert target["masks"].shape == (n, 50, 50)
        assert target["masks"].dtype == torch.uint8
        for a, b, m in zip(truth, target["boxes"], target["masks"], strict=True):
            x, y, w, h = a["bbox"]
            assert b.tolist() == [x, y, x + w, y + h]
            np.testing.assert_array_equal(m.numpy(), coco.annToMask(a))
        crowd = coco.loadAnns(coco.getAnnIds(imgIds=[data.image_ids[i]], iscrowd=True))
        ignore = np.any([np.zeros((50, 50)), *[coco.annToMask(a) for a in crowd]], axis=0)
        np.testing.assert_array_equal(target["ignore"].numpy(), ignore)
    assert empty > 0


def test_samples_depend_on_seed_epoch_and_index_alone(built):
    *_, dataset = built
    a = TileDataset(dataset.folder, "train", crop=32, augment=True, seed=5)
    b = TileDataset(dataset.folder, "train", crop=32, augment=True, seed=5)
    forward = [a[i] for i in range(len(a))]
    backward = [b[i] for i in reversed(range(len(b)))][::-1]
    assert all(same(x, y) for x, y in zip(forward, backward, strict=True))
    b.set_epoch(1)
    assert not any(same(x, b[i]) for i, x in enumerate(forward))
    b.set_epoch(0)
    assert all(same(x, b[i]) for i, x in enumerate(forward))
    other = TileDataset(dataset.folder, "train", crop=32, augment=True, seed=6)
    assert not any(same(x, other[i]) for i, x in enumerate(forward))


def test_crops_show_objects_and_have_no_empty_box(built):
    *_, dataset = built
    data = TileDataset(dataset.folder, "train", crop=16, augment=True)
    shown = asked = 0
    for epoch in range(12):
        data.set_epoch(epoch)
        for i in range(len(data)):
            image, target = data[i]
            assert image.shape == (3, 16, 16)
            boxes = target["boxes"]
            assert bool((boxes[:, 2:] - boxes[:, :2] >= 1).all())
            assert bool((boxes >= 0).all() and (boxes <= 16).all())
            for box_, mask in zip(boxes, target["masks"], strict=True):
                x1, y1, x2, y2 = (int(v) for v in box_)
                assert mask[y1:y2, x1:x2].sum() == mask.sum() >= 6
            if data.has_objects(i):
                asked += 1
                shown += len(boxes) > 0
    assert 0.4 < shown / asked < 0.9


def test_fringe_render_is_stored_as_a_picture(built, tmp_path):
    _, _, tiles, labels, _ = built
    ws = Workspace(tmp_path)
    cfg = CFG.model_copy(update={"preset": "fringe_rgb"})
    dataset = build_dataset(ws, tiles, labels, cfg)
    store = TileStore(tiles.folder)
    data = TileDataset(dataset.folder, "val")
    image, _ = data[0]
    record = coco_of(dataset, "val").imgs[data.image_ids[0]]
    tile = next(
        t for t in store.tiles if (t.period, list(t.window)) == (record["period"], record["window"])
    )
    truth = render("fringe_rgb", store.read(tile, TILE_LAYERS), SIGMA)
    np.testing.assert_allclose(image.numpy(), truth, atol=0.5 / 255 + 1e-6)
    assert data.channels == CHANNELS["fringe_rgb"]
    TileDataset(dataset.folder, "train", augment=True)[0]


def test_upsampled_dataset_has_fine_masks(tmp_path):
    ws, cubes = make_workspace(tmp_path / "ws", (100, 150), PERIODS[:1])
    tiles = build_tiles(ws, cubes, TileConfig(size=50, stride=50, upsample=2))
    shape = at(10, 60, 8, 8).buffer(-10, join_style="mitre")  # loses fine pixels, no coarse
    cfg = DatasetConfig(fractions=(1.0, 0.0, 0.0))
    dataset = build_dataset(ws, tiles, write_labels(tmp_path / "l.gpkg", [shape]), cfg)
    ((image, a, mask),) = all_annotations(dataset)
    assert (image["height"], image["width"]) == (100, 100)
    assert a["bbox"] == [21, 21, 14, 14]
    assert mask.sum() == 196
    info = json.loads((dataset.folder / "dataset.json").read_text())
    assert (info["pixel_size_m"], info["upsample"], info["tile_size"]) == (12.5, 2, 100)


def test_random_split_reports_its_leak(built, tmp_path):
    _, _, tiles, labels, _ = built
    cfg = CFG.model_copy(update={"split": "random"})
    dataset = build_dataset(Workspace(tmp_path), tiles, labels, cfg)
    info = json.loads((dataset.folder / "dataset.json").read_text())
    assert info["split"]["leaking_tiles"] > 0
    assert info["split"]["shared_tiles"] > 0


def test_damaged_dataset_and_bad_requests(built, tmp_path):
    *_, dataset = built
    with pytest.raises(InputError, match="SW-701"):
        TileDataset(dataset.folder, "validation")
    with pytest.raises(InputError, match="SW-307"):
        TileDataset(tmp_path, "train")
    with pytest.raises(ModelError, match="SW-404"):
        TileDataset(dataset.folder, "train", crop=64)
    copy = tmp_path / "copy"
    for p in dataset.folder.rglob("*"):
        if p.is_file():
            (copy / p.relative_to(dataset.folder)).parent.mkdir(parents=True, exist_ok=True)
            (copy / p.relative_to(dataset.folder)).write_bytes(p.read_bytes())
    data = TileDataset(copy, "train")
    first, second = sorted(coco_of(dataset, "train").imgs)[:2]
    (copy / "images" / f"{first:06d}.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"SW-307.*unreadable"):
        data[0]
    (copy / "images" / f"{second:06d}.npz").unlink()
    with pytest.raises(InputError, match=r"SW-307.*missing"):
        TileDataset(copy, "train")


def test_training_side_needs_no_raster_libraries():
    code = (
        "import sys\n"
        "for name in ('rasterio','zarr','dask','prefect','geopandas','pydantic','odc','affine',"
        "'shapely','pyogrio','xarray'):\n"
        "    sys.modules[name] = None\n"
        "import components.dataset.torch_dataset, components.dataset.presets\n"
        "import components.dataset.augment, components.dataset.resample\n"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

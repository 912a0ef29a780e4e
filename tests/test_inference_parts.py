"""Parts of a run with known answers: reading in runs, quiet windows, scales, lack of memory, refusals."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import geopandas as gpd
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rasterio.features import rasterize
from region import ROOT, simulate_small
from scipy import ndimage
from small_cube import CFG, SHAPE, content, copy, landslides, make_cube, write_weights

from components.config import InferConfig, IngestConfig, RegionConfig
from components.cube.ingest import ingest_products
from components.cube.read import cube_info, list_cubes, read_layers
from components.dataset.presets import render
from components.errors import ModelError, ProcessingError
from components.grid.windows import Window
from components.inference import predict as prediction
from components.inference.instance_file import load_instances
from components.inference.plan import Plan, make_plan, planned_windows, view_side
from components.inference.predict import Predictor, RawDetection, read_card
from components.inference.quiet import block_contrast, largest_in
from components.inference.read import read_run, runs
from components.inference.run import infer_cube
from components.products.registry import discover
from components.workspace import Workspace
from models.inference import detect_batch
from models.paste import paste_masks
from models.weights import card_path


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A workspace with one cube, and weights; tests work on copies."""
    folder = tmp_path_factory.mktemp("region")
    make_cube(folder / "ws", folder / "product")
    return folder / "ws", write_weights(folder / "weights.safetensors")


def plan_of(region: tuple[Path, Path], **settings: Any) -> Plan:
    ws = Workspace(region[0])
    (cube,) = ws.artefacts("cube")
    return make_plan(ws, cube, region[1], CFG.model_copy(update=settings))


# -- reading ---------------------------------------------------------------------------------------


def test_runs_hold_every_window_once_and_are_neighbours(region: tuple[Path, Path]) -> None:
    plan = plan_of(region, scales=(1, 2))
    found = [run for ids in plan.shards for run in runs(plan, ids)]
    assert [i for run in found for i in run] == list(range(len(plan.windows)))
    assert len(found) < len(plan.windows) / 3
    for run in found:
        assert len({(plan.windows[i].scale, plan.windows[i].ground.row) for i in run}) == 1


@pytest.mark.parametrize("upsample", [1, 2])
def test_a_run_gives_the_image_of_every_single_window(
    region: tuple[Path, Path], tmp_path: Path, upsample: int
) -> None:
    weights = write_weights(tmp_path / "w.safetensors", upsample=upsample)
    plan = plan_of((region[0], weights), quiet_sigma=0.0)
    run = max((run for ids in plan.shards for run in runs(plan, ids)), key=len)
    together = read_run(plan, run)
    assert sum(r.image is not None for r in together) > 3
    for r in together:
        (alone,) = read_run(plan, [r.window_id])
        assert (alone.valid_fraction, alone.skipped) == (r.valid_fraction, r.skipped)
        if r.image is not None:
            np.testing.assert_array_equal(alone.image, r.image)
            ground = plan.windows[r.window_id].ground
            assert r.image.shape == (3, ground.height * upsample, ground.width * upsample)


def test_an_image_is_what_the_preset_renders(region: tuple[Path, Path]) -> None:
    plan = plan_of(region)
    (one,) = read_run(plan, [len(plan.windows) - 1])
    window = plan.windows[-1].ground
    layers = read_layers(plan.ws, plan.cube.track, plan.cube.period, plan.layers, window)
    wanted = render("rate", layers, plan.cube.sigma_velocity)
    np.testing.assert_array_equal(one.image, wanted)


def test_a_coarse_image_is_the_mean_of_its_pixels(region: tuple[Path, Path]) -> None:
    plan = plan_of(region, scales=(1, 2), quiet_sigma=0.0)
    coarse = [i for i, w in enumerate(plan.windows) if w.scale == 2]
    grounds = [plan.windows[i].ground for i in coarse]
    covered = np.zeros(SHAPE, bool)
    for g in grounds:
        covered[g.slices] = True
    assert covered.all()
    assert {(g.row % 2, g.col % 2) for g in grounds} == {(0, 0)}
    inner = next(i for i in coarse if plan.windows[i].ground.row > 128)
    (one,) = read_run(plan, [inner])
    g = plan.windows[inner].ground
    assert one.image is not None
    assert one.image.shape == (3, 64, 64)
    layers = read_layers(plan.ws, plan.cube.track, plan.cube.period, plan.layers, g)
    means = {
        n: a.reshape(64, 2, 64, 2).mean(axis=(1, 3)) for n, a in layers.items() if n != "valid"
    }
    wanted = render("rate", {**means, "valid": np.ones((64, 64), bool)}, plan.cube.sigma_velocity)
    np.testing.assert_allclose(one.image, wanted, atol=1e-5)


@given(st.integers(1, 900), st.integers(64, 300), st.floats(0, 0.6), st.sampled_from([1, 2, 3]))
def test_windows_cover_the_map_begin_in_phase_and_overlap_as_asked(
    length: int, window: int, overlap: float, scale: int
) -> None:
    assume(round(window * (1 - overlap)) <= window - 8)
    cfg = InferConfig(window=window, overlap=overlap, scales=tuple(range(1, scale + 1)))
    planned = planned_windows((length, 77), cfg)
    for size in cfg.scales:
        spans = sorted({(w.ground.row, w.ground.row_end) for w in planned if w.scale == size})
        assert all(first % (16 * size) == 0 for first, _ in spans)
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        for (first, end), (after, after_end) in itertools.pairwise(spans):
            assert first < after
            assert end - after >= size * (window - round(window * (1 - overlap)))
            assert end <= after_end
        for first, end in spans:
            assert end - first <= size * (window + 15)


@given(
    st.integers(1, 900),
    st.integers(64, 300),
    st.integers(64, 300),
    st.floats(0, 0.5),
    st.sampled_from([1, 2]),
)
@example(length=669, window=175, context=64, overlap=0.5, scale=2)  # half a pixel at the end
@settings(max_examples=40)
def test_a_small_window_is_read_with_equal_surroundings_in_phase(
    length: int, window: int, context: int, overlap: float, scale: int
) -> None:
    assume(round(window * (1 - overlap)) <= window - 8)
    cfg = InferConfig(
        window=window, context=context, overlap=overlap, scales=tuple(range(1, scale + 1))
    )
    side = view_side(cfg)
    assert max(window, context) <= side < max(window + 1, context + 32)
    for w in planned_windows((77, length), cfg):
        ground, view, s = w.ground, w.view, w.scale
        assert view.row <= ground.row < ground.row_end <= view.row_end <= 77
        assert view.col <= ground.col < ground.col_end <= view.col_end <= length
        assert view.col % (16 * s) == 0
        left, right = ground.col - view.col, view.col_end - ground.col_end
        if view.col and view.col_end < length:
            assert left == right == (side - window) // 2 * s
        # At the ends of the map it keeps its size: in pixels of its scale, the last of which the end may cut.
        if view.col_end < length:
            assert view.width == side * s
        else:
            assert min(side, -(-length // s)) <= -(-view.width // s) < side + 16
        if window >= context:
            assert view == ground


def test_the_network_sees_the_surroundings_and_the_window_keeps_its_ground(
    region: tuple[Path, Path],
) -> None:
    plan = plan_of(region, context=160)
    for ids in (run for shard in plan.shards[:2] for run in runs(plan, shard)):
        for r in read_run(plan, ids):
            ground, view = (plan.windows[r.window_id].ground, plan.windows[r.window_id].view)
            layers = read_layers(plan.ws, plan.cube.track, plan.cube.period, plan.layers, view)
            inside = layers["valid"][
                ground.row - view.row : ground.row_end - view.row,
                ground.col - view.col : ground.col_end - view.col,
            ]
            assert r.valid_fraction == inside.mean()
            assert bool(r.skipped) == (inside.mean() < CFG.valid_fraction_min)
            if r.image is not None:
                wanted = render("rate", layers, plan.cube.sigma_velocity)
                np.testing.assert_array_equal(r.image, wanted)


# -- quiet windows ---------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=30)
def test_contrast_sees_a_patch_wherever_it_lies_and_no_ramp(seed: int, row: int, col: int) -> None:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    ramp = (0.05 * y - 0.03 * x).astype(np.float32)  # atmosphere: 2 mm/yr over the surroundings
    valid = rng.random((64, 64)) > 0.1
    everything = Window(0, 0, 64, 64)
    assert largest_in(block_contrast(ramp, valid, 10.0), everything) < 0.15
    moved = ramp.copy()
    moved[row : row + 4, col : col + 4] += 20.0  # 16 pixels of two sigma
    contrast = block_contrast(moved, valid, 10.0)
    # A block of 3 × 3 holds at least 2 × 2 of the patch.
    if valid[row : row + 4, col : col + 4].all():
        assert largest_in(contrast, Window(row, col, 4, 4)) > 2 * 4 / 9 - 0.35
    far = Window((row + 40) % 60, (col + 40) % 60, 4, 4)
    if abs(far.row - row) > 25 and abs(far.col - col) > 25:
        assert largest_in(contrast, far) < 0.2


def test_no_data_is_quiet() -> None:
    nothing = np.full((30, 31), np.nan, np.float32)
    contrast = block_contrast(nothing, np.ones((30, 31), bool), 5.0)
    assert contrast.shape == (10, 11)
    assert largest_in(contrast, Window(0, 0, 30, 31)) == 0.0


def test_quiet_windows_are_skipped_and_counted(region: tuple[Path, Path], tmp_path: Path) -> None:
    displacement = landslides()
    displacement[:, 200:] = 0.001  # nothing moves in the east, but for one place
    displacement[300:306, 300:306] = 0.03
    ws = Workspace(tmp_path / "ws")
    cube = make_cube(ws.root, tmp_path / "product", displacement)
    found = infer_cube(ws, cube, region[1], CFG)
    rows = json.loads((found.folder / "windows.json").read_text())
    quiet = [r for r in rows if r["reason"].startswith("quiet")]
    assert found.meta["windows"]["quiet"] == len(quiet) > 10
    assert all(r["state"] == "skipped" for r in quiet)
    for r in rows:
        w = Window(r["row"], r["col"], r["height"], r["width"])
        if w.intersect(Window(300, 300, 6, 6)):
            assert r["state"] == "done"
        # Beside it the mean of the surroundings is moved.
        elif w.col >= 225 and w.row >= 125 and not w.intersect(Window(275, 275, 56, 56)):
            assert r["state"] == "skipped"
    everything = infer_cube(ws, cube, region[1], CFG.model_copy(update={"quiet_sigma": 0.0}))
    assert everything.meta["windows"]["quiet"] == 0
    assert everything.key != found.key


def test_no_visible_landslide_of_a_simulated_region_lies_in_quiet_windows_only(
    tmp_path: Path,
) -> None:
    sim = simulate_small(tmp_path / "sim")
    ws = Workspace(tmp_path / "ws")
    cfg = IngestConfig()
    with ws.lock():
        ingest_products(ws, discover(list(sim.products), cfg), cfg, RegionConfig())
    labels = gpd.read_file(sim.labels)
    limit = InferConfig().quiet_sigma
    seen = 0
    for cube in list_cubes(ws):
        info = cube_info(cube)
        whole = Window(0, 0, *info.shape)
        layers = read_layers(ws, info.track, info.period, ("los_velocity", "valid"), whole)
        contrast = block_contrast(layers["los_velocity"], layers["valid"], info.sigma_velocity)
        mine = labels[(labels["period"] == info.period) & (labels["ignore"] == 0)]
        for shape in mine.geometry:
            mask = rasterize([(shape, 1)], info.shape, transform=info.geobox.affine)
            (place,) = ndimage.find_objects(mask)
            tight = Window(
                place[0].start, place[1].start, place[0].stop - place[0].start,
                place[1].stop - place[1].start,
            )  # fmt: skip
            # The smallest window that could hold it is loud: every larger one is.
            assert largest_in(contrast, tight) >= limit
            seen += 1
    assert seen > 30


# -- memory ----------------------------------------------------------------------------------------


class Limited(Predictor):
    """A device whose memory does for so many windows."""

    most = 1

    def _run(self, images: np.ndarray[Any, Any], scale: int) -> list[list[RawDetection]]:
        if len(images) > self.most:
            msg = "so many windows"
            raise MemoryError(msg)
        return super()._run(images, scale)


@pytest.mark.parametrize("batch_size", [16, "auto"])
def test_out_of_memory_halves_the_batch_and_goes_on(
    region: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: Any
) -> None:
    monkeypatch.setattr(prediction, "Predictor", Limited)
    ws, cube = copy(region, tmp_path / "ws")
    cfg = CFG.model_copy(update={"batch_size": batch_size, "threads": 2})
    found = infer_cube(ws, cube, region[1], cfg)
    assert found.meta["windows"]["failed"] == 0
    (work,) = (ws.root / "work").iterdir()
    # A row of windows, halved until one is left; those in flight meanwhile are halved too.
    assert 2 <= json.loads((work / "timing.json").read_text())["batches_halved"] <= 12
    monkeypatch.undo()
    other, cube = copy(region, tmp_path / "other")
    plain = infer_cube(other, cube, region[1], CFG.model_copy(update={"batch_size": 1}))
    assert plain.key == found.key
    a = load_instances(plain.folder / "instances.npz")
    b = load_instances(found.folder / "instances.npz")
    assert len(a) == len(b) > 0
    for one, two in zip(a, b, strict=True):
        assert one.score == pytest.approx(two.score, abs=1e-3)


def test_a_window_that_is_too_large_for_the_device_is_a_coded_error(
    region: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "Predictor", Limited)
    monkeypatch.setattr(Limited, "most", 0)
    ws, cube = copy(region, tmp_path / "ws")
    with pytest.raises(ProcessingError) as e:
        infer_cube(ws, cube, region[1], CFG)
    assert e.value.code == "SW-506"
    assert ws.artefacts("detections") == []


def test_torchs_own_words_for_lack_of_memory_are_understood() -> None:
    with pytest.raises(RuntimeError) as e:
        torch.empty(2**55, dtype=torch.uint8)
    assert prediction._is_memory(e.value)
    with pytest.raises(RuntimeError) as e:
        torch.zeros(2) @ torch.zeros(3)
    assert not prediction._is_memory(e.value)


def test_the_number_of_threads_changes_no_byte(region: tuple[Path, Path], tmp_path: Path) -> None:
    made = []
    for threads in (1, 2, 3):
        ws, cube = copy(region, tmp_path / str(threads))
        cfg = CFG.model_copy(update={"threads": threads})
        made.append(content(infer_cube(ws, cube, region[1], cfg)))
    assert made[0] == made[1] == made[2]


# -- scales ----------------------------------------------------------------------------------------


class WholeObjects:
    """An oracle that recognises what moves only if all of it lies in its window."""

    lanes = 1
    precision = "float32"
    upsample = 1

    def __init__(self, weights: Path, *_: object, **__: object) -> None:
        self.card = read_card(weights)
        self.pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()

    def limit(self, *_: int) -> int:
        return 1000

    def submit(
        self, images: np.ndarray[Any, Any], scale: int = 1
    ) -> Future[list[list[RawDetection]]]:
        return self.pool.submit(lambda: [self.look(image, scale) for image in images])

    def look(self, image: np.ndarray[Any, Any], scale: int) -> list[RawDetection]:
        labels, _ = ndimage.label(image[0] < -2.0, np.ones((3, 3)))
        out = []
        for k, (rows, cols) in enumerate(ndimage.find_objects(labels), 1):
            (height, width), low = image.shape[1:], min(rows.start, cols.start)
            if low == 0 or rows.stop == height or cols.stop == width:
                continue  # cut by the window's edge
            mask = (labels[rows, cols] == k).astype(np.float32)
            fine = np.repeat(np.repeat(mask, scale, 0), scale, 1)
            out.append(RawDetection(1, 0.9, rows.start * scale, cols.start * scale, fine))
        return out


def test_a_landslide_larger_than_several_windows_is_one_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    truth = np.zeros(SHAPE, bool)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    truth[np.hypot((y - 150) / 88, (x - 180) / 40) < 1] = True  # 176 px long, windows of 64 px
    small = [(30, 200), (60, 300), (150, 300), (300, 250), (350, 60)]
    for r, c in small:
        truth[r : r + 8, c : c + 8] = True
    displacement = rng.normal(0, 0.0005, SHAPE) - 0.03 * truth
    ws = Workspace(tmp_path / "ws")
    cube = make_cube(ws.root, tmp_path / "product", displacement)
    weights = write_weights(tmp_path / "w.safetensors")
    monkeypatch.setattr(prediction, "Predictor", WholeObjects)
    fine = infer_cube(ws, cube, weights, CFG)
    alone = load_instances(fine.folder / "instances.npz")
    assert [i.area_px for i in alone] == [64] * 5
    assert fine.meta["coarse"] == {"kept": 0, "dropped": 0}
    both = infer_cube(ws, cube, weights, CFG.model_copy(update={"scales": (1, 2, 4)}))
    found = load_instances(both.folder / "instances.npz")
    *little, large = sorted(found, key=lambda i: i.area_px)
    assert [i.area_px for i in little] == [64] * 5
    # Coarse windows are silent about the small ones, and are not counted as if they had missed them.
    places = {(i.row, i.col): (i.n_windows, i.n_covering) for i in alone}
    assert {(i.row, i.col): (i.n_windows, i.n_covering) for i in little} == places
    drawn = np.zeros(SHAPE, bool)
    drawn[large.row : large.bounds[2], large.col : large.bounds[3]] = large.mask
    wanted, _ = ndimage.label(truth)
    wanted = wanted == wanted[150, 180]
    assert (drawn & wanted).sum() / (drawn | wanted).sum() > 0.9
    assert both.meta["coarse"]["kept"] >= 1
    assert both.meta["coarse"]["dropped"] >= 5


def test_with_surroundings_small_windows_find_what_is_larger_than_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces on the windows' own ground are put together to the landslide that no window holds."""
    truth = np.zeros(SHAPE, bool)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    truth[np.hypot((y - 190) / 70, (x - 170) / 30) < 1] = True  # 139 px long, windows of 64 px
    for r, c in [(30, 200), (60, 300), (150, 300), (300, 250), (350, 60), (60, 60)]:
        truth[r : r + 8, c : c + 8] = True
    displacement = np.random.default_rng(3).normal(0, 0.0005, SHAPE) - 0.03 * truth
    ws = Workspace(tmp_path / "ws")
    cube = make_cube(ws.root, tmp_path / "product", displacement)
    weights = write_weights(tmp_path / "w.safetensors")
    monkeypatch.setattr(prediction, "Predictor", WholeObjects)
    cfg = CFG.model_copy(update={"context": 320})
    found = infer_cube(ws, cube, weights, cfg)
    drawn = np.zeros(SHAPE, bool)
    instances = load_instances(found.folder / "instances.npz")
    for i in instances:
        drawn[i.row : i.bounds[2], i.col : i.bounds[3]] |= i.mask
        assert i.agreement == 1.0
    assert len(instances) == 7
    np.testing.assert_array_equal(drawn, truth)
    rows = json.loads((found.folder / "windows.json").read_text())
    labels, n = ndimage.label(truth)
    for r in rows:
        w = Window(r["row"], r["col"], r["height"], r["width"])
        assert r["detections"] == len(np.unique(labels[w.slices])) - 1
    beyond = sum(r["beyond"] for r in rows)
    assert found.meta["windows"]["beyond"] == beyond > n * len(rows) / 4
    # Without surroundings the large one is never seen whole.
    bare = infer_cube(ws, cube, weights, CFG)
    assert bare.meta["n_instances"] == 6
    assert bare.meta["windows"]["beyond"] == 0
    assert bare.meta["window_key"] != found.meta["window_key"]


def test_masks_of_coarse_windows_are_drawn_at_the_maps_resolution(tmp_path: Path) -> None:
    predictor = Predictor(write_weights(tmp_path / "w.safetensors"), "cpu", 9, 0.2, threads=1)
    images = np.random.default_rng(1).normal(size=(1, 3, 64, 64)).astype(np.float32)
    (raw,) = detect_batch(predictor.network, torch.from_numpy(images))
    (found,) = predictor.predict(images, 4)
    assert len(found) == len(raw.scores) > 0
    pasted = paste_masks(raw.masks, raw.boxes * 4, (256, 256))
    for d, wanted in zip(found, pasted, strict=True):
        assert (d.row, d.col) == (wanted.row, wanted.col)
        np.testing.assert_allclose(d.prob, wanted.prob.numpy(), atol=0.02)


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", [1.0, 1.5, -0.1])
def test_impossible_overlap_is_refused(region: tuple[Path, Path], overlap: float) -> None:
    with pytest.raises(ValidationError):
        InferConfig(overlap=overlap)
    with pytest.raises(ProcessingError) as e:
        plan_of(region, overlap=overlap)
    assert e.value.code == "SW-502"


@pytest.mark.parametrize("scales", [(), (2,), (1, 1), (2, 1)])
def test_impossible_scales_are_refused(scales: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        InferConfig(scales=scales)


def after_first_shard(act: Callable[[], object]) -> Callable[[str, int, int], None]:
    """Progress that acts once, when the first shard is there."""
    acted = []

    def progress(step: str, done: int, _: int) -> None:
        if step == "infer" and done and not acted:
            acted.append(act())

    return progress


def test_weights_that_vanish_in_mid_run_do_no_harm(
    region: tuple[Path, Path], tmp_path: Path
) -> None:
    ws, cube = copy(region, tmp_path / "ws")
    weights = Path(shutil.copy(region[1], tmp_path / "weights.safetensors"))
    shutil.copy(card_path(region[1]), card_path(weights))
    # They were read whole at the start: the run ends as if they were there.
    found = infer_cube(ws, cube, weights, CFG, after_first_shard(weights.unlink))
    assert found.meta["windows"]["failed"] == 0
    with pytest.raises(ModelError) as e:
        infer_cube(ws, cube, weights, CFG)
    assert e.value.code == "SW-401"


FULL_DISK = """
import resource, sys
from pathlib import Path
from components.config import InferConfig
from components.errors import SlopewatchError
from components.inference.run import infer_cube
from components.workspace import Workspace

ws = Workspace(Path(sys.argv[1]))
(cube,) = ws.artefacts("cube")
limit = int(sys.argv[4])

def fill(step, done, total):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

try:
    infer_cube(ws, cube, Path(sys.argv[2]), InferConfig.model_validate_json(sys.argv[3]), fill)
except SlopewatchError as e:
    sys.stdout.write(e.code)
"""


def test_a_full_disk_is_a_coded_error_and_the_rerun_ends_the_work(
    region: tuple[Path, Path], tmp_path: Path
) -> None:
    # So many detections that shards are the largest files.
    cfg = CFG.model_copy(update={"max_detections": 100, "score_min": 0.0})
    whole_ws, cube = copy(region, tmp_path / "whole")
    whole = infer_cube(whole_ws, cube, region[1], cfg)
    ws, cube = copy(region, tmp_path / "ws")
    (work,) = (whole_ws.root / "work").iterdir()
    shard = max(p.stat().st_size for p in work.glob("shard-*.npz"))
    limit = shard - 1
    assert limit > (whole_ws.root / "ledger.sqlite").stat().st_size
    code = [sys.executable, "-c", FULL_DISK, str(ws.root), str(region[1])]
    done = subprocess.run(
        [*code, cfg.model_dump_json(), str(limit)],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "SW-202", done.stderr
    assert ws.artefacts("detections") == []
    assert not list((ws.root / "work").rglob(".*"))
    again = infer_cube(ws, cube, region[1], cfg)
    assert content(again) == content(whole)

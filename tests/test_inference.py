"""A real run on a small cube with a small network: resumable, exact, and loud where it must be."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_cube import CFG, EMPTY, SHAPE, add_verifier, content, copy, make_cube, write_weights

from components.config import InferConfig
from components.errors import ModelError, ProcessingError
from components.grid.windows import Window
from components.inference.instance_file import load_instances
from components.inference.instances import Detection
from components.inference.plan import planned_windows
from components.inference.predict import Predictor, read_card
from components.inference.run import infer_cube, inference_seconds
from components.inference.shards import SHARD_WINDOWS, WindowResult, load_shard, save_shard
from components.inference.stitch import stitch
from components.workspace import Artefact, Workspace
from models.inference import detect_batch
from models.weights import card_path


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A workspace with one cube, and weights; tests work on copies."""
    folder = tmp_path_factory.mktemp("region")
    make_cube(folder / "ws", folder / "product")
    return folder / "ws", add_verifier(write_weights(folder / "weights.safetensors"))


@pytest.fixture(scope="module")
def undisturbed(
    region: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Workspace, Artefact]:
    ws, cube = copy(region, tmp_path_factory.mktemp("undisturbed") / "ws")
    return ws, infer_cube(ws, cube, region[1], CFG)


# -- the run ---------------------------------------------------------------------------------------


def test_every_window_is_accounted_for(undisturbed: tuple[Workspace, Artefact]) -> None:
    ws, found = undisturbed
    plan = [w.ground for w in planned_windows(SHAPE, CFG)]
    valid = np.ones(SHAPE, bool)
    valid[EMPTY] = False
    dark = {i for i, w in enumerate(plan) if valid[w.slices].mean() < CFG.valid_fraction_min}
    assert len(dark) >= 2
    assert len(plan) > 2 * SHARD_WINDOWS
    counts = found.meta["windows"]
    assert counts["total"] == len(plan)
    assert counts["skipped"] == len(dark)
    assert counts["done"] == len(plan) - len(dark)
    assert counts["failed"] == 0
    rows = json.loads((found.folder / "windows.json").read_text())
    assert {r["id"] for r in rows if r["state"] == "skipped"} == dark
    assert all(r["reason"].startswith("valid fraction") for r in rows if r["state"] == "skipped")
    assert [(r["row"], r["col"], r["height"], r["width"]) for r in rows] == [tuple(w) for w in plan]
    ledger = ws.ledger.windows(found.meta["window_key"])
    assert [(r["window_id"], r["state"], r["detections"]) for r in ledger] == [
        (r["id"], r["state"], r["detections"]) for r in rows
    ]
    assert counts["capped"] == sum(r["capped"] for r in rows)


def test_the_artefact_says_what_it_was_made_of(
    undisturbed: tuple[Workspace, Artefact], region: tuple[Path, Path]
) -> None:
    ws, found = undisturbed
    card = read_card(region[1])
    (cube,) = ws.artefacts("cube")
    assert found.folder == ws.place("detections", "descending", "20230101_20230701")
    assert (found.stage, found.reused) == ("detections", False)
    assert found.meta["model_hash"] == card["sha256"]
    assert found.meta["cube_key"] == cube.key
    assert (found.meta["score_threshold"], found.meta["preset"]) == (0.5, "rate")
    instances = load_instances(found.folder / "instances.npz")
    assert len(instances) == found.meta["n_instances"] == found.meta["stitch"]["instances"] > 0
    for i in instances:
        assert 0 <= i.row < i.bounds[2] <= SHAPE[0]
        assert 0 <= i.col < i.bounds[3] <= SHAPE[1]
        assert 0 <= i.score <= 1
    assert found.meta["verified"]


def test_a_second_run_computes_nothing(
    undisturbed: tuple[Workspace, Artefact], region: tuple[Path, Path]
) -> None:
    ws, found = undisturbed
    (cube,) = ws.artefacts("cube")
    before = inference_seconds(ws, found)
    steps: list[str] = []
    again = infer_cube(ws, cube, region[1], CFG, lambda step, *_: steps.append(step))
    assert again.reused
    assert again.key == found.key
    assert steps == []
    assert inference_seconds(ws, again) == before > 0


KILLED = """
import os, signal, sys
from pathlib import Path
from components.config import InferConfig
from components.inference.run import infer_cube
from components.workspace import Workspace

def die(step, done, total):
    if step == "infer" and done > 0:
        os.kill(os.getpid(), signal.SIGKILL)

ws = Workspace(Path(sys.argv[1]))
(cube,) = ws.artefacts("cube")
infer_cube(ws, cube, Path(sys.argv[2]), InferConfig.model_validate_json(sys.argv[3]), die)
"""


def test_killed_and_run_again_gives_the_same_bytes(
    undisturbed: tuple[Workspace, Artefact], region: tuple[Path, Path], tmp_path: Path
) -> None:
    ws, cube = copy(region, tmp_path / "ws")
    code = [sys.executable, "-c", KILLED, str(ws.root), str(region[1]), CFG.model_dump_json()]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(code, cwd=root, check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert ws.artefacts("detections") == []
    (work,) = (ws.root / "work").iterdir()
    assert len(list(work.glob("shard-*.npz"))) == 1
    # What a kill in the midst of writing leaves behind: half a shard.
    whole = (work / "shard-000000.npz").read_bytes()
    (work / "shard-000001.npz").write_bytes(whole[: len(whole) // 2])
    stamp = (work / "shard-000000.npz").stat().st_mtime_ns
    seconds = json.loads((work / "timing.json").read_text())["seconds"]

    seen: list[int] = []
    again = infer_cube(
        ws, cube, region[1], CFG, lambda step, n, _: seen.append(n) if step == "infer" else None
    )
    assert seen[0] == SHARD_WINDOWS  # the finished shard was not computed again
    assert (work / "shard-000000.npz").stat().st_mtime_ns == stamp
    assert content(again) == content(undisturbed[1])
    assert again.key == undisturbed[1].key
    assert inference_seconds(ws, again) > seconds > 0


def test_stitching_anew_uses_the_windows_that_are_there(
    undisturbed: tuple[Workspace, Artefact], region: tuple[Path, Path], tmp_path: Path
) -> None:
    ws, cube = undisturbed[0], undisturbed[0].artefacts("cube")[0]
    shutil.copytree(ws.root, tmp_path / "ws")
    ws = Workspace(tmp_path / "ws")
    seen: list[int] = []
    other = infer_cube(
        ws,
        cube,
        region[1],
        CFG.model_copy(update={"mask_threshold": 0.6}),
        lambda step, n, _: seen.append(n) if step == "infer" else None,
    )
    assert other.key != undisturbed[1].key
    assert other.meta["window_key"] == undisturbed[1].meta["window_key"]
    assert seen == [other.meta["windows"]["total"]]


def test_the_batch_size_changes_nothing_but_rounding(
    undisturbed: tuple[Workspace, Artefact], region: tuple[Path, Path], tmp_path: Path
) -> None:
    ws, cube = copy(region, tmp_path / "ws")
    other = infer_cube(ws, cube, region[1], CFG.model_copy(update={"batch_size": 7}))
    a = load_instances(undisturbed[1].folder / "instances.npz")
    b = load_instances(other.folder / "instances.npz")
    assert other.key == undisturbed[1].key
    assert len(a) == len(b)
    for one, two in zip(a, b, strict=True):
        assert one.score == pytest.approx(two.score, abs=1e-3)
        assert abs(one.area_px - two.area_px) <= 0.05 * one.area_px + 1


def test_a_damaged_chunk_is_a_visible_gap_and_nothing_is_published(
    undisturbed: tuple[Workspace, Artefact], region: tuple[Path, Path], tmp_path: Path
) -> None:
    ws, cube = copy(region, tmp_path / "ws")
    chunks = sorted((cube.folder / "cube.zarr" / "los_velocity" / "c").rglob("*"))
    chunk = [p for p in chunks if p.is_file()][-1]  # the lower right corner
    good = chunk.read_bytes()
    chunk.write_bytes(bytes(len(good)))
    with pytest.raises(ProcessingError) as e:
        infer_cube(ws, cube, region[1], CFG)
    assert e.value.code == "SW-501"
    assert "window" in str(e.value)
    assert ws.artefacts("detections") == []
    (key,) = {p.name.removeprefix("infer-") for p in (ws.root / "work").iterdir()}
    states = ws.ledger.windows(
        next(k for k in [undisturbed[1].meta["window_key"]] if k.startswith(key))
    )
    assert 0 < sum(r["state"] == "failed" for r in states) < len(states) / 2
    assert all(r["reason"] for r in states if r["state"] == "failed")
    chunk.write_bytes(good)
    healed = infer_cube(ws, cube, region[1], CFG)
    assert content(healed) == content(undisturbed[1])


def test_a_window_larger_than_the_map_is_the_map(region: tuple[Path, Path], tmp_path: Path) -> None:
    ws, cube = copy(region, tmp_path / "ws")
    found = infer_cube(ws, cube, region[1], CFG.model_copy(update={"window": 1024}))
    assert found.meta["windows"]["total"] == 1
    # 380 × 350 is no multiple of the network's stride: padded inside, and nothing lies outside.
    for i in load_instances(found.folder / "instances.npz"):
        assert i.bounds[2] <= SHAPE[0]
        assert i.bounds[3] <= SHAPE[1]
        assert (i.n_windows, i.n_covering) == (1, 1)


# -- refusals, before any work ---------------------------------------------------------------------


def refused(
    region: tuple[Path, Path], tmp_path: Path, weights: Path, cfg: InferConfig = CFG, **meta: Any
) -> str:
    ws = Workspace(tmp_path / "refused")
    (cube,) = Workspace(region[0]).artefacts("cube")
    cube = replace(cube, meta={**cube.meta, **meta})
    with pytest.raises((ModelError, ProcessingError)) as e:
        infer_cube(ws, cube, weights, cfg)
    assert not (ws.root / "work").exists()
    assert not (ws.root / "detections").exists()
    return e.value.code


def test_weights_that_do_not_fit_are_refused(region: tuple[Path, Path], tmp_path: Path) -> None:
    def weights(name: str, **card: Any) -> Path:
        return write_weights(tmp_path / f"{name}.safetensors", **card)

    assert refused(region, tmp_path, tmp_path / "absent.safetensors") == "SW-401"
    lonely = weights("lonely")
    card_path(lonely).unlink()
    assert refused(region, tmp_path, lonely) == "SW-401"
    bare = weights("bare")
    card = json.loads(card_path(bare).read_text())
    del card["preset"]
    card_path(bare).write_text(json.dumps(card))
    assert refused(region, tmp_path, bare) == "SW-401"
    card["preset"] = "thermal"
    card_path(bare).write_text(json.dumps(card))
    assert refused(region, tmp_path, bare) == "SW-402"
    assert refused(region, tmp_path, weights("swapped", channels=["a", "b", "c"])) == "SW-402"
    assert refused(region, tmp_path, weights("coarse", ground_pixel_size_m=50.0)) == "SW-503"


def test_weights_changed_under_their_card_are_refused(
    region: tuple[Path, Path], tmp_path: Path
) -> None:
    ws, cube = copy(region, tmp_path / "ws")
    path = write_weights(tmp_path / "w.safetensors")
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    with pytest.raises(ModelError) as e:
        infer_cube(ws, cube, path, CFG)
    assert e.value.code == "SW-401"


def test_windows_without_common_ground_are_refused(
    region: tuple[Path, Path], tmp_path: Path
) -> None:
    cfg = CFG.model_copy(update={"overlap": 0.05})
    assert refused(region, tmp_path, region[1], cfg) == "SW-502"


def test_a_cube_without_a_needed_layer_is_refused(
    region: tuple[Path, Path], tmp_path: Path
) -> None:
    layers = ["los_displacement", "coherence", "valid"]
    assert refused(region, tmp_path, region[1], layers=layers) == "SW-504"


# -- parts -----------------------------------------------------------------------------------------


def test_predictions_lie_in_the_window_and_keep_the_networks_numbers(
    region: tuple[Path, Path],
) -> None:
    predictor = Predictor(region[1], "cpu", max_detections=9, score_min=0.2, threads=1)
    images = np.random.default_rng(1).normal(size=(2, 3, 60, 52)).astype(np.float32)
    found = predictor.predict(images)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    raw = detect_batch(predictor.network, torch.from_numpy(images))
    torch.set_num_threads(before)
    assert [len(f) for f in found] == [len(r.scores) for r in raw]
    for one, r in zip(found, raw, strict=True):
        for d, score, box in zip(one, r.scores.tolist(), r.boxes.tolist(), strict=True):
            assert d.score == score
            assert d.prob.dtype == np.float32
            assert 0 <= d.prob.min() <= d.prob.max() <= 1
            # Pixels whose centres are in the box, no more and no less.
            rows = [y for y in range(60) if box[1] <= y + 0.5 < box[3]]
            cols = [x for x in range(52) if box[0] <= x + 0.5 < box[2]]
            assert (d.row, d.prob.shape[0]) == (rows[0], len(rows))
            assert (d.col, d.prob.shape[1]) == (cols[0], len(cols))


def test_up_sampled_weights_answer_at_the_maps_resolution(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "fine.safetensors", upsample=2, pixel_size_m=12.5)
    predictor = Predictor(path, "cpu", 9, 0.2, threads=1)
    assert predictor.upsample == 2
    images = np.random.default_rng(1).normal(size=(1, 3, 128, 96)).astype(np.float32)
    (raw,) = detect_batch(predictor.network, torch.from_numpy(images))
    (found,) = predictor.predict(images)
    assert found
    for d, box in zip(found, (raw.boxes / 2).tolist(), strict=True):
        assert abs(d.row - box[1]) <= 0.5
        assert abs(d.col + d.prob.shape[1] - box[2]) <= 0.5
        assert d.row + d.prob.shape[0] <= 64


def test_images_with_other_channels_are_refused(region: tuple[Path, Path]) -> None:
    predictor = Predictor(region[1], "cpu", threads=1)
    with pytest.raises(ModelError) as e:
        predictor.predict(np.zeros((1, 4, 64, 64), np.float32))
    assert e.value.code == "SW-402"


def test_shards_give_back_what_they_were_given(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    prob = (rng.integers(0, 255, (5, 7)) / 254).astype(np.float32)
    results = [
        WindowResult(0, "skipped", "valid fraction 0.0000 below 0.02", 0.0),
        WindowResult(
            1, "done", "", 0.9, True, (Detection(1, 2, 0.123456789, 3, 40, prob),), 5, 7, "int8"
        ),
    ]
    path = tmp_path / "shard.npz"
    save_shard(path, results)
    back = load_shard(path, range(2))
    assert back is not None
    assert back[0] == results[0]
    (d,) = back[1].detections
    assert (d.window_id, d.category, d.score, d.row, d.col) == (1, 2, 0.123456789, 3, 40)
    np.testing.assert_array_equal(d.prob, prob)
    assert (back[1].capped, back[1].beyond, back[1].faint) == (True, 5, 7)
    assert [r.precision for r in back] == ["", "int8"]
    assert load_shard(path, range(3)) is None
    assert load_shard(tmp_path / "absent.npz", range(2)) is None
    path.write_bytes(path.read_bytes()[:100])
    assert load_shard(path, range(2)) is None


def test_stored_probabilities_stitch_like_the_original(tmp_path: Path) -> None:
    # Half stays half: the shard must not move a mask's border.
    w = Window(0, 0, 64, 64)
    seen = Detection(0, 1, 0.8, 10, 12, np.full((4, 6), 0.5, np.float32))
    save_shard(tmp_path / "s.npz", [WindowResult(0, "done", "", 1.0, False, (seen,))])
    back = load_shard(tmp_path / "s.npz", range(1))
    assert back is not None
    [one] = stitch(back[0].detections, {0: w}, (64, 64)).instances
    assert (one.area_px, one.score) == (24, 0.8)

"""Training: the same bytes after a kill, the arithmetic of schedule and average, bad input."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from torch import nn

from components.config import TrainConfig
from components.errors import InputError, ModelError
from components.training.checkpoints import checkpoints, is_whole, last_whole, write_checked
from components.training.epoch_end import COLUMNS, read_times
from components.training.loop import TrainResult, train
from components.training.module import AveragedModel
from components.training.schedule import FINAL_SHARE, learning_rate_factor
from models.forms import FORMS
from models.weights import load_weights

TINY = dataclasses.replace(
    FORMS["demo"], widths=(8, 8, 8, 8), fpn_channels=8, box_width=8, mask_layers=(8,), proposals=20
)
CFG = TrainConfig(
    model="tiny",
    epochs=3,
    batch_size=2,
    learning_rate=1e-3,
    warmup_steps=2,
    validate_every=2,
    threads=1,
)


@pytest.fixture(autouse=True)
def _tiny_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMS, "tiny", TINY)


def make_dataset(folder: Path, tiles: dict[str, int], side: int = 64) -> Path:
    """A COCO folder of bright squares on noise, as the dataset stage writes it."""
    rng = np.random.default_rng(5)
    for name in ("images", "annotations"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    number = 0
    for split in ("train", "val", "test"):
        images, annotations = [], []
        for _ in range(tiles.get(split, 0)):
            number += 1
            image = rng.normal(0, 0.2, (3, side, side)).astype(np.float16)
            for _ in range(2):
                row, col, size = rng.integers(4, 40), rng.integers(4, 40), rng.integers(6, 14)
                mask = np.zeros((side, side), dtype=np.uint8)
                mask[row : row + size, col : col + size] = 1
                image[0][mask == 1] += 2
                code = rle.encode(np.asfortranarray(mask))
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": 1,
                        "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                        "area": int(mask.sum()),
                        "bbox": [int(col), int(row), int(size), int(size)],
                        "iscrowd": 0,
                        "pixels_in_all": int(mask.sum()),
                    }
                )
            np.savez(folder / "images" / f"{number:06d}.npz", image=image)
            images.append(
                {"id": number, "file_name": f"{number:06d}.npz", "height": side, "width": side}
            )
        text = json.dumps({"images": images, "annotations": annotations, "categories": []})
        (folder / "annotations" / f"{split}.json").write_text(text)
    info = {
        "preset": "rate",
        "channels": ["velocity", "coherence", "los_sensitivity"],
        "categories": [{"id": 1, "name": "landslide"}],
        "pixel_size_m": 25.0,
        "upsample": 1,
        "min_visible": 0.3,
        "min_pixels": 6,
    }
    (folder / "dataset.json").write_text(json.dumps(info))
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("coco"), {"train": 5, "val": 2})


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def undisturbed(
    dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainResult, Path]:
    FORMS["tiny"] = TINY
    folder = tmp_path_factory.mktemp("undisturbed")
    result = train(dataset, folder / "model", folder / "work", CFG)
    return result, folder


def environment() -> dict[str, str]:
    """For a process that imports this project and its tests."""
    here = Path(__file__).resolve().parent
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}


class Stop(Exception):
    """Stands for a kill inside a step."""


def test_undisturbed_run(
    undisturbed: tuple[TrainResult, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    result, folder = undisturbed
    assert capfd.readouterr().out == ""
    assert sorted(files(folder / "model")) == [
        *("card.json", "metrics.csv", "predictions.png", "weights.safetensors"),
    ]
    model, card = load_weights(result.weights)
    assert model.in_channels == 3
    assert card["preset"] == "rate"
    assert card["classes"] == ["landslide"]
    assert card["score_threshold"] == result.metrics["score_threshold"]
    assert card["training"]["steps"] == result.steps == 6  # the last image of an epoch is left out
    assert str(folder) not in json.dumps(card)
    rows = list(csv.DictReader((folder / "model" / "metrics.csv").open()))
    assert tuple(rows[0]) == COLUMNS
    assert [r["step"] for r in rows] == ["2", "4", "6"]
    assert [bool(r["val_f1"]) for r in rows] == [False, True, True]  # the last is always validated
    assert len(checkpoints(folder / "work")) == 2
    assert sorted(read_times(folder / "work")) == ["00000", "00001", "00002"]
    assert result.seconds > 0
    assert not list(Path.cwd().glob("lightning_logs"))


@pytest.mark.parametrize("stop_at", [1, 2, 3, 5])
def test_stopped_and_resumed_gives_the_same_bytes(
    undisturbed: tuple[TrainResult, Path], dataset: Path, tmp_path: Path, stop_at: int
) -> None:
    def stop(step: str, done: int, total: int) -> None:
        if step == "train" and done == stop_at:
            raise Stop

    with pytest.raises(Stop):
        train(dataset, tmp_path / "model", tmp_path / "work", CFG, stop)
    assert not (tmp_path / "model" / "weights.safetensors").exists()
    train(dataset, tmp_path / "model", tmp_path / "work", CFG)
    assert files(tmp_path / "model") == files(undisturbed[1] / "model")


def test_killed_process_resumes_to_the_same_bytes(
    undisturbed: tuple[TrainResult, Path], dataset: Path, tmp_path: Path
) -> None:
    """SIGKILL after the first checkpoint, at whatever instant."""
    work = tmp_path / "work"
    code = (
        "import sys; from pathlib import Path; import test_training_loop as t;"
        "t.FORMS['tiny'] = t.TINY; d, o, w = map(Path, sys.argv[1:]);"
        "t.train(d, o, w, t.CFG)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(dataset), str(tmp_path / "model"), str(work)],
        env=environment(),
    )
    until = time.monotonic() + 120
    while not checkpoints(work) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert checkpoints(work)
    train(dataset, tmp_path / "model", work, CFG)
    assert files(tmp_path / "model") == files(undisturbed[1] / "model")


def test_finished_training_is_not_repeated(
    undisturbed: tuple[TrainResult, Path], dataset: Path
) -> None:
    _, folder = undisturbed
    steps: list[int] = []
    again = train(dataset, folder / "again", folder / "work", CFG, lambda s, d, t: steps.append(d))
    assert steps == []
    assert files(folder / "again") == files(folder / "model")
    assert again.steps == 6


def test_another_seed_gives_other_weights(
    undisturbed: tuple[TrainResult, Path], dataset: Path, tmp_path: Path
) -> None:
    other = CFG.model_copy(update={"seed": 1, "epochs": 1})
    train(dataset, tmp_path / "model", tmp_path / "work", other)
    ours, theirs = (
        load_weights(f / "model" / "weights.safetensors")[0] for f in (tmp_path, undisturbed[1])
    )
    assert not torch.equal(ours.backbone.trunk.conv1.weight, theirs.backbone.trunk.conv1.weight)


def test_damaged_checkpoint_falls_back_to_the_one_before(
    undisturbed: tuple[TrainResult, Path], dataset: Path, tmp_path: Path
) -> None:
    def stop(step: str, done: int, total: int) -> None:
        if step == "train" and done == 5:
            raise Stop

    work = tmp_path / "work"
    with pytest.raises(Stop):
        train(dataset, tmp_path / "model", work, CFG, stop)
    last, before = checkpoints(work)
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    assert not is_whole(last)
    train(dataset, tmp_path / "model", work, CFG)
    assert files(tmp_path / "model") == files(undisturbed[1] / "model")
    for path in (last, before, *checkpoints(work)):
        path.write_bytes(b"half")
    with pytest.raises(ModelError) as error:
        train(dataset, tmp_path / "model", work, CFG)
    assert error.value.code == "SW-407"


def test_checkpoint_of_another_recipe_is_passed_over(tmp_path: Path) -> None:
    path = write_checked(tmp_path, "epoch", 3, ".ckpt", lambda p: torch.save({"recipe": "a"}, p))
    assert last_whole(tmp_path, "a") == path
    assert last_whole(tmp_path, "b") is None
    assert last_whole(tmp_path / "none", "a") is None
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_early_stop(dataset: Path, tmp_path: Path) -> None:
    """With a learning rate of nearly nothing the figures stay 0: ties go to the later epoch."""
    cfg = CFG.model_copy(
        update={"epochs": 9, "patience": 2, "validate_every": 3, "learning_rate": 1e-9}
    )
    result = train(dataset, tmp_path / "model", tmp_path / "work", cfg)
    # Validated after epochs 3, 6 and 9; patience is counted in epochs from the best, so the first
    # epoch without a validation for two epochs ends it.
    assert result.steps == 2 * 5
    again = train(dataset, tmp_path / "again", tmp_path / "work", cfg)
    assert again.steps == result.steps
    assert files(tmp_path / "again") == files(tmp_path / "model")


def test_without_validation_fold_the_last_epoch_is_kept(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "coco", {"train": 2})
    result = train(data, tmp_path / "m", tmp_path / "w", CFG.model_copy(update={"epochs": 2}))
    assert result.metrics == {}
    card = json.loads(result.card.read_text())
    assert card["score_threshold"] == 0.5
    assert card["training"]["epoch"] == 1


def test_initial_weights(
    undisturbed: tuple[TrainResult, Path], dataset: Path, tmp_path: Path
) -> None:
    weights = undisturbed[0].weights
    cfg = CFG.model_copy(update={"initial_weights": weights, "epochs": 1, "learning_rate": 1e-9})
    result = train(dataset, tmp_path / "m", tmp_path / "w", cfg)
    a, b = (load_weights(p)[0].backbone.trunk.conv1.weight for p in (weights, result.weights))
    assert torch.allclose(a, b, atol=1e-6)
    for update, code in (
        ({"initial_weights": tmp_path / "none.safetensors"}, "SW-401"),
        ({"initial_weights": weights, "model": "demo"}, "SW-402"),
    ):
        with pytest.raises(ModelError) as error:
            train(dataset, tmp_path / "m2", tmp_path / "w2", cfg.model_copy(update=update))
        assert error.value.code == code
    data = make_dataset(tmp_path / "coco", {"train": 2})
    info = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps({**info, "preset": "multi"}))
    with pytest.raises(ModelError) as error:
        train(data, tmp_path / "m2", tmp_path / "w2", cfg)
    assert error.value.code == "SW-402"


def test_bad_data_is_named(tmp_path: Path) -> None:
    empty = make_dataset(tmp_path / "empty", {"val": 1})
    with pytest.raises(InputError) as none:
        train(empty, tmp_path / "m", tmp_path / "w", CFG)
    assert none.value.code == "SW-306"
    data = make_dataset(tmp_path / "coco", {"train": 3})
    path = data / "images" / "000002.npz"
    image = np.load(path)["image"]
    image[1, 3, 4] = np.nan
    np.savez(path, image=image)
    # Augmentation may hide a missing pixel: asked without it, it must be found.
    from components.training.tiles import open_split

    with pytest.raises(ModelError) as bad:
        open_split(data, "train", CFG, training=False)[1]
    assert bad.value.code == "SW-404"
    assert bad.value.path is not None
    assert bad.value.path.endswith("000002.npz")
    with pytest.raises(ModelError) as form:
        train(data, tmp_path / "m", tmp_path / "w", CFG.model_copy(update={"model": "vast"}))
    assert form.value.code == "SW-406"


def test_divergence_keeps_the_last_checkpoint(dataset: Path, tmp_path: Path) -> None:
    cfg = CFG.model_copy(update={"learning_rate": 1e30, "warmup_steps": 0})
    with pytest.raises(ModelError) as error:
        train(dataset, tmp_path / "m", tmp_path / "w", cfg)
    assert error.value.code == "SW-405"
    assert all(is_whole(p) for p in checkpoints(tmp_path / "w"))


def test_settings_of_torch_are_put_back(undisturbed: tuple[TrainResult, Path]) -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_learning_rate() -> None:
    rates = [learning_rate_factor(s, 4, 24) for s in range(25)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[14] == pytest.approx((1 + FINAL_SHARE) / 2)  # half-way down the cosine
    assert rates[24] == pytest.approx(FINAL_SHARE)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))
    assert learning_rate_factor(0, 0, 10) == 1.0


def test_average_arithmetic() -> None:
    layer = nn.BatchNorm1d(1)
    with torch.no_grad():
        layer.weight.fill_(0.0)
    average = AveragedModel(layer, 0.5)
    expected = 0.0
    for n in range(12):
        with torch.no_grad():
            layer.weight.fill_(float(n + 1))
            layer.running_mean.fill_(10.0)
            layer.num_batches_tracked.fill_(n)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * (n + 1)
        average.update(layer)
        assert float(average.model.weight) == pytest.approx(expected)
    assert int(average.model.num_batches_tracked) == 11
    assert 0 < float(average.model.running_mean) <= 10
    assert not any(p.requires_grad for p in average.model.parameters())
    assert math.isclose(AveragedModel(layer, 0.0).decay, 0.0)

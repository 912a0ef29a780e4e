"""Memory, devices and checkpoints that fail: coded errors, and the same command goes on."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_loop import CFG, TINY, files, make_dataset

from components.config import TrainConfig
from components.errors import ModelError
from components.training.checkpoints import checkpoints, is_whole, last_whole, write_checked
from components.training.failures import coded_failures
from components.training.loop import train
from models.forms import FORMS
from models.mask_rcnn import SmallObjectMaskRCNN

FAILURES = {
    "cuda memory": (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        "SW-408",
    ),
    "numpy memory": (MemoryError("Unable to allocate 3.2 TiB"), "SW-408"),
    "c++ memory": (RuntimeError("std::bad_alloc"), "SW-408"),
    "gpu fell off": (
        torch.AcceleratorError("CUDA error: unspecified launch failure\nmore lines", 719),
        "SW-409",
    ),
    "gpu, as plain error": (RuntimeError("CUDA error: device-side assert triggered"), "SW-409"),
    "other process": (RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:4"), "SW-409"),
}


@pytest.fixture(autouse=True)
def _tiny_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMS, "tiny", TINY)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("coco"), {"train": 4, "val": 1})


@pytest.fixture(scope="module")
def straight(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    FORMS["tiny"] = TINY
    folder = tmp_path_factory.mktemp("straight")
    train(dataset, folder / "model", folder / "work", CFG)
    return folder / "model"


@pytest.mark.parametrize("name", FAILURES)
def test_failure_in_a_step_keeps_the_checkpoint_and_the_same_command_goes_on(
    dataset: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    failure, code = FAILURES[name]
    count = itertools.count()
    forward = SmallObjectMaskRCNN.forward

    def fails_in_the_fourth_step(self: SmallObjectMaskRCNN, *args: Any, **kw: Any) -> Any:
        if self.training and next(count) == 3:
            raise failure
        return forward(self, *args, **kw)

    with monkeypatch.context() as patch:
        patch.setattr(SmallObjectMaskRCNN, "forward", fails_in_the_fourth_step)
        with pytest.raises(ModelError) as error:
            train(dataset, tmp_path / "m", tmp_path / "w", CFG)
    assert error.value.code == code
    assert error.value.path == str(tmp_path / "w")
    assert "\n" not in error.value.what
    (kept,) = checkpoints(tmp_path / "w")
    assert is_whole(kept)
    train(dataset, tmp_path / "m", tmp_path / "w", CFG)
    assert files(tmp_path / "m") == files(straight)


@pytest.mark.parametrize(
    ("update", "advice"),
    [
        ({"batch_size": 8}, "train.batch_size to 4 (it is 8)"),
        ({"batch_size": 1}, "Set train.crop lower"),
        (
            {"batch_size": 12, "devices": 4},
            "train.batch_size to 4 (it is 12)",
        ),  # 6 is no share of 4
        ({"batch_size": 4, "devices": 4}, "Set train.crop lower"),
    ],
)
def test_advice_about_the_batch_size(tmp_path: Path, update: dict[str, int], advice: str) -> None:
    cfg = TrainConfig(**update)
    with pytest.raises(ModelError) as error, coded_failures(cfg, tmp_path):
        # Real: no machine has this much memory.
        torch.empty(2**60, dtype=torch.uint8)
    assert error.value.code == "SW-408"
    assert advice in error.value.remedy


def test_defects_are_not_dressed_up(tmp_path: Path) -> None:
    for defect in (RuntimeError("shapes do not match"), KeyError("masks"), ZeroDivisionError()):
        with pytest.raises(type(defect)), coded_failures(CFG, tmp_path):
            raise defect


class Foreign:
    """Not a tensor, and not to be brought to life by reading a file."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        msg = "code of the file was run"
        raise AssertionError(msg)


def test_foreign_checkpoint_is_not_run_and_not_trusted(tmp_path: Path) -> None:
    foreign = Foreign()
    foreign.recipe = "a"  # type: ignore[attr-defined]
    contents: list[Any] = [{"recipe": "a", "x": foreign}, ["a", "list"], "text"]
    for epoch, content in enumerate(contents):
        write_checked(tmp_path, "epoch", epoch, ".ckpt", lambda p, c=content: torch.save(c, p))
    write_checked(tmp_path, "epoch", 7, ".ckpt", lambda p: p.write_text("<html>404</html>"))
    assert all(is_whole(p) for p in checkpoints(tmp_path))  # as files they are what they claim
    with pytest.raises(ModelError) as error:
        last_whole(tmp_path, "a")
    assert error.value.code == "SW-407"
    good = write_checked(tmp_path, "epoch", 4, ".ckpt", lambda p: torch.save({"recipe": "a"}, p))
    assert last_whole(tmp_path, "a") == good

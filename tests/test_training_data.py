"""Order, balance and loading: the same samples however they are loaded, and bad data by name."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_training_loop import CFG, TINY, files, make_dataset

from components.config import TrainConfig
from components.errors import InputError, ModelError, SlopewatchError
from components.training.loop import train
from components.training.order import (
    ALONE,
    COPIES,
    Balanced,
    EpochBatches,
    Share,
    batch_lengths,
    extra_copies,
)
from components.training.sources import coco_source
from models.forms import FORMS


@pytest.fixture(autouse=True)
def _tiny_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMS, "tiny", TINY)


def batches(
    size: int,
    negatives: list[int],
    wanted: float = 0.5,
    *,
    batch: int = 4,
    epoch: int = 0,
    share: Share = ALONE,
) -> list[list[tuple[int, int]]]:
    balanced = Balanced(size, negatives, wanted, 3)
    made = EpochBatches(
        len(balanced), balanced.draws, batch_size=batch, epoch=lambda: epoch, share=share
    )
    steps = [[tuple(p) for p in step] for step in made]
    assert len(steps) == len(made)
    return steps


@given(st.integers(1, 60), st.integers(0, 60), st.floats(0, 0.95))
def test_share_of_tiles_without_objects(positives: int, negatives: int, share: float) -> None:
    size = positives + negatives
    extra = extra_copies(size, negatives, share)
    reached = (negatives + extra) / (size + extra)
    assert 0 <= extra <= (COPIES - 1) * negatives
    # Reached, or every tile is repeated as often as is allowed.
    assert reached >= share - 1e-9 or extra == (COPIES - 1) * negatives
    # And not one draw too many.
    if extra:
        assert (negatives + extra - 1) / (size + extra - 1) < share


@settings(max_examples=30)
@given(
    st.integers(1, 30), st.integers(0, 12), st.integers(1, 3), st.integers(1, 4), st.integers(0, 9)
)
def test_processes_together_see_what_one_sees(
    positives: int, negatives: int, per_device: int, world: int, epoch: int
) -> None:
    size = positives + negatives
    empty = list(range(positives, size))
    assume(size >= world)
    batch = per_device * world
    parts = [
        batches(size, empty, batch=batch, epoch=epoch, share=Share(r, world)) for r in range(world)
    ]
    assert len({len(p) for p in parts}) == 1
    one = batches(size, empty, batch=batch, epoch=epoch)
    for k, step in enumerate(zip(*parts, strict=True)):
        assert len({len(p) for p in step}) == 1  # equal work
        together = [p for part in step for p in part]
        assert Counter(together) <= Counter(one[k])
        if len(one[k]) == batch:
            assert Counter(together) == Counter(one[k])


def test_draws_of_an_epoch() -> None:
    empty = [2, 5, 9]
    draws = [p for step in batches(12, empty) for p in step]
    # Nine tiles with objects, nine draws without.
    counts = Counter(tile for _, tile in draws)
    assert counts == {i: 3 if i in empty else 1 for i in range(12)}
    # Copies come under other epoch numbers, so that they are augmented anew.
    assert len(set(draws)) == len(draws)
    assert batches(12, empty) == batches(12, empty)
    assert batches(12, empty) != batches(12, empty, epoch=1)
    assert batches(12, empty, 0.1) == batches(12, [], 0.5)  # enough of them: as without balance
    assert Balanced(12, empty, 0.5, 3).counts() == {
        "tiles": 12,
        "tiles_without_objects": 3,
        "extra_draws_without_objects": 6,
        "share_without_objects": 0.5,
    }


def test_lengths_of_steps() -> None:
    assert batch_lengths(10, 4) == [4, 4, 2]
    assert batch_lengths(9, 4) == [4, 4]  # a single image is left out
    assert batch_lengths(1, 4) == [1]  # unless there is nothing else
    assert batch_lengths(11, 4, 2) == [4, 4, 2]
    assert batch_lengths(1, 4, 2) == []


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_dataset(tmp_path_factory.mktemp("coco"), {"train": 7, "val": 2})
    path = folder / "annotations" / "train.json"
    content = json.loads(path.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in (2, 4)]
    path.write_text(json.dumps(content))
    return folder


def loaded(dataset: Path, workers: int, epochs: list[int]) -> list[Any]:
    cfg = CFG.model_copy(update={"workers": workers})
    current = iter(epochs)
    loader = coco_source(dataset, cfg).loader(lambda: next(current), ALONE)
    return [batch for _ in epochs for batch in loader]


def test_loader_processes_make_the_same_samples(dataset: Path) -> None:
    """Also in a later epoch, by processes that live on, and in an epoch that is repeated."""
    here, there = (loaded(dataset, workers, [0, 1, 0]) for workers in (0, 2))
    assert len(here) == len(there) > 6
    for (images, targets), (images2, targets2) in zip(here, there, strict=True):
        assert len(images) == len(images2)
        for a, b in zip(images, images2, strict=True):
            assert torch.equal(a, b)
        for c, d in zip(targets, targets2, strict=True):
            assert c.keys() == d.keys()
            assert all(torch.equal(c[k], d[k]) for k in c)
    third = len(here) // 3
    assert not torch.equal(here[0][0][0], here[third][0][0])
    assert torch.equal(here[0][0][0], here[2 * third][0][0])


def test_training_with_loader_processes_gives_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    cfg = CFG.model_copy(update={"epochs": 2})
    for workers in (0, 1):
        train(
            dataset,
            tmp_path / f"m{workers}",
            tmp_path / f"w{workers}",
            cfg.model_copy(update={"workers": workers}),
        )
    assert files(tmp_path / "m0") == files(tmp_path / "m1")
    card = json.loads((tmp_path / "m0" / "card.json").read_text())
    assert card["training"]["sampling"] == {
        "tiles": 7,
        "tiles_without_objects": 2,
        "extra_draws_without_objects": 3,
        "share_without_objects": 0.5,
    }


def error_of(data: Path, tmp_path: Path, cfg: TrainConfig = CFG) -> SlopewatchError:
    with pytest.raises(SlopewatchError) as error:
        train(data, tmp_path / "m", tmp_path / "w", cfg)
    assert not (tmp_path / "m" / "weights.safetensors").exists()
    return error.value


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("shape", "what"), [((3, 60, 64), "shape"), ((2, 64, 64), "shape")], ids=["size", "channels"]
)
def test_image_of_another_shape(
    tmp_path: Path, workers: int, shape: tuple[int, ...], what: str
) -> None:
    """Found in a loader process, the error keeps its code and names the file."""
    data = make_dataset(tmp_path / "coco", {"train": 3})
    np.savez(data / "images" / "000002.npz", image=np.zeros(shape, np.float16))
    error = error_of(data, tmp_path, CFG.model_copy(update={"workers": workers}))
    assert isinstance(error, InputError)
    assert error.code == "SW-307"
    assert what in error.what
    assert error.path is not None
    assert error.path.endswith("000002.npz")


def test_pixels_that_are_no_numbers_are_found_before_a_step_learns_from_them(
    tmp_path: Path,
) -> None:
    data = make_dataset(tmp_path / "coco", {"train": 4})
    for number in range(1, 5):
        path = data / "images" / f"{number:06d}.npz"
        image = np.load(path)["image"]
        image[2] = np.nan  # C is masked by nothing: no gap hides it
        np.savez(path, image=image)
    error = error_of(data, tmp_path)
    assert isinstance(error, ModelError)
    assert error.code == "SW-404"
    assert "not finite" in error.what


def test_category_that_the_dataset_does_not_list(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "coco", {"train": 3})
    path = data / "annotations" / "train.json"
    content = json.loads(path.read_text())
    content["annotations"][1]["category_id"] = 4
    path.write_text(json.dumps(content))
    error = error_of(data, tmp_path)
    assert error.code == "SW-304"
    assert "[4]" in error.what


def test_empty_fold(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "coco", {"val": 1})
    assert error_of(data, tmp_path).code == "SW-306"


def test_fewer_tiles_than_devices(dataset: Path) -> None:
    source = coco_source(dataset, CFG.model_copy(update={"batch_size": 64}))
    with pytest.raises(ModelError) as error:
        source.loader(lambda: 0, Share(0, 16))
    assert error.value.code == "SW-404"

"""Torchvision's weights in a training: taken as far as they fit, reported, and a clear error without."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from test_training_loop import CFG, TINY, make_dataset
from torchvision.models import resnet18

from components.config import TrainConfig
from components.config_file import load_config
from components.errors import InputError, ModelError
from components.training.loop import train
from models.forms import FORMS
from models.weights import load_weights

#: ResNet-18's trunk under thin heads.
THIN = dataclasses.replace(TINY, depths=(2, 2, 2, 2), widths=(64, 128, 256, 512), contrast_window=0)


@pytest.fixture(autouse=True)
def _thin_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMS, "thin", THIN)


def config(source: str) -> TrainConfig:
    update = {"model": "thin", "pretrained": source, "epochs": 1, "learning_rate": 1e-9}
    return CFG.model_copy(update=update)


def test_local_file_fills_the_trunk(tmp_path: Path) -> None:
    torch.manual_seed(9)
    source = resnet18()
    path = tmp_path / "some-resnet18.pth"
    torch.save(source.state_dict(), path)
    data = make_dataset(tmp_path / "coco", {"train": 2})
    result = train(data, tmp_path / "m", tmp_path / "w", config(str(path)))
    model, card = load_weights(result.weights)
    ours = model.state_dict()["backbone.trunk.layer2.0.conv2.weight"]
    theirs = source.state_dict()["layer2.0.conv2.weight"]
    assert torch.allclose(ours, theirs, atol=1e-6)
    report = card["training"]["pretrained"]
    assert report["source"] == "some-resnet18.pth"
    assert report["loaded"] > 100
    assert report["inflated"] == [3, 3]
    assert str(tmp_path) not in json.dumps(card)


def test_missing_weights_are_a_coded_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    data = make_dataset(tmp_path / "coco", {"train": 2})
    for source in ("resnet18", str(tmp_path / "none.pth")):
        with pytest.raises(ModelError) as error:
            train(data, tmp_path / "m", tmp_path / "w", config(source))
        assert error.value.code == "SW-401"
    with pytest.raises(InputError) as both:
        load_config(
            None, {"train.pretrained": "resnet18", "train.initial_weights": "w.safetensors"}
        )
    assert both.value.code == "SW-701"

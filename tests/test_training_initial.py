"""Weights to start from: what fits is taken, what depends on the classes is made anew, the rest refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_loop import CFG, TINY, make_dataset

from components.errors import ModelError
from components.training.initial import start_from
from components.training.loop import train
from models.build import build_model
from models.forms import FORMS
from models.mask_rcnn import SmallObjectMaskRCNN
from models.weights import card_path, save_weights

INFO = {"preset": "rate", "categories": [{"id": 1, "name": "landslide"}]}


@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, SmallObjectMaskRCNN]:
    torch.manual_seed(4)
    model = build_model(TINY, 3, 2)
    path = tmp_path / "weights.safetensors"
    save_weights(path, model, {"form": "tiny", "classes": ["landslide"], "preset": "rate"})
    return path, model


def fresh(classes: int = 2, **changes: Any) -> SmallObjectMaskRCNN:
    torch.manual_seed(5)
    return build_model(dataclasses.replace(TINY, **changes), 3, classes)


def test_same_classes_take_everything(weights: tuple[Path, SmallObjectMaskRCNN]) -> None:
    path, source = weights
    model = fresh()
    report = start_from(path, model, "tiny", INFO)
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert report["made_anew"] == []
    assert report["loaded"] == len(source.state_dict())
    assert report["form"] == "tiny"


def test_other_number_of_classes_keeps_the_trunk(
    weights: tuple[Path, SmallObjectMaskRCNN],
) -> None:
    path, source = weights
    model, untouched = fresh(4), fresh(4)
    report = start_from(path, model, "tiny", INFO)
    theirs, before = source.state_dict(), untouched.state_dict()
    anew = set(report["made_anew"])
    # The layers that name a class: box scores, box offsets, masks, and the guide's segmentation.
    for part in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_predictor"):
        assert any(part in name for name in anew), part
    assert not any(name.startswith(("backbone.", "rpn.", "roi_heads.box_head")) for name in anew)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name] if name in anew else theirs[name]), name
    assert report["loaded"] + len(anew) == len(theirs)


def test_samples_and_proposals_may_differ(weights: tuple[Path, SmallObjectMaskRCNN]) -> None:
    path, source = weights
    model = fresh(proposals=7, rpn_samples=5, box_samples=9)
    report = start_from(path, model, "other", INFO)
    assert report["loaded"] == len(source.state_dict())
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def code_of(path: Path, model: SmallObjectMaskRCNN, info: dict[str, Any] = INFO) -> ModelError:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ModelError) as error:
        start_from(path, model, "tiny", info)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    return error.value


def test_what_does_not_fit_is_refused(weights: tuple[Path, SmallObjectMaskRCNN]) -> None:
    path = weights[0]
    preset = code_of(path, fresh(), {**INFO, "preset": "multi"})
    assert preset.code == "SW-402"
    assert "'rate'" in preset.what
    # Of the same shapes, but with other anchors: the weights would mean something else.
    form = code_of(path, fresh(anchor_sizes=((5, 8), (11, 17), (26, 40), (60, 90))))
    assert form.code == "SW-402"
    assert "anchor_sizes" in form.what
    wide = code_of(path, fresh(fpn_channels=16))
    assert wide.code == "SW-402"
    assert "fpn_channels" in wide.what


def test_damaged_and_foreign_files(weights: tuple[Path, SmallObjectMaskRCNN]) -> None:
    path = weights[0]
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    assert code_of(path, fresh()).code == "SW-401"
    path.write_bytes(content)
    beside = card_path(path)
    card = json.loads(beside.read_text())
    beside.write_text("{")
    assert code_of(path, fresh()).code == "SW-401"
    # A card that was made to fit a file that is no safetensors file.
    from models.weights import file_sha256

    path.write_bytes(b"not tensors")
    beside.write_text(json.dumps({**card, "sha256": file_sha256(path)}))
    assert code_of(path, fresh()).code == "SW-401"
    path.unlink()
    assert code_of(path, fresh()).code == "SW-401"


def test_card_of_a_fine_tuned_model_says_what_it_started_from(
    weights: tuple[Path, SmallObjectMaskRCNN], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMS, "tiny", TINY)
    data = make_dataset(tmp_path / "coco", {"train": 2})
    path = data / "dataset.json"
    info = json.loads(path.read_text())
    info["categories"].append({"id": 2, "name": "rock glacier"})
    path.write_text(json.dumps(info))
    cfg = CFG.model_copy(update={"initial_weights": weights[0], "epochs": 1})
    result = train(data, tmp_path / "m", tmp_path / "w", cfg)
    card = json.loads(result.card.read_text())
    assert card["classes"] == ["landslide", "rock glacier"]
    initial = card["training"]["initial"]
    assert initial["classes"] == ["landslide"]
    assert len(initial["made_anew"]) >= 5
    assert str(tmp_path) not in result.card.read_text()

"""Weights on disk: exact round trips, and refusal of what does not belong together."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from models.build import Detector, build_model
from models.forms import FORMS
from models.weights import (
    WeightsError,
    card_path,
    load_tensors,
    load_weights,
    read_card,
    save_weights,
)

TINY = dataclasses.replace(
    FORMS["demo"], widths=(8, 8, 8, 8), fpn_channels=8, box_width=8, mask_layers=(8,)
)
CARD = {"form": "demo", "classes": ["landslide"], "preset": "rate"}


def tiny(seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    model = build_model(TINY, 3, 2)
    model([torch.randn(3, 64, 64)], [_empty()])  # moves the normalisation statistics
    return model


def _empty() -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.zeros((0, 4)),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros((0, 64, 64), dtype=torch.uint8),
    }


def test_float32_round_trip_is_exact(tmp_path: Path) -> None:
    model = tiny()
    card = save_weights(tmp_path / "weights.safetensors", model, CARD)
    again, read = load_weights(tmp_path / "weights.safetensors")
    assert read == json.loads(json.dumps(card))
    assert read["spec"]["widths"] == [8, 8, 8, 8]
    assert not again.training
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    image = torch.randn(1, 3, 64, 64)
    for key, value in model.eval()(image)[0].items():
        assert torch.equal(value, again(image)[0][key])


def test_float16_is_half_as_large_and_stable(tmp_path: Path) -> None:
    model = tiny()
    full, half, again = (tmp_path / f"{n}.safetensors" for n in ("full", "half", "again"))
    save_weights(full, model, CARD)
    save_weights(half, model, CARD, dtype="float16")
    assert half.stat().st_size < 0.6 * full.stat().st_size
    loaded, card = load_weights(half)
    assert card["dtype"] == "float16"
    save_weights(again, loaded, CARD, dtype="float16")
    assert again.read_bytes() == half.read_bytes()


def test_same_model_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_weights(tmp_path / name / "weights.safetensors", tiny(), CARD)
    for file in ("weights.safetensors", "card.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "card.json",
        "weights.safetensors",
    ]


def test_card_beside_the_weights() -> None:
    assert card_path(Path("m/weights.safetensors")) == Path("m/card.json")
    assert card_path(Path("m/alps-1.safetensors")) == Path("m/alps-1.json")


def test_damage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(WeightsError, match="no such file"):
        load_weights(path)
    save_weights(path, tiny(), CARD)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(WeightsError, match="checksum"):
        load_weights(path)
    path.write_bytes(whole)
    card = json.loads(card_path(path).read_text())
    for broken, message in (
        ("{", "unreadable"),
        ("[1]", "lacks"),
        (json.dumps({**card, "format": 99}), "format 99"),
        (json.dumps({k: v for k, v in card.items() if k != "spec"}), "spec"),
        (json.dumps({**card, "spec": {"block": "basic"}}), "specification"),
        (json.dumps({**card, "in_channels": 4}), "conv1"),
    ):
        card_path(path).write_text(broken)
        with pytest.raises(WeightsError, match=message):
            load_weights(path)
    card_path(path).unlink()
    with pytest.raises(WeightsError, match="no card"):
        read_card(path)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"not tensors at all")
    with pytest.raises(WeightsError, match="safetensors"):
        load_tensors(path, tiny())
    save_weights(path, build_model(TINY, 4, 2), CARD)
    with pytest.raises(WeightsError, match=r"conv1\.weight"):
        load_tensors(path, tiny())


def test_what_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    model = tiny()
    with pytest.raises(WeightsError, match="classes"):
        save_weights(tmp_path / "w.safetensors", model, {"form": "demo"})
    with pytest.raises(WeightsError, match="2 classes in the card"):
        save_weights(tmp_path / "w.safetensors", model, {**CARD, "classes": ["a", "b"]})
    with torch.no_grad():
        model.backbone.trunk.bn1.running_var.fill_(1e6)
    with pytest.raises(WeightsError, match="running_var"):
        save_weights(tmp_path / "w.safetensors", model, CARD, dtype="float16")
    assert list(tmp_path.iterdir()) == []

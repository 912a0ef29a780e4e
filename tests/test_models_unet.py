"""U-Net with components: what it calls a detection, and that the rest of the house takes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from components.inference.predict import Predictor
from components.training.selection import match_image
from models.build import build_model, detect
from models.forms import UNetSpec
from models.paste import paste_masks
from models.unet import ComponentUNet
from models.weights import save_weights

TINY = UNetSpec(widths=(8, 16), norm="batch", contrast_window=0, threshold=0.5)


class Given(ComponentUNet):
    """A U-Net whose map is given: the image is its logits."""

    def segment(self, batch: Tensor) -> Tensor:
        return batch


def given(prob: Tensor, max_detections: int = 200) -> tuple[ComponentUNet, Tensor]:
    model = Given(TINY, len(prob), len(prob) + 1, max_detections=max_detections, score_min=0.05)
    return model.eval(), torch.logit(prob, eps=1e-6)


def test_components_are_the_detections() -> None:
    prob = torch.full((2, 11, 15), 0.1)
    prob[0, 2:4, 3:7] = 0.8
    prob[0, 4, 7] = 0.6  # touches at a corner: the same component
    prob[0, 8, 10:13] = 0.7
    prob[1, 5:8, 1:3] = 0.9
    model, logits = given(prob)
    (found,) = detect(model, [logits])
    assert found.labels.tolist() == [2, 1, 1]
    assert found.boxes.tolist() == [[1, 5, 3, 8], [3, 2, 8, 5], [10, 8, 13, 9]]
    assert found.scores.tolist() == pytest.approx([0.9, (8 * 0.8 + 0.6) / 9, 0.7], abs=1e-6)
    pieces = paste_masks(found.masks, found.boxes, (11, 15))
    for piece, label in zip(pieces, found.labels.tolist(), strict=True):
        height, width = piece.prob.shape
        window = prob[label - 1, piece.row : piece.row + height, piece.col : piece.col + width]
        torch.testing.assert_close(piece.prob, window, atol=1e-5, rtol=0)


def test_a_box_holds_no_pixel_of_its_neighbour() -> None:
    prob = torch.full((1, 12, 12), 0.2)
    prob[0, 1, 1:10] = prob[0, 1:10, 1] = 0.9  # an L, and a square inside its box
    prob[0, 5:8, 5:8] = 0.8
    model, logits = given(prob)
    (found,) = detect(model, [logits])
    first, second = paste_masks(found.masks, found.boxes, (12, 12))
    assert int((first.prob >= 0.5).sum()) == 17
    assert int((second.prob >= 0.5).sum()) == 9
    masks = torch.zeros((2, 12, 12), dtype=torch.uint8)
    masks[0][prob[0] > 0.85] = 1
    masks[1, 5:8, 5:8] = 1
    assert match_image(found, masks, torch.ones(2)).hits.tolist() == [True, True]


def test_nothing_and_everything() -> None:
    for value, count in ((0.0, 0), (1.0, 1)):
        model, logits = given(torch.full((1, 9, 9), value))
        (found,) = detect(model, [logits])
        assert len(found.scores) == len(found.masks) == count
        assert found.boxes.shape == (count, 4)


def test_the_best_are_kept_where_there_are_too_many() -> None:
    prob = torch.zeros((1, 20, 20))
    values = torch.linspace(0.55, 0.95, 9)
    prob[0, 1, 1:18:2] = values
    model, logits = given(prob, max_detections=4)
    (found,) = detect(model, [logits])
    torch.testing.assert_close(found.scores, values.flip(0)[:4], atol=1e-5, rtol=0)


def test_learns_one_image_and_ignores_ignored_ground() -> None:
    torch.manual_seed(0)
    model = build_model(TINY, 1, 2)
    masks = torch.zeros((2, 32, 32), dtype=torch.uint8)
    masks[0, 4:10, 5:12] = 1
    masks[1, 20:26, 18:28] = 1
    image = masks.sum(dim=0).float()[None] + 0.1 * torch.randn(1, 32, 32)
    boxes = torch.tensor([[5.0, 4, 12, 10], [18, 20, 28, 26]])
    target = {"boxes": boxes, "labels": torch.ones(2, dtype=torch.int64), "masks": masks}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        losses = model([image], [target])
        assert isinstance(losses, dict)
        assert set(losses) == {"loss_segmentation"}
        optimizer.zero_grad()
        losses["loss_segmentation"].backward()
        optimizer.step()
    (found,) = detect(model, [image])
    matches = match_image(found, masks, target["labels"])
    assert matches.hits[:2].tolist() == [True, True]
    model.train()
    ignore = torch.zeros((32, 32), dtype=torch.bool)
    ignore[20:26, 18:28] = True
    one = {**target, "boxes": boxes[:1], "labels": target["labels"][:1], "masks": masks[:1]}
    wrong = model([image], [one])["loss_segmentation"].item()
    right = model([image], [{**one, "ignore": ignore}])["loss_segmentation"].item()
    assert right < wrong / 3


def test_images_of_any_size_come_back_in_their_frame() -> None:
    model = build_model(TINY, 3, 2, score_min=0.0).eval()
    (found,) = detect(model, [torch.randn(3, 21, 33)])
    assert bool((found.boxes[:, [0, 2]] <= 33).all())
    assert bool((found.boxes[:, [1, 3]] <= 21).all())
    with pytest.raises(ValueError, match="2 channels, the network 3"):
        model([torch.zeros(2, 16, 16)])
    with pytest.raises(ValueError, match="targets"):
        model.train()([torch.zeros(3, 16, 16)])


def test_predictor_reads_it(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = build_model(TINY, 3, 2)
    with torch.no_grad():
        model.logits.bias.zero_()  # half of the pixels are landslide
    card = {
        "form": "unet", "classes": ["landslide"], "preset": "rate", "channels": ["a", "b", "c"],
        "upsample": 2, "ground_pixel_size_m": 25.0,
    }  # fmt: skip
    save_weights(tmp_path / "weights.safetensors", model, card)
    predictor = Predictor(tmp_path / "weights.safetensors", device="cpu", threads=1)
    images = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    found = predictor.predict(images)
    assert sum(len(f) for f in found) > 0
    for d in (d for f in found for d in f):
        assert 0.5 <= d.score <= 1
        assert d.row + d.prob.shape[0] <= 32
        assert d.col + d.prob.shape[1] <= 32

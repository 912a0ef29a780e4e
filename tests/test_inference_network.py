"""The network made ready for maps against the one that was trained, and against torchvision's operators."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign, box_iou

from models.build import build_model, detect
from models.contrast import LocalContrast
from models.forms import FORMS, ModelSpec
from models.inference import PROPOSAL_AREA, InferenceNetwork, detect_batch, fold_batch_norms
from models.mask_rcnn import SmallObjectMaskRCNN
from models.roi import feature_table, levels_of, roi_align

SMALL = replace(FORMS["resnet18-s2"], widths=(16, 24, 32, 40), fpn_channels=32, box_width=64)
EXTRA = replace(
    FORMS["resnet50-fpn"], depths=(1, 1, 1, 1), widths=(8, 8, 8, 8), fpn_channels=16, box_width=32
)


def network(spec: ModelSpec, *, channels: int = 3, classes: int = 3) -> SmallObjectMaskRCNN:
    """Random weights, and statistics that a normalisation would have after training."""
    torch.manual_seed(0)
    model = build_model(spec, channels, classes, max_detections=30, score_min=0.2).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.bias):
                nn.init.uniform_(values, -0.2, 0.2)
            for values in (module.running_var, module.weight):
                nn.init.uniform_(values, 0.5, 1.5)
    return model


def images(n: int = 2, height: int = 96, width: int = 128, channels: int = 3) -> Tensor:
    torch.manual_seed(1)
    out = torch.randn(n, channels, height, width)
    out[0, :, :20, :30] = 0  # no data
    return out


@pytest.mark.parametrize("spec", [SMALL, FORMS["demo"], EXTRA], ids=["s2", "demo", "extra level"])
def test_detections_are_those_of_the_trained_network(spec: ModelSpec) -> None:
    model, batch = network(spec), images()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = detect_batch(InferenceNetwork(model, torch.float32, guide_min=0.0), batch)
    for one, two in zip(found, detect(model, batch), strict=True):
        assert len(one.scores) == len(two.scores) > 3
        torch.testing.assert_close(one.scores, two.scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(one.boxes, two.boxes, atol=0.02, rtol=0)
        assert torch.equal(one.labels, two.labels)
        torch.testing.assert_close(one.masks, two.masks, atol=0.01, rtol=0)
    # The network that was given is still the one that was trained.
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_in_bfloat16_the_same_objects_are_found() -> None:
    model, batch = network(SMALL), images()
    exact = detect_batch(InferenceNetwork(model, torch.float32, 0.0), batch)
    for one, two in zip(
        detect_batch(InferenceNetwork(model, torch.bfloat16, 0.0), batch), exact, strict=True
    ):
        # Random weights give crowded, near-tied boxes: most of them, not all, are the same.
        assert (box_iou(two.boxes, one.boxes).amax(dim=1) > 0.8).float().mean() > 0.7
        assert abs(float(one.scores.mean() - two.scores.mean())) < 0.02


def test_normalisations_vanish_and_the_numbers_stay() -> None:
    model, x = network(SMALL).double(), images(1).double()
    with torch.inference_mode():
        before = model.backbone(x)
        n = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
        assert fold_batch_norms(model) == n > 20
        assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
        for name, level in model.backbone(x).items():
            torch.testing.assert_close(level, before[name], atol=1e-10, rtol=1e-10)


def test_a_normalisation_without_a_convolution_before_it_stays() -> None:
    alone = nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)
    ).eval()
    assert fold_batch_norms(alone) == 0
    assert sum(isinstance(m, nn.BatchNorm2d) for m in alone) == 2


@given(st.integers(0, 2**31), st.sampled_from([7, 14]))
def test_regions_are_read_as_torchvision_reads_them(seed: int, cells: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    height, width = 64, 96
    levels = [uniform(2, 5, height // s, width // s) for s in (2, 4, 8, 16)]
    corner = uniform(20, 2) * torch.tensor([width, height]) - 4
    sides = 1 + 70 * uniform(20, 2) ** 3  # many small, some larger than the image
    boxes = torch.cat([corner, corner + sides], dim=1)
    images = torch.arange(20) % 2
    pool = MultiScaleRoIAlign(
        ["0", "1", "2", "3"], cells, sampling_ratio=2, canonical_scale=56, canonical_level=3
    )
    wanted = pool(
        {str(i): x for i, x in enumerate(levels)},
        [boxes[images == 0], boxes[images == 1]],
        [(height, width)] * 2,
    )
    order = torch.cat([torch.nonzero(images == i)[:, 0] for i in (0, 1)])
    table = feature_table(levels, height)
    level = levels_of(boxes, table, 56, 3)
    found = roi_align(table, boxes, images, level, cells)[order]
    torch.testing.assert_close(found.permute(0, 3, 1, 2), wanted, atol=1e-5, rtol=1e-5)


def test_no_box_gives_no_features() -> None:
    levels = [torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 4, 4)]
    table = feature_table(levels, 16)
    none = torch.zeros(0, dtype=torch.int64)
    assert roi_align(table, torch.zeros(0, 4), none, none, 7).shape == (0, 7, 7, 4)


def test_a_larger_window_may_hold_more_proposals() -> None:
    """Four times the ground, four times the proposals: the number a square kilometre is the form's."""
    model = network(SMALL)
    ready = InferenceNetwork(model, torch.float32, guide_min=0.0)
    seen = []
    plain = ready._read

    def count(table: object, boxes: list[Tensor], cells: int) -> Tensor:
        seen.append([len(b) for b in boxes])
        return plain(table, boxes, cells)  # type: ignore[arg-type]

    ready._read = count  # type: ignore[method-assign]
    side = int(PROPOSAL_AREA**0.5)
    for n in (side, 2 * side):
        detect_batch(ready, images(1, n, n))
    assert seen[0] == [SMALL.proposals]
    assert seen[2] == [4 * SMALL.proposals]


def test_the_proposal_head_at_some_cells_is_the_convolution_there() -> None:
    ready = InferenceNetwork(network(SMALL).double(), torch.float64)
    torch.manual_seed(2)
    features = torch.randn(2, SMALL.fpn_channels, 9, 12, dtype=torch.float64)
    cells = torch.tensor([0, 11, 12, 50, 96, 107, 108, 119, 215])  # corners, edges, both images
    with torch.inference_mode():
        (logits,), (deltas,) = ready.rpn.head([features])
        some, moves = ready._head_at(features, cells)
    for found, plain in ((some, logits), (moves, deltas)):
        wanted = plain.permute(0, 2, 3, 1).flatten(0, 2)[cells]
        torch.testing.assert_close(found.float(), wanted.float())


def guided(guide_min: float) -> InferenceNetwork:
    """A guide that sees an object where the first feature is large, and nothing elsewhere."""
    model = network(SMALL)
    ready = InferenceNetwork(model, torch.float32, guide_min)
    assert ready.guide is not None
    nn.init.constant_(ready.guide.logits.bias, -9.0)
    nn.init.zeros_(ready.guide.logits.weight)
    ready.guide.logits.weight.data[0, 0] = 30.0
    return ready


def test_away_from_possible_ground_nothing_is_looked_at() -> None:
    seen = []
    ready = guided(0.01)
    plain = ready._head_at

    def note(features: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(len(cells) / (features.shape[0] * features.shape[-2] * features.shape[-1]))
        return plain(features, cells)

    ready._head_at = note  # type: ignore[method-assign]
    x = torch.zeros(2, 3, 128, 128)
    x[0, :, 60:68, 60:68] = 5.0
    hidden = ready.guide.hidden  # type: ignore[union-attr]
    mark = torch.zeros(2, SMALL.guide_width, 64, 64)
    mark[0, 0, 30:34, 30:34] = 1.0
    hidden.register_forward_hook(lambda *_: mark)
    one, none = detect_batch(ready, x)
    assert 0 < seen[0] < 0.02  # (4 + 2·2)² of 2·64² cells of the finest level
    assert len(one.scores) > 0
    assert len(none.scores) == 0
    # Boxes lie where they may: an anchor of the coarsest level reaches farthest.
    centres = (one.boxes[:, :2] + one.boxes[:, 2:]) / 2
    assert ((centres - 64).abs() < 64).all()


def test_a_guide_that_holds_everything_possible_changes_nothing() -> None:
    model, batch = network(SMALL), images()
    assert model.guide is not None
    nn.init.constant_(model.guide.logits.bias, 9.0)
    everything = detect_batch(InferenceNetwork(model, torch.float32, 0.0), batch)
    for one, two in zip(
        detect_batch(InferenceNetwork(model, torch.float32), batch), everything, strict=True
    ):
        assert torch.equal(one.boxes, two.boxes)


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3, 7, 9, 41, 183]))
def test_local_contrast_is_the_difference_to_the_mean_of_known_neighbours(
    height: int, width: int, window: int
) -> None:
    rng = np.random.default_rng(height * 100 + width)
    x = rng.normal(size=(height, width)) * (rng.random((height, width)) > 0.3)
    wanted = np.zeros_like(x)
    half = window // 2
    for r, c in zip(*np.nonzero(x), strict=True):
        near = x[max(r - half, 0) : r + half + 1, max(c - half, 0) : c + half + 1]
        wanted[r, c] = 3.0 * (x[r, c] - near[near != 0].mean())
    found = LocalContrast(window)(torch.from_numpy(x)[None, None])
    np.testing.assert_allclose(found[0, 1].numpy(), wanted, atol=1e-9)
    np.testing.assert_array_equal(found[0, 0].numpy(), x)


@pytest.mark.parametrize("form", ["resnext-dcb-cbam-small", "resnext-dcb-sa-small"])
def test_deformable_and_attentive_forms_compute_in_bfloat16(form: str) -> None:
    model, batch = network(FORMS[form]), images()
    exact = detect_batch(InferenceNetwork(model, torch.float32, 0.0), batch)
    half = detect_batch(InferenceNetwork(model, torch.bfloat16, 0.0), batch)
    for one, two in zip(half, exact, strict=True):
        assert len(one.scores)
        assert abs(float(one.scores.mean() - two.scores.mean())) < 0.02

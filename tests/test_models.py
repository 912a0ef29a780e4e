"""Networks: shapes, anchors, exactness of boxes and masks, ignored ground, learning."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.build import build_model, detect, detection_limit
from models.contrast import LocalContrast
from models.forms import FORMS, ModelSpec, least_channels, spec_from_dict
from models.images import ImagesAsTheyAre
from models.paste import paste_masks
from models.targets import IGNORED_SHARE, ignored_share, learnable

ROOT = Path(__file__).resolve().parents[1]

TINY = dataclasses.replace(
    FORMS["demo"],
    widths=(8, 16, 16, 16),
    fpn_channels=16,
    box_width=32,
    mask_layers=(16,),
    guide_width=8,
)

#: Of the names and shapes of the tensors, in order.
DIGESTS = {"demo": "87339753c41bb2e8", "resnet18-s2": "a22d5b41538e44ae"}


def square(row: int, col: int, height: int, width: int, side: int = 64) -> dict[str, Tensor]:
    mask = torch.zeros((1, side, side), dtype=torch.uint8)
    mask[0, row : row + height, col : col + width] = 1
    box = torch.tensor([[col, row, col + width, row + height]], dtype=torch.float32)
    return {"boxes": box, "labels": torch.ones(1, dtype=torch.int64), "masks": mask}


def nothing(side: int = 64) -> dict[str, Tensor]:
    return {
        "boxes": torch.zeros((0, 4)),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros((0, side, side), dtype=torch.uint8),
    }


@pytest.mark.parametrize("form", list(FORMS))
def test_every_form_trains_and_detects(form: str) -> None:
    spec = FORMS[form]
    channels = max(least_channels(spec), 1 + list(FORMS).index(form) % 7)
    torch.manual_seed(0)
    model = build_model(spec, channels, 3, max_detections=5)
    # One image for the paper's forms: their heads cost seconds an image.
    large = isinstance(spec, ModelSpec) and spec.block == "bottleneck"
    images = [torch.randn(channels, 64, 64) for _ in range(1 if large else 2)]
    losses = model(images, [square(20, 24, 9, 12), nothing()][: len(images)])
    assert isinstance(losses, dict)
    expected = {"segmentation"}
    if isinstance(spec, ModelSpec):
        expected = {"objectness", "rpn_box_reg", "classifier", "box_reg", "mask"}
        expected |= {"segmentation"} if spec.guide_width else set()
    assert set(losses) == {f"loss_{name}" for name in expected}
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) == len(list(model.parameters()))
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
    for found in detect(model, images):
        n = len(found.scores)
        assert n <= 5
        assert found.boxes.shape == (n, 4)
        assert len(found.masks) == n
        for mask in found.masks:
            assert bool(((mask >= 0) & (mask <= 1)).all())
            if isinstance(spec, ModelSpec):
                assert mask.shape == (2 * spec.mask_pool, 2 * spec.mask_pool)
        assert set(found.labels.tolist()) <= {1, 2}


def test_names_and_shapes_of_the_plain_forms_do_not_change() -> None:
    """Weights in use carry these names; the digest is of the code that trained the first ones."""
    digests = {}
    for form in DIGESTS:
        with torch.device("meta"):
            state = build_model(FORMS[form], 3, 2).state_dict()
        text = "\n".join(f"{k} {tuple(v.shape)}" for k, v in state.items())
        digests[form] = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert digests == DIGESTS


def test_the_rows_of_table_2_differ_where_the_paper_says() -> None:
    rows = ("baseline", "resnext", "resnext-dcb", "resnext-dcb-cbam", "resnext-dcb-sa")
    for suffix in ("", "-50", "-small"):
        names = [f"{row}{suffix}" for row in rows]
        if suffix == "-50":
            names[0] = "resnet50-fpn"
        specs = [FORMS[name] for name in names]
        assert [s.groups for s in specs] == [(1,) * 4] + [(32, 32, 32, 1)] * 4
        assert [s.deform[-1] for s in specs] == ["none", "none", "v2", "v2", "v2"]
        assert {s.deform[:3] for s in specs} == {("none",) * 3}
        attention = ["none", "none", "none", "cbam", "sa"]
        assert [s.attention for s in specs] == [(a,) * 4 for a in attention]
        parts = {"groups": (1,) * 4, "deform": ("none",) * 4, "attention": ("none",) * 4}
        assert {dataclasses.replace(s, **parts) for s in specs} == {specs[0]}


def test_paper_form_has_the_papers_proportions() -> None:
    model = build_model(FORMS["baseline"], 3, 2)
    trunk = sum(p.numel() for p in model.backbone.trunk.parameters())
    assert trunk == pytest.approx(
        42.5e6, rel=0.001
    )  # torchvision's ResNet-101 without its classifier
    assert model.backbone.strides == (4, 8, 16, 32, 64)


@pytest.mark.parametrize("form", [f for f, s in FORMS.items() if isinstance(s, ModelSpec)])
def test_anchors_of_each_level_have_the_sizes_of_the_form(form: str) -> None:
    spec = FORMS[form]
    with torch.device("meta"):
        model = build_model(spec, 7, 2)
    cells = model.rpn.anchor_generator.cell_anchors
    strides = model.backbone.strides
    assert len(cells) == len(spec.anchor_sizes) == len(strides)
    assert strides[0] == spec.finest_stride
    for sizes, level in zip(spec.anchor_sizes, model.rpn.anchor_generator.sizes, strict=True):
        assert tuple(level) == sizes


def test_anchor_areas() -> None:
    model = build_model(TINY, 1, 2)
    for sizes, anchors in zip(
        TINY.anchor_sizes, model.rpn.anchor_generator.cell_anchors, strict=True
    ):
        sides = (anchors[:, 2:] - anchors[:, :2]).prod(dim=1).sqrt()
        wanted = torch.tensor([s for _ in TINY.aspect_ratios for s in sizes])
        assert bool(((sides - wanted).abs() <= 1.0).all())  # torchvision rounds corners to pixels


def test_features_have_the_promised_strides() -> None:
    for form in ("demo", "resnet50-fpn"):
        model = build_model(FORMS[form], 2, 2).eval()
        size = 2 * max(model.backbone.strides)
        with torch.no_grad():
            levels = model.backbone(torch.randn(1, 2, size, size))
        assert [size // f.shape[-1] for f in levels.values()] == list(model.backbone.strides)


def test_local_contrast_is_the_difference_to_the_mean_of_what_is_there() -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 2, 9, 11)
    image[0, 0, 2:4, 3:6] = 0  # no data
    out = LocalContrast(5, gain=2.0)(image)
    assert torch.equal(out[:, :2], image)
    for c in range(2):
        for row in range(9):
            for col in range(11):
                window = image[0, c, max(0, row - 2) : row + 3, max(0, col - 2) : col + 3]
                there = window[window != 0]
                value = image[0, c, row, col]
                expected = 2 * (value - there.mean()) if value != 0 else 0.0
                assert float(out[0, 2 + c, row, col]) == pytest.approx(float(expected), abs=1e-5)


def test_local_contrast_takes_a_plane_away() -> None:
    rows, cols = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    plane = (3 + 0.05 * rows - 0.02 * cols)[None, None]
    inner = LocalContrast(11)(plane)[0, 1, 8:-8, 8:-8]
    assert float(inner.abs().max()) < 1e-4


def test_images_are_padded_not_resized() -> None:
    model = build_model(TINY, 3, 2)
    image = torch.randn(3, 50, 70)
    batch, _ = model.transform([image], None)
    assert batch.tensors.shape == (1, 3, 64, 80)
    assert torch.equal(batch.tensors[0, :, :50, :70], image)
    for found in detect(model, [image]):
        assert bool((found.boxes[:, [0, 2]] <= 70).all())
        assert bool((found.boxes[:, [1, 3]] <= 50).all())


def test_boxes_return_from_the_transform_unchanged() -> None:
    transform = ImagesAsTheyAre(16)
    target = square(3, 5, 4, 7)
    _, inside = transform([torch.zeros(3, 64, 64)], [target])
    assert inside is not None
    assert inside[0]["boxes"].tolist() == [[4.5, 2.5, 11.5, 6.5]]
    back = transform.eval().postprocess([{"boxes": inside[0]["boxes"]}], [(64, 64)])
    assert torch.equal(back[0]["boxes"], target["boxes"])


@pytest.mark.parametrize(("height", "width"), [(2, 2), (3, 5), (4, 9), (9, 4), (20, 30)])
@pytest.mark.parametrize("cells", [14, 28])
def test_mask_target_pasted_back_is_the_mask(height: int, width: int, cells: int) -> None:
    """The target that torchvision's RoIAlign makes in our coordinates, pasted, is the object."""
    from torchvision.models.detection.roi_heads import project_masks_on_boxes

    torch.manual_seed(height * 100 + width)
    mask = torch.zeros((1, 64, 64))
    fine = 2 * max(height, width) <= cells
    share = 0.7 if fine else 1.0
    mask[0, 10 : 10 + height, 20 : 20 + width] = (torch.rand(height, width) < share).float()
    mask[0, 10:13, 20:24] = 0  # a notch
    mask[0, 10, 20] = mask[0, 9 + height, 19 + width] = 1  # the box is full size
    outside = torch.tensor([[20.0, 10.0, 20 + width, 10 + height]])
    target = project_masks_on_boxes(mask, outside - 0.5, torch.zeros(1), cells)
    (pasted,) = paste_masks(target, outside, (64, 64))
    assert (pasted.row, pasted.col, *pasted.prob.shape) == (10, 20, height, width)
    expected = mask[0, 10 : 10 + height, 20 : 20 + width] > 0.5
    agree = ((pasted.prob >= 0.5) == expected).float().mean()
    # Up to half as many pixels as cells the grid resolves every pixel; beyond, nearly all.
    assert agree == 1.0 if fine else agree > 0.95


def test_paste_clips_at_the_image_and_gives_nothing_outside() -> None:
    masks = torch.ones((3, 4, 4))
    boxes = torch.tensor(
        [[-2.0, -3.0, 3.0, 2.0], [60.0, 62.0, 70.0, 80.0], [10.6, 10.6, 11.4, 11.4]]
    )
    first, last, none = paste_masks(masks, boxes, (64, 64))
    assert (first.row, first.col, *first.prob.shape) == (0, 0, 2, 3)
    assert (last.row, last.col, *last.prob.shape) == (62, 60, 2, 4)
    assert none.prob.numel() == 0
    assert bool((first.prob == 1).all())


def test_ignored_share_counts_pixels() -> None:
    ignore = torch.zeros((10, 12), dtype=torch.bool)
    ignore[2:5, 3:9] = True
    boxes = torch.tensor([[3, 2, 9, 5], [0, 0, 12, 10], [3, 2, 6, 8], [20, 20, 30, 30]]) - 0.5
    share = ignored_share(boxes, ignore)
    assert share.tolist() == pytest.approx([1.0, 18 / 120, 0.5, 0.0])


def test_ignored_ground_is_no_background() -> None:
    """An anchor on ignored ground is not a negative; elsewhere labels are torchvision's."""
    model = build_model(TINY, 1, 2)
    target = square(8, 8, 8, 8)
    anchors = [torch.tensor([[8.0, 8, 16, 16], [40, 40, 48, 48], [24, 24, 32, 32]]) - 0.5]
    shifted = {**target, "boxes": target["boxes"] - 0.5}
    labels, _ = model.rpn.assign_targets_to_anchors(anchors, [shifted])
    assert labels[0].tolist() == [1, 0, 0]
    ignore = torch.zeros((64, 64), dtype=torch.bool)
    ignore[38:50, 38:50] = True
    ignore[8:16, 8:16] = True  # a matched object stays an object
    labels, _ = model.rpn.assign_targets_to_anchors(anchors, [{**shifted, "ignore": ignore}])
    assert labels[0].tolist() == [1, -1, 0]
    kept, _, roi_labels, _ = model.roi_heads.select_training_samples(
        list(anchors), [{**shifted, "ignore": ignore}]
    )
    assert not any(b.tolist() == anchors[0][1].tolist() for b in kept[0])
    assert (roi_labels[0] == 1).sum() == 2  # the anchor and the object itself
    known = learnable([{**target, "ignore": ignore}], torch.Size((64, 64)))
    assert known.sum() == 64 * 64 - ignore.sum()
    assert 0 < IGNORED_SHARE <= 1


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="num_classes"):
        build_model(TINY, 3, 1)
    with pytest.raises(ValueError, match="anchor_sizes"):
        build_model(dataclasses.replace(TINY, anchor_sizes=((8,),)), 3, 2)
    for change, word in (
        ({"finest_stride": 3}, "finest_stride"),
        ({"groups": (1, 1)}, "groups"),
        ({"deform": ("none", "v3", "none", "none")}, "v3"),
        ({"attention": ("none", "se", "none", "none")}, "se"),
        ({"norm": "layer"}, "layer"),
        ({"proposals": 0}, "proposals"),
        ({"groups": (32, 1, 1, 1), "widths": (8, 16, 16, 16)}, "32 groups"),
    ):
        with pytest.raises(ValueError, match=word):
            build_model(dataclasses.replace(TINY, **change), 3, 2)
    for change in ({"widths": (8,)}, {"threshold": 1.0}, {"norm": "frozen"}):
        with pytest.raises(ValueError, match=r"two widths|frozen"):
            build_model(dataclasses.replace(FORMS["unet"], **change), 3, 2)
    model = build_model(TINY, 3, 2)
    with pytest.raises(ValueError, match="4 channels, the network 3"):
        model([torch.zeros(4, 64, 64)], [nothing()])
    with pytest.raises(ValueError, match="targets"):
        model([torch.zeros(3, 64, 64)])


def test_spec_survives_json() -> None:
    import json

    for spec in FORMS.values():
        assert spec_from_dict(json.loads(json.dumps(spec.as_dict()))) == spec
    with pytest.raises(TypeError):
        spec_from_dict({**TINY.as_dict(), "width": 3})
    with pytest.raises(TypeError, match="yolo"):
        spec_from_dict({**TINY.as_dict(), "network": "yolo"})
    assert isinstance(TINY, ModelSpec)


def test_caps_hold() -> None:
    torch.manual_seed(0)
    model = build_model(TINY, 1, 2, max_detections=3, score_min=0.0)
    (found,) = detect(model, torch.randn(1, 1, 64, 64))
    assert len(found.scores) == 3
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_proposals_are_no_hidden_limit_of_a_crowded_image() -> None:
    image = torch.randn(1, 1, 128, 128)
    found = {}
    for proposals in (None, 400):
        torch.manual_seed(0)
        model = build_model(TINY, 1, 2, max_detections=500, score_min=0.0, proposals=proposals)
        found[proposals] = len(detect(model, image)[0].scores)
        assert found[proposals] <= detection_limit(model) == (proposals or TINY.proposals)
    assert found[400] > 100 > found[None]
    few = build_model(TINY, 1, 2, max_detections=7)
    assert detection_limit(few) == 7
    assert detection_limit(build_model(TINY, 1, 4, max_detections=500)) == 3 * TINY.proposals
    assert detection_limit(build_model(FORMS["unet"], 1, 2, max_detections=7)) == 7


def test_every_mixture_of_blocks_builds_and_runs() -> None:
    spec = dataclasses.replace(
        TINY,
        widths=(16, 16, 32, 32),
        groups=(1, 32, 8, 1),
        deform=("v1", "none", "v2", "v1"),
        attention=("sa", "none", "cbam", "sa"),
    )
    for norm in ("batch", "group", "frozen"):
        model = build_model(dataclasses.replace(spec, norm=norm), 2, 2)
        losses = model([torch.randn(2, 64, 64)], [square(8, 8, 12, 12)])
        assert isinstance(losses, dict)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        assert bool(torch.isfinite(total))
        assert len(detect(model, torch.randn(1, 2, 64, 64))) == 1


def test_learns_one_image() -> None:
    """Two rectangles of 6 to 12 px are found with mask IoU above 0.7 after some steps."""
    torch.manual_seed(3)
    model = build_model(dataclasses.replace(TINY, widths=(16, 16, 32, 32)), 1, 2)
    masks = torch.zeros((2, 64, 64), dtype=torch.uint8)
    masks[0, 10:16, 12:20] = 1
    masks[1, 40:52, 30:38] = 1
    image = masks.sum(dim=0).float()[None] + 0.1 * torch.randn(1, 64, 64)
    target = {
        "boxes": torch.tensor([[12.0, 10, 20, 16], [30, 40, 38, 52]]),
        "labels": torch.ones(2, dtype=torch.int64),
        "masks": masks,
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        losses = model([image, image.flip(-1)], [target, mirrored(target)])
        assert isinstance(losses, dict)
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    (found,) = detect(model, [image])
    pasted = paste_masks(found.masks, found.boxes, (64, 64))
    for mask in masks.bool():
        best = 0.0
        for piece, score in zip(pasted, found.scores.tolist(), strict=True):
            if score < 0.5:
                continue
            full = torch.zeros((64, 64), dtype=torch.bool)
            height, width = piece.prob.shape
            full[piece.row : piece.row + height, piece.col : piece.col + width] = piece.prob >= 0.5
            best = max(best, float((full & mask).sum() / (full | mask).sum()))
        assert best > 0.7


def mirrored(target: dict[str, Tensor]) -> dict[str, Tensor]:
    boxes = target["boxes"].clone()
    boxes[:, [0, 2]] = 64 - boxes[:, [2, 0]]
    return {**target, "boxes": boxes, "masks": target["masks"].flip(-1)}


def test_every_form_is_in_the_documentation() -> None:
    text = (ROOT / "docs" / "models.md").read_text()
    assert [form for form in FORMS if f"`{form}`" not in text] == []


def test_networks_need_torch_torchvision_and_safetensors_only() -> None:
    needed = {}
    for path in sorted((ROOT / "models").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            roots = {n.split(".")[0] for n in names} - set(sys.stdlib_module_names)
            needed.update(dict.fromkeys(roots - {"models"}, path.name))
    # The exporter's package is imported when something is exported.
    assert set(needed) == {"torch", "torchvision", "safetensors", "onnx"}
    assert needed["onnx"] == "onnx.py"
    code = "import sys; sys.modules['onnx'] = None; import models.onnx, models.build, models.pretrained"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_boxes_keep_float32_under_bfloat16() -> None:
    """A box of one pixel far from the origin survives the trip through targets and losses."""
    torch.manual_seed(0)
    model = build_model(TINY, 3, 2)
    images = [torch.randn(3, 320, 320)]
    mask = torch.zeros(1, 320, 320, dtype=torch.uint8)
    mask[0, 301:303, 301] = 1
    target = {
        "boxes": torch.tensor([[301.0, 301.0, 302.0, 303.0]]),
        "labels": torch.ones(1, dtype=torch.int64),
        "masks": mask,
    }
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images, [target])
    assert all(torch.isfinite(value) for value in losses.values())
    found = []
    hook = model.rpn.register_forward_hook(lambda _m, _i, out: found.append(out[0][0]))
    model.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        model(images)
    hook.remove()
    boxes = found[0]
    assert boxes.dtype == torch.float32
    far = boxes[(boxes > 130) & (boxes < 310)]
    assert far.numel() > 50
    assert (far != far.round()).float().mean() > 0.9

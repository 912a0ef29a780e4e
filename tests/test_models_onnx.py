"""ONNX graphs give torch's detections; the runtime is another implementation."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from components.config import InferConfig
from components.errors import ModelError
from components.inference.onnx_export import export_weights
from models.build import Detector, build_model, detect
from models.forms import FORMS, ModelSpec, Spec, UNetSpec
from models.weights import save_weights

LEAN = dataclasses.replace(
    FORMS["demo"], widths=(16, 16, 32, 32), fpn_channels=16, box_width=32, mask_layers=(16,),
    guide_width=8, proposals=30, attention_keys=8,
)  # fmt: skip

SPECS: dict[str, Spec] = {
    "plain": LEAN,
    "deformable-and-attention": dataclasses.replace(
        LEAN,
        groups=(32, 1, 1, 8),
        deform=("none", "v1", "v2", "v2"),
        attention=("sa", "cbam", "none", "sa"),
    ),
    "group": dataclasses.replace(LEAN, norm="group", contrast_window=0, guide_width=0),
    "coarse": dataclasses.replace(
        LEAN, finest_stride=4, extra_level=True, anchor_sizes=((8,), (16,), (32,), (64,), (96,))
    ),
    "unet": UNetSpec(widths=(8, 16, 16), norm="batch", contrast_window=21, threshold=0.5),
}


def write(path: Path, spec: Spec, upsample: int = 1) -> tuple[Path, Detector]:
    torch.manual_seed(0)
    model = build_model(spec, 3, 3)
    with torch.no_grad():
        for name, value in model.named_parameters():  # parts that start as the identity
            if "offset" in name or "attention" in name or "bn" in name:
                value.add_(0.1 * torch.randn(value.shape))
    card = {
        "form": "x", "classes": ["a", "b"], "preset": "rate", "channels": ["x", "y", "z"],
        "upsample": upsample, "ground_pixel_size_m": 25.0,
    }  # fmt: skip
    save_weights(path, model, card)
    return path, model


@pytest.mark.parametrize("form", list(SPECS))
def test_graph_gives_torchs_detections(form: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    spec = SPECS[form]
    weights, model = write(tmp_path / "weights.safetensors", spec, upsample=2)
    cfg = InferConfig(window=64, max_detections=20)
    result = export_weights(weights, tmp_path / "new" / "model.onnx", cfg)
    assert result.image == (1, 3, 128, 128)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["model.onnx"]
    session = runtime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    assert tuple(o.name for o in session.get_outputs()) == result.outputs
    card = json.loads(session.get_modelmeta().custom_metadata_map["card"])
    assert card["classes"] == ["a", "b"]
    if isinstance(spec, ModelSpec):
        model.roi_heads.detections_per_img = 20
    for seed in range(4):
        image = torch.randn((1, 3, 128, 128), generator=torch.Generator().manual_seed(seed))
        got = session.run(None, {"image": image.numpy()})
        if isinstance(spec, UNetSpec):
            with torch.no_grad():
                expected = [model.eval().segment(image)[0].sigmoid()]
        else:
            (found,) = detect(model, image)
            assert len(found.scores) > 0
            expected = list(found)
        for mine, theirs in zip(expected, got, strict=True):
            assert tuple(mine.shape) == theirs.shape
            np.testing.assert_allclose(theirs, mine.numpy(), atol=1e-4, rtol=1e-5)


def test_graph_of_an_image_without_detections(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    weights, model = write(tmp_path / "weights.safetensors", LEAN)
    image = torch.zeros(1, 3, 64, 64)
    (found,) = detect(model, image)
    cfg = InferConfig(window=64, score_min=min(1.0, float(found.scores.max()) + 0.02))
    result = export_weights(weights, tmp_path / "model.onnx", cfg)
    session = runtime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    boxes, labels, scores, masks = session.run(None, {"image": image.numpy()})
    assert boxes.shape == (0, 4)
    assert labels.shape == scores.shape == (0,)
    assert masks.shape == (0, 28, 28)


def test_same_weights_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
    weights, _ = write(tmp_path / "weights.safetensors", LEAN)
    for name in ("a.onnx", "b.onnx"):
        export_weights(weights, tmp_path / name, InferConfig(window=64))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_missing_package_and_missing_weights_are_coded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError) as e:
        export_weights(tmp_path / "none.safetensors", tmp_path / "m.onnx", InferConfig())
    assert e.value.code == "SW-401"
    weights, _ = write(tmp_path / "weights.safetensors", LEAN)
    monkeypatch.setitem(sys.modules, "onnx", None)  # as Python marks what cannot be imported
    with pytest.raises(ModelError) as e:
        export_weights(weights, tmp_path / "m.onnx", InferConfig())
    assert e.value.code == "SW-410"
    assert "slopewatch[onnx]" in str(e.value)
    assert not (tmp_path / "m.onnx").exists()

"""Torchvision's weights into our forms: what goes over means the same, what does not is reported."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models as zoo

from models.build import Detector, build_model
from models.forms import FORMS, ModelSpec, staged
from models.pretrained import HUB_SOURCES, LoadReport, load_pretrained
from models.weights import WeightsError

LEAN = {"fpn_channels": 32, "box_width": 32, "mask_layers": (32,)}


def plain(**changes: object) -> ModelSpec:
    """ResNet-18 at torchvision's strides, without our additions to the input."""
    spec = dataclasses.replace(
        FORMS["resnet18-s2"], finest_stride=4, contrast_window=0, guide_width=0, **LEAN
    )
    return dataclasses.replace(spec, **changes)


def lively(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """State with statistics that are not those of a fresh network."""
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    for name, value in state.items():
        if ("running" in name or "bn" in name) and value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return state


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zoo")
    torch.manual_seed(0)
    torch.save(lively(zoo.resnet18()), path / "resnet18.pth")
    save_file(lively(zoo.resnet18()), path / "resnet18.safetensors")
    for name in ("resnet50", "resnext50_32x4d"):
        state = lively(getattr(zoo, name)())
        # Without the largest stage: the file stays small, and a partial file is a case too.
        torch.save({k: v for k, v in state.items() if "layer4" not in k}, path / f"{name}.pth")
    coco = zoo.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    large = ("layer3", "layer4", "fc6")
    torch.save(
        {k: v for k, v in coco.state_dict().items() if not any(part in k for part in large)},
        path / "coco.pth",
    )
    return path


def loaded(spec: ModelSpec, file: Path, channels: int = 3) -> tuple[Detector, LoadReport]:
    torch.manual_seed(1)
    model = build_model(spec, channels, 2)
    return model.eval(), load_pretrained(model, file, allow_download=False)


def reference(name: str, file: Path) -> nn.Module:
    network = getattr(zoo, name)()
    network.load_state_dict(torch.load(file, weights_only=True), strict=False)
    return network.eval()


def stage(network: nn.Module, x: Tensor, last: int) -> Tensor:
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    for i in range(1, last + 1):
        x = network.get_submodule(f"layer{i}")(x)
    return x


@pytest.mark.parametrize("file", ["resnet18.pth", "resnet18.safetensors"])
def test_a_loaded_trunk_is_the_network_of_the_file(folder: Path, file: str) -> None:
    model, report = loaded(plain(), folder / file)
    x = torch.randn(1, 3, 64, 64)
    if file.endswith("pth"):
        with torch.no_grad():
            expected = stage(reference("resnet18", folder / file), x, 4)
            torch.testing.assert_close(model.backbone.trunk(x)["3"], expected)
    trunk = [k for k in model.state_dict() if k.startswith("backbone.trunk.")]
    assert list(report.loaded) == trunk
    assert {s.name for s in report.skipped} == {"fc.weight", "fc.bias"}
    assert report.inflated == (3, 3)
    assert set(report.loaded) | set(report.untouched) == set(model.state_dict())
    assert not set(report.loaded) & set(report.untouched)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_first_convolution_answers_to_equal_channels_as_to_grey(
    folder: Path, channels: int
) -> None:
    model, report = loaded(plain(), folder / "resnet18.pth", channels)
    assert report.inflated == (3, channels)
    grey = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        expected = stage(
            reference("resnet18", folder / "resnet18.pth"), grey.expand(-1, 3, -1, -1), 2
        )
        got = model.backbone.trunk(grey.expand(-1, channels, -1, -1))["1"]
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_local_contrast_counts_as_channels(folder: Path) -> None:
    _, report = loaded(plain(contrast_window=41), folder / "resnet18.pth", 3)
    assert report.inflated == (3, 6)


def test_stages_load_from_the_file_of_their_kind(folder: Path) -> None:
    """Two files fill a form of ResNeXt and ResNet stages; a deformable stage is a convolution at first."""
    base = dataclasses.replace(FORMS["resnet50-fpn"], depths=(3, 4, 6, 1), **LEAN)
    spec = staged(base, resnext=(3,), dcn=(4,))
    model, first = loaded(spec, folder / "resnet50.pth")
    stages = {k.split(".")[2] for k in first.loaded if "layer" in k}
    assert stages == {"layer1", "layer3"}
    assert any("its block does not fit" in s.reason for s in first.skipped if "layer2" in s.name)
    assert not any("offset" in k for k in first.loaded)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        network = reference("resnet50", folder / "resnet50.pth")
        torch.testing.assert_close(
            model.backbone.trunk(x)["0"], stage(network, x, 1), atol=1e-4, rtol=1e-4
        )
        y = torch.randn(1, 512, 8, 8)
        torch.testing.assert_close(
            model.backbone.trunk.layer3(y), network.layer3(y), atol=1e-3, rtol=1e-3
        )
    second = load_pretrained(model, folder / "resnext50_32x4d.pth", allow_download=False)
    assert {k.split(".")[2] for k in second.loaded if "layer" in k} == {"layer2"}


def test_a_file_of_less_depth_fills_the_first_blocks(folder: Path) -> None:
    base = dataclasses.replace(FORMS["resnet50-fpn"], depths=(3, 5, 1, 1), **LEAN)
    _, report = loaded(base, folder / "resnet50.pth")
    blocks = {k.split(".")[3] for k in report.loaded if "layer2" in k}
    assert blocks == {"0", "1", "2", "3"}
    left = {k.split(".")[3] for k in report.untouched if "layer2" in k}
    assert left == {"4"}
    deeper = [s for s in report.skipped if s.name.startswith("layer3.1.")]
    assert {s.reason for s in deeper} == {"no such module in this form"}


def test_coco_weights_fill_pyramid_and_heads(folder: Path) -> None:
    spec = dataclasses.replace(FORMS["resnet50-fpn"], depths=(3, 4, 1, 1))
    model, report = loaded(spec, folder / "coco.pth", 2)
    got = set(report.loaded)
    for name in (
        "backbone.trunk.layer1.0.conv1.weight",
        "backbone.fpn.inner_blocks.0.0.weight",
        "backbone.fpn.layer_blocks.3.0.weight",
        "rpn.head.conv.0.0.weight",
        "rpn.head.cls_logits.weight",
        "roi_heads.mask_head.3.0.weight",
    ):
        assert name in got
    reasons = {s.name: s.reason for s in report.skipped}
    assert "shape (91, 1024)" in reasons["roi_heads.box_predictor.cls_score.weight"]
    assert "normalised" in reasons["backbone.fpn.inner_blocks.0.0.bias"]
    source = torch.load(folder / "coco.pth", weights_only=True)
    for name in got - {"backbone.trunk.conv1.weight"}:
        old = name.replace("backbone.trunk", "backbone.body")
        assert torch.equal(model.state_dict()[name], source[old]), name
    assert sum(report.reasons().values()) == len(report.skipped)


def test_names_of_old_detectors_are_understood(folder: Path, tmp_path: Path) -> None:
    source = torch.load(folder / "coco.pth", weights_only=True)
    old = {
        "backbone.fpn.inner_blocks.1.weight": source["backbone.fpn.inner_blocks.1.0.weight"],
        "rpn.head.conv.weight": source["rpn.head.conv.0.0.weight"],
    }
    torch.save({"model": old}, tmp_path / "old.pth")
    spec = dataclasses.replace(FORMS["resnet50-fpn"], depths=(1, 1, 1, 1))
    _, report = loaded(spec, tmp_path / "old.pth")
    assert set(report.loaded) == {
        "backbone.fpn.inner_blocks.1.0.weight", "rpn.head.conv.0.0.weight",
    }  # fmt: skip


@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_other_normalisations(folder: Path, norm: str) -> None:
    model, report = loaded(plain(norm=norm), folder / "resnet18.pth")
    reasons = {s.name: s.reason for s in report.skipped}
    assert "backbone.trunk.layer1.0.conv1.weight" in report.loaded
    assert "BatchNorm" in reasons["bn1.num_batches_tracked"]
    if norm == "group":
        assert "GroupNorm" in reasons["layer1.0.bn1.weight"]
        assert float(model.backbone.trunk.bn1.weight.detach().min()) == 1
    else:
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            expected = stage(reference("resnet18", folder / "resnet18.pth"), x, 4)
            got = model.backbone.trunk(x)["3"]
        torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)


def test_what_cannot_be_used_is_a_message(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def message(source: str | Path, spec: str = "demo", *, allow: bool = False) -> str:
        with pytest.raises(WeightsError) as e:
            load_pretrained(build_model(FORMS[spec], 3, 2), source, allow_download=allow)
        return str(e.value)

    assert "no such file" in message(tmp_path / "none.pth")
    (tmp_path / "bad.pth").write_bytes(b"not a torch file")
    assert "not a torch file" in message(tmp_path / "bad.pth")
    (tmp_path / "bad.safetensors").write_bytes(b"nor this")
    assert "safetensors" in message(tmp_path / "bad.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    assert "no dictionary of tensors" in message(tmp_path / "list.pth")
    assert "nothing in" in message(folder / "resnet18.pth", "unet")
    # Offline, and a cache without the file. The address leads nowhere: no network is touched.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    assert "allow the download, or give a local file" in message("resnet18")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert "cannot be fetched" in message("resnet18", allow=True)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, (f"open({str(tmp_path / 'sprung')!r}, 'w')",))

    torch.save({"conv1.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(WeightsError, match="not a torch file"):
        load_pretrained(
            build_model(FORMS["demo"], 3, 2), tmp_path / "trap.pth", allow_download=False
        )
    assert not (tmp_path / "sprung").exists()


def test_the_cache_is_used_without_asking(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = zoo.get_model_weights("resnet18").DEFAULT.url
    cached = tmp_path / "hub" / "checkpoints" / Path(url).name
    cached.parent.mkdir(parents=True)
    cached.write_bytes((folder / "resnet18.pth").read_bytes())
    model = build_model(plain(), 3, 2)
    report = load_pretrained(model, "resnet18", allow_download=False)
    assert report.source == "resnet18"
    assert report.loaded


def test_hub_sources_are_torchvisions() -> None:
    assert set(HUB_SOURCES) <= set(zoo.list_models())

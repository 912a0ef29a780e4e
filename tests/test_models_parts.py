"""Parts of the networks against independent references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models as zoo

from models.attention import CBAM, SelfAttention, attention_layer
from models.backbone import PyramidBackbone, ResNetTrunk
from models.blocks import BlockName, Bottleneck, residual_stage
from models.deformable import DeformableConv2d
from models.norms import group_norm
from models.regions import label_regions


def trunk(
    block: BlockName, depths: tuple[int, ...], groups: int = 1, norm: str = "batch"
) -> ResNetTrunk:
    return ResNetTrunk(
        3, block, depths, (64, 128, 256, 512), groups=(groups,) * 4, group_width=4,
        deform=("none",) * 4, norm=norm, max_pool=True, contrast_window=0,
    )  # fmt: skip


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Fill every parameter and statistic: a part at its initial value may hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if value.is_floating_point():
                value.copy_(0.3 * torch.randn(value.shape, generator=generator))
                if name.endswith("running_var"):
                    value.abs_().add_(0.5)
    return module.eval()


# -- blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "ours"),
    [
        (zoo.resnet18, trunk("basic", (2, 2, 2, 2))),
        (zoo.resnet50, trunk("bottleneck", (3, 4, 6, 3))),
        (zoo.resnext50_32x4d, trunk("bottleneck", (3, 4, 6, 3), groups=32)),
    ],
    ids=["resnet18", "resnet50", "resnext50"],
)
def test_trunk_is_torchvisions_network(reference: type[nn.Module], ours: ResNetTrunk) -> None:
    torch.manual_seed(0)
    theirs = reference().eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    ours.eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        levels = ours(x)
        y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        for i in range(4):
            y = theirs.get_submodule(f"layer{i + 1}")(y)
            torch.testing.assert_close(levels[str(i)], y)


@pytest.mark.parametrize("stride", [1, 2])
def test_grouped_bottleneck_is_split_transform_merge(stride: int) -> None:
    """A sum over paths of 1 × 1, 3 × 3, 1 × 1 convolutions (Xie et al. 2017, equation 3)."""
    groups, width, channels = 8, 4, 24
    block = Bottleneck(
        channels, groups * width, channels, stride, None, lambda _: nn.Identity(), groups, "none"
    )
    randomised(block)
    x = torch.randn(2, channels, 9, 9)
    w1, w2, w3 = (getattr(block, f"conv{i}").weight for i in (1, 2, 3))
    merged = torch.zeros(())
    for path in range(groups):
        own = slice(path * width, (path + 1) * width)
        inner = functional.conv2d(x, w1[own]).relu()
        inner = functional.conv2d(inner, w2[own], stride=stride, padding=1).relu()
        merged = merged + functional.conv2d(inner, w3[:, own])
    block.downsample = nn.AvgPool2d(stride) if stride == 1 else nn.MaxPool2d(1, stride)
    torch.testing.assert_close(block(x), (merged + x[..., ::stride, ::stride]).relu())


def test_stages_have_the_width_of_their_kind() -> None:
    def stage(block: BlockName, groups: int) -> nn.Sequential:
        return residual_stage(
            64, 128, 2, 2, block=block, groups=groups, group_width=4, deform="none",
            norm=nn.BatchNorm2d,
        )  # fmt: skip

    resnext = stage("bottleneck", 32)[1]
    assert resnext.conv2.weight.shape == (256, 8, 3, 3)  # torchvision's 32x4d, second stage
    assert resnext.conv3.weight.shape[0] == 512
    small = stage("basic", 32)[0]
    assert small.conv2.groups == 32
    assert small.conv3.weight.shape[0] == 128  # as the basic block it stands for
    assert stage("basic", 32)(torch.randn(1, 64, 8, 8)).shape == (1, 128, 4, 4)


# -- deformable convolution -----------------------------------------------------------------------


def deformable(groups: int, modulated: bool, stride: int = 1) -> DeformableConv2d:
    torch.manual_seed(0)
    return DeformableConv2d(8, 12, 3, stride=stride, groups=groups, modulated=modulated)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_untrained_deformable_convolution_is_a_convolution(
    modulated: bool, groups: int, stride: int
) -> None:
    layer = deformable(groups, modulated, stride)
    x = torch.randn(2, 8, 11, 13)
    expected = functional.conv2d(x, layer.weight, stride=stride, padding=1, groups=groups)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("modulated", [False, True])
def test_whole_offsets_shift_the_image(modulated: bool) -> None:
    layer = deformable(2, modulated)
    assert layer.offset.bias is not None
    rows, cols = 2, -1
    with torch.no_grad():
        layer.offset.bias[0:18:2] = rows
        layer.offset.bias[1:18:2] = cols
    x = torch.randn(1, 8, 16, 16)
    expected = functional.conv2d(x, layer.weight, padding=1, groups=2)
    # y'(r, c) = y(r + 2, c − 1) wherever the kernel stays inside.
    got = layer(x)
    torch.testing.assert_close(got[..., 1:-3, 2:-1], expected[..., 3:-1, 1:-2])


@torch.no_grad()
def test_offsets_of_each_point_and_modulation_against_a_loop() -> None:
    layer = randomised(deformable(1, True))
    x = torch.randn(1, 8, 6, 7)
    out = layer(x)
    moved = layer.offset(x)[0]
    mask = 2 * moved[18:].sigmoid()
    expected = torch.zeros_like(out[0])
    for row in range(6):
        for col in range(7):
            for k in range(9):
                y = row + k // 3 - 1 + float(moved[2 * k, row, col])
                z = col + k % 3 - 1 + float(moved[2 * k + 1, row, col])
                value = bilinear(x[0], y, z) * mask[k, row, col]
                expected[:, row, col] += layer.weight[:, :, k // 3, k % 3] @ value
    torch.testing.assert_close(out[0], expected, atol=1e-5, rtol=1e-5)


def bilinear(image: Tensor, y: float, x: float) -> Tensor:
    total = torch.zeros(len(image))
    for r in (math.floor(y), math.floor(y) + 1):
        for c in (math.floor(x), math.floor(x) + 1):
            if 0 <= r < image.shape[1] and 0 <= c < image.shape[2]:
                total += image[:, r, c] * (1 - abs(y - r)) * (1 - abs(x - c))
    return total


def test_deformable_convolution_under_autocast_keeps_the_dtype_and_learns() -> None:
    layer = deformable(1, True)
    x = torch.randn(1, 8, 8, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert layer.offset.weight.grad is not None
    assert float(layer.offset.weight.grad.abs().max()) > 0


# -- attention ------------------------------------------------------------------------------------


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def test_cbam_against_numpy() -> None:
    layer = randomised(CBAM(32))
    x = torch.randn(2, 32, 5, 6)
    first, _, second = layer.channel.mlp
    w0, b0, w1, b1 = (
        v.detach().double().numpy() for v in (first.weight, first.bias, second.weight, second.bias)
    )
    kernel = layer.spatial.conv.weight.detach().double().numpy()[0]
    bias = layer.spatial.conv.bias.item()
    assert w0.shape == (2, 32)
    for image, got in zip(x.double().numpy(), layer(x).detach().numpy(), strict=True):

        def mlp(v: NDArray[np.float64]) -> NDArray[np.float64]:
            return w1 @ np.maximum(w0 @ v + b0, 0) + b1

        channel = sigmoid(mlp(image.mean(axis=(1, 2))) + mlp(image.max(axis=(1, 2))))
        refined = image * channel[:, None, None]
        maps = np.pad(
            np.stack([refined.mean(axis=0), refined.max(axis=0)]), ((0, 0), (3, 3), (3, 3))
        )
        spatial = np.array(
            [
                [(maps[:, r : r + 7, c : c + 7] * kernel).sum() + bias for c in range(6)]
                for r in range(5)
            ]
        )
        np.testing.assert_allclose(got, refined * sigmoid(spatial), atol=1e-5)


@pytest.mark.parametrize(("keys", "factor"), [(16, 1), (3, 3), (4, 2)])
@torch.no_grad()
def test_self_attention_against_a_loop(keys: int, factor: int) -> None:
    layer = randomised(SelfAttention(6, keys))
    x = torch.randn(1, 6, 7, 8)
    got = layer(x)[0]

    def at(conv: nn.Conv2d, vector: Tensor) -> Tensor:
        return conv.weight[:, :, 0, 0] @ vector + conv.bias

    image = x[0]
    blocks = [
        [
            image[:, r, c]
            for r in range(row, min(row + factor, 7))
            for c in range(col, min(col + factor, 8))
        ]
        for row in range(0, 7, factor)
        for col in range(0, 8, factor)
    ]
    assert len(blocks) <= keys**2
    phi = [torch.stack([at(layer.phi, v) for v in b]).amax(dim=0) for b in blocks]
    g = [torch.stack([at(layer.g, v) for v in b]).amax(dim=0) for b in blocks]
    for row in range(7):
        for col in range(8):
            query = at(layer.theta, image[:, row, col])
            raw = [math.exp(float(query @ k)) for k in phi]
            y = sum((w / sum(raw)) * v for w, v in zip(raw, g, strict=True))
            expected = image[:, row, col] + at(layer.out, y)
            torch.testing.assert_close(got[:, row, col], expected, atol=1e-5, rtol=1e-4)


def test_self_attention_starts_as_the_identity_and_learns() -> None:
    layer = SelfAttention(16, 8)
    x = torch.randn(1, 16, 20, 20)
    assert torch.equal(layer(x), x)
    layer(x).square().sum().backward()
    assert float(layer.out.weight.grad.abs().max()) > 0


def test_self_attention_takes_memory_linear_in_the_map() -> None:
    """Numbers of the largest intermediate: pixels times keys², not pixels squared."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                self.numbers = max(self.numbers, out.numel())
            return out

    layer = SelfAttention(4, 8)
    for side in (32, 64, 128):
        with torch.no_grad(), Largest() as mode:
            layer(torch.randn(1, 4, side, side))
        assert mode.numbers == side * side * 8 * 8


def test_attention_sits_on_the_levels_that_ask_for_it() -> None:
    pyramid = PyramidBackbone(
        trunk("basic", (1, 1, 1, 1)), 16, attention=("none", "cbam", "sa", "none"),
        attention_keys=8, norm="batch", extra_level=True,
    )  # fmt: skip
    kinds = [type(layer) for layer in pyramid.attention]
    assert kinds == [nn.Identity, CBAM, SelfAttention, nn.Identity]
    plain = {k for k in pyramid.state_dict() if k.startswith("attention")}
    assert {k.split(".")[1] for k in plain} == {"1", "2"}
    pyramid.eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = pyramid.fpn(pyramid.trunk(x.contiguous(memory_format=torch.channels_last)))
        levels = pyramid(x)
        expected = pyramid.attention[1](before["1"])
    assert list(levels) == ["0", "1", "2", "3", "pool"]
    assert torch.equal(levels["0"], before["0"])
    assert torch.equal(levels["1"], expected)
    assert torch.equal(levels["pool"], levels["3"][..., ::2, ::2])
    assert isinstance(attention_layer("none", 8, 4), nn.Identity)


# -- normalisation --------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 5, 8, 32, 48, 64, 192, 256])
def test_group_norm_has_groups_of_two_channels_or_more(channels: int) -> None:
    norm = group_norm(channels)
    assert isinstance(norm, nn.GroupNorm)
    assert channels % norm.num_groups == 0
    assert norm.num_groups <= 32
    assert channels // norm.num_groups >= 2 or channels == 1
    if channels in (64, 256):
        assert norm.num_groups == 32
    x = torch.randn(3, channels, 5, 4)
    grouped = x.view(3, norm.num_groups, -1)
    expected = (grouped - grouped.mean(2, keepdim=True)) / (
        grouped.var(2, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(norm(x), expected.view_as(x))


def test_frozen_trunk_gives_what_the_batch_trunk_gives_in_evaluation() -> None:
    batch = randomised(trunk("basic", (1, 1, 1, 1))).double()
    frozen = trunk("basic", (1, 1, 1, 1), norm="frozen").double()
    frozen.load_state_dict(batch.state_dict())
    frozen.train()
    x = torch.randn(2, 3, 64, 64).double()
    for a, b in zip(batch(x).values(), frozen(x).values(), strict=True):
        torch.testing.assert_close(a, b)
    assert not any("bn" in name for name, _ in frozen.named_parameters())
    # fresh blocks are not the identity for ever
    assert float(trunk("basic", (1, 1, 1, 1), norm="frozen").layer1[0].bn2.weight.min()) == 1


def test_group_trunk_does_not_depend_on_the_batch() -> None:
    network = trunk("basic", (1, 1, 1, 1), norm="group").train()
    x = torch.randn(3, 3, 64, 64)
    together, alone = network(x), network(x[:1])
    for a, b in zip(together.values(), alone.values(), strict=True):
        torch.testing.assert_close(a[:1], b, atol=1e-5, rtol=1e-4)


# -- regions --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_regions_are_scipys(height: int, width: int, share: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    expected, count = ndimage.label(mask, structure=np.ones((3, 3)))
    got = label_regions(torch.from_numpy(mask)).numpy()
    assert set(np.unique(got)) - {0} == set(range(1, count + 1))
    # a one to one renaming
    assert len(set(zip(got.ravel(), expected.ravel(), strict=True))) == count + (not mask.all())


def test_a_long_snake_is_one_region() -> None:
    mask = torch.zeros((41, 41), dtype=torch.bool)
    mask[::2] = True
    mask[1::4, -1] = True
    mask[3::4, 0] = True
    assert int(label_regions(mask).max()) == 1
    mask[20, 20] = False
    assert int(label_regions(mask).max()) == 2

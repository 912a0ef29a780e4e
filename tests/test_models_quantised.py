"""Convolutions of bytes against exact sums, and a network of them against the trained one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_inference_network import SMALL, images, network
from torch.nn import functional
from torchvision.ops import box_iou

from components.dataset.presets import render
from components.errors import ModelError
from components.inference.predict import Predictor
from components.simulation.scene import simulate_scene
from components.training.scenes import scene_layers
from models.forms import FORMS
from models.inference import InferenceNetwork, detect_batch
from models.int8 import QuantisedConv, Scale, processor_has_int8, scale_of, to_bytes
from models.quantised import activation_ranges, quantisable
from models.weights import load_weights, save_weights

RELEASED = Path(__file__).parents[1] / "models" / "released" / "slopewatch-s2.safetensors"
GUIDED = replace(SMALL, guide_width=16)

needs_int8 = pytest.mark.skipif(
    not processor_has_int8(), reason="the processor has no instructions for products of bytes"
)


def bytes_like(shape: tuple[int, ...]) -> torch.Tensor:
    rng = np.random.default_rng(0)
    q = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
    return q.contiguous(memory_format=torch.channels_last)


def exact(q: torch.Tensor, scale: Scale) -> torch.Tensor:
    return (q.double() - scale.zero) * scale.step


@needs_int8
@pytest.mark.parametrize("zero", [0, 128])
@pytest.mark.parametrize("relu", [False, True])
def test_a_convolution_of_bytes_is_the_exact_sum_rounded_once(zero: int, relu: bool) -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(9, 16, 3, stride=2, padding=1).requires_grad_(False)
    # Weights that bytes hold exactly: the largest of each channel is 127 steps.
    conv.weight.data = torch.randint(-127, 128, conv.weight.shape).float() / 500
    conv.weight.data[:, 0, 0, 0] = 127 / 500
    read, give = Scale(0.02, zero), Scale(0.11, 128)
    x = bytes_like((2, 9, 12, 14))
    quantised = QuantisedConv.of(conv, read, torch.float32)
    weight, bias = conv.weight.double(), conv.bias.double()
    want = functional.conv2d(exact(x, read), weight, bias, stride=2, padding=1)
    want = want.relu() if relu else want
    torch.testing.assert_close(quantised(x, relu=relu).double(), want, atol=1e-4, rtol=1e-4)
    got = exact(quantised(x, give, relu=relu), give)
    inside = want.clamp(-128 * give.step, 127 * give.step)
    assert float((got - inside).abs().max()) < 0.5 * give.step + 1e-3
    # The same with a summand of bytes of another scale.
    other = Scale(0.05, zero)
    summand = bytes_like(tuple(want.shape))
    total = functional.conv2d(exact(x, read), weight, bias, stride=2, padding=1)
    total = total + exact(summand, other)
    total = (total.relu() if relu else total).clamp(-128 * give.step, 127 * give.step)
    got = exact(quantised.add(x, summand.clone(), other, give, relu=relu), give)
    assert float((got - total).abs().max()) < 0.5 * give.step + 1e-3


@needs_int8
def test_levels_and_guide_are_those_of_the_trained_network_but_for_rounding() -> None:
    model, batch = network(GUIDED), images(4)
    plain = InferenceNetwork(model, torch.float32)
    ranges = activation_ranges(plain, batch.split(2))
    quantised = InferenceNetwork(model, torch.float32, ranges=ranges)
    with torch.inference_mode():
        want, guide = plain.features(batch)
        got, logits = quantised.features(batch)
        alone, _ = quantised.features(batch[1:2])
    assert list(want) == list(got)
    for name, level in want.items():
        error = (got[name] - level).std() / level.std()
        assert float(error) < 0.06, (name, float(error))
        assert torch.equal(got[name][1:2], alone[name])  # a window does not see its batch
    assert guide is not None
    assert logits is not None
    # Random weights, and four more convolutions of rounded numbers.
    assert float((logits - guide).std() / guide.std()) < 0.1


def test_ranges_are_the_ends_of_what_the_convolutions_read() -> None:
    model, batch = network(GUIDED), images(2)
    plain = InferenceNetwork(model, torch.float32)
    ranges = activation_ranges(plain, [batch])
    with torch.inference_mode():
        stem = plain.backbone.trunk.entry(batch).relu()
    low, high = ranges["layer1.0.conv1"]
    assert low == 0.0
    assert float((stem <= high).float().mean()) == pytest.approx(0.9999, abs=5e-5)
    assert ranges["layer2.0.downsample.0"][0] < 0 < ranges["layer2.0.downsample.0"][1]
    # Measured once more on less, no range shrinks; on more, none either.
    more = activation_ranges(plain, [batch, 2 * batch])
    assert all(more[k][0] <= v[0] and more[k][1] >= v[1] for k, v in ranges.items())


@needs_int8
def test_the_released_weights_see_the_same_landslides_in_integers() -> None:
    model, card = load_weights(RELEASED, score_min=0.3)
    ready = {
        "bfloat16": InferenceNetwork(model, torch.bfloat16),
        "int8": InferenceNetwork(model, torch.bfloat16, ranges=card["activation_ranges"]),
    }
    found = dict.fromkeys(("both", *ready), 0)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        scene = simulate_scene(rng, (256, 256), landslides_per_1000km2=600.0)
        image = render(card["preset"], scene_layers(scene), 12.0)
        one, two = (detect_batch(n, torch.from_numpy(image)[None])[0].boxes for n in ready.values())
        found["bfloat16"] += len(one)
        found["int8"] += len(two)
        found["both"] += int((box_iou(one, two).amax(dim=1) > 0.8).sum())
    assert found["bfloat16"] >= 20
    assert found["both"] >= 0.9 * max(found["bfloat16"], found["int8"]), found


def test_forms_that_are_not_of_plain_convolutions_say_why() -> None:
    assert quantisable(FORMS["slopewatch-s2"]) == ""
    for name in ("resnext-dcb-cbam", "resnext-dcb-small", "baseline", "plain-small"):
        assert quantisable(FORMS[name]), name


def test_integers_that_are_not_to_be_had_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    extra = {"preset": "sincos", "channels": [], "upsample": 1, "ground_pixel_size_m": 25.0}
    save_weights(path, network(GUIDED), {"form": "x", "classes": ["a", "b"], **extra})
    with pytest.raises(ModelError, match=r"SW-411.*int8"):
        Predictor(path, "cpu", threads=1, precision="int8")
    with Predictor(path, "cpu", threads=1) as predictor:
        assert predictor.precision in {"bfloat16", "float32"}
    plain = InferenceNetwork(network(GUIDED), torch.float32)
    card = json.loads(path.with_suffix(".json").read_text())
    card["activation_ranges"] = activation_ranges(plain, [images()])
    path.with_suffix(".json").write_text(json.dumps(card))
    with Predictor(path, "cpu", threads=1) as predictor:
        assert (predictor.precision == "int8") is processor_has_int8()
    with Predictor(path, "cpu", threads=1, precision="float32") as predictor:
        assert predictor.precision == "float32"


@needs_int8
@pytest.mark.parametrize("spoilt", [None, [], [1.0, 2.0], [float("nan"), 1.0], ["a", 1], "gone"])
def test_a_card_with_spoilt_ranges_is_refused_before_any_window(
    tmp_path: Path, spoilt: object
) -> None:
    path = tmp_path / "w.safetensors"
    ranges = activation_ranges(InferenceNetwork(network(GUIDED), torch.float32), [images()])
    if spoilt == "gone":
        del ranges["guide.logits"]
    else:
        ranges["guide.logits"] = spoilt  # type: ignore[assignment]
    extra = {"preset": "sincos", "channels": [], "upsample": 1, "ground_pixel_size_m": 25.0}
    card = {"form": "x", "classes": ["a", "b"], "activation_ranges": ranges, **extra}
    save_weights(path, network(GUIDED), card)
    with pytest.raises(ModelError, match=r"SW-401.*activation_ranges"):
        Predictor(path, "cpu", threads=1)
    with Predictor(path, "cpu", threads=1, precision="float32") as predictor:
        assert predictor.precision == "float32"


def test_a_scale_holds_its_range_and_zero_exactly() -> None:
    for ends in ([0.0, 5.1], [-3.0, 1.0], [-1.0, 4.0], [0.0, 0.0]):
        scale = scale_of(ends)
        x = torch.tensor([ends[0], 0.0, ends[1]]).view(1, 1, 1, 3)
        back = exact(to_bytes(x, scale), scale)
        assert float((back - x).abs().max()) <= scale.step / 2 + 1e-6
        assert back[0, 0, 0, 1] == 0

"""Several looks at one window: known answers, and a real network whose answer mirrors with its image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small_cube import CFG, content, copy, make_cube, write_weights

from components.dataset.augment import turn
from components.dataset.presets import CHANNELS, render
from components.errors import ModelError
from components.inference.instance_file import load_instances
from components.inference.looks import LOOKS, Merged, merged, seen, unturned
from components.inference.plan import make_plan
from components.inference.predict import Predictor, RawDetection
from components.inference.run import infer_cube
from components.workspace import Workspace

FLIPS = LOOKS["flips"]


def raw(
    row: int, col: int, prob: NDArray[np.float32], score: float = 0.8, category: int = 1
) -> RawDetection:
    return RawDetection(category, score, row, col, prob)


def block(height: int, width: int, value: float = 1.0) -> NDArray[np.float32]:
    return np.full((height, width), value, np.float32)


# -- known answers ---------------------------------------------------------------------------------


def test_flips_are_all_mirrors_of_a_window_and_their_own_inverses() -> None:
    x = np.arange(48.0).reshape(6, 8)
    mirrors = {x[::a, ::b].tobytes() for a in (1, -1) for b in (1, -1)}
    assert {np.ascontiguousarray(turn(x, k)).tobytes() for k in FLIPS} == mirrors
    for k in FLIPS:
        np.testing.assert_array_equal(turn(turn(x, k), k), x)


@pytest.mark.parametrize("look", FLIPS)
@pytest.mark.parametrize("unit", [0.5, 1.0, 3.0])
def test_what_a_look_sees_comes_back_to_its_place(look: int, unit: float) -> None:
    height, width = 40, 55  # no multiple of the stride
    image = np.zeros((1, 1, height, width), np.float32)
    image[0, 0, 6:10, 20:44] = np.arange(1, 97).reshape(4, 24)
    shown = seen(image, look)[0, 0]
    assert look == 0 or shown.shape == (48, 64)
    rows, cols = (np.flatnonzero(shown.any(axis=k)) for k in (1, 0))
    part = shown[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    step = max(int(unit), 1)  # up-sampled images have several pixels in one of the map
    on_map = np.kron(part, block(step, step)) if unit >= 1 else part[::2, ::2]
    d = raw(int(rows[0] * unit), int(cols[0] * unit), on_map)
    (back,) = unturned([d], look, (height, width), unit)
    assert (back.row, back.col) == (6 * unit, 20 * unit)
    assert back.prob.shape == (4 * unit, 24 * unit)
    if unit >= 1:
        np.testing.assert_array_equal(back.prob[::step, ::step], image[0, 0, 6:10, 20:44])


def test_one_object_is_one_detection_with_means_over_all_looks() -> None:
    a, b = raw(10, 10, block(8, 10), 0.8), raw(11, 10, block(8, 10, 0.6), 0.6)
    c = raw(10, 10, block(8, 10, 0.8), 0.4)
    found = merged([[a], [b], [], [c]], 0.0)
    (one,) = found.found
    assert found.faint == 0
    assert one.score == pytest.approx((0.8 + 0.6 + 0.4) / 4)
    assert (one.row, one.col, one.prob.shape) == (10, 10, (9, 10))
    np.testing.assert_allclose(one.prob[0], (1.0 + 0.8) / 4, rtol=1e-6)
    np.testing.assert_allclose(one.prob[1:8], (1.0 + 0.6 + 0.8) / 4, rtol=1e-6)
    np.testing.assert_allclose(one.prob[8], 0.6 / 4, rtol=1e-6)


def test_objects_are_kept_apart_by_place_class_and_look() -> None:
    here, beside = raw(10, 10, block(8, 8)), raw(10, 15, block(8, 8))  # IoU 3/13
    other = raw(10, 10, block(8, 8), category=2)
    assert len(merged([[here], [beside]], 0.0).found) == 2
    assert len(merged([[here], [other]], 0.0).found) == 2
    # Two that one look tells apart stay two, and the better partner is taken.
    near = raw(10, 11, block(8, 8), 0.4)
    found = merged([[here, near], [raw(10, 10, block(8, 8), 0.6)]], 0.0).found
    assert sorted((d.col, round(d.score, 6)) for d in found) == [(10, 0.7), (11, 0.2)]


def test_what_too_few_looks_saw_is_dropped_and_counted() -> None:
    once = [[raw(0, 0, block(4, 4), 0.6)], [], [], []]
    assert merged(once, 0.15).faint == 0
    assert merged(once, 0.16) == Merged([], 1)


def test_a_single_look_is_as_it_was() -> None:
    found = [raw(0, 0, block(4, 4), 0.1), raw(0, 0, block(4, 4), 0.1)]
    assert merged([found], 0.5) == Merged(found, 0)


def test_a_detection_without_a_mask_stands_alone() -> None:
    nothing = raw(3, 3, block(4, 4, 0.2))
    assert len(merged([[nothing], [nothing]], 0.0).found) == 2


# -- which mirrors are allowed ---------------------------------------------------------------------


@pytest.mark.parametrize("preset", CHANNELS)
@pytest.mark.parametrize("look", FLIPS[1:])
def test_a_mirrored_scene_renders_to_the_mirrored_image(preset: str, look: int) -> None:
    rng = np.random.default_rng(2)
    layers = {
        "los_displacement": rng.normal(0, 0.02, (12, 17)),
        "los_velocity": rng.normal(0, 20, (12, 17)),
        "coherence": rng.uniform(0, 1, (12, 17)),
        "los_sensitivity": rng.uniform(-1, 1, (12, 17)),  # C = s . u, both of them mirrored
        "slope": rng.uniform(0, 60, (12, 17)),
        "valid": rng.random((12, 17)) > 0.1,
    }
    image = render(preset, layers, 5.0)
    mirrored = render(preset, {n: turn(a, look) for n, a in layers.items()}, 5.0)
    np.testing.assert_array_equal(mirrored, turn(image, look))


def test_a_channel_with_a_direction_is_not_mirrored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cube = make_cube(tmp_path / "ws", tmp_path / "product")
    monkeypatch.setitem(CHANNELS, "rate", ("velocity", "coherence", "look_east"))
    weights = write_weights(tmp_path / "w.safetensors")
    ws = Workspace(tmp_path / "ws")
    make_plan(ws, cube, weights, CFG)
    with pytest.raises(ModelError) as e:
        make_plan(ws, cube, weights, CFG.model_copy(update={"augment": "flips"}))
    assert e.value.code == "SW-404"
    assert "look_east" in str(e.value)


# -- a real network --------------------------------------------------------------------------------


def all_looks(predictor: Predictor, images: NDArray[np.float32]) -> list[RawDetection]:
    shape = (images.shape[2], images.shape[3])
    looks = [unturned(predictor.predict(seen(images, k))[0], k, shape, 1.0) for k in FLIPS]
    return merged(looks, 0.0).found


@pytest.mark.parametrize("mirror", FLIPS[1:])
def test_the_answer_to_a_mirrored_image_is_the_mirrored_answer(tmp_path: Path, mirror: int) -> None:
    weights = write_weights(tmp_path / "w.safetensors", preset="multi")
    rng = np.random.default_rng(5)
    images = rng.normal(size=(1, len(CHANNELS["multi"]), 96, 80)).astype(np.float32)
    with Predictor(weights, "cpu", max_detections=20, score_min=0.2, threads=1) as predictor:
        straight = all_looks(predictor, images)
        turned = all_looks(predictor, np.ascontiguousarray(turn(images, mirror)))
        (plain,) = predictor.predict(images)
        (other,) = predictor.predict(np.ascontiguousarray(turn(images, mirror)))
    back = unturned(turned, mirror, (96, 80), 1.0)
    assert len(back) == len(straight) > 5

    def order(d: RawDetection) -> tuple[float, int, int]:
        return (-round(d.score, 9), d.row, d.col)

    for one, two in zip(sorted(straight, key=order), sorted(back, key=order), strict=True):
        assert (one.category, one.row, one.col) == (two.category, two.row, two.col)
        assert one.score == pytest.approx(two.score, abs=1e-12)
        np.testing.assert_allclose(one.prob, two.prob, atol=1e-6)
    # One look alone does not have this property: the network is no mirror image of itself.
    boxes = {(d.row, d.col, *d.prob.shape) for d in plain}
    mirrored = unturned(other, mirror, (96, 80), 1.0)
    assert boxes != {(d.row, d.col, *d.prob.shape) for d in mirrored}


def test_a_run_with_flips_shows_every_window_four_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_cube(tmp_path / "region", tmp_path / "product")
    region = tmp_path / "region", write_weights(tmp_path / "w.safetensors")
    shown = {1: 0, 4: 0}
    looks, submit = 1, Predictor.submit

    def count(self: Predictor, images: NDArray[np.float32], scale: int = 1) -> object:
        shown[looks] += len(images)
        return submit(self, images, scale)

    monkeypatch.setattr(Predictor, "submit", count)
    ws, cube = copy(region, tmp_path / "ws")
    plain = infer_cube(ws, cube, region[1], CFG)
    looks, made = 4, []
    for name in ("one", "two"):
        ws, cube = copy(region, tmp_path / name)
        cfg = CFG.model_copy(update={"augment": "flips", "threads": 1 + len(made)})
        made.append(infer_cube(ws, cube, region[1], cfg))
    assert shown[1] == plain.meta["windows"]["done"] > 50
    assert shown[4] == 2 * 4 * shown[1]
    assert content(made[0]) == content(made[1])
    assert plain.meta["window_key"] != made[0].meta["window_key"]
    assert made[0].meta["windows"]["faint"] > 0
    for i in load_instances(made[0].folder / "instances.npz"):
        assert i.score >= CFG.score_min

"""Simulated training tiles: the same for everybody who asks, of the claimed kind, and trainable."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from components.config import PretrainConfig, TrainConfig
from components.dataset.presets import CHANNELS
from components.simulation.conditions import REFERENCE, Conditions, draw_conditions
from components.simulation.scene import simulate_scene
from components.training.loop import pretrain
from components.training.order import ALONE
from components.training.scenes import TRAINING, VALIDATION, SceneTiles
from components.training.sources import scene_source
from models.forms import FORMS
from models.weights import load_weights

SCENES = PretrainConfig(tile=64, tiles_per_epoch=8, validation_tiles=4, workers=0, seed=3)
TINY = dataclasses.replace(
    FORMS["demo"], widths=(8, 8, 8, 8), fpn_channels=8, box_width=8, mask_layers=(8,), proposals=20
)


def same(a: tuple, b: tuple) -> bool:
    return torch.equal(a[0], b[0]) and all(torch.equal(a[1][k], b[1][k]) for k in a[1])


def test_a_tile_depends_on_its_index_alone() -> None:
    forward, backward = SceneTiles(SCENES), SceneTiles(SCENES)
    one = [forward[i] for i in range(8)]
    two = [backward[i] for i in reversed(range(8))][::-1]
    assert all(same(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0][0], one[1][0])
    assert not torch.equal(one[0][0], one[4][0])


def test_scenes_in_turn_give_the_same_tiles_in_any_order() -> None:
    turns = {"scenes_in_turn": 3, "tiles_per_scene": 2, "preset": "terrain"}
    cfg = SCENES.model_copy(update=turns)
    tiles, again = SceneTiles(cfg), SceneTiles(cfg)
    scenes = [tiles.scene_of(i) for i in range(12)]
    assert scenes == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]
    got = [tiles[i] for i in range(8)]
    for i in (7, 0, 4, 3, 6):
        assert same(again[i], got[i])
    assert not torch.equal(got[0][0], got[3][0])
    # The ground is that of the scene: how high it lies does not change from tile to tile.
    fixed = SceneTiles(cfg.model_copy(update={"scene_scale": 1.0}), VALIDATION)
    assert torch.equal(fixed[0][0], fixed[3][0])
    assert fixed[0][0][CHANNELS["terrain"].index("relative_height")].min() >= 0.05


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_same_tiles_for_any_number_of_workers(workers: int) -> None:
    cfg = TrainConfig(batch_size=4)
    source = scene_source(SCENES.model_copy(update={"workers": workers}), cfg)
    batches = list(source.loader(lambda: 2, ALONE))
    wanted = SceneTiles(SCENES)
    got = [item for images, targets in batches for item in zip(images, targets, strict=True)]
    assert len(got) == SCENES.tiles_per_epoch
    for i, item in enumerate(got):
        assert same(item, wanted[2 * SCENES.tiles_per_epoch + i])


def test_training_and_validation_share_no_scene() -> None:
    train, val = SceneTiles(SCENES, TRAINING), SceneTiles(SCENES, VALIDATION)
    assert not any(torch.equal(train[i][0], val[j][0]) for i in range(4) for j in range(4))


def test_targets_fit_the_image_and_half_of_the_tiles_hold_no_landslide() -> None:
    tiles = SceneTiles(SCENES.model_copy(update={"tile": 96}))
    empty = 0
    for i in range(0, 160, 2):
        image, target = tiles[i]
        assert image.shape == (len(CHANNELS["multi"]), 96, 96)
        assert torch.isfinite(image).all()
        masks = target["masks"].bool()
        assert masks.shape[1:] == image.shape[1:]
        assert (masks.flatten(1).sum(1) >= 6).all()
        for box, mask in zip(target["boxes"].int().tolist(), masks, strict=True):
            rows, cols = torch.where(mask)
            assert box == [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]
        empty += not len(masks)
    assert 0.4 <= empty / 80 <= 0.75


def test_landslides_stand_out_where_they_are_drawn() -> None:
    """In velocity, a label's pixels differ from the ground around it, in the sign of its motion."""
    tiles = SceneTiles(SCENES.model_copy(update={"tile": 128}), VALIDATION)
    differences = []
    for i in range(48):
        image, target = tiles[i]
        velocity, valid = image[2].numpy(), image[6].numpy() > 0
        for mask in target["masks"].numpy().astype(bool):
            ring = ndimage.binary_dilation(mask, iterations=5) & ~mask & valid
            inside = mask & valid
            if ring.sum() > 20:
                spread = velocity[ring].std()
                differences.append(
                    abs(np.median(velocity[inside] - np.median(velocity[ring]))) / spread
                )
    assert len(differences) > 15
    assert np.median(differences) > 2


def test_conditions_are_varied_and_reference_scenes_are_untouched() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_conditions(rng) for _ in range(200)]
    assert 30 <= sum(c == REFERENCE for c in drawn) <= 90
    looks = [c.looks for c in drawn]
    assert min(looks) < 9
    assert max(looks) > 40
    plain = simulate_scene(np.random.default_rng(1), (64, 64))
    named = simulate_scene(np.random.default_rng(1), (64, 64), conditions=Conditions())
    np.testing.assert_array_equal(plain.displacement, named.displacement)


@pytest.mark.parametrize(
    ("change", "factor"),
    [({"looks": 80}, 0.5), ({"noise_gain": 0.5}, 0.5), ({"filter_px": 1.0}, 0.28)],
)
def test_noise_follows_the_conditions(change: dict, factor: float) -> None:
    """Phase noise falls with √looks and with stacking; a Gaussian of σ px leaves 1/(2√π σ) of it."""

    def roughness(conditions: Conditions) -> float:
        scene = simulate_scene(
            np.random.default_rng(4),
            (256, 256),
            landslides_per_1000km2=0,
            negatives=False,
            conditions=conditions,
        )
        good = scene.valid & (scene.coherence > 0.5)
        fine = scene.displacement - ndimage.uniform_filter(np.nan_to_num(scene.displacement), 9)
        return float(np.std(fine[ndimage.binary_erosion(good, iterations=6)]))

    calm = {"turbulence_rad": (0.0, 0.0), "stratified_rad_m": (0.0, 0.0), "dem_error_m": 0.0}
    calm |= {"cells_per_1000km2": 0.0}
    ratio = roughness(Conditions(**calm, **change)) / roughness(Conditions(**calm))
    assert ratio == pytest.approx(factor, rel=0.2)


def test_pretraining_writes_weights_that_name_their_scenes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMS, "tiny", TINY)
    cfg = TrainConfig(model="tiny", epochs=2, batch_size=4, validate_every=1, threads=1)
    result = pretrain(tmp_path / "a", tmp_path / "wa", cfg, SCENES)
    again = pretrain(tmp_path / "b", tmp_path / "wb", cfg, SCENES.model_copy(update={"workers": 1}))
    assert result.steps == 4
    assert result.weights.read_bytes() == again.weights.read_bytes()
    model, card = load_weights(result.weights)
    assert model.in_channels == len(CHANNELS["multi"])
    assert card["preset"] == "multi"
    assert card["training"]["data"]["seed"] == 3

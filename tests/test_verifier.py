"""The second look: what it computes, what it refuses, and how it is fitted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_cube import CFG, add_verifier, content, copy, make_cube, write_weights
from torch import nn

from components.config import VerifierConfig
from components.errors import InputError, ModelError, ProcessingError, WorkspaceError
from components.grid import Window
from components.inference.instance_file import load_instances
from components.inference.instances import Instance
from components.inference.predict import read_card
from components.inference.run import infer_cube
from components.inference.traits import LAYERS, TRAITS, traits
from components.inference.verifier import (
    CARD_KEY,
    Verifier,
    load_verifier,
    prepared,
    to_tensors,
    verified,
)
from components.verification.candidates import collect
from components.verification.fit import fit, fit_verifier
from models.weights import RELEASED, VERIFIER, add_tensors, card_path, load_weights

SIDE = 160
T = len(TRAITS)


def some_verifier(seed: int = 0) -> Verifier:
    rng = np.random.default_rng(seed)
    return Verifier(
        np.zeros(T),
        np.ones(T),
        tuple(
            (
                (rng.normal(0, 0.4, (6, 2 * T)), rng.normal(0, 1, 6)),
                (rng.normal(0, 1, (1, 6)), np.zeros(1)),
            )
            for _ in range(2)
        ),
    )


def a_map(seed: int = 0) -> dict[str, NDArray[np.generic]]:
    rng = np.random.default_rng(seed)
    layers: dict[str, NDArray[np.generic]] = {
        n: rng.normal(0, 5, (SIDE, SIDE)).astype(np.float32) for n in LAYERS
    }
    layers["valid"] = rng.random((SIDE, SIDE)) < 0.9
    layers["coherence"] = rng.random((SIDE, SIDE)).astype(np.float32)
    return layers


def instances(n: int, seed: int = 0) -> list[Instance]:
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        h, w = rng.integers(1, 12, 2)
        mask = np.ones((h, w), bool)
        row, col = rng.integers(0, SIDE - 12, 2)
        prob = rng.uniform(0.5, 1, (h, w)).astype(np.float32)
        out.append(Instance(1, float(rng.random()), int(row), int(col), mask, prob, 1, 1))
    return out


# -- what it computes ------------------------------------------------------------------------------


def test_the_perceptrons_are_torchs_and_their_mean_counts() -> None:
    v = some_verifier()
    values = np.random.default_rng(1).normal(0, 4, (50, T))
    values[3, :10] = np.nan
    x = torch.tensor(prepared(values, v.centre, v.scale))
    want = np.zeros(50)
    for layers in v.members:
        net = nn.Sequential(nn.Linear(2 * T, 6), nn.SiLU(), nn.Linear(6, 1)).double()
        for layer, (weight, offset) in zip((net[0], net[2]), layers, strict=True):
            layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(offset)
        want += torch.sigmoid(net(x))[:, 0].detach().numpy() / len(v.members)
    np.testing.assert_allclose(v.probabilities(values), want, atol=1e-9)


def test_what_is_unknown_is_said_and_stands_in_the_middle() -> None:
    x = prepared(
        np.array([[np.nan, 3.0, 1e9]]), np.array([7.0, 1.0, 0.0]), np.array([2.0, 4.0, 1.0])
    )
    np.testing.assert_array_equal(x, [[0.0, 0.5, 5.0, 1.0, 0.0, 0.0]])


@given(order=st.permutations(range(25)), parts=st.integers(1, 5))
def test_a_landslide_gets_the_same_score_in_any_company(order: list[int], parts: int) -> None:
    found, layers, v = instances(25), a_map(), some_verifier()

    def read(w: Window) -> dict[str, NDArray[np.generic]]:
        assert 0 <= w.row < w.row_end <= SIDE
        assert 0 <= w.col < w.col_end <= SIDE
        return {n: a[w.slices] for n, a in layers.items()}

    want = {(i.row, i.col): float(v.probabilities(traits(i, layers, 0, 0)[None])[0]) for i in found}
    shuffled = [found[k] for k in order]
    step = -(-len(found) // parts)
    got = [
        i
        for k in range(0, len(found), step)
        for i in verified(shuffled[k : k + step], v, read, (SIDE, SIDE))
    ]
    assert {(i.row, i.col): i.score for i in got} == want
    assert sorted(map(id, (i.mask for i in got))) == sorted(map(id, (i.mask for i in found)))


def test_without_a_verifier_scores_stay() -> None:
    found = instances(5)

    def never(_: Window) -> dict[str, NDArray[np.generic]]:
        raise AssertionError

    assert verified(found, None, never, (SIDE, SIDE)) == found


# -- in the weights' file --------------------------------------------------------------------------


def test_the_file_holds_network_and_verifier_apart(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "w.safetensors")
    network, card = load_weights(path)
    assert load_verifier(path, card) is None
    add_verifier(path, seed=3)
    again, card = load_weights(path)
    for (name, a), b in zip(network.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    v = load_verifier(path, card)
    assert v is not None
    assert [[w.shape for w, _ in m] for m in v.members] == [[(5, 2 * T), (1, 5)]]
    # Fitted again: the former gives way, and the digest tells them apart.
    before = card["sha256"]
    add_verifier(path, seed=4)
    other = load_verifier(path, read_card(path))
    assert other is not None
    assert not np.array_equal(other.members[0][0][0], v.members[0][0][0])
    assert read_card(path)["sha256"] != before


def code_of(path: Path) -> str:
    with pytest.raises(ModelError) as e:
        load_verifier(path, read_card(path))
    return e.value.code


def test_a_verifier_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = add_verifier(write_weights(tmp_path / "w.safetensors"))
    whole = json.loads(card_path(path).read_text())
    for change in (
        {"traits": list(TRAITS)[::-1]},
        {"algorithm": "verifier-0"},
        {"traits": None},
    ):
        card = {**whole, CARD_KEY: {**whole[CARD_KEY], **change}}
        card_path(path).write_text(json.dumps(card))
        assert code_of(path) == "SW-401"
    card_path(path).write_text(json.dumps({**whole, CARD_KEY: 7}))
    assert code_of(path) == "SW-401"
    card_path(path).write_text(json.dumps(whole))
    for tensors in (
        {},
        {"centre": torch.zeros(T)},
        {
            "centre": torch.zeros(T),
            "scale": torch.zeros(T),  # would divide by nothing
            "0.0.weight": torch.zeros(1, 2 * T),
            "0.0.bias": torch.zeros(1),
        },
        {
            "centre": torch.zeros(T),
            "scale": torch.ones(T),
            "0.0.weight": torch.full((1, 2 * T), torch.nan),
            "0.0.bias": torch.zeros(1),
        },
    ):
        add_tensors(path, path, VERIFIER, tensors, {})
        assert code_of(path) == "SW-401"


# -- in a run --------------------------------------------------------------------------------------


def test_a_run_gives_every_landslide_the_score_of_its_traits(tmp_path: Path) -> None:
    cube = make_cube(tmp_path / "region", tmp_path / "product")
    plain = write_weights(tmp_path / "plain.safetensors")
    looked = add_verifier(write_weights(tmp_path / "looked.safetensors"))
    found = {}
    for name, weights in (("plain", plain), ("looked", looked)):
        ws, cube = copy((tmp_path / "region", weights), tmp_path / name)
        found[name] = infer_cube(ws, cube, weights, CFG)
    a, b = (load_instances(f.folder / "instances.npz") for f in found.values())
    assert (found["plain"].meta["verified"], found["looked"].meta["verified"]) == (False, True)
    assert len(a) == len(b) > 10
    for one, two in zip(a, b, strict=True):  # the same landslides in the same order
        np.testing.assert_array_equal(one.mask, two.mask)
    from components.cube.read import read_layers

    layers = read_layers(ws, "descending", "20230101_20230701", LAYERS, Window(0, 0, 380, 350))
    v = load_verifier(looked, read_card(looked))
    assert v is not None
    want = v.probabilities(np.stack([traits(i, layers, 0, 0) for i in a]))
    np.testing.assert_allclose([i.score for i in b], want, atol=1e-6)
    assert len({i.score for i in b}) > 10
    # The files say the same but for the scores.
    assert content(found["plain"])["windows.json"] == content(found["looked"])["windows.json"]


def test_a_layer_that_only_the_second_look_reads_and_that_is_damaged_is_told(
    tmp_path: Path,
) -> None:
    make_cube(tmp_path / "region", tmp_path / "product")
    weights = add_verifier(write_weights(tmp_path / "w.safetensors"))
    ws, cube = copy((tmp_path / "region", weights), tmp_path / "ws")
    shard = ws.root / "region" / "region.zarr" / "elevation" / "c" / "0" / "0"
    shard.parent.mkdir(parents=True, exist_ok=True)
    shard.write_bytes(bytes(100))
    with pytest.raises(WorkspaceError) as e:
        infer_cube(ws, cube, weights, CFG)
    assert e.value.code == "SW-206"
    assert ws.artefacts("detections") == []


# -- fitting ---------------------------------------------------------------------------------------


def candidates(n: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Hits and false alarms that two traits tell apart together, and neither alone."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, (n, T))
    hits = values[:, 3] * values[:, 20] > 0
    values[:, 3] *= 40.0
    values[rng.random(n) < 0.5, 7] = np.nan
    values[:, 11] = np.nan
    return values, hits


def test_a_fit_finds_what_tells_hits_from_false_alarms() -> None:
    v = fit(*candidates(6000), seed=0)
    values, hits = candidates(2000, seed=1)
    p = v.probabilities(values)
    assert ((p > 0.5) == hits).mean() > 0.9
    # A probability: of those it gives some 0.9, about nine in ten are hits.
    sure = (p > 0.85) & (p < 0.95)
    assert hits[sure].mean() == pytest.approx(0.9, abs=0.12)


def test_the_same_candidates_give_the_same_verifier() -> None:
    values, hits = candidates(800)
    state = torch.get_rng_state()
    a, b, other = (fit(values, hits, seed=s) for s in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())  # nobody else's random numbers are touched
    for name, tensor in to_tensors(a).items():
        np.testing.assert_array_equal(tensor, to_tensors(b)[name])
    assert not np.array_equal(a.members[0][0][0], other.members[0][0][0])


SMALL = VerifierConfig(scenes=8, side=320, workers=1, seed=5)


def test_candidates_do_not_depend_on_processes_and_a_killed_run_goes_on(tmp_path: Path) -> None:
    whole = collect(RELEASED, SMALL, tmp_path / "a")
    assert len(whole.hits) == len(whole.values) == len(whole.scores) > 5
    assert whole.values.shape[1] == T
    assert set(whole.scenes) <= set(range(8))
    assert (np.diff(whole.scenes) >= 0).all()
    parts = sorted((tmp_path / "a").iterdir())
    assert [p.name for p in parts] == ["part-00000.npz", "part-00004.npz"]
    # Killed in the second part, half of which is on disk.
    killed = tmp_path / "b"
    killed.mkdir()
    (killed / parts[0].name).write_bytes(parts[0].read_bytes())
    data = parts[1].read_bytes()
    (killed / parts[1].name).write_bytes(data[: len(data) // 2])
    steps: list[int] = []
    again = collect(RELEASED, replace_workers(2), killed, lambda step, n, _: steps.append(n))
    assert steps == [4, 8]
    for name in ("values", "hits", "scores", "sizes", "scenes"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(again, name))
    assert whole.ignored == again.ignored


def replace_workers(n: int) -> VerifierConfig:
    return SMALL.model_copy(update={"workers": n})


def test_what_cannot_be_fitted_is_refused(tmp_path: Path) -> None:
    reserved = SMALL.model_copy(update={"seed": 900_001})
    with pytest.raises(InputError) as seed:
        fit_verifier(RELEASED, tmp_path, reserved)
    assert seed.value.code == "SW-308"
    with pytest.raises(ModelError) as same:
        fit_verifier(RELEASED, RELEASED.parent, SMALL)
    assert same.value.code == "SW-401"
    weights = write_weights(tmp_path / "untrained.safetensors")
    with pytest.raises(ProcessingError) as few:
        fit_verifier(weights, tmp_path / "out", SMALL.model_copy(update={"scenes": 5, "side": 320}))
    assert few.value.code == "SW-509"
    assert not (tmp_path / "out" / weights.name).exists()


@pytest.mark.slow
def test_the_second_look_of_the_released_weights_is_worth_it(tmp_path: Path) -> None:
    """From weights to weights: fewer false alarms on scenes that the fit has not seen."""
    cfg = VerifierConfig(scenes=120, side=640, workers=2, seed=11)
    result = fit_verifier(RELEASED, tmp_path, cfg)
    card = read_card(result.weights)
    assert load_verifier(result.weights, card) is not None
    assert "calibration" not in card
    assert 0 < card["score_threshold"] < 1
    alarms = result.facts["held_out"]["false_alarms_at_recall"]["0.9"]
    assert alarms["verifier"] < 0.8 * alarms["network"]
    network, _ = load_weights(result.weights)
    released, _ = load_weights(RELEASED)
    for (name, a), b in zip(
        released.state_dict().items(), network.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name

"""Small COCO sets from a simulated region: what a random split shares, and experiments on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_networks import SETTINGS, tiny  # noqa: F401 - the fixture registers the forms

from components.config import DatasetConfig, IngestConfig, RegionConfig, TileConfig
from components.config_file import load_config
from components.cube.ingest import ingest_product, prepare
from components.cube.read import list_cubes
from components.dataset.coco import build_dataset
from components.dataset.tiles import build_tiles
from components.errors import InputError
from components.evaluation.compare import Setting, scene_work
from components.evaluation.experiments import read_experiments
from components.evaluation.samples import pretraining_gain, small_sample
from components.evaluation.subsets import known_subset, subset
from components.evaluation.trainings import train_once
from components.products.registry import discover
from components.simulation.region import simulate_region
from components.workspace import Workspace

SIDE = 384


def region(root: Path, seed: int) -> tuple[Workspace, Path]:
    values = {
        "simulate.seed": seed,
        "simulate.height": SIDE,
        "simulate.width": SIDE,
        "simulate.landslides_per_1000km2": 1500,
    }
    sim = simulate_region(root / "sim", load_config(None, values).simulate)
    ws = Workspace(root / "ws")
    found = discover(list(sim.products), IngestConfig())
    with ws.lock():
        prepare(ws, found, IngestConfig(), RegionConfig())
        for product in found:
            ingest_product(ws, product, IngestConfig(), RegionConfig())
        build_tiles(ws, list_cubes(ws), TileConfig(size=64, stride=48))
    return ws, sim.labels


def dataset(ws: Workspace, labels: Path, split: str, shares: tuple[float, float, float]) -> Path:
    cfg = DatasetConfig.model_validate(
        {"preset": "multi", "split": split, "fractions": shares, "block_km": 1.2}
    )
    with ws.lock():
        tiles = build_tiles(ws, list_cubes(ws), TileConfig(size=64, stride=48))
        return build_dataset(ws, tiles, labels, cfg).folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, int]]]:
    root = tmp_path_factory.mktemp("samples")
    ws, labels = region(root / "a", 910_000)
    out = {}
    wanted = {"train": 16, "val": 6, "test": 6}
    for split in ("random", "blocks"):
        source = dataset(ws, labels, split, (0.6, 0.2, 0.2))
        counts = subset(source, root / split, "key", wanted)
        out[split] = (root / split, counts)
    landslides = {"train": 12, "val": 4}
    counts = subset(source, root / "labelled", "key", landslides=landslides)
    out["labelled"] = (root / "labelled", counts)
    other, labels = region(root / "b", 910_001)
    source = dataset(other, labels, "blocks", (0.0, 0.0, 1.0))
    out["independent"] = (source, {})
    return out


def ids(folder: Path, fold: str) -> tuple[set[int], list[dict]]:
    content = json.loads((folder / "annotations" / f"{fold}.json").read_text())
    found = {a["slide_id"] for a in content["annotations"] if not a["iscrowd"]}
    return found, content["images"]


def overlap(a: dict, b: dict) -> bool:
    (r, c, h, w), (s, d, i, x) = a["window"], b["window"]
    return r < s + i and s < r + h and c < d + x and d < c + w


def test_a_random_split_shares_landslides_and_ground_and_blocks_share_none(sets) -> None:
    for split, shares in (("random", True), ("blocks", False)):
        folder, counts = sets[split]
        (train, tiles), (val, _), (test, others) = (
            ids(folder, f) for f in ("train", "val", "test")
        )
        assert (len(tiles), len(others)) == (16, 6) == (counts["train_tiles"], counts["test_tiles"])
        assert counts["shared_landslides"] == len(test & (train | val))
        assert bool(counts["shared_landslides"]) is shares
        assert any(overlap(a, b) for a in tiles for b in others) is shares
        for image in (*tiles, *others):
            assert (folder / "images" / image["file_name"]).is_file()


def test_a_subset_holds_so_many_landslides_and_is_known_again(sets, tmp_path: Path) -> None:
    folder, counts = sets["labelled"]
    train, _ = ids(folder, "train")
    assert counts["train_landslides"] == len(train) <= 12
    assert len(train) >= 10
    assert counts["test_tiles"] == 0
    assert known_subset(folder, "key") == counts
    assert known_subset(folder, "other") is None
    assert known_subset(tmp_path, "key") is None
    with pytest.raises(InputError, match="SW-306"):
        subset(sets["random"][0], tmp_path / "a", "key", {"train": 17})
    with pytest.raises(InputError, match="SW-306"):
        subset(sets["random"][0], tmp_path / "a", "key", landslides={"train": 10_000})


def test_leak_and_gain_of_pretraining(sets, tmp_path: Path) -> None:
    config = load_config(None, {**SETTINGS, "train.model": "unet-tiny"})
    s = Setting(config, 4, 1, tmp_path / "work", tmp_path / "out", "the command")
    independent = sets["independent"][0]
    both = {k: sets[k] for k in ("random", "blocks")}
    leak = small_sample(s, both, independent)
    assert (leak.trained, leak.reused) == (2, 0)
    assert [r["label"] for r in leak.experiment.rows] == ["random split", "blocks split"]
    assert leak.experiment.rows[0]["shared"] == sets["random"][1]["shared_landslides"] > 0
    assert leak.experiment.rows[1]["shared"] == 0
    again = small_sample(s, both, independent)
    assert (again.trained, again.reused) == (0, 2)
    assert again.path.read_bytes() == leak.path.read_bytes()

    work = scene_work(s, 7, "given", {})
    given = train_once(work, tmp_path / "given").weights
    gain = pretraining_gain(s, *sets["labelled"], independent, given)
    assert (gain.trained, gain.reused) == (2, 0)
    labels = [r["label"] for r in gain.experiment.rows]
    assert labels == ["random weights", "pretrained", "pretrained, not trained further"]
    assert {e.name for e in read_experiments(s.out)} == {"small-sample", "pretraining"}
    cards = [json.loads(p.read_text()) for p in s.root.glob("*/card.json")]
    assert sum("initial" in c["training"] for c in cards) == 1

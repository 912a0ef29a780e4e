"""Methods measured on the same maps: an oracle, its noisy twin and the thresholds."""

import json
from pathlib import Path

import numpy as np
import pytest

from components.config import IngestConfig, RegionConfig
from components.cube.ingest import ingest_product, prepare
from components.cube.read import cube_info, list_cubes, read_layers
from components.errors import ProcessingError
from components.evaluation import simv1
from components.evaluation.accuracy import measure, publish_accuracy, read_accuracy
from components.evaluation.kept_maps import RegionMaps
from components.evaluation.labels import TUNED, USUAL
from components.evaluation.settling import OPERATING
from components.evaluation.simtruth import read_truth
from components.grid import Window
from components.inference.instance_file import save_instances
from components.inference.instances import Instance
from components.products.registry import discover
from components.simulation.region import simulate_region
from components.workspace import Workspace


def write_card(path: Path, **more: object) -> Path:
    """A card without tensors: nothing is inferred here."""
    path.write_bytes(b"")
    card = {
        "format": 1, "form": "oracle", "spec": {}, "in_channels": 3, "classes": ["landslide"],
        "sha256": path.stem * 8, "preset": "rate", "channels": [], "upsample": 1,
        "ground_pixel_size_m": 25.0, "parameters": 7, **more,
    }  # fmt: skip
    path.with_suffix(".json").write_text(json.dumps(card))
    return path


def region(root: Path, which: simv1.Region) -> RegionMaps:
    sim = simulate_region(root / which.name / "simulated", which.config)
    ws = Workspace(root / which.name / "workspace")
    products, cfg = discover(list(sim.products), IngestConfig()), IngestConfig()
    prepare(ws, products, cfg, RegionConfig())
    ingest_product(ws, products[0], cfg, RegionConfig())
    info = cube_info(list_cubes(ws)[0])
    names = ("valid", "coherence")
    layers = read_layers(ws, info.track, info.period, names, Window(0, 0, *info.shape))
    truth = read_truth(
        sim.labels, sim.truth, info.geobox, layers["valid"], layers["coherence"], info.days
    )
    rng = np.random.default_rng(which.config.seed)
    maps = {}
    for name in ("oracle", "noisy"):
        found = [
            # Over-confident when right, so that there is something to calibrate.
            Instance(
                1, float(rng.uniform(0.5, 0.7)), f.row, f.col, f.mask,
                f.mask.astype(np.float32), 1, 1,
            )
            for f in truth.references
            if not f.ignore and (name == "oracle" or rng.random() < 0.6)
        ]  # fmt: skip
        if name == "noisy":
            for row, col in rng.integers(0, 280, (12, 2)).tolist():
                box = np.ones((5, 5), bool)
                score = float(rng.uniform(0.1, 0.6))
                found.append(Instance(1, score, row, col, box, box.astype(np.float32), 1, 1))
        maps[name] = root / which.name / f"{name}.npz"
        save_instances(maps[name], found)
    return RegionMaps(which.name, which.split, ws.root, sim.labels, sim.truth, maps)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[RegionMaps]]:
    root = tmp_path_factory.mktemp("bench")
    return root, [region(root, r) for r in simv1.regions(limit=1, side=320)]


def test_an_oracle_beats_its_noisy_twin_and_the_thresholds(bench) -> None:
    root, regions = bench
    weights = {n: write_card(root / f"{n}.safetensors") for n in ("oracle", "noisy")}
    artefact = publish_accuracy(
        Workspace(root / "ws"), regions, weights,
        benchmark="a trial", splits=["test", "null"], refit=False, min_pixels=12,
    )  # fmt: skip
    found = read_accuracy(artefact)
    assert list(found["methods"]) == ["oracle", "noisy", USUAL, TUNED]
    assert list(found["splits"]) == ["test", "null"]
    test = found["splits"]["test"]
    figures = {name: m["figures"] for name, m in test["methods"].items()}
    for name in ("iou50.f1", "iou75.f1", "pixels.iou_fg", "coco.ap", "boundary.f1_1px"):
        assert figures["oracle"][name]["value"] == pytest.approx(1), name
        assert figures["noisy"][name]["value"] < 1, name
        difference = test["differences"]["noisy"][name]["value"]
        assert difference == pytest.approx(1 - figures["noisy"][name]["value"])
    assert set(test["differences"]) == {"noisy", USUAL, TUNED}
    assert 0 < figures[USUAL]["iou50.f1"]["value"] < 1
    assert "ece.after" not in figures[USUAL]
    null = {
        n: m["figures"]["iou50.fp_per_1000km2"]
        for n, m in found["splits"]["null"]["methods"].items()
    }
    assert null["oracle"]["value"] == 0
    assert null[USUAL]["value"] > 0
    assert found["methods"]["oracle"]["source"] == "the split val"
    assert [r["split"] for r in found["regions"]] == ["val", "test", "null"]
    # What the card would be given is what was used.
    used = artefact.meta["networks"]["noisy"]
    assert used["calibration"]["method"] in {"temperature", "isotonic"}
    assert used["score_threshold"] == found["methods"]["noisy"]["score_min"]
    again = publish_accuracy(
        Workspace(root / "ws"), regions, weights,
        benchmark="a trial", splits=["test", "null"], refit=False, min_pixels=12,
    )  # fmt: skip
    assert again.reused


def test_the_card_decides_unless_a_new_fit_is_asked_for(bench) -> None:
    root, regions = bench
    calibration = {"method": "temperature", "temperature": 0.5}
    path = write_card(root / "carded.safetensors", calibration=calibration, score_threshold=0.99)
    ordered = [
        RegionMaps(r.name, r.split, r.workspace, r.labels, r.truth, {"m": r.maps["oracle"]})
        for r in regions
    ]
    options = {"splits": ["test"], "min_pixels": 12}
    metrics, settings = measure(ordered, {"m": path}, refit=False, **options)
    assert settings["m"].calibration == calibration
    assert settings["m"].source == "the weights' card"
    # Scores of 0.7 at most are 0.85 after this calibration: below the card's threshold.
    assert metrics["splits"]["test"]["methods"]["m"]["figures"]["iou50.recall"]["value"] == 0
    metrics, settings = measure(ordered, {"m": path}, refit=True, **options)
    assert settings["m"].calibration != calibration
    assert metrics["splits"]["test"]["methods"]["m"]["figures"]["iou50.recall"]["value"] == 1
    with pytest.raises(ProcessingError) as e:
        measure(ordered[1:], {"m": path}, refit=False, **options)
    assert e.value.code == "SW-602"


def test_a_budget_of_false_alarms_sets_the_threshold_of_the_model_alone(bench) -> None:
    root, regions = bench
    path = write_card(root / "budget.safetensors")
    ordered = [
        RegionMaps(
            r.name,
            r.split,
            r.workspace,
            r.labels,
            r.truth,
            {"m": r.maps["noisy"], "other": r.maps["noisy"]},
        )
        for r in regions
    ]
    alarms, settings = {}, {}
    for budget in (None, 0.0, 60.0, 1e6):
        metrics, found = measure(
            ordered, {"m": path, "other": path},
            splits=["val"], refit=True, min_pixels=12, alarms=budget,
        )  # fmt: skip
        figures = metrics["splits"]["val"]["methods"]["m"]["figures"]
        alarms[budget] = figures["iou50.fp_per_1000km2"]["value"]
        settings[budget] = found
    assert alarms[0.0] == 0
    assert alarms[0.0] <= alarms[60.0] <= 60
    # No threshold below keeps to the budget: the whole of it is used.
    assert settings[60.0]["m"].score_min > settings[1e6]["m"].score_min == 0.05
    assert len({s["other"].score_min for s in settings.values()}) == 1
    assert settings[None]["m"].score_min == settings[None]["other"].score_min
    assert "best F1" in settings[None]["m"].calibration[OPERATING]
    assert "at most 60 false alarms" in settings[60.0]["m"].calibration[OPERATING]

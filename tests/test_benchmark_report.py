"""The benchmark's document, experiments' files, cards, and the command from end to end."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from region import command, last_json

from components.dataset.presets import CHANNELS
from components.errors import InputError, ModelError, ProcessingError, WorkspaceError
from components.evaluation.accuracy_report import write_accuracy
from components.evaluation.calibrate import write_card
from components.evaluation.completeness import statement
from components.evaluation.experiments import (
    Figure,
    cell,
    experiment_markdown,
    read_experiments,
    table,
)
from components.evaluation.real import REAL_MAPS, describe
from components.inference.calibration import apply_calibration
from components.inference.instance_file import load_instances
from components.products.open import check_product
from components.products.registry import discover
from components.workspace import Workspace
from models.build import build_model
from models.forms import FORMS
from models.weights import read_card, save_weights

#: One region of each split, too small to mean anything.
TRIAL = ("--side", "320", "--regions", "1")
SETTINGS = (
    "infer.window=128",
    "infer.context=128",
    "infer.score_min=0.02",
    "infer.threads=1",
    "infer.device=cpu",
)


def write_weights(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = build_model(FORMS["demo"], len(CHANNELS["rate"]), 2)
    card = {
        "form": "demo", "classes": ["landslide"], "preset": "rate", "upsample": 1,
        "channels": list(CHANNELS["rate"]), "ground_pixel_size_m": 25.0, "score_threshold": 0.3,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, model, card)
    return path


EXPERIMENT = {
    "name": "leak", "title": "Random split against block split", "order": 2,
    "definition": "Object F1 on test tiles.",
    "columns": [{"key": "f1", "label": "F1"}, {"key": "tiles", "label": "tiles"}],
    "rows": [
        {"label": "random", "f1": {"value": 0.81, "low": 0.78, "high": 0.84}, "tiles": 128},
        {"label": "blocks", "f1": {"value": 0.6}},
    ],
    "n": "128 tiles", "seeds": [1, 2, 3], "interval": "95 % bootstrap of tiles",
    "commands": ["slopewatch train -w x"], "device": "2 cores, float32",
    "notes": ["Tiles of one landslide lie on both sides."],
    "pictures": [{"path": "experiments/leak.png", "caption": "Both splits"}],
}  # fmt: skip


def test_cells_for_people() -> None:
    assert cell(0.85349) == "0.853"
    assert cell({"value": 0.5, "low": 0.4, "high": 0.6}, 2) == "0.50 (0.40–0.60)"
    assert cell(Figure(value=-0.01, low=-0.2, high=0.1), 2) == "−0.01 (−0.20 to 0.10)"
    assert cell(Figure(value=0.6)) == "0.600"
    assert cell({"value": None, "low": None, "high": None}) == "–"
    assert cell(-0.0001, 2) == "0.00"
    assert (cell(12345), cell(None), cell("a")) == ("12,345", "–", "a")
    assert table(["|v|", "n"], [["a", "1"]]).splitlines()[0] == "| \\|v\\| | n |"


def test_experiments_are_read_in_order_and_rendered(tmp_path: Path) -> None:
    first = {**EXPERIMENT, "name": "frontier", "title": "Frontier", "order": 1, "pictures": []}
    for e in (EXPERIMENT, first):
        (tmp_path / f"{e['name']}.json").write_text(json.dumps(e))
    found = read_experiments(tmp_path)
    assert [e.name for e in found] == ["frontier", "leak"]
    text = experiment_markdown(found[1])
    for part in (
        "| random | 0.810 (0.780–0.840) | 128 |", "| blocks | 0.600 | – |", "Seeds: 1, 2, 3.",
        "n: 128 tiles", "(experiments/leak.png)", "slopewatch train -w x", "2 cores",
    ):  # fmt: skip
        assert part in text, part
    assert read_experiments(tmp_path / "none") == []


@pytest.mark.parametrize(
    "change", [{"rows": 3}, {"unknown": 1}, {"columns": []}, {"name": "other"}, {"n": None}]
)
def test_an_experiment_of_another_form_is_refused(tmp_path: Path, change: dict) -> None:
    path = tmp_path / "leak.json"
    path.write_text(json.dumps(EXPERIMENT | change))
    with pytest.raises(ProcessingError) as e:
        read_experiments(tmp_path)
    assert e.value.code == "SW-604"
    assert next(iter(change)) in str(e.value)
    path.write_text("{")
    with pytest.raises(ProcessingError):
        read_experiments(tmp_path)


def test_statement_of_completeness() -> None:
    def one(size: int, rate: float, n: int, found: int) -> dict:
        return {"size": [size, None], "rate": [rate, None], "n": n, "found": found}

    cells = [one(0, 0, 50, 10), one(0, 20, 50, 20), one(100, 0, 10, 5), one(100, 20, 20, 19)]
    assert statement(cells) == [(0, None, 130, 54), (100, 20, 20, 19)]


def test_a_card_is_calibrated_in_place_but_not_inside_a_workspace(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "w" / "m.safetensors")
    before = weights.read_bytes()
    calibration = {"method": "temperature", "temperature": 2.0}
    card = write_card(weights, calibration, 0.42)
    assert card == tmp_path / "w" / "m.json"
    found = read_card(weights)
    assert (found["calibration"], found["score_threshold"]) == (calibration, 0.42)
    assert weights.read_bytes() == before
    with pytest.raises(ModelError) as e:
        write_card(weights, {"method": "magic"}, 0.42)
    assert e.value.code == "SW-401"
    assert read_card(weights) == found
    (tmp_path / "w" / "manifest.json").write_text("{}")
    with pytest.raises(WorkspaceError) as refused:
        write_card(weights, calibration, 0.5)
    assert refused.value.code == "SW-201"


def test_descriptions_of_the_real_rasters_are_products(real_data: Path, tmp_path: Path) -> None:
    from components.config import IngestConfig

    for real in REAL_MAPS:
        [product] = discover([describe(real, real_data, tmp_path)], IngestConfig())
        check_product(product)
        assert product.track == real.name
    with pytest.raises(InputError) as e:
        describe(REAL_MAPS[0], tmp_path / "empty", tmp_path)
    assert e.value.code == "SW-101"


@pytest.mark.slow
def test_the_whole_benchmark_from_the_command_line(tmp_path: Path) -> None:
    model = write_weights(tmp_path / "w" / "model.safetensors", 1)
    other = write_weights(tmp_path / "w" / "other.safetensors", 2)
    home, out = tmp_path / "home", tmp_path / "docs" / "accuracy.md"
    (out.parent / "experiments").mkdir(parents=True)
    (out.parent / "experiments" / "leak.json").write_text(json.dumps(EXPERIMENT))
    (out.parent / "experiments" / "notes.md").write_text("Nothing *helped*.\n")

    def run(*more: str) -> dict:
        arguments = (
            "accuracy", "--workspace", tmp_path / "ws", "--weights", model,
            "--against", f"other={other}", "--out", out, *TRIAL, *more,
        )  # fmt: skip
        return last_json(command("benchmark", *arguments, settings=SETTINGS), home)

    done = run("--calibrate")
    assert set(done["splits"]) == {"val", "test", "null"}
    assert set(done["methods"]) == {"model", "other", "threshold", "threshold-tuned"}
    assert len(done["calibrated"]) == 2
    figures = done["splits"]["test"]["threshold"]["iou50.f1"]
    assert 0 < figures["value"] < 1
    assert done["splits"]["null"]["threshold"]["iou50.fp_per_1000km2"]["value"] > 0
    text = out.read_text()
    for part in (
        "a trial, not sim-v1", "## Against the targets", "## Random split against block split",
        "Nothing *helped*.", "accuracy-completeness.png", "--against other=other.safetensors",
        "split val",
    ):  # fmt: skip
        assert part in text, part
    assert str(tmp_path) not in text
    assert (out.parent / "accuracy-reliability.png").stat().st_size > 5000

    # Maps are kept with raw scores; what infers from now on is calibrated.
    card = read_card(model)
    maps = sorted((tmp_path / "ws" / "regions").glob("*/workspace/maps/*/instances.npz"))
    assert len(maps) == 6
    stamps = {p: p.stat().st_mtime_ns for p in maps}
    raw = [i.score for p in maps for i in load_instances(p)]
    assert len(raw) > 10
    assert min(raw) >= 0.02

    again = run()
    assert {p: p.stat().st_mtime_ns for p in maps} == stamps, "nothing was inferred again"
    assert again["methods"]["model"]["source"] == "the weights' card"
    assert again["methods"]["model"]["calibration"] == card["calibration"]
    assert again["splits"]["test"] == done["splits"]["test"]

    # Inference with a calibrated card: other scores from the same windows, nothing else.
    write_card(model, {"method": "temperature", "temperature": 3.0}, 0.4)
    region = tmp_path / "ws" / "regions" / "test-900001" / "workspace"
    shards = {p: p.stat().st_mtime_ns for p in region.glob("work/infer-*/*.npz")}
    assert shards
    arguments = ("--workspace", region, "--weights", model)
    last_json(command("infer", *arguments, settings=SETTINGS), home)
    assert {p: p.stat().st_mtime_ns for p in region.glob("work/infer-*/*.npz")} == shards
    [found] = Workspace(region).artefacts("detections")
    assert found.meta["score_threshold"] == 0.4
    weight_hash = found.meta["model_hash"]
    [kept] = Workspace(region).artefacts("maps", model_hash=weight_hash)
    before, after = (load_instances(a.folder / "instances.npz") for a in (kept, found))
    got = apply_calibration(found.meta["calibration"], [i.score for i in before])
    np.testing.assert_allclose(got, [i.score for i in after])
    assert all((a.mask == b.mask).all() for a, b in zip(before, after, strict=True))

    shutil.rmtree(out.parent)
    metrics = json.loads(Path(again["metrics_file"]).read_text())
    out.parent.mkdir()
    write_accuracy(metrics, out, "x")
    first = out.read_bytes()
    write_accuracy(metrics, out, "x")
    assert out.read_bytes() == first

"""Experiments on simulated tiles: done once, resumed, well-formed, and their intervals in their place."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_networks import SETTINGS, tiny  # noqa: F401 - the fixture registers the forms

from components.config import Config
from components.config_file import load_config
from components.errors import InputError, ModelError
from components.evaluation import compare, networks
from components.evaluation.compare import Setting
from components.evaluation.experiments import experiment_markdown, read_experiments
from components.evaluation.frontier import frontier as accuracy_against_speed
from components.evaluation.intervals import draw_weights
from components.evaluation.paper import TABLE2
from components.evaluation.tile_figures import figures, mean_figures, per_group, row_cells
from components.evaluation.trainings import epochs_of
from components.training.scenes import TEST, TRAINING, VALIDATION, SceneTiles
from components.training.tiletest import COLUMNS, count_tile
from models.build import Detections


def setting(tmp_path: Path, seeds: int = 2, steps: int = 2) -> Setting:
    config = load_config(None, SETTINGS)
    return Setting(config, steps, seeds, tmp_path / "work", tmp_path / "out", "the command")


def detections(*boxes: tuple[int, int, int, int], scores: list[float]) -> Detections:
    """Detections that fill their boxes (x1, y1, x2, y2)."""
    n = len(boxes)
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.ones(n, dtype=torch.int64),
        torch.tensor(scores),
        torch.ones(n, 28, 28),
    )


def test_counts_of_a_tile_by_hand() -> None:
    masks = torch.zeros(2, 40, 40, dtype=torch.uint8)
    masks[0, 0:10, 0:10] = 1
    masks[1, 20:30, 20:30] = 1
    ignore = torch.zeros(40, 40, dtype=torch.bool)
    ignore[30:40, 0:10] = True
    target = {"masks": masks, "labels": torch.ones(2, dtype=torch.int64), "ignore": ignore}
    found = detections(
        (0, 0, 10, 6), (20, 20, 30, 30), (0, 30, 10, 40), (32, 0, 36, 4), (0, 0, 40, 40),
        scores=[0.9, 0.8, 0.7, 0.6, 0.1],
    )  # fmt: skip
    counts = dict(zip(COLUMNS, count_tile(found, target, 0.5), strict=True))
    # One of IoU 0.6, one exact, one on ignored ground, one false alarm, one below the threshold.
    assert (counts["tp50"], counts["fp50"], counts["fn50"]) == (2, 1, 0)
    assert (counts["tp75"], counts["fp75"], counts["fn75"]) == (1, 2, 1)
    assert counts["iou50"] == pytest.approx(1.6, abs=0.05)
    assert counts["pixel_tp"] == pytest.approx(160, abs=6)
    assert counts["pixel_fp"] == pytest.approx(16, abs=6)
    assert counts["pixel_fn"] == pytest.approx(40, abs=6)


def test_figures_and_their_intervals() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 6, (40, len(COLUMNS))).astype(float)
    table = per_group(counts, [i // 2 for i in range(40)])
    np.testing.assert_array_equal(table.sum(axis=0), counts.sum(axis=0))
    draws = draw_weights(len(table))
    assert len(draws) >= 1001
    values = figures(table, draws)
    sums = dict(zip(COLUMNS, counts.sum(axis=0), strict=True))
    tp, fp, fn = sums["tp50"], sums["fp50"], sums["fn50"]
    assert values["f1"][0] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert values["precision"][0] == pytest.approx(tp / (tp + fp))
    pixels = [sums[f"pixel_{k}"] for k in ("tp", "fp", "fn")]
    assert values["pixel_iou"][0] == pytest.approx(pixels[0] / sum(pixels))
    other = per_group(rng.integers(0, 6, (40, len(COLUMNS))), [i // 2 for i in range(40)])
    cells, first = row_cells([table, other], draws, None)
    for key in ("f1", "recall", "pixel_iou"):
        assert cells[key]["low"] <= cells[key]["value"] <= cells[key]["high"]
        assert cells[key]["low"] < cells[key]["high"]
    assert cells["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    again, _ = row_cells([table, other], draws, first)
    assert again["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    both = mean_figures([table, other], draws)["f1"][0]
    assert both == pytest.approx((values["f1"][0] + figures(other, draws)["f1"][0]) / 2)
    better = table.copy()
    better[:, COLUMNS.index("fn50")] = 0
    gain, _ = row_cells([better], draws, figures(table, draws))
    assert gain["difference"]["low"] > 0


def test_nothing_found_and_nothing_to_find_is_undefined_and_not_zero() -> None:
    cells, _ = row_cells([np.zeros((3, len(COLUMNS)))], draw_weights(3), None)
    assert cells["f1"]["value"] is None
    assert cells["range"] is None


def test_test_scenes_are_neither_training_nor_validation() -> None:
    cfg = load_config(None, SETTINGS).pretrain
    test = SceneTiles(cfg, TEST)
    for name in (TRAINING, VALIDATION):
        other = SceneTiles(cfg, name)
        assert not any(torch.equal(test[i][0], other[j][0]) for i in range(4) for j in range(4))


@pytest.mark.parametrize("steps", [1, 7, 149, 1000])
def test_epochs_hold_the_steps(steps: int) -> None:
    epochs, length = epochs_of(steps, 50)
    assert steps <= epochs * length < steps + epochs
    assert length <= 100


def test_five_rows_are_trained_once_and_stand_beside_the_paper(tmp_path: Path) -> None:
    s = setting(tmp_path, seeds=1)
    names = networks.check(["five-rows"], {}, s)
    [*rows, total] = networks.plan_lines(networks.plan(names, s, {}))
    assert [r[:4] for r in rows] == [["five-rows", f"{t.form}-tiny", "1", "0"] for t in TABLE2]
    assert total[-1] == "0 min and more"
    outcome = compare.five_rows(s)
    assert (outcome.trained, outcome.reused) == (5, 0)
    [found] = read_experiments(s.out)
    assert found == outcome.experiment
    assert [r["label"] for r in found.rows] == [t.label for t in TABLE2]
    assert [r["paper_f1"] for r in found.rows] == [81.24, 81.63, 82.58, 84.06, 84.12]
    assert {r["steps"] for r in found.rows} == {2}
    text = experiment_markdown(found)
    for part in ("Not comparable", "2 steps of 2 tiles, 4 tiles in all", "torch", "1 threads",
                 "scenes-4", "the command", "8 test tiles of 4 scenes"):  # fmt: skip
        assert part in text, part
    before = {p: p.read_bytes() for p in s.root.rglob("*") if p.is_file()}
    again = compare.five_rows(s)
    assert (again.trained, again.reused) == (0, 5)
    assert {p: p.read_bytes() for p in s.root.rglob("*") if p.is_file()} == before
    assert all(p.done == 1 and p.seconds == 0 for p in networks.plan(names, s, {}))


def test_a_killed_comparison_goes_on_and_a_damaged_training_is_done_again(tmp_path: Path) -> None:
    s = setting(tmp_path)

    class Killed(Exception):
        pass

    def kill(step: str, done: int, _total: int) -> None:
        if step == "test" and done == 8 and len(list(s.root.glob("*/done.json"))) == 3:
            raise Killed

    with pytest.raises(Killed):
        compare.baselines(s, kill)
    # The first seed's table is there already.
    [part] = read_experiments(s.out)
    assert part.seeds == [0]
    outcome = compare.baselines(s)
    assert (outcome.trained, outcome.reused) == (1, 3)
    assert outcome.experiment.seeds == [0, 1]
    first = outcome.experiment.rows[0]
    assert first["difference"].model_dump() == {"value": 0.0, "low": 0.0, "high": 0.0} or (
        first["f1"].value is None
    )
    apart = setting(tmp_path / "undisturbed")
    whole = compare.baselines(apart).experiment
    plain = [{k: v for k, v in r.items() if k != "km2s"} for r in outcome.experiment.rows]
    assert plain == [{k: v for k, v in r.items() if k != "km2s"} for r in whole.rows]
    broken = next(iter(s.root.glob("unet-tiny-s0-*/weights.safetensors")))
    broken.write_bytes(broken.read_bytes()[:-1])
    third = compare.baselines(s)
    assert (third.trained, third.reused) == (1, 3)


def test_schedules_share_tiles_and_seed_but_not_weights(tmp_path: Path) -> None:
    s = setting(tmp_path, seeds=1)
    [[cosine, paper]] = compare.schedules_work(s)
    assert cosine.scenes == paper.scenes
    assert cosine.key != paper.key
    # The cosine training is the first of the five rows too.
    assert cosine.key == compare.five_rows_work(s)[0][0].key
    outcome = compare.schedules(s)
    assert [r["label"] for r in outcome.experiment.rows] == ["cosine", "paper"]
    weights = sorted(s.root.glob("*/weights.safetensors"))
    files = {f"w{i}": p for i, p in enumerate(weights)}
    frontier = accuracy_against_speed(s, list(files.items()))
    assert len(frontier.experiment.rows) == 2
    assert all(isinstance(r["km2s"], float) and r["km2s"] > 0 for r in frontier.experiment.rows)
    by_hash = {r["f1"].value for r in frontier.experiment.rows if r["f1"]}  # type: ignore[union-attr]
    assert by_hash == {r["f1"].value for r in outcome.experiment.rows}  # type: ignore[union-attr]


def test_seeds_vary_first_weights_and_scenes(tmp_path: Path) -> None:
    one, two = compare.five_rows_work(setting(tmp_path))
    assert {w.train.seed for w in one} == {0}
    assert {w.train.seed for w in two} == {1}
    assert len({w.scenes.seed for w in one if w.scenes}) == 1
    assert one[0].scenes != two[0].scenes


def test_what_cannot_be_run_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    s = setting(tmp_path)
    with pytest.raises(InputError, match="SW-701"):
        networks.check(["six-rows"], {}, s)
    with pytest.raises(InputError, match="SW-701"):
        networks.check(["frontier"], {}, s)
    with pytest.raises(ModelError, match="SW-401"):
        networks.check([], {"a": tmp_path / "none.safetensors"}, s)
    unknown = s.config.model_copy(
        update={"experiments": s.config.experiments.model_copy(update={"suffix": "-none"})}
    )
    with pytest.raises(ModelError, match="SW-406"):
        networks.check(["five-rows"], {}, dataclasses.replace(s, config=unknown))
    assert "pretraining" not in networks.check([], {}, s)
    with pytest.raises(InputError, match="SW-701"):
        networks.named_weights(["a=x", "a=y"])
    assert not s.root.exists()


@pytest.mark.parametrize("name", ["ablation.yaml", "gpu.yaml"])
def test_the_configurations_name_forms_that_exist(name: str, tmp_path: Path) -> None:
    path = Path(__file__).resolve().parents[1] / "deployments" / name
    config = load_config(path)
    assert isinstance(config, Config)
    s = Setting(config, 100, 1, tmp_path, tmp_path, "")
    networks.check(["five-rows", "baselines", "schedules", "small-sample"], {}, s)


#: What a machine with PyTorch alone lacks.
ABSENT = (
    "rasterio", "rioxarray", "zarr", "dask", "prefect", "geopandas", "odc", "sqlalchemy", "shapely",
    "pyproj", "affine", "xarray", "pycocotools", "pyogrio", "h5netcdf", "typer",
)  # fmt: skip


def test_experiments_on_scenes_run_where_there_is_pytorch_alone(tmp_path: Path) -> None:
    """A real process in which the other libraries cannot be imported trains, tests and tabulates."""
    blocked = f"""
import sys
for name in {ABSENT!r}:
    sys.modules[name] = None
from components.evaluation.networks import main
sys.exit(main(sys.argv[1:]))
"""
    settings = {k: v for k, v in SETTINGS.items() if k not in {"train.model", "experiments.suffix"}}
    settings |= {"experiments.baselines": ["unet"], "train.model": "unet"}
    sets = [x for k, v in settings.items() for x in ("--set", f"{k}={json.dumps(v)}")]
    run = [sys.executable, "-c", blocked, "--work", str(tmp_path / "w"), "--out", str(tmp_path)]
    done = subprocess.run(
        [*run, "--only", "baselines", "--steps", "2", "--seeds", "1", *sets],
        capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "1 trained, 0 reused" in done.stdout
    [found] = read_experiments(tmp_path)
    assert found.commands[0].startswith("python -m components.evaluation.networks")

"""Logs: metrics.csv always, the others where their packages are."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import pytest
from test_training_loop import CFG, TINY, Stop, make_dataset

from components.training import loggers
from components.training.epoch_end import COLUMNS
from components.training.loop import train
from models.forms import FORMS


@pytest.fixture(autouse=True)
def _tiny_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMS, "tiny", TINY)


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def test_curve_can_be_read_while_training_runs(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "coco", {"train": 4, "val": 2})
    seen: list[int] = []

    def watch(step: str, done: int, total: int) -> None:
        if step == "train" and done:
            path = tmp_path / "w" / "metrics.csv"
            seen.append(len(rows(path)) if path.exists() else 0)
        if done == 5:
            raise Stop

    with pytest.raises(Stop):
        train(data, tmp_path / "m", tmp_path / "w", CFG, watch)
    assert seen == [0, 0, 1, 1, 2]
    train(data, tmp_path / "m", tmp_path / "w", CFG)
    assert (tmp_path / "w" / "metrics.csv").read_bytes() == (
        tmp_path / "m" / "metrics.csv"
    ).read_bytes()
    assert tuple(rows(tmp_path / "m" / "metrics.csv")[0]) == COLUMNS
    assert (tmp_path / "w" / "predictions.png").read_bytes()[:4] == b"\x89PNG"


def test_absent_packages_are_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    monkeypatch.setattr(loggers, "_told", set())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "runs"))
    with caplog.at_level(logging.INFO, "components.training.loggers"):
        assert loggers.open_loggers(tmp_path, "a", {}) == []
        assert loggers.open_loggers(tmp_path, "b", {}) == []
    told = [r.getMessage() for r in caplog.records]
    assert len(told) == 2
    assert "tensorboard" in told[0]
    assert "mlflow" in told[1]


def test_mlflow_is_left_alone_without_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    asked: list[str] = []
    monkeypatch.setattr(loggers, "find_spec", asked.append)
    assert loggers.open_loggers(tmp_path, "a", {}) == []
    assert "mlflow" not in asked


def trained(tmp_path: Path) -> list[dict[str, str]]:
    data = make_dataset(tmp_path / "coco", {"train": 4, "val": 2})
    train(data, tmp_path / "m", tmp_path / "w", CFG)
    return rows(tmp_path / "m" / "metrics.csv")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_tensorboard_holds_the_figures_of_the_table(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    expected = trained(tmp_path)
    events: Any = EventAccumulator(str(tmp_path / "w" / "tensorboard"))
    events.Reload()
    for name in ("loss_mask", "val_f1", "learning_rate"):
        table = [(int(r["step"]), float(r[name])) for r in expected if r[name]]
        logged = [(e.step, e.value) for e in events.Scalars(name)]
        assert [s for s, _ in logged] == [s for s, _ in table]
        assert [v for _, v in logged] == pytest.approx([v for _, v in table], rel=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_mlflow_holds_the_figures_of_the_table_in_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the package mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'runs'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    data = make_dataset(tmp_path / "coco", {"train": 4, "val": 2})

    def stop(step: str, done: int, total: int) -> None:
        if step == "train" and done == 3:
            raise Stop

    with pytest.raises(Stop):
        train(data, tmp_path / "m", tmp_path / "w", CFG, stop)
    train(data, tmp_path / "m", tmp_path / "w", CFG)
    client = mlflow.MlflowClient(f"file:{tmp_path / 'runs'}")
    (experiment,) = (e for e in client.search_experiments() if e.name == "slopewatch")
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss_mask")
    table = rows(tmp_path / "m" / "metrics.csv")
    assert {h.step for h in history} == {int(r["step"]) for r in table}
    assert run.info.status == "FINISHED"

"""The two schedules: which parameters move in which stage, and at which rate."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from test_training_loop import CFG, TINY, Stop, files, make_dataset
from torch import Tensor

from components.training.checkpoints import checkpoints
from components.training.loop import make_schedule, train
from components.training.schedule import PAPER_MOMENTUM, PaperSchedule, freeze
from models.build import build_model
from models.forms import FORMS

PAPER = CFG.model_copy(update={"schedule": "paper", "epochs": 4, "validate_every": 4})


@pytest.fixture(autouse=True)
def _tiny_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMS, "tiny", TINY)


def weights_of(work: Path, epoch: int) -> dict[str, Tensor]:
    """The network (not its average) in the checkpoint of an epoch."""
    (path,) = (p for p in checkpoints(work) if p.name.startswith(f"epoch-{epoch:05d}"))
    state = torch.load(path, weights_only=True)["state_dict"]
    return {k.removeprefix("model."): v for k, v in state.items()}


def stopped_after(data: Path, work: Path, steps: int) -> None:
    def stop(step: str, done: int, total: int) -> None:
        if step == "train" and done == steps:
            raise Stop

    with pytest.raises(Stop):
        train(data, work.parent / "never", work, PAPER, stop)


def test_paper_moves_the_heads_first_and_then_everything(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "coco", {"train": 4, "val": 1})
    work = tmp_path / "work"
    torch.manual_seed(PAPER.seed)
    start = build_model(TINY, 3, 2).state_dict()
    stopped_after(data, work, 5)  # two steps an epoch: the first two epochs are saved
    for epoch in (0, 1):
        now = weights_of(work, epoch)
        moved = {k for k in start if not torch.equal(now[k], start[k])}
        trunk = {k for k in start if k.startswith("backbone.trunk.")}
        assert not moved & trunk  # neither weights nor running statistics
        for part in ("backbone.fpn.", "rpn.head.", "roi_heads.box", "roi_heads.mask", "guide."):
            assert any(k.startswith(part) for k in moved), part
    heads = weights_of(work, 1)
    result = train(data, tmp_path / "model", work, PAPER)
    now = weights_of(work, 3)
    convolutions = {k for k, v in start.items() if v.ndim == 4}
    assert any(k.startswith("backbone.trunk.") for k in convolutions)
    assert not {k for k in convolutions if torch.equal(now[k], heads[k])}
    mean = "backbone.trunk.bn1.running_mean"
    assert not torch.equal(now[mean], start[mean])
    rows = list(csv.DictReader((tmp_path / "model" / "metrics.csv").open()))
    # The rate that the next step would have: it falls with the end of the second epoch.
    assert [float(r["learning_rate"]) for r in rows] == pytest.approx([0.01, 0.001, 0.001, 0.001])
    # Stopped between the stages or not, the bytes are the same.
    train(data, tmp_path / "straight", tmp_path / "work2", PAPER)
    assert files(tmp_path / "straight") == files(tmp_path / "model")
    assert result.steps == 8


def test_rates_and_stages_of_the_paper() -> None:
    schedule = PaperSchedule(7)
    optimizer = schedule.optimizer(build_model(TINY, 3, 2))
    assert isinstance(optimizer, torch.optim.SGD)
    assert {g["momentum"] for g in optimizer.param_groups} == {PAPER_MOMENTUM} == {0.9}
    rates = [optimizer.param_groups[0]["lr"] * schedule.factor(s) for s in range(7)]
    assert rates == pytest.approx([0.01] * 3 + [0.001] * 4)
    assert [schedule.trunk_frozen(s) for s in range(7)] == [True] * 3 + [False] * 4


def test_cosine_trains_everything_from_the_first_step() -> None:
    schedule = make_schedule(CFG, 20)
    model = build_model(TINY, 3, 2)
    optimizer = schedule.optimizer(model)
    assert isinstance(optimizer, torch.optim.AdamW)
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert not any(schedule.trunk_frozen(s) for s in range(20))
    decay = {g["weight_decay"]: {p.ndim for p in g["params"]} for g in optimizer.param_groups}
    assert decay[0.0] == {1}
    assert 1 not in decay[CFG.weight_decay]


def test_frozen_part_wakes_whole() -> None:
    trunk = build_model(TINY, 3, 2).backbone.trunk
    freeze(trunk, frozen=True)
    assert not any(p.requires_grad for p in trunk.parameters())
    assert not any(m.training for m in trunk.modules())
    freeze(trunk, frozen=False)
    assert all(p.requires_grad for p in trunk.parameters())
    assert all(m.training for m in trunk.modules())

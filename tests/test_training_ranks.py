"""Several processes train as one: the same step, the same bytes after a stop, one writer."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_training_loop import Stop, environment, files, make_dataset
from torch import nn

from components.config import TrainConfig
from components.errors import InputError, ModelError
from components.training.checkpoints import checkpoints
from components.training.loading import make_loader
from components.training.loop import train
from components.training.module import DetectorModule
from components.training.order import Balanced, EpochBatches, Place, Share
from components.training.ranks import Group, _free_port, check_devices, started
from components.training.schedule import PAPER_RATES, PaperSchedule
from components.training.sources import coco_source
from models.build import build_model
from models.forms import FORMS

#: Every anchor and proposal enters the loss, so that chance has no part in a step; no guide.
EXACT = dataclasses.replace(
    FORMS["demo"],
    widths=(8, 8, 8, 8),
    fpn_channels=8,
    box_width=8,
    mask_layers=(8,),
    guide_width=0,
    proposals=10,
    rpn_samples=10**6,
    box_samples=10**6,
)
BOXES = ((6, 20, 12), (40, 30, 9))


class Pair:
    """Two tiles of different noise, the objects of one mirrored at the diagonal.

    So both have the same number of positive, negative and unused anchors, and the mean over both equals
    the mean of the means.
    """

    def at(self, place: Place) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        index = place.tile
        rng = np.random.default_rng(index)
        image = rng.normal(0, 0.3, (3, 64, 64)).astype(np.float32)
        masks = np.zeros((2, 64, 64), np.uint8)
        boxes = []
        for mask, (row, col, side) in zip(masks, BOXES, strict=True):
            r, c = (row, col) if index == 0 else (col, row)
            mask[r : r + side, c : c + side] = 1
            image[0] += 2 * mask
            boxes.append([c, r, c + side, r + side])
        return torch.from_numpy(image), {
            "boxes": torch.tensor(boxes, dtype=torch.float32),
            "labels": torch.ones(2, dtype=torch.int64),
            "masks": torch.from_numpy(masks),
            "image_id": torch.tensor(index),
            "ignore": torch.zeros((64, 64), dtype=torch.bool),
        }


class FixedStatistics(lightning.Callback):
    """Normalisation by running statistics: batch statistics of half a batch are others.

    (On GPUs they are computed over all devices, which torch cannot do on a CPU.)
    """

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        for part in pl_module.model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()


def one_step(rank: int, world: int, port: int, out: str) -> None:
    """One step of descent with a rate of 0.001, by the parts of which training is made."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    model = build_model(EXACT, 3, 2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    group = Group(Share(rank, world), port)
    batches = EpochBatches(
        2, Balanced(2, [], 0.0, 0).draws, batch_size=2, epoch=lambda: 0, share=group.share
    )
    module = DetectorModule(model, schedule=PaperSchedule(1), ema_decay=0.0, seed=0)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=world,
        strategy=group.strategy(parts_rest=False),
        use_distributed_sampler=False,
        max_epochs=1,
        callbacks=[FixedStatistics()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with group.left():
        trainer.fit(module, make_loader(Pair(), batches, 0))
    after = model.state_dict()
    names = dict(model.named_parameters())
    gradient = {k: (before[k] - after[k]).contiguous() / PAPER_RATES[1] for k in names}
    losses = {k: torch.tensor(v) for k, v in module.loss_sums.items()}
    save_file({**gradient, **losses}, out)


def start(rank: int, world: int, port: int, out: Path) -> subprocess.Popen[bytes]:
    code = "import sys, test_training_ranks as t; t.one_step(*map(int, sys.argv[1:4]), sys.argv[4])"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(rank), str(world), str(port), str(out)], env=environment()
    )


def test_two_processes_take_the_step_of_one(tmp_path: Path) -> None:
    port = _free_port()
    one = start(0, 1, 0, tmp_path / "one")
    assert one.wait(120) == 0
    two = [start(rank, 2, port, tmp_path / f"two-{rank}") for rank in range(2)]
    assert [p.wait(120) for p in two] == [0, 0]
    alone, first, second = (load_file(tmp_path / n) for n in ("one", "two-0", "two-1"))
    for name, expected in alone.items():
        assert torch.equal(first[name], second[name]), name
        scale = max(float(expected.abs().max()), 1e-3)
        assert float((first[name] - expected).abs().max()) < 2e-3 * scale, name
    assert float(alone["backbone.trunk.conv1.weight"].abs().max()) > 1e-3
    assert float(alone["loss_mask"]) > 0.1


CFG = TrainConfig(
    model="demo",
    epochs=2,
    batch_size=2,
    warmup_steps=2,
    validate_every=1,
    threads=1,
    precision="float32",
    devices=2,
)


@pytest.mark.slow
def test_training_by_two_is_reproducible_resumed_and_written_by_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    data = make_dataset(tmp_path / "coco", {"train": 5, "val": 3})
    result = train(data, tmp_path / "a", tmp_path / "wa", CFG)
    assert result.steps == 4  # the fifth tile cannot be shared
    assert sorted(files(tmp_path / "a")) == [
        *("card.json", "metrics.csv", "predictions.png", "weights.safetensors"),
    ]
    assert not (tmp_path / "wa" / "not-written.ckpt").exists()
    assert len(checkpoints(tmp_path / "wa")) == 2

    def stop(step: str, done: int, total: int) -> None:
        if step == "train" and done == 3:
            raise Stop

    with pytest.raises(Stop):
        train(data, tmp_path / "b", tmp_path / "wb", CFG, stop)
    train(data, tmp_path / "b", tmp_path / "wb", CFG)
    assert files(tmp_path / "b") == files(tmp_path / "a")
    # And the paper's schedule, in whose first stage the trunk has no gradient.
    paper = train(
        data, tmp_path / "c", tmp_path / "wc", CFG.model_copy(update={"schedule": "paper"})
    )
    assert paper.steps == 4


def test_a_process_that_does_not_come_up_is_a_coded_error(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "coco", {"train": 2})
    source = coco_source(data, CFG)
    shutil.rmtree(data)
    with pytest.raises(ModelError) as error, started(source, tmp_path, CFG):
        pass
    assert error.value.code == "SW-409"
    assert "SW-307" in (tmp_path / "rank-1.log").read_text()


def test_devices_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError) as uneven:
        check_devices(CFG.model_copy(update={"batch_size": 3}), "cpu")
    assert uneven.value.code == "SW-701"
    with pytest.raises(ModelError) as few:
        check_devices(CFG.model_copy(update={"devices": 64, "batch_size": 64}), "gpu")
    assert few.value.code == "SW-411"
    check_devices(CFG, "cpu")

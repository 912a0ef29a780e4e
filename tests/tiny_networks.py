"""The five rows and a U-Net on a few channels, and settings under which they train in seconds."""

import dataclasses

import pytest

from components.evaluation.paper import TABLE2
from models.forms import FORMS, ModelSpec

SETTINGS = {
    "pretrain.tile": 64,
    "pretrain.validation_tiles": 2,
    "pretrain.workers": 0,
    "train.batch_size": 2,
    "train.warmup_steps": 1,
    "train.threads": 1,
    "train.device": "cpu",
    "train.precision": "float32",
    "train.model": "baseline-tiny",
    "experiments.suffix": "-tiny",
    "experiments.baselines": ["baseline-tiny", "unet-tiny"],
    "experiments.epoch_steps": 1,
    "experiments.test_tiles": 8,
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The five rows on a trunk of a few channels."""
    for row in TABLE2:
        spec = FORMS[f"{row.form}-small"]
        assert isinstance(spec, ModelSpec)
        widths = (32,) * 4 if row.form != "baseline" else (8,) * 4
        small = dataclasses.replace(
            spec, widths=widths, depths=(1, 1, 1, 1), fpn_channels=8, box_width=8, mask_layers=(8,),
            proposals=20, guide_width=8,
        )  # fmt: skip
        monkeypatch.setitem(FORMS, f"{row.form}-tiny", small)
    monkeypatch.setitem(FORMS, "unet-tiny", dataclasses.replace(FORMS["unet"], widths=(4, 8)))
    monkeypatch.setattr("components.evaluation.trainings._SPEED_SECONDS", 0.0)

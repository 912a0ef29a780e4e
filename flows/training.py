"""Flow `train`: COCO dataset to weights with their card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from components.config import Config, TrainConfig
from components.errors import WorkspaceError
from components.training.stage import train_stage
from components.workspace import Artefact, artefact_dict, read_artefact
from flows.artifacts import training_artifact
from flows.progress import report
from flows.tasks import open_workspace, run_stage, stage_task


@stage_task("train-model", tags=("gpu",), timeout_hours=96)
def train_model(workspace: str, dataset: dict[str, Any], train: dict[str, Any]) -> Artefact:
    """Train a network; a killed run goes on from its last checkpoint."""
    ws = open_workspace(workspace)
    with ws.lock():
        return train_stage(ws, Artefact(**dataset), TrainConfig(**train), report)


@flow(name="train")
def train(workspace: Path, config: Config = Config()) -> Artefact:
    """Train a network on the workspace's dataset.

    Args:
        workspace: Folder of the region.
        config: Section `train` is used.
    """
    ws = open_workspace(workspace)
    dataset = read_artefact(ws.place("dataset"))
    if dataset is None:
        raise WorkspaceError(
            "SW-205",
            "the workspace holds no dataset",
            path=ws.root,
            remedy="Run `slopewatch dataset`.",
        )
    model = run_stage(
        train_model,
        workspace=str(workspace),
        dataset=artefact_dict(dataset),
        train=config.train.model_dump(mode="json"),
    )
    training_artifact(model)
    return model

"""Flows `train`, `pretrain` and `verifier`: a dataset, or simulated scenes, to weights with their card."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow, task

from components.config import Config, PretrainConfig, TrainConfig, VerifierConfig
from components.dataset.ground import refuse_test_ground
from components.errors import WorkspaceError
from components.training.loop import TrainResult
from components.training.loop import pretrain as pretrain_on_scenes
from components.training.stage import train_stage
from components.verification.fit import VerifierResult, fit_verifier
from components.workspace import Artefact, artefact_dict, read_artefact
from flows.artifacts import training_artifact
from flows.dataset import ingested
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
    refuse_test_ground(ingested(ws))
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


@task(name="pretrain-model", tags=["gpu", "slopewatch"], timeout_seconds=96 * 3600)
def pretrain_model(out: str, train: dict[str, Any], scenes: dict[str, Any]) -> dict[str, Any]:
    """Train on simulated tiles; a killed run goes on from its last checkpoint."""
    folder = Path(out)
    result = pretrain_on_scenes(
        folder, folder / "work", TrainConfig(**train), PretrainConfig(**scenes), report
    )
    return asdict(result)


@flow(name="pretrain")
def pretrain(out: Path, config: Config = Config()) -> TrainResult:
    """Train a network on endless simulated tiles: the released weights, or a start for your own.

    Args:
        out: Folder for weights, card and checkpoints.
        config: Sections `train` and `pretrain` are used.
    """
    result = pretrain_model(
        out=str(out),
        train=config.train.model_dump(mode="json"),
        scenes=config.pretrain.model_dump(mode="json"),
    )
    return TrainResult(**result)


@task(name="fit-verifier", tags=["slopewatch"], timeout_seconds=24 * 3600)
def fit_second_look(weights: str, out: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Fit the verifier of weights; a killed run goes on with the scenes that are missing."""
    return asdict(fit_verifier(Path(weights), Path(out), VerifierConfig(**settings), report))


@flow(name="verifier")
def verifier(weights: Path, out: Path, config: Config = Config()) -> VerifierResult:
    """Fit the second look of weights on simulated scenes, and write both into one file.

    Args:
        weights: The `.safetensors` file with its card beside it.
        out: Folder for the new pair of files and for the work; not that of the weights.
        config: Section `verifier` is used.
    """
    result = fit_second_look(
        weights=str(weights), out=str(out), settings=config.verifier.model_dump(mode="json")
    )
    return VerifierResult(**result)

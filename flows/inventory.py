"""Flows `evaluate` and `inventory`: stitched landslides to metrics, inventory and report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefect import flow

from components.config import Config, EvaluateConfig, InventoryConfig
from components.dataset.labels import labels_sha256 as content_sha256
from components.errors import InputError, ProcessingError
from components.evaluation.evaluate import evaluate_detections
from components.inventory.build import build_inventory
from components.workspace import Artefact, Workspace, artefact_dict, read_artefact
from flows.artifacts import inventory_artifacts, metrics_artifact
from flows.progress import report
from flows.tasks import open_workspace, run_stage, stage_task


def detections_of(ws: Workspace) -> list[Artefact]:
    """Stitched detections of a workspace; SW-602 where there are none."""
    found = ws.artefacts("detections")
    if not found:
        raise ProcessingError("SW-602", "the workspace holds no detections", path=ws.root)
    return found


@stage_task("evaluate-detections")
def evaluate_all(
    workspace: str,
    detections: list[dict[str, Any]],
    labels: str,
    labels_sha256: str,  # noqa: ARG001 - part of the cache key
    evaluate: dict[str, Any],
    inventory: dict[str, Any],
) -> Artefact:
    """Score detections and baseline against the reference polygons."""
    ws = open_workspace(workspace)
    with ws.lock():
        return evaluate_detections(
            ws,
            [Artefact(**d) for d in detections],
            Path(labels),
            EvaluateConfig(**evaluate),
            InventoryConfig(**inventory),
            report,
        )


@flow(name="evaluate")
def evaluate(workspace: Path, config: Config = Config()) -> Artefact:
    """Score the stitched map and a threshold baseline against reference polygons.

    Args:
        workspace: Folder of the region.
        config: Sections `evaluate`, `inventory` and the labels of `dataset` are used.
    """
    ws = open_workspace(workspace)
    labels = config.evaluate.labels or config.dataset.labels
    if labels is None:
        raise InputError("SW-601", "no reference polygons given")
    result = run_stage(
        evaluate_all,
        workspace=str(workspace),
        detections=[artefact_dict(d) for d in detections_of(ws)],
        labels=str(labels),
        labels_sha256=content_sha256(labels),
        evaluate=config.evaluate.model_dump(mode="json", exclude={"labels"}),
        inventory=config.inventory.model_dump(mode="json"),
    )
    metrics_artifact(json.loads((result.folder / "metrics.json").read_text()))
    return result


@stage_task("build-inventory")
def make_inventory(
    workspace: str,
    detections: list[dict[str, Any]],
    evaluation: dict[str, Any] | None,
    inventory: dict[str, Any],
) -> Artefact:
    """Write polygons, attributes, pictures and report."""
    ws = open_workspace(workspace)
    with ws.lock():
        return build_inventory(
            ws,
            [Artefact(**d) for d in detections],
            InventoryConfig(**inventory),
            None if evaluation is None else Artefact(**evaluation),
            report,
        )


@flow(name="inventory")
def inventory(workspace: Path, config: Config = Config()) -> Artefact:
    """Write the landslide inventory and its report.

    Args:
        workspace: Folder of the region.
        config: Section `inventory` is used.
    """
    ws = open_workspace(workspace)
    detections = detections_of(ws)
    evaluation = read_artefact(ws.place("evaluation"))
    keys = [d.key for d in detections]
    if evaluation is not None and evaluation.meta.get("detections") != keys:
        evaluation = None  # metrics of other detections do not belong into this report
    result = run_stage(
        make_inventory,
        workspace=str(workspace),
        detections=[artefact_dict(d) for d in detections],
        evaluation=None if evaluation is None else artefact_dict(evaluation),
        inventory=config.inventory.model_dump(mode="json"),
    )
    inventory_artifacts(result)
    return result

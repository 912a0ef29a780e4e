"""Flow `dataset`: tiles and interpreters' polygons to a COCO dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from components.config import Config, DatasetConfig
from components.dataset.coco import build_dataset
from components.dataset.ground import refuse_test_ground
from components.dataset.labels import labels_sha256 as content_sha256
from components.errors import InputError, WorkspaceError
from components.workspace import Artefact, Workspace, artefact_dict, read_artefact
from flows.progress import report
from flows.tasks import open_workspace, run_stage, stage_task


def checked_labels(config: Config) -> tuple[Path, str]:
    """Label file of the configuration and the digest of its content.

    Parameters
    ----------
    config : Config
        Section `dataset` is used.

    Returns
    -------
    tuple of Path and str

    Raises
    ------
    InputError
        SW-303 where none is given, SW-101 where it is missing.
    """
    labels = config.dataset.labels
    if labels is None:
        raise InputError("SW-303", "no polygons given", remedy="Give --labels FILE.")
    return labels, content_sha256(labels)


@stage_task("build-dataset")
def make_dataset(
    workspace: str,
    tiles: dict[str, Any],
    labels: str,
    labels_sha256: str,  # noqa: ARG001 - part of the cache key
    dataset: dict[str, Any],
) -> Artefact:
    """Build the COCO dataset."""
    ws = open_workspace(workspace)
    with ws.lock():
        cfg = DatasetConfig(**dataset)
        return build_dataset(ws, Artefact(**tiles), Path(labels), cfg, report)


@flow(name="dataset")
def dataset(workspace: Path, config: Config = Config()) -> Artefact:
    """Build the COCO dataset from tiles and polygons.

    Args:
        workspace: Folder of the region.
        config: Section `dataset` is used; its key `labels` names the polygons.
    """
    labels, _ = checked_labels(config)
    refuse_test_ground([labels, *ingested(open_workspace(workspace))])
    return build(workspace, config)


def ingested(ws: Workspace) -> list[Path]:
    """Products of a workspace, where they were read.

    Parameters
    ----------
    ws : Workspace
        The region.

    Returns
    -------
    list of Path
        They need not be there any more.
    """
    return [Path(row["path"]) for row in ws.ledger.products()]


def build(workspace: Path, config: Config) -> Artefact:
    """Build the dataset of any ground: experiments train on regions of their own seeds.

    Parameters
    ----------
    workspace : Path
        Folder of the region.
    config : Config
        As for the flow `dataset`.

    Returns
    -------
    Artefact

    Raises
    ------
    InputError
        SW-3xx for the polygons.
    WorkspaceError
        SW-205 where the workspace holds no tiles.
    """
    ws = open_workspace(workspace)
    labels, sha256 = checked_labels(config)
    tiles = read_artefact(ws.place("tiles"))
    if tiles is None:
        raise WorkspaceError(
            "SW-205", "the workspace holds no tiles", path=ws.root, remedy="Run `slopewatch tile`."
        )
    return run_stage(
        make_dataset,
        workspace=str(workspace),
        tiles=artefact_dict(tiles),
        labels=str(labels),
        labels_sha256=sha256,
        dataset=config.dataset.model_dump(mode="json", exclude={"labels"}),
    )

"""Flow `infer`: cubes and weights to stitched landslides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from components.config import Config, InferConfig
from components.errors import InputError, ModelError
from components.inference.predict import read_card
from components.inference.run import infer_cube
from components.provenance import digest, file_sha256
from components.workspace import Artefact, artefact_dict, read_artefact
from flows.progress import report
from flows.tasks import open_workspace, run_stage, stage_task
from flows.tiling import cubes_of
from models.weights import RELEASED


def weights_of(workspace: Path, config: InferConfig) -> Path:
    """Weights to use: those given, else those trained in the workspace, else the released ones.

    Parameters
    ----------
    workspace : Path
        Folder of the region; need not exist.
    config : InferConfig
        ``weights`` decides where it is set.

    Returns
    -------
    Path
        A file whose card could be read.

    Raises
    ------
    ModelError
        SW-403 where there are none, SW-401 where they or their card cannot be read.
    """
    weights = config.weights
    if weights is None:
        model = read_artefact(workspace / "model")
        weights = RELEASED if model is None else model.folder / "weights.safetensors"
        if not weights.is_file():
            raise ModelError("SW-403", "the installation lacks the released weights", path=weights)
    read_card(weights)
    return weights


@stage_task("infer-cube", tags=("gpu",))
def infer_one(
    workspace: str,
    cube: dict[str, Any],
    weights: str,
    weights_sha256: str,  # noqa: ARG001 - part of the cache key
    infer: dict[str, Any],
) -> Artefact:
    """Detect landslides in one period cube; a killed run goes on where it was."""
    ws = open_workspace(workspace)
    with ws.lock():
        return infer_cube(ws, Artefact(**cube), Path(weights), InferConfig(**infer), report)


@flow(name="infer")
def infer(
    workspace: Path, config: Config = Config(), periods: list[str] | None = None
) -> list[Artefact]:
    """Detect landslides in the period cubes and stitch them over windows.

    Args:
        workspace: Folder of the region.
        config: Section `infer` is used.
        periods: Only these periods (`YYYYMMDD_YYYYMMDD`); all if empty.
    """
    ws = open_workspace(workspace)
    cubes = cubes_of(ws)
    if periods:
        known = {c.meta["period"] for c in cubes}
        for period in periods:
            if period not in known:
                raise InputError("SW-702", f"{period} is not among {sorted(known)}", path=ws.root)
        cubes = [c for c in cubes if c.meta["period"] in periods]
    weights = weights_of(ws.root, config.infer)
    # The card decides too: calibration and threshold change without the tensors.
    sha256 = digest(file_sha256(weights), read_card(weights))
    return [
        run_stage(
            infer_one,
            workspace=str(workspace),
            cube=artefact_dict(cube),
            weights=str(weights),
            weights_sha256=sha256,
            infer=config.infer.model_dump(mode="json", exclude={"weights"}),
        )
        for cube in cubes
    ]

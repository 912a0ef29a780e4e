"""Flow `tile`: the period cube cut into training tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from components.config import Config, TileConfig
from components.cube.read import list_cubes
from components.dataset.tiles import build_tiles
from components.errors import WorkspaceError
from components.workspace import Artefact, Workspace, artefact_dict
from flows.progress import report
from flows.tasks import open_workspace, run_stage, stage_task


def cubes_of(ws: Workspace) -> list[Artefact]:
    """Period cubes of a workspace; SW-205 where there is none."""
    cubes = list_cubes(ws)
    if not cubes:
        raise WorkspaceError("SW-205", "the workspace holds no period cube", path=ws.root)
    return cubes


@stage_task("tile-cubes")
def tile_cubes(workspace: str, cubes: list[dict[str, Any]], tile: dict[str, Any]) -> Artefact:
    """Cut all cubes into tiles."""
    ws = open_workspace(workspace)
    with ws.lock():
        return build_tiles(ws, [Artefact(**c) for c in cubes], TileConfig(**tile), report)


@flow(name="tile")
def tile(workspace: Path, config: Config = Config()) -> Artefact:
    """Cut the period cubes into tiles.

    Args:
        workspace: Folder of the region.
        config: Section `tile` is used.
    """
    cubes = cubes_of(open_workspace(workspace))
    return run_stage(
        tile_cubes,
        workspace=str(workspace),
        cubes=[artefact_dict(c) for c in cubes],
        tile=config.tile.model_dump(mode="json"),
    )

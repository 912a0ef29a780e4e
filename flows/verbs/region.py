"""Verbs that make a region: simulated, ingested, tiled, labelled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows import show
from flows.cli import verb
from flows.options import Given, LabelsOption, ProductsArgument, WorkspaceOption


@verb("simulate", show.simulation)
def simulate(
    given: Given,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")],
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the region.")] = None,
    dem: Annotated[Path | None, typer.Option("--dem", help="Elevation raster to use.")] = None,
) -> object:
    """Simulate a region with exact truth, as HyP3 products with interpreters' polygons.

    Example: slopewatch simulate --out simulated --seed 7 --set simulate.periods=3
    """
    cfg = given.config({"simulate.seed": seed, "simulate.dem": dem})
    from flows.simulate import simulate as flow

    return flow(out.resolve(), cfg)


@verb("ingest", show.artefacts)
def ingest(given: Given, products: ProductsArgument, workspace: WorkspaceOption) -> object:
    """Bring deformation maps onto the region grid; known products are not read again.

    Example: slopewatch ingest S1AA_*_VVP012_INT80_G_ueF_48FE --workspace jinsha
    """
    cfg = given.config()
    from flows.ingest import checked
    from flows.ingest import ingest as flow

    paths = [p.resolve() for p in products]
    checked(paths, cfg.ingest)  # before Prefect's server starts
    return flow(workspace.resolve(), paths, cfg)


@verb("tile", show.artefacts)
def tile(given: Given, workspace: WorkspaceOption) -> object:
    """Cut the period cubes into training tiles.

    Example: slopewatch tile --workspace jinsha --set tile.size=256
    """
    cfg = given.config()
    from flows.tiling import tile as flow

    return flow(workspace.resolve(), cfg)


@verb("dataset", show.artefacts)
def dataset(given: Given, workspace: WorkspaceOption, labels: LabelsOption = None) -> object:
    """Build the COCO dataset from tiles and polygons.

    Example: slopewatch dataset --workspace jinsha --labels interpreted.shp
    """
    cfg = given.config({"dataset.labels": labels})
    from flows.dataset import dataset as flow

    return flow(workspace.resolve(), cfg)

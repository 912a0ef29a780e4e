"""Flow `ingest`: products to the period cube."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from odc.geo.geobox import GeoBox
from prefect import flow

from components.config import Config, IngestConfig, RegionConfig
from components.cube.ingest import ingest_product, prepare
from components.cube.region import choose_geobox, region_geobox
from components.errors import WorkspaceError
from components.products.base import Product
from components.products.open import check_product
from components.products.registry import discover
from components.workspace import Artefact, Workspace, read_artefact
from flows.progress import report
from flows.tasks import open_workspace, run_stage, stage_task


@stage_task("prepare-region")
def prepare_region(
    workspace: str,
    products: list[str],
    sha256: list[str],  # noqa: ARG001 - part of the cache key
    ingest: dict[str, Any],
    region: dict[str, Any],
) -> Artefact:
    """Fix grid, terrain and geometry from all products of a run, so that their order is of no weight."""
    cfg = IngestConfig(**ingest)
    ws = open_workspace(workspace)
    found = discover([Path(p) for p in products], cfg)
    with ws.lock():
        prepare(ws, found, cfg, RegionConfig(**region), report)
    made = read_artefact(ws.place("region"))
    if made is None:
        raise WorkspaceError("SW-206", "the region was not published", path=ws.root)
    return made


@stage_task("ingest-product")
def ingest_one(
    workspace: str, product: str, sha256: str, ingest: dict[str, Any], region: dict[str, Any]
) -> Artefact:
    """Ingest one product; `product` and `sha256` name it by place and content."""
    cfg = IngestConfig(**ingest)
    [found] = [p for p in discover([Path(product)], cfg) if p.sha256() == sha256]
    ws = open_workspace(workspace)
    with ws.lock():
        return ingest_product(ws, found, cfg, RegionConfig(**region), report)


def checked(products: list[Path], cfg: IngestConfig) -> list[Product]:
    """Products by track and date, each looked at before anything heavy begins.

    Parameters
    ----------
    products : list of Path
        As given.
    cfg : IngestConfig
        What products without names or geometry are given.

    Returns
    -------
    list of Product

    Raises
    ------
    InputError
        SW-1xx for whatever cannot be ingested.
    """
    found = discover(products, cfg)
    for product in found:
        check_product(product)
    return found


def grid_of(workspace: Path, products: list[Product], region: RegionConfig) -> GeoBox | None:
    """Grid that a workspace has, or that its first product would give it.

    Parameters
    ----------
    workspace : Path
        Folder of the region; need not exist.
    products : list of Product
        As `checked` returns them.
    region : RegionConfig
        Wishes for a new grid.

    Returns
    -------
    GeoBox or None
        None where there is neither workspace nor product.
    """
    if read_artefact(workspace / "region") is not None:
        return region_geobox(Workspace(workspace))
    return choose_geobox(products[0].geobox, region) if products else None


@flow(name="ingest")
def ingest(workspace: Path, products: list[Path], config: Config = Config()) -> list[Artefact]:
    """Bring deformation maps onto the region grid, in canonical sign and unit.

    Args:
        workspace: Folder of the region.
        products: HyP3 folders or archives, dolphin or OPERA files, plain rasters with their YAML.
        config: Sections `ingest` and `region` are used.
    """
    found = checked(products, config.ingest)
    settings = {
        "workspace": str(workspace),
        "ingest": config.ingest.model_dump(mode="json"),
        "region": config.region.model_dump(mode="json"),
    }
    hashes = [p.sha256() for p in found]
    places = sorted({str(p.path) for p in found})
    run_stage(prepare_region, products=places, sha256=hashes, **settings)
    return [
        run_stage(ingest_one, product=str(p.path), sha256=sha256, **settings)
        for p, sha256 in zip(found, hashes, strict=True)
    ]

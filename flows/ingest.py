"""Flow `ingest`: products to the period cube."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from components.config import Config, IngestConfig, RegionConfig
from components.cube.ingest import ingest_product
from components.products.base import Product
from components.products.open import check_product
from components.products.registry import discover
from components.workspace import Artefact
from flows.progress import report
from flows.tasks import open_workspace, run_stage, stage_task


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


@flow(name="ingest")
def ingest(workspace: Path, products: list[Path], config: Config = Config()) -> list[Artefact]:
    """Bring deformation maps onto the region grid, in canonical sign and unit.

    Args:
        workspace: Folder of the region.
        products: HyP3 folders or archives, dolphin or OPERA files, plain rasters with their YAML.
        config: Sections `ingest` and `region` are used.
    """
    cfg = config.ingest
    return [
        run_stage(
            ingest_one,
            workspace=str(workspace),
            product=str(product.path),
            sha256=product.sha256(),
            ingest=cfg.model_dump(mode="json"),
            region=config.region.model_dump(mode="json"),
        )
        for product in checked(products, cfg)
    ]

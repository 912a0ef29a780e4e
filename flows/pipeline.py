"""Flows `run` (the whole chain with training) and `map` (new products, weights at hand)."""

from __future__ import annotations

import time
from pathlib import Path

from prefect import flow

from components.config import Config
from components.dataset.ground import refuse_test_ground
from components.dataset.labels import read_labels
from components.inference.predict import read_card
from components.training.loop import check_form
from flows.dataset import checked_labels, dataset
from flows.inference import infer, weights_of
from flows.ingest import checked, grid_of, ingest
from flows.inventory import evaluate, inventory
from flows.summary import Summary, summarise
from flows.tasks import open_workspace
from flows.tiling import tile
from flows.training import train


def check_run(workspace: Path, products: list[Path], config: Config) -> None:
    """Look at everything that a run would read, before anything heavy begins.

    Parameters
    ----------
    workspace : Path
        Folder of the region; need not exist.
    products : list of Path
        Deformation products.
    config : Config
        All sections.

    Raises
    ------
    InputError
        SW-1xx for products, SW-3xx for polygons.
    ModelError
        SW-406 for an unknown network form.
    """
    check_form(config.train.model)
    labels, _ = checked_labels(config)
    refuse_test_ground([labels, *products])
    found = checked(products, config.ingest)
    grid = grid_of(workspace, found, config.region)
    if grid is not None:
        read_labels(labels, config.dataset, grid)


@flow(name="run")
def run(workspace: Path, products: list[Path], config: Config = Config()) -> Summary:
    """Products and polygons to a trained model, its metrics, the inventory and the report.

    Args:
        workspace: Folder of the region.
        products: Deformation products of one or more periods.
        config: All sections; `dataset.labels` names the interpreters' polygons.
    """
    start = time.monotonic()
    check_run(workspace, products, config)
    ingest(workspace, products, config)
    tile(workspace, config)
    dataset(workspace, config)
    train(workspace, config)
    detections = infer(workspace, config)
    evaluate(workspace, config)
    result = inventory(workspace, config)
    return summarise(open_workspace(workspace), result, detections, time.monotonic() - start)


@flow(name="map")
def map_products(workspace: Path, products: list[Path], config: Config = Config()) -> Summary:
    """New products and weights at hand to an inventory: no labels needed.

    The region takes the pixel size of the weights unless `region.resolution_m` says otherwise.

    Args:
        workspace: Folder of the region.
        products: Deformation products of one or more periods.
        config: Sections `region`, `ingest`, `infer` and `inventory` are used.
    """
    start = time.monotonic()
    card = read_card(weights_of(workspace, config.infer))
    if config.region.resolution_m is None:
        pixel = {"resolution_m": float(card["ground_pixel_size_m"])}
        region = config.region.model_copy(update=pixel)
        config = config.model_copy(update={"region": region})
    ingest(workspace, products, config)
    detections = infer(workspace, config)
    result = inventory(workspace, config)
    return summarise(open_workspace(workspace), result, detections, time.monotonic() - start)

"""The verbs of the command line, one a flow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows import show
from flows.cli import (
    ConfigOption,
    JsonOption,
    LabelsOption,
    ProductsArgument,
    SetOption,
    VerboseOption,
    WeightsOption,
    WorkspaceOption,
    app,
    execute,
    settings,
)


@app.command("simulate")
def simulate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")],
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the region.")] = None,
    dem: Annotated[Path | None, typer.Option("--dem", help="Elevation raster to use.")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Simulate a region with exact truth, as HyP3 products with interpreters' polygons.

    Example: slopewatch simulate --out simulated --seed 7 --set simulate.periods=3
    """

    def work() -> object:
        cfg = settings(config, overrides, {"simulate.seed": seed, "simulate.dem": dem})
        from flows.simulate import simulate as flow

        return flow(out.resolve(), cfg)

    execute(work, as_json=as_json, verbose=verbose, show=show.simulation)


@app.command("ingest")
def ingest(
    products: ProductsArgument,
    workspace: WorkspaceOption,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Bring deformation maps onto the region grid; known products are not read again.

    Example: slopewatch ingest S1AA_*_VVP012_INT80_G_ueF_48FE --workspace jinsha
    """

    def work() -> object:
        cfg = settings(config, overrides)
        from flows.ingest import checked
        from flows.ingest import ingest as flow

        paths = [p.resolve() for p in products]
        checked(paths, cfg.ingest)  # before Prefect's server starts
        return flow(workspace.resolve(), paths, cfg)

    execute(work, as_json=as_json, verbose=verbose, show=show.artefacts)


@app.command("tile")
def tile(
    workspace: WorkspaceOption,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Cut the period cubes into training tiles.

    Example: slopewatch tile --workspace jinsha --set tile.size=256
    """

    def work() -> object:
        cfg = settings(config, overrides)
        from flows.tiling import tile as flow

        return flow(workspace.resolve(), cfg)

    execute(work, as_json=as_json, verbose=verbose, show=show.artefacts)


@app.command("dataset")
def dataset(
    workspace: WorkspaceOption,
    labels: LabelsOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Build the COCO dataset from tiles and polygons.

    Example: slopewatch dataset --workspace jinsha --labels interpreted.shp
    """

    def work() -> object:
        cfg = settings(config, overrides, {"dataset.labels": labels})
        from flows.dataset import dataset as flow

        return flow(workspace.resolve(), cfg)

    execute(work, as_json=as_json, verbose=verbose, show=show.artefacts)


@app.command("train")
def train(
    workspace: WorkspaceOption,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train a network on the dataset; a killed run goes on from its last checkpoint.

    Example: slopewatch train --workspace jinsha --set train.model=resnet18-s2
    """

    def work() -> object:
        cfg = settings(config, overrides)
        from flows.training import train as flow

        return flow(workspace.resolve(), cfg)

    execute(work, as_json=as_json, verbose=verbose, show=show.artefacts)


@app.command("infer")
def infer(
    workspace: WorkspaceOption,
    weights: WeightsOption = None,
    period: Annotated[
        list[str] | None, typer.Option("--period", help="Only this period; repeatable.")
    ] = None,
    window: Annotated[int | None, typer.Option("--window", help="Window side [px].")] = None,
    dask: Annotated[
        str | None, typer.Option("--dask", help="Cluster: `local:2` or `tcp://host:8786`.")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Detect landslides in overlapping windows and stitch them.

    Example: slopewatch infer --workspace jinsha --weights model.safetensors --window 256
    """

    def work() -> object:
        shortcuts = {"infer.weights": weights, "infer.window": window, "infer.dask": dask}
        cfg = settings(config, overrides, shortcuts)
        from flows.inference import infer as flow
        from flows.summary import run_timed

        return run_timed(workspace.resolve(), lambda: flow(workspace.resolve(), cfg, period))

    execute(work, as_json=as_json, verbose=verbose, show=show.summary)


@app.command("evaluate")
def evaluate(
    workspace: WorkspaceOption,
    labels: LabelsOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Score the stitched map and the threshold baseline against reference polygons.

    Example: slopewatch evaluate --workspace jinsha --labels interpreted.shp --json
    """

    def work() -> object:
        cfg = settings(config, overrides, {"evaluate.labels": labels})
        from flows.inventory import evaluate as flow
        from flows.summary import read_metrics

        return read_metrics(flow(workspace.resolve(), cfg))

    execute(work, as_json=as_json, verbose=verbose, show=show.metrics)


@app.command("inventory")
def inventory(
    workspace: WorkspaceOption,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write polygons, attributes, pictures and the report.

    Example: slopewatch inventory --workspace jinsha --set inventory.min_pixels=16
    """

    def work() -> object:
        cfg = settings(config, overrides)
        from flows.inventory import inventory as flow

        return flow(workspace.resolve(), cfg)

    execute(work, as_json=as_json, verbose=verbose, show=show.artefacts)


@app.command("map")
def map_command(
    products: ProductsArgument,
    workspace: WorkspaceOption,
    weights: WeightsOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """New products and weights at hand to an inventory; no labels needed.

    Example: slopewatch map S1AA_*_INT80_G_ueF_48FE --workspace jinsha --weights model.safetensors
    """

    def work() -> object:
        cfg = settings(config, overrides, {"infer.weights": weights})
        from flows.inference import weights_of
        from flows.ingest import checked
        from flows.pipeline import map_products as flow

        paths = [p.resolve() for p in products]
        weights_of(workspace.resolve(), cfg.infer)  # before Prefect's server starts
        checked(paths, cfg.ingest)
        return flow(workspace.resolve(), paths, cfg)

    execute(work, as_json=as_json, verbose=verbose, show=show.summary)


@app.command("run")
def run(
    products: ProductsArgument,
    workspace: WorkspaceOption,
    labels: LabelsOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """The whole chain with training: products and polygons to inventory and report.

    Example: slopewatch run simulated/S1* --labels simulated/labels.gpkg --workspace jinsha
    """

    def work() -> object:
        cfg = settings(config, overrides, {"dataset.labels": labels})
        from flows.pipeline import check_run
        from flows.pipeline import run as flow

        paths = [p.resolve() for p in products]
        check_run(workspace.resolve(), paths, cfg)  # before Prefect's server starts
        return flow(workspace.resolve(), paths, cfg)

    execute(work, as_json=as_json, verbose=verbose, show=show.summary)


@app.command("plan")
def plan(
    workspace: WorkspaceOption,
    products: Annotated[list[Path] | None, typer.Argument(help="Products to read.")] = None,
    labels: LabelsOption = None,
    weights: WeightsOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Dry run: what would be read, how many windows, what is done already, expected time.

    Example: slopewatch plan S1AA_*_INT80_G_ueF_48FE --workspace jinsha
    """

    def work() -> object:
        shortcuts = {"infer.weights": weights, "dataset.labels": labels}
        cfg = settings(config, overrides, shortcuts)
        from flows.plan import plan as flow

        return flow(workspace.resolve(), [p.resolve() for p in products or []], cfg)

    execute(work, as_json=as_json, verbose=verbose, show=show.plan)


@app.command("demo")
def demo(
    workspace: WorkspaceOption = Path("slopewatch-demo"),
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Simulate 2,600 km² in two periods, train a small model, map both, compare with the truth.

    Example: slopewatch demo --workspace demo
    """

    def work() -> object:
        from flows.demo import DEMO
        from flows.demo import demo as flow

        return flow(workspace.resolve(), settings(None, [*DEMO, *(overrides or [])]))

    execute(work, as_json=as_json, verbose=verbose, show=show.demo)

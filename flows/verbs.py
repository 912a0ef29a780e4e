"""The verbs of the command line, one a flow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from components.errors import InputError
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
    numbers,
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


@app.command("pretrain")
def pretrain(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for weights and checkpoints.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train on endless simulated tiles, without any data; a killed run goes on.

    Example: slopewatch pretrain --out model --set train.model=slopewatch-s2 --set train.epochs=24
    """

    def work() -> object:
        cfg = settings(config, overrides)
        from components.training.loop import check_form
        from flows.training import pretrain as flow

        check_form(cfg.train.model)  # before Prefect's server starts
        return flow(out.resolve(), cfg)

    execute(work, as_json=as_json, verbose=verbose, show=show.training)


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


@app.command("stitch")
def stitch(
    images: Annotated[
        Path, typer.Option("--images", help="COCO images file with row_off and col_off.")
    ],
    results: Annotated[Path, typer.Option("--results", help="COCO results list.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="GeoPackage to write.")],
    raster: Annotated[
        Path | None, typer.Option("--raster", help="Raster that the images were cut from.")
    ] = None,
    transform: Annotated[
        str | None, typer.Option("--transform", metavar="A,B,C,D,E,F", help="Pixel to map.")
    ] = None,
    crs: Annotated[str | None, typer.Option("--crs", help="As EPSG:32647.")] = None,
    shape: Annotated[
        str | None, typer.Option("--shape", metavar="HEIGHT,WIDTH", help="Size of the raster.")
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="seam; for comparison nms, nmm, greedy-nmm.")
    ] = "seam",
    metric: Annotated[
        str, typer.Option("--metric", help="Of boxes, for these: ios or iou.")
    ] = "ios",
    match_threshold: Annotated[
        float, typer.Option("--match-threshold", min=0, max=1, help="Boxes match from here on.")
    ] = 0.5,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Stitch the detections of any model: COCO files in, GeoPackage out.

    Example: slopewatch stitch --images images.json --results results.json --raster ref.tif -o found.gpkg
    """

    def work() -> object:
        cfg = settings(config, overrides)
        from flows.stitch import check
        from flows.stitch import stitch as flow

        where = (images.resolve(), results.resolve(), out.resolve())
        reference = None if raster is None else raster.resolve()
        affine, size = numbers("--transform", transform, float), numbers("--shape", shape, int)
        # before Prefect's server starts
        check(*where, reference, affine, crs, size, method, metric)
        return flow(*where, cfg, reference, affine, crs, size, method, metric, match_threshold)

    execute(work, as_json=as_json, verbose=verbose, show=show.stitched)


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


@app.command("models")
def models_command(
    channels: Annotated[int, typer.Option("--channels", min=1, help="Channels of the image.")] = 7,
    size: Annotated[int, typer.Option("--size", min=64, help="Side of the image [px].")] = 256,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """List the network forms with their parameters, operations and strides.

    Example: slopewatch models --channels 7 --size 512
    """

    def work() -> object:
        from flows.forms import list_forms

        return list_forms(channels, size)

    execute(work, as_json=as_json, verbose=verbose, show=show.forms)


@app.command("export")
def export(
    weights: Annotated[Path, typer.Option("--weights", help="Weights (.safetensors).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write (.onnx).")],
    window: Annotated[int | None, typer.Option("--window", help="Window side [px].")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write weights as an ONNX graph for one window, to be run without torch.

    Example: slopewatch export --weights model.safetensors --out model.onnx --window 256
    """

    def work() -> object:
        cfg = settings(config, overrides, {"infer.weights": weights, "infer.window": window})
        from components.inference.onnx_export import export_weights

        return export_weights(weights.resolve(), out.resolve(), cfg.infer)

    execute(work, as_json=as_json, verbose=verbose, show=show.onnx)


@app.command("demo")
def demo(
    workspace: WorkspaceOption = Path("slopewatch-demo"),
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Simulate 2,600 km² in two periods, map both with the released weights, compare with the truth.

    Example: slopewatch demo --workspace demo
    """

    def work() -> object:
        from flows.demo import DEMO
        from flows.demo import demo as flow

        return flow(workspace.resolve(), settings(None, [*DEMO, *(overrides or [])]))

    execute(work, as_json=as_json, verbose=verbose, show=show.demo)


benchmark = typer.Typer(help="Measure weights on simulated and on real maps.", no_args_is_help=True)
app.add_typer(benchmark, name="benchmark")


@benchmark.command("accuracy")
def benchmark_accuracy(
    workspace: WorkspaceOption,
    weights: Annotated[Path, typer.Option("--weights", help="The model (.safetensors).")],
    against: Annotated[
        list[str] | None,
        typer.Option("--against", metavar="NAME=FILE", help="Other weights; repeatable."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="all, val, test or null.")] = "all",
    regions: Annotated[
        int | None, typer.Option("--regions", min=1, help="Only so many of each split: a trial.")
    ] = None,
    side: Annotated[
        int, typer.Option("--side", min=128, help="Side of a region [px]; others are trials.")
    ] = 2048,
    out: Annotated[Path, typer.Option("--out", "-o", help="The document.")] = Path(
        "docs/accuracy.md"
    ),
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit anew and write it into the weights' cards.")
    ] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Measure weights on the public benchmark sim-v1, beside baselines and other weights.

    Example: slopewatch benchmark accuracy -w bench --weights model.safetensors --against unet=u.safetensors
    """

    def work() -> object:
        cfg = settings(config, overrides)
        others = dict(_named(item) for item in against or [])
        from flows.benchmark import SplitChoice, check_accuracy
        from flows.benchmark import benchmark_accuracy as flow

        if split not in get_args(SplitChoice):
            raise InputError("SW-701", f"`--split {split}` is not among {get_args(SplitChoice)}")
        check_accuracy(weights.resolve(), others)  # before Prefect's server starts
        return flow(
            workspace.resolve(),
            weights.resolve(),
            cfg,
            others,
            cast("SplitChoice", split),
            regions,
            side,
            out.resolve(),
            calibrate,
        )

    execute(work, as_json=as_json, verbose=verbose, show=show.accuracy)


def _named(item: str) -> tuple[str, Path]:
    name, separator, path = item.partition("=")
    if not separator or not name:
        raise InputError("SW-701", f"`--against {item}` is not NAME=FILE")
    return name, Path(path).resolve()


@benchmark.command("real")
def benchmark_real(
    workspace: WorkspaceOption,
    weights: Annotated[Path, typer.Option("--weights", help="The model (.safetensors).")],
    data: Annotated[
        Path, typer.Option("--data", envvar="SLOPEWATCH_DATA", help="Folder of the real rasters.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for pictures and table.")] = Path(
        "docs/experiments"
    ),
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Map real rasters without known landslides, count detections and draw each.

    Example: slopewatch benchmark real -w real --weights model.safetensors --data rasters
    """

    def work() -> object:
        cfg = settings(config, overrides)
        from components.inference.predict import read_card
        from flows.benchmark import benchmark_real as flow

        read_card(weights.resolve())  # before Prefect's server starts
        return flow(workspace.resolve(), weights.resolve(), data.resolve(), cfg, out.resolve())

    execute(work, as_json=as_json, verbose=verbose, show=show.experiment)


@benchmark.command("networks")
def benchmark_networks(
    workspace: WorkspaceOption,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of each training.")],
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            help="five-rows, baselines, schedules, small-sample, pretraining or frontier; repeatable.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings of each row.")] = 3,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights",
            metavar="NAME=FILE",
            help="For frontier and, the first, for pretraining; repeatable.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the JSON files.")] = Path(
        "docs/experiments"
    ),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be trained and how long, and end.")
    ] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Set networks side by side on simulated tiles; trainings that are done are not done again.

    Example: slopewatch benchmark networks -w bench --only five-rows --steps 600 -c deployments/ablation.yaml
    """

    def work() -> object:
        cfg = settings(config, overrides)
        from components.evaluation.compare import Setting
        from components.evaluation.networks import check, named_weights, plan
        from flows.networks import benchmark_networks as flow

        root, given = workspace.resolve(), named_weights(weights or [])
        parts = [f"slopewatch benchmark networks --workspace {workspace.name} --steps {steps}"]
        parts += [f"--seeds {seeds}", *(f"--only {name}" for name in only or [])]
        parts += [f"--weights {name}={path.name}" for name, path in given.items()]
        parts += [f"--config {config}"] if config is not None and not config.is_absolute() else []
        parts += [f"--set {item}" for item in overrides or []]
        command = " ".join(parts)
        s = Setting(cfg, steps, seeds, root / "trainings", out.resolve(), command)
        names = check(only or [], given, s)  # before Prefect's server starts
        planned = plan(names, s, given)
        if dry_run:
            return planned
        show.network_plan(planned)
        return flow(root, steps, seeds, list(names), given, cfg, s.out, command)

    execute(work, as_json=as_json, verbose=verbose, show=show.networks)

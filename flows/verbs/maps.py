"""Verbs that make maps, and say how good they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows import show
from flows.cli import verb
from flows.options import Given, LabelsOption, WeightsOption, WindowOption, WorkspaceOption, numbers


@verb("infer", show.summary)
def infer(
    given: Given,
    workspace: WorkspaceOption,
    weights: WeightsOption = None,
    period: Annotated[
        list[str] | None, typer.Option("--period", help="Only this period; repeatable.")
    ] = None,
    window: WindowOption = None,
    dask: Annotated[
        str | None, typer.Option("--dask", help="Cluster: `local:2` or `tcp://host:8786`.")
    ] = None,
) -> object:
    """Detect landslides in overlapping windows and stitch them.

    Example: slopewatch infer --workspace jinsha --weights model.safetensors --window 256
    """
    cfg = given.config({"infer.weights": weights, "infer.window": window, "infer.dask": dask})
    from flows.inference import infer as flow
    from flows.summary import run_timed

    return run_timed(workspace.resolve(), lambda: flow(workspace.resolve(), cfg, period))


@verb("stitch", show.stitched)
def stitch(
    given: Given,
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
) -> object:
    """Stitch the detections of any model: COCO files in, GeoPackage out.

    Example: slopewatch stitch --images images.json --results results.json --raster ref.tif -o found.gpkg
    """
    cfg = given.config()
    from flows.stitch import check
    from flows.stitch import stitch as flow

    where = (images.resolve(), results.resolve(), out.resolve())
    reference = None if raster is None else raster.resolve()
    affine, size = numbers("--transform", transform, float), numbers("--shape", shape, int)
    # before Prefect's server starts
    check(*where, reference, affine, crs, size, method, metric)
    return flow(*where, cfg, reference, affine, crs, size, method, metric, match_threshold)


@verb("evaluate", show.metrics)
def evaluate(given: Given, workspace: WorkspaceOption, labels: LabelsOption = None) -> object:
    """Score the stitched map and the threshold baseline against reference polygons.

    Example: slopewatch evaluate --workspace jinsha --labels interpreted.shp --json
    """
    cfg = given.config({"evaluate.labels": labels})
    from flows.inventory import evaluate as flow
    from flows.summary import read_metrics

    return read_metrics(flow(workspace.resolve(), cfg))


@verb("inventory", show.artefacts)
def inventory(given: Given, workspace: WorkspaceOption) -> object:
    """Write polygons, attributes, pictures and the report.

    Example: slopewatch inventory --workspace jinsha --set inventory.min_pixels=16
    """
    cfg = given.config()
    from flows.inventory import inventory as flow

    return flow(workspace.resolve(), cfg)

"""Verbs of daily operation: whole chains, and what they would do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows import show
from flows.cli import verb
from flows.options import Given, LabelsOption, ProductsArgument, WeightsOption, WorkspaceOption


@verb("map", show.summary)
def map_command(
    given: Given,
    products: ProductsArgument,
    workspace: WorkspaceOption,
    weights: WeightsOption = None,
) -> object:
    """New products and weights at hand to an inventory; no labels needed.

    Example: slopewatch map S1AA_*_INT80_G_ueF_48FE --workspace jinsha --weights model.safetensors
    """
    cfg = given.config({"infer.weights": weights})
    from flows.inference import weights_of
    from flows.ingest import checked
    from flows.pipeline import map_products as flow

    paths = [p.resolve() for p in products]
    weights_of(workspace.resolve(), cfg.infer)  # before Prefect's server starts
    checked(paths, cfg.ingest)
    return flow(workspace.resolve(), paths, cfg)


@verb("run", show.summary)
def run(
    given: Given,
    products: ProductsArgument,
    workspace: WorkspaceOption,
    labels: LabelsOption = None,
) -> object:
    """The whole chain with training: products and polygons to inventory and report.

    Example: slopewatch run simulated/S1* --labels simulated/labels.gpkg --workspace jinsha
    """
    cfg = given.config({"dataset.labels": labels})
    from flows.pipeline import check_run
    from flows.pipeline import run as flow

    paths = [p.resolve() for p in products]
    check_run(workspace.resolve(), paths, cfg)  # before Prefect's server starts
    return flow(workspace.resolve(), paths, cfg)


@verb("plan", show.plan)
def plan(
    given: Given,
    workspace: WorkspaceOption,
    products: Annotated[list[Path] | None, typer.Argument(help="Products to read.")] = None,
    labels: LabelsOption = None,
    weights: WeightsOption = None,
) -> object:
    """Dry run: what would be read, how many windows, what is done already, expected time.

    Example: slopewatch plan S1AA_*_INT80_G_ueF_48FE --workspace jinsha
    """
    cfg = given.config({"infer.weights": weights, "dataset.labels": labels})
    from flows.plan import plan as flow

    return flow(workspace.resolve(), [p.resolve() for p in products or []], cfg)


@verb("demo", show.demo, reads=("overrides",))
def demo(given: Given, workspace: WorkspaceOption = Path("slopewatch-demo")) -> object:
    """Simulate 2,600 km² in two periods, map both with the released weights, compare with the truth.

    Example: slopewatch demo --workspace demo
    """
    from flows.demo import DEMO
    from flows.demo import demo as flow

    return flow(workspace.resolve(), Given(None, (*DEMO, *given.overrides)).config())

"""Verbs that measure weights and networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from components.errors import InputError
from flows import show
from flows.cli import app, verb
from flows.options import Given, ModelOption, WorkspaceOption

benchmark = typer.Typer(help="Measure weights on simulated and on real maps.", no_args_is_help=True)
app.add_typer(benchmark, name="benchmark")


@verb("accuracy", show.accuracy, group=benchmark)
def benchmark_accuracy(
    given: Given,
    workspace: WorkspaceOption,
    weights: ModelOption,
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
    alarms: Annotated[
        float | None,
        typer.Option(
            "--alarms",
            min=0,
            help="With --calibrate: false alarms per 1,000 km² that the model's threshold may leave.",
        ),
    ] = None,
) -> object:
    """Measure weights on the public benchmark sim-v1, beside baselines and other weights.

    Example: slopewatch benchmark accuracy -w bench --weights model.safetensors --against unet=u.safetensors
    """
    cfg = given.config()
    others = dict(_named(item) for item in against or [])
    from flows.benchmark import SplitChoice, check_accuracy
    from flows.benchmark import benchmark_accuracy as flow

    if split not in get_args(SplitChoice):
        raise InputError("SW-701", f"`--split {split}` is not among {get_args(SplitChoice)}")
    if alarms is not None and not calibrate:
        raise InputError("SW-701", "`--alarms` is a way to calibrate: give --calibrate too")
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
        alarms,
    )


def _named(item: str) -> tuple[str, Path]:
    name, separator, path = item.partition("=")
    if not separator or not name:
        raise InputError("SW-701", f"`--against {item}` is not NAME=FILE")
    return name, Path(path).resolve()


@verb("real", show.experiment, group=benchmark)
def benchmark_real(
    given: Given,
    workspace: WorkspaceOption,
    weights: ModelOption,
    data: Annotated[
        Path, typer.Option("--data", envvar="SLOPEWATCH_DATA", help="Folder of the real rasters.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for pictures and table.")] = Path(
        "docs/experiments"
    ),
) -> object:
    """Map real rasters without known landslides, count detections and draw each.

    Example: slopewatch benchmark real -w real --weights model.safetensors --data rasters
    """
    cfg = given.config()
    from components.inference.predict import read_card
    from flows.benchmark import benchmark_real as flow

    read_card(weights.resolve())  # before Prefect's server starts
    return flow(workspace.resolve(), weights.resolve(), data.resolve(), cfg, out.resolve())


@verb("networks", show.networks, group=benchmark)
def benchmark_networks(
    given: Given,
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
) -> object:
    """Set networks side by side on simulated tiles; trainings that are done are not done again.

    Example: slopewatch benchmark networks -w bench --only five-rows --steps 600 -c deployments/ablation.yaml
    """
    cfg = given.config()
    from components.evaluation.compare import Setting
    from components.evaluation.networks import check, named_weights, plan
    from flows.networks import benchmark_networks as flow

    root, networks = workspace.resolve(), named_weights(weights or [])
    parts = [f"slopewatch benchmark networks --workspace {workspace.name} --steps {steps}"]
    parts += [f"--seeds {seeds}", *(f"--only {name}" for name in only or [])]
    parts += [f"--weights {name}={path.name}" for name, path in networks.items()]
    if given.file is not None and not given.file.is_absolute():
        parts += [f"--config {given.file}"]
    parts += [f"--set {item}" for item in given.overrides]
    command = " ".join(parts)
    s = Setting(cfg, steps, seeds, root / "trainings", out.resolve(), command)
    names = check(only or [], networks, s)  # before Prefect's server starts
    planned = plan(names, s, networks)
    if dry_run:
        return planned
    show.network_plan(planned)
    return flow(root, steps, seeds, list(names), networks, cfg, s.out, command)

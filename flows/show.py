"""Results for people: rich tables on standard output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from components.evaluation.experiments import cell
from components.evaluation.labels import method_label
from components.workspace import Artefact

if TYPE_CHECKING:
    from components.evaluation.networks import Planned
    from components.inference.onnx_export import OnnxResult
    from components.inventory.external import External
    from components.simulation.region import SimulationResult
    from components.training.loop import TrainResult
    from components.verification.fit import VerifierResult
    from flows.benchmark import AccuracyResult
    from flows.demo import DemoResult
    from flows.forms import FormTable
    from flows.networks import NetworksResult
    from flows.plan import Plan
    from flows.summary import Summary

_out = Console()

#: Components of a map whose area is shown.
_LARGEST = 5

#: Width of the table of forms [characters].
_TABLE_WIDTH = 116


def _line(label: str, value: str) -> None:
    # Not a table: a path must stay in one piece, people copy it.
    _out.print(f" [bold]{label}[/bold]  {value}", soft_wrap=True, highlight=False)


def _number(value: Any, digits: int = 3) -> str:
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def artefacts(found: Artefact | Iterable[Artefact]) -> None:
    """Where artefacts are, and whether anything was computed.

    Parameters
    ----------
    found : Artefact or iterable of Artefact
        Published artefacts.
    """
    for a in [found] if isinstance(found, Artefact) else found:
        what = " ".join(str(a.meta[k]) for k in ("track", "period") if k in a.meta)
        state = "known already, nothing done" if a.reused else "made"
        _line(f"{a.stage} {what}".strip(), f"{state}: {a.path}")
        if ground := separated(a.meta):
            _line("  separated ground", ground)


def separated(meta: dict[str, Any]) -> str:
    """How the separated components of a map were referenced.

    Parameters
    ----------
    meta : dict
        Of an artefact.

    Returns
    -------
    str
        Empty where the map is of one piece, or no cube's.
    """
    counts = meta.get("components", {"total": 0, "small": 0})
    if counts["total"] < 2:
        return ""
    areas = ", ".join(f"{r['km2']:,.0f}" for r in meta["references"][:_LARGEST])
    more = ", …" if len(meta["references"]) > _LARGEST else ""
    if counts["small"] == counts["total"]:
        return f"{counts['total']:,} small components, one reference for all ({areas} km²)"
    apart = counts["total"] - counts["small"]
    small = f"; {counts['small']:,} small with the nearest" if counts["small"] else ""
    return f"{apart:,} referenced apart ({areas}{more} km²){small}"


def simulation(result: SimulationResult) -> None:
    """What the simulator wrote.

    Parameters
    ----------
    result : SimulationResult
        Products, labels and truth.
    """
    for product in result.products:
        _line("product", str(product))
    _line("labels", str(result.labels))
    _line("truth", str(result.truth))
    _line("landslides", str(result.n_landslides))


def training(result: TrainResult) -> None:
    """What a training made.

    Parameters
    ----------
    result : TrainResult
        Of the flow `pretrain`.
    """
    _line("weights", str(result.weights))
    _line("steps", f"{result.steps} in {result.seconds:,.0f} s")
    for name, value in result.metrics.items():
        _line(f"validation {name}", _number(value))


def verifier(result: VerifierResult) -> None:
    """What fitting a second look made, and what it is worth on scenes that were left out.

    Parameters
    ----------
    result : VerifierResult
        Of the flow `verifier`.
    """
    _line("weights", str(result.weights))
    n = result.facts["n"]
    _line("candidates", f"{n['landslides']:,} landslides, {n['false_alarms']:,} false alarms")
    for recall, alarms in result.facts["held_out"]["false_alarms_at_recall"].items():
        _line(
            f"false alarms at recall {recall}", f"{alarms['network']:,} to {alarms['verifier']:,}"
        )


def stitched(result: External) -> None:
    """What was made of detections.

    Parameters
    ----------
    result : External
        Of the flow `stitch`.
    """
    table = Table(box=None, show_header=False)
    table.add_row("windows", f"{result.windows:,}")
    table.add_row("detections", f"{result.detections:,}")
    for name, n in result.counts.items():
        if n and name not in {"detections", "instances"}:
            table.add_row(f"  {name}", f"{n:,}")
    table.add_row("polygons", f"{result.landslides:,}")
    for name, n in result.by_category.items():
        table.add_row(f"  {name}", f"{n:,}")
    for names, n in result.class_overlaps.items():
        table.add_row(f"  sharing pixels: {names}", f"{n:,} pairs")
    _out.print(table)
    if result.unjoined_windows:
        _line(
            "warning",
            f"{result.unjoined_windows:,} of {result.windows:,} windows meet others, or lie apart, without "
            "common ground: landslides cut at their borders cannot be joined; let windows overlap",
        )
    _line("polygons", str(result.out))


def summary(result: Summary) -> None:
    """Facts of a finished run.

    Parameters
    ----------
    result : Summary
        Of `run`, `map` or `infer`.
    """
    windows = ", ".join(f"{n} {state}" for state, n in result.windows.items())
    speed = result.mapped_km2 / result.inference_seconds if result.inference_seconds else 0.0
    table = Table(box=None, show_header=False)
    table.add_row("landslides", f"{result.n_landslides} records over all periods")
    table.add_row("mapped", f"{result.mapped_km2:,.0f} km² over all periods")
    table.add_row("windows", windows)
    table.add_row("inference", f"{result.inference_seconds:.1f} s ({speed:.0f} km²/s)")
    table.add_row("wall time", f"{result.seconds:.1f} s")
    _out.print(table)
    if result.inventory is not None:
        _line("inventory", str(result.inventory))
        _line("report", str(result.report))


#: Rows of the metrics table: label, path into a method's pooled metrics.
_METRIC_ROWS = (
    ("reference landslides", ("objects", "n_reference")),
    ("found (matched)", ("objects", "tp")),
    ("missed", ("objects", "fn")),
    ("false alarms", ("objects", "fp")),
    ("object precision", ("objects", "precision")),
    ("object recall", ("objects", "recall")),
    ("object F1", ("objects", "f1")),
    ("mean IoU of matches", ("objects", "mean_matched_iou")),
    ("pixel IoU", ("pixels", "iou_fg")),
    ("pixel F1", ("pixels", "dice")),
    ("pixel precision", ("pixels", "precision")),
    ("pixel recall", ("pixels", "recall")),
    ("pixel accuracy", ("pixels", "accuracy_px")),
    ("COCO AP", ("coco", "ap")),
    ("COCO AP50", ("coco", "ap50")),
)


def metrics(found: dict[str, Any]) -> None:
    """Model and baseline on the same ground.

    Parameters
    ----------
    found : dict
        Content of ``metrics.json``.
    """
    table = Table(
        f"on {found['settings']['area']}", "model", "2σ baseline", box=None, header_style="bold"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for label, (group, key) in _METRIC_ROWS:
        values = [found[m]["pooled"][group][key] for m in ("model", "baseline")]
        table.add_row(label, *(_number(v) for v in values))
    _out.print(table)


def plan(found: Plan) -> None:
    """What a run would do.

    Parameters
    ----------
    found : Plan
        Of the flow `plan`.
    """
    table = Table("stage", "what", "state", "amount", "expected", box=None, header_style="bold")
    for step in found.steps:
        expected = "" if step.seconds is None else f"{step.seconds:,.0f} s"
        table.add_row(step.stage, step.what, step.state, step.amount, expected)
    _out.print(table)
    _out.print(f"expected time: {found.seconds:,.0f} s ({found.basis})")


def forms(found: FormTable) -> None:
    """Network forms and what they cost.

    Parameters
    ----------
    found : FormTable
        Of `flows.forms.list_forms`.
    """
    columns = ("form", "trunk", "stages", "att.", "strides", "anchors", "param.")
    table = Table(*columns, "image", "boxes", "mask", box=None, header_style="bold")
    for column in table.columns[-4:]:
        column.justify = "right"
    for row in found.rows:
        levels = set(row.attention) - {"none"}
        table.add_row(
            row.form,
            row.trunk,
            " ".join(row.stages),
            ", ".join(sorted(levels)) or "–",
            f"{row.strides[0]}–{row.strides[-1]}",
            "–".join(f"{side:g}" for side in row.anchors),
            f"{row.parameters / 1e6:.1f} M",
            f"{row.image_gflops:.1f}",
            f"{row.box_gflops:.1f}" if row.anchors else "–",
            f"{row.mask_gflops:.2f}" if row.anchors else "–",
        )
    # At its full width everywhere: a table with broken or shortened cells cannot be read.
    Console(width=max(_out.width, _TABLE_WIDTH)).print(table)
    _line(
        "trunk",
        "blocks of each stage × their base widths; b: bottlenecks",
    )
    _line("stages", "C2 to C5: R ResNet, X ResNeXt, +D1, +D2 deformable convolution v1, v2")
    _line(
        "image, boxes, mask",
        f"GFLOPs at {found.channels} × {found.size} × {found.size}: {found.convention}",
    )


def onnx(result: OnnxResult) -> None:
    """What the export wrote.

    Parameters
    ----------
    result : OnnxResult
        Of the verb `export`.
    """
    _line("graph", str(result.path))
    _line("input", f"image, float32 {' × '.join(map(str, result.image))}")
    _line("outputs", ", ".join(result.outputs))


def demo(result: DemoResult) -> None:
    """Facts and metrics of the demo, and where to look.

    Parameters
    ----------
    result : DemoResult
        Of the flow `demo`.
    """
    metrics(result.metrics)
    _out.print()
    summary(result.summary)


#: Rows of the benchmark's table: label, figure, decimals.
_ACCURACY_ROWS = (
    ("F1, IoU ≥ 0.5", "iou50.f1", 3),
    ("precision", "iou50.precision", 3),
    ("recall", "iou50.recall", 3),
    ("F1, IoU ≥ 0.25", "iou25.f1", 3),
    ("matched IoU", "iou50.mean_matched_iou", 3),
    ("pixel IoU", "pixels.iou_fg", 3),
    ("COCO AP50", "coco.ap50", 3),
    ("boundary F1", "boundary.f1_1px", 3),
    ("area bias", "area.bias", 3),
    ("ECE of the score", "ece.after", 3),
    ("alarms/1000 km²", "iou50.fp_per_1000km2", 2),
)


def accuracy(result: AccuracyResult) -> None:
    """Headline of the benchmark by split and method, and where the rest is.

    Parameters
    ----------
    result : AccuracyResult
        Of the flow `benchmark-accuracy`.
    """
    for split, found in result.metrics["splits"].items():
        model, *others = found["methods"]
        counts = found["methods"][model]["counts"]
        title = f"{split}: {counts['references']:,} references, {counts['km2']:,.0f} km²"
        heads = [model, "95 % interval", *map(method_label, others)]
        table = Table(title, *heads, box=None, header_style="bold")
        for column in table.columns[1:]:
            column.justify = "right"
        # Without landslides there is nothing to find: false alarms are all that can be told.
        rows = _ACCURACY_ROWS if counts["references"] else _ACCURACY_ROWS[-1:]
        for text, key, digits in rows:
            figures = [found["methods"][m]["figures"].get(key) for m in (model, *others)]
            values = [None if f is None else f["value"] for f in figures]
            if any(v is not None for v in values):
                known = values[0] is not None
                ends = (cell(figures[0][k], digits) for k in ("low", "high") if known)
                between = " to ".join(ends)
                shown = [cell(v, digits) for v in values]
                table.add_row(text, shown[0], between, *shown[1:])
        _out.print(table)
        _out.print()
    _line("measured", result.metrics["benchmark"])
    _line("document", str(result.document))
    _line("metrics", str(result.metrics_file))
    for card in result.calibrated:
        _line("calibrated", str(card))


def experiment(found: dict[str, Any]) -> None:
    """The table of an experiment.

    Parameters
    ----------
    found : dict
        As `components.evaluation.experiments.Experiment` reads it.
    """
    columns = found["columns"]
    table = Table(found["title"], *(c["label"] for c in columns), box=None, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in found["rows"]:
        cells = (cell(row.get(c["key"]), c.get("digits", 3)) for c in columns)
        table.add_row(row["label"], *cells)
    _out.print(table)


def network_plan(planned: Sequence[Planned]) -> None:
    """What will be trained and how long it should take, on standard error.

    Parameters
    ----------
    planned : sequence of Planned
        Of `components.evaluation.networks.plan`.
    """
    from components.evaluation.networks import plan_lines  # loads PyTorch

    heads = ("form", "trainings", "done", "steps each", "expected")
    table = Table("experiment", *heads, box=None, header_style="bold")
    for column in table.columns[2:]:
        column.justify = "right"
    for line in plan_lines(planned):
        table.add_row(*line)
    Console(stderr=True).print(table)


def networks(result: NetworksResult | Sequence[Planned]) -> None:
    """Tables of the experiments, or the plan of a dry run.

    Parameters
    ----------
    result : NetworksResult or sequence of Planned
        Of the flow `benchmark-networks`, or of a dry run.
    """
    if isinstance(result, Sequence):
        network_plan(result)
        return
    for outcome in result.outcomes:
        experiment(outcome.experiment.model_dump(mode="json"))
        _line("written", str(outcome.path))
        _line("trainings", f"{outcome.trained} done, {outcome.reused} found done")
        _out.print()

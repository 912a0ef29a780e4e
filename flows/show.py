"""Results for people: rich tables on standard output."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from components.workspace import Artefact

if TYPE_CHECKING:
    from components.inventory.external import External
    from components.simulation.region import SimulationResult
    from flows.demo import DemoResult
    from flows.plan import Plan
    from flows.summary import Summary

_out = Console()


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
    """Model and baseline on the same held-out ground.

    Parameters
    ----------
    found : dict
        Content of ``metrics.json``.
    """
    table = Table("on held-out ground", "model", "2σ baseline", box=None, header_style="bold")
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

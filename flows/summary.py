"""What a run ends with: the same few facts for people, for ``--json`` and for the Prefect interface."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from components.config import InventoryConfig
from components.cube.read import find_cube
from components.evaluation.evaluate import model_card, operating_threshold
from components.inference.instance_file import load_instances
from components.inference.run import inference_seconds
from components.workspace import Artefact, Workspace

#: States of an inference window, as the summary counts them.
WINDOW_STATES = ("total", "done", "skipped", "failed")


@dataclass(frozen=True)
class Summary:
    """Facts of a finished run.

    Parameters
    ----------
    workspace, inventory, report : Path
        Folder of the region, GeoPackage, HTML report.
    n_landslides : int
        Landslide records (one a landslide, track and period); without an inventory, stitched
        detections from the operating threshold on.
    mapped_km2 : float
        Area of valid ground, summed over tracks and periods: geodesic in an inventory, else planar.
    seconds : float
        Wall time of the run.
    inference_seconds : float
        Wall time of inference and stitching, over all resumed runs.
    windows : dict
        Numbers of windows: total, done, skipped, failed.
    reused : dict
        Number of artefacts that were there already, and of all.
    """

    workspace: Path
    inventory: Path | None
    report: Path | None
    n_landslides: int
    mapped_km2: float
    seconds: float
    inference_seconds: float
    windows: dict[str, int] = field(default_factory=dict)
    reused: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON form.

        Returns
        -------
        dict
        """
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}


def summarise(
    ws: Workspace, inventory: Artefact | None, detections: list[Artefact], seconds: float
) -> Summary:
    """Summary of a run.

    Parameters
    ----------
    ws : Workspace
        The region.
    inventory : Artefact or None
        The published inventory, where the run made one.
    detections : list of Artefact
        Detections of the run.
    seconds : float
        Wall time [s].

    Returns
    -------
    Summary
    """
    cubes = [find_cube(ws, d.meta["track"], d.meta["period"]) for d in detections]
    n_landslides, mapped_km2 = (
        (sum(_above_threshold(ws, d) for d in detections), sum(_mapped_km2(c) for c in cubes))
        if inventory is None
        else (inventory.meta["n_landslides"], inventory.meta["mapped_km2"])
    )
    stages = [*detections, *([inventory] if inventory else [])]
    return Summary(
        workspace=ws.root,
        inventory=None if inventory is None else inventory.folder / "landslides.gpkg",
        report=None if inventory is None else inventory.folder / "report.html",
        n_landslides=n_landslides,
        mapped_km2=round(mapped_km2, 3),
        seconds=round(seconds, 2),
        inference_seconds=round(sum(inference_seconds(ws, d) for d in detections), 2),
        windows={s: sum(d.meta["windows"][s] for d in detections) for s in WINDOW_STATES},
        reused={"artefacts": sum(a.reused for a in stages), "of": len(stages)},
    )


def _above_threshold(ws: Workspace, detections: Artefact) -> int:
    threshold = operating_threshold(InventoryConfig(), detections, model_card(ws, detections))
    instances = load_instances(detections.folder / "instances.npz")
    return sum(i.score >= threshold for i in instances)


def _mapped_km2(cube: Artefact) -> float:
    a, _, _, _, e, _ = cube.meta["grid"]["transform"]
    return float(cube.meta["counts"]["valid"] * abs(a * e) / 1e6)


def run_timed(workspace: Path, infer: Callable[[], list[Artefact]]) -> Summary:
    """Run inference alone and summarise it.

    Parameters
    ----------
    workspace : Path
        Folder of the region.
    infer : callable
        Returns the detections.

    Returns
    -------
    Summary
        Without inventory and report.
    """
    start = time.monotonic()
    detections = infer()
    return summarise(Workspace(workspace), None, detections, time.monotonic() - start)


def read_metrics(evaluation: Artefact) -> dict[str, Any]:
    """Metrics of a published evaluation.

    Parameters
    ----------
    evaluation : Artefact
        Of stage ``evaluation``.

    Returns
    -------
    dict
        Content of its ``metrics.json``.
    """
    found: dict[str, Any] = json.loads((evaluation.folder / "metrics.json").read_text())
    return found

"""Flow `demo`: simulate a region, map it with the released weights, compare with the truth."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow

from components.config import Config
from flows.inference import infer
from flows.ingest import ingest
from flows.inventory import evaluate, inventory
from flows.simulate import simulate
from flows.summary import Summary, read_metrics, summarise
from flows.tasks import open_workspace

#: Settings of the demo, as for ``--set``; everything else is the default.
DEMO = (
    "simulate.seed=7",
    "simulate.height=2048",
    "simulate.width=2048",
    "simulate.resolution_m=25",
    "simulate.periods=2",
    # no part of the region was trained on
    "evaluate.area=all",
)


@dataclass(frozen=True)
class DemoResult:
    """Summary of the run and its metrics against the simulated truth.

    Parameters
    ----------
    summary : Summary
        As `run` returns it.
    metrics : dict
        Content of ``metrics.json``: model and baseline on the whole region.
    """

    summary: Summary
    metrics: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON form: the summary's keys and ``metrics``.

        Returns
        -------
        dict
        """
        return {**self.summary.as_json(), "metrics": self.metrics}


@flow(name="demo")
def demo(workspace: Path, config: Config = Config()) -> DemoResult:
    """Simulate a region, map it and compare with the truth.

    Args:
        workspace: Folder of the region.
        config: All sections.
    """
    start = time.monotonic()
    truth = simulate(workspace / "simulated", config)
    reference = config.evaluate.model_copy(update={"labels": truth.labels})
    config = config.model_copy(update={"evaluate": reference})
    ingest(workspace, list(truth.products), config)
    detections = infer(workspace, config)
    metrics = read_metrics(evaluate(workspace, config))
    result = inventory(workspace, config)
    seconds = time.monotonic() - start
    return DemoResult(summarise(open_workspace(workspace), result, detections, seconds), metrics)

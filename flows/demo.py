"""Flow `demo`: simulate a region, run the whole chain on it, compare with the truth."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefect import flow

from components.config import Config
from components.workspace import read_artefact
from flows.pipeline import run
from flows.simulate import simulate
from flows.summary import Summary, read_metrics
from flows.tasks import open_workspace

#: Settings of the demo, as for ``--set``; everything else is the default.
DEMO = (
    "simulate.seed=7",
    "simulate.height=2048",
    "simulate.width=2048",
    "simulate.resolution_m=25",
    "simulate.periods=2",
    # denser than nature: the small model sees enough landslides in the minutes that it has
    "simulate.landslides_per_1000km2=500",
    "train.model=demo",
    "train.epochs=20",
    "train.batch_size=8",
    "train.crop=128",
    "train.learning_rate=0.002",
    "train.warmup_steps=20",
    "train.ema_decay=0.98",
    "train.validate_every=4",
)


@dataclass(frozen=True)
class DemoResult:
    """Summary of the run and its metrics against the simulated truth.

    Parameters
    ----------
    summary : Summary
        As `run` returns it.
    metrics : dict
        Content of ``metrics.json``: model and baseline on held-out blocks.
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
    """Simulate a region, train, map it and compare with the truth.

    Args:
        workspace: Folder of the region.
        config: All sections.
    """
    start = time.monotonic()
    truth = simulate(workspace / "simulated", config)
    labelled = config.model_copy(
        update={"dataset": config.dataset.model_copy(update={"labels": truth.labels})}
    )
    summary = run(workspace, list(truth.products), labelled)
    evaluation = read_artefact(open_workspace(workspace).place("evaluation"))
    metrics = {} if evaluation is None else read_metrics(evaluation)
    return DemoResult(replace(summary, seconds=round(time.monotonic() - start, 2)), metrics)

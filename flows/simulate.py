"""Flow `simulate`: a region with exact truth, written as HyP3 products."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from components.config import Config
from components.simulation.region import SimulationResult, simulate_region
from flows.progress import report


@flow(name="simulate")
def simulate(out: Path, config: Config = Config()) -> SimulationResult:
    """Simulate a mountain region with moving slopes.

    Args:
        out: Folder for products, labels and truth.
        config: Section `simulate` is used.
    """
    return simulate_region(out, config.simulate, report)

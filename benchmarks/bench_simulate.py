"""Time and memory of a simulated region on disk.

Usage: ``python benchmarks/bench_simulate.py [SIDE_PX] [PERIODS]`` (default 2048 and 2).
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from components.config import SimulateConfig
from components.simulation.region import MANIFEST, simulate_region


def main(side: int, periods: int) -> None:
    cfg = SimulateConfig(height=side, width=side, periods=periods)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "region"
        cpu = time.process_time()
        result = simulate_region(out, cfg)
        cpu = time.process_time() - cpu
        facts = json.loads((out / MANIFEST).read_text())
        megabytes = sum(facts["files"].values()) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    km2 = side * side * cfg.resolution_m**2 / 1e6
    print(f"{side} x {side} px ({km2:.0f} km2), {periods} period(s), {megabytes:.0f} MB written")
    print(f"wall {result.seconds:.1f} s, processor {cpu:.1f} s, peak memory {peak:.2f} GB")
    print(f"landslides {facts['landslides']}, labels {facts['labels']}")
    print(f"anomalies {facts['anomalies']}")


if __name__ == "__main__":
    numbers = [int(x) for x in sys.argv[1:]]
    main(*(numbers + [2048, 2][len(numbers) :]))

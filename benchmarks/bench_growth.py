"""Time and peak memory of mapping against the size of the map: time must grow with it, memory must not.

Each map is mapped in its own process, so that peak memory is its own (model included). Maps are one
simulated region repeated (see `maps.py`), so that every km² holds the same work; a small map has a few
more windows a km², because its last windows overlap more, so the ratios are of time per window that was
run. Processor time is given beside wall time: on a busy machine it is the truer measure.

    python benchmarks/bench_growth.py --weights model.safetensors --sides 2048 8192
    python benchmarks/bench_growth.py --weights model.safetensors --sides 2048 8192 32768 --every 2

With ``--every 2`` a quarter of each map holds data; windows without any are planned, read and skipped, so
that 32,768 px a side (671,000 km²) take a quarter of their time. ``--quiet-sigma`` also skips windows
in which nothing stands out.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import maps
import process

from components.config import InferConfig
from components.inference import predict  # noqa: F401 - loads torch, which is not part of mapping
from components.inference.run import infer_cube
from components.workspace import Workspace


def map_once(task: dict[str, Any]) -> dict[str, Any]:
    """Map one workspace's cube anew; time, windows and landslides."""
    ws = Workspace(Path(task["workspace"]))
    cube, km2 = maps.cube_and_km2(ws, task.get("every", 1))
    start_mib = process.peak_mib()
    before = time.process_time()
    begin = time.perf_counter()
    with ws.lock():
        found = infer_cube(ws, cube, Path(task["weights"]), InferConfig(**task["config"]))
    seconds, cpu = time.perf_counter() - begin, time.process_time() - before
    if found.reused:
        raise SystemExit("an earlier run's result was found: use another --keep")
    return {
        "km2": km2,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "windows": found.meta["windows"],
        "landslides": found.meta["n_instances"],
        "start_mib": start_mib,
        "peak_mib": process.peak_mib(),
    }


def forget(ws: Workspace) -> None:
    """Remove what an earlier mapping of this workspace left."""
    for name in ("work", "detections"):
        shutil.rmtree(ws.root / name, ignore_errors=True)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All sizes, and the ratios of the largest to the smallest."""
    base = maps.base_workspace(folder, args.base)
    config = {
        "window": args.window, "overlap": args.overlap, "quiet_sigma": args.quiet_sigma,
        "score_min": 0.3, "device": args.device, "precision": args.precision,
    }  # fmt: skip
    rows = []
    print(f"{'side px':>8} {'km²':>8} {'s':>8} {'km²/s':>7} {'cpu s/1000 km²':>15} ", end="")
    print(f"{'windows':>8} {'skipped':>8} {'landslides':>10} {'peak MiB':>9}")
    for side in args.sides:
        ws = maps.repeated(base, folder, side, args.every)
        forget(ws)
        task = {
            "workspace": str(ws.root), "weights": str(args.weights.resolve()), "config": config,
            "every": args.every,
        }  # fmt: skip
        r = process.in_process(Path(__file__).resolve(), task)
        rows.append({"side": side, **r})
        w = r["windows"]
        print(
            f"{side:>8} {r['km2']:>8.0f} {r['seconds']:>8.1f} {r['km2'] / r['seconds']:>7.1f} "
            f"{r['cpu_seconds'] / r['km2'] * 1e3:>15.2f} {w['total']:>8} {w['skipped']:>8} "
            f"{r['landslides']:>10} {r['peak_mib']:>9.0f}",
            flush=True,
        )
    low, high = rows[0], rows[-1]
    cpu = [r["cpu_seconds"] / r["windows"]["done"] for r in (low, high)]
    wall = [r["seconds"] / r["windows"]["done"] for r in (low, high)]
    return {
        "rows": rows,
        "ratios": {
            "growth_cpu_per_window": cpu[1] / cpu[0],
            "growth_wall_per_window": wall[1] / wall[0],
            "growth_memory": high["peak_mib"] / low["peak_mib"],
        },
    }


def main() -> None:
    default = InferConfig()
    parser = maps.common_arguments(__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--every", type=int, default=1, help="1/every² of the map holds data")
    parser.add_argument("--window", type=int, default=default.window)
    parser.add_argument("--overlap", type=float, default=default.overlap)
    parser.add_argument("--quiet-sigma", type=float, default=0.0, help="0: every window is run")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default=default.precision, help="as infer.precision")
    args = parser.parse_args()
    maps.run(args, map_once, measure)


if __name__ == "__main__":
    main()

"""Seconds and memory of the stitcher alone: a stream of windows with soft, noisy detections.

Run: ``python benchmarks/bench_stitch.py``. Each case is a process of its own, so that its peak memory
is its own. Landslides are ellipses with a median length of 12 px and a heavy tail; each window sees
them with its own noise. The time to draw them is not counted.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from components.grid.windows import Window, plan_windows
from components.inference.instance_file import InstanceWriter
from components.inference.instances import Detection
from components.inference.stitch import Stitcher

#: Map side [px], detections to reach.
CASES = ((4096, 10_000), (4096, 100_000), (8192, 100_000), (16_384, 1_000_000), (32_768, 1_000_000))

WINDOW, OVERLAP = 256, 0.33

#: Detections a landslide at this overlap, about: sets how many landslides are drawn.
LOOKS = 2.4


def stream(side: int, n: int, seed: int = 0) -> Iterator[tuple[int, list[Detection]]]:
    """Windows in reading order with their detections; a strip of the map is in memory at a time."""
    windows = plan_windows((side, side), WINDOW, OVERLAP)
    columns = sorted({w.col for w in windows})
    per_strip = n / LOOKS / (side / WINDOW)
    strips: dict[int, list[tuple[int, int, np.ndarray]]] = {}
    rng = np.random.default_rng(seed)
    number = 0
    for row in sorted({w.row for w in windows}):
        end = row + WINDOW
        for s in range(max(0, row // WINDOW - 1), min(end // WINDOW + 2, -(-side // WINDOW))):
            if s not in strips:
                strips[s] = draw(side, s * WINDOW, per_strip, seed, s)
        strips = {s: v for s, v in strips.items() if s >= row // WINDOW - 1}
        found: dict[int, list[Detection]] = {k: [] for k in range(number, number + len(columns))}
        for r0, c0, level in (o for v in strips.values() for o in v):
            a, b = max(r0, row), min(r0 + level.shape[0], end)
            if a >= b:
                continue
            low = np.searchsorted(columns, c0 - WINDOW, side="right")
            high = np.searchsorted(columns, c0 + level.shape[1], side="left")
            for k in range(int(low), int(high)):
                c, d = max(c0, columns[k]), min(c0 + level.shape[1], columns[k] + WINDOW)
                seen = level[a - r0 : b - r0, c - c0 : d - c0]
                prob = np.clip(seen + rng.normal(0, 0.05), 0, 1).astype(np.float32)
                if prob.size and prob.max() >= 0.5:
                    score = float(rng.uniform(0.3, 1))
                    found[number + k].append(Detection(number + k, 1, score, a, c, prob))
        yield from found.items()
        number += len(columns)


def draw(side: int, top: int, count: float, seed: int, strip: int) -> list[tuple]:
    """Ellipses whose centres lie in a strip: first row, first column, probability without noise."""
    rng = np.random.default_rng((seed, strip))
    out = []
    for _ in range(rng.poisson(count)):
        long = float(np.clip(rng.lognormal(1.8, 0.5), 2, 120))
        short, theta = long * rng.uniform(0.3, 1), rng.uniform(0, np.pi)
        cy, cx = rng.uniform(top, min(top + WINDOW, side)), rng.uniform(0, side)
        c, s = np.cos(theta), np.sin(theta)
        tall, wide = 1.5 * np.hypot(long * c, short * s), 1.5 * np.hypot(long * s, short * c)
        r0, r1 = max(0, int(cy - tall)), min(side, int(cy + tall) + 1)
        c0, c1 = max(0, int(cx - wide)), min(side, int(cx + wide) + 1)
        y, x = np.ogrid[r0:r1, c0:c1]
        u, v = (y - cy) * c + (x - cx) * s, (x - cx) * c - (y - cy) * s
        level = 1.5 - np.sqrt((u / long) ** 2 + (v / short) ** 2)
        out.append((r0, c0, level.astype(np.float32)))
    return out


def case(side: int, n: int) -> dict[str, float]:
    windows: dict[int, Window] = dict(enumerate(plan_windows((side, side), WINDOW, OVERLAP)))
    seconds = writing = cpu = 0.0
    pixels = 0
    with tempfile.TemporaryDirectory() as folder:
        begin, cpu_begin = time.perf_counter(), time.process_time()
        stitcher = Stitcher(windows, (side, side))
        seconds += time.perf_counter() - begin
        cpu += time.process_time() - cpu_begin
        with InstanceWriter(Path(folder) / "instances.npz") as writer:
            for i, found in stream(side, n):
                pixels += sum(d.prob.size for d in found)
                begin, cpu_begin = time.perf_counter(), time.process_time()
                done = list(stitcher.add(i, found))
                seconds += time.perf_counter() - begin
                cpu += time.process_time() - cpu_begin
                begin = time.perf_counter()
                writer.extend(done)
                writing += time.perf_counter() - begin
            begin, cpu_begin = time.perf_counter(), time.process_time()
            done = list(stitcher.finish())
            seconds += time.perf_counter() - begin
            cpu += time.process_time() - cpu_begin
            begin = time.perf_counter()
            writer.extend(done)
        writing += time.perf_counter() - begin
    counts = stitcher.counts
    return {
        "side": side,
        "windows": len(windows),
        "detections": counts.detections,
        "pixels": pixels / max(counts.detections, 1),
        "landslides": counts.instances,
        "seconds": seconds,
        "cpu": cpu,
        "writing": writing,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=100_000, help="leave out larger cases")
    parser.add_argument(
        "--case", type=int, nargs=2, metavar=("SIDE", "N"), help="one case, as JSON"
    )
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(case(*arguments.case)))
        return
    print(
        f"{'map':>6} {'windows':>8} {'detections':>11} {'px each':>8} {'landslides':>11} {'s':>7} "
        f"{'CPU s':>7} {'1/s':>7} {'file s':>7} {'MiB':>6}"
    )
    for side, n in CASES:
        if n > arguments.largest:
            continue
        command = [sys.executable, __file__, "--case", str(side), str(n)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        r = json.loads(done.stdout)
        print(
            f"{side:>6} {r['windows']:>8} {r['detections']:>11} {r['pixels']:>8.0f} "
            f"{r['landslides']:>11} {r['seconds']:>7.2f} {r['cpu']:>7.2f} "
            f"{r['detections'] / r['seconds']:>7.0f} {r['writing']:>7.2f} {r['peak_mib']:>6.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""Seconds of the stitcher alone: synthetic landslides, cut by windows, with soft noisy masks.

Run: ``python benchmarks/bench_stitch.py``. One line a case: map, windows, detections, landslides, seconds,
detections a second.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from components.grid.windows import Window, plan_windows
from components.inference.instances import Detection
from components.inference.stitch import stitch_counted

#: Map side [px], detections to reach.
CASES = ((2048, 1_000), (2048, 10_000), (8192, 1_000), (8192, 10_000), (8192, 100_000))


def scene(
    side: int, n_detections: int, *, window: int = 256, overlap: float = 0.33, seed: int = 0
) -> tuple[list[Detection], dict[int, Window]]:
    """Detections of random ellipses; each window sees them with its own probability noise.

    Parameters
    ----------
    side : int
        Map side [px].
    n_detections : int
        Number to reach.
    window, overlap, seed
        Windows and random numbers.

    Returns
    -------
    detections : list of Detection
        In window order of each object.
    windows : dict of int to Window
    """
    rng = np.random.default_rng(seed)
    windows = dict(enumerate(plan_windows((side, side), window, overlap)))
    index: dict[tuple[int, int], list[int]] = {}
    for i, w in windows.items():
        for r in range(w.row // window, (w.row_end - 1) // window + 1):
            for c in range(w.col // window, (w.col_end - 1) // window + 1):
                index.setdefault((r, c), []).append(i)
    out: list[Detection] = []
    while len(out) < n_detections:
        long = float(np.clip(rng.lognormal(2.3, 0.6), 2, 200))  # heavy-tailed, as landslides are
        short = long * rng.uniform(0.3, 1)
        theta, cy, cx = rng.uniform(0, np.pi), rng.uniform(0, side), rng.uniform(0, side)
        r0, r1 = max(0, int(cy - long)), min(side, int(cy + long) + 1)
        c0, c1 = max(0, int(cx - long)), min(side, int(cx + long) + 1)
        y, x = np.mgrid[r0:r1, c0:c1]
        u = (y - cy) * np.cos(theta) + (x - cx) * np.sin(theta)
        v = (x - cx) * np.cos(theta) - (y - cy) * np.sin(theta)
        level = 1.5 - np.hypot(u / long, v / short)
        cells = {
            i
            for r in range(r0 // window, (r1 - 1) // window + 1)
            for c in range(c0 // window, (c1 - 1) // window + 1)
            for i in index[(r, c)]
        }
        for i in sorted(cells):
            part = windows[i].intersect(Window(r0, c0, r1 - r0, c1 - c0))
            if part is None:
                continue
            seen = level[part.row - r0 : part.row_end - r0, part.col - c0 : part.col_end - c0]
            prob = np.clip(seen + rng.normal(0, 0.05), 0, 1).astype(np.float32)
            if (prob >= 0.5).any():
                out.append(Detection(i, 1, float(rng.uniform(0.3, 1)), part.row, part.col, prob))
    return out[:n_detections], windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=10_000, help="leave out larger cases")
    largest = parser.parse_args().largest
    print(f"{'map':>6} {'windows':>8} {'detections':>11} {'landslides':>11} {'s':>8} {'1/s':>9}")
    for side, n in CASES:
        if n > largest:
            continue
        detections, windows = scene(side, n)
        begin = time.perf_counter()
        found = stitch_counted(detections, windows, (side, side))
        seconds = time.perf_counter() - begin
        print(
            f"{side:>6} {len(windows):>8} {n:>11} {len(found.instances):>11} {seconds:>8.2f} "
            f"{n / seconds:>9.0f}"
        )


if __name__ == "__main__":
    main()

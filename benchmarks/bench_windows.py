"""The same map at several window sizes, and whether the inventories agree.

Maps a simulated region with given weights once for each window side, and matches the landslides above the
operating threshold between the first side and each other. Prints one JSON object a side: landslides, shares
matched at IoU 0.5 and at the bar of 0.95, and the IoU of matched landslides and of the whole maps.

    python benchmarks/bench_windows.py --weights model.safetensors --windows 512 256 128
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_infer import base_workspace, mirrored

from components.config import InferConfig
from components.config_file import load_config
from components.cube.read import list_cubes
from components.inference.instance_file import load_instances
from components.inference.instances import Instance
from components.inference.predict import read_card
from components.inference.run import INSTANCES, infer_cube
from components.workspace import Workspace

#: Two landslides within this IoU are the same.
BAR = 0.95


def landslides(
    ws: Workspace, weights: Path, cfg: InferConfig, threshold: float, min_pixels: int
) -> list[Instance]:
    """What an inventory would list."""
    (cube,) = list_cubes(ws)
    found = infer_cube(ws, cube, weights, cfg)
    every = load_instances(found.folder / INSTANCES)
    return [i for i in every if i.score >= threshold and i.area_px >= min_pixels]


def iou(a: Instance, b: Instance) -> float:
    """Intersection over union of two masks [px]."""
    r0, r1 = max(a.bounds[0], b.bounds[0]), min(a.bounds[2], b.bounds[2])
    c0, c1 = max(a.bounds[1], b.bounds[1]), min(a.bounds[3], b.bounds[3])
    if r0 >= r1 or c0 >= c1:
        return 0.0
    common = (
        a.mask[r0 - a.row : r1 - a.row, c0 - a.col : c1 - a.col]
        & b.mask[r0 - b.row : r1 - b.row, c0 - b.col : c1 - b.col]
    ).sum()
    return float(common / (a.area_px + b.area_px - common))


def compare(a: Sequence[Instance], b: Sequence[Instance], side: int) -> dict[str, Any]:
    """Agreement of two inventories, matched one to one from the best IoU down."""
    pairs = sorted(
        ((v, i, k) for i, x in enumerate(a) for k, y in enumerate(b) if (v := iou(x, y)) > 0),
        reverse=True,
    )
    left: set[int] = set()
    right: set[int] = set()
    matched = []
    for v, i, k in pairs:
        if i not in left and k not in right:
            left.add(i)
            right.add(k)
            matched.append(v)
    both = (len(a) + len(b)) / 2 or 1
    drawn = np.zeros((2, side, side), bool)
    for layer, inventory in zip(drawn, (a, b), strict=True):
        for x in inventory:
            layer[x.row : x.bounds[2], x.col : x.bounds[3]] |= x.mask
    union = (drawn[0] | drawn[1]).sum()
    return {
        "landslides": len(b),
        "matched_at_0.5": sum(v >= 0.5 for v in matched) / both,
        f"matched_at_{BAR}": sum(v >= BAR for v in matched) / both,
        "iou_of_matched": float(np.mean([v for v in matched if v >= 0.5] or [0.0])),
        "iou_of_maps": float((drawn[0] & drawn[1]).sum() / union) if union else 1.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--windows", type=int, nargs="+", default=[512, 256, 128])
    parser.add_argument(
        "--overlap-px", type=int, default=102, help="shared ground [px], at most half"
    )
    parser.add_argument("--side", type=int, default=1536, help="side of the map [px]")
    parser.add_argument("--min-pixels", type=int, default=12)
    parser.add_argument("--keep", type=Path, help="folder for the map, used again by a next run")
    args = parser.parse_args()
    threshold = float(read_card(args.weights)["score_threshold"])
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.keep or Path(scratch)).resolve()
        ws = mirrored(base_workspace(folder, load_config(None)), folder, args.side)
        first: list[Instance] | None = None
        for window in args.windows:
            overlap = min(args.overlap_px / window, 0.5)
            cfg = InferConfig(window=window, overlap=overlap, device="cpu")
            found = landslides(ws, args.weights, cfg, threshold, args.min_pixels)
            first = found if first is None else first
            report = {"window": window, "overlap": round(overlap, 3)}
            print(json.dumps({**report, **compare(first, found, args.side)}), flush=True)


if __name__ == "__main__":
    main()

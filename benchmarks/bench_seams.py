"""Does the inventory know about the windows? The stitched map against one pass over the whole image.

For each window and overlap the cube is mapped and stitched, and compared with a single window as large
as the map; then the windows of each overlap are compared with each other. Figures:

* F1 at IoU 0.9 of the landslides above the operating score. A landslide whose score lies near it can
  be in one inventory and not in the other, without any seam; `F1 any` therefore also looks among the other
  map's landslides below the operating score.
* share of the landslides of both maps that have a partner of IoU 0.95;
* IoU of the two inventories as areas.

    python benchmarks/bench_seams.py --weights model.safetensors --base 1024
    python benchmarks/bench_seams.py --weights model.safetensors --workspace jinsha
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import maps
import numpy as np

from components.config import InferConfig
from components.cube.read import cube_info, list_cubes
from components.evaluation.footprints import Footprint, overlaps
from components.evaluation.objects import match
from components.inference.instance_file import load_instances
from components.inference.predict import read_card
from components.inference.run import INSTANCES, infer_cube
from components.workspace import Workspace

#: Detections a 256-px window at most; a larger one may hold more in proportion.
DETECTIONS: Final = 200

#: Smallest landslide of an inventory [px].
MIN_PIXELS: Final = 12


def mapped(ws: Workspace, weights: Path, window: int, overlap: float) -> list[Footprint]:
    """Landslides of the workspace's first cube, every window run."""
    cube = list_cubes(ws)[0]
    cfg = InferConfig(
        window=window, overlap=overlap, quiet_sigma=0.0, device="cpu",
        max_detections=DETECTIONS * max(1, window // 256) ** 2,
    )  # fmt: skip
    with ws.lock():
        found = infer_cube(ws, cube, weights, cfg)
    if found.meta["windows"]["capped"]:
        print(
            f"window {window}: {found.meta['windows']['capped']} windows at their most detections"
        )
    instances = load_instances(found.folder / INSTANCES)
    return [Footprint(i.row, i.col, i.mask, i.score) for i in instances if i.area_px >= MIN_PIXELS]


def compared(
    a: Sequence[Footprint], b: Sequence[Footprint], threshold: float, shape: tuple[int, int]
) -> dict[str, float]:
    """How far two maps of the same ground are one."""
    high_a, high_b = ([f for f in m if f.score >= threshold] for m in (a, b))
    total = len(high_a) + len(high_b)
    if not total:
        return {}

    def hits(x: Sequence[Footprint], y: Sequence[Footprint], iou: float) -> int:
        return int(np.count_nonzero(match(x, y, overlaps(x, y), iou).reference >= 0))

    area_a, area_b = painted(high_a, shape), painted(high_b, shape)
    return {
        "landslides": len(high_a),
        "others": len(high_b),
        "f1_iou90": 2 * hits(high_a, high_b, 0.9) / total,
        "f1_iou50": 2 * hits(high_a, high_b, 0.5) / total,
        "f1_any_iou90": (hits(high_a, b, 0.9) + hits(high_b, a, 0.9)) / total,
        "share_iou95": (hits(high_a, b, 0.95) + hits(high_b, a, 0.95)) / total,
        "area_iou": float(np.count_nonzero(area_a & area_b) / np.count_nonzero(area_a | area_b)),
    }


def painted(footprints: Sequence[Footprint], shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Where the landslides are."""
    out = np.zeros(shape, bool)
    for f in footprints:
        height, width = f.mask.shape
        out[f.row : f.row + height, f.col : f.col + width] |= f.mask
    return out


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Every window and overlap against the whole pass, then windows against each other."""
    ws = Workspace(args.workspace) if args.workspace else maps.base_workspace(folder, args.base)
    shape = cube_info(list_cubes(ws)[0]).shape
    weights = args.weights.resolve()
    threshold = args.score
    if threshold is None:
        threshold = float(read_card(weights).get("score_threshold") or 0.5)
    whole = mapped(ws, weights, max(shape), 0.33)
    print(
        f"map {shape[0]} x {shape[1]} px, operating score {threshold:g}; one pass over the whole:"
    )
    print(f"{sum(f.score >= threshold for f in whole)} landslides")
    header = (
        f"{'n':>6} {'other':>6} {'F1 .9':>6} {'F1 .5':>6} {'any .9':>7} {'>.95':>6} {'area':>6}"
    )
    print(f"{'window':>9} {'overlap':>8} {header}")
    rows, kept = [], {}
    for overlap, window in itertools.product(args.overlaps, args.windows):
        kept[window, overlap] = mapped(ws, weights, window, overlap)
        facts = compared(kept[window, overlap], whole, threshold, shape)
        rows.append({"window": window, "overlap": overlap, "against": "whole", **facts})
        print(f"{window:>9} {overlap:>8.2f} {line(facts)}", flush=True)
    for overlap in args.overlaps:
        for a, b in itertools.combinations(args.windows, 2):
            facts = compared(kept[a, overlap], kept[b, overlap], threshold, shape)
            rows.append({"window": a, "overlap": overlap, "against": b, **facts})
            print(f"{f'{a}~{b}':>9} {overlap:>8.2f} {line(facts)}", flush=True)
    against = [r for r in rows if r["against"] == "whole"]
    return {
        "map": shape,
        "score": threshold,
        "rows": rows,
        "ratios": {
            "seams_f1_iou90": min(r.get("f1_iou90", 0.0) for r in against),
            "seams_area_iou": min(r.get("area_iou", 0.0) for r in against),
        },
    }


def line(facts: dict[str, float]) -> str:
    """A row of the table."""
    if not facts:
        return "     0      0"
    return (
        f"{facts['landslides']:>6.0f} {facts['others']:>6.0f} {facts['f1_iou90']:>6.3f} "
        f"{facts['f1_iou50']:>6.3f} {facts['f1_any_iou90']:>7.3f} {facts['share_iou95']:>6.3f} "
        f"{facts['area_iou']:>6.3f}"
    )


def main() -> None:
    parser = maps.common_arguments(__doc__)
    parser.add_argument("--workspace", type=Path, help="map its first cube instead")
    parser.add_argument("--windows", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--overlaps", type=float, nargs="+", default=[0.2, 0.33, 0.5])
    parser.add_argument("--score", type=float, help="operating score; default: the card's")
    parser.set_defaults(base=1024)
    args = parser.parse_args()
    maps.run(args, lambda _: {}, measure)


if __name__ == "__main__":
    main()

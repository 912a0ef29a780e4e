"""Does it pay to look at every window four times? `infer.augment: none` and `flips` against exact truth.

Simulates a region, maps it with both, and matches the landslides with the interpreters' polygons at IoU 0.5.
Prints one JSON object a setting: object figures at the operating threshold of the card, the best F1 over
thresholds (means over looks move the scores, and the card's threshold was found without), and seconds of
processor time.

    python benchmarks/bench_looks.py --weights models/released/slopewatch-s2.safetensors --keep maps
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from bench_infer import base_workspace

from components.config import DatasetConfig, InferConfig
from components.config_file import load_config
from components.cube.read import cube_info, list_cubes, read_layers
from components.dataset.labels import read_labels
from components.evaluation.footprints import Footprint, overlaps
from components.evaluation.objects import count_objects, match, object_metrics
from components.evaluation.references import reference_objects
from components.grid.windows import Window
from components.inference.instance_file import load_instances
from components.inference.instances import Instance
from components.inference.predict import read_card
from components.inference.run import INSTANCES, infer_cube
from components.workspace import Workspace

#: Smallest landslide that counts [px], as on the benchmark `sim-v1`.
MIN_PIXELS = 25


def references_of(ws: Workspace, labels: Path) -> tuple[list[Footprint], float]:
    """Reference landslides of the map, and its observable ground [km²]."""
    (cube,) = list_cubes(ws)
    info = cube_info(cube)
    layers = read_layers(ws, info.track, info.period, ("valid",), Window(0, 0, *info.shape))
    frame = read_labels(labels, DatasetConfig(), info.geobox).frame
    made = reference_objects(
        frame, info.geobox, layers["valid"], info.track, info.period, min_pixels=MIN_PIXELS
    )
    return made.footprints, float(layers["valid"].sum()) * info.pixel_size_m**2 * 1e-6


def figures(
    instances: Sequence[Instance], references: Sequence[Footprint], km2: float, threshold: float
) -> dict[str, Any]:
    """Object figures at a threshold, and the best F1 over thresholds."""
    found = [Footprint(i.row, i.col, i.mask, i.score) for i in instances if i.area_px >= MIN_PIXELS]
    matching = match(found, references, overlaps(found, references), 0.5)

    def at(score: float) -> dict[str, Any]:
        counts = count_objects(found, references, matching, score_min=score)
        return object_metrics(counts.total, km2)

    best = max(np.arange(0.1, 0.9, 0.02), key=lambda s: (at(s)["f1"] or 0.0, -s))
    names = ("n_reference", "tp", "fp", "precision", "recall", "f1", "mean_matched_iou")
    return {
        **{n: at(threshold)[n] for n in names},
        "best_f1": at(best)["f1"],
        "best_score": round(float(best), 2),
        "matched_iou_there": at(best)["mean_matched_iou"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--keep", type=Path, help="folder for the map, used again by a next run")
    args = parser.parse_args()
    threshold = float(read_card(args.weights)["score_threshold"])
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.keep or Path(scratch)).resolve()
        ws = base_workspace(folder, load_config(None))
        references, km2 = references_of(ws, folder / "simulated" / "labels.gpkg")
        (cube,) = list_cubes(ws)
        looks: tuple[Literal["none", "flips"], ...] = ("none", "flips")
        for augment in looks:
            cfg = InferConfig(window=args.window, augment=augment, device="cpu")
            cpu = time.process_time()
            done = infer_cube(ws, cube, args.weights, cfg)
            cpu = time.process_time() - cpu
            report = {
                "augment": augment,
                "cpu_s": round(cpu, 1),
                "faint": done.meta["windows"]["faint"],
            }
            found = figures(load_instances(done.folder / INSTANCES), references, km2, threshold)
            print(json.dumps({**report, **found}), flush=True)


if __name__ == "__main__":
    main()

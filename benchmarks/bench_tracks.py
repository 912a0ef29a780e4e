r"""What does a second track bring? False alarms with and without the look of another line of sight.

Simulates regions with an ascending and a descending track over one period, maps both, asks of every landslide
what both tracks see of its motion (`components.inventory.tracks`), and compares each map with the truth:
all landslides above the operating threshold, those that do not move vertically, and stricter choices. Regions
are of reserved seeds, so that no training has seen them; one holds no landslide.

    python benchmarks/bench_tracks.py --weights models/released/slopewatch-s2.safetensors --keep tracks \
        --json docs/experiments/two-tracks.json
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from components.config import Config, InferConfig, InventoryConfig, SimulateConfig
from components.cube.ingest import ingest_products
from components.cube.read import cube_info, list_cubes, read_layers
from components.cube.region import region_geobox
from components.evaluation import figures_of_merit as merit
from components.evaluation.compare import write_experiment
from components.evaluation.experiments import Column, Experiment
from components.evaluation.intervals import COVERAGE, DRAWS, SEED, draw_weights, interval
from components.evaluation.objects import UNMATCHED
from components.evaluation.scores import Scores, pool, score_simulated
from components.evaluation.simtruth import Truth, read_truth
from components.grid import Window, geobox_to_dict
from components.inference.predict import read_card
from components.inference.run import infer_cube
from components.inventory.rows import MapWork, ask_other_tracks, prepare
from components.inventory.tracks import CrossTrack
from components.products.registry import discover
from components.progress import no_progress
from components.simulation.region import ALGORITHM, simulate_region
from components.training.tiletest import machine
from components.workspace import Workspace

#: Reserved seeds, and landslides per 1,000 km² of slopes, as on `sim-v1`.
REGIONS = ((900_301, 350.0), (900_302, 350.0), (900_303, 0.0))

FIGURES = ("iou50.f1", "iou50.precision", "iou50.recall", "iou50.fp_per_1000km2")


#: Score from which on the first rows keep landslides: more likely one than not.
LIKELY = 0.5

#: What the rows of the table keep: label → of what other tracks say, and whether the operating threshold is
#: reached. The first keeps all.
KEPT: dict[str, Callable[[CrossTrack, bool], bool]] = {
    f"each track alone, from a score of {LIKELY:g} on": lambda _, __: True,
    "vertical motion left out": lambda x, _: x.motion != "vertical",
    "the same, found on every track that sees it": lambda x, _: (
        x.motion != "vertical" and x.found > len(x.seen)
    ),
    "each track alone, from the operating threshold on": lambda _, sure: sure,
    "the same, vertical motion left out": lambda x, sure: sure and x.motion != "vertical",
}


class Scored(NamedTuple):
    """One map, scored with what each row keeps; hits and false alarms by motion."""

    rows: tuple[Scores, ...]
    motions: Counter[tuple[str, str]]


def region(folder: Path, seed: int, density: float, side: int, weights: Path) -> list[Scored]:
    """Simulate, ingest and map one region on two tracks, and score both maps."""
    cfg = Config(infer=InferConfig(weights=weights), inventory=InventoryConfig(score_min=LIKELY))
    operating = float(read_card(weights)["score_threshold"])
    simulated = simulate_region(
        folder / f"simulated-{seed}-{side}",
        SimulateConfig(
            seed=seed, height=side, width=side, periods=1, tracks=("ascending", "descending"),
            landslides_per_1000km2=density,
        ),
    )  # fmt: skip
    ws = Workspace(folder / f"region-{seed}-{side}")
    with ws.lock():
        if not list_cubes(ws):
            ingest_products(
                ws, discover(list(simulated.products), cfg.ingest), cfg.ingest, cfg.region
            )
        maps = [(c, infer_cube(ws, c, weights, cfg.infer)) for c in list_cubes(ws)]
    geobox = region_geobox(ws)
    works = [prepare(ws, d, c, cfg.inventory, geobox_to_dict(geobox)) for c, d in maps]
    keep = cfg.inventory.model_copy(update={"vertical": "keep"})
    return [
        scored(ws, work, read(ws, work, simulated.labels, simulated.truth), cfg, operating)
        for work in ask_other_tracks(works, keep, geobox, no_progress)
    ]


def read(ws: Workspace, work: MapWork, labels: Path, truth: Path) -> Truth:
    """Truth of one map."""
    info = cube_info(work.cube)
    layers = read_layers(
        ws, info.track, info.period, ("valid", "coherence"), Window(0, 0, *info.shape)
    )
    valid = layers["valid"].astype(bool)
    return read_truth(labels, truth, info.geobox, valid, layers["coherence"], info.days, info.track)


def scored(ws: Workspace, work: MapWork, truth: Truth, cfg: Config, operating: float) -> Scored:
    """Score a map with and without what moves vertically."""
    info = cube_info(work.cube)
    window = Window(0, 0, *info.shape)
    valid = read_layers(ws, info.track, info.period, ("valid",), window)["valid"].astype(bool)
    landslides = work.selection.landslides
    cross = [work.cross.get(x.id, CrossTrack()) for x in landslides]

    def score(keep: Callable[[CrossTrack, bool], bool]) -> Scores:
        found = [
            x.footprint
            for x, c in zip(landslides, cross, strict=True)
            if keep(c, x.instance.score >= operating)
        ]
        return score_simulated(
            found, truth, valid, info.pixel_size_m, score_min=work.score_min,
            min_pixels=cfg.inventory.min_pixels,
        )  # fmt: skip

    rows = tuple(score(keep) for keep in KEPT.values())
    matched = rows[0].detections.reference["iou50"]
    kinds = np.where(matched >= 0, "hit", np.where(matched == UNMATCHED, "false", "ignored"))
    motions = Counter((str(k), str(c.motion)) for k, c in zip(kinds, cross, strict=True))
    return Scored(rows, motions)


def table(maps: Sequence[Scored], empty: Sequence[Scored]) -> list[dict[str, Any]]:
    """Rows of the experiment."""
    rows: list[dict[str, Any]] = []
    for k, label in enumerate(KEPT):
        pooled, null = (pool([m.rows[k] for m in part]) for part in (maps, empty))
        row: dict[str, Any] = {"label": label}
        row["kept"] = sum(len(p.detections.score) for p in (pooled, null))
        figures = merit.statistics(pooled, draw_weights(len(pooled.km2)), None)
        row |= {name: interval(figures[name]) for name in FIGURES}
        nothing = merit.statistics(null, draw_weights(len(null.km2)), None)
        row["null"] = interval(nothing["iou50.fp_per_1000km2"])
        rows.append(row)
    return rows


def experiment(args: argparse.Namespace, done: dict[int, list[Scored]]) -> Experiment:
    """The table, in the form of docs/experiments."""
    maps = [m for seed, density in REGIONS if density for m in done[seed]]
    empty = [m for seed, density in REGIONS if not density for m in done[seed]]
    motions: Counter[tuple[str, str]] = sum((m.motions for m in maps), Counter())
    km2 = sum(float(m.rows[0].km2.sum()) for m in maps)
    references = sum(int(m.rows[0].references.counted["iou50"].sum()) for m in maps)
    card = read_card(args.weights)

    def told(kind: str) -> str:
        return ", ".join(
            f"{motion or 'not seen by the other track'} {n}"
            for (k, motion), n in sorted(motions.items(), key=lambda x: -x[1])
            if k == kind
        )

    command = ["python", "benchmarks/bench_tracks.py", *sys.argv[1:]]
    return Experiment(
        name="two-tracks", title="A second track", order=12,
        definition=(
            "What two lines of sight make of the landslides of each map: where the velocities of both "
            "tracks fit vertical motion and not motion down the slope (`motion` in docs/inventory.md), "
            "the inventory leaves a detection out. The first rows keep more than the inventory does unless "
            f"it is asked (`inventory.score_min={LIKELY:g}`); found on every track: `tracks_found` > number "
            f"of `tracks_seen`. IoU ≥ 0.5; operating threshold {card['score_threshold']:g}."
        ),
        columns=[
            Column(key="iou50.f1", label="F1"), Column(key="iou50.precision", label="precision"),
            Column(key="iou50.recall", label="recall"),
            Column(key="iou50.fp_per_1000km2", label="false alarms per 1,000 km²", digits=2),
            Column(key="null", label="the same without landslides", digits=2),
            Column(key="kept", label="landslides listed", digits=0),
        ],
        rows=table(maps, empty),
        n=f"{len(maps)} maps of {len(maps) // 2} regions, {references} references on {km2:,.0f} km²; "
        f"{len(empty)} maps without landslides",
        seeds=[seed for seed, _ in REGIONS],
        interval=f"{100 * COVERAGE:.0f}% block bootstrap, {DRAWS:,} draws, seed {SEED}",
        commands=[shlex.join(command)],
        device=f"{machine('cpu', None)['device']}, weights sha256 {card['sha256'][:12]}, {ALGORITHM}",
        notes=[f"Hits by motion: {told('hit')}.", f"False alarms by motion: {told('false')}."],
    )  # fmt: skip


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--side", type=int, default=2048, help="side of a region [px]")
    parser.add_argument(
        "--keep", type=Path, help="folder for regions and maps; else a temporary one"
    )
    parser.add_argument("--json", type=Path, help="write the table there")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        done = {s: region(folder, s, d, args.side, args.weights.resolve()) for s, d in REGIONS}
    made = experiment(args, done)
    print(made.model_dump_json(indent=1))
    if args.json:
        write_experiment(args.json, made)


if __name__ == "__main__":
    main()

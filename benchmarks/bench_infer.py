"""Speed of inference: Zarr in, stitched landslides and GeoPackage out.

Simulates a region, mirrors its cube to the size of the map, and maps it with weights: those given, or the
form with random parameters, whose scores are set so that it finds about as much as a trained one. Prints
one JSON object: km²/s of map (overlap not counted twice), windows/s, where the time goes, peak memory.
With `--before` the bare forward pass of the trained network is timed beside that of the network made ready
for maps, in turns, so that the ratio holds on a busy machine.

    python benchmarks/bench_infer.py --side 4096 --window 512 --overlap 0.2 --before
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import torch
from affine import Affine
from odc.geo.geobox import GeoBox

from components.config import Config, InferConfig
from components.config_file import load_config
from components.cube import ingest, region, track
from components.cube.ingest import ingest_products
from components.cube.read import cube_info, list_cubes
from components.cube.store import StoreWriter, chunking, create_store, open_arrays
from components.dataset.presets import CHANNELS
from components.grid import block_windows, geobox_from_dict, geobox_to_dict
from components.inference import compute, run
from components.inference.instance_file import load_instances
from components.inference.plan import make_plan
from components.inference.predict import Predictor
from components.inference.read import read_run
from components.inventory.export import fixed_dates
from components.inventory.polygons import pixel_polygon
from components.layers import LAYERS
from components.products.registry import discover
from components.simulation.region import simulate_region
from components.workspace import Artefact, Workspace, read_artefact
from models.build import build_model, detect
from models.forms import FORMS
from models.weights import load_weights, save_weights

#: Side of the simulated region that is mirrored [px].
BASE = 1024

#: The small-object form of the shipped weights.
SPEC = replace(
    FORMS["resnet18-s2"],
    depths=(1, 2, 2, 2),
    widths=(64, 128, 192, 256),
    fpn_channels=96,
    box_width=384,
    mask_layers=(96, 96),
)

#: Detections that random weights are set to find in 1,000 km² of window.
DENSITY = 300.0


def base_workspace(folder: Path, cfg: Config) -> Workspace:
    """A small region, simulated and ingested."""
    side = {"height": BASE, "width": BASE, "periods": 1, "seed": 11}
    made = simulate_region(folder / "simulated", cfg.simulate.model_copy(update=side))
    ws = Workspace(folder / "base")
    with ws.lock():
        ingest_products(ws, discover(list(made.products), cfg.ingest), cfg.ingest, cfg.region)
    return ws


def mirrored(base: Workspace, folder: Path, side: int) -> Workspace:
    """The same region, mirrored at its edges until it is large enough."""
    ws = Workspace(folder / f"map-{side}")
    (cube,) = list_cubes(base)
    name = cube.meta["track"]
    places = (
        (base.place("region"), region.STORE),
        (base.place("track", name), track.STORE),
        (cube.folder, ingest.STORE),
    )
    for place, store in places:
        artefact = read_artefact(place)
        if artefact is None:
            raise SystemExit(f"{place} is missing")
        meta = dict(artefact.meta)
        grid = geobox_from_dict(cube.meta["grid"])
        large = GeoBox((side, side), grid.affine, grid.crs)
        if "grid" in meta:
            meta["grid"] = geobox_to_dict(large)
        final = ws.root / place.relative_to(base.root)
        with ws.publish(artefact.stage, final, artefact.key, meta) as out:
            _mirror_store(place / store, out / store, large)
    return ws


def _mirror_store(source: Path, target: Path, large: GeoBox) -> None:
    arrays = open_arrays(source)
    shape = (int(large.shape[0]), int(large.shape[1]))
    sides = chunking(shape, 256, 1024)
    create_store(target, large, [LAYERS[n] for n in arrays], sides)
    writer = StoreWriter(target)
    whole = {n: np.asarray(a[:]) for n, a in arrays.items()}
    for w in block_windows(shape, sides.shard):
        flip = slice(None, None, -1) if (w.row // BASE) % 2 else slice(None)
        flop = slice(None, None, -1) if (w.col // BASE) % 2 else slice(None)
        writer.write(w, {n: a[flip, flop][: w.height, : w.width] for n, a in whole.items()})


def random_weights(path: Path, ws: Workspace, cfg: InferConfig) -> Path:
    """The form with random parameters, whose bias is set so that it finds about `DENSITY`."""
    torch.manual_seed(0)
    model = build_model(SPEC, len(CHANNELS["multi"]), 2).eval()
    facts = {
        "form": "slopewatch-s2", "classes": ["landslide"], "preset": "multi",
        "channels": list(CHANNELS["multi"]), "upsample": 1, "pixel_size_m": 25.0,
        "ground_pixel_size_m": 25.0, "score_threshold": 0.5,
    }  # fmt: skip
    predictor_head = model.roi_heads.box_predictor.cls_score
    with torch.no_grad():
        predictor_head.weight *= 5
    low, high = -20.0, 20.0
    for _ in range(7):
        with torch.no_grad():
            predictor_head.bias[1] = (low + high) / 2
        save_weights(path, model, facts)
        images, km2 = some_images(ws, path, cfg, 2)
        with Predictor(path, "cpu", cfg.max_detections, cfg.score_min) as predictor:
            found = sum(len(f) for image in images for f in predictor.predict(image[None]))
        low, high = (
            (low, (low + high) / 2) if found > DENSITY * km2 / 1e3 else ((low + high) / 2, high)
        )
    return path


def some_images(
    ws: Workspace, weights: Path, cfg: InferConfig, n: int
) -> tuple[list[np.ndarray[Any, np.dtype[np.float32]]], float]:
    """Images of windows across the map, and the ground that they cover with overlap [km²]."""
    (cube,) = list_cubes(ws)
    plan = make_plan(ws, cube, weights, cfg.model_copy(update={"quiet_sigma": 0.0}))
    ids = np.linspace(0, len(plan.windows) - 1, n).astype(int).tolist()
    ready = [r for i in ids for r in read_run(plan, [i])]
    km2 = sum(plan.windows[i].ground.height * plan.windows[i].ground.width for i in ids) * 625e-6
    return [r.image for r in ready if r.image is not None], km2


@contextmanager
def stopwatch(spent: dict[str, float]) -> Iterator[None]:
    """Add up the seconds of the parts of a run, thread by thread."""
    lock = threading.Lock()

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                with lock:
                    spent[name] += time.perf_counter() - begin

        return call

    parts = (
        (compute, "read_run", "read and render (1 thread)"),
        (Predictor, "_run", "network and pasting (all lanes)"),
        (compute, "save_shard", "shards"),
        (run, "stitch_shards", "stitch, second look and write (1 thread)"),
    )
    kept = [(place, name, getattr(place, name)) for place, name, _ in parts]
    for place, name, label in parts:
        setattr(place, name, timed(label, getattr(place, name)))
    try:
        yield
    finally:
        for place, name, function in kept:
            setattr(place, name, function)


def write_geopackage(found: Artefact, transform: Affine, crs: str, path: Path) -> int:
    """Polygons and scores of the landslides."""
    instances = load_instances(found.folder / run.INSTANCES)
    table = gpd.GeoDataFrame(
        {"score": [i.score for i in instances]},
        geometry=[pixel_polygon(i.mask, i.row, i.col, transform) for i in instances],
        crs=crs,
    )
    with fixed_dates():
        table.to_file(path, layer="landslides", driver="GPKG")
    return len(instances)


def forward_rates(
    ws: Workspace, weights: Path, cfg: InferConfig, rounds: int = 3
) -> dict[str, dict[str, float]]:
    """Windows through the network as trained, and as made ready for maps, in turns.

    As trained: windows of 256 px with a third of overlap in batches of four, autocast, one operator
    over all cores. The best of the rounds by wall time [km²/s of map] and by processor time
    [s/1,000 km²], which says more on a busy machine.
    """
    old = InferConfig(window=256, context=256, overlap=0.33)
    model, _ = load_weights(weights, max_detections=cfg.max_detections, score_min=cfg.score_min)
    few, _ = some_images(ws, weights, old, 4)
    large, _ = some_images(ws, weights, cfg, 4)
    batch = torch.from_numpy(np.stack(few))
    with Predictor(
        weights, cfg.device, cfg.max_detections, cfg.score_min, cfg.threads, None, cfg.precision
    ) as p:

        def before() -> float:
            with torch.autocast("cpu", torch.bfloat16):
                detect(model, batch)
            return len(few) * net_km2(old)

        def now() -> float:
            for future in [p.submit(image[None]) for image in large]:
                future.result()
            return len(large) * net_km2(cfg)

        best = {"before": [0.0, np.inf], "now": [0.0, np.inf]}
        for _ in range(rounds):
            for name, work in (("before", before), ("now", now)):
                wall, cpu = time.perf_counter(), time.process_time()
                km2 = work()
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                best[name] = [max(best[name][0], km2 / wall), min(best[name][1], cpu / km2 * 1e3)]
    return {
        "km2_per_s": {n: v[0] for n, v in best.items()},
        "cpu_s_per_1000_km2": {n: v[1] for n, v in best.items()},
        "ratio": {
            "wall": best["now"][0] / best["before"][0],
            "cpu": best["before"][1] / best["now"][1],
        },
    }


def net_km2(cfg: InferConfig) -> float:
    """Ground of a window that no other counts [km²]."""
    return (round(cfg.window * (1 - cfg.overlap)) * 0.025) ** 2


def main() -> None:
    default = InferConfig()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=2048, help="side of the map [px]")
    parser.add_argument("--window", type=int, default=default.window)
    parser.add_argument("--overlap", type=float, default=default.overlap)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--quiet-sigma", type=float, default=0.0, help="0: every window is run")
    parser.add_argument("--weights", type=Path, help="of preset multi at 25 m; else random")
    parser.add_argument("--before", action="store_true", help="time the trained network too")
    parser.add_argument("--keep", type=Path, help="folder for the map, used again by a next run")
    args = parser.parse_args()
    cfg = InferConfig(
        window=args.window, overlap=args.overlap, threads=args.threads, device="cpu",
        quiet_sigma=args.quiet_sigma, score_min=0.3,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.keep or Path(scratch)).resolve()
        base = base_workspace(folder, load_config(None))
        ws = mirrored(base, folder, args.side)
        weights = args.weights or random_weights(Path(scratch) / "weights.safetensors", ws, cfg)
        begin_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        report = measure(ws, weights, cfg, Path(scratch))
        report["start_mib"] = round(begin_mib)
        if args.before:
            report["forward"] = forward_rates(ws, weights, cfg)
    print(json.dumps(report, indent=1))


def measure(ws: Workspace, weights: Path, cfg: InferConfig, scratch: Path) -> dict[str, Any]:
    """Map the cube anew and say how long it took."""
    (cube,) = list_cubes(ws)
    info = cube_info(cube)
    # A new name for the same map: nothing of an earlier run is found.
    cube = replace(cube, key=f"{cube.key}-{os.getpid()}")
    spent: dict[str, float] = defaultdict(float)
    cpu = time.process_time()
    begin = time.perf_counter()
    with stopwatch(spent):
        found = run.infer_cube(ws, cube, weights, cfg)
    cpu = time.process_time() - cpu
    middle = time.perf_counter()
    n = write_geopackage(found, info.geobox.affine, str(info.geobox.crs), scratch / "out.gpkg")
    end = time.perf_counter()
    spent["GeoPackage"] = end - middle
    km2 = info.shape[0] * info.shape[1] * info.pixel_size_m**2 / 1e6
    windows = found.meta["windows"]
    return {
        "km2": km2,
        "window": cfg.window,
        "overlap": cfg.overlap,
        "weights": weights.name,
        "seconds": end - begin,
        "km2_per_s": km2 / (end - begin),
        "windows_per_s": windows["done"] / (end - begin),
        # On a busy machine this says more than the wall time.
        "cpu_s_per_1000_km2": cpu / km2 * 1e3,
        "windows": windows,
        "detections": found.meta["stitch"]["detections"],
        "landslides": n,
        "seconds_of": {k: round(v, 3) for k, v in spent.items()},
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


if __name__ == "__main__":
    main()

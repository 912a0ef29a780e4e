"""Maps of any size for the benchmarks: one simulated region, repeated by hard links to its Zarr shards.

A map of 32,768 px a side then takes the disk of a region of 2,048 px (some 0.2 GB) and a few thousand
directory entries. Repeats meet in hard edges of terrain and atmosphere; what the network finds there is
part of every map in proportion.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from odc.geo.geobox import GeoBox

from components.config_file import load_config
from components.cube import ingest, region, track
from components.cube.ingest import ingest_products
from components.cube.read import cube_info, list_cubes
from components.cube.store import Chunking, create_store, open_arrays
from components.grid import geobox_from_dict, geobox_to_dict
from components.layers import LAYERS
from components.products.registry import discover
from components.simulation.region import simulate_region
from components.workspace import Artefact, Workspace, read_artefact

#: Side of the simulated region [px].
BASE = 2048

#: Shard side of the base's stores [px]: the smallest piece that can be repeated.
SHARD = 1024


def base_workspace(folder: Path, side: int = BASE, seed: int = 11) -> Workspace:
    """A simulated and ingested region of one period; found again in the same folder."""
    cfg = load_config(None)
    ws = Workspace(folder / f"base-{side}-{seed}")
    if list_cubes(ws):
        return ws
    facts = {"height": side, "width": side, "periods": 1, "seed": seed}
    made = simulate_region(
        folder / f"simulated-{side}-{seed}", cfg.simulate.model_copy(update=facts)
    )
    with ws.lock():
        ingest_products(ws, discover(list(made.products), cfg.ingest), cfg.ingest, cfg.region)
    return ws


def repeated(base: Workspace, folder: Path, side: int, every: int = 1) -> Workspace:
    """The base side by side until it covers a map.

    Parameters
    ----------
    base : Workspace
        Of `base_workspace`, on the same disk; its side is a multiple of `SHARD`.
    folder : Path
        Where the map's workspace is made.
    side : int
        Side of the map [px], a multiple of `SHARD`.
    every : int
        Only every so-maniest shard of rows and columns holds data; the rest is declared as not valid,
        and its windows are planned, read and skipped. 1: all.

    Returns
    -------
    Workspace
    """
    ws = Workspace(folder / f"{base.root.name}-repeated-{side}-{every}")
    if list_cubes(ws):
        return ws
    (cube,) = list_cubes(base)
    small = geobox_from_dict(cube.meta["grid"])
    large = GeoBox((side, side), small.affine, small.crs)
    places = (
        (base.place("region"), region.STORE),
        (base.place("track", cube.meta["track"]), track.STORE),
        (cube.folder, ingest.STORE),
    )
    for place, store in places:
        artefact = read_artefact(place)
        if artefact is None:
            raise SystemExit(f"{place} is missing")
        meta = dict(artefact.meta)
        if "grid" in meta:
            meta["grid"] = geobox_to_dict(large)
        final = ws.root / place.relative_to(base.root)
        with ws.publish(artefact.stage, final, f"{artefact.key}-{side}-{every}", meta) as out:
            _link_store(place / store, out / store, large, every)
    return ws


def _link_store(source: Path, target: Path, large: GeoBox, every: int) -> None:
    arrays = open_arrays(source)
    first = next(iter(arrays.values()))
    if first.shards is None or first.shards[0] != SHARD or first.shape[0] % SHARD:
        raise SystemExit(f"{source}: shards of {first.shards}, not {SHARD}")
    create_store(target, large, [LAYERS[n] for n in arrays], Chunking(first.chunks[0], SHARD))
    period, n = first.shape[0] // SHARD, int(large.shape[0]) // SHARD
    for name in arrays:
        for i in range(n):
            for j in range(n):
                shard = source / name / "c" / str(i % period) / str(j % period)
                blank = name == "valid" and (i % every or j % every)
                # A shard that is not there reads as the layer's fill: False for `valid`.
                if shard.is_file() and not blank:
                    copy = target / name / "c" / str(i) / str(j)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    os.link(shard, copy)


def cube_and_km2(ws: Workspace, every: int = 1) -> tuple[Artefact, float]:
    """The map's cube, and the ground with data [km²]."""
    (cube,) = list_cubes(ws)
    info = cube_info(cube)
    shards = len(range(0, info.shape[0] // SHARD, every)) ** 2
    return cube, shards * (SHARD * info.pixel_size_m) ** 2 / 1e6


def common_arguments(text: str) -> argparse.ArgumentParser:
    """A parser with the arguments of every benchmark that maps."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--weights", type=Path, help=".safetensors with its card, for 25 m pixels")
    parser.add_argument("--keep", type=Path, help="folder for the maps, used again by a next run")
    parser.add_argument("--base", type=int, default=BASE, help="side of the simulated region [px]")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    return parser


def run(
    args: argparse.Namespace,
    task: Callable[[dict[str, Any]], dict[str, Any]],
    measure: Callable[[argparse.Namespace, Path], dict[str, Any]],
) -> None:
    """The child's task where there is one, otherwise the benchmark in a folder that is kept or not."""
    if args.task is not None:
        print(json.dumps(task(args.task)))
        return
    if args.weights is None:
        raise SystemExit("--weights is needed")
    with contextlib.ExitStack() as stack:
        folder = args.keep
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slopewatch-")))
        folder.mkdir(parents=True, exist_ok=True)
        figures = measure(args, folder.resolve())
    print(json.dumps(figures["ratios"], indent=1))
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")

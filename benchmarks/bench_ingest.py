"""Time and peak memory of ingest against the size of the map.

Each case runs in its own process on a product of plain GeoTIFFs (displacement, coherence, elevation, wrapped
phase, mask and the three look components, tiled, 25 m), so that peak memory is its own. Memory must hardly
grow with the map; `--reproject` takes the product through a grid of another pixel size.

    python benchmarks/bench_ingest.py --sizes 2048 6144
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

BLOCK = 512


def write_layer(
    path: Path, grid: GeoBox, rng: np.random.Generator, low: float, high: float
) -> None:
    """Noise between two values, written block by block."""
    size = int(grid.shape[0])
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=size,
        width=size,
        count=1,
        dtype="float32",
        crs=str(grid.crs),
        transform=grid.affine,
        nodata=np.nan,
        tiled=True,
        blockxsize=BLOCK,
        blockysize=BLOCK,
        BIGTIFF="IF_SAFER",
    ) as dst:
        for r in range(0, size, BLOCK):
            for c in range(0, size, BLOCK):
                shape = (min(BLOCK, size - r), min(BLOCK, size - c))
                values = rng.uniform(low, high, shape).astype(np.float32)
                dst.write(values, 1, window=Window(c, r, shape[1], shape[0]))


def make_layers(folder: Path, size: int) -> GeoBox:
    grid = GeoBox((size, size), Affine(25.0, 0, 400_000.0, 0, -25.0, 4_000_000.0), "EPSG:32647")
    rng = np.random.default_rng(0)
    for name, low, high in (
        ("los_displacement", -0.05, 0.05),
        ("coherence", 0.0, 1.0),
        ("elevation", 1900.0, 2000.0),
        ("wrapped_phase", -3.14, 3.14),
        ("los_east", 0.6, 0.62),
        ("los_north", -0.13, -0.12),
        ("los_up", 0.77, 0.79),
    ):
        write_layer(folder / f"{name}.tif", grid, rng, low, high)
    return grid


def run_case(size: int, reproject: bool) -> dict[str, float]:
    """Ingest one product in this process."""
    from components.config import IngestConfig, RegionConfig
    from components.cube.ingest import ingest_products
    from components.products.base import LayerSource, Product
    from components.workspace import Workspace

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grid = make_layers(folder, size)
        files = tuple(sorted(folder.glob("*.tif")))
        product = Product(
            path=folder,
            reader="plain",
            track="descending",
            orbit_direction="descending",
            date_start=date(2023, 1, 1),
            date_end=date(2023, 6, 30),
            geobox=grid,
            wavelength_m=0.055465763,
            looks=20.0,
            layers={p.stem: LayerSource(str(p)) for p in files},
            files=files,
        )
        before = resource.getrusage(resource.RUSAGE_SELF)
        started, cpu = time.perf_counter(), time.process_time()
        ws = Workspace(folder / "ws")
        region = RegionConfig(resolution_m=30.0) if reproject else RegionConfig()
        with ws.lock():
            ingest_products(ws, [product], IngestConfig(), region)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        started = time.perf_counter()
        with ws.lock():
            ingest_products(ws, [product], IngestConfig(), region)
        return {
            "seconds": seconds,
            "cpu_seconds": cpu,
            "again_seconds": time.perf_counter() - started,
            "start_mib": before.ru_maxrss / 1024,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[2048, 6144])
    parser.add_argument("--reproject", action="store_true")
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(run_case(args.case, args.reproject)))
        return
    print(f"{'side px':>8} {'wall s':>8} {'cpu s':>8} {'again s':>8} {'peak MiB':>9}")
    for size in args.sizes:
        command = [sys.executable, __file__, "--case", str(size)]
        if args.reproject:
            command.append("--reproject")
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        r = json.loads(out.splitlines()[-1])
        print(
            f"{size:>8} {r['seconds']:8.2f} {r['cpu_seconds']:8.2f} {r['again_seconds']:8.2f} "
            f"{r['peak_mib']:9.0f}"
        )


if __name__ == "__main__":
    main()

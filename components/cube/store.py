"""Zarr stores of the cube: template first, then whole shards, block by block.

A store is declared in full (coordinates, CRS, attributes, empty arrays) before any pixel is computed.
Every task then owns the blocks that it writes: a block is a shard, so no two tasks touch one file and
the bytes do not depend on the order of the tasks.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar

import numpy.typing as npt
import xarray as xr
import zarr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from rasterio.errors import NotGeoreferencedWarning
from zarr.codecs import ZstdCodec

from components.grid import Window, block_windows, geobox_to_dict
from components.layers import Layer
from components.progress import Progress, no_progress

T = TypeVar("T")

#: Chunk sides are a multiple of this.
_STEP = 16

#: Measured on float32 deformation maps: higher levels gain no space. Zstandard gives the same bytes for
#: the same input, whichever thread runs it; Blosc with several threads does not.
_COMPRESSOR = ZstdCodec(level=1)

#: Reading: the Rust implementation takes two fifths of the processor time of Zarr's own, whose shards are
#: the same for the same blocks, whatever thread writes them.
_PIPELINES: Final = {
    "r": "zarrs.ZarrsCodecPipeline",
    "r+": "zarr.core.codec_pipeline.BatchedCodecPipeline",
}

#: Zarr's settings are those of the process.
_opening = threading.Lock()

#: More threads than this only queue at the disk, and each holds a block.
_MAX_WORKERS = 8


class Chunking(NamedTuple):
    """Sides of the stored squares.

    Parameters
    ----------
    chunk : int
        Zarr chunk side [px]: what one read decompresses.
    shard : int
        Zarr shard side [px], a multiple of `chunk`: one file, and the unit of work.
    """

    chunk: int
    shard: int


def chunking(shape: tuple[int, int], chunk: int, shard: int) -> Chunking:
    """Chunk and shard sides for a map: the configured ones, or smaller where the map is smaller.

    Parameters
    ----------
    shape : tuple of int
        Height and width of the map [px].
    chunk, shard : int
        Configured sides [px]; `shard` is a multiple of `chunk`.

    Returns
    -------
    Chunking
        A shard never reaches a whole chunk beyond the map.
    """
    longest = max(shape)
    chunk = min(chunk, -(-longest // _STEP) * _STEP)
    return Chunking(chunk, min(shard // chunk, -(-longest // chunk)) * chunk)


def workers() -> int:
    """Number of threads that the blocks are shared among.

    Returns
    -------
    int
        The processors that this process may use, at most 8.
    """
    return min(len(os.sched_getaffinity(0)), _MAX_WORKERS)


def create_store(
    path: Path,
    geobox: GeoBox,
    layers: Iterable[Layer],
    sides: Chunking,
    attrs: Mapping[str, Any] | None = None,
) -> None:
    """Declare a store: dimensions (y, x), pixel-centre coordinates, CRS and empty layers.

    Parameters
    ----------
    path : Path
        Folder of the store, not there yet.
    geobox : GeoBox
        The grid.
    layers : iterable of Layer
        What will be written; type, fill and CF attributes come from the layer table.
    sides : Chunking
        Of `chunking`.
    attrs : mapping, optional
        Attributes of the store, JSON values. ``Conventions`` and ``slopewatch_grid`` are added.
    """
    shape = (int(geobox.shape[0]), int(geobox.shape[1]))
    described = {
        "Conventions": "CF-1.11",
        "slopewatch_grid": geobox_to_dict(geobox),
        **(attrs or {}),
    }
    # Coordinates and CRS the way xarray reads them; no consolidated copy that could disagree.
    coordinates = xr.Dataset(coords=xr_coords(geobox, always_yx=True), attrs=described)
    coordinates.to_zarr(path, mode="w-", zarr_format=3, consolidated=False)
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    for layer in layers:
        attributes: dict[str, Any] = {**layer.attrs(), "grid_mapping": "spatial_ref"}
        group.create_array(
            layer.name,
            shape=shape,
            dtype=layer.dtype,
            chunks=(sides.chunk, sides.chunk),
            shards=(sides.shard, sides.shard),
            fill_value=layer.fill,
            compressors=_COMPRESSOR,
            dimension_names=("y", "x"),
            attributes=attributes,
        )


def open_arrays(path: Path, mode: Literal["r", "r+"] = "r") -> dict[str, zarr.Array[Any]]:
    """The layers of a store, without xarray: for fast window reads and writes.

    Parameters
    ----------
    path : Path
        A store that `create_store` made.
    mode : {"r", "r+"}
        Reading, or writing too.

    Returns
    -------
    dict
        Layer name → Zarr array of dimensions (y, x), in the order of names. Safe to share among threads.
    """
    # An array keeps the pipeline of the moment at which it is opened.
    with _opening, zarr.config.set({"codec_pipeline.path": _PIPELINES[mode]}):
        group = zarr.open_group(path, mode=mode, use_consolidated=False)
        return {name: array for name, array in sorted(group.arrays()) if array.ndim == 2}


class StoreWriter:
    """Writes blocks into the layers of a declared store; safe to share among threads.

    Parameters
    ----------
    path : Path
        A store that `create_store` made.
    """

    def __init__(self, path: Path) -> None:
        self._arrays = open_arrays(path, "r+")

    def write(self, window: Window, blocks: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write one block of some layers.

        Parameters
        ----------
        window : Window
            Where; on shard borders, so that every file is written once.
        blocks : mapping
            Layer name → array of the window's shape.
        """
        for name, block in blocks.items():
            self._arrays[name][window.slices] = block


def for_each_block(
    shape: tuple[int, int],
    side: int,
    work: Callable[[Window], T],
    progress: Progress = no_progress,
    step: str = "blocks",
) -> list[T]:
    """Run a function on every block of a map, in a few threads.

    Parameters
    ----------
    shape : tuple of int
        Height and width of the map [px].
    side : int
        Block side [px].
    work : callable
        Takes a `Window`; must not depend on other blocks.
    progress : Progress
        Called with `step` after every block.
    step : str
        Name of the work.

    Returns
    -------
    list
        Results in row-major order of the blocks, whatever thread made them.

    Raises
    ------
    Exception
        The first error of a block, after the running ones have ended; the others are not begun.
    """
    windows = block_windows(shape, side)
    results: dict[int, T] = {}
    threads = workers()
    progress(step, 0, len(windows))
    queue = iter(enumerate(windows))
    with (
        # Rasterio silences this warning for its in-memory rasters, but not safely in threads.
        warnings.catch_warnings(),
        ThreadPoolExecutor(threads, thread_name_prefix="slopewatch") as pool,
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        running: dict[Future[T], int] = {}
        try:
            while True:
                # As many tasks as threads: what waits in a pool's queue would also hold its result.
                for i, window in queue:
                    running[pool.submit(work, window)] = i
                    if len(running) >= threads:
                        break
                if not running:
                    break
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    results[running.pop(future)] = future.result()
                    progress(step, len(results), len(windows))
        except BaseException:
            for future in running:
                future.cancel()
            raise
    return [results[i] for i in range(len(windows))]

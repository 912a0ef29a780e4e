"""Training tiles: square cut-outs of the period cubes, stored once, in physical units.

The tiles are declared lazily as a Dask graph (one block is one shard of tiles of one layer) and streamed
into a Zarr v3 store, so memory is a few shards however large the map is. They hold layers, not model
inputs: another preset is another dataset from the same tiles.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from dask.base import compute
from dask.callbacks import Callback
from dask.delayed import delayed
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from zarr.codecs import ZstdCodec

from components.cube.read import read_layers
from components.cube.region import region_geobox
from components.cube.store import workers
from components.dataset.presets import REQUIRED_LAYERS
from components.dataset.resample import upsample_bilinear, upsample_nearest
from components.errors import InputError, WorkspaceError
from components.grid import Window, geobox_from_dict, geobox_to_dict, tile_starts
from components.layers import LAYERS
from components.progress import Progress, no_progress
from components.workspace import Artefact, Workspace, stage_key, write_json

if TYPE_CHECKING:
    from components.config import TileConfig

ALGORITHM: Final = "1"

STORE: Final = "tiles.zarr"
TABLE: Final = "tiles.json"

#: Layers of a tile: whatever any preset reads.
TILE_LAYERS: Final = tuple(n for n in LAYERS if any(n in r for r in REQUIRED_LAYERS.values()))

#: Tiles a shard, i.e. a file and a Dask task.
_SHARD: Final = 8

#: Zstandard gives the same bytes whichever thread runs it.
_COMPRESSOR: Final = ZstdCodec(level=1)


@dataclass(frozen=True)
class Tile:
    """One tile.

    Parameters
    ----------
    index : int
        Position in the store.
    id : str
        ``<track>_<period>_r<row>_c<col>``: the same for the same ground, whatever other tiles exist.
    track, period : str
        The cube it is cut from.
    window : Window
        Ground on the region grid [px, before up-sampling].
    valid_fraction : float
        Share of its pixels that are valid.
    """

    index: int
    id: str
    track: str
    period: str
    window: Window
    valid_fraction: float


def build_tiles(
    ws: Workspace,
    cubes: Sequence[Artefact],
    cfg: TileConfig,
    progress: Progress = no_progress,
) -> Artefact:
    """Cut the cubes into tiles.

    Parameters
    ----------
    ws : Workspace
        Holds the cubes; the tiles are published as ``tiles/``.
    cubes : sequence of Artefact
        Period cubes, in any order.
    cfg : TileConfig
        Size, stride, up-sampling, smallest share of valid pixels.
    progress : Progress
        Told of every block read and written.

    Returns
    -------
    Artefact
        Stage ``tiles``; meta: ``size``, ``stride``, ``upsample``, ``counts`` (``planned``, ``kept``,
        ``too_little_valid``) and ``cubes`` (the same for each).

    Raises
    ------
    WorkspaceError
        SW-205 without cubes.
    InputError
        SW-306 where no tile has enough valid pixels.
    """
    if not cubes:
        raise WorkspaceError("SW-205", "there is no cube to cut tiles from", path=ws.root)
    cubes = sorted(cubes, key=lambda c: (c.meta["track"], c.meta["period"]))
    terrain = sorted(a.key for s in ("region", "track") for a in ws.artefacts(s))
    key = stage_key(
        "tiles", ALGORITHM, [c.key for c in cubes], terrain, cfg.model_dump(mode="json")
    )
    final = ws.place("tiles")
    if found := ws.find(final, key):
        return found
    geobox = region_geobox(ws)
    planned = _plan(geobox, cfg)
    tiles = _choose(ws, cubes, planned, cfg, progress)
    by_cube = [_count(c, tiles, len(planned)) for c in cubes]
    counts = {
        name: sum(int(c[name]) for c in by_cube) for name in ("planned", "kept", "too_little_valid")
    }
    if not tiles:
        raise InputError(
            "SW-306",
            f"none of {counts['planned']} tiles has {cfg.valid_fraction_min:.0%} valid pixels",
            path=ws.root,
            remedy="Lower tile.valid_fraction_min or ingest.coherence_min.",
        )
    meta: dict[str, Any] = {
        "size": cfg.size,
        "stride": cfg.stride,
        "upsample": cfg.upsample,
        "counts": counts,
        "cubes": by_cube,
    }
    with ws.publish("tiles", final, key, meta) as folder:
        _write(lazy_tiles(ws, tiles, cfg), folder / STORE, progress)
        table = {
            "format": 1,
            **meta,
            "grid": geobox_to_dict(geobox),
            "layers": list(TILE_LAYERS),
            "tiles": [{**asdict(t), "window": list(t.window)} for t in tiles],
        }
        write_json(folder / TABLE, table)
    return Artefact("tiles", key, str(final), meta)


def lazy_tiles(ws: Workspace, tiles: Sequence[Tile], cfg: TileConfig) -> xr.Dataset:
    """Declare the tiles' pixels; nothing is read until they are computed.

    Parameters
    ----------
    ws : Workspace
        Holds the cubes.
    tiles : sequence of Tile
        At least one.
    cfg : TileConfig
        ``size`` and ``upsample``.

    Returns
    -------
    Dataset
        Dimensions (tile, y, x), the layers `TILE_LAYERS` as Dask arrays of whole shards. A tile on a
        region smaller than a tile is filled with "no data" to its lower right.
    """
    side = cfg.size * cfg.upsample
    groups = [tiles[i : i + _SHARD] for i in range(0, len(tiles), _SHARD)]
    variables = {}
    for name in TILE_LAYERS:
        layer = LAYERS[name]
        cut = delayed(partial(_cut, ws, name, cfg.upsample, side), pure=False)
        blocks = [
            da.from_delayed(cut(group), (len(group), side, side), dtype=layer.dtype)  # type: ignore[no-untyped-call]
            for group in groups
        ]
        variables[name] = (("tile", "y", "x"), da.concatenate(blocks), layer.attrs())  # type: ignore[no-untyped-call]
    return xr.Dataset(variables)


class TileStore:
    """Read access to published tiles.

    Parameters
    ----------
    folder : Path
        Of the artefact.

    Raises
    ------
    WorkspaceError
        SW-206 where the store or its table cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        try:
            table = json.loads((folder / TABLE).read_text())
            self.geobox: GeoBox = geobox_from_dict(table["grid"])
            self.size = int(table["size"])
            self.upsample = int(table["upsample"])
            self.sigma_velocity: Mapping[tuple[str, str], float] = {
                (c["track"], c["period"]): float(c["sigma_velocity"]) for c in table["cubes"]
            }
            self.tiles: tuple[Tile, ...] = tuple(
                Tile(**{**t, "window": Window(*t["window"])}) for t in table["tiles"]
            )
            group = zarr.open_group(folder / STORE, mode="r", use_consolidated=False)
            self._arrays: dict[str, zarr.Array[Any]] = {
                n: a for n, a in group.arrays() if n in TILE_LAYERS
            }
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise WorkspaceError("SW-206", f"tiles unreadable: {e}", path=folder) from e

    def read(self, tile: Tile, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Layers of a tile.

        Parameters
        ----------
        tile : Tile
            One of ``tiles``.
        names : iterable of str
            Of `TILE_LAYERS`.

        Returns
        -------
        dict of str to ndarray
            ``[H, W]``, up-sampled, in canonical units, without the filling beyond the region.
        """
        h, w = tile.window.height * self.upsample, tile.window.width * self.upsample
        return {n: np.asarray(self._arrays[n][tile.index, :h, :w]) for n in names}


def _plan(geobox: GeoBox, cfg: TileConfig) -> list[Window]:
    height, width = (int(n) for n in geobox.shape)
    return [
        Window(r, c, min(cfg.size, height), min(cfg.size, width))
        for r in tile_starts(height, cfg.size, cfg.stride)
        for c in tile_starts(width, cfg.size, cfg.stride)
    ]


def _choose(
    ws: Workspace,
    cubes: Sequence[Artefact],
    planned: Sequence[Window],
    cfg: TileConfig,
    progress: Progress,
) -> list[Tile]:
    """The tiles with enough valid pixels, in the order of track, period, row, column."""
    bands = sorted({(w.row, w.height) for w in planned})
    width = max(w.col_end for w in planned)
    jobs = [(c.meta["track"], c.meta["period"], band) for c in cubes for band in bands]

    def share(track: str, period: str, band: tuple[int, int]) -> list[float]:
        # A whole band of tiles at once: neighbouring tiles share chunks.
        window = Window(band[0], 0, band[1], width)
        valid = read_layers(ws, track, period, ("valid",), window)["valid"].astype(bool)
        return [
            float(valid[:, w.col : w.col_end].mean()) for w in planned if (w.row, w.height) == band
        ]

    lazy = [delayed(share, pure=False)(*job) for job in jobs]
    tiles: list[Tile] = []
    for (track, period, band), shares in zip(
        jobs, _compute(lazy, "tiles: valid ground", progress), strict=True
    ):
        windows = [w for w in planned if (w.row, w.height) == band]
        for w, fraction in zip(windows, shares, strict=True):
            if fraction >= cfg.valid_fraction_min:
                name = f"{track}_{period}_r{w.row:05d}_c{w.col:05d}"
                tiles.append(Tile(len(tiles), name, track, period, w, round(fraction, 6)))
    return tiles


def _count(cube: Artefact, tiles: Sequence[Tile], planned: int) -> dict[str, Any]:
    track, period = cube.meta["track"], cube.meta["period"]
    kept = sum((t.track, t.period) == (track, period) for t in tiles)
    return {
        "track": track,
        "period": period,
        "key": cube.key,
        "sigma_velocity": cube.meta["sigma_velocity"],
        "planned": planned,
        "kept": kept,
        "too_little_valid": planned - kept,
    }


def _cut(ws: Workspace, name: str, upsample: int, side: int, tiles: Sequence[Tile]) -> NDArray[Any]:
    layer = LAYERS[name]
    out = np.full((len(tiles), side, side), layer.fill, dtype=layer.dtype)
    pairs = zip(out, tiles, strict=True)
    # Tiles of one row are read as one strip: neighbours share chunks, and decoding is the cost.
    for (track, period, row), group in groupby(
        pairs, key=lambda p: (p[1].track, p[1].period, p[1].window.row)
    ):
        members = list(group)
        left = members[0][1].window.col
        right, height = members[-1][1].window.col_end, members[0][1].window.height
        strip = Window(row, left, height, right - left)
        data = read_layers(ws, track, period, (name,), strip)[name]
        for target, tile in members:
            part = data[:, tile.window.col - left : tile.window.col_end - left]
            fine = (
                upsample_nearest(part, upsample)
                if layer.dtype == "bool"
                else upsample_bilinear(part, upsample)
            )
            target[: fine.shape[0], : fine.shape[1]] = fine
    return out


def _write(dataset: xr.Dataset, path: Path, progress: Progress) -> None:
    side = dataset.sizes["y"]
    encoding = {
        name: {
            "chunks": (1, side, side),
            "shards": (_SHARD, side, side),
            "compressors": (_COMPRESSOR,),
            "_FillValue": None if LAYERS[str(name)].dtype == "bool" else LAYERS[str(name)].fill,
        }
        for name in dataset.data_vars
    }
    stored = dataset.to_zarr(
        path, mode="w-", compute=False, zarr_format=3, consolidated=False, encoding=encoding
    )
    _compute([stored], "tiles", progress)


class _Report(Callback):
    """Tells a `Progress` of every finished Dask task."""

    def __init__(self, step: str, progress: Progress) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._step, self._progress = step, progress
        self._total = self._done = 0

    def _start_state(self, _graph: Mapping[Any, Any], state: Mapping[str, Any]) -> None:
        self._total = len(state["ready"]) + len(state["waiting"])
        self._progress(self._step, 0, self._total)

    def _posttask(self, *_: Any) -> None:
        self._done += 1
        self._progress(self._step, min(self._done, self._total), self._total)


def _compute(lazy: Sequence[Any], step: str, progress: Progress) -> tuple[Any, ...]:
    # Threads of this process: the reading releases Python's lock, and the workspace's handles need
    # not travel.
    with _Report(step, progress):
        return tuple(compute(*lazy, scheduler="threads", num_workers=workers()))  # type: ignore[no-untyped-call]

"""The region: one grid and its terrain, fixed by the first ingest of a workspace.

The grid never changes afterwards. The terrain may be filled in later, once: where the region has no
elevation and a product (or ``region.dem``) brings one, or where another ``region.dem`` is named. The region
then gets a new key, and with it the track geometry and every cube that is ingested again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import BoundingBox
from pyproj.exceptions import CRSError

from components.config import RegionConfig
from components.cube.align import AlignedLayer, align_source, aligned, footprint
from components.cube.store import (
    Chunking,
    StoreWriter,
    chunking,
    create_store,
    for_each_block,
    open_arrays,
)
from components.errors import InputError, WorkspaceError
from components.grid import Window, geobox_from_dict, geobox_to_dict
from components.insar.geometry import Terrain, slope_aspect
from components.insar.relief import Relief, cell_relief, cell_side
from components.layers import layers_of
from components.products.base import LayerSource, Product
from components.products.raster import probe
from components.progress import Progress, no_progress
from components.provenance import file_sha256
from components.workspace import Artefact, Workspace, read_artefact, stage_key

#: Raised when the same inputs would give other values.
ALGORITHM: Final = "2"

#: Name of the store inside the artefact.
STORE: Final = "region.zarr"

#: Region and track stores are written with these sides whatever the cube's are, so that their keys do
#: not hang on a storage option.
SIDES: Final = Chunking(256, 1024)

#: Cells of the relief that are read at once, a side.
_CELLS_A_BLOCK: Final = 24


class _Dem(NamedTuple):
    """Where elevation comes from: maps in order of preference, and what they are."""

    source: str
    sha256: tuple[str, ...]
    maps: tuple[AlignedLayer, ...]


def ensure_region(
    ws: Workspace,
    products: Sequence[Product],
    cfg: RegionConfig,
    progress: Progress = no_progress,
) -> Artefact:
    """The workspace's region; made from the configuration and the first product if it is not there.

    Parameters
    ----------
    ws : Workspace
        The workspace.
    products : sequence of Product
        At least one. The first gives the grid where the configuration leaves it open; the first of each
        grid that has ``elevation`` gives the terrain, unless ``cfg.dem`` is named. Give all products of a
        run at once: what a later call brings can only fill terrain that is missing altogether.
    cfg : RegionConfig
        Grid and DEM.
    progress : Progress
        Steps ``elevation``, ``relief`` and ``terrain``.

    Returns
    -------
    Artefact
        Stage ``region``; meta: ``grid``, ``elevation`` (``product``, ``dem`` or ``none``),
        ``elevation_sha256``, ``elevation_fraction``.

    Raises
    ------
    WorkspaceError
        SW-204 where the configuration asks for another grid than the workspace holds.
    InputError
        SW-101, SW-102, SW-103 for the DEM, SW-701 for an unusable ``region.crs``.
    """
    final = ws.place("region")
    found = read_artefact(final)
    if found is None:
        geobox = choose_geobox(products[0].geobox, cfg)
    else:
        geobox = geobox_from_dict(found.meta["grid"])
        _check_grid(geobox, cfg, final)
        if found.meta["elevation"] != "none" and cfg.dem is None:
            return ws.find(final, found.key) or found
    dem = _dem_source(products, cfg, geobox)
    key = stage_key("region", ALGORITHM, geobox_to_dict(geobox), dem.source, dem.sha256)
    if reused := ws.find(final, key):
        return reused
    meta: dict[str, Any] = {
        "grid": geobox_to_dict(geobox),
        "elevation": dem.source,
        "elevation_sha256": list(dem.sha256),
    }
    with ws.publish("region", final, key, meta) as folder:
        meta["elevation_fraction"] = _write(folder / STORE, geobox, dem.maps, progress)
    return Artefact("region", key, str(final), meta)


def region_geobox(ws: Workspace) -> GeoBox:
    """The workspace's grid.

    Parameters
    ----------
    ws : Workspace
        The workspace.

    Returns
    -------
    GeoBox

    Raises
    ------
    WorkspaceError
        SW-205 where nothing was ingested yet.
    """
    found = read_artefact(ws.place("region"))
    if found is None:
        raise WorkspaceError("SW-205", "the workspace has no region grid yet", path=ws.root)
    return geobox_from_dict(found.meta["grid"])


def choose_geobox(product: GeoBox, cfg: RegionConfig) -> GeoBox:
    """The region grid: as configured, and as the product where the configuration is silent.

    A north-up grid of square pixels in a metric projection is taken unchanged. A geographic, rotated,
    non-metric or oblong one becomes its UTM zone (or `cfg.crs`) with the pixel size of its centre, rounded
    to two digits.

    Parameters
    ----------
    product : GeoBox
        Grid of the first product.
    cfg : RegionConfig
        ``crs``, ``resolution_m`` and ``bounds``, each optional.

    Returns
    -------
    GeoBox
        North-up, metric, square pixels.

    Raises
    ------
    InputError
        SW-701 where ``cfg.crs`` is not a metric projected CRS, or ``cfg.bounds`` are reversed.
    """
    crs = product.crs if cfg.crs is None else _metric_crs(cfg.crs)
    unchanged = _is_plain(product) and crs == product.crs
    if cfg.crs is None and not (_is_metric(crs) and (unchanged or cfg.resolution_m)):
        crs = _utm(product)
    if unchanged and cfg.resolution_m is None and cfg.bounds is None:
        return product
    resolution = cfg.resolution_m
    if resolution is None:
        resolution = (
            abs(float(product.resolution.x)) if unchanged else _native_resolution(product, crs)
        )
    if cfg.bounds is None:
        box = footprint(product, crs)
    else:
        west, south, east, north = cfg.bounds
        if not (west < east and south < north):
            raise InputError(
                "SW-701", f"`region.bounds` {cfg.bounds} are not west, south, east, north"
            )
        box = BoundingBox(west, south, east, north, crs)
    return GeoBox.from_bbox(box, crs, resolution=resolution)


def _is_metric(crs: CRS | None) -> bool:
    return crs is not None and crs.projected and set(crs.units) <= {"metre", "meter"}


def _is_plain(grid: GeoBox) -> bool:
    a = grid.affine
    return bool(
        _is_metric(grid.crs) and a.b == 0 and a.d == 0 and a.a > 0 and abs(a.a + a.e) < 1e-6 * a.a
    )


def _metric_crs(text: str) -> CRS:
    try:
        crs = CRS(text)
    except (CRSError, ValueError) as e:
        raise InputError("SW-701", f"`region.crs` {text!r} is not a CRS") from e
    if not _is_metric(crs):
        raise InputError("SW-701", f"`region.crs` {text!r} is not a projected CRS in metres")
    return crs


def _utm(grid: GeoBox) -> CRS:
    lon, lat = grid.extent.to_crs("EPSG:4326").centroid.coords[0]
    zone = min(int((lon + 180.0) // 6.0) + 1, 60)
    return CRS(f"EPSG:{(32600 if lat >= 0 else 32700) + zone}")


def _native_resolution(grid: GeoBox, crs: Any) -> float:
    fitted = abs(float(grid.to_crs(crs, resolution="fit").resolution.x))
    return float(f"{fitted:.2g}")


def _check_grid(geobox: GeoBox, cfg: RegionConfig, where: Path) -> None:
    """Refuse a configuration that contradicts the grid; pixels may differ by half a pixel in bounds."""
    resolution = abs(float(geobox.resolution.x))
    conflict = None
    if cfg.crs is not None and _metric_crs(cfg.crs) != geobox.crs:
        conflict = f"`region.crs` is {cfg.crs}, the workspace has {geobox.crs}"
    elif cfg.resolution_m is not None and abs(cfg.resolution_m - resolution) > 1e-6 * resolution:
        conflict = f"`region.resolution_m` is {cfg.resolution_m}, the workspace has {resolution}"
    elif cfg.bounds is not None:
        wanted = choose_geobox(geobox, cfg.model_copy(update={"resolution_m": resolution}))
        a, b = tuple(wanted.boundingbox)[:4], tuple(geobox.boundingbox)[:4]
        if max(abs(x - y) for x, y in zip(a, b, strict=True)) > 0.5 * resolution:
            conflict = f"`region.bounds` are {cfg.bounds}, the workspace has {b}"
    if conflict:
        raise WorkspaceError("SW-204", conflict, path=where)


def _dem_source(products: Sequence[Product], cfg: RegionConfig, geobox: GeoBox) -> _Dem:
    if cfg.dem is not None:
        return _Dem("dem", (file_sha256(cfg.dem),), (_dem_layer(cfg.dem, geobox),))
    chosen: list[Product] = []
    for product in products:
        # Periods of one track bring the same terrain: one of each grid is enough.
        if "elevation" in product.layers and all(product.geobox != p.geobox for p in chosen):
            chosen.append(product)
    maps = tuple(aligned(p, "elevation", geobox, "bilinear") for p in chosen)
    return _Dem("product" if chosen else "none", tuple(p.sha256() for p in chosen), maps)


def _dem_layer(path: Path, geobox: GeoBox) -> AlignedLayer:
    info = probe(str(path))
    source = LayerSource(str(path), nodata=info.nodata, scale=info.scale, offset=info.offset)
    return align_source(source, info.geobox, geobox, "bilinear")


def _write(path: Path, geobox: GeoBox, maps: Sequence[AlignedLayer], progress: Progress) -> float:
    """Write elevation and what follows from it; return the fraction of pixels with elevation."""
    shape = (int(geobox.shape[0]), int(geobox.shape[1]))
    sides = chunking(shape, *SIDES)
    create_store(path, geobox, layers_of("region"), sides)
    if not maps:
        return 0.0
    writer = StoreWriter(path)

    def elevation(window: Window) -> int:
        z = first_finite(maps, window)
        writer.write(window, {"elevation": z})
        return int(np.count_nonzero(np.isfinite(z)))

    known = for_each_block(shape, sides.shard, elevation, progress, "elevation")
    pixel = abs(float(geobox.resolution.x))
    # From the store, not from the maps: a halo would make every block read its neighbours' sources too.
    stored = open_arrays(path)["elevation"]
    relief = _relief(lambda w: np.asarray(stored[w.slices]), shape, pixel, progress)

    def terrain(window: Window) -> None:
        halo = window.buffer(1, shape)
        z = np.asarray(stored[halo.slices])
        slope, aspect = _terrain(z, pixel)
        row, col = window.row - halo.row, window.col - halo.col
        inner = Window(row, col, window.height, window.width).slices
        height = relief.height(z[inner], window.row, window.col)
        blocks = {"slope": slope[inner], "aspect": aspect[inner], "relative_height": height}
        writer.write(window, blocks)

    for_each_block(shape, sides.shard, terrain, progress, "terrain")
    return sum(known) / (shape[0] * shape[1])


def _relief(
    read: Callable[[Window], npt.NDArray[np.float32]],
    shape: tuple[int, int],
    pixel: float,
    progress: Progress,
) -> Relief:
    side = cell_side(pixel)
    low, high = (np.full((-(-shape[0] // side), -(-shape[1] // side)), np.nan) for _ in range(2))

    def work(block: Window) -> None:
        row, col = block.row // side, block.col // side
        found = cell_relief(read(block), side)
        at = (slice(row, row + found[0].shape[0]), slice(col, col + found[0].shape[1]))
        low[at], high[at] = found

    for_each_block(shape, side * _CELLS_A_BLOCK, work, progress, "relief")
    return Relief(low, high, pixel)


def first_finite(candidates: Sequence[AlignedLayer], window: Window) -> npt.NDArray[np.float32]:
    """Pixel by pixel, the first finite value of several maps; later maps are read only for gaps.

    Parameters
    ----------
    candidates : sequence of AlignedLayer
        Float layers in order of preference; may be empty.
    window : Window
        Which part.

    Returns
    -------
    ndarray of float32
        Of the window's shape; NaN where no candidate has a value.
    """
    out = np.full((window.height, window.width), np.nan, dtype=np.float32)
    for layer in candidates:
        gap = ~np.isfinite(out)
        if not gap.any():
            break
        out[gap] = layer.read(window)[gap]
    out[~np.isfinite(out)] = np.nan
    return out


def _terrain(z: npt.NDArray[np.float32], pixel: float) -> Terrain:
    if min(z.shape) < 2:  # a line of pixels has no slope
        nothing = np.full_like(z, np.nan)
        return Terrain(nothing, nothing)
    return slope_aspect(z, pixel)

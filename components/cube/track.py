"""Per track: where the satellite stands, what it sees of downslope motion, where it is blind.

All periods of a track share this geometry: the orbits of one track repeat within a few hundred metres, which
turns the line of sight by less than 0.1°. A product whose line of sight differs by degrees belongs to another
track and is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from components.config import IngestConfig
from components.cube import region as region_module
from components.cube.align import AlignedLayer, aligned, require_overlap
from components.cube.region import SIDES, first_finite, region_geobox
from components.cube.store import (
    StoreWriter,
    chunking,
    create_store,
    for_each_block,
    open_arrays,
)
from components.errors import InputError
from components.grid import Window, block_windows
from components.insar.geometry import downslope_sensitivity, layover_shadow, los_from_angles
from components.layers import layers_of
from components.products.base import Product
from components.progress import Progress, no_progress
from components.workspace import Artefact, Workspace, read_artefact, stage_key

#: Raised when the same inputs would give other values.
ALGORITHM: Final = "1"

#: Name of the store inside the artefact.
STORE: Final = "track.zarr"

#: Lines of sight further apart than this are two tracks [deg]. Periods of one track agree to 0.1°, tracks
#: that see the same ground from neighbouring orbits differ by 5° and more.
SAME_TRACK_DEG: Final = 2.0

_COMPONENTS: Final = ("los_east", "los_north", "los_up")

#: Side of the samples on which two lines of sight are compared [px], and how many a map side has.
_SAMPLE_PX: Final = 16
_SAMPLES: Final = 3


class _Geometry(NamedTuple):
    """Where the line of sight comes from: product maps, constant angles or nowhere."""

    source: str
    identity: tuple[Any, ...]
    maps: tuple[tuple[AlignedLayer, ...], ...]  # one row a component, maps in order of preference
    constant: tuple[float, float, float] | None


def ensure_track(
    ws: Workspace,
    products: Sequence[Product],
    region: Artefact,
    cfg: IngestConfig,
    progress: Progress = no_progress,
) -> Artefact:
    """The geometry of one track; made from its first products if it is not there.

    Parameters
    ----------
    ws : Workspace
        The workspace.
    products : sequence of Product
        At least one; all of one track. The first of each grid that has a line of sight gives it; where none
        has, ``cfg.incidence_deg`` and ``cfg.heading_deg`` do; where these are open too, the layers are NaN.
    region : Artefact
        Of `ensure_region`.
    cfg : IngestConfig
        Constant geometry.
    progress : Progress
        Step ``track``.

    Returns
    -------
    Artefact
        Stage ``track``; meta: ``track``, ``orbit_direction``, ``region_key``, ``source`` (``product``,
        ``config`` or ``none``), ``sources`` (digests of the products, or the angles), ``counts`` (``total``,
        ``los``, ``sensitivity``, ``layover_shadow``).

    Raises
    ------
    InputError
        SW-112 where a product looks from elsewhere than the track does.
    """
    name = products[0].track
    final = ws.place("track", name)
    geobox = region_geobox(ws)
    found = read_artefact(final)
    # A product's own geometry stands; a constant or missing one gives way to it.
    if (
        found is not None
        and found.meta["region_key"] == region.key
        and found.meta["source"] == "product"
    ):
        for product in products:
            if _has_los(product) and product.sha256() not in found.meta["sources"]:
                _check_same_track(product, found, geobox)
        return ws.find(final, found.key) or found
    geometry = _geometry(products, geobox, cfg)
    key = stage_key("track", ALGORITHM, region.key, name, geometry.source, geometry.identity)
    if reused := ws.find(final, key):
        return reused
    meta: dict[str, Any] = {
        "track": name,
        "orbit_direction": products[0].orbit_direction,
        "region_key": region.key,
        "source": geometry.source,
        "sources": list(geometry.identity),
    }
    with ws.publish("track", final, key, meta) as folder:
        meta["counts"] = _write(folder / STORE, region.folder, geobox, geometry, progress)
    return Artefact("track", key, str(final), meta)


def _has_los(product: Product) -> bool:
    return all(name in product.layers for name in _COMPONENTS)


def _geometry(products: Sequence[Product], geobox: GeoBox, cfg: IngestConfig) -> _Geometry:
    chosen: list[Product] = []
    for product in products:
        if _has_los(product) and all(product.geobox != p.geobox for p in chosen):
            chosen.append(product)
    if chosen:
        maps = tuple(
            tuple(aligned(p, name, geobox, "bilinear") for p in chosen) for name in _COMPONENTS
        )
        return _Geometry("product", tuple(p.sha256() for p in chosen), maps, None)
    if cfg.incidence_deg is not None and cfg.heading_deg is not None:
        look = los_from_angles(cfg.incidence_deg, cfg.heading_deg)
        constant = (float(look.east), float(look.north), float(look.up))
        return _Geometry("config", (cfg.incidence_deg, cfg.heading_deg), ((), (), ()), constant)
    return _Geometry("none", (), ((), (), ()), None)


def _write(
    path: Path, region: Path, geobox: GeoBox, geometry: _Geometry, progress: Progress
) -> dict[str, int]:
    """Write the track layers; return how many pixels have each."""
    shape = (int(geobox.shape[0]), int(geobox.shape[1]))
    sides = chunking(shape, *SIDES)
    create_store(path, geobox, layers_of("track"), sides)
    counts = {"total": shape[0] * shape[1], "los": 0, "sensitivity": 0, "layover_shadow": 0}
    if geometry.source == "none":
        return counts
    writer = StoreWriter(path)
    terrain = open_arrays(region / region_module.STORE)

    def work(window: Window) -> dict[str, int]:
        east, north, up = _unit_vector(geometry, window)
        slope, aspect = terrain["slope"][window.slices], terrain["aspect"][window.slices]
        sensitivity = downslope_sensitivity(slope, aspect, east, north, up)
        blind = layover_shadow(slope, aspect, east, north, up)
        blocks = {
            "los_east": east,
            "los_north": north,
            "los_up": up,
            "los_sensitivity": sensitivity,
            "layover_shadow": blind,
        }
        writer.write(window, blocks)
        return {
            "los": int(np.count_nonzero(np.isfinite(up))),
            "sensitivity": int(np.count_nonzero(np.isfinite(sensitivity))),
            "layover_shadow": int(np.count_nonzero(blind)),
        }

    for part in for_each_block(shape, sides.shard, work, progress, "track"):
        for name, n in part.items():
            counts[name] += n
    return counts


def _unit_vector(geometry: _Geometry, window: Window) -> tuple[npt.NDArray[np.float32], ...]:
    if geometry.constant is not None:
        size = (window.height, window.width)
        return tuple(np.full(size, value, dtype=np.float32) for value in geometry.constant)
    parts = [first_finite(maps, window) for maps in geometry.maps]
    # Interpolation between unit vectors shortens them a little.
    length = np.sqrt(parts[0] ** 2 + parts[1] ** 2 + parts[2] ** 2)
    length[length == 0] = np.nan
    return tuple((part / length).astype(np.float32) for part in parts)


def _check_same_track(product: Product, track: Artefact, geobox: GeoBox) -> None:
    """Compare lines of sight on a sparse sample of the map."""
    require_overlap(product, geobox)
    shape = (int(geobox.shape[0]), int(geobox.shape[1]))
    stored = open_arrays(track.folder / STORE)
    lazy = [aligned(product, name, geobox, "bilinear") for name in _COMPONENTS]
    for window in _sample_windows(shape):
        ours = np.stack([stored[name][window.slices] for name in _COMPONENTS])
        theirs = np.stack([layer.read(window) for layer in lazy])
        cosine = (ours * theirs).sum(axis=0)
        if not np.isfinite(cosine).any():
            continue
        angle = float(np.degrees(np.arccos(np.clip(np.nanmedian(cosine), -1.0, 1.0))))
        if angle > SAME_TRACK_DEG:
            raise InputError(
                "SW-112",
                f"the product looks {angle:.1f}° away from the line of sight of track "
                f"`{product.track}` in this workspace",
                path=product.path,
                remedy="Name the tracks: ingest the products of each with its own `ingest.track`.",
            )


def _sample_windows(shape: tuple[int, int]) -> list[Window]:
    blocks = block_windows(shape, max(_SAMPLE_PX, -(-max(shape) // _SAMPLES)))
    return [
        Window(
            b.row + max(b.height - _SAMPLE_PX, 0) // 2,
            b.col + max(b.width - _SAMPLE_PX, 0) // 2,
            min(b.height, _SAMPLE_PX),
            min(b.width, _SAMPLE_PX),
        )
        for b in blocks
    ]

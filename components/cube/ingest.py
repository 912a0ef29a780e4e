"""From a product to its period cube: check, reference, convert, mask, write, publish.

Two passes over the map, both blockwise. The first checks every pixel, counts, and collects an even sample of
the valid ones for the reference and the map's noise; nothing is written before it has ended well. The second
converts and writes whole shards. Memory holds a few blocks and the sample, whatever the size of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
import zarr
from odc.geo.geobox import GeoBox

from components.config import IngestConfig, RegionConfig
from components.cube.align import AlignedLayer, aligned, require_overlap
from components.cube.quality import (
    REASONS,
    Validity,
    refuse_coherence_out_of_range,
    refuse_infinite,
    validity,
)
from components.cube.region import ensure_region, region_geobox
from components.cube.store import (
    Chunking,
    StoreWriter,
    chunking,
    create_store,
    for_each_block,
    open_arrays,
)
from components.cube.track import STORE as TRACK_STORE
from components.cube.track import ensure_track
from components.errors import InputError
from components.grid import Window, geobox_to_dict, same_grid
from components.insar.noise import mad_sigma
from components.insar.phase import velocity, velocity_std
from components.insar.reference import Reference, stable_median
from components.layers import LAYERS
from components.products.base import MASK, Product
from components.products.convert import read_canonical
from components.progress import Progress, no_progress
from components.workspace import Artefact, Workspace, read_artefact, stage_key

#: Raised when the same inputs would give other values.
ALGORITHM: Final = "1"

#: Name of the store inside the artefact.
STORE: Final = "cube.zarr"

#: Layers of every cube; a product's ``wrapped_phase`` joins them where there is one.
LAYER_NAMES: Final = (
    "los_displacement",
    "los_velocity",
    "los_velocity_std",
    "coherence",
    "valid",
)

#: Layers of a product whose every pixel is checked.
_CHECKED: Final = ("los_displacement", "coherence", "wrapped_phase")

#: Pixels that the median and the noise are taken from: their error is then below 0.2 % of the scatter.
SAMPLE_PIXELS: Final = 1_000_000

#: Smallest noise that a map is given [mm/yr], so that a constant map divides by something.
SIGMA_FLOOR: Final = 0.01

#: GDAL's block cache [bytes]. Its default is a share of the machine's memory and would grow with the map.
_GDAL_CACHE: Final = 128 * 2**20


@dataclass(frozen=True)
class _Job:
    """One product on the region grid: its layers and what both passes need to know."""

    product: Product
    cfg: IngestConfig
    geobox: GeoBox
    shape: tuple[int, int]
    sides: Chunking
    layers: dict[str, AlignedLayer]
    layover: zarr.Array[Any]
    passes_through: bool

    def read(self, window: Window, skip: str | None = None) -> dict[str, npt.NDArray[Any]]:
        """The product's layers in one block, checked; coherence clipped to [0, 1]."""
        blocks = {name: layer.read(window) for name, layer in self.layers.items() if name != skip}
        if self.passes_through:
            for name in _CHECKED:
                if name in blocks:
                    _refuse(name, blocks[name], self.product)
        if "coherence" in blocks:  # rounding, or the overshoot of cubic resampling
            blocks["coherence"] = np.clip(blocks["coherence"], 0.0, 1.0)
        return blocks

    def validity(self, window: Window, blocks: dict[str, npt.NDArray[Any]]) -> Validity:
        """Usable pixels of one block."""
        return validity(
            blocks["los_displacement"],
            blocks.get("coherence"),
            blocks.get(MASK),
            np.asarray(self.layover[window.slices], dtype=bool),
            self.cfg.coherence_min,
        )


class _Sample(NamedTuple):
    """Valid pixels of one block, thinned evenly, and the block's counts."""

    displacement: npt.NDArray[np.float32]
    coherence: npt.NDArray[np.float32] | None
    counts: dict[str, int]


class _Survey(NamedTuple):
    """What the first pass found."""

    counts: dict[str, int]
    reference: Reference
    sigma_velocity: float


def ingest_product(
    ws: Workspace,
    product: Product,
    cfg: IngestConfig,
    region_cfg: RegionConfig | None = None,
    progress: Progress = no_progress,
) -> Artefact:
    """Bring one product into the workspace; where it is there already, find it.

    Parameters
    ----------
    ws : Workspace
        The workspace, locked by the caller.
    product : Product
        One track and period.
    cfg : IngestConfig
        Masking, referencing, resampling, storage.
    region_cfg : RegionConfig, optional
        The region grid, for the first product of a workspace.
    progress : Progress
        Steps ``elevation``, ``terrain``, ``track``, ``check source``, ``check``, ``write``;
        ``already ingested`` where nothing is done.

    Returns
    -------
    Artefact
        Stage ``cube``; ``reused`` where the same product was ingested before with the same configuration.
        Meta: ``track, period, date_start, date_end, days, orbit_direction, relative_orbit, wavelength_m,
        looks, sha256, reader, product, grid, region_key, track_key, layers`` (those with data),
        ``valid_fraction``, ``sigma_velocity`` [mm/yr], ``counts`` (pixels by reason), ``reference_m``,
        ``reference_coherence``, ``reference_pixels``.

    Raises
    ------
    InputError
        SW-107 where another product holds this track and period,
        SW-108 to SW-110 for unusable values, SW-112 for another track's geometry, SW-115 outside the region.
    WorkspaceError
        SW-202, SW-201 from writing, SW-204 for another grid, SW-206 for a damaged cube.
    """
    sha256 = product.sha256()
    final = ws.place("cube", product.track, product.period)
    _refuse_other_product(final, product, sha256)
    # GDAL reads its cache size from the environment of the thread that opens it first: this one.
    with rasterio.Env(GDAL_CACHEMAX=_GDAL_CACHE):
        region = ensure_region(ws, [product], region_cfg or RegionConfig(), progress)
        geobox = region_geobox(ws)
        require_overlap(product, geobox)
        track = ensure_track(ws, [product], region, cfg, progress)
        key = stage_key(
            "cube",
            ALGORITHM,
            sha256,
            product.track,
            product.period,
            region.key,
            track.key,
            cfg.model_dump(mode="json"),
        )
        found = ws.find(final, key)
        if found is None:
            job = _job(product, cfg, geobox, track)
            found = _compute(ws, job, final, key, sha256, region, track, progress)
        else:
            progress("already ingested", 1, 1)
    # Recorded also when found: a run that was killed after publishing has left no record.
    ws.ledger.record_product(
        sha256=sha256,
        path=product.path,
        reader=product.reader,
        track=product.track,
        dates=(product.date_start.isoformat(), product.date_end.isoformat()),
        cube_key=key,
    )
    return found


def ingest_products(
    ws: Workspace,
    products: Sequence[Product],
    cfg: IngestConfig,
    region_cfg: RegionConfig | None = None,
    progress: Progress = no_progress,
) -> list[Artefact]:
    """Bring several products into the workspace, one after the other.

    Parameters
    ----------
    ws : Workspace
        The workspace, locked by the caller.
    products : sequence of Product
        In the order of `discover`; the first gives the grid.
    cfg : IngestConfig
        As for `ingest_product`.
    region_cfg : RegionConfig, optional
        As for `ingest_product`.
    progress : Progress
        As for `ingest_product`, and ``ingest`` with the number of products.

    Returns
    -------
    list of Artefact
        One a product, in their order. What was done before an error stays published.

    Raises
    ------
    InputError, WorkspaceError
        As for `ingest_product`.
    """
    prepare(ws, products, cfg, region_cfg, progress)
    out = []
    for i, product in enumerate(products):
        progress("ingest", i, len(products))
        out.append(ingest_product(ws, product, cfg, region_cfg, progress))
    progress("ingest", len(products), len(products))
    return out


def prepare(
    ws: Workspace,
    products: Sequence[Product],
    cfg: IngestConfig,
    region_cfg: RegionConfig | None = None,
    progress: Progress = no_progress,
) -> None:
    """Refuse what can be refused at once, then make region and tracks from all products of a run.

    Ingesting product by product without this is possible too; the terrain and the geometry then come from
    the first product that has them, and cubes from before do not know them.

    Parameters
    ----------
    ws : Workspace
        The workspace, locked by the caller.
    products : sequence of Product
        All products of the run.
    cfg : IngestConfig
        Constant geometry for products without one.
    region_cfg : RegionConfig, optional
        The region grid.
    progress : Progress
        Steps ``elevation``, ``terrain`` and ``track``.

    Raises
    ------
    InputError
        SW-107, SW-112, SW-115 as for `ingest_product`.
    WorkspaceError
        SW-204 for another grid.
    """
    seen: dict[Path, Product] = {}
    for product in products:
        final = ws.place("cube", product.track, product.period)
        if other := seen.get(final):
            raise _same_period(product, f"also {other.path.name} is given", final)
        seen[final] = product
        _refuse_other_product(final, product, product.sha256())
    with rasterio.Env(GDAL_CACHEMAX=_GDAL_CACHE):
        region = ensure_region(ws, products, region_cfg or RegionConfig(), progress)
        geobox = region_geobox(ws)
        for product in products:
            require_overlap(product, geobox)
        for name in sorted({p.track for p in products}):
            ensure_track(ws, [p for p in products if p.track == name], region, cfg, progress)


def _same_period(product: Product, what: str, final: Path) -> InputError:
    return InputError(
        "SW-107",
        f"track `{product.track}`, period {product.period}: {what}",
        path=product.path,
        remedy=f"Keep one product of this period; to replace the published one, remove {final} first.",
    )


def _refuse_other_product(final: Path, product: Product, sha256: str) -> None:
    found = read_artefact(final)
    if found is not None and found.meta["sha256"] != sha256:
        raise _same_period(product, f"{found.meta['product']} is published", final)


def _compute(
    ws: Workspace,
    job: _Job,
    final: Path,
    key: str,
    sha256: str,
    region: Artefact,
    track: Artefact,
    progress: Progress,
) -> Artefact:
    product = job.product
    if not job.passes_through:
        # Resampling would blur what must be refused: look at the pixels as they came.
        _check_source(product, job.sides.shard, progress)
    survey = _survey(job, progress)
    meta: dict[str, Any] = {
        "track": product.track,
        "period": product.period,
        "date_start": product.date_start.isoformat(),
        "date_end": product.date_end.isoformat(),
        "days": product.days,
        "orbit_direction": product.orbit_direction,
        "relative_orbit": product.relative_orbit,
        "wavelength_m": product.wavelength_m,
        "looks": product.looks,
        "sha256": sha256,
        "reader": product.reader,
        "product": product.path.name,
        "grid": geobox_to_dict(job.geobox),
        "region_key": region.key,
        "track_key": track.key,
        "layers": _layers_with_data(product),
        "valid_fraction": survey.counts["valid"] / survey.counts["total"],
        "sigma_velocity": survey.sigma_velocity,
        "counts": survey.counts,
        "reference_m": survey.reference.value,
        "reference_coherence": survey.reference.threshold,
        "reference_pixels": survey.reference.n_pixels,
    }
    with ws.publish("cube", final, key, meta) as folder:
        _write(folder / STORE, job, meta, progress)
    return Artefact("cube", key, str(final), meta)


def _job(product: Product, cfg: IngestConfig, geobox: GeoBox, track: Artefact) -> _Job:
    shape = (int(geobox.shape[0]), int(geobox.shape[1]))
    sides = chunking(shape, cfg.chunk, cfg.shard)
    layers = {
        name: aligned(product, name, geobox, cfg.resampling)
        for name in (*_CHECKED, MASK)
        if name in product.layers
    }
    layover = open_arrays(track.folder / TRACK_STORE)["layover_shadow"]
    return _Job(
        product, cfg, geobox, shape, sides, layers, layover, same_grid(product.geobox, geobox)
    )


def _layers_with_data(product: Product) -> list[str]:
    has = {"los_displacement": True, "los_velocity": True, "valid": True}
    has["coherence"] = "coherence" in product.layers
    has["los_velocity_std"] = has["coherence"] and product.looks is not None
    has["wrapped_phase"] = "wrapped_phase" in product.layers
    return [name for name in LAYERS if has.get(name)]


def _refuse(name: str, block: npt.NDArray[Any], product: Product) -> None:
    refuse_infinite(block, name, product.path)
    if name == "coherence":
        refuse_coherence_out_of_range(block, product.path)


def _check_source(product: Product, side: int, progress: Progress) -> None:
    """Check every pixel of a product on its own grid."""
    sources = {name: product.layers[name] for name in _CHECKED if name in product.layers}

    def work(window: Window) -> None:
        for name, source in sources.items():
            _refuse(name, read_canonical(source, window), product)

    shape = (int(product.geobox.shape[0]), int(product.geobox.shape[1]))
    for_each_block(shape, side, work, progress, "check source")


def _survey(job: _Job, progress: Progress) -> _Survey:
    """First pass: check, count, and take the sample for reference and noise."""
    # Odd, so that on a full map the samples of neighbouring rows do not line up in columns.
    stride = (job.shape[0] * job.shape[1] // SAMPLE_PIXELS) | 1

    # The phase is only stored: where it was checked on its own grid, this pass can do without.
    skip = None if job.passes_through else "wrapped_phase"

    def work(window: Window) -> _Sample:
        blocks = job.read(window, skip)
        found = job.validity(window, blocks)
        chosen = np.flatnonzero(found.valid)[::stride]
        coherence = blocks.get("coherence")
        return _Sample(
            blocks["los_displacement"].ravel()[chosen],
            None if coherence is None else coherence.ravel()[chosen],
            found.counts,
        )

    samples = for_each_block(job.shape, job.sides.shard, work, progress, "check")
    counts = {name: sum(s.counts[name] for s in samples) for name in ("total", *REASONS, "valid")}
    if counts["valid"] == 0:
        why = ", ".join(f"{counts[name]} {name}" for name in REASONS)
        raise InputError(
            "SW-108",
            f"none of {counts['total']} pixels is valid ({why})",
            path=job.product.path,
        )
    displacement = np.concatenate([s.displacement for s in samples])
    parts = [s.coherence for s in samples if s.coherence is not None]
    coherence = np.concatenate(parts) if parts else None
    reference = Reference(0.0, 0, 0.0)
    if job.cfg.reference == "median":
        reference = stable_median(displacement, coherence, job.cfg.reference_coherence)
    # The noise is that of the map after referencing: a constant does not change it.
    sigma = mad_sigma(velocity(displacement, job.product.days))
    return _Survey(counts, reference, max(sigma, SIGMA_FLOOR))


def _write(path: Path, job: _Job, meta: dict[str, Any], progress: Progress) -> None:
    """Second pass: declare the store, then convert and write it shard by shard."""
    product, days = job.product, job.product.days
    names = [*LAYER_NAMES, *(n for n in ("wrapped_phase",) if n in product.layers)]
    attrs = {k: v for k, v in meta.items() if k not in {"counts", "grid"}}
    create_store(path, job.geobox, [LAYERS[name] for name in names], job.sides, attrs)
    writer = StoreWriter(path)
    reference = np.float32(meta["reference_m"])

    def work(window: Window) -> None:
        blocks = job.read(window)
        valid = job.validity(window, blocks).valid
        displacement = blocks["los_displacement"] - reference
        out: dict[str, npt.NDArray[Any]] = {
            "los_displacement": displacement,
            "los_velocity": velocity(displacement, days),
            "valid": valid,
        }
        if "coherence" in blocks:
            out["coherence"] = blocks["coherence"]
            if product.looks is not None:
                out["los_velocity_std"] = velocity_std(
                    blocks["coherence"], product.looks, product.wavelength_m, days
                )
        if "wrapped_phase" in blocks:
            out["wrapped_phase"] = blocks["wrapped_phase"]
        writer.write(window, out)

    for_each_block(job.shape, job.sides.shard, work, progress, "write")

"""Both passes over a product's map, block by block.

The first checks every pixel, counts (also by the cells that tell separated ground), and collects an even
sample of the valid ones for the references and the map's noise. The second converts and writes whole shards.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import zarr
from odc.geo.geobox import GeoBox

from components.config import IngestConfig
from components.cube.align import AlignedLayer, aligned
from components.cube.quality import (
    REASONS,
    Validity,
    refuse_coherence_out_of_range,
    refuse_infinite,
    validity,
)
from components.cube.store import (
    Chunking,
    StoreWriter,
    chunking,
    create_store,
    for_each_block,
    open_arrays,
)
from components.cube.track import STORE as TRACK_STORE
from components.errors import InputError
from components.grid import Window, same_grid
from components.insar.components import (
    Cells,
    Referencing,
    Sample,
    by_component,
    cell_side,
    whole_map,
)
from components.insar.noise import mad_sigma
from components.insar.phase import velocity, velocity_std
from components.layers import LAYERS
from components.products.base import MASK, Product
from components.products.convert import read_canonical
from components.progress import Progress
from components.workspace import Artefact

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

#: Pixels that the medians and the noise are taken from: the error for a whole map is then below 0.2 % of the
#: scatter.
SAMPLE_PIXELS: Final = 1_000_000

#: Smallest noise that a map is given [mm/yr], so that a constant map divides by something.
SIGMA_FLOOR: Final = 0.01


@dataclass(frozen=True)
class Job:
    """One product on the region grid: its layers and what both passes need to know.

    Parameters
    ----------
    product : Product
        One track and period.
    cfg : IngestConfig
        Masking, referencing, resampling, storage.
    geobox : GeoBox
        The region grid.
    shape : (int, int)
        Its height and width [px].
    sides : Chunking
        Sides of chunks and shards [px].
    layers : dict of str to AlignedLayer
        Layers on the region grid.
    layover : zarr.Array of bool [H, W]
        Layover and shadow of the track.
    passes_through : bool
        Whether the product is on the region grid as it is.
    """

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


class _Block(NamedTuple):
    """Valid pixels of one block, thinned evenly; its counts by reason; valid pixels by cell."""

    sample: Sample
    counts: dict[str, int]
    cells: tuple[slice, slice]
    by_cell: npt.NDArray[np.int32]


class Survey(NamedTuple):
    """What the first pass found.

    Parameters
    ----------
    counts : dict of str to int
        Pixels by reason.
    references : Referencing
        Subtracted from the displacement.
    sigma_velocity : float
        Noise of the map after that [mm/yr].
    """

    counts: dict[str, int]
    references: Referencing
    sigma_velocity: float


def make_job(product: Product, cfg: IngestConfig, geobox: GeoBox, track: Artefact) -> Job:
    """Lay a product's layers on the region grid; nothing is read.

    Parameters
    ----------
    product : Product
        One track and period.
    cfg : IngestConfig
        Resampling and storage.
    geobox : GeoBox
        The region grid.
    track : Artefact
        Geometry of the track.

    Returns
    -------
    Job
    """
    shape = (int(geobox.shape[0]), int(geobox.shape[1]))
    sides = chunking(shape, cfg.chunk, cfg.shard)
    layers = {
        name: aligned(product, name, geobox, cfg.resampling)
        for name in (*_CHECKED, MASK)
        if name in product.layers
    }
    layover = open_arrays(track.folder / TRACK_STORE)["layover_shadow"]
    return Job(
        product, cfg, geobox, shape, sides, layers, layover, same_grid(product.geobox, geobox)
    )


def layers_with_data(product: Product) -> list[str]:
    """Layers of the cube that a product fills.

    Parameters
    ----------
    product : Product
        One track and period.

    Returns
    -------
    list of str
        In the order of `components.layers.LAYERS`.
    """
    has = {"los_displacement": True, "los_velocity": True, "valid": True}
    has["coherence"] = "coherence" in product.layers
    has["los_velocity_std"] = has["coherence"] and product.looks is not None
    has["wrapped_phase"] = "wrapped_phase" in product.layers
    return [name for name in LAYERS if has.get(name)]


def _refuse(name: str, block: npt.NDArray[Any], product: Product) -> None:
    refuse_infinite(block, name, product.path)
    if name == "coherence":
        refuse_coherence_out_of_range(block, product.path)


def check_source(product: Product, side: int, progress: Progress) -> None:
    """Check every pixel of a product on its own grid.

    Parameters
    ----------
    product : Product
        One track and period.
    side : int
        Of a block [px].
    progress : Progress
        Step ``check source``.

    Raises
    ------
    InputError
        SW-109 or SW-110 for unusable values.
    """
    sources = {name: product.layers[name] for name in _CHECKED if name in product.layers}

    def work(window: Window) -> None:
        for name, source in sources.items():
            _refuse(name, read_canonical(source, window), product)

    shape = (int(product.geobox.shape[0]), int(product.geobox.shape[1]))
    for_each_block(shape, side, work, progress, "check source")


def survey(job: Job, progress: Progress) -> Survey:
    """First pass: check, count, and take the sample for references and noise.

    Parameters
    ----------
    job : Job
        The product.
    progress : Progress
        Step ``check``.

    Returns
    -------
    Survey

    Raises
    ------
    InputError
        SW-108 without a valid pixel; SW-109 or SW-110 for unusable values.
    """
    # Odd, so that on a full map the samples of neighbouring rows do not line up in columns.
    stride = (job.shape[0] * job.shape[1] // SAMPLE_PIXELS) | 1

    # The phase is only stored: where it was checked on its own grid, this pass can do without.
    skip = None if job.passes_through else "wrapped_phase"
    cells = Cells(job.shape, _cell_side(job))

    def work(window: Window) -> _Block:
        blocks = job.read(window, skip)
        found = job.validity(window, blocks)
        chosen = np.flatnonzero(found.valid)[::stride]
        coherence = blocks.get("coherence")
        sample = Sample(
            blocks["los_displacement"].ravel()[chosen],
            None if coherence is None else coherence.ravel()[chosen],
            cells.index(chosen, window.width, window.row, window.col),
        )
        return _Block(sample, found.counts, *cells.count(found.valid, window.row, window.col))

    blocks = for_each_block(job.shape, job.sides.shard, work, progress, "check")
    counts = {name: sum(b.counts[name] for b in blocks) for name in ("total", *REASONS, "valid")}
    if counts["valid"] == 0:
        why = ", ".join(f"{counts[name]} {name}" for name in REASONS)
        raise InputError(
            "SW-108",
            f"none of {counts['total']} pixels is valid ({why})",
            path=job.product.path,
        )
    parts = [b.sample.coherence for b in blocks if b.sample.coherence is not None]
    sample = Sample(
        np.concatenate([b.sample.displacement for b in blocks]),
        np.concatenate(parts) if parts else None,
        np.concatenate([b.sample.cell for b in blocks]),
    )
    by_cell = np.zeros(cells.shape, dtype=np.int32)
    for block in blocks:
        by_cell[block.cells] += block.by_cell
    references = _references(job, sample, counts["valid"], cells, by_cell)
    # The noise is that of the map after referencing. A constant of the whole map does not change it.
    level = sample.displacement - references.beside_first(sample.cell)
    sigma = mad_sigma(velocity(level, job.product.days))
    return Survey(counts, references, max(sigma, SIGMA_FLOOR))


def _cell_side(job: Job) -> int:
    """Side of the cells that tell components; the whole map where these are not asked for."""
    return cell_side(_pixel_m(job)) if job.cfg.reference == "component" else max(job.shape)


def _pixel_m(job: Job) -> float:
    return abs(float(job.geobox.resolution.x))


def _references(
    job: Job, sample: Sample, n_valid: int, cells: Cells, by_cell: npt.NDArray[np.int32]
) -> Referencing:
    cfg, pixel_km2 = job.cfg, _pixel_m(job) ** 2 / 1e6
    match cfg.reference:
        case "none":
            return Referencing()
        case "median":
            return whole_map(sample, cfg.reference_coherence, n_valid * pixel_km2)
        case "component":
            return by_component(
                cells,
                by_cell,
                sample,
                threshold=cfg.reference_coherence,
                least_km2=cfg.reference_km2_min,
                pixel_km2=pixel_km2,
            )


def convert(
    path: Path, job: Job, references: Referencing, meta: dict[str, Any], progress: Progress
) -> None:
    """Second pass: declare the store, then convert and write it shard by shard.

    Parameters
    ----------
    path : Path
        The new store.
    job : Job
        The product.
    references : Referencing
        Subtracted from the displacement.
    meta : dict
        Of the artefact.
    progress : Progress
        Step ``write``.
    """
    product, days = job.product, job.product.days
    names = [*LAYER_NAMES, *(n for n in ("wrapped_phase",) if n in product.layers)]
    attrs = {k: v for k, v in meta.items() if k not in {"counts", "components", "grid"}}
    create_store(path, job.geobox, [LAYERS[name] for name in names], job.sides, attrs)
    writer = StoreWriter(path)

    def work(window: Window) -> None:
        blocks = job.read(window)
        valid = job.validity(window, blocks).valid
        subtracted = references.at(window.row, window.col, (window.height, window.width))
        displacement = blocks["los_displacement"] - subtracted
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

"""From a product to its period cube: check, reference, convert, mask, write, publish.

Two passes over the map (`components.cube.passes`), both blockwise: nothing is written before the first has
ended well. Memory holds a few blocks, the sample and counts by cells of half a kilometre,
whatever the size of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import rasterio

from components.config import IngestConfig, RegionConfig
from components.cube.align import require_overlap
from components.cube.passes import Job, check_source, convert, layers_with_data, make_job, survey
from components.cube.region import ensure_region, region_geobox
from components.cube.track import ensure_track
from components.errors import InputError
from components.grid import geobox_to_dict
from components.products.base import Product
from components.progress import Progress, no_progress
from components.workspace import Artefact, Workspace, read_artefact, stage_key

#: Raised when the same inputs would give other values.
ALGORITHM: Final = "2"

#: Name of the store inside the artefact.
STORE: Final = "cube.zarr"

#: GDAL's block cache [bytes]. Its default is a share of the machine's memory and would grow with the map.
_GDAL_CACHE: Final = 128 * 2**20


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
        ``valid_fraction``, ``sigma_velocity`` [mm/yr], ``counts`` (pixels by reason), ``references`` (the
        largest ground first, empty where nothing was subtracted; each ``value_m`` [m, + toward] subtracted,
        ``coherence`` and ``pixels`` that it rests on, ``km2`` of its ground), ``components`` (separated
        pieces of ground: ``total``, and ``small`` ones without a reference of their own; 0 where not asked).

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
            job = make_job(product, cfg, geobox, track)
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
    job: Job,
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
        check_source(product, job.sides.shard, progress)
    found = survey(job, progress)
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
        "layers": layers_with_data(product),
        "valid_fraction": found.counts["valid"] / found.counts["total"],
        "sigma_velocity": found.sigma_velocity,
        "counts": found.counts,
        "references": [
            {
                "value_m": c.reference.value,
                "coherence": c.reference.threshold,
                "pixels": c.reference.n_pixels,
                "km2": c.km2,
            }
            for c in found.references.found
        ],
        "components": {
            "total": found.references.n_components,
            "small": found.references.n_small,
        },
    }
    with ws.publish("cube", final, key, meta) as folder:
        convert(folder / STORE, job, found.references, meta, progress)
    return Artefact("cube", key, str(final), meta)

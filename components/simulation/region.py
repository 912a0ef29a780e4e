"""A simulated region on disk: HyP3 products of several periods and tracks, labels and truth.

Period k spans acquisitions k and k + 1; two consecutive periods share one. Landslides and hard
negatives on the ground are the same in all periods and tracks.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
from odc.geo.geobox import GeoBox

from components.config import SimulateConfig
from components.errors import InputError, WorkspaceError
from components.grid import geobox_to_dict
from components.progress import Progress, no_progress
from components.provenance import digest, file_sha256
from components.simulation.artefacts import dem_error
from components.simulation.atmosphere import Acquisition, Atmosphere
from components.simulation.decorrelation import ground_coherence
from components.simulation.dem import Elevation, read_dem, region_grid
from components.simulation.fields import Float, stream
from components.simulation.hyp3_writer import (
    Pair,
    copy_layers,
    period_layers,
    track_layers,
    utc_of_pass,
    write_product,
    write_raster,
)
from components.simulation.look import Direction, Look, make_look
from components.simulation.negatives import Negatives, place_negatives
from components.simulation.observe import Observation, Track, make_track, observe
from components.simulation.placement import Placement, landslide_count, place_landslides
from components.simulation.terrain import Ground, Terrain, generate_terrain, make_ground
from components.simulation.truth import Seen, write_labels, write_truth
from components.workspace import coded_os_errors, write_json

#: Raised when the same configuration gives other bytes.
ALGORITHM: Final = "simulate-1"

MANIFEST: Final = "simulation.json"
#: Two products are simulated at a time: numpy and GDAL let go of the interpreter lock.
_WORKERS = 2


@dataclass(frozen=True)
class SimulationResult:
    """Where a simulated region is.

    Parameters
    ----------
    products : tuple of Path
        HyP3 folders, by track and period.
    labels, labels_shp : Path
        The interpreters' inventory as GeoPackage and as shapefile.
    truth : Path
        GeoPackage with the layers ``footprints``, ``negatives`` and ``rates``.
    dem : Path
        Elevation on the region's grid [m].
    n_landslides : int
        Landslides in the region, visible or not.
    seconds : float
        Time that this call took.
    reused : bool
        True where the region was there already.
    """

    products: tuple[Path, ...]
    labels: Path
    labels_shp: Path
    truth: Path
    dem: Path
    n_landslides: int
    seconds: float
    reused: bool = False


def simulate_region(
    out: Path, cfg: SimulateConfig, progress: Progress = no_progress
) -> SimulationResult:
    """Simulate a region and write it, whole or not at all.

    A region of the same configuration that is already there is left as it is. A region of another
    configuration is replaced; any other folder is refused.

    Parameters
    ----------
    out : Path
        Folder of the region.
    cfg : SimulateConfig
        What to simulate.
    progress : Progress
        Told of each product.

    Returns
    -------
    SimulationResult

    Raises
    ------
    InputError
        SW-701 for an impossible date or CRS; SW-101, SW-102, SW-103, SW-115 for an unusable DEM.
    WorkspaceError
        SW-201 where the folder holds something else or is not writable, SW-202 on a full disk.
    """
    began = time.monotonic()
    out = Path(out).expanduser().resolve()
    dates = _dates(cfg)
    key = _key(cfg)
    with coded_os_errors(out):
        _refuse_foreign(out)
        if _is_whole(out, key):
            return _result(out, began, reused=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        # One fixed name: what a killed run has left is found and removed by the next.
        staging = out.with_name(f".{out.name}.unfinished")
        replaced = out.with_name(f".{out.name}.replaced")
        for left in (staging, replaced):
            shutil.rmtree(left, ignore_errors=True)
        staging.mkdir()
        try:
            facts = _write(staging, cfg, dates, key, progress)
            files = sorted(p for p in staging.rglob("*") if p.is_file())
            facts["files"] = {p.relative_to(staging).as_posix(): p.stat().st_size for p in files}
            write_json(staging / MANIFEST, facts)
            if out.exists():
                os.replace(out, replaced)
            os.replace(staging, out)
        finally:
            for left in (staging, replaced):
                shutil.rmtree(left, ignore_errors=True)
    return _result(out, began, reused=False)


def _dates(cfg: SimulateConfig) -> list[date]:
    try:
        first = date.fromisoformat(cfg.start)
        return [first + timedelta(days=k * cfg.period_days) for k in range(cfg.periods + 1)]
    except (ValueError, OverflowError) as e:
        raise InputError("SW-701", f"`simulate.start`: {e} (got {cfg.start!r})") from None


def _key(cfg: SimulateConfig) -> str:
    values = cfg.model_dump(mode="json")
    # The content of the elevation raster counts, not where it lies.
    values["dem"] = None if cfg.dem is None else file_sha256(cfg.dem)
    return digest(ALGORITHM, values)


def _refuse_foreign(out: Path) -> None:
    if not out.exists() or (out / MANIFEST).is_file():
        return
    if not out.is_dir() or any(out.iterdir()):
        raise WorkspaceError(
            "SW-201",
            "the folder holds something that is not a simulated region",
            path=out,
            remedy="Choose a new folder for the simulated region.",
        )


def _is_whole(out: Path, key: str) -> bool:
    try:
        facts = json.loads((out / MANIFEST).read_text())
        files = facts["files"].items()
        return bool(facts["key"] == key) and all(
            (out / name).stat().st_size == size for name, size in files
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _result(out: Path, began: float, *, reused: bool) -> SimulationResult:
    facts = json.loads((out / MANIFEST).read_text())
    return SimulationResult(
        products=tuple(out / "products" / name for name in facts["products"]),
        labels=out / "labels.gpkg",
        labels_shp=out / "labels.shp",
        truth=out / "truth.gpkg",
        dem=out / "dem.tif",
        n_landslides=int(facts["landslides"]["placed"]),
        seconds=time.monotonic() - began,
        reused=reused,
    )


def _write(
    folder: Path, cfg: SimulateConfig, dates: list[date], key: str, progress: Progress
) -> dict[str, Any]:
    """Write everything but the manifest; return the manifest's facts."""
    shape = (cfg.height, cfg.width)
    total = cfg.periods * len(cfg.tracks) + 2
    progress("simulate", 0, total)
    terrain, geobox = _terrain(cfg, shape)
    ground = make_ground(terrain, cfg.resolution_m)
    tracks = list(dict.fromkeys(cfg.tracks))
    with ThreadPoolExecutor(1) as aside:
        # The first track needs no landslides for its geometry and weather.
        first = aside.submit(_prepare, cfg, ground, tracks[0]) if tracks else None
        wanted = landslide_count(ground, cfg.landslides_per_1000km2)
        placement = place_landslides(
            stream(cfg.seed, "landslides"), ground, wanted, cfg.periods, cfg.period_days
        )
        negatives = place_negatives(stream(cfg.seed, "negatives"), ground, placement.footprints > 0)
        write_raster(folder / "dem.tif", ground.elevation, geobox)
        progress("simulate", 1, total)

    world = _World(cfg, dates, geobox, ground, placement, negatives)
    done, names, seen = 1, [], []
    for direction in tracks:
        ready = first.result() if first is not None else _prepare(cfg, ground, direction)
        first = None
        for name, facts in world.write_track(folder / "products", ready):
            names.append(name)
            seen.append(facts)
            done += 1
            progress("simulate", done, total)
    write_labels(folder, placement.landslides, seen, geobox)
    areas = write_truth(
        folder / "truth.gpkg", placement.landslides, negatives.items, seen, geobox, dates
    )
    progress("simulate", total, total)
    return {
        "key": key,
        "algorithm": ALGORITHM,
        "config": cfg.model_dump(mode="json"),
        "grid": geobox_to_dict(geobox),
        "dates": [d.isoformat() for d in dates],
        "products": names,
        "landslides": placement.counts,
        "negatives": negatives.counts,
        "labels": {
            "drawn": sum(len(s.labels) for s in seen),
            "ignore": sum(label.ignore for s in seen for label in s.labels),
        },
        "anomalies": areas,
    }


def _terrain(cfg: SimulateConfig, shape: tuple[int, int]) -> tuple[Terrain, GeoBox]:
    if cfg.dem is not None:
        found: Elevation = read_dem(cfg.dem, shape, cfg.resolution_m, cfg.epsg)
        return Terrain(found.elevation, np.zeros(shape, dtype=bool)), found.geobox
    geobox = region_grid(shape, cfg.resolution_m, cfg.epsg, None)
    return generate_terrain(stream(cfg.seed, "terrain"), shape, cfg.resolution_m), geobox


@dataclass(frozen=True)
class _Prepared:
    """What a track brings, whatever moves on the ground."""

    track: Track
    lasting_coherence: Float
    height_error: Float
    atmosphere: Atmosphere
    seed: int
    passes: dict[int, Acquisition]

    def acquire(self, k: int) -> Acquisition:
        """Draw acquisition k."""
        return self.atmosphere.draw(stream(self.seed, "acquisition", self.track.look.direction, k))


def _prepare(cfg: SimulateConfig, ground: Ground, direction: Direction) -> _Prepared:
    look = make_look(stream(cfg.seed, "look", direction), ground.shape, cfg.resolution_m, direction)
    passes: dict[int, Acquisition] = {}
    ready = _Prepared(
        track=make_track(ground, look),
        lasting_coherence=ground_coherence(stream(cfg.seed, "coherence"), ground),
        height_error=dem_error(stream(cfg.seed, "dem-error"), ground.shape, cfg.resolution_m),
        atmosphere=Atmosphere(ground),
        seed=cfg.seed,
        passes=passes,
    )
    passes |= {k: ready.acquire(k) for k in range(min(_WORKERS, cfg.periods) + 1)}
    return ready


@dataclass(frozen=True)
class _World:
    """What all products of a region have in common."""

    cfg: SimulateConfig
    dates: list[date]
    geobox: GeoBox
    ground: Ground
    placement: Placement
    negatives: Negatives

    def write_track(self, products: Path, ready: _Prepared) -> Iterable[tuple[str, Seen]]:
        """Write the products of one track, two periods at a time."""
        cfg, track, direction = self.cfg, ready.track, ready.track.look.direction
        shared = track_layers(self.ground, track)
        first: tuple[Path, str] | None = None
        passes = dict(ready.passes)

        def simulate(k: int) -> Observation:
            return observe(
                stream(cfg.seed, "noise", direction, k),
                self.ground,
                track,
                self.placement.landslides,
                self.negatives.items,
                ready.lasting_coherence,
                ready.height_error,
                (passes[k], passes[k + 1]),
                (float(k * cfg.period_days), float((k + 1) * cfg.period_days)),
            )

        with ThreadPoolExecutor(_WORKERS) as pool:
            for start in range(0, cfg.periods, _WORKERS):
                batch = range(start, min(start + _WORKERS, cfg.periods))
                # Acquisitions of periods gone by are dropped: memory does not grow with them.
                new = [k for k in range(start, batch.stop + 1) if k not in passes]
                passes = {k: v for k, v in passes.items() if k >= start} | dict(
                    zip(new, pool.map(ready.acquire, new), strict=True)
                )
                for k, seen in zip(batch, pool.map(simulate, batch), strict=True):
                    pair = self._pair(track.look, k, passes)
                    folder = products / pair.name
                    layers = period_layers(
                        stream(cfg.seed, "speckle", direction, k), seen, track, shared["inc_map"]
                    )
                    if first is None:
                        first = folder, pair.name
                        layers |= shared
                    write_product(folder, pair.name, pair.parameters(), layers, self.geobox)
                    if first[0] != folder:
                        copy_layers(*first, folder, pair.name)
                    yield pair.name, self._seen(k, seen, passes, track)

    def _pair(self, look: Look, k: int, passes: dict[int, Acquisition]) -> Pair:
        longitude = float((self.cfg.epsg % 100) * 6 - 183)
        return Pair(
            direction=look.direction,
            heading_deg=look.heading_deg,
            reference=self.dates[k],
            secondary=self.dates[k + 1],
            utc=utc_of_pass(look.direction, longitude),
            baseline_m=passes[k + 1].baseline_m - passes[k].baseline_m,
            pixel_m=self.cfg.resolution_m,
            identity=f"{self.cfg.seed}",
        )

    def _seen(
        self, k: int, seen: Observation, passes: dict[int, Acquisition], track: Track
    ) -> Seen:
        days = (float(k * self.cfg.period_days), float((k + 1) * self.cfg.period_days))
        rates: dict[int, float] = {}
        peaks: dict[int, float] = {}
        for slide in self.placement.landslides:
            rates[slide.slide_id] = slide.rate_mm_yr(*days)
            motion = slide.los_displacement(track.look.los, *days).ravel()
            peaks[slide.slide_id] = float(motion[np.abs(motion).argmax()])
        return Seen(
            track=track.look.direction,
            period=f"{self.dates[k]:%Y%m%d}_{self.dates[k + 1]:%Y%m%d}",
            labels=seen.labels,
            rate_mm_yr=rates,
            peak_los_m=peaks,
            cells=(*passes[k].cells, *passes[k + 1].cells),
            islands=tuple(seen.islands.masks),
        )

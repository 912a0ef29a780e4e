"""From stitched detections of all tracks and periods to the inventory: files, pictures, report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import geopandas as gpd
import shapely

from components.config import InventoryConfig
from components.cube.read import find_cube
from components.cube.region import region_geobox
from components.errors import ProcessingError
from components.evaluation.evaluate import model_card
from components.grid import geobox_to_dict
from components.inventory.export import write_all
from components.inventory.pictures import crs_name, draw_entry, reference_frame
from components.inventory.plain import number
from components.inventory.polygons import geodesic_extent, lonlat_transformer
from components.inventory.report import MapEntry, Report, render_report
from components.inventory.rows import MapWork, ask_other_tracks, concatenate, prepare, tables
from components.progress import Progress, no_progress
from components.provenance import software
from components.workspace import Artefact, Workspace, stage_key, write_json

if TYPE_CHECKING:
    import pandas as pd
    from odc.geo.geobox import GeoBox

#: Raised when results change for the same inputs.
ALGORITHM: Final = "3"


def build_inventory(
    ws: Workspace,
    detections: Sequence[Artefact],
    cfg: InventoryConfig,
    evaluation: Artefact | None = None,
    progress: Progress = no_progress,
    *,
    title: str = "Inventory of active landslides",
) -> Artefact:
    """Make the inventory of all given maps.

    Parameters
    ----------
    ws : Workspace
        Holds region, tracks and cubes of the detections.
    detections : sequence of Artefact
        Stage ``detections``, one per track and period.
    cfg : InventoryConfig
        Thresholds.
    evaluation : Artefact, optional
        Stage ``evaluation``; its table goes into the report, its reference polygons onto the maps.
    progress : Progress
        Told of attributes, pictures and files.
    title : str
        Head line of the report.

    Returns
    -------
    Artefact
        Stage ``inventory``: ``landslides.gpkg``, ``.shp``, ``.parquet``, ``map_*.png``,
        ``zoom_*.png``, ``report.html``, ``summary.json``. Meta: ``maps`` (``track/period``),
        ``n_landslides``, ``n_lineages``, ``n_sites``, ``mapped_km2``, ``landslide_km2``,
        ``windows``.

    Raises
    ------
    ProcessingError
        SW-602 without detections.
    InputError
        SW-702 where a cube is missing.
    """
    if not detections:
        raise ProcessingError("SW-602", "no detections to inventory", path=ws.root)
    ordered = sorted(detections, key=lambda a: (a.meta["track"], a.meta["period"]))
    cubes = [find_cube(ws, a.meta["track"], a.meta["period"]) for a in ordered]
    key = stage_key(
        "inventory",
        ALGORITHM,
        [a.key for a in ordered],
        [c.key for c in cubes],
        cfg.model_dump(mode="json"),
        None if evaluation is None else evaluation.key,
        title,
    )
    final = ws.place("inventory")
    if found := ws.find(final, key):
        return found

    geobox = region_geobox(ws)
    grid = geobox_to_dict(geobox)
    references = reference_frame(evaluation)
    works = [
        prepare(ws, artefact, cube, cfg, grid)
        for artefact, cube in zip(ordered, cubes, strict=True)
    ]
    works = ask_other_tracks(works, cfg, geobox, progress)
    frames = tables(works, cfg, geobox, progress)
    table = concatenate(frames, grid["crs"])
    region_km2 = _region_km2(geobox)
    entries = _entries(works, frames, region_km2)
    summary = _summary(works, entries, table, cfg)
    meta = {
        "maps": [f"{w.facts.track}/{w.facts.period}" for w in works],
        "n_landslides": len(table),
        "n_lineages": summary["n_lineages"],
        "n_sites": summary["n_sites"],
        "landslide_km2": summary["landslide_km2"],
        "mapped_km2": summary["mapped_km2"],
        "windows": summary["windows"],
    }
    with ws.publish("inventory", final, key, meta) as folder:
        write_all(table, folder)
        drawn = []
        for i, (work, entry) in enumerate(zip(works, entries, strict=True)):
            progress("pictures", i, len(works))
            drawn.append(
                draw_entry(
                    folder,
                    entry,
                    frame=frames[i],
                    landslides=work.selection.landslides,
                    references=references,
                    reader=work.reader,
                    geobox=geobox,
                )
            )
        progress("pictures", len(works), len(works))
        report = Report(
            title=title,
            maps=drawn,
            table=table.drop(columns="geometry"),
            crs=crs_name(grid["crs"]),
            region_km2=region_km2,
            pixel_m=abs(float(geobox.affine.a)),
            settings=_settings(works, cfg),
            metrics=None if evaluation is None else _metrics(evaluation),
            card=_card(ws, works[-1].artefact),
            software=software(),
        )
        (folder / "report.html").write_text(render_report(report), encoding="utf-8")
        write_json(folder / "summary.json", summary)
    return Artefact("inventory", key, str(final), meta)


def inventory_table(
    ws: Workspace,
    detections: Sequence[Artefact],
    cfg: InventoryConfig,
    progress: Progress = no_progress,
) -> gpd.GeoDataFrame:
    """The inventory's rows, without writing anything.

    Parameters
    ----------
    ws, detections, cfg, progress
        As in `build_inventory`.

    Returns
    -------
    GeoDataFrame
        Columns of `components.inventory.attributes.ATTRIBUTES`, multipolygons in the region's CRS; by
        track, period and position.

    Raises
    ------
    InputError
        SW-702 where a cube is missing.
    """
    geobox = region_geobox(ws)
    grid = geobox_to_dict(geobox)
    works = [
        prepare(ws, a, find_cube(ws, a.meta["track"], a.meta["period"]), cfg, grid)
        for a in sorted(detections, key=lambda a: (a.meta["track"], a.meta["period"]))
    ]
    works = ask_other_tracks(works, cfg, geobox, progress)
    return concatenate(tables(works, cfg, geobox, progress), grid["crs"])


def _region_km2(geobox: GeoBox) -> float:
    box = shapely.box(*geobox.boundingbox)
    # Straight on the map is not straight on the ellipsoid: a vertex every hundredth keeps it close.
    outline = shapely.segmentize(
        box, max(geobox.boundingbox.span_x, geobox.boundingbox.span_y) / 100
    )
    to_lonlat = lonlat_transformer(geobox_to_dict(geobox)["crs"])
    return geodesic_extent(shapely.MultiPolygon([outline]), to_lonlat).area_m2 / 1e6


def _entries(
    works: Sequence[MapWork], frames: Sequence[gpd.GeoDataFrame], region_km2: float
) -> list[MapEntry]:
    entries: list[MapEntry] = []
    seen: dict[str, set[str]] = {}
    before: dict[str, set[str]] = {}
    for work, frame in zip(works, frames, strict=True):
        facts = work.facts
        present = set(frame["lineage_id"])
        known = seen.setdefault(facts.track, set())
        windows = work.artefact.meta.get("windows", {})
        entries.append(
            MapEntry(
                track=facts.track,
                period=facts.period,
                date_start=facts.date_start,
                date_end=facts.date_end,
                n_landslides=len(frame),
                new=len(present - known),
                continuing=len(present & known),
                not_found=len(before.get(facts.track, set()) - present),
                area_km2=float(frame["area_m2"].sum()) / 1e6,
                mapped_km2=float(work.cube.meta["valid_fraction"]) * region_km2,
                windows={k: int(v) for k, v in sorted(windows.items())},
                provenance={
                    "product": facts.product_sha256,
                    "model": facts.model_hash,
                    "configuration": facts.config_hash,
                    "cube": work.cube.key,
                    "detections": work.artefact.key,
                },
            )
        )
        known |= present
        before[facts.track] = present
    return entries


def _summary(
    works: Sequence[MapWork],
    entries: Sequence[MapEntry],
    table: pd.DataFrame,
    cfg: InventoryConfig,
) -> dict[str, Any]:
    windows: dict[str, int] = dict.fromkeys(("total", "done", "skipped", "failed"), 0)
    for entry in entries:
        for name in windows:
            windows[name] += entry.windows.get(name, 0)
    return {
        "n_landslides": len(table),
        "n_lineages": int(table["lineage_id"].nunique()),
        "n_sites": int(table["site_id"].nunique()),
        "landslide_km2": sum(e.area_km2 for e in entries),
        "mapped_km2": sum(e.mapped_km2 for e in entries),
        "windows": windows,
        "min_pixels": cfg.min_pixels,
        "maps": [
            {
                "track": e.track,
                "period": e.period,
                "n_landslides": e.n_landslides,
                "new": e.new,
                "continuing": e.continuing,
                "not_found": e.not_found,
                "landslide_km2": e.area_km2,
                "mapped_km2": e.mapped_km2,
                "windows": dict(e.windows),
                "score_min": w.score_min,
                "counts": w.selection.counts,
                **e.provenance,
            }
            for e, w in zip(entries, works, strict=True)
        ],
    }


def _settings(works: Sequence[MapWork], cfg: InventoryConfig) -> dict[str, str]:
    def total(name: str) -> str:
        return number(sum(w.selection.counts[name] for w in works))

    thresholds = sorted({w.score_min for w in works})
    return {
        "Score threshold": ", ".join(f"{t:.4g}" for t in thresholds),
        "Minimum mapping unit": f"{cfg.min_pixels} pixels",
        "Stitched detections": total("detections"),
        "Left out below the score threshold": total("below_score"),
        "Left out below the minimum mapping unit": total("below_min_pixels"),
        "Left out as duplicates": total("duplicates"),
        "Left out as vertical motion, by two tracks": total("vertical"),
        "Windows at the cap of detections": number(
            sum(w.artefact.meta.get("windows", {}).get("capped", 0) for w in works)
        ),
        "One lineage": f"from IoU {cfg.lineage_iou:g}, or {cfg.lineage_overlap:g} of the smaller area",
    }


def _card(ws: Workspace, detections: Artefact) -> dict[str, Any]:
    """The model card, or what the detections say about weights from elsewhere."""
    facts = ("form", "preset", "classes", "score_threshold", "model_hash")
    known = {k: detections.meta[k] for k in facts if k in detections.meta}
    return model_card(ws, detections) or known


def _metrics(evaluation: Artefact) -> dict[str, Any]:
    out: dict[str, Any] = json.loads((evaluation.folder / "metrics.json").read_text())
    return out

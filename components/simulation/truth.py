"""The interpreters' inventory and the truth behind it, as vector layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
from odc.geo.geobox import GeoBox

from components.simulation.atmosphere import Cell
from components.simulation.fields import Bool, Labels
from components.simulation.labels import Label
from components.simulation.landslides import Landslide
from components.simulation.negatives import Negative
from components.simulation.vectors import (
    frame,
    label_polygons,
    mask_polygon,
    write_geopackage,
    write_shapefile,
)

_LABEL_COLUMNS: Final = {
    "slide_id": "int64",
    "category": "object",
    "track": "object",
    "period": "object",
    "ignore": "int32",
    "shape": "object",
    "motion": "object",
}
_FOOTPRINT_COLUMNS: Final = {
    "slide_id": "int64",
    "shape": "object",
    "motion": "object",
    "rotational": "int32",
    "history": "object",
    "v_mm_yr": "float64",
    "start": "object",
    "stop": "object",
    "area_m2": "float64",
    "slope_deg": "float64",
    "aspect_deg": "float64",
    "elevation_m": "float64",
}
_NEGATIVE_COLUMNS: Final = {
    "kind": "object",
    "track": "object",
    "period": "object",
    "rate_mm_yr": "float64",
    "area_m2": "float64",
}
_RATE_COLUMNS: Final = {
    "slide_id": "int64",
    "track": "object",
    "period": "object",
    "rate_mm_yr": "float64",
    "peak_los_mm": "float64",
    "visible_px": "int64",
    "visible_fraction": "float64",
    "snr": "float64",
    "ignore": "int32",
}


@dataclass(frozen=True)
class Seen:
    """What the truth tells of one track and period.

    Parameters
    ----------
    track, period : str
        Which.
    labels : tuple of Label
        Visible landslides.
    rate_mm_yr : dict
        `slide_id` → mean rate of the fastest point [mm/yr].
    peak_los_m : dict
        `slide_id` → displacement of largest size along the line of sight [m], signed.
    cells : tuple of Cell
        Turbulent cells of both acquisitions.
    islands : tuple of (row, col, mask)
        Unwrapping errors.
    """

    track: str
    period: str
    labels: tuple[Label, ...]
    rate_mm_yr: dict[int, float]
    peak_los_m: dict[int, float]
    cells: tuple[Cell, ...]
    islands: tuple[tuple[int, int, Bool], ...]


def write_labels(
    folder: Path, landslides: Sequence[Landslide], seen: Sequence[Seen], geobox: GeoBox
) -> None:
    """Write what interpreters would draw: ``labels.gpkg`` (layer ``landslides``) and ``labels.shp``.

    One row per landslide, track and period in which it is visible; ``ignore`` is 1 where less than
    30 % of the footprint or fewer than 6 pixels are.

    Parameters
    ----------
    folder : Path
        Where to write.
    landslides : sequence of Landslide
        All of them, in order of `slide_id`.
    seen : sequence of Seen
        One a product.
    geobox : GeoBox
        Grid of the region.
    """
    rows, polygons = [], []
    for facts in seen:
        outlines = label_polygons(_label_map(facts.labels, geobox), geobox.affine)
        for label in facts.labels:
            slide = landslides[label.slide_id - 1]
            rows.append(
                {
                    "slide_id": label.slide_id,
                    "category": "landslide",
                    "track": facts.track,
                    "period": facts.period,
                    "ignore": int(label.ignore),
                    "shape": slide.shape,
                    "motion": slide.motion,
                }
            )
            polygons.append(outlines[label.slide_id])
    table = frame(rows, _LABEL_COLUMNS, polygons, str(geobox.crs))
    write_geopackage(folder / "labels.gpkg", {"landslides": table})
    write_shapefile(folder / "labels.shp", table)


def write_truth(
    path: Path,
    landslides: Sequence[Landslide],
    negatives: Sequence[Negative],
    seen: Sequence[Seen],
    geobox: GeoBox,
    dates: Sequence[date],
) -> dict[str, float]:
    """Write the truth: layers ``footprints``, ``negatives`` and ``rates`` (a table).

    Parameters
    ----------
    path : Path
        The GeoPackage.
    landslides : sequence of Landslide
        All of them.
    negatives : sequence of Negative
        Hard negatives on the ground.
    seen : sequence of Seen
        One a product.
    geobox : GeoBox
        Grid of the region.
    dates : sequence of date
        Acquisitions.

    Returns
    -------
    dict
        ``landslide_km2`` and ``negative_km2`` (ground, and the mean over products of turbulent cells and
        unwrapping errors), and ``negative_share`` of both.
    """
    pixel_m2 = float(abs(geobox.affine.a * geobox.affine.e))
    crs = str(geobox.crs)
    footprints = _footprints(landslides, geobox, dates, pixel_m2, crs)
    rows: list[dict[str, Any]] = []
    polygons = []

    def add(kind: str, track: str, period: str, rate: float, place: tuple[int, int, Bool]) -> float:
        row, col, mask = place
        if not mask.any():
            return 0.0
        polygon = mask_polygon(mask, row, col, geobox.affine)
        rows.append(
            {
                "kind": kind,
                "track": track,
                "period": period,
                "rate_mm_yr": rate,
                "area_m2": polygon.area,
            }
        )
        polygons.append(polygon)
        return float(polygon.area)

    lasting = sum(add(n.kind, "", "", n.rate_mm_yr, (n.row, n.col, n.mask)) for n in negatives)
    passing = 0.0
    for facts in seen:
        for cell in facts.cells:
            place = (cell.row, cell.col, cell.mask)
            passing += add("turbulence", facts.track, facts.period, 0.0, place)
        for island in facts.islands:
            passing += add("unwrapping", facts.track, facts.period, 0.0, island)
    layers = {
        "footprints": footprints,
        "negatives": frame(rows, _NEGATIVE_COLUMNS, polygons, crs),
        "rates": frame(_rates(landslides, seen), _RATE_COLUMNS, None, crs),
    }
    write_geopackage(path, layers)
    landslide_km2 = float(footprints["area_m2"].sum()) / 1e6
    negative_km2 = (lasting + passing / max(len(seen), 1)) / 1e6
    both = landslide_km2 + negative_km2
    return {
        "landslide_km2": round(landslide_km2, 4),
        "negative_km2": round(negative_km2, 4),
        "negative_share": round(negative_km2 / both, 4) if both else 0.0,
    }


def _footprints(
    landslides: Sequence[Landslide],
    geobox: GeoBox,
    dates: Sequence[date],
    pixel_m2: float,
    crs: str,
) -> Any:
    days = [float((d - dates[0]).days) for d in dates]
    columns: dict[str, str] = dict(_FOOTPRINT_COLUMNS)
    # One column a period: rate of the fastest point [mm/yr].
    columns |= {f"v_p{k + 1}": "float64" for k in range(len(dates) - 1)}
    rows = []
    for slide in landslides:
        row: dict[str, Any] = {
            "slide_id": slide.slide_id,
            "shape": slide.shape,
            "motion": slide.motion,
            "rotational": int(slide.rotational),
            "history": slide.history.kind,
            "v_mm_yr": slide.velocity_mm_yr,
            "start": _day(dates[0], slide.history.start_day),
            "stop": _day(dates[0], slide.history.stop_day),
            "area_m2": slide.pixels * pixel_m2,
            "slope_deg": slide.slope_deg,
            "aspect_deg": slide.aspect_deg,
            "elevation_m": slide.elevation_m,
        }
        for k in range(len(dates) - 1):
            row[f"v_p{k + 1}"] = slide.rate_mm_yr(days[k], days[k + 1])
        rows.append(row)
    outlines = label_polygons(_label_map(landslides, geobox), geobox.affine)
    return frame(rows, columns, [outlines[s.slide_id] for s in landslides], crs)


def _label_map(objects: Sequence[Label | Landslide], geobox: GeoBox) -> Labels:
    out: Labels = np.zeros(tuple(geobox.shape), dtype=np.int32)
    for item in objects:
        height, width = item.mask.shape
        view = out[item.row : item.row + height, item.col : item.col + width]
        view[item.mask] = item.slide_id
    return out


def _rates(landslides: Sequence[Landslide], seen: Sequence[Seen]) -> list[dict[str, Any]]:
    rows = []
    for facts in seen:
        labels = {label.slide_id: label for label in facts.labels}
        for slide in landslides:
            label = labels.get(slide.slide_id)
            rows.append(
                {
                    "slide_id": slide.slide_id,
                    "track": facts.track,
                    "period": facts.period,
                    "rate_mm_yr": facts.rate_mm_yr[slide.slide_id],
                    "peak_los_mm": 1000.0 * facts.peak_los_m[slide.slide_id],
                    "visible_px": 0 if label is None else int(label.mask.sum()),
                    "visible_fraction": 0.0 if label is None else label.visible_fraction,
                    "snr": 0.0 if label is None else label.snr,
                    "ignore": 0 if label is None else int(label.ignore),
                }
            )
    return rows


def _day(first: date, days: float) -> str:
    """ISO date of a day; empty where it never comes."""
    return (first + timedelta(days=round(days))).isoformat() if np.isfinite(days) else ""

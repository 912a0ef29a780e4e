"""The report: one HTML file with pictures, tables and provenance that opens anywhere, offline."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from components.inventory.attributes import ATTRIBUTES
from components.inventory.plain import number, plain_date
from components.inventory.report_metrics import metric_rows, precision_recall, shown, size_rows

if TYPE_CHECKING:
    import pandas as pd

    from components.inventory.evidence import Evidence

#: Landslides listed in the table; the files hold all.
ROWS_MAX: Final = 1000

#: Maps shown as pictures, the latest; the folder holds all.
PICTURES_MAX: Final = 8

#: Columns of the landslide table, by attribute name.
_COLUMNS: Final = (
    "id",
    "lineage_id",
    "track",
    "period",
    "score",
    "area_m2",
    "v_mean",
    "v_p95",
    "v_slope",
    "motion",
    "snr",
    "coherence",
    "slope",
    "aspect",
    "elevation_mean",
    "lon",
    "lat",
)
_DIGITS: Final = {
    "score": 2,
    "area_m2": 0,
    "v_mean": 1,
    "v_p95": 1,
    "v_slope": 1,
    "snr": 1,
    "coherence": 2,
    "slope": 0,
    "aspect": 0,
    "elevation_mean": 0,
    "lon": 5,
    "lat": 5,
}


@dataclass(frozen=True)
class MapEntry:
    """One track and period in the report.

    Parameters
    ----------
    track, period : str
        Names.
    date_start, date_end : str
        ISO dates.
    n_landslides : int
        Landslides of the inventory.
    new, continuing, not_found : int
        Against the period before: first members of a lineage, later members, and lineages of the
        period before that have no member in this one.
    area_km2, mapped_km2 : float
        Landslide area and measured area [km²].
    windows : mapping of str to int
        ``total, done, skipped, failed``.
    provenance : mapping of str to str
        Name → digest.
    map_png, zoom_png : Path or None
        Pictures.
    evidence : tuple of Evidence
        Panels of the least certain landslides.
    """

    track: str
    period: str
    date_start: str
    date_end: str
    n_landslides: int
    new: int
    continuing: int
    not_found: int
    area_km2: float
    mapped_km2: float
    windows: Mapping[str, int]
    provenance: Mapping[str, str]
    map_png: Path | None = None
    zoom_png: Path | None = None
    evidence: tuple[Evidence, ...] = ()

    @property
    def dates(self) -> str:
        """Both dates for people."""
        return f"{plain_date(self.date_start)} – {plain_date(self.date_end)}"


@dataclass(frozen=True)
class Report:
    """All that the report shows.

    Parameters
    ----------
    title : str
        Head line.
    maps : sequence of MapEntry
        By track and date.
    table : DataFrame
        The inventory's attributes.
    crs : str
        The region's coordinate system.
    region_km2 : float
        Area of the region grid [km²].
    pixel_m : float
        Pixel size [m].
    settings : mapping of str to str
        What was left out and why: thresholds and counts.
    metrics : mapping or None
        ``metrics.json`` of the evaluation.
    card : mapping or None
        The model card.
    software : mapping of str to str
        Package → version.
    """

    title: str
    maps: Sequence[MapEntry]
    table: pd.DataFrame = field(repr=False)
    crs: str
    region_km2: float
    pixel_m: float
    settings: Mapping[str, str]
    metrics: Mapping[str, Any] | None = None
    card: Mapping[str, Any] | None = None
    software: Mapping[str, str] = field(default_factory=dict)


def embedded(path: Path) -> str:
    """A picture as data URI, in 64 instead of 256 levels a colour: a third smaller, not to be told apart.

    Parameters
    ----------
    path : Path
        A PNG.

    Returns
    -------
    str
        ``data:image/png;base64,…``
    """
    levels = [round(round(v / 255 * 63) * 255 / 63) for v in range(256)]
    out = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").point(levels * 3).save(out, format="PNG")
    return data_uri(out.getvalue())


def data_uri(png: bytes) -> str:
    """A PNG that stands in the document itself.

    Parameters
    ----------
    png : bytes
        The file.

    Returns
    -------
    str
        ``data:image/png;base64,…``
    """
    return "data:image/png;base64," + base64.b64encode(png).decode()


def render_report(report: Report) -> str:
    """The report as HTML text.

    Parameters
    ----------
    report : Report
        Contents.

    Returns
    -------
    str
        One HTML document without external references; all text is escaped.
    """
    environment = Environment(
        loader=PackageLoader("components.inventory", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["data_uri"] = data_uri
    template = environment.get_template("report.html.j2")
    latest = sorted(report.maps, key=lambda m: (m.date_end, m.track, m.period))[-PICTURES_MAX:]
    shown = [m for m in report.maps if m in latest]
    return template.render(
        report=report,
        headline=_headline(report),
        no_terrain=len(report.table) > 0 and bool(report.table["elevation_mean"].isna().all()),
        pictures=[
            {
                "entry": m,
                "map": embedded(m.map_png) if m.map_png else None,
                "zoom": embedded(m.zoom_png) if m.zoom_png else None,
            }
            for m in shown
        ],
        pictures_left=len(report.maps) - len(shown),
        columns=_columns(),
        rows=_rows(report.table, {e.id for m in shown for e in m.evidence}),
        rows_left=max(0, len(report.table) - ROWS_MAX),
        charts=_charts(report.table),
        metrics=metric_rows(report.metrics),
        sizes=size_rows(report.metrics),
        curve=precision_recall(report.metrics),
        provenance=sorted({k for m in report.maps for k in m.provenance}),
    )


def _headline(report: Report) -> list[dict[str, str]]:
    table = report.table
    sites = int(table["site_id"].nunique())
    latest = max(report.maps, key=lambda m: (m.date_end, m.track), default=None)
    fastest = table["v_p95"].abs().max() if len(table) else None
    several = len(report.maps) > 1
    out = [
        {
            "value": number(sites),
            "label": "active landslides",
            "note": f"{number(len(table))} outlines in {len(report.maps)} maps"
            if several
            else f"in {len(report.maps)} map",
        },
        {
            "value": number(latest.area_km2 if latest else 0, 2),
            "unit": "km²",
            "label": "moving ground",
            "note": f"{latest.track}, {latest.period}" if latest else "",
        },
        {
            "value": number(None if fastest is None else float(fastest)),
            "unit": "mm/yr" if fastest is not None else "",
            "label": "fastest (95th percentile)",
            "note": "along the line of sight",
        },
        {
            "value": number(sum(m.mapped_km2 for m in report.maps)),
            "unit": "km²",
            "label": "measured",
            "note": f"{len(report.maps)} × {number(report.region_km2)} km² region",
        },
    ]
    if report.metrics is not None:
        f1 = report.metrics["model"]["pooled"]["objects"]["f1"]
        base = report.metrics["baseline"]["pooled"]["objects"]["f1"]
        out.append(
            {
                "value": shown(f1, "percent"),
                "label": "F1 of landslides",
                "note": f"threshold baseline {shown(base, 'percent')}; "
                f"{report.metrics['settings']['area']}",
            }
        )
    return [{"unit": "", **h} for h in out]


def _columns() -> list[dict[str, str]]:
    table = {a.name: a for a in ATTRIBUTES}
    return [
        {
            "name": name,
            "unit": table[name].unit if table[name].unit not in {"", "1"} else "",
            "description": table[name].description,
            "kind": "text" if table[name].kind == "text" else "number",
        }
        for name in _COLUMNS
    ]


def _rows(table: pd.DataFrame, with_panel: set[str]) -> list[list[dict[str, str]]]:
    # Largest first: what a reader looks for; ties by identity keep the bytes fixed.
    ordered = table.sort_values(["area_m2", "id"], ascending=[False, True]).head(ROWS_MAX)
    out = []
    for record in ordered.to_dict("records"):
        row = []
        for name in _COLUMNS:
            value = record[name]
            if name in _DIGITS:
                known = math.isfinite(value)
                # The sort key needs no more digits than the text: shorter file.
                key = f"{value:.6g}" if known else ""
                row.append({"text": number(value, _DIGITS[name]), "key": key, "kind": "number"})
            else:
                row.append({"text": str(value), "key": str(value), "kind": "text"})
                if name == "id" and value in with_panel:
                    row[-1]["panel"] = f"#panel-{value}"
        out.append(row)
    return out


def _charts(table: pd.DataFrame) -> list[dict[str, Any]]:
    if table.empty:
        return []
    area = table["area_m2"].to_numpy() / 1e6
    speed = table["v_p95"].abs().to_numpy()
    aspect = table["aspect"].to_numpy()
    sectors = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")
    turned = np.floor(((aspect[np.isfinite(aspect)] + 22.5) % 360) / 45).astype(int)
    return [
        _bars("Area [km²]", area, (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, math.inf)),
        _bars("LOS speed, 95th percentile [mm/yr]", speed, (0, 8, 16, 32, 64, 128, 256, math.inf)),
        _scaled(
            "Downslope direction",
            list(zip(sectors, np.bincount(turned, minlength=8).tolist(), strict=True)),
        ),
    ]


def _bars(title: str, values: Any, edges: tuple[float, ...]) -> dict[str, Any]:
    counts, _ = np.histogram(values[np.isfinite(values)], bins=np.array(edges))
    labels = [f"≥ {a:g}" if math.isinf(b) else f"{a:g}–{b:g}" for a, b in pairwise(edges)]
    return _scaled(title, list(zip(labels, counts.tolist(), strict=True)))


def _scaled(title: str, bars: list[tuple[str, int]]) -> dict[str, Any]:
    most = max(1, *(n for _, n in bars))
    return {
        "title": title,
        "bars": [{"label": k, "n": n, "share": round(100 * n / most, 1)} for k, n in bars],
    }

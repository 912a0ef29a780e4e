"""The pictures of one map: the whole, and its largest and fastest landslides from near."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import geopandas as gpd
import numpy as np
import shapely
from pyproj import CRS

from components.dataset.labels import for_picture
from components.evaluation.evaluate import REFERENCES
from components.grid import Window, geobox_to_dict
from components.inventory.evidence import draw_evidence, least_certain
from components.inventory.figures import MAX_PX, Outlines, Zoom, draw_map, draw_zooms, save_png
from components.inventory.overview import Reader, read_overview, surroundings
from components.inventory.plain import number
from components.inventory.relief import velocity_limit
from components.inventory.report import MapEntry
from components.inventory.selection import Landslide

if TYPE_CHECKING:
    import pandas as pd
    from odc.geo.geobox import GeoBox

    from components.workspace import Artefact

#: Close views a map: half of them the largest, half the fastest landslides.
_ZOOMS: Final = 8


#: Least side of a close view [px].
_ZOOM_SIDE: Final = 64


def reference_frame(evaluation: Artefact | None) -> gpd.GeoDataFrame | None:
    """Reference polygons to draw.

    Parameters
    ----------
    evaluation : Artefact or None
        Stage ``evaluation``.

    Returns
    -------
    GeoDataFrame or None
        As of `components.dataset.labels.read_labels`; None without evaluation.
    """
    return None if evaluation is None else gpd.read_parquet(evaluation.folder / REFERENCES)


def draw_entry(
    folder: Path,
    entry: MapEntry,
    *,
    frame: gpd.GeoDataFrame,
    landslides: Sequence[Landslide],
    references: gpd.GeoDataFrame | None,
    reader: Reader,
    geobox: GeoBox,
) -> MapEntry:
    """Draw one track and period: ``map_*.png`` and, where there are landslides, ``zoom_*.png``.

    Parameters
    ----------
    folder : Path
        Where the pictures go.
    entry : MapEntry
        Facts of the map.
    frame : GeoDataFrame
        Its inventory rows.
    landslides : sequence of Landslide
        The same landslides in the same order.
    references : GeoDataFrame or None
        Reference polygons of all maps.
    reader : Reader
        Reads layers of this map.
    geobox : GeoBox
        The region grid.

    Returns
    -------
    MapEntry
        With the paths of the pictures, and the panels of the least certain landslides.
    """
    shape = (int(geobox.shape[0]), int(geobox.shape[1]))
    outlines = Outlines(list(frame.geometry), _truth(references, entry))
    figure = draw_map(
        read_overview(reader, Window(0, 0, *shape), geobox.affine, MAX_PX),
        outlines,
        title=f"{entry.track} · {entry.dates}",
        subtitle=f"{number(entry.n_landslides)} landslide{'' if entry.n_landslides == 1 else 's'}, "
        f"{number(entry.area_km2, 2)} km², "
        f"on {number(entry.mapped_km2)} km² of measured ground",
        crs=crs_name(geobox_to_dict(geobox)["crs"]),
    )
    map_png = folder / f"map_{entry.track}_{entry.period}.png"
    save_png(figure, map_png)
    entry = replace(
        entry,
        map_png=map_png,
        evidence=tuple(
            draw_evidence(x, reader, shape, geobox.affine) for x in least_certain(landslides)
        ),
    )
    chosen = choose_zooms(frame, _ZOOMS)
    if not chosen:
        return entry
    zooms = []
    for i in chosen:
        at = frame.iloc[i]
        view = read_overview(
            reader,
            surroundings(landslides[i].instance.bounds, shape, _ZOOM_SIDE),
            geobox.affine,
            MAX_PX // 4,
        )
        line = f"{number(at['v_p95'])} mm/yr · score {at['score']:.2f}"
        zooms.append(Zoom(view, f"{at['id']}\n{number(at['area_m2'] / 1e6, 3)} km² · {line}"))
    # One scale for all; the fastest few may saturate it, or the others would be white.
    speeds = frame["v_p95"].iloc[chosen].abs().dropna().to_numpy(dtype=np.float32)
    limit = velocity_limit(np.percentile(speeds, [60]) if speeds.size else speeds)
    zoom_png = folder / f"zoom_{entry.track}_{entry.period}.png"
    save_png(draw_zooms(zooms, outlines, limit=limit), zoom_png)
    return replace(entry, zoom_png=zoom_png)


def _truth(references: gpd.GeoDataFrame | None, entry: MapEntry) -> list[shapely.Geometry]:
    if references is None:
        return []
    geometry, ignore = references.geometry.to_numpy(), references["ignore"].to_numpy()
    rows = for_picture(references, entry.track, entry.period)
    return [geometry[i] for i in rows if not ignore[i]]


def choose_zooms(frame: pd.DataFrame, n: int) -> list[int]:
    """Rows of the largest and of the fastest landslides, in turn.

    Parameters
    ----------
    frame : DataFrame
        Inventory rows of one map.
    n : int
        Rows wanted.

    Returns
    -------
    list of int
        At most `n` positions, without repetition.
    """
    ids = frame["id"].tolist()

    def ranked(values: pd.Series[Any]) -> list[int]:
        size = np.nan_to_num(values.to_numpy(dtype=float)).tolist()
        return sorted(range(len(ids)), key=lambda i: (-size[i], ids[i]))

    out: list[int] = []
    for pair in zip(ranked(frame["area_m2"]), ranked(frame["v_p95"].abs()), strict=True):
        out.extend(i for i in dict.fromkeys(pair) if i not in out)
    return out[:n]


def crs_name(crs: str) -> str:
    """Name of a coordinate system for people.

    Parameters
    ----------
    crs : str
        EPSG code or WKT.

    Returns
    -------
    str
        Name, with the code where there is one.
    """
    parsed = CRS.from_user_input(crs)
    return f"{parsed.name} ({crs})" if crs.startswith("EPSG:") else str(parsed.name)

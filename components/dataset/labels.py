"""Interpreters' polygons: read, checked, repaired, on the region's CRS, every loss counted.

A layer may come from any desktop GIS. What it must have: a CRS and polygons. What it may have: a
category attribute (named in the configuration), and the columns ``slide_id`` (which landslide),
``track`` and ``period`` (where the polygon holds for one picture only) and ``ignore`` (1: a landslide
that nobody could see there, to be neither learned nor counted).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely
from odc.geo.geobox import GeoBox
from pyogrio.errors import DataLayerError, DataSourceError

from components.errors import InputError
from components.provenance import digest, file_sha256

if TYPE_CHECKING:
    from components.config import DatasetConfig

#: Layer that is taken of a file with several.
LAYER: Final = "landslides"

#: Files that make up a shapefile, as far as they matter for its content.
_SIDECARS: Final = (".dbf", ".shx", ".prj", ".cpg")


@dataclass(frozen=True)
class Labels:
    """Polygons ready to be drawn.

    Parameters
    ----------
    frame : GeoDataFrame
        In the region's CRS, one row a polygon, in the order of the file: ``geometry`` (valid Polygon
        or MultiPolygon that meets the region), ``category_id`` (int, from 1), ``slide_id`` (int),
        ``track``, ``period`` (str; ``""`` holds for all) and ``ignore`` (bool).
    counts : dict
        ``read``, ``kept``; of the kept: ``repaired`` (self-intersections resolved), ``cut`` (partly
        outside the region), ``ignore``; not kept: ``empty`` (no geometry), ``not_polygon``,
        ``degenerate`` (no area after repair), ``outside``.
    sha256 : str
        Of `labels_sha256`.
    """

    frame: gpd.GeoDataFrame
    counts: dict[str, int]
    sha256: str


def label_files(path: Path) -> list[Path]:
    """The files that a label layer consists of.

    Parameters
    ----------
    path : Path
        The layer, e.g. a ``.shp`` or ``.gpkg``.

    Returns
    -------
    list of Path
        `path` and, for a shapefile, those of its companions that exist.

    Raises
    ------
    InputError
        SW-101 where `path` does not exist.
    """
    if not path.exists():
        raise InputError("SW-101", "no such polygon layer", path=path)
    if path.suffix.lower() != ".shp":
        return [path]
    companions = {p for p in path.parent.glob(f"{path.stem}.*") if p.suffix.lower() in _SIDECARS}
    return [path, *sorted(companions)]


def labels_sha256(path: Path) -> str:
    """Identity of a label layer: of its contents, whatever its name or place.

    Parameters
    ----------
    path : Path
        The layer.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    InputError
        SW-101 where it does not exist, SW-102 where it cannot be read.
    """
    return digest([[p.suffix.lower(), file_sha256(p)] for p in label_files(path)])


def read_labels(path: Path, cfg: DatasetConfig, geobox: GeoBox) -> Labels:
    """Read a polygon layer.

    Parameters
    ----------
    path : Path
        Anything that OGR reads; of several layers the one named ``landslides``.
    cfg : DatasetConfig
        ``category_attribute`` and ``categories``.
    geobox : GeoBox
        The region grid.

    Returns
    -------
    Labels

    Raises
    ------
    InputError
        SW-101 missing file; SW-102 unreadable, or several layers of which none is ``landslides``;
        SW-301 no CRS; SW-302 no polygon meets the region; SW-303 no usable polygon; SW-304 the
        category attribute is missing, or a polygon's category is empty or not listed.
    """
    path = Path(path)
    sha256 = labels_sha256(path)
    frame = _read(path)
    counts: Counter[str] = Counter(read=len(frame))
    if frame.crs is None:
        raise InputError("SW-301", f"{len(frame)} polygons, no CRS", path=path)
    frame = _polygons(frame, counts)
    if frame.empty:
        raise InputError("SW-303", f"no usable polygon; {_say(counts)}", path=path)
    category_id = _category_ids(frame, cfg, path)
    frame = gpd.GeoDataFrame(
        {
            "category_id": category_id,
            "slide_id": _slide_ids(frame),
            "track": _text(frame, "track"),
            "period": _text(frame, "period"),
            "ignore": _flag(frame, "ignore"),
            "repaired": frame["repaired"].to_numpy(),
        },
        geometry=frame.geometry.array,
        crs=frame.crs,
    ).to_crs(geobox.crs)
    frame = _inside(frame, geobox, counts)
    if frame.empty:
        raise InputError("SW-302", f"no polygon meets the region; {_say(counts)}", path=path)
    counts["kept"] = len(frame)
    counts["repaired"] = int(frame.pop("repaired").sum())
    counts["ignore"] = int(frame["ignore"].sum())
    return Labels(frame.reset_index(drop=True), dict(sorted(counts.items())), sha256)


def _read(path: Path) -> gpd.GeoDataFrame:
    try:
        layers = [str(name) for name, geometry in pyogrio.list_layers(path) if geometry]
        if not layers:
            raise InputError("SW-303", "the file has no layer with geometry", path=path)
        if len(layers) > 1 and LAYER not in layers:
            raise InputError(
                "SW-102",
                f"several layers ({', '.join(sorted(layers))}), none of them named {LAYER}",
                path=path,
                remedy=f"Keep one layer in the file, or name the polygons' layer `{LAYER}`.",
            )
        layer = LAYER if LAYER in layers else layers[0]
        return pyogrio.read_dataframe(path, layer=layer, force_2d=True)
    except (DataSourceError, DataLayerError, shapely.errors.GEOSException, OSError) as e:
        raise InputError("SW-102", str(e).replace("\n", " "), path=path) from e


def _polygons(frame: gpd.GeoDataFrame, counts: Counter[str]) -> gpd.GeoDataFrame:
    """Rows that have a polygon with area, repaired where it crosses itself."""
    geometry = frame.geometry.to_numpy()
    there = ~(shapely.is_missing(geometry) | shapely.is_empty(geometry))
    counts["empty"] = int((~there).sum())
    polygon = np.isin(shapely.get_type_id(geometry), (3, 6, 7))  # Polygon, Multi…, Collection
    counts["not_polygon"] = int((there & ~polygon).sum())
    frame = frame[there & polygon].copy()
    geometry = frame.geometry.to_numpy().copy()
    broken = ~shapely.is_valid(geometry)
    geometry[broken] = shapely.make_valid(
        geometry[broken], method="structure", keep_collapsed=False
    )
    geometry = np.array([_only_polygons(g) for g in geometry], dtype=object)
    frame = frame.set_geometry(gpd.GeoSeries(geometry, index=frame.index, crs=frame.crs))
    frame["repaired"] = broken
    sound = shapely.area(geometry) > 0
    counts["degenerate"] = int((~sound).sum())
    return frame[sound]


def _only_polygons(geometry: Any) -> Any:
    if geometry.geom_type in {"Polygon", "MultiPolygon"}:
        return geometry
    parts = [g for g in shapely.get_parts(geometry) if g.geom_type in {"Polygon", "MultiPolygon"}]
    return shapely.union_all(parts) if parts else shapely.Polygon()


def _inside(frame: gpd.GeoDataFrame, geobox: GeoBox, counts: Counter[str]) -> gpd.GeoDataFrame:
    height, width = geobox.shape
    corners = [geobox.affine * c for c in ((0, 0), (width, 0), (width, height), (0, height))]
    region = shapely.Polygon(corners)
    shapely.prepare(region)
    geometry = frame.geometry.to_numpy()
    # A polygon far off the projection's domain comes back with infinite coordinates.
    finite = np.isfinite(shapely.bounds(geometry)).all(axis=1)
    meets = np.zeros(len(frame), dtype=bool)
    # Touching the border from outside shares a line and no pixel.
    meets[finite] = shapely.intersects(region, geometry[finite]) & ~shapely.touches(
        region, geometry[finite]
    )
    counts["outside"] = int((~meets).sum())
    counts["cut"] = int((~shapely.covers(region, geometry[meets])).sum())
    return frame[meets]


def _category_ids(frame: gpd.GeoDataFrame, cfg: DatasetConfig, path: Path) -> list[int]:
    known = {name: i for i, name in enumerate(cfg.categories, start=1)}
    attribute = cfg.category_attribute
    if attribute is None:
        if len(known) != 1:
            raise InputError(
                "SW-304", f"{len(known)} categories and no category_attribute", path=path
            )
        return [1] * len(frame)
    if attribute not in frame.columns:
        columns = [c for c in frame.columns if c not in {"geometry", "repaired"}]
        raise InputError("SW-304", f"no attribute {attribute!r}; there are {columns}", path=path)
    values = _text(frame, attribute)
    unknown = Counter(v or "(empty)" for v in values if v not in known)
    if unknown:
        listed = ", ".join(f"{v!r} ×{n}" for v, n in sorted(unknown.items())[:5])
        raise InputError(
            "SW-304",
            f"{sum(unknown.values())} polygons whose {attribute!r} is not one of "
            f"{list(known)}: {listed}",
            path=path,
        )
    return [known[v] for v in values]


def _slide_ids(frame: gpd.GeoDataFrame) -> Any:
    """The layer's own identities where every row has a whole number, else the row number from 1."""
    if "slide_id" in frame.columns:
        ids = pd.to_numeric(frame["slide_id"], errors="coerce").to_numpy(dtype=float)
        if np.isfinite(ids).all() and np.all(ids == np.floor(ids)):
            return ids.astype(np.int64)
    return np.arange(1, len(frame) + 1)


def _text(frame: gpd.GeoDataFrame, column: str) -> list[str]:
    if column not in frame.columns:
        return [""] * len(frame)
    return ["" if pd.isna(v) else _plain(v) for v in frame[column]]


def _plain(value: Any) -> str:
    """Text of an attribute; whole numbers that a format stores as floats lose their ``.0``."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _flag(frame: gpd.GeoDataFrame, column: str) -> list[bool]:
    true = {"1", "true", "t", "yes", "y"}
    return [v.lower() in true for v in _text(frame, column)]


def _say(counts: Counter[str]) -> str:
    return ", ".join(f"{k}: {v}" for k, v in sorted(counts.items()))


def for_picture(frame: gpd.GeoDataFrame, track: str, period: str) -> Sequence[int]:
    """Rows of labels that hold for one track and period.

    Parameters
    ----------
    frame : GeoDataFrame
        Of `read_labels`.
    track, period : str
        The picture.

    Returns
    -------
    sequence of int
        Row numbers, ascending: those of this track or of all, and of this period or of all.
    """
    rows = frame["track"].isin(["", track]) & frame["period"].isin(["", period])
    return [int(i) for i in np.flatnonzero(rows.to_numpy())]

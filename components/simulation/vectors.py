"""Polygons of masks on pixel edges, and vector files whose bytes depend on their content alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
from affine import Affine
from rasterio import features
from shapely.geometry import Polygon, shape

from components.simulation.fields import Bool, Labels
from components.simulation.footprints import largest_piece

#: Date that the files carry instead of the day of writing.
_DATE: Final = "2000-01-01"

Columns = Mapping[str, str]


@contextlib.contextmanager
def fixed_date() -> Iterator[None]:
    """Let GeoPackages carry a fixed date of change (GDAL option OGR_CURRENT_DATE).

    GDAL's options are global to the process; the one set here is removed on leaving.
    """
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": f"{_DATE}T00:00:00.000Z"})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})


def mask_polygon(mask: Bool, row: int, col: int, transform: Affine) -> Polygon:
    """Outline of a mask on pixel edges, with its holes.

    Parameters
    ----------
    mask : ndarray of bool [h, w]
        At least one pixel; of several 4-connected pieces the largest is taken.
    row, col : int
        Upper left pixel of the window.
    transform : Affine
        Of the whole map.

    Returns
    -------
    Polygon
        In map coordinates.
    """
    window = transform * Affine.translation(col, row)
    found = [
        shape(outline)
        for outline, _ in features.shapes(mask.astype(np.uint8), mask=mask, transform=window)
    ]
    if len(found) > 1:
        return mask_polygon(largest_piece(mask) & mask, row, col, transform)
    return found[0]


def label_polygons(labels: Labels, transform: Affine) -> dict[int, Polygon]:
    """Outlines of all objects of a label map on pixel edges, with their holes.

    Parameters
    ----------
    labels : ndarray of int32 [H, W]
        Identity of each pixel's object, 0 outside; each object one 4-connected piece.
    transform : Affine
        Of the map.

    Returns
    -------
    dict
        Identity → outline in map coordinates.
    """
    found = features.shapes(labels, mask=labels > 0, transform=transform)
    return {int(value): shape(outline) for outline, value in found}


def frame(
    rows: Sequence[Mapping[str, Any]],
    columns: Columns,
    polygons: Sequence[Polygon] | None,
    crs: str,
) -> pd.DataFrame:
    """Table with fixed columns and types, also when it has no row.

    Parameters
    ----------
    rows : sequence of mapping
        Column → value.
    columns : mapping
        Column → pandas dtype, in order.
    polygons : sequence of Polygon, optional
        One a row; None for a table without geometry.
    crs : str
        CRS of the polygons.

    Returns
    -------
    DataFrame or GeoDataFrame
    """
    data = {
        name: pd.Series([row[name] for row in rows], dtype=dtype) for name, dtype in columns.items()
    }
    table = pd.DataFrame(data)
    if polygons is None:
        return table
    with_shapes: pd.DataFrame = gpd.GeoDataFrame(
        table, geometry=gpd.GeoSeries(list(polygons), crs=crs), crs=crs
    )
    return with_shapes


def write_geopackage(path: Path, layers: Mapping[str, pd.DataFrame]) -> None:
    """Write tables as layers of a GeoPackage.

    Parameters
    ----------
    path : Path
        The file; must not exist.
    layers : mapping
        Layer name → table, in order.
    """
    with fixed_date():
        for name, table in layers.items():
            kind = "Polygon" if isinstance(table, gpd.GeoDataFrame) else None
            pyogrio.write_dataframe(table, path, layer=name, driver="GPKG", geometry_type=kind)


def write_shapefile(path: Path, table: gpd.GeoDataFrame) -> None:
    """Write polygons as a shapefile.

    Parameters
    ----------
    path : Path
        The .shp file; must not exist.
    table : GeoDataFrame
        Columns of at most 10 characters.
    """
    pyogrio.write_dataframe(
        table,
        path,
        driver="ESRI Shapefile",
        geometry_type="Polygon",
        layer_options={"ENCODING": "UTF-8", "DBF_DATE_LAST_UPDATE": _DATE},
    )

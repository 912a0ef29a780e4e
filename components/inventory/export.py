"""The inventory in files that other tools open: GeoPackage, shapefile, GeoParquet.

The three hold the same rows and columns; the shapefile under names of at most ten characters. The
same inventory gives the same bytes: dates that the formats write by themselves are fixed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import geopandas as gpd
import pyogrio

from components.inventory.attributes import ATTRIBUTES

if TYPE_CHECKING:
    from pathlib import Path

LAYER: Final = "landslides"

#: Any fixed day: the file's own date of change, no fact about the data.
_FIXED_DAY: Final = "2020-01-01"

#: Longest text that a shapefile holds [bytes].
_DBF_TEXT: Final = 254


@contextlib.contextmanager
def fixed_dates() -> Iterator[None]:
    """Let GDAL write a fixed date of change into GeoPackages, then restore its setting.

    Yields
    ------
    None
    """
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": f"{_FIXED_DAY}T00:00:00.000Z"})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})


def shapefile_names() -> dict[str, str]:
    """Column name → its name in the shapefile.

    Returns
    -------
    dict
        In the order of `ATTRIBUTES`.
    """
    return {a.name: a.short for a in ATTRIBUTES}


def write_geopackage(table: gpd.GeoDataFrame, path: Path) -> None:
    """Write layer ``landslides`` of a GeoPackage.

    Parameters
    ----------
    table : GeoDataFrame
        MultiPolygons with the columns of `ATTRIBUTES`; may have no rows.
    path : Path
        The file.
    """
    with fixed_dates():
        pyogrio.write_dataframe(
            table,
            path,
            layer=LAYER,
            driver="GPKG",
            geometry_type="MultiPolygon",
            layer_options={"DESCRIPTION": "active landslides"},
        )


def write_shapefile(table: gpd.GeoDataFrame, path: Path) -> None:
    """Write a shapefile (with .dbf, .shx, .prj, .cpg beside it).

    Text longer than 254 bytes (only ``parents`` of a merger of many) is cut, since the format holds
    no more; the GeoPackage has it whole.

    Parameters
    ----------
    table : GeoDataFrame
        As in `write_geopackage`.
    path : Path
        The .shp file.
    """
    renamed = table.rename(columns=shapefile_names())
    renamed["parents"] = renamed["parents"].str.slice(0, _DBF_TEXT)
    pyogrio.write_dataframe(
        renamed,
        path,
        driver="ESRI Shapefile",
        # A shapefile has one polygon type, single and multiple alike.
        geometry_type="Polygon",
        encoding="UTF-8",
        layer_options={"DBF_DATE_LAST_UPDATE": _FIXED_DAY},
    )


def write_geoparquet(table: gpd.GeoDataFrame, path: Path) -> None:
    """Write a GeoParquet file.

    Parameters
    ----------
    table : GeoDataFrame
        As in `write_geopackage`.
    path : Path
        The file.
    """
    table.to_parquet(path, index=False, compression="zstd")


def write_all(table: gpd.GeoDataFrame, folder: Path) -> tuple[Path, ...]:
    """Write all three formats as ``landslides.*``.

    Parameters
    ----------
    table : GeoDataFrame
        As in `write_geopackage`.
    folder : Path
        An existing folder.

    Returns
    -------
    tuple of Path
        GeoPackage, shapefile, GeoParquet.
    """
    paths = tuple(folder / f"{LAYER}.{suffix}" for suffix in ("gpkg", "shp", "parquet"))
    write_geopackage(table, paths[0])
    write_shapefile(table, paths[1])
    write_geoparquet(table, paths[2])
    return paths

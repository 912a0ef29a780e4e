"""The GeoPackage of `slopewatch stitch`: what may be replaced, and how it is written whole or not at all.

It is written in a folder beside its place, and looked at before it is moved there: GDAL makes the spatial
index as it closes the file, and does not tell when the disk has no room for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import geopandas as gpd
import numpy as np
import pyogrio
from odc.geo.geobox import GeoBox
from pyogrio.errors import DataLayerError, DataSourceError

from components.errors import InputError, WorkspaceError
from components.inference.coco_results import CocoImages
from components.inference.instance_file import PIECE, Instances
from components.inventory.export import LAYER, fixed_dates
from components.inventory.polygons import geodesic_extent, lonlat_transformer, pixel_polygon
from components.progress import Progress, no_progress
from components.workspace import coded_os_errors

#: Columns of the layer beside the polygon.
COLUMNS: Final = ("category_id", "category", "score", "area_m2", "n_windows", "agreement")

#: What GDAL adds to them.
_KEYS: Final = ("fid", "geom")

#: In a folder of unfinished work: locked as long as its process lives.
_LOCK: Final = "slopewatch.lock"

#: Room that a piece needs at most, in the file and while it is written: for its rows and the tables of the
#: file, and for each vertex [bytes].
_ROOM: Final = 1 << 21
_VERTEX: Final = 64


def check_output(out: Path) -> None:
    """Make sure that the GeoPackage can be written, and destroys nothing, before any work.

    Parameters
    ----------
    out : Path
        The file; its folder is made if missing. An empty file, or one that this module wrote, is
        replaced.

    Raises
    ------
    InputError
        SW-701 where it is not a ``.gpkg`` file.
    WorkspaceError
        SW-201 where it cannot be written, SW-202 on a full disk, SW-208 where the file is there and holds
        anything else than the layer that is to be written.
    """
    if out.suffix.lower() != ".gpkg" or out.is_dir():
        raise InputError("SW-701", "--out needs a file name ending with .gpkg", path=out)
    with coded_os_errors(out):
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=out.parent):
                pass
        except (FileExistsError, FileNotFoundError, NotADirectoryError) as e:
            raise WorkspaceError("SW-201", "its folder cannot be made", path=out) from e
        foreign = _foreign(out) if out.exists() and out.stat().st_size else None
    if foreign:
        raise WorkspaceError("SW-208", f"the file is there and {foreign}", path=out)


def _foreign(path: Path) -> str | None:
    """What a file holds that we did not write; None where there is nothing of the kind."""
    try:
        with _opened(path) as db:
            # GDAL does not list rasters as layers, nor tables that the contents do not name.
            names = db.execute(
                "SELECT table_name FROM gpkg_contents UNION SELECT name FROM sqlite_master "
                "WHERE type IN ('table', 'view') AND NOT "
                "(name GLOB 'gpkg_*' OR name GLOB 'rtree_*' OR name GLOB 'sqlite_*')"
            )
            others = sorted(f"`{name}`" for (name,) in names if name != LAYER)
            columns = {row[1] for row in db.execute(f"PRAGMA table_info({LAYER})")}
    except sqlite3.Error as e:
        return f"cannot be read as a GeoPackage ({e})"
    if others:
        return f"holds other layers: {', '.join(others)}"
    if columns != {*_KEYS, *COLUMNS}:
        return f"its layer `{LAYER}` has other columns: {', '.join(sorted(columns)) or 'none'}"
    return None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        yield db


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A folder beside the output for unfinished work; what killed runs left for this output is removed.

    Parameters
    ----------
    out : Path
        The output.

    Yields
    ------
    Path
        ``.NAME-…``; it is removed at the end. Its lock dies with the process, so that a later run on
        whatever host knows that nobody works in it.

    Raises
    ------
    WorkspaceError
        SW-201, SW-202 where it cannot be made.
    """
    prefix = f".{out.name}-"
    for old in out.parent.glob(".*"):
        if old.name.startswith(prefix):
            _remove_abandoned(old)
    with contextlib.ExitStack() as stack:
        with coded_os_errors(out):
            made = tempfile.TemporaryDirectory(prefix=prefix, dir=out.parent)
            folder = Path(stack.enter_context(made))
            new = folder / f"{_LOCK}.new"
            lock = stack.enter_context(new.open("w"))
        with contextlib.suppress(OSError):  # a file system without locks: nothing is ever removed
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Under its name it is locked from the first, and no other run takes the folder for abandoned.
            new.rename(folder / _LOCK)
        yield folder


def _remove_abandoned(folder: Path) -> None:
    # A run that lives holds the lock; folders of other programs have none.
    with contextlib.suppress(OSError), (folder / _LOCK).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)


def write_layer(
    path: Path,
    out: Path,
    instances: Instances,
    known: CocoImages,
    grid: GeoBox,
    progress: Progress = no_progress,
) -> dict[str, int]:
    """Write the layer piece by piece.

    Parameters
    ----------
    path : Path
        A GeoPackage that is not there yet.
    out : Path
        Its place later, for messages.
    instances : Instances
        What to write, in the order of the features.
    known : CocoImages
        Names of the categories.
    grid : GeoBox
        From pixels to the map.
    progress : Progress
        Told of polygons (``polygons``).

    Returns
    -------
    dict of str to int
        Polygons of each category.

    Raises
    ------
    WorkspaceError
        SW-201 where the file cannot be written, SW-202 on a full disk.
    """
    to_lonlat = lonlat_transformer(grid.crs)
    by_category: Counter[str] = Counter(dict.fromkeys(known.categories.values(), 0))
    progress("polygons", 0, len(instances))
    room = 0
    for at in range(0, max(len(instances), 1), PIECE):
        piece = instances[at : at + PIECE]
        polygons = [pixel_polygon(i.mask, i.row, i.col, grid.affine) for i in piece]
        names = [known.categories[i.category] for i in piece]
        by_category.update(names)
        table = gpd.GeoDataFrame(
            {
                "category_id": np.asarray([i.category for i in piece], np.int64),
                "category": np.asarray(names, object),
                "score": np.asarray([i.score for i in piece], np.float64),
                "area_m2": np.asarray(
                    [geodesic_extent(p, to_lonlat).area_m2 for p in polygons], np.float64
                ),
                "n_windows": np.asarray([i.n_windows for i in piece], np.int64),
                "agreement": np.asarray([i.agreement for i in piece], np.float64),
            },
            geometry=polygons,
            crs=grid.crs,
        )
        room = max(room, _ROOM + _VERTEX * int(table.geometry.count_coordinates().sum()))
        try:
            with fixed_dates():
                pyogrio.write_dataframe(
                    table,
                    path,
                    layer=LAYER,
                    driver="GPKG",
                    geometry_type="MultiPolygon",
                    append=at > 0,
                )
        except (DataSourceError, DataLayerError) as e:
            raise _failure(path, out, str(e), room) from e
        progress("polygons", at + len(piece), len(instances))
    if not _complete(path, len(instances)):
        raise _failure(path, out, "rows or the spatial index are missing in it", room)
    return dict(by_category)


def _complete(path: Path, n: int) -> bool:
    """Whether a GeoPackage holds all rows, their spatial index, count and extent."""
    query = (
        f"SELECT (SELECT count(*) FROM {LAYER}), (SELECT count(*) FROM rtree_{LAYER}_geom_rowid), "
        "(SELECT feature_count FROM gpkg_ogr_contents), (SELECT count(min_x) FROM gpkg_contents)"
    )
    try:
        with _opened(path) as db:
            return bool(db.execute(query).fetchone() == (n, n, n, min(n, 1)))
    except sqlite3.Error:
        return False


def _failure(path: Path, out: Path, what: str, room: int) -> WorkspaceError:
    """The error of a file that could not be written: SW-202 where there is no room for it."""
    # SQLite takes back what it could not finish, and GDAL then tells only what it misses: ask the disk.
    try:
        with coded_os_errors(out), path.open("ab") as f:
            os.posix_fallocate(f.fileno(), f.tell(), room)
    except WorkspaceError as e:
        return e
    return WorkspaceError("SW-202" if "disk is full" in what else "SW-201", what, path=out)

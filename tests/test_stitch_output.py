"""`slopewatch stitch`: what it may replace, a full disk, and what killed runs leave."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from region import ROOT
from shapely.geometry import box
from typer.testing import CliRunner

from components.errors import WorkspaceError
from components.inventory import external_file
from components.inventory.external import External, stitch_external
from components.inventory.external_file import staging
from flows import verbs  # noqa: F401 - registers the verbs
from flows.cli import app

TRANSFORM = Affine(25, 0, 500_000, 0, -25, 3_400_000)
GRID = GeoBox((200, 200), TRANSFORM, "EPSG:32647")


def inputs(folder: Path, n: int = 100) -> tuple[Path, Path]:
    """One window with small squares."""
    image = {"id": 1, "width": 200, "height": 200, "row_off": 0, "col_off": 0}
    corners = [(r, c) for r in range(0, 200, 5) for c in range(0, 200, 5)][:n]
    rows = [
        {
            "image_id": 1,
            "category_id": 3,
            "score": 0.5,
            "segmentation": [[c, r, c + 3, r, c + 3, r + 3, c, r + 3]],
        }
        for r, c in corners
    ]
    paths = folder / "images.json", folder / "results.json"
    paths[0].write_text(json.dumps({"images": [image], "categories": [{"id": 3, "name": "slide"}]}))
    paths[1].write_text(json.dumps(rows))
    return paths


def run(folder: Path, out: Path, n: int = 100) -> External:
    return stitch_external(*inputs(folder, n), GRID, out)


# -- files that are there --------------------------------------------------------------------------


def table(**columns: Any) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(columns, geometry=[box(0, 0, 1, 1)], crs="EPSG:32647")


def roads(path: Path) -> None:
    table(a=[1]).to_file(path, layer="my roads")


def roads_beside_ours(path: Path) -> None:
    run(path.parent, path)
    roads(path)


def styles_beside_ours(path: Path) -> None:
    run(path.parent, path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE layer_styles (id INTEGER PRIMARY KEY, styleQML TEXT)")
        db.commit()


def edited(path: Path) -> None:
    run(path.parent, path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("ALTER TABLE landslides ADD COLUMN remark TEXT")
        db.commit()


def of_another_program(path: Path) -> None:
    table(velocity=[1.0]).to_file(path, layer="landslides")


def raster_tiles(path: Path) -> None:
    with rasterio.open(path, "w", driver="GPKG", width=64, height=64, count=1, dtype="uint8",
                       crs="EPSG:32647", transform=TRANSFORM, RASTER_TABLE="hillshade") as f:  # fmt: skip
        f.write(np.ones((1, 64, 64), np.uint8))


def text(path: Path) -> None:
    path.write_text("notes")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (roads, "other layers: `my roads`"),
        (roads_beside_ours, "other layers: `my roads`"),
        (styles_beside_ours, "other layers: `layer_styles`"),
        (raster_tiles, "other layers: `hillshade`"),
        (edited, "other columns: agreement, area_m2, category, category_id, fid, geom, n_windows, remark"),
        (of_another_program, "other columns: fid, geom, velocity"),
        (text, "cannot be read as a GeoPackage"),
    ],
)  # fmt: skip
def test_files_of_others_are_refused_before_any_work(tmp_path: Path, make: Any, says: str) -> None:
    out = tmp_path / "project.gpkg"
    make(out)
    before = out.read_bytes()
    unread = tmp_path / "absent.json"
    with pytest.raises(WorkspaceError) as e:
        stitch_external(unread, unread, GRID, out)
    assert e.value.code == "SW-208"
    assert e.value.path == str(out)
    assert says in e.value.what
    assert "another --out" in e.value.remedy
    given = map(
        str, ("--images", *inputs(tmp_path)[:1], "--results", inputs(tmp_path)[1], "-o", out)
    )
    stated = (
        "--transform",
        "25,0,500000,0,-25,3400000",
        "--crs",
        "EPSG:32647",
        "--shape",
        "200,200",
    )
    done = CliRunner().invoke(app, ["stitch", *given, *stated, "--json"])
    assert json.loads(done.stdout.splitlines()[-1])["error"] == "SW-208"
    assert out.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["images.json", "project.gpkg", "results.json"]


def test_files_of_ours_and_empty_ones_are_replaced(tmp_path: Path) -> None:
    out = tmp_path / "a.gpkg"
    for n in (0, 3, 0, 5):
        assert run(tmp_path, out, n).landslides == len(gpd.read_file(out)) == n
    whole = out.read_bytes()
    out.write_bytes(b"")
    run(tmp_path, out, 5)
    assert out.read_bytes() == whole


# -- a full disk -----------------------------------------------------------------------------------

_FILLED = """
import json, os, sys
from pathlib import Path
from components.errors import SlopewatchError
from test_stitch_output import GRID, inputs, stitch_external
disk, work = Path(sys.argv[1]), Path(sys.argv[2])
paths, out = inputs(work, 900), disk / "a.gpkg"
good, found = (work / "good.gpkg").read_bytes(), {}
for left in map(int, sys.argv[3:]):
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "fill").write_bytes(bytes(free - left))
    try:
        stitch_external(*paths, GRID, out)
        found[left] = "whole" if out.read_bytes() == good else "damaged"
    except SlopewatchError as e:
        found[left] = f"{e.code} {sorted(os.listdir(disk))}"
    out.unlink(missing_ok=True)
    (disk / "fill").unlink()
print(json.dumps(found))
"""


def test_a_full_disk_of_any_size_is_told_as_such(tmp_path: Path) -> None:
    """A small disk of its own, in a name space of its own where mounting needs no rights."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        not shutil.which("unshare")
        or subprocess.run(
            ["unshare", "-rm", "mount", "-t", "tmpfs", "none", disk],
            capture_output=True,
            check=False,
        ).returncode
    ):
        pytest.skip("cannot mount a tmpfs here")
    size = run(tmp_path, tmp_path / "good.gpkg", 900).out.stat().st_size
    assert 300_000 < size < 350_000
    # Up to the size of the file and its journal; GDAL finished without a word at 296,608 to 345,760.
    sizes = [0, 4096, 40_960, 65_536, 80_000, *range(98_304, 393_216, 32_768), 1_000_000]
    mounted = 'mount -t tmpfs -o size=4m none "$1" && exec "${@:2}"'
    code = [sys.executable, "-c", _FILLED, disk, tmp_path, *map(str, sizes)]
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", mounted, "-", disk, *code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )
    found = {int(k): v for k, v in json.loads(done.stdout.splitlines()[-1]).items()}
    assert found[1_000_000] == "whole"
    assert set(found.values()) == {"whole", "SW-202 ['fill']"}
    assert found[294_912] == "SW-202 ['fill']"


def test_what_is_not_for_want_of_room_is_another_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "full" / "a.gpkg"  # a name is no reason

    def fails(*args: Any, **kwargs: Any) -> None:
        raise pyogrio.errors.DataSourceError(f"{out}: Failed to commit transaction")

    def no_room(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as m:
        m.setattr(external_file.pyogrio, "write_dataframe", fails)
        with pytest.raises(WorkspaceError, match="commit") as e:
            run(tmp_path, out)
        assert e.value.code == "SW-201"
        m.setattr(os, "posix_fallocate", no_room)
        with pytest.raises(WorkspaceError, match="No space left") as e:
            run(tmp_path, out)
        assert e.value.code == "SW-202"
    assert list(out.parent.iterdir()) == []


def test_a_file_without_its_spatial_index_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pyogrio.write_dataframe
    monkeypatch.setattr(
        external_file.pyogrio,
        "write_dataframe",
        lambda *args, **kwargs: real(*args, **kwargs, SPATIAL_INDEX="NO"),
    )
    with pytest.raises(WorkspaceError, match="spatial index"):
        run(tmp_path, tmp_path / "a.gpkg")
    assert sorted(os.listdir(tmp_path)) == ["images.json", "results.json"]


# -- killed runs -----------------------------------------------------------------------------------

_KILLED = """
import os, sys
from pathlib import Path
from test_stitch_output import GRID, inputs, stitch_external
def kill(step, done, total):
    if step == sys.argv[2]:
        os.kill(os.getpid(), 9)
folder = Path(sys.argv[1])
stitch_external(*inputs(folder), GRID, folder / "out" / "a.gpkg", progress=kill)
"""


def test_what_killed_runs_leave_is_removed_by_the_next(tmp_path: Path) -> None:
    out = tmp_path / "out" / "a.gpkg"
    for step in ("stitch", "polygons"):
        subprocess.run(
            [sys.executable, "-c", _KILLED, tmp_path, step],
            check=False,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        )
        (left,) = os.listdir(out.parent)  # the second run has removed what the first left
        assert left.startswith(".a.gpkg-")
    run(tmp_path, out)
    assert os.listdir(out.parent) == ["a.gpkg"]


def test_folders_of_others_and_of_runs_that_live_stay(tmp_path: Path) -> None:
    out = tmp_path / "a.gpkg"
    (tmp_path / ".a.gpkg-notes").mkdir()
    (tmp_path / ".a.gpkg-file").touch()
    with staging(out) as living, staging(tmp_path / "b.gpkg") as other:
        (living / "work").touch()
        run(tmp_path, out)
        assert (living / "work").exists()
        assert other.exists()
    assert sorted(os.listdir(tmp_path)) == [
        ".a.gpkg-file", ".a.gpkg-notes", "a.gpkg", "images.json", "results.json",
    ]  # fmt: skip

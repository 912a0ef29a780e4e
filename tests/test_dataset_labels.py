"""Interpreters' layers: what is read, repaired, counted and refused."""

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from shapely.geometry import LineString, MultiPolygon, Polygon, box

from components.config import DatasetConfig
from components.dataset.labels import for_picture, read_labels
from components.errors import InputError

CRS = "EPSG:32647"
GRID = GeoBox((100, 120), Affine(25.0, 0.0, 500_000.0, 0.0, -25.0, 3_300_000.0), CRS)
CFG = DatasetConfig()


def at(row, col, height, width):
    """A polygon on pixel edges of the grid."""
    x, y = GRID.affine * (col, row)
    return box(x, y - 25 * height, x + 25 * width, y)


def write(path, geometry, crs=CRS, **columns):
    frame = gpd.GeoDataFrame({k: list(v) for k, v in columns.items()}, geometry=geometry, crs=crs)
    if not columns:
        frame["n"] = range(len(frame))
    with np.errstate(all="ignore"):
        pyogrio.write_dataframe(frame, path)
    return path


BOWTIE = Polygon([GRID.affine * c for c in ((10, 10), (20, 20), (20, 10), (10, 20))])


def test_repairs_and_counts_every_loss(tmp_path):
    hole = at(30, 30, 10, 10).difference(at(33, 33, 3, 3))
    shapes = [
        BOWTIE,
        hole,
        None,
        Polygon(),
        at(500, 500, 5, 5),
        at(95, 0, 10, 10),
        MultiPolygon([at(50, 50, 2, 2), at(54, 50, 2, 2)]),
    ]
    labels = read_labels(write(tmp_path / "a.gpkg", shapes), CFG, GRID)
    assert labels.counts == {
        "cut": 1,
        "degenerate": 0,
        "empty": 2,
        "ignore": 0,
        "kept": 4,
        "not_polygon": 0,
        "outside": 1,
        "read": 7,
        "repaired": 1,
    }
    frame = labels.frame
    assert frame.geometry.is_valid.all()
    assert frame.geometry[0].area == pytest.approx(50 * 625)  # two triangles of 10 × 5 px
    assert frame.geometry[1].area == pytest.approx(91 * 625)
    assert len(frame.geometry[3].geoms) == 2  # several parts stay one label
    assert list(frame["slide_id"]) == [1, 2, 4, 5]  # rows with a polygon, numbered from 1
    assert list(frame["category_id"]) == [1, 1, 1, 1]


def test_reprojects(tmp_path):
    shape = at(30, 30, 10, 10)
    geographic = gpd.GeoSeries([shape], crs=CRS).to_crs(4326)
    labels = read_labels(write(tmp_path / "a.geojson", geographic, crs=4326), CFG, GRID)
    assert labels.frame.crs.to_epsg() == 32647
    assert labels.frame.geometry[0].symmetric_difference(shape).area < 2.0


def test_optional_columns_and_categories(tmp_path):
    shapes = [at(10 * i, 10, 5, 5) for i in range(4)]
    path = write(
        tmp_path / "a.shp",
        shapes,
        slide_id=[7, 7, 8, 9],
        track=["descending", None, "descending", "ascending"],
        period=["20230101_20230630", "20230101_20230630", None, None],
        ignore=[0, 1, 0, 0],
        kind=["slow", "fast", "slow", "slow"],
    )
    cfg = DatasetConfig(category_attribute="kind", categories=("slow", "fast"))
    labels = read_labels(path, cfg, GRID)
    assert list(labels.frame["category_id"]) == [1, 2, 1, 1]
    assert list(labels.frame["slide_id"]) == [7, 7, 8, 9]
    assert list(labels.frame["ignore"]) == [False, True, False, False]
    assert for_picture(labels.frame, "descending", "20230101_20230630") == [0, 1, 2]
    assert for_picture(labels.frame, "descending", "20240101_20240630") == [2]
    assert for_picture(labels.frame, "ascending", "20230101_20230630") == [1, 3]
    before = labels.sha256
    path.with_suffix(".dbf").write_bytes(path.with_suffix(".dbf").read_bytes() + b" ")
    assert read_labels(path, cfg, GRID).sha256 != before  # attributes are part of the identity


@pytest.mark.parametrize(
    ("cfg", "kinds"),
    [
        (DatasetConfig(category_attribute="sort"), ["a"]),
        (DatasetConfig(category_attribute="kind"), ["rockfall"]),
        (DatasetConfig(category_attribute="kind"), [None]),
        (DatasetConfig(categories=("a", "b")), ["a"]),
    ],
)
def test_wrong_category(tmp_path, cfg, kinds):
    path = write(tmp_path / "a.gpkg", [at(1, 1, 5, 5)], kind=kinds)
    with pytest.raises(InputError, match="SW-304") as caught:
        read_labels(path, cfg, GRID)
    assert caught.value.path == str(path)


def test_refusals(tmp_path):
    with pytest.raises(InputError, match="SW-101"):
        read_labels(tmp_path / "none.gpkg", CFG, GRID)
    (tmp_path / "bad.gpkg").write_bytes(b"no database")
    with pytest.raises(InputError, match="SW-102"):
        read_labels(tmp_path / "bad.gpkg", CFG, GRID)
    (tmp_path / "cut.shp").write_bytes(b"\x00\x00'\x0a")
    with pytest.raises(InputError, match="SW-102"):
        read_labels(tmp_path / "cut.shp", CFG, GRID)

    good = write(tmp_path / "nocrs.shp", [at(1, 1, 5, 5)])
    good.with_suffix(".prj").unlink()
    with pytest.raises(InputError, match="SW-301"):
        read_labels(good, CFG, GRID)
    far = write(tmp_path / "far.gpkg", [at(500, 500, 5, 5), at(100, 0, 5, 5)])  # the second touches
    with pytest.raises(InputError, match=r"SW-302.*outside: 2"):
        read_labels(far, CFG, GRID)
    lines = write(tmp_path / "lines.gpkg", [LineString([(5e5, 33e5), (5.1e5, 33e5)])])
    with pytest.raises(InputError, match=r"SW-303.*not_polygon: 1"):
        read_labels(lines, CFG, GRID)
    empty = write(tmp_path / "empty.gpkg", [None])
    with pytest.raises(InputError, match="SW-303"):
        read_labels(empty, CFG, GRID)
    flat = shapely.Polygon([(500_100, 3_299_900)] * 4)
    with pytest.raises(InputError, match="SW-303"):
        read_labels(write(tmp_path / "flat.gpkg", [flat]), CFG, GRID)


def test_file_with_several_layers(tmp_path):
    path = tmp_path / "two.gpkg"
    frame = gpd.GeoDataFrame({"n": [1]}, geometry=[at(1, 1, 5, 5)], crs=CRS)
    pyogrio.write_dataframe(frame, path, layer="roads")
    pyogrio.write_dataframe(frame, path, layer="rivers", append=True)
    with pytest.raises(InputError, match=r"SW-102.*rivers, roads"):
        read_labels(path, CFG, GRID)
    pyogrio.write_dataframe(
        gpd.GeoDataFrame({"n": [1, 2]}, geometry=[at(1, 1, 5, 5), at(9, 9, 2, 2)], crs=CRS),
        path,
        layer="landslides",
        append=True,
    )
    assert read_labels(path, CFG, GRID).counts["read"] == 2

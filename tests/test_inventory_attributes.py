"""The table of attributes: values by hand, docs, names; files that hold it."""

import hashlib
import math
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from affine import Affine

from components.dataset.presets import brightness
from components.inventory.attributes import (
    ATTRIBUTES,
    Map,
    Sample,
    attribute_table,
    attributes_markdown,
    circular_mean,
    signed_percentile,
)
from components.inventory.export import fixed_dates, shapefile_names, write_all
from components.inventory.lineage import Lineage
from components.inventory.polygons import Extent, pixel_polygon
from components.inventory.tracks import CrossTrack

DOCS = Path(__file__).resolve().parents[1] / "docs"
MAP = Map(
    track="descending", period="20230101_20230701", date_start="2023-01-01",
    date_end="2023-07-01", days=181, sigma_velocity=4.0, model_hash="m" * 64,
    config_hash="c" * 64, product_sha256="p" * 64,
)  # fmt: skip


def sample(name: str = "LS-1", parents: tuple[str, ...] = (), **layers) -> Sample:
    pixels = {
        "los_velocity": np.array([-10.0, -20.0, -30.0, np.nan, 99.0], np.float32),
        "los_displacement": np.array([-0.005, -0.01, -0.015, np.nan, 0.05], np.float32),
        "los_velocity_std": np.array([3.0, 4.0, 5.0, np.nan, 9.0], np.float32),
        "coherence": np.array([0.5, 0.6, 0.7, 0.1, 0.1], np.float32),
        "valid": np.array([True, True, True, True, False]),
        "elevation": np.array([100.0, 110.0, 150.0, 130.0, 120.0], np.float32),
        "slope": np.array([10.0, 20.0, 30.0, 20.0, 20.0], np.float32),
        "aspect": np.array([350.0, 10.0, 350.0, 10.0, np.nan], np.float32),
        "los_sensitivity": np.array([-0.5, -0.8, 0.1, -0.5, -0.5], np.float32),
        **layers,
    }
    return Sample(
        id=name, lineage=Lineage("LN-1", parents), site="ST-1", category="landslide", score=0.75,
        agreement=0.5, n_windows=2, extent=Extent(3125.0, 300.0, 15.0, 47.0), map=MAP,
        cross=CrossTrack("downslope", ("T1", "T2"), 2), pixels=pixels,
    )  # fmt: skip


def test_values_by_hand() -> None:
    row = attribute_table([sample(parents=("LS-7", "LS-8"))]).iloc[0]
    assert row["v_mean"] == row["v_median"] == -20
    assert row["v_max"] == -30
    assert row["v_p95"] == pytest.approx(-29)
    assert row["v_std"] == pytest.approx(np.std([10, 20, 30]))
    assert row["v_sigma"] == pytest.approx(math.sqrt((9 + 16 + 25) / 3))
    assert row["snr"] == pytest.approx(5.0)
    assert (row["motion"], row["tracks_seen"], row["tracks_found"]) == ("downslope", "T1,T2", 2)
    # Only the first two valid pixels have |C| ≥ 0.2: 20 and 25 mm/yr downslope.
    assert row["v_slope"] == pytest.approx(22.5)
    assert row["v_slope_fraction"] == pytest.approx(0.4)
    assert row["coherence"] == pytest.approx((0.5 + 0.6 + 0.7 + 0.1) / 4)
    assert row["valid_fraction"] == pytest.approx(0.6)
    assert row["n_pixels"] == 5
    assert (row["elevation_min"], row["elevation_max"], row["relief"]) == (100, 150, 50)
    assert row["slope"] == 20
    assert row["aspect"] == pytest.approx(0.0, abs=1e-6)
    assert row["los_sensitivity"] == pytest.approx(-0.44)
    shown = brightness(np.array([-0.005, -0.01, -0.015], np.float32), 27.7)
    assert row["brightness_mean"] == pytest.approx(float(shown.mean()), rel=1e-5)
    assert row["brightness_std"] == pytest.approx(float(shown.std()), rel=1e-5)
    assert row["parents"] == "LS-7,LS-8"
    assert (row["date_start"], row["date_end"], row["days"]) == ("2023-01-01", "2023-07-01", 181)


def test_unknown_is_missing_and_not_zero() -> None:
    nothing = np.full(5, np.nan, np.float32)
    row = attribute_table(
        [sample(los_velocity=nothing, elevation=nothing, los_sensitivity=nothing, aspect=nothing)]
    ).iloc[0]
    for name in (
        "v_mean",
        "v_p95",
        "v_max",
        "snr",
        "v_slope",
        "relief",
        "los_sensitivity",
        "aspect",
    ):
        assert math.isnan(row[name]), name
    assert row["valid_fraction"] == row["v_slope_fraction"] == 0.0


def test_circular_mean_and_signed_percentile() -> None:
    assert circular_mean(np.array([350.0, 20.0])) == pytest.approx(5.0)
    assert circular_mean(np.array([90.0, 270.0, 180.0])) == pytest.approx(180.0)
    v = np.array([-50.0, -40.0, 5.0])
    assert signed_percentile(v, 100) == -50
    assert signed_percentile(-v, 100) == 50


def test_table_is_sound_and_documented() -> None:
    names = [a.name for a in ATTRIBUTES]
    shorts = [a.short for a in ATTRIBUTES]
    assert len(set(names)) == len(names)
    assert len({s.lower() for s in shorts}) == len(shorts)
    assert all(1 <= len(s) <= 10 and s.isascii() for s in shorts)
    assert attributes_markdown() in (DOCS / "inventory.md").read_text()


def test_metrics_are_documented() -> None:
    from components.evaluation.tally import DEFINITIONS

    text = (DOCS / "metrics.md").read_text()
    for key in DEFINITIONS:
        for part in key.split("."):
            assert f"`{part}`" in text, key


def inventory(n: int) -> gpd.GeoDataFrame:
    rng = np.random.default_rng(0)
    grid = Affine(25.0, 0, 500_000, 0, -25.0, 5_200_000)
    polygons = []
    for i in range(n):
        mask = rng.random((6, 8)) < 0.7
        mask[2, 2] = True
        polygons.append(pixel_polygon(mask, 20 * i, 5, grid))
    samples = [sample(f"LS-{i}") for i in range(n - 1)]
    if n:
        nothing = np.full(5, np.nan, np.float32)
        samples.append(sample(f"LS-{n - 1}", ("LS-ä", "LS-2"), los_velocity=nothing))
    return gpd.GeoDataFrame(
        attribute_table(samples), geometry=gpd.GeoSeries(polygons, crs="EPSG:32633")
    )


def same(a: gpd.GeoDataFrame, b: gpd.GeoDataFrame) -> None:
    assert len(a) == len(b)
    assert a.crs == b.crs
    assert [c for c in b.columns if c != "geometry"] == [a.name for a in ATTRIBUTES]
    for attribute in ATTRIBUTES:
        left, right = a[attribute.name], b[attribute.name]
        if attribute.kind == "text":
            assert left.fillna("").tolist() == right.fillna("").tolist()
        else:
            x, y = left.to_numpy(dtype=float), right.to_numpy(dtype=float)
            np.testing.assert_allclose(x, y, rtol=1e-12, equal_nan=True)
    for left, right in zip(a.geometry, b.geometry, strict=True):
        assert left.normalize().equals(right.normalize())
        assert left.area == right.area


@pytest.mark.parametrize("n", [0, 4])
def test_all_formats_hold_the_same(tmp_path: Path, n: int) -> None:
    table = inventory(n)
    gpkg, shp, parquet = write_all(table, tmp_path)
    same(table, gpd.read_file(gpkg, layer="landslides"))
    same(table, gpd.read_parquet(parquet))
    back = {short: name for name, short in shapefile_names().items()}
    same(table, gpd.read_file(shp).rename(columns=back))
    info = pyogrio.read_info(gpkg, layer="landslides")
    kinds = dict(zip(info["fields"], info["dtypes"], strict=True))
    for a in ATTRIBUTES:
        assert kinds[a.name] == {"text": "object", "integer": "int64", "real": "float64"}[a.kind]
    assert info["geometry_type"] == "MultiPolygon"


def test_bytes_are_the_same_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for i, day in enumerate(("2031-01-01T00:00:00.000Z", None)):
        folder = tmp_path / str(i)
        folder.mkdir()
        # Whatever date the surroundings ask for.
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": day})
        write_all(inventory(4), folder)
        assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") == day
        digests.append(
            {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}
        )
    assert digests[0] == digests[1]
    assert {"landslides.gpkg", "landslides.shp", "landslides.dbf", "landslides.parquet"} <= set(
        digests[0]
    )


def test_fixed_dates_restores_after_an_error() -> None:
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    with pytest.raises(RuntimeError), fixed_dates():
        raise RuntimeError
    assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") == before


def test_long_genealogies_are_cut_in_the_shapefile_only(tmp_path: Path) -> None:
    parents = tuple(f"LS-{i:012x}" for i in range(40))
    table = gpd.GeoDataFrame(
        attribute_table([sample(parents=parents)]),
        geometry=gpd.GeoSeries([shapely.MultiPolygon([shapely.box(0, 0, 25, 25)])], crs=32633),
    )
    gpkg, shp, _ = write_all(table, tmp_path)
    assert gpd.read_file(gpkg)["parents"][0] == ",".join(parents)
    assert gpd.read_file(shp)["parents"][0] == ",".join(parents)[:254]
    assert isinstance(table, pd.DataFrame)

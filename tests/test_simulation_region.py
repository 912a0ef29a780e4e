"""The region on disk: HyP3 layout, signs, labels against truth, reproducibility, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
from scipy import ndimage
from shapely.geometry import box

from components.config import IngestConfig, SimulateConfig
from components.errors import InputError, WorkspaceError
from components.insar.geometry import los_from_hyp3
from components.layers import SENTINEL1_WAVELENGTH_M
from components.products import hyp3
from components.provenance import file_sha256
from components.simulation.hyp3_writer import PERIOD_LAYERS, TRACK_LAYERS, utc_of_pass
from components.simulation.region import SimulationResult, simulate_region

SUFFIXES = {
    "unw_phase", "wrapped_phase", "corr", "amp", "los_disp", "vert_disp",
    "lv_theta", "lv_phi", "dem", "inc_map", "inc_map_ell", "water_mask",
}  # fmt: skip

CFG = SimulateConfig(
    seed=5,
    height=320,
    width=300,
    periods=2,
    tracks=("descending", "ascending"),
    landslides_per_1000km2=600,
)


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> SimulationResult:
    return simulate_region(tmp_path_factory.mktemp("sim") / "region", CFG)


def layer(product: Path, suffix: str) -> np.ndarray:
    with rasterio.open(product / f"{product.name}_{suffix}.tif") as source:
        return source.read(1)


def hashes(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): file_sha256(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_products_have_every_file_of_hyp3(region: SimulationResult) -> None:
    assert {*PERIOD_LAYERS, *TRACK_LAYERS} == SUFFIXES
    assert len(region.products) == 4
    for product in region.products:
        files = {p.name for p in product.iterdir()}
        expected = {f"{product.name}_{s}.tif" for s in SUFFIXES} | {f"{product.name}.txt"}
        assert files == expected
        for suffix in SUFFIXES:
            with rasterio.open(product / f"{product.name}_{suffix}.tif") as source:
                assert source.crs.to_epsg() == CFG.epsg
                assert source.res == (25.0, 25.0)
                assert source.shape == (320, 300)
                if suffix == "water_mask":
                    assert source.dtypes[0] == "uint8"
                else:
                    assert source.dtypes[0] == "float32"
                    assert source.nodata == 0
                assert source.compression.value == "DEFLATE"


def test_the_reader_understands_them(region: SimulationResult) -> None:
    periods = set()
    for folder in region.products:
        (product,) = hyp3.read(folder, IngestConfig())
        assert product.track in {"ascending", "descending"}
        assert product.looks == 20
        assert (product.date_end - product.date_start).days == 180
        assert tuple(product.geobox.shape) == (320, 300)
        periods.add((product.track, product.period))
        text = (folder / f"{folder.name}.txt").read_text()
        heading = next(x for x in text.splitlines() if x.startswith("Heading:"))
        assert float(heading.split(":")[1]) == (-13 if product.track == "ascending" else -167)
    assert periods == {
        (track, period)
        for track in ("ascending", "descending")
        for period in ("20230101_20230630", "20230630_20231227")
    }


def test_signs_and_geometry(region: SimulationResult) -> None:
    for product in region.products:
        phase, los = layer(product, "unw_phase"), layer(product, "los_disp")
        factor = -SENTINEL1_WAVELENGTH_M / (4 * np.pi)
        np.testing.assert_array_equal(los, phase * np.float32(factor))
        there = phase != 0
        assert 0.6 < there.mean() < 1
        assert np.isfinite(phase).all()
        wrapped = layer(product, "wrapped_phase")
        assert (wrapped != 0).all()
        assert np.abs(wrapped).max() <= np.pi
        np.testing.assert_allclose(np.cos(wrapped - phase)[there], 1, atol=1e-4)
        corr = layer(product, "corr")
        assert corr.min() > 0
        assert corr.max() <= 1
        theta, phi = layer(product, "lv_theta"), layer(product, "lv_phi")
        incidence = np.pi / 2 - theta
        np.testing.assert_allclose(incidence, layer(product, "inc_map_ell"), atol=1e-5)
        assert (np.rad2deg(incidence) > 29 - 1e-3).all()
        assert (np.rad2deg(incidence) < 46 + 1e-3).all()
        east, north, up = los_from_hyp3(theta, phi)
        ascending = "Reference Pass Direction: ASC" in (product / f"{product.name}.txt").read_text()
        assert (np.sign(east) == (-1 if ascending else 1)).all()
        assert (north < 0).all()  # the satellite stands south of west (asc) or south of east (desc)
        vertical = layer(product, "vert_disp")
        np.testing.assert_allclose(vertical[there], (los / up)[there], rtol=1e-4, atol=1e-7)


def test_known_motion_shows_with_the_right_sign_and_size(region: SimulationResult) -> None:
    labels = gpd.read_file(region.labels)
    rates = pyogrio.read_dataframe(region.truth, layer="rates")
    clear = rates[(rates.ignore == 0) & (rates.snr > 4) & (rates.visible_px > 20)]
    clear = clear[clear.peak_los_mm.abs() < 60]
    errors, agree = [], []
    for row in clear.itertuples():
        product = next(
            p
            for p in region.products
            if hyp3.read(p, IngestConfig())[0].track == row.track
            and "_".join(x[:8] for x in p.name.split("_")[1:3]) == row.period
        )
        with rasterio.open(product / f"{product.name}_los_disp.tif") as source:
            d, transform = source.read(1), source.transform
        chosen = labels[
            (labels.slide_id == row.slide_id)
            & (labels.track == row.track)
            & (labels.period == row.period)
        ]
        inside = rasterio.features.geometry_mask(chosen.geometry, d.shape, transform, invert=True)
        ring = ndimage.binary_dilation(inside, iterations=7)
        ring &= ~ndimage.binary_dilation(inside, iterations=2) & (d != 0)
        contrast = d[inside & (d != 0)] - np.median(d[ring])
        agree.append(np.sign(np.median(contrast)) == np.sign(row.peak_los_mm))
        errors.append(np.abs(contrast).max() * 1000 / abs(row.peak_los_mm))
    assert len(agree) >= 8
    assert np.mean(agree) > 0.9
    assert 0.6 < np.median(errors) < 1.5


def test_labels_agree_with_the_truth(region: SimulationResult) -> None:
    labels = gpd.read_file(region.labels, layer="landslides")
    footprints = gpd.read_file(region.truth, layer="footprints").set_index("slide_id")
    rates = pyogrio.read_dataframe(region.truth, layer="rates")
    rates = rates.set_index(["slide_id", "track", "period"])
    assert region.n_landslides == len(footprints)
    assert len(rates) == 4 * len(footprints)
    assert len(labels) == (rates.visible_px > 0).sum()
    assert set(labels.category) == {"landslide"}
    assert not labels.duplicated(["slide_id", "track", "period"]).any()
    assert labels.crs.to_epsg() == CFG.epsg
    with rasterio.open(region.dem) as source:
        west, north = source.transform.c, source.transform.f
        extent = box(*source.bounds)
    assert footprints.geometry.is_valid.all()
    for row in labels.itertuples():
        whole = footprints.loc[row.slide_id]
        assert row.geometry.geom_type == "Polygon"
        assert row.geometry.is_valid
        assert row.geometry.within(extent)
        assert row.geometry.difference(whole.geometry).area < 1e-6
        corners = np.array(row.geometry.exterior.coords) - (west, north)
        np.testing.assert_allclose(corners % 25.0, 0, atol=1e-6)
        assert (row.shape, row.motion) == (whole["shape"], whole["motion"])
        facts = rates.loc[(row.slide_id, row.track, row.period)]
        assert row.geometry.area == pytest.approx(625 * facts.visible_px)
        share = row.geometry.area / whole.area_m2
        assert facts.visible_fraction == pytest.approx(share)
        assert row.ignore == int(share < 0.3 or facts.visible_px < 6)
        assert facts.rate_mm_yr > 0
        assert facts.snr >= 2
    shapefile = gpd.read_file(region.labels_shp)
    assert shapefile.crs == labels.crs
    for column in ("slide_id", "category", "track", "period", "ignore", "shape", "motion"):
        assert (shapefile[column] == labels[column]).all()
    # Shapefiles turn rings the other way round.
    same = shapefile.normalize().geom_equals_exact(labels.normalize(), 1e-6)
    assert same.all()


def test_footprints_do_not_overlap_negatives_on_the_ground(region: SimulationResult) -> None:
    footprints = gpd.read_file(region.truth, layer="footprints")
    negatives = gpd.read_file(region.truth, layer="negatives")
    ground = negatives[negatives.track.fillna("") == ""]
    assert footprints.union_all().intersection(ground.union_all()).area < 1e-6
    assert {"turbulence"} <= set(negatives.kind)
    facts = json.loads((region.dem.parent / "simulation.json").read_text())
    by_product = negatives[negatives.track.fillna("") != ""].area_m2.sum() / 4
    expected = (ground.area_m2.sum() + by_product) / 1e6
    assert facts["anomalies"]["negative_km2"] == pytest.approx(expected, abs=1e-3)


def test_what_starts_later_is_absent_before(region: SimulationResult) -> None:
    footprints = gpd.read_file(region.truth, layer="footprints")
    labels = gpd.read_file(region.labels)
    first, second = sorted(set(labels.period))
    starting = footprints[footprints.history == "starting"]
    stopping = footprints[footprints.history == "stopping"]
    assert len(starting) >= 2
    assert len(stopping) >= 2
    assert (starting.v_p1 == 0).all()
    assert (starting.v_p2 > 0).all()
    assert (starting.start >= "2023-06-30").all()
    assert (stopping.v_p2 == 0).all()
    assert (stopping.stop <= "2023-06-30").all()
    in_first = set(labels[labels.period == first].slide_id)
    in_second = set(labels[labels.period == second].slide_id)
    assert not in_first & set(starting.slide_id)
    assert not in_second & set(stopping.slide_id)
    assert in_first & in_second


def test_consecutive_periods_share_an_acquisition(region: SimulationResult) -> None:
    a, b = (layer(p, "los_disp") for p in region.products[:2])
    good = (a != 0) & (b != 0)
    assert np.corrcoef(a[good], b[good])[0, 1] < -0.1
    for suffix in TRACK_LAYERS:
        np.testing.assert_array_equal(
            layer(region.products[0], suffix), layer(region.products[1], suffix)
        )


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    cfg = SimulateConfig(seed=3, height=140, width=128, periods=2, landslides_per_1000km2=2000)
    for name in ("a", "b"):
        simulate_region(tmp_path / name, cfg)
    one, two = hashes(tmp_path / "a"), hashes(tmp_path / "b")
    assert one == two
    assert {"labels.gpkg", "labels.shp", "labels.dbf", "truth.gpkg", "dem.tif"} <= set(one)
    assert len(one) == 2 * 13 + 9
    other = simulate_region(tmp_path / "c", cfg.model_copy(update={"seed": 4}))
    assert not other.reused
    assert hashes(tmp_path / "c")["dem.tif"] != one["dem.tif"]
    # A third track or period does not change what was there.
    simulate_region(tmp_path / "d", cfg.model_copy(update={"tracks": ("ascending", "descending")}))
    more = hashes(tmp_path / "d")
    shared = [name for name in one if name.startswith("products/")]
    assert all(more[name] == one[name] for name in shared)


def test_a_second_call_does_nothing_and_another_configuration_replaces(tmp_path: Path) -> None:
    cfg = SimulateConfig(seed=3, height=128, width=128, periods=1)
    out = tmp_path / "r"
    first = simulate_region(out, cfg)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    again = simulate_region(out, cfg)
    assert again.reused
    assert not first.reused
    assert again.products == first.products
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    (out / "dem.tif").write_bytes(b"cut")
    assert not simulate_region(out, cfg).reused
    assert (out / "dem.tif").stat().st_size > 1000
    moved = simulate_region(out, cfg.model_copy(update={"start": "2022-03-01"}))
    assert "20220301T" in moved.products[0].name
    assert len(list((out / "products").iterdir())) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r"]


def test_null_map_has_no_landslide(tmp_path: Path) -> None:
    cfg = SimulateConfig(seed=8, height=160, width=160, periods=1, landslides_per_1000km2=0)
    out = simulate_region(tmp_path / "null", cfg)
    assert out.n_landslides == 0
    for path, name in ((out.labels, "landslides"), (out.truth, "footprints")):
        table = gpd.read_file(path, layer=name)
        assert len(table) == 0
        assert "slide_id" in table.columns
    assert len(gpd.read_file(out.labels_shp)) == 0
    assert (layer(out.products[0], "los_disp") != 0).any()


@pytest.fixture
def user_dem(tmp_path: Path) -> Path:
    path = tmp_path / "dem.tif"
    north, east = np.mgrid[200:0:-1, 0:220]
    z = (1000 + 12.0 * east + 3.0 * north).astype(np.float32)
    z[90:93, 100:104] = -9999
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=200,
        width=220,
        count=1,
        dtype="float32",
        crs="EPSG:32633",
        transform=rasterio.transform.from_origin(400_000, 5_000_000, 30, 30),
        nodata=-9999,
    ) as target:
        target.write(z, 1)
    return path


def test_the_users_dem_is_used(tmp_path: Path, user_dem: Path) -> None:
    cfg = SimulateConfig(height=150, width=160, periods=1, epsg=32633, dem=user_dem)
    out = simulate_region(tmp_path / "r", cfg)
    with rasterio.open(out.dem) as source:
        z, transform = source.read(1), source.transform
    rows, cols = np.mgrid[:150, :160]
    x, y = transform * (cols + 0.5, rows + 0.5)
    expected = 1000 + 12 * ((x - 400_000) / 30 - 0.5) + 3 * (200 - ((5_000_000 - y) / 30 - 0.5))
    difference = np.abs(z - expected)
    assert np.percentile(difference, 99) < 0.5
    assert difference.max() < 60  # the void, filled from its neighbours
    np.testing.assert_array_equal(layer(out.products[0], "dem"), z)
    # Another content under the same path is another region.
    with rasterio.open(user_dem, "r+") as target:
        target.write(target.read(1) + 100, 1)
    assert not simulate_region(tmp_path / "r", cfg).reused


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"start": "yesterday"}, "SW-701"),
        ({"start": "9999-12-01"}, "SW-701"),
        ({"epsg": 4326}, "SW-701"),
        ({"epsg": 1}, "SW-701"),
        ({"dem": Path("no/such/dem.tif")}, "SW-101"),
    ],
)
def test_impossible_configurations_are_refused(
    tmp_path: Path, change: dict[str, object], code: str
) -> None:
    cfg = SimulateConfig(height=128, width=128, periods=1).model_copy(update=change)
    with pytest.raises(InputError) as caught:
        simulate_region(tmp_path / "r", cfg)
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


def test_unusable_dems_are_refused(tmp_path: Path, user_dem: Path) -> None:
    def code(**change: object) -> str:
        base = SimulateConfig(height=128, width=128, periods=1, epsg=32633, dem=user_dem)
        with pytest.raises(InputError) as caught:
            simulate_region(tmp_path / "r", base.model_copy(update=change))
        assert not (tmp_path / "r").exists()
        return caught.value.code

    assert code(height=400) == "SW-115"
    bad = tmp_path / "bad.tif"
    bad.write_bytes(user_dem.read_bytes()[:90_000])
    assert code(dem=bad) == "SW-102"
    bare = tmp_path / "bare.tif"
    with rasterio.open(
        bare,
        "w",
        driver="GTiff",
        height=9,
        width=9,
        count=1,
        dtype="float32",
        transform=rasterio.transform.from_origin(0, 0, 2, 2),
    ) as target:
        target.write(np.ones((9, 9), np.float32), 1)
    assert code(dem=bare) == "SW-103"


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("keep")
    with pytest.raises(WorkspaceError) as caught:
        simulate_region(folder, SimulateConfig(height=128, width=128, periods=1))
    assert caught.value.code == "SW-201"
    assert [p.name for p in folder.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("direction", "longitude", "expected"),
    [("ascending", 0.0, "180000"), ("descending", 99.0, "232400"), ("descending", -75.0, "110000")],
)
def test_passes_are_at_six_local_time(direction: str, longitude: float, expected: str) -> None:
    assert utc_of_pass(direction, longitude) == expected

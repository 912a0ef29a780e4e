"""dolphin, OPERA and plain rasters: an uplift must come out positive; refusals by code."""

import re
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
import yaml
from affine import Affine
from pyproj import CRS

from components.config import IngestConfig
from components.errors import InputError
from components.insar.geometry import los_from_angles
from components.insar.phase import phase_from_displacement
from components.layers import DAYS_PER_YEAR, SENTINEL1_WAVELENGTH_M
from components.products.base import LOS_LAYERS, Product
from components.products.check import check_product
from components.products.open import open_layer
from components.products.plain import EXAMPLE, Description
from components.products.registry import READERS, discover

SHAPE = (30, 40)
TRANSFORM = Affine(30.0, 0.0, 700_000.0, 0.0, -30.0, 3_480_000.0)
UPLIFT_M = 0.02
CONFIG = IngestConfig()
ROOT = Path(__file__).resolve().parents[1]


def write_tif(
    path: Path, values: np.ndarray, tags: dict[str, str] | None = None, **options
) -> Path:
    options = {"crs": "EPSG:32613", "transform": TRANSFORM} | options
    height, width = values.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=1,
        dtype=values.dtype,
        **options,
    ) as dst:
        dst.write(values, 1)
        dst.update_tags(**(tags or {}))
    return path


def write_netcdf(path: Path, variables: dict[str, np.ndarray]) -> Path:
    """A NetCDF file, georeferenced as CF says and as DISP-S1 is: y falls, x rises, pixel centres."""
    height, width = SHAPE
    x = TRANSFORM.c + TRANSFORM.a * (np.arange(width) + 0.5)
    y = TRANSFORM.f + TRANSFORM.e * (np.arange(height) + 0.5)
    crs = CRS.from_epsg(32613).to_cf()
    data = {
        name: (("y", "x"), values, {"grid_mapping": "spatial_ref"})
        for name, values in variables.items()
    }
    coords = {
        "y": ("y", y, {"standard_name": "projection_y_coordinate", "units": "m"}),
        "x": ("x", x, {"standard_name": "projection_x_coordinate", "units": "m"}),
    }
    dataset = xr.Dataset(data | {"spatial_ref": ((), np.int32(0), crs)}, coords)
    dataset.to_netcdf(path, engine="scipy")
    return path


def uplift(value: float = UPLIFT_M) -> np.ndarray:
    out = np.full(SHAPE, value, dtype=np.float32)
    out[0] = np.nan
    return out


def values(product: Product, layer: str = "los_displacement", chunks: int = 16) -> np.ndarray:
    return open_layer(product, layer, chunks=chunks).to_numpy()


def refused(path: Path, code: str, cfg: IngestConfig = CONFIG) -> InputError:
    def whole() -> None:
        for product in discover([path], cfg):
            check_product(product)

    with pytest.raises(InputError) as caught:
        whole()
    assert caught.value.code == code
    return caught.value


def describe(path: Path, **changes: object) -> Path:
    """A YAML of a displacement in metres, with keys changed (None removes one)."""
    keys: dict[str, object] = {
        "quantity": "displacement",
        "unit": "m",
        "sign": "toward",
        "dates": ["2023-01-05", "2023-07-04"],
    }
    keys = {k: v for k, v in (keys | changes).items() if v is not None}
    path.write_text(yaml.safe_dump(keys))
    return path


# --- dolphin -------------------------------------------------------------------------------------


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    folder = tmp_path / "stack"
    folder.mkdir()
    mask = np.ones(SHAPE, dtype=np.float32)
    mask[:, :5], mask[:, 5:8] = 0, 255
    for i, day in enumerate(("20230117", "20230129"), start=1):
        write_tif(folder / f"displacement_20230105_{day}.tif", uplift(i * UPLIFT_M), nodata=np.nan)
        write_tif(folder / f"recommended_mask_20230105_{day}.tif", mask, nodata=255)
    write_tif(folder / "temporal_coherence_20230105_20230129.tif", uplift(0.9), nodata=np.nan)
    return folder


def test_dolphin_stack(stack: Path) -> None:
    first, second = discover([stack], CONFIG)
    assert (first.period, second.period) == ("20230105_20230117", "20230105_20230129")
    assert (first.reader, first.track, first.orbit_direction) == ("dolphin", "unknown", "unknown")
    for i, product in enumerate((first, second), start=1):
        check_product(product)
        d = values(product)
        assert np.isnan(d[0]).all()
        np.testing.assert_allclose(d[1:], i * UPLIFT_M, rtol=1e-6)
        np.testing.assert_allclose(values(product, "coherence")[1:], 0.9, rtol=1e-6)
        mask = values(product, "mask")
        assert not mask[:, :8].any()
        assert mask[:, 8:].all()
    assert first.sha256() != second.sha256()


def test_dolphin_single_file_takes_its_siblings(stack: Path) -> None:
    (product,) = discover([stack / "displacement_20230105_20230117.tif"], IngestConfig(track="T5"))
    assert product.track == "T5"
    assert {p.name for p in product.files} == {
        "displacement_20230105_20230117.tif",
        "recommended_mask_20230105_20230117.tif",
        "temporal_coherence_20230105_20230129.tif",
    }


def test_nearest_coherence_is_taken(stack: Path) -> None:
    write_tif(stack / "temporal_coherence_20230105_20230118.tif", uplift(0.5))
    first, second = discover([stack], CONFIG)
    assert values(first, "coherence")[5, 5] == pytest.approx(0.5)
    assert values(second, "coherence")[5, 5] == pytest.approx(0.9)


def test_stated_angles_give_a_look_vector(stack: Path) -> None:
    cfg = IngestConfig(incidence_deg=38.0, heading_deg=-12.0)
    product = discover([stack], cfg)[0]
    for name, expected in zip(LOS_LAYERS, los_from_angles(38.0, -12.0), strict=True):
        np.testing.assert_allclose(values(product, name), expected, rtol=1e-6)
    assert "los_east" not in discover([stack], CONFIG)[0].layers


def test_dolphin_reversed_or_impossible_dates_are_refused(tmp_path: Path) -> None:
    refused(write_tif(tmp_path / "displacement_20230117_20230105.tif", uplift()), "SW-106")
    refused(write_tif(tmp_path / "displacement_20230105_20231301.tif", uplift()), "SW-106")


# --- OPERA ---------------------------------------------------------------------------------------

OPERA = "OPERA_L3_DISP-S1_IW_F11116_VV_20230105T004521Z_20230117T004521Z_v1.0_20230301T000000Z.nc"


def test_opera_file(tmp_path: Path) -> None:
    mask = np.ones(SHAPE)
    mask[:, :5], mask[:, 5:8] = 0, 255
    path = write_netcdf(
        tmp_path / OPERA,
        {
            "displacement": uplift(),
            "short_wavelength_displacement": uplift(1e-3),
            "recommended_mask": mask,
            "temporal_coherence": uplift(0.7),
        },
    )
    (product,) = discover([path], CONFIG)
    check_product(product)
    assert (product.reader, product.track, product.period) == (
        "opera",
        "F11116",
        "20230105_20230117",
    )
    assert product.geobox.affine == TRANSFORM
    assert product.geobox.crs.epsg == 32613
    np.testing.assert_allclose(values(product)[1:], UPLIFT_M, rtol=1e-6)
    np.testing.assert_allclose(values(product, "coherence")[1:], 0.7, rtol=1e-6)
    assert not values(product, "mask")[:, :8].any()
    assert values(product, "mask")[:, 8:].all()


def test_opera_without_displacement_or_damaged_is_refused(tmp_path: Path) -> None:
    path = write_netcdf(tmp_path / OPERA, {"a": uplift(), "b": uplift()})
    refused(path, "SW-113")
    path.write_bytes(path.read_bytes()[:500])
    refused(path, "SW-102")


# --- plain rasters -------------------------------------------------------------------------------

DAYS = (date(2023, 7, 4) - date(2023, 1, 5)).days
PHASE = float(phase_from_displacement(UPLIFT_M, SENTINEL1_WAVELENGTH_M))


@pytest.mark.parametrize(
    ("quantity", "unit", "sign", "raw"),
    [
        ("displacement", "m", "toward", UPLIFT_M),
        ("displacement", "cm", "away", -UPLIFT_M * 1e2),
        ("displacement", "mm", "toward", UPLIFT_M * 1e3),
        ("velocity", "m/yr", "toward", UPLIFT_M / DAYS * DAYS_PER_YEAR),
        ("velocity", "mm/yr", "away", -UPLIFT_M * 1e3 / DAYS * DAYS_PER_YEAR),
        ("unwrapped_phase", "rad", "away", PHASE),
        ("unwrapped_phase", "rad", "toward", -PHASE),
    ],
)
def test_uplift_is_positive_whatever_the_file_holds(
    tmp_path: Path, quantity: str, unit: str, sign: str, raw: float
) -> None:
    path = write_tif(tmp_path / "map.tif", uplift(raw))
    wavelength = SENTINEL1_WAVELENGTH_M if quantity == "unwrapped_phase" else None
    describe(
        tmp_path / "map.yaml", quantity=quantity, unit=unit, sign=sign, wavelength_m=wavelength
    )
    (product,) = discover([path], CONFIG)
    check_product(product)
    assert (product.reader, product.period) == ("plain", "20230105_20230704")
    d = values(product)
    assert np.isnan(d[0]).all()
    np.testing.assert_allclose(d[1:], UPLIFT_M, rtol=1e-5)


def test_all_keys_of_the_yaml(tmp_path: Path) -> None:
    raw = np.full(SHAPE, 20, dtype=np.int16)
    raw[3, 3] = -9999
    write_tif(tmp_path / "data.tif", raw)
    coherence = np.full(SHAPE, 102, dtype=np.uint8)
    coherence[4, 4] = 0
    write_tif(tmp_path / "cc.tif", coherence)
    good = np.ones(SHAPE, dtype=np.uint8)
    good[5, 5] = 0
    write_tif(tmp_path / "good.tif", good)
    write_tif(tmp_path / "dem.tif", np.full(SHAPE, 900, dtype=np.int16))
    (tmp_path / "elsewhere").mkdir()
    description = describe(
        tmp_path / "elsewhere" / "any.yml", file="../data.tif", unit="mm", nodata=-9999,
        dates=[20230105, date(2023, 7, 4)], coherence=str(tmp_path / "cc.tif"),
        coherence_unit="byte", coherence_nodata=0, mask="../good.tif", elevation="../dem.tif",
        incidence_deg=39, heading_deg=-168, track="T022D", looks=12, wavelength_m=0.24,
    )  # fmt: skip
    (product,) = discover([description], IngestConfig(track="ignored"))
    check_product(product)
    assert (product.track, product.orbit_direction, product.looks) == ("T022D", "descending", 12)
    assert (product.period, product.wavelength_m) == ("20230105_20230704", 0.24)
    d, gamma = values(product), values(product, "coherence")
    assert np.isnan(d[3, 3])
    assert np.isnan(gamma[4, 4])
    assert d[0, 0] == pytest.approx(0.02)
    assert gamma[0, 0] == pytest.approx(0.4)
    assert not values(product, "mask")[5, 5]
    assert values(product, "elevation")[0, 0] == 900
    assert values(product, "los_east")[0, 0] == pytest.approx(los_from_angles(39, -168).east)
    assert {p.name for p in product.files} == {
        "any.yml",
        "data.tif",
        "cc.tif",
        "good.tif",
        "dem.tif",
    }


@pytest.mark.parametrize("name", ["map.tif.yaml", "map.yaml", "map.yml"])
def test_yaml_names(tmp_path: Path, name: str) -> None:
    path = write_tif(tmp_path / "map.tif", uplift())
    description = describe(tmp_path / name)
    by_raster, by_yaml = discover([path], CONFIG)[0], discover([description], CONFIG)[0]
    assert by_raster.layers == by_yaml.layers
    assert by_raster.sha256() == by_yaml.sha256()


def test_a_yaml_beside_a_dolphin_file_has_precedence(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "displacement_20230105_20230117.tif", uplift())
    describe(path.with_suffix(".yaml"), sign="away")
    (product,) = discover([path], CONFIG)
    assert product.reader == "plain"
    assert values(product)[5, 5] == pytest.approx(-UPLIFT_M)


def test_netcdf_with_one_and_with_several_variables(tmp_path: Path) -> None:
    one = write_netcdf(tmp_path / "one.nc", {"d": uplift()})
    describe(tmp_path / "one.yaml")
    np.testing.assert_allclose(values(discover([one], CONFIG)[0])[1:], UPLIFT_M, rtol=1e-6)
    two = write_netcdf(tmp_path / "two.nc", {"d": uplift(), "e": uplift(9)})
    describe(tmp_path / "two.yaml")
    assert "variable" in refused(two, "SW-114").what
    describe(tmp_path / "two.yaml", variable="x")
    refused(two, "SW-114")
    describe(tmp_path / "two.yaml", variable="d")
    np.testing.assert_allclose(values(discover([two], CONFIG)[0])[1:], UPLIFT_M, rtol=1e-6)


def test_scaled_integers_are_unpacked(tmp_path: Path) -> None:
    raw = np.full(SHAPE, 40, dtype=np.int16)
    raw[0, 0] = -1
    path = write_tif(tmp_path / "map.tif", raw, nodata=-1)
    with rasterio.open(path, "r+") as dst:
        dst.scales, dst.offsets = (0.5,), (2.0,)
    describe(tmp_path / "map.yaml", unit="mm", sign="away")
    d = values(discover([path], CONFIG)[0])
    assert d[1, 1] == pytest.approx(-0.022)
    assert np.isnan(d[0, 0])


@pytest.mark.parametrize(
    ("changes", "code", "word"),
    [
        ({"quantity": None}, "SW-105", "quantity"),
        ({"unit": None}, "SW-105", "unit"),
        ({"sign": None}, "SW-105", "sign"),
        ({"sign": "up"}, "SW-105", "sign"),
        ({"unit": "rad"}, "SW-105", "rad"),
        ({"quantity": "unwrapped_phase", "unit": "rad"}, "SW-105", "wavelength_m"),
        ({"quantity": "wrapped_phase", "unit": "rad"}, "SW-105", "wrapped"),
        ({"dates": None}, "SW-106", "dates"),
        ({"dates": ["2023-07-04", "2023-01-05"]}, "SW-106", "not older"),
        ({"dates": ["2023-02-30", "2023-07-05"]}, "SW-106", "2023-02-30"),
        ({"dates": ["2023-02-03"]}, "SW-106", "dates"),
        ({"wavelenght_m": 0.05}, "SW-114", "wavelenght_m"),
        ({"looks": -1}, "SW-114", "looks"),
        ({"incidence_deg": 39}, "SW-114", "heading_deg"),
        ({"los_east": "map.tif"}, "SW-114", "los_up"),
        ({"coherence": "nowhere.tif"}, "SW-101", "nowhere.tif"),
        ({"file": "other.tif"}, "SW-114", "other.tif"),
    ],
)
def test_bad_yaml_is_refused_by_key(
    tmp_path: Path, changes: dict[str, object], code: str, word: str
) -> None:
    path = write_tif(tmp_path / "map.tif", uplift())
    describe(tmp_path / "map.yaml", **changes)
    assert word in str(refused(path, code))


def test_raster_without_yaml_is_refused_with_a_working_example(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "map.tif", uplift(20.0))
    error = refused(path, "SW-105")
    assert EXAMPLE in error.remedy
    (tmp_path / "map.yaml").write_text(EXAMPLE)
    assert values(discover([path], CONFIG)[0])[5, 5] == pytest.approx(UPLIFT_M)


def test_phase_promised_as_displacement_is_refused(tmp_path: Path) -> None:
    tagged = write_tif(tmp_path / "a.tif", uplift(-4.0), tags={"DATA_UNITS": "RADIANS"})
    describe(tmp_path / "a.yaml")
    assert "RADIANS" in refused(tagged, "SW-105").what
    spread = np.linspace(-30, 30, SHAPE[0] * SHAPE[1], dtype=np.float32).reshape(SHAPE)
    untagged = write_tif(tmp_path / "b.tif", spread)
    describe(tmp_path / "b.yaml")
    assert "metres" in refused(untagged, "SW-105").what


def test_yaml_that_is_none_is_refused(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "map.tif", uplift())
    for text in ("a: [", "just words", ""):
        (tmp_path / "map.yaml").write_text(text)
        refused(path, "SW-114")
    (tmp_path / "map.yaml").write_bytes(b"\xff\x00\x81")
    refused(path, "SW-114")
    refused(describe(tmp_path / "alone.yaml"), "SW-101")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_rasters_that_cannot_be_placed_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    describe(tmp_path / "map.yaml")
    write_tif(path, uplift(), crs=None)
    refused(path, "SW-103")
    describe(tmp_path / "map.yaml", crs="EPSG:32613")
    assert discover([write_tif(path, uplift(), crs=None)], CONFIG)[0].geobox.crs.epsg == 32613
    rotated = TRANSFORM * Affine.rotation(10)
    write_tif(path, uplift(), transform=rotated)
    assert "north-up" in str(refused(path, "SW-103"))
    write_tif(path, uplift(), transform=Affine.identity())
    refused(path, "SW-103")


def test_complex_numbers_and_junk_are_refused(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "map.tif", uplift().astype(np.complex64))
    describe(tmp_path / "map.yaml")
    refused(path, "SW-105")
    path.write_text("no raster")
    refused(path, "SW-102")


# --- discovery -----------------------------------------------------------------------------------


def test_unknown_and_missing_paths_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "SW-101")
    refused(tmp_path, "SW-111")
    (tmp_path / "notes.txt").write_text("x")
    refused(tmp_path / "notes.txt", "SW-111")
    with pytest.raises(InputError, match="SW-101"):
        discover([], CONFIG)


def test_a_folder_of_products_is_told_apart_from_a_product(stack: Path) -> None:
    assert "1 product(s)" in refused(stack.parent, "SW-111").remedy


def test_order_does_not_depend_on_the_order_given(stack: Path, tmp_path: Path) -> None:
    other = describe(tmp_path / "o.yaml", file=str(next(stack.glob("displacement*"))), track="A")
    assert discover([stack, other], CONFIG) == discover([other, stack], CONFIG)
    assert [p.track for p in discover([stack, other], CONFIG)] == ["A", "unknown", "unknown"]


# --- reading -------------------------------------------------------------------------------------


def test_layers_are_lazy_blockwise_and_on_the_grid(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).normal(0, 0.01, (70, 50)).astype(np.float32)
    path = write_tif(tmp_path / "map.tif", raw)
    describe(tmp_path / "map.yaml")
    (product,) = discover([path], CONFIG)
    layer = open_layer(product, "los_displacement", chunks=32)
    assert layer.dims == ("y", "x")
    assert layer.chunks == ((32, 32, 6), (32, 18))
    assert float(layer.x[0]) == TRANSFORM.c + 15
    assert float(layer.y[0]) == TRANSFORM.f - 15
    assert layer.odc.geobox == product.geobox
    assert layer.attrs["units"] == "m"
    assert layer.attrs["positive_direction"] == "toward the satellite"
    np.testing.assert_array_equal(layer.compute(scheduler="threads", num_workers=4), raw)
    with pytest.raises(InputError, match="SW-113"):
        open_layer(product, "coherence")
    path.unlink()
    with pytest.raises(InputError, match="SW-101"):
        layer.compute()


def test_a_small_valid_area_of_a_large_map_is_found(tmp_path: Path) -> None:
    # Larger than what is looked at whole; the valid pixels lie between the samples.
    raw = np.full((2300, 2300), np.nan, dtype=np.float32)
    raw[300:400, 300:310] = 0.01
    path = write_tif(tmp_path / "map.tif", raw, compress="deflate", tiled=True)
    describe(tmp_path / "map.yaml")
    check_product(discover([path], CONFIG)[0])
    raw[:] = np.nan
    write_tif(path, raw, compress="deflate", tiled=True)
    refused(path, "SW-108")


# --- documentation -------------------------------------------------------------------------------


def test_docs_name_every_reader_and_every_key_and_their_examples_are_valid() -> None:
    text = (ROOT / "docs" / "products.md").read_text()
    for reader in READERS:
        assert f"`{reader.name}`" in text
    for key in Description.model_fields:
        assert f"`{key}`" in text
    examples = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert len(examples) >= 2
    for example in examples:
        Description.model_validate(yaml.safe_load(example))


# --- real data -----------------------------------------------------------------------------------


def test_real_dolphin_stack(real_data: Path) -> None:
    products = discover([real_data / "opera_dolphin_texas"], CONFIG)
    days = ("0801", "0825", "0918", "1012", "1105", "1129", "1217", "1223")
    assert [p.period for p in products] == [f"20160708_2016{d}" for d in days]
    for product in products:
        check_product(product)
        assert product.geobox.affine == Affine(30, 0, 717_600, 0, -30, 3_481_740)
        assert tuple(product.geobox.shape) == (362, 357)
        assert product.geobox.crs.epsg == 32613
        assert {"los_displacement", "coherence", "mask"} == set(product.layers)
    with rasterio.open(
        real_data / "opera_dolphin_texas" / "displacement_20160708_20161223.tif"
    ) as src:
        np.testing.assert_array_equal(values(products[-1], chunks=200), src.read(1))
    assert values(products[-1], "mask", 200).mean() > 0.99


def test_real_hyp3_phase(real_data: Path, tmp_path: Path) -> None:
    raster = real_data / "hyp3_aleutians" / "test_unw_phase.tif"
    keys = {"quantity": "unwrapped_phase", "unit": "rad", "sign": "away", "file": str(raster)}
    keys["wavelength_m"] = SENTINEL1_WAVELENGTH_M
    (product,) = discover([describe(tmp_path / "a.yaml", **keys)], CONFIG)
    check_product(product)
    assert (tuple(product.geobox.shape), product.geobox.crs.epsg) == ((718, 2314), 32602)
    d = values(product, chunks=500)
    assert np.isfinite(d).mean() == pytest.approx(0.11, abs=0.005)
    with rasterio.open(raster) as src:
        phase = src.read(1, masked=True)
    expected = -SENTINEL1_WAVELENGTH_M * phase.compressed() / (4 * np.pi)
    np.testing.assert_allclose(d[np.isfinite(d)], expected, rtol=1e-5)
    # Its water mask is one column wider.
    water = str(real_data / "hyp3_aleutians" / "test_water_mask.tif")
    refused(describe(tmp_path / "b.yaml", **keys, mask=water), "SW-104")


def test_real_licsbas_velocity(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "licsbas_campi_flegrei_geotiff"
    path = describe(
        tmp_path / "v.yaml", file=str(folder / "prelim_vel.tif"), quantity="velocity",
        unit="mm/yr", coherence=str(folder / "prelim_coh.tif"),
    )  # fmt: skip
    (product,) = discover([path], CONFIG)
    check_product(product)
    # The two files write the same CRS differently; it counts as one.
    assert (tuple(product.geobox.shape), product.geobox.crs.epsg) == ((361, 431), 4326)
    with rasterio.open(folder / "prelim_vel.tif") as src:
        expected = src.read(1) / 1000 * DAYS / DAYS_PER_YEAR
    np.testing.assert_allclose(values(product, chunks=500), expected, rtol=1e-5)


def test_real_gamma_phase(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "gamma_stack_mexico" / "cropA" / "geotiffs"
    stem = "cropA_20180106-20180130_VV_8rlks"
    keys = {
        "file": str(folder / f"{stem}_eqa_unw.tif"), "coherence": str(folder / f"{stem}_flat_eqa_cc.tif"),
        "unit": "rad", "sign": "away", "wavelength_m": 0.05550415767769124,
        "dates": ["2018-01-06", "2018-01-30"],
    }  # fmt: skip
    (product,) = discover(
        [describe(tmp_path / "g.yaml", **keys, quantity="unwrapped_phase")], CONFIG
    )
    check_product(product)
    assert (product.period, product.days) == ("20180106_20180130", 24)
    with rasterio.open(keys["file"]) as src:
        phase = src.read(1, masked=True)
    d = values(product, chunks=500)
    np.testing.assert_array_equal(np.isfinite(d), ~np.ma.getmaskarray(phase))
    expected = phase.compressed() * (-0.05550415767769124 / (4 * np.pi))
    np.testing.assert_allclose(d[np.isfinite(d)], expected, rtol=1e-5)
    # The file's own tag says radians: promised as metres, it is refused.
    refused(describe(tmp_path / "h.yaml", **keys | {"unit": "m"}), "SW-105")


def test_real_placeholders_of_hyp3_have_no_dates(real_data: Path) -> None:
    refused(real_data / "hyp3_naming", "SW-106")

"""HyP3 products written as HyP3 lays them out; an uplift must come out positive."""

import shutil
import zipfile
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from components.config import IngestConfig
from components.errors import InputError
from components.insar.geometry import hyp3_from_los, los_from_angles
from components.insar.phase import phase_from_displacement, wrap
from components.layers import SENTINEL1_WAVELENGTH_M
from components.products.base import LOS_LAYERS, Product
from components.products.check import check_product
from components.products.open import open_layer
from components.products.registry import discover

NAME = "S1AA_20230105T001122_20230704T001124_VVP180_INT80_G_ueF_48FE"
SHAPE = (40, 50)
TRANSFORM = Affine(80.0, 0.0, 500_000.0, 0.0, -80.0, 4_000_000.0)
UPLIFT_M = 0.03
CONFIG = IngestConfig()

PARAMETERS = {
    "Reference Granule": "S1A_IW_SLC__1SDV_20230105T001122_20230105T001149_046653_059760_1234",
    "Secondary Granule": "S1A_IW_SLC__1SDV_20230704T001124_20230704T001151_049278_05ECF2_5678",
    "Baseline": "-12.3",
    "UTC time": "682.0",
    "Heading": "-167.9",
    "Range looks": "20",
    "Azimuth looks": "4",
}


def write_tif(path: Path, values: np.ndarray, **options: object) -> None:
    options = {"nodata": 0, "crs": "EPSG:32647", "transform": TRANSFORM} | options
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


def rasters(heading: float = -167.9) -> dict[str, np.ndarray]:
    """An uplift of 3 cm with a nodata frame, in HyP3's units and signs."""
    frame = np.zeros(SHAPE, dtype=bool)
    frame[:2] = True
    phase = np.full(SHAPE, phase_from_displacement(UPLIFT_M, SENTINEL1_WAVELENGTH_M))
    theta, phi = hyp3_from_los(*los_from_angles(39.0, heading))
    land = np.ones(SHAPE, dtype=np.uint8)
    land[:, :10] = 0
    out = {
        "unw_phase": phase,
        "wrapped_phase": wrap(phase),
        "corr": np.full(SHAPE, 0.8),
        "los_disp": np.full(SHAPE, UPLIFT_M),
        "lv_theta": np.full(SHAPE, theta),
        "lv_phi": np.full(SHAPE, phi),
        "dem": np.full(SHAPE, 1500.0),
    }
    out = {k: np.where(frame, 0, v).astype(np.float32) for k, v in out.items()}
    return out | {"water_mask": land}


def write_product(
    folder: Path,
    name: str = NAME,
    *,
    without: tuple[str, ...] = (),
    ending: str = "",
    parameters: dict[str, str] | None = None,
    heading: float = -167.9,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for layer, values in rasters(heading).items():
        if layer not in without:
            write_tif(folder / f"{name}_{layer}{ending}.tif", values)
    parameters = PARAMETERS if parameters is None else parameters
    if parameters:
        text = "\n".join(f"{k}: {v}" for k, v in parameters.items())
        (folder / f"{name}.txt").write_text(text + "\n")
    (folder / f"{name}.README.md.txt").write_text("no: parameters")
    return folder


def values(product: Product, layer: str = "los_displacement") -> np.ndarray:
    return open_layer(product, layer, chunks=16).to_numpy()


def refused(path: Path, code: str, cfg: IngestConfig = CONFIG) -> InputError:
    def whole() -> None:
        for product in discover([path], cfg):
            check_product(product)

    with pytest.raises(InputError) as caught:
        whole()
    assert caught.value.code == code
    return caught.value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_product(tmp_path / NAME)


def test_uplift_is_positive_and_every_layer_is_canonical(folder: Path) -> None:
    (product,) = discover([folder], CONFIG)
    check_product(product)
    assert (product.reader, product.track, product.orbit_direction) == (
        "hyp3",
        "descending",
        "descending",
    )
    assert (product.date_start, product.date_end) == (date(2023, 1, 5), date(2023, 7, 4))
    assert (product.period, product.days) == ("20230105_20230704", 180)
    assert product.looks == 80
    assert product.wavelength_m == SENTINEL1_WAVELENGTH_M
    assert product.geobox.affine == TRANSFORM
    assert tuple(product.geobox.shape) == SHAPE
    assert product.geobox.crs.epsg == 32647
    d = values(product)
    assert d.dtype == np.float32
    assert np.isnan(d[:2]).all()
    np.testing.assert_allclose(d[2:], UPLIFT_M, rtol=1e-6)
    np.testing.assert_allclose(values(product, "coherence")[2:], 0.8, rtol=1e-6)
    np.testing.assert_allclose(values(product, "elevation")[2:], 1500.0)
    phase = values(product, "wrapped_phase")[2:]
    expected = wrap(phase_from_displacement(UPLIFT_M, SENTINEL1_WAVELENGTH_M))
    np.testing.assert_allclose(phase, expected, rtol=1e-5)
    look = los_from_angles(39.0, -167.9)
    for name, component in zip(LOS_LAYERS, look, strict=True):
        np.testing.assert_allclose(values(product, name)[2:], component, atol=1e-6)
        assert np.isnan(values(product, name)[:2]).all()
    mask = values(product, "mask")
    assert mask.dtype == bool
    assert not mask[:, :10].any()
    assert mask[:, 10:].all()


def test_uplift_from_unwrapped_phase_is_positive_too(tmp_path: Path) -> None:
    (product,) = discover([write_product(tmp_path / NAME, without=("los_disp",))], CONFIG)
    np.testing.assert_allclose(values(product)[2:], UPLIFT_M, rtol=1e-5)


def test_zip_is_read_in_place_with_the_same_values(folder: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / NAME), "zip", tmp_path, NAME))
    shutil.rmtree(folder.with_name("other"), ignore_errors=True)
    (zipped,) = discover([archive], CONFIG)
    check_product(zipped)
    (plain,) = discover([folder], CONFIG)
    assert (zipped.period, zipped.track, zipped.looks) == (plain.period, plain.track, plain.looks)
    assert sorted(zipped.layers) == sorted(plain.layers)
    for name in zipped.layers:
        np.testing.assert_array_equal(values(zipped, name), values(plain, name))
    assert zipped.files == (archive.resolve(),)
    assert {p.name for p in tmp_path.iterdir()} == {NAME, archive.name}


@pytest.mark.parametrize("ending", ["_clip", "_clipped"])
def test_crops_are_read_without_a_parameter_file(tmp_path: Path, ending: str) -> None:
    folder = write_product(tmp_path / "crop", ending=ending, parameters={})
    (product,) = discover([folder], CONFIG)
    assert product.period == "20230105_20230704"
    assert product.looks is None
    # No heading to read: the look vectors tell that the satellite stands in the east.
    assert product.track == "descending"


def test_a_crop_beside_the_whole_is_taken_alone(tmp_path: Path) -> None:
    folder = write_product(tmp_path / NAME)
    write_product(folder, ending="_clip", without=("lv_theta", "lv_phi", "dem"))
    (product,) = discover([folder], CONFIG)
    assert sorted(product.layers) == ["coherence", "los_displacement", "mask", "wrapped_phase"]
    assert all("_clip" in source.path for source in product.layers.values())


@pytest.mark.parametrize(
    "name",
    [
        "S1_136231_IW2_20230105_20230704_VV_INT80_77F1",
        "S1_044_000000s1n00-093117s2n01-000000s3n00_IW_20230105_20230704_VV_INT40_77F1",
    ],
)
def test_burst_products(tmp_path: Path, name: str) -> None:
    (product,) = discover([write_product(tmp_path / name, name, parameters={})], CONFIG)
    assert product.period == "20230105_20230704"


def test_a_single_file_of_a_product_stands_for_it(folder: Path) -> None:
    (product,) = discover([folder / f"{NAME}_unw_phase.tif"], CONFIG)
    assert "coherence" in product.layers
    assert product.period == "20230105_20230704"


@pytest.mark.parametrize(
    ("parameters", "track"),
    [
        ({"Heading": "-12.1"}, "ascending"),
        ({"Heading": "347.9"}, "ascending"),
        ({"Heading": "192.1"}, "descending"),
        ({"Heading": "-12.1", "Reference Pass Direction": "DESCENDING"}, "descending"),
        ({"heading ": " -12.1"}, "ascending"),
    ],
)
def test_orbit_direction_from_the_parameter_file(
    tmp_path: Path, parameters: dict[str, str], track: str
) -> None:
    (product,) = discover([write_product(tmp_path / NAME, parameters=parameters)], CONFIG)
    assert product.orbit_direction == product.track == track
    (named,) = discover([tmp_path / NAME], IngestConfig(track="T33"))
    assert (named.track, named.orbit_direction) == ("T33", track)


def test_hash_follows_the_content(folder: Path, tmp_path: Path) -> None:
    def digest(path: Path) -> str:
        return discover([path], CONFIG)[0].sha256()

    before = digest(folder)
    copy = tmp_path / "copy" / NAME
    shutil.copytree(folder, copy)
    assert digest(copy) == before
    changed = rasters()["los_disp"] * 2
    write_tif(folder / f"{NAME}_los_disp.tif", changed)
    assert digest(folder) != before
    (product,) = discover([folder], CONFIG)
    product.files[0].unlink()
    with pytest.raises(InputError, match="SW-101"):
        product.sha256()


def test_several_products_in_one_folder(tmp_path: Path) -> None:
    second = NAME.replace("20230704", "20230716")
    write_product(tmp_path / "all", parameters={})
    write_product(tmp_path / "all", second, parameters={})
    assert [p.period for p in discover([tmp_path / "all"], CONFIG)] == [
        "20230105_20230704",
        "20230105_20230716",
    ]


# --- refusals ------------------------------------------------------------------------------------


def test_names_without_dates_are_refused(tmp_path: Path) -> None:
    write_product(tmp_path / "x", "insar", parameters={})
    assert "insar.txt" in str(refused(tmp_path / "x", "SW-106"))


def test_dates_of_the_parameter_file_suffice(tmp_path: Path) -> None:
    write_product(tmp_path / "x", "insar")
    assert discover([tmp_path / "x"], CONFIG)[0].period == "20230105_20230704"


def test_reversed_dates_are_refused(tmp_path: Path) -> None:
    name = "S1AA_20230704T001124_20230105T001122_VVP180_INT80_G_ueF_48FE"
    refused(write_product(tmp_path / name, name, parameters={}), "SW-106")


def test_name_and_parameter_file_must_agree(tmp_path: Path) -> None:
    name = NAME.replace("20230704", "20230716")
    refused(write_product(tmp_path / name, name), "SW-106")


def test_wrapped_phase_alone_is_refused(tmp_path: Path) -> None:
    error = refused(write_product(tmp_path / NAME, without=("los_disp", "unw_phase")), "SW-113")
    assert "unwrapped" in error.remedy


def test_layers_on_different_grids_are_refused(folder: Path) -> None:
    write_tif(folder / f"{NAME}_corr.tif", np.full((40, 49), 0.5, dtype=np.float32))
    assert f"{NAME}_corr.tif" in str(refused(folder, "SW-104"))
    shifted = TRANSFORM * Affine.translation(1, 0)
    write_tif(folder / f"{NAME}_corr.tif", rasters()["corr"], transform=shifted)
    refused(folder, "SW-104")


def test_missing_crs_is_refused(folder: Path) -> None:
    write_tif(folder / f"{NAME}_los_disp.tif", rasters()["los_disp"], crs=None)
    refused(folder, "SW-103")


def test_coherence_above_one_is_refused(folder: Path) -> None:
    write_tif(folder / f"{NAME}_corr.tif", rasters()["corr"] * 100)
    assert "80" in refused(folder, "SW-110").what


def test_infinity_is_refused(folder: Path) -> None:
    values = rasters()["los_disp"]
    values[20, 20] = np.inf
    write_tif(folder / f"{NAME}_los_disp.tif", values)
    refused(folder, "SW-109")


def test_nodata_only_is_refused(folder: Path) -> None:
    write_tif(folder / f"{NAME}_los_disp.tif", np.zeros(SHAPE, dtype=np.float32))
    refused(folder, "SW-108")


def test_radians_in_a_file_of_metres_are_refused(folder: Path) -> None:
    values = np.linspace(-40, 40, 2000, dtype=np.float32).reshape(SHAPE)
    write_tif(folder / f"{NAME}_los_disp.tif", values)
    refused(folder, "SW-105")


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_truncated_geotiff_is_refused(folder: Path, kept: float) -> None:
    path = folder / f"{NAME}_los_disp.tif"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept) if kept < 1 else int(kept)])
    assert str(path) in str(refused(folder, "SW-102"))


def test_damaged_compressed_block_is_refused(folder: Path) -> None:
    path = folder / f"{NAME}_los_disp.tif"
    noise = np.random.default_rng(0).normal(0.0, 0.01, (600, 600)).astype(np.float32)
    for layer in rasters():
        (folder / f"{NAME}_{layer}.tif").unlink()
    write_tif(path, noise, compress="deflate", tiled=True, blockxsize=256, blockysize=256)
    data = bytearray(path.read_bytes())
    middle = slice(len(data) // 4, 3 * len(data) // 4)  # whole blocks with their headers
    data[middle] = bytes(len(data[middle]))
    path.write_bytes(data)
    refused(folder, "SW-102")


def test_broken_archive_is_refused(folder: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / NAME), "zip", tmp_path, NAME))
    data = archive.read_bytes()
    archive.write_bytes(data[: len(data) // 2])
    refused(archive, "SW-102")
    with zipfile.ZipFile(archive, "w") as empty:
        empty.writestr("readme.md", "nothing here")
    refused(archive, "SW-113")


def test_unreadable_parameter_file_is_refused(folder: Path) -> None:
    text = folder / f"{NAME}.txt"
    text.write_text("Heading: north\n")
    assert "heading" in refused(folder, "SW-114").what
    text.write_bytes(b"\xff\xfe\x00\x81")
    refused(folder, "SW-114")


def test_both_directions_under_one_track_name_are_refused(tmp_path: Path) -> None:
    up = write_product(tmp_path / "up", parameters=PARAMETERS | {"Heading": "-12"})
    down = write_product(tmp_path / "down")
    assert [p.track for p in discover([up, down], CONFIG)] == ["ascending", "descending"]
    with pytest.raises(InputError, match="SW-112"):
        discover([up, down], IngestConfig(track="T1"))


def test_two_relative_orbits_under_one_track_name_are_refused(tmp_path: Path) -> None:
    later = NAME.replace("20230704", "20230709")
    granule = PARAMETERS["Secondary Granule"].replace("20230704", "20230709")
    orbit = {"Reference Orbit Number": "46653"}
    first = write_product(tmp_path / "a", parameters=PARAMETERS | orbit)
    same = PARAMETERS | {"Secondary Granule": granule, "Reference Orbit Number": str(46653 + 175)}
    second = write_product(tmp_path / "b", later, parameters=same)
    products = discover([first, second], CONFIG)
    assert {p.relative_orbit for p in products} == {(46653 - 73) % 175 + 1}
    write_product(tmp_path / "b", later, parameters=same | {"Reference Orbit Number": "46655"})
    with pytest.raises(InputError, match="SW-112"):
        discover([first, second], CONFIG)


def test_two_products_of_one_period_are_refused_and_one_given_twice_counts_once(
    folder: Path, tmp_path: Path
) -> None:
    assert len(discover([folder, folder / ".." / NAME], CONFIG)) == 1
    shutil.copytree(folder, tmp_path / "again" / NAME)
    with pytest.raises(InputError, match="SW-107"):
        discover([folder, tmp_path / "again" / NAME], CONFIG)

"""The period cube against known answers: planes, shifted grids, planted pixels, killed runs."""

import hashlib
import pickle
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from components.config import IngestConfig, RegionConfig
from components.cube import store
from components.cube.ingest import ingest_product, ingest_products, prepare
from components.cube.passes import SIGMA_FLOOR
from components.cube.quality import REASONS, validity
from components.cube.read import cube_info, find_cube, list_cubes, open_cube, read_layers
from components.cube.region import choose_geobox, ensure_region, region_geobox
from components.cube.store import chunking, for_each_block
from components.errors import InputError, ProcessingError, WorkspaceError
from components.evaluation.real import REAL_MAPS, describe
from components.grid import Window, geobox_from_dict, same_grid
from components.insar.geometry import los_from_angles
from components.insar.noise import mad_sigma
from components.insar.phase import velocity_std
from components.insar.relief import relative_height
from components.layers import DAYS_PER_YEAR, LAYERS
from components.products.base import MASK, LayerSource, Product
from components.products.registry import discover
from components.workspace import Artefact, Workspace

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (100, 140)
GRID = GeoBox(SHAPE, Affine(25.0, 0, 400_000.0, 0, -25.0, 4_000_000.0), "EPSG:32647")
#: Several blocks each way, the last ones narrower.
CFG = IngestConfig(chunk=32, shard=64)
DAYS = 181
LOS = ("los_east", "los_north", "los_up")

Layers = Mapping[str, np.ndarray]


def write_tif(path: Path, values: np.ndarray, grid: GeoBox) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=values.shape[0],
        width=values.shape[1],
        count=1,
        dtype=values.dtype,
        crs=str(grid.crs),
        transform=grid.affine,
        nodata=np.nan if values.dtype.kind == "f" else None,
    ) as dst:
        dst.write(values, 1)


def make_product(
    folder: Path,
    layers: Layers,
    grid: GeoBox = GRID,
    *,
    start: date = date(2023, 1, 1),
    end: date = date(2023, 7, 1),
    track: str = "descending",
    look: tuple[float, float] | None = (39.0, -168.0),
    looks: float | None = 20.0,
) -> Product:
    """A product of plain GeoTIFFs in canonical units."""
    sources = {}
    for name, values in layers.items():
        path = folder / f"{name}.tif"
        write_tif(path, values.astype(np.uint8 if name == MASK else np.float32), grid)
        sources[name] = LayerSource(str(path), kind="mask" if name == MASK else "linear")
    if look is not None:
        for name, value in zip(LOS, los_from_angles(*look), strict=True):
            sources[name] = LayerSource("", offset=float(value), kind="constant")
    return Product(
        path=folder,
        reader="plain",
        track=track,
        orbit_direction="descending",
        date_start=start,
        date_end=end,
        geobox=grid,
        wavelength_m=0.055465763,
        looks=looks,
        layers=sources,
        files=tuple(sorted(Path(s.path) for s in sources.values() if s.path)),
    )


def noisy(seed: int = 0, shape: tuple[int, int] = SHAPE) -> dict[str, np.ndarray]:
    """Displacement about 2 cm with noise, and coherence."""
    rng = np.random.default_rng(seed)
    return {
        "los_displacement": rng.normal(0.02, 0.004, shape).astype(np.float32),
        "coherence": rng.uniform(0.1, 1.0, shape).astype(np.float32),
    }


def plane(slope_deg: float, aspect_deg: float, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    rows, cols = np.indices(shape)
    alpha = np.radians(aspect_deg)
    # Downslope is where the elevation falls: east = +col, north = −row.
    along = cols * 25.0 * np.sin(alpha) - rows * 25.0 * np.cos(alpha)
    return (2000.0 - np.tan(np.radians(slope_deg)) * along).astype(np.float32)


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


def layers_of(ws: Workspace, cube: Artefact, *names: str) -> dict[str, np.ndarray]:
    whole = Window(0, 0, *cube_info(cube).shape)
    return read_layers(ws, cube.meta["track"], cube.meta["period"], names, whole)


def tree_digest(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def artefact_digest(ws: Workspace) -> dict[str, str]:
    parts = ("region", "track", "cube")
    return {f"{s}/{k}": v for s in parts for k, v in tree_digest(ws.root / s).items()}


# -- values ----------------------------------------------------------------------------------------


def test_a_product_on_its_own_grid_passes_through_exactly(ws: Workspace, tmp_path: Path) -> None:
    layers = noisy()
    d, coherence = layers["los_displacement"], layers["coherence"]
    d[:7, 20:90] = np.nan
    phase = np.linspace(-np.pi, np.pi, d.size, dtype=np.float32).reshape(SHAPE)
    cube = ingest_product(ws, make_product(tmp_path / "p", {**layers, "wrapped_phase": phase}), CFG)
    got = layers_of(ws, cube, *cube.meta["layers"])

    valid = np.isfinite(d) & (coherence >= CFG.coherence_min)
    np.testing.assert_array_equal(got["valid"], valid)
    reference = np.median(d[valid & (coherence >= CFG.reference_coherence)])
    [found] = cube.meta["references"]
    assert found["value_m"] == pytest.approx(reference, abs=1e-9)
    assert found["coherence"] == CFG.reference_coherence
    assert found["km2"] == pytest.approx(valid.sum() * 25.0**2 / 1e6)
    np.testing.assert_array_equal(got["los_displacement"], d - np.float32(reference))
    v = (d - reference).astype(np.float64) / DAYS * DAYS_PER_YEAR * 1000
    np.testing.assert_allclose(got["los_velocity"], v, rtol=2e-6, atol=1e-5)
    np.testing.assert_array_equal(got["coherence"], coherence)
    np.testing.assert_array_equal(got["wrapped_phase"], phase)
    np.testing.assert_allclose(
        got["los_velocity_std"], velocity_std(coherence, 20.0, 0.055465763, DAYS), rtol=1e-6
    )
    assert cube.meta["sigma_velocity"] == pytest.approx(mad_sigma(v[valid]), rel=1e-4)
    assert cube.meta["valid_fraction"] == valid.mean()
    assert cube.meta["counts"]["nodata"] == 7 * 70


def test_uplift_stays_positive_after_referencing(ws: Workspace, tmp_path: Path) -> None:
    layers = noisy()
    layers["los_displacement"][60:80, 60:90] += 0.1  # toward the satellite
    cube = ingest_product(ws, make_product(tmp_path / "p", layers), CFG)
    v = layers_of(ws, cube, "los_velocity")["los_velocity"]
    assert np.median(v[60:80, 60:90]) == pytest.approx(0.1 / DAYS * DAYS_PER_YEAR * 1000, rel=0.02)
    assert abs(np.median(v[:50])) < 1.0


def test_the_reference_ignores_landslides_and_incoherent_ground(
    ws: Workspace, tmp_path: Path
) -> None:
    layers = noisy()
    layers["coherence"][:] = 0.9
    layers["los_displacement"][:20] = 0.3  # moves, and is coherent
    layers["coherence"][20:60] = 0.35  # unwrapping error on bad ground
    layers["los_displacement"][20:60] -= 0.2
    cube = ingest_product(ws, make_product(tmp_path / "p", layers), CFG)
    # 40 of 60 coherent rows are still: the median is theirs.
    [found] = cube.meta["references"]
    assert found["value_m"] == pytest.approx(0.02, abs=0.006)


def test_the_reference_threshold_is_lowered_where_little_is_coherent(
    ws: Workspace, tmp_path: Path
) -> None:
    layers = noisy()
    layers["coherence"] = layers["coherence"] * 0.5
    cube = ingest_product(ws, make_product(tmp_path / "p", layers), CFG)
    [found] = cube.meta["references"]
    assert found["coherence"] == pytest.approx(0.4)
    assert found["pixels"] > 100


def test_referencing_can_be_switched_off(ws: Workspace, tmp_path: Path) -> None:
    layers = noisy()
    cfg = CFG.model_copy(update={"reference": "none"})
    cube = ingest_product(ws, make_product(tmp_path / "p", layers), cfg)
    assert cube.meta["references"] == []
    assert cube.meta["components"] == {"total": 0, "small": 0}
    got = layers_of(ws, cube, "los_displacement")["los_displacement"]
    np.testing.assert_array_equal(got, layers["los_displacement"])


#: Two islands of 51 and 42 km² with a strait of 2.5 km: cells of 5 px of 100 m.
ISLANDS = GeoBox((90, 145), Affine(100.0, 0, 400_000.0, 0, -100.0, 4_000_000.0), "EPSG:32647")


def islands(shifts: tuple[float, float] = (0.02, -0.11)) -> dict[str, np.ndarray]:
    """Two islands with noise of 1 mm and a constant each [m]; the eastern one subsides in one place."""
    rng = np.random.default_rng(5)
    d = np.full((90, 145), np.nan)
    d[10:80, 5:78] = shifts[0]
    d[10:80, 103:] = shifts[1]
    d[40:50, 120:130] -= 0.05
    d += rng.normal(0, 0.001, d.shape)
    return {"los_displacement": d.astype(np.float32), "coherence": np.full(d.shape, 0.9)}


def test_each_island_has_its_own_reference(ws: Workspace, tmp_path: Path) -> None:
    product = make_product(tmp_path / "p", islands(), ISLANDS)
    cube = ingest_product(ws, product, CFG)
    west, east = cube.meta["references"]
    assert (west["value_m"], east["value_m"]) == pytest.approx((0.02, -0.11), abs=1e-4)
    assert (west["km2"], east["km2"]) == pytest.approx((70 * 73 / 100, 70 * 42 / 100))
    assert (west["pixels"], east["pixels"]) == (70 * 73, 70 * 42)
    assert cube.meta["components"] == {"total": 2, "small": 0}
    got = layers_of(ws, cube, "los_displacement", "los_velocity", "valid")
    d = got["los_displacement"]
    assert abs(np.median(d[10:80, 5:78])) < 1e-6
    assert abs(np.median(d[10:80, 103:])) < 1e-6
    assert np.median(d[40:50, 120:130]) == pytest.approx(-0.05, abs=3e-4)
    # The noise is that of the pixels, not of the constants.
    millimetre_a_year = 0.001 / DAYS * DAYS_PER_YEAR * 1000
    assert cube.meta["sigma_velocity"] == pytest.approx(millimetre_a_year, rel=0.05)
    level = mad_sigma(got["los_velocity"][got["valid"]])
    assert cube.meta["sigma_velocity"] == pytest.approx(level, rel=1e-4)


def test_one_median_for_all_islands_where_asked(ws: Workspace, tmp_path: Path) -> None:
    layers = islands()
    cfg = CFG.model_copy(update={"reference": "median"})
    cube = ingest_product(ws, make_product(tmp_path / "p", layers, ISLANDS), cfg)
    [found] = cube.meta["references"]
    d = layers["los_displacement"]
    assert found["value_m"] == np.nanmedian(d)
    assert cube.meta["components"] == {"total": 0, "small": 0}
    got = layers_of(ws, cube, "los_displacement")["los_displacement"]
    np.testing.assert_array_equal(got, d - np.float32(found["value_m"]))
    # The step between the islands counts as noise: more than twice that of the pixels.
    assert cube.meta["sigma_velocity"] > 2 * 0.001 / DAYS * DAYS_PER_YEAR * 1000


def test_references_do_not_depend_on_the_blocks(tmp_path: Path) -> None:
    product = make_product(tmp_path / "p", islands(), ISLANDS)
    found = []
    # Blocks of 16 px begin in the middle of cells of 5 px; the last holds the whole map.
    for chunk, shard in ((16, 16), (32, 96), (160, 160)):
        ws = Workspace(tmp_path / f"ws{shard}")
        cube = ingest_product(ws, product, IngestConfig(chunk=chunk, shard=shard))
        values = layers_of(ws, cube, "los_displacement")["los_displacement"]
        found.append((cube.meta["references"], cube.meta["sigma_velocity"], values))
    for references, sigma, values in found[1:]:
        assert references == found[0][0]
        assert sigma == found[0][1]
        np.testing.assert_array_equal(values, found[0][2])


def test_a_map_of_one_component_is_referenced_as_a_whole(tmp_path: Path) -> None:
    layers = noisy(shape=(240, 260))  # 39 km²
    grid = GeoBox((240, 260), GRID.affine, GRID.crs)
    product = make_product(tmp_path / "p", layers, grid)
    cubes = {}
    for mode in ("component", "median"):
        ws = Workspace(tmp_path / mode)
        cfg = CFG.model_copy(update={"reference": mode})
        cube = ingest_product(ws, product, cfg)
        values = layers_of(ws, cube, "los_displacement", "los_velocity")
        cubes[mode] = cube.meta, {name: v.tobytes() for name, v in values.items()}
    (apart, apart_values), (whole, whole_values) = cubes.values()
    assert apart["components"] == {"total": 1, "small": 0}
    assert apart["references"] == whole["references"]
    assert apart["sigma_velocity"] == whole["sigma_velocity"]
    assert apart_values == whole_values


def test_without_coherence_every_finite_pixel_counts(ws: Workspace, tmp_path: Path) -> None:
    layers = noisy()
    del layers["coherence"]
    cube = ingest_product(ws, make_product(tmp_path / "p", layers), CFG)
    assert cube.meta["valid_fraction"] == 1
    assert cube.meta["layers"] == ["los_displacement", "los_velocity", "valid"]
    got = layers_of(ws, cube, "coherence", "los_velocity_std")
    assert np.isnan(got["coherence"]).all()
    assert np.isnan(got["los_velocity_std"]).all()


def test_a_map_without_scatter_keeps_a_noise_to_divide_by(ws: Workspace, tmp_path: Path) -> None:
    layers = {"los_displacement": np.zeros(SHAPE)}
    cube = ingest_product(ws, make_product(tmp_path / "p", layers), CFG)
    assert cube.meta["sigma_velocity"] == SIGMA_FLOOR


@given(
    hnp.arrays(np.float32, (5, 6), elements=st.sampled_from([0.0, 1.0, np.nan])),
    hnp.arrays(np.float32, (5, 6), elements=st.sampled_from([0.0, 0.3, 0.9, np.nan])),
    hnp.arrays(bool, (5, 6)),
    hnp.arrays(bool, (5, 6)),
)
@settings(deadline=None)
def test_every_pixel_is_counted_once(
    d: np.ndarray, coherence: np.ndarray, mask: np.ndarray, layover: np.ndarray
) -> None:
    valid, counts = validity(d, coherence, mask, layover, 0.3)
    assert sum(counts[name] for name in (*REASONS, "valid")) == counts["total"] == 30
    expected = np.isfinite(d) & mask & (coherence >= 0.3) & ~layover
    np.testing.assert_array_equal(valid, expected)
    assert counts["valid"] == expected.sum()
    assert counts["product_mask"] == (np.isfinite(d) & ~mask).sum()


def test_the_product_mask_is_kept(ws: Workspace, tmp_path: Path) -> None:
    layers = noisy()
    layers["coherence"][:] = 0.9
    mask = np.ones(SHAPE)
    mask[10:20, 10:30] = 0
    cube = ingest_product(ws, make_product(tmp_path / "p", {**layers, MASK: mask}), CFG)
    assert cube.meta["counts"]["product_mask"] == 200
    np.testing.assert_array_equal(layers_of(ws, cube, "valid")["valid"], mask == 1)


# -- terrain and look --------------------------------------------------------------------------------


@pytest.mark.parametrize(("slope", "aspect"), [(20.0, 90.0), (35.0, 225.0), (10.0, 0.0)])
def test_terrain_of_a_plane_is_exact_across_blocks(
    ws: Workspace, tmp_path: Path, slope: float, aspect: float
) -> None:
    product = make_product(tmp_path / "p", {**noisy(), "elevation": plane(slope, aspect)})
    cube = ingest_product(ws, product, CFG)
    got = layers_of(ws, cube, "elevation", "slope", "aspect", "los_sensitivity", *LOS)
    np.testing.assert_allclose(got["slope"], slope, atol=0.02)
    turn = (got["aspect"] - aspect + 180) % 360 - 180
    np.testing.assert_allclose(turn, 0, atol=0.05)
    u = np.array([got[name] for name in LOS])
    np.testing.assert_allclose((u**2).sum(axis=0), 1, atol=1e-6)
    b, a = np.radians(slope), np.radians(aspect)
    s = np.array([np.cos(b) * np.sin(a), np.cos(b) * np.cos(a), -np.sin(b)])
    expected = (s[:, None, None] * u).sum(axis=0)
    np.testing.assert_allclose(got["los_sensitivity"], expected, atol=2e-3)


def test_terrain_does_not_depend_on_the_blocks(ws: Workspace, tmp_path: Path) -> None:
    rough = np.random.default_rng(1).normal(2000, 30, (1030, 20)).astype(np.float32)
    grid = GeoBox(rough.shape, GRID.affine, GRID.crs)
    product = make_product(tmp_path / "p", {**noisy(shape=rough.shape), "elevation": rough}, grid)
    cube = ingest_product(ws, product, CFG)  # the region is stored in blocks of 1024
    got = layers_of(ws, cube, "slope")["slope"]
    p = np.pad(rough.astype(float), 1, mode="reflect", reflect_type="odd")
    dx = (p[:-2] + 2 * p[1:-1] + p[2:])[:, 2:] - (p[:-2] + 2 * p[1:-1] + p[2:])[:, :-2]
    dy = (p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:])[2:] - (p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:])[:-2]
    expected = np.degrees(np.arctan(np.hypot(dx, dy) / 200.0))
    np.testing.assert_allclose(got, expected, atol=0.01)


def test_relative_height_does_not_depend_on_the_blocks(ws: Workspace, tmp_path: Path) -> None:
    rough = np.random.default_rng(1).normal(0, 30, (1030, 20)).cumsum(axis=0).astype(np.float32)
    grid = GeoBox(rough.shape, GRID.affine, GRID.crs)
    product = make_product(tmp_path / "p", {**noisy(shape=rough.shape), "elevation": rough}, grid)
    cube = ingest_product(ws, product, CFG)
    got = layers_of(ws, cube, "relative_height")["relative_height"]
    pixel = abs(GRID.affine.a)
    np.testing.assert_allclose(got, relative_height(rough, pixel), atol=1e-6)
    assert got.max() == 1


def test_layover_is_not_valid(ws: Workspace, tmp_path: Path) -> None:
    # Descending, looking west: the satellite stands in the east. A 50° slope falling east, incidence 39°.
    layers = noisy()
    layers["coherence"][:] = 0.9
    product = make_product(tmp_path / "p", {**layers, "elevation": plane(50.0, 90.0)})
    with pytest.raises(InputError) as e:
        ingest_product(ws, product, CFG)
    assert e.value.code == "SW-108"
    assert "layover" in e.value.what
    half = plane(50.0, 90.0)
    half[:, 70:] = half[:, 70:71]  # level from there on
    product = make_product(tmp_path / "q", {**layers, "elevation": half})
    cube = ingest_product(Workspace(tmp_path / "ws2"), product, CFG)
    assert cube.meta["counts"]["layover_shadow"] == pytest.approx(70 * SHAPE[0], abs=3 * SHAPE[0])


def test_constant_look_from_the_configuration(ws: Workspace, tmp_path: Path) -> None:
    cfg = CFG.model_copy(update={"incidence_deg": 34.0, "heading_deg": -12.0})
    cube = ingest_product(ws, make_product(tmp_path / "p", noisy(), look=None), cfg)
    got = layers_of(ws, cube, *LOS)
    for name, value in zip(LOS, los_from_angles(34.0, -12.0), strict=True):
        np.testing.assert_allclose(got[name], value, atol=1e-6)
    track = ws.artefacts("track")[0]
    assert track.meta["source"] == "config"


def test_without_look_the_geometry_is_missing_and_counted(ws: Workspace, tmp_path: Path) -> None:
    cube = ingest_product(ws, make_product(tmp_path / "p", noisy(), look=None), CFG)
    assert np.isnan(layers_of(ws, cube, "los_up")["los_up"]).all()
    [track] = ws.artefacts("track")
    assert track.meta["source"] == "none"
    assert track.meta["counts"]["los"] == 0


def test_a_product_of_another_track_is_refused(ws: Workspace, tmp_path: Path) -> None:
    ingest_product(ws, make_product(tmp_path / "p", noisy()), CFG)
    later = {"start": date(2023, 7, 1), "end": date(2024, 1, 1)}
    twisted = make_product(tmp_path / "q", noisy(1), look=(44.0, -168.0), **later)
    with pytest.raises(InputError) as e:
        ingest_product(ws, twisted, CFG)
    assert e.value.code == "SW-112"
    assert "5.0°" in e.value.what
    # A repeat orbit is not: a tenth of a degree.
    repeat = make_product(tmp_path / "r", noisy(2), look=(39.1, -168.0), **later)
    assert not ingest_product(ws, repeat, CFG).reused


def test_a_dem_fills_what_products_lack_and_may_come_later(ws: Workspace, tmp_path: Path) -> None:
    product = make_product(tmp_path / "p", noisy())
    first = ingest_product(ws, product, CFG)
    assert np.isnan(layers_of(ws, first, "slope")["slope"]).all()
    # A DEM of twice the pixel size and its own corner, in another projection.
    grid = GeoBox((120, 150), Affine(0.0006, 0, 97.87, 0, -0.0006, 36.15), "EPSG:4326")
    lon, lat = np.meshgrid(
        grid.coordinates["longitude"].values, grid.coordinates["latitude"].values
    )
    x = Transformer.from_crs(4326, 32647, always_xy=True).transform(lon, lat)[0]
    write_tif(tmp_path / "dem.tif", (1000 + 0.1 * (x - 400_000)).astype(np.float32), grid)
    cfg = RegionConfig(dem=tmp_path / "dem.tif")
    second = ingest_product(ws, product, CFG, cfg)
    assert not second.reused
    got = layers_of(ws, second, "elevation", "slope", "aspect")
    centre = got["elevation"][50, 70]
    assert centre == pytest.approx(1000 + 0.1 * 70.5 * 25, abs=0.5)
    assert np.nanmedian(got["slope"]) == pytest.approx(np.degrees(np.arctan(0.1)), abs=0.05)
    assert np.nanmedian(got["aspect"]) == pytest.approx(270, abs=1)
    assert ingest_product(ws, product, CFG, cfg).reused
    # Once there, the terrain stays, whatever later products bring.
    assert ingest_product(ws, product, CFG).reused


def test_products_of_two_frames_share_terrain_and_look(ws: Workspace, tmp_path: Path) -> None:
    west = GRID
    east = GeoBox(SHAPE, GRID.affine * Affine.translation(SHAPE[1], 0), GRID.crs)
    a = make_product(tmp_path / "a", {**noisy(), "elevation": np.full(SHAPE, 1000.0)}, west)
    b = make_product(
        tmp_path / "b",
        {**noisy(1), "elevation": np.full(SHAPE, 2000.0)},
        east,
        start=date(2023, 7, 1),
        end=date(2024, 1, 1),
    )
    box = (400_000.0, 4_000_000.0 - 100 * 25, 400_000.0 + 280 * 25, 4_000_000.0)
    cubes = ingest_products(ws, [a, b], CFG, RegionConfig(bounds=box))
    got = layers_of(ws, cubes[0], "elevation", "los_up")
    np.testing.assert_array_equal(got["elevation"][:, :140], 1000)
    np.testing.assert_array_equal(got["elevation"][:, 140:], 2000)
    assert np.isfinite(got["los_up"]).all()
    assert cubes[0].meta["valid_fraction"] < 0.5


# -- grids -------------------------------------------------------------------------------------------


def test_a_geographic_product_becomes_utm_in_the_right_place(ws: Workspace, tmp_path: Path) -> None:
    grid = GeoBox((80, 110), Affine(0.0003, 0, 99.0, 0, -0.0003, 31.0), "EPSG:4326")
    lon, lat = np.meshgrid(
        grid.coordinates["longitude"].values, grid.coordinates["latitude"].values
    )
    field = (lon - 99.0) * 0.5 + (31.0 - lat) * 0.3
    product = make_product(tmp_path / "p", {"los_displacement": field}, grid)
    cfg = CFG.model_copy(update={"reference": "none"})
    cube = ingest_product(ws, product, cfg)
    info = cube_info(cube)
    assert str(info.geobox.crs) == "EPSG:32647"
    assert info.pixel_size_m == pytest.approx(31, abs=1)
    got = open_cube(cube).load()
    to_geo = Transformer.from_crs(32647, 4326, always_xy=True)
    lon, lat = to_geo.transform(*np.meshgrid(got.x.values, got.y.values))
    expected = (lon - 99.0) * 0.5 + (31.0 - lat) * 0.3
    d = got["los_displacement"].values
    assert np.isfinite(d).mean() > 0.9
    # A pixel inside the outermost pixel centres of the product.
    seen = (lon > 99.0003) & (lon < 99.0327) & (lat < 30.9997) & (lat > 30.9763)
    # A tenth of a pixel of either gradient.
    np.testing.assert_allclose(d[seen], expected[seen], atol=0.1 * 0.0003 * 0.5 * 2)


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic"])
def test_a_bump_stays_where_it_is_on_a_shifted_grid(
    ws: Workspace, tmp_path: Path, resampling: Any
) -> None:
    ingest_product(ws, make_product(tmp_path / "p", noisy()), CFG)
    # Another frame and pixel size; the bump at a known place on the ground.
    grid = GeoBox((120, 160), Affine(20.0, 0, 400_407.0, 0, -20.0, 3_999_781.0), "EPSG:32647")
    x0, y0 = 402_000.0, 3_998_700.0
    x, y = np.meshgrid(grid.coordinates["x"].values, grid.coordinates["y"].values)
    bump = 0.1 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * 150.0**2))
    coherence = np.where(x < x0, 1.0, 0.9)  # overshoots [0, 1] under cubic
    product = make_product(
        tmp_path / "q",
        {"los_displacement": bump, "coherence": coherence},
        grid,
        start=date(2023, 7, 1),
        end=date(2024, 1, 1),
    )
    cfg = CFG.model_copy(update={"resampling": resampling, "reference": "none"})
    cube = ingest_product(ws, product, cfg)
    assert same_grid(cube_info(cube).geobox, GRID)
    got = open_cube(cube).load()
    d = np.nan_to_num(got["los_displacement"].values)
    x, y = np.meshgrid(got.x.values, got.y.values)
    assert (d * x).sum() / d.sum() == pytest.approx(x0, abs=2.5)
    assert (d * y).sum() / d.sum() == pytest.approx(y0, abs=2.5)
    assert d.max() == pytest.approx(0.1, rel=0.03)
    c = got["coherence"].values
    assert np.nanmax(c) <= 1
    assert np.nanmin(c) >= 0.85


def test_wrapped_phase_is_not_averaged_through_zero(ws: Workspace, tmp_path: Path) -> None:
    ingest_product(ws, make_product(tmp_path / "p", noisy()), CFG)
    half = GeoBox(SHAPE, GRID.affine * Affine.translation(0.5, 0.5), GRID.crs)
    rows, cols = np.indices(SHAPE)
    phase = np.where((rows + cols) % 2 == 0, 3.1, -3.1)  # all of it near ±π
    product = make_product(
        tmp_path / "q",
        {**noisy(1), "wrapped_phase": phase},
        half,
        start=date(2023, 7, 1),
        end=date(2024, 1, 1),
    )
    cube = ingest_product(ws, product, CFG)
    got = layers_of(ws, cube, "wrapped_phase")["wrapped_phase"]
    assert np.nanmin(np.abs(got)) > 3.0
    assert np.isfinite(got[2:-2, 2:-2]).all()


def test_a_mask_is_resampled_as_a_mask(ws: Workspace, tmp_path: Path) -> None:
    ingest_product(ws, make_product(tmp_path / "p", noisy()), CFG)
    shifted = GeoBox(SHAPE, GRID.affine * Affine.translation(3.3, 0), GRID.crs)
    mask = np.ones(SHAPE)
    mask[:, 60:80] = 0
    layers = {**noisy(1), MASK: mask}
    layers["coherence"][:] = 0.9
    later = {"start": date(2023, 7, 1), "end": date(2024, 1, 1)}
    cube = ingest_product(ws, make_product(tmp_path / "q", layers, shifted, **later), CFG)
    valid = layers_of(ws, cube, "valid")["valid"]
    assert not valid[:, 63:83].any()
    assert valid[:, 4:63].all()
    assert valid[:, 83:].all()


@pytest.mark.parametrize(
    ("grid", "cfg", "crs", "resolution"),
    [
        (GRID, {}, "EPSG:32647", 25.0),
        (GRID, {"resolution_m": 50.0}, "EPSG:32647", 50.0),
        (GRID, {"crs": "EPSG:3035"}, "EPSG:3035", 25.0),
        (
            GeoBox((90, 80), Affine(0.001, 0, -70.5, 0, -0.001, -33.0), "EPSG:4326"),
            {},
            "EPSG:32719",
            100.0,
        ),
        (
            GeoBox((90, 80), Affine(0.001, 0, 12.3, 0, -0.001, 42.0), "EPSG:4326"),
            {"resolution_m": 80.0},
            "EPSG:32633",
            80.0,
        ),
        (
            GeoBox((90, 80), Affine(30.0, 0, 5e5, 0, -60.0, 4e6), "EPSG:32647"),
            {},
            "EPSG:32647",
            None,
        ),
    ],
)
def test_the_region_grid_is_metric_square_and_covers_the_product(
    grid: GeoBox, cfg: dict[str, Any], crs: str, resolution: float | None
) -> None:
    region = choose_geobox(grid, RegionConfig(**cfg))
    assert str(region.crs) == crs
    assert region.resolution.x == -region.resolution.y
    if resolution is not None:
        assert region.resolution.x == pytest.approx(resolution, rel=0.05)
    inside = region.extent.boundingbox
    for x, y in grid.extent.to_crs(crs).exterior.coords:
        assert inside.left - 1 <= x <= inside.right + 1
        assert inside.bottom - 1 <= y <= inside.top + 1


@pytest.mark.parametrize(
    "cfg",
    [
        {"crs": "EPSG:4326"},
        {"crs": "nonsense"},
        {"crs": "EPSG:2263"},  # feet
        {"bounds": (2.0, 0.0, 1.0, 1.0)},
    ],
)
def test_an_unusable_region_is_refused(cfg: dict[str, Any]) -> None:
    with pytest.raises(InputError) as e:
        choose_geobox(GRID, RegionConfig(**cfg))
    assert e.value.code == "SW-701"


@pytest.mark.parametrize(
    "cfg",
    [
        {"crs": "EPSG:32648"},
        {"resolution_m": 30.0},
        {"bounds": (400_000.0, 3_990_000.0, 410_000.0, 4_000_000.0)},
    ],
)
def test_one_workspace_one_grid(ws: Workspace, tmp_path: Path, cfg: dict[str, Any]) -> None:
    product = make_product(tmp_path / "p", noisy())
    ingest_product(ws, product, CFG)
    with pytest.raises(WorkspaceError) as e:
        ingest_product(ws, product, CFG, RegionConfig(**cfg))
    assert e.value.code == "SW-204"
    box = tuple(GRID.boundingbox)[:4]
    agreed = RegionConfig(crs="EPSG:32647", resolution_m=25.0, bounds=box)
    assert ingest_product(ws, product, CFG, agreed).reused


def test_no_region_before_the_first_ingest(ws: Workspace, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError) as e:
        region_geobox(ws)
    assert e.value.code == "SW-205"
    made = ensure_region(ws, [make_product(tmp_path / "p", noisy())], RegionConfig())
    assert same_grid(region_geobox(ws), geobox_from_dict(made.meta["grid"]))


# -- store and reading -------------------------------------------------------------------------------


def test_the_store_is_described_and_georeferenced(ws: Workspace, tmp_path: Path) -> None:
    layers = {**noisy(), "elevation": plane(20, 90)}
    cube = ingest_product(ws, make_product(tmp_path / "p", layers), CFG)
    for dataset in (
        open_cube(cube),
        xr.open_zarr(cube.folder / "cube.zarr", consolidated=False),
        open_cube(cube.folder),
    ):
        assert dataset.rio.crs.to_epsg() == 32647
        assert dataset.rio.transform() == GRID.affine
        assert dataset["los_velocity"].rio.crs.to_epsg() == 32647
        assert same_grid(geobox_from_dict(dataset.attrs["slopewatch_grid"]), GRID)
        assert dataset.attrs["period"] == "20230101_20230701"
        assert dataset.attrs["sigma_velocity"] == cube.meta["sigma_velocity"]
    merged = open_cube(cube)
    assert merged["los_displacement"].chunks is not None
    for name, variable in merged.data_vars.items():
        layer = LAYERS[str(name)]
        assert variable.dtype == layer.dtype
        assert variable.attrs["units"] == layer.unit
        low, high = layer.valid_range or (-np.inf, np.inf)
        values = variable.values.astype(float)
        assert np.nanmin(values, initial=high) >= low
        assert np.nanmax(values, initial=low) <= high
    expected = {"wrapped_phase"} ^ LAYERS.keys()
    assert {str(n) for n in merged.data_vars} == expected


@pytest.fixture(scope="module")
def readable(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Artefact, xr.Dataset]:
    folder = tmp_path_factory.mktemp("readable")
    ws = Workspace(folder / "ws")
    product = make_product(folder / "p", {**noisy(), "elevation": plane(20, 90)})
    cube = ingest_product(ws, product, CFG)
    return ws, cube, open_cube(cube).load()


@given(st.data())
@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_windows_are_read_as_they_lie(
    readable: tuple[Workspace, Artefact, xr.Dataset], data: st.DataObject
) -> None:
    ws, cube, whole = readable
    row, col = data.draw(st.integers(0, SHAPE[0] - 1)), data.draw(st.integers(0, SHAPE[1] - 1))
    window = Window(
        row,
        col,
        data.draw(st.integers(1, SHAPE[0] - row)),
        data.draw(st.integers(1, SHAPE[1] - col)),
    )
    names = ("los_velocity", "valid", "los_up", "slope")
    got = read_layers(ws, "descending", cube.meta["period"], names, window)
    assert list(got) == list(names)
    for name, block in got.items():
        np.testing.assert_array_equal(block, whole[name].values[window.slices])


def test_windows_are_read_by_many_threads(
    readable: tuple[Workspace, Artefact, xr.Dataset],
) -> None:
    ws, cube, whole = readable
    places = [(r, c) for r in range(0, 60, 5) for c in range(0, 100, 9)]

    def read(place: tuple[int, int]) -> bool:
        window = Window(*place, 40, 40)
        got = read_layers(ws, "descending", cube.meta["period"], ("los_displacement",), window)
        expected = whole["los_displacement"].values[window.slices]
        return bool(np.array_equal(got["los_displacement"], expected))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, places))


def test_reading_what_is_not_there(readable: tuple[Workspace, Artefact, xr.Dataset]) -> None:
    ws, cube, _ = readable
    period, window = cube.meta["period"], Window(0, 0, 4, 4)
    for track, when in (("ascending", period), ("descending", "20200101_20200201")):
        with pytest.raises(InputError) as e:
            read_layers(ws, track, when, ("valid",), window)
        assert e.value.code == "SW-702"
        with pytest.raises(InputError) as e:
            find_cube(ws, track, when)
        assert e.value.code == "SW-702"
    for name in ("wrapped_phase", "temperature"):
        with pytest.raises(ProcessingError) as p:
            read_layers(ws, "descending", period, (name,), window)
        assert p.value.code == "SW-504"
    for bad in (Window(-1, 0, 4, 4), Window(0, 0, 101, 4), Window(0, 137, 4, 4)):
        with pytest.raises(ValueError, match="leaves the grid"):
            read_layers(ws, "descending", period, ("valid",), bad)
    with pytest.raises(WorkspaceError) as w:
        open_cube(ws.root / "cube" / "nothing")
    assert w.value.code == "SW-205"


def test_a_replaced_cube_is_read_anew(ws: Workspace, tmp_path: Path) -> None:
    product = make_product(tmp_path / "p", noisy())
    before = layers_of(ws, ingest_product(ws, product, CFG), "valid")["valid"]
    strict = CFG.model_copy(update={"coherence_min": 0.8})
    cube = ingest_product(ws, product, strict)
    assert not cube.reused
    after = layers_of(ws, cube, "valid")["valid"]
    assert after.sum() < before.sum()


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 20), st.integers(1, 5))
@settings(deadline=None)
def test_shards_are_whole_chunks_and_not_much_larger_than_the_map(
    height: int, width: int, steps: int, factor: int
) -> None:
    chunk, shard = chunking((height, width), 16 * steps, 16 * steps * factor)
    assert shard % chunk == 0
    assert chunk <= 16 * steps
    assert shard <= 16 * steps * factor
    assert shard < max(height, width) + chunk + 16


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 20))
@settings(deadline=None, max_examples=30)
def test_blocks_run_once_each_and_answer_in_order(height: int, width: int, side: int) -> None:
    count = np.zeros((height, width), dtype=int)

    def work(window: Window) -> tuple[int, int]:
        count[window.slices] += 1
        return window.row, window.col

    places = for_each_block((height, width), side, work)
    assert (count == 1).all()
    assert places == sorted(places)


def test_an_error_in_a_block_ends_the_work() -> None:
    ran = []

    def work(window: Window) -> None:
        ran.append(window)
        if window.row == 0 and window.col == 4:
            msg = "planted"
            raise RuntimeError(msg)
        time.sleep(0.002)

    with pytest.raises(RuntimeError, match="planted"):
        for_each_block((400, 40), 4, work)
    assert len(ran) < 100


# -- refusals ----------------------------------------------------------------------------------------


def with_pixel(name: str, value: float) -> dict[str, np.ndarray]:
    layers = noisy()
    layers[name][95, 135] = value  # in the last block
    return layers


BAD: list[tuple[dict[str, np.ndarray], str, str]] = [
    (with_pixel("los_displacement", np.inf), "SW-109", "1 infinite"),
    (with_pixel("los_displacement", -np.inf), "SW-109", "los_displacement"),
    (with_pixel("coherence", np.inf), "SW-109", "coherence"),
    (with_pixel("coherence", 1.5), "SW-110", "1.5"),
    (with_pixel("coherence", -0.2), "SW-110", "-0.2"),
    ({**noisy(), "los_displacement": np.full(SHAPE, np.nan)}, "SW-108", "14000 nodata"),
    ({**noisy(), "coherence": np.full(SHAPE, 0.1)}, "SW-108", "14000 low_coherence"),
    ({**noisy(), MASK: np.zeros(SHAPE)}, "SW-108", "14000 product_mask"),
]


@pytest.mark.parametrize("shifted", [False, True], ids=["same grid", "reprojected"])
@pytest.mark.parametrize(("layers", "code", "told"), BAD)
def test_bad_pixels_are_refused_and_nothing_is_left(
    tmp_path: Path, layers: dict[str, np.ndarray], code: str, told: str, shifted: bool
) -> None:
    ws = Workspace(tmp_path / "ws")
    grid = GRID
    if shifted:
        ensure_region(ws, [make_product(tmp_path / "first", noisy())], RegionConfig())
        grid = GeoBox(SHAPE, GRID.affine * Affine.translation(0.4, 0.3), GRID.crs)
        told = told.rpartition(" ")[2]
    product = make_product(tmp_path / "p", layers, grid)
    with pytest.raises(InputError) as e:
        ingest_product(ws, product, CFG)
    assert e.value.code == code
    assert told in e.value.what
    assert e.value.path == str(product.path)
    assert not (ws.root / "cube").exists()
    assert list(ws.staging.glob("*")) == []
    assert ws.ledger.products() == []


def test_a_product_elsewhere_is_refused(ws: Workspace, tmp_path: Path) -> None:
    ingest_product(ws, make_product(tmp_path / "p", noisy()), CFG)
    for i, grid in enumerate(
        (
            GeoBox(SHAPE, GRID.affine * Affine.translation(500, 0), GRID.crs),
            GeoBox(SHAPE, Affine(0.001, 0, 12.0, 0, -0.001, 42.0), "EPSG:4326"),
        )
    ):
        far = make_product(tmp_path / f"q{i}", noisy(), grid, track=f"T{i}")
        with pytest.raises(InputError) as e:
            ingest_product(ws, far, CFG)
        assert e.value.code == "SW-115"
    assert len(list_cubes(ws)) == 1
    assert len(ws.artefacts("track")) == 1


def test_a_full_disk_leaves_no_half_cube(tmp_path: Path) -> None:
    product = make_product(tmp_path / "p", {**noisy(), "elevation": plane(20, 90)})
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=450k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("may not mount a small disk")
    try:
        ws = Workspace(disk / "ws")
        with pytest.raises(WorkspaceError) as e:
            ingest_product(ws, product, CFG)
        assert e.value.code == "SW-202"
        assert not (ws.root / "cube").exists()
        assert list(ws.staging.glob("*")) == []
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert not ingest_product(ws, product, CFG).reused
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# -- again, twice, killed ------------------------------------------------------------------------------


def test_the_same_product_again_does_nothing_and_says_so(ws: Workspace, tmp_path: Path) -> None:
    product = make_product(tmp_path / "p", noisy())
    first = ingest_product(ws, product, CFG)
    stamps = {p: p.stat().st_mtime_ns for p in (ws.root / "cube").rglob("*")}
    said: list[str] = []
    again = ingest_product(ws, product, CFG, progress=lambda step, done, total: said.append(step))
    assert (first.reused, again.reused) == (False, True)
    assert (again.key, again.meta) == (first.key, first.meta)
    assert said == ["already ingested"]
    assert {p: p.stat().st_mtime_ns for p in (ws.root / "cube").rglob("*")} == stamps
    [row] = ws.ledger.products()
    assert (row["sha256"], row["cube_key"]) == (product.sha256(), first.key)


def test_another_product_of_the_same_period_is_refused(ws: Workspace, tmp_path: Path) -> None:
    first = ingest_product(ws, make_product(tmp_path / "p", noisy()), CFG)
    other = make_product(tmp_path / "q", noisy(1))
    with pytest.raises(InputError) as e:
        ingest_product(ws, other, CFG)
    assert e.value.code == "SW-107"
    assert str(first.folder) in e.value.remedy
    with pytest.raises(InputError) as e:
        prepare(Workspace(tmp_path / "ws2"), [make_product(tmp_path / "p", noisy()), other], CFG)
    assert e.value.code == "SW-107"
    assert not (tmp_path / "ws2" / "region").exists()


def test_cubes_are_listed_by_track_and_period(ws: Workspace, tmp_path: Path) -> None:
    dates = [date(2023, 1, 1), date(2023, 7, 1), date(2024, 1, 1)]
    products = [
        make_product(
            tmp_path / f"{track}{i}",
            noisy(i if track == "ascending" else 10 + i),
            track=track,
            start=dates[i],
            end=dates[i + 1],
            look=(39.0, -168.0 if track == "descending" else -12.0),
        )
        for track in ("descending", "ascending")
        for i in (1, 0)
    ]
    ingest_products(ws, products, CFG)
    assert [(c.meta["track"], c.meta["period"]) for c in list_cubes(ws)] == [
        ("ascending", "20230101_20230701"),
        ("ascending", "20230701_20240101"),
        ("descending", "20230101_20230701"),
        ("descending", "20230701_20240101"),
    ]
    assert len(ws.ledger.products()) == 4
    info = cube_info(list_cubes(ws)[0])
    assert (info.days, info.date_start, info.shape) == (DAYS, date(2023, 1, 1), SHAPE)


def test_the_bytes_depend_neither_on_threads_nor_on_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = {**noisy(), "elevation": plane(20, 90)}
    product = make_product(tmp_path / "p", layers)
    digests = []
    for threads in (1, 2, 7):
        monkeypatch.setattr(store, "workers", lambda n=threads: n)
        ws = Workspace(tmp_path / f"ws{threads}")
        ingest_product(ws, product, CFG)
        digests.append(artefact_digest(ws))
    assert digests[0] == digests[1] == digests[2]
    assert len(digests[0]) > 30


#: Runs once undisturbed, then several times until a signal at some share of that time.
DIE = """
import os, pickle, signal, sys, time
from pathlib import Path
from components.config import IngestConfig
from components.cube.ingest import ingest_products
from components.workspace import Workspace

products = pickle.loads(Path(sys.argv[1]).read_bytes())
root = Path(sys.argv[2])

def start(name):
    pid = os.fork()  # before any thread: this process itself never ingests
    if pid == 0:
        ws = Workspace(root / name)
        with ws.lock():
            ingest_products(ws, products, IngestConfig(chunk=32, shard=64))
        os._exit(0)
    return pid

started = time.perf_counter()
if os.waitpid(start("calm"), 0)[1]:
    sys.exit("the undisturbed run failed")
seconds = time.perf_counter() - started
died = 0
for i, share in enumerate(map(float, sys.argv[3:])):
    pid = start(f"killed{i}")
    time.sleep(share * seconds)
    os.kill(pid, signal.SIGKILL)
    died += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
print(died)
"""


def test_killed_at_any_moment_the_next_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    products = [
        make_product(tmp_path / "p", {**noisy(), "elevation": plane(20, 90)}),
        make_product(tmp_path / "q", noisy(1), start=date(2023, 7, 1), end=date(2024, 1, 1)),
    ]
    (tmp_path / "products").write_bytes(pickle.dumps(products))
    shares = np.random.default_rng(0).uniform(0.05, 0.9, 4)
    ran = subprocess.run(
        [sys.executable, "-c", DIE, tmp_path / "products", tmp_path, *map(str, shares)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) >= 2
    expected = artefact_digest(Workspace(tmp_path / "calm"))
    for i in range(len(shares)):
        ws = Workspace(tmp_path / f"killed{i}")
        for cube in list_cubes(ws):  # what a reader finds is whole
            assert np.isfinite(layers_of(ws, cube, "los_velocity")["los_velocity"]).all()
        with ws.lock():
            ingest_products(ws, products, CFG)
        assert artefact_digest(ws) == expected
        assert len(ws.ledger.products()) == 2


# -- real data -----------------------------------------------------------------------------------------


def test_a_real_stack_keeps_grid_sign_unit_and_dates(ws: Workspace, real_data: Path) -> None:
    folder = real_data / "opera_dolphin_texas"
    if not folder.is_dir():
        pytest.skip("the OPERA sample is absent")
    name = "displacement_20160708_20161223.tif"
    found = [p for p in discover([folder], IngestConfig()) if p.period == "20160708_20161223"]
    cube = ingest_product(ws, found[0], IngestConfig())
    info = cube_info(cube)
    assert (info.date_start, info.days) == (date(2016, 7, 8), 168)
    with rasterio.open(folder / name) as src:
        raw = src.read(1)
        assert info.geobox.affine == src.transform
        assert info.geobox.crs.epsg == 32613
    got = layers_of(ws, cube, "los_displacement", "los_velocity", "valid")
    finite = np.isfinite(raw) & np.isfinite(got["los_displacement"])
    assert finite.sum() > 0.5 * raw.size
    shift = np.float32(cube.meta["references"][0]["value_m"])
    np.testing.assert_array_equal(got["los_displacement"][finite], (raw - shift)[finite])
    assert cube.meta["components"] == {"total": 1, "small": 0}
    # Stable desert: the referenced map is centred, and its noise is some millimetres a year.
    assert abs(np.median(got["los_velocity"][got["valid"]])) < 5
    assert 1 < info.sigma_velocity < 60


def test_real_islands_are_level_each(ws: Workspace, real_data: Path, tmp_path: Path) -> None:
    [real] = [r for r in REAL_MAPS if r.name == "aleutians"]
    if not (real_data / real.files["file"]).is_file():
        pytest.skip("the Aleutian sample is absent")
    [product] = discover([describe(real, real_data, tmp_path)], IngestConfig())
    cube = ingest_product(ws, product, IngestConfig())
    assert [round(r["km2"]) for r in cube.meta["references"]] == [545, 337, 300]
    got = layers_of(ws, cube, "los_velocity", "valid")
    v = np.where(got["valid"], got["los_velocity"], np.nan)
    # Columns of the three islands; with one median the middle one stood at -780 mm/yr.
    for columns in (slice(0, 600), slice(625, 1060), slice(1110, 1600)):
        assert abs(np.nanmedian(v[:, columns])) < 10
    whole = ingest_product(Workspace(tmp_path / "whole"), product, IngestConfig(reference="median"))
    assert cube.meta["sigma_velocity"] < 0.5 * whole.meta["sigma_velocity"]

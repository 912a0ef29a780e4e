"""Outlines on pixel edges and their size on the ellipsoid."""

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio import features

from components.inventory.polygons import geodesic_extent, lonlat_transformer, pixel_polygon

RES = 25.0
#: Near the central meridian of UTM zone 33, where the scale is 0.9996.
GRID = Affine(RES, 0, 500_000, 0, -RES, 5_200_000)


@settings(max_examples=150, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.integers(0, 500))
def test_area_is_exact_and_pixels_come_back(mask: np.ndarray, row: int) -> None:
    if not mask.any():
        with pytest.raises(ValueError, match="empty"):
            pixel_polygon(mask, row, 7, GRID)
        return
    polygon = pixel_polygon(mask, row, 7, GRID)
    assert polygon.is_valid
    assert polygon.area == mask.sum() * RES**2
    shifted = Affine(RES, 0, 500_000 + 7 * RES, 0, -RES, 5_200_000 - row * RES)
    back = features.rasterize([polygon], out_shape=mask.shape, transform=shifted)
    assert np.array_equal(back.astype(bool), mask)


def test_holes_are_kept() -> None:
    mask = np.ones((12, 14), bool)
    mask[4:7, 5:9] = False
    polygon = pixel_polygon(mask, 0, 0, GRID)
    assert len(polygon.geoms) == 1
    assert len(polygon.geoms[0].interiors) == 1
    assert polygon.area == (12 * 14 - 12) * RES**2
    hole = shapely.Polygon(polygon.geoms[0].interiors[0])
    assert hole.area == 12 * RES**2
    assert not polygon.contains(hole.centroid)


def test_pixels_that_touch_at_a_corner_are_parts() -> None:
    polygon = pixel_polygon(np.eye(3, dtype=bool), 0, 0, GRID)
    assert len(polygon.geoms) == 3
    assert polygon.is_valid


def test_equal_masks_give_equal_bytes() -> None:
    mask = np.random.default_rng(0).random((20, 20)) < 0.5
    assert pixel_polygon(mask, 3, 4, GRID).wkb == pixel_polygon(mask.copy(), 3, 4, GRID).wkb


def test_geodesic_size_near_the_central_meridian() -> None:
    mask = np.ones((40, 30), bool)
    mask[10:20, 10:20] = False
    polygon = pixel_polygon(mask, 0, 0, GRID)
    extent = geodesic_extent(polygon, lonlat_transformer("EPSG:32633"))
    planar = (1200 - 100) * RES**2
    assert extent.area_m2 == pytest.approx(planar, rel=1e-3)
    # UTM shrinks lengths by 0.9996 here: the true area is larger by 1/0.9996².
    assert extent.area_m2 == pytest.approx(planar / 0.9996**2, rel=2e-5)
    assert extent.perimeter_m == pytest.approx((140 + 40) * RES / 0.9996, rel=2e-5)
    assert extent.lon == pytest.approx(15.0, abs=0.01)
    assert extent.lat == pytest.approx(46.95, abs=0.05)


def test_geodesic_area_far_from_the_meridian_is_not_planar() -> None:
    far = Affine(RES, 0, 900_000, 0, -RES, 5_200_000)
    polygon = pixel_polygon(np.ones((40, 40), bool), 0, 0, far)
    extent = geodesic_extent(polygon, lonlat_transformer("EPSG:32633"))
    assert extent.area_m2 < polygon.area * 0.999

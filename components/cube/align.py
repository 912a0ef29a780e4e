"""From a product's layer to the region grid: the one reprojection, window by window, in the right quantity.

A layer that is on the region grid already passes through untouched. Otherwise linear quantities are
interpolated as they are, wrapped phase as a unit phasor (the mean of +π and −π is ±π, not 0) and masks by
the nearest neighbour. Every window reads the source pixels that its own kernel needs beyond its edge, so the
result does not depend on how the map is cut into windows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox
from odc.geo.geom import BoundingBox
from odc.geo.overlap import compute_reproject_roi
from rasterio.warp import Resampling, reproject

from components.errors import InputError
from components.grid import Window, same_grid
from components.products.base import LayerSource, Product
from components.products.convert import read_canonical

#: Radius of each kernel at equal pixel sizes [px].
_RADIUS: Final = {"nearest": 1, "bilinear": 1, "cubic": 2}

#: How far a position may be off by GDAL's piecewise linear projection [px]; its default, 0.125, shows at the
#: borders of windows.
_TOLERANCE_PX: Final = 0.01


@dataclass(frozen=True)
class AlignedLayer:
    """One layer on the region grid, read when asked. Holds paths only: it travels between threads.

    Parameters
    ----------
    source : LayerSource
        Where it comes from.
    grid : GeoBox
        The source's grid.
    region : GeoBox
        The region grid.
    resampling : {"nearest", "bilinear", "cubic"}
        Kernel, where the grids differ.
    shrink : float
        Source pixels a region pixel; where above 1 the kernel widens with it, so that no pixel is skipped.
    passes_through : bool
        The grids are the same.
    """

    source: LayerSource
    grid: GeoBox
    region: GeoBox
    resampling: str
    shrink: float
    passes_through: bool
    cyclic: bool = False

    def read(self, window: Window) -> npt.NDArray[Any]:
        """The layer in one window.

        Parameters
        ----------
        window : Window
            Inside the region grid.

        Returns
        -------
        ndarray
            Of the window's shape: float32 with NaN where there is nothing, or bool with False there.

        Raises
        ------
        InputError
            SW-101 or SW-102 where a file is missing or unreadable.
        """
        if self.passes_through:
            return read_canonical(self.source, window)
        padding = int(np.ceil(_RADIUS[self.resampling] * max(self.shrink, 1.0))) + 2
        target = self.region[window.slices]
        roi = compute_reproject_roi(self.grid, target, padding=padding).roi_src
        rows, cols = roi
        part = Window(rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start)
        if part.height <= 0 or part.width <= 0:
            fill: Any = False if self.source.kind == "mask" else np.float32(np.nan)
            return np.full((window.height, window.width), fill)
        pixels, grid = read_canonical(self.source, part), self.grid[part.slices]
        if pixels.dtype == bool:
            good: npt.NDArray[Any] = (
                self._warp(pixels.astype(np.uint8), grid, target, "nearest") == 1
            )
            return good
        if self.cyclic and self.resampling != "nearest":
            cosine, sine = (
                self._warp(f(pixels), grid, target, self.resampling) for f in (np.cos, np.sin)
            )
            phase: npt.NDArray[Any] = np.arctan2(sine, cosine)
            return phase
        return self._warp(pixels, grid, target, self.resampling)

    def _warp(
        self, pixels: npt.NDArray[Any], grid: GeoBox, target: GeoBox, resampling: str
    ) -> npt.NDArray[Any]:
        nodata = 0 if pixels.dtype == np.uint8 else np.nan
        out = np.full((int(target.shape[0]), int(target.shape[1])), nodata, dtype=pixels.dtype)
        # One scale for the whole map: left to itself, GDAL picks another for every window.
        scale = 1.0 / max(self.shrink, 1.0)
        reproject(
            pixels,
            out,
            src_transform=grid.affine,
            src_crs=str(grid.crs),
            dst_transform=target.affine,
            dst_crs=str(target.crs),
            src_nodata=nodata,
            dst_nodata=nodata,
            resampling=Resampling[resampling],
            tolerance=_TOLERANCE_PX,
            XSCALE=scale,
            YSCALE=scale,
        )
        return out


def aligned(product: Product, name: str, region: GeoBox, resampling: str) -> AlignedLayer:
    """A product's layer on the region grid.

    Parameters
    ----------
    product : Product
        Its ``layers`` hold `name`.
    name : str
        Canonical layer name, or ``mask``.
    region : GeoBox
        The region grid.
    resampling : str
        ``nearest``, ``bilinear`` or ``cubic``, for linear quantities.

    Returns
    -------
    AlignedLayer
    """
    layer = align_source(product.layers[name], product.geobox, region, resampling)
    return replace(layer, cyclic=name == "wrapped_phase")


def align_source(
    source: LayerSource, grid: GeoBox, region: GeoBox, resampling: str
) -> AlignedLayer:
    """Any layer on the region grid.

    Parameters
    ----------
    source : LayerSource
        Where it comes from.
    grid : GeoBox
        The source's grid.
    region : GeoBox
        The region grid.
    resampling : str
        ``nearest``, ``bilinear`` or ``cubic``.

    Returns
    -------
    AlignedLayer
    """
    if same_grid(grid, region):
        return AlignedLayer(source, grid, region, resampling, 1.0, passes_through=True)
    shrink = float(compute_reproject_roi(grid, region).scale)
    return AlignedLayer(source, grid, region, resampling, shrink, passes_through=False)


def footprint(grid: GeoBox, crs: Any) -> BoundingBox:
    """Bounds of a grid in another projection.

    Parameters
    ----------
    grid : GeoBox
        Any grid.
    crs : CRS
        Target.

    Returns
    -------
    BoundingBox
        In `crs`.
    """
    # Points every fifty pixels, not the corners alone: a straight edge bends in another projection.
    step = 50.0 * abs(float(grid.resolution.x))
    return grid.extent.to_crs(crs, resolution=step).boundingbox


def require_overlap(product: Product, region: GeoBox) -> None:
    """Refuse a product that shows nothing of the region.

    Parameters
    ----------
    product : Product
        Any product.
    region : GeoBox
        The region grid.

    Raises
    ------
    InputError
        SW-115 where they share no ground.
    """
    a, b = footprint(product.geobox, region.crs), region.extent.boundingbox
    if not (a.left < b.right and b.left < a.right and a.bottom < b.top and b.bottom < a.top):
        raise InputError(
            "SW-115",
            f"the product ({product.geobox.crs}) lies outside the region {tuple(b)[:4]} in {region.crs}",
            path=product.path,
        )

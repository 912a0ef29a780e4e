"""Mountain terrain: a river network carved by a stream-power law, with hillslopes and detail.

Elevation is the cost of the cheapest way uphill from the rivers' outlets, the cost of a step being
the local channel or hillslope gradient. That makes it continuous over divides, gives dendritic
valleys with graded long profiles, and limits hillslopes to a threshold gradient. Contributing area
and cost are made consistent by iterating, which draws water together as erosion does (compare
optimal channel networks, Rodriguez-Iturbe & Rinaldo 1997; the gradient–area law S = k A^-θ is
Flint's, 1974).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from components.insar.geometry import slope_aspect
from components.simulation.fields import Bool, Float, SpectralField, smooth, smooth_noise, upsample

#: Concavity θ of the gradient–area law and the area [m²] where hillslopes end and channels begin.
_CONCAVITY = 0.45
_CHANNEL_AREA_M2 = 6e5
#: Side of a cell of the grid on which rivers are carved [m].
_CELL_M = 100.0
#: Contributing area above which a valley has a flat floor, and above which its river is seen [m²].
_FLOOR_AREA_M2 = 1.5e7
_RIVER_AREA_M2 = 1.5e8
_ITERATIONS = 4
#: Direction of sliding is that of the terrain smoothed over this distance [m].
_SLIDING_SCALE_M = 60.0


@dataclass(frozen=True)
class Terrain:
    """Bare ground.

    Parameters
    ----------
    elevation : ndarray of float32 [H, W]
        Height [m]; row 0 is north.
    water : ndarray of bool [H, W]
        Open water.
    """

    elevation: Float
    water: Bool


@dataclass(frozen=True)
class Ground:
    """Terrain and what is derived from it.

    Parameters
    ----------
    resolution_m : float
        Pixel size [m].
    elevation : ndarray of float32 [H, W]
        Height [m].
    water : ndarray of bool [H, W]
        Open water.
    slope, aspect : ndarray of float32 [H, W]
        Slope [deg] and downslope azimuth [deg, clockwise from north].
    sliding_slope, sliding_aspect : ndarray of float32 [H, W]
        The same of the smoothed terrain: a sliding mass does not follow every bump.
    """

    resolution_m: float
    elevation: Float
    water: Bool
    slope: Float
    aspect: Float
    sliding_slope: Float
    sliding_aspect: Float

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width [px]."""
        height, width = self.elevation.shape
        return height, width


def make_ground(terrain: Terrain, resolution_m: float) -> Ground:
    """Derive slope and sliding direction.

    Parameters
    ----------
    terrain : Terrain
        Bare ground.
    resolution_m : float
        Pixel size [m].

    Returns
    -------
    Ground
    """
    slope, aspect = slope_aspect(terrain.elevation, resolution_m)
    rough = smooth(terrain.elevation, _SLIDING_SCALE_M / resolution_m)
    sliding_slope, sliding_aspect = slope_aspect(rough, resolution_m)
    return Ground(
        resolution_m,
        terrain.elevation,
        terrain.water,
        _float32(slope),
        _float32(aspect),
        _float32(sliding_slope),
        _float32(sliding_aspect),
    )


def _float32(values: NDArray[np.floating]) -> Float:
    # Horn's window may leave the outermost pixels, and flat ground its aspect, undefined.
    out = np.asarray(values, dtype=np.float32)
    return np.nan_to_num(out, copy=False)


def generate_terrain(
    rng: np.random.Generator, shape: tuple[int, int], resolution_m: float
) -> Terrain:
    """Generate mountains with gorges, side valleys, valley floors and rivers.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    shape : (int, int)
        Height and width [px].
    resolution_m : float
        Pixel size [m].

    Returns
    -------
    Terrain
        Relief grows with the size of the scene, to about 3000 m over 50 km.
    """
    factor = max(1, round(_CELL_M / resolution_m))
    cells = (-(-shape[0] // factor), -(-shape[1] // factor))
    cell_m = factor * resolution_m
    height, area = _carve(rng, cells, cell_m)
    height, distance, river = _valley_floors(rng, height, area, cell_m)

    full = (cells[0] * factor, cells[1] * factor)
    cut = (slice(0, shape[0]), slice(0, shape[1]))
    elevation = upsample(height, full)[cut] + np.float32(rng.uniform(1200.0, 2000.0))
    from_river = upsample(distance, full)[cut]
    water: Bool = (from_river < 0.6 * cell_m) & (upsample(river, full)[cut] > 0.5)
    elevation += _detail(rng, shape, resolution_m, from_river)
    # Terrain models are smooth at their own posting.
    elevation = ndimage.gaussian_filter(elevation, 0.6, mode="nearest")
    return Terrain(np.ascontiguousarray(elevation), water)


def _carve(
    rng: np.random.Generator, cells: tuple[int, int], cell_m: float
) -> tuple[Float, NDArray[np.float64]]:
    """Height above the outlets [m] and contributing area [m²] on the coarse grid."""
    source, target, length = _neighbours(cells, cell_m)
    n = cells[0] * cells[1]
    outlets, inflows = _trunk_rivers(rng, cells, cell_m)
    # Rock strength: threshold gradient of the hillslopes, in provinces and from cell to cell.
    province = smooth_noise(rng, cells, cell_m, 2500.0).ravel()
    hill = np.tan(np.deg2rad(np.clip(30.0 + 5.5 * province, 14.0, 40.0)))
    # Rough costs make rivers wander and break the eight directions of the grid.
    texture = np.exp(
        0.4 * smooth_noise(rng, cells, cell_m, 4.0 * cell_m).ravel() + 0.25 * rng.standard_normal(n)
    )
    area = np.full(n, cell_m**2)
    height = np.zeros(n)
    # The structure of the graph stays, only the costs change: sort it once.
    graph = sparse.csr_matrix((np.arange(1.0, target.size + 1), (source, target)), shape=(n, n))
    edge = graph.data.astype(np.int64) - 1
    upper, length = target[edge], length[edge]
    for _ in range(_ITERATIONS):
        channel = np.maximum(area / _CHANNEL_AREA_M2, 1.0) ** -_CONCAVITY
        gradient = np.minimum(hill * channel * texture, np.tan(np.deg2rad(42.0)))
        graph.data = gradient[upper] * length
        height, before, _ = csgraph.dijkstra(
            graph, indices=outlets, min_only=True, return_predecessors=True
        )
        area = _contributing_area(height, before, inflows, cell_m)
    relief = height.reshape(cells).astype(np.float32)
    return ndimage.gaussian_filter(relief, 0.7, mode="nearest"), area.reshape(cells)


def _neighbours(
    cells: tuple[int, int], cell_m: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Directed edges to the eight neighbours: source, target, length [m]."""
    index = np.arange(cells[0] * cells[1]).reshape(cells)
    pairs = [
        (index[:, :-1], index[:, 1:], 1.0),
        (index[:-1], index[1:], 1.0),
        (index[:-1, :-1], index[1:, 1:], np.sqrt(2.0)),
        (index[:-1, 1:], index[1:, :-1], np.sqrt(2.0)),
    ]
    one = [a.ravel() for a, _, _ in pairs]
    two = [b.ravel() for _, b, _ in pairs]
    length = np.concatenate([np.full(a.size, s * cell_m) for a, _, s in pairs])
    return np.concatenate(one + two), np.concatenate(two + one), np.concatenate([length, length])


def _trunk_rivers(
    rng: np.random.Generator, cells: tuple[int, int], cell_m: float
) -> tuple[list[int], dict[int, float]]:
    """Outlets on the southern edge, and what their rivers bring in over the northern one [m²]."""
    rows, columns = cells
    count = max(1, round(columns * cell_m / 22e3))
    outlets, inflows = [], {}
    for i in range(count):
        middle = (i + 0.5) * columns / count
        reach = 0.3 * columns / count
        outlets.append((rows - 1) * columns + int(middle + rng.uniform(-reach, reach)))
        inflows[int(middle + rng.uniform(-reach, reach))] = float(rng.uniform(0.5e9, 4e9))
    return outlets, inflows


def _contributing_area(
    height: NDArray[np.float64],
    before: NDArray[np.int32],
    inflows: dict[int, float],
    cell_m: float,
) -> NDArray[np.float64]:
    area = [cell_m**2] * height.size
    for cell, extra in inflows.items():
        area[cell] += extra
    down = before.tolist()
    # From the summits down; plain lists are several times faster here than arrays.
    for cell in np.argsort(-height, kind="stable").tolist():
        if down[cell] >= 0:
            area[down[cell]] += area[cell]
    return np.array(area)


def _valley_floors(
    rng: np.random.Generator, height: Float, area: NDArray[np.float64], cell_m: float
) -> tuple[Float, Float, Float]:
    """Flatten valley floors; also distance to the river [m] and 1 where the river is open water."""
    channel = area >= _FLOOR_AREA_M2
    if not channel.any():
        far = np.full(height.shape, 1e4, dtype=np.float32)
        return height, far, np.zeros_like(height)
    cells_away, nearest = ndimage.distance_transform_edt(~channel, return_indices=True)
    distance = (cells_away * cell_m).astype(np.float32)
    there = tuple(nearest)
    river_area = ndimage.maximum_filter(np.where(channel, area, 0.0), 3)[there]
    # Gorges and basins alternate along a river.
    swell = np.exp(0.7 * smooth_noise(rng, (height.shape[0], height.shape[1]), cell_m, 2500.0))
    width = 30.0 * (river_area / _FLOOR_AREA_M2) ** 0.4 * swell
    share = np.clip((distance - width) / (1.5 * width + 3.0 * cell_m), 0.0, 1.0)
    share = share * share * (3.0 - 2.0 * share)
    floor = np.minimum(height, height[there] + 0.01 * distance)
    flat = floor + share.astype(np.float32) * (height - floor)
    river = (river_area >= _RIVER_AREA_M2).astype(np.float32)
    return ndimage.gaussian_filter(flat, 0.5, mode="nearest").astype(np.float32), distance, river


def _detail(
    rng: np.random.Generator, shape: tuple[int, int], resolution_m: float, from_river: Float
) -> Float:
    """Gullies and roughness below the size of a carving cell [m], fading on valley floors."""
    k0 = 1.0 / 900.0

    def psd(k: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(k < k0, (k / k0) ** 2, (k / k0) ** -4.2)

    field = SpectralField(shape, resolution_m, psd).draw(rng)
    # The scale is that of the spectrum, not of the scene: rms 1 over the whole plane.
    field *= np.float32(1.0 / (k0 * np.sqrt(2 * np.pi * (0.25 + 1.0 / 2.2))))
    ridged = 0.75 * field + 0.9 * (np.float32(0.8) - np.abs(field))
    out: Float = ridged * np.float32(11.0) * np.clip((from_river - 80.0) / 500.0, 0.0, 1.0)
    return out

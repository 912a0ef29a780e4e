"""Separated ground: which pixels share a reference.

Interferometry measures differences of phase between pixels that measured ground connects. Between pieces of
ground that sea or decorrelation parts, the multiple of 2π is not determined: unwrapping gives each connected
component a constant of its own (Chen & Zebker 2002, IEEE TGRS 40, 1709). So each component is referenced to
its own stable ground.

Connectivity is that of cells of some `CELL_M`, so that rivers and narrow strips without coherence do not
part what any geologist would call one piece, and so that little is kept of large maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from components.insar.reference import Reference, stable_median

#: Side of a cell [m]: gaps narrower than this part nothing.
CELL_M: Final = 512.0

#: Share of valid pixels from which a cell is ground by itself. Ground of half a cell's width fills a quarter
#: of the cells that it runs along, however they lie; and of pixels without any signal fewer than a quarter
#: reach a coherence of 0.3 from 16 looks on: (1 − 0.3²)^(L − 1) of them (Touzi et al. 1999, IEEE TGRS 37,
#: 135). Rather low than high: ground that is parted wrongly gets a step that nature did not make.
LEAST_SHARE: Final = 0.25

#: Sampled pixels that a component of its own needs: a median of fewer is off by more than an eighth of the
#: scatter.
LEAST_PIXELS: Final = 100

_EIGHT: Final = np.ones((3, 3), dtype=bool)


class Component(NamedTuple):
    """Ground with a reference of its own.

    Parameters
    ----------
    reference : Reference
        Displacement of its stable ground.
    km2 : float
        Area of its valid pixels [km²].
    """

    reference: Reference
    km2: float


class Sample(NamedTuple):
    """Even sample of a map's valid pixels.

    Parameters
    ----------
    displacement : ndarray of float, shape (n,)
        LOS displacement [m, + toward].
    coherence : ndarray of float, shape (n,), or None
        In [0, 1]; None where the map has none.
    cell : ndarray of int, shape (n,)
        Flat indices of the cells that hold them (`Cells.index`).
    """

    displacement: npt.NDArray[np.floating[Any]]
    coherence: npt.NDArray[np.floating[Any]] | None
    cell: npt.NDArray[np.intp]

    def median(self, threshold: float, chosen: slice | npt.NDArray[np.intp]) -> Reference:
        """Stable median of some of the pixels, as `stable_median` gives it."""
        coherence = None if self.coherence is None else self.coherence[chosen]
        return stable_median(self.displacement[chosen], coherence, threshold)


class Cells:
    """Coarse grid over a map.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the map [px].
    side : int
        Side of a cell [px], as `cell_side` gives it. The cells at the lower and right edge may be cut.
    """

    def __init__(self, shape: tuple[int, int], side: int) -> None:
        self.side = side
        self.shape = (-(-shape[0] // side), -(-shape[1] // side))
        self._map = shape

    def count(
        self, valid: npt.NDArray[np.bool_], row: int = 0, col: int = 0
    ) -> tuple[tuple[slice, slice], npt.NDArray[np.int32]]:
        """Valid pixels by cell in a part of the map.

        Parameters
        ----------
        valid : ndarray of bool, shape (h, w)
            Usable pixels.
        row, col : int
            The first of them on the map; anywhere in a cell.

        Returns
        -------
        slices : (slice, slice)
            Cells that the part touches.
        counts : ndarray of int32
            Their valid pixels in this part: sums over disjoint parts are those of the map.
        """
        counts: npt.NDArray[np.int32] = valid.astype(np.int32)
        slices = []
        for axis, first in enumerate((row, col)):
            n = valid.shape[axis]
            begins = np.arange(-(first % self.side), n, self.side)
            counts = np.add.reduceat(counts, np.maximum(begins, 0), axis=axis)
            cell = first // self.side
            slices.append(slice(cell, cell + begins.size))
        return (slices[0], slices[1]), counts

    def index(
        self, pixels: npt.NDArray[np.intp], width: int, row: int = 0, col: int = 0
    ) -> npt.NDArray[np.intp]:
        """Cells of some pixels.

        Parameters
        ----------
        pixels : ndarray of int, shape (n,)
            Flat indices in a part of the map.
        width : int
            Of that part [px].
        row, col : int
            Its first pixel on the map.

        Returns
        -------
        ndarray of int, shape (n,)
            Flat indices of cells.
        """
        rows, cols = np.divmod(pixels, width)
        cells: npt.NDArray[np.intp] = (rows + row) // self.side * self.shape[1] + (
            cols + col
        ) // self.side
        return cells

    def pixels(self) -> npt.NDArray[np.int32]:
        """Pixels of each cell, fewer where the map's edge cuts it.

        Returns
        -------
        ndarray of int32, shape of the grid
        """
        rows, cols = (
            np.minimum(self.side, n - self.side * np.arange(k, dtype=np.int32))
            for n, k in zip(self._map, self.shape, strict=True)
        )
        pixels: npt.NDArray[np.int32] = rows[:, None] * cols
        return pixels


@dataclass(frozen=True)
class Referencing:
    """What is subtracted from the displacement, and where.

    Parameters
    ----------
    found : tuple of Component
        Components with a reference of their own, the largest first; empty where nothing is subtracted.
    n_components : int
        Separated pieces of ground that were told apart; 0 where this was not asked.
    n_small : int
        Those of them that are too small for a reference of their own.
    side : int
        Side of a cell [px].
    which : ndarray of int32 or None
        Index into `found` by cell; None where all cells have the first.
    """

    found: tuple[Component, ...] = ()
    n_components: int = 0
    n_small: int = 0
    side: int = 1
    which: npt.NDArray[np.int32] | None = None

    def at(self, row: int, col: int, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Reference of every pixel in a part of the map.

        Parameters
        ----------
        row, col : int
            First pixel of the part.
        shape : (int, int)
            Its height and width [px].

        Returns
        -------
        ndarray of float32, shape (h, w)
            Displacement to be subtracted [m, + toward].
        """
        values = self._values()
        if self.which is None:
            return np.broadcast_to(values[0], shape)
        rows, cols = (
            np.arange(first, first + n) // self.side
            for first, n in zip((row, col), shape, strict=True)
        )
        return values[self.which[np.ix_(rows, cols)]]

    def beside_first(self, cells: npt.NDArray[np.intp]) -> npt.NDArray[np.float32] | np.float32:
        """How far the references of some cells lie from that of the largest component.

        Parameters
        ----------
        cells : ndarray of int, shape (n,)
            Flat indices of cells.

        Returns
        -------
        ndarray of float32, shape (n,), or float32
            Displacement [m, + toward]; 0 where there is one reference.
        """
        if self.which is None:
            return np.float32(0)
        values = self._values()
        beside: npt.NDArray[np.float32] = (values - values[0])[self.which.ravel()[cells]]
        return beside

    def _values(self) -> npt.NDArray[np.float32]:
        return np.array([c.reference.value for c in self.found] or [0.0], dtype=np.float32)


def cell_side(pixel_m: float) -> int:
    """Side of a cell.

    Parameters
    ----------
    pixel_m : float
        Pixel size [m], > 0.

    Returns
    -------
    int
        Pixels; about `CELL_M`, at least 1.
    """
    return max(1, round(CELL_M / pixel_m))


def ground(
    counts: npt.NDArray[np.integer[Any]], pixels: npt.NDArray[np.integer[Any]]
) -> npt.NDArray[np.bool_]:
    """Cells that connect.

    A cell is ground when at least `LEAST_SHARE` of it is valid, or when it holds a valid pixel and is one of
    the eight neighbours of such a cell: so the shore belongs to its island, and a cell that holds pixels of
    two shores joins them. Scattered pixels farther out connect nothing.

    Parameters
    ----------
    counts : ndarray of int, shape (rows, cols)
        Valid pixels by cell.
    pixels : ndarray of int, same shape
        All pixels by cell.

    Returns
    -------
    ndarray of bool, same shape
    """
    full = (counts > 0) & (counts >= LEAST_SHARE * pixels)
    out: npt.NDArray[np.bool_] = ndimage.binary_dilation(full, _EIGHT) & (counts > 0)
    return out


def whole_map(sample: Sample, threshold: float, km2: float, n_small: int = 0) -> Referencing:
    """One reference for the whole map.

    Parameters
    ----------
    sample : Sample
        Valid pixels.
    threshold : float
        Coherence that `stable_median` starts from.
    km2 : float
        Area of the map's valid pixels [km²].
    n_small : int
        Components that were told apart, all of them too small.

    Returns
    -------
    Referencing
    """
    whole = Component(sample.median(threshold, slice(None)), km2)
    return Referencing((whole,), n_small, n_small)


def by_component(
    cells: Cells,
    counts: npt.NDArray[np.integer[Any]],
    sample: Sample,
    *,
    threshold: float,
    least_km2: float,
    pixel_km2: float,
) -> Referencing:
    """A reference for every separated component that is large enough.

    Components are ground cells (`ground`) that touch at a side or a corner. One of less than `least_km2` or
    of fewer than `LEAST_PIXELS` sampled pixels takes, as a whole, the reference of the large component that
    comes nearest to it; a cell that is not ground takes that of the nearest ground. Where no component is
    large enough, the whole map has one reference.

    Parameters
    ----------
    cells : Cells
        The coarse grid.
    counts : ndarray of int, shape of the grid
        Valid pixels by cell.
    sample : Sample
        Valid pixels.
    threshold : float
        Coherence that `stable_median` starts from, for each component anew.
    least_km2 : float
        Area of valid pixels that a component of its own needs [km²].
    pixel_km2 : float
        Area of a pixel [km²], > 0.

    Returns
    -------
    Referencing
    """
    solid = ground(counts, cells.pixels())
    labels, n = ndimage.label(solid, _EIGHT)
    # Entry 0 is what is no ground.
    areas = np.bincount(labels.ravel(), counts.ravel(), n + 1)[1:] * pixel_km2
    component = labels.ravel()[sample.cell]
    sampled = np.bincount(component, minlength=n + 1)[1:]
    large = np.flatnonzero((areas >= least_km2) & (sampled >= LEAST_PIXELS))
    large = large[np.argsort(-areas[large], kind="stable")]
    if large.size == 0:
        return whole_map(sample, threshold, float(counts.sum()) * pixel_km2, n_small=n)

    owner = np.full(n + 1, -1, dtype=np.int32)
    owner[1 + large] = np.arange(large.size)
    # The sampled pixels in the order of their components, so that each is cut out once.
    order = np.argsort(component, kind="stable")
    ends = np.cumsum(sampled) + (component.size - sampled.sum())
    found = tuple(
        Component(sample.median(threshold, order[ends[i] - sampled[i] : ends[i]]), float(areas[i]))
        for i in large
    )
    n_small = n - large.size
    if len(found) == 1:
        return Referencing(found, n, n_small)
    _give_nearest(labels, owner)
    return Referencing(found, n, n_small, cells.side, _spread(owner[labels], solid))


def _give_nearest(labels: npt.NDArray[np.int32], owner: npt.NDArray[np.int32]) -> None:
    """Give every component that owns no reference that of the large one whose cells come nearest."""
    small = np.flatnonzero((labels.ravel() > 0) & (owner[labels.ravel()] < 0))
    if small.size == 0:
        return
    distance, nearest = ndimage.distance_transform_edt(owner[labels] < 0, return_indices=True)
    # Cells by component and distance; the first of each component decides.
    order = small[np.lexsort((distance.ravel()[small], labels.ravel()[small]))]
    names, first = np.unique(labels.ravel()[order], return_index=True)
    rows, cols = (axis.ravel()[order[first]] for axis in nearest)
    owner[names] = owner[labels[rows, cols]]


def _spread(grid: npt.NDArray[np.int32], known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Values of the nearest known cells."""
    rows, cols = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    out: npt.NDArray[np.int32] = grid[rows, cols]
    return out

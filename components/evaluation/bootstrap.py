"""Blocks of ground: the units of which `components.evaluation.intervals` draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from components.evaluation.footprints import Footprint, pixel_of
from components.grid import Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Side of a block, about [m]; the blocks of a map are equal to a pixel.
BLOCK_M: Final = 10_000.0


@dataclass(frozen=True)
class BlockGrid:
    """Blocks of a map.

    Parameters
    ----------
    rows, cols : tuple of int
        Edges [px], from 0 to height and width.
    """

    rows: tuple[int, ...]
    cols: tuple[int, ...]

    @classmethod
    def of(cls, shape: tuple[int, int], pixel_m: float, side_m: float = BLOCK_M) -> BlockGrid:
        """Blocks of about one side over a map.

        Parameters
        ----------
        shape : tuple of int
            Height and width [px].
        pixel_m : float
            Pixel size [m].
        side_m : float
            Wanted side [m].

        Returns
        -------
        BlockGrid
            At least one block.
        """
        edges = []
        for n in shape:
            parts = max(1, round(n * pixel_m / side_m))
            edges.append(tuple(round(i * n / parts) for i in range(parts + 1)))
        return cls(edges[0], edges[1])

    @property
    def windows(self) -> list[Window]:
        """The blocks, row by row."""
        return [
            Window(r0, c0, r1 - r0, c1 - c0)
            for r0, r1 in zip(self.rows, self.rows[1:], strict=False)
            for c0, c1 in zip(self.cols, self.cols[1:], strict=False)
        ]

    def __len__(self) -> int:
        return (len(self.rows) - 1) * (len(self.cols) - 1)

    def at(self, row: int, col: int) -> int:
        """Number of the block that holds a pixel.

        Parameters
        ----------
        row, col : int
            Inside the map.

        Returns
        -------
        int
        """
        r = int(np.searchsorted(self.rows, row, side="right")) - 1
        c = int(np.searchsorted(self.cols, col, side="right")) - 1
        return r * (len(self.cols) - 1) + c

    def of_footprints(self, footprints: Sequence[Footprint]) -> NDArray[np.int64]:
        """Block of each landslide's centroid.

        Parameters
        ----------
        footprints : sequence of Footprint
            Inside the map.

        Returns
        -------
        ndarray of int, shape (n,)
        """
        return np.array([self.at(*pixel_of(f)) for f in footprints], dtype=np.int64)

"""Detections of windows and stitched landslides: the values, their order, and arrays on disk.

A landslide is a pixel mask on the region grid, cropped to its bounding box, so that memory follows the
landslides and not the map.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from components.errors import WorkspaceError
from components.workspace import coded_os_errors

#: Probabilities are kept as whole parts of this; an even number, so that a half is one of them.
PROBABILITY_LEVELS: Final = 254

#: What a damaged ``.npz`` raises, depending on where the damage is.
ARRAY_ERRORS: Final = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)

# The ZIP format has no "no time": its first representable instant stands for it.
_EPOCH = (1980, 1, 1, 0, 0, 0)


Int = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Detection:
    """One object as one window saw it.

    Parameters
    ----------
    window_id : int
        Window that was run.
    category : int
        Class, from 1.
    score : float
        The detector's score, in [0, 1].
    row, col : int
        First row and column of `prob` on the map [px].
    prob : ndarray, float32, ``[h, w]``
        Mask probability at pixel resolution, in [0, 1]; 0 outside the crop. The crop lies inside the
        window.
    """

    window_id: int
    category: int
    score: float
    row: int
    col: int
    prob: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Instance:
    """One landslide of the stitched map.

    Parameters
    ----------
    category : int
        Class, from 1.
    score : float
        Mean of the member detections' scores, weighted by the pixels that each saw away from its
        window's edges (see docs/stitching.md), in [0, 1].
    row, col : int
        First row and column of `mask` on the map [px].
    mask : ndarray, bool, ``[h, w]``
        Pixels of the landslide; tight: every border row and column holds one.
    prob : ndarray, float32, ``[h, w]``
        Mean mask probability over the member windows, in [0, 1], in whole parts of 1/254.
    n_windows : int
        Windows that saw it: k of k-of-n.
    n_covering : int
        Windows that were run and should have seen it: n of k-of-n, at least `n_windows`.
    """

    category: int
    score: float
    row: int
    col: int
    mask: NDArray[np.bool_]
    prob: NDArray[np.float32]
    n_windows: int
    n_covering: int

    @property
    def agreement(self) -> float:
        """Share of the windows on its ground that saw it, in (0, 1]."""
        return self.n_windows / self.n_covering

    @property
    def area_px(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """First row, first column, row end, column end (half-open) on the map."""
        height, width = self.mask.shape
        return self.row, self.col, self.row + height, self.col + width


def canonical_order(columns: Sequence[NDArray[Any]], content: Callable[[int], bytes]) -> Int:
    """Order by some columns, the first before the next; content settles what is left.

    Parameters
    ----------
    columns : sequence of ndarray, ``[n]``
        Numbers.
    content : callable
        What else an entry holds; asked only of entries whose numbers are equal.

    Returns
    -------
    ndarray, int64, ``[n]``
        Differs only between equal entries, however these came in.
    """
    order = np.lexsort(columns[::-1])
    tied = np.ones(max(len(order) - 1, 0), bool)
    for column in columns:
        tied &= column[order[1:]] == column[order[:-1]]
    begins = np.flatnonzero(tied & ~np.concatenate([[False], tied[:-1]]))
    for begin in begins.tolist():
        end = begin + 1
        while end < len(tied) and tied[end]:
            end += 1
        order[begin : end + 1] = sorted(order[begin : end + 1].tolist(), key=content)
    return order


def order_of(instances: Sequence[Instance]) -> Int:
    """Canonical order of landslides: first row, first column, category, then content.

    Parameters
    ----------
    instances : sequence of Instance
        Landslides.

    Returns
    -------
    ndarray, int64, ``[n]``
        The same landslides come in the same order, however they were found.
    """
    numbers = np.asarray(
        [(i.row, i.col, i.category, *i.mask.shape) for i in instances], np.int64
    ).reshape(-1, 5)
    score = np.asarray([i.score for i in instances], np.float64)
    return canonical_order(
        (*numbers.T, -score),
        lambda k: instances[k].mask.tobytes() + instances[k].prob.tobytes(),
    )


def quantise(prob: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Probabilities as bytes: nearest whole part of 1/254.

    Parameters
    ----------
    prob : ndarray, float32
        In [0, 1].

    Returns
    -------
    ndarray, uint8
    """
    parts: NDArray[np.uint8] = np.rint(prob * np.float32(PROBABILITY_LEVELS)).astype(np.uint8)
    return parts


def dequantise(parts: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Inverse of `quantise`; exact for 0, one half and 1.

    Parameters
    ----------
    parts : ndarray, uint8
        Whole parts of 1/254.

    Returns
    -------
    ndarray, float32
    """
    return parts.astype(np.float32) / np.float32(PROBABILITY_LEVELS)


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as ``.npz`` whole or not at all, with the same bytes for the same values.

    ``numpy.savez`` stamps the time into the file; this does not.

    Parameters
    ----------
    path : Path
        The file; its folder must exist.
    arrays : mapping of str to ndarray
        No object arrays.

    Raises
    ------
    WorkspaceError
        SW-202 on a full disk, SW-201 without permission.
    """
    with coded_os_errors(path):
        part = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with part.open("wb") as f:
                with zipfile.ZipFile(f, "w") as archive:
                    for name in sorted(arrays):
                        write_array(archive, name, arrays[name])
                f.flush()
                os.fsync(f.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def write_array(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    """Add an array to an ``.npz`` archive, without the time of writing.

    Parameters
    ----------
    archive : ZipFile
        Open for writing.
    name : str
        Name of the array.
    array : ndarray
        No object array.
    """
    data = io.BytesIO()
    np.lib.format.write_array(data, array, allow_pickle=False)
    entry = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3  # the default differs between systems
    archive.writestr(entry, data.getbuffer(), compresslevel=1)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read a file of `save_arrays`.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict of str to ndarray

    Raises
    ------
    WorkspaceError
        SW-206 where the file is missing, truncated or foreign.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except ARRAY_ERRORS as e:
        raise WorkspaceError("SW-206", f"array file unreadable: {e}", path=path) from e

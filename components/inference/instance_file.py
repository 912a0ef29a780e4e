"""Stitched landslides on disk: written as they come, read as they are wanted.

The file is an ``.npz`` archive: one array for each number of the landslides, and their pixels in
pieces of some thousand landslides. Landslides may come in any order; they are kept aside in a scratch
file and put in canonical order at the end, so that the same landslides give the same bytes.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, overload

import numpy as np
from numpy.typing import NDArray

from components.errors import WorkspaceError
from components.inference.instances import (
    ARRAY_ERRORS,
    Instance,
    Int,
    canonical_order,
    dequantise,
    quantise,
    write_array,
)
from components.workspace import coded_os_errors

#: Version of the file.
FORMAT: Final = 2

#: Landslides a piece.
PIECE: Final = 4096

# Numbers of a landslide, in the order of `_row`, and how they are stored.
_COLUMNS: Final = {
    "row": np.int64,
    "col": np.int64,
    "category": np.int32,
    "height": np.int64,
    "width": np.int64,
    "score": np.float64,
    "n_windows": np.int32,
    "n_covering": np.int32,
}


class InstanceWriter:
    """Writes landslides whole or not at all; a context.

    Parameters
    ----------
    path : Path
        The ``.npz`` file. It is there when the context ends without an error.

    Raises
    ------
    WorkspaceError
        SW-202 on a full disk, SW-201 without permission.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._scratch = path.with_name(f".{path.name}.{os.getpid()}.scratch")
        self._rows: list[NDArray[np.float64]] = []
        self._begin: list[Int] = []
        self._end = 0
        with coded_os_errors(path):
            self._file = self._scratch.open("w+b", buffering=1 << 20)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                with coded_os_errors(self.path):
                    self._write()
        finally:
            with contextlib.suppress(OSError):  # what is still to be flushed is of no use
                self._file.close()
            self._scratch.unlink(missing_ok=True)

    def extend(self, instances: Sequence[Instance]) -> None:
        """Add landslides.

        Parameters
        ----------
        instances : sequence of Instance
            In any order.

        Raises
        ------
        WorkspaceError
            SW-202 on a full disk.
        """
        if not instances:
            return
        self._rows.append(np.asarray([_row(i) for i in instances], np.float64))
        pixels = quantise(np.concatenate([i.prob.ravel() for i in instances]))
        masks = np.concatenate([i.mask.ravel() for i in instances])
        sizes = self._rows[-1][:, 3].astype(np.int64) * self._rows[-1][:, 4].astype(np.int64)
        self._begin.append(self._end + 2 * (np.cumsum(sizes) - sizes))
        self._end += 2 * len(pixels)
        # Probability and mask of a pixel side by side, so that a landslide is one read.
        with coded_os_errors(self.path):
            self._file.write(np.stack([pixels, masks], axis=1).tobytes())

    def _write(self) -> None:
        table = np.concatenate([*self._rows, np.empty((0, len(_COLUMNS)))])
        begin = np.concatenate([*self._begin, np.empty(0, np.int64)])
        size = (table[:, 3] * table[:, 4]).astype(np.int64)
        self._file.flush()
        self._rows, self._begin = [], []

        def pixels(k: int) -> bytes:
            return os.pread(self._file.fileno(), 2 * int(size[k]), int(begin[k]))

        keys = (*(table[:, i] for i in range(5)), -table[:, 5])
        order = canonical_order(keys, pixels)
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with part.open("wb") as f:
                with zipfile.ZipFile(f, "w") as archive:
                    for name, array in _arrays(table[order]).items():
                        write_array(archive, name, array)
                    for number, at in enumerate(range(0, len(order), PIECE)):
                        data = b"".join(pixels(k) for k in order[at : at + PIECE].tolist())
                        both = np.frombuffer(data, np.uint8).reshape(-1, 2)
                        write_array(archive, f"prob-{number:06d}", both[:, 0].copy())
                        write_array(archive, f"mask-{number:06d}", np.packbits(both[:, 1]))
                f.flush()
                os.fsync(f.fileno())
            part.replace(self.path)
        finally:
            part.unlink(missing_ok=True)


def _row(i: Instance) -> tuple[float, ...]:
    return (i.row, i.col, i.category, *i.mask.shape, i.score, i.n_windows, i.n_covering)


def _arrays(table: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    columns = {name: table[:, i].astype(kind) for i, (name, kind) in enumerate(_COLUMNS.items())}
    return {"format": np.asarray(FORMAT, np.int32), **columns}


def save_instances(path: Path, instances: Sequence[Instance]) -> None:
    """Write landslides that are all at hand.

    Parameters
    ----------
    path : Path
        The ``.npz`` file.
    instances : sequence of Instance
        In any order.

    Raises
    ------
    WorkspaceError
        SW-202 on a full disk, SW-201 without permission.
    """
    with InstanceWriter(path) as writer:
        writer.extend(instances)


class Instances(Sequence[Instance]):
    """The landslides of a file, in canonical order; pixels are read when a landslide is asked for.

    One piece is in memory at a time: go through them in order.

    Parameters
    ----------
    path : Path
        The ``.npz`` file. It is opened for each piece, and may not change in between.

    Attributes
    ----------
    columns : dict of str to ndarray
        ``row, col, category, height, width, score, n_windows, n_covering`` of all landslides.

    Raises
    ------
    WorkspaceError
        SW-206 where the file is missing, damaged or of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        data = self._read("format", *_COLUMNS)
        if int(data["format"]) != FORMAT:
            raise WorkspaceError("SW-206", f"instance format {data['format']}", path=path)
        self.columns = {name: data[name] for name in _COLUMNS}
        if len({len(c) for c in self.columns.values()}) != 1:
            raise WorkspaceError("SW-206", "columns of different length", path=path)
        self._piece = -1
        self._held: list[Instance] = []

    def __len__(self) -> int:
        return len(self.columns["row"])

    @overload
    def __getitem__(self, k: int) -> Instance: ...
    @overload
    def __getitem__(self, k: slice) -> list[Instance]: ...
    def __getitem__(self, k: int | slice) -> Instance | list[Instance]:
        if isinstance(k, slice):
            return [self[i] for i in range(*k.indices(len(self)))]
        k = range(len(self))[k]
        if k // PIECE != self._piece:
            self._held = self._load(k // PIECE)
            self._piece = k // PIECE
        return self._held[k % PIECE]

    def _load(self, number: int) -> list[Instance]:
        names = (f"prob-{number:06d}", f"mask-{number:06d}")
        data = self._read(*names)
        part = slice(number * PIECE, (number + 1) * PIECE)
        c = {name: column[part].tolist() for name, column in self.columns.items()}
        size = self.columns["height"][part] * self.columns["width"][part]
        begin = (np.cumsum(size) - size).tolist()
        total = int(size.sum())
        prob = dequantise(data[names[0]])
        if len(prob) != total or len(data[names[1]]) != -(-total // 8):
            raise WorkspaceError("SW-206", f"piece {number} has another size", path=self.path)
        mask = np.unpackbits(data[names[1]], count=total).astype(bool)
        return [
            Instance(
                category=c["category"][k],
                score=c["score"][k],
                row=c["row"][k],
                col=c["col"][k],
                mask=mask[at : at + h * w].reshape(h, w),
                prob=prob[at : at + h * w].reshape(h, w),
                n_windows=c["n_windows"][k],
                n_covering=c["n_covering"][k],
            )
            for k, (at, h, w) in enumerate(zip(begin, c["height"], c["width"], strict=True))
        ]

    def _read(self, *names: str) -> dict[str, NDArray[Any]]:
        try:
            with np.load(self.path, allow_pickle=False) as data:
                return {name: data[name] for name in names}
        except ARRAY_ERRORS as e:
            raise WorkspaceError("SW-206", f"instance file unreadable: {e}", path=self.path) from e


def load_instances(path: Path) -> Instances:
    """Open what `InstanceWriter` wrote.

    Parameters
    ----------
    path : Path
        The ``.npz`` file.

    Returns
    -------
    Instances
        Equal to those written, to the bit, in canonical order.

    Raises
    ------
    WorkspaceError
        SW-206 where the file is missing, damaged or of another version.
    """
    return Instances(path)

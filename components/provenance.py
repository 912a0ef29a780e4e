"""Digests and versions: what an artefact was made of.

No time stamps: an artefact made again from the same inputs has the same bytes. Times live in the
ledger.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from components.errors import InputError

_CHUNK = 1 << 22

#: Packages whose version can change a result.
_RECORDED = ("slopewatch", "numpy", "torch", "torchvision", "rasterio", "xarray", "zarr", "shapely")


def canonical_json(value: Any) -> str:
    """JSON text that is the same for equal values: sorted keys, no spaces, paths as POSIX text.

    Parameters
    ----------
    value : JSON-like
        May hold `pathlib.Path`, dates and tuples.

    Returns
    -------
    str
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "item"):  # numpy scalars
        return value.item()
    msg = f"{type(value).__name__} has no canonical JSON form"
    raise TypeError(msg)


def digest(*values: Any) -> str:
    """SHA-256 of the canonical JSON of some values.

    Parameters
    ----------
    *values : JSON-like
        Inputs, configuration, algorithm version, …

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Parameters
    ----------
    path : Path
        An existing file.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    InputError
        SW-101 where the file is missing, SW-102 where it cannot be read.
    """
    try:
        stat = path.stat()
        return _file_sha256(str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino)
    except FileNotFoundError:
        raise InputError("SW-101", "no such file", path=path) from None
    except OSError as e:
        raise InputError("SW-102", e.strerror or str(e), path=path) from e


@lru_cache(maxsize=4096)
def _file_sha256(path: str, size: int, mtime_ns: int, inode: int) -> str:  # noqa: ARG001
    """Hash a file once a process: size, time and inode tell whether it is still the same file."""
    sha = hashlib.sha256()
    with Path(path).open("rb") as f:
        while chunk := f.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def files_sha256(paths: Iterable[Path]) -> str:
    """One SHA-256 for a set of files: of their names and contents, in the order of their names.

    Parameters
    ----------
    paths : iterable of Path
        Existing files.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    return digest([[p.name, file_sha256(p)] for p in sorted(paths, key=lambda p: p.name)])


def software() -> dict[str, str]:
    """Versions of what can change a result.

    Returns
    -------
    dict
        Package name → version; ``"absent"`` where it is not installed.
    """
    return dict(_software())


@lru_cache(maxsize=1)
def _software() -> tuple[tuple[str, str], ...]:
    """Read once a process: reading package metadata takes longer than writing a manifest."""
    out = [("python", platform.python_version())]
    for name in _RECORDED:
        try:
            out.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            out.append((name, "absent"))
    return tuple(out)

"""Checkpoints that survive a kill at any instant, and damage noticed before it is trusted.

A checkpoint is written beside its place, forced to disk and moved, so its name never stands for half a
file. The name carries a digest of the content: a file that a disk has damaged is found out, and the
one before it is taken. Two are kept.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from components.errors import ModelError

#: Checkpoints kept.
KEPT: Final = 2

_NAME: Final = re.compile(r"^(?P<stem>[a-z]+)-(?P<epoch>\d{5})-(?P<digest>[0-9a-f]{16})\.[a-z]+$")


def _digest(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()[:16]


def write_checked(
    folder: Path, stem: str, epoch: int, suffix: str, write: Callable[[Path], None]
) -> Path:
    """Write a file whole or not at all, under a name that carries its digest.

    Parameters
    ----------
    folder : Path
        Existing folder.
    stem : str
        Lower-case letters.
    epoch : int
        In [0, 99999].
    suffix : str
        With its dot.
    write : callable
        Writes the content to the path that it is given.

    Returns
    -------
    Path
        The file.
    """
    part = folder / f".{stem}.part"
    write(part)
    with part.open("rb+") as f:
        os.fsync(f.fileno())
    final = folder / f"{stem}-{epoch:05d}-{_digest(part)}{suffix}"
    part.replace(final)
    return final


def is_whole(path: Path) -> bool:
    """Whether a file of `write_checked` still has the content that its name promises.

    Parameters
    ----------
    path : Path
        The file; may be missing.

    Returns
    -------
    bool
    """
    match = _NAME.match(path.name)
    try:
        return match is not None and _digest(path) == match["digest"]
    except OSError:
        return False


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a folder, the latest epoch first.

    Parameters
    ----------
    folder : Path
        May be missing.

    Returns
    -------
    list of Path
    """
    found = [p for p in folder.glob("epoch-*.ckpt") if _NAME.match(p.name)]
    return sorted(found, key=lambda p: p.name.split("-")[1], reverse=True)


def last_whole(folder: Path, recipe: str) -> Path | None:
    """Latest undamaged checkpoint of a recipe.

    Parameters
    ----------
    folder : Path
        May be missing.
    recipe : str
        Digest of configuration and data; checkpoints of other recipes are passed over.

    Returns
    -------
    Path or None
        None where training starts from the beginning.

    Raises
    ------
    ModelError
        SW-407 where there are checkpoints and all are damaged: hours of work should not be begun
        anew without a word.
    """
    damaged: list[Path] = []
    for path in checkpoints(folder):
        state = _read(path) if is_whole(path) else None
        if state is None:
            damaged.append(path)
        elif state.get("recipe") == recipe:
            return path
    if damaged:
        raise ModelError(
            "SW-407",
            f"no whole checkpoint is left; damaged: {', '.join(p.name for p in damaged)}",
            path=folder,
            remedy="Delete the folder to train from the beginning.",
        )
    return None


def _read(path: Path) -> dict[str, Any] | None:
    """Content, or None where it is no checkpoint (weights_only: no code is run from the file)."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        # A foreign file may fail in any way; every one of them means that it is no checkpoint.
        return None
    return state if isinstance(state, dict) else None


def prune(folder: Path, needed: set[str]) -> None:
    """Delete all but the last checkpoints, and best weights that none of them names.

    Parameters
    ----------
    folder : Path
        Of the checkpoints.
    needed : set of str
        Names of best-weights files to keep.
    """
    for path in checkpoints(folder)[KEPT:]:
        path.unlink(missing_ok=True)
    for path in sorted(folder.glob("best-*.safetensors")):
        if path.name not in needed:
            path.unlink(missing_ok=True)

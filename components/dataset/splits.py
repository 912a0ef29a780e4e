"""Train, val and test without leakage: folds are ground, not tiles.

The region is cut across its longer axis into strips of whole blocks, and the strips are dealt out in one
sweep: train, then val, then test. So all tracks and periods of the same ground are in the same fold, and
val separates train from test. A tile belongs to a fold only if it lies wholly inside the fold's ground;
tiles across a border are left out and counted.

The paper's random split is here too. It leaks wherever tiles overlap; the leak is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from components.errors import InputError
from components.grid import Window, block_windows

Fold = Literal["train", "val", "test"]
FOLDS: Final[tuple[Fold, ...]] = ("train", "val", "test")


@dataclass(frozen=True)
class Leakage:
    """What one fold could know of another.

    Parameters
    ----------
    leaking_tiles : int
        Train tiles nearer than the guard distance to a test tile.
    shared_tiles : int
        Tiles of train, val or test that share a pixel with a tile of another fold.
    """

    leaking_tiles: int
    shared_tiles: int


@dataclass(frozen=True)
class Split:
    """Folds of a set of tiles.

    Parameters
    ----------
    method : {"blocks", "random"}
        How it was made.
    fold : tuple of str
        For each tile ``train``, ``val``, ``test`` or ``""`` (left out).
    areas : mapping
        Fold → disjoint windows [px of the region grid]. No pixel of a fold's windows is in a tile of
        another fold, and no pixel of a test window is within one tile of a train tile (blocks only).
    left_out : int
        Tiles in no fold.
    leakage : Leakage
        Counted after the fact, whatever the method.
    """

    method: Literal["blocks", "random"]
    fold: tuple[str, ...]
    areas: Mapping[str, tuple[Window, ...]]
    left_out: int
    leakage: Leakage

    def counts(self) -> dict[str, int]:
        """Number of tiles of each fold."""
        return {f: self.fold.count(f) for f in FOLDS}


def split_blocks(
    tiles: Sequence[Window],
    shape: tuple[int, int],
    *,
    block_px: int,
    fractions: tuple[float, float, float],
    seed: int,
) -> Split:
    """Spatial split into three stretches of a sweep along the longer axis.

    Parameters
    ----------
    tiles : sequence of Window
        Footprints on the region grid, all of one size; several may be equal (periods, tracks).
    shape : tuple of int
        Rows and columns of the region.
    block_px : int
        Block side [px], ≥ 1: fold borders lie on its multiples.
    fractions : tuple of float
        Wished shares of train, val and test among the retained tiles; a fold of share 0 stays empty.
        Among all possible borders those are taken that come nearest to these shares while leaving out
        few tiles.
    seed : int
        Decides at which end of the region the sweep begins.

    Returns
    -------
    Split
        With ``leakage`` zero: every train tile is at least one tile side away from the test ground,
        and no two folds share a pixel.

    Raises
    ------
    InputError
        SW-306 without tiles. SW-305 where no borders give every wished fold a tile.
    """
    if not tiles:
        raise InputError("SW-306", "there are no tiles to split")
    axis = 0 if shape[0] >= shape[1] else 1
    length = shape[axis]
    size = max(t[2 + axis] for t in tiles)
    backwards = bool(np.random.default_rng(seed).integers(2))
    begin = np.array([t[axis] for t in tiles])
    end = begin + np.array([t[2 + axis] for t in tiles])
    if backwards:
        begin, end = length - end, length - begin
    borders = np.append(np.arange(0, length, block_px), length)
    cuts = _best_cuts(begin, end, borders, size, fractions)
    if cuts is None:
        raise InputError(
            "SW-305",
            f"{length} px hold no train, val and test strips of whole {block_px} px blocks with "
            f"tiles of {size} px in shares {fractions}",
        )
    stretches = _stretches(cuts, length, size, fractions)
    fold = np.full(len(tiles), "", dtype=object)
    areas: dict[str, tuple[Window, ...]] = {}
    for name, (lo, hi) in stretches.items():
        fold[(begin >= lo) & (end <= hi)] = name
        strip = (length - hi, length - lo) if backwards else (lo, hi)
        areas[name] = _strip_blocks(strip, axis, shape, block_px)
    names = tuple(fold.tolist())
    return Split("blocks", names, areas, names.count(""), check_leakage(tiles, names, size))


def split_random(
    tiles: Sequence[Window], *, fractions: tuple[float, float, float], seed: int
) -> Split:
    """The paper's split: tiles at random. Neighbours and periods of one ground part company, so it leaks.

    Parameters
    ----------
    tiles : sequence of Window
        Footprints on the region grid.
    fractions : tuple of float
        Shares of train, val and test.
    seed : int
        Seed of the permutation.

    Returns
    -------
    Split
        ``areas`` hold the ground that only tiles of that fold cover: it may be little.

    Raises
    ------
    InputError
        SW-306 without tiles; SW-305 where there are too few tiles for a wished fold.
    """
    n = len(tiles)
    if not n:
        raise InputError("SW-306", "there are no tiles to split")
    bounds = np.rint(np.cumsum(fractions) * n).astype(int)
    order = np.random.default_rng(seed).permutation(n)
    fold = np.full(n, "", dtype=object)
    for name, lo, hi in zip(FOLDS, (0, *bounds[:2]), bounds, strict=True):
        fold[order[lo:hi]] = name
    names = tuple(fold.tolist())
    for name, share in zip(FOLDS, fractions, strict=True):
        if share > 0 and name not in names:
            raise InputError("SW-305", f"{n} tiles are too few for shares {fractions}")
    size = max(max(t.height, t.width) for t in tiles)
    return Split(
        "random", names, _exclusive_areas(tiles, names), 0, check_leakage(tiles, names, size)
    )


def check_leakage(tiles: Sequence[Window], fold: Sequence[str], guard_px: int) -> Leakage:
    """Count tiles through which one fold knows another.

    Parameters
    ----------
    tiles : sequence of Window
        Footprints, all of one size.
    fold : sequence of str
        For each tile its fold, or ``""``.
    guard_px : int
        Smallest allowed gap between a train and a test footprint [px], along rows or along columns.

    Returns
    -------
    Leakage
    """
    by_fold = {name: [t for t, f in zip(tiles, fold, strict=True) if f == name] for name in FOLDS}
    shared = 0
    for name in FOLDS:
        near = np.zeros(len(by_fold[name]), dtype=bool)
        for other in FOLDS:
            if other != name:
                near |= _nearer_than(by_fold[name], by_fold[other], 0)
        shared += int(near.sum())
    leaking = int(_nearer_than(by_fold["train"], by_fold["test"], guard_px).sum())
    return Leakage(leaking, shared)


def _nearer_than(
    tiles: Sequence[Window], others: Sequence[Window], gap_px: int
) -> NDArray[np.bool_]:
    """Whether each tile's gap to the nearest of the others is below `gap_px` (0: shares a pixel)."""
    if not tiles or not others:
        return np.zeros(len(tiles), dtype=bool)
    # Two equal boxes are apart by less than g in both axes where their corners differ by less than
    # side + g in both: a ball of the maximum norm, after scaling each axis by its own limit.
    limit = np.array([tiles[0].height + gap_px, tiles[0].width + gap_px], dtype=float)
    tree = cKDTree(np.array([t[:2] for t in others]) / limit)
    distance, _ = tree.query(np.array([t[:2] for t in tiles]) / limit, p=np.inf)
    return np.asarray(distance < 1.0 - 1e-12)


def _best_cuts(
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    borders: NDArray[np.int64],
    size: int,
    fractions: tuple[float, float, float],
) -> tuple[int, int] | None:
    """Borders (end of train, begin of test) of least cost, or None."""
    begins, ends = np.sort(begin), np.sort(end)
    want = np.array(fractions)
    best: tuple[float, int, int] | None = None
    # All tiles have one size, so sorting begins and ends gives the same order, and the tiles inside a
    # stretch [lo, hi] are those that end by hi less those that begin before lo.
    for a in borders:
        if fractions[0] == 0 and a > 0:
            break
        b = borders[borders >= a]
        if fractions[1] == 0:
            b = b[:1]
        if fractions[2] == 0:
            b = b[-1:]
        train_end = a if fractions[2] == 0 else np.minimum(a, b - size)
        n_train = np.searchsorted(ends, np.broadcast_to(train_end, b.shape), side="right")
        n_val = np.searchsorted(ends, b, side="right") - np.searchsorted(begins, a, side="left")
        n_test = begins.size - np.searchsorted(begins, b, side="left")
        n = np.maximum(np.stack([n_train, n_val, n_test]), 0)
        kept = n.sum(axis=0)
        usable = np.all((n > 0) | (want[:, None] == 0), axis=0)
        cost = np.where(
            usable,
            np.abs(n / np.maximum(kept, 1) - want[:, None]).sum(axis=0) + 1 - kept / begins.size,
            np.inf,
        )
        k = int(cost.argmin())
        if np.isfinite(cost[k]) and (best is None or cost[k] < best[0] - 1e-12):
            best = (float(cost[k]), int(a), int(b[k]))
    return None if best is None else best[1:]


def _stretches(
    cuts: tuple[int, int], length: int, size: int, fractions: tuple[float, float, float]
) -> dict[str, tuple[int, int]]:
    a, b = cuts
    train_end = a if fractions[2] == 0 else min(a, b - size)
    every = {"train": (0, train_end), "val": (a, b), "test": (b, length)}
    return {
        name: every[name] if share > 0 else (0, 0)
        for name, share in zip(FOLDS, fractions, strict=True)
    }


def _strip_blocks(
    strip: tuple[int, int], axis: int, shape: tuple[int, int], block_px: int
) -> tuple[Window, ...]:
    """The strip as blocks: the units that statistics of the map are resampled by."""
    lo, hi = strip
    if hi <= lo:
        return ()
    across = shape[1 - axis]
    extent = (hi - lo, across) if axis == 0 else (across, hi - lo)
    dr, dc = (lo, 0) if axis == 0 else (0, lo)
    return tuple(
        Window(w.row + dr, w.col + dc, w.height, w.width) for w in block_windows(extent, block_px)
    )


def _exclusive_areas(tiles: Sequence[Window], fold: Sequence[str]) -> dict[str, tuple[Window, ...]]:
    """Ground that tiles of one fold alone cover, as runs of cells of the grid of all tile edges."""
    rows = np.unique([r for t in tiles for r in (t.row, t.row_end)])
    cols = np.unique([c for t in tiles for c in (t.col, t.col_end)])
    cover = np.zeros((rows.size - 1, cols.size - 1), dtype=np.uint8)
    for t, f in zip(tiles, fold, strict=True):
        r = slice(*np.searchsorted(rows, (t.row, t.row_end)))
        c = slice(*np.searchsorted(cols, (t.col, t.col_end)))
        cover[r, c] |= 1 << FOLDS.index(f)
    out: dict[str, tuple[Window, ...]] = {}
    for k, name in enumerate(FOLDS):
        windows = []
        for i, line in enumerate(cover == 1 << k):
            edges = np.flatnonzero(np.diff(np.concatenate(([0], line.view(np.int8), [0]))))
            for c0, c1 in zip(edges[::2], edges[1::2], strict=True):
                r0, r1 = int(rows[i]), int(rows[i + 1])
                windows.append(Window(r0, int(cols[c0]), r1 - r0, int(cols[c1] - cols[c0])))
        out[name] = tuple(windows)
    return out

"""From groups of detections to landslides: mean probability, mask, score, agreement.

All groups of a block are worked on at once. Their bounding boxes lie one behind the other in one array,
the canvas; what a window says is added to its places, window after window of each group in canonical
order, so that the sums do not depend on what else lies in the block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.inference.coverage import Coverage
from components.inference.groups import Groups
from components.inference.instances import Instance, dequantise, quantise
from components.inference.pool import Pool
from components.inference.runs import Bool, Int, Runs, connected_parts, expand, runs_of

#: A separate part of a landslide of fewer pixels than this is a speck.
SPECK_PX: Final = 2

#: A piece this deep [px] at its window's edge is a sliver: two masks that are each off by two pixels
#: can miss each other by so much.
SLIVER_PX: Final = 4

#: A window should have seen a landslide if it holds this share of the pixels that the best-placed
#: window holds.
COVERING_SHARE: Final = 0.3

#: Canvas of one pass [px]; a larger group is a pass of its own.
_PASS_PX: Final = 1 << 18

_NARROW: Final = np.iinfo(np.int32).max

Float = NDArray[np.float32]


class Made(NamedTuple):
    """A landslide, the windows that saw it, and whether all of them saw but a sliver at their edge."""

    instance: Instance
    windows: Int
    sliver: bool


class Averaged(NamedTuple):
    """Landslides, and what became of the rest.

    Parameters
    ----------
    made : list of Made
        In no particular order.
    vanished : int
        Groups whose mean reaches the threshold nowhere.
    specks : int
        Parts taken off.
    """

    made: list[Made]
    vanished: int
    specks: int


def average(
    pool: Pool, groups: Groups, coverage: Coverage, ran: Bool, threshold: float
) -> Iterator[Averaged]:
    """Landslides of groups of detections, some at a time.

    Parameters
    ----------
    pool : Pool
        Detections.
    groups : Groups
        Which of them are one landslide.
    coverage : Coverage
        The windows.
    ran : ndarray, bool
        Whether each window, in canonical order, was run.
    threshold : float
        Mean probability of a landslide pixel, in (0, 1).

    Yields
    ------
    Averaged
    """
    if len(groups.first) < 2:
        return
    window = pool.window[groups.members]
    alone = window[groups.first[:-1]] == window[groups.first[1:] - 1]
    # Groups of one window first: they have nothing to average.
    entries, begins = expand(groups.first, np.argsort(~alone, kind="stable"))
    members = groups.members[entries]
    crop, begin = pool.crop[members], begins[:-1]
    boxes = np.concatenate(
        [
            np.minimum.reduceat(crop[:, :2], begin, axis=0),
            np.maximum.reduceat(crop[:, 2:], begin, axis=0),
        ],
        axis=1,
    )
    size = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    passes = np.searchsorted(np.cumsum(size), np.arange(0, int(size.sum()) + 1, _PASS_PX))
    cuts = np.unique(np.concatenate([[0, np.count_nonzero(alone), len(size)], passes]))
    for start, end in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        part = pool.take(members[begins[start] : begins[end]])
        first = begins[start : end + 1] - begins[start]
        yield _average(part, first, boxes[start:end], coverage, ran, threshold)


class _Slots(NamedTuple):
    """Pairs of a group and a member window, in canonical order."""

    first: Int  # of each group
    member: Int  # slot of each detection
    group: Int
    window: Int
    rank: Int  # of a detection among those of its slot


def _average(
    pool: Pool, first: Int, boxes: Int, coverage: Coverage, ran: Bool, threshold: float
) -> Averaged:
    """As `average`, for detections that lie group by group."""
    slots = _slots(pool, first)
    height, width = (boxes[:, 2:] - boxes[:, :2]).T
    offset = np.cumsum(height * width) - height * width
    mean = _mean(pool, slots, boxes, offset, coverage)
    mask = mean >= np.float32(threshold)
    runs, specks = _without_specks(runs_of(mask, offset, height, width, boxes[:, 0], boxes[:, 1]))
    if specks:
        mask = _draw(runs, boxes, offset, len(mask))
    tight = runs.boxes()
    seen = np.flatnonzero(np.diff(runs.first))
    n_windows = np.diff(slots.first)
    n_covering = _n_covering(runs, tight, seen, slots, coverage, ran)
    score = _scores(pool, first, coverage)
    sliver = np.logical_and.reduceat(_is_sliver(pool, coverage), first[:-1])
    prob = dequantise(quantise(mean))
    row0, col0, row1, col1 = tight.T
    top, left = row0 - boxes[:, 0], col0 - boxes[:, 1]
    bottom, right = row1 - boxes[:, 0], col1 - boxes[:, 1]
    columns = (
        *(seen, pool.category[first[:-1][seen]], score[seen], row0[seen], col0[seen]),
        *(offset[seen], height[seen], width[seen], top[seen], bottom[seen]),
        *(left[seen], right[seen], n_windows[seen], n_covering[seen], sliver[seen]),
    )
    made = []
    for k, category, s, row, col, at, h, w, t, b, le, ri, n, m, thin in zip(
        *(c.tolist() for c in columns), strict=True
    ):
        made.append(
            Made(
                Instance(
                    category=category,
                    score=s,
                    row=row,
                    col=col,
                    mask=mask[at : at + h * w].reshape(h, w)[t:b, le:ri].copy(),
                    prob=prob[at : at + h * w].reshape(h, w)[t:b, le:ri].copy(),
                    n_windows=n,
                    n_covering=m,
                ),
                slots.window[slots.first[k] : slots.first[k + 1]],
                thin,
            )
        )
    return Averaged(made, len(boxes) - len(seen), specks)


def _slots(pool: Pool, first: Int) -> _Slots:
    n = len(pool)
    group = np.repeat(np.arange(len(first) - 1), np.diff(first))
    new = np.ones(n, bool)
    new[1:] = (group[1:] != group[:-1]) | (pool.window[1:] != pool.window[:-1])
    at = np.flatnonzero(new)
    member = np.cumsum(new) - 1
    return _Slots(
        np.searchsorted(group[at], np.arange(len(first))),
        member,
        group[at],
        pool.window[at],
        np.arange(n) - at[member],
    )


def _mean(pool: Pool, slots: _Slots, boxes: Int, offset: Int, coverage: Coverage) -> Float:
    """Mean probability on the canvas."""
    windows = coverage.boxes[slots.window]
    box = boxes[slots.group]
    part = np.concatenate(
        [np.maximum(box[:, :2], windows[:, :2]), np.minimum(box[:, 2:], windows[:, 2:])], axis=1
    )
    said, base = _said(pool, slots, part)
    rank = np.arange(len(slots.group)) - slots.first[slots.group]
    if not rank.any():  # the weights of a single window cancel; exactly so without the division
        return said
    place = _places(part, boxes, offset, slots.group)
    n = int(((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)).sum())
    total, weight = np.zeros(n, np.float32), np.zeros(n, np.float32)
    for k in range(int(rank.max()) + 1):
        now = np.flatnonzero(rank == k)
        pixels, _ = expand(base, now)
        taper = _taper(part[now], slots.window[now], coverage)
        at = place[pixels]
        total[at] += taper * said[pixels]
        weight[at] += taper
    # Ground of the bounding box that no member window saw has no weight and no probability.
    mean: Float = np.divide(total, weight, out=total, where=weight > 0)
    return np.minimum(mean, np.float32(1.0), out=mean)


def _said(pool: Pool, slots: _Slots, part: Int) -> tuple[Float, Int]:
    """What each window says of its part of the box: the largest of its member detections."""
    size = (part[:, 2:] - part[:, :2]).prod(axis=1)
    base = np.concatenate([[0], np.cumsum(size)])
    said = np.zeros(int(base[-1]), np.float32)
    for k in range(int(slots.rank.max()) + 1):
        which = np.flatnonzero(slots.rank == k)
        place = _places(pool.crop[which], part, base[:-1], slots.member[which])
        said[place] = np.maximum(
            said[place], np.concatenate([pool.prob[i] for i in which.tolist()])
        )
    return said, base


class _Lines(NamedTuple):
    """Rows of blocks: which block, row and first column on the map, and how wide."""

    block: Int
    row: Int
    col: Int
    width: Int


def _lines(blocks: Int) -> _Lines:
    height = blocks[:, 2] - blocks[:, 0]
    block = np.repeat(np.arange(len(blocks)), height)
    within = np.arange(len(block)) - np.repeat(np.cumsum(height) - height, height)
    return _Lines(
        block, blocks[block, 0] + within, blocks[block, 1], (blocks[:, 3] - blocks[:, 1])[block]
    )


def _spread(lines: _Lines, start: Int) -> Int:
    """Numbers of the pixels of lines, each line counted on from its start."""
    n = int(lines.width.sum())
    # Pixels are what there is most of: narrow numbers where they suffice.
    kind = np.int32 if n + int(start.max(initial=0)) < _NARROW else np.int64
    begin = np.cumsum(lines.width) - lines.width
    spread: Int = np.arange(n, dtype=kind)
    spread += np.repeat((start - begin).astype(kind), lines.width)
    return spread


def _places(blocks: Int, boxes: Int, offset: Int, box: Int) -> Int:
    """Where the pixels of blocks lie in memory that holds boxes, each row by row."""
    lines = _lines(blocks)
    home = box[lines.block]
    top, left, width = boxes[home, 0], boxes[home, 1], (boxes[:, 3] - boxes[:, 1])[home]
    return _spread(lines, offset[home] + (lines.row - top) * width + lines.col - left)


def _taper(part: Int, window: Int, coverage: Coverage) -> Float:
    """Weights of the pixels of parts of windows."""
    lines = _lines(part)
    of_line = window[lines.block]
    taper: Float = np.repeat(coverage.row_weights(of_line, lines.row), lines.width)
    taper *= coverage.col_table[_spread(lines, coverage.col_places(of_line, lines.col))]
    return taper


def _without_specks(runs: Runs) -> tuple[Runs, int]:
    parts = connected_parts(runs)
    if len(parts.area) <= int(np.count_nonzero(np.diff(runs.first))):
        return runs, 0
    keep = parts.area >= SPECK_PX
    # The main part stays, however small; of equal ones the first in reading order.
    order = np.lexsort((np.arange(len(parts.area)), -parts.area, parts.owner))
    main = np.ones(len(order), bool)
    main[1:] = parts.owner[order[1:]] != parts.owner[order[:-1]]
    keep[order[main]] = True
    return runs.keep(keep[parts.part]), int(np.count_nonzero(~keep))


def _draw(runs: Runs, boxes: Int, offset: Int, n: int) -> Bool:
    """Runs back on the canvas."""
    mask = np.zeros(n, bool)
    owner = runs.owner
    start = offset[owner] + (runs.row - boxes[owner, 0]) * (boxes[:, 3] - boxes[:, 1])[owner]
    start += runs.start - boxes[owner, 1]
    length = runs.end - runs.start
    begin = np.cumsum(length) - length
    mask[np.repeat(start - begin, length) + np.arange(int(length.sum()))] = True
    return mask


def _scores(pool: Pool, first: Int, coverage: Coverage) -> NDArray[np.float64]:
    """Mean of the members' scores, weighted by the pixels that each saw times the taper."""
    runs, owner = pool.runs, pool.runs.owner
    window = pool.window[owner]
    of_run = coverage.row_weights(window, runs.row) * coverage.col_weight_sums(
        window, runs.start, runs.end
    )
    weight = np.bincount(owner, weights=of_run, minlength=len(pool))
    group = np.repeat(np.arange(len(first) - 1), np.diff(first))
    mean = np.bincount(group, weights=weight * pool.score) / np.bincount(group, weights=weight)
    # Rounding must not leave the members' range; a single score stays as it is.
    lowest = np.minimum.reduceat(pool.score, first[:-1])
    return np.clip(mean, lowest, np.maximum.reduceat(pool.score, first[:-1]))


def _is_sliver(pool: Pool, coverage: Coverage) -> Bool:
    windows, shape = coverage.boxes[pool.window], np.asarray(coverage.shape)
    low = (windows[:, :2] > 0) & (pool.box[:, 2:] <= windows[:, :2] + SLIVER_PX)
    high = (windows[:, 2:] < shape) & (pool.box[:, :2] >= windows[:, 2:] - SLIVER_PX)
    return np.asarray((low | high).any(axis=1), bool)


def _n_covering(
    runs: Runs, tight: Int, seen: Int, slots: _Slots, coverage: Coverage, ran: Bool
) -> Int:
    """Member windows, and others that hold about as much of the landslide as the best-placed one.

    A window that says nothing of short landslides is asked about long ones only.
    """
    near, window = coverage.looking_at(tight[seen])
    near, window = seen[near[ran[window]]], window[ran[window]]
    box, frame = tight[near], coverage.boxes[window]
    held, piece = runs.areas()[near], box.copy()
    partly = np.flatnonzero((box[:, :2] < frame[:, :2]).any(1) | (box[:, 2:] > frame[:, 2:]).any(1))
    cut = runs.cut(near[partly], frame[partly])
    held[partly], piece[partly] = cut.areas(), cut.boxes()
    asked = (piece[:, 2:] - piece[:, :2]).max(axis=1, initial=0) >= coverage.shortest[window]
    near, window, held = near[asked], window[asked], held[asked]
    most = np.zeros(len(tight), np.int64)
    np.maximum.at(most, near, held)
    enough = (held > 0) & (held >= COVERING_SHARE * most[near])
    n = len(coverage.boxes)
    member = np.isin(near * n + window, slots.group * n + slots.window)
    counted = np.bincount(near[enough & ~member], minlength=len(tight))
    return np.asarray(np.diff(slots.first) + counted, np.int64)

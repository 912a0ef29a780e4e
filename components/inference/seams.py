"""Which detections of neighbouring windows are the same piece of ground.

Two windows that overlap looked twice at their common ground, the seam. Both cut their detections to the
seam; the connected pieces that remain are compared as masks. Pieces, and not whole detections, because
a winding landslide enters the seam several times and each window joins other parts of it outside.

Two rules make a link:

1. *Agreement*: the pieces are each other's best partner, and their IoU reaches `seam_iou`.
2. *Containment*: the share `containment` of the smaller piece lies in the larger, its best partner; and
   either the smaller piece was cut off by its own window where the other window saw on, or the larger
   one has no partner by rule 1. Otherwise the smaller piece's window, which saw all of both, says that
   there are two objects, and it is believed.

Both rules ask for enough ground: where the evidence is weak (IoU below one half, or containment only),
the common pixels must be a tenth of the smaller detection, or a pixel or two in the corner of four
windows could join two large landslides.

"Best partner" keeps neighbours one pixel apart from each other: under noise they overlap too, but each
overlaps itself more.

Whether two detections are linked depends on the detections of their two windows only. That is why a
stream of windows gives the links of the whole map.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.inference.runs import Bool, Int, Parts, Runs, common_runs, connected_parts

#: A mask that ends so near to its window's edge counts as cut by it [px]: masks stop a pixel or two
#: short of where they should.
EDGE_PX: Final = 3

#: Agreement from this IoU on needs no further evidence.
CLEAR_IOU: Final = 0.5

#: Otherwise the common pixels must be this share of the smaller of the two detections.
EVIDENCE_SHARE: Final = 0.1


class Links(NamedTuple):
    """Evidence that pairs of detections of different windows are one object.

    Parameters
    ----------
    rule : ndarray, int64
        1 agreement, 2 containment.
    strength : ndarray, float64
        IoU (rule 1) or contained share (rule 2), in (0, 1].
    pixels : ndarray, int64
        Common pixels.
    first, second : ndarray, int64
        Positions of the detections; the first comes first in canonical order.
    """

    rule: Int
    strength: NDArray[np.float64]
    pixels: Int
    first: Int
    second: Int

    def plus(self, other: Links) -> Links:
        """These links, then the others."""
        return Links(
            np.concatenate([self.rule, other.rule]),
            np.concatenate([self.strength, other.strength]),
            np.concatenate([self.pixels, other.pixels]),
            np.concatenate([self.first, other.first]),
            np.concatenate([self.second, other.second]),
        )

    def within(self, chosen: Bool) -> Links:
        """Links between chosen detections, by their positions among the chosen.

        Both ends of a link are chosen, or none.
        """
        place = np.cumsum(chosen) - 1
        use = chosen[self.first]
        return Links(
            self.rule[use],
            self.strength[use],
            self.pixels[use],
            place[self.first[use]],
            place[self.second[use]],
        )


def no_links() -> Links:
    """No links.

    Returns
    -------
    Links
    """
    none = np.empty(0, np.int64)
    return Links(none, np.empty(0), none, none, none)


def touches_cut(windows: Int, boxes: Int, shape: tuple[int, int]) -> Bool:
    """Whether masks reach an edge of their window that lies inside the raster.

    Parameters
    ----------
    windows, boxes : ndarray, int64, ``[n, 4]``
        Windows, and boxes of the masks: row, col, row end, col end.
    shape : tuple of int
        Raster height and width.

    Returns
    -------
    ndarray, bool
        True where a mask ends within `EDGE_PX` of such an edge.
    """
    near_low = (windows[:, :2] > 0) & (boxes[:, :2] < windows[:, :2] + EDGE_PX)
    near_high = (windows[:, 2:] < np.asarray(shape)) & (boxes[:, 2:] > windows[:, 2:] - EDGE_PX)
    return np.asarray((near_low | near_high).any(axis=1), bool)


def overlapping_pairs(boxes: Int, groups: Int) -> tuple[Int, Int]:
    """Pairs of boxes of one group that share a pixel, through a grid hash.

    Parameters
    ----------
    boxes : ndarray, int64, ``[n, 4]``
        Row, col, row end, col end (half-open), all >= 0.
    groups : ndarray, int64, ``[n]``
        Only boxes of the same group are paired.

    Returns
    -------
    first, second : ndarray, int64
        Positions with ``first < second``, sorted, each pair once. Time and memory grow with the
        number of boxes that share a cell, not with n².
    """
    if len(boxes) < 2:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    # Cells of about the size of a box: few boxes share one, few boxes need several.
    cell = int(np.clip(np.mean(boxes[:, 2:] - boxes[:, :2]), 8, 256))
    low = boxes[:, :2] // cell
    span = (boxes[:, 2:] - 1) // cell - low + 1
    counts = span[:, 0] * span[:, 1]
    owner = np.repeat(np.arange(len(boxes)), counts)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    cell_row = low[owner, 0] + within // span[owner, 1]
    cell_col = low[owner, 1] + within % span[owner, 1]
    order = np.lexsort((owner, cell_col, cell_row, groups[owner]))
    owner, cell_row, cell_col = owner[order], cell_row[order], cell_col[order]
    group = groups[owner]
    found_a, found_b = [], []
    start = np.arange(len(owner))
    step = 1
    while True:
        start = start[start + step < len(owner)]
        other = start + step
        same = (
            (cell_row[start] == cell_row[other])
            & (cell_col[start] == cell_col[other])
            & (group[start] == group[other])
        )
        # Entries of one cell lie together: where the neighbour at this distance is in another
        # cell, so are all further ones.
        start = start[same]
        if not len(start):
            break
        a, b = owner[start], owner[start + step]
        corner = np.maximum(boxes[a, :2], boxes[b, :2])
        end = np.minimum(boxes[a, 2:], boxes[b, 2:])
        # A pair meets in several cells; it counts in the one that holds the corner of its overlap.
        home = (
            (corner < end).all(axis=1)
            & (corner[:, 0] // cell == cell_row[start])
            & (corner[:, 1] // cell == cell_col[start])
        )
        found_a.append(a[home])
        found_b.append(b[home])
        step += 1
    if not found_a:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    one, two = np.concatenate(found_a), np.concatenate(found_b)
    first, second = np.minimum(one, two), np.maximum(one, two)
    order = np.lexsort((second, first))
    return first[order], second[order]


class _Overlaps(NamedTuple):
    """Overlapping pieces of all seams, column by column, in canonical order."""

    first: Int  # detection
    second: Int
    piece_a: Int  # number of the piece
    piece_b: Int
    pixels: Int


def find_links(
    runs: Runs,
    window: Int,
    windows: Int,
    first: Int,
    second: Int,
    rank: Int,
    *,
    seam_iou: float,
    containment: float,
) -> Links:
    """Links between detections of different windows.

    Parameters
    ----------
    runs : Runs
        Masks of the detections.
    window : ndarray, int64, ``[n]``
        Position of each detection's window.
    windows : ndarray, int64, ``[m, 4]``
        Windows: row, col, row end, col end.
    first, second : ndarray, int64
        Candidate pairs of one class and different windows, the first first in canonical order. Of two
        windows all pairs with overlapping boxes must be there, or none.
    rank : ndarray, int64, ``[n]``
        Canonical order of the detections.
    seam_iou : float
        Rule 1, in (0, 1].
    containment : float
        Rule 2, in (0, 1].

    Returns
    -------
    Links
    """
    # Each cut is made once, however many partners it meets.
    keys = np.concatenate(
        [first * len(windows) + window[second], second * len(windows) + window[first]]
    )
    cuts, cut = np.unique(keys, return_inverse=True)
    owner, other = np.divmod(cuts, max(len(windows), 1))
    seams = runs.cut(owner, windows[other])
    parts = connected_parts(seams)
    table = _overlaps(seams, parts, cut[: len(first)], cut[len(first) :], first, second, rank)

    area_a, area_b = parts.area[table.piece_a], parts.area[table.piece_b]
    n_pieces = len(parts.area)
    whole = runs.areas()
    iou = table.pixels / (area_a + area_b - table.pixels)
    enough = table.pixels >= EVIDENCE_SHARE * np.minimum(whole[table.first], whole[table.second])
    agree = (
        (iou >= seam_iou)
        & (enough | (iou >= CLEAR_IOU))
        & (iou == _best(table.piece_a, iou, n_pieces))
        & (iou == _best(table.piece_b, iou, n_pieces))
    )
    partner = np.full(n_pieces, -1, np.int64)
    partner[table.piece_a[agree]] = table.second[agree]
    partner[table.piece_b[agree]] = table.first[agree]

    a_small = area_a <= area_b
    small = np.where(a_small, table.piece_a, table.piece_b)
    large = np.where(a_small, table.piece_b, table.piece_a)
    small_owner = np.where(a_small, table.first, table.second)
    large_owner = np.where(a_small, table.second, table.first)
    share = table.pixels / np.minimum(area_a, area_b)
    most = np.where(
        a_small,
        _best(table.piece_a, table.pixels, n_pieces),
        _best(table.piece_b, table.pixels, n_pieces),
    )
    taken = (partner[large] != -1) & (partner[large] != small_owner)
    cut_off = _cut_off(
        _part_boxes(seams, parts)[small], windows[window[small_owner]], windows[window[large_owner]]
    )
    inside = ~agree & enough & (share >= containment) & (table.pixels == most) & (~taken | cut_off)
    links = agree | inside
    return Links(
        np.where(agree, 1, 2)[links],
        np.where(agree, iou, share)[links],
        table.pixels[links],
        table.first[links],
        table.second[links],
    )


def _overlaps(
    seams: Runs, parts: Parts, cut_a: Int, cut_b: Int, first: Int, second: Int, rank: Int
) -> _Overlaps:
    common = common_runs(seams, cut_a, cut_b)
    piece_a, piece_b = parts.part[common.run_a], parts.part[common.run_b]
    # Two pieces belong to one pair: each was cut from one detection for one window.
    _, at, row = np.unique(
        piece_a * max(len(parts.area), 1) + piece_b, return_index=True, return_inverse=True
    )
    pixels = np.bincount(row, weights=common.pixels, minlength=len(at)).astype(np.int64)
    a, b = first[common.pair[at]], second[common.pair[at]]
    piece_a, piece_b = piece_a[at], piece_b[at]
    order = np.lexsort((piece_b, piece_a, rank[b], rank[a]))
    return _Overlaps(a[order], b[order], piece_a[order], piece_b[order], pixels[order])


def _part_boxes(runs: Runs, parts: Parts) -> Int:
    n = len(parts.area)
    boxes = np.zeros((n, 4), np.int64)
    boxes[:, :2] = np.iinfo(np.int64).max
    for column, values, work in (
        (0, runs.row, np.minimum),
        (1, runs.start, np.minimum),
        (2, runs.row + 1, np.maximum),
        (3, runs.end, np.maximum),
    ):
        work.at(boxes[:, column], parts.part, values)
    return boxes


def _cut_off(boxes: Int, own: Int, other: Int) -> Bool:
    """Whether pieces reach an edge of their own window beyond which the other window saw on."""
    low = (own[:, :2] > other[:, :2]) & (boxes[:, :2] < own[:, :2] + EDGE_PX)
    high = (own[:, 2:] < other[:, 2:]) & (boxes[:, 2:] > own[:, 2:] - EDGE_PX)
    return np.asarray((low | high).any(axis=1), bool)


def _best(piece: Int, value: NDArray[np.generic], n: int) -> NDArray[np.float64]:
    """For each row the largest value that its piece reaches in any row."""
    top = np.zeros(n)
    np.maximum.at(top, piece, value)
    best: NDArray[np.float64] = top[piece]
    return best

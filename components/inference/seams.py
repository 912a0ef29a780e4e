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
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from components.grid.windows import Window

#: A mask that ends so near to its window's edge counts as cut by it [px]: masks stop a pixel or two
#: short of where they should.
EDGE_PX: Final = 3

#: Agreement from this IoU on needs no further evidence.
CLEAR_IOU: Final = 0.5

#: Otherwise the common pixels must be this share of the smaller of the two detections.
EVIDENCE_SHARE: Final = 0.1

#: Diagonal neighbours are connected, as in the tracing of landslides that are one pixel wide.
EIGHT: Final = np.ones((3, 3), dtype=bool)

Int = NDArray[np.int64]
T = TypeVar("T", bound=np.generic)


class Box(NamedTuple):
    """Half-open block of pixels: first row and column, row end, column end."""

    row: int
    col: int
    row_end: int
    col_end: int


@dataclass(eq=False)
class Piece:
    """One detection, thresholded and cropped to its mask.

    Parameters
    ----------
    window_index : int
        Position of its window in the canonical order of windows.
    window : Window
        The window itself.
    category : int
        Class.
    box : Box
        Bounding box of `mask` on the map.
    mask : ndarray, bool
        Pixels at or above the threshold.
    cut : bool
        Whether it reaches an edge of its window that is not an edge of the raster.
    """

    window_index: int
    window: Window
    category: int
    box: Box
    mask: NDArray[np.bool_]
    cut: bool
    _labels: tuple[NDArray[np.int32], int] | None = field(default=None, repr=False)

    def labels(self) -> tuple[NDArray[np.int32], int]:
        """Connected pieces of the whole mask, numbered from 1, and how many there are."""
        if self._labels is None:
            self._labels = _label(self.mask)
        return self._labels


class Link(NamedTuple):
    """Evidence that two detections of different windows are one object.

    Parameters
    ----------
    rule : int
        1 agreement, 2 containment.
    strength : float
        IoU (rule 1) or contained share (rule 2), in (0, 1].
    pixels : int
        Common pixels.
    first, second : int
        Positions of the detections, ``first < second``.
    """

    rule: int
    strength: float
    pixels: int
    first: int
    second: int


def touches_cut(window: Window, box: Box, shape: tuple[int, int], edge_px: int = EDGE_PX) -> bool:
    """Whether a mask reaches an edge of its window that lies inside the raster.

    Parameters
    ----------
    window : Window
        The window.
    box : Box
        Bounding box of the mask on the map.
    shape : tuple of int
        Raster height and width.
    edge_px : int
        Distance that still counts as touching [px].

    Returns
    -------
    bool
    """
    return (
        (window.row > 0 and box.row < window.row + edge_px)
        or (window.col > 0 and box.col < window.col + edge_px)
        or (window.row_end < shape[0] and box.row_end > window.row_end - edge_px)
        or (window.col_end < shape[1] and box.col_end > window.col_end - edge_px)
    )


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


def intersection_px(
    box_a: Box, mask_a: NDArray[np.bool_], box_b: Box, mask_b: NDArray[np.bool_]
) -> int:
    """Common pixels of two cropped masks.

    Parameters
    ----------
    box_a, box_b : Box
        Where the crops lie.
    mask_a, mask_b : ndarray, bool
        The crops.

    Returns
    -------
    int
    """
    common = _common(box_a, box_b)
    if common is None:
        return 0
    return int(np.count_nonzero(_crop(mask_a, box_a, common) & _crop(mask_b, box_b, common)))


class _Seam(NamedTuple):
    """A detection cut to a seam: labelled pieces, their sizes, the number of the first one."""

    box: Box
    labels: NDArray[np.int32]
    areas: Int
    base: int


class _Cutter:
    """Cuts detections to seams; each cut is made once, however many partners it meets."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = pieces
        self.cache: dict[tuple[int, int], _Seam | None] = {}
        self.n_pieces = 0
        self.owner: list[tuple[int, int, int]] = []  # detection, other window, label

    def cut(self, k: int, other: Piece) -> _Seam | None:
        key = (k, other.window_index)
        if key not in self.cache:
            self.cache[key] = self._cut(k, other)
        return self.cache[key]

    def _cut(self, k: int, other: Piece) -> _Seam | None:
        piece, w = self.pieces[k], other.window
        seam = _common(piece.box, Box(w.row, w.col, w.row_end, w.col_end))
        if seam is None:
            return None
        if seam == piece.box:
            labels, count = piece.labels()
        else:
            labels, count = _label(_crop(piece.mask, piece.box, seam))
        areas = np.bincount(labels.ravel(), minlength=count + 1)[1:].astype(np.int64)
        base = self.n_pieces
        self.n_pieces += count
        self.owner.extend((k, other.window_index, i + 1) for i in range(count))
        return _Seam(seam, labels, areas, base)

    def was_cut(self, number: int, other: Window) -> bool:
        """Whether a piece reaches an edge of its own window beyond which the other saw on."""
        k, index, label = self.owner[number]
        seam = self.cache[(k, index)]
        if seam is None:
            return False
        own = self.pieces[k].window
        here = seam.labels == label
        row, col = seam.box.row, seam.box.col
        return bool(
            (own.row > other.row and here[: max(0, own.row + EDGE_PX - row)].any())
            or (own.col > other.col and here[:, : max(0, own.col + EDGE_PX - col)].any())
            or (own.row_end < other.row_end and here[max(0, own.row_end - EDGE_PX - row) :].any())
            or (
                own.col_end < other.col_end and here[:, max(0, own.col_end - EDGE_PX - col) :].any()
            )
        )


class _Overlaps(NamedTuple):
    """Overlapping pieces of all seams, column by column."""

    first: Int  # detection
    second: Int
    piece_a: Int  # number of the piece
    piece_b: Int
    pixels: Int
    area_a: Int
    area_b: Int


def find_links(
    pieces: Sequence[Piece], first: Int, second: Int, *, seam_iou: float, containment: float
) -> list[Link]:
    """Links between detections of different windows.

    Parameters
    ----------
    pieces : sequence of Piece
        Detections.
    first, second : ndarray, int64
        Candidate pairs of one class and different windows, ``first < second`` in the order of
        windows.
    seam_iou : float
        Rule 1, in (0, 1].
    containment : float
        Rule 2, in (0, 1].

    Returns
    -------
    list of Link
        Strongest first: rule 1 before rule 2, then by strength, pixels and position.
    """
    cutter = _Cutter(pieces)
    table = _overlaps(cutter, first, second)
    if not len(table.pixels):
        return []
    iou = table.pixels / (table.area_a + table.area_b - table.pixels)
    whole = np.asarray([np.count_nonzero(p.mask) for p in pieces], np.int64)
    enough = table.pixels >= EVIDENCE_SHARE * np.minimum(whole[table.first], whole[table.second])
    agree = (
        (iou >= seam_iou)
        & (enough | (iou >= CLEAR_IOU))
        & (iou == _best(table.piece_a, iou, cutter.n_pieces))
        & (iou == _best(table.piece_b, iou, cutter.n_pieces))
    )
    links = [
        Link(1, float(iou[k]), int(table.pixels[k]), int(table.first[k]), int(table.second[k]))
        for k in np.flatnonzero(agree)
    ]
    partner = np.full(cutter.n_pieces, -1, np.int64)
    partner[table.piece_a[agree]] = table.second[agree]
    partner[table.piece_b[agree]] = table.first[agree]

    a_small = table.area_a <= table.area_b
    small = np.where(a_small, table.piece_a, table.piece_b)
    large = np.where(a_small, table.piece_b, table.piece_a)
    small_owner = np.where(a_small, table.first, table.second)
    share = table.pixels / np.minimum(table.area_a, table.area_b)
    most = np.where(
        a_small,
        _best(table.piece_a, table.pixels, cutter.n_pieces),
        _best(table.piece_b, table.pixels, cutter.n_pieces),
    )
    inside = ~agree & enough & (share >= containment) & (table.pixels == most)
    for k in np.flatnonzero(inside):
        taken = partner[large[k]] not in (-1, small_owner[k])
        large_owner = table.second[k] if a_small[k] else table.first[k]
        if taken and not cutter.was_cut(int(small[k]), pieces[large_owner].window):
            continue
        links.append(
            Link(
                2, float(share[k]), int(table.pixels[k]), int(table.first[k]), int(table.second[k])
            )
        )
    return sorted(links, key=lambda x: (x.rule, -x.strength, -x.pixels, x.first, x.second))


def _overlaps(cutter: _Cutter, first: Int, second: Int) -> _Overlaps:
    rows: list[tuple[int, int, int, int, int, int, int]] = []
    for i, j in zip(first.tolist(), second.tolist(), strict=True):
        a, b = cutter.cut(i, cutter.pieces[j]), cutter.cut(j, cutter.pieces[i])
        if a is None or b is None:
            continue
        common = _common(a.box, b.box)
        if common is None:
            continue
        la, lb = _crop(a.labels, a.box, common), _crop(b.labels, b.box, common)
        n_b = len(b.areas) + 1
        both = np.bincount((la * n_b + lb)[(la > 0) & (lb > 0)])
        for code in np.flatnonzero(both).tolist():
            p, q = code // n_b - 1, code % n_b - 1
            rows.append(
                (i, j, a.base + p, b.base + q, int(both[code]), int(a.areas[p]), int(b.areas[q]))
            )
    table = np.asarray(rows, np.int64).reshape(-1, 7)
    return _Overlaps(*table.T)


def _best(piece: Int, value: NDArray[np.generic], n: int) -> NDArray[np.float64]:
    """For each row the largest value that its piece reaches in any row."""
    top = np.zeros(n)
    np.maximum.at(top, piece, value)
    best: NDArray[np.float64] = top[piece]
    return best


def _label(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    if mask.all():  # most small pieces
        return np.ones(mask.shape, np.int32), 1
    labels, count = ndimage.label(mask, EIGHT)
    return labels, int(count)


def _common(a: Box, b: Box) -> Box | None:
    box = Box(
        max(a.row, b.row), max(a.col, b.col), min(a.row_end, b.row_end), min(a.col_end, b.col_end)
    )
    return box if box.row < box.row_end and box.col < box.col_end else None


def _crop(array: NDArray[T], box: Box, part: Box) -> NDArray[T]:
    return array[
        part.row - box.row : part.row_end - box.row, part.col - box.col : part.col_end - box.col
    ]

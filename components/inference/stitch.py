"""From the detections of overlapping windows to the landslides of the map.

1. Inside a window, a second detection of the same object is dropped.
2. Across windows, masks are compared on the ground that both windows saw (`seams`), and linked
   detections are collected with a union-find, the strongest link first. Two detections of one window
   are never compared with each other. They come together through other windows only, and only if both
   were cut by their window's edge: what a window saw whole, it saw whole.
3. Probabilities of the member windows are averaged, with less weight near a window's edge, and
   thresholded.
4. What lies inside a larger landslide of its class is the same landslide seen again, and is dropped;
   so is the sliver that a window cut off a landslide which a better-placed window drew whole, a
   pixel or two smaller.

The result does not depend on the order of the input: everything is sorted by position first.
docs/stitching.md gives the reasons and the figures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from components.errors import ProcessingError
from components.grid.windows import Window
from components.inference.instances import Detection, Instance, dequantise, quantise
from components.inference.seams import (
    EIGHT,
    Box,
    Int,
    Link,
    Piece,
    find_links,
    intersection_px,
    overlapping_pairs,
    touches_cut,
)

#: Raised by hand when results change.
ALGORITHM: Final = "seam-iou-1"

#: Two masks of one window or two landslides of this IoU are one object seen twice.
DUPLICATE_IOU: Final = 0.5

#: Of two nested masks the larger stays, unless its score is below this share of the smaller's.
NESTED_SCORE: Final = 0.5

#: A separate part of a landslide of fewer pixels than this is a speck.
SPECK_PX: Final = 2

#: A piece this deep [px] at its window's edge is a sliver: two masks that are each off by two pixels
#: can miss each other by so much.
SLIVER_PX: Final = 4

#: A window should have seen a landslide if it holds this share of the pixels that the best-placed
#: window holds.
COVERING_SHARE: Final = 0.3

#: The weight rises from the window's edge over this share of its side.
TAPER_SHARE: Final = 0.25


@dataclass(frozen=True)
class StitchCounts:
    """What came in, what went out, and why the rest did not.

    Parameters
    ----------
    detections : int
        Detections given.
    empty : int
        … without a pixel at the mask threshold.
    duplicates : int
        … dropped as a second detection of the same object in the same window.
    links : int
        Links between detections that were followed.
    refused : int
        Links not followed because they would have joined two detections that one window saw whole.
    vanished : int
        Groups whose mean probability reaches the threshold nowhere.
    specks : int
        Separate parts of fewer than `SPECK_PX` pixels taken off landslides.
    absorbed : int
        Landslides dropped because they lie inside a larger one of their class.
    slivers : int
        Slivers at a window's edge dropped beside the landslide that they were cut off from.
    instances : int
        Landslides.
    """

    detections: int
    empty: int
    duplicates: int
    links: int
    refused: int
    vanished: int
    specks: int
    absorbed: int
    slivers: int
    instances: int

    def as_dict(self) -> dict[str, int]:
        """Plain dictionary.

        Returns
        -------
        dict of str to int
        """
        return asdict(self)


class Stitched(NamedTuple):
    """Landslides in order of position, and the counts."""

    instances: list[Instance]
    counts: StitchCounts


class _Made(NamedTuple):
    """A landslide, the windows that saw it, and whether all of them saw but a sliver at their edge."""

    instance: Instance
    windows: frozenset[int]
    sliver: bool


def stitch(
    detections: Sequence[Detection],
    windows: Mapping[int, Window],
    shape: tuple[int, int],
    *,
    seam_iou: float = 0.3,
    containment: float = 0.7,
    mask_threshold: float = 0.5,
) -> list[Instance]:
    """Join the detections of overlapping windows into landslides.

    Parameters
    ----------
    detections : sequence of Detection
        In any order.
    windows : mapping of int to Window
        Every window that was run, with or without detections, by its id. A window that was skipped or
        failed did not look and must be left out.
    shape : tuple of int
        Raster height and width [px].
    seam_iou : float
        Masks join where their IoU on the ground that both windows saw reaches this, in (0, 1].
    containment : float
        … or where this share of the smaller piece lies in the larger, in (0, 1].
    mask_threshold : float
        Mean probability of a landslide pixel, in (0, 1).

    Returns
    -------
    list of Instance
        Sorted by first row, first column, category, then content.

    Raises
    ------
    ProcessingError
        SW-505 where a detection belongs to no window or leaves its window, or a window the raster, or
        a score or probability is outside [0, 1].
    """
    return stitch_counted(
        detections,
        windows,
        shape,
        seam_iou=seam_iou,
        containment=containment,
        mask_threshold=mask_threshold,
    ).instances


def stitch_counted(
    detections: Sequence[Detection],
    windows: Mapping[int, Window],
    shape: tuple[int, int],
    *,
    seam_iou: float = 0.3,
    containment: float = 0.7,
    mask_threshold: float = 0.5,
) -> Stitched:
    """`stitch`, with the counts of what was dropped and why.

    Parameters
    ----------
    detections, windows, shape, seam_iou, containment, mask_threshold
        As for `stitch`.

    Returns
    -------
    Stitched

    Raises
    ------
    ProcessingError
        SW-505, as `stitch`.
    """
    _check_windows(windows, shape)
    # Ids are names only: order is by position, so that another numbering gives the same map.
    ids = sorted(windows, key=lambda i: (*windows[i], i))
    position = {window_id: k for k, window_id in enumerate(ids)}
    for d in detections:
        _check_detection(d, windows)
    ordered = sorted(detections, key=lambda d: _order(d, position))

    kept: list[Detection] = []
    pieces: list[Piece] = []
    for d in ordered:
        piece = _piece(d, position[d.window_id], windows[d.window_id], shape, mask_threshold)
        if piece is not None:
            kept.append(d)
            pieces.append(piece)
    n_empty = len(ordered) - len(kept)

    boxes = _boxes([p.box for p in pieces])
    groups = np.asarray([p.category for p in pieces], np.int64)
    first, second = overlapping_pairs(boxes, groups)
    where = np.asarray([p.window_index for p in pieces], np.int64)
    same = where[first] == where[second]
    alive = ~_superseded(
        [p.box for p in pieces],
        [p.mask for p in pieces],
        [d.score for d in kept],
        first[same],
        second[same],
        containment,
    )
    use = ~same & alive[first] & alive[second]
    links = find_links(pieces, first[use], second[use], seam_iou=seam_iou, containment=containment)
    union = _Union(pieces)
    refused = sum(not union.join(link) for link in links)

    ramps = _Ramps(shape)
    index = _WindowIndex([windows[i] for i in ids])
    made: list[_Made] = []
    specks = vanished = 0
    for members in union.groups(alive):
        one, n_specks = _average(
            [kept[k] for k in members], [pieces[k] for k in members], ramps, index, mask_threshold
        )
        specks += n_specks
        if one is None:
            vanished += 1
        else:
            made.append(one)
    made.sort(key=lambda m: _instance_order(m.instance))
    absorbed = _absorbed(made, containment)
    made = [m for m, gone in zip(made, absorbed.tolist(), strict=True) if not gone]
    slivers = _slivers(made, index, shape)
    instances = [m.instance for k, m in enumerate(made) if k not in slivers]
    counts = StitchCounts(
        detections=len(detections),
        empty=n_empty,
        duplicates=int(np.count_nonzero(~alive)),
        links=len(links) - refused,
        refused=refused,
        vanished=vanished,
        specks=specks,
        absorbed=int(np.count_nonzero(absorbed)),
        slivers=len(slivers),
        instances=len(instances),
    )
    return Stitched(instances, counts)


def _check_windows(windows: Mapping[int, Window], shape: tuple[int, int]) -> None:
    for i, w in windows.items():
        inside = 0 <= w.row < w.row_end <= shape[0] and 0 <= w.col < w.col_end <= shape[1]
        if not inside:
            raise ProcessingError("SW-505", f"window {i} ({tuple(w)}) leaves the raster {shape}")


def _check_detection(d: Detection, windows: Mapping[int, Window]) -> None:
    w = windows.get(d.window_id)
    if w is None:
        raise ProcessingError(
            "SW-505", f"a detection names window {d.window_id}, which was not run"
        )
    if d.prob.ndim != 2:
        raise ProcessingError("SW-505", f"mask probabilities of shape {d.prob.shape}")
    height, width = d.prob.shape
    if not (
        w.row <= d.row
        and d.row + height <= w.row_end
        and w.col <= d.col
        and d.col + width <= w.col_end
    ):
        raise ProcessingError(
            "SW-505",
            f"a detection at row {d.row}, column {d.col} of {height} × {width} px leaves its window "
            f"{d.window_id} ({tuple(w)})",
        )
    if not 0.0 <= d.score <= 1.0:
        raise ProcessingError("SW-505", f"score {d.score} in window {d.window_id}")
    # `not (…)` so that NaN is caught too
    if d.prob.size and not (float(d.prob.min()) >= 0.0 and float(d.prob.max()) <= 1.0):
        raise ProcessingError("SW-505", f"mask probability outside [0, 1] in window {d.window_id}")


def _order(d: Detection, position: Mapping[int, int]) -> tuple[object, ...]:
    return (
        position[d.window_id], d.category, d.row, d.col, *d.prob.shape, -d.score, _content(d.prob),
    )  # fmt: skip


def _content(array: NDArray[Any]) -> bytes:
    """Settles ties of position: equal for equal arrays, and small."""
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).digest()


def _instance_order(i: Instance) -> tuple[object, ...]:
    return (i.row, i.col, i.category, *i.mask.shape, -i.score, _content(i.mask), _content(i.prob))


def _boxes(boxes: Sequence[Box]) -> Int:
    return np.asarray(boxes, np.int64).reshape(-1, 4)


def _piece(
    d: Detection, index: int, window: Window, shape: tuple[int, int], threshold: float
) -> Piece | None:
    mask = d.prob >= threshold
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    r0, r1, c0, c1 = int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1
    box = Box(d.row + r0, d.col + c0, d.row + r1, d.col + c1)
    return Piece(
        window_index=index,
        window=window,
        category=d.category,
        box=box,
        mask=mask[r0:r1, c0:c1],
        cut=touches_cut(window, box, shape),
    )


def _superseded(
    boxes: Sequence[Box],
    masks: Sequence[NDArray[np.bool_]],
    scores: Sequence[float],
    first: Int,
    second: Int,
    containment: float,
) -> NDArray[np.bool_]:
    """Which masks are another look at an object that a better mask already stands for.

    In order of score: of two near-equal masks (`DUPLICATE_IOU`) the better score stays; of two nested
    ones the larger, unless its score is below `NESTED_SCORE` of the smaller's.
    """
    gone = np.zeros(len(boxes), bool)
    partners: dict[int, list[int]] = {}
    for i, j in zip(first.tolist(), second.tolist(), strict=True):
        partners.setdefault(i, []).append(j)
        partners.setdefault(j, []).append(i)
    if not partners:
        return gone
    areas = [int(np.count_nonzero(m)) for m in masks]
    settled: set[int] = set()
    for k in sorted(partners, key=lambda k: (-scores[k], -areas[k], k)):
        for better in sorted(partners[k], key=lambda b: (-scores[b], -areas[b], b)):
            if better not in settled or gone[better]:
                continue
            pixels = intersection_px(boxes[k], masks[k], boxes[better], masks[better])
            if not pixels:
                continue
            twice = pixels >= DUPLICATE_IOU * (areas[k] + areas[better] - pixels)
            nested = pixels >= containment * min(areas[k], areas[better])
            larger = areas[k] > areas[better]
            if nested and not twice and larger and scores[k] >= NESTED_SCORE * scores[better]:
                gone[better] = True
            elif twice or nested:
                gone[k] = True
                break
        settled.add(k)
    return gone


def _absorbed(made: Sequence[_Made], containment: float) -> NDArray[np.bool_]:
    boxes = [Box(*m.instance.bounds) for m in made]
    first, second = overlapping_pairs(_boxes(boxes), _categories(made))
    masks = [m.instance.mask for m in made]
    scores = [m.instance.score for m in made]
    return _superseded(boxes, masks, scores, first, second, containment)


def _slivers(made: Sequence[_Made], index: _WindowIndex, shape: tuple[int, int]) -> set[int]:
    """Slivers close to a landslide of their class that a better-placed window drew without them.

    Better placed: it holds all of the sliver, further from its own edges than the sliver is deep.
    """
    if not any(m.sliver for m in made):
        return set()
    boxes = _boxes([Box(*m.instance.bounds) for m in made])
    near = boxes.copy()
    thin = np.asarray([m.sliver for m in made])
    near[thin, :2] = np.maximum(near[thin, :2] - SLIVER_PX, 0)
    near[thin, 2:] += SLIVER_PX
    gone: set[int] = set()
    pairs = zip(*(a.tolist() for a in overlapping_pairs(near, _categories(made))), strict=True)
    for pair in pairs:
        for k, other in (pair, pair[::-1]):
            if not made[k].sliver or made[other].sliver or k in gone:
                continue
            box = Box(*boxes[k].tolist())
            windows = made[other].windows - made[k].windows
            if not any(_holds(index.windows[w], box, shape) for w in windows):
                continue
            grown = ndimage.binary_dilation(
                np.pad(made[k].instance.mask, SLIVER_PX), EIGHT, iterations=SLIVER_PX
            )
            around = Box(
                box.row - SLIVER_PX, box.col - SLIVER_PX,
                box.row_end + SLIVER_PX, box.col_end + SLIVER_PX,
            )  # fmt: skip
            target = Box(*boxes[other].tolist())
            if intersection_px(around, grown, target, made[other].instance.mask):
                gone.add(k)
    return gone


def _holds(w: Window, box: Box, shape: tuple[int, int]) -> bool:
    """Whether a window holds a block, further than `SLIVER_PX` from its edges inside the raster."""
    top = SLIVER_PX if w.row > 0 else 0
    left = SLIVER_PX if w.col > 0 else 0
    bottom = SLIVER_PX if w.row_end < shape[0] else 0
    right = SLIVER_PX if w.col_end < shape[1] else 0
    return (
        w.row + top <= box.row
        and w.col + left <= box.col
        and box.row_end <= w.row_end - bottom
        and box.col_end <= w.col_end - right
    )


def _is_sliver(p: Piece, shape: tuple[int, int]) -> bool:
    w = p.window
    return (
        (w.row > 0 and p.box.row_end <= w.row + SLIVER_PX)
        or (w.col > 0 and p.box.col_end <= w.col + SLIVER_PX)
        or (w.row_end < shape[0] and p.box.row >= w.row_end - SLIVER_PX)
        or (w.col_end < shape[1] and p.box.col >= w.col_end - SLIVER_PX)
    )


def _categories(made: Sequence[_Made]) -> Int:
    return np.asarray([m.instance.category for m in made], np.int64)


class _Union:
    """Union-find that never puts two detections together which one window saw whole."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.parent = list(range(len(pieces)))
        self.members: dict[int, list[int]] = {k: [k] for k in self.parent}
        # Per group: window → whether all its detections there were cut by the window's edge.
        self.cut: dict[int, dict[int, bool]] = {
            k: {p.window_index: p.cut} for k, p in enumerate(pieces)
        }

    def find(self, k: int) -> int:
        while self.parent[k] != k:
            self.parent[k] = self.parent[self.parent[k]]
            k = self.parent[k]
        return k

    def join(self, link: Link) -> bool:
        """Follow a link; False where that is refused."""
        a, b = self.find(link.first), self.find(link.second)
        if a == b:
            return True
        if len(self.members[a]) < len(self.members[b]):
            a, b = b, a
        here, there = self.cut[a], self.cut[b]
        if any(w in here and not (cut and here[w]) for w, cut in there.items()):
            return False
        here.update(there)
        self.members[a] += self.members.pop(b)
        del self.cut[b]
        self.parent[b] = a
        return True

    def groups(self, alive: NDArray[np.bool_]) -> list[list[int]]:
        """Members of each group in canonical order, groups by their first member."""
        return sorted(sorted(m) for k, m in self.members.items() if alive[k])


class _Ramps:
    """Weights of a window's rows and columns: the weight of a pixel is their product.

    A pixel near a window's edge was seen with less of its surroundings. Raster edges are no window's
    fault: nobody sees beyond them.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.cache: dict[tuple[int, int, int], NDArray[np.float32]] = {}

    def rows(self, w: Window) -> NDArray[np.float32]:
        return self._ramp(w.row, w.height, self.shape[0])

    def cols(self, w: Window) -> NDArray[np.float32]:
        return self._ramp(w.col, w.width, self.shape[1])

    def _ramp(self, start: int, length: int, limit: int) -> NDArray[np.float32]:
        key = (start, length, limit)
        if key not in self.cache:
            rise = max(1.0, TAPER_SHARE * length)
            up = np.minimum(1.0, (np.arange(length) + 0.5) / rise)
            ramp = np.ones(length)
            if start > 0:
                ramp = np.minimum(ramp, up)
            if start + length < limit:
                ramp = np.minimum(ramp, up[::-1])
            self.cache[key] = ramp.astype(np.float32)
        return self.cache[key]


class _WindowIndex:
    """Windows by the cells of a coarse grid: which of them hold some ground."""

    def __init__(self, windows: Sequence[Window]) -> None:
        self.windows = windows
        self.cell = max([max(w.height, w.width) for w in windows], default=1)
        self.cells: dict[tuple[int, int], list[int]] = {}
        for k, w in enumerate(windows):
            for r in range(w.row // self.cell, (w.row_end - 1) // self.cell + 1):
                for c in range(w.col // self.cell, (w.col_end - 1) // self.cell + 1):
                    self.cells.setdefault((r, c), []).append(k)

    def near(self, box: Box) -> list[int]:
        found: set[int] = set()
        for r in range(box.row // self.cell, (box.row_end - 1) // self.cell + 1):
            for c in range(box.col // self.cell, (box.col_end - 1) // self.cell + 1):
                found.update(self.cells.get((r, c), ()))
        return sorted(found)


def _average(
    detections: Sequence[Detection],
    pieces: Sequence[Piece],
    ramps: _Ramps,
    index: _WindowIndex,
    threshold: float,
) -> tuple[_Made | None, int]:
    """One landslide from its member detections, and the number of specks taken off."""
    box = Box(
        min(d.row for d in detections),
        min(d.col for d in detections),
        max(d.row + d.prob.shape[0] for d in detections),
        max(d.col + d.prob.shape[1] for d in detections),
    )
    by_window: dict[int, list[Detection]] = {}
    for d, p in zip(detections, pieces, strict=True):
        by_window.setdefault(p.window_index, []).append(d)
    mean = _mean_probability(box, by_window, ramps, index)
    mask, specks = _without_specks(mean >= np.float32(threshold))
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None, specks
    r0, r1, c0, c1 = int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1
    mask = np.ascontiguousarray(mask[r0:r1, c0:c1])
    mean = mean[r0:r1, c0:c1]
    tight = Box(box.row + r0, box.col + c0, box.row + r1, box.col + c1)
    instance = Instance(
        category=detections[0].category,
        score=_score(detections, pieces, ramps),
        row=tight.row,
        col=tight.col,
        mask=mask,
        prob=dequantise(quantise(mean)),
        n_windows=len(by_window),
        n_covering=_n_covering(mask, tight, by_window, index),
    )
    sliver = all(_is_sliver(p, ramps.shape) for p in pieces)
    return _Made(instance, frozenset(by_window), sliver), specks


def _mean_probability(
    box: Box, by_window: Mapping[int, Sequence[Detection]], ramps: _Ramps, index: _WindowIndex
) -> NDArray[np.float32]:
    shape = (box.row_end - box.row, box.col_end - box.col)
    if len(by_window) == 1:  # the weights cancel; exactly so without the division
        return _window_probability(box, next(iter(by_window.values())), shape)
    total, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for k in sorted(by_window):
        w = index.windows[k]
        r0, r1 = max(box.row, w.row), min(box.row_end, w.row_end)
        c0, c1 = max(box.col, w.col), min(box.col_end, w.col_end)
        part = Box(r0, c0, r1, c1)
        here = np.s_[r0 - box.row : r1 - box.row, c0 - box.col : c1 - box.col]
        taper = np.outer(
            ramps.rows(w)[r0 - w.row : r1 - w.row], ramps.cols(w)[c0 - w.col : c1 - w.col]
        )
        total[here] += taper * _window_probability(part, by_window[k], (r1 - r0, c1 - c0))
        weight[here] += taper
    # Ground of the bounding box that no member window saw has no weight and no probability.
    mean: NDArray[np.float32] = np.divide(total, weight, out=total, where=weight > 0)
    return np.minimum(mean, np.float32(1.0))


def _window_probability(
    box: Box, detections: Sequence[Detection], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """What one window says of a block: the largest of its member detections."""
    out = np.zeros(shape, np.float32)
    for d in detections:
        height, width = d.prob.shape
        r, c = d.row - box.row, d.col - box.col
        view = out[r : r + height, c : c + width]
        np.maximum(view, d.prob, out=view)
    return out


def _without_specks(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    labels, count = ndimage.label(mask, EIGHT)
    if count < 2:
        return mask, 0
    areas = np.bincount(labels.ravel())
    keep = areas >= SPECK_PX
    keep[0] = False
    keep[int(np.argmax(areas[1:])) + 1] = True  # the main part stays, however small
    return keep[labels], int(count - np.count_nonzero(keep))


def _score(detections: Sequence[Detection], pieces: Sequence[Piece], ramps: _Ramps) -> float:
    if len(detections) == 1:
        return float(detections[0].score)
    weights = []
    for p in pieces:
        w = p.window
        rows = ramps.rows(w)[p.box.row - w.row : p.box.row_end - w.row]
        cols = ramps.cols(w)[p.box.col - w.col : p.box.col_end - w.col]
        weights.append(float(rows @ p.mask.astype(np.float32) @ cols))
    scores = [d.score for d in detections]
    total = sum(w * s for w, s in zip(weights, scores, strict=True))
    mean = total / sum(weights)
    return min(max(mean, min(scores)), max(scores))  # rounding must not leave the members' range


def _n_covering(
    mask: NDArray[np.bool_], box: Box, members: Mapping[int, object], index: _WindowIndex
) -> int:
    """Member windows, and others that hold about as much of the landslide as the best-placed one."""
    held: dict[int, int] = {}
    for k in index.near(box):
        w = index.windows[k]
        r0, r1 = max(w.row - box.row, 0), w.row_end - box.row
        c0, c1 = max(w.col - box.col, 0), w.col_end - box.col
        held[k] = int(np.count_nonzero(mask[r0:r1, c0:c1])) if r1 > 0 and c1 > 0 else 0
    least = COVERING_SHARE * max(held.values())
    return len({k for k, n in held.items() if n and n >= least} | members.keys())

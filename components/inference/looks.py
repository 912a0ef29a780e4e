"""Several looks at one window: the network also sees it mirrored, and what it says is averaged.

Every channel of the presets is a scalar of the scene, so that a mirrored image is what a satellite with the
mirrored look vector would have measured on the mirrored terrain (`components.dataset.augment`); training
has shown the network such images. All of the looks are their own inverses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.dataset.augment import turn
from components.inference.plan import ALIGN_PX
from components.inference.runs import Int, Runs, common_pixels, runs_of
from components.inference.seams import overlapping_pairs

if TYPE_CHECKING:
    from components.inference.predict import RawDetection

#: ``infer.augment`` → looks, as `turn` numbers them: as it is, half a turn, mirrored left to right, and
#: mirrored top to bottom. A mirrored image gives the same four, so that its answer is mirrored too.
LOOKS: Final[dict[str, tuple[int, ...]]] = {"none": (0,), "flips": (0, 2, 4, 6)}

#: Detections of two looks are one object from this mask IoU on.
LOOK_IOU: Final = 0.5

#: Mask probability of an object's pixel where looks are compared.
_INSIDE: Final = np.float32(0.5)


class Merged(NamedTuple):
    """One detection an object, best score first, and how many were too faint to keep."""

    found: list[RawDetection]
    faint: int


def seen(images: NDArray[np.float32], look: int) -> NDArray[np.float32]:
    """Images as one look shows them to the network.

    Parameters
    ----------
    images : ndarray, float32, ``[N, C, H, W]``
        As the preset renders them.
    look : int
        One of `LOOKS`.

    Returns
    -------
    ndarray, float32, ``[N, C, H', W']``
        Filled up with "no data" to multiples of `ALIGN_PX` before they are mirrored, so that the ground
        keeps its phase; the first look is left as it is, the network fills it up in the same way.
    """
    if look == 0:
        return images
    height, width = images.shape[-2:]
    ends = ((0, 0), (0, 0), (0, -height % ALIGN_PX), (0, -width % ALIGN_PX))
    return np.ascontiguousarray(turn(np.pad(images, ends), look))


def unturned(
    found: Sequence[RawDetection], look: int, shape: tuple[int, int], unit: float
) -> list[RawDetection]:
    """Detections of one look in the coordinates of the window.

    Parameters
    ----------
    found : sequence of RawDetection
        Of the images of `seen`.
    look : int
        The look.
    shape : tuple of int
        Height and width of the images before `seen` [px].
    unit : float
        Map pixels a side of an image pixel.

    Returns
    -------
    list of RawDetection
        Some may lie in what `seen` added at the end.
    """
    if look == 0:
        return list(found)
    height, width = (round((n + -n % ALIGN_PX) * unit) for n in shape)
    out = []
    for d in found:
        rows, cols = d.prob.shape
        row = height - d.row - rows if look in {2, 6} else d.row
        col = width - d.col - cols if look in {2, 4} else d.col
        out.append(replace(d, row=row, col=col, prob=np.ascontiguousarray(turn(d.prob, look))))
    return out


def merged(looks: Sequence[Sequence[RawDetection]], score_min: float) -> Merged:
    """Join the detections of several looks at one window.

    Parameters
    ----------
    looks : sequence of sequence of RawDetection
        What each look found, in the coordinates of the window.
    score_min : float
        Objects of a lower mean score are dropped, and counted.

    Returns
    -------
    Merged
        Detections of one class and of different looks are joined by their mask IoU, the best pair first,
        and an object has one detection a look at most. Score and mask probability are means over all looks;
        one that did not see the object says zero. A single look is returned as it is.
    """
    if len(looks) == 1:
        return Merged(list(looks[0]), 0)
    entries = [(k, d) for k, found in enumerate(looks) for d in found]
    entries.sort(key=lambda e: (e[1].category, e[1].row, e[1].col, -e[1].score, e[0]))
    out = [_mean([entries[i][1] for i in group], len(looks)) for group in _groups(entries)]
    kept = [d for d in out if d.score >= score_min]
    kept.sort(key=lambda d: (-d.score, d.category, d.row, d.col))
    return Merged(kept, len(out) - len(kept))


def _groups(entries: Sequence[tuple[int, RawDetection]]) -> list[list[int]]:
    """Positions of the detections of each object."""
    group = [[i] for i in range(len(entries))]
    for i, j in _pairs(entries):
        one, two = group[i], group[j]
        if one is not two and not {entries[k][0] for k in one} & {entries[k][0] for k in two}:
            one += two
            for k in two:
                group[k] = one
    return [members for i, members in enumerate(group) if members[0] == i]


def _pairs(entries: Sequence[tuple[int, RawDetection]]) -> list[tuple[int, int]]:
    """Detections of different looks that are one object, the largest IoU first."""
    if len(entries) < 2:
        return []
    runs, boxes, category = _masks([d for _, d in entries])
    look = np.asarray([k for k, _ in entries])
    some = np.flatnonzero(np.diff(runs.first))
    first, second = (some[x] for x in overlapping_pairs(boxes[some], category[some]))
    use = look[first] != look[second]
    first, second = first[use], second[use]
    pixels, area = common_pixels(runs, first, second), runs.areas()
    iou = pixels / (area[first] + area[second] - pixels)
    order = np.lexsort((second, first, -iou))
    order = order[iou[order] >= LOOK_IOU]
    return list(zip(first[order].tolist(), second[order].tolist(), strict=True))


def _masks(found: Sequence[RawDetection]) -> tuple[Runs, Int, Int]:
    """Masks, their tight boxes and the classes of detections."""
    numbers = np.asarray([(d.row, d.col, *d.prob.shape, d.category) for d in found], np.int64)
    row, col, height, width, category = numbers.T
    flat = np.concatenate([d.prob.ravel() for d in found]) >= _INSIDE
    size = height * width
    runs = runs_of(flat, np.cumsum(size) - size, height, width, row, col)
    return runs, runs.boxes(), category


def _mean(members: Sequence[RawDetection], looks: int) -> RawDetection:
    row, col = min(d.row for d in members), min(d.col for d in members)
    height = max(d.row + d.prob.shape[0] for d in members) - row
    width = max(d.col + d.prob.shape[1] for d in members) - col
    prob = np.zeros((height, width), np.float32)
    for d in members:
        top, left = d.row - row, d.col - col
        prob[top : top + d.prob.shape[0], left : left + d.prob.shape[1]] += d.prob
    prob = np.minimum(prob / np.float32(looks), np.float32(1.0))
    return replace(
        members[0], score=sum(d.score for d in members) / looks, row=row, col=col, prob=prob
    )

"""Object metrics: one-to-one matching of detected and reference landslides on their masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from components.evaluation.footprints import Footprint, Overlaps, inside, paint
from components.evaluation.pixel import ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.grid import Window

#: Size bins: name → least pixel count; a bin ends where the next begins.
SIZE_BINS: Final = {"XS": 0, "S": 25, "M": 100, "L": 400}

#: A detection with this share of its pixels in ignored references is neither hit nor false alarm.
IGNORE_SHARE: Final = 0.5

UNMATCHED: Final = -1
IGNORED: Final = -2


class Matching(NamedTuple):
    """Outcome of a one-to-one matching.

    Parameters
    ----------
    reference : ndarray of int, shape (n detections,)
        Matched reference, `UNMATCHED` or `IGNORED`.
    iou : ndarray of float, shape (n detections,)
        IoU of the match, 0 where there is none.
    """

    reference: NDArray[np.int64]
    iou: NDArray[np.float64]


@dataclass(frozen=True)
class ObjectCounts:
    """Object counts; those of disjoint ground add up.

    Parameters
    ----------
    tp, fp, fn : int
        Matched references, detections without a reference, references without a detection.
    ignored : int
        Detections on ignored references.
    iou_sum : float
        Sum of the IoU of the matches.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    ignored: int = 0
    iou_sum: float = 0.0

    def __add__(self, other: ObjectCounts) -> ObjectCounts:
        return ObjectCounts(
            self.tp + other.tp,
            self.fp + other.fp,
            self.fn + other.fn,
            self.ignored + other.ignored,
            self.iou_sum + other.iou_sum,
        )


def score_order(detections: Sequence[Footprint]) -> list[int]:
    """Indices by falling score; equal scores by position, so that the input order does not matter.

    Parameters
    ----------
    detections : sequence of Footprint
        Any.

    Returns
    -------
    list of int
    """

    def rank(i: int) -> tuple[float, int, int, int, int]:
        d = detections[i]
        return -d.score, d.row, d.col, -d.n_pixels, i

    return sorted(range(len(detections)), key=rank)


def match(
    detections: Sequence[Footprint],
    references: Sequence[Footprint],
    pairs: Overlaps,
    iou_min: float,
    *,
    centred: bool = False,
) -> Matching:
    """Match greedily by score, one to one.

    Each detection in turn, best score first, takes the free reference of the highest IoU. Detections
    that find none are `IGNORED` where an ignored reference reaches `iou_min`, or where ignored
    references hold at least half of their pixels. The matching of the detections above a score is
    the beginning of the matching of all, so one call serves every threshold.

    Parameters
    ----------
    detections, references : sequence of Footprint
        On the same map.
    pairs : Overlaps
        Of exactly these.
    iou_min : float
        Least IoU of a match, in (0, 1].
    centred : bool
        Also ask that one centroid lies in the other mask.

    Returns
    -------
    Matching
    """
    by_detection: dict[int, list[int]] = {}
    for k, d in enumerate(pairs.detection.tolist()):
        by_detection.setdefault(d, []).append(k)
    matched = np.full(len(detections), UNMATCHED, dtype=np.int64)
    ious = np.zeros(len(detections))
    taken: set[int] = set()
    for d in score_order(detections):
        candidates = by_detection.get(d, [])
        good = [
            k for k in candidates if pairs.iou[k] >= iou_min and (pairs.centred[k] or not centred)
        ]
        free = [
            k
            for k in good
            if not references[pairs.reference[k]].ignore and int(pairs.reference[k]) not in taken
        ]
        if free:
            best = max(free, key=lambda k: (pairs.iou[k], -pairs.reference[k]))
            matched[d], ious[d] = pairs.reference[best], pairs.iou[best]
            taken.add(int(matched[d]))
            continue
        ignorable = [references[pairs.reference[k]] for k in candidates]
        ignorable = [r for r in ignorable if r.ignore]
        if any(references[pairs.reference[k]].ignore for k in good) or (
            ignorable and _share(detections[d], ignorable) >= IGNORE_SHARE
        ):
            matched[d] = IGNORED
    return Matching(matched, ious)


def _share(footprint: Footprint, others: Sequence[Footprint]) -> float:
    height, width = footprint.mask.shape
    hit = paint(others, footprint.row, footprint.col, height, width) & footprint.mask
    return float(hit.sum()) / footprint.n_pixels


def size_bin(n_pixels: int) -> str:
    """Name of the size bin of a landslide.

    Parameters
    ----------
    n_pixels : int
        Its pixels.

    Returns
    -------
    str
        Key of `SIZE_BINS`.
    """
    return [name for name, least in SIZE_BINS.items() if n_pixels >= least][-1]


class ObjectResult(NamedTuple):
    """Counts in all and by size bin.

    Parameters
    ----------
    total : ObjectCounts
        All sizes.
    bins : dict of str to ObjectCounts
        Hits and misses by the size of the reference, false alarms by their own.
    """

    total: ObjectCounts
    bins: dict[str, ObjectCounts]

    def __add__(self, other: ObjectResult) -> ObjectResult:  # type: ignore[override]
        return ObjectResult(
            self.total + other.total, {k: v + other.bins[k] for k, v in self.bins.items()}
        )


def count_objects(
    detections: Sequence[Footprint],
    references: Sequence[Footprint],
    matching: Matching,
    *,
    score_min: float,
    areas: Sequence[Window] | None = None,
) -> ObjectResult:
    """Count hits, false alarms and misses at an operating threshold inside an area.

    A hit or a miss belongs to the area that holds the reference's centroid, a false alarm to the one
    that holds the detection's: a landslide on the edge of an area is judged by its whole mask.

    Parameters
    ----------
    detections, references : sequence of Footprint
        As matched.
    matching : Matching
        Of all detections.
    score_min : float
        Detections of lower score are left out.
    areas : sequence of Window, optional
        The area; the whole map if left out.

    Returns
    -------
    ObjectResult
    """
    reference_in, detection_in = inside(references, areas), inside(detections, areas)
    bins = {name: ObjectCounts() for name in SIZE_BINS}
    found: set[int] = set()
    for d, r in enumerate(matching.reference.tolist()):
        if detections[d].score < score_min:
            continue
        if r >= 0:
            found.add(r)
            if reference_in[r]:
                hit = ObjectCounts(tp=1, iou_sum=float(matching.iou[d]))
                bins[size_bin(references[r].n_pixels)] += hit
        elif detection_in[d]:
            one = ObjectCounts(ignored=1) if r == IGNORED else ObjectCounts(fp=1)
            bins[size_bin(detections[d].n_pixels)] += one
    for r, reference in enumerate(references):
        if reference_in[r] and not reference.ignore and r not in found:
            bins[size_bin(reference.n_pixels)] += ObjectCounts(fn=1)
    return ObjectResult(sum(bins.values(), ObjectCounts()), bins)


def object_metrics(counts: ObjectCounts, area_km2: float) -> dict[str, float | int | None]:
    """Metrics of one set of object counts.

    Parameters
    ----------
    counts : ObjectCounts
        The counts.
    area_km2 : float
        Observable ground on which they were taken [km²].

    Returns
    -------
    dict
        ``precision``, ``recall``, ``f1``, ``mean_matched_iou``, ``pq`` = ΣIoU/(TP+FP/2+FN/2)
        (Kirillov et al. 2019), ``fp_per_1000km2``, ``n_reference`` = TP+FN and the
        counts. None where undefined.
    """
    tp, fp, fn = counts.tp, counts.fp, counts.fn
    return {
        "n_reference": tp + fn,
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "ignored": counts.ignored,
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "mean_matched_iou": ratio(counts.iou_sum, tp),
        "pq": ratio(counts.iou_sum, tp + fp / 2 + fn / 2),
        "fp_per_1000km2": ratio(1000 * fp, area_km2),
    }


class ScoredHits(NamedTuple):
    """Detections of an area by score, for precision–recall curves.

    Parameters
    ----------
    score : ndarray of float, shape (n,)
        Of the detections that count (ignored ones are left out).
    hit : ndarray of bool, shape (n,)
        Whether it matched a reference.
    n_references : int
        References that count.
    """

    score: NDArray[np.float64]
    hit: NDArray[np.bool_]
    n_references: int


def scored_hits(
    detections: Sequence[Footprint],
    references: Sequence[Footprint],
    matching: Matching,
    areas: Sequence[Window] | None = None,
) -> ScoredHits:
    """Hits and false alarms with their scores.

    Parameters
    ----------
    detections, references, matching, areas
        As in `count_objects`.

    Returns
    -------
    ScoredHits
    """
    reference_in, detection_in = inside(references, areas), inside(detections, areas)
    score: list[float] = []
    hit: list[bool] = []
    for d, r in enumerate(matching.reference.tolist()):
        if (r >= 0 and reference_in[r]) or (r == UNMATCHED and detection_in[d]):
            score.append(detections[d].score)
            hit.append(r >= 0)
    n = sum(1 for i, r in enumerate(references) if reference_in[i] and not r.ignore)
    return ScoredHits(np.array(score, dtype=np.float64), np.array(hit, dtype=np.bool_), n)


def precision_recall(hits: ScoredHits, points: int = 50) -> list[dict[str, float | None]]:
    """Precision and recall as the score threshold falls.

    Parameters
    ----------
    hits : ScoredHits
        Of one or of several maps.
    points : int
        Points at most, evenly spread over the detections.

    Returns
    -------
    list of dict
        ``score``, ``precision``, ``recall``, by falling score; a point stands for all detections of
        at least this score.
    """
    if hits.score.size == 0:
        return []
    order = np.argsort(-hits.score, kind="stable")
    score, tp = hits.score[order], np.cumsum(hits.hit[order])
    # The last detection of each run of equal scores: a threshold cannot part them.
    ends = np.flatnonzero(np.append(np.diff(score) != 0, True))
    picked = ends[
        np.unique(np.linspace(0, ends.size - 1, min(points, ends.size)).round().astype(int))
    ]
    return [
        {
            "score": float(score[i]),
            "precision": float(tp[i] / (i + 1)),
            "recall": ratio(float(tp[i]), hits.n_references),
        }
        for i in picked
    ]

"""One map scored: counts that add up over maps, and the metrics of their sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import shapely

from components.evaluation.coco_ap import MapObjects, coco_metrics
from components.evaluation.footprints import Footprint, Overlaps, boxes, inside, overlaps, paint
from components.evaluation.objects import (
    ObjectResult,
    ScoredHits,
    count_objects,
    match,
    object_metrics,
    precision_recall,
    scored_hits,
)
from components.evaluation.pixel import PixelCounts, count_pixels, pixel_metrics
from components.grid import Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: What each entry of metrics.json means; docs/metrics.md says the same at length.
DEFINITIONS: Final[dict[str, str]] = {
    "pixels.iou_fg": "TP/(TP+FP+FN) over landslide pixels",
    "pixels.dice": "F1 of pixels, 2TP/(2TP+FP+FN) = 2*IoU/(1+IoU)",
    "pixels.precision": "TP/(TP+FP) of pixels",
    "pixels.recall": "TP/(TP+FN) of pixels",
    "pixels.accuracy_px": "(TP+TN)/all pixels; dominated by background",
    "pixels.miou_2class": "mean of the IoU of landslide and of background",
    "objects.precision": "TP/(TP+FP) of landslides",
    "objects.recall": "TP/(TP+FN) of landslides",
    "objects.f1": "2TP/(2TP+FP+FN) of landslides",
    "objects.mean_matched_iou": "mean mask IoU of the matches",
    "objects.pq": "panoptic quality: sum of matched IoU / (TP+FP/2+FN/2)",
    "objects.fp_per_1000km2": "false alarms per 1000 km2 of observable ground",
    "objects_iou25": "the same for matches from IoU 0.25",
    "objects_centroid": "the same for matches from IoU 0.1 with a centroid inside the other mask",
    "sizes": "objects by size in pixels: XS < 25, S 25-99, M 100-399, L >= 400",
    "coco.ap": "COCO mask AP, mean over IoU 0.50:0.05:0.95, no cap on detections, all scores",
    "coco.ap50": "COCO mask AP at IoU 0.50",
    "coco.ap75": "COCO mask AP at IoU 0.75",
    "curve": "precision and recall of landslides as the score threshold falls",
}


_BLOCK: Final = 1024


@dataclass
class Tally:
    """What one method (model or baseline) scored on one or several maps.

    Parameters
    ----------
    pixels : PixelCounts
        At the operating threshold.
    objects : dict of str to ObjectResult
        Matching rule → counts at the operating threshold.
    hits : list of ScoredHits
        Of all scores, one entry a map.
    maps : list of MapObjects
        Of all scores, one entry a map.
    km2 : float
        Observable ground [km²].
    n : dict of str to int
        Objects by fate.
    """

    pixels: PixelCounts = field(default_factory=PixelCounts)
    objects: dict[str, ObjectResult] = field(default_factory=dict)
    hits: list[ScoredHits] = field(default_factory=list)
    maps: list[MapObjects] = field(default_factory=list)
    km2: float = 0.0
    n: dict[str, int] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Add the scores of another map.

        Parameters
        ----------
        other : Tally
            Of ground that is not in this one.
        """
        self.pixels += other.pixels
        for rule, result in other.objects.items():
            self.objects[rule] = self.objects[rule] + result if rule in self.objects else result
        self.hits += other.hits
        self.maps += other.maps
        self.km2 += other.km2
        for k, v in other.n.items():
            self.n[k] = self.n.get(k, 0) + v

    def metrics(self) -> dict[str, Any]:
        """Metrics of all maps together, from the sums of their counts.

        Returns
        -------
        dict
            ``pixels``, ``pixel_counts``, ``objects``, ``objects_iou25``, ``objects_centroid``, ``sizes``,
            ``coco``, ``curve``, ``n``; see `DEFINITIONS`.

        Raises
        ------
        ProcessingError
            SW-603 where metrics contradict each other.
        """
        out: dict[str, Any] = {
            "pixels": pixel_metrics(self.pixels),
            "pixel_counts": {
                "tp": self.pixels.tp,
                "fp": self.pixels.fp,
                "fn": self.pixels.fn,
                "tn": self.pixels.tn,
            },
        }
        for rule, result in self.objects.items():
            out[rule] = object_metrics(result.total, self.km2)
        headline = self.objects.get("objects")
        if headline is not None:
            out["sizes"] = {k: object_metrics(c, self.km2) for k, c in headline.bins.items()}
        out["coco"] = coco_metrics(self.maps)
        out["curve"] = precision_recall(
            ScoredHits(
                np.concatenate([h.score for h in self.hits]) if self.hits else np.empty(0),
                np.concatenate([h.hit for h in self.hits]) if self.hits else np.empty(0, bool),
                sum(h.n_references for h in self.hits),
            )
        )
        out["n"] = dict(self.n)
        return out


def score_map(
    detections: Sequence[Footprint],
    references: Sequence[Footprint],
    valid: NDArray[np.bool_],
    areas: Sequence[Window] | None,
    *,
    iou: float,
    score_min: float,
    min_pixels: int,
    pixel_km2: float,
) -> Tally:
    """Score one method on one map.

    Parameters
    ----------
    detections : sequence of Footprint
        Of all scores; those smaller than `min_pixels` are left out.
    references : sequence of Footprint
        Reference objects, ignored ones marked.
    valid : ndarray of bool, shape (H, W)
        Observable pixels; the others are ignored.
    areas : sequence of Window or None
        Disjoint windows; None for the whole map.
    iou : float
        Mask IoU of a match.
    score_min : float
        Operating threshold of object and pixel metrics; AP and the curve use all scores.
    min_pixels : int
        Minimum mapping unit.
    pixel_km2 : float
        Area of a pixel [km²].

    Returns
    -------
    Tally
        Counts that add up over maps; ``tally.metrics()`` gives the metrics.
    """
    kept = [d for d in detections if d.n_pixels >= min_pixels]
    pairs = overlaps(kept, references)
    rules = {
        "objects": match(kept, references, pairs, iou),
        "objects_iou25": match(kept, references, pairs, 0.25),
        "objects_centroid": match(kept, references, pairs, 0.1, centred=True),
    }
    windows = [Window(0, 0, *valid.shape)] if areas is None else list(areas)
    operating = [d for d in kept if d.score >= score_min]
    tally = Tally(
        pixels=_count_pixels(operating, references, valid, windows),
        objects={
            rule: count_objects(kept, references, m, score_min=score_min, areas=areas)
            for rule, m in rules.items()
        },
        hits=[scored_hits(kept, references, rules["objects"], areas)],
        maps=[_confine(kept, references, rules["objects"].reference, pairs, areas)],
        km2=sum(int(valid[w.slices].sum()) for w in windows) * pixel_km2,
    )
    in_area = inside(operating, areas)
    n_references = sum(
        1
        for r, hit in zip(references, inside(references, areas), strict=True)
        if hit and not r.ignore
    )
    tally.n = {
        "detections": int(in_area.sum()),
        "detections_all_scores": int(inside(kept, areas).sum()),
        "below_min_pixels": len(detections) - len(kept),
        "references": n_references,
    }
    return tally


def _count_pixels(
    detections: Sequence[Footprint],
    references: Sequence[Footprint],
    valid: NDArray[np.bool_],
    windows: Sequence[Window],
) -> PixelCounts:
    layers = {
        "found": list(detections),
        "wanted": [r for r in references if not r.ignore],
        "ignored": [r for r in references if r.ignore],
    }
    trees = {name: shapely.STRtree(boxes(f)) for name, f in layers.items()}
    total = PixelCounts()
    for w in windows:
        for row in range(w.row, w.row_end, _BLOCK):
            for col in range(w.col, w.col_end, _BLOCK):
                height, width = min(_BLOCK, w.row_end - row), min(_BLOCK, w.col_end - col)
                box = shapely.box(col, row, col + width, row + height)
                painted = {
                    name: paint(
                        [footprints[i] for i in trees[name].query(box)], row, col, height, width
                    )
                    for name, footprints in layers.items()
                }
                unseen = ~valid[row : row + height, col : col + width]
                ignore = unseen | (painted["ignored"] & ~painted["wanted"])
                total += count_pixels(painted["found"], painted["wanted"], ignore)
    return total


def _confine(
    detections: Sequence[Footprint],
    references: Sequence[Footprint],
    matched: NDArray[np.int64],
    pairs: Overlaps,
    areas: Sequence[Window] | None,
) -> MapObjects:
    """What belongs to the area, as in `count_objects`: matches by their reference, others by themselves."""
    reference_in, detection_in = inside(references, areas), inside(detections, areas)
    keep = detection_in.copy()
    for d, r in enumerate(matched.tolist()):
        if r >= 0:
            keep[d] = reference_in[r]
    new_d, new_r = np.cumsum(keep) - 1, np.cumsum(reference_in) - 1
    both = keep[pairs.detection] & reference_in[pairs.reference]
    return MapObjects(
        [d for d, k in zip(detections, keep, strict=True) if k],
        [r for r, k in zip(references, reference_in, strict=True) if k],
        Overlaps(
            new_d[pairs.detection[both]],
            new_r[pairs.reference[both]],
            pairs.intersection[both],
            pairs.iou[both],
            pairs.centred[both],
        ),
    )

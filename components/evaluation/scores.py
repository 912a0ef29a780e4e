"""One method on one simulated map: tables from which every figure is a sum over blocks of ground.

Matching goes by falling score, so that one matching serves every threshold. What belongs to a block is
decided by centroids, of the reference for hits and misses, of the detection for false alarms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from components.evaluation.bootstrap import BlockGrid
from components.evaluation.boundary import boundaries
from components.evaluation.coco_ap import CocoMatches, MapObjects, coco_matches
from components.evaluation.footprints import Footprint, overlaps, paint
from components.evaluation.objects import match
from components.evaluation.pixel import count_pixels
from components.evaluation.simtruth import Truth

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Matching rule → least IoU. Those of `any` take references of every size.
RULES: Final = {"iou25": 0.25, "iou50": 0.5, "iou75": 0.75, "any": 0.5}

#: Tolerances of the boundary figures [px].
TOLERANCES: Final = (1, 2)

#: A landslide counts as found at all from this IoU on, if one centroid lies in the other outline.
FOUND_IOU: Final = 0.1


@dataclass(frozen=True, eq=False)
class Detections:
    """Detections of at least the minimum mapping unit.

    Parameters
    ----------
    block, n_pixels : ndarray of int, shape (n,)
        Block of ground, size.
    score : ndarray of float, shape (n,)
        Of any scale.
    reference : dict of str to ndarray of int, shape (n,)
        By rule: the matched reference, `UNMATCHED` or `IGNORED`.
    iou : dict of str to ndarray of float, shape (n,)
        By rule: IoU of the match, 0 without.
    """

    block: NDArray[np.int64]
    n_pixels: NDArray[np.int64]
    score: NDArray[np.float64]
    reference: dict[str, NDArray[np.int64]]
    iou: dict[str, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class References:
    """References and other landslides.

    Parameters
    ----------
    block : ndarray of int, shape (m,)
        Block of ground.
    counted : dict of str to ndarray of bool, shape (m,)
        By rule: whether it is to be found.
    facts : dict of str to ndarray, shape (m,)
        As in `components.evaluation.simtruth.Truth`.
    """

    block: NDArray[np.int64]
    counted: dict[str, NDArray[np.bool_]]
    facts: dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Completeness:
    """All landslides on observable ground, seen by the radar or not.

    Parameters
    ----------
    block, n_pixels : ndarray of int, shape (k,)
        Block of ground, size of the whole footprint.
    rate : ndarray of float, shape (k,)
        |LOS| rate of the fastest point [mm/yr].
    score : ndarray of float, shape (k,)
        Of the detection that found it; −inf without.
    """

    block: NDArray[np.int64]
    n_pixels: NDArray[np.int64]
    rate: NDArray[np.float64]
    score: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scores:
    """One method on one map or, after `pool`, on several.

    Parameters
    ----------
    score_min : float
        Operating threshold; pixel and boundary counts are of the detections from it on.
    km2 : ndarray of float, shape (blocks,)
        Observable ground [km²].
    pixels : ndarray of int, shape (blocks, 4)
        TP, FP, FN, TN.
    boundary : dict of int to ndarray of int, shape (blocks, 4)
        By tolerance [px]: boundary pixels found, of them near, wanted, of them near.
    detections, references, completeness
        The tables.
    below_min_pixels : int
        Detections left out as smaller than the minimum mapping unit.
    objects : tuple of MapObjects
        Detections and headline references of each map, for the average precision.
    grids : tuple of BlockGrid
        Blocks of each map.
    """

    score_min: float
    km2: NDArray[np.float64]
    pixels: NDArray[np.int64]
    boundary: dict[int, NDArray[np.int64]]
    detections: Detections
    references: References
    completeness: Completeness
    below_min_pixels: int
    objects: tuple[MapObjects, ...] = field(repr=False)
    grids: tuple[BlockGrid, ...]


def score_simulated(
    found: Sequence[Footprint],
    truth: Truth,
    valid: NDArray[np.bool_],
    pixel_m: float,
    *,
    score_min: float,
    min_pixels: int,
) -> Scores:
    """Compare the detections of one method with the truth.

    Parameters
    ----------
    found : sequence of Footprint
        Detections of all scores.
    truth : Truth
        Of the map.
    valid : ndarray of bool, shape (H, W)
        Observable pixels.
    pixel_m : float
        Pixel size [m].
    score_min : float
        Operating threshold.
    min_pixels : int
        Minimum mapping unit: smaller detections are left out and counted.

    Returns
    -------
    Scores
    """
    shape = (valid.shape[0], valid.shape[1])
    grid = BlockGrid.of(shape, pixel_m)
    kept = [d for d in found if d.n_pixels >= min_pixels]
    headline = truth.headline()
    pairs = overlaps(kept, truth.references)
    sides = {rule: truth.references if rule == "any" else headline for rule in RULES}
    matchings = {rule: match(kept, sides[rule], pairs, iou) for rule, iou in RULES.items()}
    scores = np.array([d.score for d in kept], dtype=np.float64)

    whole = match(
        kept, truth.footprints, overlaps(kept, truth.footprints), FOUND_IOU, centred=True
    ).reference
    found_score = np.full(len(truth.footprints), -np.inf)
    found_score[whole[whole >= 0]] = scores[whole >= 0]

    operating = [d for d in kept if d.score >= score_min]
    painted = {
        name: paint(footprints, 0, 0, *shape)
        for name, footprints in (
            ("found", operating),
            ("wanted", [r for r in headline if not r.ignore]),
            ("ignored", [r for r in headline if r.ignore]),
        )
    }
    ignore = ~valid | (painted["ignored"] & ~painted["wanted"])
    pixels = [
        count_pixels(*(a[w.slices] for a in (painted["found"], painted["wanted"], ignore)))
        for w in grid.windows
    ]
    boundary = {}
    for tolerance in TOLERANCES:
        b = boundaries(painted["found"], painted["wanted"], ignore, tolerance)
        layers = (b.found, b.found_near, b.wanted, b.wanted_near)
        boundary[tolerance] = np.array(
            [[int(layer[w.slices].sum()) for layer in layers] for w in grid.windows], np.int64
        )
    return Scores(
        score_min=score_min,
        km2=np.array([valid[w.slices].sum() for w in grid.windows]) * pixel_m**2 / 1e6,
        pixels=np.array([[c.tp, c.fp, c.fn, c.tn] for c in pixels], np.int64),
        boundary=boundary,
        detections=Detections(
            block=grid.of_footprints(kept),
            n_pixels=np.array([d.n_pixels for d in kept], np.int64),
            score=scores,
            reference={rule: m.reference for rule, m in matchings.items()},
            iou={rule: m.iou for rule, m in matchings.items()},
        ),
        references=References(
            block=grid.of_footprints(truth.references),
            counted={
                rule: np.array([not r.ignore for r in side], np.bool_)
                for rule, side in sides.items()
            },
            facts=truth.facts,
        ),
        completeness=Completeness(
            block=grid.of_footprints(truth.footprints),
            n_pixels=np.array([f.n_pixels for f in truth.footprints], np.int64),
            rate=truth.footprint_rate,
            score=found_score,
        ),
        below_min_pixels=len(found) - len(kept),
        objects=(MapObjects(kept, headline, pairs),),
        grids=(grid,),
    )


def coco_by_block(s: Scores) -> tuple[CocoMatches, NDArray[np.int64]]:
    """COCO's matching of all maps together, and the block of each of its groups.

    Parameters
    ----------
    s : Scores
        Of one method.

    Returns
    -------
    CocoMatches
        Of the headline references.
    ndarray of int, shape (groups,)
        Blocks.
    """
    coco = coco_matches(s.objects)
    first = np.concatenate([[0], np.cumsum([len(g) for g in s.grids])])
    places = coco.place.tolist()
    return coco, np.array([first[m] + s.grids[m].at(r, c) for m, r, c in places], np.int64)


def pool(parts: Sequence[Scores]) -> Scores:
    """Several maps as one: more blocks, more rows.

    Parameters
    ----------
    parts : sequence of Scores
        At least one, of one method at one threshold.

    Returns
    -------
    Scores
    """
    if len(parts) == 1:
        return parts[0]
    blocks = np.concatenate([[0], np.cumsum([len(p.km2) for p in parts])])
    rows = np.concatenate([[0], np.cumsum([len(p.references.block) for p in parts])])

    def joined(values: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate(values)

    def shifted(values: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return joined([v + b for v, b in zip(values, blocks, strict=False)])

    return Scores(
        score_min=parts[0].score_min,
        km2=joined([p.km2 for p in parts]),
        pixels=joined([p.pixels for p in parts]),
        boundary={t: joined([p.boundary[t] for p in parts]) for t in TOLERANCES},
        detections=Detections(
            block=shifted([p.detections.block for p in parts]),
            n_pixels=joined([p.detections.n_pixels for p in parts]),
            score=joined([p.detections.score for p in parts]),
            reference={
                rule: joined(
                    [
                        # Matches point into the joined table; what is not a match stays.
                        np.where(r >= 0, r + row, r)
                        for r, row in zip(
                            (p.detections.reference[rule] for p in parts), rows, strict=False
                        )
                    ]
                )
                for rule in RULES
            },
            iou={rule: joined([p.detections.iou[rule] for p in parts]) for rule in RULES},
        ),
        references=References(
            block=shifted([p.references.block for p in parts]),
            counted={rule: joined([p.references.counted[rule] for p in parts]) for rule in RULES},
            facts={
                name: joined([p.references.facts[name] for p in parts])
                for name in parts[0].references.facts
            },
        ),
        completeness=Completeness(
            block=shifted([p.completeness.block for p in parts]),
            n_pixels=joined([p.completeness.n_pixels for p in parts]),
            rate=joined([p.completeness.rate for p in parts]),
            score=joined([p.completeness.score for p in parts]),
        ),
        below_min_pixels=sum(p.below_min_pixels for p in parts),
        objects=tuple(o for p in parts for o in p.objects),
        grids=tuple(g for p in parts for g in p.grids),
    )

"""COCO average precision of stitched maps, through pycocotools.

A stitched map is one image to COCO, but one too large for its masks. Detections and references that
overlap, directly or through others, form small groups; each group becomes an image of its own. Since
COCO matches only what overlaps and ranks the detections of all images together, the result is that
of the whole map as one image.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from components.evaluation.footprints import Footprint, Overlaps, pixel_of
from components.evaluation.objects import SIZE_BINS

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: COCO's own "small" (below 32² px) holds nearly every landslide; our size bins stand beside it.
#: COCO's bounds are inclusive on both sides, pixel counts whole: half a pixel less parts the bins.
_AREA_RANGES: Final = {
    "all": (0.0, 1e12),
    "small": (0.0, 32.0**2 - 0.5),
    **{
        name: (float(least) - 0.5, (list(SIZE_BINS.values())[i + 1] - 0.5) if i < 3 else 1e12)
        for i, (name, least) in enumerate(SIZE_BINS.items())
    },
}

#: IoU from which a match counts, and recall at which precision is read, as COCO has them.
_IOUS: Final = np.linspace(0.5, 0.95, 10)
_RECALLS: Final = np.linspace(0.0, 1.0, 101)

#: Weightings worked on at a time; bounds the memory.
_CHUNK: Final = 64


class MapObjects(NamedTuple):
    """Detections and references of one map (track and period), already confined to the area.

    Parameters
    ----------
    detections, references : sequence of Footprint
        On one map.
    pairs : Overlaps
        Of exactly these.
    """

    detections: Sequence[Footprint]
    references: Sequence[Footprint]
    pairs: Overlaps


class CocoMatches(NamedTuple):
    """Outcome of COCO's matching, by falling score.

    Parameters
    ----------
    score : ndarray of float, shape (n,)
        Detections of all maps.
    group : ndarray of int, shape (n,)
        Group of each detection: landslides that overlap, directly or through others.
    hit, counts : dict of str to ndarray of bool, shape (10, n)
        By area range and IoU threshold: matched, and neither ignored nor outside the range.
    wanted : dict of str to ndarray of int, shape (groups,)
        References to find, by area range.
    place : ndarray of int, shape (groups, 3)
        Map, row and column of each group: of the centroid of its first reference, or detection.
    """

    score: NDArray[np.float64]
    group: NDArray[np.int64]
    hit: dict[str, NDArray[np.bool_]]
    counts: dict[str, NDArray[np.bool_]]
    wanted: dict[str, NDArray[np.int64]]
    place: NDArray[np.int64]


def coco_matches(maps: Sequence[MapObjects]) -> CocoMatches:
    """Match as COCO does, without a cap on the number of detections.

    Parameters
    ----------
    maps : sequence of MapObjects
        One entry per track and period. Ignored references become ``iscrowd`` regions.

    Returns
    -------
    CocoMatches
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images, annotations, results, place = _coco_records(maps)
    n_t, n_images = len(_IOUS), len(images)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in _AREA_RANGES}
    wanted = {name: np.zeros(n_images, np.int64) for name in _AREA_RANGES}
    if images:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            head = {"images": images, "categories": [{"id": 1, "name": "landslide"}]}
            sides = []
            for records in (annotations, results):
                coco = COCO()
                coco.dataset = {**head, "annotations": records}
                coco.createIndex()
                sides.append(coco)
            run = COCOeval(*sides, "segm")
            run.params.maxDets = [max(1, len(results))]
            run.params.areaRng = [list(r) for r in _AREA_RANGES.values()]
            run.params.areaRngLbl = list(_AREA_RANGES)
            run.evaluate()
        # One entry by area range and image, in this order.
        entries = iter(run.evalImgs)
        for name in _AREA_RANGES:
            for image in range(n_images):
                entry = next(entries)
                found[name].append({**entry, "image": image})
                wanted[name][image] = int((np.asarray(entry["gtIgnore"]) == 0).sum())
    everything = found["all"]
    group = np.array([e["image"] for e in everything for _ in e["dtScores"]], dtype=np.int64)
    score = np.array([s for e in everything for s in e["dtScores"]], dtype=np.float64)
    order = np.argsort(-score, kind="mergesort")
    hit, counts = {}, {}
    for name, rows in found.items():
        matched, ignored = (
            np.concatenate([np.asarray(e[k], bool).reshape(n_t, -1) for e in rows], axis=1)
            if rows
            else np.zeros((n_t, 0), bool)
            for k in ("dtMatches", "dtIgnore")
        )
        hit[name], counts[name] = matched[:, order], ~ignored[:, order]
    return CocoMatches(score[order], group[order], hit, counts, wanted, place)


def average_precision(
    matches: CocoMatches, weights: NDArray[np.float64], area: str = "all"
) -> NDArray[np.float64]:
    """COCO's average precision for any number of weightings of the groups.

    Parameters
    ----------
    matches : CocoMatches
        Of `coco_matches`.
    weights : ndarray of float, shape (draws, groups)
        How often each group counts; a row of ones is the plain AP.
    area : str
        Area range.

    Returns
    -------
    ndarray of float, shape (draws, 10)
        Precision averaged over 101 recalls, by IoU threshold 0.50, 0.55 … 0.95; NaN where there is
        nothing to find.
    """
    out = np.full((len(weights), len(_IOUS)), np.nan)
    wanted = weights @ matches.wanted[area]
    for start in range(0, len(weights), _CHUNK):
        rows = slice(start, start + _CHUNK)
        w = weights[rows][:, matches.group]
        for t in range(len(_IOUS)):
            counts = matches.counts[area][t]
            hit = matches.hit[area][t][counts]
            here = w[:, counts]
            tp, all_ = np.cumsum(here * hit, axis=1), np.cumsum(here, axis=1)
            precision = tp / np.maximum(all_, np.spacing(1))
            # Precision at a recall is the best at that recall or a higher one.
            precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            for k, n in enumerate(wanted[rows]):
                if n > 0:
                    at = np.searchsorted(tp[k] / n, _RECALLS, side="left")
                    reached = at < precision.shape[1]
                    out[start + k, t] = precision[k, at[reached]].sum() / len(_RECALLS)
    return out


def coco_metrics(maps: Sequence[MapObjects]) -> dict[str, float | int | None]:
    """Mask AP over all maps together.

    Parameters
    ----------
    maps : sequence of MapObjects
        One entry per track and period. Ignored references become ``iscrowd`` regions.

    Returns
    -------
    dict
        ``ap`` (mean over IoU 0.50:0.05:0.95), ``ap50``, ``ap75``, ``ap_small`` (COCO's class below
        32² px), ``ap_XS`` … ``ap_L`` by size bin, ``max_detections`` (no cap: the number of
        detections in all; COCO's habitual 100 would hide most of a map). None where there is no
        reference to find.
    """
    matches = coco_matches(maps)
    once = np.ones((1, len(matches.place)))
    everything = average_precision(matches, once)[0]
    out: dict[str, float | int | None] = {
        "ap": _known(everything.mean()),
        "ap50": _known(everything[0]),
        "ap75": _known(everything[5]),
    }
    for name in _AREA_RANGES:
        if name != "all":
            out[f"ap_{name}"] = _known(average_precision(matches, once, name)[0].mean())
    out["max_detections"] = max(1, len(matches.score))
    return out


def _known(value: np.floating[Any]) -> float | None:
    return None if np.isnan(value) else float(value)


def _coco_records(
    maps: Sequence[MapObjects],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]], NDArray[np.int64]]:
    places: list[tuple[int, int, int]] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, m in enumerate(maps):
        for detections, references in _groups(m):
            places.append((number, *pixel_of([*references, *detections][0])))
            image = len(images) + 1
            members = [*detections, *references]
            row, col = min(f.row for f in members), min(f.col for f in members)
            height = max(f.row + f.mask.shape[0] for f in members) - row
            width = max(f.col + f.mask.shape[1] for f in members) - col
            images.append({"id": image, "height": height, "width": width})
            for f in references:
                record = _record(f, row, col, height, width)
                record |= {"id": len(annotations) + 1, "image_id": image}
                annotations.append({**record, "iscrowd": int(f.ignore)})
            for f in detections:
                record = _record(f, row, col, height, width)
                record |= {"id": len(results) + 1, "image_id": image}
                results.append({**record, "score": f.score, "iscrowd": 0})
    return images, annotations, results, np.array(places, np.int64).reshape(-1, 3)


def _groups(m: MapObjects) -> list[tuple[list[Footprint], list[Footprint]]]:
    n, k = len(m.detections), len(m.references)
    if n + k == 0:
        return []
    graph = coo_array(
        (np.ones(m.pairs.iou.size), (m.pairs.detection, m.pairs.reference + n)),
        shape=(n + k, n + k),
    )
    _, group = connected_components(graph, directed=False)
    members: dict[int, tuple[list[Footprint], list[Footprint]]] = {}
    for i, g in enumerate(group.tolist()):
        side = members.setdefault(g, ([], []))
        if i < n:
            side[0].append(m.detections[i])
        else:
            side[1].append(m.references[i - n])
    return list(members.values())


def _record(f: Footprint, row: int, col: int, height: int, width: int) -> dict[str, Any]:
    from pycocotools import mask as rle

    canvas = np.zeros((height, width), dtype=np.uint8, order="F")
    top, left = f.row - row, f.col - col
    canvas[top : top + f.mask.shape[0], left : left + f.mask.shape[1]] = f.mask
    return {
        "category_id": 1,
        "segmentation": rle.encode(canvas),
        "area": f.n_pixels,
        "bbox": [left, top, f.mask.shape[1], f.mask.shape[0]],
    }

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

from components.evaluation.footprints import Footprint, Overlaps
from components.evaluation.objects import SIZE_BINS

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: COCO's size classes (32² and 96² px) hold no landslide; ours replace them. COCO's bounds are
#: inclusive on both sides, pixel counts whole: half a pixel less parts the bins.
_AREA_RANGES: Final = {
    "all": (0.0, 1e12),
    **{
        name: (float(least) - 0.5, (list(SIZE_BINS.values())[i + 1] - 0.5) if i < 3 else 1e12)
        for i, (name, least) in enumerate(SIZE_BINS.items())
    },
}


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


def coco_metrics(maps: Sequence[MapObjects]) -> dict[str, float | int | None]:
    """Mask AP over all maps together.

    Parameters
    ----------
    maps : sequence of MapObjects
        One entry per track and period. Ignored references become ``iscrowd`` regions.

    Returns
    -------
    dict
        ``ap`` (mean over IoU 0.50:0.05:0.95), ``ap50``, ``ap75``, ``ap_XS`` … ``ap_L`` by size bin,
        ``max_detections`` (no cap: the number of detections in all; COCO's habitual 100 would hide
        most of a map). None where there is no reference to find.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images, annotations, results = _coco_records(maps)
    cap = max(1, len(results))
    out: dict[str, float | int | None] = {"ap": None, "ap50": None, "ap75": None}
    out |= {f"ap_{name}": None for name in SIZE_BINS}
    out["max_detections"] = cap
    if not any(a["iscrowd"] == 0 for a in annotations):
        return out
    if not results:
        # Nothing found although there was something to find; pycocotools refuses empty results.
        present = {name for m in maps for r in m.references if not r.ignore for name in _names(r)}
        return out | {"ap": 0.0, "ap50": 0.0, "ap75": 0.0} | {f"ap_{n}": 0.0 for n in present}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = COCO()
        truth.dataset = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "landslide"}],
        }
        truth.createIndex()
        found = COCO()
        found.dataset = {**truth.dataset, "annotations": results}
        found.createIndex()
        run = COCOeval(truth, found, "segm")
        run.params.maxDets = [cap]
        run.params.areaRng = [list(r) for r in _AREA_RANGES.values()]
        run.params.areaRngLbl = list(_AREA_RANGES)
        run.evaluate()
        run.accumulate()
    # [IoU, recall, category, area, maxDets]; -1 where there is nothing to find. COCOeval.summarize
    # expects three caps and its own areas, hence the means are taken here.
    precision = run.eval["precision"][:, :, 0, :, 0]
    out["ap"] = _mean(precision[:, :, 0])
    out["ap50"] = _mean(precision[0, :, 0])
    out["ap75"] = _mean(precision[5, :, 0])
    for i, name in enumerate(_AREA_RANGES):
        if name != "all":
            out[f"ap_{name}"] = _mean(precision[:, :, i])
    return out


def _names(reference: Footprint) -> list[str]:
    return [
        name
        for name, (low, high) in _AREA_RANGES.items()
        if name != "all" and low <= reference.n_pixels <= high
    ]


def _mean(precision: NDArray[np.float64]) -> float | None:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None


def _coco_records(
    maps: Sequence[MapObjects],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for m in maps:
        for detections, references in _groups(m):
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
    return images, annotations, results


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

"""Object matching, counting and AP: brute force, hand-counted cases, invariances."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from components.evaluation.baseline import threshold_clusters
from components.evaluation.coco_ap import MapObjects, coco_metrics
from components.evaluation.footprints import Footprint, inside, overlaps, paint
from components.evaluation.objects import (
    IGNORED,
    SIZE_BINS,
    UNMATCHED,
    count_objects,
    match,
    object_metrics,
    precision_recall,
    scored_hits,
    size_bin,
)
from components.grid import Window

SIZE = 24


def box(row: int, col: int, height: int, width: int, score: float = 1.0, *, ignore: bool = False):
    return Footprint(row, col, np.ones((height, width), bool), score, ignore)


def dense(f: Footprint, size: int = SIZE) -> np.ndarray:
    return paint([f], 0, 0, size, size)


@st.composite
def scenes(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def one(score: float, *, ignore: bool) -> Footprint:
        h, w = rng.integers(1, 9, 2)
        mask = rng.random((h, w)) < 0.8
        mask[rng.integers(h), rng.integers(w)] = True
        return Footprint(
            int(rng.integers(SIZE - h)), int(rng.integers(SIZE - w)), mask, score, ignore
        )

    n, k = rng.integers(0, 9, 2)
    scores = rng.permutation(np.linspace(0.1, 0.9, n)) if n else []
    detections = [one(float(s), ignore=False) for s in scores]
    references = [one(1.0, ignore=bool(rng.random() < 0.25)) for _ in range(k)]
    return detections, references


def brute_force(detections, references, iou_min):
    """The rule of `match` on full masks, pair by pair."""
    out = {}
    taken = set()
    for d in sorted(range(len(detections)), key=lambda i: -detections[i].score):
        a = dense(detections[d])
        ious = [(a & dense(r)).sum() / (a | dense(r)).sum() for r in references]
        best = [
            (iou, -i)
            for i, iou in enumerate(ious)
            if iou >= iou_min and i not in taken and not references[i].ignore
        ]
        if best:
            out[d] = -max(best)[1]
            taken.add(out[d])
            continue
        ignored = [r for r in references if r.ignore]
        union = np.any([dense(r) for r in ignored], axis=0) if ignored else np.zeros_like(a)
        hit = any(iou >= iou_min and r.ignore for iou, r in zip(ious, references, strict=True))
        out[d] = IGNORED if hit or (a & union).sum() >= 0.5 * a.sum() else UNMATCHED
    return [out[d] for d in range(len(detections))]


@settings(max_examples=150, deadline=None)
@given(scenes(), st.sampled_from([0.1, 0.25, 0.5]))
def test_matching_equals_brute_force(scene, iou_min: float) -> None:
    detections, references = scene
    pairs = overlaps(detections, references)
    m = match(detections, references, pairs, iou_min)
    assert m.reference.tolist() == brute_force(detections, references, iou_min)
    for d, r, common, iou in zip(
        pairs.detection, pairs.reference, pairs.intersection, pairs.iou, strict=True
    ):
        a, b = dense(detections[d]), dense(references[r])
        assert common == (a & b).sum() > 0
        assert iou == pytest.approx((a & b).sum() / (a | b).sum())
    hits = m.reference[m.reference >= 0]
    assert len(set(hits.tolist())) == len(hits)


@settings(max_examples=60, deadline=None)
@given(scenes(), st.randoms(use_true_random=False))
def test_order_does_not_matter_and_thresholds_nest(scene, shuffler) -> None:
    detections, references = scene
    whole = match(detections, references, overlaps(detections, references), 0.25)
    shuffled = detections.copy()
    shuffler.shuffle(shuffled)
    again = match(shuffled, references, overlaps(shuffled, references), 0.25)
    by_score = dict(zip((d.score for d in shuffled), again.reference.tolist(), strict=True))
    assert [by_score[d.score] for d in detections] == whole.reference.tolist()
    # The matching of the better half is the beginning of the matching of all.
    top = [d for d in detections if d.score >= 0.5]
    part = match(top, references, overlaps(top, references), 0.25).reference.tolist()
    assert part == [by_score[d.score] for d in top]


def test_hand_counted_objects() -> None:
    references = [box(0, 0, 10, 10), box(0, 20, 10, 10), box(20, 0, 4, 4, ignore=True)]
    detections = [
        box(0, 0, 10, 10, 0.9),  # perfect
        box(0, 1, 10, 10, 0.8),  # second on a taken reference: false alarm
        box(0, 24, 10, 10, 0.7),  # IoU 60/140: miss and false alarm at 0.5
        box(20, 0, 4, 4, 0.6),  # on ignored ground
        box(40, 40, 5, 5, 0.3),  # below the threshold
    ]
    pairs = overlaps(detections, references)
    m = match(detections, references, pairs, 0.5)
    result = count_objects(detections, references, m, score_min=0.5)
    got = object_metrics(result.total, 100.0)
    assert (got["tp"], got["fp"], got["fn"], got["ignored"]) == (1, 2, 1, 1)
    assert got["precision"] == pytest.approx(1 / 3)
    assert got["recall"] == 0.5
    assert got["f1"] == pytest.approx(2 / 5)
    assert got["mean_matched_iou"] == 1.0
    assert got["pq"] == pytest.approx(1 / (1 + 1 + 0.5))
    assert got["fp_per_1000km2"] == 20.0
    loose = match(detections, references, pairs, 0.25)
    assert count_objects(detections, references, loose, score_min=0.5).total.tp == 2
    # A centroid in the other mask is needed: (5, 28.5) is inside columns 20–29.
    centred = match(detections, references, pairs, 0.1, centred=True)
    assert centred.reference.tolist()[:3] == [0, UNMATCHED, 1]


def test_sizes_bin_hits_by_reference_and_alarms_by_themselves() -> None:
    assert [size_bin(n) for n in (1, 24, 25, 99, 100, 399, 400, 9999)] == [
        "XS", "XS", "S", "S", "M", "M", "L", "L",
    ]  # fmt: skip
    references = [box(0, 0, 10, 10), box(30, 30, 3, 3)]
    detections = [box(0, 0, 10, 9, 0.9), box(60, 60, 20, 20, 0.8)]
    m = match(detections, references, overlaps(detections, references), 0.5)
    bins = count_objects(detections, references, m, score_min=0.0).bins
    assert (bins["M"].tp, bins["L"].fp, bins["XS"].fn) == (1, 1, 1)
    assert sum(b.tp + b.fp + b.fn for b in bins.values()) == 3
    assert list(bins) == list(SIZE_BINS)


def test_objects_belong_to_the_area_of_their_centroid() -> None:
    left, right = [Window(0, 0, 50, 50)], [Window(0, 50, 50, 50)]
    # Centroid of the reference left of the border, of the detection right of it.
    references, detections = (
        [box(10, 44, 10, 10)],
        [box(10, 47, 10, 10, 0.9), box(30, 80, 5, 5, 0.8)],
    )
    assert inside(references, left).tolist() == [True]
    assert inside(detections, left).tolist() == [False, False]
    m = match(detections, references, overlaps(detections, references), 0.5)
    a = count_objects(detections, references, m, score_min=0, areas=left).total
    b = count_objects(detections, references, m, score_min=0, areas=right).total
    assert (a.tp, a.fp, a.fn) == (1, 0, 0)
    assert (b.tp, b.fp, b.fn) == (0, 1, 0)
    assert a + b == count_objects(detections, references, m, score_min=0).total


def test_precision_recall_curve() -> None:
    references = [box(0, 0, 5, 5), box(0, 10, 5, 5)]
    detections = [box(0, 0, 5, 5, 0.9), box(30, 0, 5, 5, 0.9), box(0, 10, 5, 5, 0.4)]
    m = match(detections, references, overlaps(detections, references), 0.5)
    curve = precision_recall(scored_hits(detections, references, m))
    assert curve == [
        {"score": 0.9, "precision": 0.5, "recall": 0.5},  # equal scores stay together
        {"score": 0.4, "precision": pytest.approx(2 / 3), "recall": 1.0},
    ]
    assert (
        precision_recall(
            scored_hits([], references, match([], references, overlaps([], references), 0.5))
        )
        == []
    )


def whole_map_ap(detections, references, size: int) -> dict[str, float]:
    """pycocotools on one image of the whole map, without our grouping."""

    def record(f: Footprint, i: int) -> dict:
        segmentation = rle.encode(np.asfortranarray(dense(f, size).astype(np.uint8)))
        return {
            "id": i + 1, "image_id": 1, "category_id": 1, "segmentation": segmentation,
            "area": f.n_pixels, "bbox": [f.col, f.row, f.mask.shape[1], f.mask.shape[0]],
            "iscrowd": int(f.ignore), "score": f.score,
        }  # fmt: skip

    head = {"images": [{"id": 1, "height": size, "width": size}], "categories": [{"id": 1}]}
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):
        for side in (references, detections):
            coco = COCO()
            coco.dataset = {**head, "annotations": [record(f, i) for i, f in enumerate(side)]}
            coco.createIndex()
            sides.append(coco)
        run = COCOeval(*sides, "segm")
        run.params.maxDets = [1000]
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e12]], ["all"]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][..., 0, 0, 0]
    mean = lambda p: float(p[p > -1].mean())  # noqa: E731
    return {"ap": mean(precision), "ap50": mean(precision[0]), "ap75": mean(precision[5])}


def test_coco_groups_equal_the_whole_map() -> None:
    rng = np.random.default_rng(3)
    size = 120
    references, detections = [], []
    for i, score in enumerate(rng.permutation(np.linspace(0.05, 0.95, 60))):
        h, w = rng.integers(3, 14, 2)
        r, c = rng.integers(2, size - 18, 2)
        references.append(box(int(r), int(c), int(h), int(w), ignore=i % 9 == 0))
        dr, dc = rng.integers(-1, 2, 2)
        if i % 4:
            detections.append(box(int(r + dr), int(c + dc), int(h), int(w), float(score)))
        else:
            detections.append(box(int(c), int(r), 4, 4, float(score)))
    got = coco_metrics([MapObjects(detections, references, overlaps(detections, references))])
    wanted = whole_map_ap(detections, references, size)
    assert 0.05 < wanted["ap"] < 0.95
    for name, value in wanted.items():
        assert got[name] == pytest.approx(value, abs=1e-12), name


def test_coco_does_not_cap_detections() -> None:
    references = [box(10 * r, 10 * c, 6, 6) for r in range(15) for c in range(10)]
    detections = [Footprint(f.row, f.col, f.mask, 0.9) for f in references]
    got = coco_metrics([MapObjects(detections, references, overlaps(detections, references))])
    assert got["ap"] == got["ap50"] == got["ap_S"] == pytest.approx(1.0)
    assert got["max_detections"] == 150
    assert got["ap_L"] is None


def test_coco_edge_cases() -> None:
    found, wanted = [box(0, 0, 5, 5, 0.5)], [box(0, 0, 5, 5)]
    nothing_to_find = coco_metrics([MapObjects(found, [], overlaps(found, []))])
    assert nothing_to_find["ap"] is None
    nothing_found = coco_metrics([MapObjects([], wanted, overlaps([], wanted))])
    assert nothing_found["ap"] == nothing_found["ap50"] == nothing_found["ap_S"] == 0.0
    assert nothing_found["ap_M"] is None


def test_baseline_finds_a_planted_landslide() -> None:
    rng = np.random.default_rng(5)
    v = rng.normal(3.0, 2.0, (200, 220)).astype(np.float32)
    planted = np.zeros(v.shape, bool)
    planted[50:62, 100:115] = True
    v[planted] -= 60.0
    v[55, 105] = np.nan  # a hole in the data stays a hole
    valid = np.ones(v.shape, bool)
    valid[:, :20] = False
    v[:, :20] = 500.0  # fast, but not measured
    found = threshold_clusters(v, valid, k=4.0, min_pixels=12)
    assert len(found) == 1
    mask = paint(found, 0, 0, *v.shape)
    expected = planted.copy()
    expected[55, 105] = False
    # Noise beyond 4σ may touch the edge.
    assert (mask & expected).sum() == expected.sum()
    assert mask.sum() <= expected.sum() + 4
    assert found[0].score == pytest.approx(30.0, rel=0.1)


def test_baseline_clusters_are_8_connected_and_sized() -> None:
    v = np.zeros((40, 40), np.float32)
    v[::2] = 1.0
    v[1::2] = -1.0
    for i in range(12):
        v[i + 3, i + 3] = 50.0
    valid = np.ones(v.shape, bool)
    assert [f.n_pixels for f in threshold_clusters(v, valid, k=5, min_pixels=12)] == [12]
    assert threshold_clusters(v, valid, k=5, min_pixels=13) == []
    assert threshold_clusters(np.zeros_like(v), valid) == []
    assert threshold_clusters(v, np.zeros_like(valid)) == []

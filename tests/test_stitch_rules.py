"""Each rule of the stitcher alone, on cases small enough to know the answer by counting pixels."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from scenes import detection, oracle, window_map

from components.config import InferConfig
from components.cube.read import CubeInfo
from components.grid.windows import Window
from components.inference.average import Made
from components.inference.coverage import Coverage
from components.inference.following import stitch_shards
from components.inference.groups import components, group
from components.inference.instance_file import load_instances
from components.inference.instances import Detection, Instance
from components.inference.leftovers import clear
from components.inference.merge_methods import Method, merge
from components.inference.plan import Plan, PlannedWindow
from components.inference.pool import gather
from components.inference.runs import runs_of
from components.inference.seams import Links, find_links, overlapping_pairs, touches_cut
from components.inference.shards import State, WindowResult, save_shard, shard_path
from components.inference.stitch import Stitcher, stitch
from components.workspace import Workspace

Mask = NDArray[np.bool_]

SIDE = 120

#: Two windows side by side: their seam is 24 columns wide, from 40 to 64.
WEST, EAST = Window(0, 0, 64, 64), Window(0, 40, 64, 64)


def block(row: int, col: int, row_end: int, col_end: int) -> Mask:
    """A rectangle on a map of `SIDE` pixels a side."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[row:row_end, col:col_end] = True
    return mask


def links(*seen: tuple[Window, Mask]) -> set[tuple[int, int, int]]:
    """Rule and both ends of each link: the same however the map is turned and detections are listed."""
    grounds = np.stack([block(w.row, w.col, w.row_end, w.col_end) for w, _ in seen])
    masks = np.stack([mask for _, mask in seen])
    names = list(range(len(seen)))
    answers = [
        _links(np.rot90(grounds, turns, (1, 2)), np.rot90(masks, turns, (1, 2)), order)
        for turns in range(4)
        for order in (names, names[::-1])
    ]
    assert all(a == answers[0] for a in answers)
    return answers[0]


def _links(grounds: Mask, masks: Mask, names: list[int]) -> set[tuple[int, int, int]]:
    n = len(names)
    zero, side = np.zeros(n, np.int64), np.full(n, SIDE)
    frames, runs = (
        runs_of(m[names].ravel(), np.arange(n) * SIDE**2, side, side, zero, zero)
        for m in (grounds, masks)
    )
    windows, window = np.unique(frames.boxes(), axis=0, return_inverse=True)
    a, b = overlapping_pairs(runs.boxes(), zero)
    apart = window[a] != window[b]
    found = find_links(
        *(runs, window, windows, a[apart], b[apart], np.arange(n)), seam_iou=0.3, containment=0.7
    )
    rows = zip(found.rule.tolist(), found.first.tolist(), found.second.tolist(), strict=True)
    ends = ((rule, names[i], names[j]) for rule, i, j in rows)
    return {(rule, min(i, j), max(i, j)) for rule, i, j in ends}


# -- which detections are the same ground ----------------------------------------------------------


def test_weak_agreement_needs_a_tenth_of_the_smaller_detection() -> None:
    # Two windows that share a corner of 8 × 8 px.
    a, b = Window(0, 0, 64, 64), Window(56, 56, 64, 64)
    large = block(30, 30, 60, 60)  # 4 × 4 px of 900 in the corner
    # 4 × 7 px in the corner, 12 of them common: IoU 12 / 32, and three quarters of the other piece.
    assert links((a, large), (b, block(56, 57, 60, 86))) == {(1, 0, 1)}  # 12 of 116
    assert links((a, large), (b, block(56, 57, 60, 88))) == set()  # 12 of 124
    # From one half on the IoU is enough: 16 of 32, and 16 of 216.
    assert links((a, large), (b, block(56, 56, 60, 110))) == {(1, 0, 1)}


def test_partners_agree_only_where_each_is_the_best_of_the_other() -> None:
    one = (EAST, block(10, 42, 30, 60))
    most = (WEST, block(10, 42, 22, 60))  # IoU 12 / 20
    rest = (WEST, block(23, 42, 30, 60))  # IoU 7 / 20: enough, but the other has a better partner
    assert links(one, rest) == {(1, 0, 1)}
    assert links(one, most, rest) == {(1, 0, 1)}


@pytest.mark.parametrize(("end", "cut"), [(61, False), (62, True), (64, True)])
def test_a_piece_in_a_landslide_with_a_partner_is_linked_if_its_window_cut_it_off(
    end: int, cut: bool
) -> None:
    large = (EAST, block(10, 42, 30, 70))
    partner = (WEST, block(10, 42, 24, 64))
    piece = (WEST, block(26, 44, 30, end))  # two pixels from the edge count as at the edge
    assert links(large, partner, piece) == {(1, 0, 1)} | ({(2, 0, 2)} if cut else set())
    # Without a partner there is nobody else whom the landslide could be.
    assert links(large, piece) == {(2, 0, 1)}


def test_a_piece_at_an_edge_beyond_which_the_other_window_did_not_look_is_not_cut_off() -> None:
    above, below = Window(0, 0, 64, 64), Window(20, 0, 64, 64)
    large, partner = (below, block(24, 30, 44, 64)), (above, block(24, 30, 38, 64))
    assert links(large, partner, (above, block(40, 50, 44, 64))) == {(1, 0, 1)}


def test_a_contained_piece_is_linked_with_the_landslide_that_holds_most_of_it() -> None:
    piece = (WEST, block(22, 44, 30, 50))
    all_of_it, three_quarters = (EAST, block(10, 42, 30, 60)), (EAST, block(24, 42, 44, 60))
    assert links(piece, three_quarters) == {(2, 0, 1)}
    assert links(piece, all_of_it, three_quarters) == {(2, 0, 1)}
    assert links(piece, (EAST, block(25, 42, 44, 60))) == set()  # five eighths


@pytest.mark.parametrize("side", range(4))
def test_masks_that_end_within_three_pixels_of_a_windows_edge_were_cut(side: int) -> None:
    window = np.array([[20, 20, 60, 60]])
    for gap, cut in ((0, True), (2, True), (3, False)):
        box = np.array([[30, 30, 50, 50]])
        box[0, side] = window[0, side] + (gap if side < 2 else -gap)
        assert touches_cut(window, box, (100, 100)).tolist() == [cut]
        # Nothing is cut at the edge of the raster.
        at_origin = (window - 20, box - 20)
        assert touches_cut(*at_origin, (40, 40)).tolist() == [False]


# -- which links hold ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weak", "strong"),
    [
        ((1, 0.4, 500), (1, 0.9, 20)),  # the stronger, whatever its pixels
        ((1, 0.6, 20), (1, 0.6, 50)),  # of equal strength the one with more pixels
        ((2, 1.0, 500), (1, 0.4, 20)),  # agreement before containment
    ],
)
def test_the_better_link_is_followed_and_the_other_refused(
    weak: tuple[int, float, int], strong: tuple[int, float, int]
) -> None:
    # The middle one could be either of two detections that its neighbour saw whole.
    for which, landslides in (((strong, weak), [[0, 1], [2]]), ((weak, strong), [[0], [1, 2]])):
        assert followed(*which) == (landslides, 1)
    # Where all is equal the first in canonical order is followed.
    assert followed(weak, weak) == ([[0, 1], [2]], 1)


def followed(
    one: tuple[int, float, int], two: tuple[int, float, int]
) -> tuple[list[list[int]], int]:
    """Landslides of three detections in a chain, the ends of one window, and the links refused."""
    (rule, strength, pixels) = (np.array(c) for c in zip(one, two, strict=True))
    chain = Links(rule, strength, pixels, np.array([0, 1]), np.array([1, 2]))
    groups = group(
        components(3, chain), chain, np.array([0, 1, 0]), np.zeros(3, bool), np.arange(3)
    )
    parts = np.split(groups.members, groups.first[1:-1])
    return sorted(p.tolist() for p in parts), groups.refused


# -- numbers ---------------------------------------------------------------------------------------


def test_windows_that_hold_three_tenths_of_a_landslide_count_in_its_agreement() -> None:
    windows = {0: Window(0, 0, 40, 120), 1: Window(0, 0, 40, 41), 2: Window(0, 81, 40, 39)}
    mask = block(10, 10, 14, 110)[:40]  # of its 100 columns window 1 holds 31, window 2 holds 29
    (one,) = stitch([detection(0, windows[0], mask)], windows, (40, 120)).instances
    assert (one.n_windows, one.n_covering) == (1, 2)


@pytest.mark.parametrize(("state", "looked"), [("done", 4), ("skipped", 3), ("failed", 3)])
def test_a_window_that_was_not_run_has_no_part_in_the_agreement(
    tmp_path: Path, state: State, looked: int
) -> None:
    grid = GeoBox((64, 64), Affine(25, 0, 400_000, 0, -25, 4_000_000), "EPSG:32647")
    begin, end = date(2023, 1, 1), date(2023, 7, 1)
    layers = ("los_velocity",)
    cube = CubeInfo("a", "b", begin, end, 181, "ascending", 0.055, grid, layers, 1.0, 1.0)
    truth = np.zeros((64, 64), np.int64)
    truth[28:36, 28:36] = 1
    windows = window_map(truth.shape, 48, 0.67)
    planned = tuple(PlannedWindow(w, 1, w) for w in windows.values())
    plan = Plan(Workspace(tmp_path / "ws"), cube, {}, (), planned, InferConfig(), "", tmp_path)
    # All four windows hold it. The first is in question, the second looked and found nothing.
    found = [d for d in oracle(truth, windows) if d.window_id >= 2]
    states: list[State] = [state, "done", "done", "done"]
    save_shard(
        shard_path(tmp_path, 0),
        [
            WindowResult(i, s, "", 1.0, detections=tuple(d for d in found if d.window_id == i))
            for i, s in enumerate(states)
        ],
    )
    stitch_shards(plan.ws, plan, None, None, tmp_path / "instances.npz", range(1))
    (one,) = load_instances(tmp_path / "instances.npz")
    assert (one.n_windows, one.n_covering) == (2, looked)


@pytest.mark.parametrize("method", get_args(Method))
def test_for_joining_by_boxes_all_windows_on_the_box_count_as_covering(method: Method) -> None:
    windows = {0: WEST, 1: EAST, 2: Window(0, 56, 64, 64)}
    mask = block(10, 44, 20, 56)[:64]  # ends where window 2 begins
    seen = [detection(0, WEST, mask[:, :64])]
    (one,) = merge(seen, windows, (64, SIDE), method)
    assert (one.n_windows, one.n_covering) == (1, 2)
    seen.append(detection(1, EAST, mask[:, 40:104], score=0.5))
    (one,) = merge(seen, windows, (64, SIDE), method)
    assert (one.n_windows, one.n_covering) == (1 if method == "nms" else 2, 2)


# -- what was seen twice ---------------------------------------------------------------------------


def left_of(seen: list[Detection], containment: float) -> list[list[tuple[int, float]]]:
    """Area and score of what is left of detections of one window, and of the same as landslides."""
    coverage = Coverage({0: WEST}, (64, 64))
    gathered = gather(seen, coverage, mask_threshold=0.5, containment=containment)
    pool = gathered.pool
    assert gathered.duplicates == len(seen) - len(pool)

    made = [
        Made(
            Instance(d.category, d.score, d.row, d.col, d.prob > 0, d.prob, 1, 1),
            windows=np.array([0]),
            sliver=False,
        )
        for d in seen
    ]
    cleared = clear(made, np.ones(len(made), bool), coverage, containment)
    assert cleared.absorbed == len(seen) - len(cleared.done)
    assert cleared.waiting == []
    return [
        sorted(zip(pool.runs.areas().tolist(), pool.score.tolist(), strict=True)),
        sorted((i.area_px, i.score) for i in cleared.done),
    ]


@pytest.mark.parametrize(
    ("score", "category", "left"),
    [
        (0.5, 1, [(400, 0.5)]),  # the larger of two nested ones stays
        (0.4, 1, [(36, 0.9)]),  # unless its score is below half of the other's
        (0.4, 2, [(36, 0.9), (400, 0.4)]),  # another class is another landslide
    ],
)
def test_of_nested_masks_one_is_left_in_a_window_and_of_nested_landslides_one(
    score: float, category: int, left: list[tuple[int, float]]
) -> None:
    outer, inner = block(10, 10, 30, 30)[:64, :64], block(12, 12, 18, 18)[:64, :64]
    seen = [
        detection(0, WEST, outer, score=score),
        detection(0, WEST, inner, score=0.9, category=category),
    ]
    assert left_of(seen, 0.7) == [left, left]


@pytest.mark.parametrize(
    ("shift", "left"),
    [
        (6, [(400, 0.8)]),  # 14 of 26 rows in common: the better score stays
        (7, [(400, 0.7), (400, 0.8)]),  # 13 of 27
    ],
)
def test_masks_are_one_from_an_iou_of_one_half_on(
    shift: int, left: list[tuple[int, float]]
) -> None:
    one, two = (block(10 + s, 10, 30 + s, 30)[:64, :64] for s in (0, shift))
    seen = [detection(0, WEST, one, score=0.7), detection(0, WEST, two, score=0.8)]
    assert left_of(seen, 1.0) == [left, left]


# -- when a landslide is done ----------------------------------------------------------------------


def test_a_landslide_waits_for_windows_that_could_still_bring_a_sliver_of_it() -> None:
    # The window to come ends a pixel before the landslide, and sees three pixels of it at its edge.
    landslide, sliver = block(20, 65, 30, 80)[:64, 40:104], block(20, 61, 30, 64)[:64, :64]
    stitcher = Stitcher({0: WEST, 1: EAST}, (SIDE, SIDE), step=1)
    assert list(stitcher.add(1, [detection(1, EAST, landslide)])) == []
    (one,) = [*stitcher.add(0, [detection(0, WEST, sliver)]), *stitcher.finish()]
    assert one.bounds == (20, 65, 30, 80)
    assert (stitcher.counts.slivers, stitcher.counts.instances) == (1, 1)


def test_a_landslide_waits_for_an_unfinished_sliver_although_no_window_to_come_is_near() -> None:
    # The sliver is longer than the landslide, and the window to come is on its other end.
    below = Window(36, 0, 64, 64)
    landslide, sliver = block(20, 65, 30, 80)[:64, 40:104], block(20, 61, 40, 64)[:64, :64]
    stitcher = Stitcher({0: WEST, 1: EAST, 2: below}, (SIDE, SIDE), step=1)
    assert list(stitcher.add(0, [detection(0, WEST, sliver)])) == []
    assert list(stitcher.add(1, [detection(1, EAST, landslide)])) == []
    (one,) = [*stitcher.add(2, []), *stitcher.finish()]
    assert one.bounds == (20, 65, 30, 80)
    assert (stitcher.counts.slivers, stitcher.counts.instances) == (1, 1)

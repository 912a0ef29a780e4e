"""Lineages: stable, independent of order, unchanged by later periods."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.evaluation.footprints import Footprint
from components.inventory.lineage import Member, lineage_of, trace

PERIODS = [(f"2023-{m:02d}-01", f"2023-{m + 1:02d}-01") for m in range(1, 6)]


def member(name: str, period: int, row: int, col: int, h: int = 10, w: int = 10, track: str = "D"):
    return Member(name, track, PERIODS[period], Footprint(row, col, np.ones((h, w), bool)))


def test_the_same_landslide_keeps_its_lineage_over_a_gap() -> None:
    got = trace([member("a", 0, 0, 0), member("b", 1, 1, 1), member("c", 4, 2, 2)])
    assert {x.lineage_id for x in got.values()} == {lineage_of("a")}
    assert [got[k].parents for k in "abc"] == [(), ("a",), ("b",)]


def test_strangers_and_other_tracks_begin_their_own() -> None:
    got = trace([member("a", 0, 0, 0), member("b", 1, 0, 9), member("c", 1, 0, 0, track="A")])
    assert len({x.lineage_id for x in got.values()}) == 3
    assert all(x.parents == () for x in got.values())


def test_a_small_piece_inside_a_large_one_is_related_by_containment() -> None:
    got = trace([member("a", 0, 0, 0, 30, 30), member("b", 1, 5, 5, 4, 4)])
    assert got["b"].lineage_id == lineage_of("a")


def test_split_the_best_piece_keeps_the_lineage() -> None:
    got = trace(
        [member("a", 0, 0, 0, 10, 20), member("b", 1, 0, 0, 10, 6), member("c", 1, 0, 8, 10, 12)]
    )
    assert got["c"].lineage_id == lineage_of("a")
    assert got["b"].lineage_id == lineage_of("b")
    assert got["b"].parents == got["c"].parents == ("a",)


def test_merger_goes_on_as_the_best_ancestor() -> None:
    got = trace(
        [member("a", 0, 0, 0, 10, 6), member("b", 0, 0, 8, 10, 12), member("c", 1, 0, 0, 10, 20)]
    )
    assert got["c"].lineage_id == lineage_of("b")
    assert got["c"].parents == ("b", "a")


def test_identities_must_be_unique() -> None:
    with pytest.raises(ValueError, match="unique"):
        trace([member("a", 0, 0, 0), member("a", 1, 0, 0)])


@st.composite
def histories(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return [
        member(f"{p}-{i}", p, *(int(x) for x in rng.integers(0, 30, 2)),
               *(int(x) for x in rng.integers(3, 15, 2)), track=str(rng.choice(["A", "D"])))
        for p in range(5) for i in range(rng.integers(0, 6))
    ]  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(histories(), st.randoms(use_true_random=False), st.integers(0, 5))
def test_invariance_to_order_and_to_later_periods(members, shuffler, n: int) -> None:
    whole = trace(members)
    shuffled = members.copy()
    shuffler.shuffle(shuffled)
    assert trace(shuffled) == whole
    earlier = [m for m in members if m.dates in PERIODS[:n]]
    assert trace(earlier) == {m.id: whole[m.id] for m in earlier}
    # A lineage has one member a period at most, all on one track.
    seen = [(whole[m.id].lineage_id, m.dates) for m in members]
    assert len(set(seen)) == len(seen)
    by_lineage: dict[str, set[str]] = {}
    for m in members:
        by_lineage.setdefault(whole[m.id].lineage_id, set()).add(m.track)
    assert all(len(t) == 1 for t in by_lineage.values())

"""Which landslides of successive periods, and of several tracks, are the same one.

Periods are taken in the order of their dates. A landslide continues the lineage whose last member it
overlaps best; a lineage has one member a period at most. What a later period brings can therefore
never change an earlier lineage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from components.evaluation.footprints import Footprint, overlaps
from components.provenance import digest


@dataclass(frozen=True)
class Member:
    """One landslide of one track and period.

    Parameters
    ----------
    id : str
        Its identity.
    track : str
        Track name; lineages never cross tracks.
    dates : tuple of str
        First and last day of the period (ISO).
    footprint : Footprint
        On the region grid.
    """

    id: str
    track: str
    dates: tuple[str, str]
    footprint: Footprint


class Lineage(NamedTuple):
    """Descent of one landslide.

    Parameters
    ----------
    lineage_id : str
        Derived of the earliest member; the same for all members.
    parents : tuple of str
        Earlier landslides that it descends from, by falling overlap: none for a first appearance,
        more than one after a merger. The pieces of a split share a parent; the best overlap keeps
        the lineage, the others begin their own.
    """

    lineage_id: str
    parents: tuple[str, ...]


def lineage_of(member_id: str) -> str:
    """Identity of the lineage that a landslide begins.

    Parameters
    ----------
    member_id : str
        Identity of its first member.

    Returns
    -------
    str
        ``LN-`` and 12 hexadecimal digits.
    """
    return f"LN-{digest('lineage', member_id)[:12]}"


def trace(
    members: Sequence[Member], *, iou_min: float = 0.3, overlap_min: float = 0.5
) -> dict[str, Lineage]:
    """Lineages of all landslides.

    Parameters
    ----------
    members : sequence of Member
        In any order; identities must be unique.
    iou_min : float
        Least IoU of two members, or …
    overlap_min : float
        … least intersection over the smaller of the two.

    Returns
    -------
    dict of str to Lineage
        By member identity.

    Raises
    ------
    ValueError
        If two members have one identity.
    """
    if len({m.id for m in members}) != len(members):
        msg = "identities of landslides must be unique"
        raise ValueError(msg)
    out: dict[str, Lineage] = {}
    ordered = sorted(members, key=lambda m: (m.track, m.dates, m.id))
    for _, of_track in groupby(ordered, key=lambda m: m.track):
        last: dict[str, Member] = {}  # lineage → its latest member
        for _, of_period in groupby(of_track, key=lambda m: m.dates):
            _continue(list(of_period), last, out, iou_min, overlap_min)
    return out


def sites(lineages: Iterable[str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Which lineages of several tracks are one landslide.

    Parameters
    ----------
    lineages : iterable of str
        All lineage identities.
    pairs : iterable of (str, str)
        Two of them whose outlines on two tracks, of about the same time, are related.

    Returns
    -------
    dict of str to str
        By lineage: ``ST-`` and 12 hexadecimal digits, the same for all that pairs link, derived of the
        first of them in the order of identities.
    """
    root = {name: name for name in lineages}

    def first(name: str) -> str:
        while root[name] != name:
            root[name] = root[root[name]]
            name = root[name]
        return name

    for a, b in pairs:
        low, high = sorted((first(a), first(b)))
        root[high] = low
    return {name: f"ST-{digest('site', first(name))[:12]}" for name in root}


def related(
    a: Sequence[Footprint], b: Sequence[Footprint], iou_min: float, overlap_min: float
) -> Iterator[tuple[int, int, float, float]]:
    """Pairs of outlines that can be the same landslide.

    Parameters
    ----------
    a, b : sequence of Footprint
        Of two maps on one grid.
    iou_min : float
        Least IoU, or …
    overlap_min : float
        … least intersection over the smaller of the two.

    Returns
    -------
    iterator of (int, int, float, float)
        Indices into `a` and `b`, IoU, and that share of the smaller.
    """
    pairs = overlaps(a, b)
    for n, o, common, iou in zip(
        pairs.detection.tolist(),
        pairs.reference.tolist(),
        pairs.intersection.tolist(),
        pairs.iou.tolist(),
        strict=True,
    ):
        smaller = common / min(a[n].n_pixels, b[o].n_pixels)
        if iou >= iou_min or smaller >= overlap_min:
            yield n, o, iou, smaller


def _continue(
    new: list[Member],
    last: dict[str, Member],
    out: dict[str, Lineage],
    iou_min: float,
    overlap_min: float,
) -> None:
    lineages = sorted(last)
    old = [last[k] for k in lineages]
    pairs = sorted(
        (-iou, -smaller, lineages[o], new[n].id, n, o)
        for n, o, iou, smaller in related(
            [m.footprint for m in new], [m.footprint for m in old], iou_min, overlap_min
        )
    )
    heir: dict[int, str] = {}
    taken: set[int] = set()
    parents: dict[int, list[str]] = {}
    for *_, n, o in pairs:
        parents.setdefault(n, []).append(old[o].id)
        if n not in heir and o not in taken:
            heir[n] = lineages[o]
            taken.add(o)
    for n, member in enumerate(new):
        lineage = heir.get(n) or lineage_of(member.id)
        last[lineage] = member
        out[member.id] = Lineage(lineage, tuple(parents.get(n, ())))

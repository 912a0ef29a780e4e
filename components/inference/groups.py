"""From links to groups of detections, each one landslide.

Links are followed strongest first with a union-find that never puts two detections together which one
window saw whole. Components of the graph of links do not touch each other's decisions; where no window
occurs twice in one, all of its links hold and the component is the group.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from components.inference.runs import Bool, Int
from components.inference.seams import Links


class Groups(NamedTuple):
    """Detections by landslide.

    Parameters
    ----------
    members : ndarray, int64
        Detections, group by group, in canonical order inside each.
    first : ndarray, int64, ``[g + 1]``
        Group k has the members ``first[k]`` to ``first[k + 1] - 1``.
    refused : int
        Links not followed.
    """

    members: Int
    first: Int
    refused: int


def components(n: int, links: Links) -> Int:
    """Connected components of the graph of links.

    Parameters
    ----------
    n : int
        Number of detections.
    links : Links
        Links between them.

    Returns
    -------
    ndarray, int64, ``[n]``
        Number of the component of each detection.
    """
    graph = sparse.coo_array(
        (np.ones(len(links.first), np.int8), (links.first, links.second)), shape=(n, n)
    )
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def group(component: Int, links: Links, window: Int, cut: Bool, rank: Int) -> Groups:
    """Follow the links of whole components.

    Parameters
    ----------
    component : ndarray, int64, ``[n]``
        Component of each detection.
    links : Links
        Links between them.
    window : ndarray, int64, ``[n]``
        Window of each detection.
    cut : ndarray, bool, ``[n]``
        Whether it was cut by its window's edge.
    rank : ndarray, int64, ``[n]``
        Canonical order.

    Returns
    -------
    Groups
    """
    label = component.copy()
    order = np.lexsort((window, component))
    twice = (component[order[1:]] == component[order[:-1]]) & (
        window[order[1:]] == window[order[:-1]]
    )
    doubtful = np.zeros(int(component.max(initial=-1)) + 1, bool)
    doubtful[component[order[1:]][twice]] = True
    refused = 0
    if doubtful.any():
        union = _Union(np.flatnonzero(doubtful[component]).tolist(), window, cut)
        follow = np.flatnonzero(doubtful[component[links.first]])
        follow = follow[
            np.lexsort(
                (
                    rank[links.second[follow]],
                    rank[links.first[follow]],
                    -links.pixels[follow],
                    -links.strength[follow],
                    links.rule[follow],
                )
            )
        ]
        pairs = zip(links.first[follow].tolist(), links.second[follow].tolist(), strict=True)
        refused = sum(not union.join(a, b) for a, b in pairs)
        for number, joined in enumerate(union.members.values(), len(doubtful)):
            label[joined] = number
    members = np.lexsort((rank, label))
    sizes = np.unique(label, return_counts=True)[1]
    return Groups(members, np.concatenate([[0], np.cumsum(sizes)]), refused)


class _Union:
    """Union-find that never puts two detections together which one window saw whole."""

    def __init__(self, nodes: list[int], window: Int, cut: Bool) -> None:
        self.parent = {k: k for k in nodes}
        self.members = {k: [k] for k in nodes}
        # Per group: window → whether all its detections there were cut by the window's edge.
        self.cut = {k: {int(window[k]): bool(cut[k])} for k in nodes}

    def find(self, k: int) -> int:
        while self.parent[k] != k:
            self.parent[k] = self.parent[self.parent[k]]
            k = self.parent[k]
        return k

    def join(self, first: int, second: int) -> bool:
        """Follow a link; False where that is refused."""
        a, b = self.find(first), self.find(second)
        if a == b:
            return True
        if len(self.members[a]) < len(self.members[b]):
            a, b = b, a
        here, there = self.cut[a], self.cut[b]
        if any(w in here and not (cut and here[w]) for w, cut in there.items()):
            return False
        here.update(there)
        self.members[a] += self.members.pop(b)
        del self.cut[b]
        self.parent[b] = a
        return True

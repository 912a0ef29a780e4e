"""Which stitched detections are landslides of the inventory, and by which identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from components.evaluation.footprints import Footprint
from components.inference.instances import Instance
from components.provenance import digest

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Landslide:
    """One landslide that passed threshold and minimum size.

    Parameters
    ----------
    id : str
        ``LS-`` and 12 hexadecimal digits.
    instance : Instance
        As stitched.
    """

    id: str
    instance: Instance = field(repr=False)

    @property
    def footprint(self) -> Footprint:
        """Its pixels on the region grid."""
        i = self.instance
        return Footprint(i.row, i.col, i.mask, i.score)


@dataclass(frozen=True)
class Selection:
    """What is kept of one map's detections.

    Parameters
    ----------
    landslides : list of Landslide
        By position.
    counts : dict of str to int
        ``detections``, ``below_score``, ``below_min_pixels``, ``duplicates``, ``kept``; once other tracks
        were asked also ``vertical``.
    """

    landslides: list[Landslide] = field(repr=False)
    counts: dict[str, int]


def landslide_id(
    track: str, period: str, category: int, grid: Mapping[str, Any], instance: Instance
) -> str:
    """Identity of a landslide: the same for the same outline on the same ground, track and period.

    Parameters
    ----------
    track, period : str
        Of the map.
    category : int
        Class.
    grid : mapping
        ``crs`` and ``transform`` of the region grid (`geobox_to_dict`).
    instance : Instance
        Position and mask.

    Returns
    -------
    str
        ``LS-`` and 12 hexadecimal digits.
    """
    a, _, west, _, e, north = grid["transform"]
    # By coordinates and not by rows, so that a larger region leaves the identities as they are.
    corner = [round(west + a * instance.col, 3), round(north + e * instance.row, 3), round(a, 6)]
    outline = [list(instance.mask.shape), np.packbits(instance.mask).tobytes().hex()]
    return f"LS-{digest('landslide', track, period, category, grid['crs'], corner, outline)[:12]}"


def select(
    instances: Sequence[Instance],
    *,
    track: str,
    period: str,
    grid: Mapping[str, Any],
    score_min: float,
    min_pixels: int,
) -> Selection:
    """Landslides of one map that pass threshold and minimum mapping unit.

    Parameters
    ----------
    instances : sequence of Instance
        Stitched detections.
    track, period : str
        Of the map.
    grid : mapping
        Of `geobox_to_dict`.
    score_min : float
        Least score.
    min_pixels : int
        Least size.

    Returns
    -------
    Selection
        Of two equal outlines of one class only the better scored is kept.
    """
    counts = dict.fromkeys(("below_score", "below_min_pixels", "duplicates"), 0)
    kept: dict[str, Instance] = {}
    for instance in sorted(instances, key=lambda i: (-i.score, i.row, i.col)):
        if instance.score < score_min:
            counts["below_score"] += 1
        elif int(instance.mask.sum()) < min_pixels:
            counts["below_min_pixels"] += 1
        else:
            identity = landslide_id(track, period, instance.category, grid, instance)
            if identity in kept:
                counts["duplicates"] += 1
            else:
                kept[identity] = instance
    landslides = [Landslide(k, v) for k, v in kept.items()]
    landslides.sort(key=lambda x: (x.instance.row, x.instance.col, x.id))
    return Selection(landslides, {"detections": len(instances), **counts, "kept": len(landslides)})

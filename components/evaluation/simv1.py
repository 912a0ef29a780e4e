"""`sim-v1`: the public benchmark, simulated regions with exact truth that no training has seen.

A region is made by `slopewatch simulate` from its seed alone. Its seeds are among those that belong to
benchmarks (`components.simulation.reserved`): training refuses them. Operating threshold and calibration
are fixed on ``val``; figures are of ``test`` and, for false alarms on ground without landslides, of
``null``, which keeps atmosphere and everything that can be taken for a landslide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from components.config import SimulateConfig
from components.simulation.region import ALGORITHM

Split = Literal["val", "test", "null"]

NAME: Final = "sim-v1"

#: Side of a region [px]; 2,621 km² at 25 m.
SIDE: Final = 2048

#: Landslides per 1000 km² of slopes of 10° to 45°; of them about half can be seen from 25 px on.
_DENSITY: Final = 350.0

_REGIONS: Final[tuple[tuple[Split, int, Literal["ascending", "descending"]], ...]] = (
    ("val", 900_101, "descending"),
    ("val", 900_102, "ascending"),
    ("val", 900_103, "descending"),
    ("val", 900_104, "ascending"),
    ("test", 900_001, "ascending"),
    ("test", 900_002, "descending"),
    ("test", 900_003, "ascending"),
    ("test", 900_004, "descending"),
    ("null", 900_201, "descending"),
    ("null", 900_202, "ascending"),
)


@dataclass(frozen=True)
class Region:
    """One region of the benchmark.

    Parameters
    ----------
    name : str
        ``split-seed``.
    split : {"val", "test", "null"}
        What it is for.
    config : SimulateConfig
        What to simulate.
    """

    name: str
    split: Split
    config: SimulateConfig


def regions(
    splits: tuple[Split, ...] = get_args(Split), limit: int | None = None, side: int = SIDE
) -> list[Region]:
    """Regions of the benchmark.

    Parameters
    ----------
    splits : tuple of str
        Splits wanted.
    limit : int, optional
        The first so many of each split only.
    side : int
        Side of a region [px]; any other than `SIDE` is a trial and not the benchmark.

    Returns
    -------
    list of Region
        ``val`` first: it fixes what the others use.
    """
    out: list[Region] = []
    for split in get_args(Split):
        chosen = [r for r in _REGIONS if r[0] == split and split in splits][:limit]
        for _, seed, track in chosen:
            config = SimulateConfig(
                seed=seed,
                height=side,
                width=side,
                tracks=(track,),
                periods=1,
                landslides_per_1000km2=0.0 if split == "null" else _DENSITY,
            )
            out.append(Region(f"{split}-{seed}", split, config))
    return out


def identity(limit: int | None, side: int) -> str:
    """What figures are of, for their heading.

    Parameters
    ----------
    limit, side
        As in `regions`.

    Returns
    -------
    str
        ``sim-v1`` with the simulator's version, or that it was a trial.
    """
    whole = side == SIDE and limit is None
    return f"{NAME} ({ALGORITHM})" if whole else f"a trial, not {NAME} ({ALGORITHM})"

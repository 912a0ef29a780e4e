"""Seeds that belong to benchmarks, and are refused wherever something is trained.

A region's terrain, landslides and noise come from streams that its seed and a name decide
(`components.simulation.fields.stream`), so that a region of the same seed is the same ground, whatever its
size. The scenes of pre-training come from streams of other names and share no ground with any region; their
seeds are held to the same rule, so that no card ever names a seed that a benchmark uses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from components.errors import InputError

#: Of `components.evaluation.simv1` and of the regions of experiments.
RESERVED: Final = range(900_000, 1_000_000)


def refuse_reserved(seed: int, what: str, path: Path | None = None) -> None:
    """Refuse to train on what a benchmark tests with.

    Parameters
    ----------
    seed : int
        Of scenes or of a region.
    what : str
        What the seed is of, for the message.
    path : Path, optional
        The folder concerned.

    Raises
    ------
    InputError
        SW-308 where the seed is one of `RESERVED`.
    """
    if seed in RESERVED:
        raise InputError("SW-308", f"{what} is {seed}", path=path)

"""Whether products and polygons are of a simulated region that is kept for tests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Final

from components.simulation.region import MANIFEST
from components.simulation.reserved import refuse_reserved

#: Folders between a file of a product and the region's own: the product's, ``products``, the region's.
_LEVELS: Final = 3


def refuse_test_ground(paths: Iterable[Path]) -> None:
    """Refuse files of a simulated region whose seed belongs to benchmarks.

    Parameters
    ----------
    paths : iterable of Path
        Products and polygon layers. A region is known by the manifest that the simulator left in its
        folder; files that were taken out of it say nothing of their seed.

    Raises
    ------
    InputError
        SW-308 with the region's folder.
    """
    known: dict[Path, int | None] = {}
    for path in paths:
        for folder in islice(Path(path).resolve().parents, _LEVELS):
            if folder not in known:
                known[folder] = _seed(folder)
            seed = known[folder]
            if seed is not None:
                refuse_reserved(seed, "the seed of this simulated region", folder)


def _seed(folder: Path) -> int | None:
    """Seed of the region in a folder; None where it holds none."""
    try:
        seed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["config"]["seed"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return seed if isinstance(seed, int) else None

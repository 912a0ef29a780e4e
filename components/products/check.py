"""Refusals in seconds, before hours of work: truncated files, nodata only, impossible values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from components.errors import InputError
from components.grid import Window, block_windows
from components.products.base import LayerSource, Product
from components.products.convert import read_canonical
from components.products.raster import check_whole

#: Rasters up to this size are looked at whole, larger ones on a lattice of samples.
_WHOLE_PX: Final = 1 << 22
_SAMPLE: Final = 256
_LATTICE: Final = 5
_SCAN: Final = 2048

#: Rounding that a coherence outside [0, 1] may be due to.
_COHERENCE_TOLERANCE: Final = 1e-3

#: No interferogram unwraps this much [m]: more means another unit (phase, millimetres).
_PLAUSIBLE_M: Final = 5.0


def _samples(shape: tuple[int, int]) -> list[Window]:
    """Windows spread over the raster, the first and the last corner among them."""
    if shape[0] * shape[1] <= _WHOLE_PX:
        return [Window(0, 0, *shape)]

    def starts(length: int) -> list[int]:
        if length <= _SAMPLE:
            return [0]
        last = length - _SAMPLE
        return [round(i * last / (_LATTICE - 1)) for i in range(_LATTICE)]

    height, width = min(_SAMPLE, shape[0]), min(_SAMPLE, shape[1])
    return [Window(r, c, height, width) for r in starts(shape[0]) for c in starts(shape[1])]


def _scan(source: LayerSource, shape: tuple[int, int]) -> Iterator[npt.NDArray[Any]]:
    for window in block_windows(shape, _SCAN):
        yield read_canonical(source, window)


def check_product(product: Product) -> None:
    """Refuse a product that cannot be ingested. Cheap: block tables and samples, not whole maps.

    The reader has compared CRS and grid. This looks at every layer: truncation (block table and last
    block), readability, infinite values, coherence outside [0, 1], displacement beyond what interferometry
    measures, no valid pixel. What samples do not show is found blockwise at ingest.

    Parameters
    ----------
    product : Product
        As its reader returned it.

    Raises
    ------
    InputError
        SW-101 or SW-102 for a missing, truncated or unreadable file; SW-105 for values that are no
        displacement in metres; SW-108 where all pixels are missing; SW-109 for infinite values; SW-110 for
        coherence outside [0, 1].
    """
    shape = (int(product.geobox.shape[0]), int(product.geobox.shape[1]))
    seen: set[str] = set()
    for name, source in product.layers.items():
        for dataset in source.datasets:
            if dataset in seen:
                continue
            seen.add(dataset)
            check_whole(dataset)
        values = [read_canonical(source, window) for window in _samples(shape)]
        sample = np.concatenate([v.ravel() for v in values])
        if source.kind != "mask":
            _check_values(name, source, sample)
        if name == "los_displacement" and not np.isfinite(sample).any():
            _refuse_empty(source, shape)


def _check_values(name: str, source: LayerSource, sample: npt.NDArray[np.float32]) -> None:
    n_infinite = int(np.count_nonzero(np.isinf(sample)))
    if n_infinite:
        raise InputError(
            "SW-109", f"{n_infinite} infinite value(s) in `{name}`", path=source.path or None
        )
    finite = sample[np.isfinite(sample)]
    if finite.size == 0:
        return
    low, high = float(finite.min()), float(finite.max())
    if name == "coherence" and not (
        low >= -_COHERENCE_TOLERANCE and high <= 1.0 + _COHERENCE_TOLERANCE
    ):
        raise InputError(
            "SW-110", f"coherence from {low:.4g} to {high:.4g}", path=source.path or None
        )
    if name == "los_displacement":
        typical = float(np.percentile(np.abs(finite - np.median(finite)), 99))
        if typical > _PLAUSIBLE_M:
            raise InputError(
                "SW-105",
                f"1 % of the displacements differ by more than {typical:.3g} m from the median: "
                "not metres?",
                path=source.path or None,
                remedy="State the true quantity and unit (phase in rad, displacement in mm, …) in the YAML "
                "beside the file.",
            )


def _refuse_empty(source: LayerSource, shape: tuple[int, int]) -> None:
    # Samples can miss a small valid area: only a full scan may say that there is none.
    if not any(np.isfinite(block).any() for block in _scan(source, shape)):
        raise InputError("SW-108", "all displacements are missing", path=source.path or None)

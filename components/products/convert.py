"""From the numbers in a file to canonical values: one row a conversion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from components.grid import Window
from components.insar.geometry import los_from_hyp3
from components.insar.phase import wrap
from components.products.base import Kind, LayerSource
from components.products.raster import read_window

Array = npt.NDArray[Any]


def _missing(raw: Array, nodata: float | None) -> npt.NDArray[np.bool_]:
    missing: npt.NDArray[np.bool_] = np.isnan(raw)
    if nodata is not None:
        # Compare in the file's own precision: −3.4e38 as float32 is not −3.4e38 as float64.
        value = raw.dtype.type(nodata) if raw.dtype.kind == "f" else nodata
        missing |= raw == value
    return missing


def _linear(raws: list[Array], source: LayerSource) -> Array:
    (raw,) = raws
    out = raw.astype(np.float32)
    if source.scale != 1.0 or source.offset != 0.0:
        out *= np.float32(source.scale)
        out += np.float32(source.offset)
    out[_missing(raw, source.nodata)] = np.nan
    return out


def _wrapped(raws: list[Array], source: LayerSource) -> Array:
    return wrap(_linear(raws, source))


def _mask(raws: list[Array], source: LayerSource) -> Array:
    (raw,) = raws
    good: npt.NDArray[np.bool_] = (raw == 1) & ~_missing(raw, source.nodata)
    return good


def _hyp3(component: int) -> Callable[[list[Array], LayerSource], Array]:
    def convert(raws: list[Array], source: LayerSource) -> Array:
        theta, phi = (raw.astype(np.float32) for raw in raws)
        # φ = 0 is due east, a valid direction; θ = 0 is a horizontal look and never is.
        missing = _missing(raws[0], source.nodata)
        out = los_from_hyp3(theta, phi)[component]
        out[missing] = np.nan
        return out

    return convert


#: Kind → function of the raw rasters and their source; float32 with NaN, or bool.
CONVERSIONS: Final[Mapping[Kind, Callable[[list[Array], LayerSource], Array]]] = {
    "linear": _linear,
    "wrapped": _wrapped,
    "mask": _mask,
    "hyp3_east": _hyp3(0),
    "hyp3_north": _hyp3(1),
    "hyp3_up": _hyp3(2),
}


def read_canonical(source: LayerSource, window: Window) -> Array:
    """Canonical values of a window.

    Parameters
    ----------
    source : LayerSource
        Where and how.
    window : Window
        Inside the raster.

    Returns
    -------
    ndarray
        Shape (height, width): float32 in canonical unit and sign with NaN where missing, or bool for a
        mask.

    Raises
    ------
    InputError
        SW-101 or SW-102 where a file is missing or unreadable.
    """
    if source.kind == "constant":
        return np.full((window.height, window.width), source.offset, dtype=np.float32)
    raws = [read_window(dataset, source.band, window) for dataset in source.datasets]
    return CONVERSIONS[source.kind](raws, source)

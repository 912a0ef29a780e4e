"""Every stored raster layer: name, unit, sign, fill and range, in one table.

Writers take attributes and fill values from here, readers and docs their meaning, tests their bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

#: Sentinel-1 C-band wavelength [m] (5.405 GHz).
SENTINEL1_WAVELENGTH_M: Final = 0.055465763

#: Mean length of the Gregorian year [days], for every conversion of displacement to velocity.
DAYS_PER_YEAR: Final = 365.2425

Scope = Literal["period", "track", "region"]


@dataclass(frozen=True)
class Layer:
    """One stored raster layer.

    Parameters
    ----------
    name : str
        Variable name in the Zarr store.
    unit : str
        UDUNITS string; ``"1"`` for dimensionless.
    dtype : str
        NumPy dtype as stored.
    fill : float or bool
        Value of a pixel without data.
    long_name : str
        For attributes, legends and docs.
    sign : str
        Meaning of a positive value, or ``""``.
    scope : {"period", "track", "region"}
        What the layer belongs to.
    valid_range : tuple of float, optional
        Inclusive physical bounds.
    """

    name: str
    unit: str
    dtype: str
    fill: float | bool
    long_name: str
    sign: str
    scope: Scope
    valid_range: tuple[float, float] | None = None

    def attrs(self) -> dict[str, object]:
        """CF attributes of the stored variable.

        Returns
        -------
        dict
            ``long_name``, ``units`` and, where they exist, ``positive_direction`` and ``valid_range``.
        """
        out: dict[str, object] = {"long_name": self.long_name, "units": self.unit}
        if self.sign:
            out["positive_direction"] = self.sign
        if self.valid_range is not None:
            out["valid_range"] = list(self.valid_range)
        return out


_NAN = float("nan")

_TABLE: Final = (
    Layer("los_displacement", "m", "float32", _NAN, "line-of-sight displacement", "toward the satellite", "period"),
    Layer("los_velocity", "mm year-1", "float32", _NAN, "mean line-of-sight velocity over the period", "toward the satellite", "period"),
    Layer("los_velocity_std", "mm year-1", "float32", _NAN, "standard deviation of the velocity from decorrelation", "", "period", (0.0, 1e6)),
    Layer("coherence", "1", "float32", _NAN, "interferometric coherence", "", "period", (0.0, 1.0)),
    Layer("wrapped_phase", "rad", "float32", _NAN, "wrapped interferometric phase", "away from the satellite", "period", (-np.pi, np.pi)),
    Layer("valid", "1", "bool", False, "pixel holds a usable displacement", "", "period"),
    Layer("los_east", "1", "float32", _NAN, "east component of the unit vector ground to satellite", "east", "track", (-1.0, 1.0)),
    Layer("los_north", "1", "float32", _NAN, "north component of the unit vector ground to satellite", "north", "track", (-1.0, 1.0)),
    Layer("los_up", "1", "float32", _NAN, "up component of the unit vector ground to satellite", "up", "track", (-1.0, 1.0)),
    Layer("los_sensitivity", "1", "float32", _NAN, "sensitivity C = s·u of the line of sight to downslope motion", "downslope motion approaches the satellite", "track", (-1.0, 1.0)),
    Layer("layover_shadow", "1", "bool", False, "pixel in layover or radar shadow", "", "track"),
    Layer("elevation", "m", "float32", _NAN, "terrain elevation", "up", "region"),
    Layer("slope", "degree", "float32", _NAN, "terrain slope", "", "region", (0.0, 90.0)),
    Layer("relative_height", "1", "float32", _NAN, "height between the low (0) and the high ground (1) within 12.5 km", "up", "region", (0.0, 1.0)),
    Layer("aspect", "degree", "float32", _NAN, "downslope direction, clockwise from north", "", "region", (0.0, 360.0)),
)  # fmt: skip

#: Layer name → `Layer`.
LAYERS: Final[dict[str, Layer]] = {layer.name: layer for layer in _TABLE}


def layers_of(scope: Scope) -> tuple[Layer, ...]:
    """Layers of one scope, in table order.

    Parameters
    ----------
    scope : {"period", "track", "region"}
        What the layers belong to.

    Returns
    -------
    tuple of Layer
    """
    return tuple(layer for layer in _TABLE if layer.scope == scope)

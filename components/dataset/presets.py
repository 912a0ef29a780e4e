"""Model inputs: from the cube's layers to the channels that a network sees.

Five presets. ``rate``, ``multi`` and ``terrain`` feed physics, ``sincos`` the re-wrapped phase with
coherence, and ``fringe_rgb`` is the colour render that interpreters look at. Every channel is finite, of
order one, and zero where nothing is known, so that a network meets "no data" as the same value everywhere.

NumPy only: runs wherever the model runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from components.errors import InputError, ProcessingError
from components.layers import SENTINEL1_WAVELENGTH_M

Float = NDArray[np.float32]

#: Displacement of one colour cycle or turn of the re-wrapped phase [m]: half the wavelength.
CYCLE_M: Final = SENTINEL1_WAVELENGTH_M / 2.0

#: Smallest noise of a map [mm/yr] by which velocities are scaled: a noise-free (simulated) map
#: would otherwise divide by zero.
SIGMA_FLOOR: Final = 0.1

#: Slope that gives a channel value of one [degree].
SLOPE_SCALE_DEG: Final = 45.0

#: Least value of a known relative height: 0 says "unknown".
LOWEST_HEIGHT: Final = 0.05

#: Preset → channel names, in the order of the array's first axis.
CHANNELS: Final[dict[str, tuple[str, ...]]] = {
    "fringe_rgb": ("red", "green", "blue"),
    "sincos": ("coherence", "cos", "sin"),
    "rate": ("velocity", "coherence", "los_sensitivity"),
    "multi": ("cos", "sin", "velocity", "coherence", "los_sensitivity", "slope", "valid"),
    "terrain": (
        *("cos", "sin", "velocity", "coherence", "los_sensitivity", "slope", "valid"),
        "relative_height",
    ),
}

_MULTI: Final = (
    "los_displacement",
    "los_velocity",
    "coherence",
    "los_sensitivity",
    "slope",
    "valid",
)

#: Preset → layers that `render` reads, all of them to be offered where the cube holds them.
REQUIRED_LAYERS: Final[dict[str, tuple[str, ...]]] = {
    "fringe_rgb": ("los_displacement", "valid"),
    "sincos": ("los_displacement", "coherence", "valid"),
    "rate": ("los_velocity", "coherence", "los_sensitivity", "valid"),
    "multi": _MULTI,
    "terrain": (*_MULTI, "relative_height"),
}

#: Layers of the terrain: known or unknown together.
TERRAIN: Final = frozenset({"los_sensitivity", "slope", "relative_height"})

#: Layers that a product may lack: their channel is then zero ("unknown"), as in training with
#: dropped-out channels. Without the others there is no input at all.
OPTIONAL_LAYERS: Final = TERRAIN | {"coherence"}


def render(
    preset: str, layers: Mapping[str, NDArray[np.generic]], sigma_velocity: float
) -> NDArray[np.float32]:
    """Channels of a preset from layers of one track and period.

    Parameters
    ----------
    preset : str
        Key of `CHANNELS`.
    layers : mapping of str to array
        ``[H, W]`` arrays in canonical units and signs; those of ``REQUIRED_LAYERS[preset]`` (the
        `OPTIONAL_LAYERS` among them may be absent). NaN and ``valid == False`` mean no data.
    sigma_velocity : float
        Noise of the whole map's ``los_velocity`` [mm/yr], of the cube's attributes; not of the
        window, whose scale must not depend on what it holds. Used by ``rate``,
        ``multi`` and ``terrain``.

    Returns
    -------
    ndarray, float32, ``[C, H, W]``
        Finite everywhere. ``velocity`` = asinh(v/σ)/2 (+ toward the satellite); ``cos``, ``sin`` of
        ψ = 2π·d/27.7 mm; ``coherence`` and the colours in [0, 1]; ``los_sensitivity`` in [-1, 1];
        ``slope`` in units of 45°; ``relative_height`` in [0.05, 1], 0 where unknown;
        ``valid`` 0 or 1. Where a pixel is not valid, every channel that
        comes of the interferogram is 0; terrain channels keep their value.

    Raises
    ------
    ProcessingError
        SW-504 where a layer is missing.
    InputError
        SW-701 for an unknown preset; SW-108 where the preset needs `sigma_velocity` and it is not a
        finite number (a map without a valid pixel).
    """
    if preset not in CHANNELS:
        raise InputError("SW-701", f"unknown preset {preset!r}; there are {sorted(CHANNELS)}")
    missing = [n for n in REQUIRED_LAYERS[preset] if n not in layers and n not in OPTIONAL_LAYERS]
    if missing:
        raise ProcessingError("SW-504", f"preset {preset} needs {', '.join(missing)}")
    valid = _valid(preset, layers)
    if preset == "fringe_rgb":
        return _fringe(_float(layers["los_displacement"]), valid, CYCLE_M)
    # What is not written stays 0: unknown.
    out = np.zeros((len(CHANNELS[preset]), *valid.shape), np.float32)
    channels = dict(zip(CHANNELS[preset], out, strict=True))
    if "cos" in channels:
        psi = _float(layers["los_displacement"]) * np.float32(2.0 * np.pi / CYCLE_M)
        np.copyto(channels["cos"], np.cos(psi), where=valid)
        np.copyto(channels["sin"], np.sin(psi), where=valid)
    if "velocity" in channels:
        scaled = np.arcsinh(_float(layers["los_velocity"]) / np.float32(_sigma(sigma_velocity)))
        np.multiply(scaled, np.float32(0.5), out=channels["velocity"], where=valid)
    if "valid" in channels:
        channels["valid"][:] = valid
    for name in OPTIONAL_LAYERS & channels.keys() & layers.keys():
        values = _float(layers[name])
        known = np.isfinite(values)
        if name == "coherence":
            known &= valid
        elif name == "relative_height":
            values = np.maximum(values, np.float32(LOWEST_HEIGHT))
        elif name == "slope":
            values = values / np.float32(SLOPE_SCALE_DEG)
        np.copyto(channels[name], values, where=known)
    return out


def brightness(
    displacement_m: NDArray[np.floating], cycle_mm: float = CYCLE_M * 1e3
) -> NDArray[np.float32]:
    """Brightness of the fringe render.

    Parameters
    ----------
    displacement_m : ndarray, float
        Line-of-sight displacement [m], any shape; NaN for no data.
    cycle_mm : float
        Displacement of one colour cycle [mm], > 0.

    Returns
    -------
    ndarray, float32
        Mean of red, green and blue in [0, 255]; NaN where the displacement is. Stable ground is
        dark; within the first half cycle brightness grows with the size of the displacement, the same
        toward and away, and after that it repeats: it measures the picture and not the motion. (The
        mean, since luma would make one sign of motion brighter than the other.)
    """
    d = _float(displacement_m)
    valid = np.isfinite(d)
    rgb = _fringe(d, valid, cycle_mm * 1e-3)
    return np.where(valid, np.float32(255.0) * rgb.mean(axis=0), np.float32(np.nan))


def _fringe(displacement_m: Float, valid: NDArray[np.bool_], cycle_m: float) -> Float:
    # Three cosines a third of a cycle apart make a hue wheel without kinks. The common factor darkens
    # zero displacement, so that what does not move recedes as in an interpreter's picture, and it has
    # the same period, so that the render stays cyclic.
    psi = np.where(valid, displacement_m, np.float32(0.0)) * np.float32(2.0 * np.pi / cycle_m)
    value = np.float32(0.2) + np.float32(0.4) * (1 - np.cos(psi))
    bands = [
        value * np.float32(0.5) * (1 + np.cos(psi - np.float32(2.0 * np.pi * k / 3.0)))
        for k in range(3)
    ]
    return np.stack([np.where(valid, b, np.float32(0.0)) for b in bands]).astype(np.float32)


def _valid(preset: str, layers: Mapping[str, NDArray[np.generic]]) -> NDArray[np.bool_]:
    valid = np.asarray(layers["valid"]).astype(bool)
    for name in ("los_displacement", "los_velocity"):
        if name in REQUIRED_LAYERS[preset]:
            valid = valid & np.isfinite(_float(layers[name]))
    return valid


def _sigma(sigma_velocity: float) -> float:
    if not np.isfinite(sigma_velocity):
        raise InputError("SW-108", f"the map's velocity noise is {sigma_velocity}")
    return max(float(sigma_velocity), SIGMA_FLOOR)


def _float(array: NDArray[np.generic]) -> Float:
    return np.asarray(array).astype(np.float32, copy=False)

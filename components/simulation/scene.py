"""Small scenes in memory: one track, one period, arrays only, for training on the fly and tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from components.insar.geometry import downslope_sensitivity
from components.simulation.artefacts import dem_error
from components.simulation.atmosphere import Atmosphere
from components.simulation.conditions import REFERENCE, Conditions
from components.simulation.decorrelation import ground_coherence
from components.simulation.fields import Bool, Float, Labels
from components.simulation.labels import Label
from components.simulation.landslides import Landslide
from components.simulation.look import Direction, make_look
from components.simulation.negatives import Negative, place_negatives
from components.simulation.observe import make_track, observe
from components.simulation.placement import landslide_count, place_landslides
from components.simulation.terrain import Terrain, generate_terrain, make_ground


@dataclass(frozen=True)
class Scene:
    """A simulated map with its truth; rasters are [H, W], row 0 is north.

    Parameters
    ----------
    resolution_m : float
        Pixel size [m].
    days : int
        Length of the period.
    direction : str
        ``ascending`` or ``descending``.
    displacement : ndarray of float32
        LOS displacement [m], positive toward the satellite; NaN where there is none.
    wrapped_phase : ndarray of float32
        Wrapped phase [rad], positive away from the satellite.
    coherence : ndarray of float32
        Sample coherence, in [0, 1].
    valid : ndarray of bool
        Displacement is there, and coherence at least 0.3.
    elevation, slope, aspect : ndarray of float32
        Terrain [m, deg, deg clockwise from north].
    los_east, los_north, los_up : ndarray of float32
        Unit vector ground to satellite.
    los_sensitivity : ndarray of float32
        C = s · u, in [-1, 1].
    layover_shadow : ndarray of bool
        Ground that the radar cannot see.
    sigma_m : ndarray of float32
        Standard deviation of what could hide a landslide [m].
    footprints : ndarray of int32
        `slide_id` of the true footprint, 0 outside.
    visible : ndarray of int32
        `slide_id` of the visible part, 0 outside; also of those marked `ignore`.
    landslides : tuple of Landslide
        Truth.
    labels : tuple of Label
        What an interpreter would draw.
    """

    resolution_m: float
    days: int
    direction: str
    displacement: Float
    wrapped_phase: Float
    coherence: Float
    valid: Bool
    elevation: Float
    slope: Float
    aspect: Float
    los_east: Float
    los_north: Float
    los_up: Float
    los_sensitivity: Float
    layover_shadow: Bool
    sigma_m: Float
    footprints: Labels
    visible: Labels
    landslides: tuple[Landslide, ...]
    labels: tuple[Label, ...]

    @property
    def layers(self) -> dict[str, Float | Bool]:
        """Canonical layers of the scene by the names of `components.layers`."""
        return {
            "los_displacement": self.displacement,
            "coherence": self.coherence,
            "wrapped_phase": self.wrapped_phase,
            "valid": self.valid,
            "los_east": self.los_east,
            "los_north": self.los_north,
            "los_up": self.los_up,
            "los_sensitivity": self.los_sensitivity,
            "layover_shadow": self.layover_shadow,
            "elevation": self.elevation,
            "slope": self.slope,
            "aspect": self.aspect,
        }


def simulate_scene(
    rng: np.random.Generator,
    shape: tuple[int, int],
    resolution_m: float = 25.0,
    *,
    direction: Direction = "descending",
    days: int = 180,
    landslides_per_1000km2: float = 300.0,
    negatives: bool = True,
    elevation: Float | None = None,
    conditions: Conditions = REFERENCE,
) -> Scene:
    """Simulate one map in memory.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness: the same state gives the same scene.
    shape : (int, int)
        Height and width [px]; at least 32 each.
    resolution_m : float
        Pixel size [m].
    direction : {"ascending", "descending"}
        Orbit direction.
    days : int
        Length of the period.
    landslides_per_1000km2 : float
        Density on slopes of 10 to 45 degrees; 0 gives a map without landslides.
    negatives : bool
        Whether to add what can be taken for landslides.
    elevation : ndarray of float32 [H, W], optional
        Terrain to use instead of a generated one [m].
    conditions : Conditions
        Processing, air, relief, and how abruptly motion ends.

    Returns
    -------
    Scene

    Raises
    ------
    ValueError
        Where `shape` is too small or `elevation` has another shape.
    """
    if min(shape) < 32:
        msg = f"shape must be at least 32 x 32; got {shape}"
        raise ValueError(msg)
    if elevation is None:
        terrain = generate_terrain(rng, shape, resolution_m)
        terrain = Terrain(terrain.elevation * np.float32(conditions.relief), terrain.water)
    elif elevation.shape != shape:
        msg = f"elevation must have shape {shape}; got {elevation.shape}"
        raise ValueError(msg)
    else:
        terrain = Terrain(np.asarray(elevation, dtype=np.float32), np.zeros(shape, dtype=bool))
    ground = make_ground(terrain, resolution_m)
    placement = place_landslides(
        rng, ground, landslide_count(ground, landslides_per_1000km2), 1, days, conditions
    )
    hard: tuple[Negative, ...] = ()
    if negatives:
        found = place_negatives(rng, ground, placement.footprints > 0, conditions.negatives_gain)
        hard = found.items
    look = make_look(rng, shape, resolution_m, direction)
    track = make_track(ground, look)
    atmosphere = Atmosphere(ground, conditions)
    seen = observe(
        rng,
        ground,
        track,
        placement.landslides,
        hard,
        ground_coherence(rng, ground),
        dem_error(rng, shape, resolution_m, conditions.dem_error_m),
        (atmosphere.draw(rng), atmosphere.draw(rng)),
        (0.0, float(days)),
        conditions,
    )
    visible: Labels = np.zeros(shape, dtype=np.int32)
    for label in seen.labels:
        height, width = label.mask.shape
        view = visible[label.row : label.row + height, label.col : label.col + width]
        view[label.mask] = label.slide_id
    sensitivity = downslope_sensitivity(ground.slope, ground.aspect, look.east, look.north, look.up)
    return Scene(
        resolution_m=resolution_m,
        days=days,
        direction=direction,
        displacement=seen.displacement,
        wrapped_phase=seen.wrapped,
        coherence=seen.coherence,
        valid=seen.usable,
        elevation=ground.elevation,
        slope=ground.slope,
        aspect=ground.aspect,
        los_east=look.east,
        los_north=look.north,
        los_up=look.up,
        los_sensitivity=np.asarray(sensitivity, dtype=np.float32),
        layover_shadow=track.unseen,
        sigma_m=seen.sigma_m,
        footprints=placement.footprints,
        visible=visible,
        landslides=placement.landslides,
        labels=seen.labels,
    )

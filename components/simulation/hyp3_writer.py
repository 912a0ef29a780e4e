"""Write simulated interferograms as HyP3 INSAR_GAMMA lays its products out.

Unwrapped phase is positive away from the satellite, ``los_disp`` positive toward it, ``vert_disp``
positive upward; ``lv_theta`` is the elevation angle of the vector ground to satellite and ``lv_phi``
its direction counter-clockwise from east, both in radians; 0 is nodata; the water mask is 1 on land.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from components.insar.geometry import hyp3_from_los
from components.provenance import digest
from components.simulation.artefacts import (
    EARTH_RADIUS_M,
    ORBIT_HEIGHT_M,
    slant_range,
)
from components.simulation.conditions import REFERENCE
from components.simulation.fields import Float
from components.simulation.look import INCIDENCE_RANGE_DEG, Look
from components.simulation.observe import (
    AZIMUTH_LOOKS,
    METRES_PER_RADIAN,
    RANGE_LOOKS,
    Observation,
    Track,
)
from components.simulation.terrain import Ground

#: Layers that change with the period, and those of the track (the same in each of its products).
PERIOD_LAYERS: Final = ("unw_phase", "wrapped_phase", "corr", "amp", "los_disp", "vert_disp")
TRACK_LAYERS: Final = ("lv_theta", "lv_phi", "dem", "inc_map", "inc_map_ell", "water_mask")

_ORBITS_A_CYCLE, _CYCLE_DAYS = 175, 12


@dataclass(frozen=True)
class Pair:
    """What a product's name and parameter file say.

    Parameters
    ----------
    direction : str
        ``ascending`` or ``descending``.
    heading_deg : float
        Flight heading [deg, clockwise from north].
    reference, secondary : date
        Earlier and later acquisition.
    utc : str
        Time of day of both, ``HHMMSS``.
    baseline_m : float
        Perpendicular baseline [m].
    pixel_m : float
        Pixel size [m].
    identity : str
        What makes the product unique; gives the four last digits of its name.
    """

    direction: str
    heading_deg: float
    reference: date
    secondary: date
    utc: str
    baseline_m: float
    pixel_m: float
    identity: str

    @property
    def name(self) -> str:
        """Name of the product and its folder."""
        first, second = (f"{d:%Y%m%d}T{self.utc}" for d in (self.reference, self.secondary))
        days = (self.secondary - self.reference).days
        code = digest(self.identity, first, second, self.direction)[:4].upper()
        return f"S1AA_{first}_{second}_VVP{days:03d}_INT{self.pixel_m:.0f}_G_ueF_{code}"

    def parameters(self) -> str:
        """Text of the parameter file, in HyP3's keys and order."""
        orbit = 46_573 + (20 if self.direction == "ascending" else 135)
        later = orbit + _ORBITS_A_CYCLE * round(
            (self.secondary - self.reference).days / _CYCLE_DAYS
        )
        near, far = slant_range(np.array(INCIDENCE_RANGE_DEG)).tolist()
        seconds = int(self.utc[:2]) * 3600 + int(self.utc[2:4]) * 60 + int(self.utc[4:])
        pairs: list[tuple[str, object]] = [
            ("Reference Granule", self._granule(self.reference, orbit)),
            ("Secondary Granule", self._granule(self.secondary, later)),
            ("Reference Pass Direction", self.direction.upper()),
            ("Reference Orbit Number", orbit),
            ("Secondary Pass Direction", self.direction.upper()),
            ("Secondary Orbit Number", later),
            ("Baseline", f"{self.baseline_m:.4f}"),
            ("UTC time", f"{seconds:.6f}"),
            ("Heading", f"{self.heading_deg:.4f}"),
            ("Spacecraft height", f"{ORBIT_HEIGHT_M:.4f}"),
            ("Earth radius at nadir", f"{EARTH_RADIUS_M:.4f}"),
            ("Slant range near", f"{near:.4f}"),
            ("Slant range center", f"{0.5 * (near + far):.4f}"),
            ("Slant range far", f"{far:.4f}"),
            ("Range looks", RANGE_LOOKS),
            ("Azimuth looks", AZIMUTH_LOOKS),
            ("INSAR phase filter", "no"),
            ("Phase filter parameter", "0.0"),
            ("Range bandpass filter", "no"),
            ("Azimuth bandpass filter", "no"),
            ("DEM source", "simulated"),
            ("DEM resolution (m)", f"{self.pixel_m:g}"),
            ("Unwrapping type", "mcf"),
            ("Phase at reference point", "0.0"),
            ("Azimuth line of the reference point in SAR space", "0.0"),
            ("Range pixel of the reference point in SAR space", "0.0"),
            ("Y coordinate of the reference point in the map projection", "0.0"),
            ("X coordinate of the reference point in the map projection", "0.0"),
            ("Latitude of the reference point (WGS84)", "0.0"),
            ("Longitude of the reference point (WGS84)", "0.0"),
            ("Unwrapping threshold", "none"),
            ("Speckle filter", "no"),
            ("Water mask", "no"),
        ]
        return "".join(f"{key}: {value}\n" for key, value in pairs)

    def _granule(self, day: date, orbit: int) -> str:
        start = f"{day:%Y%m%d}T{self.utc}"
        code = digest(self.identity, start)[:10].upper()
        return f"S1A_IW_SLC__1SDV_{start}_{start}_{orbit:06d}_{code[:6]}_{code[6:]}"


def utc_of_pass(direction: str, longitude_deg: float) -> str:
    """Time of day of a Sentinel-1 pass: 18 h local solar time ascending, 6 h descending.

    Parameters
    ----------
    direction : str
        ``ascending`` or ``descending``.
    longitude_deg : float
        Longitude of the region [deg east].

    Returns
    -------
    str
        ``HHMMSS``, UTC.
    """
    local = 18.0 if direction == "ascending" else 6.0
    seconds = round((local - longitude_deg / 15.0) % 24.0 * 3600.0) % 86_400
    return f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}"


def track_layers(ground: Ground, track: Track) -> dict[str, NDArray[Any]]:
    """Layers that all products of a track share.

    Parameters
    ----------
    ground : Ground
        Terrain.
    track : Track
        Geometry.

    Returns
    -------
    dict
        HyP3 suffix → raster.
    """
    look = track.look
    theta, phi = hyp3_from_los(look.east, look.north, look.up)
    return {
        "lv_theta": _float32(theta),
        "lv_phi": _float32(phi),
        "dem": ground.elevation,
        "inc_map": _local_incidence(ground, look),
        "inc_map_ell": _float32(np.deg2rad(look.incidence_deg)),
        "water_mask": (~ground.water).astype(np.uint8),
    }


def period_layers(
    rng: np.random.Generator, seen: Observation, track: Track, local_incidence: Float
) -> dict[str, NDArray[Any]]:
    """Layers of one product.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the speckle of the amplitude.
    seen : Observation
        The interferogram.
    track : Track
        Geometry.
    local_incidence : ndarray of float32 [H, W]
        Layer ``inc_map`` [rad].

    Returns
    -------
    dict
        HyP3 suffix → raster.
    """
    # The very float32 product of the stored phase, so that both files say the same to the last bit.
    displacement = seen.unwrapped * METRES_PER_RADIAN
    speckle = rng.standard_gamma(REFERENCE.looks, displacement.shape, dtype=np.float32)
    amplitude = np.sqrt(speckle) * (0.05 + 0.3 * np.clip(np.cos(local_incidence), 0.0, 1.0))
    return {
        "unw_phase": seen.unwrapped,
        "wrapped_phase": seen.wrapped,
        "corr": seen.coherence,
        "amp": _float32(amplitude),
        "los_disp": displacement,
        "vert_disp": displacement / track.look.up,
    }


def write_product(
    folder: Path,
    name: str,
    text: str,
    layers: Mapping[str, NDArray[Any]],
    geobox: GeoBox,
) -> None:
    """Write the GeoTIFF files and the parameter file of one product.

    Parameters
    ----------
    folder : Path
        Folder of the product; made if missing.
    name : str
        Name of the product.
    text : str
        Content of the parameter file.
    layers : mapping
        HyP3 suffix → raster [H, W].
    geobox : GeoBox
        Grid of the rasters.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    for suffix, raster in layers.items():
        write_raster(folder / f"{name}_{suffix}.tif", raster, geobox)


def copy_layers(source: Path, source_name: str, target: Path, target_name: str) -> None:
    """Copy the track's layers from one product to another.

    Parameters
    ----------
    source, target : Path
        Folders of the products.
    source_name, target_name : str
        Their names.
    """
    for suffix in TRACK_LAYERS:
        shutil.copyfile(
            source / f"{source_name}_{suffix}.tif", target / f"{target_name}_{suffix}.tif"
        )


def write_raster(path: Path, raster: NDArray[Any], geobox: GeoBox) -> None:
    """Write one band as tiled, deflated GeoTIFF; the same raster gives the same bytes.

    Parameters
    ----------
    path : Path
        The file.
    raster : ndarray [H, W]
        float32 with 0 as nodata, or uint8 without nodata.
    geobox : GeoBox
        Its grid.
    """
    floating = raster.dtype == np.float32
    block = {"tiled": True, "blockxsize": 256, "blockysize": 256} if min(raster.shape) > 256 else {}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=raster.shape[0],
        width=raster.shape[1],
        count=1,
        dtype=raster.dtype,
        crs=str(geobox.crs),
        transform=geobox.affine,
        nodata=0.0 if floating else None,
        compress="deflate",
        zlevel=1,
        predictor=3 if floating else 2,
        num_threads=2,
        **block,
    ) as target:
        target.write(raster, 1)
        target.update_tags(AREA_OR_POINT="Area")


def _local_incidence(ground: Ground, look: Look) -> Float:
    beta, alpha = np.deg2rad(ground.slope), np.deg2rad(ground.aspect)
    # Upward normal of the slope, (sin β sin α, sin β cos α, cos β), times the look vector
    lean = np.sin(alpha) * look.east + np.cos(alpha) * look.north
    cosine = np.sin(beta) * lean + np.cos(beta) * look.up
    return _float32(np.arccos(np.clip(cosine, -1.0, 1.0)))


def _float32(values: NDArray[Any]) -> Float:
    return np.ascontiguousarray(values, dtype=np.float32)

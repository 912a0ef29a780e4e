"""What the inventory says about a landslide: one table, one row an attribute.

Export, report, ``docs/inventory.md`` and the tests read this table. To add an attribute, add a row.
"""

# ruff: noqa: E501  (one line a row of the table)

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import pandas as pd

from components.dataset.presets import brightness

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.inventory.lineage import Lineage
    from components.inventory.polygons import Extent
    from components.inventory.tracks import CrossTrack

Value = str | int | float
Kind = Literal["text", "integer", "real"]

#: Least |C| at which a line-of-sight velocity is projected onto the slope (science brief §2): below
#: it the projection multiplies noise more than fivefold.
SENSITIVITY_MIN: Final = 0.2

#: Layers that the attributes read, where the cube holds them.
LAYERS_READ: Final = (
    "los_displacement",
    "los_velocity",
    "los_velocity_std",
    "coherence",
    "valid",
    "elevation",
    "slope",
    "aspect",
    "relative_height",
    "los_sensitivity",
)

_NAN: Final = float("nan")


@dataclass(frozen=True)
class Map:
    """Facts that all landslides of one track and period share.

    Parameters
    ----------
    track, period : str
        Names.
    date_start, date_end : str
        ISO dates.
    days : int
        Length of the period.
    sigma_velocity : float
        Noise of the map's velocity [mm/yr].
    model_hash, config_hash, product_sha256 : str
        Of what the map was made.
    brightness_cycle_mm : float
        Displacement of one colour cycle [mm].
    """

    track: str
    period: str
    date_start: str
    date_end: str
    days: int
    sigma_velocity: float
    model_hash: str
    config_hash: str
    product_sha256: str
    brightness_cycle_mm: float = 27.7


@dataclass(frozen=True)
class Sample:
    """All that is known of one landslide when its attributes are computed.

    Parameters
    ----------
    id : str
        Identity.
    lineage : Lineage
        Descent.
    site : str
        The landslide on all tracks.
    category : str
        Class name.
    score, agreement : float
        Of the stitched detection, in [0, 1].
    n_windows : int
        Windows that contributed.
    extent : Extent
        Size and place on the ellipsoid.
    map : Map
        Facts of its track and period.
    cross : CrossTrack
        What other tracks say of it.
    pixels : mapping of str to ndarray, shape (n,)
        Layer values on the landslide's pixels; absent layers are missing.
    """

    id: str
    lineage: Lineage
    site: str
    category: str
    score: float
    agreement: float
    n_windows: int
    extent: Extent
    map: Map
    cross: CrossTrack
    pixels: Mapping[str, NDArray[np.generic]] = field(repr=False)

    def values(self, layer: str) -> NDArray[np.float64]:
        """Finite values of a layer; of a measured layer only on valid pixels.

        Parameters
        ----------
        layer : str
            Layer name.

        Returns
        -------
        ndarray of float, shape (k,)
            Empty where the layer is absent.
        """
        if layer not in self.pixels:
            return np.empty(0)
        values = self.pixels[layer].astype(np.float64)
        keep = np.isfinite(values)
        if layer in _MEASURED and "valid" in self.pixels:
            keep &= self.pixels["valid"].astype(bool)
        return values[keep]


_MEASURED: Final = frozenset({"los_displacement", "los_velocity", "los_velocity_std", "coherence"})


@dataclass(frozen=True)
class Attribute:
    """One column of the inventory.

    Parameters
    ----------
    name : str
        Column in GeoPackage and GeoParquet.
    short : str
        Column in the shapefile, at most 10 characters.
    unit : str
        Unit; empty for text and plain numbers.
    kind : {"text", "integer", "real"}
        Column type; a real number may be missing.
    description : str
        One line for docs and report.
    compute : callable
        ``Sample`` → value.
    """

    name: str
    short: str
    unit: str
    kind: Kind
    description: str
    compute: Callable[[Sample], Value] = field(repr=False)


def _statistic(
    layer: str, function: Callable[[NDArray[np.float64]], float]
) -> Callable[[Sample], float]:
    def compute(sample: Sample) -> float:
        values = sample.values(layer)
        return float(function(values)) if values.size else _NAN

    return compute


def signed_percentile(values: NDArray[np.float64], percent: float) -> float:
    """Percentile of the magnitude, with the sign of the prevailing direction.

    Parameters
    ----------
    values : ndarray, shape (n,), n > 0
        Signed velocities.
    percent : float
        In [0, 100].

    Returns
    -------
    float
        Sign of the sum of `values` times the percentile of ``|values|``.
    """
    size = float(np.percentile(np.abs(values), percent))
    return size if values.sum() >= 0 else -size


def circular_mean(degrees: NDArray[np.float64]) -> float:
    """Mean direction.

    Parameters
    ----------
    degrees : ndarray, shape (n,), n > 0
        Directions [degree].

    Returns
    -------
    float
        In [0, 360) [degree].
    """
    radians = np.deg2rad(degrees)
    angle = np.rad2deg(np.arctan2(np.sin(radians).mean(), np.cos(radians).mean()))
    return float(np.round(angle, 9) % 360.0)


def _largest(values: NDArray[np.float64]) -> float:
    return float(values[np.argmax(np.abs(values))])


def _snr(sample: Sample) -> float:
    values = sample.values("los_velocity")
    noise = sample.map.sigma_velocity
    return abs(float(values.mean())) / noise if values.size and noise > 0 else _NAN


def _brightness(function: Callable[[NDArray[np.float64]], float]) -> Callable[[Sample], float]:
    def compute(sample: Sample) -> float:
        displacement = sample.values("los_displacement")
        if not displacement.size:
            return _NAN
        shown = brightness(displacement, sample.map.brightness_cycle_mm)
        return float(function(shown.astype(np.float64)))

    return compute


def downslope_velocity(sample: Sample) -> NDArray[np.float64]:
    """Velocity along the slope, v/C, where the line of sight can see it.

    Parameters
    ----------
    sample : Sample
        A landslide.

    Returns
    -------
    ndarray of float, shape (k,)
        Positive downslope [mm/yr], of the valid pixels with ``|C| ≥ SENSITIVITY_MIN``.
    """
    pixels = sample.pixels
    if "los_velocity" not in pixels or "los_sensitivity" not in pixels:
        return np.empty(0)
    v = pixels["los_velocity"].astype(np.float64)
    c = pixels["los_sensitivity"].astype(np.float64)
    keep = np.isfinite(v) & np.isfinite(c) & (np.abs(np.nan_to_num(c)) >= SENSITIVITY_MIN)
    if "valid" in pixels:
        keep &= pixels["valid"].astype(bool)
    return v[keep] / c[keep]


def _downslope_mean(sample: Sample) -> float:
    values = downslope_velocity(sample)
    return float(values.mean()) if values.size else _NAN


def _n_pixels(sample: Sample) -> int:
    return next(iter(sample.pixels.values())).size


def _valid_fraction(sample: Sample) -> float:
    return sample.values("los_velocity").size / _n_pixels(sample)


#: The inventory's columns, in order.
ATTRIBUTES: Final[tuple[Attribute, ...]] = (
    Attribute("id", "id", "", "text", "identity: digest of track, period, category and outline", lambda s: s.id),
    Attribute("lineage_id", "lineage", "", "text", "the same landslide through all periods of a track", lambda s: s.lineage.lineage_id),
    Attribute("site_id", "site_id", "", "text", "the same landslide on all tracks: lineages whose outlines of about the same time are related", lambda s: s.site),
    Attribute("parents", "parents", "", "text", "ids of the earlier landslides that it descends from, comma-separated", lambda s: ",".join(s.lineage.parents)),
    Attribute("category", "category", "", "text", "class", lambda s: s.category),
    Attribute("score", "score", "1", "real", "confidence of the detection", lambda s: s.score),
    Attribute("track", "track", "", "text", "satellite track", lambda s: s.map.track),
    Attribute("period", "period", "", "text", "period as YYYYMMDD_YYYYMMDD", lambda s: s.map.period),
    Attribute("date_start", "date_start", "", "text", "first acquisition (ISO date)", lambda s: s.map.date_start),
    Attribute("date_end", "date_end", "", "text", "last acquisition (ISO date)", lambda s: s.map.date_end),
    Attribute("days", "days", "d", "integer", "length of the period", lambda s: s.map.days),
    Attribute("area_m2", "area_m2", "m²", "real", "geodesic area without holes", lambda s: s.extent.area_m2),
    Attribute("perimeter_m", "perim_m", "m", "real", "geodesic length of the outline, with that of holes", lambda s: s.extent.perimeter_m),
    Attribute("n_pixels", "n_pixels", "px", "integer", "pixels of the region grid", _n_pixels),
    Attribute("lon", "lon", "degree", "real", "longitude of the centroid (WGS 84)", lambda s: s.extent.lon),
    Attribute("lat", "lat", "degree", "real", "latitude of the centroid (WGS 84)", lambda s: s.extent.lat),
    Attribute("v_mean", "v_mean", "mm/yr", "real", "mean LOS velocity, + toward the satellite", _statistic("los_velocity", np.mean)),
    Attribute("v_median", "v_median", "mm/yr", "real", "median LOS velocity, + toward the satellite", _statistic("los_velocity", np.median)),
    Attribute("v_p95", "v_p95", "mm/yr", "real", "95th percentile of the LOS speed, with the sign of the prevailing direction", _statistic("los_velocity", lambda v: signed_percentile(v, 95))),
    Attribute("v_max", "v_max", "mm/yr", "real", "fastest pixel's LOS velocity, + toward the satellite", _statistic("los_velocity", _largest)),
    Attribute("v_std", "v_std", "mm/yr", "real", "standard deviation of LOS velocity over the pixels", _statistic("los_velocity", np.std)),
    Attribute("v_sigma", "v_sigma", "mm/yr", "real", "root mean square of the pixels' velocity uncertainty", _statistic("los_velocity_std", lambda s: np.sqrt(np.mean(s**2)))),
    Attribute("snr", "snr", "1", "real", "|mean LOS velocity| over the noise of the map", _snr),
    Attribute("v_slope", "v_slope", "mm/yr", "real", "mean velocity along the slope, v/C where |C| ≥ 0.2, + downslope", _downslope_mean),
    Attribute("v_slope_fraction", "v_slope_fr", "1", "real", "share of pixels on which v_slope is known", lambda s: downslope_velocity(s).size / _n_pixels(s)),
    Attribute("los_sensitivity", "los_sens", "1", "real", "mean sensitivity C of the line of sight to downslope motion", _statistic("los_sensitivity", np.mean)),
    Attribute("motion", "motion", "", "text", "what explains the velocities of all tracks: `downslope`, `vertical`, `unclear` (both) or `neither`; empty without another track", lambda s: s.cross.motion),
    Attribute("tracks_seen", "tracks_see", "", "text", "other tracks that see the ground in about the same period, comma-separated", lambda s: ",".join(s.cross.seen)),
    Attribute("tracks_found", "tracks_fnd", "1", "integer", "tracks on which a landslide was found there, this one included", lambda s: s.cross.found),
    Attribute("coherence", "coherence", "1", "real", "mean interferometric coherence", _statistic("coherence", np.mean)),
    Attribute("valid_fraction", "valid_frac", "1", "real", "share of pixels with a measured velocity", _valid_fraction),
    Attribute("brightness_mean", "bright_avg", "1", "real", "mean brightness of the fringe render, 0 to 255", _brightness(np.mean)),
    Attribute("brightness_std", "bright_std", "1", "real", "standard deviation of that brightness", _brightness(np.std)),
    Attribute("slope", "slope", "degree", "real", "mean terrain slope", _statistic("slope", np.mean)),
    Attribute("aspect", "aspect", "degree", "real", "mean downslope direction, clockwise from north (circular)", _statistic("aspect", circular_mean)),
    Attribute("elevation_mean", "elev_mean", "m", "real", "mean elevation", _statistic("elevation", np.mean)),
    Attribute("elevation_min", "elev_min", "m", "real", "lowest elevation", _statistic("elevation", np.min)),
    Attribute("elevation_max", "elev_max", "m", "real", "highest elevation", _statistic("elevation", np.max)),
    Attribute("relief", "relief", "m", "real", "highest less lowest elevation", _statistic("elevation", np.ptp)),
    Attribute("relative_height", "rel_height", "1", "real", "mean height between the low (0) and the high ground (1) within 12.5 km", _statistic("relative_height", np.mean)),
    Attribute("n_windows", "n_windows", "", "integer", "inference windows that contributed", lambda s: s.n_windows),
    Attribute("agreement", "agreement", "1", "real", "share of the covering windows that found it", lambda s: s.agreement),
    Attribute("model_hash", "model_hash", "", "text", "SHA-256 of the weights", lambda s: s.map.model_hash),
    Attribute("config_hash", "config_hsh", "", "text", "digest of the configuration and inputs of the map", lambda s: s.map.config_hash),
    Attribute("product_sha256", "product_sh", "", "text", "SHA-256 of the product's files", lambda s: s.map.product_sha256),
)  # fmt: skip

_DTYPES: Final = {"text": "object", "integer": "int64", "real": "float64"}


def attribute_table(samples: list[Sample]) -> pd.DataFrame:
    """All attributes of all landslides.

    Parameters
    ----------
    samples : list of Sample
        In the order of the rows.

    Returns
    -------
    DataFrame
        One column per `ATTRIBUTES`, typed, also without rows.
    """
    columns = {
        a.name: pd.Series([a.compute(s) for s in samples], dtype=_DTYPES[a.kind])
        for a in ATTRIBUTES
    }
    return pd.DataFrame(columns)


def attributes_markdown() -> str:
    """The table of attributes as in ``docs/inventory.md``.

    Returns
    -------
    str
        Markdown, one line per row of `ATTRIBUTES`.
    """
    lines = ["| Column | Shapefile | Unit | Type | Meaning |", "|---|---|---|---|---|"]
    for a in ATTRIBUTES:
        meaning = a.description.replace("|", "\\|")
        lines.append(f"| `{a.name}` | `{a.short}` | {a.unit or '–'} | {a.kind} | {meaning} |")
    return "\n".join(lines) + "\n"

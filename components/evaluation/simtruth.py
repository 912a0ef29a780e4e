"""The truth of a simulated map: what is to be found, what may be found, and what is known of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import geopandas as gpd
import numpy as np

from components.evaluation.footprints import Footprint
from components.evaluation.references import VISIBLE_MIN, rasterise
from components.layers import DAYS_PER_YEAR

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

#: Visible landslides of fewer pixels are no references of the headline figures.
REFERENCE_PIXELS: Final = 25


@dataclass(frozen=True, eq=False)
class Truth:
    """One simulated map.

    Parameters
    ----------
    references : list of Footprint
        Visible parts of the landslides that an interpreter would draw, of any size, then the whole
        footprints of all others, which are ignored.
    facts : dict of str to ndarray, each of shape (len(references),)
        ``n_pixels``, ``snr`` (median |d|/σ of the visible pixels), ``coherence`` (mean of the map),
        ``rate`` (|LOS| of the fastest point [mm/yr]), ``shape``, ``motion``.
    footprints : list of Footprint
        All landslides, whole, seen or not, of which enough was observable.
    footprint_rate : ndarray of float, shape (len(footprints),)
        |LOS| rate of the fastest point [mm/yr].
    counts : dict of str to int
        ``landslides``, ``drawn``, ``ignored_label``, ``ignored_unobservable``, ``not_visible``,
        ``small`` (drawn, but below `REFERENCE_PIXELS`), ``counted``.
    """

    references: list[Footprint] = field(repr=False)
    facts: dict[str, NDArray[Any]] = field(repr=False)
    footprints: list[Footprint] = field(repr=False)
    footprint_rate: NDArray[np.float64] = field(repr=False)
    counts: dict[str, int]

    def headline(self) -> list[Footprint]:
        """The references, with those below `REFERENCE_PIXELS` ignored too."""
        return [
            Footprint(f.row, f.col, f.mask, ignore=f.ignore or f.n_pixels < REFERENCE_PIXELS)
            for f in self.references
        ]


def read_truth(
    labels: Path,
    truth: Path,
    geobox: GeoBox,
    valid: NDArray[np.bool_],
    coherence: NDArray[np.float32],
    days: int,
    track: str | None = None,
) -> Truth:
    """Truth of one map of a region with one period.

    Parameters
    ----------
    labels, truth : Path
        ``labels.gpkg`` and ``truth.gpkg`` of the simulator.
    geobox : GeoBox
        The map's grid.
    valid : ndarray of bool, shape (H, W)
        Observable pixels.
    coherence : ndarray of float, shape (H, W)
        Of the map.
    days : int
        Length of the period.
    track : str, optional
        The map's, where the region has several.

    Returns
    -------
    Truth
    """
    drawn, rates = (
        table if track is None else table[table["track"] == track]
        for table in (
            gpd.read_file(labels, layer="landslides").set_index("slide_id"),
            gpd.read_file(truth, layer="rates").set_index("slide_id"),
        )
    )
    known = gpd.read_file(truth, layer="footprints").set_index("slide_id")
    counts = dict.fromkeys(
        ("landslides", "drawn", "ignored_label", "ignored_unobservable", "not_visible", "small",
         "counted"), 0,
    )  # fmt: skip
    counts["landslides"], counts["drawn"] = len(known), len(drawn)
    rate = (rates["peak_los_mm"].abs() * DAYS_PER_YEAR / days).to_dict()
    kept: list[tuple[int, Footprint]] = []
    ignored: list[tuple[int, Footprint]] = []
    footprints: list[Footprint] = []
    footprint_rate: list[float] = []
    for slide_id, polygon in known.geometry.items():
        whole = rasterise(polygon, geobox)
        if whole is None:
            continue
        if _share(whole, valid) >= VISIBLE_MIN:
            footprints.append(whole)
            footprint_rate.append(rate[slide_id])
        label = drawn.loc[slide_id] if slide_id in drawn.index else None
        visible = None if label is None else rasterise(label.geometry, geobox)
        if label is None or visible is None:
            fate = "not_visible"
        elif label["ignore"]:
            fate = "ignored_label"
        elif _share(visible, valid) < VISIBLE_MIN:
            fate = "ignored_unobservable"
        else:
            fate = "counted" if visible.n_pixels >= REFERENCE_PIXELS else "small"
        counts[fate] += 1
        if visible is not None and fate in {"counted", "small"}:
            kept.append((slide_id, visible))
        else:
            ignored.append((slide_id, Footprint(whole.row, whole.col, whole.mask, ignore=True)))
    everything = [*kept, *ignored]
    ids = [i for i, _ in everything]
    references = [f for _, f in everything]
    facts = {
        "n_pixels": np.array([f.n_pixels for f in references], dtype=np.int64),
        "snr": np.array([rates.loc[i, "snr"] for i in ids], dtype=np.float64),
        "coherence": np.array([_mean(f, coherence) for f in references], dtype=np.float64),
        "rate": np.array([rate[i] for i in ids], dtype=np.float64),
        "shape": np.array([known.loc[i, "shape"] for i in ids], dtype=np.str_),
        "motion": np.array([known.loc[i, "motion"] for i in ids], dtype=np.str_),
    }
    return Truth(references, facts, footprints, np.array(footprint_rate, np.float64), counts)


def _pixels(f: Footprint, layer: NDArray[Any]) -> NDArray[Any]:
    height, width = f.mask.shape
    return np.asarray(layer[f.row : f.row + height, f.col : f.col + width][f.mask])


def _share(f: Footprint, valid: NDArray[np.bool_]) -> float:
    return float(_pixels(f, valid).mean())


def _mean(f: Footprint, layer: NDArray[np.float32]) -> float:
    values = _pixels(f, layer)
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")

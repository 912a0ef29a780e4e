"""Real rasters as a check: maps that hold domes, bowls, atmosphere and no known landslide.

The rasters lie outside the repository. Each is described here as a plain product, so that it goes the
way of any user's map. What their network detects is a false alarm, or something to look at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from PIL import Image

from components.errors import InputError

#: Environment variable that names the folder of the rasters.
VARIABLE: Final = "SLOPEWATCH_DATA"

# Incidence and heading of Sentinel-1 where a file brings none: mid-swath values of the pass.
_DESCENDING: Final = {"incidence_deg": 39.0, "heading_deg": -167.0}
_ASCENDING: Final = {"incidence_deg": 39.0, "heading_deg": -13.0}


#: Longest side of a picture in the document [px].
_PICTURE: Final = 1000


@dataclass(frozen=True)
class RealMap:
    """One real raster.

    Parameters
    ----------
    name : str
        Name of the map.
    about : str
        What it holds, for the table.
    files : dict of str to str
        Keys of the description that name a raster → path below the folder of all rasters.
    keys : dict
        The description's other keys.
    """

    name: str
    about: str
    files: dict[str, str]
    keys: dict[str, Any] = field(default_factory=dict)


_GAMMA: Final = "gamma_stack_mexico/cropA/geotiffs/cropA_20180106-20180130_VV_8rlks"
_TEXAS: Final = "opera_dolphin_texas"

#: From this calibrated score on a detection is more likely a landslide than not; counted whatever the
#: threshold.
LIKELY: Final = 0.5

REAL_MAPS: Final = (
    RealMap(
        "texas",
        "West Texas, 2016: plain, real atmosphere and noise",
        {
            "file": f"{_TEXAS}/displacement_20160708_20161223.tif",
            "coherence": f"{_TEXAS}/temporal_coherence_20160708_20161223.tif",
            "mask": f"{_TEXAS}/recommended_mask_20160708_20161223.tif",
        },
        {
            "quantity": "displacement",
            "unit": "m",
            "sign": "toward",
            "dates": ["2016-07-08", "2016-12-23"],
            **_ASCENDING,
        },
    ),
    RealMap(
        "mexico-city",
        "Mexico City, 24 days of 2018: fast subsidence",
        {"file": f"{_GAMMA}_eqa_unw.tif", "coherence": f"{_GAMMA}_flat_eqa_cc.tif"},
        {
            "quantity": "unwrapped_phase",
            "unit": "rad",
            "sign": "away",
            "wavelength_m": 0.05550415767769124,
            "dates": ["2018-01-06", "2018-01-30"],
            **_ASCENDING,
        },
    ),
    RealMap(
        "campi-flegrei",
        "Campi Flegrei: a volcanic dome that rises",
        {
            "file": "licsbas_campi_flegrei_geotiff/prelim_vel.tif",
            "coherence": "licsbas_campi_flegrei_geotiff/prelim_coh.tif",
        },
        {
            "quantity": "velocity",
            "unit": "mm/yr",
            "sign": "toward",
            # The file names no dates; a velocity does not depend on them.
            "dates": ["2016-01-01", "2022-01-01"],
            **_DESCENDING,
        },
    ),
    RealMap(
        "aleutians",
        "Aleutians: volcanoes and sea, strong atmosphere, no coherence given",
        {"file": "hyp3_aleutians/test_unw_phase.tif"},
        {
            "quantity": "unwrapped_phase",
            "unit": "rad",
            "sign": "away",
            "wavelength_m": 0.055465763,
            # The file names no dates; one Sentinel-1 repeat makes the velocity, and the noise, largest.
            "dates": ["2020-01-01", "2020-01-13"],
            **_ASCENDING,
        },
    ),
)


def describe(real: RealMap, data: Path, out: Path) -> Path:
    """Write the description of a real raster.

    Parameters
    ----------
    real : RealMap
        Which.
    data : Path
        Folder of all rasters.
    out : Path
        Folder for the YAML; made if missing.

    Returns
    -------
    Path
        The YAML: a product.

    Raises
    ------
    InputError
        SW-101 where a raster is missing.
    """
    paths = {key: data / name for key, name in real.files.items()}
    for path in paths.values():
        if not path.is_file():
            raise InputError(
                "SW-101",
                f"the real raster of `{real.name}` is not there",
                path=path,
                remedy=f"{VARIABLE} names the folder of the real rasters.",
            )
    out.mkdir(parents=True, exist_ok=True)
    product = out / f"{real.name}.yaml"
    values = {**real.keys, **{k: str(v.resolve()) for k, v in paths.items()}, "track": real.name}
    product.write_text(yaml.safe_dump(values, sort_keys=True), encoding="utf-8")
    return product


def small_picture(png: Path, out: Path) -> None:
    """A map's picture small enough for the documents.

    Parameters
    ----------
    png : Path
        As the inventory draws it.
    out : Path
        The ``.jpg`` file.
    """
    with Image.open(png) as picture:
        small = picture.convert("RGB")
        small.thumbnail((_PICTURE, _PICTURE), Image.Resampling.LANCZOS)
        small.save(out, quality=85, optimize=True)

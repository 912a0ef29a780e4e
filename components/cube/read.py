"""Reading cubes: lazily as one xarray dataset, or window by window as plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from odc.geo.geobox import GeoBox

from components.cube import ingest, region, track
from components.cube.store import open_arrays
from components.errors import InputError, ProcessingError, WorkspaceError
from components.grid import Window, geobox_from_dict
from components.layers import LAYERS
from components.workspace import MANIFEST, Artefact, Workspace, read_artefact


@dataclass(frozen=True)
class CubeInfo:
    """What a cube's manifest says, as values.

    Parameters
    ----------
    track, period : str
        Identity; the period is ``YYYYMMDD_YYYYMMDD``.
    date_start, date_end : date
        Reference and secondary acquisition.
    days : int
        Length of the period.
    orbit_direction : str
        ``ascending``, ``descending`` or ``unknown``.
    wavelength_m : float
        Radar wavelength [m].
    geobox : GeoBox
        The region grid.
    layers : tuple of str
        Period layers that hold data.
    sigma_velocity : float
        Noise of the map [mm/yr]: 1.4826 · MAD of the valid velocity.
    valid_fraction : float
        Share of usable pixels in the region.
    """

    track: str
    period: str
    date_start: date
    date_end: date
    days: int
    orbit_direction: str
    wavelength_m: float
    geobox: GeoBox
    layers: tuple[str, ...]
    sigma_velocity: float
    valid_fraction: float

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width [px]."""
        return int(self.geobox.shape[0]), int(self.geobox.shape[1])

    @property
    def pixel_size_m(self) -> float:
        """Pixel side [m]."""
        return abs(float(self.geobox.resolution.x))


def cube_info(artefact: Artefact) -> CubeInfo:
    """A cube's facts as values.

    Parameters
    ----------
    artefact : Artefact
        Stage ``cube``.

    Returns
    -------
    CubeInfo
    """
    m = artefact.meta
    return CubeInfo(
        track=m["track"],
        period=m["period"],
        date_start=date.fromisoformat(m["date_start"]),
        date_end=date.fromisoformat(m["date_end"]),
        days=int(m["days"]),
        orbit_direction=m["orbit_direction"],
        wavelength_m=float(m["wavelength_m"]),
        geobox=geobox_from_dict(m["grid"]),
        layers=tuple(m["layers"]),
        sigma_velocity=float(m["sigma_velocity"]),
        valid_fraction=float(m["valid_fraction"]),
    )


def list_cubes(ws: Workspace) -> list[Artefact]:
    """Published cubes in the order of track and period.

    Parameters
    ----------
    ws : Workspace
        The workspace.

    Returns
    -------
    list of Artefact
    """
    return sorted(ws.artefacts("cube"), key=lambda a: (str(a.meta["track"]), str(a.meta["period"])))


def find_cube(ws: Workspace, track_name: str, period: str) -> Artefact:
    """The cube of a track and period.

    Parameters
    ----------
    ws : Workspace
        The workspace.
    track_name, period : str
        Which.

    Returns
    -------
    Artefact

    Raises
    ------
    InputError
        SW-702 where there is none.
    """
    found = read_artefact(ws.place("cube", track_name, period))
    if found is None:
        raise _unknown(ws.root, track_name, period)
    return found


def open_cube(cube: Artefact | Path | str) -> xr.Dataset:
    """A cube with the layers of its track and region, lazily.

    Parameters
    ----------
    cube : Artefact or path
        A published cube, or its folder.

    Returns
    -------
    Dataset
        Dimensions (y, x), Dask arrays, ``spatial_ref`` as coordinate (``.rio.crs`` works), attributes of the
        cube.

    Raises
    ------
    WorkspaceError
        SW-205 where there is no published cube; SW-206 where its track or region is missing or damaged.
    """
    import rioxarray  # noqa: F401 - registers `.rio`

    folder = cube.folder if isinstance(cube, Artefact) else Path(cube).resolve()
    if read_artefact(folder) is None:
        raise WorkspaceError("SW-205", "no published cube", path=folder)
    own = _open(folder / ingest.STORE)
    root, name = folder.parents[2], folder.parent.name
    others = []
    for place, store in (
        (root / "track" / name, track.STORE),
        (root / "region", region.STORE),
    ):
        if read_artefact(place) is None:
            raise WorkspaceError("SW-206", f"the cube's {place.name} is missing", path=place)
        others.append(_open(place / store))
    # The grids are one: joining by exact coordinates would only hide a damaged store.
    merged: xr.Dataset = xr.merge(
        [own, *others], join="exact", compat="override", combine_attrs="override"
    )
    return merged


def read_layers(
    ws: Workspace, track_name: str, period: str, names: Sequence[str], window: Window
) -> dict[str, npt.NDArray[Any]]:
    """A window of some layers as plain arrays; safe to call from any number of threads.

    Parameters
    ----------
    ws : Workspace
        The workspace.
    track_name, period : str
        Which cube.
    names : sequence of str
        Canonical layer names of any scope: the cube's own, its track's, the region's.
    window : Window
        Inside the region grid.

    Returns
    -------
    dict
        Layer name → array (height, width) in the stored type: float32 with NaN, or bool.

    Raises
    ------
    InputError
        SW-702 where there is no such cube.
    ProcessingError
        SW-504 where the cube does not store a layer.
    ValueError
        For a window that leaves the grid.
    """
    folders = {
        "period": (ws.place("cube", track_name, period), ingest.STORE),
        "track": (ws.place("track", track_name), track.STORE),
        "region": (ws.place("region"), region.STORE),
    }
    out = {}
    for name in names:
        if name not in LAYERS:
            raise ProcessingError("SW-504", f"there is no layer of the name `{name}`")
        folder, store = folders[LAYERS[name].scope]
        try:
            arrays = _arrays(folder / store, _stamp(folder))
        except FileNotFoundError:
            raise _unknown(ws.root, track_name, period) from None
        if name not in arrays:
            raise ProcessingError(
                "SW-504", f"the cube of {track_name} {period} has no `{name}`", path=folder
            )
        array = arrays[name]
        if min(window.row, window.col) < 0 or (
            window.row_end > array.shape[0] or window.col_end > array.shape[1]
        ):
            msg = f"{window} leaves the grid of shape {array.shape}"
            raise ValueError(msg)
        out[name] = np.asarray(array[window.slices])
    return out


def _open(path: Path) -> xr.Dataset:
    lazy: xr.Dataset = xr.open_zarr(path, consolidated=False, decode_coords="all", chunks={})
    return lazy


def _unknown(root: Path, track_name: str, period: str) -> InputError:
    return InputError("SW-702", f"no cube of track `{track_name}`, period `{period}`", path=root)


def _stamp(folder: Path) -> tuple[int, int]:
    """What changes when an artefact is published anew."""
    stat = (folder / MANIFEST).stat()
    return stat.st_ino, stat.st_mtime_ns


@lru_cache(maxsize=256)
def _arrays(path: Path, stamp: tuple[int, int]) -> dict[str, zarr.Array[Any]]:  # noqa: ARG001
    """Opened stores: opening costs more than a window. The stamp makes a new artefact a new entry."""
    return open_arrays(path)

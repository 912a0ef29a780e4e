"""What a reader returns: a product as a value, with paths instead of open handles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from odc.geo.geobox import GeoBox

from components.errors import InputError
from components.provenance import files_sha256

OrbitDirection = Literal["ascending", "descending", "unknown"]

#: How the numbers of a file become canonical values; the functions are in `convert.CONVERSIONS`.
Kind = Literal["linear", "wrapped", "mask", "constant", "hyp3_east", "hyp3_north", "hyp3_up"]

#: Name of the layer that holds a product's own mask of good pixels (not stored, so not in the table of
#: stored layers).
MASK: Final = "mask"

#: The three components of the look vector.
LOS_LAYERS: Final = ("los_east", "los_north", "los_up")


@dataclass(frozen=True)
class LayerSource:
    """How one canonical layer is read. Holds paths, never open handles: it travels between threads.

    Parameters
    ----------
    path : str
        Local path or ``/vsizip/…``; empty for a constant.
    variable : str, optional
        Variable of a NetCDF file.
    band : int
        Band, counted from 1.
    nodata : float, optional
        Raw value of a missing pixel. NaN is always missing.
    scale, offset : float
        Canonical value = raw × scale + offset: sign and unit in one place.
    kind : str
        Key of `convert.CONVERSIONS`.
    second : str, optional
        Path of the second raster of conversions that need two (``lv_phi``).
    """

    path: str
    variable: str | None = None
    band: int = 1
    nodata: float | None = None
    scale: float = 1.0
    offset: float = 0.0
    kind: Kind = "linear"
    second: str | None = None

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names under which GDAL opens the rasters; empty for a constant."""
        if not self.path:
            return ()
        first = f'netcdf:"{self.path}":{self.variable}' if self.variable else self.path
        return (first,) if self.second is None else (first, self.second)


@dataclass(frozen=True)
class Product:
    """One displacement map between two dates, with whatever layers come with it.

    Parameters
    ----------
    path : Path
        What the user gave: folder, archive or file.
    reader : str
        Name of the reader.
    track : str
        Track name.
    orbit_direction : {"ascending", "descending", "unknown"}
        Flight direction.
    date_start, date_end : date
        Reference and secondary acquisition; the reference is older.
    geobox : GeoBox
        Grid of all layers.
    wavelength_m : float
        Radar wavelength [m].
    looks : float or None
        Nominal number of looks (range × azimuth) where the product tells.
    layers : mapping
        Canonical layer name → `LayerSource`. ``los_displacement`` is always there; ``mask`` is the
        product's own mask of good pixels.
    files : tuple of Path
        Every file that the product rests on, for its hash.
    relative_orbit : int, optional
        Sentinel-1 relative orbit, 1 to 175, where the product tells.

    Raises
    ------
    InputError
        SW-106 where the dates are not in order; SW-113 without a displacement.
    """

    path: Path
    reader: str
    track: str
    orbit_direction: OrbitDirection
    date_start: date
    date_end: date
    geobox: GeoBox
    wavelength_m: float
    looks: float | None
    layers: Mapping[str, LayerSource]
    files: tuple[Path, ...]
    relative_orbit: int | None = None

    def __post_init__(self) -> None:
        check_dates(self.date_start, self.date_end, self.path)
        if "los_displacement" not in self.layers:
            raise InputError("SW-113", "no displacement layer", path=self.path)

    @property
    def period(self) -> str:
        """``YYYYMMDD_YYYYMMDD``: reference and secondary date."""
        return f"{self.date_start:%Y%m%d}_{self.date_end:%Y%m%d}"

    @property
    def days(self) -> int:
        """Length of the period [days], > 0."""
        return (self.date_end - self.date_start).days

    def sha256(self) -> str:
        """Digest of the names and contents of the product's files.

        Returns
        -------
        str
            64 hexadecimal digits.

        Raises
        ------
        InputError
            SW-101 or SW-102 where a file has gone or cannot be read.
        """
        return _files_sha256(tuple((f, *_state(f)) for f in self.files))


def _state(path: Path) -> tuple[int, int]:
    """Size and time of change: what tells that a file is still the one that was hashed."""
    try:
        stat = path.stat()
    except OSError:
        return -1, -1  # hashing says with a code what is wrong
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=256)
def _files_sha256(states: tuple[tuple[Path, int, int], ...]) -> str:
    # Several stages ask for the digest of a product of gigabytes.
    return files_sha256(path for path, _, _ in states)


def check_dates(start: date, end: date, path: Path) -> None:
    """Refuse a reference date that is not older than the secondary date.

    Parameters
    ----------
    start, end : date
        Reference and secondary acquisition.
    path : Path
        Named in the error.

    Raises
    ------
    InputError
        SW-106.
    """
    if end <= start:
        raise InputError(
            "SW-106",
            f"reference date {start.isoformat()} is not older than secondary date "
            f"{end.isoformat()}",
            path=path,
        )


def parse_date(text: str, path: Path) -> date:
    """Date of a name part such as ``20160708`` or ``2016-07-08``.

    Parameters
    ----------
    text : str
        Eight digits, with or without hyphens.
    path : Path
        Named in the error.

    Returns
    -------
    date

    Raises
    ------
    InputError
        SW-106 where there is no such day.
    """
    digits = text.replace("-", "")
    try:
        if len(digits) != 8:
            raise ValueError
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        raise InputError("SW-106", f"`{text}` is not a date", path=path) from None


def description_beside(path: Path) -> Path | None:
    """The YAML description of a plain raster: ``<file>.yaml`` or ``<stem>.yaml`` (or ``.yml``).

    Parameters
    ----------
    path : Path
        A raster file.

    Returns
    -------
    Path or None
        None where there is none.
    """
    for ending in (".yaml", ".yml"):
        for candidate in (path.with_name(path.name + ending), path.with_suffix(ending)):
            if candidate.is_file():
                return candidate
    return None


def existing_files(folder: Path) -> list[Path]:
    """Files of a folder by name, hidden ones left out.

    Parameters
    ----------
    folder : Path
        An existing folder.

    Returns
    -------
    list of Path

    Raises
    ------
    InputError
        SW-102 where it cannot be listed.
    """
    try:
        entries: Iterable[Path] = sorted(folder.iterdir(), key=lambda p: p.name)
        return [p for p in entries if p.is_file() and not p.name.startswith(".")]
    except OSError as e:
        raise InputError("SW-102", e.strerror or str(e), path=folder) from e

"""The table of readers, and discovery with its refusals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from components.config import IngestConfig
from components.errors import InputError
from components.insar.geometry import los_from_angles
from components.products import dolphin, hyp3, opera, plain
from components.products.base import LOS_LAYERS, LayerSource, Product


@dataclass(frozen=True)
class Reader:
    """One product format.

    Parameters
    ----------
    name : str
        Stored with every cube made from it.
    detect : callable
        Whether a path is of this format; raises nothing but for an unlistable folder.
    read : callable
        Path and configuration → products.
    """

    name: str
    detect: Callable[[Path], bool]
    read: Callable[[Path, IngestConfig], list[Product]]


#: Asked in this order; `plain` takes every raster file and asks for its YAML.
READERS: Final = (
    Reader(hyp3.NAME, hyp3.detect, hyp3.read),
    Reader(opera.NAME, opera.detect, opera.read),
    Reader(dolphin.NAME, dolphin.detect, dolphin.read),
    Reader(plain.NAME, plain.detect, plain.read),
)


def discover(paths: Sequence[Path], cfg: IngestConfig) -> list[Product]:
    """Products of some paths.

    A product without look vectors gets constant ones where the configuration states ``incidence_deg`` and
    ``heading_deg``. The same path given twice counts once.

    Parameters
    ----------
    paths : sequence of Path
        Folders, archives, rasters or their YAML descriptions.
    cfg : IngestConfig
        Track and geometry for products that do not tell.

    Returns
    -------
    list of Product
        By track, reference date and secondary date.

    Raises
    ------
    InputError
        SW-101 where nothing is given or a path is missing; SW-107 for two products of one track and period;
        SW-111 for an unknown format; SW-112 for ascending and descending products, or different relative
        orbits, under one track name; and the errors of the readers.
    """
    if not paths:
        raise InputError("SW-101", "no product given", remedy="Name at least one product.")
    products: list[Product] = []
    for path in dict.fromkeys(Path(p).expanduser().resolve() for p in paths):
        products += [_with_look(p, cfg) for p in _reader(path).read(path, cfg)]
    products.sort(key=lambda p: (p.track, p.date_start, p.date_end, str(p.path)))
    _refuse_mixed_tracks(products)
    _refuse_duplicates(products)
    return products


def _reader(path: Path) -> Reader:
    try:
        path.stat()
    except PermissionError as e:
        raise InputError("SW-102", "no permission to read it", path=path) from e
    except OSError:
        raise InputError("SW-101", "no such file or folder", path=path) from None
    for reader in READERS:
        if reader.detect(path):
            return reader
    remedy = None
    if path.is_dir():
        inside = sum(any(r.detect(p) for r in READERS) for p in sorted(path.iterdir()))
        if inside:
            remedy = f"It holds {inside} product(s): give them one by one, e.g. {path}/*"
    raise InputError(
        "SW-111",
        f"none of the readers {', '.join(r.name for r in READERS)} knows it",
        path=path,
        remedy=remedy,
    )


def _with_look(product: Product, cfg: IngestConfig) -> Product:
    if "los_east" in product.layers or cfg.incidence_deg is None or cfg.heading_deg is None:
        return product
    layers = dict(product.layers)
    look = los_from_angles(cfg.incidence_deg, cfg.heading_deg)
    for name, value in zip(LOS_LAYERS, look, strict=True):
        layers[name] = LayerSource("", kind="constant", offset=float(value))
    return replace(product, layers=layers)


def _refuse_mixed_tracks(products: Sequence[Product]) -> None:
    told: dict[tuple[str, str], Product] = {}
    for product in products:
        direction, orbit = product.orbit_direction, product.relative_orbit
        facts = {
            "direction": None if direction == "unknown" else direction,
            "orbit": None if orbit is None else f"relative orbit {orbit}",
        }
        for kind, fact in facts.items():
            if fact is None:
                continue
            known = told.setdefault((product.track, kind), product)
            other = (
                known.orbit_direction
                if kind == "direction"
                else f"relative orbit {known.relative_orbit}"
            )
            if other != fact:
                raise InputError(
                    "SW-112",
                    f"track `{product.track}` would hold {other} ({known.path.name}) and {fact}",
                    path=product.path,
                    remedy="Ingest one track at a time, each under its own name: ingest.track.",
                )


def _refuse_duplicates(products: Sequence[Product]) -> None:
    seen: dict[tuple[str, str], Product] = {}
    for product in products:
        key = product.track, product.period
        if key in seen:
            raise InputError(
                "SW-107",
                f"track `{product.track}`, period {product.period} also comes from {seen[key].path}",
                path=product.path,
                remedy="Give one product per track and period, or name different tracks.",
            )
        seen[key] = product

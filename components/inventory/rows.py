"""Rows of the inventory: the landslides of each map with all that is known of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import geopandas as gpd
from pyproj import CRS

from components.config import InventoryConfig
from components.cube.read import read_layers
from components.evaluation.evaluate import model_card, operating_threshold
from components.grid import Window, geobox_to_dict
from components.inference.instance_file import load_instances
from components.inventory import tracks
from components.inventory.attributes import LAYERS_READ, Map, Sample, attribute_table
from components.inventory.lineage import Lineage, Member, related, sites, trace
from components.inventory.overview import Reader
from components.inventory.polygons import Extent, geodesic_extent, lonlat_transformer, pixel_polygon
from components.inventory.selection import Landslide, Selection, select
from components.progress import Progress
from components.provenance import digest
from components.workspace import Artefact, Workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

#: Landslides whose layers are read together lie in one block of this side [px].
_BLOCK: Final = 512


@dataclass(frozen=True)
class MapWork:
    """One map on its way to its rows.

    Parameters
    ----------
    artefact, cube : Artefact
        Stages ``detections`` and ``cube``.
    facts : Map
        What its landslides share.
    score_min : float
        Operating threshold.
    selection : Selection
        Landslides that count.
    reader : Reader
        Of its layers.
    cross : mapping of str to CrossTrack
        By landslide: what other tracks say of it.
    """

    artefact: Artefact
    cube: Artefact
    facts: Map
    score_min: float
    selection: Selection = field(repr=False)
    reader: Reader = field(repr=False)
    cross: Mapping[str, tracks.CrossTrack] = field(default_factory=dict, repr=False)


def prepare(
    ws: Workspace,
    artefact: Artefact,
    cube: Artefact,
    cfg: InventoryConfig,
    grid: Mapping[str, Any],
) -> MapWork:
    """A map's landslides and what they share.

    Parameters
    ----------
    ws : Workspace
        Holds weights and layers.
    artefact, cube : Artefact
        Stages ``detections`` and ``cube`` of one track and period.
    cfg : InventoryConfig
        Thresholds.
    grid : mapping
        Of the region.

    Returns
    -------
    MapWork
    """
    track, period, meta = artefact.meta["track"], artefact.meta["period"], cube.meta
    model_hash = str(artefact.meta.get("model_hash", ""))
    score_min = operating_threshold(cfg, artefact, model_card(ws, artefact))

    def reader(names: Sequence[str], window: Window) -> dict[str, NDArray[np.generic]]:
        return dict(read_layers(ws, track, period, names, window))

    return MapWork(
        artefact=artefact,
        cube=cube,
        facts=Map(
            track=track,
            period=period,
            date_start=meta["date_start"],
            date_end=meta["date_end"],
            days=int(meta["days"]),
            sigma_velocity=float(meta["sigma_velocity"]),
            model_hash=model_hash,
            # Of this map alone: what other periods bring must not change its rows.
            config_hash=digest(artefact.key, cube.key, cfg.model_dump(mode="json"), score_min),
            product_sha256=meta["sha256"],
            brightness_cycle_mm=cfg.brightness_cycle_mm,
        ),
        score_min=score_min,
        selection=select(
            load_instances(artefact.folder / "instances.npz"),
            track=track,
            period=period,
            grid=grid,
            score_min=score_min,
            min_pixels=cfg.min_pixels,
        ),
        reader=reader,
    )


def read_groups(
    landslides: Sequence[Landslide], block: int = _BLOCK
) -> Iterator[tuple[Window, list[int]]]:
    """Windows that hold neighbouring landslides, so that their layers are read together.

    Parameters
    ----------
    landslides : sequence of Landslide
        Of one map.
    block : int
        Landslides that begin in one block of this side belong together [px].

    Returns
    -------
    iterator of (Window, list of int)
        Bounding window and indices; each landslide once. A landslide larger than a block is alone.
    """
    groups: dict[tuple[int, int, int], list[int]] = {}
    for i, x in enumerate(landslides):
        large = max(x.instance.mask.shape) > block
        place = (x.instance.row // block, x.instance.col // block, i + 1 if large else 0)
        groups.setdefault(place, []).append(i)
    for place in sorted(groups):
        members = [landslides[i].instance for i in groups[place]]
        row, col = min(m.row for m in members), min(m.col for m in members)
        row_end = max(m.row + m.mask.shape[0] for m in members)
        col_end = max(m.col + m.mask.shape[1] for m in members)
        yield Window(row, col, row_end - row, col_end - col), groups[place]


def ask_other_tracks(
    works: Sequence[MapWork],
    cfg: InventoryConfig,
    geobox: GeoBox,
    progress: Progress,
) -> list[MapWork]:
    """Look at every landslide on the other tracks, and leave out what moves vertically.

    Parameters
    ----------
    works : sequence of MapWork
        All maps.
    cfg : InventoryConfig
        ``vertical``, and what makes two outlines one landslide.
    geobox : GeoBox
        The region's grid.
    progress : Progress
        Told of the maps.

    Returns
    -------
    list of MapWork
        With ``cross``; the counts of the selection gain ``vertical``, those left out for their motion.
    """
    shape = (int(geobox.shape[0]), int(geobox.shape[1]))
    out = []
    for k, work in enumerate(works):
        progress("tracks", k, len(works))
        cross = _cross_tracks(work, _same_time(work, works), cfg, shape)
        kept = work.selection.landslides
        if cfg.vertical == "drop":
            kept = [x for x in kept if x.id not in cross or cross[x.id].motion != "vertical"]
        left_out = len(work.selection.landslides) - len(kept)
        counts = work.selection.counts | {"vertical": left_out, "kept": len(kept)}
        out.append(replace(work, selection=Selection(kept, counts), cross=cross))
    progress("tracks", len(works), len(works))
    return out


def _cross_tracks(
    work: MapWork, others: Sequence[MapWork], cfg: InventoryConfig, shape: tuple[int, int]
) -> dict[str, tracks.CrossTrack]:
    landslides = work.selection.landslides
    if not others:
        return {}
    linked = _found_elsewhere(landslides, others, cfg)
    out = {}
    for window, members in read_groups(landslides):
        wide = window.buffer(tracks.MARGIN_PX, shape)
        views = [(w.facts.track, w.reader(tracks.LAYERS, wide)) for w in (work, *others)]
        for i in members:
            x = landslides[i]
            seen = tracks.compare(views, wide, x.footprint)
            found = 1 + sum(bool(ids) for ids in linked[i])
            out[x.id] = replace(seen, found=found, linked=tuple(chain.from_iterable(linked[i])))
    return out


def _same_time(work: MapWork, works: Sequence[MapWork]) -> list[MapWork]:
    """Of each other track the map of about the same period."""
    dates = [(w.facts.track, (w.facts.date_start, w.facts.date_end)) for w in works]
    own = (work.facts.date_start, work.facts.date_end)
    return [works[k] for k in tracks.partners(work.facts.track, own, dates)]


def _found_elsewhere(
    landslides: Sequence[Landslide], others: Sequence[MapWork], cfg: InventoryConfig
) -> list[list[list[str]]]:
    """By landslide and other map: identities of the related outlines."""
    out: list[list[list[str]]] = [[[] for _ in others] for _ in landslides]
    ours = [x.footprint for x in landslides]
    for k, other in enumerate(others):
        theirs = other.selection.landslides
        outlines = [x.footprint for x in theirs]
        for n, o, *_ in related(ours, outlines, cfg.lineage_iou, cfg.lineage_overlap):
            out[n][k].append(theirs[o].id)
    return out


def tables(
    works: Sequence[MapWork],
    cfg: InventoryConfig,
    geobox: GeoBox,
    progress: Progress,
) -> list[gpd.GeoDataFrame]:
    """Rows of each map; lineages run through all of them.

    Parameters
    ----------
    works : sequence of MapWork
        All maps.
    cfg : InventoryConfig
        What makes a lineage.
    geobox : GeoBox
        The region's grid.
    progress : Progress
        Told of attributes.

    Returns
    -------
    list of GeoDataFrame
        By map: columns of `components.inventory.attributes.ATTRIBUTES`, multipolygons in the region's CRS.
    """
    lineages = trace(
        [
            Member(x.id, w.facts.track, (w.facts.date_start, w.facts.date_end), x.footprint)
            for w in works
            for x in w.selection.landslides
        ],
        iou_min=cfg.lineage_iou,
        overlap_min=cfg.lineage_overlap,
    )
    pairs = (
        (lineages[own].lineage_id, lineages[other].lineage_id)
        for w in works
        for own, cross in w.cross.items()
        for other in cross.linked
        if own in lineages and other in lineages  # neither left out
    )
    site = sites({x.lineage_id for x in lineages.values()}, pairs)
    crs = CRS.from_user_input(geobox_to_dict(geobox)["crs"])
    to_lonlat = lonlat_transformer(crs)
    total = sum(len(w.selection.landslides) for w in works)
    done = 0
    frames = []
    for work in works:
        classes = list(work.artefact.meta.get("classes", ["landslide"]))
        landslides = work.selection.landslides
        polygons = [
            pixel_polygon(x.instance.mask, x.instance.row, x.instance.col, geobox.affine)
            for x in landslides
        ]
        samples: dict[int, Sample] = {}
        for window, members in read_groups(landslides):
            progress("attributes", done, total)
            layers = work.reader(LAYERS_READ, window)
            for i in members:
                extent = geodesic_extent(polygons[i], to_lonlat)
                samples[i] = _sample(
                    landslides[i], window, layers, extent, lineages, site, classes, work
                )
            done += len(members)
        table = attribute_table([samples[i] for i in range(len(landslides))])
        frames.append(gpd.GeoDataFrame(table, geometry=gpd.GeoSeries(polygons, crs=crs)))
    progress("attributes", total, total)
    return frames


def _sample(
    landslide: Landslide,
    window: Window,
    layers: Mapping[str, NDArray[np.generic]],
    extent: Extent,
    lineages: Mapping[str, Lineage],
    site: Mapping[str, str],
    classes: Sequence[str],
    work: MapWork,
) -> Sample:
    i = landslide.instance
    top, left = i.row - window.row, i.col - window.col
    place = slice(top, top + i.mask.shape[0]), slice(left, left + i.mask.shape[1])
    known = 1 <= i.category <= len(classes)
    return Sample(
        id=landslide.id,
        lineage=lineages[landslide.id],
        site=site[lineages[landslide.id].lineage_id],
        category=classes[i.category - 1] if known else f"class {i.category}",
        score=float(i.score),
        agreement=float(i.agreement),
        n_windows=int(i.n_windows),
        extent=extent,
        map=work.facts,
        cross=work.cross.get(landslide.id, tracks.CrossTrack()),
        pixels={name: layer[place][i.mask] for name, layer in layers.items()},
    )


def concatenate(frames: Sequence[gpd.GeoDataFrame], crs: str) -> gpd.GeoDataFrame:
    """The rows of all maps in one table.

    Parameters
    ----------
    frames : sequence of GeoDataFrame
        Of `tables`.
    crs : str
        Of the region, for a table without rows.

    Returns
    -------
    GeoDataFrame
    """
    filled = [f for f in frames if len(f)]
    if not filled:
        return gpd.GeoDataFrame(
            attribute_table([]), geometry=gpd.GeoSeries([], crs=CRS.from_user_input(crs))
        )
    import pandas as pd

    return gpd.GeoDataFrame(pd.concat(filled, ignore_index=True), crs=filled[0].crs)

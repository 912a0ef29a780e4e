"""Anybody's detections to polygons: COCO files in, a GeoPackage out.

The stitcher as a tool of its own. Landslides (or whatever the model finds) are stitched as windows are
read, kept aside on disk, and drawn along pixel edges at the end, some thousand at a time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from components.errors import InputError
from components.grid.windows import Window
from components.inference.borders import unjoined
from components.inference.coco_results import CocoImages, read_images, read_results
from components.inference.instance_file import PIECE, Instances, InstanceWriter
from components.inference.instances import Detection, Instance
from components.inference.merge_methods import METHODS, Method, Metric, merge
from components.inference.runs import common_pixels, runs_of
from components.inference.seams import overlapping_pairs
from components.inference.stitch import Stitcher
from components.inventory.external_file import check_output, staging, write_layer
from components.progress import Progress, no_progress
from components.workspace import coded_os_errors

AnyMethod = Literal["seam"] | Method

#: The stitcher, and the rules that it is compared with.
ALL_METHODS: Final[tuple[AnyMethod, ...]] = ("seam", *METHODS)


@dataclass(frozen=True)
class Settings:
    """How detections are joined.

    Parameters
    ----------
    method : {"seam", "nms", "nmm", "greedy-nmm"}
        ``seam`` is the stitcher; the others are for comparison.
    seam_iou, containment, mask_threshold : float
        As for `Stitcher`.
    metric : {"ios", "iou"}
        What the other methods compare boxes by.
    match_threshold : float
        … and from where on boxes match, in (0, 1].
    """

    method: AnyMethod = "seam"
    seam_iou: float = 0.3
    containment: float = 0.7
    mask_threshold: float = 0.5
    metric: Metric = "ios"
    match_threshold: float = 0.5


@dataclass(frozen=True)
class External:
    """What was made of the detections.

    Parameters
    ----------
    out : Path
        The GeoPackage.
    method : str
        How detections were joined.
    windows, detections, landslides : int
        Images read, results read, polygons written.
    unjoined_windows : int
        Windows at whose border detections are cut and cannot be joined, as `unjoined` counts them.
    by_category : dict of str to int
        Polygons of each category.
    counts : dict of str to int
        What the stitcher dropped and why; for the other methods the detections, and of them the empty
        ones.
    class_overlaps : dict of str to int
        Pairs of polygons of different categories that share pixels, by ``name & name``.
    """

    out: Path
    method: str
    windows: int
    unjoined_windows: int
    detections: int
    landslides: int
    by_category: dict[str, int]
    counts: dict[str, int]
    class_overlaps: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON form.

        Returns
        -------
        dict
        """
        return {**asdict(self), "out": str(self.out)}


def georeference(
    raster: Path | None,
    transform: Sequence[float] | None,
    crs: str | None,
    shape: Sequence[int] | None,
) -> GeoBox:
    """The grid that the images were cut from: a raster's, or as stated.

    Parameters
    ----------
    raster : Path or None
        A raster; its pixels are not read.
    transform : sequence of six float, or None
        Pixel (column, row) → map: ``x = a·column + b·row + c``, ``y = d·column + e·row + f``.
    crs : str or None
        Coordinate reference system (``EPSG:32647``, WKT, …).
    shape : sequence of two int, or None
        Height and width [px].

    Returns
    -------
    GeoBox

    Raises
    ------
    InputError
        SW-101, SW-102, SW-103 for the raster; SW-701 where neither it nor all three others are given,
        or they make no grid.
    """
    stated = (transform, crs, shape)
    if raster is not None:
        if any(v is not None for v in stated):
            raise InputError("SW-701", "give --raster, or --transform, --crs and --shape, not both")
        return _grid_of(raster)
    if transform is None or crs is None or shape is None:
        raise InputError("SW-701", "give --raster, or all of --transform, --crs and --shape")
    if len(transform) != 6 or len(shape) != 2 or min(shape) < 1:
        raise InputError(
            "SW-701",
            f"--transform {list(transform)} needs six numbers (a,b,c,d,e,f), --shape {list(shape)} "
            "two (height,width)",
        )
    affine = Affine(*transform)
    if affine.is_degenerate or not np.isfinite(transform).all():
        raise InputError("SW-701", f"--transform {list(transform)} maps pixels onto a line")
    try:
        return GeoBox((int(shape[0]), int(shape[1])), affine, crs)
    except Exception as e:  # pyproj raises its own kinds for text that is no CRS
        raise InputError("SW-701", f"--crs {crs}: {str(e).splitlines()[0]}") from e


def _grid_of(raster: Path) -> GeoBox:
    if not raster.exists():
        raise InputError("SW-101", "no such raster", path=raster)
    try:
        with rasterio.open(raster) as source:
            shape, affine, crs = source.shape, source.transform, source.crs
    except rasterio.errors.RasterioError as e:
        raise InputError("SW-102", str(e), path=raster) from e
    if crs is None:
        raise InputError("SW-103", "the raster has no coordinate reference system", path=raster)
    return GeoBox(shape, affine, crs.to_wkt())


def stitch_external(
    images: Path,
    results: Path,
    grid: GeoBox,
    out: Path,
    settings: Settings = Settings(),
    progress: Progress = no_progress,
) -> External:
    """Join the detections of windows and write them as polygons.

    Parameters
    ----------
    images, results : Path
        COCO images file and results list, as `coco_results` describes them.
    grid : GeoBox
        The raster that the images were cut from.
    out : Path
        The GeoPackage, written whole or not at all. Layer ``landslides`` with the columns
        `external_file.COLUMNS`; features in order of their first row and column.
    settings : Settings
        How to join.
    progress : Progress
        Told of windows (``stitch``) and polygons (``polygons``).

    Returns
    -------
    External

    Raises
    ------
    InputError
        SW-101, SW-102, SW-508 for the files; SW-701 for the name of the output.
    WorkspaceError
        SW-201, SW-202 where the output cannot be written, SW-208 where a file of others is in its
        place.
    """
    check_output(out)
    shape = (int(grid.shape[0]), int(grid.shape[1]))
    known = read_images(images, shape)
    with staging(out) as folder:
        scratch, staged = folder / "instances.npz", folder / out.name
        with InstanceWriter(scratch) as writer:
            windows = _followed(read_results(results, known), len(known.windows), progress)
            join = _seam if settings.method == "seam" else _compared
            n_detections, counts = join(windows, known, shape, settings, writer.extend)
        instances = Instances(scratch)
        by_category = write_layer(staged, out, instances, known, grid, progress)
        overlaps = _class_overlaps(instances, known)
        with coded_os_errors(out):
            os.replace(staged, out)
    return External(
        out,
        settings.method,
        len(known.windows),
        unjoined(known.windows.values()),
        n_detections,
        len(instances),
        by_category,
        counts,
        overlaps,
    )


Stream = Iterator[tuple[int, list[Detection]]]
Sink = Callable[[Sequence[Instance]], None]


def _followed(windows: Stream, total: int, progress: Progress) -> Stream:
    for done, item in enumerate(windows):
        progress("stitch", done, total)
        yield item
    progress("stitch", total, total)


def _seam(
    windows: Stream, known: CocoImages, shape: tuple[int, int], settings: Settings, sink: Sink
) -> tuple[int, dict[str, int]]:
    stitcher = Stitcher(
        known.windows,
        shape,
        seam_iou=settings.seam_iou,
        containment=settings.containment,
        mask_threshold=settings.mask_threshold,
    )
    for window_id, found in windows:
        sink(list(stitcher.add(window_id, found)))
    sink(list(stitcher.finish()))
    return stitcher.counts.detections, stitcher.counts.as_dict()


def _compared(
    windows: Stream, known: CocoImages, shape: tuple[int, int], settings: Settings, sink: Sink
) -> tuple[int, dict[str, int]]:
    plan: dict[int, Window] = known.windows
    detections = [d for _, found in windows for d in found]
    n_empty = sum(not (d.prob >= np.float32(settings.mask_threshold)).any() for d in detections)
    if settings.method != "seam":
        sink(
            merge(
                detections,
                plan,
                shape,
                settings.method,
                metric=settings.metric,
                match_threshold=settings.match_threshold,
                mask_threshold=settings.mask_threshold,
            )
        )
    return len(detections), {"detections": len(detections), "empty": n_empty}


def _class_overlaps(instances: Instances, known: CocoImages) -> dict[str, int]:
    """Pairs of different categories that claim the same pixels."""
    c = instances.columns
    boxes = np.stack([c["row"], c["col"], c["row"] + c["height"], c["col"] + c["width"]], axis=1)
    first, second = overlapping_pairs(boxes.astype(np.int64), np.zeros(len(boxes), np.int64))
    mixed = c["category"][first] != c["category"][second]
    first, second = first[mixed], second[mixed]
    counts: Counter[str] = Counter()
    for at in range(0, len(first), PIECE):
        a, b = first[at : at + PIECE], second[at : at + PIECE]
        some, place = np.unique(np.concatenate([a, b]), return_inverse=True)
        masks = [instances[int(k)].mask for k in some]
        height, width = np.asarray([m.shape for m in masks], np.int64).reshape(-1, 2).T
        runs = runs_of(
            np.concatenate([m.ravel() for m in masks]),
            np.cumsum(height * width) - height * width,
            height,
            width,
            c["row"][some],
            c["col"][some],
        )
        shared = common_pixels(runs, place[: len(a)], place[len(a) :]) > 0
        for i, j in zip(a[shared].tolist(), b[shared].tolist(), strict=True):
            names = sorted(known.categories[int(c["category"][k])] for k in (i, j))
            counts[" & ".join(names)] += 1
    return dict(sorted(counts.items()))

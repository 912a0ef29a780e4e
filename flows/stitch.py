"""Flow `stitch`: detections of any model to polygons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from prefect import flow

from components.config import Config
from components.errors import InputError
from components.inference.merge_methods import METRICS
from components.inventory.external import (
    ALL_METHODS,
    External,
    Settings,
    georeference,
    stitch_external,
)
from components.inventory.external_file import check_output
from flows.progress import report

Name = TypeVar("Name", bound=str)


def check(
    images: Path,
    results: Path,
    out: Path,
    raster: Path | None,
    transform: list[float] | None,
    crs: str | None,
    shape: list[int] | None,
    method: str,
    metric: str,
) -> None:
    """What can be said before any work.

    Parameters
    ----------
    images, results, out, raster, transform, crs, shape, method, metric
        As for the flow.

    Raises
    ------
    SlopewatchError
        SW-101, SW-102, SW-103, SW-201, SW-202, SW-208, SW-701.
    """
    for path in (images, results):
        if not path.is_file():
            raise InputError("SW-101", "no such file", path=path)
    _named("method", method, ALL_METHODS)
    _named("metric", metric, METRICS)
    georeference(raster, transform, crs, shape)
    check_output(out)


def _named(option: str, value: str, known: Sequence[Name]) -> Name:
    """The name that is meant, however it is written: other programs write ``GreedyNMM`` and ``IOS``."""

    def plain(name: str) -> str:
        return name.lower().replace("-", "").replace("_", "")

    for name in known:
        if plain(name) == plain(value):
            return name
    raise InputError("SW-701", f"--{option} {value} is none of {', '.join(known)}")


@flow(name="stitch")
def stitch(
    images: Path,
    results: Path,
    out: Path,
    config: Config = Config(),
    raster: Path | None = None,
    transform: list[float] | None = None,
    crs: str | None = None,
    shape: list[int] | None = None,
    method: str = "seam",
    metric: str = "ios",
    match_threshold: float = 0.5,
) -> External:
    """Join the detections of overlapping windows of any model into polygons.

    Args:
        images: COCO images file with `row_off` and `col_off` of each image, and categories.
        results: COCO results list.
        out: GeoPackage to write.
        config: `seam_iou`, `containment` and `mask_threshold` of section `infer` are used.
        raster: Raster that the images were cut from; or the next three.
        transform: Six numbers a, b, c, d, e, f from pixel to map coordinates.
        crs: Coordinate reference system.
        shape: Height and width.
        method: `seam`, or for comparison `nms`, `nmm`, `greedy-nmm`; in small letters or capitals.
        metric: What these compare boxes by, `ios` or `iou`.
        match_threshold: From where on boxes match.
    """
    check(images, results, out, raster, transform, crs, shape, method, metric)
    settings = Settings(
        _named("method", method, ALL_METHODS),
        config.infer.seam_iou,
        config.infer.containment,
        config.infer.mask_threshold,
        _named("metric", metric, METRICS),
        match_threshold,
    )
    grid = georeference(raster, transform, crs, shape)
    return stitch_external(images, results, grid, out, settings, report)

"""Model and baseline against the interpreters' polygons, on the same ground by the same rules."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from components.config import DatasetConfig
from components.cube.read import find_cube, read_layers
from components.cube.region import region_geobox
from components.dataset.labels import read_labels
from components.errors import ProcessingError
from components.evaluation.baseline import threshold_clusters
from components.evaluation.footprints import Footprint
from components.evaluation.references import VISIBLE_MIN, reference_objects
from components.evaluation.tally import DEFINITIONS, Tally, score_map
from components.grid import Window
from components.inference.instance_file import load_instances
from components.progress import Progress, no_progress
from components.workspace import Artefact, Workspace, read_artefact, stage_key, write_json

if TYPE_CHECKING:
    from components.config import EvaluateConfig, InventoryConfig

#: Raised when results change for the same inputs.
ALGORITHM: Final = "1"

#: Reference polygons of an evaluation, in the region's CRS, inside its folder.
REFERENCES: Final = "references.parquet"


#: Operating threshold where neither configuration nor model card names one.
SCORE_DEFAULT: Final = 0.5


def evaluate(
    ws: Workspace,
    detections: Sequence[Artefact],
    labels: Path,
    areas: Sequence[Window] | None,
    cfg: EvaluateConfig,
    *,
    score_min: float,
    min_pixels: int,
    progress: Progress = no_progress,
) -> Artefact:
    """Measure the stitched maps and the threshold baseline.

    Parameters
    ----------
    ws : Workspace
        Holds the cubes of the detections.
    detections : sequence of Artefact
        Stage ``detections``, one per track and period.
    labels : Path
        Reference polygons, see `components.dataset.labels`.
    areas : sequence of Window or None
        Disjoint pixel windows to evaluate in (the test blocks); None for the whole map.
    cfg : EvaluateConfig
        ``iou``, ``min_pixels`` of references, ``baseline_sigma``. The area is taken from `areas`.
    score_min : float
        Operating threshold of the model.
    min_pixels : int
        Minimum mapping unit: smaller detections and baseline clusters are left out (and counted).
    progress : Progress
        Told after each map.

    Returns
    -------
    Artefact
        Stage ``evaluation``: ``metrics.json`` and ``references.parquet``. Meta: ``detections`` (keys),
        ``score_min``, and of ``model`` and ``baseline`` the headline numbers.

    Raises
    ------
    ProcessingError
        SW-602 without detections, SW-603 if metrics contradict each other.
    InputError
        SW-101, SW-102, SW-30x for unusable labels, SW-702 where a cube is not in the workspace.
    ValueError
        If `areas` overlap.
    """
    if not detections:
        raise ProcessingError("SW-602", "no detections to evaluate", path=ws.root)
    if areas is not None:
        _check_disjoint(areas)
    geobox = region_geobox(ws)
    reference = read_labels(labels, DatasetConfig(), geobox)
    ordered = sorted(detections, key=lambda a: (a.meta["track"], a.meta["period"]))
    key = stage_key(
        "evaluation",
        ALGORITHM,
        [a.key for a in ordered],
        reference.sha256,
        None if areas is None else sorted(areas),
        cfg.model_dump(mode="json", exclude={"labels"}),
        score_min,
        min_pixels,
    )
    final = ws.place("evaluation")
    if found := ws.find(final, key):
        return found

    shape = (int(geobox.shape[0]), int(geobox.shape[1]))
    windows = [Window(0, 0, *shape)] if areas is None else sorted(areas)
    pixel_km2 = abs(geobox.affine.a * geobox.affine.e) / 1e6
    totals = {"model": Tally(), "baseline": Tally()}
    per_map: dict[str, dict[str, Any]] = {"model": {}, "baseline": {}}
    counts: dict[str, Any] = {"labels": reference.counts, "references": {}, "observable": {}}
    for done, artefact in enumerate(ordered):
        progress("evaluate", done, len(ordered))
        track, period = artefact.meta["track"], artefact.meta["period"]
        find_cube(ws, track, period)
        layers = read_layers(ws, track, period, ["los_velocity", "valid"], Window(0, 0, *shape))
        valid = layers["valid"].astype(bool)
        references = reference_objects(
            reference.frame, geobox, valid, track, period, min_pixels=cfg.min_pixels
        )
        observable = sum(int(valid[w.slices].sum()) for w in windows)
        everything = sum(w.height * w.width for w in windows)
        name = f"{track}/{period}"
        counts["references"][name] = references.counts
        counts["observable"][name] = observable / everything
        instances = load_instances(artefact.folder / "instances.npz")
        found_objects = {
            "model": [Footprint(i.row, i.col, i.mask, i.score) for i in instances],
            "baseline": threshold_clusters(
                layers["los_velocity"], valid, k=cfg.baseline_sigma, min_pixels=min_pixels
            ),
        }
        for method, footprints in found_objects.items():
            tally = score_map(
                footprints,
                references.footprints,
                valid,
                None if areas is None else windows,
                iou=cfg.iou,
                score_min=score_min if method == "model" else 0.0,
                min_pixels=min_pixels,
                pixel_km2=pixel_km2,
            )
            per_map[method][name] = tally.metrics()
            totals[method].add(tally)
    progress("evaluate", len(ordered), len(ordered))

    metrics: dict[str, Any] = {
        method: {"pooled": tally.metrics(), "maps": per_map[method]}
        for method, tally in totals.items()
    }
    metrics["definitions"] = DEFINITIONS
    metrics["counts"] = counts
    metrics["n"] = {
        "maps": len(ordered),
        "references": sum(c["counted"] for c in counts["references"].values()),
        "references_in_area": totals["model"].n["references"],
    }
    metrics["settings"] = {
        "area": "the whole map" if areas is None else f"{len(windows)} held-out window(s)",
        "area_km2": sum(w.height * w.width for w in windows) * pixel_km2,
        "observable_km2": totals["model"].km2,
        "iou": cfg.iou,
        "score_min": score_min,
        "min_pixels": min_pixels,
        "reference_min_pixels": cfg.min_pixels,
        "reference_visible_min": VISIBLE_MIN,
        "baseline_sigma": cfg.baseline_sigma,
        "labels_sha256": reference.sha256,
    }
    meta: dict[str, Any] = {"detections": [a.key for a in ordered], "score_min": score_min}
    meta |= {method: _headline(metrics[method]["pooled"]) for method in totals}
    with ws.publish("evaluation", final, key, meta) as folder:
        write_json(folder / "metrics.json", metrics)
        # The polygons as they were read, for whoever draws them beside the landslides.
        reference.frame.to_parquet(folder / REFERENCES, index=False)
    return Artefact("evaluation", key, str(final), meta)


def _headline(pooled: dict[str, Any]) -> dict[str, Any]:
    objects = pooled["objects"]
    return {
        "iou_fg": pooled["pixels"]["iou_fg"],
        "f1": objects["f1"],
        "precision": objects["precision"],
        "recall": objects["recall"],
        "ap50": pooled["coco"]["ap50"],
    }


def _check_disjoint(areas: Sequence[Window]) -> None:
    for i, a in enumerate(areas):
        for b in areas[i + 1 :]:
            if a.intersect(b) is not None:
                msg = f"evaluation areas must not overlap; {a} and {b} do"
                raise ValueError(msg)


def evaluate_detections(
    ws: Workspace,
    detections: Sequence[Artefact],
    labels: Path | None,
    cfg: EvaluateConfig,
    inventory: InventoryConfig,
    progress: Progress = no_progress,
) -> Artefact:
    """Evaluate as configured: on held-out ground or everywhere, at the inventory's threshold.

    Parameters
    ----------
    ws : Workspace
        The region.
    detections : sequence of Artefact
        Stage ``detections``, one per track and period.
    labels : Path or None
        Reference polygons; ``cfg.labels`` if None.
    cfg : EvaluateConfig
        Rules.
    inventory : InventoryConfig
        ``score_min`` and ``min_pixels``, so that what is measured is what the inventory holds.
    progress : Progress
        Told after each map.

    Returns
    -------
    Artefact
        As of `evaluate`.

    Raises
    ------
    ProcessingError
        SW-601 without labels or held-out ground, SW-602 without detections.
    """
    if not detections:
        raise ProcessingError("SW-602", "no detections to evaluate", path=ws.root)
    labels = labels or cfg.labels
    if labels is None:
        raise ProcessingError("SW-601", "no reference polygons given", path=ws.root)
    first = detections[0]
    score_min = operating_threshold(inventory, first, model_card(ws, first))
    return evaluate(
        ws,
        detections,
        labels,
        held_out_areas(ws) if cfg.area == "test" else None,
        cfg,
        score_min=score_min,
        min_pixels=inventory.min_pixels,
        progress=progress,
    )


def held_out_areas(ws: Workspace) -> list[Window] | None:
    """Ground that no training tile covered.

    Parameters
    ----------
    ws : Workspace
        The region.

    Returns
    -------
    list of Window or None
        The test blocks of the workspace's dataset; None where it has none, since then no model was
        trained here and all ground is held out.

    Raises
    ------
    ProcessingError
        SW-601 where the split left no held-out ground.
    """
    dataset = read_artefact(ws.place("dataset"))
    if dataset is None:
        return None
    facts = json.loads((dataset.folder / "dataset.json").read_text())
    areas = [Window(*block) for block in facts["test_blocks"]]
    if not areas:
        raise ProcessingError(
            "SW-601",
            "the dataset's split left no ground that only test tiles cover",
            path=dataset.folder,
            remedy="Split by blocks (dataset.split), or evaluate on the whole map (evaluate.area).",
        )
    return areas


def operating_threshold(
    cfg: InventoryConfig, artefact: Artefact, card: Mapping[str, Any] | None
) -> float:
    """Score from which a detection is a landslide.

    Parameters
    ----------
    cfg : InventoryConfig
        ``score_min`` decides where it is set.
    artefact : Artefact
        Stage ``detections``; its meta may hold ``score_threshold``.
    card : mapping or None
        Model card with ``score_threshold``.

    Returns
    -------
    float
        In [0, 1].
    """
    for value in (
        cfg.score_min,
        artefact.meta.get("score_threshold"),
        (card or {}).get("score_threshold"),
    ):
        if value is not None:
            return float(value)
    return SCORE_DEFAULT


def model_card(ws: Workspace, detections: Artefact) -> dict[str, Any] | None:
    """Card of the weights that made some detections.

    Parameters
    ----------
    ws : Workspace
        The workspace.
    detections : Artefact
        Stage ``detections``.

    Returns
    -------
    dict or None
        Of the folder of the detections or, if its weights are the same, of the workspace's model.
    """
    for folder in (detections.folder, ws.place("model")):
        path = folder / "card.json"
        if path.is_file():
            card: dict[str, Any] = json.loads(path.read_text())
            if card.get("sha256") == detections.meta.get("model_hash"):
                return card
    return None

"""Evaluation as a stage of a workspace: which ground, which threshold, which polygons."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from components.errors import ProcessingError
from components.evaluation.evaluate import evaluate
from components.grid import Window
from components.progress import Progress, no_progress
from components.workspace import Artefact, Workspace, read_artefact

if TYPE_CHECKING:
    from components.config import EvaluateConfig, InventoryConfig

#: Operating threshold where neither configuration nor model card names one.
SCORE_DEFAULT: Final = 0.5


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

"""Weights as an ONNX graph, for machines without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import ModelError
from components.inference.predict import read_card
from models.onnx import OnnxError, export_onnx
from models.weights import WeightsError, load_weights

if TYPE_CHECKING:
    from components.config import InferConfig


@dataclass(frozen=True)
class OnnxResult:
    """What was written.

    Parameters
    ----------
    path : Path
        The graph.
    image : tuple of int
        Shape of its input ``image``: 1, channels, height, width.
    outputs : tuple of str
        Names of its outputs.
    """

    path: Path
    image: tuple[int, int, int, int]
    outputs: tuple[str, ...]


def export_weights(weights: Path, out: Path, cfg: InferConfig) -> OnnxResult:
    """Write weights as an ONNX graph for one window.

    Parameters
    ----------
    weights : Path
        The ``.safetensors`` file with its card beside it.
    out : Path
        The ``.onnx`` file; its folder is made.
    cfg : InferConfig
        ``window`` [px of the map], ``score_min``, ``max_detections`` and ``proposals``, which the
        graph holds.

    Returns
    -------
    OnnxResult

    Raises
    ------
    ModelError
        SW-401 for unusable weights; SW-410 where the graph cannot be made.
    """
    card = read_card(weights)
    try:
        model, _ = load_weights(
            weights,
            max_detections=cfg.max_detections,
            score_min=cfg.score_min,
            proposals=cfg.proposals,
        )
    except WeightsError as e:
        raise ModelError("SW-401", str(e), path=weights) from e
    size = cfg.window * int(card["upsample"])
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        outputs = export_onnx(model, out, card, size)
    except OnnxError as e:
        raise ModelError("SW-410", str(e), path=weights) from e
    return OnnxResult(out, (1, model.in_channels, size, size), outputs)

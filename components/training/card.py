"""The card of a training: what the weights are, what they were made of, how good they were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from models.inference import InferenceNetwork
from models.mask_rcnn import SmallObjectMaskRCNN
from models.quantised import RANGES, activation_ranges, quantisable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from components.config import TrainConfig
    from components.training.epoch_end import EpochEnd
    from components.training.sources import Source
    from components.training.tiles import Tiles
    from models.build import Detector

#: Settings that change where and how fast, not what.
_MACHINE_KEYS: Final = {
    *("device", "threads", "workers", "initial_weights", "pretrained", "allow_download"),
}

#: Validation tiles that activations are measured on, and those of one pass.
_TILES: Final = 48
_BATCH: Final = 6


def training_card(
    cfg: TrainConfig,
    source: Source,
    recipe: str,
    end: EpochEnd,
    steps: int,
    origin: dict[str, Any],
) -> dict[str, Any]:
    """What a card says of a training.

    Parameters
    ----------
    cfg : TrainConfig
        Network and training.
    source : Source
        What was read.
    recipe : str
        Digest of what decides the weights.
    end : EpochEnd
        Its record.
    steps : int
        Optimiser steps.
    origin : dict
        Version of the training and where the first weights came from.

    Returns
    -------
    dict
        JSON-able.
    """
    best, info = end.record.best, source.info
    return {
        "form": cfg.model,
        "classes": [c["name"] for c in sorted(info["categories"], key=lambda c: c["id"])],
        "preset": info["preset"],
        "channels": list(info["channels"]),
        "normalisation": "in the preset: images enter the network as the preset renders them",
        "pixel_size_m": info["pixel_size_m"],
        "ground_pixel_size_m": info.get("ground_pixel_size_m", info["pixel_size_m"]),
        "upsample": info["upsample"],
        "score_threshold": 0.5 if best is None else best["score_threshold"],
        "metrics": {} if best is None else {"val_object_iou50": best},
        "training": {
            "config": machine_free(cfg),
            "epoch": end.record.best_epoch,
            "steps": steps,
            "recipe_sha256": recipe,
            "data": info.get("data", {}),
            "counts": info.get("counts", {}),
            "sampling": source.sampling,
            **origin,
        },
    }


def machine_free(cfg: TrainConfig) -> dict[str, Any]:
    """Settings that decide what is trained, without those that say where and how fast.

    Parameters
    ----------
    cfg : TrainConfig
        All of them.

    Returns
    -------
    dict
        JSON-able.
    """
    return cfg.model_dump(mode="json", exclude=_MACHINE_KEYS)


def quantisation(model: Detector, tiles: Tiles | None) -> Mapping[str, Any]:
    """What a network needs in order to be computed in integers, measured on validation tiles.

    Parameters
    ----------
    model : SmallObjectMaskRCNN or ComponentUNet
        Trained.
    tiles : Tiles or None
        Of the validation fold.

    Returns
    -------
    mapping
        For the card; empty for a form that cannot, and without tiles.
    """
    if not isinstance(model, SmallObjectMaskRCNN) or quantisable(model.spec) or not tiles:
        return {}
    network = InferenceNetwork(model, torch.float32).cpu()
    ranges = activation_ranges(network, _batches(tiles))
    return {RANGES: {k: [float(f"{v:.6g}") for v in ends] for k, ends in ranges.items()}}


def _batches(tiles: Tiles) -> Iterator[torch.Tensor]:
    count = min(len(tiles), _TILES)
    for first in range(0, count, _BATCH):
        numbers = range(first, min(first + _BATCH, count))
        yield torch.stack([tiles[i][0] for i in numbers])

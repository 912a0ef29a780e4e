"""Counts of a network on test tiles, tile by tile: every figure is a quotient of their sums."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from components.errors import ModelError
from components.progress import Progress, no_progress
from components.training.loading import collate
from components.training.selection import MASK_THRESHOLD, match_ious
from components.training.tiles import Tiles
from models.build import Detections, detect
from models.paste import paste_masks
from models.weights import WeightsError, load_weights

#: Raised when the same weights and tiles give other counts.
ALGORITHM: Final = "1"

#: Mask IoU of a hit.
LEVELS: Final = (0.25, 0.5, 0.75)

#: Columns of the counts: by level hits, false alarms, misses and the sum of the hits' IoU, then pixels.
COLUMNS: Final = (
    *(f"{what}{round(100 * level)}" for level in LEVELS for what in ("tp", "fp", "fn", "iou")),
    "pixel_tp",
    "pixel_fp",
    "pixel_fn",
)


def count_tile(found: Detections, target: dict[str, Tensor], threshold: float) -> list[float]:
    """Counts of one tile.

    Parameters
    ----------
    found : Detections
        Of the network, on the CPU.
    target : dict of Tensor
        ``masks``, ``labels`` and perhaps ``ignore``, as `TileDataset` gives them.
    threshold : float
        Detections from this score on count.

    Returns
    -------
    list of float
        As `COLUMNS`. Pixels of ignored ground count nowhere unless they belong to a reference.
    """
    kept = torch.nonzero(found.scores >= threshold).flatten()
    masks = found.masks
    found = Detections(
        found.boxes[kept],
        found.labels[kept],
        found.scores[kept],
        [masks[i] for i in kept.tolist()] if isinstance(masks, list) else masks[kept],
    )
    reference, labels, ignore = target["masks"].bool(), target["labels"], target.get("ignore")
    out: list[float] = []
    for level in LEVELS:
        _, ious = match_ious(found, reference, labels, ignore, iou=level)
        hits = int((ious > 0).sum())
        out += [hits, len(ious) - hits, len(labels) - hits, float(ious.sum())]
    shape = (int(reference.shape[-2]), int(reference.shape[-1]))
    drawn = torch.zeros(shape, dtype=torch.bool)
    for p in paste_masks(found.masks, found.boxes, shape):
        height, width = p.prob.shape
        drawn[p.row : p.row + height, p.col : p.col + width] |= p.prob >= MASK_THRESHOLD
    truth = reference.any(dim=0)
    if ignore is not None:
        drawn &= truth | ~ignore.bool()
    return [
        *out,
        float((drawn & truth).sum()),
        float((drawn & ~truth).sum()),
        float((truth & ~drawn).sum()),
    ]


def count_tiles(
    weights: Path,
    tiles: Tiles,
    *,
    batch_size: int,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress = no_progress,
) -> tuple[float, list[list[float]]]:
    """Counts of a network on many tiles, in float32, at the threshold in its card.

    Parameters
    ----------
    weights : Path
        The ``.safetensors`` file.
    tiles : Tiles
        Test tiles.
    batch_size : int
        Tiles a forward pass.
    device : {"auto", "cpu", "cuda"}
        Where to compute.
    threads : int, optional
        CPU threads; empty: as they are.
    progress : Progress
        Told of every batch.

    Returns
    -------
    threshold : float
        Of the score; it was fixed on validation tiles.
    counts : list of list of float
        One row a tile, as `COLUMNS`.

    Raises
    ------
    ModelError
        SW-401 for unusable weights; SW-402 where they read other channels.
    """
    try:
        model, card = load_weights(weights)
    except WeightsError as e:
        raise ModelError("SW-401", str(e), path=weights) from e
    if list(card.get("channels", [])) != list(tiles.channels):
        raise ModelError("SW-402", f"the tiles hold {', '.join(tiles.channels)}", path=weights)
    threshold = float(card["score_threshold"])
    gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    model.to("cuda" if gpu else "cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    rows = []
    try:
        for start in range(0, len(tiles), batch_size):
            stop = min(start + batch_size, len(tiles))
            images, targets = collate([tiles[i] for i in range(start, stop)])
            for found, target in zip(detect(model, images), targets, strict=True):
                rows.append(count_tile(found, target, threshold))
            progress("test", stop, len(tiles))
    finally:
        torch.set_num_threads(before)
    return threshold, rows


def machine(device: str = "auto", threads: int | None = None) -> dict[str, Any]:
    """What an experiment was run on.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda"}
        As in `TrainConfig`.
    threads : int, optional
        As in `TrainConfig`.

    Returns
    -------
    dict
        ``device``, ``threads``, ``torch``.
    """
    gpu = device != "cpu" and torch.cuda.is_available()
    name = torch.cuda.get_device_name() if gpu else f"{platform.machine()} CPU"
    return {
        "device": name,
        "threads": threads or torch.get_num_threads(),
        "torch": torch.__version__,
    }

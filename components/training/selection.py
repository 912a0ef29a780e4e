"""Choosing a model and its operating threshold: object F1 on the validation tiles.

A detection is a hit where its mask has an IoU of at least 0.5 with a reference mask of its class that
no better-scored detection has taken. Since matching goes by falling score, the matches above any
threshold are a prefix of the matches of all detections, and the whole F1 curve costs one matching.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.build import Detections
from models.paste import PastedMask, paste_masks

#: Mask probability from which a pixel belongs to a detection.
MASK_THRESHOLD: Final = 0.5

#: Candidate score thresholds.
THRESHOLDS: Final = np.round(np.arange(0.05, 0.96, 0.01), 2)


class Matches(NamedTuple):
    """Detections of one or many images after matching.

    Parameters
    ----------
    scores : ndarray
        float64 [n] in [0, 1].
    hits : ndarray
        bool [n]: matched a reference object.
    n_reference : int
        Reference objects.
    """

    scores: NDArray[np.float64]
    hits: NDArray[np.bool_]
    n_reference: int


class Operating(NamedTuple):
    """Best point of the F1 curve.

    Parameters
    ----------
    score_threshold : float
        Detections from this score on are kept.
    precision, recall, f1 : float
        In [0, 1]; 0 where undefined.
    """

    score_threshold: float
    precision: float
    recall: float
    f1: float


def match_image(
    found: Detections,
    masks: Tensor,
    labels: Tensor,
    ignore: Tensor | None = None,
    *,
    iou: float = 0.5,
) -> Matches:
    """Match the detections of one image to its reference objects.

    Parameters
    ----------
    found : Detections
        Of the network.
    masks : Tensor
        uint8 or bool [m, H, W]: reference masks.
    labels : Tensor
        int64 [m]: reference classes.
    ignore : Tensor, optional
        bool [H, W]: ground of objects that are neither to be found nor background; a detection
        that is no hit and lies mostly on it does not count.
    iou : float
        Smallest mask IoU of a hit, in (0, 1].

    Returns
    -------
    Matches
        Detections whose thresholded mask is empty count as misses.
    """
    scores, ious = match_ious(found, masks, labels, ignore, iou=iou)
    return Matches(scores, ious > 0, len(masks))


def match_ious(
    found: Detections,
    masks: Tensor,
    labels: Tensor,
    ignore: Tensor | None = None,
    *,
    iou: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """As `match_image`, with the IoU of each hit.

    Parameters
    ----------
    found, masks, labels, ignore, iou
        As for `match_image`.

    Returns
    -------
    scores, ious : ndarray
        float64 [n] of the detections that count, best first; IoU 0 for a detection without a match.
    """
    shape = (int(masks.shape[-2]), int(masks.shape[-1]))
    areas = masks.flatten(1).sum(dim=1, dtype=torch.int64).tolist()
    order = torch.argsort(found.scores, descending=True, stable=True).tolist()
    pasted = paste_masks(found.masks, found.boxes, shape)
    taken = [False] * len(areas)
    ious = np.zeros(len(order))
    counts = np.ones(len(order), dtype=bool)
    for rank, i in enumerate(order):
        best, best_iou = -1, iou
        overlap = _overlap(pasted[i], masks)
        for j, (common, area) in enumerate(zip(overlap.common, areas, strict=True)):
            if taken[j] or not common or int(labels[j]) != int(found.labels[i]):
                continue
            value = common / (overlap.area + area - common)
            if value >= best_iou:
                best, best_iou = j, value
        if best >= 0:
            taken[best] = True
            ious[rank] = best_iou
        elif ignore is not None:
            counts[rank] = 2 * _overlap(pasted[i], ignore[None]).common[0] < max(overlap.area, 1)
    scores = found.scores[order].double().numpy()
    return scores[counts], ious[counts]


class _Overlap(NamedTuple):
    area: int
    common: list[int]


def _overlap(pasted: PastedMask, masks: Tensor) -> _Overlap:
    inside = pasted.prob >= MASK_THRESHOLD
    height, width = inside.shape
    window = masks[:, pasted.row : pasted.row + height, pasted.col : pasted.col + width].bool()
    common = (window & inside).flatten(1).sum(dim=1).tolist()
    return _Overlap(int(inside.sum()), common)


def pool(matches: Sequence[Matches]) -> Matches:
    """Join the matches of many images.

    Parameters
    ----------
    matches : sequence of Matches
        One an image.

    Returns
    -------
    Matches
    """
    return Matches(
        np.concatenate([m.scores for m in matches] or [np.zeros(0)]),
        np.concatenate([m.hits for m in matches] or [np.zeros(0, dtype=bool)]),
        sum(m.n_reference for m in matches),
    )


def best_operating_point(matches: Matches) -> Operating:
    """Score threshold with the best object F1.

    F1 = 2·TP / (detections + references). On a small validation set the curve is a staircase with
    narrow peaks; the middle of the thresholds within 1 % of the peak is more stable than the peak.

    Parameters
    ----------
    matches : Matches
        Of the whole validation set.

    Returns
    -------
    Operating
        With figures at the chosen threshold; the threshold is 0.5 where nothing was hit.
    """
    hits = np.array([matches.hits[matches.scores >= t].sum() for t in THRESHOLDS], dtype=float)
    kept = np.array([(matches.scores >= t).sum() for t in THRESHOLDS], dtype=float)
    f1 = 2 * hits / np.maximum(kept + matches.n_reference, 1)
    if not f1.max() > 0:
        return Operating(0.5, 0.0, 0.0, 0.0)
    peak = int(np.argmax(f1))
    low = high = peak
    while low > 0 and f1[low - 1] >= 0.99 * f1[peak]:
        low -= 1
    while high + 1 < len(f1) and f1[high + 1] >= 0.99 * f1[peak]:
        high += 1
    at = (low + high) // 2
    return Operating(
        float(THRESHOLDS[at]),
        float(hits[at] / max(kept[at], 1)),
        float(hits[at] / max(matches.n_reference, 1)),
        float(f1[at]),
    )

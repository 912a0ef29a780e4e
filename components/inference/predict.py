"""The network on windows: images in, detections at pixel resolution out.

Runs on a bare machine with torch: no raster library is imported here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from components.errors import ModelError
from models.build import Detections, detect, detection_limit
from models.paste import paste_masks
from models.weights import WeightsError, load_weights
from models.weights import read_card as _read_card


@dataclass(frozen=True, eq=False)
class RawDetection:
    """One detection in the coordinates of its window.

    Parameters
    ----------
    category : int
        Class, from 1.
    score : float
        In [0, 1].
    row, col : int
        First row and column of `prob` in the window [px of the map].
    prob : ndarray, float32, ``[h, w]``
        Mask probability in [0, 1] of the pixels whose centres lie in the box.
    """

    category: int
    score: float
    row: int
    col: int
    prob: NDArray[np.float32]


def read_card(weights: Path) -> dict[str, Any]:
    """The card of a weights file, without reading the weights.

    Parameters
    ----------
    weights : Path
        The ``.safetensors`` file.

    Returns
    -------
    dict
        As `models.weights` describes it, with the trainer's ``preset``, ``channels``, ``upsample`` and
        ``ground_pixel_size_m``.

    Raises
    ------
    ModelError
        SW-401 where weights or card are missing or unreadable, or the card lacks one of these keys.
    """
    if not weights.is_file():
        raise ModelError("SW-401", "no such file", path=weights)
    try:
        card = _read_card(weights)
    except WeightsError as e:
        raise ModelError("SW-401", str(e), path=weights) from e
    missing = [
        k for k in ("preset", "channels", "upsample", "ground_pixel_size_m") if k not in card
    ]
    if missing:
        raise ModelError("SW-401", f"the weights' card lacks {missing}", path=weights)
    return card


class Predictor:
    """A trained network, ready for windows.

    Computes in float32, or in bfloat16 where the processor has instructions for it.

    Parameters
    ----------
    weights : Path
        The ``.safetensors`` file with its card beside it.
    device : {"auto", "cpu", "cuda"}
        ``auto``: the GPU if there is one.
    max_detections : int
        Detections a window at most.
    score_min : float
        Detections of lower score are dropped, in [0, 1].
    threads : int, optional
        CPU threads; default all cores.
    proposals : int, optional
        Proposals a window; default those of the form.

    Attributes
    ----------
    card : dict
        The weights' card.
    limit : int
        A window with so many detections may hold more.
    upsample : int
        Images must be up-sampled by this factor; detections come back at the map's resolution.

    Raises
    ------
    ModelError
        SW-401 for unusable weights; SW-404 where a GPU is asked for and there is none.
    """

    def __init__(
        self,
        weights: Path,
        device: str = "auto",
        max_detections: int = 200,
        score_min: float = 0.05,
        threads: int | None = None,
        proposals: int | None = None,
    ) -> None:
        self.card = read_card(weights)
        try:
            model, _ = load_weights(
                weights,
                max_detections=max_detections,
                score_min=score_min,
                proposals=proposals,
            )
        except WeightsError as e:
            raise ModelError("SW-401", str(e), path=weights) from e
        if device == "cuda" and not torch.cuda.is_available():
            raise ModelError(
                "SW-404",
                "device `cuda` was asked for, and there is none",
                remedy="Set infer.device.",
            )
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.limit = detection_limit(model)
        self.upsample = int(self.card["upsample"])
        self.threads = threads
        self.bfloat16 = _has_bfloat16(self.device)

    def predict(self, images: NDArray[np.float32]) -> list[list[RawDetection]]:
        """Detections of a batch of windows.

        Parameters
        ----------
        images : ndarray, float32, ``[N, C, H·upsample, W·upsample]``
            As the preset renders them.

        Returns
        -------
        list of list of RawDetection
            One list a window, best score first. Detections that cover no pixel centre are left out.

        Raises
        ------
        ModelError
            SW-402 where the number of channels differs.
        FloatingPointError
            Where the network's output is not finite.
        """
        wanted = int(self.card["in_channels"])
        if images.ndim != 4 or images.shape[1] != wanted:
            raise ModelError("SW-402", f"images {images.shape}, the weights read {wanted} channels")
        with _threads(self.threads), torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                found = detect(self.model, batch)
            height, width = images.shape[2] // self.upsample, images.shape[3] // self.upsample
            return [self._to_pixels(d, (height, width)) for d in found]

    def _to_pixels(self, d: Detections, shape: tuple[int, int]) -> list[RawDetection]:
        if not all(torch.isfinite(x).all() for x in (d.scores, *d.masks)):
            msg = "the network's output is not finite"
            raise FloatingPointError(msg)
        # Pasted at the map's resolution: boxes are in pixel edges, so scaling them is exact.
        pasted = paste_masks(d.masks, d.boxes / self.upsample, shape)
        return [
            RawDetection(
                category=int(label),
                score=float(score),
                row=p.row,
                col=p.col,
                prob=p.prob.clamp(0, 1).numpy(),
            )
            for label, score, p in zip(d.labels, d.scores, pasted, strict=True)
            if p.prob.numel()
        ]


def _has_bfloat16(device: torch.device) -> bool:
    """Whether there are instructions for bfloat16: emulated, it is several times slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@contextlib.contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)

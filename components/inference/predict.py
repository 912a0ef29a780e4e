"""The network on windows: images in, detections at pixel resolution out.

Runs on a bare machine with torch: no raster library is imported here.
"""

from __future__ import annotations

import os
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from components.errors import ModelError
from models.build import Detections, Detector, detect, detection_limit
from models.inference import InferenceNetwork, detect_batch
from models.int8 import processor_has_int8
from models.mask_rcnn import SmallObjectMaskRCNN
from models.paste import paste_masks
from models.quantised import RANGES, quantisable
from models.weights import WeightsError, load_weights
from models.weights import read_card as _read_card

#: Pixels of a batch on a CPU: more of them leave its caches and gain nothing.
CPU_BATCH_PX: Final = 256 * 256

#: Bytes that a pixel takes on a GPU, on the safe side; running out of memory halves the batch anyway.
GPU_BYTES_PX: Final = 4096

#: Windows of a batch at most.
MAX_BATCH: Final = 64

#: Batches in work on a GPU: one computes while the masks of the other are pasted.
GPU_LANES: Final = 2


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


def device_of(wanted: str, number: int) -> str:
    """The device of one of several processes on a machine: they share out its GPUs.

    Parameters
    ----------
    wanted : {"auto", "cpu", "cuda"}
        As for `Predictor`.
    number : int
        Of the process, from 0.

    Returns
    -------
    str
        ``cuda:N`` where there is more than one GPU and one may be used; otherwise `wanted`.
    """
    count = torch.cuda.device_count()
    return wanted if wanted == "cpu" or count < 2 else f"cuda:{number % count}"


class Predictor:
    """A trained network, ready for windows; several batches are in work at once.

    On a CPU every batch is computed by one thread, so that a batch's numbers do not depend on the number of
    threads.

    Parameters
    ----------
    weights : Path
        The ``.safetensors`` file with its card beside it.
    device : {"auto", "cpu", "cuda", "cuda:N"}
        ``auto``: the GPU if there is one; of several, number ``N``.
    max_detections : int
        Detections a window at most.
    score_min : float
        Detections of lower score are dropped, in [0, 1].
    threads : int, optional
        Batches in work at once on a CPU; default all cores.
    proposals : int, optional
        Proposals a window instead of the form's.
    precision : {"auto", "int8", "bfloat16", "float32"}
        ``auto``: the first of these for which the processor has instructions; ``int8`` (trunk and pyramid
        in integers, see `models.quantised`) only where the card holds the ranges that it needs.

    Attributes
    ----------
    card : dict
        The weights' card.
    precision : {"int8", "bfloat16", "float32"}
        What is computed in.
    upsample : int
        Images must be up-sampled by this factor; detections come back at the map's resolution.
    lanes : int
        Batches in work at once.

    Raises
    ------
    ModelError
        SW-401 for unusable weights; SW-411 where a GPU or a precision is asked for that is not to be had.
    """

    def __init__(
        self,
        weights: Path,
        device: str = "auto",
        max_detections: int = 200,
        score_min: float = 0.05,
        threads: int | None = None,
        proposals: int | None = None,
        precision: str = "auto",
    ) -> None:
        self.card = read_card(weights)
        try:
            model, _ = load_weights(
                weights, max_detections=max_detections, score_min=score_min, proposals=proposals
            )
        except WeightsError as e:
            raise ModelError("SW-401", str(e), path=weights) from e
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ModelError(
                "SW-411",
                f"device `{device}` was asked for, and there is none",
                remedy="Set infer.device.",
            )
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.upsample = int(self.card["upsample"])
        self.precision = _settled(precision, self.device, model, self.card, weights)
        low = self.precision == "bfloat16" or (
            self.precision == "int8" and _has_bfloat16(self.device)
        )
        self.dtype = torch.bfloat16 if low else torch.float32
        ready: InferenceNetwork | Detector = model
        if isinstance(model, SmallObjectMaskRCNN):
            ranges = self.card[RANGES] if self.precision == "int8" else None
            try:
                ready = InferenceNetwork(model, self.dtype, ranges=ranges)
            except (KeyError, TypeError, ValueError) as e:
                raise ModelError(
                    "SW-401",
                    f"the card's `{RANGES}` cannot be used: {type(e).__name__} {e}",
                    path=weights,
                    remedy="Set infer.precision to bfloat16 or float32, or restore the card.",
                ) from e
        self.network = ready.to(self.device)
        on_cpu = self.device.type == "cpu"
        self.lanes = (threads or len(os.sched_getaffinity(0))) if on_cpu else GPU_LANES
        self._threads_before = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(
            self.lanes, "slopewatch-predict", initializer=_one_thread if on_cpu else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; batches that were not begun are dropped."""
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads_before)

    def release(self) -> None:
        """Give back memory that the device keeps for later."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def batch_size(self, height: int, width: int) -> int:
        """Windows of a batch that suit the device.

        Parameters
        ----------
        height, width : int
            Of the images [px].

        Returns
        -------
        int
            A power of two from 1 to `MAX_BATCH`.
        """
        pixels = CPU_BATCH_PX
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            pixels = free // GPU_BYTES_PX // self.lanes
        fit = max(1, min(pixels // (height * width), MAX_BATCH))
        return 1 << (fit.bit_length() - 1)

    def limit(self, height: int, width: int) -> int:
        """Detections of a window at most: with so many it may hold more.

        Parameters
        ----------
        height, width : int
            Of the image [px].

        Returns
        -------
        int
        """
        if isinstance(self.network, InferenceNetwork):
            return self.network.limit(height, width)
        return detection_limit(self.network)

    def submit(
        self, images: NDArray[np.float32], scale: int = 1
    ) -> Future[list[list[RawDetection]]]:
        """Begin a batch of windows.

        Parameters
        ----------
        images : ndarray, float32, ``[N, C, H·upsample, W·upsample]``
            As the preset renders them.
        scale : int
            Map pixels a side of an image pixel before up-sampling.

        Returns
        -------
        Future of list of list of RawDetection
            One list a window, best score first. Detections that cover no pixel centre are left out. Its
            errors: MemoryError where the device's memory does not do, FloatingPointError where the
            network's output is not finite.

        Raises
        ------
        ModelError
            SW-402 where the number of channels differs.
        """
        wanted = int(self.card["in_channels"])
        if images.ndim != 4 or images.shape[1] != wanted:
            raise ModelError("SW-402", f"images {images.shape}, the weights read {wanted} channels")
        return self._pool.submit(self._run, images, scale)

    def predict(self, images: NDArray[np.float32], scale: int = 1) -> list[list[RawDetection]]:
        """Detections of a batch of windows: `submit`, and wait.

        Parameters
        ----------
        images, scale
            As for `submit`.

        Returns
        -------
        list of list of RawDetection

        Raises
        ------
        ModelError, MemoryError, FloatingPointError
            As `submit` says.
        """
        return self.submit(images, scale).result()

    def _run(self, images: NDArray[np.float32], scale: int) -> list[list[RawDetection]]:
        found, lacking = None, ""
        try:
            found = self._detect(self._on_device(images))
        except (RuntimeError, MemoryError) as e:
            if not _is_memory(e):
                raise
            # Its frames hold all that had been computed when memory ran out.
            traceback.clear_frames(e.__traceback__)
            lacking = str(e).split("\n", maxsplit=1)[0]
        if found is None:
            raise MemoryError(lacking)
        height, width = (n * scale // self.upsample for n in images.shape[2:])
        return [self._to_pixels(d, scale / self.upsample, (height, width)) for d in found]

    def _on_device(self, images: NDArray[np.float32]) -> torch.Tensor:
        batch = torch.from_numpy(np.ascontiguousarray(images))
        if self.device.type == "cuda":  # a pinned copy goes over while the device computes
            batch = batch.pin_memory().to(self.device, non_blocking=True)
        return batch

    def _detect(self, batch: torch.Tensor) -> list[Detections]:
        if isinstance(self.network, InferenceNetwork):
            return detect_batch(self.network, batch)
        low = self.dtype is torch.bfloat16
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            return detect(self.network, batch)

    def _to_pixels(self, d: Detections, scale: float, shape: tuple[int, int]) -> list[RawDetection]:
        if not all(torch.isfinite(x).all() for x in (d.scores, *d.masks)):
            msg = "the network's output is not finite"
            raise FloatingPointError(msg)
        # Pasted at the map's resolution: boxes are in pixel edges, so scaling them is exact.
        pasted = paste_masks(d.masks, d.boxes * scale, shape)
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


def _settled(
    wanted: str, device: torch.device, model: Detector, card: dict[str, Any], weights: Path
) -> str:
    """The precision to compute in."""
    lacks = _lacks_int8(device, model, card)
    if wanted == "int8" and lacks:
        raise ModelError(
            "SW-411",
            f"precision `int8` was asked for, but {lacks}",
            path=weights,
            remedy="Set infer.precision to auto.",
        )
    if wanted != "auto":
        return wanted
    if not lacks:
        return "int8"
    return "bfloat16" if _has_bfloat16(device) else "float32"


def _lacks_int8(device: torch.device, model: Detector, card: dict[str, Any]) -> str:
    """Why integers are not to be had; empty where they are."""
    if device.type != "cpu":
        return "the network runs on a GPU"
    if not processor_has_int8():
        return "the processor has no instructions for it"
    if not isinstance(model, SmallObjectMaskRCNN):
        return "the form is no Mask R-CNN"
    if reason := quantisable(model.spec):
        return reason
    return "" if RANGES in card else f"the weights' card has no `{RANGES}`"


def _has_bfloat16(device: torch.device) -> bool:
    """Whether there are instructions for bfloat16: emulated, it is several times slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _one_thread() -> None:
    torch.set_num_threads(1)


def _is_memory(error: Exception) -> bool:
    """Whether memory ran out; a CPU allocation has no exception class of its own."""
    text = str(error)
    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError))
        or "can't allocate memory" in text
        or "not enough memory" in text
        or "bad_alloc" in text
    )

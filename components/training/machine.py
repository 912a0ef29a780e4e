"""The machine under a training: device, precision, determinism, and quiet."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from components.errors import ModelError

if TYPE_CHECKING:
    from components.config import TrainConfig


def device_of(wanted: str) -> str:
    """Device that a training runs on, in Lightning's words.

    Parameters
    ----------
    wanted : {"auto", "cpu", "cuda"}
        Of the configuration.

    Returns
    -------
    {"cpu", "gpu"}

    Raises
    ------
    ModelError
        SW-411 where a GPU was asked for and there is none.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise ModelError(
            "SW-411", "device `cuda` was asked for, and there is none", remedy="Set train.device."
        )
    return "gpu"


def bfloat16(wanted: str, device: str) -> bool:
    """Whether to compute in bfloat16.

    A processor that lacks the instructions emulates them, several times slower than float32.

    Parameters
    ----------
    wanted : {"auto", "float32", "bfloat16"}
        Of the configuration.
    device : {"cpu", "gpu"}
        Of `device_of`.

    Returns
    -------
    bool
    """
    if wanted != "auto":
        return wanted == "bfloat16"
    if device == "gpu":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@contextmanager
def reproducible(cfg: TrainConfig, device: str) -> Iterator[None]:
    """Fixed number of threads and, on a CPU, deterministic algorithms; put back afterwards.

    Parameters
    ----------
    cfg : TrainConfig
        ``threads`` and ``devices``.
    device : {"cpu", "gpu"}
        Of `device_of`.
    """
    before = torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.set_num_threads(cfg.threads or max(1, (os.cpu_count() or 1) // cfg.devices))
    if device == "cpu":
        torch.use_deterministic_algorithms(True)
        # Filling fresh memory finds bugs that we do not have, and costs 5 % of the time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's banners and advice away: output belongs to the command."""
    loggers = [logging.getLogger(n) for n in ("lightning.pytorch", "lightning.fabric")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)

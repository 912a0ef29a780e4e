"""What an operator can do when memory or a device fails in the middle of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from components.errors import ModelError

if TYPE_CHECKING:
    from components.config import TrainConfig

#: Parts of messages that mean: no memory. On a CPU torch and the C++ library say it in plain
#: `RuntimeError`.
_NO_MEMORY: Final = (
    "can't allocate memory",
    "not enough memory",
    "std::bad_alloc",
    "out of memory",
)

#: Parts of messages that mean: a device or another process of the training is gone.
_LOST: Final = (
    "CUDA error",
    "cuDNN error",
    "NCCL error",
    "NCCL communicator was aborted",
    "Connection closed by peer",
    "Connection reset by peer",
    "DataLoader worker",
)


@contextmanager
def coded_failures(cfg: TrainConfig, work_dir: Path) -> Iterator[None]:
    """Turn failures of memory and devices into coded errors.

    Parameters
    ----------
    cfg : TrainConfig
        ``batch_size``, ``crop`` and ``model``, for the advice.
    work_dir : Path
        Of the checkpoints, which stay as they are.

    Raises
    ------
    ModelError
        SW-408 out of memory; SW-409 a device, or a process of the training, is gone.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as e:
        coded = _coded(e, cfg, work_dir)
        if coded is None:
            raise
        raise coded from e


def _coded(e: MemoryError | RuntimeError, cfg: TrainConfig, work_dir: Path) -> ModelError | None:
    text = str(e)
    if isinstance(e, (MemoryError, torch.OutOfMemoryError)) or _says(text, _NO_MEMORY):
        half = (cfg.batch_size // 2) // cfg.devices * cfg.devices
        if half >= 1:
            advice = f"Set train.batch_size to {half} (it is {cfg.batch_size})"
        else:
            advice = "Set train.crop lower, or take a smaller train.model"
        return ModelError(
            "SW-408",
            f"{cfg.batch_size} images a step of form {cfg.model!r} do not fit: {_first_line(text)}",
            path=work_dir,
            remedy=f"{advice}; that is another training, which starts anew. Or free memory and run the "
            "same command again: it goes on from the last checkpoint.",
        )
    if isinstance(e, torch.AcceleratorError) or _says(text, _LOST):
        return ModelError("SW-409", _first_line(text), path=work_dir)
    return None


def _says(text: str, parts: tuple[str, ...]) -> bool:
    return any(part.lower() in text.lower() for part in parts)


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no message"

"""Training on several devices of one machine: one process a device, the first being the caller.

The others run ``python -m components.training.rank``. They look at the same files, come to the same
checkpoint and meet the first in the collective operations; only the first writes results. They end with
it, however it ends, since they watch the pipe that it holds.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy

from components.errors import InputError, ModelError
from components.training.order import ALONE, Share
from components.training.sources import Source

if TYPE_CHECKING:
    from components.config import TrainConfig

#: What a process says when it is ready to meet the others.
READY: Final = "ready"


@dataclass(frozen=True)
class Group:
    """Place of a process among those of a training.

    Parameters
    ----------
    share : Share
        Number of the process, and how many there are.
    port : int
        Where they meet on this machine; 0 for a process that is alone.
    """

    share: Share = ALONE
    port: int = 0

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.share.world == 1

    def strategy(self, *, parts_rest: bool) -> Strategy | str:
        """Lightning's strategy for this process.

        Parameters
        ----------
        parts_rest : bool
            Whether some layers have no gradient in some steps.

        Returns
        -------
        Strategy or str
            ``"auto"`` for a process that is alone.
        """
        if self.alone:
            return "auto"
        return DDPStrategy(cluster_environment=_Place(self), find_unused_parameters=parts_rest)

    @contextmanager
    def left(self) -> Iterator[None]:
        """Leave the other processes at the end, so that the caller can train again."""
        try:
            yield
        finally:
            if not self.alone and torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


class _Place(LightningEnvironment):
    """Tells Lightning that the processes are there already, without environment variables."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self._group = group

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        return self._group.port

    def world_size(self) -> int:
        return self._group.share.world

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return self._group.share.rank

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return self._group.share.rank

    def node_rank(self) -> int:
        return 0


def check_devices(cfg: TrainConfig, device: str) -> None:
    """Refuse a number of devices that cannot be.

    Parameters
    ----------
    cfg : TrainConfig
        ``devices`` and ``batch_size``.
    device : {"cpu", "gpu"}
        Kind; on CPUs the devices are processes.

    Raises
    ------
    InputError
        SW-701 where the devices cannot share a batch equally.
    ModelError
        SW-411 where there are fewer GPUs.
    """
    if cfg.batch_size % cfg.devices:
        raise InputError(
            "SW-701",
            f"`train.batch_size`: {cfg.batch_size} images cannot be shared equally by "
            f"{cfg.devices} devices",
            remedy="Make train.batch_size a multiple of train.devices.",
        )
    if device == "gpu" and cfg.devices > torch.cuda.device_count():
        raise ModelError(
            "SW-411",
            f"{cfg.devices} GPUs were asked for, there are {torch.cuda.device_count()}",
            remedy="Lower train.devices.",
        )


@contextmanager
def started(source: Source, work_dir: Path, cfg: TrainConfig) -> Iterator[Group]:
    """Start the other processes of a training, and end them afterwards.

    Parameters
    ----------
    source : Source
        What is read; its ``order`` is handed on.
    work_dir : Path
        As for `components.training.loop.train`; each process logs into ``work_dir/rank-N.log``.
    cfg : TrainConfig
        ``devices``; the whole is handed on.

    Yields
    ------
    Group
        Of the calling process, the first.

    Raises
    ------
    ModelError
        SW-409 where a process does not come up.
    """
    if cfg.devices == 1:
        yield Group()
        return
    port = _free_port()
    order = {
        "source": source.order,
        "work_dir": str(work_dir.resolve()),
        "config": cfg.model_dump(mode="json"),
        "world": cfg.devices,
        "port": port,
    }
    processes: list[subprocess.Popen[str]] = []
    try:
        for rank in range(1, cfg.devices):
            with (work_dir / f"rank-{rank}.log").open("w") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "components.training.rank"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
            processes.append(process)
            if process.stdin is not None:
                process.stdin.write(json.dumps({**order, "rank": rank}) + "\n")
                process.stdin.flush()
        for rank, process in enumerate(processes, start=1):
            if process.stdout is None or process.stdout.readline().strip() != READY:
                raise ModelError(
                    "SW-409",
                    f"process {rank} of {cfg.devices} did not come up",
                    path=work_dir / f"rank-{rank}.log",
                )
        yield Group(Share(0, cfg.devices), port)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])

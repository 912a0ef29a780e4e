"""Shards of windows on a Dask cluster.

A task is a shard: a worker reads the cube, computes and writes the shard's file, and answers with a few
numbers. Workers therefore need the same file system, and no array travels. A worker that is killed loses its
unfinished shard only, which another computes; the files are the same whoever makes them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from components.config import InferConfig
from components.errors import ProcessingError
from components.inference.compute import MemoryGuard, work_through
from components.inference.plan import Plan, make_plan
from components.inference.shards import WindowRow, window_row
from components.workspace import Artefact, Workspace, artefact_dict

if TYPE_CHECKING:
    from distributed import Client

    from components.inference.predict import Predictor

#: Waiting time for the scheduler and the first worker [s].
PATIENCE_S: Final = 60

# A worker may run several tasks at once; a network uses all cores already.
_one_shard = threading.Lock()


def work_distributed(
    plan: Plan, missing: Sequence[int], cube: Artefact, weights: Path
) -> Iterator[list[WindowRow]]:
    """Compute shards on the cluster of ``cfg.dask``.

    Parameters
    ----------
    plan : Plan
        The run.
    missing : sequence of int
        Numbers of the shards.
    cube : Artefact
        Stage ``cube``; the workers must see its folder.
    weights : Path
        The ``.safetensors`` file; the workers must see it.

    Yields
    ------
    list of WindowRow
        Of one shard, in the order in which they are finished. Those without failed windows are stored.

    Raises
    ------
    ProcessingError
        SW-507 where the cluster cannot be reached or a shard killed several workers; SW-506.
    ModelError, WorkspaceError
        As the workers meet them.
    """
    from distributed import KilledWorker, as_completed

    cfg = plan.cfg.model_dump(mode="json", exclude={"weights", "dask"})
    with _cluster(str(plan.cfg.dask), len(missing)) as (client, processes):
        if plan.cfg.threads is None and processes:
            cfg["threads"] = max(1, len(os.sched_getaffinity(0)) // processes)
        facts = (str(plan.ws.root), artefact_dict(cube), str(weights), cfg)
        futures = [
            client.submit(
                compute_shard, *facts, number, key=f"{plan.window_key}-{number}", pure=False
            )
            for number in missing
        ]
        try:
            for future in as_completed(futures, loop=client.loop):  # type: ignore[no-untyped-call]
                yield future.result()
        except KilledWorker as e:
            raise ProcessingError(
                "SW-507", f"a shard killed its workers: {e}".splitlines()[0]
            ) from e
        finally:
            client.cancel(futures)  # type: ignore[no-untyped-call]


def compute_shard(
    root: str, cube: dict[str, Any], weights: str, cfg: dict[str, Any], number: int
) -> list[WindowRow]:
    """The task of a worker: one shard, computed and stored.

    Parameters
    ----------
    root : str
        Folder of the workspace.
    cube : dict
        `artefact_dict` of the cube.
    weights : str
        The ``.safetensors`` file.
    cfg : dict
        `InferConfig` as JSON values.
    number : int
        Of the shard.

    Returns
    -------
    list of WindowRow
    """
    plan = make_plan(Workspace(Path(root)), Artefact(**cube), Path(weights), InferConfig(**cfg))
    with _one_shard:
        predictor = _predictor(
            weights, str(plan.card["sha256"]), plan.cfg.device, plan.cfg.max_detections,
            plan.cfg.score_min, plan.cfg.threads, plan.cfg.proposals, plan.cfg.precision,
        )  # fmt: skip
        guard = MemoryGuard(plan, predictor)
        (results,) = work_through(plan, [number], predictor, guard)
    return [window_row(r) for r in results]


@lru_cache(maxsize=1)
def _predictor(weights: str, sha256: str, *settings: Any) -> Predictor:  # noqa: ARG001
    """The network of this process: loaded once, not once a shard."""
    from components.inference.predict import Predictor

    return Predictor(Path(weights), *settings)


@contextlib.contextmanager
def _cluster(where: str, tasks: int) -> Iterator[tuple[Client, int]]:
    """A client, and the number of processes where the cluster is our own."""
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        processes = 0
        try:
            if where.startswith("local:"):
                processes = min(int(where.removeprefix("local:")), tasks)
                cluster = LocalCluster(  # type: ignore[no-untyped-call]
                    n_workers=processes, threads_per_worker=1, dashboard_address=None
                )
                where = stack.enter_context(cluster).scheduler_address
            client = Client(where, timeout=PATIENCE_S, set_as_default=False)  # type: ignore[no-untyped-call]
            stack.enter_context(client)
            client.wait_for_workers(1, timeout=PATIENCE_S)
        except (OSError, TimeoutError) as e:
            raise ProcessingError("SW-507", f"{where}: {type(e).__name__} {e}") from e
        yield client, processes

"""Shards of windows on a Dask cluster.

A task is a shard: a worker reads the cube, computes and writes the shard's file, and answers with a few
numbers. Workers therefore need the same file system, and no array travels. A worker that is killed loses its
unfinished shard only, which another computes; the files are the same whoever makes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
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
    from distributed import Client, Future

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
        SW-507 where the cluster cannot be reached or goes away, no worker is left, one does not see the
        workspace, or a shard killed several; SW-506.
    ModelError, WorkspaceError
        As the workers meet them.
    """
    from distributed import KilledWorker, as_completed

    cfg = plan.cfg.model_dump(mode="json", exclude={"weights", "dask"})
    run = uuid.uuid4().hex  # another workspace may hold the same windows
    with _cluster(str(plan.cfg.dask), len(missing)) as (client, processes):
        if plan.cfg.threads is None and processes:
            cfg["threads"] = max(1, len(os.sched_getaffinity(0)) // processes)
        # Keys in order: two dumps of the same cube are the same task.
        told = json.dumps(artefact_dict(cube), sort_keys=True), json.dumps(cfg, sort_keys=True)
        facts = (str(plan.ws.root), plan.work.name, str(weights), *told, processes > 0)
        futures = [
            client.submit(compute_shard, *facts, n, key=f"{run}-{n}", pure=False) for n in missing
        ]
        try:
            with _watched(client, futures) as lost:
                for future in as_completed(futures, loop=client.loop):  # type: ignore[no-untyped-call]
                    yield _answer(future, lost)
        except KilledWorker as e:
            raise ProcessingError(
                "SW-507", f"a shard killed its workers: {e}".splitlines()[0]
            ) from e
        finally:
            with contextlib.suppress(OSError, TimeoutError, CancelledError):
                client.cancel(futures)  # type: ignore[no-untyped-call]


def _answer(future: Future[list[WindowRow]], lost: list[str]) -> list[WindowRow]:
    """What a task gave, or why the cluster gives nothing."""
    try:
        return future.result()
    except (CancelledError, asyncio.CancelledError) as e:
        why = lost[0] if lost else "its scheduler has gone, or dropped the shards"
        raise ProcessingError("SW-507", why) from e


@contextlib.contextmanager
def _watched(client: Client, futures: list[Future[list[WindowRow]]]) -> Iterator[list[str]]:
    """Give up, and say why in the list, where no worker has been there for `PATIENCE_S`."""
    lost: list[str] = []
    done = threading.Event()

    def watch() -> None:
        alone = 0.0
        while not done.wait(PATIENCE_S / 6):
            try:
                workers = client.scheduler_info(n_workers=1)["n_workers"]
            except (OSError, TimeoutError, RuntimeError):
                continue  # the futures will say that the scheduler has gone
            alone = 0.0 if workers else alone + PATIENCE_S / 6
            if alone >= PATIENCE_S:
                lost.append(f"no worker has been left for {PATIENCE_S:g} s")
                client.cancel(futures)  # type: ignore[no-untyped-call]
                return

    thread = threading.Thread(target=watch, name="slopewatch-workers", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        done.set()
        thread.join()


def compute_shard(
    root: str, work: str, weights: str, cube: str, cfg: str, own: bool, number: int
) -> list[WindowRow]:
    """The task of a worker: one shard, computed and stored.

    Parameters
    ----------
    root : str
        Folder of the workspace.
    work : str
        Name of the run's work folder in it.
    weights : str
        The ``.safetensors`` file.
    cube : str
        `artefact_dict` of the cube, as JSON.
    cfg : str
        `InferConfig` as JSON.
    own : bool
        Whether the cluster was made for this run: its workers then share out the GPUs among themselves.
    number : int
        Of the shard.

    Returns
    -------
    list of WindowRow

    Raises
    ------
    ProcessingError
        SW-507 where the worker does not see the workspace; otherwise as `work_through`.
    """
    if not (Path(root) / "work" / work).is_dir():
        raise ProcessingError(
            "SW-507",
            f"the worker on {socket.gethostname()} does not see the run's folder work/{work}",
            path=Path(root),
            remedy="Workers need the file system of the workspace, under the same path.",
        )
    with _one_shard:
        plan = _plan(root, weights, cube, cfg)
        predictor = _predictor(
            weights, str(plan.card["sha256"]), _device(plan.cfg.device, own),
            plan.cfg.max_detections, plan.cfg.score_min, plan.cfg.threads, plan.cfg.proposals,
            plan.cfg.precision,
        )  # fmt: skip
        guard = MemoryGuard(plan, predictor)
        (results,) = work_through(plan, [number], predictor, guard)
    return [window_row(r) for r in results]


@lru_cache(maxsize=1)
def _plan(root: str, weights: str, cube: str, cfg: str) -> Plan:
    """The run as this process sees it: a country of small windows takes a second to plan."""
    artefact = Artefact(**json.loads(cube))
    return make_plan(Workspace(Path(root)), artefact, Path(weights), InferConfig(**json.loads(cfg)))


def _device(wanted: str, own: bool) -> str:
    """The device of this worker; workers of other clusters know their GPU from their environment."""
    if not own:
        return wanted
    from distributed import get_worker

    from components.inference.predict import device_of

    return device_of(wanted, int(get_worker().name))


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
        except (OSError, TimeoutError, ValueError, TypeError) as e:
            raise ProcessingError("SW-507", f"{where}: {type(e).__name__} {e}") from e
        yield client, processes

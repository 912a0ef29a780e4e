"""Stitching in step with the windows: each shard is stitched as soon as it and those before it are stored.

A thread of its own reads the shards, joins their detections, looks at the landslides again and writes
them, while the next windows are computed. What it makes depends on the shards only, not on when they came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import numpy as np

from components.cube.read import read_layers
from components.errors import WorkspaceError
from components.inference.calibration import Calibration, calibrated
from components.inference.instance_file import InstanceWriter
from components.inference.instances import Detection, Instance
from components.inference.plan import Plan
from components.inference.read import WINDOW_ERRORS, reason
from components.inference.shards import load_shard, shard_path
from components.inference.stitch import Stitcher
from components.inference.traits import LAYERS
from components.inference.verifier import Verifier, verified
from components.workspace import Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.grid import Window

T = TypeVar("T")


class _Left(Exception):  # noqa: N818 - no error: the one who follows is to stop
    """The shards that are still to come will not come."""


class Following(Generic[T]):
    """Work on shards in their order, in a thread, while they are being made in any order; a context.

    Parameters
    ----------
    shards : int
        Number of shards.
    work : callable
        Takes an iterator over the numbers 0, 1, …, which waits until each is ready. Left without all of
        them, the iterator raises, and what the work has begun is for it to take back.

    Examples
    --------
    >>> with Following(2, list) as following:
    ...     following.ready(1)
    ...     following.ready(0)
    ...     following.result()
    [0, 1]
    """

    def __init__(self, shards: int, work: Callable[[Iterator[int]], T]) -> None:
        self._came: SimpleQueue[int | None] = SimpleQueue()
        self._pool = ThreadPoolExecutor(1, "slopewatch-stitch")
        self._future = self._pool.submit(work, self._in_order(shards))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._came.put(None)
        self._pool.shutdown()

    def ready(self, shard: int) -> None:
        """Say that a shard is stored.

        Parameters
        ----------
        shard : int
            Its number.

        Raises
        ------
        Exception
            That of the work, if it has failed: there is no use in making more shards.
        """
        if self._future.done():
            self._future.result()
        self._came.put(shard)

    def result(self) -> T:
        """Wait for the work, when all shards are ready.

        Returns
        -------
        object
            What it returned.

        Raises
        ------
        Exception
            That of the work.
        """
        return self._future.result()

    def _in_order(self, shards: int) -> Iterator[int]:
        ready: set[int] = set()
        for number in range(shards):
            while number not in ready:
                came = self._came.get()
                if came is None:
                    raise _Left
                ready.add(came)
            ready.discard(number)
            yield number


def stitch_shards(
    ws: Workspace,
    plan: Plan,
    verifier: Verifier | None,
    calibration: Calibration | None,
    path: Path,
    shards: Iterable[int],
) -> dict[str, Any]:
    """Write the landslides of stored shards as they are done.

    Parameters
    ----------
    ws : Workspace
        The workspace.
    plan : Plan
        The run.
    verifier : Verifier or None
        Gives the scores of the second look.
    calibration : dict or None
        Of the weights' card.
    path : Path
        The file of `InstanceWriter`.
    shards : iterable of int
        Numbers of all shards; each is stored when it is asked for.

    Returns
    -------
    dict
        ``coarse``: detections of coarser windows kept and dropped; ``stitch``: counts of every filter;
        ``n_instances``.

    Raises
    ------
    WorkspaceError
        SW-206 where a shard or a layer of the map has gone; SW-202 on a full disk.
    """

    def read(window: Window) -> dict[str, NDArray[Any]]:
        try:
            return read_layers(ws, plan.cube.track, plan.cube.period, LAYERS, window)
        except WINDOW_ERRORS as e:
            where = f"{plan.cube.track} {plan.cube.period}, {tuple(window)}: {reason(e)}"
            raise WorkspaceError("SW-206", where, path=ws.root) from e

    def scored(done: Iterable[Instance]) -> list[Instance]:
        looked = verified(list(done), verifier, read, plan.cube.shape)
        return calibrated(looked, calibration)

    stitcher = Stitcher(
        {i: w.ground for i, w in enumerate(plan.windows)},
        plan.cube.shape,
        seam_iou=plan.cfg.seam_iou,
        containment=plan.cfg.containment,
        mask_threshold=plan.cfg.mask_threshold,
        shortest={i: _shortest(plan) for i, w in enumerate(plan.windows) if w.scale > 1},
    )
    coarse: Counter[str] = Counter(kept=0, dropped=0)
    with InstanceWriter(path) as out:
        for window_id, found in _looked(plan, coarse, shards):
            if found is None:
                stitcher.skip(window_id)
            else:
                out.extend(scored(stitcher.add(window_id, found)))
        out.extend(scored(stitcher.finish()))
    return {
        "coarse": dict(coarse),
        "stitch": stitcher.counts.as_dict(),
        "n_instances": stitcher.counts.instances,
    }


def _looked(
    plan: Plan, coarse: Counter[str], shards: Iterable[int]
) -> Iterator[tuple[int, list[Detection] | None]]:
    """What every window found, in the order of the plan; None for one that did not look.

    Of coarser windows only what is large counts; the stitcher is told so, and asks them for nothing smaller.
    """
    least = _shortest(plan)
    for number in shards:
        path = shard_path(plan.work, number)
        results = load_shard(path, plan.shards[number])
        if results is None:
            raise WorkspaceError("SW-206", "a finished shard has gone during the run", path=path)
        for r in results:
            found = list(r.detections)
            if plan.windows[r.window_id].scale > 1:
                found = [d for d in found if _length(d, plan.cfg.mask_threshold) >= least]
                coarse["kept"] += len(found)
                coarse["dropped"] += len(r.detections) - len(found)
            yield r.window_id, found if r.state == "done" else None


def _shortest(plan: Plan) -> float:
    """Length from which on detections of coarser windows count [px]."""
    return plan.cfg.coarse_min_share * plan.cfg.window


def _length(d: Detection, threshold: float) -> int:
    """Longer side of the mask's bounding box [px]."""
    mask = d.prob >= threshold
    return max((int(np.ptp(n)) + 1 for n in np.nonzero(mask) if len(n)), default=0)

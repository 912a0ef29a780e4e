"""Shards of windows through the network: reading ahead, batches in flight, a guard over memory.

Three things go on at once: a thread reads and renders the next runs of windows, the predictor's threads
compute, and the caller stores what is ready. Batches never reach over a shard, and results are taken in
order, so that a resumed run computes the same batches as an undisturbed one.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from components.errors import ProcessingError
from components.inference.instances import Detection, dequantise, quantise
from components.inference.looks import LOOKS, merged, seen, unturned
from components.inference.plan import Plan, PlannedWindow, view_side
from components.inference.read import WINDOW_ERRORS, Ready, read_run, reason, runs
from components.inference.shards import State, WindowResult, save_shard, shard_path

if TYPE_CHECKING:
    from components.inference.predict import Predictor, RawDetection

#: Runs that are read before they are asked for.
RUNS_AHEAD: Final = 2


class MemoryGuard:
    """The number of windows a batch, halved whenever memory runs out.

    Parameters
    ----------
    plan : Plan
        ``cfg.batch_size`` is the number to begin with, or ``auto``.
    predictor : Predictor
        Knows what suits the device.

    Attributes
    ----------
    halved : int
        How often memory ran out.
    """

    def __init__(self, plan: Plan, predictor: Predictor) -> None:
        wanted = plan.cfg.batch_size
        if wanted == "auto":
            side = view_side(plan.cfg) * predictor.upsample
            wanted = predictor.batch_size(side, side)
        self.size = int(wanted)
        self.halved = 0

    def halve(self, failed: int) -> None:
        """Memory did not do for a batch of `failed` windows.

        Raises
        ------
        ProcessingError
            SW-506 where it was a single window.
        """
        if failed == 1:
            raise ProcessingError("SW-506", "one window alone is too large for the device's memory")
        self.halved += 1
        self.size = min(self.size, failed // 2)


class _Batch(NamedTuple):
    """Windows of a shard in flight, a future a look; without any where no window has an image."""

    shard: int
    windows: Sequence[Ready]
    futures: Sequence[Future[list[list[RawDetection]]]]


def work_through(
    plan: Plan, missing: Sequence[int], predictor: Predictor, guard: MemoryGuard
) -> Iterator[list[WindowResult]]:
    """Compute shards in order; a shard without failed windows is stored before it is yielded.

    Parameters
    ----------
    plan : Plan
        The run.
    missing : sequence of int
        Numbers of the shards.
    predictor : Predictor
        The network.
    guard : MemoryGuard
        Batch size.

    Yields
    ------
    list of WindowResult
        Of one shard, in the order of the plan.

    Raises
    ------
    ProcessingError
        SW-506 where memory does not do for one window.
    WorkspaceError
        SW-202 on a full disk, SW-201 without permission.
    """
    done: list[WindowResult] = []
    flying: deque[_Batch] = deque()
    with contextlib.closing(_batches(plan, missing, predictor, guard)) as batches:
        while True:
            # One more than the lanes: the next one waits when a lane becomes free.
            while len(flying) <= predictor.lanes and (batch := next(batches, None)) is not None:
                flying.append(batch)
            if not flying:
                return
            batch = flying.popleft()
            done += _finish(plan, batch, predictor, guard, flying)
            if len(done) == len(plan.shards[batch.shard]):
                done.sort(key=lambda r: r.window_id)
                if all(r.state != "failed" for r in done):
                    save_shard(shard_path(plan.work, batch.shard), done)
                yield done
                done = []


def _batches(
    plan: Plan, missing: Sequence[int], predictor: Predictor, guard: MemoryGuard
) -> Generator[_Batch, None, None]:
    """Begin batches in order."""
    kind: tuple[object, ...] = ()
    with contextlib.closing(_read_ahead(plan, missing)) as feed:
        for number in missing:
            waiting: list[Ready] = []
            seen = 0
            while seen < len(plan.shards[number]):
                run = next(feed)
                seen += len(run)
                idle = [r for r in run if r.image is None]
                if idle:
                    yield _Batch(number, idle, [])
                for ready in run:
                    if ready.image is None:
                        continue
                    # A batch is of one scale and one size of image.
                    other = (plan.windows[ready.window_id].scale, ready.image.shape)
                    if waiting and (other != kind or len(waiting) >= guard.size):
                        yield _begin(plan, number, waiting, predictor)
                        waiting = []
                    kind = other
                    waiting.append(ready)
            if waiting:
                yield _begin(plan, number, waiting, predictor)


def _begin(plan: Plan, number: int, windows: Sequence[Ready], predictor: Predictor) -> _Batch:
    scale = plan.windows[windows[0].window_id].scale
    images = _stack(windows)
    looks = LOOKS[plan.cfg.augment]
    return _Batch(number, windows, [predictor.submit(seen(images, k), scale) for k in looks])


def _stack(windows: Sequence[Ready]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    images = [r.image for r in windows if r.image is not None]
    return np.stack(images) if len(images) > 1 else images[0][None]


def _read_ahead(plan: Plan, missing: Sequence[int]) -> Generator[list[Ready], None, None]:
    """Runs of windows in order, read by a thread before they are asked for."""
    queue: deque[Future[list[Ready]]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="slopewatch-read") as pool:
        try:
            for number in missing:
                for run in runs(plan, plan.shards[number]):
                    queue.append(pool.submit(read_run, plan, run))
                    if len(queue) > RUNS_AHEAD:
                        yield queue.popleft().result()
            while queue:
                yield queue.popleft().result()
        finally:
            for future in queue:
                future.cancel()


def _finish(
    plan: Plan,
    batch: _Batch,
    predictor: Predictor,
    guard: MemoryGuard,
    others: Sequence[_Batch] | None = None,
) -> list[WindowResult]:
    """Results of a batch; one that failed is tried again in halves or window by window.

    Others were in flight beside it, or none from its beginning.
    """
    if not batch.futures:
        return [_without_image(r) for r in batch.windows]
    windows = batch.windows
    try:
        found = [f.result() for f in batch.futures]
    except MemoryError:
        # Once more when the others have given back theirs: a single window may have failed for them.
        wait([f for flying in (batch, *(others or ())) for f in flying.futures])
        predictor.release()
        if len(windows) > 1 or others is None:
            guard.halve(len(windows))
        parts = [windows[i : i + guard.size] for i in range(0, len(windows), guard.size)]
    except WINDOW_ERRORS as e:
        if len(windows) == 1:
            return [
                WindowResult(windows[0].window_id, "failed", reason(e), windows[0].valid_fraction)
            ]
        parts = [[one] for one in windows]
    else:
        return [
            _result(plan, r, looks, predictor)
            for r, looks in zip(windows, zip(*found, strict=True), strict=True)
        ]
    return [
        r
        for part in parts
        for r in _finish(plan, _begin(plan, batch.shard, part, predictor), predictor, guard)
    ]


def _size(ready: Ready) -> tuple[int, int]:
    """Height and width of a window's image [px]."""
    if ready.image is None:
        return 0, 0
    return ready.image.shape[-2], ready.image.shape[-1]


def _result(
    plan: Plan, ready: Ready, looks: Sequence[Sequence[RawDetection]], predictor: Predictor
) -> WindowResult:
    window, shape = plan.windows[ready.window_id], _size(ready)
    unit = window.scale / predictor.upsample
    turned = [
        unturned(found, look, shape, unit)
        for look, found in zip(LOOKS[plan.cfg.augment], looks, strict=True)
    ]
    joined = merged(turned, plan.cfg.score_min)
    pieces = [_on_ground(ready.window_id, window, d) for d in joined.found]
    detections = tuple(d for d in pieces if d is not None)
    limit = predictor.limit(*shape)
    return WindowResult(
        ready.window_id,
        "done",
        "",
        ready.valid_fraction,
        any(len(found) >= limit for found in looks),
        detections,
        beyond=len(pieces) - len(detections),
        faint=joined.faint,
        precision=predictor.precision,
    )


def _on_ground(window_id: int, window: PlannedWindow, d: RawDetection) -> Detection | None:
    """A detection on the map, as far as it lies on the window's own ground; None where nothing does.

    The network also sees the surroundings, and a coarse pixel at the map's edge can reach beyond it.
    """
    ground, row, col = window.ground, window.view.row + d.row, window.view.col + d.col
    top, bottom = max(row, ground.row), min(row + d.prob.shape[0], ground.row_end)
    left, right = max(col, ground.col), min(col + d.prob.shape[1], ground.col_end)
    if top >= bottom or left >= right:
        return None
    # As the shard will give it back: a resumed run must stitch the same numbers.
    prob = dequantise(quantise(d.prob[top - row : bottom - row, left - col : right - col]))
    return Detection(window_id, d.category, d.score, top, left, prob) if prob.any() else None


def _without_image(ready: Ready) -> WindowResult:
    state: State = "failed" if ready.failed else "skipped"
    return WindowResult(ready.window_id, state, ready.failed or ready.skipped, ready.valid_fraction)

"""From the detections of overlapping windows to the landslides of the map, as a stream.

1. Inside a window, a second detection of the same object is dropped (`pool`).
2. Across windows, masks are compared on the ground that both windows saw (`seams`), and linked
   detections are collected, the strongest link first (`groups`).
3. Probabilities of the member windows are averaged, with less weight near a window's edge, and
   thresholded (`average`).
4. What lies inside a larger landslide of its class is the same landslide seen again, and is dropped;
   so is the sliver that a window cut off a landslide which a better-placed window drew whole
   (`leftovers`).

Windows come in any order. A group of linked detections is finished once no window that has yet to come
shares ground with one of them; a landslide is done once neither such a window nor an unfinished
detection comes near it. What is done is handed out and forgotten, so that memory follows the front
between windows that came and windows that did not. Every decision depends on detections that touch, and
is made when all of them are there: the result is that of the whole map, whatever the order of the
windows and the size of the steps. docs/stitching.md gives the reasons and the figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from components.errors import ProcessingError
from components.grid.windows import Window
from components.inference.average import Made, average
from components.inference.counts import StitchCounts
from components.inference.coverage import Coverage
from components.inference.groups import components, group
from components.inference.instances import Detection, Instance, order_of
from components.inference.leftovers import bounds, clear, grown
from components.inference.pool import empty_pool, gather
from components.inference.runs import Bool, Int
from components.inference.seams import find_links, no_links, overlapping_pairs

#: Raised by hand when results change.
ALGORITHM: Final = "seam-iou-3"

#: Detections that are collected before a step is made, at least.
STEP: Final = 4096

#: … or so many pixels of their masks: large ones are steps sooner.
STEP_PX: Final = 1 << 25


class Stitched(NamedTuple):
    """Landslides in order of position, and the counts."""

    instances: list[Instance]
    counts: StitchCounts


class Stitcher:
    """Joins the detections of overlapping windows into landslides, window after window.

    Parameters
    ----------
    windows : mapping of int to Window
        Every window of the plan by its id.
    shape : tuple of int
        Raster height and width [px].
    seam_iou : float
        Masks join where their IoU on the ground that both windows saw reaches this, in (0, 1].
    containment : float
        … or where this share of the smaller piece lies in the larger, in (0, 1].
    mask_threshold : float
        Mean probability of a landslide pixel, in (0, 1).
    shortest : mapping of int to float, optional
        By window id: a window whose shorter detections [px] were dropped beforehand is not among those that
        should have seen a landslide of which it holds less than this length. Windows that are not named
        are asked about every landslide.
    step : int
        Detections that are collected before a step is made, at least; results do not depend on it.

    Attributes
    ----------
    counts : StitchCounts
        So far; complete after `finish`.

    Raises
    ------
    ProcessingError
        SW-505 where a window leaves the raster.

    Examples
    --------
    >>> stitcher = Stitcher({0: Window(0, 0, 8, 8)}, (8, 8))
    >>> [*stitcher.add(0, []), *stitcher.finish()]
    []
    """

    def __init__(
        self,
        windows: Mapping[int, Window],
        shape: tuple[int, int],
        *,
        seam_iou: float = 0.3,
        containment: float = 0.7,
        mask_threshold: float = 0.5,
        shortest: Mapping[int, float] | None = None,
        step: int = STEP,
    ) -> None:
        for i, w in windows.items():
            inside = 0 <= w.row < w.row_end <= shape[0] and 0 <= w.col < w.col_end <= shape[1]
            if not inside:
                raise ProcessingError(
                    "SW-505", f"window {i} ({tuple(w)}) leaves the raster {shape}"
                )
        self.coverage = Coverage(windows, shape, shortest)
        self.counts = StitchCounts()
        self._seam_iou, self._containment, self._threshold = seam_iou, containment, mask_threshold
        self._step = step
        self._came = np.zeros(len(windows), bool)  # reported, with or without detections
        self._ran = np.zeros(len(windows), bool)
        self._buffer: list[Detection] = []
        self._buffered_px = 0
        self._pool = empty_pool()
        self._links = no_links()
        # Detections of the pool that a window to come shares ground with.
        self._open = np.zeros(0, bool)
        self._waiting: list[Made] = []

    @property
    def held(self) -> int:
        """Detections and landslides in memory."""
        return len(self._buffer) + len(self._pool) + len(self._waiting)

    def add(self, window_id: int, detections: Sequence[Detection]) -> Iterator[Instance]:
        """Give all detections of a window that was run, and take what is done.

        Parameters
        ----------
        window_id : int
            A window of the plan, once.
        detections : sequence of Detection
            All that it found, in any order; none is an answer too.

        Yields
        ------
        Instance
            Landslides that no window to come can change, in no particular order.

        Raises
        ------
        ProcessingError
            SW-505 where the window is not in the plan or came before, a detection names or leaves
            another window, or a score or probability is outside [0, 1]. The detections themselves are
            looked at in the next step.
        """
        for d in detections:
            if d.window_id != window_id:
                raise ProcessingError(
                    "SW-505", f"a detection of window {window_id} names window {d.window_id}"
                )
        self._report(window_id, ran=True)
        self._buffer.extend(detections)
        self._buffered_px += sum(d.prob.size for d in detections)
        if self._enough():
            yield from self._work()

    def skip(self, window_id: int) -> None:
        """Say that a window was not run: it did not look, and has no part in the agreement.

        Parameters
        ----------
        window_id : int
            A window of the plan, once.

        Raises
        ------
        ProcessingError
            SW-505 where the window is not in the plan or came before.
        """
        self._report(window_id, ran=False)

    def finish(self) -> Iterator[Instance]:
        """Take the rest, after the last window.

        Yields
        ------
        Instance

        Raises
        ------
        ProcessingError
            SW-505 where a window has not been reported; otherwise as `add`.
        """
        if not self._came.all():
            k = int(np.argmin(self._came))
            raise ProcessingError(
                "SW-505",
                f"{int(np.count_nonzero(~self._came))} windows were neither run nor skipped, "
                f"window {self.coverage.ids[k]} among them",
            )
        yield from self._work()

    def _enough(self) -> bool:
        """Whether a step is due: steps grow with what is held, so that work done again is in proportion."""
        if len(self._buffer) >= max(self._step, len(self._pool) + len(self._waiting)):
            return True
        if self._buffered_px < STEP_PX:
            return False
        crop = self._pool.crop
        held = int(((crop[:, 2] - crop[:, 0]) * (crop[:, 3] - crop[:, 1])).sum())
        return self._buffered_px >= held + sum(m.instance.mask.size for m in self._waiting)

    def _report(self, window_id: int, *, ran: bool) -> None:
        k = self.coverage.position.get(window_id)
        if k is None:
            raise ProcessingError("SW-505", f"window {window_id} is not in the plan")
        if self._came[k]:
            raise ProcessingError("SW-505", f"window {window_id} came twice")
        self._came[k], self._ran[k] = True, ran

    def _work(self) -> Iterator[Instance]:
        """One step: link what came, finish groups, clear landslides."""
        self._link()
        open_now = self._touched(self._pool.box)
        component = components(len(self._pool), self._links)
        unfinished = np.zeros(int(component.max(initial=-1)) + 1, bool)
        unfinished[component[open_now]] = True
        keep = unfinished[component]
        self._close(component, ~keep)
        self._retain(keep, open_now)
        settled = self._settled()
        cleared = clear(self._waiting, settled, self.coverage, self._containment)
        self._waiting = cleared.waiting
        self.counts = self.counts.plus(
            absorbed=cleared.absorbed, slivers=cleared.slivers, instances=len(cleared.done)
        )
        yield from cleared.done

    def _link(self) -> None:
        """Bring what came into the pool and link it."""
        gathered = gather(
            self._buffer,
            self.coverage,
            mask_threshold=self._threshold,
            containment=self._containment,
        )
        self.counts = self.counts.plus(
            detections=len(self._buffer), empty=gathered.empty, duplicates=gathered.duplicates
        )
        self._buffer, self._buffered_px = [], 0
        n_old = len(self._pool)
        self._pool = self._pool.join(gathered.pool)
        pool, rank = self._pool, self._pool.rank()
        new = np.arange(len(pool)) >= n_old
        some = np.flatnonzero(np.concatenate([self._open, new[n_old:]]))
        a, b = overlapping_pairs(pool.box[some], pool.category[some])
        a, b = some[a], some[b]
        use = (new[a] | new[b]) & (pool.window[a] != pool.window[b])
        a, b = a[use], b[use]
        swap = rank[a] > rank[b]
        first, second = np.where(swap, b, a), np.where(swap, a, b)
        found = find_links(
            pool.runs,
            pool.window,
            self.coverage.boxes,
            first,
            second,
            rank,
            seam_iou=self._seam_iou,
            containment=self._containment,
        )
        self._links = self._links.plus(found)

    def _close(self, component: Int, finished: Bool) -> None:
        """Make landslides of the components that are finished."""
        which = np.flatnonzero(finished)
        pool, links = self._pool.take(which), self._links.within(finished)
        groups = group(component[which], links, pool.window, pool.cut, pool.rank())
        self.counts = self.counts.plus(
            links=len(links.first) - groups.refused, refused=groups.refused
        )
        for averaged in average(pool, groups, self.coverage, self._ran, self._threshold):
            self._waiting += averaged.made
            self.counts = self.counts.plus(vanished=averaged.vanished, specks=averaged.specks)

    def _retain(self, keep: Bool, open_now: Bool) -> None:
        self._links = self._links.within(keep)
        self._pool = self._pool.take(np.flatnonzero(keep))
        self._open = open_now[keep]

    def _settled(self) -> Bool:
        """Which landslides neither a window to come nor an unfinished detection comes near."""
        near = grown(bounds(self._waiting), self.coverage.shape)
        settled = ~self._touched(near)
        if len(self._pool) and len(near):
            category = np.asarray([m.instance.category for m in self._waiting], np.int64)
            boxes = np.concatenate([near, self._pool.crop])
            a, b = overlapping_pairs(boxes, np.concatenate([category, self._pool.category]))
            settled[a[(a < len(near)) & (b >= len(near))]] = False
        return settled

    def _touched(self, boxes: Int) -> Bool:
        """Which boxes share ground with a window to come."""
        touched = np.zeros(len(boxes), bool)
        box, window = self.coverage.looking_at(boxes)
        touched[box[~self._came[window]]] = True
        return touched


def stitch(
    detections: Sequence[Detection],
    windows: Mapping[int, Window],
    shape: tuple[int, int],
    *,
    seam_iou: float = 0.3,
    containment: float = 0.7,
    mask_threshold: float = 0.5,
    shortest: Mapping[int, float] | None = None,
) -> Stitched:
    """Stitch a map whose detections are all at hand: a stream of one step.

    Parameters
    ----------
    detections : sequence of Detection
        In any order.
    windows : mapping of int to Window
        Every window that was run, with or without detections, by its id. A window that was skipped or
        failed did not look and must be left out.
    shape, seam_iou, containment, mask_threshold, shortest
        As for `Stitcher`.

    Returns
    -------
    Stitched
        Landslides sorted by first row, first column, category, then content.

    Raises
    ------
    ProcessingError
        SW-505, as `Stitcher`.
    """
    stitcher = Stitcher(
        windows,
        shape,
        seam_iou=seam_iou,
        containment=containment,
        mask_threshold=mask_threshold,
        shortest=shortest,
        step=len(detections) + 1,
    )
    by_window: dict[int, list[Detection]] = {i: [] for i in windows}
    for d in detections:
        if d.window_id not in by_window:
            raise ProcessingError(
                "SW-505", f"a detection names window {d.window_id}, which was not run"
            )
        by_window[d.window_id].append(d)
    found = [i for w, some in by_window.items() for i in stitcher.add(w, some)]
    found += stitcher.finish()
    return Stitched([found[k] for k in order_of(found).tolist()], stitcher.counts)

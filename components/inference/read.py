"""From the cube to the images of windows: whole runs of neighbours are read and rendered at once.

A run is a stretch of windows side by side. What they see is read and rendered once and then cut, so that
overlap costs nothing but the network's time. Whether a window is worth its time is asked of its own ground,
not of the surroundings that the network sees with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from components.cube.read import read_layers
from components.dataset.presets import render
from components.dataset.resample import upsample_bilinear, upsample_nearest
from components.errors import ProcessingError
from components.grid.windows import Window
from components.inference.plan import Plan
from components.inference.quiet import block_contrast, largest_in, velocity_mm_per_year

#: Pixels of a run at most (a single window may be larger): bounds the memory of reading.
RUN_PX: Final = 2**20

#: What reading or computing one window can run into; everything else is an error of the program.
WINDOW_ERRORS: Final = (OSError, RuntimeError, ValueError, KeyError, ArithmeticError)

#: How the reason of a window begins that was skipped because nothing stands out in it.
QUIET: Final = "quiet"

_Layers = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Ready:
    """A window after reading: an image, or why there is none.

    Parameters
    ----------
    window_id : int
        Position in the plan.
    valid_fraction : float
        Share of its pixels that hold data; NaN where it could not be read.
    image : ndarray or None
        float32 ``[C, h, w]``, the window's view as the preset renders it.
    skipped, failed : str
        Reason; one of them where there is no image.
    """

    window_id: int
    valid_fraction: float
    image: NDArray[np.float32] | None
    skipped: str = ""
    failed: str = ""


def runs(plan: Plan, ids: Sequence[int]) -> Iterator[list[int]]:
    """Divide windows into runs of neighbours.

    Parameters
    ----------
    plan : Plan
        The run.
    ids : sequence of int
        In the order of the plan.

    Yields
    ------
    list of int
        Windows of one scale and the same rows, whose views have together at most `RUN_PX` pixels.
    """
    run: list[int] = []
    for i in ids:
        if run:
            first, this = plan.windows[run[0]], plan.windows[i]
            same = (first.scale, first.ground.row) == (this.scale, this.ground.row)
            area = first.view.height * (this.view.col_end - first.view.col)
            if not same or area > RUN_PX * first.scale**2:
                yield run
                run = []
        run.append(i)
    if run:
        yield run


def read_run(plan: Plan, ids: Sequence[int]) -> list[Ready]:
    """Read the windows of a run; where that fails, window by window, to tell which of them fail.

    Parameters
    ----------
    plan : Plan
        The run.
    ids : sequence of int
        One of `runs`.

    Returns
    -------
    list of Ready
        One a window, in order.

    Raises
    ------
    ProcessingError
        SW-506 where memory does not do for one window.
    """
    try:
        return _read(plan, ids)
    except MemoryError as e:
        if len(ids) == 1:
            where = f"window {ids[0]} of {plan.cube.track} {plan.cube.period}"
            raise ProcessingError("SW-506", f"there is no memory to read {where}") from e
    except WINDOW_ERRORS as e:
        if len(ids) == 1:
            return [Ready(ids[0], float("nan"), None, failed=reason(e))]
    return [r for i in ids for r in read_run(plan, [i])]


def reason(error: BaseException) -> str:
    """One line that says what went wrong.

    Parameters
    ----------
    error : BaseException
        Any.

    Returns
    -------
    str
        At most 200 characters.
    """
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _read(plan: Plan, ids: Sequence[int]) -> list[Ready]:
    scale = plan.windows[ids[0]].scale
    grounds = {i: plan.windows[i].ground for i in ids}
    views = {i: plan.windows[i].view for i in ids}
    whole = _hull(list(views.values()))
    valid = _layers(plan, ("valid",), whole)["valid"]
    shares = {i: float(np.mean(valid[_inside(g, whole).slices])) for i, g in grounds.items()}
    least = plan.cfg.valid_fraction_min
    out = {
        i: Ready(i, share, None, skipped=f"valid fraction {share:.4f} below {least:g}")
        for i, share in shares.items()
        if share < least
    }
    live = [i for i in ids if i not in out]
    if live:
        span = _hull([views[i] for i in live])
        layers = _layers(plan, tuple(n for n in plan.layers if n != "valid"), span)
        layers = {**layers, "valid": valid[_inside(span, whole).slices]}
        if scale > 1:
            layers = {name: _coarser(a, scale) for name, a in layers.items()}
        loud = _loudness(plan, layers, {i: _coarse(_inside(grounds[i], span), scale) for i in live})
        limit = plan.cfg.quiet_sigma
        for i in live:
            if loud is not None and loud[i] < limit:
                why = f"{QUIET}: {loud[i]:.3f} sigma at most, below {limit:g}"
                out[i] = Ready(i, shares[i], None, skipped=why)
        left = [i for i in live if i not in out]
        places = {i: _coarse(_inside(views[i], span), scale) for i in left}
        for i, image in _images(plan, layers, places):
            out[i] = Ready(i, shares[i], image)
    return [out[i] for i in ids]


def _layers(plan: Plan, names: tuple[str, ...], window: Window) -> dict[str, NDArray[Any]]:
    return read_layers(plan.ws, plan.cube.track, plan.cube.period, names, window)


def _hull(windows: Sequence[Window]) -> Window:
    row, col = min(w.row for w in windows), min(w.col for w in windows)
    return Window(
        row, col, max(w.row_end for w in windows) - row, max(w.col_end for w in windows) - col
    )


def _inside(window: Window, outer: Window) -> Window:
    return window._replace(row=window.row - outer.row, col=window.col - outer.col)


def _coarse(window: Window, scale: int) -> Window:
    return Window(
        window.row // scale, window.col // scale, -(-window.height // scale),
        -(-window.width // scale),
    )  # fmt: skip


def _coarser(array: NDArray[Any], scale: int) -> NDArray[Any]:
    """Means of blocks over the pixels that hold data; a block is missing where fewer than half do."""
    height, width = array.shape
    ends = ((0, -height % scale), (0, -width % scale))
    known = np.ones(array.shape, bool) if array.dtype == np.bool_ else np.isfinite(array)
    filled = np.where(known, array, 0).astype(np.float32)

    def sums(values: NDArray[Any]) -> NDArray[np.float32]:
        padded = np.pad(values.astype(np.float32), ends)
        rows, cols = padded.shape[0] // scale, padded.shape[1] // scale
        out: NDArray[np.float32] = padded.reshape(rows, scale, cols, scale).sum(axis=(1, 3))
        return out

    total, count = sums(filled), sums(known)
    half = scale**2 / 2
    if array.dtype == np.bool_:
        return total >= half
    return np.where(count >= half, total / np.maximum(count, 1), np.float32(np.nan))


def _loudness(plan: Plan, layers: _Layers, places: Mapping[int, Window]) -> dict[int, float] | None:
    """The largest contrast in each window [σ]; None where the test is switched off."""
    if not plan.cfg.quiet_sigma:
        return None
    if "los_velocity" in layers:
        velocity = layers["los_velocity"]
    else:
        velocity = velocity_mm_per_year(layers["los_displacement"], plan.cube.days)
    contrast = block_contrast(velocity, layers["valid"], plan.cube.sigma_velocity)
    return {i: largest_in(contrast, place) for i, place in places.items()}


def _images(
    plan: Plan, layers: _Layers, places: Mapping[int, Window]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    preset, sigma = str(plan.card["preset"]), plan.cube.sigma_velocity
    factor = int(plan.card["upsample"])
    if factor == 1 and places:
        # Every pixel is rendered by itself: cutting afterwards gives the same image.
        picture = render(preset, layers, sigma)
        for i, place in places.items():
            yield i, picture[:, *place.slices]
        return
    for i, place in places.items():
        fine = {}
        for name, array in layers.items():
            part = array[place.slices]
            up = upsample_nearest if part.dtype == np.bool_ else upsample_bilinear
            fine[name] = up(part, factor)
        yield i, render(preset, fine, sigma)

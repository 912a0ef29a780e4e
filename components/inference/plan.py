"""What a run reads, with which weights, in which windows: settled and checked before any work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from components.cube.read import CubeInfo, cube_info
from components.dataset.augment import check_channels
from components.dataset.presets import CHANNELS, OPTIONAL_LAYERS, REQUIRED_LAYERS
from components.errors import ModelError, ProcessingError
from components.grid.windows import Window
from components.inference.shards import SHARD_WINDOWS
from components.layers import LAYERS
from components.workspace import Artefact, Workspace, stage_key

if TYPE_CHECKING:
    from components.config import InferConfig

#: Raised by hand when the results of windows change.
ALGORITHM: Final = "infer-5"

#: Neighbouring windows must share this much ground [px], or seams cannot be told.
MIN_OVERLAP_PX: Final = 8

#: Windows begin at multiples of this [px of their scale], the coarsest stride of the small-object forms: a
#: network sees the same ground in the same phase in every window, and answers the same.
ALIGN_PX: Final = 16

#: Pixel sizes may differ by this share.
PIXEL_SIZE_TOLERANCE: Final = 0.01

#: Settings that say where and how fast, not what; the weights enter by their hash.
MACHINE_KEYS: Final = frozenset({"weights", "device", "threads", "batch_size", "dask"})

#: Settings that are used after the windows.
STITCH_KEYS: Final = frozenset({"seam_iou", "containment", "mask_threshold", "coarse_min_share"})


class PlannedWindow(NamedTuple):
    """A window of one scale.

    Parameters
    ----------
    ground : Window
        What it covers [px of the map].
    scale : int
        Map pixels a side of a pixel that the network sees.
    view : Window
        What the network sees [px of the map]: the ground, and around a small window its surroundings.
    """

    ground: Window
    scale: int
    view: Window


@dataclass(frozen=True)
class Plan:
    """One run over one cube.

    Parameters
    ----------
    ws : Workspace
        The workspace.
    cube : CubeInfo
        What is read.
    card : mapping
        Of the weights.
    layers : tuple of str
        Layers to read, ``valid`` among them.
    windows : tuple of PlannedWindow
        By first row, then scale, then column; a window's id is its position.
    cfg : InferConfig
        The settings.
    window_key : str
        Identity of the windows' results.
    work : Path
        Folder of the shards.
    """

    ws: Workspace
    cube: CubeInfo
    card: Mapping[str, Any]
    layers: tuple[str, ...]
    windows: tuple[PlannedWindow, ...]
    cfg: InferConfig
    window_key: str
    work: Path

    @property
    def shards(self) -> list[range]:
        """Window ids of each shard."""
        n = len(self.windows)
        return [range(i, min(i + SHARD_WINDOWS, n)) for i in range(0, n, SHARD_WINDOWS)]


def make_plan(ws: Workspace, cube: Artefact, weights: Path, cfg: InferConfig) -> Plan:
    """Settle a run; nothing is written.

    Parameters
    ----------
    ws : Workspace
        The workspace.
    cube : Artefact
        Stage ``cube``.
    weights : Path
        The ``.safetensors`` file with its card beside it.
    cfg : InferConfig
        The settings.

    Returns
    -------
    Plan

    Raises
    ------
    ModelError
        SW-401, SW-402: weights missing, unreadable or of another preset; SW-404 where ``cfg.augment``
        asks for mirrors and a channel does not keep its meaning in them.
    ProcessingError
        SW-502, SW-503, SW-504: overlap, pixel size, layers.
    """
    from components.inference.predict import read_card

    card = read_card(weights)
    info = cube_info(cube)
    layers = _check(info, card, weights)
    if cfg.augment != "none":
        check_channels(CHANNELS[str(card["preset"])])
    windows = planned_windows(info.shape, cfg)
    key = window_key(cube, card, cfg)
    work = ws.root / "work" / f"infer-{key[:12]}"
    return Plan(ws, info, card, layers, tuple(windows), cfg, key, work)


def planned_windows(shape: tuple[int, int], cfg: InferConfig) -> list[PlannedWindow]:
    """The windows of a map, whether or not they will be skipped.

    Parameters
    ----------
    shape : tuple of int
        Height and width of the map [px].
    cfg : InferConfig
        Window side, context, overlap and scales.

    Returns
    -------
    list of PlannedWindow
        By first row, then scale, then column.

    Raises
    ------
    ProcessingError
        SW-502 for an overlap outside [0, 1) or of too few pixels.
    """
    if not 0.0 <= cfg.overlap < 1.0:
        raise ProcessingError("SW-502", f"overlap {cfg.overlap:g}")
    out: list[PlannedWindow] = []
    for scale in cfg.scales:
        windows = _scaled_windows(shape, cfg, scale)
        shared = cfg.window - max(1, round(cfg.window * (1.0 - cfg.overlap)))
        if len(windows) > 1 and shared < MIN_OVERLAP_PX:
            raise ProcessingError(
                "SW-502",
                f"windows of {cfg.window} px with overlap {cfg.overlap:g} share {shared} px of "
                f"ground; stitching needs {MIN_OVERLAP_PX}",
                remedy=f"Set infer.overlap to {_least_overlap(cfg.window):g} or more.",
            )
        out += windows
    return sorted(out, key=lambda w: (w.ground.row, w.scale, w.ground.col))


def view_side(cfg: InferConfig) -> int:
    """Side of what the network sees of a window.

    Parameters
    ----------
    cfg : InferConfig
        Window side and context.

    Returns
    -------
    int
        The window and equal surroundings on both sides, together ``cfg.context`` or a little more [px of the
        window's scale].
    """
    return cfg.window + 2 * ALIGN_PX * -(-max(cfg.context - cfg.window, 0) // (2 * ALIGN_PX))


def window_key(cube: Artefact, card: Mapping[str, Any], cfg: InferConfig) -> str:
    """Identity of the results of all windows: cube, weights and settings before stitching.

    Parameters
    ----------
    cube : Artefact
        Stage ``cube``.
    card : mapping
        Of the weights.
    cfg : InferConfig
        The settings.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    from models.quantised import RANGES

    settings = cfg.model_dump(mode="json", exclude=set(MACHINE_KEYS | STITCH_KEYS))
    # What the card says about the network's input decides the result as the tensors do.
    facts = [card["preset"], card["upsample"], card["spec"], card["classes"], card.get(RANGES)]
    return stage_key("windows", ALGORITHM, cube.key, str(card["sha256"]), facts, settings)


def _check(info: CubeInfo, card: Mapping[str, Any], weights: Path) -> tuple[str, ...]:
    """Refuse weights that do not fit the cube; the layers to read."""
    preset = str(card["preset"])
    if preset not in CHANNELS:
        raise ModelError(
            "SW-402", f"preset {preset!r} is not among {sorted(CHANNELS)}", path=weights
        )
    channels = CHANNELS[preset]
    if tuple(card["channels"]) != channels or int(card["in_channels"]) != len(channels):
        raise ModelError(
            "SW-402",
            f"the weights read {card['channels']}, the preset {preset} gives {list(channels)}",
            path=weights,
        )
    trained = _metres(card, weights)
    if abs(info.pixel_size_m / trained - 1.0) > PIXEL_SIZE_TOLERANCE:
        raise ProcessingError(
            "SW-503",
            f"the cube of {info.track} {info.period} has {info.pixel_size_m:g} m, the weights "
            f"{trained:g} m",
            path=weights,
        )
    wanted = dict.fromkeys((*REQUIRED_LAYERS[preset], "valid"))
    absent = [n for n in wanted if LAYERS[n].scope == "period" and n not in info.layers]
    needed = [n for n in absent if n not in OPTIONAL_LAYERS]
    if needed:
        raise ProcessingError(
            "SW-504", f"preset {preset} needs {needed}; {info.track} {info.period} lacks it"
        )
    return tuple(n for n in wanted if n not in absent)


def _metres(card: Mapping[str, Any], weights: Path) -> float:
    """Pixel side of the training [m]."""
    try:
        size = float(card["ground_pixel_size_m"])
    except (TypeError, ValueError):
        size = math.nan
    if not (math.isfinite(size) and size > 0):
        raise ModelError(
            "SW-401",
            f"the card's ground_pixel_size_m is {card['ground_pixel_size_m']!r}",
            path=weights,
        )
    return size


def _least_overlap(window: int) -> float:
    """The least overlap in hundredths that gives enough common ground."""
    return next(
        k / 100 for k in range(100) if window - round(window * (1 - k / 100)) >= MIN_OVERLAP_PX
    )


def _scaled_windows(
    shape: tuple[int, int], cfg: InferConfig, scale: int
) -> Sequence[PlannedWindow]:
    """Windows of one scale, planned on the grid of its own pixels; a map's edge may cut a pixel."""
    lengths = [-(-n // scale) for n in shape]
    rows, cols = ([(s, _view(s, n, cfg)) for s in _spans(n, cfg)] for n in lengths)

    def on_map(row: tuple[int, int], col: tuple[int, int]) -> Window:
        (top, bottom), (left, right) = (
            (first * scale, min(end * scale, n))
            for (first, end), n in zip((row, col), shape, strict=True)
        )
        return Window(top, left, bottom - top, right - left)

    return [
        PlannedWindow(on_map(row, col), scale, on_map(row_view, col_view))
        for row, row_view in rows
        for col, col_view in cols
    ]


def _spans(length: int, cfg: InferConfig) -> list[tuple[int, int]]:
    """First index and end of the windows along a line; the last is up to `ALIGN_PX` - 1 longer."""
    stride = max(1, round(cfg.window * (1.0 - cfg.overlap)))
    stride = max(stride // ALIGN_PX, 1) * ALIGN_PX  # overlap as asked for, or a little more
    last = max(length - cfg.window, 0) // ALIGN_PX * ALIGN_PX
    starts = [*range(0, last, stride), last]
    return [(s, s + cfg.window) for s in starts[:-1]] + [(last, length)]


def _view(span: tuple[int, int], length: int, cfg: InferConfig) -> tuple[int, int]:
    """A span with equal surroundings on both sides, moved inward at the ends of the line.

    Views begin in phase as windows do, and all are of one length, so that they make full batches; the last
    is up to `ALIGN_PX` - 1 longer.
    """
    side = view_side(cfg)
    margin = (side - cfg.window) // 2
    last = max(length - side, 0) // ALIGN_PX * ALIGN_PX
    first = min(max(span[0] - margin, 0), last)
    return first, (length if first == last else first + side)

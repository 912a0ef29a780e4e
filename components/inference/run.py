"""Inference over one period cube: windows, resumable shards, stitching, publication.

Windows are worked on in shards of a fixed number; a finished shard is a file. A run that is killed at
any instant goes on with the shards that are missing, and since batches never reach over a shard the
result has the same bytes. Reading is ahead of the network by a few windows, in a thread.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from components.cube.read import CubeInfo, cube_info, read_layers
from components.dataset.presets import CHANNELS, OPTIONAL_LAYERS, REQUIRED_LAYERS, render
from components.dataset.resample import upsample_bilinear, upsample_nearest
from components.errors import ModelError, ProcessingError
from components.grid.windows import Window, plan_windows
from components.inference import stitch as stitching
from components.inference.calibration import calibrated, checked_calibration
from components.inference.instance_file import save_instances
from components.inference.instances import Detection, dequantise, quantise
from components.inference.shards import (
    SHARD_WINDOWS,
    STATES,
    State,
    WindowResult,
    load_shard,
    save_shard,
    shard_path,
)
from components.layers import LAYERS
from components.progress import Progress, no_progress
from components.workspace import Artefact, Workspace, coded_os_errors, stage_key, write_json

if TYPE_CHECKING:
    from components.config import InferConfig
    from components.inference.predict import Predictor

#: Raised by hand when the results of windows change.
ALGORITHM: Final = "infer-1"

#: Stitched landslides inside the artefact.
INSTANCES: Final = "instances.npz"

#: State of every window inside the artefact.
WINDOWS: Final = "windows.json"

#: Neighbouring windows must share this much ground [px], or seams cannot be told.
MIN_OVERLAP_PX: Final = 8

#: Pixel sizes may differ by this share.
PIXEL_SIZE_TOLERANCE: Final = 0.01

# Settings that say where and how fast, not what; the weights enter by their hash.
_MACHINE_KEYS: Final = {"weights", "device", "threads", "batch_size"}
_STITCH_KEYS: Final = {"seam_iou", "containment", "mask_threshold"}

# What reading or computing one window can run into; everything else is an error of the program.
_WINDOW_ERRORS: Final = (OSError, RuntimeError, ValueError, KeyError, ArithmeticError, MemoryError)


@dataclass(frozen=True)
class _Plan:
    """One run: what to read, with which model, in which windows."""

    ws: Workspace
    cube: CubeInfo
    card: Mapping[str, Any]
    layers: tuple[str, ...]
    windows: tuple[Window, ...]
    cfg: InferConfig
    window_key: str
    work: Path

    @property
    def shards(self) -> list[range]:
        n = len(self.windows)
        return [range(i, min(i + SHARD_WINDOWS, n)) for i in range(0, n, SHARD_WINDOWS)]


@dataclass(frozen=True, eq=False)
class _Ready:
    """A window after reading: an image, or why there is none."""

    window_id: int
    valid_fraction: float
    image: NDArray[np.float32] | None
    skipped: str = ""
    failed: str = ""


def infer_cube(
    ws: Workspace,
    cube: Artefact,
    weights: Path,
    cfg: InferConfig,
    progress: Progress = no_progress,
) -> Artefact:
    """Detect landslides in a period cube, stitch them over windows, and publish them.

    The operating threshold is not applied here: every detection from ``cfg.score_min`` on is kept.

    Parameters
    ----------
    ws : Workspace
        The workspace.
    cube : Artefact
        Stage ``cube``.
    weights : Path
        The ``.safetensors`` file with its card beside it.
    cfg : InferConfig
        Windows, thresholds, device.
    progress : Progress
        Steps ``infer`` (windows) and ``stitch``.

    Returns
    -------
    Artefact
        Stage ``detections``: ``instances.npz`` (see `instance_file`) and ``windows.json``.
        Meta: ``track``, ``period``, ``cube_key``, ``model_hash``, ``form``, ``preset``, ``classes``,
        ``score_threshold``, ``calibration`` (applied to the scores; None: raw), ``score_min`` (of
        raw scores), ``window_key``, ``windows`` (total, done, skipped, failed, capped), ``stitch``
        (counts of every filter), ``n_instances``.

    Raises
    ------
    ModelError
        SW-401, SW-402: weights missing, unreadable or of another preset.
    ProcessingError
        SW-502, SW-503, SW-504 before any work: overlap, pixel size, layers. SW-501 after all windows
        were tried, where some failed: nothing is published, and a rerun tries those again.
    """
    from components.inference.predict import Predictor, read_card

    card = read_card(weights)
    calibration = checked_calibration(card, weights)
    info = cube_info(cube)
    layers = _check(info, card, weights)
    windows = _plan_windows(info.shape, cfg)
    model_hash = str(card["sha256"])
    settings = cfg.model_dump(mode="json", exclude=_MACHINE_KEYS)
    window_key = _window_key(cube, card, cfg)
    key = stage_key(
        "detections",
        stitching.ALGORITHM,
        window_key,
        settings,
        card.get("score_threshold"),
        calibration,
    )
    final = ws.place("detections", info.track, info.period)
    if found := ws.find(final, key):
        return found

    work = ws.root / "work" / f"infer-{window_key[:12]}"
    with coded_os_errors(work):
        work.mkdir(parents=True, exist_ok=True)
    plan = _Plan(ws, info, card, layers, tuple(windows), cfg, window_key, work)
    clock = _Clock(work / "timing.json")
    results: dict[int, WindowResult] = {}
    missing = []
    for number, ids in enumerate(plan.shards):
        stored = load_shard(shard_path(work, number), windows, ids)
        if stored is None:
            missing.append(number)
        else:
            results.update((r.window_id, r) for r in stored)
    ws.ledger.record_windows(window_key, map(_ledger_row, results.values()))
    progress("infer", len(results), len(windows))
    if missing:
        predictor = Predictor(
            weights,
            cfg.device,
            cfg.max_detections,
            cfg.score_min,
            threads=cfg.threads,
            proposals=cfg.proposals,
        )
        clock.lap()
        for shard in _work_through(plan, missing, predictor):
            results.update((r.window_id, r) for r in shard)
            ws.ledger.record_windows(window_key, map(_ledger_row, shard))
            clock.lap(windows=len(shard))
            progress("infer", len(results), len(windows))
    ordered = [results[i] for i in range(len(windows))]
    _refuse_gaps(ordered, info)

    progress("stitch", 0, 1)
    stitched = stitching.stitch(
        [d for r in ordered for d in r.detections],
        {r.window_id: windows[r.window_id] for r in ordered if r.state == "done"},
        info.shape,
        seam_iou=cfg.seam_iou,
        containment=cfg.containment,
        mask_threshold=cfg.mask_threshold,
    )
    meta = {
        "track": info.track,
        "period": info.period,
        "cube_key": cube.key,
        "model_hash": model_hash,
        "form": card["form"],
        "preset": card["preset"],
        "classes": list(card["classes"]),
        "score_threshold": card.get("score_threshold"),
        "calibration": calibration,
        "score_min": cfg.score_min,
        "window_key": window_key,
        "windows": _window_counts(ordered),
        "stitch": stitched.counts.as_dict(),
        "n_instances": len(stitched.instances),
    }
    with ws.publish("detections", final, key, meta) as folder:
        save_instances(folder / INSTANCES, calibrated(stitched.instances, calibration))
        write_json(folder / WINDOWS, [_window_row(windows[r.window_id], r) for r in ordered])
    clock.lap()
    progress("stitch", 1, 1)
    return Artefact("detections", key, str(final), meta)


def inference_seconds(ws: Workspace, artefact: Artefact) -> float:
    """Wall time of reading, network, stitching and writing, summed over resumed runs.

    Parameters
    ----------
    ws : Workspace
        The workspace.
    artefact : Artefact
        Of `infer_cube`.

    Returns
    -------
    float
        Seconds; NaN where the record was deleted. Stitching anew with other settings adds its time.
    """
    path = ws.root / "work" / f"infer-{artefact.meta['window_key'][:12]}" / "timing.json"
    return _read_timing(path).get("seconds", float("nan"))


def windows_done(ws: Workspace, cube: Artefact, weights: Path, cfg: InferConfig) -> int:
    """Windows of a cube that need not be computed again.

    Parameters
    ----------
    ws : Workspace
        The workspace.
    cube : Artefact
        Stage ``cube``.
    weights : Path
        The ``.safetensors`` file.
    cfg : InferConfig
        Windows and thresholds.

    Returns
    -------
    int
        Windows that were computed or skipped with the same cube, weights and settings.

    Raises
    ------
    ModelError
        SW-401 where weights or card cannot be read.
    """
    from components.inference.predict import read_card

    key = _window_key(cube, read_card(weights), cfg)
    return sum(w["state"] != "failed" for w in ws.ledger.windows(key))


def _window_key(cube: Artefact, card: Mapping[str, Any], cfg: InferConfig) -> str:
    left_out = _MACHINE_KEYS | _STITCH_KEYS
    settings = cfg.model_dump(mode="json", exclude=left_out)
    return stage_key(
        "windows", ALGORITHM, cube.key, str(card["sha256"]), _input_facts(card), settings
    )


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
    trained = float(card["ground_pixel_size_m"])
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


def _input_facts(card: Mapping[str, Any]) -> list[Any]:
    """What the card says about the network's input: it decides the result as the tensors do."""
    return [card["preset"], card["upsample"], card["spec"], card["classes"]]


def _plan_windows(shape: tuple[int, int], cfg: InferConfig) -> list[Window]:
    windows = plan_windows(shape, cfg.window, cfg.overlap)
    shared = cfg.window - max(1, round(cfg.window * (1.0 - cfg.overlap)))
    if len(windows) > 1 and shared < MIN_OVERLAP_PX:
        raise ProcessingError(
            "SW-502",
            f"windows of {cfg.window} px with overlap {cfg.overlap:g} share {shared} px of ground; "
            f"stitching needs {MIN_OVERLAP_PX}",
            remedy=f"Set infer.overlap to {MIN_OVERLAP_PX / cfg.window:.2f} or more.",
        )
    return windows


def _work_through(
    plan: _Plan, missing: Sequence[int], predictor: Predictor
) -> Iterator[list[WindowResult]]:
    """Work on shards in order; a shard without failed windows is stored before it is yielded."""
    ids = [i for number in missing for i in plan.shards[number]]
    with contextlib.closing(_read_ahead(plan, ids, predictor.upsample)) as feed:
        for number in missing:
            results: list[WindowResult] = []
            batch: list[_Ready] = []
            for _ in plan.shards[number]:
                ready = next(feed)
                if ready.image is None:
                    results.append(_without_image(ready))
                    continue
                batch.append(ready)
                if len(batch) == plan.cfg.batch_size:
                    results += _predict(plan, batch, predictor)
                    batch = []
            if batch:
                results += _predict(plan, batch, predictor)
            results.sort(key=lambda r: r.window_id)
            if all(r.state != "failed" for r in results):
                save_shard(shard_path(plan.work, number), results)
            yield results


def _read_ahead(plan: _Plan, ids: Iterable[int], upsample: int) -> Generator[_Ready, None, None]:
    """Windows in order, read by a thread some windows before they are asked for."""
    depth = plan.cfg.batch_size + 1
    queue: deque[Future[_Ready]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="slopewatch-read") as pool:
        try:
            for i in ids:
                queue.append(pool.submit(_read, plan, i, upsample))
                if len(queue) > depth:
                    yield queue.popleft().result()
            while queue:
                yield queue.popleft().result()
        finally:
            for future in queue:
                future.cancel()


def _read(plan: _Plan, window_id: int, upsample: int) -> _Ready:
    window, cube = plan.windows[window_id], plan.cube
    try:
        valid = read_layers(plan.ws, cube.track, cube.period, ("valid",), window)["valid"]
        fraction = float(np.mean(valid))
        if fraction < plan.cfg.valid_fraction_min:
            why = f"valid fraction {fraction:.4f} below {plan.cfg.valid_fraction_min:g}"
            return _Ready(window_id, fraction, None, skipped=why)
        names = tuple(n for n in plan.layers if n != "valid")
        layers = read_layers(plan.ws, cube.track, cube.period, names, window)
        fine = {
            name: upsample_nearest(array, upsample)
            if array.dtype == np.bool_
            else upsample_bilinear(array, upsample)
            for name, array in {**layers, "valid": valid}.items()
        }
        image = render(str(plan.card["preset"]), fine, cube.sigma_velocity)
    except _WINDOW_ERRORS as e:
        return _Ready(window_id, float("nan"), None, failed=_reason(e))
    return _Ready(window_id, fraction, image)


def _predict(plan: _Plan, batch: Sequence[_Ready], predictor: Predictor) -> list[WindowResult]:
    images = [r.image for r in batch if r.image is not None]
    try:
        found = predictor.predict(np.stack(images))
    except _WINDOW_ERRORS as e:
        if len(batch) > 1:  # which of them it was
            return [r for one in batch for r in _predict(plan, [one], predictor)]
        return [WindowResult(batch[0].window_id, "failed", _reason(e), batch[0].valid_fraction)]
    out = []
    for ready, raw in zip(batch, found, strict=True):
        window = plan.windows[ready.window_id]
        detections = tuple(
            Detection(
                window_id=ready.window_id,
                category=d.category,
                score=d.score,
                row=window.row + d.row,
                col=window.col + d.col,
                # As the shard will give it back: a resumed run must stitch the same numbers.
                prob=dequantise(quantise(d.prob)),
            )
            for d in raw
        )
        capped = len(raw) >= predictor.limit
        out.append(
            WindowResult(ready.window_id, "done", "", ready.valid_fraction, capped, detections)
        )
    return out


def _without_image(ready: _Ready) -> WindowResult:
    state: State = "failed" if ready.failed else "skipped"
    reason = ready.failed or ready.skipped
    return WindowResult(ready.window_id, state, reason, ready.valid_fraction)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _refuse_gaps(results: Sequence[WindowResult], info: CubeInfo) -> None:
    failed = [r for r in results if r.state == "failed"]
    if failed:
        listed = "; ".join(f"window {r.window_id}: {r.reason}" for r in failed[:5])
        raise ProcessingError(
            "SW-501",
            f"{len(failed)} of {len(results)} windows of {info.track} {info.period} failed, "
            f"nothing was published ({listed})",
        )


def _window_counts(results: Sequence[WindowResult]) -> dict[str, int]:
    states = Counter(r.state for r in results)
    return {
        "total": len(results),
        **{state: states[state] for state in STATES},
        "capped": sum(r.capped for r in results),
    }


def _window_row(window: Window, r: WindowResult) -> dict[str, Any]:
    return {
        "id": r.window_id,
        **window._asdict(),
        "state": r.state,
        "reason": r.reason,
        "valid_fraction": r.valid_fraction,
        "capped": r.capped,
        "detections": len(r.detections),
    }


def _ledger_row(r: WindowResult) -> tuple[int, str, str, int]:
    return r.window_id, r.state, r.reason, len(r.detections)


class _Clock:
    """Wall time of a run, kept on disk so that it adds up over resumed runs.

    It stands beside the shards and not in the artefact, whose bytes do not depend on the time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = time.perf_counter()

    def lap(self, windows: int = 0) -> None:
        """Add the time since the last call."""
        now = time.perf_counter()
        record = _read_timing(self.path)
        record["seconds"] = record.get("seconds", 0.0) + now - self.last
        record["windows"] = record.get("windows", 0) + windows
        self.last = now
        write_json(self.path, record)


def _read_timing(path: Path) -> dict[str, float]:
    try:
        record: dict[str, float] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return record

"""Inference over one period cube: windows, resumable shards, stitching, publication.

Windows are worked on in shards of a fixed number; a finished shard is a file. A run that is killed at
any instant goes on with the shards that are missing, and the result has the same bytes. The stitcher reads
the shards one after the other.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from components.errors import ModelError, ProcessingError
from components.inference import stitch as stitching
from components.inference.calibration import checked_calibration
from components.inference.compute import MemoryGuard, work_through
from components.inference.following import Following, stitch_shards
from components.inference.plan import MACHINE_KEYS, Plan, make_plan, window_key
from components.inference.read import QUIET
from components.inference.shards import STATES, WindowRow, load_shard, shard_path, window_row
from components.inference.verifier import ALGORITHM as VERIFYING
from components.inference.verifier import load_verifier
from components.progress import Progress, no_progress
from components.workspace import Artefact, Workspace, coded_os_errors, stage_key, write_json

if TYPE_CHECKING:
    from components.config import InferConfig

#: Stitched landslides inside the artefact.
INSTANCES: Final = "instances.npz"

#: State of every window inside the artefact.
WINDOWS: Final = "windows.json"


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
        Windows, thresholds, device, cluster.
    progress : Progress
        Steps ``infer`` (windows) and ``stitch``.

    Returns
    -------
    Artefact
        Stage ``detections``: ``instances.npz`` (see `instance_file`) and ``windows.json``.
        Meta: ``track``, ``period``, ``cube_key``, ``model_hash``, ``form``, ``preset``, ``classes``,
        ``score_threshold``, ``verified`` (whether a second look gave the scores), ``calibration``,
        ``score_min``, ``window_key``, ``precision`` (windows computed in each),
        ``windows`` (total, done, skipped, of
        these quiet, failed, capped, and detections dropped: ``beyond`` in the surroundings of a window
        only, ``faint`` of too low a mean over looks), ``coarse`` (detections of coarser windows kept
        and dropped),
        ``stitch`` (counts of every filter), ``n_instances``.

    Raises
    ------
    ModelError
        SW-401, SW-402: weights missing, unreadable, changed meanwhile or of another preset. SW-404: a channel
        that cannot be mirrored, where ``cfg.augment`` asks for it. SW-411: no such device or precision.
    ProcessingError
        SW-502, SW-503, SW-504 before any work: overlap, pixel size, layers. SW-501 after all windows
        were tried, where some failed: nothing is published, and a rerun tries those again. SW-506 where
        memory does not do for one window, SW-507 where the Dask cluster cannot be used.
    WorkspaceError
        SW-202 on a full disk; what was finished stays, and a rerun goes on from there.
    """
    plan = make_plan(ws, cube, weights, cfg)
    calibration = checked_calibration(plan.card, weights)
    verifier = load_verifier(weights, plan.card)
    settings = cfg.model_dump(mode="json", exclude=set(MACHINE_KEYS))
    key = stage_key(
        "detections",
        stitching.ALGORITHM,
        VERIFYING,
        plan.window_key,
        settings,
        plan.card.get("score_threshold"),
        calibration,
    )
    final = ws.place("detections", plan.cube.track, plan.cube.period)
    if found := ws.find(final, key):
        return found

    with coded_os_errors(plan.work):
        plan.work.mkdir(parents=True, exist_ok=True)
        for left in plan.work.glob(f".{INSTANCES}.*"):  # of a run that was killed
            left.unlink()
    clock = _Clock(plan.work / "timing.json")
    meta: dict[str, Any] = {
        "track": plan.cube.track,
        "period": plan.cube.period,
        "cube_key": cube.key,
        "model_hash": str(plan.card["sha256"]),
        "form": plan.card["form"],
        "preset": plan.card["preset"],
        "classes": list(plan.card["classes"]),
        "score_threshold": plan.card.get("score_threshold"),
        "verified": verifier is not None,
        "calibration": calibration,
        "score_min": cfg.score_min,
        "window_key": plan.window_key,
    }
    # In the work folder: hours may pass before it is published.
    instances = plan.work / INSTANCES
    stitched = partial(stitch_shards, ws, plan, verifier, calibration, instances)
    with Following(len(plan.shards), stitched) as following:
        rows = _all_windows(ws, plan, cube, weights, clock, following, progress)
        _refuse_gaps(rows, plan)
        progress("stitch", 0, 1)
        meta |= following.result()
    meta["windows"] = _window_counts(rows)
    meta["precision"] = dict(Counter(r.precision for r in rows if r.precision))
    with ws.publish("detections", final, key, meta) as folder:
        instances.replace(folder / INSTANCES)
        write_json(folder / WINDOWS, [_window_facts(plan, r) for r in rows])
    clock.lap()
    progress("stitch", 1, 1)
    return Artefact("detections", key, str(final), meta)


def _all_windows(
    ws: Workspace,
    plan: Plan,
    cube: Artefact,
    weights: Path,
    clock: _Clock,
    following: Following[dict[str, Any]],
    progress: Progress,
) -> list[WindowRow]:
    """Facts of every window in the order of the plan: of stored shards, and of those computed now."""
    rows: dict[int, WindowRow] = {}
    missing = []
    for number, ids in enumerate(plan.shards):
        stored = load_shard(shard_path(plan.work, number), ids)
        if stored is None:
            missing.append(number)
        else:
            rows.update((r.window_id, window_row(r)) for r in stored)
            following.ready(number)
    ws.ledger.record_windows(plan.window_key, map(_ledger_row, rows.values()))
    progress("infer", len(rows), len(plan.windows))
    number_of = {ids[0]: number for number, ids in enumerate(plan.shards)}
    if missing:
        for shard in _computed(plan, missing, cube, weights, clock):
            rows.update((r.window_id, r) for r in shard)
            ws.ledger.record_windows(plan.window_key, map(_ledger_row, shard))
            if all(r.state != "failed" for r in shard):
                following.ready(number_of[shard[0].window_id])
            clock.lap(windows=len(shard))
            progress("infer", len(rows), len(plan.windows))
    return [rows[i] for i in range(len(plan.windows))]


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

    key = window_key(cube, read_card(weights), cfg)
    return sum(w["state"] != "failed" for w in ws.ledger.windows(key))


def _computed(
    plan: Plan, missing: Sequence[int], cube: Artefact, weights: Path, clock: _Clock
) -> Iterator[list[WindowRow]]:
    """Rows of the missing shards, computed here or on the cluster."""
    if plan.cfg.dask:
        from components.inference.distribute import work_distributed

        yield from work_distributed(plan, missing, cube, weights)
        return
    from components.inference.predict import Predictor

    cfg = plan.cfg
    with Predictor(
        weights,
        cfg.device,
        cfg.max_detections,
        cfg.score_min,
        cfg.threads,
        cfg.proposals,
        cfg.precision,
    ) as predictor:
        if predictor.card["sha256"] != plan.card["sha256"]:
            raise ModelError("SW-401", "the weights were replaced during the run", path=weights)
        clock.lap()
        guard = MemoryGuard(plan, predictor)
        for shard in work_through(plan, missing, predictor, guard):
            clock.record["batches_halved"] = guard.halved
            yield [window_row(r) for r in shard]


def _refuse_gaps(rows: Sequence[WindowRow], plan: Plan) -> None:
    failed = [r for r in rows if r.state == "failed"]
    if failed:
        listed = "; ".join(f"window {r.window_id}: {r.reason}" for r in failed[:5])
        raise ProcessingError(
            "SW-501",
            f"{len(failed)} of {len(rows)} windows of {plan.cube.track} {plan.cube.period} failed, "
            f"nothing was published ({listed})",
        )


def _window_counts(rows: Sequence[WindowRow]) -> dict[str, int]:
    states = Counter(r.state for r in rows)
    return {
        "total": len(rows),
        **{state: states[state] for state in STATES},
        "quiet": sum(r.reason.startswith(QUIET) for r in rows),
        "capped": sum(r.capped for r in rows),
        "beyond": sum(r.beyond for r in rows),
        "faint": sum(r.faint for r in rows),
    }


def _window_facts(plan: Plan, r: WindowRow) -> dict[str, Any]:
    window = plan.windows[r.window_id]
    return {
        "id": r.window_id,
        **window.ground._asdict(),
        "scale": window.scale,
        "state": r.state,
        "reason": r.reason,
        "valid_fraction": r.valid_fraction,
        "capped": r.capped,
        "detections": r.detections,
        "beyond": r.beyond,
        "faint": r.faint,
        "precision": r.precision,
    }


def _ledger_row(r: WindowRow) -> tuple[int, str, str, int]:
    return r.window_id, r.state, r.reason, r.detections


class _Clock:
    """Wall time of a run, kept on disk so that it adds up over resumed runs.

    It stands beside the shards and not in the artefact, whose bytes do not depend on the time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = _read_timing(path)
        self.last = time.perf_counter()

    def lap(self, windows: int = 0) -> None:
        """Add the time since the last call."""
        now = time.perf_counter()
        self.record["seconds"] = self.record.get("seconds", 0.0) + now - self.last
        self.record["windows"] = self.record.get("windows", 0) + windows
        self.last = now
        write_json(self.path, self.record)


def _read_timing(path: Path) -> dict[str, float]:
    try:
        record: dict[str, float] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return record

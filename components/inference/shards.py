"""Resumable results of windows: whole shards of some windows, each a file that is there or not.

The stitcher reads what the shards hold, also in an undisturbed run, so that a resumed run has the same
input to the bit. Mask probabilities are kept as bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.errors import WorkspaceError
from components.inference.instances import (
    Detection,
    dequantise,
    load_arrays,
    quantise,
    save_arrays,
)

#: Windows a shard: some ten seconds of work on two cores; the unit that workers of a cluster share.
SHARD_WINDOWS: Final = 32

State = Literal["done", "skipped", "failed"]
STATES: Final[tuple[State, ...]] = ("done", "skipped", "failed")


@dataclass(frozen=True)
class WindowResult:
    """What became of one window.

    Parameters
    ----------
    window_id : int
        Position in the plan.
    state : {"done", "skipped", "failed"}
        Outcome.
    reason : str
        Why it was skipped or failed; empty when done.
    valid_fraction : float
        Share of its pixels that hold data, in [0, 1]; NaN where it could not be read.
    capped : bool
        Whether the detector reached its largest number of detections.
    detections : tuple of Detection
        In map coordinates, on the window's own ground.
    beyond : int
        Detections dropped because they lie in the window's surroundings only.
    faint : int
        Detections dropped because their mean score over several looks is too low.
    precision : str
        Numbers that the network computed in, as `components.inference.predict.Predictor` names them; empty
        where it did not look.
    """

    window_id: int
    state: State
    reason: str
    valid_fraction: float
    capped: bool = False
    detections: tuple[Detection, ...] = ()
    beyond: int = 0
    faint: int = 0
    precision: str = ""


class WindowRow(NamedTuple):
    """A `WindowResult` with the number of its detections in their place: what is kept of every window."""

    window_id: int
    state: State
    reason: str
    valid_fraction: float
    capped: bool
    detections: int
    beyond: int
    faint: int
    precision: str


def window_row(result: WindowResult) -> WindowRow:
    """The facts of a window without its detections.

    Parameters
    ----------
    result : WindowResult
        Of any state.

    Returns
    -------
    WindowRow
    """
    return WindowRow(
        result.window_id, result.state, result.reason, result.valid_fraction, result.capped,
        len(result.detections), result.beyond, result.faint, result.precision,
    )  # fmt: skip


def shard_path(folder: Path, shard: int) -> Path:
    """File of a shard.

    Parameters
    ----------
    folder : Path
        Work folder of the run.
    shard : int
        Number of the shard.

    Returns
    -------
    Path
    """
    return folder / f"shard-{shard:06d}.npz"


def save_shard(path: Path, results: Sequence[WindowResult]) -> None:
    """Write the results of a shard's windows whole or not at all.

    Parameters
    ----------
    path : Path
        The file.
    results : sequence of WindowResult
        In the order of the plan.

    Raises
    ------
    WorkspaceError
        SW-202 on a full disk, SW-201 without permission.
    """
    found = [d for r in results for d in r.detections]
    probs = [quantise(d.prob).ravel() for d in found]
    save_arrays(
        path,
        {
            "window_id": np.asarray([r.window_id for r in results], np.int64),
            "state": np.asarray([STATES.index(r.state) for r in results], np.int8),
            "reason": np.asarray([r.reason for r in results], np.str_),
            "valid_fraction": np.asarray([r.valid_fraction for r in results], np.float64),
            "capped": np.asarray([r.capped for r in results], bool),
            "count": np.asarray([len(r.detections) for r in results], np.int64),
            "beyond": np.asarray([r.beyond for r in results], np.int64),
            "faint": np.asarray([r.faint for r in results], np.int64),
            "precision": np.asarray([r.precision for r in results], np.str_),
            "category": np.asarray([d.category for d in found], np.int32),
            "score": np.asarray([d.score for d in found], np.float64),
            "row": np.asarray([d.row for d in found], np.int64),
            "col": np.asarray([d.col for d in found], np.int64),
            "height": np.asarray([d.prob.shape[0] for d in found], np.int64),
            "width": np.asarray([d.prob.shape[1] for d in found], np.int64),
            "prob": np.concatenate(probs) if probs else np.empty(0, np.uint8),
        },
    )


def load_shard(path: Path, ids: Sequence[int]) -> list[WindowResult] | None:
    """Read a shard.

    Parameters
    ----------
    path : Path
        The file.
    ids : sequence of int
        The windows that the shard must hold.

    Returns
    -------
    list of WindowResult or None
        None where the file is missing, damaged or of other windows: it is then made again.
    """
    if not path.is_file():
        return None
    try:
        data = load_arrays(path)
        if data["window_id"].tolist() != list(ids):
            return None
        return _results(data)
    except (WorkspaceError, KeyError, ValueError, IndexError):
        return None


def _results(data: dict[str, NDArray[Any]]) -> list[WindowResult]:
    prob = dequantise(data["prob"])
    out = []
    k = start = 0
    for i, window_id in enumerate(data["window_id"].tolist()):
        detections = []
        for _ in range(int(data["count"][i])):
            height, width = int(data["height"][k]), int(data["width"][k])
            detections.append(
                Detection(
                    window_id=window_id,
                    category=int(data["category"][k]),
                    score=float(data["score"][k]),
                    row=int(data["row"][k]),
                    col=int(data["col"][k]),
                    prob=prob[start : start + height * width].reshape(height, width),
                )
            )
            start += height * width
            k += 1
        out.append(
            WindowResult(
                window_id=window_id,
                state=STATES[int(data["state"][i])],
                reason=str(data["reason"][i]),
                valid_fraction=float(data["valid_fraction"][i]),
                capped=bool(data["capped"][i]),
                detections=tuple(detections),
                beyond=int(data["beyond"][i]),
                faint=int(data["faint"][i]),
                precision=str(data["precision"][i]),
            )
        )
    return out

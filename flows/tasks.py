"""The project's task wrapper: cache by content, retries for passing faults, small values only.

A task takes and returns small JSON values (paths, keys, configuration sections). Its Prefect cache key
is the digest of those values, which name their inputs by content; the cache is a shortcut only: a
cached artefact that is no longer on disk is made again.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import Task, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext

from components.errors import SlopewatchError
from components.provenance import digest
from components.workspace import Artefact, Workspace, artefact_dict, read_artefact

#: Waiting times before the second and third try [s].
RETRY_DELAYS = (5, 30)


def content_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    """Prefect cache key of a stage: its name and the content of its parameters.

    Parameters
    ----------
    context : TaskRunContext
        Of the task run.
    parameters : dict
        JSON values; artefacts are named by their keys.

    Returns
    -------
    str
    """
    return f"slopewatch-{context.task.name}-{digest(_without_flags(parameters))}"


def _without_flags(value: Any) -> Any:
    # Whether an input was reused says nothing of its content.
    if isinstance(value, dict):
        return {k: _without_flags(v) for k, v in value.items() if k != "reused"}
    if isinstance(value, list | tuple):
        return [_without_flags(v) for v in value]
    return value


def is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a failure may pass: input/output and connection errors that carry no code of ours.

    Parameters
    ----------
    _task, _run : Task, TaskRun
        Unused; Prefect passes them.
    state : State
        The failed state.

    Returns
    -------
    bool
    """
    error = state.result(raise_on_failure=False)
    return isinstance(error, OSError) and not isinstance(error, SlopewatchError)


def stage_task(
    name: str, *, tags: tuple[str, ...] = (), timeout_hours: float = 12
) -> Callable[[Callable[..., Artefact]], Task[..., dict[str, Any]]]:
    """Make a Prefect task of a function that publishes one artefact.

    Parameters
    ----------
    name : str
        Task name, as in the interface.
    tags : tuple of str
        Prefect tags, for concurrency limits (``gpu``).
    timeout_hours : float
        After this the run counts as failed.

    Returns
    -------
    callable
        Decorator. The task returns `artefact_dict` of the artefact.
    """

    def decorate(function: Callable[..., Artefact]) -> Task[..., dict[str, Any]]:
        @functools.wraps(function)
        def run(*args: Any, **parameters: Any) -> dict[str, Any]:
            return artefact_dict(function(*args, **parameters))

        return task(
            name=name,
            tags=[*tags, "slopewatch"],
            retries=len(RETRY_DELAYS),
            retry_delay_seconds=list(RETRY_DELAYS),
            retry_condition_fn=is_transient,
            timeout_seconds=timeout_hours * 3600,
            cache_key_fn=content_key,
            persist_result=True,
            result_serializer="json",
            log_prints=False,
        )(run)

    return decorate


def run_stage(stage: Task[..., dict[str, Any]], **parameters: Any) -> Artefact:
    """Run a stage task; where Prefect's cache names an artefact that has gone, run it again.

    Parameters
    ----------
    stage : Task
        Made by `stage_task`.
    **parameters : Any
        JSON values of the task.

    Returns
    -------
    Artefact
        ``reused`` is True where nothing was computed.
    """
    start = time.monotonic()
    state = stage(**parameters, return_state=True)
    found = Artefact(**state.result())
    if state.name != "Cached":
        if not found.reused:
            open_workspace(parameters["workspace"]).ledger.record_timing(
                found.stage,
                found.key,
                units=max(units_of(found), 1.0),
                seconds=time.monotonic() - start,
            )
        return found
    on_disk = read_artefact(found.folder)
    if on_disk is None or on_disk.key != found.key:
        state = stage.with_options(refresh_cache=True)(**parameters, return_state=True)
        return Artefact(**state.result())
    return Artefact(found.stage, found.key, found.path, found.meta, reused=True)


def units_of(artefact: Artefact) -> float:
    """Amount of work in an artefact, in the unit of its stage.

    Parameters
    ----------
    artefact : Artefact
        Of any stage.

    Returns
    -------
    float
        Megapixels of a cube, tiles of tiles and dataset, steps of a model, windows of detections;
        maps of an evaluation or inventory; 1 for the region.
    """
    meta = artefact.meta
    match artefact.stage:
        case "cube":
            return float(meta["counts"]["total"]) / 1e6
        case "tiles":
            return float(meta["counts"]["kept"])
        case "dataset":
            return float(sum(meta["folds"].values()))
        case "model":
            return float(meta["steps"])
        case "detections":
            return float(meta["windows"]["done"])
        case "evaluation":
            return float(len(meta["detections"]))
        case "inventory":
            return float(len(meta["maps"]))
        case _:
            return 1.0


def open_workspace(workspace: Path | str) -> Workspace:
    """The workspace of a flow run.

    Parameters
    ----------
    workspace : path-like
        Its folder.

    Returns
    -------
    Workspace
    """
    return Workspace(Path(workspace))

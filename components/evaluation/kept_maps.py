"""Maps of the benchmark, kept by network: with raw scores, so that a calibration can be fitted later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from components.inference import plan as planning
from components.inference import run as inference
from components.inference import stitch as stitching
from components.inference import verifier
from components.inference.calibration import invert_calibration
from components.inference.instance_file import load_instances, save_instances
from components.inference.predict import read_card
from components.workspace import Artefact, Workspace, stage_key

if TYPE_CHECKING:
    from components.config import InferConfig

#: Version of the benchmark, in the keys of its maps and figures: raised when figures change for the same
#: maps.
ALGORITHM: Final = "accuracy-2"

# What says where and how fast, and what is applied after the map is kept.
_NO_MATTER: Final = {"weights", "device", "threads", "batch_size"}

_AFTER: Final = {"calibration", "score_threshold"}


@dataclass(frozen=True)
class RegionMaps:
    """One region of the benchmark and the maps that networks made of it.

    Parameters
    ----------
    name, split : str
        Of `components.evaluation.simv1.Region`.
    workspace : Path
        Holds its cube.
    labels, truth : Path
        Of the simulator.
    maps : mapping of str to Path
        Method → ``instances.npz`` with raw scores.
    """

    name: str
    split: str
    workspace: Path
    labels: Path
    truth: Path
    maps: Mapping[str, Path]


def map_key(cube: Artefact, weights: Path, cfg: InferConfig) -> str:
    """Identity of a kept map: cube, tensors and settings, but neither calibration nor threshold.

    Parameters
    ----------
    cube : Artefact
        Stage ``cube``.
    weights : Path
        With its card beside it.
    cfg : InferConfig
        Windows and stitching.

    Returns
    -------
    str
    """
    card = {k: v for k, v in read_card(weights).items() if k not in _AFTER}
    settings = cfg.model_dump(mode="json", exclude=_NO_MATTER)
    versions = (ALGORITHM, planning.ALGORITHM, stitching.ALGORITHM, verifier.ALGORITHM)
    return stage_key("maps", *versions, cube.key, card, settings)


def find_map(ws: Workspace, cube: Artefact, weights: Path, cfg: InferConfig) -> Artefact | None:
    """A kept map, if it is there.

    Parameters
    ----------
    ws, cube, weights, cfg
        As in `map_key`.

    Returns
    -------
    Artefact or None
    """
    key = map_key(cube, weights, cfg)
    return ws.find(ws.place("maps", key[:12]), key)


def keep_map(
    ws: Workspace, cube: Artefact, weights: Path, cfg: InferConfig, detections: Artefact
) -> Artefact:
    """Keep the stitched landslides of one network beside those of others, with raw scores.

    Parameters
    ----------
    ws, cube, weights, cfg
        As in `map_key`.
    detections : Artefact
        Stage ``detections`` of exactly these.

    Returns
    -------
    Artefact
        Stage ``maps``: ``instances.npz``.
    """
    key = map_key(cube, weights, cfg)
    final = ws.place("maps", key[:12])
    instances = load_instances(detections.folder / inference.INSTANCES)
    raw = invert_calibration(detections.meta["calibration"], [i.score for i in instances])
    meta = {"model_hash": detections.meta["model_hash"], "stitch": detections.meta["stitch"]}
    with ws.publish("maps", final, key, meta) as folder:
        save_instances(
            folder / inference.INSTANCES,
            [replace(i, score=float(s)) for i, s in zip(instances, raw, strict=True)],
        )
    return Artefact("maps", key, str(final), meta)

"""Training as a stage of a workspace: checkpoints outside, weights published whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import InputError
from components.progress import Progress, no_progress
from components.provenance import file_sha256
from components.training.loop import train
from components.workspace import Artefact, Workspace, stage_key

if TYPE_CHECKING:
    from components.config import TrainConfig

#: Raised when the same data and configuration would give other weights.
ALGORITHM = "2"


def training_key(dataset: Artefact, cfg: TrainConfig) -> str:
    """Identity of the weights that a dataset and a configuration give.

    Parameters
    ----------
    dataset : Artefact
        Published COCO dataset.
    cfg : TrainConfig
        Network and training.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    initial = None if cfg.initial_weights is None else file_sha256(cfg.initial_weights)
    settings = cfg.model_dump(
        mode="json", exclude={"initial_weights", "workers", "pretrained", "allow_download"}
    )
    source = cfg.pretrained
    if source is not None and Path(source).is_file():
        source = file_sha256(Path(source))
    return stage_key("model", ALGORITHM, dataset.key, settings, initial, source)


def train_stage(
    ws: Workspace, dataset: Artefact, cfg: TrainConfig, progress: Progress = no_progress
) -> Artefact:
    """Train on a published dataset and publish weights, card and learning curve.

    Checkpoints live in ``work/train-<key>/``, so that a killed run goes on from the last epoch.

    Parameters
    ----------
    ws : Workspace
        The region.
    dataset : Artefact
        Of stage ``dataset``.
    cfg : TrainConfig
        Network and training.
    progress : Progress
        Called with the steps done.

    Returns
    -------
    Artefact
        Of stage ``model``: ``weights.safetensors``, ``card.json``, ``metrics.csv``,
        ``predictions.png``.

    Raises
    ------
    InputError
        SW-306 where the dataset has no training image.
    """
    key = training_key(dataset, cfg)
    final = ws.place("model")
    if found := ws.find(final, key):
        return found
    if not dataset.meta.get("tiles", {}).get("train", 1):
        raise InputError("SW-306", "no tile in the training split", path=dataset.folder)
    meta: dict[str, object] = {"dataset": dataset.key, "form": cfg.model}
    with ws.publish("model", final, key, meta) as folder:
        work = ws.root / "work" / f"train-{key[:12]}"
        result = train(dataset.folder, folder, work, cfg, progress)
        meta |= {"metrics": result.metrics, "steps": result.steps}
    return Artefact("model", key, str(final), meta)

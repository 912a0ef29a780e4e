"""What a training reads: the folds of a COCO folder, or endless simulated scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InputError
from components.simulation.reserved import refuse_reserved
from components.training.loading import TileLoader, make_loader
from components.training.order import Balanced, EpochBatches, Place, Share
from components.training.scenes import TRAINING, VALIDATION, FixedTiles, SceneTiles, describe
from components.training.tiles import Tiles, open_split
from models.weights import file_sha256

if TYPE_CHECKING:
    from components.config import PretrainConfig, TrainConfig


@dataclass(frozen=True)
class Source:
    """What a training reads.

    Parameters
    ----------
    info : dict
        ``preset``, ``channels``, ``categories``, ``pixel_size_m``, ``upsample`` and what else goes into
        the weights card.
    identity : list
        JSON values that tell this data from any other.
    order : dict
        JSON values from which a further process of the training opens the same source.
    loader : callable
        Makes the loader of the training tiles for the share of a process. Its first argument tells
        the epoch when a pass begins: it is asked, not told, since a resumed trainer does not announce
        the epoch in which it starts.
    validation : Tiles or None
        Tiles on which weights are chosen; None where there are none.
    sampling : dict
        What an epoch draws, for the card.
    """

    info: dict[str, Any]
    identity: list[Any]
    order: dict[str, Any]
    loader: Callable[[Callable[[], int], Share], TileLoader]
    validation: Tiles | None
    sampling: dict[str, Any] = field(default_factory=dict)


def coco_source(dataset_dir: Path, cfg: TrainConfig) -> Source:
    """Training and validation fold of a COCO folder.

    Parameters
    ----------
    dataset_dir : Path
        Of `components.dataset.coco.build_dataset`.
    cfg : TrainConfig
        ``crop``, ``batch_size``, ``negative_share``, ``seed`` and ``workers``.

    Returns
    -------
    Source

    Raises
    ------
    InputError
        SW-304 for a category that the dataset does not list; SW-306 where the training fold is empty;
        SW-307 where the dataset is damaged.
    ModelError
        SW-404 where the crop is larger than a tile.
    """
    tiles = open_split(dataset_dir, "train", cfg, training=True)
    if len(tiles) == 0:
        raise InputError("SW-306", "the training fold holds no tile", path=dataset_dir)
    val = open_split(dataset_dir, "val", cfg, training=False)
    balanced = Balanced(len(tiles), tiles.negatives, cfg.negative_share, cfg.seed)

    def loader(epoch: Callable[[], int], share: Share) -> TileLoader:
        batches = EpochBatches(
            len(balanced), balanced.draws, batch_size=cfg.batch_size, epoch=epoch, share=share
        )
        return make_loader(tiles, batches, cfg.workers)

    identity = [file_sha256(dataset_dir / "annotations" / f"{s}.json") for s in ("train", "val")]
    identity.append(file_sha256(dataset_dir / "dataset.json"))
    return Source(
        tiles.tiles.info,
        identity,
        {"dataset_dir": str(dataset_dir.resolve())},
        loader,
        val if len(val) else None,
        balanced.counts(),
    )


def scene_source(scenes: PretrainConfig, cfg: TrainConfig) -> Source:
    """Endless simulated tiles.

    Parameters
    ----------
    scenes : PretrainConfig
        The tiles; ``workers`` processes simulate them.
    cfg : TrainConfig
        ``batch_size``.

    Returns
    -------
    Source
        Epoch k has the tiles from ``k · tiles_per_epoch`` on: none comes twice.

    Raises
    ------
    InputError
        SW-308 for a seed that belongs to benchmarks.
    """
    refuse_reserved(scenes.seed, "`pretrain.seed`")
    size = scenes.tiles_per_epoch

    def draws(epoch: int) -> list[Place]:
        return [Place(epoch, i) for i in range(epoch * size, (epoch + 1) * size)]

    def loader(epoch: Callable[[], int], share: Share) -> TileLoader:
        batches = EpochBatches(size, draws, batch_size=cfg.batch_size, epoch=epoch, share=share)
        return make_loader(SceneTiles(scenes, TRAINING), batches, scenes.workers)

    count = scenes.validation_tiles
    info = describe(scenes)
    return Source(
        info,
        [info["data"]],
        {"scenes": scenes.model_dump(mode="json")},
        loader,
        FixedTiles(SceneTiles(scenes, VALIDATION), count) if count else None,
    )

"""Where a training's tiles come from; batches in an order that depends on seed and epoch alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from components.dataset.torch_dataset import Item, TileDataset
from components.errors import InputError, ModelError
from components.training.scenes import TRAINING, VALIDATION, SceneTiles, describe
from models.weights import file_sha256

if TYPE_CHECKING:
    from components.config import PretrainConfig, TrainConfig
    from components.training.module import Batch


@dataclass(frozen=True)
class Source:
    """What a training reads, from disk or from the simulator.

    Parameters
    ----------
    info : dict
        ``preset``, ``channels``, ``categories``, ``pixel_size_m``, ``upsample`` and what else goes into
        the weights card.
    identity : list
        JSON values that tell this data from any other.
    loader : callable
        Makes the loader of the training tiles. Its argument tells the epoch when a pass begins: it is
        asked, not told, since a resumed trainer does not announce the epoch in which it starts.
    validation : sequence of Item or None
        Tiles on which weights are chosen; None where there are none.
    """

    info: dict[str, Any]
    identity: list[Any]
    loader: Callable[[Callable[[], int]], DataLoader[Item]]
    validation: Tiles | None


class Tiles(Protocol):
    """Tiles by index."""

    def __len__(self) -> int:
        """Number of tiles."""
        ...

    def __getitem__(self, index: int) -> Item:
        """One tile with its target."""
        ...


class EpochSampler(Sampler[int]):
    """The indices of an epoch.

    Parameters
    ----------
    size : int
        Number of samples.
    epoch : callable
        Tells the epoch when a pass begins.
    order : callable
        Indices of an epoch, from its number.
    """

    def __init__(
        self, size: int, epoch: Callable[[], int], order: Callable[[int], Sequence[int]]
    ) -> None:
        self._size = size
        self._epoch = epoch
        self._order = order

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        yield from self._order(self._epoch())


class CheckedTiles(Dataset[Item]):
    """A `TileDataset` that refuses pixels and targets on which a network cannot learn.

    Parameters
    ----------
    tiles : TileDataset
        Source.
    dataset_dir : Path
        Its folder, for messages.
    split : str
        Its fold.
    """

    def __init__(self, tiles: TileDataset, dataset_dir: Path, split: str) -> None:
        self.tiles = tiles
        self._dir = dataset_dir
        self._split = split

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> Item:
        image, target = self.tiles[index]
        channels = len(self.tiles.channels)
        problem = ""
        if image.ndim != 3 or image.shape[0] != channels:
            problem = f"shape {tuple(image.shape)} where {channels} channels were promised"
        elif not bool(torch.isfinite(image).all()):
            problem = f"{int((~torch.isfinite(image)).sum())} values are not finite"
        elif target["masks"].shape[1:] != image.shape[1:]:
            problem = f"masks of {tuple(target['masks'].shape[1:])} on {tuple(image.shape[1:])}"
        if problem:
            image_id = int(target["image_id"])
            raise ModelError("SW-404", f"image {image_id}: {problem}", path=self._path(image_id))
        return image, target

    def _path(self, image_id: int) -> Path:
        """File of an image, read from the annotations since this happens once."""
        content = json.loads((self._dir / "annotations" / f"{self._split}.json").read_text())
        names = {i["id"]: i["file_name"] for i in content["images"]}
        return self._dir / "images" / str(names[image_id])


def open_split(dataset_dir: Path, split: str, cfg: TrainConfig, *, training: bool) -> CheckedTiles:
    """Open one fold for training or validation.

    Parameters
    ----------
    dataset_dir : Path
        Of `components.dataset.coco.build_dataset`.
    split : {"train", "val", "test"}
        Fold.
    cfg : TrainConfig
        ``crop`` and ``seed``.
    training : bool
        Whether crops and augmentation are wanted.

    Returns
    -------
    CheckedTiles

    Raises
    ------
    InputError
        SW-307 where the dataset is damaged.
    ModelError
        SW-404 where the crop is larger than a tile.
    """
    tiles = TileDataset(
        dataset_dir, split, cfg.crop if training else None, augment=training, seed=cfg.seed
    )
    return CheckedTiles(tiles, dataset_dir, split)


def collate(items: list[Item]) -> Batch:
    """Keep images and targets as lists: tiles may differ in size and number of objects.

    Parameters
    ----------
    items : list of tuple
        Of the dataset.

    Returns
    -------
    images : list of Tensor
        float32 [C, H, W].
    targets : list of dict
        One an image.
    """
    images: list[Tensor] = [image for image, _ in items]
    return images, [target for _, target in items]


def coco_source(dataset_dir: Path, cfg: TrainConfig) -> Source:
    """Training and validation fold of a COCO folder.

    Samples are made in the training process: at the sizes of one machine, a second process costs
    more than it hides. The last batch of an epoch is left out if it would hold a single image, on which
    batch statistics are poor, and others are there.

    Parameters
    ----------
    dataset_dir : Path
        Of `components.dataset.coco.build_dataset`.
    cfg : TrainConfig
        ``crop``, ``batch_size`` and ``seed``.

    Returns
    -------
    Source

    Raises
    ------
    InputError
        SW-306 where the training fold is empty; SW-307 where the dataset is damaged.
    ModelError
        SW-404 where the crop is larger than a tile.
    """
    tiles = open_split(dataset_dir, "train", cfg, training=True)
    if len(tiles) == 0:
        raise InputError("SW-306", "the training fold holds no tile", path=dataset_dir)
    val = open_split(dataset_dir, "val", cfg, training=False)
    size = len(tiles)

    def order(epoch: int) -> list[int]:
        tiles.tiles.set_epoch(epoch)
        generator = torch.Generator().manual_seed(cfg.seed * 1_000_003 + epoch)
        chosen: list[int] = torch.randperm(size, generator=generator).tolist()
        return chosen

    def loader(epoch: Callable[[], int]) -> DataLoader[Item]:
        return DataLoader(
            tiles,
            batch_size=cfg.batch_size,
            sampler=EpochSampler(size, epoch, order),
            collate_fn=collate,
            drop_last=size > cfg.batch_size and size % cfg.batch_size == 1,
        )

    identity = [file_sha256(dataset_dir / "annotations" / f"{s}.json") for s in ("train", "val")]
    identity.append(file_sha256(dataset_dir / "dataset.json"))
    return Source(tiles.tiles.info, identity, loader, val if len(val) else None)


def scene_source(scenes: PretrainConfig, cfg: TrainConfig) -> Source:
    """Endless simulated tiles.

    Parameters
    ----------
    scenes : PretrainConfig
        The tiles.
    cfg : TrainConfig
        ``batch_size``.

    Returns
    -------
    Source
        Epoch k has the tiles from ``k · tiles_per_epoch`` on: none comes twice.
    """
    tiles = SceneTiles(scenes, TRAINING)
    size = scenes.tiles_per_epoch

    def loader(epoch: Callable[[], int]) -> DataLoader[Item]:
        return DataLoader(
            tiles,
            batch_size=cfg.batch_size,
            sampler=EpochSampler(size, epoch, lambda k: range(k * size, (k + 1) * size)),
            collate_fn=collate,
            num_workers=scenes.workers,
            persistent_workers=scenes.workers > 0,
        )

    validation = None
    if scenes.validation_tiles:
        made = SceneTiles(scenes, VALIDATION)
        validation = [made[i] for i in range(scenes.validation_tiles)]
    info = describe(scenes)
    return Source(info, [info["data"]], loader, validation)

"""Batches in an order that depends on seed and epoch alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from components.dataset.torch_dataset import Item, TileDataset
from components.errors import ModelError

if TYPE_CHECKING:
    from components.config import TrainConfig
    from components.training.module import Batch


class EpochSampler(Sampler[int]):
    """Every index once an epoch, in an order drawn from (seed, epoch).

    Parameters
    ----------
    size : int
        Number of samples.
    seed : int
        Of the order.
    epoch : callable
        Tells the epoch when a pass begins. It is asked, not told, since a resumed trainer does not
        announce the epoch in which it starts.
    on_epoch : callable
        Called with the epoch before a pass.
    """

    def __init__(
        self, size: int, seed: int, epoch: Callable[[], int], on_epoch: Callable[[int], None]
    ) -> None:
        self._size = size
        self._seed = seed
        self._epoch = epoch
        self._on_epoch = on_epoch

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        epoch = self._epoch()
        self._on_epoch(epoch)
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        yield from torch.randperm(self._size, generator=generator).tolist()


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


def training_loader(
    tiles: CheckedTiles, cfg: TrainConfig, epoch: Callable[[], int]
) -> DataLoader[Item]:
    """Loader of the training fold.

    Samples are made in the training process: at the sizes of one machine, a second process costs
    more than it hides. The last batch of an epoch is filled up by none: it is left out if it would
    hold a single image, on which batch statistics are poor, and others are there.

    Parameters
    ----------
    tiles : CheckedTiles
        Fold.
    cfg : TrainConfig
        ``batch_size`` and ``seed``.
    epoch : callable
        Tells the epoch when a pass begins.

    Returns
    -------
    DataLoader
    """
    sampler = EpochSampler(len(tiles), cfg.seed, epoch, tiles.tiles.set_epoch)
    return DataLoader(
        tiles,
        batch_size=cfg.batch_size,
        sampler=sampler,
        collate_fn=collate,
        drop_last=len(tiles) > cfg.batch_size and len(tiles) % cfg.batch_size == 1,
    )

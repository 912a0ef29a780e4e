"""Tiles of a COCO folder as a training reads them, each looked at before a network sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch.utils.data import Dataset

from components.dataset.torch_dataset import Item, TileDataset
from components.errors import InputError, ModelError

if TYPE_CHECKING:
    from components.config import TrainConfig
    from components.training.order import Place


class Tiles(Protocol):
    """Tiles by index, for validation."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the image's channels."""

    def __len__(self) -> int:
        """Number of tiles."""

    def __getitem__(self, index: int) -> Item:
        """One tile with its target."""


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

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the image's channels."""
        return self.tiles.channels

    @property
    def negatives(self) -> list[int]:
        """Indices of the tiles without an object that is to be found."""
        return [i for i in range(len(self)) if not self.tiles.has_objects(i)]

    def at(self, place: Place) -> Item:
        """Tile under the crop and augmentation of an epoch.

        Parameters
        ----------
        place : Place
            Tile and epoch.

        Returns
        -------
        Item

        Raises
        ------
        SlopewatchError
            SW-307 or SW-404 where the tile cannot be used.
        """
        self.tiles.set_epoch(place.epoch)
        return self[place.tile]

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> Item:
        image, target = self.tiles[index]
        channels = len(self.channels)
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
        SW-304 where an object's category is not one of the dataset's; SW-307 where the dataset is
        damaged.
    ModelError
        SW-404 where the crop is larger than a tile.
    """
    tiles = TileDataset(
        dataset_dir, split, cfg.crop if training else None, augment=training, seed=cfg.seed
    )
    known = {int(c["id"]) for c in tiles.info["categories"]}
    if strange := sorted(tiles.category_ids - known):
        raise InputError(
            "SW-304",
            f"fold {split} holds objects of category {strange}; dataset.json lists {sorted(known)}",
            path=dataset_dir / "annotations" / f"{split}.json",
            remedy="Correct the categories of either file, or build the dataset again.",
        )
    return CheckedTiles(tiles, dataset_dir, split)

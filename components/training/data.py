"""Batches in an order that depends on seed and epoch alone, made here or by loader processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from components.dataset.torch_dataset import Item, TileDataset
from components.errors import InputError, ModelError, SlopewatchError

if TYPE_CHECKING:
    from components.config import TrainConfig
    from components.training.module import Batch

#: Times that a tile without objects is drawn in an epoch at most: beyond, one learns it by heart.
COPIES: Final = 4

#: Distance between the epoch numbers under which copies of a tile are augmented.
_COPY_EPOCH: Final = 1_000_000


class Tiles(Protocol):
    """What training needs of a source of tiles."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the image's channels."""

    def set_epoch(self, epoch: int) -> None:
        """Choose crops and augmentation, the same for the same number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Item: ...


class Place(NamedTuple):
    """One sample: which tile, under which epoch's crop and augmentation.

    Parameters
    ----------
    epoch : int
        Passed to ``set_epoch``.
    tile : int
        Index.
    """

    epoch: int
    tile: int


class Share(NamedTuple):
    """Part of one process in a training on several devices.

    Parameters
    ----------
    rank : int
        Number of the process, from 0.
    world : int
        Processes in all, ≥ 1.
    """

    rank: int
    world: int


#: Of a process that is alone.
ALONE: Final = Share(0, 1)


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

    def set_epoch(self, epoch: int) -> None:
        """Choose crops and augmentation.

        Parameters
        ----------
        epoch : int
            ≥ 0; the same number gives the same samples.
        """
        self.tiles.set_epoch(epoch)

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


def extra_copies(size: int, negatives: int, share: float) -> int:
    """Further draws of tiles without objects that bring their share of an epoch to a bound.

    Parameters
    ----------
    size : int
        Tiles in all.
    negatives : int
        Tiles without objects among them.
    share : float
        Wanted share, in [0, 1).

    Returns
    -------
    int
        0 where the share is reached as it is. Every tile is drawn at least once, none more than
        `COPIES` times, so that with few such tiles the share stays below the bound.
    """
    positives = size - negatives
    # Rounded before it is rounded up: 9 · 0.1 / 0.9 is to be 1 and not 1.0000000000000002.
    wanted = -int(-round(positives * share / (1.0 - share), 9) // 1)
    return max(0, min(wanted, COPIES * negatives) - negatives)


def batch_lengths(samples: int, batch_size: int, world: int = 1) -> list[int]:
    """Images of each step of an epoch, over all devices.

    Parameters
    ----------
    samples : int
        Draws of an epoch.
    batch_size : int
        Images of a full step, a multiple of `world`.
    world : int
        Devices, which get equal parts of every step.

    Returns
    -------
    list of int
        The last step holds what is left, less what the devices cannot share equally. It is left out
        if it would hold a single image, on which batch statistics are poor, and others are there.
    """
    full, rest = divmod(samples, batch_size)
    rest -= rest % world
    if rest == 1 and full:
        rest = 0
    return [batch_size] * full + [rest] * (rest > 0)


class EpochBatches(Sampler[list[Place]]):
    """Places of every step, in an order drawn from (seed, epoch).

    Parameters
    ----------
    size : int
        Number of tiles.
    negatives : sequence of int
        Tiles without objects, which may be drawn more than once.
    extra : int
        Further draws of these, as `extra_copies` counts them.
    batch_size : int
        Images a step, over all devices.
    seed : int
        Of the order.
    epoch : callable
        Tells the epoch when a pass begins. It is asked, not told, since a resumed trainer does not
        announce the epoch in which it starts.
    share : Share
        Of every step, this process gets each `world`-th image from `rank` on; so all processes
        together see the images of a single one.
    """

    def __init__(
        self,
        size: int,
        negatives: Sequence[int],
        extra: int,
        *,
        batch_size: int,
        seed: int,
        epoch: Callable[[], int],
        share: Share = ALONE,
    ) -> None:
        self._size = size
        self._negatives = list(negatives)
        self._extra = extra
        self._lengths = batch_lengths(size + extra, batch_size, share.world)
        self._seed = seed
        self._epoch = epoch
        self._share = share

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[list[Place]]:
        epoch = self._epoch()
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        draws = [Place(epoch, i) for i in range(self._size)]
        if self._extra:
            # In rounds over all of them, so that none is drawn twice before all were drawn once.
            rounds = -(-self._extra // len(self._negatives))
            again = [
                Place(epoch + copy * _COPY_EPOCH, self._negatives[i])
                for copy in range(1, rounds + 1)
                for i in torch.randperm(len(self._negatives), generator=generator).tolist()
            ]
            draws += again[: self._extra]
        order = torch.randperm(len(draws), generator=generator).tolist()
        start = 0
        for length in self._lengths:
            step = order[start : start + length]
            yield [draws[i] for i in step[self._share.rank :: self._share.world]]
            start += length


class _Placed(Dataset[Any]):
    """Tiles by `Place`: a loader process learns the epoch from the sample that it is asked for."""

    def __init__(self, tiles: Tiles) -> None:
        self._tiles = tiles

    def __len__(self) -> int:
        return len(self._tiles)

    def __getitem__(self, place: Place) -> Item | SlopewatchError:
        self._tiles.set_epoch(place.epoch)
        try:
            return self._tiles[place.tile]
        except SlopewatchError as e:
            # The loader would rebuild an error of a process from its text alone and lose the code.
            return e


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


def _collate_or_error(items: list[Item | SlopewatchError]) -> Batch | SlopewatchError:
    for item in items:
        if isinstance(item, SlopewatchError):
            return item
    return collate([item for item in items if not isinstance(item, SlopewatchError)])


class TileLoader(DataLoader[Any]):
    """A loader that raises the coded errors of its processes."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, SlopewatchError):
                raise batch
            yield batch


def training_loader(
    tiles: Tiles,
    cfg: TrainConfig,
    epoch: Callable[[], int],
    *,
    negatives: Sequence[int] = (),
    share: Share = ALONE,
) -> TileLoader:
    """Loader of the training fold.

    Parameters
    ----------
    tiles : Tiles
        Fold, or a stream of scenes.
    cfg : TrainConfig
        ``batch_size``, ``negative_share``, ``seed`` and ``workers``. The batches are the same for
        every number of workers.
    epoch : callable
        Tells the epoch when a pass begins.
    negatives : sequence of int
        Tiles without objects, which are drawn more than once where they are fewer than
        ``negative_share`` of all.
    share : Share
        Part of this process.

    Returns
    -------
    TileLoader

    Raises
    ------
    ModelError
        SW-404 where there are fewer tiles than devices.
    """
    batches = EpochBatches(
        len(tiles),
        negatives,
        extra_copies(len(tiles), len(negatives), cfg.negative_share if negatives else 0.0),
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        epoch=epoch,
        share=share,
    )
    if len(batches) == 0:
        raise ModelError("SW-404", f"{len(tiles)} tiles cannot be shared by {share.world} devices")
    return TileLoader(
        _Placed(tiles),
        batch_sampler=batches,
        collate_fn=_collate_or_error,
        num_workers=cfg.workers,
        persistent_workers=cfg.workers > 0,
        # Forking a process with running threads can deadlock, and one with CUDA does not work.
        multiprocessing_context="spawn" if cfg.workers else None,
    )


def sampling_counts(size: int, negatives: int, share: float) -> dict[str, Any]:
    """What an epoch draws, for the card.

    Parameters
    ----------
    size : int
        Tiles in all.
    negatives : int
        Tiles without objects among them.
    share : float
        Wanted share of these.

    Returns
    -------
    dict
        ``tiles``, ``tiles_without_objects``, ``extra_draws_without_objects`` and
        ``share_without_objects`` of an epoch's draws.
    """
    extra = extra_copies(size, negatives, share) if negatives else 0
    return {
        "tiles": size,
        "tiles_without_objects": negatives,
        "extra_draws_without_objects": extra,
        "share_without_objects": round((negatives + extra) / (size + extra), 4),
    }

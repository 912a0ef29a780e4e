"""Where a training's tiles come from; batches in an order that depends on seed and epoch alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from components.dataset.torch_dataset import Item, TileDataset
from components.errors import InputError, ModelError, SlopewatchError
from components.training.scenes import TRAINING, VALIDATION, SceneTiles, describe
from models.weights import file_sha256

if TYPE_CHECKING:
    from components.config import PretrainConfig, TrainConfig
    from components.training.module import Batch

#: Times that a tile without objects is drawn in an epoch at most: beyond, one learns it by heart.
COPIES: Final = 4

#: Distance between the epoch numbers under which copies of a tile are augmented.
_COPY_EPOCH: Final = 1_000_000


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


class Tiles(Protocol):
    """Tiles by index, for validation."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the image's channels."""

    def __len__(self) -> int:
        """Number of tiles."""

    def __getitem__(self, index: int) -> Item:
        """One tile with its target."""


class Samples(Protocol):
    """Tiles by place, for training; it must be possible to send it to another process."""

    def at(self, place: Place) -> Item:
        """One sample: the same for the same place."""


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


class Balanced:
    """Draws of an epoch from a fold: every tile, those without objects perhaps more than once.

    Parameters
    ----------
    size : int
        Tiles.
    negatives : sequence of int
        Those without objects.
    share : float
        Smallest share of draws without objects, in [0, 1); see `extra_copies` for its limits.
    seed : int
        Of the order.
    """

    def __init__(self, size: int, negatives: Sequence[int], share: float, seed: int) -> None:
        self._size = size
        self._negatives = list(negatives)
        self._extra = extra_copies(size, len(negatives), share) if negatives else 0
        self._seed = seed

    def __len__(self) -> int:
        return self._size + self._extra

    def draws(self, epoch: int) -> list[Place]:
        """Places of an epoch in random order.

        Parameters
        ----------
        epoch : int
            ≥ 0.

        Returns
        -------
        list of Place
            Copies of a tile come under other epoch numbers, so that they are augmented anew.
        """
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        places = [Place(epoch, i) for i in range(self._size)]
        if self._extra:
            # In rounds over all of them, so that none is drawn twice before all were drawn once.
            rounds = -(-self._extra // len(self._negatives))
            again = [
                Place(epoch + copy * _COPY_EPOCH, self._negatives[i])
                for copy in range(1, rounds + 1)
                for i in torch.randperm(len(self._negatives), generator=generator).tolist()
            ]
            places += again[: self._extra]
        return [places[i] for i in torch.randperm(len(places), generator=generator).tolist()]

    def counts(self) -> dict[str, Any]:
        """What an epoch draws, for the card.

        Returns
        -------
        dict
            ``tiles``, ``tiles_without_objects``, ``extra_draws_without_objects`` and
            ``share_without_objects`` of the draws.
        """
        negatives = len(self._negatives)
        return {
            "tiles": self._size,
            "tiles_without_objects": negatives,
            "extra_draws_without_objects": self._extra,
            "share_without_objects": round((negatives + self._extra) / len(self), 4),
        }


class EpochBatches(Sampler[list[Place]]):
    """Places of every step of one process.

    Parameters
    ----------
    size : int
        Draws of an epoch.
    draws : callable
        Places of an epoch, from its number.
    batch_size : int
        Images a step, over all devices.
    epoch : callable
        Tells the epoch when a pass begins.
    share : Share
        Every step is cut into equal runs, of which this process gets one: all together see the images
        that a single one would.

    Raises
    ------
    ModelError
        SW-404 where there are fewer draws than devices.
    """

    def __init__(
        self,
        size: int,
        draws: Callable[[int], Sequence[Place]],
        *,
        batch_size: int,
        epoch: Callable[[], int],
        share: Share = ALONE,
    ) -> None:
        self._draws = draws
        self._lengths = batch_lengths(size, batch_size, share.world)
        self._epoch = epoch
        self._share = share
        if not self._lengths:
            raise ModelError("SW-404", f"{size} tiles cannot be shared by {share.world} devices")

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[list[Place]]:
        draws = self._draws(self._epoch())
        start = 0
        for length in self._lengths:
            run = length // self._share.world
            mine = start + self._share.rank * run
            yield list(draws[mine : mine + run])
            start += length


class _Placed(Dataset[Any]):
    """Samples by `Place`: a loader process learns the epoch from what it is asked for."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __getitem__(self, place: Place) -> Item | SlopewatchError:
        try:
            return self._samples.at(place)
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


def make_loader(samples: Samples, batches: EpochBatches, workers: int) -> TileLoader:
    """Loader of training tiles.

    Parameters
    ----------
    samples : Samples
        What is loaded.
    batches : EpochBatches
        In which order.
    workers : int
        Processes that load; 0 for the training process itself. The batches do not depend on it.

    Returns
    -------
    TileLoader
    """
    return TileLoader(
        _Placed(samples),
        batch_sampler=batches,
        collate_fn=_collate_or_error,
        num_workers=workers,
        persistent_workers=workers > 0,
        # Forking a process with running threads can deadlock, and one with CUDA does not work.
        multiprocessing_context="spawn" if workers else None,
    )


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


class FixedTiles:
    """Simulated tiles that are kept in memory, for validation and tests.

    Parameters
    ----------
    tiles : SceneTiles
        Without end.
    count : int
        The first so many are kept.
    """

    def __init__(self, tiles: SceneTiles, count: int) -> None:
        self.channels = tiles.channels
        self._items = [tiles[i] for i in range(count)]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Item:
        return self._items[index]


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
    """
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

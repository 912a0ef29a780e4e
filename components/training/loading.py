"""Batches of training tiles, loaded by processes that may fail with coded errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from components.dataset.torch_dataset import Item
from components.errors import SlopewatchError
from components.training.order import EpochBatches, Place

if TYPE_CHECKING:
    from components.training.module import Batch


class Samples(Protocol):
    """Tiles by place, for training; it must be possible to send it to another process."""

    def at(self, place: Place) -> Item:
        """One sample: the same for the same place."""


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

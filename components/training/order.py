"""Which tiles an epoch draws, and in which order: by seed and epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch.utils.data import Sampler

from components.errors import ModelError

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

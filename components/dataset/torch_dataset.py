"""The COCO folder as a PyTorch dataset in torchvision's detection format.

A sample depends on (seed, epoch, index) and on nothing else: not on the number of loader processes, on
the order of reading, or on what was read before. So a training run that is killed and resumed sees the
same samples.

Runs without raster libraries: NumPy, Pillow and torch; pycocotools only where masks are read.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from components.dataset.augment import augment, check_channels
from components.errors import InputError, ModelError

#: Image and target of one sample.
Item = tuple[torch.Tensor, dict[str, torch.Tensor]]


class Objects(NamedTuple):
    """Objects of a tile, whether learned or ignored.

    Parameters
    ----------
    masks : ndarray, bool, ``[N, H, W]``
        Pixels.
    labels : ndarray, int64, ``[N]``
        Category ids.
    crowd : ndarray, bool, ``[N]``
        Ignored.
    pixels : ndarray, float, ``[N]``
        Pixels of the whole landslide, of which the tile may show a part.
    """

    masks: NDArray[np.bool_]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    pixels: NDArray[np.float64]


class TileDataset(Dataset[Item]):
    """Tiles of one fold.

    Parameters
    ----------
    dataset_dir : Path
        Folder that `components.dataset.coco.build_dataset` published.
    split : str
        ``train``, ``val`` or ``test``.
    crop : int, optional
        Side of a random crop [px]; None for the whole tile. Of tiles with objects, at least half of
        the crops show one: every second crop is laid around a random object.
    augment : bool
        Random mirrors, noise and loss of data.
    seed : int
        Of crops and augmentation.

    Raises
    ------
    InputError
        SW-307 where files are missing or do not match; SW-701 for an unknown split.
    ModelError
        SW-404 where `augment` is asked for channels that it would make inconsistent, or the crop is
        larger than the tiles.

    Notes
    -----
    Item: ``image`` float32 ``[C, H, W]`` and a target with ``boxes`` float32 ``[N, 4]`` (x1 y1 x2 y2 in
    pixels, half-open: x2 = last column + 1), ``labels`` int64 ``[N]``, ``masks`` uint8 ``[N, H, W]``,
    ``image_id`` int64 scalar, and ``ignore`` bool ``[H, W]``: ground of objects that are neither to be
    found nor to count as background (``iscrowd``, or cut by the crop below the dataset's limits).
    """

    def __init__(
        self,
        dataset_dir: Path,
        split: str,
        crop: int | None = None,
        *,
        augment: bool = False,
        seed: int = 0,
    ) -> None:
        if split not in {"train", "val", "test"}:
            raise InputError("SW-701", f"unknown split {split!r}; there are train, val and test")
        self._dir = Path(dataset_dir)
        self.info: dict[str, Any] = _read_json(self._dir / "dataset.json")
        coco = _read_json(self._dir / "annotations" / f"{split}.json")
        self._images: list[dict[str, Any]] = sorted(coco["images"], key=lambda i: i["id"])
        self._annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for annotation in coco["annotations"]:
            self._annotations[annotation["image_id"]].append(annotation)
        self.channels: tuple[str, ...] = tuple(self.info["channels"])
        self._crop = crop
        self._augment = augment
        self._seed = seed
        self._epoch = 0
        if augment:
            check_channels(self.channels)
        self._check(split)

    def _check(self, split: str) -> None:
        for image in self._images:
            path = self._dir / "images" / image["file_name"]
            if not path.is_file():
                raise InputError("SW-307", f"image of fold {split} is missing", path=path)
            if self._crop is not None and self._crop > min(image["height"], image["width"]):
                raise ModelError(
                    "SW-404",
                    f"crop {self._crop} px is larger than the tile "
                    f"({image['height']} × {image['width']} px)",
                    path=path,
                    remedy="Lower train.crop, or leave it empty for whole tiles.",
                )

    def __len__(self) -> int:
        return len(self._images)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch: other crops and augmentation, the same for the same number.

        Parameters
        ----------
        epoch : int
            ≥ 0.
        """
        self._epoch = epoch

    @property
    def image_ids(self) -> list[int]:
        """COCO image ids in the order of the indices."""
        return [int(i["id"]) for i in self._images]

    @property
    def category_ids(self) -> set[int]:
        """Categories of the annotated objects."""
        return {int(a["category_id"]) for found in self._annotations.values() for a in found}

    def has_objects(self, index: int) -> bool:
        """Whether a tile shows an object that is to be found.

        Parameters
        ----------
        index : int
            Index of the tile.

        Returns
        -------
        bool
        """
        return any(not a["iscrowd"] for a in self._annotations[self._images[index]["id"]])

    def __getitem__(self, index: int) -> Item:
        record = self._images[index]
        image = self._load(record)
        objects = self._objects(record)
        rng = np.random.default_rng((self._seed, self._epoch, index))
        masks = objects.masks
        if self._crop is not None:
            row, col = place_crop(objects, self._crop, image.shape[1:], rng)
            view = (slice(None), slice(row, row + self._crop), slice(col, col + self._crop))
            image, masks = image[view], masks[view]
        if self._augment:
            image, masks = augment(
                image, masks, self.channels, rng, pixel_m=float(self.info["pixel_size_m"])
            )
        target = make_target(
            objects._replace(masks=masks),
            int(record["id"]),
            min_pixels=self.info["min_pixels"],
            min_visible=self.info["min_visible"],
        )
        return torch.from_numpy(np.ascontiguousarray(image)), target

    def _load(self, record: dict[str, Any]) -> NDArray[np.float32]:
        path = self._dir / "images" / record["file_name"]
        try:
            if path.suffix == ".png":
                with Image.open(path) as picture:
                    pixels = np.asarray(picture, dtype=np.float32)
                image = (pixels / np.float32(255.0)).transpose(2, 0, 1)
            else:
                with np.load(path, allow_pickle=False) as archive:
                    image = archive["image"].astype(np.float32)
        except (OSError, ValueError, KeyError) as e:
            raise InputError("SW-307", f"image unreadable: {e}", path=path) from e
        expected = (len(self.channels), record["height"], record["width"])
        if image.shape != expected:
            raise InputError(
                "SW-307", f"image has shape {image.shape}, expected {expected}", path=path
            )
        return image

    def _objects(self, record: dict[str, Any]) -> Objects:
        # Loaded here: a machine that only trains on simulated tiles need not have it.
        from pycocotools import mask as rle

        found = self._annotations[record["id"]]
        shape = (record["height"], record["width"])
        masks = np.zeros((len(found), *shape), dtype=bool)
        for i, annotation in enumerate(found):
            mask = rle.decode(annotation["segmentation"])
            if mask.shape != shape:
                raise InputError(
                    "SW-307",
                    f"mask of annotation {annotation['id']} has shape {mask.shape}, image {shape}",
                    path=self._dir / "images" / record["file_name"],
                )
            masks[i] = mask
        return Objects(
            masks,
            np.array([a["category_id"] for a in found], dtype=np.int64),
            np.array([bool(a["iscrowd"]) for a in found], dtype=bool),
            np.array([a["pixels_in_all"] for a in found], dtype=float),
        )


def make_target(
    objects: Objects, image_id: int, *, min_pixels: float, min_visible: float
) -> dict[str, torch.Tensor]:
    """Target of one image in torchvision's format.

    Parameters
    ----------
    objects : Objects
        What the image, or a crop of it, shows.
    image_id : int
        Goes into the target.
    min_pixels : float
        Objects of fewer pixels in the image are ignored ground.
    min_visible : float
        Objects of which the image shows a smaller share are ignored ground, in [0, 1].

    Returns
    -------
    dict of Tensor
        See `TileDataset`.
    """
    area = objects.masks.sum(axis=(1, 2))
    # A crop cuts objects as a tile does: the same limits decide what is still to be found.
    lost = (area < min_pixels) | (area < min_visible * objects.pixels)
    learn = ~objects.crowd & ~lost
    masks = objects.masks[learn]
    return {
        "boxes": torch.from_numpy(_boxes(masks)),
        "labels": torch.from_numpy(objects.labels[learn]),
        "masks": torch.from_numpy(masks.astype(np.uint8)),
        "image_id": torch.tensor(image_id, dtype=torch.int64),
        "ignore": torch.from_numpy(objects.masks[~learn].any(axis=0)),
    }


def place_crop(
    objects: Objects, crop: int, shape: tuple[int, ...], rng: np.random.Generator
) -> tuple[int, int]:
    """Place a random crop, every second time around an object that is to be found.

    Parameters
    ----------
    objects : Objects
        What the image shows.
    crop : int
        Side [px].
    shape : (int, int)
        Height and width of the image [px], at least `crop`.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    (int, int)
        Upper-left pixel: row, column.
    """
    limits = (shape[0] - crop, shape[1] - crop)
    wanted = np.flatnonzero(~objects.crowd)
    around_object = rng.random() < 0.5
    anywhere = [int(rng.integers(0, limit + 1)) for limit in limits]
    if not around_object or not wanted.size:
        return anywhere[0], anywhere[1]
    mask = objects.masks[wanted[rng.integers(wanted.size)]]
    place = []
    for axis, limit in ((1, limits[0]), (0, limits[1])):
        line = np.flatnonzero(mask.any(axis=axis))
        low, high = int(line[0]), int(line[-1]) + 1
        # Where it fits, the object is wholly inside; where it does not, the crop is wholly on it.
        first, last = sorted((high - crop, low))
        first, last = max(first, 0), min(last, limit)
        place.append(int(rng.integers(first, max(last, first) + 1)))
    return min(place[0], limits[0]), min(place[1], limits[1])


def _boxes(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    boxes = np.zeros((len(masks), 4), dtype=np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box[:] = cols[0], rows[0], cols[-1] + 1, rows[-1] + 1
    return boxes


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError("SW-307", "file is missing", path=path) from None
    except (ValueError, OSError) as e:
        raise InputError("SW-307", f"file unreadable: {e}", path=path) from e
    if not isinstance(content, dict):
        raise InputError("SW-307", "file does not hold an object", path=path)
    return content

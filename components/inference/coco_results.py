"""Windows and detections of anybody's model: a COCO images file and a COCO results list.

The images file says where each image lies on the raster (``row_off``, ``col_off``). The results list is
read object by object, so that a large file is not in memory as Python objects; of each result its
encoded mask is kept, and decoded when its window is stitched.

Masks are run-length encoded by columns, as counts of zeros and ones in turn. The compressed form writes
each count as groups of five bits from the lowest, a sixth bit telling that more follow, in characters
from 48 on; from the fourth count on it holds the difference to the count two before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as brief
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from components.errors import InputError
from components.grid.windows import Window
from components.inference.instances import Detection
from components.inference.json_list import entries, load

#: A polygon may leave its image by this much [px]: detectors round.
POLYGON_TOLERANCE_PX: Final = 1.0

#: Category ids are stored in 32 bits (`instance_file`), all other numbers in 64.
_CATEGORY_BITS: Final = 32
_BITS: Final = 64

Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class CocoImages:
    """Images that a model looked at.

    Parameters
    ----------
    windows : dict of int to Window
        Image id → its block of the raster.
    categories : dict of int to str
        Category id → name.
    """

    windows: dict[int, Window]
    categories: dict[int, str]


class _Result(NamedTuple):
    """A result as read; the mask is decoded later."""

    number: int
    category: int
    score: float
    segmentation: Any


def read_images(path: Path, shape: tuple[int, int]) -> CocoImages:
    """Read a COCO images file.

    Parameters
    ----------
    path : Path
        JSON with ``images`` (``id``, ``width``, ``height``, ``row_off``, ``col_off``) and
        ``categories`` (``id``, ``name``).
    shape : tuple of int
        Raster height and width [px].

    Returns
    -------
    CocoImages

    Raises
    ------
    InputError
        SW-101, SW-102 where there is no such file or it is not JSON. SW-508 where an image lacks a
        key, has another id's number, is empty or leaves the raster, categories are missing or
        ambiguous, or a category's id does not fit in 32 bits.
    """
    data = load(path)
    if not isinstance(data, dict):
        raise InputError("SW-508", "the images file is not a JSON object", path=path)
    categories: dict[int, str] = {}
    for number, c in enumerate(_list(data, "categories", path)):
        id_ = _whole(c, "id", f"category entry {number}", path, _CATEGORY_BITS)
        name = c.get("name")
        if id_ in categories:
            raise InputError("SW-508", f"two categories have id {id_}", path=path)
        if not isinstance(name, str):
            raise InputError("SW-508", f"category {id_} has no `name`", path=path)
        categories[id_] = name
    if not categories:
        raise InputError("SW-508", "there are no categories", path=path)
    windows: dict[int, Window] = {}
    for number, image in enumerate(_list(data, "images", path)):
        id_ = _whole(image, "id", f"image entry {number}", path)
        if id_ in windows:
            raise InputError("SW-508", f"two images have id {id_}", path=path)
        keys = ("row_off", "col_off", "height", "width")
        w = Window(*(_whole(image, key, f"image {id_}", path) for key in keys))
        if w.height < 1 or w.width < 1:
            raise InputError("SW-508", f"image {id_} has {w.height} × {w.width} px", path=path)
        if w.row < 0 or w.col < 0 or w.row_end > shape[0] or w.col_end > shape[1]:
            raise InputError(
                "SW-508",
                f"image {id_} (rows {w.row} to {w.row_end}, columns {w.col} to {w.col_end}) leaves "
                f"the raster of {shape[0]} × {shape[1]} px",
                path=path,
                remedy="Check row_off and col_off, and that this is the raster they refer to.",
            )
        windows[id_] = w
    return CocoImages(windows, categories)


def read_results(path: Path, images: CocoImages) -> Iterator[tuple[int, list[Detection]]]:
    """Read a COCO results list; detections come window by window.

    Parameters
    ----------
    path : Path
        JSON list of ``image_id``, ``category_id``, ``score`` and ``segmentation``: run-length encoded
        (compressed or not) or polygons. An empty list is no detections; a detection whose
        list of polygons is empty has an empty mask.
    images : CocoImages
        Of `read_images`.

    Yields
    ------
    window_id : int
        Each image once, in reading order of the raster.
    detections : list of Detection
        With probability 1 on the mask.

    Raises
    ------
    InputError
        SW-101, SW-102 where there is no such file or it is not a JSON list. SW-508, with the number
        of the result (counted from 0), for unknown images and categories, scores outside [0, 1],
        masks of another size than their image, and polygons of fewer than three points or outside
        the image.
    """
    by_image: dict[int, list[_Result]] = {i: [] for i in images.windows}
    for number, raw in enumerate(entries(path)):
        what = f"result {number}"
        if not isinstance(raw, dict):
            raise InputError("SW-508", f"{what} is not a JSON object", path=path)
        image = _whole(raw, "image_id", what, path)
        if image not in by_image:
            raise InputError("SW-508", f"{what} names image {image}, which is unknown", path=path)
        category = _whole(raw, "category_id", what, path)
        if category not in images.categories:
            raise InputError(
                "SW-508", f"{what} names category {category}, which is unknown", path=path
            )
        score = raw.get("score")
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise InputError("SW-508", f"{what} has score {brief(score)}", path=path)
        segmentation = raw.get("segmentation")
        if not segmentation and segmentation != []:
            raise InputError("SW-508", f"{what} has no segmentation", path=path)
        by_image[image].append(_Result(number, category, float(score), segmentation))
    for image in sorted(by_image, key=lambda i: (*images.windows[i], i)):
        window = images.windows[image]
        found = []
        for r in by_image.pop(image):
            try:
                row, col, mask = _decode(r.segmentation, window)
            except _BadMaskError as e:
                raise InputError(
                    "SW-508", f"result {r.number} of image {image}: {e}", path=path
                ) from e
            prob = mask.astype(np.float32)
            found.append(
                Detection(image, r.category, r.score, window.row + row, window.col + col, prob)
            )
        yield image, found


class _BadMaskError(ValueError):
    """What is wrong with a segmentation."""


def _decode(segmentation: Any, window: Window) -> tuple[int, int, Bool]:
    """First row and column in the window, and the mask cropped to its columns and rows."""
    height, width = window.height, window.width
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if size != [height, width]:
            msg = f"its mask is of size {brief(size)}, the image of {[height, width]}"
            raise _BadMaskError(msg)
        return _crop(_counts(counts, height * width), height)
    if segmentation == []:
        return 0, 0, np.zeros((0, 0), bool)
    if isinstance(segmentation, list):
        rings = [_ring(r, height, width) for r in segmentation]
        merged = coco_mask.merge(coco_mask.frPyObjects(rings, height, width))
        return _crop(_counts(merged["counts"].decode(), height * width), height)
    msg = f"its segmentation is a {type(segmentation).__name__}"
    raise _BadMaskError(msg)


def _counts(counts: Any, pixels: int) -> NDArray[np.int64]:
    """Lengths of the runs of zeros and ones in turn."""
    if isinstance(counts, str):
        numbers = _decompress(counts)
    elif isinstance(counts, list) and all(type(n) is int for n in counts):
        numbers = counts
    else:
        msg = "its counts are neither text nor whole numbers"
        raise _BadMaskError(msg)
    total = sum(numbers)
    if any(n < 0 for n in numbers) or total != pixels:
        # Python does not print numbers of thousands of digits, which JSON may hold.
        told = total if abs(total) < 1 << _BITS else "far too many"
        msg = f"its counts add up to {told} px, the image has {pixels}"
        raise _BadMaskError(msg)
    return np.asarray(numbers, np.int64)


def _decompress(text: str) -> list[int]:
    numbers: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            msg = f"character {character!r} in its counts"
            raise _BadMaskError(msg)
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            if shift > _BITS:  # no end in sight, and time grows with the square of the length
                msg = "a count of more than 64 bits"
                raise _BadMaskError(msg)
            continue
        if code & 16:
            value -= 1 << shift
        numbers.append(value + numbers[-2] if len(numbers) > 2 else value)
        value = shift = 0
    if shift:
        msg = "its counts break off"
        raise _BadMaskError(msg)
    return numbers


def _crop(counts: NDArray[np.int64], height: int) -> tuple[int, int, Bool]:
    ends = np.cumsum(counts)
    starts, ends = ends[:-1:2], ends[1::2]
    some = ends > starts
    starts, ends = starts[some], ends[some]
    if not len(starts):
        return 0, 0, np.zeros((0, 0), bool)
    left, right = int(starts[0]) // height, int(ends[-1] - 1) // height + 1
    steps = np.zeros((right - left) * height + 1, np.int8)
    steps[starts - left * height] += 1
    steps[ends - left * height] -= 1
    mask = np.cumsum(steps[:-1], dtype=np.int8).astype(bool).reshape(right - left, height).T
    rows = np.flatnonzero(mask.any(axis=1))
    return int(rows[0]), left, np.ascontiguousarray(mask[rows[0] : rows[-1] + 1])


def _ring(ring: Any, height: int, width: int) -> list[float]:
    if not isinstance(ring, list) or len(ring) % 2 or len(ring) < 6:
        points = len(ring) // 2 if isinstance(ring, list) else 0
        msg = f"a polygon of {points} points"
        raise _BadMaskError(msg)
    if not all(type(v) in {int, float} for v in ring):
        msg = "a polygon with coordinates that are not numbers"
        raise _BadMaskError(msg)
    try:
        numbers = [float(v) for v in ring]
    except OverflowError:
        msg = "a polygon with a coordinate that is too large"
        raise _BadMaskError(msg) from None
    # pycocotools, which draws it, reads past its memory for NaN.
    if not all(map(math.isfinite, numbers)):
        msg = "a polygon with coordinates that are not numbers"
        raise _BadMaskError(msg)
    for values, limit in ((numbers[::2], width), (numbers[1::2], height)):
        low, high = min(values), max(values)
        if low < -POLYGON_TOLERANCE_PX or high > limit + POLYGON_TOLERANCE_PX:
            msg = f"a polygon from {low:g} to {high:g} leaves the image of {height} × {width} px"
            raise _BadMaskError(msg)
    return numbers


def _list(data: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    value = data.get(key)
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        raise InputError("SW-508", f"`{key}` is not a list of objects", path=path)
    return value


def _whole(data: dict[str, Any], key: str, what: str, path: Path, bits: int = _BITS) -> int:
    value = data.get(key)
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(
            "SW-508", f"{what} has `{key}` {brief(value)}; a whole number is needed", path=path
        )
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise InputError(
            "SW-508",
            f"{what} has `{key}` {brief(value)}; it must fit in {bits} bits with sign",
            path=path,
        )
    return value

"""A picture of what the network finds on a few fixed validation tiles.

One panel a tile: the input, outlines of the reference in white, outlines of the detections in yellow with
their scores, ignored ground hatched. The same weights and tiles give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch import nn

from components.dataset.presets import TERRAIN
from components.training.selection import MASK_THRESHOLD, Operating
from components.training.tiles import Tiles
from models.build import Detections, detect
from models.paste import paste_masks

#: Panels, and how many of them show tiles with objects, where there are such.
PANELS: Final = 6
WITH_OBJECTS: Final = 4

#: Side of a panel [px], about: a tile is enlarged by a whole number.
PANEL_PX: Final = 384

_COLUMNS: Final = 3
_GAP: Final = 8
_LINE: Final = 20
_NOTE: Final = (28.0, 15.0)
_WHITE: Final = (255, 255, 255)
_YELLOW: Final = (255, 221, 51)
_TOWARD: Final = np.array([90.0, 160.0, 255.0])
_AWAY: Final = np.array([255.0, 110.0, 80.0])
_STILL: Final = np.array([18.0, 18.0, 22.0])
_NOTHING: Final = np.array([70.0, 70.0, 70.0])

RGB = NDArray[np.uint8]
T = TypeVar("T", bound=np.generic)


class _Tile(NamedTuple):
    image: NDArray[np.float32]
    reference: NDArray[np.bool_]
    ignore: NDArray[np.bool_]
    number: int
    found: Detections


def chosen_tiles(tiles: Tiles) -> list[int]:
    """Indices of the tiles to show: spread over the fold, most of them with objects.

    Parameters
    ----------
    tiles : Tiles
        Validation fold.

    Returns
    -------
    list of int
        At most `PANELS`, ascending.
    """
    with_objects = [i for i in range(len(tiles)) if len(tiles[i][1]["labels"])]
    without = sorted(set(range(len(tiles))) - set(with_objects))
    n_with = min(len(with_objects), max(WITH_OBJECTS, PANELS - len(without)))
    n_without = min(len(without), PANELS - n_with)
    return sorted(_spread(with_objects, n_with) + _spread(without, n_without))


def _spread(values: list[int], count: int) -> list[int]:
    return [values[int((k + 0.5) * len(values) / count)] for k in range(count)]


def draw_predictions(
    model: nn.Module,
    tiles: Tiles,
    channels: Sequence[str],
    path: Path,
    outcome: Operating,
    epoch: int,
) -> None:
    """Detect on the chosen tiles and draw them.

    Parameters
    ----------
    model : torch.nn.Module
        Network, on any device.
    tiles : Tiles
        Validation fold.
    channels : sequence of str
        Names of the image's channels.
    path : Path
        PNG to write; appears whole or not at all.
    outcome : Operating
        Figures on the whole fold; detections from its threshold on are drawn.
    epoch : int
        For the title, from 0.
    """
    shown = [_look(model, tiles, i) for i in chosen_tiles(tiles)]
    panels = [_panel(tile, channels, outcome.score_threshold) for tile in shown]
    figures = (
        f"Validation after epoch {epoch + 1}: object F1 {outcome.f1:.2f}, precision "
        f"{outcome.precision:.2f}, recall {outcome.recall:.2f} at score >= "
        f"{outcome.score_threshold:.2f}"
    )
    legend = "White: reference. Yellow: found, with score. Hatched: ignored ground. Grey: no data."
    sheet = _sheet(panels, [figures, legend])
    part = path.with_name(f".{path.name}.part")
    sheet.save(part, format="PNG")
    part.replace(path)


def _look(model: nn.Module, tiles: Tiles, index: int) -> _Tile:
    image, target = tiles[index]
    (found,) = detect(model, [image])
    ignore = target.get("ignore")
    shape = (int(image.shape[1]), int(image.shape[2]))
    return _Tile(
        image.numpy(),
        target["masks"].numpy().astype(bool),
        np.zeros(shape, dtype=bool) if ignore is None else ignore.numpy(),
        int(target["image_id"]),
        found,
    )


def _panel(tile: _Tile, channels: Sequence[str], threshold: float) -> Image.Image:
    shape = (tile.image.shape[1], tile.image.shape[2])
    scale = max(1, round(PANEL_PX / max(shape)))
    canvas = _enlarge(_background(tile.image, channels), scale)
    rows, cols = np.indices(canvas.shape[:2])
    hatched = _enlarge(tile.ignore, scale) & ((rows + cols) % 8 < 2)
    canvas[hatched] = 200
    for mask in tile.reference:
        # Around the reference and inside the detections, so that one does not hide the other.
        large = _enlarge(mask, scale)
        canvas[ndimage.binary_dilation(large, iterations=2) & ~large] = _WHITE
    kept = int((tile.found.scores >= threshold).sum())  # the best come first
    notes: list[tuple[list[float], str]] = []
    for i, pasted in enumerate(
        paste_masks(tile.found.masks[:kept], tile.found.boxes[:kept], shape)
    ):
        mask = np.zeros(shape, dtype=bool)
        inside = pasted.prob.numpy() >= MASK_THRESHOLD
        height, width = inside.shape
        mask[pasted.row : pasted.row + height, pasted.col : pasted.col + width] = inside
        large = _enlarge(mask, scale)
        canvas[large & ~ndimage.binary_erosion(large, iterations=2)] = _YELLOW
        notes.append(
            ([float(v) * scale for v in tile.found.boxes[i]], f"{float(tile.found.scores[i]):.2f}")
        )
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=12)
    for at, text in _places(notes, picture.size):
        draw.text(at, text, fill=_YELLOW, font=font, stroke_width=2, stroke_fill=(0, 0, 0))
    caption = Image.new("RGB", (picture.width, picture.height + _LINE), _WHITE)
    caption.paste(picture, (0, _LINE))
    ImageDraw.Draw(caption).text(
        (0, 2),
        f"tile {tile.number}: {len(tile.reference)} in the reference, {kept} found",
        fill=(0, 0, 0),
        font=font,
    )
    return caption


def _background(image: NDArray[np.float32], channels: Sequence[str]) -> RGB:
    """The channel that shows motion best, as colours; grey where there is no data."""
    at = {name: i for i, name in enumerate(channels)}
    if "red" in at:
        values = image[[at["red"], at["green"], at["blue"]]].transpose(1, 2, 0)
        return (np.clip(values, 0, 1) * 255).astype(np.uint8)
    if "velocity" in at:
        signal = image[at["velocity"]]
    elif "sin" in at:
        signal = np.arctan2(image[at["sin"]], image[at["cos"]]) / np.float32(np.pi)
    else:
        signal = image[0]
    known = np.any([image[i] != 0 for name, i in at.items() if name not in TERRAIN], axis=0)
    limit = max(float(np.quantile(np.abs(signal[known]), 0.995)) if known.any() else 0.0, 1e-3)
    share = np.clip(signal / limit, -1.0, 1.0)[..., None]
    colour = np.where(share > 0, _TOWARD, _AWAY) * np.abs(share) + _STILL * (1 - np.abs(share))
    return np.where(known[..., None], colour, _NOTHING).astype(np.uint8)


def _enlarge(array: NDArray[T], scale: int) -> NDArray[T]:
    return array.repeat(scale, axis=0).repeat(scale, axis=1)


def _places(
    notes: list[tuple[list[float], str]], size: tuple[int, int]
) -> list[tuple[tuple[float, float], str]]:
    """Where the scores are written: above, below, right or left of a box, where none stands yet."""
    width, height = _NOTE
    done: list[tuple[tuple[float, float], str]] = []
    for (x1, y1, x2, y2), text in notes:
        sides = [(x1, y1 - height), (x1, y2 + 3), (x2 + 4, y1), (x1 - width, y1)]
        inside = [
            (min(max(x, 0.0), size[0] - width), min(max(y, 0.0), size[1] - height))
            for x, y in sides
        ]
        free = [
            (x, y)
            for x, y in inside
            if all(abs(x - u) >= width or abs(y - v) >= height for (u, v), _ in done)
        ]
        done.append(((free or inside)[0], text))
    return done


def _sheet(panels: list[Image.Image], title: list[str]) -> Image.Image:
    columns = min(_COLUMNS, max(len(panels), 1))
    rows = math.ceil(len(panels) / columns)
    width = max((p.width for p in panels), default=0)
    height = max((p.height for p in panels), default=0)
    top = _LINE * len(title) + _GAP
    size = (
        max(columns * (width + _GAP) + _GAP, 720),
        top + rows * (height + _GAP) + _GAP,
    )
    sheet = Image.new("RGB", size, _WHITE)
    draw = ImageDraw.Draw(sheet)
    for k, line in enumerate(title):
        draw.text((_GAP, 4 + k * _LINE), line, fill=(0, 0, 0), font=ImageFont.load_default(size=14))
    for k, panel in enumerate(panels):
        row, column = divmod(k, columns)
        sheet.paste(panel, (_GAP + column * (width + _GAP), top + row * (height + _GAP)))
    return sheet

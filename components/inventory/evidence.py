"""Why the network drew a landslide: a small panel of what it saw and what it made of it.

Left the velocity, right the mask probability, both with the outline; beside them how many of the windows
on that ground saw it. The least certain detections come first: they are what a reviewer is for.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib import colormaps
from PIL import Image

from components.grid import Window
from components.inventory.overview import (
    Reader,
    block_mean,
    read_overview,
    reduction,
    surroundings,
)
from components.inventory.relief import compose, velocity_limit

if TYPE_CHECKING:
    from affine import Affine
    from numpy.typing import NDArray

    from components.inventory.selection import Landslide

#: Panels a map: enough for an hour of review, and the report stays small enough to send.
EVIDENCE_MAX: Final = 48

#: Least side of the ground shown and largest side of a picture before magnifying [px].
_SIDE: Final = 48
_SIDE_MAX: Final = 64
#: Both pictures have about this side after magnifying [px].
_SHOWN: Final = 192

_OUTLINE: Final = (255, 196, 0)
_HALO: Final = (27, 31, 36)
_GAP: Final = 6
#: Colours of the velocity and levels of the probability.
_COLOURS: Final = 64
_LEVELS: Final = 32


@dataclass(frozen=True)
class Evidence:
    """One panel.

    Parameters
    ----------
    id : str
        The landslide's.
    score : float
        Calibrated where the weights are.
    probability : float
        Mean mask probability inside the outline.
    n_windows, n_covering : int
        Windows that saw it, of those that should have.
    limit : float
        Velocity of full colour [mm/yr].
    side_m : float
        Side of the ground shown [m].
    png : bytes
        The two pictures.
    """

    id: str
    score: float
    probability: float
    n_windows: int
    n_covering: int
    limit: float
    side_m: float
    png: bytes = field(repr=False)


def least_certain(landslides: Sequence[Landslide], n: int = EVIDENCE_MAX) -> list[Landslide]:
    """Those that need a second look first.

    Parameters
    ----------
    landslides : sequence of Landslide
        Of one map.
    n : int
        Wanted at most.

    Returns
    -------
    list of Landslide
        By rising score, then falling disagreement of the windows, then identity.
    """
    ordered = sorted(landslides, key=lambda x: (x.instance.score, x.instance.agreement, x.id))
    return ordered[:n]


def draw_evidence(
    landslide: Landslide, reader: Reader, shape: tuple[int, int], transform: Affine
) -> Evidence:
    """Draw the panel of one landslide.

    Parameters
    ----------
    landslide : Landslide
        The one in the middle.
    reader : Reader
        Reads layers of its map.
    shape : tuple of int
        Height and width of the map [px].
    transform : Affine
        Map pixel → map coordinates, north-up.

    Returns
    -------
    Evidence
        The same landslide on the same map gives the same bytes.
    """
    i = landslide.instance
    window = surroundings(i.bounds, shape, _SIDE)
    view = read_overview(reader, window, transform, _SIDE_MAX)
    side = reduction(window.height, window.width, _SIDE_MAX)
    probability = block_mean(_placed(i.prob, i.row, i.col, window), side)
    mask = block_mean(_placed(i.mask.astype(np.float32), i.row, i.col, window), side) >= 0.5
    limit = velocity_limit(view.velocity)
    factor = max(1, _SHOWN // max(mask.shape))
    # Velocity has a palette of its own: together with the violets the outline would take up their hue.
    velocity = Image.fromarray(np.rint(255 * compose(view, limit)).astype(np.uint8))
    painted = velocity.quantize(_COLOURS, dither=Image.Dither.NONE)
    colours = [*(painted.getpalette() or []), *([0] * 3 * _COLOURS)][: 3 * _COLOURS]
    violets = colormaps["Purples"](np.linspace(0, 1, _LEVELS))[:, :3]
    colours += np.rint(255 * violets).astype(int).ravel().tolist()
    colours += [*_OUTLINE, *_HALO, 255, 255, 255]
    outline = _COLOURS + _LEVELS
    levels = np.rint(probability * (_LEVELS - 1)).astype(np.uint8) + np.uint8(_COLOURS)
    pictures = [_outlined(a, mask, factor, outline) for a in (np.asarray(painted), levels)]
    gap = np.full((pictures[0].shape[0], _GAP), outline + 2, np.uint8)
    image = Image.fromarray(np.concatenate([pictures[0], gap, pictures[1]], axis=1))
    image.putpalette(colours)
    out = io.BytesIO()
    image.save(out, format="PNG")
    return Evidence(
        id=landslide.id,
        score=float(i.score),
        probability=float(i.prob[i.mask].mean()),
        n_windows=int(i.n_windows),
        n_covering=int(i.n_covering),
        limit=limit,
        side_m=window.height * abs(float(transform.a)),
        png=out.getvalue(),
    )


def _placed(crop: NDArray[np.float32], row: int, col: int, window: Window) -> NDArray[np.float32]:
    """A crop of the map inside a window that may cut it."""
    out = np.zeros((window.height, window.width), np.float32)
    r0, c0 = max(row, window.row), max(col, window.col)
    r1 = min(row + crop.shape[0], window.row_end)
    c1 = min(col + crop.shape[1], window.col_end)
    if r1 > r0 and c1 > c0:
        out[r0 - window.row : r1 - window.row, c0 - window.col : c1 - window.col] = crop[
            r0 - row : r1 - row, c0 - col : c1 - col
        ]
    return out


def _outlined(
    colours: NDArray[np.uint8], mask: NDArray[np.bool_], factor: int, outline: int
) -> NDArray[np.uint8]:
    """Magnify, and draw the pixel edges of the mask: a bright line inside, a dark one outside."""
    big = np.repeat(np.repeat(mask, factor, axis=0), factor, axis=1)
    picture = np.repeat(np.repeat(colours, factor, axis=0), factor, axis=1)
    picture[_grown(big) & ~big] = outline + 1
    picture[big & _grown(~big)] = outline
    return picture


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    out = mask.copy()
    out[1:] |= mask[:-1]
    out[:-1] |= mask[1:]
    out[:, 1:] |= mask[:, :-1]
    out[:, :-1] |= mask[:, 1:]
    return out

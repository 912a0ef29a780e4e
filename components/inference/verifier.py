"""The second look: stitched detections are weighed again by their traits, and get a new score.

The network scores a box by 7 × 7 cells of its features. Most of what it takes for landslides and is none
differs from them in what a box does not tell: how motion is spread over the outline, whether it follows
the line of sight as sliding does, how it lies on the slope. A small network weighs these `traits`. It is
fitted on the detections of the weights it belongs to (`components.verification`), and lies in the same file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from safetensors import SafetensorError, safe_open
from scipy.special import expit

from components.errors import ModelError
from components.grid import Window
from components.inference.instances import Instance
from components.inference.traits import MARGIN_PX, TRAITS, traits

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Raised when the same landslide gets other traits, or another score of them; a verifier that was fitted
#: under another version is refused.
ALGORITHM: Final = "verifier-1"

#: Key of the card; of it this module reads ``algorithm`` and ``traits`` (names in order).
CARD_KEY: Final = "verifier"

#: Traits farther than this from the middle are taken for this far [spreads].
CLIP: Final = 5.0

#: Landslides whose first pixel lies in the same block are looked at together: one read of the cube [px].
_BLOCK: Final = 1024

#: Digits of a probability: fewer than sums of another order could change.
_DIGITS: Final = 9

#: Weights and offsets of a perceptron.
Layers = tuple[tuple["NDArray[np.float64]", "NDArray[np.float64]"], ...]

#: Reads `components.inference.traits.LAYERS` of a window.
LayerReader = Callable[[Window], Mapping[str, "NDArray[Any]"]]


@dataclass(frozen=True, eq=False)
class Verifier:
    """Perceptrons over traits, whose mean counts (Lakshminarayanan et al. 2017, deep ensembles).

    Parameters
    ----------
    centre, scale : ndarray of float64, shape (T,)
        Middle and spread of each trait among the detections that it was fitted on; spreads > 0.
    members : tuple of tuple of (ndarray, ndarray)
        Of each perceptron its layers: weights ``[out, in]`` and offsets ``[out]``. The first takes 2 T
        values: traits less their middle in spreads, 0 where unknown, then 1 for each that is unknown.
        Between layers x·σ(x) (SiLU, Elfwing et al. 2018); the last gives one logit.
    """

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    members: tuple[Layers, ...]

    def probabilities(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Whether detections are landslides.

        Parameters
        ----------
        values : ndarray of float64, shape (n, T)
            Traits; NaN where unknown.

        Returns
        -------
        ndarray of float64, shape (n,)
            In [0, 1].
        """
        x = prepared(values, self.centre, self.scale)
        out: NDArray[np.float64] = np.mean([_probability(x, m) for m in self.members], axis=0)
        return np.round(out, _DIGITS)


def _probability(x: NDArray[np.float64], layers: Layers) -> NDArray[np.float64]:
    for weight, offset in layers[:-1]:
        x = x @ weight.T + offset
        x = x * expit(x)
    weight, offset = layers[-1]
    return np.asarray(expit(x @ weight.T + offset)[:, 0], np.float64)


def prepared(
    values: NDArray[np.float64], centre: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What the first layer takes.

    Parameters
    ----------
    values : ndarray of float64, shape (n, T)
        Traits; NaN where unknown.
    centre, scale : ndarray of float64, shape (T,)
        As `Verifier` has them.

    Returns
    -------
    ndarray of float64, shape (n, 2 T)
        Finite.
    """
    unknown = ~np.isfinite(values)
    x = np.clip((np.where(unknown, centre, values) - centre) / scale, -CLIP, CLIP)
    return np.concatenate([x, unknown], axis=1)


def load_verifier(weights: Path, card: Mapping[str, Any]) -> Verifier | None:
    """The verifier of weights, if they have one.

    Parameters
    ----------
    weights : Path
        The ``.safetensors`` file.
    card : mapping
        Its card.

    Returns
    -------
    Verifier or None
        None for weights without one: their scores stay as they are.

    Raises
    ------
    ModelError
        SW-401 where it was fitted on other traits than this program takes, or its tensors are missing or
        do not fit together.
    """
    found = card.get(CARD_KEY)
    if found is None:
        return None
    from models.weights import VERIFIER

    known = {"algorithm": ALGORITHM, "traits": list(TRAITS)}
    if not isinstance(found, Mapping) or {k: found.get(k) for k in known} != known:
        raise ModelError(
            "SW-401",
            "its verifier weighs other traits than this program takes",
            path=weights,
            remedy="Fit it again: slopewatch verifier --weights FILE.",
        )
    try:
        with safe_open(weights, "numpy") as f:
            names = [n for n in f.keys() if n.startswith(VERIFIER)]  # noqa: SIM118 - not a mapping
            tensors = {n: np.asarray(f.get_tensor(n), np.float64) for n in names}
        verifier = from_tensors({n.removeprefix(VERIFIER): t for n, t in tensors.items()})
        sound = bool((verifier.scale > 0).all()) and all(
            bool(np.isfinite(t).all()) for t in tensors.values()
        )
        fits = (
            sound
            and bool(verifier.members)
            and verifier.probabilities(np.zeros((1, len(TRAITS)))).shape == (1,)
        )
    except (KeyError, ValueError, IndexError, OSError, SafetensorError) as e:
        raise ModelError("SW-401", f"its verifier is damaged: {e}", path=weights) from e
    if not fits:
        raise ModelError("SW-401", "its verifier holds values that cannot be", path=weights)
    return verifier


def to_tensors(verifier: Verifier) -> dict[str, NDArray[np.float64]]:
    """A verifier by names, as the weights' file holds it.

    Parameters
    ----------
    verifier : Verifier

    Returns
    -------
    dict of str to ndarray
        ``centre``, ``scale``, and ``<member>.<layer>.weight`` and ``.bias``.
    """
    out = {"centre": verifier.centre, "scale": verifier.scale}
    for m, layers in enumerate(verifier.members):
        for k, (weight, offset) in enumerate(layers):
            out |= {f"{m}.{k}.weight": weight, f"{m}.{k}.bias": offset}
    return out


def from_tensors(tensors: Mapping[str, NDArray[np.float64]]) -> Verifier:
    """The verifier that `to_tensors` named.

    Parameters
    ----------
    tensors : mapping of str to ndarray

    Returns
    -------
    Verifier

    Raises
    ------
    KeyError, ValueError
        Where a tensor is missing or has no such name.
    """
    numbers = [tuple(map(int, n.split(".")[:2])) for n in tensors if n.endswith(".weight")]
    depth = {m: sum(a == m for a, _ in numbers) for m, _ in numbers}
    return Verifier(
        tensors["centre"],
        tensors["scale"],
        tuple(
            tuple((tensors[f"{m}.{k}.weight"], tensors[f"{m}.{k}.bias"]) for k in range(depth[m]))
            for m in range(len(depth))
        ),
    )


def verified(
    instances: Sequence[Instance],
    verifier: Verifier | None,
    read: LayerReader,
    shape: tuple[int, int],
) -> list[Instance]:
    """Stitched landslides with the scores of the second look.

    Parameters
    ----------
    instances : sequence of Instance
        With the scores of the stitcher.
    verifier : Verifier or None
        None leaves the scores as they are.
    read : callable
        Reads layers of the map.
    shape : tuple of int
        Height and width of the map [px].

    Returns
    -------
    list of Instance
        The same, in no particular order.
    """
    if verifier is None or not instances:
        return list(instances)

    def block(i: Instance) -> tuple[int, int]:
        return i.row // _BLOCK, i.col // _BLOCK

    out: list[Instance] = []
    for _, members in groupby(sorted(instances, key=block), block):
        near = list(members)
        window = _around(near, shape)
        layers = read(window)
        values = np.stack([traits(i, layers, window.row, window.col) for i in near])
        scores = verifier.probabilities(values)
        out += [replace(i, score=float(s)) for i, s in zip(near, scores, strict=True)]
    return out


def _around(instances: Sequence[Instance], shape: tuple[int, int]) -> Window:
    """The window that holds some landslides and the ground around them."""
    row = max(min(i.row for i in instances) - MARGIN_PX, 0)
    col = max(min(i.col for i in instances) - MARGIN_PX, 0)
    end = max(i.row + i.mask.shape[0] for i in instances) + MARGIN_PX
    last = max(i.col + i.mask.shape[1] for i in instances) + MARGIN_PX
    return Window(row, col, min(end, shape[0]) - row, min(last, shape[1]) - col)

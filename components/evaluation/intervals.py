"""Block bootstrap: how far a figure could lie off because the ground happened to be this ground.

Neighbouring landslides share weather, terrain and noise; they are no independent draws. So whole blocks
of ground are drawn with replacement, every figure is computed from the drawn blocks, and the middle
95 % of its values are the interval (Künsch 1989; percentile interval). Methods on the same maps use
the same draws: the difference of two methods has an interval of its own, narrower than theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]

#: Draws and their seed.
DRAWS: Final = 1000
SEED: Final = 20_221

#: Share of the draws inside the interval.
COVERAGE: Final = 0.95


def draw_weights(n_blocks: int, draws: int = DRAWS, seed: int = SEED) -> Float:
    """How often each block counts in each draw.

    Parameters
    ----------
    n_blocks : int
        Blocks of all maps together.
    draws : int
        Draws.
    seed : int
        Of the draws.

    Returns
    -------
    ndarray of float, shape (1 + draws, n_blocks)
        The first row is the sample itself: every block once.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=draws)
    return np.concatenate([np.ones((1, n_blocks)), drawn])


def interval(values: Float) -> dict[str, float | None]:
    """A figure with its interval.

    Parameters
    ----------
    values : ndarray of float, shape (1 + draws,)
        The figure on the sample, then on each draw; NaN where undefined.

    Returns
    -------
    dict
        ``value``, ``low``, ``high``; None where undefined.
    """
    drawn = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or not drawn.size:
        return {"value": None, "low": None, "high": None}
    tail = 50 * (1 - COVERAGE)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def differences(
    one: Mapping[str, Float], other: Mapping[str, Float]
) -> dict[str, dict[str, float | None]]:
    """Paired differences of the figures of two methods, on the same draws.

    Parameters
    ----------
    one, other : mapping of str to ndarray, shape (1 + draws,)
        Figures of both.

    Returns
    -------
    dict
        Figure → `interval` of ``one − other``, for the figures that both have.
    """
    return {k: interval(v - other[k]) for k, v in one.items() if k in other}

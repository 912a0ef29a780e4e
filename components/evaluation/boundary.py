"""How well outlines agree: the share of boundary pixels that lie on the other boundary, nearly."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bool = NDArray[np.bool_]


class Boundaries(NamedTuple):
    """Boundary pixels of two masks, and those that agree.

    Parameters
    ----------
    found, wanted : ndarray of bool, shape (H, W)
        Boundary pixels of detections and of references.
    found_near, wanted_near : ndarray of bool, shape (H, W)
        Those within the tolerance of the other boundary.
    """

    found: Bool
    wanted: Bool
    found_near: Bool
    wanted_near: Bool


def edge(mask: Bool) -> Bool:
    """Pixels of a mask with a 4-neighbour outside it; the map's edge is no boundary.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        Any.

    Returns
    -------
    ndarray of bool, shape (H, W)
    """
    inner: Bool = ndimage.binary_erosion(mask, border_value=1)
    return mask & ~inner


def boundaries(found: Bool, wanted: Bool, ignore: Bool, tolerance: int) -> Boundaries:
    """Compare the boundaries of two masks.

    Boundary F1 = 2PR/(P+R) with P the share of `found` that is `found_near` and R that of `wanted`
    that is `wanted_near` (Csurka et al. 2013).

    Parameters
    ----------
    found, wanted : ndarray of bool, shape (H, W)
        Union of detections and of references.
    ignore : ndarray of bool, shape (H, W)
        Boundary pixels here count on neither side.
    tolerance : int
        Euclidean distance [px].

    Returns
    -------
    Boundaries
    """
    span = np.arange(-tolerance, tolerance + 1)
    disc = span[:, None] ** 2 + span**2 <= tolerance**2
    a, b = edge(found), edge(wanted)
    near_a = ndimage.binary_dilation(a, disc)
    near_b = ndimage.binary_dilation(b, disc)
    a, b = a & ~ignore, b & ~ignore
    return Boundaries(a, b, a & near_b, b & near_a)

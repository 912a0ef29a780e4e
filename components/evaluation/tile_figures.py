"""Figures of networks on test tiles, with intervals over the scenes that the tiles are cut from."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from components.evaluation.experiments import Column
from components.evaluation.intervals import COVERAGE, DRAWS, SEED, interval
from components.training.tiletest import COLUMNS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]

#: Figure → its column in a table.
FIGURES: Final = (
    Column(key="f1", label="F1, IoU ≥ 0.5"),
    Column(key="precision", label="precision"),
    Column(key="recall", label="recall"),
    Column(key="f1_25", label="F1, IoU ≥ 0.25"),
    Column(key="f1_75", label="F1, IoU ≥ 0.75"),
    Column(key="matched_iou", label="mean IoU of the matches"),
    Column(key="pixel_iou", label="pixel IoU"),
)

#: What the intervals are.
INTERVAL: Final = (
    f"{COVERAGE:.0%} bootstrap over whole scenes, {DRAWS:,} draws, seed {SEED}, of the mean over training "
    "seeds; the same draws for all rows"
)


def per_group(counts: Sequence[Sequence[float]], groups: Sequence[Hashable]) -> NDArray[np.float64]:
    """Sums of the counts over the tiles of each scene.

    Parameters
    ----------
    counts : sequence of sequence of float, n × len(COLUMNS)
        Of `components.training.tiletest.count_tiles`.
    groups : sequence
        Scene or block of ground of each tile.

    Returns
    -------
    ndarray of float, shape (scenes, len(COLUMNS))
        In the order in which the scenes first come.
    """
    order = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    out = np.zeros((len(order), len(COLUMNS)))
    np.add.at(out, [order[g] for g in groups], np.asarray(counts, dtype=float))
    return out


def figures(table: Float, weights: Float) -> dict[str, Float]:
    """Figures of one network on the sample and on each draw.

    Parameters
    ----------
    table : ndarray of float, shape (scenes, len(COLUMNS))
        Of `per_group`.
    weights : ndarray of float, shape (1 + draws, scenes)
        Of `components.evaluation.intervals.draw_weights`.

    Returns
    -------
    dict of str to ndarray of float, shape (1 + draws,)
        Keys of `FIGURES`; NaN where undefined.
    """
    sums = dict(zip(COLUMNS, (weights @ table).T, strict=True))

    def share(part: Float, whole: Float) -> Float:
        return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)

    def f1(level: int) -> Float:
        tp, fp, fn = (sums[f"{k}{level}"] for k in ("tp", "fp", "fn"))
        return share(2 * tp, 2 * tp + fp + fn)

    tp, fp, fn = (sums[f"{k}50"] for k in ("tp", "fp", "fn"))
    pixels = [sums[f"pixel_{k}"] for k in ("tp", "fp", "fn")]
    return {
        "f1": f1(50),
        "precision": share(tp, tp + fp),
        "recall": share(tp, tp + fn),
        "f1_25": f1(25),
        "f1_75": f1(75),
        "matched_iou": share(sums["iou50"], tp),
        "pixel_iou": share(pixels[0], sum(pixels[1:], pixels[0])),
    }


def mean_figures(tables: Sequence[Float], weights: Float) -> dict[str, Float]:
    """Mean over training seeds of the figures, on the sample and on each draw.

    Parameters
    ----------
    tables : sequence of ndarray, shape (scenes, len(COLUMNS))
        One a seed, on the same tiles.
    weights : ndarray of float, shape (1 + draws, scenes)
        Draws.

    Returns
    -------
    dict of str to ndarray of float, shape (1 + draws,)
        NaN where it is undefined for any of the seeds.
    """
    every = [figures(t, weights) for t in tables]
    return {k: np.mean([f[k] for f in every], axis=0) for k in every[0]}


def row_cells(
    tables: Sequence[Float], weights: Float, reference: Mapping[str, Float] | None
) -> tuple[dict[str, Any], dict[str, Float]]:
    """Cells of one row of a comparison.

    Parameters
    ----------
    tables : sequence of ndarray
        As for `mean_figures`.
    weights : ndarray
        Draws.
    reference : mapping or None
        Figures of the first row; None where this is the first.

    Returns
    -------
    cells : dict
        `FIGURES` with intervals; ``range``, smallest and largest F1 of the seeds; ``difference``, the
        paired difference of F1 to the first row.
    values : dict of str to ndarray
        Of `mean_figures`.
    """
    values = mean_figures(tables, weights)
    cells: dict[str, Any] = {k: interval(v) for k, v in values.items()}
    each = [float(figures(t, weights[:1])["f1"][0]) for t in tables]
    cells["range"] = f"{min(each):.3f}–{max(each):.3f}" if np.isfinite(each).all() else None
    cells["difference"] = interval(values["f1"] - (reference or values)["f1"])
    return cells, values

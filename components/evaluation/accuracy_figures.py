"""Pictures of docs/accuracy.md: completeness, reliability, precision and recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from components.evaluation.figures_of_merit import RATE_EDGES, SIZE_EDGES, class_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK: Final = "#1b1f24"
_SOFT: Final = "#57606a"
#: Slow to fast, dark enough on white and told apart without colour by their markers.
_RAMP: Final = ("#9db4d0", "#6f93c2", "#3f74b5", "#0b5cad", "#08407a", "#04264a")
_MARKERS: Final = "ovsD^P"
_DPI: Final = 120
#: Cells of fewer landslides say nothing in the curves.
_FEW: Final = 5


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain(ax: Axes, title: str, x: str, y: str) -> None:
    ax.set_title(title, fontsize=10, loc="left", color=_INK)
    ax.set_xlabel(x, fontsize=9, color=_INK)
    ax.set_ylabel(y, fontsize=9, color=_INK)
    ax.tick_params(labelsize=8, color=_INK, labelcolor=_INK)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def draw_completeness(cells: Sequence[Mapping[str, Any]], path: Path, pixel_km2: float) -> None:
    """Probability of detection by size and rate: a table in colours, and curves with intervals.

    Parameters
    ----------
    cells : sequence of mapping
        Of `components.evaluation.figures_of_merit.completeness`.
    path : Path
        The ``.png`` file.
    pixel_km2 : float
        Area of a pixel [km²].
    """
    n_s, n_r = len(SIZE_EDGES) - 1, len(RATE_EDGES) - 1
    grid = np.full((n_r, n_s), np.nan)
    figure = _figure(10.4, 4.0)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    for k, c in enumerate(cells):
        i, j = divmod(k, n_r)
        value = c["probability"]["value"]
        grid[j, i] = np.nan if value is None else value
        text = f"{100 * value:.0f} %\n{c['n']}" if value is not None else "–"
        ink = "white" if value is not None and value > 0.55 else _INK
        left.text(i, j, text, ha="center", va="center", fontsize=8, color=ink)
    left.imshow(grid, cmap="Blues", vmin=0, vmax=1, origin="lower", aspect="auto")
    sizes = [cells[i * n_r]["size"] for i in range(n_s)]
    rates = [cells[j]["rate"] for j in range(n_r)]
    left.set_xticks(range(n_s), [class_label(*s) for s in sizes])
    left.set_yticks(range(n_r), [class_label(*r) for r in rates])
    pixels = f"footprint [px of {pixel_km2 * 1e6:,.0f} m²]"
    _plain(left, "Found, and number of landslides", pixels, "|LOS| rate [mm/yr]")
    x = np.arange(n_s)
    for j, rate in enumerate(rates):
        column = [cells[i * n_r + j] for i in range(n_s)]
        known = [i for i, c in enumerate(column) if c["n"] >= _FEW]
        if not known:
            continue
        y, low, high = (
            np.array([column[i]["probability"][k] for i in known], float)
            for k in ("value", "low", "high")
        )
        # Beside each other, or the bars would hide one another.
        at = x[known] + 0.09 * (j - (n_r - 1) / 2)
        bars = np.clip([y - low, high - y], 0, None)
        right.errorbar(
            at, y, yerr=bars, color=_RAMP[j], marker=_MARKERS[j], markersize=4.5,
            linewidth=1.3, elinewidth=0.8, label=class_label(*rate),
        )  # fmt: skip
    right.set_xticks(x, [class_label(*s) for s in sizes])
    right.set_ylim(-0.03, 1.03)
    _plain(right, "Probability of detection, 95 % intervals", pixels, "share found")
    if right.get_legend_handles_labels()[0]:
        figure.legend(
            title="|LOS| [mm/yr]", fontsize=8, title_fontsize=8, frameon=False,
            loc="outside right center",
        )  # fmt: skip
    save_figure(figure, path)


def draw_reliability(
    tables: Mapping[str, Sequence[Mapping[str, Any]]], ece: Mapping[str, Any], path: Path
) -> None:
    """Share of true detections over the score, before and after calibration.

    Parameters
    ----------
    tables : mapping
        ``before`` and ``after``: rows of `components.evaluation.calibrate.reliability`.
    ece : mapping
        ``before`` and ``after``: figures with intervals.
    path : Path
        The ``.png`` file.
    """
    figure = _figure(8.0, 3.6)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, name, title in zip(
        axes, ("before", "after"), ("Raw score", "Calibrated score"), strict=True
    ):
        rows = tables[name]
        ax.plot([0, 1], [0, 1], color=_SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
        most = max((r["n"] for r in rows), default=1)
        for r in rows:
            ax.bar((r["low"] + r["high"]) / 2, r["n"] / most * 0.25, width=0.092, color="#dfe6ee")
        ax.plot(
            [r["score"] for r in rows], [r["hits"] for r in rows],
            color=_RAMP[3], marker="o", markersize=4.5, linewidth=1.4,
        )  # fmt: skip
        for r in rows:
            ax.annotate(
                f"{r['n']}", (r["score"], r["hits"]), xytext=(0, 6),
                textcoords="offset points", ha="center", fontsize=7, color=_SOFT,
            )  # fmt: skip
        value = ece[name]["value"]
        error = "–" if value is None else f"{value:.3f}"
        _plain(ax, f"{title}, ECE {error}", "score", "share that are landslides")
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1.06)
    axes[1].set_ylabel("")
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure without time and software stamps.

    Parameters
    ----------
    figure : Figure
        Any.
    path : Path
        The ``.png`` file.
    """
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})

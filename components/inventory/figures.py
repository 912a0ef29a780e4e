"""Maps as pictures: velocity over shaded terrain with the landslides' outlines.

Figures are built as objects and written without time or software stamps: the same map gives the same
bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import shapely
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PathCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.path import Path as Outline

from components.inventory.relief import VELOCITY_COLOURS, compose, velocity_limit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from components.inventory.overview import Overview

#: Longest side of the drawn raster [px].
MAX_PX: Final = 1600

_DPI: Final = 160
_INK: Final = "#1b1f24"
_FOUND: Final = "#ffd23f"
_TRUTH: Final = "#12b886"


@dataclass(frozen=True)
class Zoom:
    """One small picture of a single landslide.

    Parameters
    ----------
    overview : Overview
        Its surroundings at full resolution.
    title : str
        One or two lines.
    """

    overview: Overview
    title: str


@dataclass(frozen=True)
class Outlines:
    """What is drawn over the map.

    Parameters
    ----------
    found : sequence of shapely geometry
        Landslides of the inventory, in map coordinates.
    truth : sequence of shapely geometry
        Reference polygons; empty where there are none.
    """

    found: Sequence[shapely.Geometry] = field(default=(), repr=False)
    truth: Sequence[shapely.Geometry] = field(default=(), repr=False)


def _path(geometry: shapely.Geometry) -> Outline:
    vertices: list[NDArray[np.float64]] = []
    codes: list[NDArray[np.uint8]] = []
    for part in shapely.get_parts(geometry):
        for ring in [part.exterior, *part.interiors]:
            xy = shapely.get_coordinates(ring)
            code = np.full(len(xy), Outline.LINETO, dtype=np.uint8)
            code[0], code[-1] = Outline.MOVETO, Outline.CLOSEPOLY
            vertices.append(xy)
            codes.append(code)
    return Outline(np.concatenate(vertices), np.concatenate(codes))


def _draw_outlines(ax: Axes, outlines: Outlines, width: float) -> None:
    for geometries, colour, z in ((outlines.truth, _TRUTH, 3), (outlines.found, _FOUND, 4)):
        paths = [_path(g) for g in geometries if not g.is_empty]
        if not paths:
            continue
        style: dict[str, Any] = {"facecolors": "none", "joinstyle": "miter", "capstyle": "butt"}
        # The halo is a wider line below: readable on red, on blue and on bright relief alike.
        for line, shade in ((width * 2.2, _INK), (width, colour)):
            ax.add_collection(
                PathCollection(paths, linewidths=line, edgecolors=shade, zorder=z, **style),
                autolim=False,
            )


def _scale_bar(ax: Axes, overview: Overview, *, small: bool = False) -> None:
    west, south, east, north = overview.bounds
    width, height = east - west, north - south
    wanted = width / (3 if small else 5)
    power = 10.0 ** np.floor(np.log10(wanted))
    length = max(s * power for s in (1, 2, 5) if s * power <= wanted)
    x, y = west + 0.04 * width, south + 0.045 * height
    thick = height * (0.018 if small else 0.007)
    pad = 0.02 * width
    # A plate behind the bar keeps it readable on any ground.
    ax.add_patch(
        Rectangle(
            (x - pad, y - 1.6 * thick),
            length + 2 * pad,
            thick * 2.6 + height * (0.095 if small else 0.024),
            facecolor="white",
            alpha=0.82,
            edgecolor="none",
            zorder=5,
        )
    )
    for i in range(2):
        ax.add_patch(
            Rectangle(
                (x + i * length / 2, y),
                length / 2,
                thick,
                facecolor=_INK if i == 0 else "white",
                edgecolor=_INK,
                linewidth=0.6,
                zorder=6,
            )
        )
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    ax.text(
        x + length / 2,
        y + thick * 1.5,
        text,
        ha="center",
        va="bottom",
        fontsize=6.5 if small else 8.5,
        color=_INK,
        zorder=6,
    )


def _north_arrow(ax: Axes) -> None:
    ax.annotate(
        "N",
        xy=(0.96, 0.975),
        xytext=(0.96, 0.905),
        xycoords="axes fraction",
        ha="center",
        va="center",
        fontsize=10,
        fontweight="bold",
        color=_INK,
        zorder=6,
        bbox={
            "boxstyle": "circle,pad=0.25",
            "facecolor": "white",
            "alpha": 0.82,
            "edgecolor": "none",
        },
        arrowprops={
            "arrowstyle": "-|>",
            "color": _INK,
            "linewidth": 1.6,
            "shrinkA": 9,
            "shrinkB": 0,
        },
    )


def _show(ax: Axes, overview: Overview, limit: float) -> None:
    west, south, east, north = overview.bounds
    ax.imshow(
        compose(overview, limit),
        extent=(west, east, south, north),
        interpolation="nearest",
        zorder=1,
    )
    ax.set_xlim(west, east)
    ax.set_ylim(south, north)
    ax.set_aspect("equal")


def draw_map(
    overview: Overview, outlines: Outlines, *, title: str, subtitle: str, crs: str
) -> Figure:
    """One map: velocity over relief, outlines, scale bar, north arrow, coordinates, colour bar.

    Parameters
    ----------
    overview : Overview
        At most `MAX_PX` pixels wide and high.
    outlines : Outlines
        Landslides and, where known, references.
    title, subtitle : str
        Head lines.
    crs : str
        Name of the coordinate system.

    Returns
    -------
    Figure
    """
    west, south, east, north = overview.bounds
    ratio = (north - south) / (east - west)
    # Inches: the map keeps its shape, head and colour bar a fixed height.
    map_w = 9.0 if ratio <= 1.2 else 9.0 * 1.2 / ratio
    map_h = map_w * ratio
    left, right, bottom, top = 0.85, 0.25, 1.35, 0.85
    width, height = left + map_w + right, bottom + map_h + top
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    ax = figure.add_axes((left / width, bottom / height, map_w / width, map_h / height))
    limit = velocity_limit(overview.velocity)
    _show(ax, overview, limit)
    _draw_outlines(ax, outlines, 0.75)
    _scale_bar(ax, overview)
    _north_arrow(ax)

    ax.xaxis.set_major_formatter(lambda v, _: f"{v / 1000:g}")
    ax.yaxis.set_major_formatter(lambda v, _: f"{v / 1000:g}")
    ax.tick_params(labelsize=8, length=3, color=_INK, labelcolor=_INK)
    for label in ax.get_yticklabels():
        label.set_rotation(90)
        label.set_verticalalignment("center")
    ax.set_xlabel("Easting [km]", fontsize=8.5, color=_INK)
    ax.set_ylabel("Northing [km]", fontsize=8.5, color=_INK)
    for spine in ax.spines.values():
        spine.set_linewidth(0.8)
        spine.set_color(_INK)

    x = left / width
    figure.text(x, 1 - 0.22 / height, title, fontsize=14, fontweight="bold", va="top", color=_INK)
    figure.text(x, 1 - 0.55 / height, subtitle, fontsize=9, va="top", color="#57606a")
    figure.text(
        1 - right / width, 1 - 0.55 / height, crs, fontsize=9, va="top", ha="right", color="#57606a"
    )
    _colour_bar(figure, (x, 0.46 / height, 0.42 * map_w / width, 0.14 / height), limit)
    _legend(figure, overview, outlines, 1 - right / width, 0.70 / height)
    return figure


def _colour_bar(figure: Figure, place: tuple[float, float, float, float], limit: float) -> None:
    ax = figure.add_axes(place)
    bar = figure.colorbar(
        ScalarMappable(Normalize(-limit, limit), VELOCITY_COLOURS), cax=ax, orientation="horizontal"
    )
    bar.outline.set_linewidth(0.6)
    bar.set_ticks([-limit, -limit / 2, 0, limit / 2, limit])
    bar.ax.tick_params(labelsize=8, length=2.5, color=_INK, labelcolor=_INK)
    bar.ax.xaxis.set_major_formatter(lambda v, _: f"{v:+g}".replace("-", "−") if v else "0")
    x, y, width, height = place
    above = y + height * 1.45
    figure.text(x, above, "◀ away", fontsize=8, ha="left", color="#a4232d")
    figure.text(x + width, above, "toward ▶", fontsize=8, ha="right", color="#1f4fa3")
    figure.text(x + width / 2, above, "LOS velocity [mm/yr]", fontsize=8.5, ha="center", color=_INK)


def _legend(figure: Figure, overview: Overview, outlines: Outlines, x: float, y: float) -> None:
    handles: list[Any] = [_line(_FOUND, f"landslide ({len(outlines.found)})")]
    if outlines.truth:
        handles.append(_line(_TRUTH, f"reference ({len(outlines.truth)})"))
    if not np.isfinite(overview.velocity).all():
        handles.append(Patch(facecolor="#a9a9a9", edgecolor="none", label="not measured"))
    figure.legend(
        handles=handles,
        loc="upper right",
        bbox_to_anchor=(x, y),
        ncols=len(handles),
        frameon=False,
        fontsize=8.5,
        borderaxespad=0.0,
        handlelength=1.6,
        labelcolor=_INK,
    )


def _line(colour: str, label: str) -> Line2D:
    import matplotlib.patheffects as effects

    halo = [effects.Stroke(linewidth=4.0, foreground=_INK), effects.Normal()]
    return Line2D([], [], color=colour, linewidth=2.0, label=label, path_effects=halo)


def draw_zooms(
    zooms: Sequence[Zoom], outlines: Outlines, *, limit: float, columns: int = 4
) -> Figure:
    """Small pictures of single landslides, all in one colour scale.

    Parameters
    ----------
    zooms : sequence of Zoom
        At least one.
    outlines : Outlines
        Everything that may appear in them.
    limit : float
        Velocity of full colour [mm/yr].
    columns : int
        Pictures a row.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        Without a picture.
    """
    if not zooms:
        msg = "draw_zooms needs at least one picture"
        raise ValueError(msg)
    rows = -(-len(zooms) // columns)
    cell, head, gap, foot = 2.42, 0.42, 0.14, 0.62
    width = columns * cell + (columns + 1) * gap
    height = rows * (cell + head) + gap + foot
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    found, truth = shapely.STRtree(list(outlines.found)), shapely.STRtree(list(outlines.truth))
    for i, zoom in enumerate(zooms):
        r, c = divmod(i, columns)
        x = gap + c * (cell + gap)
        y = height - (r + 1) * (cell + head)
        ax = figure.add_axes((x / width, y / height, cell / width, cell / height))
        _show(ax, zoom.overview, limit)
        box = shapely.box(*zoom.overview.bounds)
        near = Outlines(
            [outlines.found[k] for k in sorted(found.query(box).tolist())],
            [outlines.truth[k] for k in sorted(truth.query(box).tolist())],
        )
        _draw_outlines(ax, near, 1.5)
        _scale_bar(ax, zoom.overview, small=True)
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set_linewidth(0.6)
            spine.set_color("#8c959f")
        ax.set_title(zoom.title, fontsize=7.5, loc="left", color=_INK, pad=3, linespacing=1.3)
    _colour_bar(figure, (0.3 / width, 0.22 / height, 3.4 / width, 0.11 / height), limit)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure without time and software stamps.

    Parameters
    ----------
    figure : Figure
        Any.
    path : Path
        The ``.png`` file.
    """
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})

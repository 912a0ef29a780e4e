"""Completeness of an inventory: from which size and rate on landslides are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from components.evaluation.experiments import cell, table
from components.evaluation.labels import model_of

#: Share that counts as found.
_DECILE: Final = 0.9


def statement(cells: Sequence[Mapping[str, Any]]) -> list[tuple[int, float | None, int, int]]:
    """From which rate on landslides of a least size are found nine times in ten.

    Parameters
    ----------
    cells : sequence of mapping
        Of `components.evaluation.figures_of_merit.completeness`.

    Returns
    -------
    list of tuple
        Least size [px], least |LOS| rate [mm/yr] or None where no class reaches it (then of any
        rate), landslides of both and more, found of them.
    """
    out: list[tuple[int, float | None, int, int]] = []
    for size in sorted({c["size"][0] for c in cells}):
        larger = [c for c in cells if c["size"][0] >= size]
        answer: tuple[int, float | None, int, int] | None = None
        for rate in sorted({c["rate"][0] for c in cells}):
            of = [c for c in larger if c["rate"][0] >= rate]
            n, found = sum(c["n"] for c in of), sum(c["found"] for c in of)
            if n and found >= _DECILE * n:
                answer = (size, rate, n, found)
                break
        n, found = sum(c["n"] for c in larger), sum(c["found"] for c in larger)
        out.append(answer or (size, None, n, found))
    return out


def completeness_section(metrics: Mapping[str, Any], pictures: Mapping[str, str]) -> list[str]:
    """Which share of all landslides is found, by size and rate.

    Parameters
    ----------
    metrics : mapping
        Of `components.evaluation.accuracy.measure`.
    pictures : mapping of str to str
        ``completeness`` names the picture beside the document.

    Returns
    -------
    list of str
        Paragraphs of Markdown; empty without the split ``test``.
    """
    test = metrics["splits"].get("test")
    if test is None:
        return []
    cells = test["methods"][model_of(metrics)]["completeness"]
    pixel_km2 = metrics["settings"]["pixel_km2"]
    rows = []
    for size, rate, n, found in statement(cells):
        area = f"{size} px ({size * pixel_km2:.3f} km²)" if size else "any size"
        start = "at no rate; of all" if rate is None else f"{rate:g} mm/yr"
        rows.append([area, start, cell(n), f"{found / n:.3f}" if n else "–"])
    return [
        "## Completeness of an inventory",
        (
            "Of all landslides on observable ground, seen by the radar or not: a landslide counts as found "
            "where a detection has an IoU of at least 0.1 with its whole footprint and one centroid lies in "
            "the other. Motion across the line of sight is slow along it."
        ),
        f"![Probability of detection by size and rate]({pictures['completeness']})",
        "Nine in ten are found from here on:",
        table(["least size", "from |LOS| rate", "n", "share found"], rows),
    ]

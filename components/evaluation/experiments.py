"""Tables of other experiments, written as JSON and rendered into docs/accuracy.md.

One file an experiment, ``docs/experiments/<name>.json``, in the form of `Experiment`. A cell is a
number, a text, or a figure with its interval ``{"value": …, "low": …, "high": …}``. What was tried is free
text in ``docs/experiments/notes.md`` and goes in as it stands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.errors import ProcessingError

#: Free text on what was tried.
NOTES: Final = "notes.md"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Figure(_Strict):
    """A figure with its interval."""

    value: float | None
    """On the sample."""
    low: float | None = None
    """Lower end."""
    high: float | None = None
    """Upper end."""


Cell = Figure | float | int | str | None


class Column(_Strict):
    """One column of the table."""

    key: str
    """Key of the cells in the rows."""
    label: str
    """Head of the column, with the unit."""
    digits: int = Field(default=3, ge=0, le=6)
    """Decimals."""


class Picture(_Strict):
    """A picture beside the JSON."""

    path: str
    """Relative to the document."""
    caption: str
    """What it shows."""


class Experiment(_Strict):
    """One experiment: what was measured, how, on how much, and what came out."""

    name: str
    """File name without ending."""
    title: str
    """Heading."""
    order: int = 100
    """Place among the experiments; small first."""
    definition: str
    """What the figures are, in a sentence or two."""
    columns: list[Column] = Field(min_length=1)
    """Columns after the first, which holds `label`."""
    rows: list[dict[str, Cell]]
    """Each with `label` and the columns' keys; what is missing is shown as a dash."""
    n: str
    """How many cases the figures are of."""
    seeds: list[int]
    """Seeds of data and training."""
    interval: str
    """What the intervals are; `none` where there are none."""
    commands: list[str]
    """What makes it again."""
    device: str
    """Hardware and precision."""
    notes: list[str] = []
    """What a reader must know to read the table rightly."""
    pictures: list[Picture] = []
    """Pictures below the table."""


def read_experiments(folder: Path) -> list[Experiment]:
    """All experiments of a folder.

    Parameters
    ----------
    folder : Path
        ``docs/experiments``; need not exist.

    Returns
    -------
    list of Experiment
        By `order`, then name.

    Raises
    ------
    ProcessingError
        SW-604 for a file that is not of this form, with the place of the first fault.
    """
    out = []
    for path in sorted(folder.glob("*.json")):
        try:
            found = Experiment.model_validate_json(path.read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError) as e:
            first = e.errors()[0] if isinstance(e, ValidationError) else {"loc": (), "msg": str(e)}
            where = ".".join(str(x) for x in first["loc"])
            raise ProcessingError("SW-604", f"`{where}`: {first['msg']}", path=path) from e
        if found.name != path.stem:
            raise ProcessingError("SW-604", f"`name` is {found.name!r}", path=path)
        out.append(found)
    return sorted(out, key=lambda e: (e.order, e.name))


def cell(value: Any, digits: int = 3) -> str:
    """A cell for people.

    Parameters
    ----------
    value : Figure, mapping, number, str or None
        With its interval where it has one.
    digits : int
        Decimals.

    Returns
    -------
    str
        ``0.853 (0.831–0.874)``; a dash where unknown.
    """
    if isinstance(value, Figure):
        value = value.model_dump()
    if isinstance(value, dict):
        if value["value"] is None:
            return "–"
        text = cell(float(value["value"]), digits)
        if value.get("low") is None or value.get("high") is None:
            return text
        low, high = (cell(float(value[k]), digits) for k in ("low", "high"))
        # A dash between two signs would be unreadable.
        between = " to " if "−" in low + high else "–"
        return f"{text} ({low}{between}{high})"
    if value is None:
        return "–"
    if isinstance(value, float):
        text = f"{value:,.{digits}f}"
        zero = float(text.replace(",", "")) == 0
        return text.lstrip("-") if zero else text.replace("-", "−")
    return f"{value:,}" if isinstance(value, int) else str(value)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, first column left, others right.

    Parameters
    ----------
    head : list of str
        Column heads.
    rows : list of list of str
        Cells.

    Returns
    -------
    str
    """
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    escaped = [[c.replace("|", "\\|") for c in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def experiment_markdown(e: Experiment) -> str:
    """One experiment as a section.

    Parameters
    ----------
    e : Experiment
        What to show.

    Returns
    -------
    str
        Markdown below a heading of the second level.
    """
    rows = [
        [str(row.get("label", "–")), *(cell(row.get(c.key), c.digits) for c in e.columns)]
        for row in e.rows
    ]
    seeds = ", ".join(map(str, e.seeds)) or "none"
    facts = f"n: {e.n}. Seeds: {seeds}. Intervals: {e.interval}. Device: {e.device}."
    parts = [f"## {e.title}", e.definition, table(["", *(c.label for c in e.columns)], rows), facts]
    parts += ["\n".join(f"- {note}" for note in e.notes)] if e.notes else []
    parts += [f"![{p.caption}]({p.path})\n\n{p.caption}" for p in e.pictures]
    parts += ["```\n" + "\n".join(e.commands) + "\n```"] if e.commands else []
    return "\n\n".join(parts)

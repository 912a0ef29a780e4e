"""Numbers and dates as people write them."""

from __future__ import annotations

import math
from datetime import date
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    pass

_MONTHS: Final = (
    "Jan",
    "Feb",
    "Mar",
    "Apr",
    "May",
    "Jun",
    "Jul",
    "Aug",
    "Sep",
    "Oct",
    "Nov",
    "Dec",
)


def plain_date(iso: str) -> str:
    """An ISO date for people, in English whatever the locale.

    Parameters
    ----------
    iso : str
        ``YYYY-MM-DD``.

    Returns
    -------
    str
        ``D Mon YYYY``.
    """
    d = date.fromisoformat(iso)
    return f"{d.day} {_MONTHS[d.month - 1]} {d.year}"


def number(value: float | None, digits: int = 0) -> str:
    """A number for people: thousands in groups, a true minus sign, a dash where unknown.

    Parameters
    ----------
    value : float or None
        NaN and None are unknown.
    digits : int
        Decimals.

    Returns
    -------
    str
    """
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")

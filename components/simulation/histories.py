"""How a landslide's activity changes with time: steady, seasonal, starting, stopping and others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from components.layers import DAYS_PER_YEAR

#: History → share of landslides.
HISTORIES = {
    "steady": 0.40,
    "seasonal": 0.10,
    "starting": 0.15,
    "stopping": 0.15,
    "accelerating": 0.10,
    "slowing": 0.10,
}

_SEASONAL_AMPLITUDE = 0.7


@dataclass(frozen=True)
class History:
    """Activity (rate relative to the nominal one) as a function of time.

    Parameters
    ----------
    kind : str
        One of `HISTORIES`.
    start_day, stop_day : float
        Activity is zero outside [days since the first acquisition]; may be infinite.
    first, last : float
        Activity at day 0 and at the last day; linear between (and beyond).
    span_days : float
        The last day.
    phase_day : float
        Day of the steepest seasonal increase; unused by other kinds.
    """

    kind: str
    start_day: float
    stop_day: float
    first: float
    last: float
    span_days: float
    phase_day: float = 0.0

    def mean_activity(self, day0: float, day1: float) -> float:
        """Mean activity between two days, exactly integrated.

        Parameters
        ----------
        day0, day1 : float
            Days since the first acquisition, ``day0 < day1``.

        Returns
        -------
        float
            1 is the nominal rate.
        """
        a, b = max(day0, self.start_day), min(day1, self.stop_day)
        if b <= a:
            return 0.0
        trend = (self.last - self.first) / self.span_days
        total = self.first * (b - a) + 0.5 * trend * (b * b - a * a)
        if self.kind == "seasonal":
            w = 2.0 * np.pi / DAYS_PER_YEAR
            total += (
                _SEASONAL_AMPLITUDE
                / w
                * (np.cos(w * (a - self.phase_day)) - np.cos(w * (b - self.phase_day)))
            )
        return float(total / (day1 - day0))


def draw_history(
    rng: np.random.Generator, periods: int, period_days: int, kind: str | None = None
) -> History:
    """Draw a history over consecutive periods.

    Starts lie after the end of the first period and stops before the beginning of the last, where
    there is more than one, so that a change of state shows in the maps.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    periods : int
        Number of periods, >= 1.
    period_days : int
        Length of a period [days].
    kind : str, optional
        One of `HISTORIES`; drawn if left out.

    Returns
    -------
    History
    """
    if kind is None:
        kind = str(rng.choice(list(HISTORIES), p=list(HISTORIES.values())))
    u, v = rng.uniform(size=2)
    span = float(periods * period_days)
    start, stop, first, last = -np.inf, np.inf, 1.0, 1.0
    if kind == "starting":
        start = period_days * (1.0 + u * (periods - 1.6)) if periods > 1 else 0.5 * u * span
    elif kind == "stopping":
        stop = period_days * (0.6 + u * (periods - 1.6)) if periods > 1 else (1 - 0.5 * u) * span
    elif kind == "accelerating":
        first, last = 0.2 + 0.4 * u, 1.4 + 0.6 * v
    elif kind == "slowing":
        first, last = 1.4 + 0.6 * v, 0.2 + 0.4 * u
    return History(kind, start, stop, first, last, span, float(v * DAYS_PER_YEAR))

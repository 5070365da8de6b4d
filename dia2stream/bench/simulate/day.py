"""A day of calls: when they come and how long they last. Pure, from a seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

HOUR = 3600.0
_SLICE = 60.0  # seconds in which calls come at one rate
DAY = 24 * HOUR

# Of 1,000 calls, how many come in each hour, from midnight on: a business line of one time zone.
BUSINESS_HOURS = (4, 3, 2, 2, 3, 8, 20, 45, 80, 98, 100, 92, 75, 80, 92, 88, 72, 50, 32, 22, 14, 9, 6, 3)
_SPREAD = 0.8  # of the logarithm of a call's length


@dataclass(frozen=True)
class Day:
    """So many calls, of so many seconds on average. hours: how the calls are shared out among the 24 hours."""

    calls: float
    call_seconds: float = 180.0
    hours: tuple[float, ...] = BUSINESS_HOURS

    def __post_init__(self) -> None:
        if len(self.hours) != 24 or min(self.hours) < 0 or not sum(self.hours):
            raise ValueError(f"hours has {len(self.hours)} shares; a day has 24, none below 0, not all 0")

    @property
    def peak(self) -> float:
        """Calls at the same time in the busiest hour, on average."""
        return self.calls * max(self.hours) / sum(self.hours) / HOUR * self.call_seconds

    def rate(self, at: float) -> float:
        """Calls a second at a moment: the line through the shares of the hours, each at the hour's middle."""
        hour = at / HOUR - 0.5
        before, part = int(hour // 1), hour % 1
        share = (1 - part) * self.hours[before % 24] + part * self.hours[(before + 1) % 24]
        return self.calls * share / sum(self.hours) / HOUR

    def arrivals(self, start: float, stop: float, seed: int) -> Iterator[tuple[float, float]]:
        """(when a call comes, how many seconds it lasts), in order, between two moments of whole minutes."""
        random = np.random.default_rng(seed)
        for at in np.arange(start, stop, _SLICE).tolist():
            count = random.poisson(self.rate(at + _SLICE / 2) * _SLICE)
            times = np.sort(random.uniform(at, at + _SLICE, count))
            yield from zip(times.tolist(), self._lengths(random, count).tolist(), strict=True)

    def _lengths(self, random: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Log-normal: many short calls, a few long ones."""
        return random.lognormal(log(self.call_seconds) - _SPREAD**2 / 2, _SPREAD, count)

"""Which replica a new client should go to: the least loaded by slots. Knows nothing of Ray."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Report = Mapping[str, Any]  # slots, free, turn; empty before a replica's first one

REPORT_SECONDS = 1.0  # how often each replica tells its free slots, besides with each answer to a router
SILENT_SECONDS = 5.0  # a replica that did not answer is asked last for so long


class Choice:
    """Orders replicas by the share of their slots that is taken; those that are full come last.

    A report may be seconds old when it gets here. So what a replica answered when it was asked to keep a slot counts
    until a newer report comes (`turn` says which is newer), and meanwhile each question that is not answered yet counts
    as a slot.
    Example: a replica told 3 of 8 slots free, and two other clients' questions are on their way there -> 1 free.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._answers: dict[str, Report] = {}
        self._asked: Counter[str] = Counter()
        self._silent: dict[str, float] = {}  # until when

    @contextmanager
    def asking(self, name: str) -> Iterator[None]:
        """While the block runs, this replica is asked to keep a slot."""
        self._asked[name] += 1
        try:
            yield
        finally:
            self._asked[name] -= 1
            if not self._asked[name]:
                del self._asked[name]

    def told(self, name: str, report: Report) -> None:
        """What this replica has answered."""
        self._answers[name] = _newer(report, self._answers.get(name, {}))
        self._silent.pop(name, None)

    def silent(self, name: str) -> None:
        """This replica has not answered."""
        self._silent[name] = self._now() + SILENT_SECONDS

    def keep(self, names: Iterable[str]) -> None:
        """These are the replicas that there are."""
        there = set(names)
        for known in (self._answers, self._silent):
            for gone in set(known) - there:
                del known[gone]

    def order(self, reports: Mapping[str, Report]) -> list[str]:
        """The names of the replicas, the best first; among equals by chance. reports: what each has told last."""
        return sorted(reports, key=lambda name: self._load(name, _newer(reports[name], self._answers.get(name, {}))))

    def _load(self, name: str, report: Report) -> tuple[bool, float, float]:
        slots = max(1, int(report.get("slots", 1)))
        free = min(slots, int(report.get("free", 1))) - self._asked[name]
        is_silent = self._silent.get(name, 0.0) > self._now()
        return is_silent or free <= 0, 1 - free / slots, random.random()


def _newer(one: Report, other: Report) -> Report:
    return max(one, other, key=lambda report: int(report.get("turn", 0)))

"""Which replica a new client should go to: the least loaded by slots. Knows nothing of Ray."""

import random
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# A replica tells its free slots every REPORT_SECONDS; who was sent there since then is counted here meanwhile.
REPORT_SECONDS = 1.0
RECENT_SECONDS = 1.5 * REPORT_SECONDS


class Choice:
    """Orders replicas by the share of their slots that is taken; those that are full come last.

    Example: a replica has 3 of 8 slots free and got 2 clients in the last 1.5 s -> it counts as having 1 free.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._sent: dict[str, deque[float]] = defaultdict(deque)

    def sent(self, name: str) -> None:
        """A client was sent to this replica."""
        self._sent[name].append(self._now())

    def keep(self, names: Sequence[str]) -> None:
        """These are the replicas that there are."""
        for gone in set(self._sent) - set(names):
            del self._sent[gone]

    def order(self, reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """The names of the replicas, the best first. reports: what each has told last; empty before its first report.

        Where all are full, each is as likely as the others to be first, and answers `busy`, or lets the client wait.
        """
        return sorted(reports, key=lambda name: self._load(name, reports[name]))

    def _load(self, name: str, report: Mapping[str, Any]) -> tuple[bool, float, float]:
        slots = max(1, int(report.get("slots", 1)))
        free = min(slots, int(report.get("free", 1))) - self._recent(name)
        return free <= 0, (1 - free / slots) if free > 0 else 1.0, random.random()

    def _recent(self, name: str) -> int:
        sent = self._sent[name]
        while sent and sent[0] < self._now() - RECENT_SECONDS:
            sent.popleft()
        return len(sent)

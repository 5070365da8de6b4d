"""Slots that are kept free for clients who are on their way to this server.

Whoever hands out clients among several servers first asks a server to keep a slot, so that no client is sent to a
server that is full by the time the client arrives. Each slot is kept under the name of the request that will come.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

HOLD_SECONDS = 5.0  # a request that takes longer to arrive is treated like any other

_arrived: ContextVar[str | None] = ContextVar("arrived", default=None)


class Holds:
    """The requests for which a slot is kept. closed: whether no more slots are kept, as the server stops."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.closed = False
        self._now = now
        self._until: dict[str, float] = {}

    @property
    def count(self) -> int:
        """How many slots are kept."""
        now = self._now()
        self._until = {request: until for request, until in self._until.items() if until > now}
        return len(self._until)

    def __contains__(self, request: str) -> bool:
        return self._until.get(request, 0.0) > self._now()

    def keep(self, request: str) -> None:
        """Keeps one more slot."""
        self._until[request] = self._now() + HOLD_SECONDS

    def give_back(self, request: str) -> bool:
        """Keeps its slot no longer. Returns whether the slot was kept until now."""
        kept = request in self
        self._until.pop(request, None)
        return kept


@contextmanager
def here(request: str) -> Iterator[None]:
    """While the block runs, `arrived` tells that this request is served."""
    token = _arrived.set(request)
    try:
        yield
    finally:
        _arrived.reset(token)


def arrived() -> str | None:
    """The request that is served here, if it may have a slot kept for it."""
    return _arrived.get()

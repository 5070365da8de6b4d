"""Wakes loops of asyncio from other threads."""

import asyncio
import weakref
from collections import deque
from typing import ClassVar
from weakref import WeakKeyDictionary


class Bell:
    """Sets events of one loop from other threads. Events that are set in quick succession wake the loop once."""

    _bells: ClassVar["WeakKeyDictionary[asyncio.AbstractEventLoop, Bell]"] = WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._rung: deque[asyncio.Event] = deque()
        self._awaited = False  # whether the loop is about to set what was rung

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> "Bell":
        """The bell of a loop."""
        return cls._bells.setdefault(loop, cls(loop))

    def ring(self, event: asyncio.Event) -> None:
        """Has the loop set an event. A loop that is closed has nobody left who waits."""
        self._rung.append(event)  # before the look: whoever sees that the loop is awaited has its event set
        if not self._awaited:
            self._awaited = True
            loop = self._loop()
            try:
                if loop is not None:
                    loop.call_soon_threadsafe(self._set_all)
            except RuntimeError:
                if loop is not None and not loop.is_closed():
                    raise

    def _set_all(self) -> None:
        self._awaited = False  # before the events are set: what is rung from now on wakes the loop again
        while self._rung:
            self._rung.popleft().set()

"""Receives what comes in one call, and keeps its record."""

import asyncio
from collections.abc import Callable

from dia2stream.bench.load.clients import CallClient
from dia2stream.bench.load.playback import PlaybackClock
from dia2stream.bench.load.results import CallRecord
from dia2stream.errors import CommandError, EngineError
from dia2stream.protocol.messages import Done, Error, Event, FirstAudio, Paused, ResetDone


class Listener:
    """The ears of one caller. A task of its own runs `receive`; the call itself sends, and waits with `until`.

    heard_ms: the sound received since the conversation began: where the next frame stands on its audio clock.
    """

    def __init__(self, client: CallClient, record: CallRecord, start_lead: float = 0.0) -> None:
        self.playback = PlaybackClock(start_lead)
        self.heard_ms = 0.0
        self.paused = self.is_reset = False
        self._client, self._record = client, record
        self._asked: float | None = None  # when the first words of a turn came whose first sample is still to come
        self._words_after = 0.0  # how many seconds later the last words came that this sample needed
        self._done: set[str] = set()
        self._ended = False
        self._problem: Exception | None = None
        self._changed = asyncio.Event()

    # ---- The call ----

    def expect_turn(self) -> None:
        """The next sound begins a turn."""
        self.playback.begin()
        self._asked, self._words_after = None, 0.0

    def words_come(self) -> None:
        """The first words of a turn are sent now: its first sample is timed from here."""
        self._asked = _now()

    def forget(self) -> None:
        """Another conversation begins in this call."""
        self.heard_ms, self.is_reset = 0.0, False
        self._done.clear()

    @property
    def speaking(self) -> bool:
        """Whether the turn's first sample has come."""
        return self.playback.received > 0

    def is_done(self, id: str) -> bool:
        """Whether an utterance has been sent to its end."""
        return id in self._done

    async def until(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        """Waits for a condition that events or a turn's first sample make true. Returns whether it is true.

        Raises what ended the call. timeout: seconds; None: for ever.
        """
        ends = None if timeout is None else _now() + timeout
        while True:
            self._changed.clear()
            if self._problem is not None:
                raise self._problem
            if condition():
                return True
            if self._ended:
                raise EngineError("the conversation has ended")
            if ends is not None and _now() >= ends:
                return False
            await self._change(ends)

    async def _change(self, until: float | None) -> None:
        """Returns when something has come, or at a moment."""
        # Not `asyncio.wait_for`: before Python 3.12 a cancellation is lost that comes as what it waits for is there.
        timer = None if until is None else asyncio.get_running_loop().call_at(until, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            if timer is not None:
                timer.cancel()

    # ---- What comes ----

    async def receive(self) -> None:
        """Takes everything, to the end of the conversation."""
        try:
            async for item in self._client.received():
                if isinstance(item, Event):
                    self._take_event(item)
                else:
                    self._take_sound(item)
        except Exception as error:
            self._problem = error
        finally:
            self._ended = True
            self._changed.set()

    def _take_sound(self, seconds: float) -> None:
        now, is_first = _now(), not self.speaking
        self.playback.receive(now, seconds)
        self.heard_ms += 1000 * seconds
        self._record.frames += 1
        self._record.late, self._record.worst_underrun = self.playback.late, self.playback.worst_underrun
        if is_first:
            if self._asked is not None:
                self._record.heard.append(now - self._asked)
                self._record.first.append(now - self._asked - self._words_after)
            self._changed.set()

    def _take_event(self, event: Event) -> None:
        if isinstance(event, Done):
            self._done.add(event.id)
        elif isinstance(event, FirstAudio):
            self._words_after = (event.words_ms or 0.0) / 1000
        elif isinstance(event, Paused):
            self.paused = True
        elif isinstance(event, ResetDone):
            self.is_reset = True
        elif isinstance(event, Error):
            self._problem = CommandError(event.code, event.message)  # type: ignore[arg-type]
        else:
            return
        self._changed.set()


def _now() -> float:
    return asyncio.get_running_loop().time()

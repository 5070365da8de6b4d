"""How much of the sound a client was sent, and how much of that its listener has heard.

Clients seldom tell what was heard. The estimate is that a listener plays what it has, in real time.
"""

from __future__ import annotations

from dia2stream.conversation.pace import Pace
from dia2stream.items import FRAME_MS
from dia2stream.server.dialects.dialect import Standing


class Listener:
    """Counts in ms of the conversation's audio clock, which goes on at interruptions."""

    def __init__(self) -> None:
        self.clock_ms = 0
        self._base_ms = 0  # of the clock when the client came
        self._unheard_ms = 0  # of what was sent since then and was interrupted
        self._pace = Pace(None)
        self._still_ms: int | None = None  # where the conversation stands still, for a context that was cancelled

    def begin(self, standing: Standing) -> None:
        """The client has its conversation."""
        self.clock_ms = self._base_ms = standing.clock_ms
        self._pace.restart(self.clock_ms)

    def restart(self) -> None:
        """The conversation has begun anew."""
        self.clock_ms = self._base_ms = self._unheard_ms = 0
        self._pace.restart(0)

    def send(self, now: float) -> None:
        """A frame was sent."""
        self.clock_ms += FRAME_MS
        self._pace.played_ms(self.clock_ms, now)

    def drop(self) -> None:
        """The client has thrown away what it has not played."""
        self._pace.restart(self.clock_ms)

    def stand_still(self, heard_ms: int) -> None:
        """The conversation says no more; so much of its clock was heard. Once more is said, call `go_on`."""
        self._unheard_ms += (self.clock_ms if self._still_ms is None else self._still_ms) - heard_ms
        self._still_ms = heard_ms

    def go_on(self) -> None:
        """The conversation was given something to say."""
        self._still_ms = None

    @property
    def is_still(self) -> bool:
        """Whether the conversation stands still, and so has been told what was heard."""
        return self._still_ms is not None

    @property
    def position_ms(self) -> int:
        """How much sound the client was sent since it came, but for what it was sent and did not hear."""
        return self.clock_ms - self._base_ms - self._unheard_ms

    def clock_at(self, position_ms: float) -> float:
        """The place of the clock that a client means by a position, but no place that is still to come."""
        return min(position_ms + self._base_ms + self._unheard_ms, float(self.clock_ms))

    def played_ms(self, now: float) -> float:
        """Where on the clock the listener is now."""
        return self._pace.played_ms(self.clock_ms, now)

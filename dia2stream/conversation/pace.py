"""How far the listener is, by an estimate."""

from copy import copy

from dia2stream.items import FRAME_MS


class Pace:
    """An estimate of how far the listener is: it plays what it has, in real time, from when it has something."""

    def __init__(self, max_lead_ms: float | None) -> None:
        self._max_lead_ms = max_lead_ms
        self.restart(0.0)

    def copy(self) -> "Pace":
        """The same estimate, which goes its own way."""
        return copy(self)

    def restart(self, played_ms: float) -> None:
        """The listener is at `played_ms` and has nothing to play."""
        self._played_ms = played_ms
        self._since: float | None = None

    def dry_at(self, made_ms: float) -> float | None:
        """When a listener who gets all that is made has played it; None for one who has got nothing yet.

        made_ms: of audio, what was sent included.
        """
        return None if self._since is None else self._since + (made_ms - self._played_ms) / 1000

    def played_ms(self, sent_ms: float, now: float) -> float:
        """Where the listener is now, having been sent `sent_ms`."""
        if self._since is not None:
            self._played_ms = min(sent_ms, self._played_ms + (now - self._since) * 1000)
        self._since = now
        return self._played_ms

    def lead_ms(self, sent_ms: float, now: float) -> float:
        """How far sending is ahead. Only looks, from wherever."""
        playing = 0.0 if self._since is None else (now - self._since) * 1000
        return max(0.0, sent_ms - self._played_ms - playing)

    def wait(self, sent_ms: float, now: float) -> float:
        """Seconds until the next frame may be sent; 0: now."""
        played_ms = self.played_ms(sent_ms, now)
        if self._max_lead_ms is None:
            return 0.0
        return max(0.0, (sent_ms + FRAME_MS - played_ms - self._max_lead_ms) / 1000)

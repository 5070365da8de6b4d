"""How far the listener is, by an estimate."""

from dia2stream.items import FRAME_MS


class Pace:
    """An estimate of how far the listener is: it plays what it has, in real time, from when it has something."""

    def __init__(self, max_lead_ms: float | None) -> None:
        self._max_lead_ms = max_lead_ms
        self.restart(0.0)

    def restart(self, played_ms: float) -> None:
        """The listener is at `played_ms` and has nothing to play."""
        self._played_ms = played_ms
        self._since: float | None = None

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
        if self._max_lead_ms is None:
            return 0.0
        ahead = sent_ms + FRAME_MS - self.played_ms(sent_ms, now) - self._max_lead_ms
        return max(0.0, ahead / 1000)

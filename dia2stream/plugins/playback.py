"""Where a listener is, who is told of by when playing began and stopped, and plays in real time in between."""


class Playback:
    """Milliseconds on a talk's clock; seconds on any clock that only goes forward."""

    def __init__(self) -> None:
        self._played_ms = 0.0
        self._since: float | None = None

    @property
    def playing(self) -> bool:
        """Whether something is being played."""
        return self._since is not None

    def started(self, now: float, at_ms: float | None = None) -> None:
        """Sound is played from now on; at_ms: where it stands on the clock, by default where the last one ended."""
        self._played_ms = self._played_ms if at_ms is None else at_ms
        self._since = now

    def stopped(self, received_ms: float) -> None:
        """All that came was played."""
        self._played_ms, self._since = received_ms, None

    def interrupted(self, position_ms: float) -> None:
        """What was not played is not going to be."""
        self._played_ms, self._since = position_ms, None

    def position_ms(self, now: float, received_ms: float) -> float:
        """How much was played, of what was received."""
        running = 0.0 if self._since is None else (now - self._since) * 1000
        return min(received_ms, self._played_ms + running)

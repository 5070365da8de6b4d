"""A listener's loudspeaker: plays what has come, in real time, and runs dry when the next sample is late.

    clock = PlaybackClock()
    clock.receive(now, 0.08)  # for every frame
    clock.worst_underrun      # seconds of silence inside the speech, at most

Pure: all times are seconds on the clock of whoever asks.
"""

_SAMPLE = 1 / 24000  # seconds: nobody hears a shorter gap


class PlaybackClock:
    """Playback of one turn after the other.

    start_lead: how long the listener waits with the first sample of a turn. late: frames that came after their moment,
    in all turns; worst_underrun: the longest such delay. played: what was played of the turns before this one.
    """

    def __init__(self, start_lead: float = 0.0) -> None:
        self.late = 0
        self.worst_underrun = 0.0
        self.received = 0.0  # seconds of sound in this turn
        self._start_lead = start_lead
        self._dry_at: float | None = None  # when everything received so far has been played

    def begin(self) -> None:
        """A new turn: silence before its first sample is no underrun."""
        self.received, self._dry_at = 0.0, None

    def receive(self, now: float, seconds: float) -> None:
        """Sound of so many seconds has come. A late frame is played at once, and moves all after it."""
        if self._dry_at is None:
            self._dry_at = now + self._start_lead
        elif now > self._dry_at + _SAMPLE:
            self.late += 1
            self.worst_underrun = max(self.worst_underrun, now - self._dry_at)
            self._dry_at = now
        self._dry_at += seconds
        self.received += seconds

    def played(self, now: float) -> float:
        """Seconds of this turn that the listener has heard."""
        if self._dry_at is None:
            return 0.0
        return min(self.received, max(0.0, self.received - (self._dry_at - now)))

    def left(self, now: float) -> float:
        """Seconds until everything received so far has been played."""
        return 0.0 if self._dry_at is None else max(0.0, self._dry_at - now)

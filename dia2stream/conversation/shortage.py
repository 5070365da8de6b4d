"""How long a conversation could not go on because too few words were known: the part of its latency that is the text's.

A language model gives a few words at a time, and the lead-in of a turn takes more than a second's worth of them. So
first audio may have to wait for words, however fast the model is. This time is counted, so that the rest is known.
"""


class Shortage:
    """Adds up stretches of time, in seconds on the caller's clock."""

    def __init__(self) -> None:
        self.seconds = 0.0  # of all stretches that are over
        self._since: float | None = None

    def note(self, short: bool, now: float) -> None:
        """Whether words are missing from now on. Call it whenever that may have changed."""
        if self._since is not None:
            self.seconds += now - self._since
        self._since = now if short else None

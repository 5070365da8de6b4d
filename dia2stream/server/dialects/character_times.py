"""Times of characters, as ElevenLabs' messages have them, from words."""

from __future__ import annotations

from dia2stream.server.dialects.context_items import Word


class Characters:
    """Characters with their starts and ends in milliseconds."""

    def __init__(self) -> None:
        self.chars: list[str] = []
        self.starts: list[int] = []
        self.ends: list[int] = []

    def __bool__(self) -> bool:
        return bool(self.chars)

    def add(self, text: str, start: int, end: int) -> None:
        """Spreads characters evenly over a time."""
        edges = [start + (end - start) * n // len(text) for n in range(len(text) + 1)] if text else []
        self.chars += text
        self.starts += edges[:-1]
        self.ends += edges[1:]

    def as_milliseconds(self) -> dict[str, object]:
        """As the sockets' messages have it."""
        durations = [end - start for start, end in zip(self.starts, self.ends, strict=True)]
        return {"chars": self.chars, "charStartTimesMs": self.starts, "charDurationsMs": durations}

    def as_seconds(self) -> dict[str, object]:
        """As the answers to requests have it."""
        starts, ends = [ms / 1000 for ms in self.starts], [ms / 1000 for ms in self.ends]
        return {
            "characters": self.chars,
            "character_start_times_seconds": starts,
            "character_end_times_seconds": ends,
        }


class Aligner:
    """Words -> the characters of messages. of_context: whether times begin with the context; else with their message,
    whose time begins where that of the message before it ended."""

    def __init__(self, of_context: bool) -> None:
        self._of_context = of_context
        self._waiting = Characters()  # that go with the next message
        self._begins_ms = 0  # what its times count from
        self._ends_ms = 0  # where the characters so far end

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, word: Word) -> None:
        """Adds the characters of a word, and the space behind it: clients take a word for complete at a space."""
        start = max(word.start_ms, self._ends_ms)
        self._ends_ms = max(word.end_ms, start)
        self._waiting.add(word.word, start - self._begins_ms, self._ends_ms - self._begins_ms)
        self._waiting.add(" ", self._ends_ms - self._begins_ms, self._ends_ms - self._begins_ms)

    def take(self) -> Characters:
        """The characters of a message."""
        taken, self._waiting = self._waiting, Characters()
        if not self._of_context:
            self._begins_ms = self._ends_ms
        return taken

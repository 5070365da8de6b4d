"""One context: the text that waits and the text that was handed over, its utterances, and where its sound is."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from dia2stream.server.dialects.context_items import Word
from dia2stream.server.dialects.dialect import Voice


@dataclass(eq=False)
class Utterance:
    """What one start or inject, and the pieces after it, asked for. begin: where in the context's text it begins."""

    id: str
    context: Context
    begin: int
    flushes: list[int] = field(default_factory=list)  # that are told when it is done


class ContextSound:
    """Where a context's sound is on the conversation's clock: in several spans, where others sound between them."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int]] = []  # begin, end

    @property
    def ends_ms(self) -> int:
        """Where on the conversation's clock the sound so far ends."""
        return self._spans[-1][1] if self._spans else 0

    @property
    def length_ms(self) -> int:
        """How much of it there is."""
        return sum(end - begin for begin, end in self._spans)

    def go_on(self, clock_ms: int) -> None:
        """It begins, or goes on, at that place of the clock."""
        if not self._spans or self.ends_ms != clock_ms:
            self._spans.append((clock_ms, clock_ms))

    def extend(self, clock_ms: int) -> None:
        """It lasts until there."""
        self._spans[-1] = (self._spans[-1][0], clock_ms)

    def heard_ms(self, clock_ms: float) -> float:
        """How much of it lies before a place of the clock."""
        return sum(max(0.0, min(clock_ms, end) - begin) for begin, end in self._spans)

    def position_ms(self, clock_ms: int) -> int | None:
        """A place of the clock in the sound's own time, also one behind its end; None while there is no sound."""
        return self.length_ms + clock_ms - self.ends_ms if self._spans else None


@dataclass(eq=False)
class Context:
    name: str
    voice: Voice
    patience: float
    waiting: str = ""  # text that was not handed over yet
    breaks: list[int] = field(default_factory=list)  # where in `waiting` it is to be flushed
    text: str = ""  # all that was handed over
    ended: bool = False  # no more text will come
    cancelled: bool = False
    open: Utterance | None = None  # the one that still takes text
    unspoken: deque[Utterance] = field(default_factory=deque)  # handed over and not done
    flushes: int = 0
    since: float = 0.0  # when its last text came
    sound: ContextSound = field(default_factory=ContextSound)
    words: list[Word] = field(default_factory=list)
    begun: dict[str, int] = field(default_factory=dict)  # where in `text` each of its utterances begins

    def take_back(self) -> None:
        """What was handed over and is not done waits again, and its flushes with it."""
        begin, ends = self.unspoken[0].begin, [*[each.begin for each in self.unspoken][1:], len(self.text)]
        given = self.text[begin:]
        before = [end - begin for each, end in zip(self.unspoken, ends, strict=True) for _ in each.flushes]
        self.breaks = [*before, *(at + len(given) for at in self.breaks)]
        self.flushes -= len(before)
        self.text, self.waiting = self.text[:begin], given + self.waiting
        for utterance in self.unspoken:
            del self.begun[utterance.id]
        self.unspoken.clear()
        self.open = None

    @property
    def resting(self) -> bool:
        """Whether all the text it was given has been spoken."""
        return not (self.open or self.unspoken or self.waiting.strip() or self.breaks)

"""The words of a conversation: which utterance asked for each word, and how far each word has got.

A word goes through these places, oldest first:

    sounded   its frame was made; the listener may have heard it
    taken     the text machine took it, and its frame is not made yet
    queue     the text machine's own queue: the words of the turn that is spoken
    backlog   words of the next turn

Each queued word carries its utterance, so no list has to be kept in step with another. An utterance is done when its
text is complete and all of its words have sounded.

Knows nothing of the model, of frames or of threads.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain, groupby
from typing import NamedTuple, cast

from dia2.text.script import Entry
from dia2stream.conversation.reader import ReadEntry, TextReader, Written
from dia2stream.errors import CommandError
from dia2stream.protocol.fields import HeardWord

MAX_QUEUED_WORDS = 2000


@dataclass(eq=False)
class Utterance:
    """What one start or inject, and the pieces after it, asked for.

    arrived: when its command came, seconds on the caller's clock. open: more pieces may come. unheard: words and breaks
    that have not sounded yet. announced: `first_audio` is told, or is on its way. short_before: seconds for which the
    conversation had lacked words before.
    answers: the caller spoke before this utterance came, and what they said is not in the context yet. So it waits
    until the utterance that is spoken now has ended.
    """

    id: str
    arrived: float
    open: bool = True
    answers: bool = False
    unheard: int = 0
    announced: bool = False
    short_before: float = 0.0


@dataclass(frozen=True)
class QueuedWord(Entry):
    """A word or break that is to be spoken, the utterance that asked for it, and the written word it came of.

    begins: whether it is the first that came of that written word.
    """

    utterance: Utterance = field(kw_only=True)
    written: Written = field(kw_only=True)
    begins: bool = field(kw_only=True)

    @classmethod
    def of(cls, read: ReadEntry, utterance: Utterance) -> "QueuedWord":
        """What was read as a word of the utterance."""
        entry = {f.name: getattr(read.entry, f.name) for f in fields(Entry)}
        return cls(**entry, utterance=utterance, written=read.written, begins=read.begins)


class TakenWord(NamedTuple):
    """A word or break, and the step at which the text machine took it."""

    step: int
    word: QueuedWord


class Heard(NamedTuple):
    """The words of a turn as they were written: those that the listener has heard, and those still to come."""

    spoken: str
    pending: str
    words: tuple[HeardWord, ...]


class Words:
    """The utterances of one conversation and their words."""

    def __init__(self, reader: TextReader) -> None:
        self.reader = reader
        self.utterances: deque[Utterance] = deque()  # not done yet, oldest first
        self.opened: Utterance | None = None  # the one that still takes pieces
        self.backlog: deque[QueuedWord] = deque()
        self.taken: deque[TakenWord] = deque()
        self.sounded: deque[TakenWord] = deque()
        self._numbered = 0

    # ---- In ----

    def draft(self) -> TextReader:
        """A copy of the reader. A command reads with it, and hands it over once nothing can be refused any more."""
        return self.reader.copy()

    def draft_from(self, step: int) -> TextReader:
        """A copy of the reader that stands behind the last word that sounded before `step`."""
        draft = self.draft()
        earlier = (taken.word for taken in reversed(self.sounded) if taken.step < step and taken.word.tokens)
        draft.rewind(next(earlier, None))
        return draft

    def begins_another(self, id: str | None) -> bool:
        """Whether text with this id belongs to another utterance than the open one."""
        return self.opened is None or id not in (None, self.opened.id)

    def begin(self, id: str | None, arrived: float, *, answers: bool) -> Utterance:
        """Opens an utterance; without an id it gets the next number."""
        self._numbered += 1
        utterance = Utterance(str(self._numbered) if id is None else id, arrived, answers=answers)
        self.utterances.append(utterance)
        self.opened = utterance
        return utterance

    def add(self, utterance: Utterance, entries: Sequence[ReadEntry], final: bool) -> list[QueuedWord]:
        """Gives an utterance more words, the last ones if `final`. Returns them, for the queue or the backlog."""
        utterance.unheard += len(entries)
        if final:
            utterance.open, self.opened = False, None
        return [QueuedWord.of(entry, utterance) for entry in entries]

    # ---- Through ----

    def take(self, taken: Iterable[tuple[int, Entry]]) -> None:
        """Words that the text machine has taken, oldest first."""
        # Every entry of a conversation's queue went through `add`.
        self.taken.extend(TakenWord(step, cast(QueuedWord, word)) for step, word in taken)

    def sound(self, frame: int) -> list[QueuedWord]:
        """The words that begin to sound with this frame."""
        words = []
        while self.taken and self.taken[0].step == frame:
            self.sounded.append(self.taken.popleft())
            words.append(self.sounded[-1].word)
        return words

    def finished(self, before: Utterance | None = None) -> list[Utterance]:
        """Takes out the oldest utterances that are done: all before one, or all there are."""
        done = []
        while self.utterances and self.utterances[0] is not before:
            if self.utterances[0].open or self.utterances[0].unheard:
                break
            done.append(self.utterances.popleft())
        return done

    def go_back(self, step: int) -> None:
        """An interruption: what sounded from `step` on was not heard, and what was to come is not wanted."""
        while self.sounded and self.sounded[-1].step >= step:
            self.sounded.pop()
        for queue in (self.taken, self.backlog, self.utterances):
            queue.clear()
        self.opened = None

    def forget_before(self, step: int) -> None:
        """The model can no longer go back beyond `step`: forgets older words, except the one that `step` is in."""
        while len(self.sounded) > 1 and self.sounded[1].step < step:
            # A break is no word: the word before it stays the last one.
            del self.sounded[0 if self.sounded[1].word.tokens else 1]

    @property
    def in_break(self) -> bool:
        """Whether the last thing that sounded is a break."""
        return bool(self.sounded) and not self.sounded[-1].word.tokens

    def end_of(self, word: QueuedWord, last_end: int | None) -> int | None:
        """The step at which the next written word begins, or the words end; None when that is not drawn yet.

        word: has just begun to sound. last_end: the step at which the words of the turn ended, if they did.
        """
        return next((taken.step for taken in self.taken if taken.word.written is not word.written), last_end)

    # ---- What was heard ----

    def heard(self, position: float, turn: int, last_end: int | None, queue: Iterable[Entry]) -> Heard:
        """The words of the turn that began at step `turn`, parted at a position in steps.

        A word counts as heard when half of it was; one that is spoken as several, when half of those were. last_end:
        the step at which the words of the turn ended, if they did. queue: the text machine's.
        """
        taken = [t for t in (*self.sounded, *self.taken) if t.step >= turn]
        ends = [*(t.step for t in taken[1:]), _end(taken[-1], last_end)] if taken else []
        heard = [(t.word, position - t.step >= (end - t.step) / 2) for t, end in zip(taken, ends, strict=True)]
        # Every entry of a conversation's queue went through `add`.
        queued = ((cast(QueuedWord, word), False) for word in chain(queue, self.backlog))
        spoken, pending, words = [], [], []
        for written, group in groupby(chain(heard, queued), key=lambda pair: pair[0].written):
            entries = list(group)
            word, was_heard = entries[0][0], 2 * sum(was for _, was in entries) >= len(entries)
            if word.tokens:
                words.append(HeardWord(word.utterance.id, written.start, written.end, was_heard))
            if not was_heard:
                pending.append(written.again)
            elif word.tokens:
                spoken.append(written.text)
        return Heard(" ".join(spoken), " ".join(filter(None, [*pending, self.reader.incomplete])), tuple(words))


def check_room(entries: Sequence[ReadEntry], queued: int) -> None:
    """Raises CommandError when more words would wait than may."""
    if queued + len(entries) > MAX_QUEUED_WORDS:
        problem = (
            f"{len(entries)} words do not fit: {queued} are queued and {MAX_QUEUED_WORDS} may be; "
            "send the rest when some have been spoken"
        )
        raise CommandError("overloaded", problem, field="text")


def check_utterances(waiting: int) -> None:
    """Raises CommandError when too much waits. An utterance without a word takes no room among the words."""
    if waiting >= MAX_QUEUED_WORDS:
        problem = f"{waiting} utterances and events wait, of at most {MAX_QUEUED_WORDS}; read the events"
        raise CommandError("overloaded", problem)


def _end(last: TakenWord, last_end: int | None) -> int:
    """The step at which the last word that was taken ends: where words ended, else once its tokens are out."""
    return last_end or last.step + max(1, last.word.padding)

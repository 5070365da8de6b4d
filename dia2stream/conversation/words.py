"""The words of a conversation: which utterance asked for each word, and how far each word has got.

A word goes through these places, oldest first:

    sounded   its frame was made; the listener may have heard it
    taken     the text machine took it, and its frame is not made yet
    queue     the text machine's own queue: the words of the turn that is spoken
    backlog   words of the next turn

Each queued word carries its utterance, so no list has to be kept in step with another. An utterance is done when its
text is complete and all of its words have sounded. An utterance of which no word was taken can be cancelled: the text
behind it is then read anew, because it may go on in another speaker's voice than before.

Knows nothing of the model, of frames or of threads.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain, groupby, takewhile
from typing import Any, NamedTuple, cast

from dia2.text.script import Entry
from dia2.voice.voice import Prefix
from dia2stream.conversation.reader import ReadEntry, TextReader, Written
from dia2stream.conversation.sounded import Flat, SoundedWords
from dia2stream.errors import CommandError
from dia2stream.protocol.fields import HeardWord, shown

MAX_QUEUED_WORDS = 2000
MAX_WAITING_CHARS = 200_000  # of the text of utterances that wait: markup and spaces are no words, but take memory


@dataclass(eq=False)
class Utterance:
    """What one start or inject, and the pieces after it, asked for.

    arrived: when its command came, seconds on the caller's clock. before: the reader that stood before its text; None
    once it is begun. open: more pieces may come. unheard: words and breaks that have not sounded yet.
    announced: `first_audio` is told, or is on its way.
    begun: a word of it was taken, or is the first one of the turn; until then `text` is kept.
    waits: for the end of the turn that is spoken now. It answers what the caller said, or has another voice, or one
    before it does.
    replies: its first word is the first one after the caller's. voice: the conversation goes on in it from here; None
    where it had that voice before. names_voice: whether its command named one.
    """

    id: str
    arrived: float
    before: TextReader | None
    open: bool = True
    waits: bool = False
    replies: bool = False
    voice: Prefix | None = None
    names_voice: bool = False
    unheard: int = 0
    announced: bool = False
    begun: bool = False
    text: str = ""

    def begin(self) -> None:
        """It is spoken from now on, and can no longer be cancelled."""
        # A reader has a dozen objects, which the garbage collector would visit for as long as the words are remembered.
        self.begun, self.waits, self.text, self.before = True, False, "", None


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


@dataclass(eq=False)
class TakenWord:
    """A word or break, and the step at which the text machine took it.

    start, end: when it was heard to begin and to end, in ms on the model's clock; None as long as that is not known.
    """

    step: int
    word: QueuedWord
    start: float | None = None
    end: float | None = None

    @property
    def begins(self) -> bool:
        """Whether it is the first that came of its written word."""
        return self.word.begins


def _flatten(taken: TakenWord) -> Flat:
    """A word that has sounded as `SoundedWords` keeps it. Of its utterance, only the id is wanted from then on."""
    word, written = taken.word, taken.word.written
    entry = word.tokens, word.text, word.padding, word.speaker, word.utterance.id
    as_written = written.text, written.said, written.start, written.end, written.tags, written.entries
    return (taken.step, word.begins, not word.tokens, taken.start, taken.end, *entry, *as_written)


def _restore(flats: Sequence[Flat]) -> list[TakenWord]:
    """The words of tuples that follow each other. Those of one written word share it again."""
    words: list[TakenWord] = []
    for step, begins, _, start, end, *entry, id, text, said, first, last, tags, entries in flats:
        if begins or not words:
            written = Written(text, said, first, last, tags, entries)
            utterance = Utterance(id, 0.0, None, open=False, begun=True)
        word = QueuedWord(*entry, utterance=utterance, written=written, begins=begins)
        words.append(TakenWord(step, word, start, end))
    return words


class NextTurn(NamedTuple):
    """What can be spoken in one go: no caller and no other voice comes between these utterances.

    words: of all of them, as far as they are known. closed: whether that is all of their text.
    """

    first: Utterance
    utterances: list[Utterance]
    words: list[QueuedWord]
    closed: bool


class Heard(NamedTuple):
    """The words of a turn as they were written: those that the listener has heard, and those still to come."""

    spoken: str
    pending: str
    words: tuple[HeardWord, ...]


class WordsCopy(NamedTuple):
    """A copy of words, the copy of the text machine's queue, and of the utterance that the turn began with."""

    words: "Words"
    queue: list[QueuedWord]
    opening: Utterance | None


class Words:
    """The utterances of one conversation and their words."""

    def __init__(self, reader: TextReader) -> None:
        self.reader = reader
        self.utterances: deque[Utterance] = deque()  # not done yet, oldest first
        self.opened: Utterance | None = None  # the one that still takes pieces
        self.backlog: deque[QueuedWord] = deque()
        self.taken: deque[TakenWord] = deque()
        self.sounded = SoundedWords(_flatten, _restore)
        self._numbered = 0
        self._past: deque[str] = deque(maxlen=MAX_QUEUED_WORDS)  # ids of utterances that are done, dropped or cancelled

    def copy(self, queue: Iterable[Entry], opening: Utterance | None) -> "WordsCopy":
        """Another one that stands where this one does, with utterances of its own.

        queue: the text machine's. opening: the utterance that the turn began with, which may be done.
        """
        queued = [cast(QueuedWord, word) for word in queue]  # as every entry of it went through `add`
        words = chain(queued, self.backlog, (taken.word for taken in self.taken))
        utterances = {*self.utterances, *(word.utterance for word in words), *filter(None, [self.opened, opening])}
        own = {each: replace(each, before=each.before and each.before.copy()) for each in utterances}

        def owned(word: QueuedWord) -> QueuedWord:
            # What has become of an utterance that is done changes no more, so its words may be shared.
            return replace(word, utterance=own[word.utterance]) if word.utterance in own else word

        other = Words(self.reader.copy())
        other.utterances.extend(own[utterance] for utterance in self.utterances)
        other.opened = self.opened and own[self.opened]
        other.backlog.extend(map(owned, self.backlog))
        other.taken.extend(replace(taken, word=owned(taken.word)) for taken in self.taken)
        other.sounded = self.sounded.copy(lambda taken: replace(taken, word=owned(taken.word)))
        other._numbered, other._past = self._numbered, self._past.copy()
        return WordsCopy(other, [owned(word) for word in queued], opening and own[opening])

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

    def begin(self, id: str | None, arrived: float, before: TextReader, voice: Prefix | None = None) -> Utterance:
        """Opens an utterance; without an id it gets the next number."""
        self._numbered += 1
        waits = voice is not None or (bool(self.utterances) and self.utterances[-1].waits)
        utterance = Utterance(str(self._numbered) if id is None else id, arrived, before, voice=voice, waits=waits)
        self.utterances.append(utterance)
        self.opened = utterance
        return utterance

    def add(self, utterance: Utterance, text: str, entries: Sequence[ReadEntry], final: bool) -> list[QueuedWord]:
        """Gives an utterance more words, the last ones if `final`. Returns them, for the queue or the backlog.

        text: what they were read from.
        """
        utterance.unheard += len(entries)
        if not utterance.begun:
            utterance.text += text
        if final:
            utterance.open, self.opened = False, None
        return [QueuedWord.of(entry, utterance) for entry in entries]

    def find_open(self, id: str | None) -> Utterance | None:
        """The open utterance, or None if that of the id is complete. Raises CommandError when there is no such one."""
        if id is not None and (self.opened is None or self.opened.id != id):
            self.check_known(id)
            return None
        if self.opened is None:
            raise CommandError("bad_command", 'end has nothing to end: no text was opened with "final": false')
        return self.opened

    def know(self, id: str) -> None:
        """Text with this id was there, and is not any more."""
        self._past.append(id)

    def check_known(self, id: str) -> None:
        """Raises CommandError for an id that no utterance has or had."""
        if id not in self._past and all(utterance.id != id for utterance in self.utterances):
            raise CommandError("bad_field", f"id {shown(id)} is that of no utterance", field="id")

    def voice_at_the_end(self, now: Prefix | None) -> Prefix | None:
        """The voice that the conversation has when all utterances are spoken. now: the one that it has now."""
        return next((u.voice for u in reversed(self.utterances) if u.voice is not None), now)

    # ---- Cancelled ----

    def find_waiting(self, id: str) -> Utterance:
        """The utterance of this id that waits to be spoken. Raises CommandError when there is none."""
        self.check_known(id)
        named = [utterance for utterance in self.utterances if utterance.id == id]
        for utterance in named:
            if not utterance.begun:
                return utterance
        problem = "is spoken already; to stop it, send pause" if named else "no longer waits"
        raise CommandError("bad_command", f"cancel: {shown(id)} {problem}", field="id")

    def cancel(self, utterance: Utterance, queue: deque[Entry]) -> None:
        """Forgets an utterance that waits, and reads the text behind it as if it had not been there."""
        later = self._behind(utterance)
        if any(other.begun for other in later):  # it has no word, and what comes behind it was read long ago
            later = []
        else:
            assert utterance.before is not None, "an utterance that is begun is not cancelled"
            self.reader = utterance.before
        in_queue = {cast(QueuedWord, word).utterance for word in queue}
        if later:
            later[0].replies |= utterance.replies
        self._bequeath_voice(utterance, later)
        again = {other: self._read_again(other) for other in later}
        places: list[tuple[deque[Any], set[Utterance]]] = [(queue, in_queue), (self.backlog, {*later} - in_queue)]
        for words, others in places:
            kept = [word for word in words if word.utterance not in {utterance, *later}]
            words.clear()
            words.extend(kept)
            words.extend(chain.from_iterable(again[other] for other in later if other in others))
        self.utterances.remove(utterance)
        self._past.append(utterance.id)
        if self.opened is utterance:
            self.opened = None

    def _bequeath_voice(self, utterance: Utterance, later: Sequence[Utterance]) -> None:
        """Who named the voice that a cancelled utterance would have brought brings it now."""
        same = takewhile(lambda other: other.voice is None, later)
        heir = next((other for other in same if other.names_voice), None)
        if heir is not None:
            heir.voice = utterance.voice

    def _read_again(self, utterance: Utterance) -> list[QueuedWord]:
        utterance.before = self.draft()
        if utterance.replies or utterance.voice is not None:
            self.reader.answer()
        entries = self.reader.read(utterance.text, final=not utterance.open)
        self.reader.take_notices()  # they were told when the text came
        utterance.unheard = len(entries)
        return [QueuedWord.of(entry, utterance) for entry in entries]

    # ---- Through ----

    def next_turn(self) -> "NextTurn | None":
        """What the next turn begins with, or what continues this one; None without a word."""
        if not self.backlog:
            return None
        first = self.backlog[0].utterance
        behind = self._behind(first)
        turn = [first, *takewhile(lambda other: other.voice is None and other.waits == first.waits, behind)]
        return NextTurn(first, turn, [word for word in self.backlog if word.utterance in turn], self.opened not in turn)

    def begin_turn(self, turn: "NextTurn") -> None:
        """Takes the words of a turn out of the backlog, because they are spoken now."""
        for utterance in turn.utterances:
            utterance.waits = False
        turn.first.begin()
        for _ in turn.words:
            self.backlog.popleft()

    def _behind(self, utterance: Utterance) -> list[Utterance]:
        utterances = [*self.utterances]
        return utterances[utterances.index(utterance) + 1 :]

    def take(self, taken: Iterable[tuple[int, Entry]]) -> None:
        """Words that the text machine has taken, oldest first."""
        for step, word in taken:
            # Every entry of a conversation's queue went through `add`.
            self.taken.append(TakenWord(step, cast(QueuedWord, word)))
            self.taken[-1].word.utterance.begin()

    def sound(self, frame: int) -> list[TakenWord]:
        """The words that were taken for this frame."""
        words = []
        while self.taken and self.taken[0].step == frame:
            words.append(self.taken.popleft())
            self.sounded.append(words[-1])
        return words

    @property
    def speaker(self) -> int | None:
        """Whose word began to sound last, 1 or 2; None before the first."""
        return self.sounded.latest.word.speaker if self.sounded.latest else None

    def finished(self, before: Utterance | None = None) -> list[Utterance]:
        """Takes out the oldest utterances that are done: all before one, or all there are."""
        done = []
        while self.utterances and self.utterances[0] is not before:
            if self.utterances[0].open or self.utterances[0].unheard:
                break
            done.append(self.utterances.popleft())
        self._past.extend(utterance.id for utterance in done)
        return done

    def go_back(self, step: int) -> None:
        """An interruption: what sounded from `step` on was not heard, and what was to come is not wanted."""
        self.sounded.drop_since(step)
        self._past.extend(utterance.id for utterance in self.utterances)
        for queue in (self.taken, self.backlog, self.utterances):
            queue.clear()
        self.opened = None

    def taken_between(self, since: int, step: int) -> list[TakenWord]:
        """What was taken from one step on and before another, the latest first."""
        return [t for t in chain(reversed(self.taken), reversed(self.sounded.since(since))) if since <= t.step < step]

    def end_of(self, told: TakenWord, last_end: int | None) -> int | None:
        """The step at which the next written word begins, or the words end; None when that is not drawn yet.

        told: has just begun to sound. last_end: the step at which the words of the turn ended, if they did.
        """
        later = chain(takewhile(lambda taken: taken is not told, reversed(self.sounded)), reversed(self.taken))
        steps = [taken.step for taken in later if taken.word.written is not told.word.written]
        return min(steps, default=last_end)

    # ---- What was heard ----

    def heard(
        self, turn: int, was_heard: Callable[[TakenWord, TakenWord | None], bool], queue: Iterable[Entry]
    ) -> Heard:
        """The words of the turn that began at step `turn`, parted into those that were heard and the others.

        was_heard: tells of a word and the one behind it whether the first was. A word that is spoken as several counts
        as heard when half of those were. queue: the text machine's.
        """
        taken = [*self.sounded.since(turn), *(t for t in self.taken if t.step >= turn)]
        heard = [(t.word, was_heard(t, after)) for t, after in zip(taken, [*taken[1:], None], strict=False)]
        # Every entry of a conversation's queue went through `add`.
        queued = ((cast(QueuedWord, word), False) for word in chain(queue, self.backlog))
        spoken, pending, words = [], [], []
        for written, group in groupby(chain(heard, queued), key=lambda pair: pair[0].written):
            entries = list(group)
            word, most = entries[0][0], 2 * sum(was for _, was in entries) >= len(entries)
            if word.tokens:
                words.append(HeardWord(word.utterance.id, written.start, written.end, most))
            if not most:
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


def check_text(utterances: Iterable[Utterance], text: str) -> None:
    """Raises CommandError when more text would wait than may."""
    waiting = sum(len(utterance.text) for utterance in utterances)
    if waiting + len(text) > MAX_WAITING_CHARS:
        problem = f"{waiting} characters of text wait to be spoken, of at most {MAX_WAITING_CHARS}"
        raise CommandError("overloaded", problem, field="text")


def check_utterances(waiting: int) -> None:
    """Raises CommandError when too much waits. An utterance without a word takes no room among the words."""
    if waiting >= MAX_QUEUED_WORDS:
        problem = f"{waiting} utterances and events wait, of at most {MAX_QUEUED_WORDS}; read the events"
        raise CommandError("overloaded", problem)

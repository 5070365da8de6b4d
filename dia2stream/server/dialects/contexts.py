"""Several contexts of one client, spoken by one conversation one after another.

A context is what other services call a piece of speech with a name of its own: a reply, to which text is added while it
is spoken, and which can be cancelled. Ours is a conversation of utterances, with one clock and one memory. So contexts
take turns: the first one's text goes into the conversation as it comes, and what comes for another one waits until the
first has been spoken, or has no more words to say for now.

    contexts.speak("a", "Hello ", now)              -> Start("Hello ", id="1", final=False)
    contexts.speak("a", "there.", now, last=True)   -> Inject("there.", id="1")
    contexts.take(Frame(...), now)                  -> Audio("a", pcm)
    contexts.take(Done("1", ...), now)              -> Finished("a")
    contexts.cancel("a", now)                       -> Pause(840): what the listener has heard, as far as can be told

A flush closes the utterance, and what follows in the same context is the next one. So does a silence in the text: the
model holds back the last words of an open utterance, because it wants to see what comes next, and a client that has
nothing to add does not always say so.

Here is whose turn it is, and how each context ends. `context_texts.py` makes commands of what a context has to say, and
`listener.py` knows how far its listener is.
"""

from __future__ import annotations

import re
import secrets
from collections import deque
from collections.abc import Iterable
from typing import cast

from dia2stream.errors import CommandError, ErrorCode
from dia2stream.items import Cut, Frame, Item
from dia2stream.protocol.fields import HeardWord
from dia2stream.protocol.messages import (
    Command,
    Done,
    Error,
    FirstAudio,
    Inject,
    Pause,
    Paused,
    Start,
    Started,
    WordEvent,
)
from dia2stream.server.dialects.context import Context, Utterance
from dia2stream.server.dialects.context_items import (
    Audio,
    Failed,
    Finished,
    Flushed,
    Interrupted,
    Turned,
    Word,
)
from dia2stream.server.dialects.context_texts import ContextTexts
from dia2stream.server.dialects.dialect import Standing, Voice
from dia2stream.server.dialects.listener import Listener

# How long an open utterance waits for more text: by default, and where a sentence has ended.
PATIENCE = 3.0
SENTENCE_PATIENCE = 0.3
MAX_CONTEXTS = 100  # that are not over
MAX_WAITING_CHARS = 100_000  # of all contexts that wait for their turn
_SENTENCE_END = re.compile(r"[.!?\u2026][\"'\u201d\u2019)\]]*\s*$")


class Contexts:
    """The contexts of one client. prefix: makes the ids of its utterances its own."""

    def __init__(self, prefix: str | None = None) -> None:
        self._texts = ContextTexts(secrets.token_hex(4) + "." if prefix is None else prefix)
        self._listener = Listener()
        self._contexts: dict[str, Context] = {}  # by name; those that are finished or cancelled are gone
        self._queue: deque[Context] = deque()  # those with text, in turn; the first is being spoken
        self._last: Context | None = None  # the one that was heard last, though it may be over
        self._sounding: Utterance | None = None
        # Who is told when the conversation stands still; None for a context that failed, which was told already.
        self._pausing: deque[Context | None] = deque()

    def begin(self, standing: Standing, now: float) -> None:
        """The client has its conversation."""
        self._texts.begun = standing.begun
        self._listener.begin(standing)

    # ---- What the client wants ----

    def speak(
        self,
        name: str,
        text: str,
        now: float,
        *,
        voice: Voice,
        last: bool = False,
        flush: bool = False,
        patience: float = PATIENCE,
    ) -> list[Turned]:
        """More text of a context; a new name makes a new one. Failed follows if it cannot be, and the context is gone.

        last: no more will follow. flush: speak all of it now; a number is given to each. patience: seconds that it may
        wait for more, or 0 for not at all.
        """
        context = self._contexts.get(name)
        if problem := self._too_much(context, text):
            return [Failed(name, problem)] if context is None else self._fail_and_advance(context, problem, now)
        if context is None:
            context = self._contexts[name] = Context(name, voice, patience)
        context.patience, context.since = patience, now
        context.waiting += text
        context.ended = context.ended or last
        if flush:
            context.breaks.append(len(context.waiting))
        if context not in self._queue and (context.waiting.strip() or flush or last):
            self._queue.append(context)
        return self._advance(now)

    def _too_much(self, context: Context | None, text: str) -> CommandError | None:
        if context is None and len(self._contexts) >= MAX_CONTEXTS:
            return CommandError(
                "overloaded", f"{MAX_CONTEXTS} contexts are open, which is the limit: end or cancel some"
            )
        waiting = sum(len(each.waiting) for each in self._contexts.values()) + len(text)
        if waiting > MAX_WAITING_CHARS:
            return CommandError("overloaded", f"{waiting} characters wait to be spoken, of at most {MAX_WAITING_CHARS}")
        return None

    @property
    def names(self) -> list[str]:
        """The contexts that are not over, the oldest first."""
        return list(self._contexts)

    @property
    def position_ms(self) -> int:
        """How much sound the client was sent since it came, but for what it was sent and did not hear."""
        return self._listener.position_ms

    @property
    def pausing(self) -> bool:
        """Whether a context was cancelled and the conversation does not stand still yet."""
        return bool(self._pausing)

    @property
    def last_heard(self) -> str:
        """The context that sounds or did so last, though it may be over; "" when none did."""
        return self._last.name if self._last else ""

    def cancel(self, name: str, now: float, played_ms: float | None = None) -> list[Turned]:
        """A context is not wanted any more, nor what of it was sent and not heard: Interrupted follows.

        The last one may be over already and still be heard; nothing follows for one that was heard to its end.
        played_ms: how much the client has heard since it came, as `position_ms` counts; by default an estimate.
        """
        context = self._contexts.pop(name, None)
        over = context is None
        if context is None and self._last is not None and self._last.name == name:
            context = self._last
        if context is None or context.cancelled:
            return []
        context.cancelled = True
        if context in self._queue:
            self._queue.remove(context)
        self._texts.forget(context)
        stop = self._stop(context, now, played_ms)
        if stop:
            self._pausing.append(context)
        elif not over:
            stop = [self._interrupted(context, self._listener.played_ms(now))]
        return [*stop, *self._advance(now)]

    def leave(self, now: float) -> list[Command]:
        """The client is gone: what it has not heard was not said."""
        if self._listener.is_still or self._pausing:
            return []  # it was told already how far the client has listened
        played_ms = self._listener.played_ms(now)
        if not self._texts.begun or (played_ms >= self._listener.clock_ms and not self._texts.utterances):
            return []
        return [Pause(round(played_ms))]

    def look(self, now: float) -> list[Turned]:
        """Time has passed: text that waited for more for long enough is complete."""
        context = self._queue[0] if self._queue else None
        if self._pausing or context is None or context.open is None or now - context.since < self._patience_of(context):
            return []
        return [*self._texts.close(context), *self._advance(now)]

    # ---- What the conversation gives ----

    def take(self, item: Item, now: float) -> list[Turned]:
        """What an event or a frame is to the client."""
        match item:
            case Frame():
                return self._frame(item, now)
            case Started():
                self._listener.restart()
            case FirstAudio():
                self._sound(item.id)
            case WordEvent() if not self._pausing:  # what is made until then is said once more, or not at all
                return self._word(item)
            case Done() if not self._pausing:
                return self._done(item, now)
            case Paused():
                return self._paused(item, now)
            case Cut():
                self._sounding = None
                self._listener.drop()
            case Error():
                return self._failed(item, now)
        return []

    def _frame(self, frame: Frame, now: float) -> list[Turned]:
        self._listener.send(now)
        context = self._sounding.context if self._sounding else None
        if context is None or context.cancelled:
            return []
        context.sound.extend(self._listener.clock_ms)
        return [Audio(context.name, frame.pcm)]

    def _sound(self, id: str) -> None:
        """An utterance begins to sound."""
        self._sounding = None if self._pausing else self._texts.utterances.get(id)
        if self._sounding is not None:
            self._last = self._sounding.context
            self._last.sound.go_on(self._listener.clock_ms)

    def _word(self, event: WordEvent) -> list[Turned]:
        utterance = self._texts.utterances.get(event.id)
        if utterance is None or event.text_start is None or event.text_end is None:
            return []
        context, begin = utterance.context, utterance.begin
        start_ms = context.sound.position_ms(event.start_ms)
        if start_ms is None:
            return []
        end_ms = start_ms + (event.end_ms or event.start_ms) - event.start_ms
        word = Word(context.name, event.word, start_ms, end_ms, begin + event.text_start, begin + event.text_end)
        context.words.append(word)
        return [word]

    def _done(self, event: Done, now: float) -> list[Turned]:
        utterance = self._texts.utterances.pop(event.id, None)
        if utterance is None:
            return []
        context = utterance.context
        context.unspoken.remove(utterance)
        flushed = [Flushed(context.name, number) for number in utterance.flushes]
        return [*flushed, *self._advance(now)]

    def _paused(self, event: Paused, now: float) -> list[Turned]:
        if not self._pausing:
            return []
        self._listener.stand_still(event.heard_ms)
        told = self._stands_still(event.heard_ms, event.words)
        if not self._pausing:
            self._take_back()
        return [*told, *self._advance(now)]

    def _stands_still(self, heard_ms: float, words: Iterable[HeardWord] = ()) -> list[Turned]:
        context = self._pausing.popleft()
        return [] if context is None else [self._interrupted(context, heard_ms, words)]

    def _interrupted(self, context: Context, clock_ms: float, words: Iterable[HeardWord] = ()) -> Interrupted:
        """words: those of the turn, of which the conversation knows whether they were heard."""
        heard_ms = context.sound.heard_ms(clock_ms)
        ends = {word.text_end for word in context.words if word.end_ms <= heard_ms}
        for word in words:
            if word.id in context.begun:
                (ends.add if word.heard else ends.discard)(context.begun[word.id] + word.text_end)
        spoken = max(ends, default=0)
        remaining = context.text[spoken:] + context.waiting
        return Interrupted(context.name, round(heard_ms), context.text[:spoken], remaining)

    def _failed(self, event: Error, now: float) -> list[Turned]:
        error = CommandError(cast("ErrorCode", event.code), event.message, event.cmd, event.id, event.field)
        if event.cmd == "pause" and self._pausing:
            return self._pause_failed(error, now)
        if event.cmd == "end":
            return []  # what it was to end was refused, and that was told
        if event.cmd == "start" or event.code == "no_session":
            self._texts.begun = False
        utterance = self._texts.utterances.get(event.id or "")
        if utterance is None:
            # A text that was cancelled meanwhile, or whose context failed before it, is nobody's any more.
            return [] if event.id else [Failed(None, error)]
        if event.code == "no_session":  # the start before it was refused
            self._take_back()
            return self._advance(now)
        return self._fail_and_advance(utterance.context, error, now)

    def _pause_failed(self, error: CommandError, now: float) -> list[Turned]:
        """If it was too long ago to go back to, all that was sent counts as heard."""
        if error.code == "bad_field":
            return [Pause()]
        return [*self._stands_still(0.0), *self._advance(now)]

    def _fail_and_advance(self, context: Context, error: CommandError, now: float) -> list[Turned]:
        failed = self._fail(context, error, now)
        return [*failed, *self._advance(now)]

    def _fail(self, context: Context, error: CommandError, now: float) -> list[Turned]:
        """The context is gone, and what of it was taken before is not said."""
        self._contexts.pop(context.name, None)
        if context in self._queue:
            self._queue.remove(context)
        context.cancelled = True
        stop = self._stop(context, now, None) if self._texts.begun else []
        if stop:
            self._pausing.append(None)
        self._texts.forget(context)
        return [*stop, Failed(context.name, error)]  # what is told may be the end

    def _take_back(self) -> None:
        """The conversation has forgotten what it was given and has not said: contexts that are wanted give it again."""
        for context in self._queue:
            if context.unspoken:
                self._texts.forget(context)
                context.take_back()

    # ---- Whose turn it is ----

    def _advance(self, now: float) -> list[Turned]:
        """Hands over what the first context has, and goes on to the next ones as far as the first has nothing left."""
        turned: list[Turned] = []
        while self._queue and not self._pausing:  # what comes after a pause waits until it stands still
            context = self._queue[0]
            try:
                given = self._texts.hand_over(context)
            except CommandError as error:
                turned += self._fail(context, error, now)
                continue
            turned += given
            if any(isinstance(each, Start | Inject) for each in given):
                self._listener.go_on()
            if not context.resting:
                break
            self._queue.popleft()
            if context.ended:
                del self._contexts[context.name]
                turned.append(Finished(context.name, context.sound.length_ms, context.text))
        return turned

    # ---- Ends ----

    def _stop(self, context: Context, now: float, played_ms: float | None) -> list[Turned]:
        """Stops the conversation, if the context sounds, is about to, or was sent and not heard to its end."""
        played = self._listener.played_ms(now)
        if played_ms is not None:
            played = self._listener.clock_at(played_ms)
        heard = context.sound.ends_ms <= played and not context.unspoken
        if heard or not (context.unspoken or context is self._last):
            return []
        return [Pause(max(0, round(played)))]

    def _patience_of(self, context: Context) -> float:
        others_wait = len(self._queue) > 1
        if others_wait or _SENTENCE_END.search(context.text[-8:]):
            return min(context.patience, SENTENCE_PATIENCE)
        return context.patience

"""One conversation: text in at any moment, frames and events out, pause, rewind, calls without end.

A conversation is stepped by whoever owns the model, and only while it `can_step`:

    conversation.handle(command, arrived)      # between steps
    if conversation.can_step():
        conversation.prepare()
        (action,) = stepper.act([conversation.slot])
        stepper.complete([conversation.advance(action)])
        conversation.emit()
    item = conversation.take(now)              # from any thread

**Turns.** Speech begins with a lead-in and ends in silence; between them is a turn. A turn begins at frame r, the first
that is not known: 0 at the start, the end of the voice's clips, the frame after the last one of the turn before, or
after the last one that was heard. Text that comes while a turn goes on is queued. Text that comes in its silent tail
continues it from the step where words ran out. Text that comes later begins the next turn.

**The caller.** What `listen` brings goes into the context where the next turn will begin, in passes, as soon as nothing
is spoken. It is not played, so the audio clock knows nothing of it: the next segment of the clock begins behind it.

**Waiting.** The second text stream shows words ahead, so a step that could take a word waits until those are known or
the text is closed. That is why text in pieces gives the audio of the same text at once.

No I/O, no threads, no clock of its own.
"""

import copy
import math
import secrets
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from dia2.codec.frames import Sound
from dia2.errors import ScriptError
from dia2.model.sampling import SamplingConfig, SlotSettings
from dia2.steps.context import Context
from dia2.steps.stepper import TextColumn
from dia2.text.machine import MAX_PADDING, Mark, Tokens
from dia2.text.script import Entry, ScriptReader, TextTokenizer
from dia2.voice.voice import Prefix
from dia2stream.conversation.caller import Caller, Columns, Ear, read_piece
from dia2stream.conversation.outbox import Outbox
from dia2stream.errors import CommandError
from dia2stream.items import FRAME_MS, FirstFrame, Frame, Item
from dia2stream.options import SpeechOptions
from dia2stream.protocol.fields import MAX_SEED, MAX_TEXT_CHARS, shown
from dia2stream.protocol.messages import (
    Command,
    Done,
    End,
    FirstAudio,
    Inject,
    Listen,
    Pause,
    Paused,
    Reset,
    ResetDone,
    Resume,
    Resumed,
    Start,
    Started,
    WordEvent,
)

MAX_QUEUED_WORDS = 2000
MAX_CALLER_SECONDS = 60  # of one utterance, and of what waits for a turn to end
QUEUE_FRAMES = 25
# A turn that would begin with less room than this, or than a sixth of a smaller context, gets one rebuilt first.
# Between turns that is done as soon as there is less than twice the room: a rebuilt context, half history, has more.
TURN_ROOM = 250


@dataclass(eq=False)
class Utterance:
    """What one start or inject (and the pieces after it) asked for.

    unheard: entries that have not sounded yet. answers: the caller spoke while another one was being spoken; this one
    waits until that has ended and what they said is in the context.
    """

    id: str
    arrived: float
    open: bool = True
    answers: bool = False
    unheard: int = 0
    announced: bool = False


@dataclass(frozen=True)
class Taken:
    """An entry and the step that took it."""

    step: int
    entry: Entry
    utterance: Utterance


class Conversation:
    """One client's conversation; the context is one slot of a stepper, and outlives it.

    voices: prefixes by name; the first is the default, none at all means a random voice. max_lead_ms: how far sending
    may be ahead of the listener, None for as fast as it is taken. queue_frames: how far generation may be ahead of
    sending. ear: what encodes the caller; None cannot listen.
    """

    def __init__(
        self,
        context: Context,
        tokenizer: TextTokenizer,
        *,
        defaults: SpeechOptions | None = None,
        voices: dict[str, Prefix] | None = None,
        max_lead_ms: float | None = None,
        queue_frames: int = QUEUE_FRAMES,
        ear: Ear | None = None,
    ) -> None:
        self._ear = ear
        self.slot = context.slot
        self.defaults = defaults or SpeechOptions()
        self.voices = voices or {}
        self.machine, self.context = context.machine, context
        self.outbox = Outbox(queue_frames, max_lead_ms)
        self.paused = False
        self.active = False  # whether there is a conversation at all
        self._tokenizer = tokenizer
        self._forget()

    def _forget(self) -> None:
        """No conversation: nothing said, nothing to say."""
        self.outbox.restart()
        self.active = self.paused = self._speaking = False
        self._turn_room = min(TURN_ROOM, self.context.limit // 6)
        self._reader = ScriptReader(self._tokenizer)
        self._made: tuple[list[Item], Sound] | None = None  # a frame whose sound is on its way
        self._numbered = 0
        self._heard_ms = 0.0
        self._utterances: deque[Utterance] = deque()  # not done yet, oldest first
        self._opened: Utterance | None = None  # the one that still takes pieces
        self._opening: Utterance | None = None  # the one that the current turn begins with
        self._owners: deque[Utterance] = deque()  # of every entry that was not taken yet
        self._backlog: deque[Entry] = deque()  # entries that no turn has room for yet
        self._taken: deque[Taken] = deque()  # not sounding yet
        self._sounded: deque[Taken] = deque()
        self._callers: deque[Caller] = deque()  # who is not in the context yet; only the last may be open
        self._answering = False  # the next word comes after the caller's
        self._turns: deque[int] = deque()  # the frame each turn began with
        self._segments: deque[tuple[int, int]] = deque(maxlen=64)
        self._listened: tuple[int, int] | None = None  # the segment that begins behind what the caller said last

    # ---- Commands ----

    def handle(self, command: Command, arrived: float) -> None:
        """Carries out one command; its answer goes to the outbox. Raises CommandError, and then nothing has changed.

        arrived: when it came, on the clock that `take` is given.
        """
        self.deliver()
        try:
            match command:
                case Start():
                    self._start(command, arrived)
                case Inject():
                    self._inject(command, arrived)
                case End():
                    self._end()
                case Pause():
                    self._pause(command, arrived)
                case Resume():
                    self._resume()
                case Reset():
                    self._reset()
                case Listen():
                    self._listen(command)
        except CommandError as error:
            error.cmd = type(command).__name__.lower()
            error.id = getattr(command, "id", None)
            raise

    def _start(self, command: Start, arrived: float) -> None:
        voice = self._voice(command.voice)
        reader, entries = self._read(ScriptReader(self._tokenizer), command.text, command.final)
        self._check_room(entries, queued=0)
        seed = next((s for s in (command.seed, self.defaults.seed) if s is not None), secrets.randbelow(MAX_SEED + 1))
        padding = command.initial_padding if command.initial_padding is not None else self.defaults.initial_padding
        self._forget()
        self.context.begin(self._settings(command), seed, voice, padding)
        self.active, self._reader = True, reader
        self._segments.append((0, self.context.first_frame))
        utterance = self._utterance(command.id, arrived)
        self.outbox.answer(Started(utterance.id, seed))
        self._add(utterance, entries, command.final)

    def _inject(self, command: Inject, arrived: float) -> None:
        self._need_session()
        reader = copy.copy(self._reader)
        if self.paused:
            step = self._step_at(self._heard_ms)
            reader.rewind(self._last_word_before(step))
            self._answer(reader)
            reader, entries = self._read(reader, command.text, command.final)
            self._check_room(entries, queued=0)
            self._interrupt(step)
        elif self._opened is not None and command.id not in (None, self._opened.id):
            # Another utterance begins: the open one is complete as it is.
            closing = reader.finish()
            self._answer(reader)
            reader, entries = self._read(reader, command.text, command.final)
            self._check_room([*closing, *entries], self.queued)
            self._check_utterances()
            self._add(self._opened, closing, final=True)
        else:
            if self._opened is None:
                self._answer(reader)
            reader, entries = self._read(reader, command.text, command.final)
            self._check_room(entries, self.queued)
            self._check_utterances()
        self._reader = reader
        self._add(self._opened or self._utterance(command.id, arrived), entries, command.final)

    def _last_word_before(self, step: int) -> Entry | None:
        return next((t.entry for t in reversed(self._sounded) if t.step < step and t.entry.tokens), None)

    def _answer(self, reader: ScriptReader) -> None:
        """The first word after the caller's says whose it is: without, the model would go on in the caller's voice."""
        if self._answering:
            reader.answer()

    def _end(self) -> None:
        self._need_session()
        if self._opened is None:
            raise CommandError("bad_command", 'end has nothing to end: no text was opened with "final": false')
        self._add(self._opened, self._reader.finish(), final=True)

    def _pause(self, command: Pause, now: float) -> None:
        self._need_session()
        played_ms = math.inf if command.played_ms is None else float(command.played_ms)
        # What may be sent until it is held only makes this later.
        if self._step_at(min(played_ms, self.outbox.sent * FRAME_MS)) < self.context.oldest_step():
            raise CommandError(
                "bad_field", f"played_ms {played_ms:.0f} is too long ago to go back to", field="played_ms"
            )
        self.outbox.hold(now)
        self.paused, self._heard_ms = True, min(played_ms, self.outbox.sent * FRAME_MS)
        spoken, pending = self._report(self._heard_ms)
        self.outbox.answer(Paused(round(self._heard_ms), spoken, pending))

    def _resume(self) -> None:
        self._need_session()
        if not self.paused:
            raise CommandError("not_paused", "resume has nothing to resume: the conversation is not paused")
        self.paused = False
        self.outbox.answer(Resumed())  # first: no frame may pass it
        self.outbox.release()

    def _reset(self) -> None:
        self._forget()
        self.outbox.answer(ResetDone())

    # ---- Steps ----

    def can_step(self) -> bool:
        """Whether a step is wanted, and would be the same whatever comes next."""
        made = self.outbox.waiting + (self._made is not None)
        if not self._speaking or self.paused or made >= self.outbox.capacity:
            return False
        state = self.context.state
        closed = self._opened is None or self._after_caller
        return state.end_step is not None or self.machine.may_step(state, closed)

    def prepare(self) -> None:
        """Before a step: a context that is full is rebuilt."""
        if self.context.room <= 0:
            self.context.rollover()

    def advance(self, action: int) -> TextColumn:
        """Takes the step's action. Returns the text of the next column."""
        self.deliver()
        text = self.context.advance(action)
        state = self.context.state
        self._taken.extend(Taken(step, entry, self._owners.popleft()) for step, entry in state.taken)
        state.taken.clear()
        return text

    def emit(self) -> None:
        """After a step: the frame that it completed, with the events that have their place before and after."""
        frame = self.context.next_frame()
        if frame is None:
            return
        before: list[Item] = []
        if self._opening is not None and frame == self._turns[-1]:
            before += self._announce(self._opening)
        while self._taken and self._taken[0].step == frame:
            before += self._sound(self._taken.popleft())
        self._made = before, self.context.decode(frame)
        end = self.context.state.end_step
        ended = end is not None and frame >= end + MAX_PADDING
        # A listener who has something to play need not have this frame before the next step is under way.
        if ended or not self.outbox.waiting:
            self.deliver()
        if ended:
            self._end_turn()

    def deliver(self) -> None:
        """Queues the frame that was made last, waiting for its sound if need be; before anything else is done."""
        if self._made is not None:
            before, sound = self._made
            self._made = None
            self.outbox.put(*before, Frame(sound.pcm().clamp(-1.0, 1.0).numpy()))

    def take(self, now: float, answers_only: bool = False) -> Item | float | None:
        """The next thing to send; seconds to wait for it; None when nothing may leave."""
        item = self.outbox.take(now, answers_only)
        if isinstance(item, FirstFrame):
            return FirstAudio(item.id, (now - item.arrived) * 1000)
        return item

    @property
    def idle(self) -> bool:
        """Whether everything that was asked for has been made and taken."""
        return not self._speaking and not self._backlog and self.outbox.empty

    # ---- Text ----

    def _read(self, reader: ScriptReader, text: str, final: bool) -> tuple[ScriptReader, list[Entry]]:
        try:
            entries = reader.feed(text) + (reader.finish() if final else [])
        except ScriptError as error:
            raise CommandError("bad_field", f"text: {error}", field="text") from None
        if len(reader.incomplete) > MAX_TEXT_CHARS:
            raise CommandError(
                "too_long", f"text: a word of over {MAX_TEXT_CHARS} characters has not ended yet", field="text"
            )
        return reader, entries

    def _check_room(self, entries: list[Entry], queued: int) -> None:
        if queued + len(entries) > MAX_QUEUED_WORDS:
            raise CommandError(
                "overloaded",
                f"{len(entries)} words do not fit: {queued} are queued and {MAX_QUEUED_WORDS} may be; "
                "send the rest when some have been spoken",
                field="text",
            )

    def _check_utterances(self) -> None:
        """Utterances without a word take no room among the words, but they are not free."""
        waiting = len(self._utterances) + self.outbox.events
        if waiting >= MAX_QUEUED_WORDS:
            raise CommandError(
                "overloaded", f"{waiting} utterances and events wait, of at most {MAX_QUEUED_WORDS}; read the events"
            )

    def close_text(self) -> None:
        """No more text will come: what was opened is complete."""
        if self._opened is not None:
            self.deliver()
            self._end()

    @property
    def queued(self) -> int:
        """Words that wait to be spoken."""
        return len(self.context.state.queue) + len(self._backlog) if self.active else 0

    def _utterance(self, id: str | None, arrived: float) -> Utterance:
        self._numbered += 1
        utterance = Utterance(str(self._numbered) if id is None else id, arrived, answers=bool(self._callers))
        self._answering = False
        self._utterances.append(utterance)
        self._opened = utterance
        return utterance

    def _add(self, utterance: Utterance, entries: list[Entry], final: bool) -> None:
        """Gives an utterance more entries; the last ones if `final`."""
        utterance.unheard += len(entries)
        self._owners.extend([utterance] * len(entries))
        if final:
            utterance.open, self._opened = False, None
        if self._speaking and self.context.state.end_step is None and not self._after_caller:
            self.context.state.queue.extend(entries)
        else:
            self._backlog.extend(entries)
            self._begin_turn()

    # ---- Turns ----

    def _begin_turn(self) -> None:
        """Speaks the backlog once enough of it is there: from the first unknown frame, or on from where words ended."""
        closed = self._opened is None
        if not self._backlog:
            if closed and not self._speaking:
                self.outbox.put(*self._finish())
            return
        if not closed and not self.machine.enough(self._backlog):
            return
        if self._speaking and self._after_caller:
            return  # when the turn has ended
        self._hear(final=True)
        for utterance in self._utterances:
            utterance.answers = False
        context = self.context
        step = max(context.state.end_step or 0, context.frames)
        self._go_back(step)
        if step == context.frames:
            self._turns.append(step)
            self._opening = self._owners[0]
            if context.room < self._turn_room:
                context.rollover()
        context.state.append(self._backlog)
        self._speaking = True  # before the backlog goes: `idle` is asked from other threads
        self._backlog.clear()

    def _end_turn(self) -> None:
        self.outbox.put(*self._finish())
        self._speaking = False  # only now: `idle` is asked from other threads
        if self.context.room < 2 * self._turn_room:
            # While the last frames are still being heard is the time to make room for the next turn.
            self._go_back(self.context.frames)
            self.context.rollover()
        self._hear()
        self._begin_turn()

    def _go_back(self, step: int) -> None:
        """Stands at `step` again, text machine included; the frames made so far stay."""
        if step < self.context.step:
            mark = self.context.mark_at(step)
            self.context.rewind(step, self.context.frames)
            self.context.state.restore(mark)

    def _interrupt(self, step: int) -> None:
        """Back to `step`: what was sent after it was not heard, what was to come is not wanted."""
        context, state = self.context, self.context.state
        mark = context.mark_at(step) if step < context.step else state.mark()
        context.rewind(step, step)
        while self._sounded and self._sounded[-1].step >= step:
            self._sounded.pop()
        while self._turns and self._turns[-1] >= step:
            self._turns.pop()
        # The rest of a break is silence that nobody waits for.
        in_break = bool(self._sounded) and not self._sounded[-1].entry.tokens
        state.restore(Mark(mark.padding_budget, 0 if in_break else mark.forced_padding, Tokens(), Tokens(), None))
        for queue in (state.queue, self._taken, self._backlog, self._owners, self._utterances):
            queue.clear()
        self._opened = None
        self.paused = self._speaking = False
        self.outbox.cut()
        self._segments.append((self.outbox.sent, step))

    # ---- The caller ----

    def _listen(self, command: Listen) -> None:
        self._need_session()
        caller, piece = self._caller_of(command), read_piece(command)
        self._check_waiting(len(piece.pcm) / command.sample_rate)
        if self.paused:
            # What the caller says has interrupted: what was not heard is gone, as when text is injected.
            step = self._step_at(self._heard_ms)
            self._reader.rewind(self._last_word_before(step))
            self._interrupt(step)
        if not (self._callers and self._callers[-1] is caller):
            self._close_caller()
            self._callers.append(caller)
        self._answering = True
        caller.hear(piece)
        if command.final:
            caller.close()
        self._hear()

    def _caller_of(self, command: Listen) -> Caller:
        """The utterance that a piece belongs to."""
        if self._ear is None:
            raise CommandError("bad_command", "listen: there is no codec to encode what the caller says")
        speaker = int(command.speaker[1])
        last = self._callers[-1] if self._callers else None
        if last is None or last.closed or last.speaker != speaker or last.seconds > MAX_CALLER_SECONDS:
            return Caller(self._ear, self._tokenizer, self.machine, speaker, command.sample_rate)
        if last.rate != command.sample_rate:
            problem = f"sample_rate must stay {last.rate} until a final piece, not {command.sample_rate}"
            raise CommandError("bad_field", problem, field="sample_rate")
        return last

    def _check_waiting(self, seconds: float) -> None:
        """What is said while something is spoken waits, but not without end."""
        waiting = sum(caller.waiting for caller in self._callers) * FRAME_MS / 1000
        if waiting + seconds > MAX_CALLER_SECONDS:
            problem = f"{waiting:.0f} s of the caller wait until the turn has ended, of at most {MAX_CALLER_SECONDS}"
            raise CommandError("overloaded", problem, field="audio")

    def _close_caller(self) -> None:
        if self._callers:
            self._callers[-1].close()

    @property
    def _after_caller(self) -> bool:
        """Whether what is being said now has to wait for what the caller said before it."""
        return bool(self._callers) and bool(self._utterances) and self._utterances[-1].answers

    def _hear(self, final: bool = False) -> None:
        """Runs what the caller said, as far as it is known how, unless something is spoken."""
        if final:
            self._close_caller()
        while self._callers and not self._speaking:
            columns = self._callers[0].columns()
            if columns.texts:
                self._run_caller(columns)
            if not self._callers[0].closed:
                break
            self._callers.popleft()

    def _run_caller(self, columns: Columns) -> None:
        context = self.context
        self._go_back(context.frames)
        for part in columns.cut(self._turn_room):
            if context.room < len(part.texts) + self._turn_room:
                context.rollover()
            context.extend(*part)
        # The reply begins like a conversation: nothing is pending, and its first word may come at once.
        context.state.restore(self.machine.start().mark())
        if self._segments[-1] == self._listened:
            self._segments.pop()
        self._listened = (self.outbox.clock_ms // FRAME_MS, context.frames)
        self._segments.append(self._listened)

    # ---- What leaves with a frame ----

    def _announce(self, utterance: Utterance) -> list[Item]:
        if utterance.announced:
            return []
        utterance.announced = True
        return [FirstFrame(utterance.id, utterance.arrived)]

    def _sound(self, taken: Taken) -> list[Item]:
        """What goes before the frame at which an entry starts to sound."""
        utterance, entry = taken.utterance, taken.entry
        items = [*self._finish(before=utterance), *self._announce(utterance)]
        if entry.tokens:
            items.append(WordEvent(utterance.id, entry.text, f"S{entry.speaker}", self.outbox.clock_ms))
        utterance.unheard -= 1
        self._sounded.append(taken)
        self._let_go()
        return items

    def _let_go(self) -> None:
        """Forgets what lies before the oldest step to go back to, but for the turn and the word that it would be in."""
        oldest = self.context.oldest_step()
        while len(self._turns) > 1 and self._turns[1] <= oldest:
            self._turns.popleft()
        while len(self._sounded) > 1 and self._sounded[1].step < oldest:
            del self._sounded[0 if self._sounded[1].entry.tokens else 1]

    def _finish(self, before: Utterance | None = None) -> list[Item]:
        """`done` for the utterances whose last sample has been put: all before one, or all that are complete."""
        items: list[Item] = []
        while self._utterances and self._utterances[0] is not before:
            utterance = self._utterances[0]
            if utterance.open or utterance.unheard:
                break
            self._utterances.popleft()
            items.append(Done(utterance.id, self.outbox.clock_ms))
        return items

    # ---- What was heard ----

    def _position(self, heard_ms: float) -> float:
        """The point of the model's time, in steps, that the listener has heard everything before.

        The audio clock counts what was sent. After an interruption the model went back and the clock did not, so the
        clock is a row of segments, each (its first frame on the clock, the step that it sounds).
        """
        heard = heard_ms / FRAME_MS
        number = max((n for n, (clock, _) in enumerate(self._segments) if clock <= heard), default=None)
        if number is None:
            return -1.0  # longer ago than anybody remembers
        clock, step = self._segments[number]
        return min([step + heard - clock, *(step for _, step in islice(self._segments, number + 1, None))])

    def _step_at(self, heard_ms: float) -> int:
        return int(self._position(heard_ms))

    def _report(self, heard_ms: float) -> tuple[str, str]:
        """The words of the current turn that were heard, and those that were not. Half a word is a word heard."""
        position = self._position(heard_ms)
        begun = max((turn for turn in self._turns if turn <= position), default=0)
        taken = [t for t in (*self._sounded, *self._taken) if t.step >= begun]
        ends = [*(t.step for t in taken[1:]), self._word_end(taken[-1])] if taken else []
        heard = [position - t.step >= (end - t.step) / 2 for t, end in zip(taken, ends, strict=True)]
        queued = [entry.text for entry in (*self.context.state.queue, *self._backlog)]
        spoken = [t.entry.text for t, was in zip(taken, heard, strict=True) if was]
        pending = [t.entry.text for t, was in zip(taken, heard, strict=True) if not was] + queued
        return _joined(spoken), _joined([*pending, self._reader.incomplete.strip()])

    def _word_end(self, last: Taken) -> int:
        """Where the last word that was taken ends: where words ended, else not before its tokens are out."""
        return self.context.state.end_step or last.step + max(1, last.entry.padding)

    # ---- The rest ----

    def _need_session(self) -> None:
        if not self.active:
            raise CommandError("no_session", "there is no conversation: begin one with start")

    def _voice(self, name: str | None) -> Prefix | None:
        if name is None:
            return next(iter(self.voices.values()), None)
        if name not in self.voices:
            known = ", ".join(self.voices) or "none is loaded"
            raise CommandError("bad_field", f"voice {shown(name)} is not known: {known}", field="voice")
        return self.voices[name]

    def _settings(self, command: Start) -> SlotSettings:
        def chosen(name: str) -> Any:
            value = getattr(command, name)
            return getattr(self.defaults, name) if value is None else value

        return SlotSettings(
            chosen("cfg_scale"),
            chosen("cfg_filter_k"),
            SamplingConfig(chosen("text_temperature"), chosen("text_top_k")),
            SamplingConfig(chosen("audio_temperature"), chosen("audio_top_k")),
        )


def _joined(words: Iterable[str]) -> str:
    return " ".join(word for word in words if word)

"""One conversation: text in at any moment, frames and events out, pause, rewind, calls without end.

`engine/batch.py` steps a conversation, and only while it `can_step`:

    conversation.handle(command, arrived)       # between steps
    conversation.prepare()                      # a step: before the backbone,
    text = conversation.advance(action)         # behind it,
    made = conversation.complete(frame)         # once the codes of the next column are drawn, if they complete a frame
    conversation.deliver(made, pcm)             # when the frame's sound is there, before the next command
    item = conversation.take(now)               # from any thread

**Turns.** Speech begins with a lead-in and ends in silence. What lies between is a turn. A turn begins at the first
frame that is not known yet: frame 0 at the start, the frame behind the voice's clips, behind the turn before, or behind
the last frame that was heard. Text that comes during a turn is queued. Text that comes in the silence at the end of a
turn continues it, from the step at which the words ran out. Text that comes later begins the next turn.

**Interruptions.** Text that comes during a pause is said instead of what was not heard. The model goes back to the word
that was cut, and the listener's clock does not. Example: 100 frames were sent, 60 were heard, and a word began at step
57. The model forgets everything from step 58 on, and frame 100 of the clock is the model's frame 58.

**The caller.** What `listen` brings goes into the context where the next turn will begin, in passes of many columns,
as soon as nothing is spoken. These frames are not played, so the audio clock does not count them: its next segment
begins behind them.

**Waiting.** The second text stream shows words ahead. So a step that could take a word waits until the words ahead of
it are known or the text is closed. That is why text in pieces gives the audio of the same text at once.

No I/O, no threads, no clock of its own.
"""

import math
from collections import deque
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dia2.checkpoint.corrections import Corrections
from dia2.model.sampling import SamplingDefaults
from dia2.steps.context import Context
from dia2.steps.speculation import Tree
from dia2.steps.stepper import Ahead, TextColumn
from dia2.text.machine import MAX_PADDING
from dia2.text.script import TextTokenizer
from dia2.voice.voice import Prefix
from dia2stream.conversation.caller import Callers, Columns, Ear, read_piece
from dia2stream.conversation.clock import AudioClock
from dia2stream.conversation.events import notices_of, word_event
from dia2stream.conversation.level import Gain, Level
from dia2stream.conversation.outbox import DraftOutbox, Outbox
from dia2stream.conversation.prepared import DraftEar, Preparation
from dia2stream.conversation.reader import ReadEntry, TextReader
from dia2stream.conversation.settings import choose_padding, choose_seed, find_voice, settled, slot_settings
from dia2stream.conversation.word_times import WordTimes
from dia2stream.conversation.words import (
    TakenWord,
    Utterance,
    Words,
    check_room,
    check_text,
    check_utterances,
)
from dia2stream.errors import CommandError
from dia2stream.items import FRAME_MS, FirstFrame, Frame, Item
from dia2stream.options import SpeechOptions
from dia2stream.protocol.messages import (
    Cancel,
    Cancelled,
    Command,
    Done,
    End,
    FirstAudio,
    Fork,
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
from dia2stream.text.settings import TextSettings

QUEUE_FRAMES = 25
# Steps of room that a turn needs to begin, at most a sixth of the context: with less, the context is rebuilt first.
# Between turns the context is rebuilt as soon as there is less than twice that room. A rebuilt context has more.
TURN_ROOM = 250


@dataclass(frozen=True)
class MadeFrame:
    """A frame that a step completed, without its sound.

    number: of the model's frame. before: events that go out before it, and words that were taken for it. ends_turn: it
    is the turn's last. gain: of its sound, None where that stays as it is.
    """

    number: int
    before: Sequence[Item | TakenWord]
    ends_turn: bool
    gain: Gain | None = None


@dataclass(frozen=True)
class _Interruption:
    """step: the first one whose frame was not heard. words: that are cut, the latest first; empty between words."""

    step: int
    words: Sequence[TakenWord]


class Conversation:
    """One client's conversation. The context is one slot of a stepper, and outlives the conversation.

    voices: prefixes by name. The first one is the default; without any, the voice is random. max_lead_ms: how far
    sending may be ahead of the listener, None for as fast as items are taken. queue_frames: how many frames generation
    may be ahead of sending. ear: encodes the caller; without it the conversation cannot listen. text: how text is read.
    corrections: of the times of words that are told, and of the two speakers' levels where no voice is given.
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
        text: TextSettings | None = None,
        corrections: Corrections | None = None,
    ) -> None:
        self.slot, self.context, self.machine = context.slot, context, context.machine
        self.defaults = settled(defaults or SpeechOptions(), SamplingDefaults())
        self.voices = voices or {}
        self.outbox = Outbox(queue_frames, max_lead_ms)
        self._tokenizer, self._ear, self._text = tokenizer, ear, text or TextSettings()
        self._corrections = corrections or Corrections()
        self._level = Level(self.defaults.gain_db, self._corrections.speaker_gain_db)
        self.preparation: Preparation[Conversation] = Preparation(self)
        self._forget()

    def _forget(self) -> None:
        """No conversation: nothing was said, nothing is to be said."""
        self.outbox.restart()
        self.active = self._speaking = False  # active: whether a conversation has begun
        self.words = Words(TextReader(self._tokenizer, self._text.front_end()))
        self.callers = Callers(self._ear, self._tokenizer, self.machine)
        self.clock = AudioClock()
        self.times = WordTimes(self._corrections)
        self._words_at = 0.0  # when the words came that ended the last wait for words
        self.heard_ms: float | None = None  # while paused: what the listener has heard, on the audio clock
        self._opening: Utterance | None = None  # the utterance that the current turn begins with
        self._undelivered = 0  # frames that were made and whose sound is not queued yet

    # ---- Commands ----

    def handle(self, command: Command, arrived: float) -> Command | None:
        """Carries out one command; its answer goes to the outbox. Raises CommandError, and then nothing has changed.

        Every frame that was made must have been delivered, those of a draft as well. arrived: when the command came, on
        the clock of `take`. Returns the command that is to be written down, see `Preparation.handle`.
        """
        try:
            return self.preparation.handle(command, arrived)
        except CommandError as error:
            error.cmd = type(command).__name__.lower()
            error.id = getattr(command, "id", None)
            raise

    def obey(self, command: Command, arrived: float) -> None:
        """The same for a command that is about no prepared reply, while there is no draft."""
        lacked_words = self._lacks_words()
        self._carry_out(command, arrived)
        if lacked_words and not self._lacks_words():
            self._words_at = arrived

    def _carry_out(self, command: Command, arrived: float) -> None:
        match command:
            case Start():
                self._start(command, arrived)
            case Inject():
                self._inject(command, arrived)
            case End():
                self._end(command.id)
            case Cancel():
                self._cancel(command.id)
            case Pause():
                self._pause(command, arrived)
            case Resume():
                self._resume()
            case Reset():
                self._reset()
            case Listen():
                self._hear_caller(command)
            case Fork():
                raise CommandError("bad_command", "there is one conversation here: fork is for a server's clients")

    def need_conversation(self) -> None:
        """Raises CommandError while none has begun."""
        if not self.active:
            raise CommandError("no_session", "there is no conversation: begin one with start")

    def _lacks_words(self) -> bool:
        """Whether it would go on if it had more words, or the end of the text."""
        return self.active and not self.paused and self.words.opened is not None and not self.wants_step()

    def _start(self, command: Start, arrived: float) -> None:
        voice = find_voice(self.voices, command.voice)
        reader = TextReader(self._tokenizer, self._text.front_end(command.text_rules, command.say))
        before, entries = reader.copy(), reader.read(command.text, command.final)
        check_room(entries, queued=0)
        seed, padding = choose_seed(command, self.defaults), choose_padding(command, self.defaults)
        self._forget()
        self.context.begin(slot_settings(command, self.defaults), seed, voice, padding)
        self.active, self.words.reader, self.clock = True, reader, AudioClock(self.context.first_frame)
        utterance = self._begin(command.id, arrived, before)
        self.outbox.answer(Started(utterance.id, seed))
        self._add(utterance, command.text, entries, command.final)

    def _inject(self, command: Inject, arrived: float) -> None:
        self.need_conversation()
        if self.heard_ms is not None:
            self._inject_instead(command, arrived, self.heard_ms)
            return
        words = self.words
        reader, opened, another = words.draft(), words.opened, words.begins_another(command.id)
        voice = self._other_voice(command, words.voice_at_the_end(self.context.voice))
        if voice is not None and not another:
            raise CommandError("bad_field", "voice: the open utterance has begun in another one", field="voice")
        closing = reader.finish() if opened and another else []  # the open utterance is complete as it is
        before = reader.copy()
        if another:
            self._address(reader, voice)
        entries = reader.read(command.text, command.final)
        check_room([*closing, *entries], self.queued)
        check_text(words.utterances, command.text)
        check_utterances(len(words.utterances) + self.outbox.events)
        words.reader = reader
        if opened and another:
            self._add(opened, "", closing, final=True)
        utterance = words.opened or self._begin(command.id, arrived, before, voice)
        self._add(utterance, command.text, entries, command.final)

    def _inject_instead(self, command: Inject, arrived: float, heard_ms: float) -> None:
        """Speaks this text instead of what was not heard."""
        cut, voice = self._cut_at(heard_ms), self._other_voice(command, self.context.voice)
        reader = self._reader_behind(cut)
        before = reader.copy()
        self._address(reader, voice)
        entries = reader.read(command.text, command.final)
        check_room(entries, queued=0)
        self._interrupt(cut)
        self.words.reader = reader
        self._add(self._begin(command.id, arrived, before, voice), command.text, entries, command.final)

    def _end(self, id: str | None) -> None:
        self.need_conversation()
        opened, reader = self.words.find_open(id), self.words.draft()
        if opened is not None:
            entries = reader.finish()
            self.words.reader = reader
            self._add(opened, "", entries, final=True)

    def _cancel(self, id: str) -> None:
        self.need_conversation()
        utterance, state = self.words.find_waiting(id), self.context.state
        if utterance is self.words.utterances[-1]:
            self.callers.answering |= utterance.replies
        self.words.cancel(utterance, state.queue)
        self.outbox.answer(Cancelled(id))
        if not self._speaking or state.end_step is not None:
            self._begin_turn()

    def _pause(self, command: Pause, now: float) -> None:
        self.need_conversation()
        played_ms = math.inf if command.played_ms is None else float(command.played_ms)
        # Frames that leave between this check and the hold can only move the position forward.
        if self.clock.step_at(min(played_ms, self.outbox.sent * FRAME_MS)) < self.context.oldest_step():
            problem = f"played_ms {played_ms:.0f} is too long ago to go back to"
            raise CommandError("bad_field", problem, field="played_ms")
        self.outbox.hold(now)
        self.heard_ms = min(played_ms, self.outbox.sent * FRAME_MS)
        self.outbox.answer(self._paused(self.heard_ms))

    def _paused(self, heard_ms: float) -> Paused:
        """What was heard, and what was not."""
        position, state = self.clock.position(heard_ms), self.context.state

        def was_heard(word: TakenWord, following: TakenWord | None) -> bool:
            """Whether half of it was."""
            if word.start is None:
                return False
            length = self.times.end(word, following, state.end_step) - word.start
            return position * FRAME_MS - word.start >= length / 2

        heard = self.words.heard(self.clock.turn_at(position), was_heard, state.queue)
        return Paused(round(heard_ms), *heard)

    def _resume(self) -> None:
        self.need_conversation()
        if self.heard_ms is None:
            raise CommandError("not_paused", "resume has nothing to resume: the conversation is not paused")
        self.heard_ms = None
        self.outbox.answer(Resumed())  # before the release: no frame may leave before this event
        self.outbox.release()

    def _reset(self) -> None:
        self._forget()
        self.context.release()
        self.outbox.answer(ResetDone())

    # ---- Drafts: see prepared.py ----

    def draft(self, context: Context) -> "Conversation":
        """Another one that stands where this one does, and goes on in a draft of its context."""
        draft = copy(self)
        draft.context, draft.outbox = context, DraftOutbox(self.outbox, QUEUE_FRAMES)
        draft.words, queue, draft._opening = self.words.copy(context.state.queue, self._opening)
        context.state.queue = deque(queue)
        draft.times = self.times.copy(dict(zip(self.words.sounded, draft.words.sounded, strict=True)))
        ear = None if self._ear is None else DraftEar(self._ear)
        draft.callers, draft.clock = self.callers.copy(ear), self.clock.copy()
        return draft

    def accept(self, draft: "Conversation", id: str, arrived: float) -> None:
        """Goes on as its draft, whose context was accepted. The utterance of this id counts as asked for now."""

        def asked_now(item: Item) -> Item:
            return FirstFrame(id, arrived) if isinstance(item, FirstFrame) and item.id == id else item

        assert isinstance(draft.outbox, DraftOutbox)
        for utterance in draft.words.utterances:
            if utterance.id == id:
                utterance.arrived = arrived
        self.outbox.accept(draft.outbox, asked_now)
        self.words, self.callers, self.clock = draft.words, draft.callers.copy(self._ear), draft.clock
        self._speaking, self._opening, self.heard_ms = draft._speaking, draft._opening, draft.heard_ms
        self._words_at, self.times = draft._words_at, draft.times
        if not self._speaking:
            self._make_room()

    # ---- While nobody listens ----

    def copy(self, other: "Conversation", now: float) -> None:
        """Becomes a copy of another conversation of the same model, between two steps, and stands still.

        A prepared reply stays with the other one.

        Every frame that was made there must have been delivered. Raises CommandError, and then nothing is here.
        """
        other.need_conversation()
        other.preparation.make_way(now)
        self._forget()
        try:
            self.context.copy(other.context)
        except RuntimeError:
            raise CommandError("busy", "the model's cache has no room for another conversation as long") from None
        self.words, queue, self._opening = other.words.copy(other.context.state.queue, other._opening)
        self.context.state.queue.extend(queue)
        self.callers, self.clock, self.outbox = other.callers.copy(self._ear), other.clock.copy(), other.outbox.copy()
        self.defaults, self.voices, self._text, self._level = other.defaults, other.voices, other._text, other._level
        self.active, self._speaking, self.heard_ms = other.active, other._speaking, other.heard_ms
        self._words_at = other._words_at
        self.times = other.times.copy(dict(zip(other.words.sounded, self.words.sounded, strict=True)))
        self.stand_still(now)

    def stand_still(self, now: float) -> None:
        """The client is gone. Pauses where sending stopped, without a word; what the client has paused stays so."""
        if self.active and not self.paused:
            self.preparation.make_way(now)
            self.outbox.hold(now)
            self.heard_ms = self.outbox.sent * FRAME_MS

    def say_where(self, now: float) -> None:
        """A client is there again: answers `paused`, if that is where it stands and no such answer is waiting."""
        if self.heard_ms is not None and not self.outbox.has_answer(Paused):
            self.preparation.make_way(now)
            self.outbox.answer(self._paused(self.heard_ms))

    # ---- Steps ----

    @property
    def paused(self) -> bool:
        """Whether the client has paused it."""
        return self.heard_ms is not None

    @property
    def speaking(self) -> bool:
        """Whether a turn goes on."""
        return self._speaking

    def wants_step(self) -> bool:
        """Whether a step is wanted, and would be the same whatever text comes next."""
        if not self._speaking or self.paused:
            return False
        state = self.context.state
        return state.end_step is not None or self.machine.may_step(state, self._closed)

    @property
    def _closed(self) -> bool:
        """Whether no text can come that would change the turn."""
        return self.words.opened is None or self.words.opened.waits

    def foresee(self) -> Ahead | None:
        """The text of the next column for either action, where another step is wanted whichever it is; else None."""
        if self.context.room < 2:
            return None
        return self.machine.foresee(self.context.state, self.context.step, self._closed)

    def guess(self, most: int, steps: int) -> Tree | None:
        """What the next steps probably run, at most so many, as at most `most` columns; None outside of a lead-in."""
        return self.context.guess(most, steps, self._closed)

    def can_step(self) -> bool:
        """Whether a step is wanted and there is room for a frame."""
        if self.context.is_draft and self.context.room <= 0:
            return False
        return self.outbox.waiting + self._undelivered < self.outbox.capacity and self.wants_step()

    @property
    def awaits_sound(self) -> bool:
        """Whether a frame was made and not delivered yet. No command may be handled then."""
        return self._undelivered > 0

    @property
    def current(self) -> "Conversation":
        """What is stepped now: the draft of a prepared reply, or the conversation itself."""
        return self.preparation.draft or self

    @property
    def is_quiet(self) -> bool:
        """Whether a draft may begin: it is paused, or between two turns, and nothing of it is under way."""
        quiet = self.paused or not (self._speaking or self.words.backlog)
        return self.active and quiet and not self.context.due and not self._undelivered

    @property
    def step(self) -> int:
        """The model's next step; that of the conversation itself, also while a draft is made."""
        return self.preparation.step

    @property
    def waits_since(self) -> float | None:
        """When the turn's first words arrived, until its first frame is made; None from then on and between turns."""
        if not self._speaking or self._opening is None or self.context.frames > (self.clock.turn or 0):
            return None
        return self._opening.arrived

    def prepare(self) -> None:
        """Before a step: rebuilds a context that is full, and runs all columns that are due."""
        self.context.prepare()

    def advance(self, action: int) -> TextColumn:
        """Takes the step's action. Returns the text of the next column."""
        text = self.context.advance(action)
        state = self.context.state
        self.words.take(state.taken)
        state.taken.clear()
        return text

    def complete(self, frame: int) -> MadeFrame:
        """Behind a step that completed this frame of the model. `deliver` has to be called with what this returns."""
        before: list[Item | TakenWord] = []
        speaker = self.words.speaker
        if self._opening is not None and frame == self.clock.turn:
            before += self._announce(self._opening)
        for word in self.words.sound(frame):
            before += self._sound(word)
        self._undelivered += 1
        end = self.context.state.end_step
        gain = self._level.gain(speaker, self.words.speaker, has_voice=self.context.voice is not None)
        return MadeFrame(frame, before, end is not None and frame >= end + MAX_PADDING, gain)

    def deliver(self, made: MadeFrame, pcm: NDArray[np.float32], levels: bytes = b"") -> None:
        """Queues a frame for the listener, with its sound in -1..1. After a turn's last frame the turn ends.

        levels: of its sound, as `quietness` measures them; empty where they are not known.
        """
        self.outbox.put(*self._events_before(made, levels), Frame(pcm))
        self._undelivered -= 1
        if made.ends_turn:
            self._end_turn()

    def take(self, now: float, answers_only: bool = False) -> Item | float | None:
        """The next thing to send; seconds to wait for it; None when nothing may leave."""
        item = self.outbox.take(now, answers_only)
        if isinstance(item, FirstFrame):
            return FirstAudio(item.id, (now - item.arrived) * 1000, item.words_after * 1000 or None)
        return item

    @property
    def idle(self) -> bool:
        """Whether everything that was asked for has been made and taken."""
        return not self._speaking and not self.words.backlog and self.outbox.empty and not self.context.due

    # ---- Text ----

    def close_text(self) -> None:
        """No more commands will come: an open utterance is complete, and a prepared reply is not wanted.

        Every frame that was made must have been delivered.
        """
        self.preparation.drop()
        if self.words.opened is not None:
            self._end(None)

    @property
    def queued(self) -> int:
        """Words that wait to be spoken."""
        return len(self.context.state.queue) + len(self.words.backlog) if self.active else 0

    def _begin(self, id: str | None, arrived: float, before: TextReader, voice: Prefix | None = None) -> Utterance:
        utterance = self.words.begin(id, arrived, before, voice)
        utterance.waits |= bool(self.callers)
        utterance.replies, self.callers.answering = self.callers.answering, False
        return utterance

    def _address(self, reader: TextReader, voice: Prefix | None) -> None:
        """Has the next word say whose it is, where somebody else has spoken before it, or in another voice."""
        if self.callers.answering or voice is not None:
            reader.answer()

    def _other_voice(self, command: Inject, now: Prefix | None) -> Prefix | None:
        """The voice that the conversation is to go on in; None for the one that it has."""
        voice = None if command.voice is None else find_voice(self.voices, command.voice)
        return None if voice is now else voice

    def _add(self, utterance: Utterance, text: str, entries: Sequence[ReadEntry], final: bool) -> None:
        """Gives an utterance more words, the last ones if `final`. Tells what of its text was changed or left out."""
        for notice in notices_of(utterance, self.words.reader):
            self.outbox.answer(notice)
        words = self.words.add(utterance, text, entries, final)
        if self._speaking and self.context.state.end_step is None and not utterance.waits:
            self.context.state.queue.extend(words)
        else:
            self.words.backlog.extend(words)
            self._begin_turn()

    # ---- Turns ----

    @property
    def _turn_room(self) -> int:
        """Columns that a context should have left when a turn begins."""
        return min(TURN_ROOM, self.context.reach // 6)

    def _begin_turn(self) -> None:
        """Speaks the backlog once enough of it is there: in a new turn, or going on from where the words ended."""
        turn = self.words.next_turn()
        if turn is None:
            if self.words.opened is None and not self._speaking:
                self.outbox.put(*self._done())
            return
        if not turn.closed and not self.machine.enough(turn.words):
            return
        if self._speaking and turn.first.waits:
            return  # `_end_turn` calls this again
        self._run_callers(final=True)
        context = self.context
        step = max(context.state.end_step or 0, context.frames)
        self._go_back(step)
        if turn.first.voice is not None:
            step = self._change_voice(turn.first.voice)
        if step == context.frames:
            self.clock.begin_turn(step)
            self._opening = turn.first
            if context.room < self._turn_room:
                context.rollover()
        context.state.append(turn.words)
        self._speaking = True  # before the backlog goes, because other threads ask `idle`
        self.words.begin_turn(turn)

    def _change_voice(self, voice: Prefix) -> int:
        """The turn that begins is spoken in this voice. Returns the step that it begins with."""
        first = self.context.first_frame
        self.context.change_voice(voice)
        if self.context.first_frame != first:  # nothing was said before: it begins behind another clip
            self.clock.go_back(self.context.first_frame, self.outbox.sent)
        return self.context.frames

    def _end_turn(self) -> None:
        self.outbox.put(*self._done())
        self._speaking = False  # behind the events, because other threads ask `idle`
        if not self.context.is_draft:
            self._make_room()
        self._run_callers()
        self._begin_turn()

    def _make_room(self) -> None:
        """Between turns, when the listener still has frames to play: there is time to make room for the next turn."""
        if self.context.room < 2 * self._turn_room:
            self._go_back(self.context.frames)
            self.context.rollover()

    def _go_back(self, step: int) -> None:
        """Stands at `step` again, text machine included; the frames made so far stay."""
        if step < self.context.step:
            mark = self.context.mark_at(step)
            self.context.rewind(step, self.context.frames)
            self.context.state.restore(mark)

    def _cut_at(self, heard_ms: float) -> "_Interruption":
        """Where an interruption goes back to, when the listener has heard so much."""
        step, state = self.clock.step_at(heard_ms), self.context.state
        mark = self.context.mark_at(step) if step < self.context.step else state.mark()
        taken = self.words.taken_between(self.clock.speaks_since(step), step)
        ended = mark.end_step is not None and mark.end_step <= step
        return _Interruption(step, self.times.being_said(taken, step * FRAME_MS, ended))

    def _reader_behind(self, cut: "_Interruption") -> TextReader:
        """A copy of the reader that goes on after what was heard."""
        reader = self.words.draft_from(cut.step)
        if any(taken.word.tokens[0] in self._tokenizer.speakers for taken in cut.words):
            reader.answer()  # the tag is forgotten together with the word that had it
        return reader

    def _interrupt(self, cut: "_Interruption") -> None:
        """Goes back to what was heard: the frames sent after it were not, and the rest of the text is not wanted.

        A model that remembers half a word says the other half before anything new. So it forgets the word that was cut,
        all but the first frame, in which the word before may still sound. The listener's clock does not go back.
        """
        step, context = cut.step, self.context
        if not cut.words:
            context.rewind(step, step)
        else:
            step = max(cut.words[-1].step + 1, context.oldest_step())
            context.cut(step, heard=cut.step)
        self.words.go_back(step)
        self.times.go_back(self.words.sounded[-1] if self.words.sounded else None)
        context.state.queue.clear()
        # No hold either, in which a model would go on with what it said last: the next word comes at once.
        context.state.restore(self.machine.start().mark())
        self.heard_ms, self._speaking = None, False
        self.outbox.cut()
        self.clock.go_back(step, self.outbox.sent)

    # ---- The caller ----

    def _hear_caller(self, command: Listen) -> None:
        self.need_conversation()
        utterance, piece = self.callers.utterance_for(command), read_piece(command)
        self.callers.check_room(len(piece.pcm) / command.sample_rate)
        if self.heard_ms is not None:
            # The caller has interrupted. What was not heard is dropped, as when text is injected.
            cut = self._cut_at(self.heard_ms)
            self.words.reader = self._reader_behind(cut)
            self._interrupt(cut)
        self.callers.hear(utterance, piece, command.final)
        self._run_callers()

    def _run_callers(self, final: bool = False) -> None:
        """Runs the caller's columns, as far as they are known, unless something is spoken.

        final: the caller says no more before the next turn.
        """
        if final:
            self.callers.close()
        if not self._speaking:
            for columns in self.callers.columns():
                self._run_caller(columns)

    def _run_caller(self, columns: Columns) -> None:
        context = self.context
        self._go_back(context.frames)
        for part in columns.cut(self._turn_room):
            if context.room < len(part.texts) + self._turn_room:
                context.rollover()
            context.extend(*part)
        # The reply begins as a conversation does: no token is pending, and the first word may come at once.
        context.state.restore(self.machine.start().mark())
        self.clock.pass_over(self.outbox.clock_ms // FRAME_MS, context.frames)

    # ---- Events that leave with a frame ----

    def _announce(self, utterance: Utterance) -> list[Item]:
        if utterance.announced:
            return []
        utterance.announced = True
        return [FirstFrame(utterance.id, utterance.arrived, max(0.0, self._words_at - utterance.arrived))]

    def _sound(self, taken: TakenWord) -> list[Item | TakenWord]:
        """A word that was taken for the frame that is made now, and the events before it."""
        utterance = taken.word.utterance
        items = [*self._done(before=utterance), *self._announce(utterance), taken]
        utterance.unheard -= 1
        oldest = self.context.oldest_step()
        self.words.forget_before(oldest)
        self.clock.forget_before(oldest)
        return items

    def _events_before(self, made: MadeFrame, levels: bytes) -> list[Item]:
        """The events that leave before a frame, now that its sound is known: also those of words that sound late."""
        events, words = list[Item](), list[TakenWord]()
        for item in made.before:
            if isinstance(item, TakenWord):
                words.append(item)
                continue
            if isinstance(item, Done):
                events += self._word_events(self.times.flush(), made.number)
            events.append(item)
        told = self.times.hear(made.number, levels, words)
        if made.ends_turn:
            told += self.times.flush()
        return events + self._word_events(told, made.number)

    def _word_events(self, told: Sequence[TakenWord], frame: int) -> list[Item]:
        """The events of words that begin to sound. frame: the model's, which is the next one on the audio clock."""
        return [self._word_event(taken, frame) for taken in told if taken.word.tokens and taken.word.begins]

    def _word_event(self, taken: TakenWord, frame: int) -> WordEvent:
        assert taken.start is not None
        now = self.outbox.clock_ms - frame * FRAME_MS  # of the audio clock, less the model's
        start_ms = max(0, round(now + taken.start))
        end = self.words.end_of(taken, self.context.state.end_step)
        if end is None:
            return word_event(taken.word, start_ms, None)
        ends = max(end * FRAME_MS + round(self._corrections.word_delay_ms), taken.start + self.times.length(taken))
        return word_event(taken.word, start_ms, round(now + ends))

    def _done(self, before: Utterance | None = None) -> list[Item]:
        """`done` for the utterances whose last sample is queued: all before one, or all there are."""
        return [Done(utterance.id, self.outbox.clock_ms) for utterance in self.words.finished(before)]

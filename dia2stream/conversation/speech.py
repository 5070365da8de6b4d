"""What a conversation says: turns of words, spoken step by step, and what the caller says between two turns.

`engine/batch.py` steps it, and only while it `can_step`:

    speech.prepare()                      # a step: before the backbone,
    text = speech.advance(action)         # behind it,
    made = speech.complete(frame)         # once the codes of the next column are drawn, if they complete a frame
    speech.deliver(made, pcm)             # when the frame's sound is there, before the next command

**Turns.** Speech begins with a lead-in and ends in silence. What lies between is a turn. A turn begins at the first
frame that is not known yet: frame 0 at the start, the frame behind the voice's clips, behind the turn before, or behind
the last frame that was heard. Text that comes during a turn is queued. Text that comes in the silence at the end of a
turn continues it, from the step at which the words ran out. Text that comes later begins the next turn.

**Interruptions.** The model goes back to the word that was cut, and the listener's clock does not. Example: 100 frames
were sent, 60 were heard, and a word began at step 57. The model forgets everything from step 58 on, and frame 100 of
the clock is the model's frame 58.

**The caller.** What was heard goes into the context where the next turn will begin, in passes of many columns, as soon
as nothing is spoken. These frames are not played, so the audio clock does not count them: its next segment begins
behind them.

**Waiting.** The second text stream shows words ahead. So a step that could take a word waits until the words ahead of
it are known or the text is closed. That is why text in pieces gives the audio of the same text at once.

Knows no command: `conversation.py` says what a client's commands do to it.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dia2.checkpoint.corrections import Corrections
from dia2.steps.context import Context
from dia2.steps.speculation import Tree
from dia2.steps.stepper import Ahead, TextColumn
from dia2.text.machine import MAX_PADDING
from dia2.text.script import TextTokenizer
from dia2.voice.voice import Prefix
from dia2stream.conversation.caller import Callers, Columns, Ear
from dia2stream.conversation.clock import AudioClock
from dia2stream.conversation.events import FrameEvents, MadeFrame, notices_of
from dia2stream.conversation.interruption import Interruption
from dia2stream.conversation.level import Level
from dia2stream.conversation.outbox import Outbox
from dia2stream.conversation.reader import ReadEntry, TextReader
from dia2stream.conversation.word_times import WordTimes
from dia2stream.conversation.words import TakenWord, Utterance, Words
from dia2stream.items import FRAME_MS, Frame, Item
from dia2stream.protocol.messages import Cancelled

# Steps of room that a turn needs to begin, at most a sixth of the context: with less, the context is rebuilt first.
# Between turns the context is rebuilt as soon as there is less than twice that room. A rebuilt context has more.
TURN_ROOM = 250
_SILENT_FRAMES = 2  # that the model remembers behind a word that was cut


class Speech:
    """The words of one conversation on their way through the model, which is one slot of a stepper.

    ear: encodes the caller; without it nobody is heard. level: how loud the frames are. corrections: of the times of
    words that are told.
    active: whether a conversation has begun. speaking: whether a turn goes on. heard_ms: what the listener has heard,
    on the audio clock, while the client has paused; else None. words_at: when the words came that ended the last wait
    for words, seconds on the caller's clock.
    """

    def __init__(
        self,
        context: Context,
        tokenizer: TextTokenizer,
        outbox: Outbox,
        reader: TextReader,
        ear: Ear | None,
        level: Level,
        corrections: Corrections,
    ) -> None:
        self.move_to(context)
        self.tokenizer, self.outbox, self.ear, self.level = tokenizer, outbox, ear, level
        self._corrections = corrections
        self.clear(reader)

    def clear(self, reader: TextReader) -> None:
        """No conversation: nothing was said, nothing is to be said. reader: of the text to come."""
        self.outbox.restart()
        self.active = self.speaking = False
        self.words = Words(reader)
        self.callers = Callers(self.ear, self.tokenizer, self.machine)
        self.clock = AudioClock()
        self.times = WordTimes(self._corrections, self.machine.pause_padding)
        self.words_at = 0.0
        self.heard_ms: float | None = None
        self._opening: Utterance | None = None  # the utterance that the current turn begins with
        self._undelivered = 0  # frames that were made and whose sound is not queued yet

    def stand_where(self, other: "Speech", ear: Ear | None) -> None:
        """Stands where another one does, whose context was copied, with words of its own. ear: hears the caller."""
        self.words, queue, self._opening = other.words.copy(other.context.state.queue, other._opening)
        self.context.state.queue = deque(queue)
        self.times = other.times.copy(dict(zip(other.words.sounded, self.words.sounded, strict=True)))
        self.callers, self.clock = other.callers.copy(ear), other.clock.copy()
        self.active, self.speaking, self.heard_ms = other.active, other.speaking, other.heard_ms
        self.words_at = other.words_at

    def go_on_as(self, draft: "Speech") -> None:
        """Takes over from its draft, which is not used afterwards. The draft's context was accepted."""
        self.words, self.callers, self.clock = draft.words, draft.callers.copy(self.ear), draft.clock
        self.speaking, self._opening, self.heard_ms = draft.speaking, draft._opening, draft.heard_ms
        self.words_at, self.times = draft.words_at, draft.times
        if not self.speaking:
            self._make_room()

    def move_to(self, context: Context) -> None:
        """Goes on in another slot, whose context has adopted this one's conversation."""
        self.slot, self.context, self.machine = context.slot, context, context.machine

    # ---- What is going on ----

    @property
    def paused(self) -> bool:
        """Whether the client has paused it."""
        return self.heard_ms is not None

    @property
    def idle(self) -> bool:
        """Whether everything that was asked for has been made and taken."""
        return not self.speaking and not self.words.backlog and self.outbox.empty and not self.context.due

    @property
    def is_quiet(self) -> bool:
        """Whether a draft may begin: it is paused, or between two turns, and nothing of it is under way."""
        quiet = self.paused or not (self.speaking or self.words.backlog)
        return self.active and quiet and not self.context.due and not self._undelivered

    @property
    def queued(self) -> int:
        """Words that wait to be spoken."""
        return len(self.context.state.queue) + len(self.words.backlog) if self.active else 0

    @property
    def awaits_sound(self) -> bool:
        """Whether a frame was made and not delivered yet. No command may be handled then."""
        return self._undelivered > 0

    @property
    def waits_since(self) -> float | None:
        """When the turn's first words arrived, until its first frame is made; None from then on and between turns."""
        if not self.speaking or self._opening is None or self.context.frames > (self.clock.turn or 0):
            return None
        return self._opening.arrived

    @property
    def lacks_words(self) -> bool:
        """Whether it would go on if it had more words, or the end of the text."""
        return self.active and not self.paused and self.words.opened is not None and not self.wants_step()

    # ---- Steps ----

    def wants_step(self) -> bool:
        """Whether a step is wanted, and would be the same whatever text comes next."""
        if not self.speaking or self.heard_ms is not None:
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
        return self.has_room and self.wants_step()

    @property
    def has_room(self) -> bool:
        """Whether there is room for the frame of another step."""
        if self.context.is_draft and self.context.room <= 0:
            return False
        return self.outbox.waiting + self._undelivered < self.outbox.capacity

    def prepare(self) -> None:
        """Before a step: rebuilds a context that is full, and runs all columns that are due."""
        self.context.prepare()

    def advance(self, action: int) -> TextColumn:
        """Takes the step's action. Returns the text of the next column."""
        text = self.context.advance(action)
        if taken := self.context.state.taken:
            self.words.take(taken)
            taken.clear()
        return text

    def complete(self, frame: int) -> MadeFrame:
        """Behind a step that completed this frame of the model. `deliver` has to be called with what this returns."""
        before: list[Item | TakenWord] = []
        speaker = self.words.speaker
        if self._opening is not None and frame == self.clock.turn:
            before += self._events.announced(self._opening)
        if sounding := self.words.sound(frame):
            events = self._events
            before += [item for word in sounding for item in events.taken(word)]
            oldest = self.context.oldest_step()
            self.words.sounded.forget_before(oldest)
            self.clock.forget_before(oldest)
        self._undelivered += 1
        end = self.context.state.end_step
        gain = self.level.gain(speaker, self.words.speaker, has_voice=self.context.voice is not None)
        return MadeFrame(frame, before, end is not None and frame >= end + MAX_PADDING, gain)

    def deliver(self, made: MadeFrame, pcm: NDArray[np.float32], levels: bytes = b"") -> None:
        """Queues a frame for the listener, with its sound in -1..1. After a turn's last frame the turn ends.

        levels: of its sound, as `quietness` measures them; empty where they are not known.
        """
        self.outbox.put_frame(Frame(pcm), self._events_before(made, levels))
        self._undelivered -= 1
        if made.ends_turn:
            self._end_turn()

    def _events_before(self, made: MadeFrame, levels: bytes) -> Sequence[Item]:
        """The events that leave before a frame. Most frames have none, and take no time here."""
        if made.before or made.ends_turn:
            return self._events.before(made, levels)
        told = self.times.hear(made.number, levels, ())
        return self._events.told(told, made.number) if told else ()

    @property
    def _events(self) -> FrameEvents:
        return FrameEvents(self.words, self.times, self.outbox.clock_ms, self.context.state.end_step, self.words_at)

    # ---- Text ----

    def begin(self, id: str | None, arrived: float, before: TextReader, voice: Prefix | None = None) -> Utterance:
        """Opens an utterance, see `Words.begin`. It waits for the caller's last words to be in the context."""
        utterance = self.words.begin(id, arrived, before, voice)
        utterance.waits |= bool(self.callers)
        utterance.replies, self.callers.answering = self.callers.answering, False
        return utterance

    def add(self, utterance: Utterance, text: str, entries: Sequence[ReadEntry], final: bool) -> None:
        """Gives an utterance more words, the last ones if `final`. Tells what of its text was changed or left out."""
        for notice in notices_of(utterance, self.words.reader):
            self.outbox.answer(notice)
        words = self.words.add(utterance, text, entries, final)
        if self.speaking and self.context.state.end_step is None and not utterance.waits:
            self.context.state.queue.extend(words)
        else:
            self.words.backlog.extend(words)
            self._begin_turn()

    def cancel(self, utterance: Utterance) -> None:
        """Cancels an utterance that waits. What waits behind it may be spoken sooner."""
        state = self.context.state
        if utterance is self.words.utterances[-1]:
            self.callers.answering |= utterance.replies
        self.words.cancel(utterance, state.queue)
        self.outbox.answer(Cancelled(utterance.id))
        if not self.speaking or state.end_step is not None:
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
            if self.words.opened is None and not self.speaking:
                self.outbox.put(*self._events.done())
            return
        if not turn.closed and not self.machine.enough(turn.words):
            return
        if self.speaking and turn.first.waits:
            return  # `_end_turn` calls this again
        self.run_callers(final=True)
        context = self.context
        step = max(context.state.end_step or 0, context.frames)
        context.go_back(step)
        if turn.first.voice is not None:
            step = self._change_voice(turn.first.voice)
        if step == context.frames:
            self.clock.begin_turn(step)
            self._opening = turn.first
            if context.room < self._turn_room:
                context.rollover()
        context.state.append(turn.words)
        self.speaking = True  # before the backlog goes, because other threads ask `idle`
        self.words.begin_turn(turn)

    def _change_voice(self, voice: Prefix) -> int:
        """The turn that begins is spoken in this voice. Returns the step that it begins with."""
        before = self.context.first_frame
        self.context.change_voice(voice)
        if (first := self.context.first_frame) != before:  # nothing was said before: it begins behind another clip
            self.clock = AudioClock(first)  # no listener is before the end of the clip
            self.clock.go_back(first, first, self.outbox.sent)
        return self.context.frames

    def _end_turn(self) -> None:
        self.outbox.put(*self._events.done())
        self.speaking = False  # behind the events, because other threads ask `idle`
        if not self.context.is_draft:
            self._make_room()
        self.run_callers()
        self._begin_turn()

    def _make_room(self) -> None:
        """Between turns, when the listener still has frames to play: there is time to make room for the next turn."""
        if self.context.room < 2 * self._turn_room:
            self.context.go_back(self.context.frames)
            self.context.rollover()

    # ---- Interruptions ----

    def cut_at(self, heard_ms: float) -> Interruption:
        """Where an interruption goes back to, when the listener has heard so much."""
        return Interruption.at(heard_ms, self.clock, self.context, self.words, self.times)

    def interrupt(self, cut: Interruption) -> None:
        """Goes back to what was heard: the frames sent after it were not, and the rest of the text is not wanted.

        A model that remembers half a word says the other half before anything new. So it forgets the word that was cut,
        but for its first frame or so (`WordTimes.border`), and remembers silence behind it, where its checkpoint says
        how silence is written. The listener's clock does not go back, and has no such silence.
        """
        step, context = cut.step, self.context
        if not cut.words:
            context.rewind(step, step)
            self.words.go_back(step)
        else:
            first = cut.words[-1]
            step = max(self.times.border(first, cut.step), context.oldest_step())
            context.cut(step, heard=cut.step, since=first.step + 1)
            self.words.go_back(min(step, first.step + 1))
            if silence := self._corrections.silence:
                context.be_silent(silence, _SILENT_FRAMES)
        self.times.go_back(step, self.words.sounded.latest)
        context.state.queue.clear()
        # No hold either, in which a model would go on with what it said last: the next word comes at once.
        context.state.restore(self.machine.start().mark())
        self.heard_ms, self.speaking = None, False
        self.outbox.cut()
        self.clock.go_back(step, context.frames, self.outbox.sent)

    # ---- The caller ----

    def run_callers(self, final: bool = False) -> None:
        """Runs the caller's columns, as far as they are known, unless something is spoken.

        final: the caller says no more before the next turn.
        """
        if final:
            self.callers.close()
        if not self.speaking:
            for columns in self.callers.columns():
                self._run_caller(columns)

    def _run_caller(self, columns: Columns) -> None:
        context = self.context
        context.go_back(context.frames)
        for part in columns.cut(self._turn_room):
            if context.room < len(part.texts) + self._turn_room:
                context.rollover()
            context.extend(*part)
        # The reply begins as a conversation does: no token is pending, and the first word may come at once.
        context.state.restore(self.machine.start().mark())
        self.clock.pass_over(self.outbox.clock_ms // FRAME_MS, context.frames)

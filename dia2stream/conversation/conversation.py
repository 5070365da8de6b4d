"""One conversation: what each command of its client does, from start to reset; drafts, copies and standing still.

    conversation.handle(command, arrived)       # between steps
    item = conversation.take(now)               # from any thread

A conversation is a `Speech` with commands: the engine steps it as `speech.py` says.

Text that comes during a pause is said instead of what was not heard. What the caller says during a pause also takes
the place of what was not heard. A command checks everything first, and changes something once nothing can be refused.

No I/O, no threads, no clock of its own.
"""

import math
from copy import copy

from dia2.checkpoint.corrections import Corrections
from dia2.model.sampling import SamplingDefaults
from dia2.steps.context import Context
from dia2.text.script import TextTokenizer
from dia2.voice.voice import Prefix
from dia2stream.conversation.caller import Ear, read_piece
from dia2stream.conversation.clock import AudioClock
from dia2stream.conversation.level import Level
from dia2stream.conversation.outbox import DraftOutbox, Outbox
from dia2stream.conversation.prepared import DraftEar, Preparation
from dia2stream.conversation.reader import TextReader
from dia2stream.conversation.settings import choose_padding, choose_seed, find_voice, settled, slot_settings
from dia2stream.conversation.speech import Speech
from dia2stream.conversation.words import TakenWord, check_room, check_text, check_utterances
from dia2stream.errors import CommandError
from dia2stream.items import FRAME_MS, FirstFrame, Item
from dia2stream.options import SpeechOptions
from dia2stream.protocol.messages import (
    Cancel,
    Command,
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
)
from dia2stream.text.settings import TextSettings

QUEUE_FRAMES = 25


class Conversation(Speech):
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
        self.defaults = settled(defaults or SpeechOptions(), SamplingDefaults())
        self.voices, self._text = voices or {}, text or TextSettings()
        corrections = corrections or Corrections()
        level = Level(self.defaults.gain_db, corrections.speaker_gain_db)
        outbox, reader = Outbox(queue_frames, max_lead_ms), TextReader(tokenizer, self._text.front_end())
        super().__init__(context, tokenizer, outbox, reader, ear, level, corrections)
        self.preparation: Preparation[Conversation] = Preparation(self)

    def take(self, now: float, answers_only: bool = False) -> Item | float | None:
        """The next thing to send; seconds to wait for it; None when nothing may leave."""
        item = self.outbox.take(now, answers_only)
        if isinstance(item, FirstFrame):
            return FirstAudio(item.id, (now - item.arrived) * 1000, item.words_after * 1000 or None)
        return item

    def close_text(self) -> None:
        """No more commands will come: an open utterance is complete, and a prepared reply is not wanted.

        Every frame that was made must have been delivered.
        """
        self.preparation.drop()
        if self.words.opened is not None:
            self._end(None)

    @property
    def current(self) -> "Conversation":
        """What is stepped now: the draft of a prepared reply, or the conversation itself."""
        return self.preparation.draft or self

    @property
    def step(self) -> int:
        """The model's next step; that of the conversation itself, also while a draft is made."""
        return self.preparation.step

    def _forget(self) -> None:
        self.clear(TextReader(self.tokenizer, self._text.front_end()))

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
        lacked_words = self.lacks_words
        self._carry_out(command, arrived)
        if lacked_words and not self.lacks_words:
            self.words_at = arrived

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

    def _start(self, command: Start, arrived: float) -> None:
        voice = find_voice(self.voices, command.voice)
        reader = TextReader(self.tokenizer, self._text.front_end(command.text_rules, command.say))
        before, entries = reader.copy(), reader.read(command.text, command.final)
        check_room(entries, queued=0)
        seed, padding = choose_seed(command, self.defaults), choose_padding(command, self.defaults)
        self._forget()
        self.context.begin(slot_settings(command, self.defaults), seed, voice, padding)
        self.active, self.words.reader, self.clock = True, reader, AudioClock(self.context.first_frame)
        utterance = self.begin(command.id, arrived, before)
        self.outbox.answer(Started(utterance.id, seed))
        self.add(utterance, command.text, entries, command.final)

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
            self.add(opened, "", closing, final=True)
        utterance = words.opened or self.begin(command.id, arrived, before, voice)
        utterance.names_voice |= command.voice is not None
        self.add(utterance, command.text, entries, command.final)

    def _inject_instead(self, command: Inject, arrived: float, heard_ms: float) -> None:
        """Speaks this text instead of what was not heard."""
        cut, voice = self.cut_at(heard_ms), self._other_voice(command, self.context.voice)
        reader = cut.reader(self.words, self.tokenizer)
        before = reader.copy()
        self._address(reader, voice)
        entries = reader.read(command.text, command.final)
        check_room(entries, queued=0)
        self.interrupt(cut)
        self.words.reader = reader
        self.add(self.begin(command.id, arrived, before, voice), command.text, entries, command.final)

    def _end(self, id: str | None) -> None:
        self.need_conversation()
        opened, reader = self.words.find_open(id), self.words.draft()
        if opened is not None:
            entries = reader.finish()
            self.words.reader = reader
            self.add(opened, "", entries, final=True)

    def _cancel(self, id: str) -> None:
        self.need_conversation()
        self.cancel(self.words.find_waiting(id))

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
            return self.times.half_heard(position * FRAME_MS, word, following, state.end_step)

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

    def _hear_caller(self, command: Listen) -> None:
        self.need_conversation()
        utterance, piece = self.callers.utterance_for(command), read_piece(command)
        self.callers.check_room(len(piece.pcm) / command.sample_rate)
        if self.heard_ms is not None:
            # The caller has interrupted. What was not heard is dropped, as when text is injected.
            cut = self.cut_at(self.heard_ms)
            self.words.reader = cut.reader(self.words, self.tokenizer)
            self.interrupt(cut)
        self.callers.hear(utterance, piece, command.final)
        self.run_callers()

    def _address(self, reader: TextReader, voice: Prefix | None) -> None:
        """Has the next word say whose it is, where somebody else has spoken before it, or in another voice."""
        if self.callers.answering or voice is not None:
            reader.answer()

    def _other_voice(self, command: Inject, now: Prefix | None) -> Prefix | None:
        """The voice that the conversation is to go on in; None for the one that it has."""
        voice = None if command.voice is None else find_voice(self.voices, command.voice)
        return None if voice is now else voice

    # ---- Drafts: see prepared.py ----

    def draft(self, context: Context) -> "Conversation":
        """Another one that stands where this one does, and goes on in a draft of its context."""
        draft = copy(self)
        draft.context, draft.outbox = context, DraftOutbox(self.outbox, QUEUE_FRAMES)
        draft.stand_where(self, None if self.ear is None else DraftEar(self.ear))
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
        self.go_on_as(draft)

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
        self.stand_where(other, self.ear)
        self.outbox, self.level = other.outbox.copy(), other.level
        self.defaults, self.voices, self._text = other.defaults, other.voices, other._text
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

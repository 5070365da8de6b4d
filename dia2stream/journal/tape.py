"""Writes down a conversation as it goes: the engine's thread notes what happens, another thread takes it as entries.

The engine's thread only appends to a queue. Encoding is done by whoever takes, some time later; steps that follow each
other become one entry then. The queue is bounded: a tape that nobody takes from for too long is `lost`, which is told,
and costs nothing any more.
"""

import base64
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dia2.checkpoint.load import Checkpoint
from dia2.voice.voice import Prefix
from dia2stream import __version__
from dia2stream.conversation.caller import Ear, read_piece
from dia2stream.conversation.clock import Segment
from dia2stream.conversation.conversation import Conversation
from dia2stream.conversation.word_times import UNKNOWN, WINDOWS
from dia2stream.items import FRAME_MS
from dia2stream.journal.fingerprint import fingerprint
from dia2stream.journal.record import (
    VERSION,
    ArrivalEntry,
    ClockEntry,
    CommandEntry,
    EarEntry,
    Entry,
    Header,
    ReachEntry,
    Record,
    StepsEntry,
    VoiceEntry,
    begin,
    pack,
)
from dia2stream.protocol.messages import Command, Inject, Listen, Pause, Start, dump_command
from dia2stream.text.settings import TextSettings

MAX_NOTES = 100_000  # of a tape that nobody takes from: two hours of speech
MAX_STEPS = 500  # in one entry
_TEXTS = ("text", "id", "say", "words")  # the fields of a command that have, or may have, text of the callers in them


class Place(NamedTuple):
    """Where a conversation stands: the model's next step, and how many frames were sent."""

    step: int
    sent: int

    @classmethod
    def of(cls, conversation: Conversation) -> "Place":
        """Where it stands now."""
        return cls(conversation.step, conversation.outbox.sent)


class _Step(NamedTuple):
    step: int
    sent: int
    action: int
    codes: NDArray[np.int16]  # [C]
    levels: bytes  # of the frame that was heard last


class ForkNote(NamedTuple):
    """What is on this tape up to here is on another one as well."""

    copy: "Tape"


class DrawnStep(NamedTuple):
    """What a step has drawn. action: 0 or 1. codes: int16 [C], of the column behind it. levels: see `_Step`."""

    step: int
    action: int
    codes: NDArray[np.int16]
    levels: bytes


class Tape:
    """The record of one conversation as it grows, for one writer. A `start` command begins it anew.

    facts: of the engine. keeps_text: whether texts and the caller's codes are written down. on_command: called on the
    engine's thread when something should be written soon.
    """

    def __init__(self, facts: "Facts", keeps_text: bool = True, on_command: Callable[[], None] = lambda: None) -> None:
        self.lost = False  # whether something was left out because nobody took it
        self.begun = False  # whether there is a conversation to write down
        self.begins = 0  # how often one began: counted when its `start` is noted
        self._facts, self._keeps_text, self._on_command = facts, keeps_text, on_command
        self._notes: deque[bytes | Entry | _Step | ForkNote | None] = deque()
        self._heard: list[Tensor] = []  # codes of what the caller said, since the last entry
        self._voices: set[str] = set()
        self._segments: tuple[Segment, ...] = ()  # of the audio clock, that were noted
        self._reach: int | None = None  # columns, that were noted

    def go_on(self, record: Record, conversation: Conversation, received: int) -> None:
        """The conversation of this record goes on, for a client that has so many frames."""
        self.begun = True
        self._voices = {entry.name for entry in record.entries if isinstance(entry, VoiceEntry)}
        self._segments = conversation.clock.segments
        self._reach = next((e.columns for e in reversed(record.entries) if isinstance(e, ReachEntry)), None)
        self._note(ArrivalEntry(received))

    # ---- The engine's thread ----

    def fork(self, copy: "Tape", conversation: Conversation, was_paused: bool) -> None:
        """The conversation was copied: its copy's record begins with all that is on this tape so far, and goes on.

        conversation: the copy, which stands still. was_paused: whether its original did.
        """
        self._flush_ear()
        copy.begun, copy.lost, copy._keeps_text = self.begun, self.lost, self._keeps_text
        copy._voices, copy._segments, copy._reach = self._voices.copy(), self._segments, self._reach
        self._note(ForkNote(copy))
        if not was_paused:
            copy.command(conversation, Pause(), Place.of(conversation))
        self._on_command()

    def ear(self, ear: Ear) -> Ear:
        """The same ear, whose codes are written down."""
        return _TapedEar(ear, self._heard)

    def command(self, conversation: Conversation, command: Command, before: Place) -> None:
        """A command was carried out. before: where the conversation stood when it came."""
        if isinstance(command, Start):
            self._begin(conversation)
        if not self.begun:
            return
        if not conversation.active:  # a reset
            self._end()
            return
        self._note_voice(conversation, command)
        self._note_reach(conversation)
        self._flush_ear()
        message, samples = _message(command, conversation, self._keeps_text)
        # A pause holds what is sent; after any other command the frames that left meanwhile are not counted.
        sent = conversation.outbox.sent if conversation.paused else before.sent
        made = conversation.outbox.clock_ms // FRAME_MS
        self._note(CommandEntry(message, before.step, sent, made, conversation.context.frames, samples))
        self._note_clock(conversation)
        self.begins += isinstance(command, Start)
        self._on_command()

    def step(self, conversation: Conversation, step: int, action: int, codes: NDArray[np.int16]) -> None:
        """A step was made and what it completed was delivered. codes: int16 [C], of the column behind it."""
        if self.begun:
            self._note_reach(conversation)
            self._flush_ear()
            self._note(
                _Step(
                    step, conversation.outbox.sent, plain_action(conversation, action), codes, conversation.times.levels
                )
            )
            self._note_clock(conversation)

    def committed(
        self,
        conversation: Conversation,
        inject: Inject,
        began: Place,
        made: int,
        frames: int,
        steps: Sequence[DrawnStep],
    ) -> None:
        """A prepared reply counts: the command that it amounts to came at this place, and its steps behind it.

        made: frames on the audio clock then. frames: that the conversation had then. `sent` of the place is of now.
        """
        if not self.begun:
            return
        self._note_voice(conversation, inject)
        self._note_reach(conversation)
        self._flush_ear()
        message, _ = _message(inject, conversation, self._keeps_text)
        self._note(CommandEntry(message, began.step, began.sent, made, frames, None))
        self._note_clock(conversation)
        for step, action, codes, levels in steps:
            self._note(_Step(step, began.sent, action, codes, levels))
        self._on_command()

    def _begin(self, conversation: Conversation) -> None:
        self.begun = True
        self._voices.clear()
        self._segments = ()
        self._reach = conversation.context.columns.limit
        self._notes.append(None)
        self._notes.append(begin(self._facts.header(conversation, self._keeps_text)))

    def _end(self) -> None:
        self.begun = False
        self._notes.append(None)
        self._on_command()

    def _note_voice(self, conversation: Conversation, command: Command) -> None:
        default = next(iter(conversation.voices), None) if isinstance(command, Start) else None
        name = getattr(command, "voice", None) or default
        if name is not None and name not in self._voices and self._keeps_text:
            self._voices.add(name)
            self._note(_voice_entry(name, conversation.voices[name]))

    def _flush_ear(self) -> None:
        for codes in self._heard:
            if self._keeps_text:
                self._note(EarEntry(codes.to(torch.int16).cpu().numpy()))
        self._heard.clear()

    def _note_reach(self, conversation: Conversation) -> None:
        columns = conversation.context.reach
        if columns != self._reach:
            self._reach = columns
            self._note(ReachEntry(columns))

    def _note_clock(self, conversation: Conversation) -> None:
        clock = conversation.clock
        if self._segments and self._segments[-1] == clock.latest:
            return
        known, self._segments = self._segments, clock.segments
        for segment in self._segments:
            if segment not in known:
                self._note(ClockEntry(segment.clock, segment.step))

    def _note(self, note: Entry | _Step | ForkNote) -> None:
        if self.lost:
            return
        self.lost = len(self._notes) >= MAX_NOTES
        self._notes.append(note)

    # ---- The writer's thread ----

    def take(self) -> Iterator[bytes | ForkNote | None]:
        """The bytes that were not taken yet; None where they are of a new record, or the conversation is gone.

        A ForkNote comes behind the last bytes that are to be on the other tape too.
        """
        steps: list[_Step] = []
        for _ in range(len(self._notes)):
            note = self._notes.popleft()
            if isinstance(note, _Step) and (not steps or note.step == steps[-1].step + 1) and len(steps) < MAX_STEPS:
                steps.append(note)
                continue
            if steps:
                yield _packed(steps)
                steps = []
            if isinstance(note, _Step):
                steps = [note]
            else:
                yield note if note is None or isinstance(note, bytes | ForkNote) else pack(note)
        if steps:
            yield _packed(steps)


class Facts:
    """What a record says of the engine that speaks. history_frames: of a rebuilt context."""

    def __init__(self, checkpoint: Checkpoint, text: TextSettings, history_frames: int) -> None:
        self._checkpoint, self._text, self._history = checkpoint, text, history_frames
        self.fingerprint = fingerprint(checkpoint)

    def header(self, conversation: Conversation, keeps_text: bool) -> Header:
        """Of a conversation that begins now."""
        checkpoint, text = self._checkpoint, self._text
        stepper = conversation.context.stepper
        return Header(
            version=VERSION,
            made_by=__version__,
            model=checkpoint.name,
            fingerprint=self.fingerprint,
            dtype=str(checkpoint.dtype).removeprefix("torch."),
            weights=checkpoint.weights,
            codebooks=len(stepper.delays),
            delays=tuple(stepper.delays),
            context_steps=conversation.context.columns.limit,
            history_frames=self._history,
            began=round(time.time(), 3),
            has_text=keeps_text,
            gain_db=conversation.defaults.gain_db,
            text=text_facts(text) if keeps_text else {},
        )


def text_facts(text: TextSettings) -> dict[str, Any]:
    """How text is read, for JSON."""
    lexicon = dict(text.lexicon.words)
    return {"rules": text.rules, "auto": text.auto, "makes_sounds": text.makes_sounds, "lexicon": lexicon}


class _TapedEar:
    """An ear whose codes are kept in a list as well."""

    def __init__(self, ear: Ear, heard: list[Tensor]) -> None:
        self._ear, self._heard = ear, heard
        self.sample_rate, self.frame_samples = ear.sample_rate, ear.frame_samples

    def begin(self) -> None:
        self._ear.begin()

    def encode(self, pcm: Tensor) -> Tensor:
        codes = self._ear.encode(pcm)
        self._heard.append(codes)
        return codes

    def take(self, codes: Tensor) -> None:
        self._ear.take(codes)
        self._heard.append(codes)

    @property
    def bare(self) -> Ear:
        return self._ear.bare

    def go_on_from(self, other: Ear) -> None:
        self._ear.go_on_from(other)


def _packed(steps: list[_Step]) -> bytes:
    actions = tuple(step.action for step in steps)
    codes = np.stack([step.codes for step in steps])
    levels = b"".join(step.levels or bytes([UNKNOWN] * WINDOWS) for step in steps)
    rows = np.frombuffer(levels, np.uint8).reshape(len(steps), WINDOWS)
    return pack(StepsEntry(steps[0].step, steps[-1].sent, actions, codes, rows))


def _voice_entry(name: str, prefix: Prefix) -> VoiceEntry:
    entries = tuple((entry.tokens, entry.text, entry.padding, entry.speaker) for entry in prefix.entries)
    return VoiceEntry(name, entries, tuple(prefix.new_word_steps), prefix.codes.to(torch.int16).cpu().numpy())


def _message(command: Command, conversation: Conversation, keeps_text: bool) -> tuple[dict[str, Any], int | None]:
    """A command as it is written down: with everything that the server chose for it, and without the caller's sound."""
    samples = None
    if isinstance(command, Start):
        command = _resolved(command, conversation)
    if isinstance(command, Listen):
        piece = read_piece(command)
        samples = len(piece.pcm)
        words = tuple((word.text, word.start, word.end) for word in piece.words)
        command = replace(command, audio="", text="", words=words)
    message = json.loads(dump_command(command))
    if not keeps_text:
        message = {name: value for name, value in message.items() if name not in _TEXTS}
    return message, samples


def _resolved(start: Start, conversation: Conversation) -> Start:
    """A start command that leaves nothing to the server."""
    defaults = conversation.defaults
    names = ("cfg_scale", "cfg_filter_k", "text_temperature", "text_top_k", "audio_temperature", "audio_top_k")
    chosen = {name: getattr(defaults, name) for name in (*names, "initial_padding") if getattr(start, name) is None}
    voice = start.voice or next(iter(conversation.voices), None)
    return replace(start, seed=conversation.context.seed, voice=voice, **chosen)


def plain_action(conversation: Conversation, action: int) -> int:
    """1 where an action begins a word, else 0."""
    return int(action == 1 or (action != 0 and action == conversation.machine.new_word))


def silence(samples: int) -> str:
    """The audio of a `listen` command with so many samples, of which only their number matters."""
    return base64.b64encode(bytes(2 * samples)).decode()

"""Leads a conversation through its record: the same commands at the same places, and what was drawn between them.

`Rerun` does that with any stepper. One without a model shows where the conversation stands (`revived.py`). The model
itself shows whether it draws the same again. If the conversation does not come out where the record says, that is an
error: then this version of dia2stream counts or reads otherwise.
"""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from dia2.text.script import Entry as TextEntry
from dia2.voice.voice import Prefix
from dia2stream.conversation.conversation import Conversation
from dia2stream.conversation.word_times import UNKNOWN
from dia2stream.errors import CommandError, RecordError
from dia2stream.items import FRAME_MS, FRAME_SAMPLES, Cut, FirstFrame, Frame, Item
from dia2stream.journal.record import (
    ArrivalEntry,
    ClockEntry,
    CommandEntry,
    EarEntry,
    Entry,
    ReachEntry,
    Record,
    StepsEntry,
    VoiceEntry,
)
from dia2stream.journal.recorded_ear import RecordedEar
from dia2stream.journal.tape import silence
from dia2stream.protocol.messages import Command, Paused, Resume, Resumed, Start, parse_command
from dia2stream.text.lexicon import Lexicon
from dia2stream.text.settings import TextSettings

KEPT_FRAMES = 125  # of what was sent: 10 s, as a server keeps for a client that comes back to it
_SILENCE = Frame(np.zeros(FRAME_SAMPLES, np.float32))


class Steps(Protocol):
    """What makes a step of a conversation whose draws are known."""

    def __call__(self, conversation: Conversation, action: int, codes: NDArray[np.int16], levels: bytes) -> None:
        """One step. codes: int16 [C], of the column behind it. levels: of the frame that it completes."""


def check_model(record: Record, fingerprint: str, name: str = "the record") -> None:
    """Raises RecordError if another model has spoken."""
    if record.header.fingerprint != fingerprint:
        theirs = f"{record.header.model} ({record.header.fingerprint})"
        raise RecordError(f"{name} was spoken by another model, {theirs}; this one is {fingerprint}")


def text_settings(record: Record) -> TextSettings:
    """How the record's texts are to be read. Raises RecordError."""
    try:
        text = dict(record.header.text)
        return TextSettings(text["rules"], Lexicon(text["lexicon"]), text["auto"], text["makes_sounds"])
    except (KeyError, AttributeError, TypeError) as error:
        raise RecordError(f"the record does not say how text is read: {error!r}") from None


class Rerun:
    """A conversation that is led through its record. Of what was sent, the last KEPT_FRAMES are kept in `told`.

    told: each item with the number of frames that were sent before it; not `paused` and `resumed`. sent: frames, by the
    record.
    on_reach: is told how many columns the model's context may have from here on. on_item: is told each item.
    """

    def __init__(
        self,
        conversation: Conversation,
        ear: RecordedEar,
        step: Steps,
        voices: Mapping[str, Prefix],
        on_reach: Callable[[int], None] | None = None,
        on_item: Callable[[int, Item], None] | None = None,
    ) -> None:
        self.conversation = conversation
        self.told: deque[tuple[int, Item]] = deque()
        self.sent = 0
        self._ear, self._step, self._own_voices, self._on_reach = ear, step, voices, on_reach
        self._on_item = on_item

    def run(self, record: Record, until: Callable[[], bool] = lambda: False) -> None:
        """Goes through the record. until: asked behind each entry, whether to stop. Raises RecordError."""
        for number, entry in enumerate(record.entries):
            try:
                self._go_through(entry)
            except CommandError as error:
                raise RecordError(f"entry {number} does not compute again: {error}") from None
            if until():
                return
        self._ear.clear()

    def take_until(self, sent: int) -> None:
        """Takes what leaves until so many frames are sent, or nothing may leave."""
        outbox = self.conversation.outbox
        while outbox.sent < sent:
            # The clock of this machine says nothing of a listener who heard this long ago.
            before, item = outbox.sent, outbox.take(math.inf)
            if item is None or isinstance(item, float):
                return
            if isinstance(item, Cut):
                self._silence_told()
            if not isinstance(item, Paused | Resumed):  # where it stands now is told to whoever comes back
                self.told.append((before, item))
            if self._on_item is not None:
                self._on_item(before, item)
            while self.told and self.told[0][0] < outbox.sent - KEPT_FRAMES:
                self.told.popleft()

    def arrive(self, received: int | None) -> int:
        """Pauses where the client is: it has so many frames, or, with None, those that were sent.

        Frames that it has not received wait to be sent again. Returns how many it has that are still to be made.
        """
        conversation, outbox = self.conversation, self.conversation.outbox
        self.take_until(self.sent)
        received = outbox.sent if received is None else max(received, outbox.sent - KEPT_FRAMES)
        if received > outbox.sent and conversation.paused:
            # That it went on was not written down, but its client has heard it.
            conversation.handle(Resume(), time.monotonic())
        self.take_until(received)
        sent = min(received, outbox.sent)
        if any(isinstance(item, Cut) for item in outbox.stream()):
            self._silence_told()
        again = [_now(item) for at, item in self.told if at >= sent]
        outbox.go_on_from(sent, again)
        outbox.change(_now)
        self.told = deque((at, item) for at, item in self.told if at < sent)
        self.sent = sent
        if received > sent:
            outbox.release()
        elif conversation.heard_ms is None:
            conversation.stand_still(time.monotonic())
        else:
            conversation.heard_ms = min(conversation.heard_ms, sent * FRAME_MS)
        return received - sent

    def _silence_told(self) -> None:
        """An interruption: to a client that did not get it, what was sent before is silence."""
        self.told = deque((at, _SILENCE) for at, told in self.told if isinstance(told, Frame))

    def _go_through(self, entry: Entry) -> None:
        match entry:
            case VoiceEntry():
                self.conversation.voices[entry.name] = _prefix(entry, self._own_voices)
            case EarEntry():
                self._ear.give(entry.codes)
            case CommandEntry():
                self._command(entry)
            case StepsEntry():
                self._steps(entry)
            case ClockEntry():
                known = any((entry.clock, entry.step) == (s.clock, s.step) for s in self.conversation.clock.segments)
                self._check(f"segment {entry.clock}, {entry.step} of the audio clock", known, True)
            case ArrivalEntry():
                self.arrive(entry.received)
            case ReachEntry():
                self._set_reach(entry.columns)

    def _command(self, entry: CommandEntry) -> None:
        command = _parsed(entry)
        if not isinstance(command, Start):
            self._check("the step of a command", self.conversation.context.step, entry.step)
            self.take_until(entry.sent)
            self._check("the frames sent at a command", self.conversation.outbox.sent, entry.sent)
        self.sent = entry.sent
        self.conversation.handle(command, time.monotonic())
        self.conversation.context.run_due()
        made = self.conversation.outbox.clock_ms // FRAME_MS
        self._check("the frames made at a command", made, entry.made)

    def _steps(self, entry: StepsEntry) -> None:
        conversation, context = self.conversation, self.conversation.context
        self._check("the number of a step", context.step, entry.step)
        for action, codes, levels in zip(entry.actions, entry.codes, entry.levels, strict=True):
            if not conversation.wants_step():
                raise RecordError(f"step {context.step} does not compute again: there is nothing to say")
            conversation.prepare()
            self._step(conversation, action, codes, b"" if levels[0] == UNKNOWN else levels.tobytes())
        self.sent = entry.sent
        self.take_until(entry.sent)

    def _set_reach(self, columns: int) -> None:
        if self._on_reach is not None:
            self._on_reach(columns)

    def _check(self, name: str, found: object, recorded: object) -> None:
        if found != recorded:
            raise RecordError(f"{name} does not compute again: {found} where the record has {recorded}")


def _parsed(entry: CommandEntry) -> Command:
    message = dict(entry.command)
    if entry.samples is not None:
        message["audio"] = silence(entry.samples)
    return parse_command(json.dumps(message))


def _prefix(entry: VoiceEntry, own: Mapping[str, Prefix]) -> Prefix:
    """The voice of a record: the engine's own where it is the same, because what it leads to may be kept there."""
    entries = tuple(TextEntry(*fields) for fields in entry.entries)
    codes = torch.from_numpy(entry.codes.astype(np.int64))
    for prefix in own.values():
        alike = prefix.entries == entries and prefix.new_word_steps == entry.steps
        if alike and torch.equal(prefix.codes.cpu().long(), codes):
            return prefix
    return Prefix(codes, entries, entry.steps)


def _now(item: Item) -> Item:
    """An utterance's first audio counts from the moment at which its conversation was taken over."""
    return FirstFrame(item.id, time.monotonic()) if isinstance(item, FirstFrame) else item

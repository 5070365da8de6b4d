"""A conversation that goes on where its record ends: led through it without a model, then put into a slot of an engine.

A stepper without a model (`dia2/steps/replay.py`) needs microseconds for a step, so a server takes a conversation over
in little time. Until it has its slot, a frame of its outbox holds no sound but the frame's number, and its gain if it
has one. `settle` decodes these frames again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from dia2.checkpoint.corrections import Corrections
from dia2.model.config import Dia2Config
from dia2.steps.context import Context
from dia2.steps.replay import ReplayStepper, SilentCodec
from dia2.steps.stepper import TextColumn
from dia2.text.script import TextTokenizer
from dia2.voice.voice import Prefix
from dia2stream.conversation.caller import Ear
from dia2stream.conversation.conversation import QUEUE_FRAMES, Conversation
from dia2stream.conversation.level import Gain, amplified
from dia2stream.errors import RecordError
from dia2stream.items import Frame, Item
from dia2stream.journal.record import Record
from dia2stream.journal.recorded_ear import RecordedEar
from dia2stream.journal.rerun import Rerun, check_model, text_settings
from dia2stream.journal.tape import Tape
from dia2stream.options import SpeechOptions


@dataclass(frozen=True)
class Speaker:
    """What a conversation needs of an engine that goes on with it.

    voices: the engine's own, by name. new_ear: makes an ear that has no slot.
    """

    fingerprint: str
    config: Dia2Config
    opening: TextColumn
    tokenizer: TextTokenizer
    new_ear: Callable[[], Ear]
    voices: Mapping[str, Prefix]
    defaults: SpeechOptions
    corrections: Corrections = field(default_factory=Corrections)


class Revived:
    """A conversation that stands where its record ends, to be given a slot of an engine.

    received: how many frames its client has, None for all that were sent by the record. max_lead_ms: of its outbox.
    behind: how many frames the client has that are still to be made. clock: frames on its audio clock.
    speaks: whether it was speaking.
    Raises RecordError.
    """

    def __init__(
        self, record: Record, speaker: Speaker, received: int | None = None, max_lead_ms: float | None = None
    ) -> None:
        check_model(record, speaker.fingerprint)
        if not record.header.has_text:
            raise RecordError("the record has no text: it can be heard again, but not gone on with")
        if record.header.context_steps != speaker.config.runtime.max_context_steps:
            has = f"{record.header.context_steps} steps, and this model's {speaker.config.runtime.max_context_steps}"
            raise RecordError(f"the record's context has {has}")
        self._stepper, self._ear = ReplayStepper(speaker.config, speaker.opening), RecordedEar(speaker.new_ear())
        self._codec = SilentCodec()
        context = Context(self._stepper, 0, self._codec, record.header.history_frames)  # type: ignore[arg-type]
        self.conversation = Conversation(
            context,
            speaker.tokenizer,
            defaults=replace(speaker.defaults, gain_db=record.header.gain_db),
            corrections=speaker.corrections,
            max_lead_ms=max_lead_ms,
            queue_frames=QUEUE_FRAMES,
            ear=self._ear,
            text=text_settings(record),
        )
        stepper = self._stepper

        def step(conversation: Conversation, action: int, codes: NDArray[np.int16], levels: bytes) -> None:
            _step_without_model(stepper, conversation, action, codes, levels)

        rerun = Rerun(self.conversation, self._ear, step, speaker.voices, stepper.blocks.set)
        rerun.run(record)
        if not self.conversation.active:
            raise RecordError("the record has no conversation in it")
        self.conversation.context.run_due()
        self.speaks = not (self.conversation.paused or self.conversation.idle)
        self.behind = rerun.arrive(received)
        sent = self.conversation.outbox.sent
        self.lead_in: Item | None = next((i for at, i in rerun.told if at == sent - 1 and isinstance(i, Frame)), None)
        # The first one is the default: the engine's.
        self.conversation.voices = {**speaker.voices, **self.conversation.voices}

    @property
    def clock(self) -> int:
        """Frames that count as sent."""
        return self.conversation.outbox.sent + self.behind

    def write_down(self, tape: Tape, record: Record) -> None:
        """Goes on with its record on this tape."""
        tape.go_on(record, self.conversation, self.clock)

    def settle(self, context: Context, ear: Ear) -> None:
        """Goes on in a slot of an engine, on its thread; `ear` hears its caller from here on.

        The columns of its memory are due, and its frames that were made are decoded again. The frame before those is
        `lead_in`, if it is known.
        """
        conversation, outbox = self.conversation, self.conversation.outbox
        first = min(self._numbers(), default=conversation.context.frames)
        context.adopt(conversation.context, self._stepper.ran, self._codec.heard, first)
        # All are on their way before the first one is waited for.
        made = context.playback.decode_again(first, context.frames)
        sounds = {number: pcm for run, sound in made for number, pcm in zip(run, sound.pcm().numpy(), strict=True)}

        def sounding(item: Item) -> Item:
            number = _number(item)
            return item if number is None else _sounding(sounds[number], cast(Frame, item).pcm[1:])

        outbox.change(sounding)
        if self.lead_in is not None:
            self.lead_in = sounding(self.lead_in)
        self._ear.go_on(ear)
        conversation.move_to(context)

    def _numbers(self) -> list[int]:
        """The frames of the model that are to be sent, and the one before them."""
        items = self.conversation.outbox.stream()
        numbers = map(_number, items if self.lead_in is None else [self.lead_in, *items])
        return [number for number in numbers if number is not None]


def _step_without_model(
    stepper: ReplayStepper, conversation: Conversation, action: int, codes: NDArray[np.int16], levels: bytes
) -> None:
    context = conversation.context
    stepper.give(action, codes)
    stepper.act([0])
    stepper.complete([conversation.advance(action)])
    frame = context.next_frame()
    if frame is not None:
        context.playback.decode(frame)
        # Its number, and its gain if it has one, stand for its sound until somebody wants to hear it.
        made = conversation.complete(frame)
        conversation.deliver(made, np.array([frame, *(made.gain or ())], np.float32), levels)


def _number(item: Item) -> int | None:
    """Which of the model's frames stands for its sound here; None for anything else."""
    return int(item.pcm[0]) if isinstance(item, Frame) and len(item.pcm) <= 3 else None


def _sounding(pcm: NDArray[np.float32], gain: NDArray[np.float32]) -> Frame:
    return Frame(amplified(pcm, Gain(*map(float, gain))) if len(gain) else np.clip(pcm, -1.0, 1.0).copy())

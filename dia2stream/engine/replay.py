"""Speaks a recorded conversation again, with the model that has spoken it, and compares what it draws.

In float32 the model draws the same. Where it does not, the draws of the record are taken, so that the conversation goes
on as it was: `Replay.differences` tells at how many steps, and at which one first.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dia2.backend import make_codec, make_stepper
from dia2.checkpoint.download import Progress
from dia2.checkpoint.load import Checkpoint, load_checkpoint
from dia2.codec.hearing import Hearing
from dia2.steps.pool import ContextPool
from dia2.steps.voice_cache import VoiceCache
from dia2stream.conversation.conversation import Conversation
from dia2stream.conversation.level import Gain, amplified, factor
from dia2stream.engine.loading import default_model, load_options
from dia2stream.items import Frame, Item
from dia2stream.journal.fingerprint import fingerprint
from dia2stream.journal.heard import heard
from dia2stream.journal.record import Record
from dia2stream.journal.recorded_ear import RecordedEar
from dia2stream.journal.rerun import Rerun, check_model, text_settings
from dia2stream.journal.tape import plain_action
from dia2stream.options import CheckpointOptions, SpeechOptions


@dataclass
class Differences:
    """Steps whose draws are not those of the record. first: the number of the first one."""

    steps: int = 0
    count: int = 0
    first: int | None = None

    def note(self, step: int, same: bool) -> None:
        """A step was made."""
        self.steps += 1
        if not same:
            self.count += 1
            self.first = step if self.first is None else self.first


class Replay:
    """A record and the model that speaks it again. Raises RecordError for another model, Dia2Error without one."""

    def __init__(self, record: Record, model: CheckpointOptions, progress: Progress | None = None) -> None:
        self.record = record
        name = model.model or default_model(model.device)
        self.checkpoint: Checkpoint = load_checkpoint(name, load_options(model, progress))
        check_model(record, fingerprint(self.checkpoint))
        self.differences = Differences()
        stepper, _ = make_stepper(self.checkpoint, 1, speculate=False)
        codec = make_codec(self.checkpoint.codec, 1)
        self._pool = ContextPool(stepper, codec, record.header.history_frames, VoiceCache(0))
        self._heard: list[Frame] = []  # by their place on the audio clock

    def frames(self, until: int | None = None) -> list[Frame]:
        """All that was heard, up to so many frames. Raises RecordError for a record that does not compute again."""
        with torch.inference_mode():
            self._compute(until) if self.record.header.has_text else self._decode(until)
        return self._heard[:until]

    def _compute(self, until: int | None) -> None:
        ear = RecordedEar(Hearing(self.checkpoint.codec).slot(0))
        conversation = Conversation(
            self._pool.contexts[0],
            self.checkpoint.tokenizer,
            defaults=SpeechOptions(gain_db=self.record.header.gain_db),
            ear=ear,
            text=text_settings(self.record),
            corrections=self.checkpoint.corrections,
        )
        rerun = Rerun(conversation, ear, self._step, {}, on_item=self._hear)
        rerun.run(self.record, self._reached(until))
        rerun.take_until(1 << 40)

    def _reached(self, until: int | None) -> Callable[[], bool]:
        return lambda: until is not None and len(self._heard) >= until

    def _hear(self, before: int, item: Item) -> None:
        if isinstance(item, Frame):
            del self._heard[before:]  # after a take-over, frames were sent once more
            self._heard.append(item)

    def _step(self, conversation: Conversation, action: int, codes: NDArray[np.int16], levels: bytes) -> None:
        context, stepper = conversation.context, self._pool.stepper
        [drawn] = stepper.act([context.slot])
        stepper.complete([conversation.advance(action)])
        column = stepper.codes[context.slot, :, stepper.slots[context.slot].column]
        given = torch.from_numpy(codes.astype(np.int64)).to(column)
        same = torch.equal(column, given)
        self.differences.note(context.step - 1, same and plain_action(conversation, drawn) == action)
        if not same:
            column.copy_(given)
        frame = context.next_frame()
        if frame is not None:
            pcm, made = context.playback.decode(frame).pcm().numpy(), conversation.complete(frame)
            heard = np.clip(pcm, -1.0, 1.0).copy() if made.gain is None else amplified(pcm, made.gain)
            conversation.deliver(made, heard, levels)

    def _decode(self, until: int | None) -> None:
        """Without the text nothing can be computed, but the codes can be heard."""
        codec, device = self._pool.codec.slot(0), self._pool.stepper.device
        gain = factor(self.record.header.gain_db)
        for stretch in heard(self.record):
            codec.reset()
            if stretch.before:
                codec.hear(torch.from_numpy(np.stack(stretch.before, 1).astype(np.int64)).to(device))
            for codes in stretch.frames:
                if self._reached(until)():
                    return
                pcm = codec.submit(torch.from_numpy(codes.astype(np.int64))[:, None].to(device)).pcm().numpy()
                self._heard.append(Frame(amplified(pcm, Gain(gain, gain))))

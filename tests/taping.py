"""Conversations of a toy that are written down, and taken up again from what was written."""

import time
from typing import Any, cast

from conversations import SAMPLED, Rig, RigPool, ToyCodec, ToyEar, ToyStepper, ToyTokenizer, _raise

from dia2.checkpoint.corrections import Corrections
from dia2.steps.context import Context
from dia2stream.conversation.conversation import Conversation
from dia2stream.engine.batch import Batch
from dia2stream.journal.prepared_tape import PreparedTape, StepTape
from dia2stream.journal.record import VERSION, Header, Record, read_record
from dia2stream.journal.revived import Revived, Speaker
from dia2stream.journal.tape import Facts, Place, Tape, text_facts
from dia2stream.options import SpeechOptions
from dia2stream.protocol.messages import Command, Pause
from dia2stream.text.settings import TextSettings


class ToyFacts:
    """What a record says of a toy."""

    fingerprint = "toy"

    def header(self, conversation: Conversation, keeps_text: bool) -> Header:
        context = conversation.context
        return Header(
            version=VERSION,
            made_by="test",
            model="toy",
            fingerprint=self.fingerprint,
            dtype="float32",
            weights="dtype",
            codebooks=len(context.stepper.delays),
            delays=context.stepper.delays,
            context_steps=context.columns.limit,
            history_frames=context.history_frames,
            began=0.0,
            has_text=keeps_text,
            gain_db=conversation.defaults.gain_db,
            text=text_facts(TextSettings()) if keeps_text else {},
        )


class Taped(Rig):
    """A rig that a tape listens to, if there is one."""

    tape: Tape | None = None

    def carry_out(self, command: Command) -> None:
        before = Place.of(self.conversation)
        carried_out = self.conversation.handle(command, self.now)
        if self.tape is not None and carried_out is not None:
            self.tape.command(self.conversation, carried_out, before)

    def step(self) -> bool:
        if not self.can_step():
            return False
        self.steps += 1
        self.batch.step([self.conversation.current])
        self.prepare()
        return True

    def stand_still(self) -> None:
        """The client is gone."""
        self.batch.settle()
        before, stood = Place.of(self.conversation), self.conversation.paused
        self.conversation.stand_still(self.now)
        if self.tape is not None and not stood:
            self.tape.command(self.conversation, Pause(), before)


class TapedRig(Taped):
    """A rig whose conversation is written down. record: all that was taken from its tape so far, as bytes."""

    def __init__(
        self,
        *,
        keeps_text: bool = True,
        defaults: SpeechOptions = SAMPLED,
        history: int = 375,
        limit: int = 160,
        ahead: int = 2,
        **options: Any,
    ) -> None:
        self.tape = Tape(cast(Facts, ToyFacts()), keeps_text)
        stepper = ToyStepper(limit=limit, ahead=ahead)
        context = Context(cast(Any, stepper), 0, cast(Any, ToyCodec()), history)
        super().__init__(context, ToyTokenizer(), defaults, ear=self.tape.ear(ToyEar()), **options)
        tapes: dict[Conversation, StepTape] = {self.conversation: self.tape}
        self.conversation.preparation.keeper = PreparedTape(self.tape, tapes)
        self.batch = Batch(RigPool(cast(Any, stepper)), _raise, tapes)
        self.written = b""
        self.corrections = options.get("corrections", Corrections())

    def write(self) -> bytes:
        """What the tape holds, as one record from its start."""
        self.batch.settle()
        for data in self.tape.take():
            self.written = b"" if data is None else self.written + data
        return self.written

    def record(self) -> Record:
        return read_record(self.write())


def speaker(rig: Rig, fingerprint: str = "toy") -> Speaker:
    """An engine like that of a rig."""
    stepper = rig.stepper
    corrections = getattr(rig, "corrections", Corrections())
    return Speaker(fingerprint, stepper.config, stepper.opening, ToyTokenizer(), ToyEar, {}, SAMPLED, corrections)


def revived(record: Record, rig: Rig, received: int | None = None, writes: bool = False) -> "RevivedRig":
    """The conversation of a record of this rig, in a slot of another toy. writes: goes on with its record."""
    revival = Revived(record, speaker(rig), received)
    tape = Tape(cast(Facts, ToyFacts())) if writes else None
    if tape is not None:
        revival.write_down(tape, record)
    return RevivedRig(revival, rig, tape)


class RevivedRig(Taped):
    """A conversation that was taken over. tape: goes on with its record."""

    def __init__(self, revival: Revived, like: Rig, tape: Tape | None = None) -> None:
        limit = like.stepper.config.runtime.max_context_steps
        stepper = ToyStepper(limit=limit, ahead=like.context.machine.ahead)
        context = Context(cast(Any, stepper), 0, cast(Any, ToyCodec()), like.context.history_frames)
        revival.settle(context, ToyEar() if tape is None else tape.ear(ToyEar()))
        self.stepper, self.context, self.conversation = cast(Any, stepper), context, revival.conversation
        self.tape = tape
        tapes = {} if tape is None else {self.conversation: tape}
        self.batch = Batch(RigPool(cast(Any, stepper)), _raise, tapes)
        self.now, self.items, self.steps = time.monotonic(), [], 0
        self.revival = revival

    def catch_up(self) -> "RevivedRig":
        """Makes what the client has and the record has not, without sending it."""
        if self.revival.behind:
            self.run_until_sent(self.sent + self.revival.behind)
            self.items.clear()
            self.stand_still()
        return self

"""One step of many conversations: the only place that knows in which order the parts of a step follow each other.

    contexts that are full are rebuilt -> backbone, actions -> frames of the step before are delivered
    -> texts of the next columns -> depformer -> finished frames go to the codec

The codec works while the next step's backbone runs. So a frame waits for its sound until then, unless its listener has
nothing left to play, or the conversation cannot go on before the frame is delivered.

A failure in one conversation's own work (its text, its events, its context) takes only that conversation out of the
step. A failure of the model, which works for all of them at once, is raised to the caller.
"""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from dia2.steps.stepper import Stepper, TextColumn
from dia2stream.conversation.conversation import Conversation, MadeFrame
from dia2stream.engine.observer import StepReport

_T = TypeVar("_T")


class Batch:
    """Steps conversations of one stepper, and holds the frames whose sound is on its way.

    on_failure: is told of a conversation whose own work failed, and of the exception. The conversation must not be
    stepped again.
    """

    def __init__(self, stepper: Stepper, on_failure: Callable[[Conversation, Exception], None]) -> None:
        self._stepper, self._on_failure = stepper, on_failure
        self._made: list[tuple[Conversation, MadeFrame]] = []
        self._failed: set[Conversation] = set()
        self._device_seconds = 0.0

    def step(self, conversations: Sequence[Conversation]) -> StepReport:
        """One step of conversations that all `can_step`. Raises whatever the model's own calls raise."""
        started, self._device_seconds = time.perf_counter(), 0.0
        self._failed.clear()
        for conversation in conversations:
            self._try(conversation, conversation.prepare)
        stepped = [conversation for conversation in conversations if conversation not in self._failed]
        drawing = sum(conversation.context.draws_codes for conversation in stepped)
        frames = self._step(stepped) if stepped else 0
        return StepReport(
            started=started,
            seconds=time.perf_counter() - started,
            device_seconds=self._device_seconds,
            backbone_rows=len(stepped),
            depformer_rows=drawing,
            codec_rows=frames,
            batch_size=len(stepped),
            frames=frames,
        )

    def run_pass(self, conversation: Conversation, columns: int) -> None:
        """Runs columns that are due in a conversation's context, at most so many."""
        self._failed.clear()
        self._try(conversation, conversation.context.run_due, columns)

    def settle(self) -> None:
        """Delivers every frame that waits for its sound. Commands may be handled behind this."""
        waiting, self._made = self._made, []
        for conversation, made in waiting:
            if conversation not in self._failed:
                self._timed(self._deliver, conversation, made)

    def forget(self) -> None:
        """The model failed: the sound of frames that wait for it may never come."""
        self._made.clear()

    def _step(self, conversations: Sequence[Conversation]) -> int:
        """The step itself. Returns how many frames it completed."""
        actions = self._timed(self._stepper.act, [conversation.slot for conversation in conversations])
        self.settle()
        texts = [self._advance(c, action) for c, action in zip(conversations, actions, strict=True)]
        self._timed(self._stepper.complete, texts)
        frames = sum(self._complete(c) for c in conversations if c not in self._failed)
        self._deliver_urgent()
        return frames

    def _advance(self, conversation: Conversation, action: int) -> TextColumn:
        text = None if conversation in self._failed else self._try(conversation, conversation.advance, action)
        # The model has to complete the row of a conversation that failed, but nobody will read it.
        return self._stepper.opening if text is None else text

    def _complete(self, conversation: Conversation) -> bool:
        """Whether the step completed a frame of the conversation; the frame then waits for its sound."""
        made = self._try(conversation, conversation.complete)
        if made is None:
            return False
        self._made.append((conversation, made))
        return True

    def _deliver_urgent(self) -> None:
        """Delivers the frames that cannot wait for the next step."""
        waiting, self._made = self._made, []
        for conversation, made in waiting:
            listener_is_dry = not conversation.outbox.waiting
            if made.ends_turn or listener_is_dry or not conversation.can_step():
                self._timed(self._deliver, conversation, made)
            else:
                self._made.append((conversation, made))

    def _deliver(self, conversation: Conversation, made: MadeFrame) -> None:
        self._try(conversation, conversation.deliver, made)

    def _try(self, conversation: Conversation, work: Callable[..., _T], *arguments: object) -> _T | None:
        """Does a conversation's own work. When that fails, the conversation is out of the step and the rest goes on."""
        try:
            return work(*arguments)
        except Exception as error:
            self._failed.add(conversation)
            self._made = [(other, made) for other, made in self._made if other is not conversation]
            self._on_failure(conversation, error)
            return None

    def _timed(self, work: Callable[..., _T], *arguments: object) -> _T:
        """Does work that runs on the device, or waits for it."""
        began = time.perf_counter()
        try:
            return work(*arguments)
        finally:
            self._device_seconds += time.perf_counter() - began

"""Writes down a prepared reply that is committed, as the command that it amounts to, and nothing of any other.

The draft of a reply is stepped before anybody knows whether it counts. So what its steps draw is kept here, and reaches
the tape with the commit.
"""

from collections.abc import MutableMapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dia2stream.conversation.conversation import Conversation
from dia2stream.journal.tape import DrawnStep, Place, Tape, plain_action
from dia2stream.protocol.messages import Inject


class StepTape(Protocol):
    """What writes down the steps of a conversation, or of a draft."""

    def step(self, conversation: Conversation, step: int, action: int, codes: NDArray[np.int16]) -> None:
        """A step was made. codes: int16 [C], of the column behind it."""


class PreparedTape:
    """The steps of the draft of one conversation. tapes: where the draft is found while it is stepped."""

    def __init__(self, tape: Tape, tapes: MutableMapping[Conversation, StepTape]) -> None:
        self._tape, self._tapes = tape, tapes
        self._steps: list[DrawnStep] = []

    def begun(self, draft: Conversation) -> None:
        """A draft is about to be stepped."""
        self._tapes[draft] = self

    def step(self, conversation: Conversation, step: int, action: int, codes: NDArray[np.int16]) -> None:
        """A step of the draft."""
        levels = conversation.times.levels
        self._steps.append(DrawnStep(step, plain_action(conversation, action), codes, levels))

    def dropped(self, draft: Conversation) -> None:
        """The draft never was."""
        self._end(draft)

    def accepted(self, conversation: Conversation, draft: Conversation, inject: Inject, step: int) -> None:
        """The conversation goes on as its draft."""
        made, frames = draft.outbox.sent, draft.context.frames - draft.outbox.waiting
        began = Place(step, conversation.outbox.sent)
        self._tape.committed(conversation, inject, began, made, frames, self._end(draft))

    def _end(self, draft: Conversation) -> list[DrawnStep]:
        self._tapes.pop(draft, None)
        steps, self._steps = self._steps, []
        return steps

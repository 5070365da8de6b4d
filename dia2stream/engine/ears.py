"""What hears the callers of all conversations: what many of them say is encoded in one pass.

A caller's sound comes in pieces at any moment. The first piece that holds a whole frame is left for HEAR_SECONDS, then
a frame of each caller is encoded, and so on until nothing is left. Whoever needs codes before that has its own frames
encoded alone (`CallerSpeech`), so when the pass comes never changes what a conversation does.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from dia2.codec.hearing import Hearing
from dia2.cuda.graphs import MOST_SLOTS
from dia2stream.conversation.caller import Ear
from dia2stream.journal.tape import Tape

if TYPE_CHECKING:
    from dia2stream.conversation.conversation import Conversation

HEAR_SECONDS = 0.04  # half a frame: what comes meanwhile shares the pass


class Ears:
    """The callers that say something now. For the engine's thread, but for `load`."""

    def __init__(self, hearing: Hearing) -> None:
        self.due = math.inf  # when `hear` has something to do
        self._hearing = hearing
        self._speaking: list[Conversation] = []  # whose callers have said what is not encoded

    def load(self) -> None:
        """Loads the encoder, so that the first caller does not wait; on any thread."""
        self._hearing.load()

    def of(self, slot: int, tape: Tape | None) -> Ear:
        """What hears the caller of a slot's conversation."""
        ear = self._hearing.slot(slot)
        return ear if tape is None else tape.ear(ear)

    def note(self, conversation: "Conversation", now: float) -> None:
        """The caller has said something."""
        if conversation.callers.unheard() is not None and conversation not in self._speaking:
            self._speaking.append(conversation)
            self.due = min(self.due, now + HEAR_SECONDS)

    def forget(self, conversation: "Conversation") -> None:
        """The conversation is over."""
        if conversation in self._speaking:
            self._speaking.remove(conversation)

    def hears(self, conversation: "Conversation") -> bool:
        """Whether the caller has said what is not encoded."""
        return conversation in self._speaking

    def hear(self) -> None:
        """Encodes the next frame of what each caller has said, MOST_SLOTS at most. Raises what the encoder raises."""
        waiting = [conversation for conversation in self._speaking if conversation.callers.unheard() is not None]
        heard, left = waiting[:MOST_SLOTS], waiting[MOST_SLOTS:]
        self._speaking = left
        if heard:
            frames = [frame for one in heard if (frame := one.callers.unheard()) is not None]
            codes = self._hearing.encode_together([one.slot for one in heard], torch.from_numpy(np.stack(frames)))
            for conversation, its in zip(heard, codes, strict=True):
                conversation.callers.heard(its)
        self._speaking += [conversation for conversation in heard if conversation.callers.unheard() is not None]
        self.due = -math.inf if self._speaking else math.inf  # their next frames: as soon as a step was made

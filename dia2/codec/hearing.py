"""What the callers of many conversations say -> codes, a frame at a time, for any of the slots.

A caller is heard while the model speaks to others. So what callers have said is encoded together: one pass for a frame
of each of many slots costs little more than one for a single slot. `SlotHearing` is one conversation's view.
"""

import threading
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from dia2.codec.mimi import Mimi
from dia2.codec.state import CodecState
from dia2.model.slots import on_device


class Hearing:
    """Encodes at once, by plain calls. The encoder is read and its memory taken when a caller is heard first.

    On a CPU, sums come out otherwise in the last bit for other numbers of rows, and a code that is nearly a tie turns.
    So there is a pass for each frame: a conversation that is computed again hears the same, in any company.
    """

    _spare = 0  # rows of the state that no conversation has

    def __init__(self, mimi: Mimi, slots: int = 1) -> None:
        self.mimi, self.slots = mimi, slots
        self._loading = threading.Lock()

    @cached_property
    def state(self) -> CodecState:
        """What the encoder remembers of every slot's recording."""
        return self.mimi.hearing(self.slots + self._spare)

    def slot(self, number: int) -> "SlotHearing":
        """One conversation's view."""
        return SlotHearing(self, number)

    def load(self) -> None:
        """Reads the encoder and takes its memory, so that the first caller does not wait; on any thread."""
        with self._loading:
            _ = self.state

    @property
    def loaded(self) -> bool:
        """Whether `load` would find nothing to do."""
        return "state" in self.__dict__

    def begin(self, slot: int) -> None:
        """A new recording in a slot."""
        self.load()
        self.state.reset(slot)

    def encode(self, slot: int, pcm: Tensor) -> Tensor:
        """Whole frames of a slot's recording, float32 [frames * frame_samples] -> codes int64 [codebooks, frames]."""
        row, frames = on_device([slot], self.mimi.device), pcm.split(self.mimi.frame_samples)
        return torch.cat([self.mimi.encode(frame[None], self.state, row)[0] for frame in frames], dim=1)

    def encode_together(self, slots: Sequence[int], pcm: Tensor) -> Tensor:
        """The next frame of each of n slots, none twice: float32 [n, frame_samples] -> codes int64 [n, codebooks]."""
        return torch.stack([self.encode(slot, frame)[:, 0] for slot, frame in zip(slots, pcm, strict=True)])


class SlotHearing:
    """One conversation's view of a Hearing: what an `Ear` of dia2stream is."""

    def __init__(self, hearing: Hearing, slot: int) -> None:
        self._hearing, self._slot = hearing, slot
        self.sample_rate, self.frame_samples = hearing.mimi.sample_rate, hearing.mimi.frame_samples

    def begin(self) -> None:
        """A new recording."""
        self._hearing.begin(self._slot)

    def encode(self, pcm: Tensor) -> Tensor:
        """Whole frames that go on from those before, float32 [frames * frame_samples] -> int64 [codebooks, frames]."""
        return self._hearing.encode(self._slot, pcm)

    @property
    def bare(self) -> "SlotHearing":
        """Itself: nothing is written down here."""
        return self

    def go_on_from(self, other: object) -> None:
        """Hears the rest of the recording of another slot of the same Hearing."""
        if isinstance(other, SlotHearing) and other._hearing is self._hearing and self._hearing.loaded:
            self._hearing.state.copy_slot(other._slot, self._slot)

    def take(self, codes: Tensor) -> None:
        """Codes int64 [codebooks, frames] that were encoded together with those of other slots."""

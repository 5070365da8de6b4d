"""A stepper and a codec without a model, to go once more through what a model has drawn before.

A conversation whose draws are known is led through the same steps in microseconds each. Its context then stands where
the model's stood, and notes which columns the model's cache held. `Context.adopt` puts that into a real slot:

    stepper = ReplayStepper(config, opening)
    codec = SilentCodec()
    context = Context(stepper, 0, codec, history_frames)
    ...                                                     # for each step:
    stepper.give(action, codes)                             # what was drawn
    context.advance(*stepper.act([0])); stepper.complete([text]); context.next_frame()
    real.adopt(context, stepper.ran, codec.heard, frame)    # its columns are due, to be run in one pass
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dia2.model.config import Dia2Config
from dia2.model.delays import blank
from dia2.model.sampling import SlotSettings
from dia2.steps.stepper import Slot, TextColumn


class _Room:
    """Stands for the blocks of a cache that has none. reach: columns that the context may have, as was recorded."""

    def __init__(self, reach: int) -> None:
        self._reach = reach

    def set(self, reach: int) -> None:
        """What the model's blocks left from here on."""
        self._reach = reach

    def reach(self, slot: int) -> int:
        """How many columns the slot can have."""
        return self._reach

    def held(self, slot: int) -> int:
        """How many columns the slot has blocks for: all that it can have."""
        return self._reach

    def hold(self, slot: int, columns: int) -> None:
        """Nothing to hold."""

    def trim(self, slot: int, columns: int) -> None:
        """Nothing to give back."""


class ReplayStepper:
    """One slot of a stepper that draws what it is given; fields and methods are those of Stepper.

    ran: the text of each column that the slot's cache would hold.
    """

    def __init__(self, config: Dia2Config, opening: TextColumn) -> None:
        self.config, self.opening, self.delays = config, opening, config.data.delays
        self.device, self.capacity = torch.device("cpu"), config.runtime.max_context_steps + 2
        self.slots = [Slot(0, opening)]
        self.blocks = _Room(self.capacity)
        self.codes = blank(1, self.capacity, self.delays, config.data.audio_bos_token_id, self.device)
        self._columns: NDArray[np.int64] = self.codes.numpy()  # the same memory, which NumPy writes in less time
        self._delays, self._codebooks = np.array(self.delays), np.arange(len(self.delays))[:, None]
        self._texts: list[TextColumn] = [opening] * self.capacity
        self._action, self._drawn = 0, self._columns[0, :, 0].astype(np.int16)

    @property
    def ran(self) -> list[TextColumn]:
        """The text of each column before the slot's next one."""
        return self._texts[: self.slots[0].column]

    def begin(self, slot: int, settings: SlotSettings, seed: int) -> None:
        """A new conversation."""
        self.slots[0].settings = settings
        self.rebase(slot, seed, 0)

    def rebase(self, slot: int, seed: int, first_step: int) -> None:
        """Back to column 0."""
        self.slots[0] = Slot(0, self.opening, settings=self.slots[0].settings)
        self.codes[0].fill_(self.config.data.audio_bos_token_id)

    def prefill(self, slot: int, texts: Sequence[TextColumn]) -> None:
        """Passes over columns whose text is given."""
        state = self.slots[0]
        self._texts[state.column : state.column + len(texts)] = texts
        state.column += len(texts)

    def give(self, action: int, codes: NDArray[np.int16]) -> None:
        """What the next step draws: its action, and the codes of the column behind it, int16 [C]."""
        self._action, self._drawn = action, codes

    def act(self, slots: Sequence[int]) -> list[int]:
        """The action that was given."""
        state = self.slots[0]
        self._texts[state.column] = state.text
        return [self._action]

    def complete(self, texts: Sequence[TextColumn]) -> None:
        """Writes the codes that were given, and moves on."""
        state = self.slots[0]
        state.text = texts[0]
        state.column += 1
        self._columns[0, :, state.column] = self._drawn

    def frames(self, slot: int, start: int, stop: int) -> Tensor:
        """Aligned frames start..stop - 1, int64 [C, stop - start]; they must be complete."""
        places = self._delays[:, None] + np.arange(start, stop)
        return torch.from_numpy(self._columns[0][self._codebooks, places])


class SilentCodec:
    """Stands for a slot of a codec: remembers what it would have heard, and makes no sound.

    heard: codes int64 [C, 1] of each frame. Methods are those of SlotCodec.
    """

    most_back = 1 << 30

    def __init__(self) -> None:
        self.heard: list[Tensor] = []

    def submit(self, codes: Tensor) -> Any:
        """A frame is played."""
        self.heard.append(codes)

    def hear(self, codes: Tensor) -> None:
        """Frames that were played before."""
        self.heard.extend(codes.split(1, dim=1))

    def go_back(self, frames: int) -> None:
        """Takes back the last frames."""
        del self.heard[len(self.heard) - frames :]

    def saved(self) -> Any:
        """What was heard."""
        return list(self.heard)

    def restore(self, state: Any) -> None:
        """Goes on behind what was heard then."""
        self.heard = list(state)

    def reset(self) -> None:
        """Back to silence."""
        self.heard = []

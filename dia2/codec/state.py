"""What the streaming decoder remembers between frames."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class DecoderState:
    """What the decoders of `slots` conversations remember. Its tensors are updated in place and never replaced.

    position: int64 [slots], the next position at 25 Hz (it may grow without end, and may be set forward).
    filled: int64 [slots], how many past positions the attention rings hold.
    memory: float32 [slots, floats], everything else; `carry` names its parts. A new conversation is all zeros.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], slots: int, device: torch.device) -> None:
        if slots < 1:
            raise ValueError(f"slots is {slots}, it must be at least 1")
        self.shapes = dict(shapes)
        # One row of memory per conversation: saving or restoring it is one copy. Parts start at multiples of 256 bytes.
        sizes = [-(-math.prod(shape) // 64) * 64 for shape in self.shapes.values()]
        self.memory = torch.zeros(slots, sum(sizes), device=device)
        self.position = torch.zeros(slots, dtype=torch.int64, device=device)
        self.filled = torch.zeros(slots, dtype=torch.int64, device=device)
        self.carry: dict[str, Tensor] = {}
        for (name, shape), part in zip(self.shapes.items(), torch.split(self.memory, sizes, dim=1), strict=True):
            self.carry[name] = torch.unflatten(part[:, : math.prod(shape)], 1, shape)

    @property
    def slots(self) -> int:
        """How many conversations this state holds."""
        return self.memory.shape[0]

    def clone(self, slot: int | None = None) -> DecoderState:
        """A copy on the same device: of all slots, or a state of one slot."""
        rows = self._rows(slot)
        copy = DecoderState(self.shapes, self.position[rows].shape[0], self.memory.device)
        for mine, theirs in zip(copy._tensors(), self._tensors(), strict=True):
            mine.copy_(theirs[rows])
        return copy

    def copy_(self, other: DecoderState, slot: int | None = None) -> DecoderState:
        """Overwrite all slots with `other`'s, or one slot with the same slot of `other` (its only one, if it has one).

        Raises ValueError when the states do not have the same shape.
        """
        if other.shapes != self.shapes:
            raise ValueError("the states belong to codecs of different shapes")
        source = 0 if slot is not None and other.slots == 1 else slot
        if slot is None and other.slots != self.slots:
            raise ValueError(f"the states have {other.slots} and {self.slots} slots; name the slot to copy")
        into, from_ = self._rows(slot), other._rows(source)
        for mine, theirs in zip(self._tensors(), other._tensors(), strict=True):
            mine[into].copy_(theirs[from_])
        return self

    def reset(self, slot: int | None = None) -> DecoderState:
        """Back to silence before the first frame, for one slot or all."""
        rows = self._rows(slot)
        for tensor in self._tensors():
            tensor[rows].zero_()
        return self

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.position, self.filled, self.memory

    def _rows(self, slot: int | None) -> slice:
        if slot is None:
            return slice(None)
        if not 0 <= slot < self.slots:
            raise ValueError(f"slot {slot} is outside 0..{self.slots - 1}")
        return slice(slot, slot + 1)

"""What the streaming decoder remembers between frames, and how it goes back. The encoder remembers in the same way.

Both keep two kinds of memory for every conversation. Attention keeps the keys and values of past positions in a
*ring*, where position p lies at p % capacity until a position one capacity later overwrites it. Everything else, what
convolutions need of the frame before, is a few thousand floats, the *carry*; the carries of the last frames are kept
in a second ring, the *log*. Both are found by `position` alone. So a conversation goes back a few frames by setting its
position back: nothing has to be saved beforehand, and nothing is copied.

Example: the log holds 96 frames and frame 500 has been decoded when the listener interrupts, having heard frame 460.
`go_back` sets the position from 2 * 501 to 2 * 461. The keys and values of frame 460 and before are still in the ring,
the carry after frame 460 is still in the log, and decoding goes on from there as if frame 461 had never been decoded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dia2.codec.config import STRIDE

# Longer sequences are cut into passes of at most this many frames, so that memory does not grow with length.
FRAMES_PER_PASS = 25


@dataclass(frozen=True)
class StateShape:
    """The memory that a decoder or an encoder needs for one conversation.

    carries: name of a convolution -> the shape of what it keeps of the frame before, float32.
    layers, heads, width: attention layers, key heads of each, and floats a head.
    window: positions that a query sees, itself included.
    """

    carries: Mapping[str, tuple[int, ...]]
    layers: int
    heads: int
    width: int
    window: int

    @property
    def floats(self) -> int:
        """Floats of one carry, with every part starting at a multiple of 256 bytes."""
        return sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """Floats that each part of a carry takes up."""
        return [-(-math.prod(shape) // 64) * 64 for shape in self.carries.values()]

    def parts(self, carry: Tensor) -> dict[str, Tensor]:
        """Views of the parts of carries [n, floats], by name: [n, *shape] each."""
        pieces = zip(self.carries.items(), torch.split(carry, self.sizes, dim=1), strict=True)
        return {name: piece[:, : math.prod(shape)].unflatten(1, shape) for (name, shape), piece in pieces}


@dataclass(frozen=True)
class Aside:
    """What the next frames of a slot will overwrite. keys, values: [layers, heads, n, width]. log: [frames, floats]."""

    keys: Tensor
    values: Tensor
    log: Tensor

    @property
    def bytes(self) -> int:
        """Device memory that it takes."""
        return self.keys.nbytes + self.values.nbytes + self.log.nbytes


@dataclass(frozen=True)
class Place:
    """Where a slot stands: its position and what its rings hold, int64 [1] each."""

    position: Tensor
    filled: Tensor


class CodecState:
    """What the decoders, or the encoders, of `slots` conversations remember.

    Its tensors are updated in place and never replaced.

    back: how many frames `go_back` may go back at most; 0 for states that only go on.

    position: int64 [slots], the next position at 25 Hz, two a frame. It may grow without end. Where back is 0 it may
    be set forward: what was heard before is then forgotten as it leaves the window.
    filled: int64 [slots], how many past positions the rings hold.
    keys, values: float32 [layers, slots, heads, capacity, width], the rings.
    log: float32 [slots, back + 1, floats], the carries. A new conversation is all zeros.
    """

    def __init__(
        self, shape: StateShape, slots: int, device: torch.device, back: int = 0, capacity: int | None = None
    ) -> None:
        """capacity: positions that the rings hold, another number than these frames need (for copies)."""
        if slots < 1:
            raise ValueError(f"slots is {slots}, it must be at least 1")
        self.shape, self.back = shape, back
        # A pass writes all its keys before it looks, so its first query must still find its whole window; and so must
        # the first query after going back, although the frames it went back over have been written.
        needed = shape.window - 1 + STRIDE * max(FRAMES_PER_PASS, back)
        self.capacity = capacity or -(-needed // 8) * 8  # attention kernels like masks in multiples of 8
        rings = (shape.layers, slots, shape.heads, self.capacity, shape.width)
        self.keys, self.values = torch.zeros(rings, device=device), torch.zeros(rings, device=device)
        self.log = torch.zeros(slots, back + 1, shape.floats, device=device)
        self.position = torch.zeros(slots, dtype=torch.int64, device=device)
        self.filled = torch.zeros(slots, dtype=torch.int64, device=device)

    @property
    def slots(self) -> int:
        """How many conversations this state holds."""
        return len(self.position)

    @property
    def bytes(self) -> int:
        """Device memory that it takes."""
        return self.keys.nbytes + self.values.nbytes + self.log.nbytes

    def entry(self, rows: Tensor | slice, ahead: int = 0) -> Tensor:
        """Where in the log the carry lies that the next frame of each row reads, or the one `ahead` frames later."""
        return (self.position[rows] // STRIDE + ahead) % (self.back + 1)

    def go_back(self, slot: int, frames: int) -> None:
        """Takes back the last frames of a slot, at most `back`, all of which were decoded one by one.

        Since when frames were decoded so, and so how far back the log reaches, is for the caller to know.
        """
        if not 0 <= frames <= self.back:
            raise ValueError(f"{frames} frames back; this state goes back 0..{self.back}")
        self.position[self._rows(slot)] -= STRIDE * frames
        self.filled[self._rows(slot)] -= STRIDE * frames

    def place(self, slot: int) -> Place:
        """Where a slot stands now."""
        rows = self._rows(slot)
        return Place(self.position[rows].clone(), self.filled[rows].clone())

    def aside(self, slot: int, frames: int) -> Aside:
        """A copy of all that is overwritten when so many frames are decoded from here, at most `back` of them."""
        positions, entries = self._next(slot, frames)
        return Aside(
            self.keys[:, slot][:, :, positions], self.values[:, slot][:, :, positions], self.log[slot, entries]
        )

    def go_to(self, slot: int, place: Place) -> None:
        """Stands at a place of the slot again, from which nothing was decoded since."""
        rows = self._rows(slot)
        self.position[rows], self.filled[rows] = place.position, place.filled

    def put_back(self, slot: int, start: Place, aside: Aside, place: Place) -> None:
        """Undoes what was decoded since `aside` was taken at `start`. place: where the slot stands again."""
        rows = self._rows(slot)
        self.position[rows] = start.position
        positions, entries = self._next(slot, len(aside.log))
        self.keys[:, slot][:, :, positions], self.values[:, slot][:, :, positions] = aside.keys, aside.values
        self.log[slot, entries] = aside.log
        self.go_to(slot, place)

    def _next(self, slot: int, frames: int) -> tuple[Tensor, Tensor]:
        """Where the next frames of a slot are written in the rings, and in the log."""
        position = self.position[slot]
        numbers = torch.arange(STRIDE * frames, device=position.device)
        ahead = torch.arange(1, frames + 1, device=position.device)
        return (position + numbers) % self.capacity, (position // STRIDE + ahead) % (self.back + 1)

    def clone(self, slot: int | None = None) -> CodecState:
        """A copy on the same device, which goes back no further: of all slots, or a state of one slot."""
        rows = self._rows(slot)
        copy = CodecState(self.shape, len(self.position[rows]), self.position.device, capacity=self.capacity)
        return copy._take(slice(None), self, rows)

    def copy_(self, other: CodecState, slot: int | None = None) -> CodecState:
        """Overwrite all slots with `other`'s, or one slot with the same slot of `other` (its only one, if it has one).

        From there on it goes back no further. Raises ValueError when the states do not have the same shape.
        """
        if (other.shape, other.capacity) != (self.shape, self.capacity):
            raise ValueError("the states belong to codecs of different shapes")
        source = 0 if slot is not None and other.slots == 1 else slot
        if slot is None and other.slots != self.slots:
            raise ValueError(f"the states have {other.slots} and {self.slots} slots; name the slot to copy")
        return self._take(self._rows(slot), other, other._rows(source))

    def copy_slot(self, source: int, target: int) -> None:
        """Makes one slot a copy of another, which goes back as far."""
        new, old = self._rows(target), self._rows(source)
        for tensor in (self.position, self.filled, self.log):
            tensor[new] = tensor[old]
        for ring in (self.keys, self.values):
            ring[:, new] = ring[:, old]

    def reset(self, slot: int | None = None) -> CodecState:
        """Back to silence before the first frame, for one slot or all."""
        rows = self._rows(slot)
        for tensor in (self.position[rows], self.filled[rows], self.log[rows, 0]):
            tensor.zero_()
        for ring in (self.keys[:, rows], self.values[:, rows]):
            ring.zero_()  # masks hide what is there, but a NaN that a failure left would survive 0 x NaN
        return self

    def _take(self, rows: slice, other: CodecState, theirs: slice) -> CodecState:
        """Copies what some rows of another state go on from."""
        self.position[rows], self.filled[rows] = other.position[theirs], other.filled[theirs]
        self.keys[:, rows], self.values[:, rows] = other.keys[:, theirs], other.values[:, theirs]
        each = torch.arange(len(self.position[rows]), device=self.position.device)
        self.log[rows][each, self.entry(rows)] = other.log[theirs][each, other.entry(theirs)]
        return self

    def _rows(self, slot: int | None) -> slice:
        if slot is None:
            return slice(None)
        if not 0 <= slot < self.slots:
            raise ValueError(f"slot {slot} is outside 0..{self.slots - 1}")
        return slice(slot, slot + 1)

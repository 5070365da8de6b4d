"""The codec of many conversations, a frame at a time: codes in, 80 ms of sound out for any of the slots.

`submit` may return before the sound is made, and `Sounds.pcm` waits for it: on a CPU there is nothing to wait for,
dia2/cuda/codec.py decodes beside the model's own work on a GPU. A slot goes back by `go_back`, which costs nothing, as
far as `most_back` says; beyond that it hears again what was played (`reset` or `restore`, then `hear`).

`SlotCodec` is one conversation's view. Ids that are no codes add nothing: a model without delays begins with a column
of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dia2.codec.mimi import Mimi
from dia2.codec.state import Aside, CodecState, Place
from dia2.model.slots import on_device

# How far a slot goes back at no cost, 7.7 s: more than a listener usually lies behind what was decoded.
BACK_FRAMES = 96
# The published codec hears a thousand frames back, but nobody hears a difference that is longer ago than these.
_WARM_UP = 250


class Sounds(Protocol):
    """A frame of sound of each of n slots, perhaps still on its way to the host."""

    def pcm(self) -> Tensor:
        """float32 [n, frame_samples] on the host, not clipped. The first call waits for the device."""


@dataclass(frozen=True)
class CodecPlace:
    """Where a slot of the codec stands. back: how many frames were decoded one by one, see `most_back`."""

    place: Place
    back: int


@dataclass(frozen=True)
class CodecAside:
    """What a slot is going to overwrite from a place on."""

    start: CodecPlace
    aside: Aside

    @property
    def bytes(self) -> int:
        """Device memory that it takes."""
        return self.aside.bytes


class FrameCodec:
    """Decodes at once, by plain calls. `state` is what the decoders of all slots remember.

    kind: how frames are decoded, in words.
    """

    kind = "plain calls"
    _spare = 0  # rows of the state that no conversation has

    def __init__(self, mimi: Mimi, slots: int = 1) -> None:
        self.mimi = mimi
        self.state = mimi.state(slots + self._spare, BACK_FRAMES)
        self._decoded_singly = [0] * slots  # frames since the last thing that is in no log
        self._silent = [True] * slots  # nothing was decoded since the last reset

    @property
    def slots(self) -> int:
        """How many conversations there is room for."""
        return len(self._decoded_singly)

    def slot(self, number: int) -> "SlotCodec":
        """One conversation's view."""
        return SlotCodec(self, number)

    def submit(self, slots: Sequence[int], codes: Tensor) -> Sounds:
        """Decodes one frame of each of n slots, none twice: codes int64 [n, codebooks, 1] on the codec's device."""
        sounds = self._decode(slots, codes)
        for slot in slots:
            self._decoded_singly[slot] += 1
            self._silent[slot] = False
        return sounds

    def hear(self, slot: int, codes: Tensor) -> None:
        """Moves a slot on by frames that were played before, int64 [codebooks, n]; their sound is not wanted."""
        self._decoded_singly[slot], self._silent[slot] = 0, False
        with self._behind():
            self._hear(slot, codes)

    def submit_run(self, slot: int, codes: Tensor) -> Sounds:
        """Decodes frames of one slot that follow each other, int64 [codebooks, n], in few passes: `pcm` has n rows.

        The slot cannot go back over them, see `most_back`.
        """
        self._decoded_singly[slot], self._silent[slot] = 0, False
        with self._behind():
            return self._decode_run(slot, codes)

    @property
    def warm_up(self) -> int:
        """How many frames a slot has to hear after a reset to sound as one that has heard all."""
        return min(_WARM_UP, self.mimi.decoder.reach)

    def most_back(self, slot: int) -> int:
        """How many frames a slot can go back: those decoded since the last `hear`, `restore` or `reset`, up to 96."""
        return min(self._decoded_singly[slot], self.state.back)

    def go_back(self, slot: int, frames: int) -> None:
        """Takes back the last frames of a slot. Raises ValueError beyond `most_back`."""
        if frames > self.most_back(slot):
            raise ValueError(f"slot {slot} cannot go back {frames} frames, but at most {self.most_back(slot)}")
        # In the log there are as many frames before these as there were, but not more than it holds.
        self._decoded_singly[slot] = self.most_back(slot) - frames
        with self._behind():
            self.state.go_back(slot, frames)

    def place(self, slot: int) -> CodecPlace:
        """Where a slot stands now."""
        with self._behind():
            return CodecPlace(self.state.place(slot), self._decoded_singly[slot])

    def aside(self, slot: int, frames: int) -> CodecAside:
        """Keeps what the next frames of a slot overwrite, at most BACK_FRAMES."""
        start = self.place(slot)
        with self._behind():
            return CodecAside(start, self.state.aside(slot, frames))

    def put_back(self, slot: int, place: CodecPlace, aside: CodecAside | None) -> None:
        """A slot stands where it stood, as if nothing had been decoded since. aside: None where nothing was."""
        self._decoded_singly[slot] = place.back
        with self._behind():
            if aside is None:
                self.state.go_to(slot, place.place)
            else:
                self.state.put_back(slot, aside.start.place, aside.aside, place.place)

    def saved(self, slot: int) -> CodecState:
        """A copy of a slot's state after everything submitted."""
        with self._behind():
            return self.state.clone(slot)

    def restore(self, slot: int, state: CodecState) -> None:
        """Puts a saved state, of any slot, into a slot."""
        self._decoded_singly[slot], self._silent[slot] = 0, False
        with self._behind():
            self.state.copy_(state, slot)

    def copy(self, source: int, target: int) -> None:
        """Makes a slot a copy of another one after everything submitted."""
        self._decoded_singly[target] = self._decoded_singly[source]
        with self._behind():
            self.state.copy_slot(source, target)

    def reset(self, slot: int) -> None:
        """Puts a slot back to silence before the first frame, if it is not there already."""
        if self._silent[slot]:
            return
        self._decoded_singly[slot], self._silent[slot] = 0, True
        with self._behind():
            self.state.reset(slot)

    def _decode(self, slots: Sequence[int], codes: Tensor) -> Sounds:
        return MadeSounds(self.mimi.decode(codes, self.state, check=False, rows=self._index(slots)))

    def _decode_run(self, slot: int, codes: Tensor) -> Sounds:
        sound = self.mimi.decode(codes[None], self.state, check=False, rows=self._index([slot]))
        return MadeSounds(sound.view(codes.shape[1], -1))

    def _hear(self, slot: int, codes: Tensor) -> None:
        self.mimi.hear(codes[None], self.state, rows=self._index([slot]))

    def _index(self, slots: Sequence[int]) -> Tensor | None:
        everyone = list(slots) == list(range(self.slots))
        return None if everyone else on_device(slots, self.mimi.device)

    @contextmanager
    def _behind(self) -> Iterator[None]:
        """Where work on the state is done, in order with everything submitted."""
        yield


class SlotCodec:
    """One conversation's view of a FrameCodec: the same operations, for its slot."""

    def __init__(self, codec: FrameCodec, slot: int) -> None:
        self.codec, self.number = codec, slot

    @property
    def most_back(self) -> int:
        """How many frames `go_back` can go back."""
        return self.codec.most_back(self.number)

    def submit(self, codes: Tensor) -> "Sound":
        """Decodes one frame, int64 [codebooks, 1] on the codec's device."""
        return Sound(self.codec.submit([self.number], codes[None]), 0)

    def submit_run(self, codes: Tensor) -> Sounds:
        """Decodes frames that follow each other, int64 [codebooks, n]: `pcm` has n rows."""
        return self.codec.submit_run(self.number, codes)

    @property
    def warm_up(self) -> int:
        """How many frames it has to hear after a reset to sound as if it had heard all."""
        return self.codec.warm_up

    def hear(self, codes: Tensor) -> None:
        """Moves on by frames that were played before, int64 [codebooks, n]; their sound is not wanted."""
        self.codec.hear(self.number, codes)

    def go_back(self, frames: int) -> None:
        """Takes back the last frames."""
        self.codec.go_back(self.number, frames)

    def place(self) -> CodecPlace:
        """Where it stands now."""
        return self.codec.place(self.number)

    def aside(self, frames: int) -> CodecAside:
        """Keeps what the next frames overwrite."""
        return self.codec.aside(self.number, frames)

    def put_back(self, place: CodecPlace, aside: CodecAside | None) -> None:
        """Stands where it stood, as if nothing had been decoded since."""
        self.codec.put_back(self.number, place, aside)

    def saved(self) -> CodecState:
        """A copy of the state after everything submitted."""
        return self.codec.saved(self.number)

    def restore(self, state: CodecState) -> None:
        """Puts a saved state, of any slot, here."""
        self.codec.restore(self.number, state)

    def copy(self, other: "SlotCodec") -> None:
        """Goes on as another slot of the same codec."""
        self.codec.copy(other.number, self.number)

    def reset(self) -> None:
        """Back to silence before the first frame."""
        self.codec.reset(self.number)


class Sound:
    """One slot's frame among those that were decoded together."""

    def __init__(self, sounds: Sounds, row: int) -> None:
        self._sounds, self._row = sounds, row

    def pcm(self) -> Tensor:
        """float32 [frame_samples] on the host, not clipped; waits for it."""
        return self._sounds.pcm()[self._row]


class MadeSounds:
    """Sound that is there already."""

    def __init__(self, pcm: Tensor) -> None:
        self._pcm = pcm

    def pcm(self) -> Tensor:
        """float32 [n, frame_samples] on the host."""
        return self._pcm.cpu()

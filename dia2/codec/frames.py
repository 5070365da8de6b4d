"""One conversation's codec, a frame at a time: codes in, 80 ms of sound out, and a past that can be put back.

Ids that are no codes add nothing: a model without delays begins with a column of them.

`submit` may return before the sound is made; `Sound.pcm` waits for it. On a CPU there is nothing to wait for;
`graph_codec` does the same beside the model's own work on a GPU.
"""

from typing import Protocol

from torch import Tensor

from dia2.codec.mimi import Mimi
from dia2.codec.state import DecoderState


class Sound(Protocol):
    """A frame of sound, perhaps still on its way."""

    def pcm(self) -> Tensor:
        """float32 [frame_samples] on the host, not clipped; waits for it."""


class FrameCodec:
    """Decodes at once. `state` is what the decoder remembers."""

    def __init__(self, mimi: Mimi) -> None:
        self._mimi = mimi
        self.state = mimi.state(1)

    def submit(self, codes: Tensor) -> Sound:
        """Decodes one frame, int64 [codebooks, 1] on the codec's device."""
        return _Made(self._mimi.decode(codes[None], self.state, check=False)[0])

    def hear(self, codes: Tensor) -> None:
        """Moves on by frames that were played before, int64 [codebooks, n]; their sound is not wanted."""
        self._mimi.decode(codes[None], self.state, check=False)

    def new_state(self) -> DecoderState:
        """Room to save a state in."""
        return self._mimi.state(1)

    def save(self, into: DecoderState) -> None:
        """Copies the state after everything submitted."""
        into.copy_(self.state)

    def restore(self, state: DecoderState) -> None:
        """Puts a saved state back."""
        self.state.copy_(state)

    def reset(self) -> None:
        """Back to silence before the first frame."""
        self.state.reset()


class _Made:
    def __init__(self, pcm: Tensor) -> None:
        self._pcm = pcm

    def pcm(self) -> Tensor:
        return self._pcm.cpu()

"""One conversation's codec on a GPU: a frame of codes in, 80 ms of sound out, as one captured graph on its own stream.

The codec works beside the next step of the model: `submit` returns at once, and what it returns becomes sound when it
is asked. The graph updates the decoder's state in place, so the state can be saved and put back between frames. What
was played before is heard again by the same graph, and by a second one that takes many frames at once: whatever a
conversation goes back to, the GPU meets no shape for the first time.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from dia2.codec.frames import FrameCodec
from dia2.codec.mimi import Mimi
from dia2.codec.state import DecoderState

_MANY = 16  # frames that are heard at once, about the time of two alone


class PinnedSound:
    """A frame on its way to the host."""

    def __init__(self, pcm: Tensor, ready: torch.cuda.Event) -> None:
        self._pcm, self._ready = pcm, ready

    def pcm(self) -> Tensor:
        """The sound; waits for the device."""
        self._ready.synchronize()
        return self._pcm


class GraphCodec(FrameCodec):
    """Decodes single frames; construction warms up and captures. `state` is what the decoder remembers."""

    def __init__(self, mimi: Mimi) -> None:
        super().__init__(mimi)
        self.device = mimi.device
        # In front of the model's own work: a frame of sound is short, and somebody is waiting for it.
        self.stream = torch.cuda.Stream(self.device, priority=-1)
        with self._behind():
            self._frame = _Captured(mimi, self.state, 1)
            self._frames = _Captured(mimi, self.state, _MANY)
            self.state.reset()
        self.stream.synchronize()

    @torch.inference_mode()
    def submit(self, codes: Tensor) -> PinnedSound:
        """Starts decoding one frame, int64 [codebooks, 1] on the device, once the current stream has made it."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            codes.record_stream(self.stream)
            out = self._frame(codes)
            pcm = torch.empty(out.shape[1], pin_memory=True)
            pcm.copy_(out[0], non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        return PinnedSound(pcm, ready)

    def hear(self, codes: Tensor) -> None:
        """Moves on by frames that were played before, int64 [codebooks, n]; their sound is not wanted."""
        with self._behind():
            codes.record_stream(self.stream)
            count = codes.shape[1]
            many = count // _MANY * _MANY
            for start in range(0, many, _MANY):
                self._frames(codes[:, start : start + _MANY])
            for start in range(many, count):
                self._frame(codes[:, start : start + 1])

    def save(self, into: DecoderState) -> None:
        """Copies the state after everything submitted."""
        with self._behind():
            into.copy_(self.state)

    def restore(self, state: DecoderState) -> None:
        """Puts a saved state back, behind what was submitted."""
        with self._behind():
            self.state.copy_(state)

    def reset(self) -> None:
        """Back to silence before the first frame."""
        with self._behind():
            self.state.reset()

    @contextmanager
    def _behind(self) -> Iterator[None]:
        """Work on the codec's stream, after what the current stream has been given."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.inference_mode(), torch.cuda.stream(self.stream):
            yield


class _Captured:
    """The decoding of so many frames as a graph of the current stream, which goes on from `state` and moves it on."""

    def __init__(self, mimi: Mimi, state: DecoderState, frames: int) -> None:
        self._codes = torch.zeros(1, mimi.codebooks, frames, dtype=torch.int64, device=mimi.device)
        for _ in range(3):  # lets the libraries choose their kernels
            mimi.decode(self._codes, state, check=False)
        torch.cuda.current_stream(mimi.device).synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=torch.cuda.current_stream(mimi.device)):
            self._out = mimi.decode(self._codes, state, check=False)

    def __call__(self, codes: Tensor) -> Tensor:
        """Codes int64 [codebooks, frames] -> sound float32 [1, samples], in a buffer that the next call overwrites."""
        self._codes[0].copy_(codes)
        self.graph.replay()
        return self._out

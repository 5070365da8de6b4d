"""One conversation's codec on a GPU: a frame of codes in, 80 ms of sound out, as one captured graph on its own stream.

The codec works beside the next step of the model: `submit` returns at once, and what it returns becomes sound when it
is asked. The graph updates the decoder's state in place, so the state can be saved and put back between frames.
"""

import torch
from torch import Tensor

from dia2.mimi import DecoderState, Mimi


class Sound:
    """A frame on its way: `pcm()` waits for it and gives float32 [frame_samples] on the host."""

    def __init__(self, pcm: Tensor, ready: torch.cuda.Event) -> None:
        self._pcm, self._ready = pcm, ready

    def pcm(self) -> Tensor:
        """The sound; waits for the device."""
        self._ready.synchronize()
        return self._pcm

    @property
    def done(self) -> bool:
        """Whether `pcm` would not wait."""
        return bool(self._ready.query())


class GraphCodec:
    """Decodes single frames; construction warms up and captures. `state` is what the decoder remembers."""

    def __init__(self, mimi: Mimi) -> None:
        self.device = mimi.device
        self.state = mimi.state(1)
        # In front of the model's own work: a frame of sound is short, and somebody is waiting for it.
        self.stream = torch.cuda.Stream(self.device, priority=-1)
        self._codes = torch.zeros(1, mimi.codebooks, 1, dtype=torch.int64, device=self.device)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.inference_mode(), torch.cuda.stream(self.stream):
            for _ in range(3):  # lets the libraries choose their kernels
                mimi.decode(self._codes, self.state, check=False)
            self.stream.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self.stream):
                self._out = mimi.decode(self._codes, self.state, check=False)
            self.state.reset()
        self.stream.synchronize()

    @torch.inference_mode()
    def submit(self, codes: Tensor) -> Sound:
        """Starts decoding one frame, int64 [codebooks, 1] on the device, once the current stream has made it."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            self._codes[0].copy_(codes)
            codes.record_stream(self.stream)
            self._graph.replay()
            pcm = torch.empty(self._out.shape[1], pin_memory=True)
            pcm.copy_(self._out[0], non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        return Sound(pcm, ready)

    def restore(self, state: DecoderState) -> None:
        """Puts back a saved copy of `state`, behind what was submitted."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            self.state.copy_(state)

    def saved(self) -> DecoderState:
        """A copy of the state after what was submitted."""
        with torch.cuda.stream(self.stream):
            copy = self.state.clone()
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        return copy

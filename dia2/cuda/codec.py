"""The codec on a GPU: a frame of codes of any of the slots in, 80 ms of sound of each out, as one captured graph.

The codec works on a stream of its own, beside the next step of the model: `submit` returns at once, and what it returns
becomes sound when it is asked. There is a graph for each batch size. It reads which slots its rows stand for from a
tensor, updates their memory in place, and its sound reaches the host by one copy and one event, however many slots
there are. Rows of a graph that a batch does not need work on a spare slot that nobody has.

What was played before is heard again by the graph of one slot, and by another one that takes many frames at once:
whatever a conversation goes back to, the GPU meets no shape for the first time.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from dia2.codec.frames import FrameCodec, Sounds
from dia2.codec.mimi import Mimi
from dia2.codec.ring import Attend, attend_ring
from dia2.cuda.graphs import BatchRows, Capture

_MANY = 16  # frames that one slot hears at once, in about the time of two alone


class GraphCodec(FrameCodec):
    """A FrameCodec whose passes are CUDA graphs; construction warms up and captures all of them.

    attend: how the transformer attends in passes of one frame, by one kernel where Triton is there (backend.py).
    passes: by batch size, the graph that decodes a frame of so many rows.
    """

    _spare = 1

    def __init__(self, mimi: Mimi, slots: int = 1, attend: Attend = attend_ring) -> None:
        super().__init__(mimi, slots)
        self.device = mimi.device
        # In front of the model's own work: a frame of sound is short, and somebody is waiting for it.
        self.stream = torch.cuda.Stream(self.device, priority=-1)
        with torch.inference_mode():
            capture = Capture(self.device, self.stream)
            self._rows = BatchRows(slots, self.device)
            most = self._rows.sizes[-1]
            self._codes = torch.zeros(most, mimi.codebooks, 1, dtype=torch.int64, device=self.device)
            self._many = torch.zeros(1, mimi.codebooks, _MANY, dtype=torch.int64, device=self.device)
            self._sound = torch.zeros(most, mimi.frame_samples, device=self.device)
            self.passes = {size: capture(partial(self._pass, size, attend)) for size in reversed(self._rows.sizes)}
            self._hear_many = capture(lambda: self._run(self._many, 1, attend_ring))
            self.state.reset()
        self.stream.synchronize()

    def _decode(self, slots: Sequence[int], codes: Tensor) -> Sounds:
        count = len(slots)
        with self._behind():
            codes.record_stream(self.stream)
            size = self._rows.fill(slots)
            self._codes[:count].copy_(codes)
            self.passes[size]()
            pcm = torch.empty(count, self._sound.shape[1], pin_memory=True)
            pcm.copy_(self._sound[:count], non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        return PinnedSounds(pcm, ready)

    def _hear(self, slot: int, codes: Tensor) -> None:
        codes.record_stream(self.stream)
        self._rows.fill([slot])
        count = codes.shape[1]
        many = count // _MANY * _MANY
        for start in range(0, many, _MANY):
            self._many[0].copy_(codes[:, start : start + _MANY])
            self._hear_many()
        for start in range(many, count):
            self._codes[0].copy_(codes[:, start : start + 1])
            self.passes[1]()

    def _pass(self, size: int, attend: Attend) -> None:
        """Decodes a frame of the first `size` rows."""
        self._sound[:size] = self._run(self._codes[:size], size, attend)

    def _run(self, codes: Tensor, size: int, attend: Attend) -> Tensor:
        return self.mimi.decode(codes, self.state, check=False, rows=self._rows.first(size), attend=attend)

    @contextmanager
    def _behind(self) -> Iterator[None]:
        """Work on the codec's stream, after what the current stream has been given."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.inference_mode(), torch.cuda.stream(self.stream):
            yield


class PinnedSounds:
    """Frames on their way to the host."""

    def __init__(self, pcm: Tensor, ready: torch.cuda.Event) -> None:
        self._pcm, self._ready = pcm, ready
        self._waited = False

    def pcm(self) -> Tensor:
        """float32 [n, frame_samples]; the first call waits for the device."""
        if not self._waited:
            self._ready.synchronize()
            self._waited = True
        return self._pcm

"""The encoder on a GPU: a frame of what each of some callers has said, as one captured graph.

There is a graph for each batch size, and one for many frames of one slot, all captured when the engine is built: who is
heard first waits for nothing. They are replayed on the current stream, in order with the model's own work.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from dia2.codec.hearing import Hearing
from dia2.codec.mimi import Mimi
from dia2.codec.ring import Attend, attend_ring
from dia2.cuda.graphs import BatchRows, Capture

_MANY = 16  # frames that one slot is heard at once


class GraphHearing(Hearing):
    """A Hearing whose passes are CUDA graphs; construction reads the encoder, warms up and captures all of them.

    attend: how the transformer attends in passes of one frame, by one kernel where Triton is there (backend.py).
    """

    _spare = 1

    def __init__(self, mimi: Mimi, slots: int = 1, attend: Attend = attend_ring) -> None:
        super().__init__(mimi, slots)
        device = mimi.device
        self.load()
        capture = Capture(device)
        self._rows = BatchRows(slots, device)
        most = self._rows.sizes[-1]
        self._pcm = torch.zeros(most, mimi.frame_samples, device=device)
        self._codes = torch.zeros(most, mimi.codebooks, dtype=torch.int64, device=device)
        self._many = torch.zeros(1, _MANY * mimi.frame_samples, device=device)
        self._many_codes = torch.zeros(mimi.codebooks, _MANY, dtype=torch.int64, device=device)
        self._passes = {size: capture(partial(self._pass, size, attend)) for size in reversed(self._rows.sizes)}
        self._hear_many = capture(self._pass_of_many)
        capture.stream.synchronize()
        self.state.reset()

    def encode(self, slot: int, pcm: Tensor) -> Tensor:
        frames = pcm.view(-1, self.mimi.frame_samples)
        codes, many = [], len(frames) // _MANY * _MANY
        for start in range(0, many, _MANY):
            self._rows.fill([slot])
            self._many.copy_(frames[start : start + _MANY].reshape(1, -1), non_blocking=True)
            self._hear_many()
            codes.append(self._many_codes.clone())
        codes += [self.encode_together([slot], frames[at : at + 1])[0, :, None] for at in range(many, len(frames))]
        return torch.cat(codes, dim=1)

    def encode_together(self, slots: Sequence[int], pcm: Tensor) -> Tensor:
        count = len(slots)
        size = self._rows.fill(slots)
        self._pcm[:count].copy_(pcm.pin_memory() if pcm.device.type == "cpu" else pcm, non_blocking=True)
        self._passes[size]()
        return self._codes[:count].clone()

    def _pass(self, size: int, attend: Attend) -> None:
        """Encodes a frame of the first `size` rows."""
        rows = self._rows.first(size)
        self._codes[:size] = self.mimi.encode(self._pcm[:size], self.state, rows, attend)[:, :, 0]

    def _pass_of_many(self) -> None:
        """Encodes _MANY frames of the first row."""
        self._many_codes.copy_(self.mimi.encode(self._many, self.state, self._rows.first(1))[0])

"""What hears the caller of a conversation that is led through its record: nothing that is in it is encoded again."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dia2stream.conversation.caller import Ear


class RecordedEar:
    """Gives the codes of a record as long as there are any, and then those of a real ear."""

    def __init__(self, ear: Ear) -> None:
        self._ear = ear
        self._codes = torch.zeros(0, 0, dtype=torch.int64)
        self.sample_rate, self.frame_samples = ear.sample_rate, ear.frame_samples

    def give(self, codes: NDArray[np.int16]) -> None:
        """Codes int16 [C, n] of the frames that are encoded next."""
        more = torch.from_numpy(codes.astype(np.int64))
        self._codes = torch.cat([self._codes, more], dim=1) if self._codes.numel() else more

    def clear(self) -> None:
        """The record ends: what is encoded from here on was not encoded before."""
        self._codes = self._codes[:, :0]

    def go_on(self, ear: Ear) -> None:
        """From here on, this real ear hears the caller."""
        self._ear = ear

    def begin(self) -> None:
        """A new recording."""
        self._ear.begin()

    def encode(self, pcm: Tensor) -> Tensor:
        """float32 [n * frame_samples] -> int64 [C, n]."""
        count = len(pcm) // self.frame_samples
        known, self._codes = self._codes[:, :count], self._codes[:, count:]
        if (left := count - known.shape[1]) == 0:
            return known
        codes = self._ear.encode(pcm[-left * self.frame_samples :])
        return torch.cat([known.to(codes.device), codes], dim=1) if known.numel() else codes

    def take(self, codes: Tensor) -> None:
        """Codes that were encoded together with those of others."""
        self._ear.take(codes)

    @property
    def bare(self) -> Ear:
        """The real ear."""
        return self._ear.bare

    def go_on_from(self, other: Ear) -> None:
        """Hears the rest of what a real ear has heard."""
        self._ear.go_on_from(other)

"""Sound at one rate -> the same at another, in pieces, with copies that go on from the same point.

The resampler itself cannot be copied. So what it was given is kept, and a copy is given the same once more when it is
used for the first time. That is 1 MB for a minute at 8,000 Hz, until the sound ends.
"""

from collections import deque

import numpy as np
import soxr
from numpy.typing import NDArray

_SCALE = np.float32(32768)


class Resampler:
    """A stream of mono sound, float32 of PCM16 samples, at `rate` -> at `to` Hz."""

    def __init__(self, rate: int, to: int) -> None:
        self._rate, self._to = rate, to
        self._stream: soxr.ResampleStream | None = None
        self._given: deque[NDArray[np.int16]] = deque()

    def copy(self) -> "Resampler":
        """Another one that stands where this one does."""
        other = Resampler(self._rate, self._to)
        other._given = self._given.copy()
        return other

    def __call__(self, pcm: NDArray[np.float32], last: bool) -> NDArray[np.float32]:
        """The next piece, the last one if `last`; as much as there is of it at the other rate."""
        if self._stream is None:
            self._stream = soxr.ResampleStream(self._rate, self._to, 1)
            for given in self._given:
                self._stream.resample_chunk(given / _SCALE)
        self._given.append((pcm * _SCALE).astype(np.int16))
        if last:
            self._given.clear()
        resampled: NDArray[np.float32] = self._stream.resample_chunk(pcm, last=last)
        return resampled

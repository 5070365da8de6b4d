"""A voice: clips and their words -> the prefix that a conversation starts from.

Dia2 takes a voice by going on from it. The prefix is what the model would have been fed had it spoken the clips
itself: their codes, one entry a word, and the steps at which each word started.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from dia2.errors import ScriptError
from dia2.mimi import Mimi
from dia2.script import FRAME_RATE, Entry, Tokenizer

# The published code places speaker 1's words three frames after the grid's; the goldens pin it.
_SPEAKER_1_OFFSET = 3
_LONGEST_CLIP = 3600.0  # seconds: later times are not seconds


@dataclass(frozen=True)
class Word:
    """A spoken word and when, in seconds from the start of its clip."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Prefix:
    """What is fed before the first word: codes int64 [C, frames], its entries, and the step that takes each."""

    codes: Tensor
    entries: tuple[Entry, ...]
    new_word_steps: tuple[int, ...]

    @property
    def frames(self) -> int:
        """Length in frames of 80 ms."""
        return int(self.codes.shape[1])


def plan_words(words: Sequence[Word], speaker: int, tokenizer: Tokenizer) -> tuple[list[Entry], list[int]]:
    """Places a clip's words on the frame grid: their entries and new-word steps, from the clip's start."""
    entries, steps, current = [], [], 0
    for number, word in enumerate(words):
        tokens = tokenizer.encode(word.text if number else f"[S{speaker}] {word.text}")
        start = max(current + 1, round(word.start * FRAME_RATE))
        end = start + len(tokens)
        follows = words[number + 1].start if number + 1 < len(words) else words[-1].end
        padding = max(0, max(end + 1, round(follows * FRAME_RATE)) - start - 1)
        entries.append(Entry(tuple(tokens), word.text, padding, speaker))
        steps.append(start - 1)
        current = end
    return entries, steps


def make_prefix(clips: Sequence[tuple[Tensor, Sequence[Word]]], tokenizer: Tokenizer) -> Prefix:
    """clips: (codes int64 [C, frames], words) of speaker 1 and, if there is one, speaker 2."""
    entries: list[Entry] = []
    steps: list[int] = []
    offset = _SPEAKER_1_OFFSET
    for speaker, (codes, words) in enumerate(clips, start=1):
        placed, at = plan_words(words, speaker, tokenizer)
        entries += placed
        steps += [step + offset for step in at]
        offset = int(codes.shape[1])
    return Prefix(torch.cat([codes for codes, _ in clips], dim=1), tuple(entries), tuple(steps))


def load_prefix(paths: Sequence[str | Path], codec: Mimi, tokenizer: Tokenizer) -> Prefix:
    """Reads and encodes the clips of speaker 1 and, if there is one, speaker 2, each with its words beside it."""
    # All files are read before the encoder is loaded, which takes seconds.
    clips = [(load_clip(path, codec.sample_rate), load_words(path)) for path in paths]
    return make_prefix([(codec.encode(pcm), words) for pcm, words in clips], tokenizer)


def load_clip(path: str | Path, sample_rate: int) -> Tensor:
    """A clip in any format soundfile reads -> float32 [samples], mixed down and resampled."""
    try:
        pcm, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise ScriptError(f"voice clip {path} cannot be read: {error}") from None
    mono: np.ndarray = pcm.mean(axis=1, dtype=np.float32)
    if not mono.size:
        raise ScriptError(f"voice clip {path} is empty")
    return torch.from_numpy(mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate))


def load_words(clip: str | Path) -> list[Word]:
    """The word timings of `clip.wav` from `clip.words.json`: [[text, start, end], ...] in seconds."""
    path = Path(clip).with_suffix(".words.json")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ScriptError(
            f"voice clip {clip} needs its word timings in {path.name}: [[text, start, end], ...]"
        ) from None
    except (OSError, ValueError) as error:
        raise ScriptError(f"{path} cannot be read: {error}") from None
    return check_words(raw, str(path))


def check_words(raw: object, source: str) -> list[Word]:
    """Parsed JSON -> words; raises ScriptError naming the first one that is wrong."""
    if not isinstance(raw, list) or not raw:
        raise ScriptError(f"{source} must be a list of [text, start, end], not {str(raw)[:40]!r}")
    words: list[Word] = []
    for item in raw:
        if not (isinstance(item, list) and len(item) == 3 and isinstance(item[0], str) and item[0].strip()):
            raise ScriptError(f"{source}: {item!r} is not [text, start, end]")
        if not all(isinstance(t, (int, float)) and not isinstance(t, bool) for t in item[1:]):
            raise ScriptError(f"{source}: the times of {item!r} must be seconds")
        if not 0 <= item[1] <= item[2] <= _LONGEST_CLIP:
            raise ScriptError(f"{source}: {item!r} must have 0 <= start <= end <= {_LONGEST_CLIP:g}")
        words.append(Word(item[0].strip(), float(item[1]), float(item[2])))
    return words

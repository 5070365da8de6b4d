"""A voice: clips and their words -> the prefix that a conversation starts from.

Dia2 speaks in a voice by going on from a recording of it. The prefix is what the model would have been fed if it had
spoken the clips itself: their codes, one entry for each word, and the step at which each word started.

A `Voice` is what a file keeps of the clips, `NAME.voice.safetensors`. It is a few KB and loads in milliseconds, because
the sound is codes already. Its tensors are `speaker_1` and `speaker_2`, int16 [C, frames]; everything else is JSON in
the file's metadata. Entries are not in it: they are made with the model's own tokenizer when the voice is loaded.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dia2.codec.mimi import Mimi
from dia2.errors import ScriptError, first_line, shown
from dia2.model.config import FRAME_RATE
from dia2.text.script import Entry, TextTokenizer
from dia2.voice.recording import read_recording

SUFFIX = ".voice.safetensors"

# The published code puts the words of speaker 1 three frames later than their times say, and the goldens expect it.
_SPEAKER_1_OFFSET = 3
_LONGEST_CLIP = 3600.0  # seconds; larger times are probably in another unit
_FORMAT = "dia2 voice"
_VERSION = 1  # of the format; a reader takes this one and all before
_SPEAKERS = ("speaker_1", "speaker_2")


@dataclass(frozen=True)
class ClipWord:
    """A spoken word and when, in seconds from the start of its clip."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, eq=False)
class Prefix:
    """What the model is fed before the first word of a conversation: codes int64 [C, frames], their entries, and the
    step that takes each.

    Prefixes are compared by identity, not by content, because what a prefix leads to is stored under it (VoiceCache).
    """

    codes: Tensor
    entries: tuple[Entry, ...]
    new_word_steps: tuple[int, ...]

    @property
    def frames(self) -> int:
        """Length in frames of 80 ms."""
        return int(self.codes.shape[1])


@dataclass(frozen=True, eq=False)
class Clip:
    """A recording of one speaker: codes int16 [C, frames], and the words in them with their times."""

    codes: Tensor
    words: tuple[ClipWord, ...]

    @property
    def seconds(self) -> float:
        """How long it is."""
        return float(self.codes.shape[1] / FRAME_RATE)


@dataclass(frozen=True, eq=False)
class Voice:
    """The clips of speaker 1 and, if there is one, of speaker 2, with their licence and where they come from."""

    name: str
    clips: tuple[Clip, ...]
    licence: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """How many frames of the model's context it takes."""
        return sum(int(clip.codes.shape[1]) for clip in self.clips)

    def prefix(self, tokenizer: TextTokenizer) -> Prefix:
        """What a conversation in this voice starts from."""
        return make_prefix([(clip.codes.long(), clip.words) for clip in self.clips], tokenizer)

    def check(self, codebooks: int, codes: int, context: int) -> None:
        """Raises ScriptError for a voice of another codec, or one that takes over half of `context` frames."""
        for clip in self.clips:
            if clip.codes.shape[0] != codebooks:
                raise ScriptError(
                    f"voice {self.name} has {clip.codes.shape[0]} codebooks, the model {codebooks}: "
                    "make it again with this model's codec"
                )
            if clip.codes.numel() and not 0 <= int(clip.codes.min()) <= int(clip.codes.max()) < codes:
                raise ScriptError(f"voice {self.name} has codes outside 0..{codes - 1}: it is of another codec")
        if self.frames > context // 2:
            raise ScriptError(
                f"voice {self.name} is {self.frames / FRAME_RATE:.1f} s long; half of the model's context is "
                f"{context // 2 / FRAME_RATE:.1f} s, and that is the most a voice may take"
            )

    def save(self, path: str | Path) -> None:
        """Writes the file."""
        tensors = {name: clip.codes.clone() for name, clip in zip(_SPEAKERS, self.clips, strict=False)}
        content = {
            "name": self.name,
            "words": [[[word.text, word.start, word.end] for word in clip.words] for clip in self.clips],
            "licence": self.licence,
            "provenance": dict(self.provenance),
        }
        metadata = {"format": _FORMAT, "version": str(_VERSION), "voice": json.dumps(content)}
        Path(path).write_bytes(safetensors.torch.save(tensors, metadata))

    @classmethod
    def load(cls, path: str | Path) -> "Voice":
        """Reads what `save` wrote. Raises ScriptError for anything else."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in _SPEAKERS if name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            missing = isinstance(error, FileNotFoundError)
            reason = "no such file" if missing else f"it cannot be read: {first_line(error)}"
            raise ScriptError(f"voice {path}: {reason}") from None
        return _voice(str(path), metadata, tensors)


def _voice(path: str, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Voice:
    """The voice in a file's contents."""
    if metadata.get("format") != _FORMAT:
        raise ScriptError(f"voice {path}: not a voice; `dia2stream voice make` makes one")
    version = metadata.get("version", "")
    if not re.fullmatch("[1-9][0-9]?", version) or int(version) > _VERSION:
        raise ScriptError(f"voice {path}: format version {shown(version)}; this dia2stream reads up to {_VERSION}")
    try:
        content: Any = json.loads(metadata["voice"])
        name, licence = str(content["name"]), str(content["licence"])
        provenance = {str(key): str(value) for key, value in dict(content["provenance"]).items()}
        words = [check_words(words, f"voice {path}") for words in content["words"]]
        for text in (name, licence, *provenance, *provenance.values()):
            if not text.replace("\n", "").replace("\t", "").isprintable():
                raise ScriptError(f"voice {path}: its metadata is damaged: {shown(text)} holds control characters")
    except RecursionError:
        raise ScriptError(f"voice {path}: its metadata is damaged: nested too deeply") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ScriptError(f"voice {path}: its metadata is damaged: {first_line(error)}") from None
    sound = [tensors[name] for name in _SPEAKERS if name in tensors]
    if "speaker_1" not in tensors or len(sound) != len(words):
        raise ScriptError(f"voice {path}: it has words of {len(words)} speakers and the sound of {len(sound)}")
    if any(codes.dim() != 2 or codes.dtype != torch.int16 for codes in sound):
        raise ScriptError(f"voice {path}: its codes must be int16 [codebooks, frames]")
    clips = tuple(Clip(codes, tuple(said)) for codes, said in zip(sound, words, strict=True))
    return Voice(name, clips, licence, provenance)


def make_clip(pcm: Tensor, words: Sequence[ClipWord], codec: Mimi) -> Clip:
    """Encodes a clip, float32 [samples] at the codec's rate."""
    return Clip(codec.encode(pcm[None])[0].to("cpu", torch.int16), tuple(words))


def plan_words(words: Sequence[ClipWord], speaker: int, tokenizer: TextTokenizer) -> tuple[list[Entry], list[int]]:
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


def make_prefix(clips: Sequence[tuple[Tensor, Sequence[ClipWord]]], tokenizer: TextTokenizer) -> Prefix:
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


def load_prefix(
    paths: Sequence[str | Path], codec: Mimi, tokenizer: TextTokenizer, context: int | None = None
) -> Prefix:
    """Reads and encodes the clips of speaker 1 and, if there is one, speaker 2, each with its words beside it.

    Raises ScriptError for what cannot be used, and for clips that fill a context of so many frames.
    """
    # All files are read before the encoder is, and what is too long is not encoded.
    most = float("inf") if context is None else context / FRAME_RATE
    clips = [(load_clip(path, codec.sample_rate, most), load_words(path)) for path in paths]
    if context is not None:
        frames = sum(-(-len(pcm) // codec.frame_samples) for pcm, _ in clips)
        if frames >= context:
            raise ScriptError(f"the voice prefix is {frames} frames long, the context holds {context}")
    return make_prefix([(codec.encode(pcm[None])[0], words) for pcm, words in clips], tokenizer)


def load_clip(path: str | Path, sample_rate: int, most_seconds: float = float("inf")) -> Tensor:
    """A clip in any format soundfile reads -> float32 [samples], mixed down and resampled."""
    return torch.from_numpy(read_recording(path, most_seconds).at(sample_rate).samples)


def load_words(clip: str | Path) -> list[ClipWord]:
    """The word timings of `clip.wav` from `clip.words.json`: [[text, start, end], ...] in seconds."""
    path = Path(clip).with_suffix(".words.json")
    if not path.exists():
        raise ScriptError(f"voice clip {clip} needs its word timings in {path.name}: [[text, start, end], ...]")
    return read_words(path)


def read_words(path: str | Path) -> list[ClipWord]:
    """Word timings from a JSON file. Raises ScriptError."""
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScriptError(f"{path} cannot be read: {first_line(error)}") from None
    except RecursionError:
        raise ScriptError(f"{path} cannot be read: it is nested too deeply") from None
    return check_words(raw, str(path))


def check_words(raw: object, source: str) -> list[ClipWord]:
    """Parsed JSON -> words; raises ScriptError naming the first one that is wrong."""
    if not isinstance(raw, list) or not raw:
        raise ScriptError(f"{source} must be a list of [text, start, end], not {shown(raw)}")
    words: list[ClipWord] = []
    for item in raw:
        if not (isinstance(item, list) and len(item) == 3 and isinstance(item[0], str) and item[0].strip()):
            raise ScriptError(f"{source}: {shown(item)} is not [text, start, end]")
        if not _is_text(item[0]):
            raise ScriptError(f"{source}: {shown(item[0])} holds half of a character (a lone surrogate)")
        if not all(isinstance(t, (int, float)) and not isinstance(t, bool) for t in item[1:]):
            raise ScriptError(f"{source}: the times of {shown(item)} must be seconds")
        if not 0 <= item[1] <= item[2] <= _LONGEST_CLIP:
            raise ScriptError(f"{source}: {shown(item)} must have 0 <= start <= end <= {_LONGEST_CLIP:g}")
        words.append(ClipWord(item[0].strip(), float(item[1]), float(item[2])))
    return words


def _is_text(text: str) -> bool:
    """Whether a string can be UTF-8: JSON lets half of a character through, which no tokenizer takes."""
    return not any("\ud800" <= character <= "\udfff" for character in text)

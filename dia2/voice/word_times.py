"""Which words a clip says, and when.

There are four ways, all with the same result, a list of `ClipWord`:

- The words are given with their times: `read_words` of voice.py reads them from a file.
- The text is known: `align` finds its words in the clip with PocketSphinx, whose English model comes with its package.
- Nothing is known: `transcribe` has Whisper hear the text too, through transformers. A mistake that it makes becomes
  part of the voice, so its caller must show the words to the user.
- The text is known and must be placed at once, as a caller's words on their way to the model: `spread` spaces the words
  over the sounding part of the clip, by their letters, without a recogniser.

PocketSphinx knows 130,000 words. The sounds of other words are guessed from their letters, which is enough to find
them.
"""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dia2.errors import ScriptError
from dia2.voice.recording import Recording, sounding
from dia2.voice.voice import ClipWord

_RATE = 16_000  # of both recognisers
_LEVEL = 0.7  # the peak that PocketSphinx is given
_REPO = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)?", re.ASCII)
_TAG = re.compile(r"\[S[12]\]")
_PARTS = re.compile(r"[a-z]+(?:'[a-z]+)*'?|'[a-z]+")

# The sound that letters most often have in English: first letters that belong together, then single ones.
_SOUNDS = {
    "tion": "SH AH N", "ight": "AY T", "ough": "AO", "sch": "S K", "tch": "CH", "dge": "JH", "ch": "CH", "sh": "SH",
    "th": "TH", "ph": "F", "wh": "W", "qu": "K W", "ck": "K", "ng": "NG", "ee": "IY", "ea": "IY", "oo": "UW",
    "ou": "AW", "ow": "OW", "ai": "EY", "ay": "EY", "oa": "OW", "oi": "OY", "oy": "OY", "au": "AO", "aw": "AO",
    "er": "ER", "ir": "ER", "ur": "ER", "ar": "AA R", "or": "AO R", "a": "AE", "b": "B", "c": "K", "d": "D",
    "e": "EH", "f": "F", "g": "G", "h": "HH", "i": "IH", "j": "JH", "k": "K", "l": "L", "m": "M", "n": "N",
    "o": "AA", "p": "P", "q": "K", "r": "R", "s": "S", "t": "T", "u": "AH", "v": "V", "w": "W", "x": "K S",
    "y": "IY", "z": "Z",
}  # fmt: skip
_SPELLING = re.compile("|".join(_SOUNDS))


def spread(recording: Recording, text: str) -> list[ClipWord]:
    """Spaces the words of a text over the sounding part of the clip; a word's share is its letters plus one."""
    words = _TAG.sub(" ", text).replace("’", "'").split()  # noqa: RUF001
    lengths = np.cumsum([0, *(len(word) + 1 for word in words)])
    start, stop = sounding(recording)
    times = start + (stop - start) * lengths / max(1, lengths[-1])
    return [ClipWord(word, float(times[n]), float(times[n + 1])) for n, word in enumerate(words)]


def align(recording: Recording, text: str) -> list[ClipWord]:
    """Finds the words of `text`, written as they are spoken, in the clip. Raises ScriptError when they do not fit."""
    words = [(word, _parts(word)) for word in _TAG.sub(" ", text).replace("’", "'").split()]  # noqa: RUF001
    words = [(word, parts) for word, parts in words if parts]
    if not words:
        raise ScriptError(f"there is no word in the text for {recording.name}")
    spans = _spans(recording, [part for _, parts in words for part in parts])
    placed = []
    for word, parts in words:
        own, spans = spans[: len(parts)], spans[len(parts) :]
        placed.append(ClipWord(word, own[0][0], own[-1][1]))
    return placed


def _parts(word: str) -> list[str]:
    """The dictionary words of a written word: "Mother-in-law," has three, a dash alone has none. Raises ScriptError."""
    plain = unicodedata.normalize("NFKD", word.lower())
    if re.search(r"\d", plain):
        raise ScriptError(f"{word!r} cannot be aligned: write numbers in words, as they are spoken")
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    if other := re.search(r"[^\W\d_a-z]", plain):
        raise ScriptError(f"{word!r} cannot be aligned: {other[0]!r} is no letter of English")
    return [part.strip("'") for part in _PARTS.findall(plain) if part.strip("'")]


def _spans(recording: Recording, parts: Sequence[str]) -> list[tuple[float, float]]:
    """Start and end of each dictionary word, in seconds."""
    decoder = _decoder()
    for part in set(parts):
        if decoder.lookup_word(part) is None:
            decoder.add_word(part, guessed_sounds(part), True)
    samples = recording.at(_RATE).samples
    pcm = (samples * (_LEVEL * 32767 / max(float(np.abs(samples).max()), 1e-6))).astype("<i2")
    try:
        decoder.set_align_text(" ".join(parts))
        decoder.start_utt()
        decoder.process_raw(pcm.tobytes(), full_utt=True)
        decoder.end_utt()
        found = [s for s in decoder.seg() or () if s.word[0] not in "<["]
    except RuntimeError:
        found = []
    if len(found) != len(parts):
        raise ScriptError(f"the text does not fit {recording.name}: give exactly the words that it says, all of them")
    return [(s.start_frame / 100, min((s.end_frame + 1) / 100, recording.seconds)) for s in found]


def guessed_sounds(word: str) -> str:
    """The sounds of a word of small letters a to z, as PocketSphinx writes them: those that its letters often have."""
    return " ".join(_SOUNDS[letters] for letters in _SPELLING.findall(word))


def _decoder() -> Any:
    try:
        from pocketsphinx import Decoder
    except ImportError:
        raise ScriptError(
            "aligning a text needs PocketSphinx: pip install 'dia2stream[align]', or give the words with their times"
        ) from None
    return Decoder(samprate=_RATE, lm=None, loglevel="FATAL", bestpath=False)


def transcribe(recording: Recording, model: str) -> list[ClipWord]:
    """Hears the words of a clip with a Whisper model, a hub repo or a local folder. Raises ScriptError."""
    clip = {"raw": recording.at(_RATE).samples, "sampling_rate": _RATE}
    try:
        whisper = _whisper(model)
        # Dia2 speaks English only. A Whisper model for English alone refuses to be told the language.
        english = {"language": "en"} if getattr(whisper.model.generation_config, "is_multilingual", False) else {}
        found = whisper(clip, return_timestamps="word", generate_kwargs=english)["chunks"]
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ScriptError(f"{recording.name} could not be transcribed with {model}: {reason}") from None
    words = _joined(found, recording.seconds)
    if not words:
        raise ScriptError(f"{model} hears no words in {recording.name}: give them with their times, or the text")
    return words


def _whisper(model: str) -> Any:
    if not (model and Path(model).is_dir()) and not _REPO.fullmatch(model):
        raise ScriptError("no such folder (and not a hub repo id, which looks like owner/name)")
    from transformers import pipeline  # slow to import

    return pipeline("automatic-speech-recognition", model=model, trust_remote_code=False)


def _joined(chunks: Sequence[dict[str, Any]], seconds: float) -> list[ClipWord]:
    """Whisper's chunks as words: a chunk that does not begin with a space belongs to the word before it."""
    words: list[ClipWord] = []
    for chunk in chunks:
        text, (start, end) = str(chunk["text"]), chunk["timestamp"]
        last = words[-1] if words else None
        start = min(seconds, float(start if start is not None else last.end if last else 0.0))
        end = min(seconds, max(start, float(end if end is not None else seconds)))
        if not text.strip():
            continue
        if last is not None and not text[0].isspace():
            words[-1] = ClipWord(last.text + text.strip(), last.start, end)
        else:
            words.append(ClipWord(text.strip(), start, end))
    return words

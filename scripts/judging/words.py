"""Words as they are compared, and how many of them were heard wrong."""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from alignment import Pair, aligned

from dia2.voice.word_times import guessed_sounds
from dia2stream.protocol.messages import WordEvent

_TAG = re.compile(r"\[S[12]\]", re.IGNORECASE)
# "seven thirty" is 730 to Whisper's rules, and Whisper writes what it hears of it as 7.30, 7:30, 7-30 or 7 30.
_WITHIN_FIGURES = re.compile(r"(?<=\d)[.: -](?=\d)")


class Plain:
    """Text -> words in the form in which they are compared: small letters, no marks, figures in a row as one number."""

    def __init__(self) -> None:
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

        self._normalize = EnglishTextNormalizer({})

    def __call__(self, text: str) -> list[str]:
        # Before Whisper's rules, which drop a zero of 12:05, and behind them, as they make figures of words.
        plain = str(self._normalize(_WITHIN_FIGURES.sub("", _TAG.sub(" ", text))))
        return _WITHIN_FIGURES.sub("", plain).split()


@dataclass
class Errors:
    """How many words were said, and how many of them were mistaken or missed, or added."""

    said: int = 0
    wrong: int = 0
    added: int = 0
    examples: list[str] = field(default_factory=list)

    def count(self, said: list[str], heard: list[str]) -> None:
        """Counts one text."""
        pairs = aligned(said, heard)
        self.said += len(said)
        self.wrong += sum(pair.said is not None and pair.said != pair.heard for pair in pairs)
        self.added += sum(pair.said is None for pair in pairs)

    @property
    def rate(self) -> float | None:
        """The word error rate in percent."""
        return 100 * (self.wrong + self.added) / self.said if self.said else None


def added_in_front(pairs: list[Pair]) -> int:
    """How many words were heard before the first one that was said."""
    return next((number for number, pair in enumerate(pairs) if pair.said is not None), len(pairs))


def sounds_in_front(said: Sequence[str], heard: Sequence[str]) -> int:
    """How many sounds were heard before the first sound of the words that were said.

    "nobody" may be heard as "no do not he": three words more, and no sound before its own first one.
    """
    return added_in_front(aligned(sounds_of(said), sounds_of(heard)))


def sounds_of(words: Sequence[str]) -> list[str]:
    """The sounds of words by PocketSphinx's dictionary; those of other words are guessed from their letters."""
    return [sound for word in words for sound in (_dictionary()(word) or guessed_sounds(word)).split()]


@functools.cache
def _dictionary() -> Callable[[str], str | None]:
    from pocketsphinx import Decoder

    decoder: Any = Decoder(samprate=16_000, lm=None, loglevel="FATAL")
    return decoder.lookup_word  # type: ignore[no-any-return]


def spoken_text(words: list[WordEvent]) -> str:
    """What was to be heard, in words that a recogniser can be asked to find."""
    return " ".join(word.said or word.word for word in words)

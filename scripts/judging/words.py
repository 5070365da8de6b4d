"""Words as they are compared, and how many of them were heard wrong."""

import re
from dataclasses import dataclass, field

from alignment import Pair, aligned

from dia2stream.protocol.messages import WordEvent

_TAG = re.compile(r"\[S[12]\]", re.IGNORECASE)


class Plain:
    """Text -> words in the form in which they are compared: small letters, numbers as figures, no marks."""

    def __init__(self) -> None:
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

        self._normalize = EnglishTextNormalizer({})

    def __call__(self, text: str) -> list[str]:
        return str(self._normalize(re.sub(r"(?<=\d)[.:](?=\d)", " ", _TAG.sub(" ", text)))).split()


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


def spoken_text(words: list[WordEvent]) -> str:
    """What was to be heard, in words that a recogniser can be asked to find."""
    return " ".join(word.said or word.word for word in words)

"""How single words are to be said: "GIF=jiff". Whole words, in any case, as they are written."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from dia2stream.errors import LexiconError
from dia2stream.protocol.fields import problem_of_pair


class Lexicon:
    """words: what is said for each word. A word with 's behind it is found too."""

    def __init__(self, words: Mapping[str, str] | None = None) -> None:
        self._words = {word.lower(): said for word, said in (words or {}).items()}

    def __bool__(self) -> bool:
        return bool(self._words)

    @property
    def words(self) -> Mapping[str, str]:
        """What is said for each word, in small letters."""
        return self._words

    def find(self, word: str) -> str | None:
        """What is said for a word; None for one that is not listed."""
        word = word.lower()
        said = self._words.get(word)
        if said is None and word.endswith("'s") and (base := self._words.get(word[:-2])) is not None:
            return f"{base}'s"
        return said

    def with_words(self, words: Mapping[str, str]) -> "Lexicon":
        """This one and more; where both know a word, what is new counts."""
        return Lexicon({**self._words, **words}) if words else self


NO_LEXICON = Lexicon()


def read_pair(line: str) -> tuple[str, str]:
    """A word and what is said for it: "GIF=jiff" -> ("GIF", "jiff"). Raises LexiconError."""
    word, equals, said = (part.strip() for part in line.partition("="))
    if not equals or not word or not said:
        raise LexiconError(f"{line.strip()!r} must be WORD=SAID, as GIF=jiff")
    if problem := problem_of_pair(word, said):
        raise LexiconError(f"{line.strip()[:80]!r}: {problem}")
    return word, said


def read_lexicon(pairs: Iterable[str], files: Iterable[str]) -> Lexicon:
    """Files of WORD=SAID lines, with # before a comment, and single pairs, which count more. Raises LexiconError."""
    words: dict[str, str] = {}
    for path in files:
        for number, line in enumerate(_lines(path), start=1):
            if line.strip() and not line.lstrip().startswith("# "):
                try:
                    words.update([read_pair(line)])
                except LexiconError as error:
                    raise LexiconError(f"{path}, line {number}: {error}") from None
    return Lexicon({**words, **dict(read_pair(pair) for pair in pairs)})


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise LexiconError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise LexiconError(f"{path}: this is no UTF-8 text") from None

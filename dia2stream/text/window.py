"""What a rule sees: the word that is to be read, those before it, and those after it as far as they have arrived.

A rule is written as if the whole text were there. Where it looks at a word that has not arrived, `NeedMoreWords` stops
it, and it is asked again when there is another word. So a rule's answer depends on nothing but the words it looked at,
however the text was cut.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from dia2stream.text.items import Item
from dia2stream.text.tables import GOES_ON, MEASURED, SENTENCE_STARTS

HELD_WORDS = 6  # that may be held back; a rule sees no word behind them

_LEAD = re.compile(r"""(?:["(]|'(?!\d))*""")
_NUMERIC_ENDS = frozenset("%\u00b0\u00bc\u00bd\u00be") | {chr(fraction) for fraction in range(0x2150, 0x215F)}
_CLOSING = ".,!?;:)\"'"


class NeedMoreWords(Exception):
    """A rule looked at a word that has not arrived."""


class Token(NamedTuple):
    """A word in three parts: what opens, the word itself, what closes: `("`, `Hello`, `,`."""

    lead: str
    core: str
    tail: str

    @property
    def is_capitalised(self) -> bool:
        return self.core[:1].isupper()

    @property
    def is_numeric(self) -> bool:
        """Whether it ends as a number does, also one with its unit or fraction, or in thousands: "48k"."""
        end = self.core[-1:]
        return end.isdecimal() or end in _NUMERIC_ENDS or (end in "kKM" and self.core[-2:-1].isdecimal())


_NO_TOKEN = Token("", "", "")


@lru_cache(maxsize=1024)
def token_of(text: str) -> Token:
    """The parts of a word."""
    lead = _LEAD.match(text)[0]  # type: ignore[index]
    rest = text[len(lead) :]
    core = rest.rstrip(_CLOSING)
    return Token(lead, core, rest[len(core) :])


class Said(NamedTuple):
    """How the next words are read, as one. tail: what closes them, where that is not what closed the last of them."""

    words: int
    text: str
    tail: str | None = None


Reading = Sequence[Said]


class Window:
    """words: those held, the one to be read first. before: the last ones read, latest last. closed: no more come.

    in_quotes: whether a quotation mark before these words opened and none closed.
    """

    def __init__(self, words: Sequence[Item], before: Sequence[Item], closed: bool, in_quotes: bool = False) -> None:
        self._words, self._before, self._closed = words, before, closed
        self.in_quotes = in_quotes
        self.first = token_of(words[0].text)

    def respelt(self, core: str) -> "Window":
        """The same with another core of the first word."""
        first = self._words[0]
        lead, _, tail = self.first
        words = [first._replace(text=f"{lead}{core}{tail}"), *self._words[1:]]
        return Window(words, self._before, self._closed, self.in_quotes)

    def word(self, number: int) -> Token | None:
        """The word so many after the one to be read; None where the text, or what may be held, ends before it."""
        if number < len(self._words):
            return token_of(self._words[number].text)
        if not self._closed and number < HELD_WORDS:
            raise NeedMoreWords
        return None

    def joined(self, number: int) -> Token | None:
        """The same, but None also where punctuation stands between it and the word before it."""
        previous = self.word(number - 1)
        if previous is None or previous.tail:
            return None
        word = self.word(number)
        return None if word is None or word.lead else word

    def joined_after_dot(self) -> Token | None:
        """The next word, if nothing but the dot of an abbreviation stands between."""
        word = self.word(1) if self.first.tail in ("", ".") else None
        return None if word is None or word.lead else word

    def before(self, number: int = 1) -> Token:
        """The word so many before the one to be read; an empty one where the text begins after it."""
        return token_of(self._before[-number].text) if number <= len(self._before) else _NO_TOKEN

    def is_adjective(self, number: int = 1, article: int = 1) -> bool:
        """Whether a quantity belongs to the noun behind it, at `number`: "a 10 km run", "the 10 lb bag".

        article: how many words before the one to be read the quantity has its article.
        """
        if number == 1:
            noun = self.joined_after_dot() if self.first.tail == "." else self.joined(1)
        else:
            noun = self.joined(number)
        if noun is None:
            return False
        return self.before(article).core.lower() in ("a", "an") or is_measured(noun)

    def without_dot(self, number: int = 0) -> str:
        """What closes an abbreviation when its dot is gone: the dot is kept where it also ends a sentence."""
        word = self.word(number)
        assert word is not None
        tail = word.tail.removeprefix(".")
        if tail or not word.tail:
            return tail
        following = self.word(number + 1)
        ends = following is None or (following.is_capitalised and following.core not in GOES_ON)
        return "." if ends else ""

    def without_dots(self) -> str:
        """The same for letters with dots, as "U.S.", which a name may follow."""
        tail = self.without_dot()
        if tail != ".":
            return tail
        following = self.word(1)
        return "." if following is None or following.core in SENTENCE_STARTS else ""


def is_measured(noun: Token) -> bool:
    """Whether this noun has a quantity before it as an adjective: "bag", "bags"."""
    core = noun.core.lower()
    return core in MEASURED or core.removesuffix("s") in MEASURED or core.removesuffix("es") in MEASURED


Rule = Callable[[Window], Reading | None]

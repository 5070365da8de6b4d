"""The text front end: text as agents send it -> what the script reader is given, with the words as they were written.

    front_end = TextFrontEnd("spoken")
    front_end.feed("**Pay $5")     -> []                          it may go on: "$5 million"
    front_end.feed(" to me** ")    -> [Piece(WORD, "Pay", "Pay", 2, 5), Piece(WORD, "five dollars", "$5", 6, 8), ...]
    front_end.flush()              -> the rest; the next text is another utterance's

    text -> Lexer -> items -> Normalizer -> pieces

- `off`: words and breaks as the script reader itself finds them.
- `clean`: marks that make no sound are gone, speaker tags and breaks are found in every usual spelling.
- `spoken`: and numbers, dates, abbreviations, addresses and codes are written as an American says them.

Text may be cut anywhere, also between the two halves of a surrogate pair. No I/O, and no state but a front end's own.
"""

import re
from copy import copy
from typing import Literal, NamedTuple

from dia2stream.text import numbers
from dia2stream.text.items import Notice
from dia2stream.text.lexer import Lexer, RawLexer
from dia2stream.text.lexicon import NO_LEXICON, Lexicon
from dia2stream.text.normalizer import Normalizer, PieceKind, Spoken
from dia2stream.text.rules.spoken import SPECIAL_WORDS, SPOKEN

TextRules = Literal["off", "clean", "spoken"]

_SURROGATES = re.compile("[\ud800-\udfff]")
_FIRST_HALF = re.compile("[\ud800-\udbff]$")


class Piece(NamedTuple):
    """A word, a break or a tag.

    said: for the script reader: words, `<break time="0.5s"/>` or `[S1]`. written: the caller's own characters, from
    text_start up to text_end, in code points of the utterance's text.
    """

    kind: PieceKind
    said: str
    written: str
    text_start: int
    text_end: int


class TextFrontEnd:
    """Reads the text of one utterance after another.

    makes_sounds: whether the voice knows sounds such as "(laughs)"; else `clean` and `spoken` leave them out.
    """

    def __init__(self, rules: TextRules, lexicon: Lexicon = NO_LEXICON, makes_sounds: bool = True) -> None:
        self.rules: TextRules = rules
        is_spoken = rules == "spoken"
        if is_spoken:
            numbers.prepare()
        self._lexer = RawLexer() if rules == "off" else Lexer(is_spoken)
        rows = (SPOKEN, SPECIAL_WORDS) if is_spoken else ((), frozenset[str]())
        self._normalizer = Normalizer(*rows, lexicon, raw=rules == "off", makes_sounds=makes_sounds)
        self._half = ""  # of a surrogate pair
        self._kept, self._kept_at = "", 0  # the text that no piece has come of yet, and where it begins
        self.notices: tuple[Notice, ...] = ()  # of the latest feed or flush

    def copy(self) -> "TextFrontEnd":
        """Another one that stands where this one does."""
        other = copy(self)
        other._lexer, other._normalizer = copy(self._lexer), copy(self._normalizer)
        return other

    @property
    def incomplete(self) -> str:
        """Text that is held back: what follows it may change how it is said."""
        return self._kept + self._half

    def feed(self, text: str) -> list[Piece]:
        """Takes a piece of text; returns what it completed."""
        if self._half or not text.isascii():
            text = self._whole_characters(text)
        self._kept += text
        if items := self._lexer.feed(text):
            return self._pieces(self._normalizer.feed(items))
        self.notices = self._lexer.take_notices()
        self._forget()
        return []

    def flush(self) -> list[Piece]:
        """The utterance ends here; returns what was held back. What is fed next begins another utterance."""
        self._half = ""
        spoken = self._normalizer.feed(self._lexer.flush())
        pieces = self._pieces(spoken + self._normalizer.flush())
        self._kept, self._kept_at = "", 0
        return pieces

    def _whole_characters(self, text: str) -> str:
        """The text with both halves of every pair as one character; the first half of one may come later."""
        if not self._half and not _SURROGATES.search(text):
            return text
        text = self._half + text
        half = _FIRST_HALF.search(text)
        self._half = half[0] if half else ""
        whole = text[: len(text) - len(self._half)]
        return whole.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _pieces(self, spoken: list[Spoken]) -> list[Piece]:
        at = self._kept_at
        pieces = [Piece(s.kind, s.said, self._kept[s.start - at : s.end - at], s.start, s.end) for s in spoken]
        self.notices = self._lexer.take_notices() + self._normalizer.take_notices()
        if len(self.notices) > 1:
            self.notices = tuple(sorted(self.notices, key=lambda notice: notice.start))
        self._forget()
        return pieces

    def _forget(self) -> None:
        """The text that pieces have come of, and marks before it, are not kept."""
        held = self._normalizer.held
        at = held[0].start if held else self._lexer.waiting_at
        if at > self._kept_at:
            self._kept = self._kept[at - self._kept_at :]
            self._kept_at = at


def says_something(text: str) -> bool:
    """Whether anything of a text can be heard, be it a break."""
    front_end = TextFrontEnd("clean")
    return any(piece.kind is not PieceKind.TAG for piece in front_end.feed(text) + front_end.flush())

"""Text of a conversation -> entries for the text machine, each with the word that the caller wrote.

    "[S2] Pay $5 now"  ->  Pay         of "Pay", with [S2] before it
                           five        of "$5"
                           dollars     of "$5", the same word, so there is one event for both
                           now         of "now"

The text front end finds the words, the script reader encodes them. A word is complete once whitespace, or the words
that may belong to it, have followed.
"""

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

from dia2.errors import ScriptError
from dia2.text.script import Entry, ScriptReader, TextTokenizer
from dia2stream.errors import CommandError
from dia2stream.protocol.fields import MAX_TEXT_CHARS
from dia2stream.text.front_end import Piece, TextFrontEnd
from dia2stream.text.items import Notice
from dia2stream.text.normalizer import PieceKind


@dataclass(frozen=True, eq=False)
class Written:
    """A word or break as the caller wrote it; two of them are never the same, however alike they look.

    tags: the speakers' tags before it. said: what is spoken for it. start, end: code points of its utterance's text.
    entries: how many entries came of it.
    """

    text: str
    said: str
    start: int
    end: int
    tags: str
    entries: int

    @property
    def again(self) -> str:
        """Text that says the same when it is given again."""
        return f"{self.tags} {self.text}" if self.tags else self.text


class ReadEntry(NamedTuple):
    """An entry, and what it came of. begins: whether it is the first one that did."""

    entry: Entry
    written: Written
    begins: bool


class TextReader:
    """Reads the text of one utterance after another, in pieces."""

    def __init__(self, tokenizer: TextTokenizer, front_end: TextFrontEnd) -> None:
        self._script, self._front_end = ScriptReader(tokenizer), front_end
        self._tags = ""  # read, and no word came behind them yet
        self.notices: tuple[Notice, ...] = ()  # since they were taken

    def copy(self) -> "TextReader":
        """Another one that stands where this one does."""
        other = copy(self)
        other._script, other._front_end = copy(self._script), self._front_end.copy()
        return other

    @property
    def incomplete(self) -> str:
        """Text that is held back until it is known how it goes on."""
        return " ".join(filter(None, [self._tags, self._front_end.incomplete.strip()]))

    def read(self, text: str, final: bool) -> list[ReadEntry]:
        """The entries that a piece of text completes. Raises CommandError for text that cannot be spoken."""
        pieces = self._front_end.feed(text)
        self.notices += self._front_end.notices
        if len(self._front_end.incomplete) > MAX_TEXT_CHARS:
            problem = f"text: a word of over {MAX_TEXT_CHARS} characters has not ended yet"
            raise CommandError("too_long", problem, field="text")
        return self._entries(pieces) + (self.finish() if final else [])

    def finish(self) -> list[ReadEntry]:
        """The utterance ends here: completes and returns what was held back."""
        pieces = self._front_end.flush()
        self.notices += self._front_end.notices
        return self._entries(pieces)

    def take_notices(self) -> tuple[Notice, ...]:
        """What there is to tell the caller that has not been taken."""
        notices, self.notices = self.notices, ()
        return notices

    def answer(self) -> None:
        """Somebody else has spoken in between: the next word says again whose it is."""
        self._script.answer()

    def rewind(self, last: Entry | None) -> None:
        """Forgets everything read after `last`, a word and not a break (None: since the line began)."""
        self._front_end.flush()
        self._script.rewind(last)
        self._tags, self.notices = "", ()

    def _entries(self, pieces: Iterable[Piece]) -> list[ReadEntry]:
        return [read for piece in pieces for read in self._read(piece)]

    def _read(self, piece: Piece) -> list[ReadEntry]:
        try:
            entries = self._script.feed(piece.said) + self._script.finish()
        except ScriptError as error:
            raise CommandError("bad_field", f"text: {error}", field="text") from None
        if piece.kind is PieceKind.TAG:
            self._tags = f"{self._tags} {piece.said}".strip()
        if not entries:
            return []
        text = piece.written if piece.kind is PieceKind.WORD else piece.said
        written = Written(text, piece.said, piece.text_start, piece.text_end, self._tags, len(entries))
        self._tags = ""
        return [ReadEntry(entry, written, not number) for number, entry in enumerate(entries)]

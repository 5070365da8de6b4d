"""Script -> entries: what the text stream machine is fed, one word or break at a time.

A script is read left to right and nothing before the current word ever matters but the last tag, so the reader takes
text in pieces of any size: a word is complete at whitespace or at the end, and a piece may stop inside a word, a
`[S1]` tag or a `<break time="0.5s"/>`. Giving the same text in other pieces gives the same entries.

Knows nothing about the model; a tokenizer is anything with `encode`, `speakers`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dia2.errors import ScriptError
from dia2.model.config import FRAME_RATE

MAX_BREAK_SECONDS = 60

# These are replaced before text is split into words, so a colon parts words: "4:30" is "4 30".
_CHARACTERS = str.maketrans({"’": "'", ":": " "})  # noqa: RUF001

# The parts of a break, in order. Nested as optional groups they match every beginning of a break, for text that is cut
# inside one. No two neighbouring parts can match the same characters, so matching takes time linear in the length.
_BREAK_PARTS = ["<", *"break", r"\s+", *"time", "=", '"', r"[0-9]*", r"(?:\.[0-9]*)?", "s", '"', r"\s*", "/?", ">"]
_BREAK = re.compile(r'<break\s+time="([0-9]+(?:\.[0-9]+)?|\.[0-9]+)s"\s*/?>')
_BOUNDARY = re.compile(rf"{_BREAK.pattern}|\s")
_BREAK_BEGUN = re.compile("".join(f"(?:{part}" for part in _BREAK_PARTS) + ")?" * len(_BREAK_PARTS) + r"\Z")


class TextTokenizer(Protocol):
    """What script reading needs of a tokenizer."""

    @property
    def speakers(self) -> tuple[int, int]:
        """Ids of [S1] and [S2]."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without special tokens around them."""


@dataclass(frozen=True)
class Entry:
    """One word or break.

    tokens: what the machine puts into the text stream; none for a break.
    text: the word as written, without its tag; "" for a break.
    padding: steps that must pass before the next entry may be taken.
    speaker: 1 or 2, whose word it is. The model does not read it; word events show it.
    """

    tokens: tuple[int, ...]
    text: str
    padding: int
    speaker: int = 1


class ScriptReader:
    """Turns text that arrives in pieces into entries.

    `speaker` is the last tag read (1 or 2). A new reader stands at the start of line 0; `start_line` begins another.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._carry = ""  # the end of the text so far, if its last word or break may go on
        self._line_speaker: int | None = None  # whose the last line with a word was
        self.start_line(0)

    def start_line(self, number: int) -> None:
        """Begins line `number`; lines alternate between the speakers."""
        self._tag: str | None = None  # a tag that has been read, until it is put before a word
        self._line = number % 2 + 1
        self._first = True
        self.speaker = self._line

    @property
    def incomplete(self) -> str:
        """Text held back until its word is complete."""
        return self._carry

    def feed(self, text: str) -> list[Entry]:
        """Takes a piece of text; returns the entries that it completed. Raises ScriptError for an endless break."""
        text = self._carry + text.translate(_CHARACTERS)
        safe = _complete_until(text)
        self._carry = text[safe:]
        return self._entries(text[:safe])

    def finish(self) -> list[Entry]:
        """The text ends here: completes and returns what was held back."""
        text, self._carry = self._carry, ""
        return self._entries(text)

    def answer(self) -> None:
        """Somebody else has spoken in between, so the next word gets its speaker's tag again."""
        self._tag = self._tag or f"[S{self.speaker}]"

    def rewind(self, last: Entry | None) -> None:
        """Forgets what was read after the entry `last`, which is a word, or, with None, since the line began."""
        self._carry, self._tag = "", None
        self._first = last is None
        self._line_speaker = None if last is None else self._line
        self.speaker = self._line if last is None else last.speaker

    def _entries(self, text: str) -> list[Entry]:
        entries = []
        # re.split with one group gives text, seconds, text, seconds, ..., text
        for number, part in enumerate(_BREAK.split(text)):
            if number % 2:
                entries += self._break(float(part))
            else:
                entries += [entry for word in part.split() for entry in self._word(word)]
        return entries

    def _break(self, seconds: float) -> list[Entry]:
        if seconds > MAX_BREAK_SECONDS:
            raise ScriptError(f"a break of {seconds:g} s is too long: at most {MAX_BREAK_SECONDS} s")
        frames = round(seconds * FRAME_RATE)
        return [Entry((), "", frames, self.speaker)] if frames > 0 else []

    def _word(self, word: str) -> list[Entry]:
        if word in ("[S1]", "[S2]"):
            self._tag = word
            self.speaker = int(word[2])
            return []
        tokens = self._tokenizer.encode(f"{self._tag} {word}" if self._tag else word)
        self._tag = None
        if self._first:
            tokens = self._open_line(tokens)
        return [Entry(tuple(tokens), word, len(tokens), self.speaker)]

    def _open_line(self, tokens: list[int]) -> list[int]:
        """The first word of a line carries the line's speaker, unless that speaker had the last line too."""
        token = self._tokenizer.speakers[self._line - 1]
        changes = self._line_speaker != self._line
        self._first, self._line_speaker = False, self._line
        return [token, *tokens] if changes and tokens[:1] != [token] else tokens


def _complete_until(text: str) -> int:
    """Where the part of `text` ends that no further text can change: after its last whitespace or whole break.

    What follows a "<" that may still become a break can still change, also its spaces.
    """
    opened = text.rfind("<")
    unfinished = opened >= 0 and not _BREAK.match(text, opened) and _BREAK_BEGUN.match(text, opened)
    ends = [match.end() for match in _BOUNDARY.finditer(text, 0, opened if unfinished else len(text))]
    return ends[-1] if ends else 0


def read_script(script: str | Sequence[str], tokenizer: TextTokenizer) -> list[Entry]:
    """A whole script, one line as a string or several as a list, -> its entries."""
    reader = ScriptReader(tokenizer)
    entries: list[Entry] = []
    for number, line in enumerate([script] if isinstance(script, str) else script):
        reader.start_line(number)
        entries += reader.feed(line.strip()) + reader.finish()
    return entries

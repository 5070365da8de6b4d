"""Words as written -> words to say, by rules that may look at some words before and after.

Most words are said as they are and pass at once. A word that may be part of something longer is held until enough words
have followed it to tell, at most `HELD_WORDS`.
"""

import re
from collections.abc import Sequence
from enum import Enum, auto
from typing import NamedTuple

from dia2stream.text.items import BREAK, DASH_SECONDS, EDGE, PAUSE, TAG, WORD, Item, Notice
from dia2stream.text.lexicon import Lexicon
from dia2stream.text.numbers import spelled
from dia2stream.text.tables import SOUNDS, SOUNDS_OF_TWO
from dia2stream.text.window import NeedMoreWords, Reading, Rule, Said, Token, Window, token_of

LONGEST_WORD = 60  # characters; a longer one must look as if it could be said
_SPELLED = 6  # characters of it that are, where it does not

_PLAIN_WORD = re.compile(r"(?:[A-Z]?[a-z][a-z']*|[AI](?:'[a-z]+)?)[.,!?;]?")
_LONE_PAUSE = re.compile(r"-+|\.{3,}|[/>\u2022\u00b7\u203a]")
_SILENT = re.compile(r"""[][.,!?;:'"()*_~^|\\{}<>#`\u2022\u00b7\u203a\u2605-]*""")
_UNSAYABLE = re.compile(r"[^\W\d_aeiouyAEIOUY]{6}|[\W_]{3}")
_FIGURES = re.compile(r"\d")


class PieceKind(Enum):
    """What a piece is."""

    WORD = auto()
    BREAK = auto()
    TAG = auto()


class Spoken(NamedTuple):
    """What is to be said, and the place of the characters it was made of."""

    kind: PieceKind
    said: str
    start: int
    end: int


class Normalizer:
    """Reads items one after another. rules: tried in order; without any, words keep their spelling.

    special: words of letters, in lower case, that a rule may read otherwise. raw: only the lexicon changes a word.
    makes_sounds: whether the voice knows sounds such as "(laughs)"; else they are left out.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        special: frozenset[str],
        lexicon: Lexicon,
        *,
        raw: bool = False,
        makes_sounds: bool = True,
    ) -> None:
        self._rules, self._special = rules, special
        self._lexicon = lexicon or None
        self._raw, self._makes_sounds = raw, makes_sounds
        self._notices: tuple[Notice, ...] = ()
        self._begin()

    def _begin(self) -> None:
        self.held: tuple[Item, ...] = ()
        self._before: tuple[Item, ...] = ()
        self._pause: Item | None = None  # comes before the next word
        self._has_spoken = False
        self._after_number = False  # a unit may follow
        self._in_quotes = False  # a quotation mark opened, and none closed yet

    def feed(self, items: Sequence[Item]) -> list[Spoken]:
        """Takes items; returns what can be said for certain."""
        spoken: list[Spoken] = []
        for item in items:
            if item.kind is not WORD:
                self._drain(spoken, closed=True)
                self._no_word(item, spoken)
            elif not self.held and not self._after_number and self._is_plain(item.text):
                self._say(item.text, item.start, item.end, spoken)
                self._before = (*self._before[-1:], item)
            else:
                self.held = (*self.held, item)
                self._drain(spoken, closed=False)
        return spoken

    def flush(self) -> list[Spoken]:
        """No more items come."""
        spoken: list[Spoken] = []
        self._drain(spoken, closed=True)
        self._begin()
        return spoken

    def take_notices(self) -> tuple[Notice, ...]:
        """What there is to tell that has not been taken."""
        notices, self._notices = self._notices, ()
        return notices

    def _is_plain(self, text: str) -> bool:
        """Whether a word is said as it is, whatever stands around it."""
        if not _PLAIN_WORD.fullmatch(text):
            return False
        core = text.rstrip(".,!?;").lower()
        if core in self._special or text in self._special:
            return False
        return self._lexicon is None or (self._lexicon.find(text) is None and self._lexicon.find(core) is None)

    def _no_word(self, item: Item, spoken: list[Spoken]) -> None:
        if item.kind is PAUSE:
            longer = self._pause is None or float(item.text) > float(self._pause.text)
            if longer and item.text != "0":
                self._pause = item
        elif item.kind is BREAK:
            spoken.append(Spoken(PieceKind.BREAK, _break(item.text), item.start, item.end))
        elif item.kind is TAG:
            spoken.append(Spoken(PieceKind.TAG, item.text, item.start, item.end))
        elif item.kind is EDGE:
            self._before, self._after_number, self._in_quotes = (), False, False

    def _say(self, text: str, start: int, end: int, spoken: list[Spoken]) -> None:
        if self._pause is not None:
            at = self._pause.start
            if self._has_spoken:
                spoken.append(Spoken(PieceKind.BREAK, _break(self._pause.text), at, at))
            self._pause = None
        self._has_spoken = True
        spoken.append(Spoken(PieceKind.WORD, text, start, end))

    # ---- Words that may be more than they are ----

    def _drain(self, spoken: list[Spoken], closed: bool) -> None:
        """Reads the held words as far as that is certain."""
        while self.held:
            try:
                reading = self._read(Window(self.held, self._before, closed, self._in_quotes))
            except NeedMoreWords:
                return
            for said in reading:
                words, self.held = self.held[: said.words], self.held[said.words :]
                self._before = (*self._before, *words)[-2:]
                self._after_number = token_of(words[-1].text).is_numeric
                self._say_words(said, words, spoken)
                for word in words:
                    if '"' in word.text:
                        lead, _, closing = token_of(word.text)
                        self._in_quotes = '"' not in closing and (self._in_quotes or '"' in lead)

    def _say_words(self, said: Said, words: Sequence[Item], spoken: list[Spoken]) -> None:
        first, last = token_of(words[0].text), token_of(words[-1].text)
        start, end = words[0].start, words[-1].end
        tail = last.tail if said.tail is None else said.tail
        if self._raw:
            self._say(first.lead + said.text + tail, start, end, spoken)
        elif said.text:
            lead, tail = first.lead.replace("(", ""), tail.replace(")", "")
            self._say(lead + said.text + (tail.replace(":", ",") if self._rules else tail), start, end, spoken)
        elif _LONE_PAUSE.fullmatch(words[0].text):
            self._no_word(Item(PAUSE, f"{DASH_SECONDS:g}", start, start), spoken)

    def _read(self, window: Window) -> Reading:
        token = window.first
        if found := self._listed(token):
            return found
        if self._raw:
            return (Said(1, token.core),)
        if token.lead[-1:] == "(" and (sound := _sound(window)):
            return sound if self._makes_sounds else (Said(len(sound), ""),)
        if len(token.core) > LONGEST_WORD and _is_unsayable(token.core):
            return (Said(1, self._cut(token.core)),)
        for rule in self._rules:
            if reading := rule(window):
                return reading
        is_silent = not token.core.isalnum() and _SILENT.fullmatch(token.core)
        return (Said(1, "" if is_silent else token.core),)

    def _listed(self, token: Token) -> Reading | None:
        """What the lexicon says of a word, as it is written."""
        if self._lexicon is None or not token.core:
            return None
        if token.tail.startswith(".") and (said := self._lexicon.find(f"{token.core}.")) is not None:
            return (Said(1, said, token.tail[1:]),)
        said = self._lexicon.find(token.core)
        return None if said is None else (Said(1, said),)

    def _cut(self, word: str) -> str:
        said = spelled(word[:_SPELLED])
        message = f"a word of {len(word)} characters that cannot be said is cut after {_SPELLED}"
        self._notices += (Notice("long_word", message, self.held[0].start),)
        return said


def _sound(window: Window) -> Reading | None:
    """A sound in brackets, as "(laughs)", which stays as it is."""
    token = window.first
    if token.tail.startswith(")") and token.core.lower() in SOUNDS:
        return (Said(1, f"({token.core})", token.tail[1:]),)
    if token.tail or not any(pair.startswith(f"{token.core.lower()} ") for pair in SOUNDS_OF_TWO):
        return None
    following = window.joined(1)
    if following is None or f"{token.core} {following.core}".lower() not in SOUNDS_OF_TWO:
        return None
    if not following.tail.startswith(")"):
        return None
    return (Said(1, f"({token.core}"), Said(1, f"{following.core})", following.tail[1:]))


def _is_unsayable(word: str) -> bool:
    """Whether a long word is no word: figures among letters, or letters without vowels between them."""
    if word.isdecimal() or "://" in word or word.lower().startswith("www."):
        return word.isdecimal()
    return bool(_UNSAYABLE.search(word)) or len(_FIGURES.findall(word)) * 8 > len(word)


def _break(seconds: str) -> str:
    return f'<break time="{seconds}s"/>'

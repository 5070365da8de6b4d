"""Text that arrives in pieces -> words without their marks, pauses, breaks and speaker tags.

    "**Hi** [S2]there<br>" in any pieces  ->  WORD "Hi", TAG "[S2]", WORD "there"

A lexer takes one construct after another from the beginning of what it holds. A construct that the next characters
could still complete is waited for: a tag, a link, the mark of a list item. Patterns end in a character that closes
them, so no further text changes a match, and they are given up after `HOLD` characters: text in pieces gives the items
of the same text at once. All of a lexer's state is immutable, so a shallow copy of one is a copy.
"""

import re

import regex

from dia2stream.text import patterns
from dia2stream.text.breaks import break_seconds
from dia2stream.text.items import BREAK, DASH_SECONDS, EDGE, PAUSE, STRUCTURE_SECONDS, TAG, WORD, Item, Notice
from dia2stream.text.marks import Segment, clean_word
from dia2stream.text.tables import INLINE_TAGS, KNOWN_TAGS, LEFT_OUT_TAGS, STRUCTURE_TAGS

HOLD = 200  # characters that a construct may hold back
_LINK_HOLD = 2000  # the address of a link, which has no spaces: a word could not be said before its end either

_PLAIN_WORD = re.compile(r"([A-Za-z][A-Za-z']*[.,!?;]?)(?: +|(?=\n))")
# A word of which nothing is a mark, but that may be of figures: `marks.clean_word` would return the same word.
_CLEAN_WORD = re.compile(
    r"(?![:;])((?:[A-Za-z0-9.,!?;:'\"%/@+]|\)(?!\$)|-(?!-)|\((?!\))|(?<![A-Za-z])\$(?=\d))+)(?: +|(?=\n))"
)
_LONGEST_BEGUN = 40
# Of a word that is begun the end is cheaper to wait for than to take the word apart.
_BEGUN = re.compile(rf"[A-Za-z0-9.,!?;:'\"()$%/@+-]{{1,{_LONGEST_BEGUN}}}")
_SPACE = re.compile(r"\n|[^\S\n]|[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_INDEXED = re.compile(r"\w\[")  # "matrix[i"; a link has no letter before its bracket
_WORD_OF_TEXT = re.compile(r"[^\W\d_]{4}$|[.,!?;:\"')]$")
_FORMULA_BEGUN = re.compile(r"\(*\$+(?:[A-Za-z](?![A-Za-z])|\\)[^$]*")
_FORMULA_END = re.compile(r"\$+([.,!?;:)]*)$")
_ORDINARY = re.compile(r"[^\s\x00-\x1f\x7f-\x9f<\[\]|\u3010]+")


class _NeedMoreText(Exception):
    """What comes next depends on text that has not arrived."""


class Lexer:
    """Reads one utterance's text; `flush` ends it, and the next text begins another."""

    def __init__(self, is_spoken: bool = False) -> None:
        """is_spoken: the rules of `spoken` read the words next."""
        self._is_spoken = is_spoken
        self._notices: tuple[Notice, ...] = ()
        self._begin()

    def _begin(self) -> None:
        self._text = ""  # not read yet
        self._at = 0  # where it begins in the utterance
        self._final = False
        self._word: tuple[Segment, ...] = ()  # read, and not complete
        self._newlines = 1  # since the last word; the text's beginning is a line's
        self._in_heading = False
        self._in_formula = False  # a "$" of TeX opened one: "$x + 1$"
        self._until: str | None = None  # the tag at whose end what is left out ends
        self._told: frozenset[str] = frozenset()

    @property
    def waiting_at(self) -> int:
        """Where the text begins that no item has come of."""
        return self._word[0].start if self._word else self._at

    @property
    def leaves_out(self) -> bool:
        """Whether the text stands inside something that is left out, as after `<think>`."""
        return self._until is not None

    def feed(self, text: str) -> list[Item]:
        """Takes a piece; returns the items that it completed."""
        self._text += text
        return self._read()

    def flush(self) -> list[Item]:
        """The text ends here."""
        self._text += "\n"
        self._final = True
        items = self._read()
        if self._until in LEFT_OUT_TAGS:
            self._notify("left_out", f"<{self._until}> is never closed: the text after it is left out", self._at)
        self._begin()
        return items

    def take_notices(self) -> tuple[Notice, ...]:
        """What there is to tell that has not been taken."""
        notices, self._notices = self._notices, ()
        return notices

    # ---- Reading ----

    def _read(self) -> list[Item]:
        items: list[Item] = []
        position = 0
        try:
            while position < len(self._text):
                position = self._take(position, items)
        except _NeedMoreText:
            pass
        if position:
            self._text = self._text[position:]
            self._at += position
        return items

    def _take(self, position: int, items: list[Item]) -> int:
        """Takes one construct; returns where the next begins. Raises _NeedMoreText, and then nothing has changed."""
        if self._until is not None:
            return self._skip(position, self._until)
        if not self._word:
            if self._newlines and (mark_end := self._line_mark(position, items)) is not None:
                return mark_end
            if not self._newlines and (after := self._clean_words(position, items)) > position:
                return after
        construct = _CONSTRUCTS.get(self._text[position])
        if construct is not None and (end := construct(self, position, items)) is not None:
            return end
        if _SPACE.match(self._text, position):
            return self._space(position, items)
        ordinary = _ORDINARY.match(self._text, position)
        after = ordinary.end() if ordinary else position + 1
        self._extend_word(position, after)
        return after

    def _clean_words(self, position: int, items: list[Item]) -> int:
        """Takes all that come, without a look at anything else: most words of most texts."""
        text, begun = self._text, position
        clean_word = _PLAIN_WORD if self._in_formula else _CLEAN_WORD
        while not text[position : position + _LONGEST_BEGUN].isalpha():  # else the word's end has not arrived
            match = _PLAIN_WORD.match(text, position) or clean_word.match(text, position)
            if match is None:
                break
            start = self._at + position
            items.append(Item(WORD, match[1], start, start + len(match[1])))
            position = match.end()
        if position == begun and not self._final and _BEGUN.fullmatch(text, position):
            raise _NeedMoreText
        return position

    def _match(self, pattern: "regex.Pattern[str]", position: int, hold: int = HOLD) -> "regex.Match[str] | None":
        """The construct here; None where there is none; raises _NeedMoreText where there may be one."""
        match = pattern.match(self._text, position, partial=not self._final)
        if match is None:
            return None
        if match.partial and len(self._text) - position < hold:
            raise _NeedMoreText
        return match if not match.partial and match.end() - position <= hold else None

    def _extend_word(self, start: int, end: int) -> None:
        text, at = self._text[start:end], self._at + start
        *before, last = self._word or (Segment("", at),)
        joined = last.start + len(last.text) == at
        self._word = (*before, Segment(last.text + text, last.start)) if joined else (*before, last, Segment(text, at))
        self._newlines = 0

    def _end_word(self, items: list[Item]) -> None:
        if self._word:
            items += clean_word(self._formula_ended(), self._is_spoken)
            self._word = ()

    def _formula_ended(self) -> tuple[Segment, ...]:
        """The word without the sign that ends a formula of several words, "0$", which else is one of money."""
        *before, last = self._word
        if not self._is_spoken or "$" not in last.text:
            return self._word
        if self._in_formula and (match := _FORMULA_END.search(last.text)):
            self._in_formula = False
            return (
                *before,
                Segment(last.text[: match.start()], last.start),
                Segment(match[1], last.start + match.end() - len(match[1])),
            )
        self._in_formula = _FORMULA_BEGUN.fullmatch(last.text) is not None
        return self._word

    def _pause(self, items: list[Item], position: int, seconds: float = STRUCTURE_SECONDS) -> None:
        self._end_word(items)
        items.append(Item(PAUSE, f"{seconds:g}", self._at + position, self._at + position))

    # ---- Constructs; each returns where it ends, or None where it is not there ----

    def _space(self, position: int, items: list[Item]) -> int:
        self._end_word(items)
        if self._text[position] == "\n":
            if self._in_heading:
                self._in_heading = False
                self._pause(items, position)
            if self._newlines:
                self._in_formula = False
                items.append(Item(EDGE, "", self._at + position, self._at + position))
            self._newlines += 1
        return position + 1

    def _line_mark(self, position: int, items: list[Item]) -> int | None:
        """The mark that a line begins with."""
        character = self._text[position]
        if character not in patterns.LINE_MARKS:
            if character.isalpha():
                self._newlines = 0  # an ordinary line
            return None
        for pattern in (patterns.RULE, patterns.FENCE, patterns.TABLE_RULE):
            if match := self._match(pattern, position):
                self._pause(items, position, 0 if pattern is patterns.FENCE else STRUCTURE_SECONDS)
                return int(match.end())
        if character == "[":
            definition = self._match(patterns.DEFINITION, position, _LINK_HOLD)
            return definition and int(definition.end())
        if match := self._match(patterns.QUOTE, position):
            return int(match.end())
        for pattern in (patterns.HEADING, patterns.BULLET, patterns.ROW):
            if match := self._match(pattern, position):
                self._pause(items, position)
                self._in_heading = pattern is patterns.HEADING
                self._newlines = 0
                return int(match.end())
        if self._match(patterns.NUMBER, position):
            self._pause(items, position)
            self._newlines = 0
            return position
        return None

    def _bar(self, position: int, items: list[Item]) -> int:
        if self._is_spoken and not self._word and (match := self._match(patterns.OR, position)):
            self._extend_word(position, match.end())
            return int(match.end())
        self._pause(items, position, DASH_SECONDS)
        return position + 1

    def _open_bracket(self, position: int, items: list[Item]) -> int | None:
        if match := self._match(patterns.CHECKBOX, position):
            return int(match.end())
        match = self._match(patterns.SPEAKER, position)
        if match is None:
            return None
        self._end_word(items)
        self._newlines = 0
        start, end = self._at + position, self._at + match.end()
        if int(match[1]) in (1, 2):
            items.append(Item(TAG, f"[S{int(match[1])}]", start, end))
        else:
            self._notify("unknown_tag", f"{match[0]} is left out: the speakers are [S1] and [S2]", start)
        return int(match.end())

    def _close_bracket(self, position: int, items: list[Item]) -> int | None:
        match = self._match(patterns.LINK, position, _LINK_HOLD)
        if match and match[0][1] == "[" and self._word and _INDEXED.search(self._word[-1].text):
            return None
        return match and int(match.end())

    def _citation(self, position: int, items: list[Item]) -> int | None:
        match = self._match(patterns.CITATION, position)
        return match and int(match.end())

    def _escape(self, position: int, items: list[Item]) -> int | None:
        match = self._match(patterns.ESCAPE, position)
        return match and int(match.end())

    def _angle(self, position: int, items: list[Item]) -> int | None:
        if match := self._match(patterns.ADDRESS, position, _LINK_HOLD):
            self._end_word(items)
            self._extend_word(position + 1, match.end() - 1)
            return int(match.end())
        if match := self._match(patterns.COMMENT, position):
            self._until = "!--"
            return int(match.end())
        if self._is_spoken and self._word and (match := self._match(patterns.POWER, position)):
            return self._power(match, position)
        if match := self._match(patterns.MARKUP, position):
            return self._markup(match, position, items)
        if match := self._match(patterns.SPECIAL_TOKEN, position):
            self._end_word(items)
            return int(match.end())
        match = self._match(patterns.DECLARATION, position)
        return match and int(match.end())

    def _power(self, match: "regex.Match[str]", position: int) -> int:
        if not _WORD_OF_TEXT.search(self._word[-1].text):
            self._word = (*self._word, Segment(f"^{match[1]}", self._at + position))
        return int(match.end())

    def _markup(self, match: "regex.Match[str]", position: int, items: list[Item]) -> int | None:
        name, attributes = match["name"].lower(), match["attributes"]
        if name == "break":
            self._break(match, position, items)
        elif name in LEFT_OUT_TAGS:
            self._end_word(items)
            self._until = None if match["close"] or match["void"] else name
        elif name == "sub" and not match["close"] and (alias := patterns.ALIAS.search(attributes)):
            self._end_word(items)
            self._until = None if match["void"] else name
            items.append(Item(WORD, (alias[1] or alias[2] or "").strip(), self._at + position, self._at + match.end()))
        elif name in STRUCTURE_TAGS:
            self._pause(items, position)
        elif name not in KNOWN_TAGS and (match["name"] != name or (attributes and "=" not in attributes)):
            return None  # "List<String>", "x <y and y> z"
        elif name not in INLINE_TAGS:
            self._end_word(items)
        return int(match.end())

    def _break(self, match: "regex.Match[str]", position: int, items: list[Item]) -> None:
        self._end_word(items)
        if match["close"]:
            return
        seconds, start = break_seconds(match["attributes"]), self._at + position
        if seconds is None:
            usage = 'write <break time="0.5s"/>'
            self._notify("bad_break", f"{match[0]} does not say how long and is left out: {usage}", start)
        elif seconds > 0:
            items.append(_break_item(seconds, start, self._at + match.end()))

    def _skip(self, position: int, until: str) -> int:
        """Leaves out text up to the end of what is not to be spoken."""
        match = patterns.ENDS[until].search(self._text, position, partial=not self._final)
        if match is None:
            return len(self._text)
        if not match.partial:
            self._until = None
            return int(match.end())
        if match.start() == position:
            raise _NeedMoreText
        return int(match.start())

    def _notify(self, code: str, message: str, start: int) -> None:
        """Once for each thing in an utterance."""
        if message not in self._told:
            self._told |= {message}
            self._notices += (Notice(code, message, start),)


def _break_item(seconds: float, start: int, end: int) -> Item:
    return Item(BREAK, f"{min(seconds, 1e5):.3f}".rstrip("0").rstrip("."), start, end)


_CONSTRUCTS = {
    "<": Lexer._angle,
    "[": Lexer._open_bracket,
    "]": Lexer._close_bracket,
    "|": Lexer._bar,
    "\u3010": Lexer._citation,
    "\x1b": Lexer._escape,
}


class RawLexer(Lexer):
    """Reads text as the script reader does, for rules `off`: words at whitespace, exact breaks, nothing else."""

    def _take(self, position: int, items: list[Item]) -> int:
        if self._text[position] == "<" and (match := self._match(patterns.EXACT_BREAK, position)):
            self._end_word(items)
            items.append(_break_item(float(match[1]), self._at + position, self._at + match.end()))
            return int(match.end())
        if _SPACE.match(self._text, position):
            self._end_word(items)
            return position + 1
        ordinary = patterns.NO_BREAK.match(self._text, position)
        after = ordinary.end() if ordinary else position + 1
        self._extend_word(position, after)
        return after

    def _end_word(self, items: list[Item]) -> None:
        if self._word:
            (word,) = self._word
            kind = TAG if word.text.strip(":") in ("[S1]", "[S2]") else WORD
            items.append(Item(kind, word.text, word.start, word.start + len(word.text)))
            self._word = ()

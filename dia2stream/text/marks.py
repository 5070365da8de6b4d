"""One written word -> the same without marks that make no sound; none, or several, may be left of it.

    "**Hello**,"  ->  "Hello,"        "wait\u2014what"  ->  "wait-", "what"        "&amp;"  ->  "&"

Every character that is left knows where it stood, so a word knows the place of what it was made of.
"""

import html
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dia2stream.text.characters import ARROW, DASH, plain
from dia2stream.text.items import DASH_SECONDS, PAUSE, WORD, Item

# A word with none of these is clean.
_DIRTY = re.compile(r"[^A-Za-z0-9.,!?;:'\"()$%/@+-]|--|\(\)|^[:;=]|^\(*\$+[A-Za-z(]|[A-Za-z)]\$")
_FACE = re.compile(r"[:;=]['^o]?-?[()\[\]dDpP/\\|3*]|<3|[()]-?:")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_ARROW = re.compile(r"[-=]{1,2}>|<[-=]{1,2}(?![\d=])")
_DASH = re.compile(rf"(?<=[^\s-])--+(?=[^\s-])|(?<=[^\s-])--+$|{DASH}+")
_FOOTNOTE = re.compile(r"(?<=[\w.,!?\"'])\[\^?\d{1,3}\]|\[\^[\w-]{1,30}\]:?")
# What encloses a formula in TeX: "$x + 1$". An amount of money has a figure behind the sign, and none before it.
_TEX_EDGE = re.compile(r"^\(*\$+(?=[A-Za-z\\({])|(?<=[A-Za-z)}])\$+(?=[.,!?;:)]*$)|(?<=[\^=_{][\d.])\$+(?=[.,!?;:)]*$)")
_TEX_SIGNS = {"times": "\u00d7", "cdot": "\u00d7", "div": "\u00f7", "leq": "\u2264", "geq": "\u2265", "neq": "\u2260",
              "approx": "\u2248", "pm": "\u00b1", "le": "\u2264", "ge": "\u2265", "ne": "\u2260"}  # fmt: skip
_TEX_SIGN = re.compile(rf"\\(?:{'|'.join(_TEX_SIGNS)})(?![A-Za-z])")
_TEX_FRACTION, _TEX_OVER = re.compile(r"\\[dt]?frac(?=\{)"), re.compile(r"\}\{")
_TEX_NAME = re.compile(r"^\\(?=[A-Za-z]+[^\\]*$)")
_EDGE = r"(?:(?<![A-Za-z0-9])|(?![A-Za-z0-9]))"  # not between two letters or digits
_MARKS = re.compile(
    r"\\(?=[^\w\s])|`+|~~|\(\)|"  # an escape, code, struck out, a call
    r"(?:(?<![A-Za-z0-9])[*_]+|[*_]+(?![A-Za-z0-9])|(?<=[A-Za-z])\*\*(?=[A-Za-z]))|"  # emphasis
    r"^!(?=\[)|[\[\]{}]|==+(?=\w)(?<!\w==)|(?<=[A-Za-z])==+(?!\w)|"  # an image, brackets, a highlight
    r"(?<![\w=])\^|\^(?![\w-])|~(?![\d$./])|^#+(?!\w)|(?<=[^\W\d])#+$|\\$"
)
_ANGLES = re.compile(r"(?<=[A-Za-z])[<>](?=[A-Za-z])|<(?![\d=$.-])|(?<![\d=])>(?![\d=$.-])")


class Segment(NamedTuple):
    """A part of a written word, and where it begins; between two of them there was a tag."""

    text: str
    start: int


class _Glyph(NamedTuple):
    """A character that is left, and the characters of the utterance that it stands for."""

    text: str
    start: int
    end: int


def clean_word(segments: Sequence[Segment], dash: str) -> list[Item]:
    """The words, and pauses between them, that are left of one. dash: what a long dash leaves at a word's end."""
    if len(segments) == 1:
        text, start = segments[0]
        if not _DIRTY.search(text):
            return [Item(WORD, text, start, start + len(text))]
    glyphs = [glyph for segment in segments for glyph in _decoded(segment)]
    text = "".join(glyph.text for glyph in glyphs)
    if _FACE.fullmatch(text):
        return []
    glyphs = _replaced(glyphs, _ARROW, ARROW)
    glyphs = _without_tex(_replaced(glyphs, _FOOTNOTE, ""), text)
    glyphs = _replaced(glyphs, _DASH, DASH)
    if sum(not glyph.text.isspace() for glyph in glyphs) > 1:  # a mark that stands alone may be a sign
        glyphs = _replaced(glyphs, _MARKS, "")
        glyphs = _replaced(glyphs, _ANGLES, " ")
    return list(_words(glyphs, dash))


def _without_tex(glyphs: list[_Glyph], text: str) -> list[_Glyph]:
    """Formulas as one writes them without TeX: "\\frac{1}{2}" -> "1/2"."""
    if "$" in text:
        glyphs = _replaced(glyphs, _TEX_EDGE, "")
    if "\\" in text:
        if _TEX_FRACTION.search(text):
            glyphs = _replaced(_replaced(glyphs, _TEX_OVER, "/"), _TEX_FRACTION, "")
        found = _TEX_SIGN.search(text)
        glyphs = _replaced(glyphs, _TEX_SIGN, _TEX_SIGNS[found[0][1:]]) if found else glyphs
        glyphs = _replaced(glyphs, _TEX_NAME, "")
    return glyphs


def _decoded(segment: Segment) -> list[_Glyph]:
    """Entities and characters as plain ones."""
    text, start = segment
    glyphs, at = [], 0
    for match in _ENTITY.finditer(text):
        glyphs += [_Glyph(p, start + i, start + i + 1) for i in range(at, match.start()) for p in plain(text[i])]
        span = start + match.start(), start + match.end()
        decoded = html.unescape(match[0])
        glyphs += [
            _Glyph(p, *span) for character in decoded for p in (plain(character) if decoded != match[0] else character)
        ]
        at = match.end()
    return glyphs + [_Glyph(p, start + i, start + i + 1) for i in range(at, len(text)) for p in plain(text[i])]


def _replaced(glyphs: list[_Glyph], pattern: re.Pattern[str], by: str) -> list[_Glyph]:
    """With one glyph, or nothing, instead of every match."""
    text = "".join(glyph.text for glyph in glyphs)  # one character each
    left, at = [], 0
    for match in pattern.finditer(text):
        left += glyphs[at : match.start()]
        if by:
            left.append(_Glyph(by, glyphs[match.start()].start, glyphs[match.end() - 1].end))
        at = match.end()
    return left + glyphs[at:] if at else glyphs


def _words(glyphs: Iterable[_Glyph], dash: str) -> Iterable[Item]:
    word: list[_Glyph] = []
    for glyph in glyphs:
        if glyph.text not in (" ", DASH, ARROW):
            word.append(glyph)
            continue
        ends_a_word = glyph.text == DASH and bool(word)
        if ends_a_word:
            word.append(_Glyph("" if word[-1].text in ".,!?;:" else dash, glyph.start, glyph.end))
        if word:
            yield _item(word)
            word = []
        if glyph.text != " " and not ends_a_word:
            yield Item(PAUSE, f"{DASH_SECONDS:g}", glyph.start, glyph.start)
    if word:
        yield _item(word)


def _item(word: Sequence[_Glyph]) -> Item:
    return Item(WORD, "".join(glyph.text for glyph in word), word[0].start, word[-1].end)

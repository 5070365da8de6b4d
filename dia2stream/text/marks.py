"""One written word -> the same without marks that make no sound; none, or several, may be left of it.

    "**Hello**,"  ->  "Hello,"        "wait\u2014what"  ->  "wait-", "what"        "&amp;"  ->  "&"

Every character that is left knows where it stood, so a word knows the place of what it was made of.
"""

import html
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from dia2stream.text.characters import ARROW, DASH, OVER, STAR, plain, plain_at
from dia2stream.text.items import DASH_SECONDS, PAUSE, WORD, Item

# A word with none of these is clean.
_DIRTY = re.compile(r"[^A-Za-z0-9.,!?;:'\"()$%/@+-]|--|\(\)|^[:;=]|^\(*\$+[A-Za-z(]|[A-Za-z)]\$")
_FACE = re.compile(r"[:;=]['^o]?-?[()\[\]dDpP/\\|3*]|<3|[()]-?:")
_ENTITY = re.compile(r"&(?:amp;)*(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_ARROW = re.compile(r"[-=]{1,2}>|<[-=]{1,2}(?![\d=])")
# A break of a line as a programmer writes it, also twice; "\\nu" is a letter of TeX, and "C:\\new" a path.
_ESCAPED_SPACE = re.compile(r"(?:\\[nrt](?![a-z\d]))+")
_DRIVE = re.compile(r"[A-Za-z]:\\|\\\\")
_DASH = re.compile(rf"(?<=[^\s`*(-])--+(?=[^\s-])|(?<=[^\s-])--+$|{DASH}+")
# An element of a list: "arr[0]", "list[-1]", "user['name']"; in code also "a[1]", which else is a footnote.
_INDEX = re.compile(r"(?<=[\w\]])\[(?=(?:0|-\d+|\d+:\d*|[\"'][^\[\]\s]+[\"']|[A-Za-z_]\w*)\])")
_INDEX_IN_CODE = re.compile(r"(?<=[\w\]])\[(?=\d+\])")
_MASK = re.compile(r"(?<![\w*\u2022.])(?:\*{4,}|\u2022{2,})-?(?=\d{3,6}(?![\d*\u2022]))")  # of a card: "****8821"
_STAR = re.compile(r"(?<![\w*])\*(?=#?\d{2,4}#?(?![\d*]))")
_FOOTNOTE = re.compile(
    r"(?:(?<=[A-Za-z]{4})|(?<=[.,!?\"']))[\u00b9\u00b2\u00b3]+$|(?<=[\w.,!?\"'\]])\[\^?\d{1,3}\]|\[\^[\w-]{1,30}\]:?"
)
# What encloses a formula in TeX: "$x + 1$". An amount of money has a figure behind the sign, and none before it.
_GREEK = "\u0391-\u03a9\u03b1-\u03c9"
_TEX_EDGE = re.compile(
    rf"^\(*\$+(?=[A-Za-z\\({{{_GREEK}\u221a])|(?<=[A-Za-z)}}{_GREEK}\u00b0])\$+(?=[.,!?;:)]*$)"
    r"|(?<=[\^=_{][\d.])\$+(?=[.,!?;:)]*$)"
)
_GREEK_SMALL = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho varsigma sigma tau "
    "upsilon phi chi psi omega"
)
_TEX_SIGNS = {
    "times": "\u00d7", "cdot": "\u00d7", "div": "\u00f7", "leq": "\u2264", "geq": "\u2265", "neq": "\u2260",
    "approx": "\u2248", "pm": "\u00b1", "le": "\u2264", "ge": "\u2265", "ne": "\u2260", "infty": "\u221e",
    "sqrt": "\u221a", "circ": "\u00b0", "to": ARROW, "rightarrow": ARROW, "left": "", "right": "", "quad": " ",
    "text": "", "mathrm": "",
}  # fmt: skip
_GREEK_CAPITAL = "Gamma Delta Theta Lambda Pi Sigma Phi Psi Omega"
_TEX_LETTERS = {name: chr(0x3B1 + number) for number, name in enumerate(_GREEK_SMALL.split())} | dict(
    zip(_GREEK_CAPITAL.split(), "\u0393\u0394\u0398\u039b\u03a0\u03a3\u03a6\u03a8\u03a9", strict=True)
)
_TEX_SIGN = re.compile(rf"\\(?:{'|'.join(_TEX_SIGNS)})(?![A-Za-z])")
_TEX_LETTER = re.compile(rf"\\({'|'.join(_TEX_LETTERS)})(?![A-Za-z])")
_TEX_FRACTION = re.compile(r"\\[dt]?frac(?=\{)")
_TEX_OVER, _TEX_OF = re.compile(r"(?<!\d)\}\{|\}\{(?!\d)"), re.compile(r"\}\{")  # "a over b", "one half"
_TEX_NAME = re.compile(rf"^\\(?=[A-Za-z]+[^\\]*$)|\\(?=(?:{'|'.join(_TEX_LETTERS)})(?![A-Za-z]))")
_MARKS = re.compile(
    r"\\(?=[^\w\s]|_)|`+|~~|\(\)|"  # an escape, code, struck out, a call
    r"(?:(?<![A-Za-z0-9])[*_]+|[*_]+(?![A-Za-z0-9])|(?<=[A-Za-z])\*\*(?=[A-Za-z]))|"  # emphasis
    r"^!(?=\[)|[\[\]{}]|==+(?=\w)(?<!\w==)|(?<=[A-Za-z])==+(?!\w)|"  # an image, brackets, a highlight
    r"(?<![\w=])\^|\^(?![\w-])|~(?![\d$./])|^#+(?![\w#])|(?<=[^\W\d]{2})#+$|\\$|(?<!\d)\u2605+|\u2022{2,}"
)
_ANGLES = re.compile(r"(?<=[A-Za-z])[<>](?=[A-Za-z])|<(?![\d=$.-])|(?<![\d=])>(?![\d=$.-])")


_OPERATORS = frozenset(["*=", "||", "===", "!==", "~="])  # that a mark is in


class Segment(NamedTuple):
    """A part of a written word, and where it begins; between two of them there was a tag."""

    text: str
    start: int


class _Glyph(NamedTuple):
    """A character that is left, and the characters of the utterance that it stands for."""

    text: str
    start: int
    end: int


def clean_word(segments: Sequence[Segment], is_spoken: bool) -> list[Item]:
    """The words, and pauses between them, that are left of one.

    is_spoken: rules read them next, which know signs; else a long dash stays one, and Greek letters of TeX are names.
    """
    if len(segments) == 1:
        text, start = segments[0]
        if not _DIRTY.search(text):
            return [Item(WORD, text, start, start + len(text))]
    glyphs = [glyph for segment in segments for glyph in _decoded(segment)]
    text = "".join(glyph.text for glyph in glyphs)
    if _FACE.fullmatch(text):
        return []
    if text in _OPERATORS and is_spoken:
        return [Item(WORD, text, glyphs[0].start, glyphs[-1].end)]
    glyphs = _replaced(glyphs, _ARROW, ARROW)
    if is_spoken:
        glyphs = _with_signs(glyphs, text)
    glyphs = _replaced(glyphs, _FOOTNOTE, "")
    if "\\" in text and not _DRIVE.match(text):
        glyphs = _replaced(glyphs, _ESCAPED_SPACE, " ")
    glyphs = _without_tex(glyphs, text, is_spoken)
    glyphs = _replaced(glyphs, _DASH, DASH)
    if sum(not glyph.text.isspace() for glyph in glyphs) > 1:  # a mark that stands alone may be a sign
        glyphs = _replaced(glyphs, _MARKS, "")
        glyphs = _replaced(glyphs, _ANGLES, " ")
    return list(_words(glyphs, "," if is_spoken else "-"))


def _with_signs(glyphs: list[_Glyph], text: str) -> list[_Glyph]:
    """With other characters for marks that rules read, and that are taken for marks of markdown else."""
    if "[" in text:
        glyphs = _replaced(glyphs, _INDEX, " ")
        glyphs = _replaced(glyphs, _INDEX_IN_CODE, " ") if "`" in text else glyphs
    if "*" in text or "\u2022" in text:
        glyphs = _replaced(_replaced(glyphs, _MASK, "\u2022"), _STAR, STAR)
    return glyphs


def _without_tex(glyphs: list[_Glyph], text: str, is_spoken: bool) -> list[_Glyph]:
    """Formulas as one writes them without TeX: "\\frac{1}{2}" -> "1/2"."""
    if "$" in text:
        glyphs = _replaced(glyphs, _TEX_EDGE, "")
    if "\\" in text and not _DRIVE.match(text):
        if _TEX_FRACTION.search(text):
            glyphs = _replaced(glyphs, _TEX_OVER, OVER if is_spoken else "/")
            glyphs = _replaced(_replaced(glyphs, _TEX_OF, "/"), _TEX_FRACTION, "")
        glyphs = _replaced(glyphs, _TEX_SIGN, lambda match: _TEX_SIGNS[match[0][1:]])
        glyphs = _replaced(glyphs, _TEX_LETTER, lambda match: _TEX_LETTERS[match[1]]) if is_spoken else glyphs
        glyphs = _replaced(glyphs, _TEX_NAME, "")
    return glyphs


def _decoded(segment: Segment) -> list[_Glyph]:
    """Entities and characters as plain ones."""
    text, start = segment
    glyphs, at = [], 0
    for match in _ENTITY.finditer(text):
        glyphs += [_Glyph(p, start + i, start + i + 1) for i in range(at, match.start()) for p in plain_at(text, i)]
        span = start + match.start(), start + match.end()
        decoded = html.unescape(re.sub("(?:amp;)+(?=.)", "", match[0]))  # "&amp;lt;" was escaped twice
        glyphs += [
            _Glyph(p, *span) for character in decoded for p in (plain(character) if decoded != match[0] else character)
        ]
        at = match.end()
    return glyphs + [_Glyph(p, start + i, start + i + 1) for i in range(at, len(text)) for p in plain_at(text, i)]


def _replaced(glyphs: list[_Glyph], pattern: re.Pattern[str], by: str | Callable[[re.Match[str]], str]) -> list[_Glyph]:
    """With one glyph, or nothing, instead of every match."""
    text = "".join(glyph.text for glyph in glyphs)  # one character each
    left, at = [], 0
    for match in pattern.finditer(text):
        left += glyphs[at : match.start()]
        if glyph := by if isinstance(by, str) else by(match):
            left.append(_Glyph(glyph, glyphs[match.start()].start, glyphs[match.end() - 1].end))
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

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
_INDEX_END = re.compile(r"(?<=[\w\"'])\](?=\.[A-Za-z_])")  # "items[0].name"
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
# Between the parts of a fraction: "a over b", and of one in figures, "one half".
_TEX_OVER = re.compile(r"(?<!\{\d)(?<!\{\d\d)\}\{|\}\{(?!\d)")
_TEX_OF = re.compile(r"\}\{")
_TEX_END = re.compile(r"^[^{}]*(?:\{[^{}]*\}[^{}]*)*\}\{")  # the same, behind parts with blanks
_TEX_FACTOR = re.compile(r"(?<=\d)\}(?=[A-Za-z(])")  # behind a fraction: "\\frac{1}{2}m"
_TEX_NAME = re.compile(rf"^\\(?=[A-Za-z]+[^\\]*$)|\\(?=(?:{'|'.join(_TEX_LETTERS)})(?![A-Za-z]))")
_MARKS = re.compile(
    r"\\(?=[^\w\s]|_)|`+|~~|\(\)|"  # an escape, code, struck out, a call
    r"(?:(?<![A-Za-z0-9])[*_]+|[*_]+(?![A-Za-z0-9])|(?<=[A-Za-z])\*\*(?=[A-Za-z]))|"  # emphasis
    r"^!(?=\[)|[\[\]{}]|==+(?=\w)(?<!\w==)|(?<=[A-Za-z])==+(?!\w)|"  # an image, brackets, a highlight
    r"(?<![\w=])\^|\^(?![\w-])|~(?![\d$./])|^#+(?![\w#])|(?<=[^\W\d]{2})#+$|\\$|(?<!\d)\u2605+|\u2022{2,}"
)
_ANGLES = re.compile(r"(?<=[A-Za-z])[<>](?=[A-Za-z])|<(?![\d=$.-])|(?<![\d=])>(?![\d=$.-])")


_PARTING = re.compile(f"[ {DASH}{ARROW}]")  # stand between words
_OPERATORS = frozenset(["*=", "||", "===", "!==", "~="])  # that a mark is in


class Segment(NamedTuple):
    """A part of a written word, and where it begins; between two of them there was a tag."""

    text: str
    start: int


Place = tuple[int, int]


class _Written(NamedTuple):
    """The characters that are left, and for each of them where those that it stands for begin and end."""

    text: str
    places: list[Place]

    def replaced(self, pattern: re.Pattern[str], by: str | Callable[[re.Match[str]], str]) -> "_Written":
        """With one character, or nothing, instead of every match."""
        parts, places, at = [], [], 0
        for match in pattern.finditer(self.text):
            parts.append(self.text[at : match.start()])
            places += self.places[at : match.start()]
            if character := by if isinstance(by, str) else by(match):
                parts.append(character)
                places.append((self.places[match.start()][0], self.places[match.end() - 1][1]))
            at = match.end()
        return _Written("".join([*parts, self.text[at:]]), places + self.places[at:]) if parts else self


def clean_word(segments: Sequence[Segment], is_spoken: bool) -> list[Item]:
    """The words, and pauses between them, that are left of one.

    is_spoken: rules read them next, which know signs; else a long dash stays one, and Greek letters of TeX are names.
    """
    if len(segments) == 1:
        text, start = segments[0]
        if not _DIRTY.search(text):
            return [Item(WORD, text, start, start + len(text))]
    word = _decoded(segments)
    if _FACE.fullmatch(word.text):
        return []
    if word.text in _OPERATORS and is_spoken:
        return [Item(WORD, word.text, word.places[0][0], word.places[-1][1])]
    is_path = _DRIVE.match(word.text) is not None
    word = word.replaced(_ARROW, ARROW)
    if is_spoken:
        word = _with_signs(word)
    word = word.replaced(_FOOTNOTE, "")
    if "\\" in word.text and not is_path:
        word = word.replaced(_ESCAPED_SPACE, " ")
    word = _without_tex(word, is_spoken, is_path).replaced(_DASH, DASH)
    if len("".join(word.text.split())) > 1:  # a mark that stands alone may be a sign
        word = word.replaced(_MARKS, "").replaced(_ANGLES, " ")
    return list(_words(word, "," if is_spoken else "-"))


def _with_signs(word: _Written) -> _Written:
    """With other characters for marks that rules read, and that are taken for marks of markdown else."""
    if "[" in word.text:
        is_code = "`" in word.text
        word = word.replaced(_INDEX, " ")
        word = word.replaced(_INDEX_IN_CODE, " ") if is_code else word
        word = word.replaced(_INDEX_END, " ")
    if "*" in word.text or "\u2022" in word.text:
        word = word.replaced(_MASK, "\u2022").replaced(_STAR, STAR)
    return word


def _without_tex(word: _Written, is_spoken: bool, is_path: bool) -> _Written:
    """Formulas as one writes them without TeX: "\\frac{1}{2}" -> "1/2"."""
    if "$" in word.text:
        word = word.replaced(_TEX_EDGE, "")
    if _TEX_END.search(word.text):
        word = word.replaced(_TEX_OF, OVER if is_spoken else "/")
    if "\\" in word.text and not is_path:
        if _TEX_FRACTION.search(word.text):
            word = word.replaced(_TEX_OVER, OVER if is_spoken else "/")
            word = word.replaced(_TEX_OF, "/").replaced(_TEX_FACTOR, " ").replaced(_TEX_FRACTION, "")
        word = word.replaced(_TEX_SIGN, lambda match: _TEX_SIGNS[match[0][1:]])
        word = word.replaced(_TEX_LETTER, lambda match: _TEX_LETTERS[match[1]]) if is_spoken else word
        word = word.replaced(_TEX_NAME, "")
    return word


def _decoded(segments: Sequence[Segment]) -> _Written:
    """Entities and characters as plain ones."""
    parts: list[str] = []
    places: list[Place] = []

    def add(character: str, begin: int, end: int) -> None:
        parts.append(character)
        places.extend([(begin, end)] * len(character))

    for text, start in segments:
        at = 0
        for match in _ENTITY.finditer(text) if "&" in text else ():
            for i in range(at, match.start()):
                add(plain_at(text, i), start + i, start + i + 1)
            decoded = html.unescape(re.sub("(?:amp;)+(?=.)", "", match[0]))  # "&amp;lt;" was escaped twice
            decoded = "".join(map(plain, decoded)) if decoded != match[0] else decoded
            add(decoded, start + match.start(), start + match.end())
            at = match.end()
        for i in range(at, len(text)):
            add(plain_at(text, i), start + i, start + i + 1)
    return _Written("".join(parts), places)


def _words(word: _Written, dash: str) -> Iterable[Item]:
    at = 0  # where the next word begins
    for mark in _PARTING.finditer(word.text):
        text, is_dash = word.text[at : mark.start()], mark[0] == DASH
        if text:
            closing = dash if is_dash and text[-1] not in ".,!?;:" else ""
            last = mark.start() if is_dash else mark.start() - 1
            yield Item(WORD, text + closing, word.places[at][0], word.places[last][1])
        if mark[0] != " " and not (text and is_dash):
            begin = word.places[mark.start()][0]
            yield Item(PAUSE, f"{DASH_SECONDS:g}", begin, begin)
        at = mark.end()
    if text := word.text[at:]:
        yield Item(WORD, text, word.places[at][0], word.places[-1][1])

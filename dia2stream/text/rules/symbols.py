"""Signs: alone between words ("2 + 2", "Q & A") and inside one ("5*3", "x=y")."""

import re

from dia2stream.text.numbers import number
from dia2stream.text.rules.web import read_aloud
from dia2stream.text.window import Reading, Said, Token, Window

_ALONE = {
    "&": "and", "+": "plus", "=": "equals", "@": "at", "%": "percent", "\u00d7": "times", "\u00f7": "divided by",
    "<": "less than", ">": "greater than", "<=": "less than or equal to", ">=": "greater than or equal to",
    "\u2264": "less than or equal to", "\u2265": "greater than or equal to", "\u2260": "is not equal to",
    "!=": "is not equal to", "==": "equals", "\u2248": "is about", "\u00b1": "plus or minus", "\u00a7": "section",
    "\u00b0": "degrees", "\u00a9": "copyright",
}  # fmt: skip
_BETWEEN_NUMBERS = {"*": "times", "x": "times", "X": "times", "/": "divided by", "^": "to the power of"}
_INSIDE = _ALONE | {
    "^2": "squared",
    "^3": "cubed",
    "\u00b2": "squared",
    "\u00b3": "cubed",
    "*": "times",
    "/": "divided by",
    "^": "to the power of",
    "-": "minus",
}
_OPERAND = r"(?:\d[\d,]*(?:\.\d+)?|\.\d+|[A-Za-z]\w{0,2})"
_FORMULA = re.compile(
    rf"-?{_OPERAND}[\u00b2\u00b3]?(?:(?:[<>!=]=|[-+*/^=<>\u00d7\u00f7\u2264\u2265\u2248])-?{_OPERAND}[\u00b2\u00b3]?)*"
)
_PARTS = re.compile(rf"\^[23](?!\d)|{_OPERAND}|[<>!=]=|.")
_CERTAIN = re.compile(r"[\u00b2\u00b3*=^\u00d7\u00f7+<>\u2264\u2265\u2248]")


def signs(window: Window) -> Reading | None:
    """A sign that stands alone."""
    core, before = window.first.core, window.before()
    if core == "-" and before.is_numeric and not before.tail:
        following = window.word(1)
        if following is None or not following.core[:1].isdecimal():
            return None
        equals = window.joined(2)
        return (Said(1, "minus" if equals is not None and equals.core == "=" else "to"),)
    if core in _BETWEEN_NUMBERS and _is_operand(before):
        following = window.word(1)
        return (Said(1, _BETWEEN_NUMBERS[core]),) if following is not None and _is_operand(following) else None
    return (Said(1, _ALONE[core]),) if core in _ALONE else None


def _is_operand(token: Token) -> bool:
    return token.core[-1:].isdecimal() or (token.core[:1].isdecimal() and not token.lead)


def formulas(window: Window) -> Reading | None:
    """Signs between numbers and letters, in one word."""
    core = window.first.core
    if not _CERTAIN.search(core) or not _FORMULA.fullmatch(core):
        return None
    parts = _PARTS.findall(core)
    return (
        Said(1, " ".join(_INSIDE.get(part) or (number(part) if part[0] in ".0123456789" else part) for part in parts)),
    )


_MISSING_SPACE = re.compile(r"[^\W\d_][\w']*(?:(?:[.!?]+(?=[A-Z][a-z])|[,;](?=[^\W\d_])|\.{2,}|[?!]+)[^\W\d_][\w']*)+")
_AFTER_MARK = re.compile(r"(?<=[.,;!?])(?=[^\W\d_])")
_FLAG = re.compile(r"(--?)([A-Za-z][\w-]*)")
_PATH = re.compile(r"(?:~|\.{1,2}|[A-Z]:)?(?:[/\\][\w.-]+)+[/\\]?")


def missing_spaces(window: Window) -> Reading | None:
    """Several words in one: "Hello,world", "the end.Then", "well...no"."""
    core = window.first.core
    return (Said(1, _AFTER_MARK.sub(" ", core)),) if _MISSING_SPACE.fullmatch(core) else None


def flags_and_paths(window: Window) -> Reading | None:
    """What is typed at a prompt: "--epochs", "/usr/local/bin"."""
    core = window.first.core
    if match := _FLAG.fullmatch(core):
        return (Said(1, f"{'dash ' * len(match[1])}{match[2].replace('-', ' ')}"),)
    return (Said(1, read_aloud(core)),) if _PATH.fullmatch(core) else None

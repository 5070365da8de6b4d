"""Formulas: signs between numbers and letters in one word ("5*3", "x=y\u00b2"), Greek letters, roots, "f(x)"."""

import re
import unicodedata

from dia2stream.text.characters import OVER
from dia2stream.text.numbers import cardinal, number, ordinal, spelled
from dia2stream.text.rules.figures import is_named
from dia2stream.text.rules.quantity import unit_said
from dia2stream.text.tables import PER, UNITS
from dia2stream.text.window import Reading, Said, Window

SIGNS = {
    "&": "and", "+": "plus", "=": "equals", "%": "percent", "\u00d7": "times", "\u00f7": "divided by", "<": "less than",
    ">": "greater than", "<=": "less than or equal to", ">=": "greater than or equal to", "\u00b0": "degrees",
    "\u2264": "less than or equal to", "\u2265": "greater than or equal to", "\u2260": "is not equal to",
    "!=": "is not equal to", "==": "equals", "\u2248": "is about", "\u00b1": "plus or minus", "\u221e": "infinity",
}  # fmt: skip
_INSIDE = SIGNS | {
    "^2": "squared", "^3": "cubed", "\u00b2": "squared", "\u00b3": "cubed", "*": "times", "/": "divided by",
    "^": "to the power of", "-": "minus", "\u00b7": "times", "\u221a": "the square root of",
    "\u221b": "the cube root of", OVER: "over",
}  # fmt: skip
_GREEK = "\u0391-\u03a9\u03b1-\u03c9\u03d5\u00b5"
_OPERAND = (
    rf"(?:\d[\d,]*(?:\.\d+)?|\.\d+)?(?:[A-Za-z][A-Za-z\d]{{0,2}}|[{_GREEK}][{_GREEK}A-Za-z]{{0,2}}|\u221e)"
    r"|\d[\d,]*(?:\.\d+)?|\.\d+"
)
_TERM = rf"-?[\u221a\u221b]?(?:{_OPERAND})[\u00b2\u00b3\u00b0]?"
_FORMULA = re.compile(
    rf"{_TERM}(?:(?:[<>!=]=|[-+*/{OVER}^=<>\u00d7\u00f7\u2264\u2265\u2248\u2260\u00b1\u00b7]){_TERM})*"
)
_PARTS = re.compile(rf"\^[23](?!\d)|\d[\d,]*(?:\.\d+)?|\.\d+|[A-Za-z][A-Za-z\d]*|[<>!=]=|[{_GREEK}]|.")
# A word with one of these is a formula, if all of it can be one.
CERTAIN = (
    OVER
    + "\u00b2\u00b3*=^\u00d7\u00f7+<>\u2264\u2265\u2248\u2260\u00b1\u00b7\u221a\u221b\u221e\u03d5\u00b5"
    + "".join(map(chr, (*range(0x391, 0x3AA), *range(0x3B1, 0x3CA))))
)
_OVER = re.compile(rf"(?<=[A-Za-z{_GREEK}])/|/(?=[A-Za-z{_GREEK}])")
_INDEX = re.compile(r"_(?=[A-Za-z\d](?![A-Za-z\d]))")  # of a variable: "x_1"
_GREEK_LETTER = re.compile(f"[{_GREEK}]")
_SCIENTIFIC = re.compile(r"([-+])?(\d+(?:\.\d+)?)[eE]([-+]?\d{1,3})([A-Za-z]*)")
_ION = re.compile(r"((?:[A-Z][a-z]?\d*)+)\^(\d)([-+])")
_CALL = re.compile(r"([A-Za-z][\w.]*)\(([^()]+)\)?")
_MEMBER_DOT = re.compile(r"\.(?=\w)")
_FUNCTIONS = {"sin": "sine of", "cos": "cosine of", "tan": "tangent of", "log": "log of", "ln": "natural log of"}


def scientific(window: Window) -> Reading | None:
    """A number with its power of ten: "2.5e-3", "6.02E23"."""
    match = _SCIENTIFIC.fullmatch(window.first.core)
    if match is None or is_named(window):
        return None
    sign, value, power = match[1], number(match[2]), int(match[3])
    said = f"minus {cardinal(-power)}" if power < 0 else ordinal(power)
    unit = f" {unit_said(match[4], is_singular=False)}" if match[4] in UNITS else ""
    if match[4] and not unit:
        return None
    return (Said(1, f"{'minus ' if sign == '-' else ''}{value} times ten to the {said}{unit}"),)


def ions(window: Window) -> Reading | None:
    """A formula of chemistry with its charge: "SO\u2084\u00b2\u207b"."""
    match = _ION.fullmatch(window.first.core)
    return match and (Said(1, f"{spelled(match[1])} {spelled(match[2])} {_INSIDE.get(match[3]) or SIGNS[match[3]]}"),)


def factorials(window: Window) -> Reading | None:
    """A number with a mark behind it, in a sum: "7! = 5,040"."""
    if window.first.tail != "!" or not window.first.core.isdecimal():
        return None
    following = window.word(1)
    is_sum = following is not None and following.core in ("=", "/", "*", "+", "-", "\u00d7", "\u00f7", "is")
    return (Said(1, f"{number(window.first.core)} factorial", ""),) if is_sum else None


def formulas(window: Window) -> Reading | None:
    """Signs between numbers and letters, in one word that has at least one of CERTAIN."""
    core = _INDEX.sub("", window.first.core)
    head, slash, unit = core.rpartition("/")
    if slash and len(unit) > 1 and (unit in PER or unit in UNITS) and _FORMULA.fullmatch(head):
        return (Said(1, f"{formula(head)} per {PER.get(unit) or UNITS[unit]}"),)
    return (Said(1, formula(core)),) if _FORMULA.fullmatch(core) else None


def formula(text: str) -> str:
    """What is said for a formula without blanks: "\u03c0/2" -> "pi over two"."""
    parts = _PARTS.findall(_OVER.sub("\\\\", text))
    return " ".join(map(_part, parts))


def _part(part: str) -> str:
    if part[0] in ".0123456789":
        return number(part)
    if _GREEK_LETTER.match(part):
        return greek(part)
    if part[-1] in "0123456789" and part[0] != "^":
        return spelled(part)
    return "over" if part == "\\" else _INSIDE.get(part, part)


def greek(letter: str) -> str:
    """The name of a letter: "\u03a9" -> "omega"."""
    name = unicodedata.name(unicodedata.normalize("NFKC", letter)).split()[3].lower()
    return {"lamda": "lambda"}.get(name, name)


def calls(window: Window) -> Reading | None:
    """A word with brackets behind it: "f(x)", "sin(x)", "print(y)", "join(a, b)", "item(s)"."""
    core, tail = window.first.core, window.first.tail
    match = _CALL.fullmatch(core)
    if match is None or not (")" in tail + core[-1] or tail == ","):
        return None
    name, inside = match.groups()
    name = _MEMBER_DOT.sub(" dot ", name)
    if inside in ("s", "es"):
        said = name + inside
    elif name in _FUNCTIONS or (len(name) == 1 and len(inside) < 4):
        said = f"{_FUNCTIONS.get(name) or f'{name} of'} {formula(inside) if _FORMULA.fullmatch(inside) else inside}"
    else:
        said = f"{name} {inside}"
    return (Said(1, said),)

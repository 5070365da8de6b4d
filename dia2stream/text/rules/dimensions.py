"""Sides, inches and feet: `a 10" screen`, `5' 4"`, "6'2\\"", "20 x 30 cm", "1920x1080", "a 9x13-inch pan"."""

import re

from dia2stream.text.numbers import VALUE, cardinal, is_fraction, pairs, value
from dia2stream.text.rules.quantity import Quantity, is_singular, unit_said
from dia2stream.text.tables import NOT_MEASURED, UNITS
from dia2stream.text.window import Reading, Said, Token, Window

BY = frozenset(["x", "X", "\u00d7"])
_LENGTHS = frozenset(["mm", "cm", "m", "km", "ft", "in", "yd", "mi", "nm", "px", "\u03bcm"])
_MARKS = {'"': ("inch", "inches"), "'": ("foot", "feet")}
_BEHIND_FEET = frozenset(["tall", "wide", "long", "deep", "high", "by", *BY])
_VALUE = re.compile(VALUE)
_VALUES = re.compile(rf"(?:{VALUE})(?:-(?:{VALUE}))?")
_FEET = re.compile(r"(\d{1,2})'(\d{1,2})")
_BETWEEN_SIDES = re.compile(r"[\"']?[xX\u00d7]")
_LAST_SIDE = re.compile(rf"({VALUE})(?:-?([A-Za-z]+))?")
_HYPHEN_UNITS = frozenset(["inch", "foot", "centimeter", "meter", "millimeter", "yard"])


def feet(window: Window) -> Reading | None:
    """Feet and inches in one word: "6'2\\"", without the mark that closes it."""
    match = _FEET.fullmatch(window.first.core)
    if match is None:
        return None
    return (Said(1, f"{cardinal(int(match[1]))} foot {cardinal(int(match[2]))}", window.first.tail.removeprefix('"')),)


def marks(window: Window) -> Reading | None:
    """Inches and feet by their marks, where no quotation ends: `27" screen`, `5' 4"`, `8.5" x 11"`."""
    core, tail = window.first.core, window.first.tail
    if tail[:1] not in _MARKS or not _VALUES.fullmatch(core) or window.in_quotes or '"' in window.first.lead:
        return None
    following = window.word(1) if len(tail) == 1 else None
    if tail[0] == "'":
        if following is not None and following.core.isdecimal() and following.tail.startswith('"'):
            return (Said(2, f"{value(core)} foot {value(following.core)}", following.tail[1:]),)
        is_side = window.before().core in BY or (following is not None and following.core in _BEHIND_FEET)
        if not is_side and window.before().core.lower() not in ("a", "an"):
            return None
    if following is not None and following.core in (*BY, "by"):
        return (Said(1, value(core), ""),)
    said = value(core) if _VALUE.fullmatch(core) else " to ".join(map(value, core.split("-")))
    return (Said(1, f"{said} {_MARKS[tail[0]][not _is_one(core, following)]}", tail[1:]),)


def _is_one(core: str, following: Token | None) -> bool:
    """Whether inches and feet stand in the singular: one, or before the noun that is measured."""
    if _VALUE.fullmatch(core) and is_singular(core):
        return True
    return (
        following is not None
        and not following.lead
        and following.core[:1].isalpha()
        and following.core.lower() not in NOT_MEASURED
    )


def sizes(window: Window) -> Reading | None:
    """Sides in one word: "1920x1080", "8.5x11", "4x100m", "9x13-inch"."""
    *sides, last = _BETWEEN_SIDES.split(window.first.core)
    match = _LAST_SIDE.fullmatch(last)
    if not sides or match is None or not all(map(_VALUE.fullmatch, sides)):
        return None
    unit, tail = "", None
    if match[2] in _HYPHEN_UNITS:
        unit = match[2]
    elif match[2]:
        if match[2] not in UNITS:
            return None
        unit = unit_said(match[2], window.is_adjective())
        tail = window.without_dot() if window.first.tail.startswith(".") else None
    elif window.first.tail.startswith('"') and not window.in_quotes:
        following = window.word(1) if window.first.tail == '"' else None
        unit, tail = _MARKS['"'][not _is_one(match[1], following)], window.first.tail[1:]
    elif window.first.tail.startswith("'") and "'" in window.first.core:
        following = window.word(1) if window.first.tail == "'" else None
        unit, tail = _MARKS["'"][not _is_one(match[1], following)], window.first.tail[1:]
    return (Said(1, f"{' by '.join(map(_side, (*sides, match[1])))} {unit}".strip(), tail),)


def _side(text: str) -> str:
    return pairs(int(text)) if text.isdecimal() and len(text) == 4 else value(text)


def is_size(window: Window) -> bool:
    """Whether an "x" between two numbers stands between sides, and not for "times": "20 x 30 cm"."""
    before = window.before()
    if (
        before.core in _LENGTHS
        or before.tail[:1] in _MARKS
        or is_fraction(before.core or "0")
        or window.before(2).core.lower() in ("a", "an")
    ):
        return True
    if _has_unit(before):
        return True
    side = 1
    while (behind := window.joined(side + 1)) is not None and behind.core in BY:
        side += 2
    last = window.word(side)
    if last is None or last.tail[:1] in _MARKS:
        return last is not None
    return _has_unit(last) or (behind is not None and (behind.core in _LENGTHS or behind[1:] == ("in", ".")))


def _has_unit(token: Token) -> bool:
    quantity = Quantity.read(token.core)
    return quantity is not None and not quantity.money and quantity.unit in _LENGTHS

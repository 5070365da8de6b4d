"""Figures alone: a count, a year, a code that is said digit by digit, or a label that is said in pairs."""

import re

from dia2stream.text.numbers import digits, number, pairs, year
from dia2stream.text.tables import BEFORE_YEARS, CODE_WORDS, LABELS
from dia2stream.text.window import Token, Window

_SERVICES = re.compile("[2-9]11")  # 911
_CALLING = frozenset(["call", "dial", "or", "text"])
_NAMING = frozenset(["is", "number", "no", "was"])  # between what is named and its code


def figures(window: Window, text: str) -> str:
    """How a number without a unit is said where it stands."""
    if not text.isdecimal():
        return number(text)
    if is_code(window, text):
        return digits(text)
    if len(text) in (3, 4) and _is_label(window.before()):
        return pairs(int(text))
    if is_year(text):
        before = window.before()
        is_dated = before.core.lower().strip(".") in BEFORE_YEARS or before.tail.startswith(",")
        if is_dated or text.endswith("00") or window.joined(1) is None:
            return year(int(text))
    return number(text)


def is_code(window: Window, text: str) -> bool:
    """Whether figures name something and count nothing, so that they are said one by one."""
    if len(text) > 1 and text.startswith("0"):
        return True
    if len(text) > 6 and not text.endswith("000"):
        return True
    one, two = window.before(), window.before(2)
    if _SERVICES.fullmatch(text) and one.core.lower() in _CALLING:
        return True
    is_named = one.core.lower() in CODE_WORDS or (
        two.core.lower() in CODE_WORDS and (one.core.isupper() or one.core.lower() in _NAMING)
    )
    return len(text) > 2 and is_named


def _is_label(before: Token) -> bool:
    """Whether figures behind this word are said in pairs: "Room 204", "RTX 4090"."""
    return before.core.lower() in LABELS or (len(before.core) > 1 and before.core.isalpha() and before.core.isupper())


def is_year(text: str) -> bool:
    """Whether figures look like a year."""
    return text.isdecimal() and len(text) == 4 and 1100 <= int(text) < 2100

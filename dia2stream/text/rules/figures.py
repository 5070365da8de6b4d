"""Figures alone: a count, a year, a code that is said digit by digit, or a label that is said in pairs."""

import re

from dia2stream.text.numbers import digits, number, pairs, value, year
from dia2stream.text.tables import AFTER_YEARS, BEFORE_MODELS, BEFORE_YEARS, CODE_WORDS, LABELS, SEATS
from dia2stream.text.window import Window

_SERVICES = re.compile("[2-9]11|988")  # 911
_CALLING = frozenset(["call", "dial", "or", "text"])
_NAMING = frozenset(["is", "number", "no", "was", "in", "with"])  # between what is named and its code
_FLAG = re.compile(r"--?[A-Za-z][A-Za-z-]*")
_PERIOD = re.compile(r"[QH][1-4]")  # of a year
_SECTIONS = frozenset(["\u00a7", "\u00a7\u00a7"])
_BEFORE_EARLY = frozenset(["in", "since", "circa", "c", "ca", "year", "until", "ad", "a.d"])  # years from 1000 to 1099
FORMS = frozenset(["1099", "1040", "1095", "1098", "5498"])
PLANES = frozenset(["707", "717", "727", "737", "747", "757", "767", "777", "787"])


def figures(window: Window, text: str) -> str:
    """How a number without a unit is said where it stands."""
    if window.before().core in _SECTIONS:
        return section_number(text)
    if not text.isdecimal():
        return value(text)
    if is_code(window, text):
        return digits(text)
    if len(text) in (3, 4) and (_is_label(window, text) or _is_argument(window, text)):
        return pairs(int(text))
    if is_year(text) and _is_dated(window, text):
        return year(int(text))
    if len(text) == 4 and text.startswith("10") and window.before().core.lower() in _BEFORE_EARLY:
        return pairs(int(text))
    return number(text)


def section_number(text: str) -> str:
    """The number of a section of a law, four figures in pairs: "1983", "1950.5"."""
    whole, point, part = text.partition(".")
    if len(whole) != 4 or not (whole + part).isdecimal():
        return value(text)
    return pairs(int(whole)) + (f" point {digits(part)}" if point else "")


def is_code(window: Window, text: str) -> bool:
    """Whether figures name something and count nothing, so that they are said one by one."""
    if len(text) > 1 and text.startswith("0"):
        return True
    if len(text) > 6 and not text.endswith("000"):
        return True
    before = window.before().core.lower()
    if _SERVICES.fullmatch(text) and (before in _CALLING or (text == "911" and before != "porsche")):
        return True
    if len(text) in (5, 6) and before == "to" and window.before(2).core.isupper():
        return True  # "Text HELP to 741741"
    if is_year(text) and before == "in":
        return False  # "The season ends in 2024"
    if len(text) == 4 and "flight" in (before, window.before(2).core.lower()):  # "flight AA 2291"
        return False
    return len(text) > 2 and is_named(window)


def is_named(window: Window) -> bool:
    """Whether the words before say that a code comes: "PIN", "code is", "case no."."""
    one, two = window.before(), window.before(2)
    if one.core.lower() in CODE_WORDS:
        return True
    return (
        two.core.lower() in CODE_WORDS and "," not in one.tail and (one.core.isupper() or one.core.lower() in _NAMING)
    )


def _is_label(window: Window, text: str) -> bool:
    """Whether figures are said in pairs: "Room 204", "RTX 4090", "a 404 error", "a 747", "a 1099"."""
    before = window.before()
    is_capitals = len(before.core) > 1 and before.core.isalpha() and before.core.isupper() and not before.tail
    if is_capitals or before.core.lower() in LABELS or before.core.startswith("HTTP/"):
        return True
    if text in PLANES or text in FORMS:
        return before.core.lower() in ("a", "the", "my", "your")
    following = window.joined(1) if len(text) == 3 else None
    return following is not None and following.core in ("error", "errors", "freeway", "interstate")


def _is_argument(window: Window, text: str) -> bool:
    """Whether figures are what a flag of a command is given, as a port: "-p 2222"."""
    return len(text) == 4 and text[-2:] != "00" and _FLAG.fullmatch(window.before().core) is not None


def is_seat(window: Window) -> bool:
    """Whether a letter behind figures is only a letter: "seat 14A"."""
    return window.before().core.lower() in SEATS


def is_year(text: str) -> bool:
    """Whether figures look like a year."""
    return text.isdecimal() and len(text) == 4 and 1100 <= int(text) < 2100


def _is_dated(window: Window, text: str) -> bool:
    """Whether figures that look like a year are one where they stand."""
    before = window.before()
    word = before.core.lower().strip(".")
    if word in BEFORE_YEARS or before.tail.startswith(",") or text.endswith("00") or _PERIOD.fullmatch(before.core):
        return True
    following = window.joined(1)
    if following is None or following.core.lower() in AFTER_YEARS:
        return True
    return word in BEFORE_MODELS and following.is_capitalised

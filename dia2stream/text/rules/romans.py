"""Roman numerals: "Chapter IV", "World War II", "Henry VIII", "Super Bowl LVIII", "Part iii"."""

import re

from dia2stream.text.numbers import cardinal, ordinal
from dia2stream.text.tables import BEFORE_ROMANS, KINGS
from dia2stream.text.window import Reading, Said, Token, Window

_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_FIRST = frozenset([*_VALUES, "i", "v", "x"])
_ROMAN = re.compile(r"M{0,3}(?:C[MD]|D?C{0,3})(?:X[CL]|L?X{0,3})(?:I[XV]|V?I{0,3})")
_BEHIND_KINGS = frozenset(["and", "of", "was", "died", "ruled", "reigned", "to"])
WORDS = frozenset("ii iii iv vi vii viii ix xi xii xiii".split())  # noqa: SIM905 -- that may be numerals in small letters


def romans(window: Window) -> Reading | None:
    """A numeral behind what it numbers."""
    core, before = window.first.core, window.before()
    if core[:1] not in _FIRST:
        return None
    is_numbered = before.core.lower() in BEFORE_ROMANS
    if core in WORDS:
        return (Said(1, cardinal(_value(core.upper()))),) if is_numbered else None
    if not _ROMAN.fullmatch(core):
        return None
    if before.core in ("and", "&") and _is_numeral(window.before(2)) and _is_numeral(window.first):
        return (Said(1, cardinal(_value(core))),)
    if not (before.is_capitalised or (is_numbered and core != "I")):
        return None
    if before.tail and not (before.tail == "." and is_numbered):  # "Vol. II"
        return None
    is_king = before.core in KINGS and (core != "I" or _is_first(window))
    if not is_numbered and not is_king and (len(core) == 1 or core == "IV" or before.core.isupper()):
        return None
    if not is_numbered and not _is_numeral(window.first):
        return None
    value = _value(core)
    return (Said(1, f"the {ordinal(value)}" if before.core in KINGS else cardinal(value)),)


def _is_first(window: Window) -> bool:
    """Whether "I" behind the name of a king is a number, and no pronoun."""
    following = window.joined(1)
    return following is None or following.core in _BEHIND_KINGS


def _is_numeral(token: Token) -> bool:
    """Whether it is a small one, as most are; "MD", "CC" and "DC" are mostly other things."""
    return bool(token.core) and not set(token.core) - set("IVX")


def _value(core: str) -> int:
    values = [_VALUES[letter] for letter in core]
    return sum(-v if v < after else v for v, after in zip(values, [*values[1:], 0], strict=True))

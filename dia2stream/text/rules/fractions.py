"""Fractions, ordinals and decades: "1/2", "2 1/2", "21st", "the 1980s"."""

import re

from dia2stream.text.numbers import FRACTIONS, cardinal, digits, fraction, mixed, number, ordinal, pairs, plural
from dia2stream.text.tables import BEFORE_DECADES
from dia2stream.text.window import Reading, Said, Window

_ORDINAL = re.compile(r"(\d[\d,]*)(?:st|nd|rd|th)", re.IGNORECASE)
_DECADE = re.compile(r"'?(\d{1,3}0)'?s")
_FRACTION = re.compile(r"(\d+)/(\d+)")
_RATING = re.compile(r"(\d+\.\d+)/(\d+)")
_VULGAR = re.compile(rf"(\d*)([{''.join(FRACTIONS)}])")
_AS_SAID = {"24/7": "twenty four seven", "9/11": "nine eleven"}


def fractions(window: Window) -> Reading | None:
    """Numbers with a slash: "1/2", "2 1/2", "\u00be", "24/7", "8/10"."""
    core = window.first.core
    if core.isdecimal() and (following := window.joined(1)) is not None:
        parts = _parts(following.core)
        return (Said(2, mixed(int(core), *parts)),) if parts and 0 < parts[0] < parts[1] else None
    if match := _VULGAR.fullmatch(core):
        above, below = FRACTIONS[match[2]]
        return (Said(1, mixed(int(match[1]), above, below) if match[1] else fraction(above, below)),)
    if match := _RATING.fullmatch(core):
        return (Said(1, f"{number(match[1])} out of {cardinal(int(match[2]))}"),)
    if match := _FRACTION.fullmatch(core):
        return (Said(1, _AS_SAID.get(core) or _over(match[1], match[2])),)
    return None


def _over(above: str, below: str) -> str:
    """Two numbers with a slash between them."""
    high, low = int(above), int(below)
    if above.startswith("0"):
        return f"{digits(above)}, {cardinal(low)}"  # of a card: "04/27"
    if high == low:
        return f"{cardinal(high)} {cardinal(low)}"
    if high < low and low in (10, 20, 50, 100):
        return f"{cardinal(high)} out of {cardinal(low)}"
    if 0 < high < low <= 64:
        return fraction(high, low)
    return f"{cardinal(high)} over {cardinal(low)}"


def _parts(text: str) -> tuple[int, int] | None:
    """The two numbers of a fraction."""
    if text in FRACTIONS:
        return FRACTIONS[text]
    match = _FRACTION.fullmatch(text)
    return (int(match[1]), int(match[2])) if match else None


def ordinals(window: Window) -> Reading | None:
    """An ordinal: "21st"."""
    match = _ORDINAL.fullmatch(window.first.core)
    return match and (Said(1, ordinal(int(match[1].replace(",", "")))),)


def decade(window: Window) -> Reading | None:
    """A decade: "1980s", "the 90s", "'90s". "30s" alone is seconds."""
    match = _DECADE.fullmatch(window.first.core)
    if match is None:
        return None
    value = int(match[1])
    if value < 70 and not window.first.core.startswith("'") and window.before().core.lower() not in BEFORE_DECADES:
        return None
    return (Said(1, plural(pairs(value) if value >= 1000 and value % 1000 else cardinal(value))),)

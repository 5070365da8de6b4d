"""Fractions, ordinals and decades: "1/2", "2 1/2", "21st", "the 1980s"."""

import re

from dia2stream.text.numbers import FRACTIONS, cardinal, digits, fraction, mixed, number, ordinal, pairs, plural, year
from dia2stream.text.rules.figures import is_year
from dia2stream.text.rules.quantity import Quantity, joined_thousands, unit_said
from dia2stream.text.tables import BEFORE_DECADES, CURRENCIES, MONEY, MONTHS, UNITS
from dia2stream.text.window import Reading, Said, Window

_ORDINAL = re.compile(r"(\d[\d,]*)(?:st|nd|rd|th)(?:-(\d[\d,]*)(?:st|nd|rd|th))?", re.IGNORECASE)
_DECADE = re.compile(r"'?(\d{1,3}0)'?s")
_SHORT_YEAR = re.compile(r"'0([1-9]|0s)")
_OF_YEAR = re.compile(r"(\d{4})'s")
_FRACTION = re.compile(r"(\d+)/(\d+)")
_RATING = re.compile(r"(\d+\.\d+)/(\d+(?:\.\d+)?)")
_BEHIND_NUMBER = re.compile(rf"(\d+/\d+|[{''.join(FRACTIONS)}])(?:-([a-z]+)|([A-Za-z%\u00b0]+))?")
_VULGAR = re.compile(rf"(\d*)([{''.join(FRACTIONS)}])")
_NO_DENOMINATORS = frozenset([13, 14, 17, 18, 19, 21, 22, 23, 26, 27, 28, 29, 31])
_COUNTED = frozenset(["step", "page", "part", "day", "question", "slide", "item", "round", "task", "attempt", "level"])
_AS_SAID = {"24/7": "twenty four seven", "9/11": "nine eleven", "7/11": "seven eleven", "50-50": "fifty fifty"}


def fractions(window: Window) -> Reading | None:
    """Numbers with a slash: "1/2", "2 1/2", "\u00be", "24/7", "8/10"."""
    core = window.first.core
    if core in _AS_SAID:
        return (Said(1, _AS_SAID[core]),)
    if core.isdecimal():
        return _mixed(window) or _thousands(window)
    if match := _VULGAR.fullmatch(core):
        above, below = FRACTIONS[match[2]]
        return (Said(1, mixed(int(match[1]), above, below) if match[1] else fraction(above, below)),)
    if match := _RATING.fullmatch(core):
        return (Said(1, f"{number(match[1])} out of {number(match[2])}"),)
    if match := _FRACTION.fullmatch(core):
        if not core.startswith("0") and _is_date(window, int(match[1]), int(match[2])):
            return (Said(1, f"{MONTHS[int(match[1]) - 1]} {ordinal(int(match[2]))}"),)
        if window.before().core.lower() in _COUNTED:
            return (Said(1, f"{cardinal(int(match[1]))} of {cardinal(int(match[2]))}"),)
        if _is_odds(window):
            return (Said(1, f"{cardinal(int(match[1]))} to {cardinal(int(match[2]))}"),)
        return (Said(1, _over(match[1], match[2], _is_rating(window))),)
    return None


def _is_date(window: Window, above: int, below: int) -> bool:
    """Whether this is a day, as nobody writes the fraction: "5/17"."""
    if not (1 <= above <= 12 and below in _NO_DENOMINATORS):
        return False
    following = window.joined(1)
    return following is None or following.core != "of"


def _is_odds(window: Window) -> bool:
    """Whether odds are given: "odds of 5/1", "the odds are 5/1"."""
    following = window.joined(1)
    return (following is not None and following.core == "odds") or "odds" in (
        window.before().core.lower(),
        window.before(2).core.lower(),
    )


def _mixed(window: Window) -> Reading | None:
    """A number, and a fraction behind it with what follows that: "2 1/2", "2 1/2-inch", "2 1/2%"."""
    following = window.joined(1)
    match = _BEHIND_NUMBER.fullmatch(following.core) if following is not None else None
    parts = _parts(match[1]) if match else None
    if match is None or following is None or not parts or not 0 < parts[0] < parts[1]:
        return None
    said, tail = mixed(int(window.first.core), *parts), None
    if match[2]:
        said = f"{said} {match[2]}"
    elif match[3]:
        if match[3] not in UNITS:
            return None
        said = f"{said} {unit_said(match[3], is_singular=False)}"
    elif following.tail.startswith('"') and not window.in_quotes:
        said, tail = f"{said} inch", following.tail[1:]
    return (Said(2, said, tail),)


def _thousands(window: Window) -> Reading | None:
    """A large number whose thousands stand apart: "1 000 000"."""
    text, words = joined_thousands(window)
    quantity = Quantity.read(text) if words > 1 else None
    if quantity is None or quantity.unit:
        return None
    following = window.joined(words)
    if following is not None and following.core in (*MONEY, *CURRENCIES):
        return None
    return (Said(words, f"{quantity.value_said}{quantity.per_said}"),)


def _is_rating(window: Window) -> bool:
    following = window.joined(1)
    return following is not None and following.core in ("stars", "star", "points")


def _over(above: str, below: str, is_rating: bool) -> str:
    """Two numbers with a slash between them."""
    high, low = int(above), int(below)
    if above.startswith("0"):
        return f"{digits(above)}, {cardinal(low)}"  # of a card: "04/27"
    if 90 <= high <= 250 and 40 <= low <= 150 and high > low:
        return f"{pairs(high)} over {pairs(low) if low > 99 else cardinal(low)}"  # of blood pressure
    if high == low or (high + low == 100 and not high % 5 and low > 9):  # "a 60/40 split"
        return f"{cardinal(high)} {cardinal(low)}"
    if high < low and (low in (10, 20, 50, 100) or is_rating):
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
    """An ordinal, or two: "21st", "1st-3rd"."""
    match = _ORDINAL.fullmatch(window.first.core)
    if match is None:
        return None
    said = (ordinal(int(number.replace(",", ""))) for number in match.groups() if number)
    return (Said(1, " to ".join(said)),)


def decade(window: Window) -> Reading | None:
    """A decade: "1980s", "the 90s", "'90s", and a year's: "2025's". "30s" alone is seconds."""
    if (match := _OF_YEAR.fullmatch(window.first.core)) and is_year(match[1]) and not match[1].endswith("0"):
        return (Said(1, f"{year(int(match[1]))}'s"),)
    if match := _SHORT_YEAR.fullmatch(window.first.core):
        return (Said(1, "two thousands" if match[1] == "0s" else f"oh {cardinal(int(match[1]))}"),)
    match = _DECADE.fullmatch(window.first.core)
    if match is None:
        return None
    value = int(match[1])
    if value < 70 and not window.first.core.startswith("'") and window.before().core.lower() not in BEFORE_DECADES:
        return None
    return (Said(1, plural(pairs(value) if value >= 1000 and value % 1000 else cardinal(value))),)

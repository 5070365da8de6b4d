"""Dates as an American says them: "May 5, 2024", "4 July", "2024-03-01", "12/25/23", and "Mon", "Jan"."""

import re

from dia2stream.text.numbers import cardinal, ordinal, year
from dia2stream.text.rules.times import clock
from dia2stream.text.tables import BEFORE_DATES, DAYS, MONTHS, SHORT_DAYS, SHORT_MONTHS
from dia2stream.text.window import Reading, Said, Token, Window

_SHORT = SHORT_MONTHS | SHORT_DAYS
_WEEKDAYS = frozenset([*DAYS, *SHORT_DAYS])
WORDS = frozenset(map(str.lower, _SHORT))
_WORDS = frozenset(["Mar", "Sat", "Sun", "Wed", "Jan", "Dec", "Jun"])  # also words, or names: only next to a date
_ISO = re.compile(r"(\d{4})[-/](\d\d)[-/](\d\d)(?:T(\d\d):(\d\d)(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?")
_WEEK = re.compile(r"(\d{4})-W(\d\d)")
_ISO_SPAN = re.compile(r"(\d{4}-\d\d-\d\d)(?:\.\.\.?|/|-)(\d{4}-\d\d-\d\d)")
_SLASHED = re.compile(r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d\d)")
_DATES = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4}|\d\d)-(\d{1,2})/(\d{1,2})/(\d{4}|\d\d)")
_DAY_TO_DAY = re.compile(r"(\d{1,2})/(\d{1,2})-([A-Z][a-z]+)")  # the first word of "Wed 3/19-Fri 3/21"
_NO_YEAR = re.compile(r"(\d{1,2})/(\d{1,2})")
_DAY = re.compile(r"\d{1,2}")
_DAY_RANGE = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?-(\d{1,2}|[A-Z][a-z]+)(?:st|nd|rd|th)?")
_MONTH_OF_YEAR = re.compile(r"(\d{1,2})/((?:19|20)\d\d)")
_NAMED = re.compile(r"(\d{1,2})-([A-Z][a-z]{2,8})-(\d{4}|\d\d)")
_EXPIRY = re.compile(r"(0[1-9]|1[0-2])/(2\d|3\d)")
_BEFORE_EXPIRY = frozenset(["exp", "expiry", "expiration", "thru"])  # on cards
_DAY_LETTERS = {"M": "Monday", "Tu": "Tuesday", "W": "Wednesday", "Th": "Thursday", "F": "Friday", "Sa": "Saturday"}
_DAY_LETTERS |= {"T": "Tuesday", "Su": "Sunday"}
_OPENING = re.compile(r"\d{1,2}(?::\d\d)?(?:[ap]m?)?-\d{1,2}(?::\d\d(?:[ap]m?)?|[ap]m?)", re.IGNORECASE)
_MONTH_NAMES = SHORT_MONTHS | {name: name for name in MONTHS}
_NAMES = _SHORT | {name: name for name in (*MONTHS, *DAYS)}


def dates(window: Window) -> Reading | None:
    """A date in figures."""
    core = window.first.core
    if match := _ISO.fullmatch(core):
        said = _date(int(match[1]), int(match[2]), int(match[3]))
        at = f" at {clock(int(match[4]), int(match[5]))}" if match[4] else ""
        return (Said(1, said + at),) if said else None
    if match := _WEEK.fullmatch(core):
        return (Said(1, f"{year(int(match[1]))} week {cardinal(int(match[2]))}"),)
    if match := _ISO_SPAN.fullmatch(core):
        ends = [_date(*map(int, end.split("-"))) for end in match.groups()]
        return (Said(1, f"{ends[0]} to {ends[1]}"),) if all(ends) else None
    if match := _SLASHED.fullmatch(core):
        month, day = int(match[1]), int(match[3])
        if month > 12 or match[2] == ".":
            month, day = day, month
        said = _date(_full_year(match[4]), month, day)
        return (Said(1, said),) if said else None
    if match := _DATES.fullmatch(core):
        low, high = (_date(_full_year(y), int(m), int(d)) for m, d, y in (match.groups()[:3], match.groups()[3:]))
        return (Said(1, f"{low} to {high}"),) if low and high else None
    if (match := _MONTH_OF_YEAR.fullmatch(core)) and 1 <= int(match[1]) <= 12:
        return (Said(1, f"{MONTHS[int(match[1]) - 1]} {year(int(match[2]))}"),)
    if (match := _NAMED.fullmatch(core)) and match[2] in _MONTH_NAMES:
        return (Said(1, f"the {ordinal(int(match[1]))} of {_MONTH_NAMES[match[2]]} {year(_full_year(match[3]))}"),)
    if (match := _DAY_TO_DAY.fullmatch(core)) and match[3] in SHORT_DAYS:
        said = _date(None, int(match[1]), int(match[2]))
        return (Said(1, f"{said} to {SHORT_DAYS[match[3]]}"),) if said else None
    before = window.before().core.rpartition("-")[2]
    if (match := _EXPIRY.fullmatch(core)) and before.lower() in _BEFORE_EXPIRY:
        return (Said(1, f"{MONTHS[int(match[1]) - 1]} {year(2000 + int(match[2]))}"),)
    if (match := _NO_YEAR.fullmatch(core)) and (before.lower() in BEFORE_DATES or before in _WEEKDAYS):
        said = _date(None, int(match[1]), int(match[2]))
        return (Said(1, said),) if said else None
    return None


def _date(in_year: int | None, month: int, day: int) -> str | None:
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    said = f"{MONTHS[month - 1]} {ordinal(day)}"
    return said if in_year is None else f"{said}, {year(in_year)}"


def _full_year(text: str) -> int:
    return int(text) if len(text) == 4 else int(text) + (1900 if int(text) > 50 else 2000)


def _is_month(token: Token | None) -> bool:
    return token is not None and token.core.rpartition("-")[2] in _MONTH_NAMES


def days(window: Window) -> Reading | None:
    """A day before or behind a month's name: "May 5", "5 May", "May 5-7"."""
    core = window.first.core
    if (match := _DAY_RANGE.fullmatch(core)) and _is_month(window.before()) and window.before().tail in ("", "."):
        if match[2].isdecimal():
            return (Said(1, f"{ordinal(int(match[1]))} to {ordinal(int(match[2]))}"),)
        if match[2] in _MONTH_NAMES:
            return (Said(1, f"{ordinal(int(match[1]))} to {_MONTH_NAMES[match[2]]}"),)
    if not _DAY.fullmatch(core) or not 1 <= int(core) <= 31:
        return None
    before = window.before()
    if _is_month(before) and before.tail in ("", "."):
        return (Said(1, ordinal(int(core))),)
    if _is_month(window.joined(1)):
        the = "" if before.core.lower() == "the" else "the "
        return (Said(1, f"{the}{ordinal(int(core))} of"),)
    return None


def _day_letters(window: Window, first: str, last: str | None) -> Reading | None:
    """Days by their letters, before the hours of a shop: "M-Th 8a-8p", "F 8a-5p"."""
    following = window.word(1) if window.first.tail in ("", ":", ",") else None
    if following is None or not _OPENING.fullmatch(following.core):
        return None
    return (Said(1, f"{first} to {last}" if last else first),)


def short_names(window: Window) -> Reading | None:
    """Months and days cut short: "Jan", "Mon", "Mon-Fri", "June-August"."""
    core = window.first.core
    low, dash, high = core.replace(".", "").partition("-")
    if dash and low in _NAMES and high in _NAMES:
        return (Said(1, f"{_NAMES[low]} to {_NAMES[high]}"),)
    if "/" in core and all(day in SHORT_DAYS for day in core.split("/")):  # "Sat/Sun"
        return (Said(1, ", ".join(SHORT_DAYS[day] for day in core.split("/"))),)
    if "/" in core and all(day in _DAY_LETTERS for day in core.split("/")):  # "M/W/F 10-11"
        return _day_letters(window, ", ".join(_DAY_LETTERS[day] for day in core.split("/")), None)
    if low in _DAY_LETTERS and (not dash or high in _DAY_LETTERS):
        return _day_letters(window, _DAY_LETTERS[low], _DAY_LETTERS.get(high))
    if core not in _SHORT:
        return None
    if core in SHORT_DAYS and window.first.tail.startswith(":"):  # of a list: "Sat: closed"
        return (Said(1, SHORT_DAYS[core]),)
    following = window.word(1)
    by_date = following is not None and (following.core.lstrip("'")[:1].isdecimal() or _is_month(following))
    after_day = _DAY.fullmatch(window.before().core.rstrip("stndrh")) is not None and core in SHORT_MONTHS
    dotted = window.first.tail.startswith(".")
    if core == "Sun" and window.before().core.lower() == "the":
        return None
    is_alone = following is None and core in SHORT_DAYS and not window.first.tail  # in a table
    if core in _WORDS and not (by_date or after_day or dotted or is_alone):
        return None
    tail = (window.first.tail.removeprefix(".") if by_date else window.without_dot()) if dotted else None
    return (Said(1, _SHORT[core], tail),)

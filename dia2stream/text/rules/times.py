"""Times of day: "3:30 PM", "10am", "9am-5pm", "15:45", and the letters that stand apart from their number."""

import re

from dia2stream.text.numbers import cardinal
from dia2stream.text.tables import UNITS, ZONES
from dia2stream.text.window import Reading, Said, Window

_HALF = r"(?:[ap]m|[ap]\.m)"
_CLOCK = re.compile(rf"(\d{{1,2}})(?::|\.(?=\d\d{_HALF}))(\d\d)(?::(\d\d))?({_HALF}|[ap](?![a-z]))?", re.IGNORECASE)
_HOUR = re.compile(rf"(\d{{1,2}})({_HALF})", re.IGNORECASE)
_PACE = re.compile(r"(\d{1,2}:\d\d)/(km|mi|mile)")
_RANGE = re.compile(r"([^-]+)-([^-]+)")
_EARLY = re.compile(r"0[1-9][0-5]\d")  # "at 0615"
_BEFORE_EARLY = frozenset(["at", "by", "until", "before", "after", "around"])
_ZULU = re.compile(r"(\d\d:\d\d)(?::\d\d)?Z")
_HOURS_OF_DAY = re.compile(r"\d{1,2}(?::\d\d)?[ap]-\d{1,2}(?::\d\d)?[ap]")  # "8a-8p"
_BEHIND_LENGTHS = frozenset(["long", "left", "remaining", "elapsed", "in"])
_RATIO = re.compile(r"(\d+):(\d+)")
_HALF_AND_TIME = re.compile(rf"({_HALF})\.?-(\d[\d:]*{_HALF}?)", re.IGNORECASE)
_APART = re.compile(_HALF, re.IGNORECASE)
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m?(?:in)?)?(?:(\d+)s)?")
_DURATION_SHAPE = re.compile(r"\d+h\d+(?:m(?:in)?)?(?:\d+s)?|\d+m\d+s")
_OFFSET = re.compile(r"(UTC|GMT)([+-])(\d{1,2})(?::(\d\d))?")


def clock(hour: int, minute: int, half: str = "", has_half: bool = False) -> str:
    """(15, 5) -> "fifteen oh five"; half: "am" or "pm", has_half: one follows as a word of its own."""
    letters = " ".join(half.upper().replace(".", "").ljust(2, "M")) if half else ""
    if minute:
        said = f"{cardinal(hour)} {'oh ' if minute < 10 else ''}{cardinal(minute)}"
    elif half or has_half:
        said = cardinal(hour)
    elif not hour:
        said = "midnight"
    else:
        said = f"{cardinal(hour)} o'clock" if hour <= 12 else f"{cardinal(hour)} hundred"
    return f"{said} {letters}".strip()


def early(window: Window) -> Reading | None:
    """A time of the morning without a colon: "departs at 0615"."""
    core = window.first.core
    if not _EARLY.fullmatch(core) or window.before().core.lower() not in _BEFORE_EARLY:
        return None
    return (Said(1, f"oh {clock(int(core[:2]), int(core[2:]), has_half=True)}{'' if int(core[2:]) else ' hundred'}"),)


def times(window: Window) -> Reading | None:
    """One time, or a range of two."""
    core = window.first.core
    if (match := _CLOCK.fullmatch(core)) and not match[4]:
        following = window.joined(1)
        if core.count(":") == 2 and following is not None and following.core in _BEHIND_LENGTHS:
            return (Said(1, _length(core)),)
        return (Said(1, _time(core, following is not None and bool(_APART.fullmatch(following.core))) or core),)
    if match := _PACE.fullmatch(core):
        return (Said(1, f"{_time(match[1])} per {UNITS.get(match[2], match[2])}"),)
    if match := _ZULU.fullmatch(core):
        return (Said(1, f"{_time(match[1])} Z"),)
    if _HOURS_OF_DAY.fullmatch(core):
        return (Said(1, " to ".join(_time(f"{end}m") for end in core.split("-"))),)
    tail = window.without_dot() if core.lower().endswith(".m") else None
    if said := _time(core):
        return (Said(1, said, tail),)
    if (match := _RANGE.fullmatch(core)) and re.search(rf":\d\d|\d{_HALF}(?![a-z])", core, re.IGNORECASE):
        following = window.joined(1)
        has_half = following is not None and bool(_APART.fullmatch(following.core))
        low, high = (_time(part, has_half) or _hour(part) for part in match.groups())
        return (Said(1, f"{low} to {high}", tail),) if low and high else None
    if _DURATION_SHAPE.fullmatch(core):
        return (Said(1, _duration(core)),)
    if match := _RATIO.fullmatch(core):
        return (Said(1, f"{cardinal(int(match[1]))} to {cardinal(int(match[2]))}"),)
    return None


def _hour(text: str) -> str:
    """The other end of a range: "9", "noon"."""
    return cardinal(int(text)) if text.isdecimal() else text if text in ("noon", "midnight") else ""


def _time(text: str, has_half: bool = False) -> str:
    """How one time is said; empty where it is none."""
    if match := _CLOCK.fullmatch(text):
        hour, minute, seconds, half = match.groups()
        said = clock(int(hour), int(minute), half or "", has_half)
        if int(minute) > 59:
            return ""
        return f"{said} and {cardinal(int(seconds))} seconds" if int(seconds or 0) else said
    match = _HOUR.fullmatch(text)
    return clock(int(match[1]), 0, match[2]) if match and int(match[1]) <= 24 else ""


def _length(text: str) -> str:
    """ "1:02:33" -> "one hour two minutes and thirty three seconds"."""
    parts = zip(map(int, text.split(":")), ("hour", "minute", "second"), strict=True)
    *first, last = [f"{cardinal(n)} {unit}{'' if n == 1 else 's'}" for n, unit in parts if n] or ["zero seconds"]
    return " and ".join([" ".join(first), last]) if first else last


def _duration(text: str) -> str:
    """ "1h30m" -> "one hour thirty minutes"."""
    match = _DURATION.fullmatch(text)
    assert match is not None
    parts = zip(match.groups(), ("hour", "minute", "second"), strict=True)
    return " ".join(f"{cardinal(int(n))} {unit}{'' if n == '1' else 's'}" for n, unit in parts if n)


def zones(window: Window) -> Reading | None:
    """A time zone behind a time, and one by its distance: "3 PM ET", "17:30 CET", "UTC+5:30"."""
    core, before = window.first.core, window.before()
    if match := _OFFSET.fullmatch(core):
        sign = "plus" if match[2] == "+" else "minus"
        return (Said(1, f"{' '.join(match[1])} {sign} {clock(int(match[3]), int(match[4] or 0), has_half=True)}"),)
    if core in ZONES and (before.is_numeric or _APART.fullmatch(before.core)) and before.tail in ("", "."):
        return (Said(1, " ".join(core)),)
    return None


def half_of_day(window: Window) -> Reading | None:
    """AM and PM after a number."""
    core, high = window.first.core, ""
    if window.before().tail or not window.before().is_numeric:
        return None
    if match := _HALF_AND_TIME.fullmatch(core):  # of "9 a.m.-5 p.m."
        core, high = (
            match[1],
            _time(match[2], has_half=True) or (cardinal(int(match[2])) if match[2].isdecimal() else ""),
        )
    elif not _APART.fullmatch(core):
        return None
    letters = " ".join(core.upper().replace(".", ""))
    if high:
        return (Said(1, f"{letters} to {high}"),)
    following = window.word(1) if "." in core and window.first.tail == "." else None
    before_zone = following is not None and following.core in ZONES
    return (Said(1, letters, "" if before_zone else window.without_dot() if "." in core else None),)

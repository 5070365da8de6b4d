"""Times of day: "3:30 PM", "10am", "9am-5pm", "15:45", and the letters that stand apart from their number."""

import re

from dia2stream.text.numbers import cardinal
from dia2stream.text.tables import ZONES
from dia2stream.text.window import Reading, Said, Window

_HALF = r"(?:[ap]m|[ap]\.m)"
_CLOCK = re.compile(rf"(\d{{1,2}}):(\d\d)(?::(\d\d))?({_HALF})?", re.IGNORECASE)
_HOUR = re.compile(rf"(\d{{1,2}})({_HALF})", re.IGNORECASE)
_RANGE = re.compile(r"([^-]+)-([^-]+)")
_RATIO = re.compile(r"(\d+):(\d+)")
_HALF_AND_TIME = re.compile(rf"({_HALF})\.?-(\d[\d:]*{_HALF}?)", re.IGNORECASE)
_APART = re.compile(_HALF, re.IGNORECASE)


def clock(hour: int, minute: int, half: str = "", has_half: bool = False) -> str:
    """(15, 5) -> "fifteen oh five"; half: "am" or "pm", has_half: one follows as a word of its own."""
    letters = " ".join(half.upper().replace(".", ""))
    if minute:
        said = f"{cardinal(hour)} {'oh ' if minute < 10 else ''}{cardinal(minute)}"
    elif half or has_half:
        said = cardinal(hour)
    elif not hour:
        said = "midnight"
    else:
        said = f"{cardinal(hour)} o'clock" if hour <= 12 else f"{cardinal(hour)} hundred"
    return f"{said} {letters}".strip()


def times(window: Window) -> Reading | None:
    """One time, or a range of two."""
    core = window.first.core
    if ":" in core and _CLOCK.fullmatch(core) and not _CLOCK.fullmatch(core)[4]:  # type: ignore[index]
        following = window.joined(1)
        return (Said(1, _time(core, following is not None and bool(_APART.fullmatch(following.core))) or core),)
    tail = window.without_dot() if core.lower().endswith(".m") else None
    if said := _time(core):
        return (Said(1, said, tail),)
    if (match := _RANGE.fullmatch(core)) and re.search(rf":\d\d|\d{_HALF}$", core, re.IGNORECASE):
        low, high = (_time(part) or (cardinal(int(part)) if part.isdecimal() else "") for part in match.groups())
        return (Said(1, f"{low} to {high}", tail),) if low and high else None
    if match := _RATIO.fullmatch(core):
        return (Said(1, f"{cardinal(int(match[1]))} to {cardinal(int(match[2]))}"),)
    return None


def _time(text: str, has_half: bool = False) -> str:
    """How one time is said; empty where it is none."""
    if match := _CLOCK.fullmatch(text):
        hour, minute, seconds, half = match.groups()
        said = clock(int(hour), int(minute), half or "", has_half=has_half or bool(seconds))
        if int(minute) > 59:
            return ""
        return f"{said} and {cardinal(int(seconds))} seconds" if seconds else said
    match = _HOUR.fullmatch(text)
    return clock(int(match[1]), 0, match[2]) if match and int(match[1]) <= 24 else ""


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

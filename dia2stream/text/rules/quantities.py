"""Numbers with units: "5kg", "5 kg", "10-20%", "12 fl oz", "a 3-year plan", "1/4-inch"; and any other number."""

import re

from dia2stream.text.items import WORD, Item
from dia2stream.text.numbers import VALUE, cardinal, is_fraction, number, ordinal, value, year
from dia2stream.text.rules.figures import figures, is_seat, is_year
from dia2stream.text.rules.money import money
from dia2stream.text.rules.quantity import Quantity, is_singular, per_said, unit_said
from dia2stream.text.tables import ATTACHED_UNITS, DIRECTIONS, LABELS, MAGNITUDES, SEATS, UNITS
from dia2stream.text.window import Reading, Said, Window

_ISH = re.compile(r"(\d+)ish")
_COMPOUND = re.compile(rf"(?:(\d+)(?:st|nd|rd|th)|({VALUE}))-([A-Za-z]+(?:-[A-Za-z]+)*)")
_UNIT_AND_NUMBER = re.compile(rf"([^\d/-]+)([-/])({VALUE})")
_BETWEEN = re.compile(r"(\d+)-(on|to|for|in|by|up|of)-(\d+)")
_COUNTED = re.compile(r"[a-z]{3,}")
_HOURS, _SECONDS = re.compile(r"\d+h"), re.compile(r"\d+s")
_TIMED = frozenset("prep cook bake rest chill total time eta wait runtime duration delay timeout every".split())  # noqa: SIM905
_MEASURES = frozenset(["linear", "square", "cubic"])
_ROOMS = frozenset(["BR", "bd", "bdrm"])
_THOUSANDS = frozenset(["K", "k", "M", "mn", "bn", "tn"])  # without money, B and T are letters
_NAMES = frozenset(["2K", "4K", "5K", "8K"])
_TIMES = frozenset(["x", "X", "\u00d7"])
_SIGNS = frozenset("+-*/=<>\u00d7\u00f7\u2264\u2265\u2260\u2248")
_BEHIND_INCHES = frozenset(["of", "tall", "wide", "long", "deep", "high"])


def quantities(window: Window) -> Reading | None:
    """A number, with its unit if that is in the same word."""
    quantity = Quantity.read(window.first.core)
    if quantity is None or quantity.money:
        return None
    said = _said(window, quantity)
    if said is None:
        return None
    dotted = quantity.unit in UNITS and window.first.tail.startswith(".") and not quantity.per
    tail = window.without_dot() if dotted else None
    return (Said(1, f"{quantity.sign_said}{said}{' plus' if quantity.plus else ''}{quantity.per_said}", tail),)


def _said(window: Window, quantity: Quantity) -> str | None:
    low, high, unit = quantity.low, quantity.high, quantity.unit
    if quantity.is_bare:
        return figures(window, low)
    if not unit and high.isdecimal() and window.before().core.lower() in LABELS and int(high) < int(low):
        return f"{value(low)} dash {value(high)}"  # "Model 52-19"
    if not unit:
        return _years(low, high) if is_year(low) and high.isdecimal() else quantity.value_said
    if unit in _THOUSANDS:
        return None if low + unit in _NAMES else f"{quantity.value_said} {MAGNITUDES[unit]}"
    if unit == "m" and _is_minutes(window):
        unit = "min"
    if unit == "d" and low in ("1", "2", "3"):  # "3d" is for dimensions
        return None
    if unit in _TIMES and _is_variable(window):
        return f"{quantity.value_said} {unit}"
    if unit not in UNITS or (len(unit) == 1 and unit.isupper() and is_seat(window)):
        return None
    return f"{quantity.value_said} {unit_said(unit, quantity.is_one or window.is_adjective())}"


def _years(low: str, high: str) -> str:
    """From one year to another: "1990-1995", "2024-25"."""
    if is_year(high):
        return f"{year(int(low))} to {year(int(high))}"
    if len(high) == 2:
        return f"{year(int(low))} to {'oh ' if int(high) < 10 else ''}{cardinal(int(high))}"
    return f"{number(low)} to {number(high)}"


def _is_minutes(window: Window) -> bool:
    """Whether "m" is for minutes: "5m 30s", "2h 15m", "Prep: 20m"."""
    before = window.before()
    if _HOURS.fullmatch(before.core) or (before.core.lower() in _TIMED and before.tail == ":"):
        return True
    following = window.joined(1)
    return following is not None and _SECONDS.fullmatch(following.core) is not None


def _is_variable(window: Window) -> bool:
    """Whether "2x" is a part of a formula, and not "two times"."""
    if window.before().core in _SIGNS:
        return True
    following = window.joined(1)
    return following is not None and following.core in _SIGNS


def units(window: Window) -> Reading | None:
    """A unit or a percent sign after a number: "5 kg", "5 %", "12 fl oz", "10\u00b0 N"."""
    before, core = window.before(), window.first.core
    if core == "in" and before.core.lower() in _MEASURES and window.before(2).is_numeric:
        return (Said(1, "inches", window.without_dot()),)
    if before.tail or not before.is_numeric or (core in DIRECTIONS and before.core.startswith(("I-", "US-", "SR-"))):
        return None
    if core == "A" and "." in before.core and before.core[-1].isdecimal():
        return (Said(1, "amps"),)
    if core in ("J", "N") and _is_force_or_heat(window):
        return (Said(1, unit_said(core, is_singular=False)),)
    if core in ("N", "S", "E", "W") and before.core.endswith("\u00b0"):
        return (Said(1, DIRECTIONS[core].lower()),)
    if core == "in":
        return _inches(window)
    if core == "c" and window.first.tail.startswith("."):  # "2 c. flour"
        is_one = before.core == "1" or (is_fraction(before.core) and not window.before(2).core.isdecimal())
        return (Said(1, "cup" if is_one else "cups", window.first.tail[1:]),)
    name, words = core, 1
    if core in ("sq", "fl") and (following := window.joined_after_dot()) is not None and following.core in UNITS:
        name, words = f"{core} {following.core}", 2
    if name not in UNITS and words == 1 and core.istitle() and len(core) > 2:
        name = core.lower()  # "Tbsp"
    if (name not in UNITS and words == 1) or core in ATTACHED_UNITS:
        return None
    is_part = is_fraction(before.core) and is_singular(before.core) and not window.before(2).core.isdecimal()
    one = before.core == "1" or is_part or window.is_adjective(words, article=2)
    said = f"square {unit_said(name[3:], one)}" if core == "sq" else unit_said(name, one)
    last = window.word(words - 1)
    tail = window.without_dot(words - 1) if last is not None and last.tail.startswith(".") else None
    return (Said(words, said, tail),)


def _is_force_or_heat(window: Window) -> bool:
    """Whether a letter behind a number is joules or newtons: "gives 45 J", "takes 10 N of force"."""
    what, following = window.before(2).core, window.word(1)
    return what.islower() and what not in SEATS and (following is None or following.core.islower())


def _inches(window: Window) -> Reading | None:
    """ "in" behind a number, where it is no preposition: "6 ft 2 in", "3.2 in of rain", "10 in. long"."""
    following = window.word(1)
    is_size = window.before(2).core in ("x", "X", "\u00d7", "by") or "x" in window.before().core
    if window.first.tail.startswith(".") and is_size:
        return (Said(1, "inches", window.without_dot()),)
    if window.first.tail == ".":
        return (Said(1, "inches", ""),) if following is not None and not following.is_capitalised else None
    behind_feet = window.before().core.isdecimal() and window.before(2).core in ("ft", "feet", "foot")
    if behind_feet or (following is not None and not window.first.tail and following.core in _BEHIND_INCHES):
        return (Said(1, "inches", window.without_dot() if window.first.tail.startswith(".") else None),)
    return None


def per_unit(window: Window) -> Reading | None:
    """A unit for each of another after a number: "5 mg/ml", "1 tsp./day"."""
    unit, slash, other = window.first.core.partition("/")
    unit, before = unit.removesuffix("."), window.before()
    if not slash or unit not in UNITS or window.first.core in UNITS or before.tail or not before.is_numeric:
        return None
    per = per_said(other) if re.fullmatch(r"[a-zA-Z/]+", other) else None
    return None if per is None else (Said(1, f"{unit_said(unit, before.core == '1')}{per}"),)


def slashed(window: Window) -> Reading | None:
    """Several at once: "115V/60Hz", "a 3BR/2BA"."""
    is_adjective = window.before().core.lower() in ("a", "an")
    sides = [Quantity.read(side) for side in window.first.core.split("/")]
    if len(sides) < 2 or not all(side is not None and side.unit in UNITS for side in sides):
        return None
    said = (f"{s.value_said} {unit_said(s.unit, s.is_one or is_adjective)}" for s in sides if s is not None)
    return (Said(1, " ".join(said)),)


def compounds(window: Window) -> Reading | None:
    """A number and words with hyphens: "a 3-year plan", "20-year-old", "2nd-floor", "1-on-1", "14-oz"."""
    core = window.first.core
    if match := _ISH.fullmatch(core):
        return (Said(1, f"{number(match[1])} ish"),)
    if match := _BETWEEN.fullmatch(core):
        return (Said(1, f"{number(match[1])} {match[2]} {number(match[3])}"),)
    match = _COMPOUND.fullmatch(core)
    if match is None or (match[3].isupper() and len(match[2] or "") > 2):
        return None
    said = ordinal(int(match[1])) if match[1] else value(match[2])
    is_unit = match[3] in UNITS and len(match[3]) > 1
    behind = UNITS[match[3]] if is_unit else match[3].replace("-", " ")
    tail = window.without_dot() if is_unit and window.first.tail.startswith(".") else None
    return (Said(1, f"{said} {behind}", tail),)


def spans(window: Window) -> Reading | None:
    """From one quantity to another with a unit of its own: "500MB-2GB", "$750k-$1M"."""
    ends = [Quantity.read(end) for end in window.first.core.split("-")]
    if len(ends) != 2 or not all(end is not None and (_is_no_letter(end.unit) or end.money) for end in ends):
        return None
    readings = [_alone(end) for end in window.first.core.split("-")]
    return (Said(1, " to ".join(readings)),) if all(readings) else None


def _is_no_letter(unit: str) -> bool:
    """Whether this is a unit, and not the letter of a seat or a block."""
    return unit in UNITS and not (len(unit) == 1 and unit.isupper())


def _alone(text: str) -> str:
    """A quantity that stands alone."""
    window = Window([Item(WORD, text, 0, 0)], [], closed=True)
    reading = quantities(window) or money(window)
    return reading[0].text if reading else ""


def unit_ranges(window: Window) -> Reading | None:
    """A unit or a noun with another number behind it: "20 \u00b0C-25 \u00b0C", "10 mg/5 mL", "2 beds/1 bath"."""
    match, before = _UNIT_AND_NUMBER.fullmatch(window.first.core), window.before()
    if match is None or before.tail or not before.is_numeric:
        return None
    unit, sign, high = match.groups()
    if sign == "/" and unit not in UNITS and _COUNTED.fullmatch(unit):
        return (Said(1, f"{unit} {value(high)}"),)
    if unit not in UNITS or unit in ATTACHED_UNITS:
        return None
    if unit in _ROOMS:  # "3 BR/2 BA"
        return (Said(1, f"{unit_said(unit, before.core == '1')}, {value(high)}"),)
    return (Said(1, f"{unit_said(unit, before.core == '1')} {'to' if sign == '-' else 'per'} {value(high)}"),)

"""Numbers with units: "5kg", "5 kg", "10-20%", "6'2\"", "1920x1080", "a 3-year plan"; and any other number."""

import re

from dia2stream.text.numbers import FRACTIONS, cardinal, number, ordinal, pairs, year
from dia2stream.text.rules.figures import figures, is_year
from dia2stream.text.rules.quantity import Quantity, unit_said
from dia2stream.text.tables import ATTACHED_UNITS, CURRENCIES, MAGNITUDES, MONEY, PER, SCALES, UNITS
from dia2stream.text.window import Reading, Said, Window

_FEET = re.compile(r"(\d{1,2})'(\d{1,2})")
_COMPOUND = re.compile(r"(\d+)(st|nd|rd|th)?-([A-Za-z]+(?:-[A-Za-z]+)*)")
_SIZE = re.compile(r"(\d+)[xX\u00d7](\d+)([A-Za-z]*)")
_HOURS, _SECONDS = re.compile(r"\d+h"), re.compile(r"\d+s")
_THOUSANDS = frozenset(["K", "k", "M", "mn", "bn", "tn"])  # without money, B and T are letters
_NAMES = frozenset(["2K", "4K", "5K", "8K"])


def quantities(window: Window) -> Reading | None:
    """A number, with its unit if that is in the same word."""
    quantity = Quantity.read(window.first.core)
    if quantity is None or quantity.money:
        return None
    said = _said(window, quantity)
    if said is None:
        return None
    return (Said(1, f"{quantity.sign_said}{said}{' plus' if quantity.plus else ''}{quantity.per_said}"),)


def _said(window: Window, quantity: Quantity) -> str | None:
    low, high, unit = quantity.low, quantity.high, quantity.unit
    if quantity.is_bare:
        return figures(window, low)
    if not unit:
        return f"{year(int(low))} to {year(int(high))}" if is_year(low) and is_year(high) else quantity.value_said
    if unit in _THOUSANDS:
        return None if low + unit in _NAMES else f"{quantity.value_said} {MAGNITUDES[unit]}"
    if unit == "m" and _is_minutes(window):
        unit = "min"
    if unit not in UNITS:
        return None
    return f"{quantity.value_said} {unit_said(unit, quantity.is_one or window.is_adjective())}"


def _is_minutes(window: Window) -> bool:
    """Whether "m" is for minutes: "5m 30s", "2h 15m"."""
    if _HOURS.fullmatch(window.before().core):
        return True
    following = window.joined(1)
    return following is not None and _SECONDS.fullmatch(following.core) is not None


def units(window: Window) -> Reading | None:
    """A unit, a percent sign or a currency after a number: "5 kg", "5 %", "20 USD"."""
    before, first = window.before(), window.first
    core = first.core
    if before.tail or not before.is_numeric:
        return None
    if core in CURRENCIES or core in MONEY:
        return (Said(1, CURRENCIES[core] if core in CURRENCIES else MONEY[core][1]),)
    if core == "in" and before.core.isdecimal() and window.before(2).core in ("ft", "feet", "foot"):
        return (Said(1, "inches", window.without_dot() if first.tail.startswith(".") else None),)
    if core == "in" and first.tail == ".":
        following = window.word(1)
        return (Said(1, "inches", ""),) if following is not None and not following.is_capitalised else None
    if core == "sq" and (following := window.joined_after_dot()) is not None and following.core in UNITS:
        return (Said(2, f"square {unit_said(following.core, False)}"),)
    if core not in UNITS or core in ATTACHED_UNITS:
        return None
    is_adjective = window.before(2).core.lower() in ("a", "an") and window.joined(1) is not None
    is_fraction = "/" in before.core or before.core in FRACTIONS
    tail = window.without_dot() if first.tail.startswith(".") else None
    return (Said(1, unit_said(core, before.core == "1" or is_fraction or is_adjective), tail),)


def per_unit(window: Window) -> Reading | None:
    """A unit for each of another after a number: "5 mg/ml", "10 GB/month"."""
    unit, slash, other = window.first.core.partition("/")
    before = window.before()
    if not slash or unit not in UNITS or window.first.core in UNITS or before.tail or not before.is_numeric:
        return None
    per = PER.get(other) or UNITS.get(other) or (other if other.isalpha() and other.islower() else None)
    return None if per is None else (Said(1, f"{unit_said(unit, before.core == '1')} per {per}"),)


def currencies(window: Window) -> Reading | None:
    """An amount behind the letters of its currency: "USD 50", "CHF 1.5 million"."""
    core, following = window.first.core, window.joined(1) if window.first.core in CURRENCIES else None
    amount = None if following is None else Quantity.read(following.core)
    if amount is None or not amount.is_bare:
        return None
    scale = window.joined(2)
    if scale is not None and scale.core.lower() in SCALES:
        return (Said(3, f"{amount.value_said} {scale.core.lower()} {CURRENCIES[core]}"),)
    return (Said(2, f"{amount.value_said} {CURRENCIES[core]}"),)


def slashed(window: Window) -> Reading | None:
    """Several at once: "115V/60Hz"."""
    sides = [Quantity.read(side) for side in window.first.core.split("/")]
    if len(sides) < 2 or not all(side is not None and side.unit in UNITS for side in sides):
        return None
    said = (f"{side.value_said} {unit_said(side.unit, side.is_one)}" for side in sides if side is not None)
    return (Said(1, " ".join(said)),)


def feet(window: Window) -> Reading | None:
    """Feet and inches: "6'2\"", without what closes it."""
    match = _FEET.fullmatch(window.first.core)
    if match is None:
        return None
    return (Said(1, f"{cardinal(int(match[1]))} foot {cardinal(int(match[2]))}", window.first.tail.removeprefix('"')),)


def compounds(window: Window) -> Reading | None:
    """A number and words with hyphens: "a 3-year plan", "20-year-old", "2nd-floor"."""
    match = _COMPOUND.fullmatch(window.first.core)
    if match is None:
        return None
    said = ordinal(int(match[1])) if match[2] else number(match[1])
    return (Said(1, f"{said} {match[3].replace('-', ' ')}"),)


def sizes(window: Window) -> Reading | None:
    """Sides: "1920x1080", "4x100m"."""
    match = _SIZE.fullmatch(window.first.core)
    if match is None or (match[3] and match[3] not in UNITS):
        return None
    sides = (pairs(int(side)) if len(side) == 4 else cardinal(int(side)) for side in match.groups()[:2])
    return (Said(1, " by ".join(sides) + (f" {unit_said(match[3], True)}" if match[3] else "")),)

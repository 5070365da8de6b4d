"""The rules of `spoken`, in the order in which they are tried, and the words that are not simply said as they are."""

import re
import string
from functools import lru_cache

from dia2stream.text.characters import STAR
from dia2stream.text.items import Item, Kind
from dia2stream.text.numbers import cardinal, plural
from dia2stream.text.rules import (
    abbreviations,
    acronyms,
    codes,
    dates,
    dimensions,
    fractions,
    keypad,
    maths,
    money,
    phones,
    places,
    products,
    programs,
    quantities,
    romans,
    symbols,
    times,
    versions,
    web,
)
from dia2stream.text.tables import CODE_WORDS
from dia2stream.text.window import Reading, Rule, Said, Window

_SUFFIXED = re.compile(r"(\S*\d\S*?)-([a-z]{3,}(?:-[a-z]+)*)")


def _alone(text: str, before: str = "") -> str:
    """How a part of a word is said by itself."""
    word, previous = Item(Kind.WORD, text, 0, 0), Item(Kind.WORD, before, 0, 0)
    reading = _read(Window([word], [previous] if before else [], closed=True))
    return reading[0].text if reading else text


def _suffixed(window: Window) -> Reading | None:
    """A word with figures and one behind it: "1920s-style", "3D-printed"."""
    match = _SUFFIXED.fullmatch(window.first.core)
    return match and (Said(1, f"{_alone(match[1], window.before().core)} {match[2].replace('-', ' ')}"),)


# Each with the characters of which a word must have one for the rule to be asked: "0" is any figure, "a" and "A" any
# letter of the alphabet; without any, the rule is asked always.
_WITH_FIGURES: tuple[tuple[str, Rule], ...] = (
    ("*#\u2217", keypad.keypad),
    ("-", keypad.ten_four),
    ("", phones.phones),
    ("-'aA*.\u2022", products.products),
    ("aA", maths.scientific),
    ("^", maths.ions),
    ("\u00b2\u00b3^", quantities.units),
    ("/-.", dates.dates),
    (".", versions.versions),
    (":-aA", times.times),
    ("", times.early),
    ("aA", times.half_of_day),
    ("+-", times.zones),
    ("-/", quantities.unit_ranges),
    ("", dates.days),
    ("", places.houses),
    ("", dimensions.marks),
    ("", maths.factorials),
    ("", fractions.fractions),
    ("'", dimensions.feet),
    ("aA", fractions.ordinals),
    ("a'", fractions.decade),
    ("", money.money),
    ("-", codes.groups),
    ("", quantities.quantities),
    ("#\u00a7", codes.number_sign),
    ("@#.:/", web.web),
    ("xX\u00d7", dimensions.sizes),
    ("/", quantities.slashed),
    ("-+/\\", programs.typed),
    (maths.CERTAIN, maths.formulas),
    ("-h", quantities.compounds),
    ("-", quantities.spans),
    (".:", codes.addresses),
    ("x", codes.extensions),
    ("(", codes.sections),
    ("-", _suffixed),
    ("aA.", codes.codes),
    ("(", maths.calls),
    ("", codes.any_parts),
)
_WITHOUT_FIGURES: tuple[tuple[str, Rule], ...] = (
    ("#*", keypad.keys),
    ("*", programs.all_columns),
    ("", symbols.signs),
    ("A", programs.capitals_and_word),
    ("aA", times.half_of_day),
    ("A", times.zones),
    ("", quantities.units),
    ("/", quantities.per_unit),
    ("A", money.currencies),
    ("A", places.states),
    ("A", dates.short_names),
    ("aA", places.saints_and_doctors),
    ("A", places.dotted_states),
    ("aA", abbreviations.abbreviations),
    ("A", places.compass),
    ("A", abbreviations.initials),
    ("aA", places.rooms_and_roads),
    ("@#.:/", web.web),
    ("aA", romans.romans),
    ("aA", acronyms.acronyms),
    ("&/_-+", acronyms.joined_words),
    (maths.CERTAIN, maths.formulas),
    ("(", maths.calls),
    (".,;!?", symbols.missing_spaces),
    ("-+/\\", programs.typed),
    ("@=+*/\\~<>|^%&#_:$", codes.any_signs),
)
_SHAPE = str.maketrans(
    dict.fromkeys(string.digits, "0")
    | {c: c if c in "xXh" else "a" if c.islower() else "A" for c in string.ascii_letters}
)


@lru_cache(maxsize=2048)
def _rules(shape: str) -> tuple[Rule, ...]:
    """The rules to ask for words with these characters."""
    rules = _WITH_FIGURES if any(map(str.isnumeric, shape)) else _WITHOUT_FIGURES
    found = set(shape) | {"a" if "x" in shape or "h" in shape else "", "A" if "X" in shape else ""}
    return tuple(rule for needed, rule in rules if not needed or not found.isdisjoint(needed))


_ASSIGNED = re.compile(r"([A-Za-z]\w+)=([\w.+-]+)")
_PREFIXED = re.compile(r"([a-z]*[aeiouy][a-z]*)-('?\d.*)")


def _read(window: Window) -> Reading | None:
    if window.first.core[0:1] == STAR and not keypad.keypad(window):
        window = window.respelt(window.first.core[1:])
    signed = not window.first.core.isalnum()
    if signed and (reading := _prefixed(window) or versions.requirements(window) or _assigned(window)):
        return reading
    for rule in _rules(window.first.core.translate(_SHAPE)):
        if reading := rule(window):
            return reading
    return None


def _prefixed(window: Window) -> Reading | None:
    """A word and figures with a hyphen: "mid-1990s", "pre-2020", "top-10". What stands behind it is read by itself."""
    match = _PREFIXED.fullmatch(window.first.core) if "-" in window.first.core else None
    if match is None or window.before().core.lower() in CODE_WORDS:
        return None
    said = _alone(match[2], match[1])
    if several := re.fullmatch(r"([1-9]\d?)s", match[2]):
        said = plural(cardinal(int(several[1])))
    return (Said(1, f"{match[1]} {said}"),)


def _assigned(window: Window) -> Reading | None:
    """A name and its value: "DEBUG=true", "lr=1e-3". The value is read by itself."""
    match = _ASSIGNED.fullmatch(window.first.core) if "=" in window.first.core else None
    if match is None:
        return None
    return (Said(1, f"{match[1].replace('_', ' ')} equals {_alone(match[2])}"),)


SPOKEN: tuple[Rule, ...] = (_read,)
SPECIAL_WORDS = (
    abbreviations.WORDS
    | places.WORDS
    | romans.WORDS
    | dates.WORDS
    | {"i", "in.", "x", "rx", "ctrl", "cmd", "cd", "rm", "cp", "mv"}
)

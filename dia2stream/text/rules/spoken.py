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
from dia2stream.text.tables import CODE_WORDS, SMALL_LETTERS
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


_ASSIGNED = re.compile(r"([A-Za-z]\w+)=([\w.+-]+)")
_PREFIXED = re.compile(r"([a-z]*[aeiouy][a-z]*)-('?\d.*)")


def _prefixed(window: Window) -> Reading | None:
    """A word and figures with a hyphen: "mid-1990s", "pre-2020", "top-10". What stands behind it is read by itself."""
    match = _PREFIXED.fullmatch(window.first.core)
    if match is None or window.before().core.lower() in CODE_WORDS:
        return None
    said = _alone(match[2], match[1])
    if several := re.fullmatch(r"([1-9]\d?)s", match[2]):
        said = plural(cardinal(int(several[1])))
    return (Said(1, f"{match[1]} {said}"),)


def _assigned(window: Window) -> Reading | None:
    """A name and its value: "DEBUG=true", "lr=1e-3". The value is read by itself."""
    match = _ASSIGNED.fullmatch(window.first.core)
    if match is None:
        return None
    return (Said(1, f"{match[1].replace('_', ' ')} equals {_alone(match[2])}"),)


# Each with a pattern that is found in the shape of every word that the rule may read. In a shape "0" stands for any
# figure, "a" and "A" for any letter of the alphabet: that of "$42.60/mo" is "$00.00/aa".
_SIGNED: tuple[tuple[str, Rule], ...] = (
    (r"^a+-", _prefixed),
    (r"[<>=!~^]=?0", versions.requirements),
    (r"^[Aa].*=", _assigned),
)
_WITH_FIGURES: tuple[tuple[str, Rule], ...] = (
    *_SIGNED,
    (r"[*#\u2217]", keypad.keypad),
    (r"^00-0$", keypad.ten_four),
    (r"^#0{4}$|^(?:aaa:)?\+0|^0$|^0{3,4}$|^0+[-.()]", phones.phones),
    (r"^0[aA]|^00(?:A-|aaa)|^000(?:[-aA']|$)|^0000-|^[aA]+-*0|^\.\.\.0|^\u2022", products.products),
    (r"0[aA][-+]?0", maths.scientific),
    (r"\^", maths.ions),
    (r"[\u00b2\u00b3^]", quantities.units),
    (r"0[-/.][0A]", dates.dates),
    (r"0\.0", versions.versions),
    (r"0[-:aA]", times.times),
    (r"^0000$", times.early),
    (r"^[aA]\.?[aA].*-0", times.half_of_day),
    (r"^AAA[-+]", times.zones),
    (r"^[^0]+[-/]", quantities.unit_ranges),
    (r"^00?(?:aa)?(?:-|$)", dates.days),
    (r"^0{1,5}A?$", places.houses),
    (r"^[^aA]*$", dimensions.marks),
    (r"^0+$", maths.factorials),
    (r"^0+$|/|^[^aA]+$", fractions.fractions),
    (r"^0?0'0", dimensions.feet),
    (r"0[aA]{2}(?:-|$)", fractions.ordinals),
    (r"0'?a$|^'0", fractions.decade),
    (r"", money.money),
    (r"^A\.(?:A\.)*0a", codes.reporters),
    (r"0-0", codes.groups),
    (r"", quantities.quantities),
    (r"[#\u00a7]", codes.number_sign),
    (r"[@#.:/]", web.web),
    (r"[aA\u00d7]", dimensions.sizes),
    (r"/", quantities.slashed),
    (r"[-+/\\]", programs.typed),
    (f"[{re.escape(maths.CERTAIN)}]", maths.formulas),
    (r"-|0aaa$", quantities.compounds),
    (r"-", quantities.spans),
    (r"[.:]", codes.addresses),
    (r"^a0", codes.extensions),
    (r"\(", codes.sections),
    (r"-", _suffixed),
    (r"[aA.]", codes.codes),
    (r"\(", maths.calls),
    (r"", codes.any_parts),
)
_WITHOUT_FIGURES: tuple[tuple[str, Rule], ...] = (
    *_SIGNED,
    (r"^[#*\u2217]$", keypad.keys),
    (r"\*", programs.all_columns),
    (r"^[aA]$|[^aA]", symbols.signs),
    (r"^AA+Aaaa", programs.capitals_and_word),
    (r"^[aA]\.?[aA]$", times.half_of_day),
    (r"^A{2,4}$", times.zones),
    (r"", quantities.units),
    (r"/", quantities.per_unit),
    (r"^AAA$", money.currencies),
    (r"^AA$", places.states),
    (r"^A", dates.short_names),
    (r"^Aa$|^AA$|^aa$", places.saints_and_doctors),
    (r"^A", places.dotted_states),
    (r"^[aA]", abbreviations.abbreviations),
    (r"^AA?$", places.compass),
    (r"^A$", abbreviations.initials),
    (r"^[aA]+$", places.rooms_and_roads),
    (r"[@#.:/]", web.web),
    (r"^[aA]+$", romans.romans),
    (r"[aA]", acronyms.acronyms),
    (r"[&/_+-]", acronyms.joined_words),
    (f"[{re.escape(maths.CERTAIN)}]", maths.formulas),
    (r"\(", maths.calls),
    (r"[.,;!?]", symbols.missing_spaces),
    (r"[aA]\.[aA_]", programs.members),
    (r"[-+/\\]", programs.typed),
    (r"[@=+*/\\~<>|^%&#_:$]", codes.any_signs),
)
_SHAPE = str.maketrans(
    dict.fromkeys(string.digits, "0")
    | dict.fromkeys(string.ascii_lowercase, "a")
    | dict.fromkeys(string.ascii_uppercase, "A")
)


@lru_cache(maxsize=4096)
def _rules(shape: str) -> tuple[Rule, ...]:
    """The rules to ask for words of this shape."""
    rules = _WITH_FIGURES if any(map(str.isnumeric, shape)) else _WITHOUT_FIGURES
    return tuple(rule for pattern, rule in rules if re.search(pattern, shape))


def _read(window: Window) -> Reading | None:
    if window.first.core[:1] == STAR and not keypad.keypad(window):
        window = window.respelt(window.first.core[1:])
    for rule in _rules(window.first.core.translate(_SHAPE)):
        if reading := rule(window):
            return reading
    return None


SPOKEN: tuple[Rule, ...] = (_read,)
SPECIAL_WORDS = (
    abbreviations.WORDS
    | places.WORDS
    | romans.WORDS
    | SMALL_LETTERS
    | dates.WORDS
    | {"i", "in.", "x", "rx", "ctrl", "cmd", "cd", "rm", "cp", "mv"}
)

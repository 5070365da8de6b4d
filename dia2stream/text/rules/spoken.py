"""The rules of `spoken`, in the order in which they are tried, and the words that are not simply said as they are."""

import re

from dia2stream.text.items import Item, Kind
from dia2stream.text.numbers import cardinal, plural
from dia2stream.text.rules import (
    abbreviations,
    codes,
    dates,
    fractions,
    money,
    phones,
    quantities,
    symbols,
    times,
    web,
)
from dia2stream.text.tables import CODE_WORDS
from dia2stream.text.window import Reading, Rule, Said, Window

_WITH_FIGURES: tuple[Rule, ...] = (
    phones.phones,
    quantities.units,
    dates.dates,
    times.times,
    dates.days,
    abbreviations.houses,
    fractions.fractions,
    quantities.feet,
    fractions.ordinals,
    fractions.decade,
    money.money,
    quantities.quantities,
    codes.number_sign,
    web.web,
    quantities.sizes,
    quantities.slashed,
    symbols.formulas,
    symbols.flags_and_paths,
    quantities.compounds,
    codes.addresses,
    codes.extensions,
    codes.codes,
    times.half_of_day,
    codes.any_figures,
)
_WITHOUT_FIGURES: tuple[Rule, ...] = (
    symbols.signs,
    times.half_of_day,
    quantities.units,
    quantities.per_unit,
    quantities.currencies,
    codes.states,
    dates.short_names,
    abbreviations.saints_and_doctors,
    abbreviations.abbreviations,
    web.web,
    codes.romans,
    codes.acronyms,
    codes.joined_words,
    symbols.formulas,
    symbols.missing_spaces,
    symbols.flags_and_paths,
)


_PREFIXED = re.compile(r"([a-z]*[aeiouy][a-z]*)-('?\d.*)")


def _read(window: Window) -> Reading | None:
    rules = _WITH_FIGURES if any(map(str.isnumeric, window.first.core)) else _WITHOUT_FIGURES
    return _prefixed(window) or next(filter(None, (rule(window) for rule in rules)), None)


def _prefixed(window: Window) -> Reading | None:
    """A word and figures with a hyphen: "mid-1990s", "pre-2020", "top-10". What stands behind it is read by itself."""
    match = _PREFIXED.fullmatch(window.first.core)
    if match is None or window.before().core.lower() in CODE_WORDS:
        return None
    prefix, rest = (Item(Kind.WORD, text, 0, 0) for text in match.groups())
    reading = _read(Window([rest], [prefix], closed=True))
    said = reading[0].text if reading else match[2]
    if several := re.fullmatch(r"([1-9]\d?)s", match[2]):
        said = plural(cardinal(int(several[1])))
    return (Said(1, f"{match[1]} {said}"),)


SPOKEN: tuple[Rule, ...] = (_read,)
SPECIAL_WORDS = abbreviations.WORDS | dates.WORDS | {"i", "x"}

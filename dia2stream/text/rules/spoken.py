"""The rules of `spoken`, in the order in which they are tried, and the words that are not simply said as they are."""

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
from dia2stream.text.window import Reading, Rule, Window

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
    codes.codes,
    times.half_of_day,
    codes.any_figures,
)
_WITHOUT_FIGURES: tuple[Rule, ...] = (
    symbols.signs,
    times.half_of_day,
    quantities.units,
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


def _read(window: Window) -> Reading | None:
    rules = _WITH_FIGURES if any(map(str.isnumeric, window.first.core)) else _WITHOUT_FIGURES
    return next(filter(None, (rule(window) for rule in rules)), None)


SPOKEN: tuple[Rule, ...] = (_read,)
SPECIAL_WORDS = abbreviations.WORDS | dates.WORDS | {"i", "x"}

"""Signs that stand alone ("2 + 2", "Q & A"), and words that a space is missing between."""

import re

from dia2stream.text.rules import dimensions, maths, programs
from dia2stream.text.tables import DAYS, DOSES, MONTHS, PERIODS, SHORT_DAYS, SHORT_MONTHS, UNITS
from dia2stream.text.window import Reading, Said, Token, Window

_ALONE = (
    maths.SIGNS
    | programs.OPERATORS
    | {"@": "at", "\u00a7": "section", "\u00a7\u00a7": "sections", "\u00a9": "copyright", "\u2116": "number"}
)
_BETWEEN_NUMBERS = dict.fromkeys("*xX\u00d7", "times") | {"/": "divided by", "^": "to the power of"}
_OPERATORS = frozenset("+-*/=\u00d7\u00f7")
_VARIABLE = re.compile(r"\d+[a-z]|[A-Za-z]_[A-Za-z\d].*")
_PAUSES = frozenset(["/", ">"])
_HALVES = frozenset(["am", "pm", "a.m", "p.m"])
_DATED = frozenset([*MONTHS, *SHORT_MONTHS, *DAYS, *SHORT_DAYS])


def signs(window: Window) -> Reading | None:
    """A sign that stands alone."""
    core, before = window.first.core, window.before()
    if core.isalpha() and core not in dimensions.BY:
        return None
    if core == "-":
        return _dash(window)
    if core == "#" and (following := window.joined(1)) is not None and following.core[:1].isdecimal():
        return (Said(1, "number"),)
    if core in _BETWEEN_NUMBERS and (_is_operand(before) or (before.core in UNITS and window.before(2).is_numeric)):
        following = window.word(1)
        if following is not None and _is_operand(following) and not (core == "/" and _is_measured(before, following)):
            return (Said(1, "by" if core in dimensions.BY and dimensions.is_size(window) else _BETWEEN_NUMBERS[core]),)
    if core in dimensions.BY and _is_course(window):
        return (Said(1, "for"),)
    if core in _PAUSES and not _compares(window):
        return (Said(1, ""),)
    return (Said(1, _ALONE[core]),) if core in _ALONE else None


def _dash(window: Window) -> Reading | None:
    """A dash between two numbers, times or dates."""
    before = window.before()
    may_go_on = (
        before.is_numeric or _VARIABLE.fullmatch(before.core) or before.core.lower() in _HALVES or before.core in _DATED
    )
    if not may_go_on or before.tail not in ("", "."):
        return None
    following = window.word(1)
    if following is not None and _VARIABLE.fullmatch(before.core) and _VARIABLE.fullmatch(following.core):
        return (Said(1, "minus"),)
    if following is None or not (following.core[:1].isdecimal() or following.core[:1] in "$\u20ac\u00a3"):
        is_dated = following is not None and following.core in _DATED
        return (Said(1, "to"),) if is_dated else None
    behind = window.joined(2)
    is_formula = (
        (before.is_numeric and before.core[:1].isalpha())
        or any(_VARIABLE.fullmatch(side.core) for side in (before, following))
        or window.before(2).core in _OPERATORS
    )
    return (Said(1, "minus" if is_formula or (behind is not None and behind.core in _OPERATORS) else "to"),)


def _is_course(window: Window) -> bool:
    """Whether an "x" stands before how long a medicine is taken: "20 mg daily x 7 days"."""
    before = window.before().core
    if before not in DOSES and not (before in UNITS and window.before(2).is_numeric):
        return False
    following, period = window.joined(1), window.joined(2)
    return following is not None and following.is_numeric and period is not None and period.core in PERIODS


def _is_operand(token: Token) -> bool:
    return token.core[-1:].isdecimal() or token.is_numeric or (token.core[:1].isdecimal() and not token.lead)


def _is_measured(before: Token, following: Token) -> bool:
    """Whether a slash parts two quantities with their units, "72\u00b0F / 22\u00b0C", and divides nothing."""
    return not (before.core[-1:].isdecimal() and following.core[-1:].isdecimal())


def _compares(window: Window) -> bool:
    """Whether ">" stands between two things that can be compared, and not between two steps of a menu."""
    before, following = window.before(), window.word(1)
    if window.first.core == "/":
        return False
    return following is None or any(len(side.core) < 3 or side.is_numeric for side in (before, following))


_MISSING_SPACE = re.compile(r"[^\W\d_][\w']*(?:(?:[.!?]+(?=[A-Z][a-z])|[,;](?=[^\W\d_])|\.{2,}|[?!]+)[^\W\d_][\w']*)+")
_AFTER_MARK = re.compile(r"(?<=[.,;!?])(?=[^\W\d_])")


def missing_spaces(window: Window) -> Reading | None:
    """Several words in one: "Hello,world", "the end.Then", "well...no"."""
    core = window.first.core
    return (Said(1, _AFTER_MARK.sub(" ", core)),) if _MISSING_SPACE.fullmatch(core) else None

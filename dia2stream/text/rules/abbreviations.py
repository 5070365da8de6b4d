"""Abbreviations, titles and initials: "Mr. Lee", "C. S. Lewis", "No. 5", "approx.", "w/o", "Roe v. Wade"."""

import re

from dia2stream.text.numbers import plural
from dia2stream.text.rules.places import ORDINAL, street_said
from dia2stream.text.rules.quantity import unit_said
from dia2stream.text.tables import (
    BEFORE_LETTERS,
    BEFORE_ROMANS,
    CODE_WORDS,
    DIRECTIONS,
    DOTTED,
    DOTTED_TITLES,
    LAWS,
    NEVER_LAST,
    NUMBERED,
    SEATS,
    SENTENCE_STARTS,
    TITLES,
    UNITS,
    WITHOUT_DOT,
)
from dia2stream.text.window import Reading, Said, Token, Window

_YEAR = re.compile(r"\d{3,4}s?")
_SPAN = re.compile(r"\d+-\d+")
_SEVERAL = frozenset(["ch", "fig", "vol", "para", "eq", "p"])  # of these a span is said as several: "Ch. 3-5"
_LETTERED = BEFORE_LETTERS | BEFORE_ROMANS | SEATS  # behind these, a letter is no initial: "Plan B."
_BEFORE_STREETS = frozenset(["jr", "sr", "ave", "blvd", "rd", "ln", "pkwy"])  # "King Jr. Blvd.", "3rd Ave. S."
_TELLING = frozenset(["is", "was", "on", "for"])
_NUMBERED_THINGS = CODE_WORDS | {"claim", "acct", "member", "phone", "model", "part", "file"}
_EXPIRY = re.compile(r"\d\d/\d\d(?:\d\d)?")

_BY_NEIGHBOURS = "st dr c ca al et exp v cir hr wk mo yr".split()  # noqa: SIM905
WORDS = frozenset([*TITLES, *LAWS, *DOTTED_TITLES, *DOTTED, *WITHOUT_DOT, *NUMBERED, *_BY_NEIGHBOURS])


def abbreviations(window: Window) -> Reading | None:
    """Titles before a name, words before a number, and all that are always abbreviations."""
    token = window.first
    core, dotted = token.core.lower(), token.tail.startswith(".")
    if token.core.isupper() and len(core) > 2:
        return None
    if core in LAWS and dotted and token.is_capitalised and _before_code_of_law(window):
        return (Said(1, LAWS[core], ""),)
    if core in TITLES and (dotted or _before_name(window)):
        return (Said(1, TITLES[core], token.tail.removeprefix(".")),) if token.is_capitalised else None
    if core in DOTTED_TITLES and dotted and token.is_capitalised and _before_name(window):
        return (Said(1, DOTTED_TITLES[core], token.tail[1:]),)
    return _before_number(window, core) or _by_neighbours(window, core) or _always(window, core)


def _before_code_of_law(window: Window) -> bool:
    """Whether a code of law is named: "Gov. Code", "Bus. & Com. Code"."""
    following = window.joined_after_dot()
    if following is not None and following.core == "&":
        following = window.word(3)
    return following is not None and following.core == "Code"


def _before_number(window: Window, core: str) -> Reading | None:
    """What a number follows: "No. 5", "Art. II", "c. 1850", "exp 08/27"."""
    token, dotted = window.first, window.first.tail.startswith(".")
    if core in NUMBERED and dotted:
        following = window.word(1)
        if following is not None and (_is_number(following) or (core == "no" and _is_named(window, following))):
            several = core in _SEVERAL and _SPAN.fullmatch(following.core)
            return (Said(1, plural(NUMBERED[core]) if several else NUMBERED[core], token.tail[1:]),)
    if core in ("c", "ca") and dotted and (following := window.joined_after_dot()) and _YEAR.fullmatch(following.core):
        return (Said(1, "circa", token.tail[1:]),)
    if core == "exp" and (following := window.joined_after_dot()) and _EXPIRY.fullmatch(following.core):
        return (Said(1, DOTTED[core], token.tail.removeprefix(".")),)
    return None


def _by_neighbours(window: Window, core: str) -> Reading | None:
    """What the words around it tell: "et al.", "$5 est.", "est. delivery", "88th min.", "9th Cir.", "Roe v. Wade"."""
    if not window.first.tail.startswith("."):
        return None
    before = window.before()
    if core == "al" and before.core == "et":
        return (Said(1, "al", window.without_dot()),)
    if core == "est" and before.is_numeric:
        return (Said(1, "estimated", window.without_dot()),)
    following = window.joined_after_dot() if core == "est" else None
    if following is not None and (
        following.core.islower() or (window.first.is_capitalised and following.is_capitalised)
    ):
        return (Said(1, "estimated", window.first.tail[1:]),)
    if ORDINAL.fullmatch(before.core) and not before.tail:
        if core == "cir":  # of a court
            return (Said(1, "Circuit", window.without_dot()),)
        if core in UNITS and len(core) > 1:
            return (Said(1, unit_said(core, is_singular=True), window.without_dot()),)
    if core == "v" and before.is_capitalised and not before.tail and _before_name(window):
        return (Said(1, "versus", ""),)
    return None


def _always(window: Window, core: str) -> Reading | None:
    token, dotted = window.first, window.first.tail.startswith(".")
    if core in WITHOUT_DOT:
        if "/" in core:  # a dot behind it ends the sentence
            return (Said(1, WITHOUT_DOT[core]),)
        ends = dotted and core in ("etc", "p.a")
        return (Said(1, WITHOUT_DOT[core], window.without_dot() if ends else token.tail.removeprefix(".")),)
    if core in DOTTED and dotted:
        following = window.word(1) if core in _BEFORE_STREETS else None
        in_street = following is not None and (street_said(following) is not None or following.core in DIRECTIONS)
        is_rank = core in ("jr", "sr") and not window.before().is_capitalised  # "Jr. Sgt. Lee"
        goes_on = in_street or is_rank or core in NEVER_LAST
        return (Said(1, DOTTED[core], token.tail[1:] if goes_on else window.without_dot()),)
    return None


def initials(window: Window) -> Reading | None:
    """A letter of a name, whose dot ends no sentence: "C. S. Lewis", "Dr. A. Patel", "John F. Kennedy"."""
    token = window.first
    if token.tail != "." or len(token.core) != 1 or not token.is_capitalised:
        return None
    before = window.before()
    if not before.is_capitalised and token.core in "AI":
        return None
    is_begun = not before.core or before.core in ("and", "&")
    behind_name = before.is_capitalised and before.core.lower() not in _LETTERED
    if not (is_begun or behind_name) or not _before_name(window):
        return None
    following = window.joined_after_dot()
    assert following is not None
    return None if following.core in SENTENCE_STARTS else (Said(1, token.core, ""),)


def _is_named(window: Window, following: Token) -> bool:
    """Whether "no." stands for a number that is told later: "no. of guests", "your claim no. is"."""
    return following.core == "of" or (following.core in _TELLING and window.before().core.lower() in _NUMBERED_THINGS)


def _is_number(word: Token) -> bool:
    """Whether it begins with a figure, or is one of Roman ones."""
    return any(map(str.isdecimal, word.core)) or (bool(word.core) and not word.core.strip("IVX"))


def _before_name(window: Window) -> bool:
    following = window.joined_after_dot()
    return following is not None and following.is_capitalised

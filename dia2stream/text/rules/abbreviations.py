"""Abbreviations, titles, and the parts of an address."""

import re

from dia2stream.text.numbers import cardinal, digits, ordinal, pairs
from dia2stream.text.tables import (
    DIRECTIONS,
    DOTTED,
    DOTTED_TITLES,
    LONG_STREETS,
    NUMBERED,
    PLACES,
    STREETS,
    TITLES,
    WITHOUT_DOT,
)
from dia2stream.text.window import Reading, Said, Token, Window

_HOUSE = re.compile(r"(\d{1,5})([A-Z])?")
_STREET_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)", re.IGNORECASE)

_BEFORE_DIRECTIONS = frozenset(["wind", "winds", "heading", "head", "due", "from", "toward", "turn", "the"])
_BEHIND_DIRECTIONS = frozenset(["wind", "winds", "corner", "side", "at", "of", "gusts"])
_YEAR = re.compile(r"\d{3,4}s?")
_STREETS = frozenset(["ave", "blvd", "rd", "ln", "hwy", "pkwy"])

WORDS = frozenset(
    [
        *TITLES,
        *DOTTED_TITLES,
        *DOTTED,
        *WITHOUT_DOT,
        *NUMBERED,
        *STREETS,
        *PLACES,
        *("st", "dr", "c", "ca", "al", "ave", "blvd", "et", "n\u00b0"),
        *map(str.lower, DIRECTIONS),
    ]
)


def houses(window: Window) -> Reading | None:
    """A number before a street, with the street: "123 Main St.", "4500 N. Oak Ave.", "221B Baker St"."""
    match = _HOUSE.fullmatch(window.first.core)
    if match is None or window.first.tail:
        return None
    said = [Said(1, _house_number(match[1]) + (f" {match[2]}" if match[2] else ""))]
    for number in range(1, 5):
        word = window.word(number)
        if word is None:
            return None
        if number > 1 and (street := _street(word)) is not None:
            following = window.word(number + 1) if word.tail in ("", ".") else None
            direction = DIRECTIONS.get(following.core) if following is not None else None
            if direction:
                return [*said, Said(1, street, ""), Said(1, direction)]
            return [*said, Said(1, street, window.without_dot(number) if word.tail.startswith(".") else None)]
        direction = DIRECTIONS.get(word.core)
        if direction and word.tail in ("", "."):
            said.append(Said(1, direction, ""))
        elif word.tail or word.lead:
            return None
        elif place := _STREET_ORDINAL.fullmatch(word.core):
            said.append(Said(1, ordinal(int(place[1]))))
        elif word.is_capitalised and word.core.isalpha():
            said.append(Said(1, word.core))
        else:
            return None
    return None


def _street(word: Token) -> str | None:
    if not word.is_capitalised:
        return None
    return word.core if word.core.lower() in LONG_STREETS else STREETS.get(word.core.lower())


def _house_number(figures: str) -> str:
    if figures.startswith("0") or len(figures) == 5:
        return digits(figures)
    return pairs(int(figures)) if len(figures) > 2 else cardinal(int(figures))


def saints_and_doctors(window: Window) -> Reading | None:
    """Saint and Doctor before a name, Street and Drive behind one: "St." and "Dr."."""
    core = window.first.core.lower()
    if core not in ("st", "dr") or not window.first.is_capitalised:
        return None
    before, following = window.before(), window.joined_after_dot()
    behind_name = _STREET_ORDINAL.fullmatch(before.core) or (
        before.is_capitalised and not before.tail and before.core.lower() not in ("the", "in", "at", "from", "to")
    )
    before_name = following is not None and following.is_capitalised
    if behind_name and not before_name:
        tail = window.without_dot() if window.first.tail.startswith(".") else None
        return (Said(1, STREETS[core], tail),)
    if not before_name and not window.first.tail.startswith("."):
        return None
    return (Said(1, "Saint" if core == "st" else "Doctor", window.first.tail.removeprefix(".")),)


def abbreviations(window: Window) -> Reading | None:
    """All others."""
    token = window.first
    core, dotted = token.core.lower(), token.tail.startswith(".")
    if token.core.isupper() and len(core) > 2:
        return None
    if core in TITLES and (dotted or _before_name(window)):
        return (Said(1, TITLES[core], token.tail.removeprefix(".")),) if token.is_capitalised else None
    if core in DOTTED_TITLES and dotted and token.is_capitalised and _before_name(window):
        return (Said(1, DOTTED_TITLES[core], token.tail[1:]),)
    following = window.word(1) if core in NUMBERED and dotted else None
    if following is not None and (_is_number(following) or (core == "no" and following.core == "of")):
        return (Said(1, NUMBERED[core], token.tail[1:]),)
    if core in ("c", "ca") and dotted and (following := window.joined_after_dot()) and _YEAR.fullmatch(following.core):
        return (Said(1, "circa", token.tail[1:]),)
    if core == "al" and dotted and window.before().core == "et":
        return (Said(1, "al", window.without_dot()),)
    if reading := _places(window, core):
        return reading
    if core in WITHOUT_DOT:
        if "/" in core:  # a dot behind it ends the sentence
            return (Said(1, WITHOUT_DOT[core]),)
        ends = dotted and core in ("etc", "p.a")
        return (Said(1, WITHOUT_DOT[core], window.without_dot() if ends else token.tail.removeprefix(".")),)
    if core in DOTTED and dotted:
        following = window.word(1) if core in ("jr", "sr") else None
        in_street = following is not None and _street(following) is not None
        return (Said(1, DOTTED[core], "" if in_street else window.without_dot()),)
    return None


def _places(window: Window, core: str) -> Reading | None:
    """Parts of an address without a dot: "Apt 3", "Hwy 101", "5th Ave"."""
    token = window.first
    if core in PLACES and token.is_capitalised and token.tail in ("", "."):
        following = window.joined_after_dot()
        if following is not None and (following.core[:1] in "#0123456789" or len(following.core) == 1):
            return (Said(1, PLACES[core], ""),)
    if core == "fl" and token.is_capitalised and _STREET_ORDINAL.fullmatch(window.before().core):
        return (Said(1, "Floor", window.without_dot() if token.tail.startswith(".") else None),)
    if core in _STREETS and token.is_capitalised and not token.tail.startswith("."):
        before = window.before()
        if not before.tail and (before.is_capitalised or _STREET_ORDINAL.fullmatch(before.core)):
            return (Said(1, STREETS[core]),)
    return None


def compass(window: Window) -> Reading | None:
    """A direction of a street, the wind or the way: "W 4th St", "winds NW at 10 mph", "heading SE"."""
    core = window.first.core
    if core not in DIRECTIONS:
        return None
    following = window.joined_after_dot()
    if following is not None and _STREET_ORDINAL.fullmatch(following.core):
        return (Said(1, DIRECTIONS[core], ""),)
    before = window.before().core.lower()
    if len(core) == 1 or before in STREETS or before in LONG_STREETS:
        return None if len(core) == 1 else (Said(1, DIRECTIONS[core]),)
    return _wind(window, core)


def _wind(window: Window, core: str) -> Reading | None:
    following = window.joined(1)
    is_wind = following is not None and following.core.lower() in _BEHIND_DIRECTIONS
    if not is_wind and window.before().core.lower() not in _BEFORE_DIRECTIONS:
        return None
    return (Said(1, DIRECTIONS[core].lower()),)


def _is_number(word: Token) -> bool:
    """Whether it begins with a figure, or is one of Roman ones."""
    return any(map(str.isdecimal, word.core)) or (bool(word.core) and not word.core.strip("IVX"))


def _before_name(window: Window) -> bool:
    following = window.joined_after_dot()
    return following is not None and following.is_capitalised

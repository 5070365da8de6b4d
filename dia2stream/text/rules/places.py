"""Parts of an address: "123 Main St.", "Apt 3", "St. Louis, Mo.", "TX 78701", "I-95 N", "winds NW"."""

import re

from dia2stream.text.numbers import cardinal, digits, ordinal, pairs
from dia2stream.text.tables import (
    DIRECTIONS,
    DOTTED_STATES,
    LAWS,
    LONG_STREETS,
    PLACES,
    ROADS,
    SENTENCE_STARTS,
    STATES,
    STREETS,
    ZIP_STATES,
)
from dia2stream.text.window import Reading, Said, Token, Window

_HOUSE = re.compile(r"(\d{1,5})([A-Z])?")
ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)", re.IGNORECASE)
_ROAD = re.compile(r"(?:[A-Z]{1,2}-)?\d{1,4}")  # "I-95", "520"
_ZIP = re.compile(r"\d{5}(-\d{4})?")
_BEFORE_DIRECTIONS = frozenset(["wind", "winds", "heading", "head", "due", "from", "toward", "turn", "the"])
_BEHIND_DIRECTIONS = frozenset(["wind", "winds", "corner", "side", "at", "of", "gusts"])
_CODES_OF_LAW = frozenset(["Civ", "Penal", "Code", "Stat", "Const", "Crim", *map(str.title, LAWS)])  # "Cal. Civ. Code"
_LANDS = frozenset(["Korea", "Africa", "America", "Carolina", "Dakota", "Virginia"])  # "S. Korea"
_STREETS = frozenset(["ave", "blvd", "rd", "ln", "hwy", "pkwy"])
_ROOMS_AND_STREETS = PLACES.keys() | _STREETS | {"fl"}

WORDS = frozenset([*STREETS, *PLACES, *DOTTED_STATES, *map(str.lower, DIRECTIONS)])


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
        if number > 1 and (street := street_said(word)) is not None:
            return [*said, *_street_end(window, number, street)]
        direction = DIRECTIONS.get(word.core)
        if direction and word.tail in ("", "."):
            said.append(Said(1, direction, ""))
        elif number < 3 and word.core == "St" and word.tail in ("", "."):
            said.append(Said(1, "Saint", ""))
        elif word.tail or word.lead:
            return None
        elif place := ORDINAL.fullmatch(word.core):
            said.append(Said(1, ordinal(int(place[1]))))
        elif word.is_capitalised and word.core.isalpha():
            said.append(Said(1, word.core))
        else:
            return None
    return None


def _street_end(window: Window, number: int, street: str) -> list[Said]:
    """The word for a street, so many after the first, and the direction that may follow: "Ave. NW"."""
    word = window.word(number)
    assert word is not None
    following = window.word(number + 1) if word.tail in ("", ".") else None
    direction = DIRECTIONS.get(following.core) if following is not None else None
    if direction:
        return [Said(1, street, ""), Said(1, direction)]
    return [Said(1, street, window.without_dot(number) if word.tail.startswith(".") else None)]


def street_said(word: Token) -> str | None:
    """What is said for a word that ends the name of a street; None for others."""
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
    behind_name = ORDINAL.fullmatch(before.core) or (
        before.is_capitalised and not before.tail and before.core.lower() not in ("the", "in", "at", "from", "to")
    )
    before_name = following is not None and following.is_capitalised
    if following is not None and following.core in SENTENCE_STARTS:
        before_name = False
    if behind_name and not before_name:
        tail = window.without_dot() if window.first.tail.startswith(".") else None
        return (Said(1, STREETS[core], tail),)
    if not before_name and not window.first.tail.startswith("."):
        return None
    return (Said(1, "Saint" if core == "st" else "Doctor", window.first.tail.removeprefix(".")),)


def rooms_and_roads(window: Window) -> Reading | None:
    """Parts of an address, most without a dot: "Apt 3", "Hwy 101", "5th Ave", "2nd fl."."""
    token, core = window.first, window.first.core.lower()
    if core not in _ROOMS_AND_STREETS:
        return None
    if core in PLACES and token.is_capitalised and token.tail in ("", "."):
        following = window.joined_after_dot()
        if following is not None and (following.core[:1] in "#0123456789" or len(following.core) == 1):
            return (Said(1, PLACES[core], ""),)
    before, dotted = window.before(), token.tail.startswith(".")
    is_numbered = ORDINAL.fullmatch(before.core) is not None
    if core == "fl" and is_numbered and (token.is_capitalised or dotted):
        return (Said(1, "Floor" if token.is_capitalised else "floor", window.without_dot() if dotted else None),)
    is_named = not before.tail and (before.is_capitalised or is_numbered)
    if core in _STREETS and token.is_capitalised and not dotted and is_named:
        return (Said(1, STREETS[core]),)
    return None


def states(window: Window) -> Reading | None:
    """A state, "TX", behind a city or before a ZIP code."""
    core = window.first.core
    if core not in STATES:
        return None
    following = window.joined(1)
    has_zip = following is not None and bool(_ZIP.fullmatch(following.core))
    city = window.before()
    may_be_word = core in ZIP_STATES and not (core in ("OR", "OH", "CO") and window.word(1) is None)
    may_be_word = may_be_word or (core == "MD" and window.before(2).core == "Dr")
    behind_city = city.tail == "," and city.is_capitalised and not may_be_word
    has_plate = following is not None and following.core in ("plate", "plates")
    if core in ZIP_STATES and not (city.tail == "," or city.is_capitalised):
        return None
    if not (has_zip or behind_city or has_plate):
        return None
    if following is None or not has_zip:
        return (Said(1, STATES[core]),)
    return Said(1, STATES[core]), Said(1, _zip_said(following.core))


def dotted_states(window: Window) -> Reading | None:
    """A state with dots behind a city: "St. Louis, Mo.", "Portland, Ore.", "Albany, N.Y."."""
    token, city = window.first, window.before()
    if not token.tail.startswith(".") or not token.is_capitalised:
        return None
    name = DOTTED_STATES.get(token.core.lower())
    if name and (code := window.joined_after_dot()) is not None and code.core in _CODES_OF_LAW:
        return (Said(1, name, ""),)
    if city.tail != "," or not city.is_capitalised:
        return None
    if token.core[0] in "NSR" and "." in token.core:  # "M.D." and "P.A." are mostly other things
        name = STATES.get(token.core.replace(".", ""))
    following = window.joined_after_dot() if name else None
    if name and following is not None and _ZIP.fullmatch(following.core):
        return Said(1, name, ""), Said(1, _zip_said(following.core))
    return (Said(1, name, window.without_dot()),) if name else None


def _zip_said(code: str) -> str:
    return ", ".join(map(digits, code.split("-")))


def compass(window: Window) -> Reading | None:
    """A direction of a street, a road, the wind or the way: "W 4th St", "I-95 N", "winds NW at 10 mph"."""
    core = window.first.core
    if core not in DIRECTIONS:
        return None
    before = window.before()
    if not before.tail.strip(".") and _is_road(window, before):
        return (Said(1, DIRECTIONS[core], window.without_dot() if window.first.tail.startswith(".") else None),)
    following = window.joined_after_dot()
    if following is not None and (following.core in _LANDS or ORDINAL.fullmatch(following.core)):
        return (Said(1, DIRECTIONS[core], ""),)
    return None if len(core) == 1 else _wind(window, core)


def _is_road(window: Window, before: Token) -> bool:
    """Whether the words before are a road: "3rd Ave.", "I-95", "Hwy 1"."""
    if before.is_capitalised and before.core.lower() in STREETS.keys() | LONG_STREETS:
        return True
    if not _ROAD.fullmatch(before.core):
        return False
    return before.core.startswith(("I-", "US-", "SR-")) or window.before(2).core.lower() in ROADS


def _wind(window: Window, core: str) -> Reading | None:
    following = window.joined(1)
    is_wind = following is not None and (following.core.lower() in _BEHIND_DIRECTIONS or following.is_numeric)
    if not is_wind and window.before().core.lower() not in _BEFORE_DIRECTIONS:
        return None
    return (Said(1, DIRECTIONS[core].lower()),)

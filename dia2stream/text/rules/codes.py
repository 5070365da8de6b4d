"""Words of letters and figures, and words of capitals: "A1B2", "MP3", "COVID-19", "FBI", "APIs", "R&D"."""

import re

from dia2stream.text.numbers import cardinal, digits, number, ordinal, pairs, spelled
from dia2stream.text.rules.figures import is_code
from dia2stream.text.tables import (
    BEFORE_ROMANS,
    CODE_WORDS,
    KINGS,
    LETTER_WORDS,
    LETTERS_OR_WORDS,
    PER,
    SPECIAL_NAMES,
    STATES,
    ZIP_STATES,
)
from dia2stream.text.window import Reading, Said, Window

_ROMAN = {"I": 1, "V": 5, "X": 10}
_CAPITALS = re.compile(r"([A-Z]{2,6})('?s)?")
_DOTTED = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]")
_VERSION = re.compile(r"(v)?(\d+(?:\.\d+)+)", re.IGNORECASE)
_ADDRESS = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3})(?:([:/])(\d{1,5}))?")
_EXTENSION = re.compile(r"x(\d{1,6})")
_NAMED_NUMBER = re.compile(r"([A-Za-z]+)-?(\d+)([A-Za-z]?)")
_NUMBER_LETTER = re.compile(r"(\d{1,4})([A-Za-z])")
_MIXED = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[A-Za-z\d]+(?:[-_/][A-Za-z\d]+)*")
_NUMBER_SIGN = re.compile(r"#(\d+)")
_CODE_SIGN = re.compile(r"#(?=.*\d)([A-Za-z\d]+(?:-[A-Za-z\d]+)*)")
_WITH_AND = re.compile(r"[A-Za-z]+(?:&[A-Za-z]+)+")
_SLASHES = re.compile(r"[A-Za-z']+(?:/[A-Za-z']+)+")
_ANY_PARTS = re.compile(r"\d[\d,]*(?:\.\d+)?|[^\W\d_]+|.")
_SIGNS = {"=": "equals", "+": "plus", "%": "percent", "&": "and", "@": "at", "#": "number", "$": "dollars"}
_VOWEL = re.compile(r"[aeiouyAEIOUY]")


def any_figures(window: Window) -> Reading | None:
    """Any other word with figures: its parts one by one, without most of the signs between them."""
    parts = _ANY_PARTS.findall(window.first.core)
    return (Said(1, " ".join(filter(None, map(_any_part, parts)))),)


def _any_part(part: str) -> str:
    if part[0].isdecimal():
        whole = part.replace(",", "")
        return number(part) if len(whole) < 7 and not (part[0] == "0" and part[1:2].isdecimal()) else digits(part)
    return _letters(part) if part.isalpha() else _SIGNS.get(part, "")


def addresses(window: Window) -> Reading | None:
    """The address of a machine, with its port or the length of its prefix: "192.168.1.10:8080", "10.0.0.0/24"."""
    match = _ADDRESS.fullmatch(window.first.core)
    if match is None:
        return None
    said = " dot ".join(digits(part) if len(part) > 2 else cardinal(int(part)) for part in match[1].split("."))
    behind = "" if not match[2] else f" {'slash' if match[2] == '/' else 'colon'} {_figures(match[3])}"
    return (Said(1, said + behind),)


def extensions(window: Window) -> Reading | None:
    """The extension of a telephone number: "555-0199 x12"."""
    match, before = _EXTENSION.fullmatch(window.first.core), window.before()
    if match is None or before.tail or not before.is_numeric or len(before.core) < 4:
        return None
    return (Said(1, f"extension {_figures(match[1])}"),)


def states(window: Window) -> Reading | None:
    """A state, "TX", behind a city or before a ZIP code."""
    core = window.first.core
    if core not in STATES or window.first.tail.startswith("."):
        return None
    following = window.joined(1)
    has_zip = following is not None and bool(re.fullmatch(r"\d{5}(-\d{4})?", following.core))
    city = window.before()
    behind_city = city.tail == "," and city.is_capitalised and core not in ZIP_STATES
    if not has_zip and not behind_city:
        return None
    zip_code = (Said(1, digits(following.core)),) if has_zip and following is not None else ()
    return (Said(1, STATES[core]), *zip_code)


def romans(window: Window) -> Reading | None:
    """Roman numerals: "Chapter IV", "World War II"."""
    core, before = window.first.core, window.before()
    is_dotted = before.tail == "." and before.core.lower() in BEFORE_ROMANS  # "Vol. II"
    if not core or set(core) - set(_ROMAN) or not before.is_capitalised or (before.tail and not is_dotted):
        return None
    if before.core.lower() not in BEFORE_ROMANS and (len(core) == 1 or core == "IV" or before.core.isupper()):
        return None
    values = [_ROMAN[letter] for letter in core]
    signed = (-v if v < after else v for v, after in zip(values, [*values[1:], 0], strict=True))
    value = sum(signed)
    return (Said(1, f"the {ordinal(value)}" if before.core in KINGS else cardinal(value)),)


def acronyms(window: Window) -> Reading | None:
    """Capitals letter by letter, unless they are said as a word."""
    core = window.first.core
    if core in SPECIAL_NAMES:
        return (Said(1, SPECIAL_NAMES[core]),)
    if _DOTTED.fullmatch(core) and window.first.tail.startswith("."):
        return (Said(1, " ".join(core.upper().replace(".", "")), window.without_dot()),)
    if _DOTTED.fullmatch(core) and core.isupper():
        return (Said(1, " ".join(core.replace(".", ""))),)
    if core == "PhD" or core == "Ph.D":
        return (Said(1, "P H D", window.without_dot() if "." in core else None),)
    if core in LETTERS_OR_WORDS and not _is_name(window):
        return None
    said = _letters(core)
    return (Said(1, said),) if said != core else None


def _is_name(window: Window) -> bool:
    """Whether "US", "IT" or "WHO" is a name here and no shouted word."""
    before = window.before()
    if before.core.isupper() and len(before.core) > 1:
        return False
    return window.first.core == "US" or before.core.lower() in ("the", "our", "your", "in", "an", "of")


def _letters(text: str) -> str:
    """One word of capitals."""
    match = _CAPITALS.fullmatch(text)
    if match is None:
        return text
    capitals, ending = match.groups()
    if _VOWEL.search(capitals) and capitals not in LETTER_WORDS and capitals not in LETTERS_OR_WORDS:
        return text
    return " ".join(capitals) + ("'s" if ending else "")


def number_sign(window: Window) -> Reading | None:
    """A number sign: "#1", "#78123", "#A-1029"."""
    match = _NUMBER_SIGN.fullmatch(window.first.core)
    if match is None:
        code = _CODE_SIGN.fullmatch(window.first.core)
        return code and (Said(1, f"number {spelled(code[1])}"),)
    by_digits = len(match[1]) > 3 or match[1].startswith("0") or window.before().core.lower() in CODE_WORDS
    return (Said(1, f"number {digits(match[1]) if by_digits else cardinal(int(match[1]))}"),)


def codes(window: Window) -> Reading | None:
    """Letters and figures mixed, versions, numbers with several dots."""
    core = window.first.core
    if match := _VERSION.fullmatch(core):
        if not match[1] and core.count(".") < 2:
            return None
        word = "dot" if core.count(".") == 3 else "point"
        parts = [digits(part) if len(part) > 2 else cardinal(int(part)) for part in match[2].split(".")]
        names = match[1] and window.before().core.lower() != "version"
        return (Said(1, ("version " if names else "") + f" {word} ".join(parts)),)
    if not _MIXED.fullmatch(core):
        return None
    named = _NAMED_NUMBER.fullmatch(core)
    if named and not (named[3] and len(named[1]) == 1):
        return (Said(1, " ".join(filter(None, [_name(named[1]), _figures(named[2]), named[3].upper()]))),)
    if (match := _NUMBER_LETTER.fullmatch(core)) and not is_code(window, match[1]):
        return (Said(1, f"{_figures(match[1])} {match[2].upper()}"),)
    return (Said(1, " ".join(_part(part) for part in re.split(r"[-_/]", core))),)


def _part(part: str) -> str:
    """One group of a code."""
    match = re.fullmatch(r"([A-Za-z]+)(\d{1,2})", part)
    return f"{_name(match[1])} {_figures(match[2])}" if match else _name(part) if part.isalpha() else spelled(part)


def _name(letters: str) -> str:
    """The letters in front of figures: a name, or single ones."""
    is_word = len(letters) > 3 and _VOWEL.search(letters) and letters not in LETTER_WORDS
    return letters if is_word else " ".join(letters.upper())


def _figures(text: str) -> str:
    if text.startswith("0") or len(text) > 4:
        return digits(text)
    return pairs(int(text)) if len(text) > 2 else cardinal(int(text))


def joined_words(window: Window) -> Reading | None:
    """Several words in one: "R&D", "and/or", "snake_case", "TCP/IP"."""
    core = window.first.core
    if _WITH_AND.fullmatch(core):
        return (
            Said(1, " and ".join(" ".join(p) if p.isupper() and len(p) < 3 else _letters(p) for p in core.split("&"))),
        )
    head, slash, last = core.rpartition("/")
    if slash and last in PER and window.before().is_numeric and head.isalpha():
        return (Said(1, f"{_letters(head)} per {PER[last]}"),)
    if _SLASHES.fullmatch(core):
        return (Said(1, " ".join(_letters(part) for part in core.split("/"))),)
    if "_" in core and re.fullmatch(r"\w+", core):
        return (Said(1, " ".join(_letters(part) for part in core.split("_") if part)),)
    if re.fullmatch(r"[A-Z]{2,6}(?:-[A-Z]{2,6})+", core):
        said = " ".join(_letters(part) for part in core.split("-"))
        return (Said(1, said),) if said != core.replace("-", " ") else None
    return None

"""Numbers in figures -> in words, as an American says them and as the bundled voice was taught: "forty two".

Cardinals and ordinals come from num2words, without its "and", commas and hyphens.
"""

import re
from functools import lru_cache
from importlib import import_module

_DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_LARGEST = 10**66  # from here on num2words knows no name
DENOMINATORS = {2: "half", 4: "quarter"}
FRACTIONS = {
    "\u00bc": (1, 4), "\u00bd": (1, 2), "\u00be": (3, 4), "\u2153": (1, 3), "\u2154": (2, 3), "\u2155": (1, 5),
    "\u2156": (2, 5), "\u2157": (3, 5), "\u2158": (4, 5), "\u2159": (1, 6), "\u215a": (5, 6), "\u215b": (1, 8),
    "\u215c": (3, 8), "\u215d": (5, 8), "\u215e": (7, 8),
}  # fmt: skip
NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"  # "1,234.5", "12", ".5"
VALUE = rf"\d*[{''.join(FRACTIONS)}]|(?:\d+-)?[1-9]\d*/[1-9]\d*|{NUMBER}"  # "1\u00bd", "1-1/2", "3/4" too


@lru_cache(maxsize=4096)
def _words(value: int, to: str) -> str:
    text: str = import_module("num2words").num2words(value, to=to)
    return text.replace(",", "").replace(" and ", " ").replace("-", " ")


def prepare() -> None:
    """Loads num2words, so that the first number does not wait for it."""
    cardinal(1)


def cardinal(value: int) -> str:
    """412 -> "four hundred twelve"."""
    return _words(value, "cardinal") if value < _LARGEST else digits(str(value))


def ordinal(value: int) -> str:
    """21 -> "twenty first"."""
    return _words(value, "ordinal") if value < _LARGEST else digits(str(value))


def digits(text: str) -> str:
    """Digits one by one: "042" -> "zero four two". What is no digit is left out."""
    return " ".join(_DIGITS[int(character)] for character in text if character.isdecimal())


def number(text: str) -> str:
    """What NUMBER matches, as a quantity: "1,250.5" -> "one thousand two hundred fifty point five"."""
    whole, point, fraction = text.replace(",", "").partition(".")
    said = cardinal(int(whole)) if whole else ""
    return f"{said} point {digits(fraction)}".strip() if point else said


def pairs(value: int) -> str:
    """Three or four digits as house numbers and years are said: 1905 -> "nineteen oh five", 221 -> "two twenty one"."""
    high, low = divmod(value, 100)
    if not low:
        return cardinal(value) if not high % 10 and high else f"{cardinal(high)} hundred"
    return f"{cardinal(high)} {f'oh {cardinal(low)}' if low < 10 else cardinal(low)}"


def year(value: int) -> str:
    """2005 -> "two thousand five", 1984 -> "nineteen eighty four"."""
    return cardinal(value) if value < 1000 or 2000 <= value < 2010 else pairs(value)


def plural(said: str) -> str:
    """The last word in the plural: "nineteen eighty" -> "nineteen eighties"."""
    if said.endswith("y") and said[-2] not in "aeiou":
        return said[:-1] + "ies"
    return said + ("es" if said.endswith(("s", "x", "ch", "sh")) else "s")


def fraction(above: int, below: int) -> str:
    """(3, 4) -> "three quarters", (1, 2) -> "one half", (5, 8) -> "five eighths"."""
    part = DENOMINATORS.get(below) or ordinal(below)
    if above != 1:
        part = "halves" if below == 2 else f"{part}s"
    return f"{cardinal(above)} {part}"


def mixed(whole: int, above: int, below: int) -> str:
    """(2, 1, 2) -> "two and a half", (1, 3, 4) -> "one and three quarters"."""
    said = fraction(above, below)
    if above == 1:
        said = said.replace("one ", "an " if said.startswith("one e") else "a ", 1)
    return f"{cardinal(whole)} and {said}"


_FRACTION = re.compile(rf"\d*[{''.join(FRACTIONS)}]|(?:\d+-)?[1-9]\d*/[1-9]\d*")


def fraction_parts(text: str) -> tuple[int, int, int]:
    """What VALUE matches and NUMBER does not: "1-1/2" and "1\u00bd" -> (1, 1, 2), "3/4" -> (0, 3, 4)."""
    if text[-1] in FRACTIONS:
        return int(text[:-1] or 0), *FRACTIONS[text[-1]]
    whole, _, part = text.rpartition("-")
    above, _, below = part.partition("/")
    return int(whole or 0), int(above), int(below)


def is_fraction(text: str) -> bool:
    """Whether this is a VALUE with a fraction."""
    return _FRACTION.fullmatch(text) is not None


def value(text: str) -> str:
    """What VALUE matches, as a quantity: "12" -> "twelve", "3/4" -> "three quarters", "1\u00bd" -> "one and a half"."""
    if not is_fraction(text):
        return number(text)
    whole, above, below = fraction_parts(text)
    return mixed(whole, above, below) if whole else fraction(above, below)


_RUN = re.compile(r"\d+|[^\W\d_]")


def spelled(text: str) -> str:
    """Letters one by one, digits too: "A1B2" -> "A one B two"."""
    return " ".join(digits(run) if run.isdecimal() else run.upper() for run in _RUN.findall(text))

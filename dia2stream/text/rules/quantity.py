"""A number with all that may be written around it in one word, taken apart: "-$1.5M", "~10-20kg/day"."""

import re
from functools import lru_cache
from typing import NamedTuple

from dia2stream.text.numbers import NUMBER, VALUE, fraction_parts, is_fraction, plural, value
from dia2stream.text.tables import INVARIABLE_UNITS, IRREGULAR_PLURALS, PER, UNITS
from dia2stream.text.window import Window

_SIGNS = {
    "": "", "-": "minus ", "+": "plus ", "\u00b1": "plus or minus ", "~": "about ", "\u2248": "about ",
    "<": "less than ", ">": "greater than ", "<=": "less than or equal to ", ">=": "greater than or equal to ",
    "\u2264": "less than or equal to ", "\u2265": "greater than or equal to ",
}  # fmt: skip
_MONEY = r"(?:US|CA?|AU?|HK|NZ|MX|R|S)?\$|[\u20ac\u00a3\u00a5\u20b9\u20a9\u20bd\u20ba\u20aa\u20bf]"
_UNIT = "[A-Za-z\u00b0\u00b5\u03bc%\u00a2\u00d7\u2605]+[\u00b2\u00b3]?"
_QUANTITY = re.compile(
    rf"(?P<sign><=|>=|[-+\u00b1~\u2248<>\u2264\u2265])?(?P<money>{_MONEY})?(?P<minus>-)?"
    rf"(?P<low>{VALUE})(?:(?P<unit_of_low>{_UNIT})?-(?:{_MONEY})?(?P<high>{VALUE}))?"
    rf"(?P<unit>{_UNIT}(?:/[sh](?![a-z])[\u00b2\u00b3]?)?)?"
    r"(?P<plus>\+)?(?:/(?P<per>[A-Za-z]+(?:/[A-Za-z]+)?))?"
)
_APOSTROPHE = re.compile(r"(?<=\d)'(?=\d{3}(?!\d))")  # between thousands, as the Swiss write them
_MONEY_BEHIND = re.compile(rf"({NUMBER}|\d+,\d\d)({_MONEY})")
_EUROPEAN = re.compile(rf"((?:{_MONEY})\d{{1,3}}(?:\.\d{{3}})*),(\d\d)")  # "\u20ac1.234,56"


_FIRST_THOUSANDS = re.compile(rf"(?:{_MONEY})?[1-9]\d{{0,2}}")
_THOUSANDS = re.compile(r"000(?:/[a-z]+)?")


class Quantity(NamedTuple):
    """The parts; those that are not there are empty."""

    sign: str
    money: str
    minus: str
    low: str
    high: str
    unit: str
    plus: str
    per: str

    @classmethod
    @lru_cache(maxsize=1024)
    def read(cls, text: str) -> "Quantity | None":
        """The parts of a word; None where it is no quantity."""
        text = _APOSTROPHE.sub("", text) if "'" in text else text
        if behind := _MONEY_BEHIND.fullmatch(text):
            text = behind[2] + behind[1]
        if european := _EUROPEAN.fullmatch(text):
            text = f"{european[1].replace('.', '')}.{european[2]}"
        match = _QUANTITY.fullmatch(text)
        if match is None:
            return None
        parts = match.groupdict(default="")
        return cls(**parts) if parts.pop("unit_of_low") in ("", parts["unit"]) else None

    @property
    def is_one(self) -> bool:
        """Whether it is one of its unit, or a part of one."""
        return not self.high and is_singular(self.low)

    @property
    def is_bare(self) -> bool:
        """Whether it is figures and nothing else."""
        return not (self.sign or self.money or self.minus or self.high or self.unit)

    @property
    def sign_said(self) -> str:
        """The sign, with a blank behind it."""
        return _SIGNS[self.sign] + ("minus " if self.minus else "")

    @property
    def value_said(self) -> str:
        """The number, or the two of a range."""
        return f"{value(self.low)} to {value(self.high)}" if self.high else value(self.low)

    @property
    def per_said(self) -> str:
        """What it is for each of, with a blank before it."""
        return per_said(self.per) if self.per else ""


def per_said(units: str) -> str:
    """What something is for each of, with a blank before it: "kg/day" -> " per kilogram per day"."""
    return "".join(f" per {PER.get(unit) or UNITS.get(unit, unit)}" for unit in units.split("/"))


def is_singular(text: str) -> bool:
    """Whether a unit behind this VALUE stands in the singular: "1 cup", "3/4 cup"."""
    return text == "1" or (is_fraction(text) and not fraction_parts(text)[0])


def unit_said(unit: str, is_singular: bool) -> str:
    """A unit's name: "km/h" -> "kilometers per hour"."""
    name = UNITS[unit]
    if is_singular or name in INVARIABLE_UNITS:
        return name
    if name.startswith("degree"):
        return name.replace("degree", "degrees", 1)
    first, *rest = name.split(" per ")
    head, _, last = first.rpartition(" ")
    return " per ".join([f"{head} {IRREGULAR_PLURALS.get(last) or plural(last)}".strip(), *rest])


def joined_thousands(window: Window, number: int = 0) -> tuple[str, int]:
    """The word so many after the first, with the thousands that stand apart, and the number of the word behind it.

    "1 000 000" -> "1000000", "10 000/day" -> "10000/day".
    """
    first = window.joined(number) if number else window.first
    text, words = "" if first is None else first.core, number + 1
    if not _FIRST_THOUSANDS.fullmatch(text):
        return text, words
    while (word := window.joined(words)) is not None and word.core[:3] == "000" and _THOUSANDS.fullmatch(word.core):
        text, words = text + word.core, words + 1
    return text, words

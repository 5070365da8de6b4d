"""A number with all that may be written around it in one word, taken apart: "-$1.5M", "~10-20kg/day"."""

import re
from typing import NamedTuple

from dia2stream.text.numbers import NUMBER, number, plural
from dia2stream.text.tables import INVARIABLE_UNITS, IRREGULAR_PLURALS, PER, UNITS

_SIGNS = {
    "": "", "-": "minus ", "+": "plus ", "\u00b1": "plus or minus ", "~": "about ", "\u2248": "about ",
    "<": "less than ", ">": "greater than ", "<=": "less than or equal to ", ">=": "greater than or equal to ",
    "\u2264": "less than or equal to ", "\u2265": "greater than or equal to ",
}  # fmt: skip
_MONEY = r"US\$|CA?\$|A\$|[$\u20ac\u00a3\u00a5\u20b9]"
_QUANTITY = re.compile(
    rf"(?P<sign><=|>=|[-+\u00b1~\u2248<>\u2264\u2265])?(?P<money>{_MONEY})?(?P<minus>-)?"
    rf"(?P<low>{NUMBER})(?:-(?:{_MONEY})?(?P<high>{NUMBER}))?"
    r"(?P<unit>[A-Za-z\u00b0\u00b5\u03bc%\u00a2\u00d7]+[\u00b2\u00b3]?(?:/[sh](?![a-z]))?)?"
    r"(?P<plus>\+)?(?:/(?P<per>[A-Za-z]+))?"
)
_MONEY_BEHIND = re.compile(rf"({NUMBER})({_MONEY})")


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
    def read(cls, text: str) -> "Quantity | None":
        """The parts of a word; None where it is no quantity."""
        if behind := _MONEY_BEHIND.fullmatch(text):
            text = behind[2] + behind[1]
        match = _QUANTITY.fullmatch(text)
        return match and cls(**match.groupdict(default=""))

    @property
    def is_one(self) -> bool:
        """Whether it is one of its unit."""
        return self.low == "1" and not self.high

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
        return f"{number(self.low)} to {number(self.high)}" if self.high else number(self.low)

    @property
    def per_said(self) -> str:
        """What it is for each of, with a blank before it."""
        return f" per {PER.get(self.per) or UNITS.get(self.per, self.per)}" if self.per else ""


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

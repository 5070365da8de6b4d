"""Money: "$42.60", "-$5", "$2.5 million", "$5-10", "$20/month", "5\u20ac", "19,99 \u20ac", "USD 50", "$49.99 USD"."""

import re

from dia2stream.text.numbers import cardinal, is_fraction, number
from dia2stream.text.rules.quantity import Quantity, joined_thousands
from dia2stream.text.tables import CURRENCIES, MAGNITUDES, MONEY, PER, SCALES
from dia2stream.text.window import Reading, Said, Token, Window

_CODES = CURRENCIES | {sign: sign for sign in MONEY}  # what may stand behind a number as a word of its own
_SHORT_SCALES = {"mil": "million", "bil": "billion", "tril": "trillion"}
_EUROPEAN = re.compile(r"(?:\d{1,3}(?:\.\d{3})+|\d+),\d\d")


def money(window: Window) -> Reading | None:
    """An amount, with the "million" and the letters of its currency behind it."""
    core, words = joined_thousands(window)
    amount = Quantity.read(core.replace(".", "").replace(",", ".") if _EUROPEAN.fullmatch(core) else core)
    if amount is None or (amount.unit and amount.unit not in MAGNITUDES):
        return None
    scale, sign = MAGNITUDES.get(amount.unit, ""), amount.money
    following = window.joined(words)
    if not scale and (scale := _scale(following, short=bool(sign))):
        words += 1
        following = window.joined(words)
    if following is not None and following.core in _CODES:
        sign, words = _CODES[following.core], words + 1
    if not sign:
        return None
    said = _amount(amount, sign, scale.removesuffix("+"), window.is_adjective(words))
    plus = " plus" if amount.plus or scale.endswith("+") else ""
    tail = window.without_dot() if amount.per in PER and window.first.tail.startswith(".") else None
    return (Said(words, f"{amount.sign_said}{said}{plus}{amount.per_said}", tail),)


def currencies(window: Window) -> Reading | None:
    """An amount behind the letters of its currency: "USD 50", "CHF 1.5 million"."""
    core = window.first.core
    if core not in CURRENCIES:
        return None
    text, behind = joined_thousands(window, 1)
    amount = Quantity.read(text)
    if amount is None or amount.money or (amount.unit and amount.unit not in MAGNITUDES):
        return None
    scale = MAGNITUDES.get(amount.unit) or _scale(window.joined(behind))
    words = behind + 1 if scale and not amount.unit else behind
    said = _amount(amount, CURRENCIES[core], scale, is_adjective=False)
    return (Said(words, f"{amount.sign_said}{said}{amount.per_said}"),)


def _scale(word: Token | None, short: bool = False) -> str:
    """The "million" that a word says, also "million+"; short: also "mil" does."""
    scale = "" if word is None else word.core.lower()
    if short:
        scale = _SHORT_SCALES.get(scale, scale)
    return scale if scale.removesuffix("+") in SCALES else ""


def _amount(amount: Quantity, sign: str, scale: str, is_adjective: bool) -> str:
    """is_adjective: "a five dollar bill"."""
    one, several, cent, cents = MONEY[sign]
    if is_adjective:
        several, cents = one, cent
    whole, _, part = amount.low.replace(",", "").partition(".")
    if scale or amount.high or len(part) not in (0, 2) or not cent or is_fraction(amount.low):
        name = one if amount.is_one and not scale else several
        return " ".join(filter(None, [amount.value_said, scale, name]))
    parts = [f"{number(whole)} {one if int(whole) == 1 else several}"] if int(whole or 0) else []
    if int(part or 0):
        parts.append(f"{cardinal(int(part))} {cent if int(part) == 1 else cents}")
    return " and ".join(parts) or f"zero {several}"

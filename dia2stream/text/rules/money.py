"""Money: "$42.60", "-$5", "$2.5 million", "$5-10", "$20/month", "5\u20ac"."""

from dia2stream.text.numbers import cardinal, number
from dia2stream.text.rules.quantity import Quantity
from dia2stream.text.tables import MAGNITUDES, MONEY, SCALES
from dia2stream.text.window import Reading, Said, Window


def money(window: Window) -> Reading | None:
    """An amount, with the "million" behind it."""
    amount = Quantity.read(window.first.core)
    if amount is None or not amount.money or (amount.unit and amount.unit not in MAGNITUDES):
        return None
    scale, words = MAGNITUDES.get(amount.unit, ""), 1
    if not scale and (following := window.joined(1)) is not None and following.core.lower() in SCALES:
        scale, words = following.core.lower(), 2
    said = _amount(amount, scale, window.is_adjective(words))
    return (Said(words, f"{amount.sign_said}{said}{amount.per_said}"),)


def _amount(amount: Quantity, scale: str, is_adjective: bool) -> str:
    """is_adjective: "a five dollar bill"."""
    one, several, cent, cents = MONEY[amount.money]
    if is_adjective:
        several, cents = one, cent
    whole, _, part = amount.low.replace(",", "").partition(".")
    if scale or amount.high or len(part) not in (0, 2) or not cent:
        name = one if amount.is_one and not scale else several
        return " ".join(filter(None, [amount.value_said, scale, name]))
    parts = [f"{number(whole)} {one if int(whole) == 1 else several}"] if int(whole or 0) else []
    if int(part or 0):
        parts.append(f"{cardinal(int(part))} {cent if int(part) == 1 else cents}")
    return " and ".join(parts) or f"zero {several}"

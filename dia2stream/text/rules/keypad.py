"""What is typed on a telephone: "*67", "#31#", "*#06#", "press *"; and radio's "10-4"."""

import re

from dia2stream.text.characters import STAR
from dia2stream.text.numbers import digits
from dia2stream.text.window import Reading, Said, Window

_KEYS = {"#": "pound", "*": "star", STAR: "star"}
_CODE = re.compile(rf"(?=.*[*{STAR}]|.*#$|##)[*#{STAR}]+\d{{1,4}}(?:[*#{STAR}]+\d*)*")
_BEFORE_KEYS = frozenset(
    "press pressing hit dial dialing or enter the by and then with code use using key text typing type".split()  # noqa: SIM905
)
_BEFORE_TEN_FOUR = frozenset(["a", "roger", "copy", "that's", "big"])


def keypad(window: Window) -> Reading | None:
    """Figures with stars and pound signs."""
    core = window.first.core
    if core.startswith(STAR) and not _is_typed(window):
        return None  # the beginning of what is emphasised: "*20 minutes*"
    if not _CODE.fullmatch(core):
        return None
    return (Said(1, " ".join(_KEYS.get(character) or digits(character) for character in core)),)


def _is_typed(window: Window) -> bool:
    before = window.before()
    return before.core.lower() in _BEFORE_KEYS or "#" in window.first.core


def keys(window: Window) -> Reading | None:
    """One key: "press #"."""
    core = window.first.core
    if core not in _KEYS or window.before().core.lower() not in _BEFORE_KEYS:
        return None
    return (Said(1, _KEYS[core]),)


def ten_four(window: Window) -> Reading | None:
    """ "10-4", where it is no score: at the beginning of a sentence, or behind words that it follows on the radio."""
    if window.first.core != "10-4":
        return None
    before = window.before()
    begins = not before.core or before.tail[-1:] in (".", "!", "?") or (before.tail == "," and not before.is_numeric)
    return (Said(1, "ten four"),) if begins or before.core.lower() in _BEFORE_TEN_FOUR else None

"""One character at a time: what is plain already, what becomes plain, and what makes no sound.

A character may become several (a ligature, an ellipsis), none (an emoji) or a space, which parts words.
"""

import unicodedata
from functools import lru_cache

# Inside a word a dash parts it: "wait—what" is two words.
DASH = "\u2014"
ARROW = "\u2192"
# Stands for a star before figures, which may be a key of a telephone, "*67", or a mark of emphasis.
STAR = "\u2217"
# Stands between the two parts of a fraction in TeX that are no numbers.
OVER = "\u2215"

_PLAIN = {
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc\u0060\u00b4", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\u2043\ufe63\uff0d", "-"),
    **dict.fromkeys("\u2014\u2015\u2e3a\u2e3b", DASH),
    **dict.fromkeys("\u2192\u2794\u27a1\u21d2\u27f6\u2190\u21d0", ARROW),
    "\u2026": "...",
    "\u2044": "/",
    "\u2715": "\u00d7",
    "\u2116": "#",
    **dict.fromkeys("\u2122\u2120\u00bf\u00a1\u2606", ""),  # trade marks and opening marks make no sound
    "\u00ba": "\u00b0",
    "\u00ae": "",
    "\u00b6": "paragraph",
    "\u2705": "",
    "`": "`",  # a mark of markdown, not a quote
}
# What normalisation would change, though the rules for numbers and units read it.
_KEPT = frozenset(
    "\u00b2\u00b3\u00b9\u00bc\u00bd\u00be\u2153\u2154\u2155\u2156\u2157\u2158\u2159\u215a\u215b\u215c\u215d\u215e"
)
_SIGNS = frozenset("\u00b0\u00a9\u2103\u2109\u2605")  # category So, but they can be said
_SILENT = frozenset(("Cf", "Co", "Cs", "Cn", "Me", "So", "Sk"))


_RAISED = dict(
    zip("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b\u207f", "0123456789-n", strict=True)
)


def plain_at(text: str, at: int) -> str:
    """The same for one of a text. Raised figures are a power: "10\u207b\u2076" -> "10^-6"; "m\u00b2" stays."""
    character = text[at]
    if character not in _RAISED:
        return plain(character)
    goes_on = text[at - 1 : at] in _RAISED
    if character in _KEPT and not goes_on and text[at + 1 : at + 2] not in _RAISED:
        return character
    return ("" if goes_on else "^") + _RAISED[character]


@lru_cache(maxsize=4096)
def plain(character: str) -> str:
    """What stands for a character: itself, something plainer, a space, or nothing."""
    if character in _PLAIN:
        return _PLAIN[character]
    if character.isascii() or character in _KEPT:
        return character
    if character.isspace():
        return " "
    category = unicodedata.category(character)
    if category == "Cc":
        return " "
    if (category in _SILENT and character not in _SIGNS) or "\ufe00" <= character <= "\ufe0f":
        return ""
    return unicodedata.normalize("NFKC", character)

"""Names with figures: planes ("737-800", "A320neo"), forms ("1099-K"), oils ("5W-30"), teams ("49ers"), hashes."""

import re

from dia2stream.text.numbers import cardinal, digits, pairs, spelled
from dia2stream.text.rules.figures import FORMS, PLANES, is_named
from dia2stream.text.window import Reading, Said, Window

_BOEING = re.compile(rf"({'|'.join(sorted(PLANES))})(?:-(\d{{1,4}}))?(ER|LR|F|MAX)?('s|s)?")
_AIRBUS = re.compile(r"(A|MD|CRJ|ERJ|E|DC|ATR)-?(\d{2,3})(?:-(\d{2,4}))?(neo|ceo|XLR|LR|ER)?")
_BEFORE_RANGES = frozenset(["page", "pages", "pp", "p", "lines", "rooms", "from", "between"])
_FORM = re.compile(rf"({'|'.join(sorted(FORMS))})-([A-Z]{{1,4}})")
_OIL = re.compile(r"(\d{1,2})W-(\d{2})")
_TEAM = re.compile(r"(\d{1,2})ers('?)")
_HASH = re.compile(r"(sha|md)-?(\d{1,3})(?::([\da-f]{6,}))?", re.IGNORECASE)
_LONG_HASH = 12  # characters of one that are said
_CARD = re.compile(r"(?:[xX]+-(?=\d{4})|[xX]{2,}|\u2022|\.{3}(?=\d{4}$))(\d{3,6})")
_PART = re.compile(r"([A-Z]{2,4})-(\d{4,6})")
_HEX = re.compile(r"0x([\da-f]{2,16})", re.IGNORECASE)
_ELEMENTS = re.compile(r"(?:He|Li|Na|Mg|Al|Si|Cl|Ca|Fe|Cu|Zn|Ag|[HCNOFPSKIB]|\d{1,2}(?!\d))+")  # "C6H12O6"
_STANDARDS = frozenset(["ISO", "RFC", "IEC", "IEEE", "DIN", "ANSI", "RTX", "GTX"])


def products(window: Window) -> Reading | None:
    """Any of them."""
    core = window.first.core
    if match := _BOEING.fullmatch(core):
        return _boeing(window, match)
    if (match := _AIRBUS.fullmatch(core)) and (match[3] or match[4]):
        parts = [_letters(match[1]), _pairs(match[2]), _pairs(match[3]), _suffix(match[4])]
        return (Said(1, " ".join(filter(None, parts))),)
    if match := _FORM.fullmatch(core):
        return (Said(1, f"{pairs(int(match[1]))} {_letters(match[2])}"),)
    if match := _OIL.fullmatch(core):
        return (Said(1, f"{cardinal(int(match[1]))} W {cardinal(int(match[2]))}"),)
    if match := _TEAM.fullmatch(core):
        number = cardinal(int(match[1]))
        return (Said(1, f"{number.removesuffix('e')}ers{match[2]}"),)
    if match := _HASH.fullmatch(core):
        said = f"{_letters(match[1].upper())} {_pairs(match[2])}"
        return (Said(1, f"{said} colon {spelled(match[3][:_LONG_HASH])}" if match[3] else said),)
    if match := _HEX.fullmatch(core):
        return (Said(1, f"zero X {spelled(match[1])}"),)
    if _ELEMENTS.fullmatch(core) and core[0].isalpha() and re.search(r"\d\d[A-Z]", core) and not is_named(window):
        return (
            Said(1, " ".join(_pairs(p) if p.isdecimal() else _letters(p) for p in re.findall(r"\d+|[A-Za-z]", core))),
        )
    return _numbered(window, core)


def _boeing(window: Window, match: re.Match[str]) -> Reading | None:
    """A plane by its number; the number alone may be one of something else."""
    number, variant, suffix, ending = match.groups()
    if window.before().core.lower() in _BEFORE_RANGES:
        return None
    if not variant and (not ending or ending == "s"):
        return None
    said = [_pairs(number), _pairs(variant), _suffix(suffix)]
    return (Said(1, " ".join(filter(None, said)) + (ending or "")),)


def _numbered(window: Window, core: str) -> Reading | None:
    """The last figures of a card, "x-1009", and what letters and a number name, "ABC-1234"."""
    if (match := _CARD.fullmatch(core)) and (core[0] != "." or is_named(window)):
        return (Said(1, f"X {digits(match[1])}" if core[0] in "xX" and core[1:2] == "-" else digits(match[1])),)
    if (match := _PART.fullmatch(core)) and match[1] not in _STANDARDS:
        return (Said(1, f"{_letters(match[1])} {digits(match[2])}"),)
    return None


def _letters(text: str) -> str:
    return " ".join(text.upper())


def _suffix(text: str | None) -> str:
    return text if text in ("neo", "ceo", "MAX") else _letters(text or "")


def _pairs(figures: str | None) -> str:
    if not figures:
        return ""
    return pairs(int(figures)) if len(figures) > 2 else cardinal(int(figures))

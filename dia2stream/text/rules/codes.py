"""Words of letters and figures: "A1B2", "MP3", "COVID-19", "#78123", "192.168.1.10", "501(c)(3)"."""

import re

from dia2stream.text.numbers import cardinal, digits, number, ordinal, pairs, plural, spelled
from dia2stream.text.rules.acronyms import letters
from dia2stream.text.rules.figures import is_code, is_named, section_number
from dia2stream.text.tables import CODE_WORDS, LETTER_WORDS, PERIODS, SPELLED_CODES
from dia2stream.text.window import Reading, Said, Window

_ADDRESS = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3})(?:([:/])(\d{1,5}))?")
_IPV6 = re.compile(r"(?=.*::|(?:[^:]*:){7})[\da-f]{0,4}(?::[\da-f]{0,4}){2,7}(?:/(\d{1,3}))?", re.IGNORECASE)
_X_NUMBER = re.compile(r"x(\d{1,6})")
_NAMED_NUMBER = re.compile(r"([A-Za-z]+)-?(\d+)([A-Za-z]?)")
_NUMBER_LETTER = re.compile(r"(\d{1,4})([A-Za-z])")
_GROUPS = re.compile(r"\d+(?:-\d+)+")
_SEATS = re.compile(r"(\d{1,3})([A-Z])-(\d{1,3})([A-Z])")
_SECTIONS = re.compile(
    r"\u00a7*(\d{1,4})((?<=\d{3})[a-z]|\.\d{1,4}|-\d{1,4})?((?:\([A-Za-z\d]{1,4}\))*\([A-Za-z\d]{1,4})\)?"
)
_REPORTER = re.compile(r"((?:[A-Z]\.)+)(2|3|4|5)(?:d|th)")
_ROMAN_PARTS = {"ii": "two", "iii": "three", "iv": "four", "vi": "six", "vii": "seven", "viii": "eight", "ix": "nine"}
_MIXED = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[A-Za-z\d]+(?:[-_/][A-Za-z\d]+)*")
_NUMBER_SIGN = re.compile(r"#(\d+)")
_POUND_KEY = re.compile(r"(\d+)#")
_PERIOD_RANGE = re.compile(r"([QH])(\d)-\1(\d)")  # of a year
_PLURAL = re.compile(r"([A-Za-z]+)-?(\d{1,3})s")
_SECTION = re.compile(r"\u00a7+(\d+(?:\.\d+)?)")
_HASHTAG = re.compile(r"#[A-Z]?[a-z]{2,}")
_CODE_SIGN = re.compile(r"#(?=.*\d)([A-Za-z\d]+(?:-[A-Za-z\d]+)*)")
_ANY_PARTS = re.compile(r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[^\W\d_]+(?:['-][^\W\d_]+)*|.")
_LETTER = re.compile(r"[^\W\d_]")
_SIGNS = {",": ",", "=": "equals", "+": "plus", "%": "percent", "&": "and", "@": "at", "#": "number", "$": "dollars"}
_VOWEL = re.compile(r"[aeiouyAEIOUY]")


def any_parts(window: Window) -> Reading | None:
    """Any other word with figures or signs: its parts one by one, without most of the signs between them."""
    parts = _ANY_PARTS.findall(window.first.core)
    return (Said(1, " ".join(filter(None, map(_any_part, parts))).replace(" ,", ",")),)


def any_signs(window: Window) -> Reading | None:
    """The same for a word with signs that no other rule knows; a sign without a letter has its own rule."""
    return any_parts(window) if _LETTER.search(window.first.core) else None


def _any_part(part: str) -> str:
    if part[0].isdecimal():
        whole = part.replace(",", "")
        return number(part) if len(whole) < 7 and not (part[0] == "0" and part[1:2].isdecimal()) else digits(part)
    return letters(part) if part[0].isalpha() else _SIGNS.get(part, "")


def addresses(window: Window) -> Reading | None:
    """The address of a machine, with its port or the length of its prefix: "192.168.1.10:8080", "fe80::1"."""
    if match := _IPV6.fullmatch(window.first.core):
        groups = " colon ".join(map(spelled, window.first.core.split("/")[0].split(":")))
        return (Said(1, " ".join(f"{groups}{f' slash {_figures(match[1])}' if match[1] else ''}".split())),)
    match = _ADDRESS.fullmatch(window.first.core)
    if match is None:
        return None
    said = " dot ".join(digits(part) if len(part) > 2 else cardinal(int(part)) for part in match[1].split("."))
    behind = "" if not match[2] else f" {'slash' if match[2] == '/' else 'colon'} {_figures(match[3])}"
    return (Said(1, said + behind),)


def extensions(window: Window) -> Reading | None:
    """The extension of a telephone number, "555-0199 x12", and how long a medicine is taken, "20 mg x7 days"."""
    match, before = _X_NUMBER.fullmatch(window.first.core), window.before()
    if match is None or before.tail:
        return None
    if (following := window.joined(1)) is not None and following.core in PERIODS:
        return (Said(1, f"for {number(match[1])}"),)
    if not (before.is_numeric and len(before.core) > 3) and not (before.core == "at" and len(match[1]) > 1):
        return None
    return (Said(1, f"extension {_figures(match[1])}"),)


def number_sign(window: Window) -> Reading | None:
    """A number sign: "#1", "#78123", "#A-1029", "\u00a73.2"."""
    if window.first.core.startswith("\u00a7"):
        section = _SECTION.fullmatch(window.first.core)
        return section and (Said(1, f"section {section_number(section[1])}"),)
    if match := _POUND_KEY.fullmatch(window.first.core):
        return (Said(1, f"{_figures(match[1])} pound"),)
    match = _NUMBER_SIGN.fullmatch(window.first.core)
    if match is None:
        code = None if _HASHTAG.match(window.first.core) else _CODE_SIGN.fullmatch(window.first.core)
        return code and (Said(1, f"number {spelled(code[1])}"),)
    by_digits = len(match[1]) > 3 or match[1].startswith("0") or window.before().core.lower() in CODE_WORDS
    return (Said(1, f"number {digits(match[1]) if by_digits else cardinal(int(match[1]))}"),)


def sections(window: Window) -> Reading | None:
    """Parts of a law: "401(k)", "12(b)(6)", "1692e(5)", "1798.100(a)(1)"."""
    match = _SECTIONS.fullmatch(window.first.core)
    if match is None or ")" not in window.first.core + window.first.tail:
        return None
    is_law = window.first.core[0] == "\u00a7" or window.before().core == "\u00a7"
    if not is_law and not _LETTER.search(match[3]):
        return None
    parts = re.findall(r"[A-Za-z\d]+", match[3])
    said = (cardinal(int(p)) if p.isdecimal() else _ROMAN_PARTS.get(p) or " ".join(p.upper()) for p in parts)
    sign = "section " if window.first.core[0] == "\u00a7" else ""
    return (Said(1, f"{sign}{_figures(match[1])}{_subsection(match[2] or '')} {' '.join(said)}"),)


def _subsection(text: str) -> str:
    """What stands behind the number of a section, with a blank before it: "e", ".100", "-3"."""
    if text.isalpha() or not text:
        return f" {text.upper()}".rstrip()
    return f"{' point' if text[0] == '.' else ''} {_figures(text[1:])}"


def reporters(window: Window) -> Reading | None:
    """Where a judgment is printed: "512 F.3d 88"."""
    match = _REPORTER.fullmatch(window.first.core)
    return match and (Said(1, f"{' '.join(match[1].replace('.', ''))} {ordinal(int(match[2]))}"),)


def groups(window: Window) -> Reading | None:
    """Groups of figures that name something: "Order 114-3941689-8772232", "case no. 24-1187"."""
    core = window.first.core
    if not _GROUPS.fullmatch(core):
        return None
    parts = core.split("-")
    if not (len(parts) > 2 and len(core) > 8) and not (is_named(window) and len(core) > 5):
        return None
    return (Said(1, ", ".join(map(digits, parts))),)


def codes(window: Window) -> Reading | None:
    """Letters and figures mixed, seats, halves and quarters of a year."""
    core = window.first.core
    if match := _SEATS.fullmatch(core):
        return (Said(1, f"{_figures(match[1])} {match[2]} to {_figures(match[3])} {match[4]}"),)
    if match := _PERIOD_RANGE.fullmatch(core):
        return (Said(1, f"{match[1]} {_figures(match[2])} to {match[1]} {_figures(match[3])}"),)
    if match := _PLURAL.fullmatch(core):
        return (Said(1, f"{_name(match[1])} {plural(_figures(match[2]))}"),)
    if not _MIXED.fullmatch(core):
        return None
    named = _NAMED_NUMBER.fullmatch(core)
    spell = named and len(named[2]) > 2 and window.before().core.lower() in SPELLED_CODES
    figures = digits(named[2]) if named and spell else _figures(named[2]) if named else ""
    if named and not (named[3] and len(named[1]) == 1):
        return (Said(1, " ".join(filter(None, [_name(named[1]), figures, named[3].upper()]))),)
    if (match := _NUMBER_LETTER.fullmatch(core)) and not is_code(window, match[1]):
        return (Said(1, f"{_figures(match[1])} {match[2].upper()}"),)
    return (Said(1, " ".join(_part(part) for part in re.split(r"[-_/]", core))),)


def _part(part: str) -> str:
    """One group of a code."""
    match = re.fullmatch(r"([A-Za-z]+)(\d{1,2})", part)
    return f"{_name(match[1])} {_figures(match[2])}" if match else _name(part) if part.isalpha() else spelled(part)


def _name(text: str) -> str:
    """The letters in front of figures: a name, or single ones."""
    is_word = len(text) > 3 and _VOWEL.search(text) and text not in LETTER_WORDS
    return text if is_word else " ".join(text.upper())


def _figures(text: str) -> str:
    if text.startswith("0") or len(text) > 4:
        return digits(text)
    return pairs(int(text)) if len(text) > 2 else cardinal(int(text))

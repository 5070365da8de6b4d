"""Words of capitals and other letters: "FBI", "APIs", "R&D", "U.S.", "and/or", "user_id"."""

import re

from dia2stream.text.tables import (
    AIRPORTS,
    BEFORE_AIRPORTS,
    BEHIND_IT,
    LETTER_WORDS,
    LETTERS_OR_WORDS,
    PER,
    SHOUTED,
    SMALL_LETTERS,
    SPECIAL_NAMES,
    SPELLED_LABELS,
    TWO_LETTER_WORDS,
)
from dia2stream.text.window import Reading, Said, Window

_CAPITALS = re.compile(r"([A-Z]{2,6})('?s)?")
_DOTTED_COMPOUND = re.compile(r"((?:[A-Z]\.){2,})-([a-z]+)")
_DOTTED = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]")
_WITH_AND = re.compile(r"([A-Za-z]+(?:&[A-Za-z]+)+)('s)?")
_WITH_PLUS = re.compile(r"([A-Za-z]{2,})\+")
_PERIODS = frozenset(["second", "minute", "hour", "day", "night", "week", "month", "year", "person"])
_SLASHES = re.compile(r"[A-Za-z']+(?:/[A-Za-z']+)+")
_HYPHENS = re.compile(r"[A-Z]{1,6}(?:-[A-Z]{1,6})+")
_VOWEL = re.compile(r"[AEIOUY]")
_SEVERAL = frozenset(["urls", "apis", "pdfs"])
_SIZES = re.compile(r"(X*[SL]|M)-(X*L|M)")
_GRADE = re.compile(r"([A-F])([+-])")
_LETTER_RANGE = re.compile(r"([A-Z])-([A-Z])")
# A word begins and ends in consonants like these; other capitals are letters, as "SFO" and "IDK".
_SAYABLE = re.compile(
    r"(?:[BCDFGHJKLMNPRSTVWYZ]?|QU|[BCFGPS]L|[BCDFGPTW]R|[CGPSTWRK]H|S[CKMNPTW]|SC?H?R|S[PT]R|SPL|T[WS]|DW|KN|GN|PS|SQU)"
    r"[AEIOUY]"
    r"(?:.*[AEIOUY])?"
    r"(?:[BCDFGHKLMNPRSTVWXZ]?|[LRNMFSPC]T|[LNRST]D|[LNRSC]K|NG|[LRM]P|[LR][FMBNG]|LV|RV|MB|[BDFGKLMNPRTVWC]S|"
    r"[CSTGP]H|[NRT]CH|SS|LL|FF|ZZ|GHT|GH|CK|CKS|NKS|DDS|SKS|WNS|CTS|PPS|GGS|GN|NF|NGS|NTS|NDS|RDS|RTS|RKS|LTS|STS|SK|SP|SM|RL|RLD|RST|NX|XT|LTH|NTH|"
    r"RTH|RCH|TCH|WN|WL|NN|TT|RR|DD|GG|BB)"
)


def acronyms(window: Window) -> Reading | None:
    """Capitals letter by letter, unless they are said as a word."""
    core = window.first.core
    if core in SPECIAL_NAMES:
        return (Said(1, SPECIAL_NAMES[core]),)
    if core in SMALL_LETTERS:
        return (Said(1, _small(core)),)
    if _in_brackets(window):
        return (Said(1, " ".join(core)),)
    if match := _GRADE.fullmatch(core):
        return (Said(1, f"{match[1]} {'plus' if match[2] == '+' else 'minus'}"),)
    if _DOTTED.fullmatch(core) and window.first.tail.startswith("."):
        return (Said(1, " ".join(core.upper().replace(".", "")), "" if core == "P.S" else window.without_dots()),)
    if _DOTTED.fullmatch(core) and core.isupper():
        return (Said(1, " ".join(core.replace(".", ""))),)
    if match := _DOTTED_COMPOUND.fullmatch(core):
        return (Said(1, f"{' '.join(match[1].replace('.', ''))} {match[2]}"),)
    if core == "PhD" or core == "Ph.D":
        return (Said(1, "P H D", window.without_dot() if "." in core else None),)
    if core in AIRPORTS and window.before().core in BEFORE_AIRPORTS:
        return (Said(1, " ".join(core)),)
    if core in LETTERS_OR_WORDS and not _is_name(window):
        return None
    said = letters(core)
    return (Said(1, said),) if said != core else None


def _small(text: str) -> str:
    """Small letters one by one: "ssh", "urls"."""
    if text in _SEVERAL:
        return f"{' '.join(text[:-1].upper())}'s"
    return " ".join(text.upper())


def _in_brackets(window: Window) -> bool:
    """Whether three capitals are what stands for the name before them: "Reykjavik (KEF)"."""
    token, before = window.first, window.before()
    if len(token.core) != 3 or not token.core.isupper() or token.lead != "(" or token.tail[:1] != ")":
        return False
    return before.is_capitalised and not before.core.isupper() and token.core not in SHOUTED


def _is_name(window: Window) -> bool:
    """Whether "US", "IT" or "WHO" is a name here and no shouted word."""
    before = window.before()
    if before.core.isupper() and len(before.core) > 1 and letters(before.core) == before.core:
        return False
    following = window.joined(1) if window.first.core == "IT" else None
    if following is not None and following.core in BEHIND_IT:
        return True
    return window.first.core == "US" or before.core.lower() in ("the", "our", "your", "in", "an", "of")


def letters(text: str) -> str:
    """One word of capitals, letter by letter where nobody can say it as a word."""
    match = _CAPITALS.fullmatch(text)
    if match is None:
        return text
    capitals, ending = match.groups()
    if capitals not in LETTER_WORDS and capitals not in LETTERS_OR_WORDS and is_word(capitals):
        return text
    return " ".join(capitals) + ("'s" if ending else "")


def is_word(capitals: str) -> bool:
    """Whether capitals may be shouted, or a name that is said as a word: "NASA", not "SFO" and not "AC"."""
    if len(capitals) == 2:
        return capitals in TWO_LETTER_WORDS
    return bool(_VOWEL.search(capitals)) and (len(capitals) > 4 or _SAYABLE.fullmatch(capitals) is not None)


def joined_words(window: Window) -> Reading | None:
    """Several words in one: "R&D", "and/or", "snake_case", "TCP/IP", "USB-C", "A-Z"."""
    core = window.first.core
    if match := _WITH_PLUS.fullmatch(core):
        return (Said(1, f"{letters(match[1])} plus"),)
    if match := _WITH_AND.fullmatch(core):
        said = " and ".join(" ".join(p) if p.isupper() and len(p) < 3 else letters(p) for p in match[1].split("&"))
        return (Said(1, said + (match[2] or "")),)
    head, slash, last = core.rpartition("/")
    if slash and (last in PER or last in _PERIODS) and window.before().is_numeric and head.isalpha():
        return (Said(1, f"{letters(head)} per {PER.get(last, last)}"),)
    if _SLASHES.fullmatch(core):
        parts = core.split("/")
        return (Said(1, " ".join(" ".join(p) if p.isupper() and len(p) < 3 else letters(p) for p in parts)),)
    if "_" in core and re.fullmatch(r"\w+", core):
        return (Said(1, " ".join(_part(part) for part in core.split("_") if part)),)
    if match := _SIZES.fullmatch(core):
        return (Said(1, f"{' '.join(match[1])} to {' '.join(match[2])}"),)
    if (match := _LETTER_RANGE.fullmatch(core)) and match[1] < match[2]:
        return (Said(1, f"{match[1]} to {match[2]}"),)
    if _HYPHENS.fullmatch(core):
        said = " ".join(letters(part) for part in core.split("-"))
        return (Said(1, said),) if said != core.replace("-", " ") else None
    return None


def _part(text: str) -> str:
    """One word of a "snake_case" name."""
    return " ".join(text.upper()) if text.lower() in SPELLED_LABELS else letters(text)

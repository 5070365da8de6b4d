"""What is typed into a computer: "--epochs", "/usr/bin", "Ctrl+C", "i++", "&&", "OOMKilled", "SELECT * FROM"."""

import re

from dia2stream.text.rules.acronyms import letters
from dia2stream.text.rules.web import read_aloud
from dia2stream.text.tables import KEYS
from dia2stream.text.window import Reading, Said, Window

# Signs that stand alone in the text of a program, and in no other.
OPERATORS = {
    "&&": "and", "||": "or", "===": "equals", "!==": "is not equal to", "+=": "plus equals", "-=": "minus equals",
    "*=": "times equals", "/=": "divided by equals", "++": "plus plus", ":=": "is set to", "~=": "compatible with",
}  # fmt: skip
_FLAG = re.compile(r"(--?)([A-Za-z][\w-]*)")
_PATH = re.compile(r"(~|\.{1,2}|[A-Z]:)?(?:[/\\][\w.-]+)+[/\\]?")
_MEMBERS = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w+)+")
_LETTERS = re.compile(r"[a-z](?:\.[a-z]){2,}")
_WORDS_OF_TEXT = frozenset(
    "the an and it we you to is in of on at as then this that but so if for not yes please my your he she they".split()  # noqa: SIM905
)
_INCREMENT = re.compile(r"([A-Za-z_]\w*)(\+\+|--)")
_CAPITALS_AND_WORD = re.compile(r"([A-Z]{2,})([A-Z][a-z]{3,})")
_SAID_AS_WORD = re.compile(r"[aeiouy]", re.IGNORECASE)


def typed(window: Window) -> Reading | None:
    """Flags, paths, keys, and names that are counted up."""
    core = window.first.core
    if match := _FLAG.fullmatch(core):
        return (Said(1, f"{'dash ' * len(match[1])}{_flag(match[2])}"),)
    if match := _INCREMENT.fullmatch(core):
        return (Said(1, f"{match[1]} {' '.join(['plus' if match[2] == '++' else 'minus'] * 2)}"),)
    first, *others = core.split("+")
    if others and all(others) and first in KEYS:
        return (Said(1, " ".join(KEYS.get(key) or letters(read_aloud(key)) for key in (first, *others))),)
    return (Said(1, read_aloud(core)),) if _PATH.fullmatch(core) else None


def _flag(text: str) -> str:
    """ "rf" -> "R F", "dry-run" -> "dry run"."""
    return text.replace("-", " ") if len(text) == 1 or _SAID_AS_WORD.search(text) else " ".join(text.upper())


def capitals_and_word(window: Window) -> Reading | None:
    """A name that begins with letters: "OOMKilled", "HTMLElement"."""
    match = _CAPITALS_AND_WORD.fullmatch(window.first.core)
    return match and (Said(1, f"{letters(match[1])} {match[2]}"),)


def members(window: Window) -> Reading | None:
    """A name of a program with dots in it: "process.env.PORT"; "the end.the next" only lacks a space."""
    core = window.first.core
    if _LETTERS.fullmatch(core):  # "a.b.c"; with a dot at the end it is an abbreviation
        return (Said(1, core.upper().replace(".", " dot ")),)
    if not _MEMBERS.fullmatch(core):
        return None
    if core.rpartition(".")[2] in _WORDS_OF_TEXT:
        return (Said(1, core.replace(".", ". ")),)
    return (Said(1, read_aloud(core.replace("_", " "))),)


def all_columns(window: Window) -> Reading | None:
    """The star of a query: "SELECT * FROM users"."""
    if window.first.core != "*":
        return None
    if window.before().core.upper() != "SELECT":
        following = window.word(1)
        if following is None or following.core != "FROM":
            return None
    return (Said(1, "star"),)

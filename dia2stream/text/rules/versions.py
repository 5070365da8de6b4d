"""Versions of software: "v1.2.3", "Python 3.12", "macOS 14.2-15", "numpy>=1.26,<2.0"."""

import re

from dia2stream.text.numbers import cardinal, digits
from dia2stream.text.tables import SOFTWARE
from dia2stream.text.window import Reading, Said, Window

_NUMBERS = r"\d{1,4}(?:\.\d{1,4})+"
_VERSION = re.compile(rf"(v)?({_NUMBERS})(?:[-+.]?([a-z]+)[-.]?(\d*))?", re.IGNORECASE)
_BEHIND_NAME = re.compile(r"(\d{1,3}\.\d{1,4})(?:-(\d{1,3}(?:\.\d{1,4})?))?(\+?)")
_REQUIRED = re.compile(rf"([A-Za-z][\w.-]*?)((?:,?(?:[<>=!~]=?=?|\^)(?:{_NUMBERS}|\d+))+)")
_BOUND = re.compile(rf"([<>=!~^]+)({_NUMBERS}|\d+)")
_BOUNDS = {
    "==": "equals", "=": "equals", "===": "equals", ">=": "greater than or equal to", "<=": "less than or equal to",
    ">": "greater than", "<": "less than", "!=": "is not equal to", "~=": "compatible with", "~": "compatible with",
    "^": "compatible with",
}  # fmt: skip


def versions(window: Window) -> Reading | None:
    """A version that a "v", a second dot, or the name of its software tells from a number with decimals."""
    core = window.first.core
    if (match := _BEHIND_NAME.fullmatch(core)) and is_software(window):
        said = " to ".join(map(version_said, filter(None, match.groups()[:2])))
        return (Said(1, said + (" plus" if match[3] else "")),)
    match = _VERSION.fullmatch(core)
    if match is None or not (match[1] or match[2].count(".") > 1):
        return None
    names = match[1] and window.before().core.lower() != "version"
    said = ("version " if names else "") + version_said(match[2])
    if match[3]:
        is_word = len(match[3]) > 3 and set(match[3].lower()) & set("aeiouy")
        said += f" {match[3] if is_word else ' '.join(match[3].upper())}"
    return (Said(1, f"{said} {cardinal(int(match[4]))}" if match[4] else said),)


def version_said(text: str) -> str:
    """ "3.12" -> "three point twelve", "22.04" -> "twenty two point zero four"."""
    parts = text.split(".")
    word = "dot" if len(parts) == 4 else "point"
    said = (digits(part) if len(part) > 2 or part[0] == "0" else cardinal(int(part)) for part in parts)
    return f" {word} ".join(said)


def is_software(window: Window) -> bool:
    """Whether the word before names what has versions: "Python", "iOS", "TLS"."""
    before = window.before()
    return not before.tail and before.core.lower() in SOFTWARE


def requirements(window: Window) -> Reading | None:
    """The versions that are asked for of a package: "torch==2.1.0", "numpy>=1.26,<2.0"."""
    core = window.first.core
    match = _REQUIRED.fullmatch(core)
    if match is None or "." not in match[2]:
        return None
    said = (f"{_BOUNDS.get(sign, '')} {version_said(number)}" for sign, number in _BOUND.findall(match[2]))
    return (Said(1, f"{match[1]} {', '.join(said)}"),)

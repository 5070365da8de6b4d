"""Telephone numbers and others in groups: "(212) 555-0147", "+1 800 555 0199", "4242 4242 4242 4242"."""

import re

from dia2stream.text.numbers import digits
from dia2stream.text.window import HELD_WORDS, Reading, Said, Window

_GROUPS = re.compile(r"\+?\d+(?:[-.]\(?\d+\)?)*")
# Lengths of the groups, of numbers that are certainly no other thing.
_SHAPES = frozenset([(3, 3, 4), (1, 3, 3, 4), (3, 4), (4, 4, 4), (4, 4, 4, 4), (4, 6, 5), (3, 2, 4), (5, 4), (3, 3, 3)])
_ALONE = frozenset([(3, 4), (5, 4), (3, 3, 3)])  # only within one word: "555-1234", "78701-1234"
_INTERNATIONAL = re.compile(r"(?:tel:)?\+(\d{8,15})")
_WITH_LETTERS = re.compile(r"(?:(1)-)?(8\d\d|900)-((?:\d{3}-)?[A-Z][A-Z-]{2,})")
_FIRST = re.compile(r"\+\d+|1|\d{3}|\d{4}|\+?\d+[-.(].*")


def phones(window: Window) -> Reading | None:
    """A whole number, as long as its groups are those of one."""
    core = window.first.core
    if core[:1] in "+t" and (match := _INTERNATIONAL.fullmatch(core)):
        return (Said(1, _international(match[1])),)
    if core[-1:].isupper() and (match := _WITH_LETTERS.fullmatch(core)):
        figures, letters = (match[3].partition("-")[::2]) if match[3][0].isdecimal() else ("", match[3])
        groups = [group for group in (match[1], match[2], figures, letters.replace("-", " ")) if group]
        return (Said(1, ", ".join(_said_groups(groups))),)
    sign = "number " if core[0] == "#" else ""
    first = core.removeprefix("#").replace(")", "-")  # "(212)555-0147"
    if not _FIRST.fullmatch(first) or not _GROUPS.fullmatch(first):
        return None
    words: list[list[str]] = []
    best = 0
    for number in range(HELD_WORDS):
        token = _next(window, number) if number else first
        if token is None or not _GROUPS.fullmatch(token) or len(token) > 20:
            break
        words.append(re.findall(r"\d+", token))
        if _is_known(words, first.startswith("+")):
            best = len(words)
    tails = [*[","] * (best - 1), None]
    said = [_said(word, not number, window) for number, word in enumerate(words[:best])]
    return [Said(1, sign * (not number) + text, tails[number]) for number, text in enumerate(said)] or None


def _international(figures: str) -> str:
    """A number without blanks: "+14155552671"."""
    if len(figures) == 11 and figures[0] == "1":
        return "plus " + ", ".join(_said_groups([figures[0], figures[1:4], figures[4:7], figures[7:]]))
    return f"plus {digits(figures)}"


def _said_groups(groups: list[str]) -> list[str]:
    return ["eight hundred" if group == "800" else digits(group) if group.isdecimal() else group for group in groups]


def _next(window: Window, number: int) -> str | None:
    """The core of the next word, if nothing but the brackets of an area code stands in between."""
    previous = window.word(number - 1)
    assert previous is not None
    if previous.tail not in ("", ")"):
        return None
    word = window.word(number)
    return word.core if word is not None and word.lead in ("", "(") else None


def _is_known(words: list[list[str]], international: bool) -> bool:
    shape = tuple(len(group) for word in words for group in word)
    if international:
        return len(shape) > 1 and 8 <= sum(shape) <= 15
    if shape in _ALONE:
        return len(words) == 1
    if len(words) == len(shape) > 4 and set(shape[:-1]) == {4} and shape[-1] < 5:
        return True  # of a parcel
    if shape[0] == 1:
        return shape in _SHAPES and words[0][0] == "1"
    return shape in _SHAPES


def _said(groups: list[str], is_first: bool, window: Window) -> str:
    """One word of it."""
    said = _said_groups(groups)
    if is_first and window.first.core.startswith("+"):
        said[0] = f"plus {said[0]}"
    return ", ".join(said)

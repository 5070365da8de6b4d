"""Sentences by rules: `grammar.txt` -> alternatives, and blanks that are filled anew each time.

Example: "greeting: Hi {first}! | Hello." and "first: Anna | Ben" make "Hi Ben!". A name that the file does not have is
a function of the caller's: {word}, {money}.
"""

import random
import re
from collections.abc import Callable
from pathlib import Path

FILE = Path(__file__).parent / "grammar.txt"
DEEPEST = 12  # blanks within blanks; more is a circle

_BLANK = re.compile(r"\{(?:([aAs]):)?(\w+)\}")

Maker = Callable[[random.Random], str]


class Grammar:
    """Rules, and makers of what the rules do not say."""

    def __init__(self, rules: dict[str, list[str]], makers: dict[str, Maker] | None = None) -> None:
        self.rules, self.makers = rules, dict(makers or {})

    @classmethod
    def from_file(cls, path: Path = FILE, makers: dict[str, Maker] | None = None) -> "Grammar":
        """Reads a file. Raises ValueError, naming them, for blanks that nothing fills."""
        built = cls(read_rules(path.read_text(encoding="utf-8")), makers)
        if makers is not None and (unknown := built.unknown()):
            raise ValueError(f"{path.name}: nothing fills {', '.join(sorted(unknown))}")
        return built

    def unknown(self) -> set[str]:
        """Blanks that neither a rule nor a maker fills."""
        used = {name for texts in self.rules.values() for text in texts for _, name in _BLANK.findall(text)}
        return {name for name in used if not {name, name.lower()} & (self.rules.keys() | self.makers.keys())}

    def sentence(self, name: str, dice: random.Random) -> str:
        """A text of the rule `name`, its sentences with capitals."""
        text = self._fill(name, dice, 0)
        return re.sub(r"(?:^|(?<=[.?!] ))[a-z]", lambda first: first[0].upper(), text)

    def _fill(self, name: str, dice: random.Random, depth: int) -> str:
        if depth > DEEPEST:
            raise RecursionError(f"{name} goes round in circles")
        if name in self.makers:
            return self.makers[name](dice)
        return _BLANK.sub(lambda blank: self._blank(blank, dice, depth), dice.choice(self.rules[name]))

    def _blank(self, blank: re.Match[str], dice: random.Random, depth: int) -> str:
        form, name = blank[1], blank[2]
        own = name if name in self.rules or name in self.makers else name.lower()
        text = self._fill(own, dice, depth + 1)
        if form in ("a", "A"):
            text = with_article(text)
        elif form == "s":
            text = plural(text)
        return text if own == name and form != "A" else text[0].upper() + text[1:]


def read_rules(text: str) -> dict[str, list[str]]:
    """ "name:" and alternatives between bars, or "name::" and one a line."""
    rules: dict[str, list[str]] = {}
    name, by_line, rest = "", False, ""
    for line in [*text.splitlines(), "end:"]:
        if line.startswith("#") or not line.strip():
            continue
        if line.startswith(" "):
            if by_line:
                rules[name].append(line.strip())
            else:
                rest += " " + line.strip()
            continue
        if name and not by_line:
            rules[name] = [part.strip() for part in rest.split("|") if part.strip()]
        name, _, rest = line.partition(":")
        by_line = rest.startswith(":")
        rules[name] = []
    del rules["end"]
    return rules


def with_article(text: str) -> str:
    """Good enough for words that sound as they are written; single letters by their names."""
    if len(text) == 1:
        return f"{'an' if text in 'AEFHILMNORSX' else 'a'} {text}"
    hard = re.match(r"(?i)(uni|use|usu|util|ewe|eur|one\b|once)", text)
    silent = re.match(r"(?i)(hour|honest|honou?r|heir)", text)
    return f"{'an' if silent or (text[0].lower() in 'aeiou' and not hard) else 'a'} {text}"


def plural(word: str) -> str:
    """A regular plural."""
    if word.endswith(("s", "x", "ch", "sh", "z", "to")):
        return word + "es"
    if word.endswith("fe"):
        return word[:-2] + "ves"
    return word[:-1] + "ies" if re.search("[^aeiou]y$", word) else word + "s"

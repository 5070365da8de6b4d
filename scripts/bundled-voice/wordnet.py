"""Words and sentences of WordNet, from the files of Debian's wordnet-base, and the forms that words take."""

import re
from collections.abc import Iterator
from pathlib import Path

from grammar import plural

FOLDER = Path("/usr/share/wordnet")
PARTS = ("noun", "verb", "adj", "adv")


class WordNet:
    """A folder with data.noun, data.verb, verb.exc and so on."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder
        self._irregular = {part: self._exceptions(part) for part in ("noun", "verb")}

    def examples(self) -> Iterator[str]:
        """Sentences and phrases from between quotation marks."""
        for part in PARTS:
            for _, gloss in self._entries(part):
                for example in re.findall(r'"([^"]+)"', gloss):
                    yield _tidy(example)

    def definitions(self) -> Iterator[str]:
        """What words mean, as a sentence or as a phrase alone; by turns, which every run takes alike."""
        for part in PARTS:
            for number, (words, gloss) in enumerate(self._entries(part)):
                meaning = _tidy(re.sub(r"\([^)]*\)", "", gloss.partition('"')[0]).strip(" ;"))
                meaning = meaning.partition(";")[0].strip()
                word = words[0].replace("_", " ")
                if part == "noun" and number % 3 == 0 and word.islower():
                    yield f"{word} is {meaning}"
                elif part == "verb" and number % 3 == 0:
                    yield f"to {word} means to {meaning}"
                else:
                    yield meaning

    def words(self, part: str) -> list[str]:
        """Single lower-case words of a part of speech, in the order of the file, each once."""
        found = {word: None for words, _ in self._entries(part) for word in words if re.fullmatch("[a-z]{3,}", word)}
        return list(found)

    def plural(self, noun: str) -> str:
        """ "mice" of "mouse", "cats" of "cat"."""
        return self._irregular["noun"].get((noun, "s")) or plural(noun)

    def past(self, verb: str) -> str:
        """ "went" of "go", "stopped" of "stop"."""
        if irregular := self._irregular["verb"].get((verb, "ed")):
            return irregular
        return verb + "d" if verb.endswith("e") else _stem(verb) + "ed"

    def ing(self, verb: str) -> str:
        """ "making" of "make"."""
        if verb.endswith("ie"):
            return verb[:-2] + "ying"
        if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")):
            return verb[:-1] + "ing"
        return _doubled(verb) + "ing"

    def third(self, verb: str) -> str:
        """ "goes" of "go"."""
        if verb in ("be", "have"):
            return {"be": "is", "have": "has"}[verb]
        return verb + "es" if verb.endswith("o") else plural(verb) if not verb.endswith("fe") else verb + "s"

    def _exceptions(self, part: str) -> dict[tuple[str, str], str]:
        """(word, "s" or "ed") -> the irregular form: the first one that is no participle."""
        found: dict[tuple[str, str], str] = {}
        for line in (self.folder / f"{part}.exc").read_text(encoding="utf-8").splitlines():
            form, word, *_ = line.split()
            if part == "verb" and form.endswith(("ing", "s")):
                continue
            found.setdefault((word, "s" if part == "noun" else "ed"), form)
        return found | {(word, "ed"): past for word, past in _PASTS.items()} if part == "verb" else found

    def _entries(self, part: str) -> Iterator[tuple[list[str], str]]:
        """The words of each meaning, and its gloss."""
        for line in (self.folder / f"data.{part}").read_text(encoding="utf-8").splitlines():
            if line.startswith(" "):  # the licence
                continue
            data, _, gloss = line.partition("|")
            fields = data.split()
            count = int(fields[3], 16)
            words = [re.sub(r"\(.*\)", "", word) for word in fields[4 : 4 + 2 * count : 2]]
            yield words, gloss.strip()


# Where the file of exceptions names a participle first, or both.
_PASTS = dict(
    pair.split("-")
    for pair in (
        "be-was begin-began bite-bit blow-blew break-broke choose-chose come-came do-did draw-drew drink-drank "
        "drive-drove eat-ate fall-fell fly-flew forget-forgot freeze-froze get-got give-gave go-went grow-grew "
        "have-had hide-hid know-knew lie-lay ride-rode ring-rang rise-rose run-ran see-saw shake-shook show-showed "
        "sing-sang sink-sank speak-spoke steal-stole swear-swore swim-swam take-took tear-tore throw-threw wake-woke "
        "wear-wore write-wrote"
    ).split()
)


def _tidy(text: str) -> str:
    return " ".join(text.replace("`", "'").replace(":", ",").split())


def _stem(verb: str) -> str:
    return verb[:-1] + "i" if re.search("[^aeiou]y$", verb) else _doubled(verb)


def _doubled(verb: str) -> str:
    """The last consonant twice, in words of one syllable."""
    return verb + verb[-1] if re.fullmatch("[^aeiou]+[aeiou][bdgklmnprt]", verb) else verb

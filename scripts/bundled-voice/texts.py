"""What the voices read while the model learns: `texts.py FOLDER [--seed 1]` -> FOLDER/texts.txt, no two lines alike.

    grammar.txt, WordNet, written.py -> as agents write -> the text front end -> as it is said -> a file a kind

Each kind teaches something else (`KINDS`). Then `rare` adds sentences for words that stand fewer than ENOUGH times.
At last the lines are put in order, so that any first part of them, as it is the part that time is left to speak, has
the words that people use most often enough, and then the others (`NEEDS`). A line of test-20.txt, test-100.txt, of
scripts/judge or of the tests' texts is not among them, nor five words in a row of one (`HeldOut`).

A file that is there is kept: a run that was cut short goes on. The same seed makes the same lines.
"""

import argparse
import itertools
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import written
from grammar import Grammar
from wordnet import WordNet

from dia2stream.text.front_end import TextFrontEnd
from dia2stream.text.normalizer import PieceKind

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENOUGH = 20  # times that any word should stand
OFTEN = ((3_000, 150), (10_000, 50))  # so many of the most frequent words, and how often those should stand
# What the first lines are there for, one need after the other: so many of the most frequent words, so many times each.
NEEDS = ((3_000, 20), (10_000, 8), (3_000, 50), (25_000, 3), (10_000, 25), (60_000, 3), (25_000, 10), (60_000, ENOUGH))
SHARES = (0.6, 0.4, 0.25, 0.0)  # of a line's words, which must lack something: dense lines first
AT_ONCE = 500  # lines that are looked at together
COMMON, KNOWN = 25_000, 60_000  # words that all stand in lists; words without which a sentence of WordNet is left out
LISTED = (3_000, 10_000, 3_000, 10_000, 25_000)  # so many of the most frequent words, in lists
RUN = 5  # words in a row that no line shares with a test
MOST_WORDS, MOST_CHARACTERS = 42, 260
# How many lines of each kind are asked for: WordNet gives what it has, `rare` what words lack.
KINDS = {
    "examples": 60_000,
    "definitions": 120_000,
    "lists": 60_000,
    "everyday": 45_000,
    "agent": 80_000,
    "caller": 30_000,
    "assistant": 35_000,
    "turn": 35_000,
    "question": 45_000,
    "scene": 80_000,
    "names": 40_000,
    "letters": 45_000,
    "figures": 75_000,
    "backchannel": 300,
    "reply": 300,
}
RARE_LINES, ROUNDS = 300_000, 4  # at most, a round: a line that is there already takes its words with it

_SPEAKABLE = re.compile(r"[A-Za-z ,.?!'-]+")
_WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*")


def words_of(text: str) -> list[str]:
    """Its words, in lower case, without the marks around them."""
    return _WORD.findall(text.lower())


# ---- What must not be learnt ----


class HeldOut:
    """The tests' sentences: none of them is a line, and no line has RUN words in a row of one."""

    def __init__(self, sentences: Iterable[str]) -> None:
        said = [tuple(words_of(sentence)) for sentence in sentences]
        self.whole = set(said)
        self.runs = {words[at : at + RUN] for words in said for at in range(len(words) - RUN + 1)}

    def has(self, text: str) -> bool:
        """Whether a line is too near to a test."""
        words = tuple(words_of(text))
        return words in self.whole or any(words[at : at + RUN] in self.runs for at in range(len(words) - RUN + 1))


def test_sentences() -> list[str]:
    """All that is spoken to tests and judges: as it is written, and as it is said."""
    sys.path.append(str(ROOT / "scripts" / "judging"))
    import material

    found = [line for path in HERE.glob("test-*.txt") for line in path.read_text(encoding="utf-8").splitlines()]
    judged = [*material.SENTENCES.values(), *material.HELD_OUT_SENTENCES.values()]
    found += [text for texts in judged for text in texts]
    found += [*material.INTERRUPTED, *material.REPLIES, *material.HELD_OUT, *material.HELD_OUT_REPLIES]
    for path in (ROOT / "tests" / "texts").glob("*.json"):
        pairs = [pair for pairs in json.loads(path.read_text(encoding="utf-8")).values() for pair in pairs]
        found += [said for _, said in pairs]
    parts = [part for text in found for part in re.split(r"\[S[12]\]", text) if part.strip()]
    sentences = [sentence for part in parts for sentence in re.split(r"(?<=[.?!]) ", part.strip())]
    return sentences + [said for text in parts if (said := spoken(text))]


# ---- As it is said ----


def spoken(text: str) -> str | None:
    """A line as the product's text front end hands it to the model; None where a voice cannot read all of it."""
    front_end = TextFrontEnd("spoken", makes_sounds=False)
    pieces = front_end.feed(text) + front_end.flush()
    said = " ".join(piece.said for piece in pieces)
    if not said or any(piece.kind is not PieceKind.WORD for piece in pieces) or not _SPEAKABLE.fullmatch(said):
        return None
    if len(said) > MOST_CHARACTERS or not 1 <= len(said.split()) <= MOST_WORDS or not words_of(said):
        return None
    return said[0].upper() + said[1:] + ("" if said[-1] in ".?!" else ".")


# ---- Where lines come from ----


class Sources:
    """Lines of every kind, as an agent would write them."""

    def __init__(self, wordnet: WordNet, ranked: list[str]) -> None:
        """ranked: English words, the most frequent first."""
        self.wordnet, self.ranked = wordnet, ranked
        self.missing: list[str] = []  # words for {word}, the next one last

    @cached_property
    def grammar(self) -> Grammar:
        """grammar.txt, with WordNet's words, names and figures in its blanks."""
        return Grammar.from_file(makers=written.makers() | self._words() | self._names())

    def lines(self, kind: str, dice: random.Random) -> Iterator[str]:
        """Lines of a kind: without end, but for WordNet's and lists."""
        if kind == "examples":
            yield from self._known(self.wordnet.examples(), dice)
        elif kind == "definitions":
            yield from self._known(self.wordnet.definitions(), dice)
        elif kind == "lists":
            yield from word_lists(self.ranked, dice)
        else:
            while kind != "rare" or self.missing:
                yield self.grammar.sentence(kind, dice)

    def _known(self, lines: Iterator[str], dice: random.Random) -> Iterator[str]:
        """Those of at least two words, all of which people know; shuffled."""
        known = set(self.ranked[:KNOWN]) | {"a", "i", "o"}
        fit = [line for line in lines if len(words_of(line)) > 1 and set(words_of(line)) <= known]
        dice.shuffle(fit)
        yield from fit

    def _words(self) -> dict[str, Callable[[random.Random], str]]:
        """WordNet's words that people know, in their forms."""
        known, net = set(self.ranked[: COMMON + 5000]), self.wordnet
        nouns, verbs, adjectives, adverbs = (
            [word for word in net.words(part) if word in known] for part in ("noun", "verb", "adj", "adv")
        )
        return {
            "noun": lambda dice: dice.choice(nouns),
            "nouns": lambda dice: net.plural(dice.choice(nouns)),
            "verb": lambda dice: dice.choice(verbs),
            "verbs": lambda dice: net.third(dice.choice(verbs)),
            "past_verb": lambda dice: net.past(dice.choice(verbs)),
            "verb_ing": lambda dice: net.ing(dice.choice(verbs)),
            "adj": lambda dice: dice.choice(adjectives),
            "adv": lambda dice: dice.choice(adverbs),
            "word": lambda dice: self.missing.pop() if self.missing else dice.choice(nouns),
        }

    def _names(self) -> dict[str, Callable[[random.Random], str]]:
        """People, towns and companies."""
        given, family, towns, endings = names()
        company = lambda dice: f"{dice.choice(family)} {dice.choice(endings)}"  # noqa: E731
        return {
            "given": lambda dice: dice.choice(given),
            "given_possessive": lambda dice: f"{dice.choice(given)}'s",
            "family": lambda dice: dice.choice(family),
            "town": lambda dice: dice.choice(towns),
            "company": company,
            "spelt": lambda dice: written.spelt(dice.choice(dice.choice([given, family]))),
            "spelt_family": lambda dice: written.spelt(dice.choice(family)),
            "address": lambda dice: written.address(dice, dice.choice(family), dice.choice(towns)),
            "email": lambda dice: written.email(dice, dice.choice(given), dice.choice(family)),
            "url": lambda dice: written.url(dice, dice.choice(family)),
        }


def names() -> tuple[list[str], list[str], list[str], list[str]]:
    """Given names, family names, towns, and what companies are called: plain ASCII, sorted."""
    from faker.providers.geo import Provider as Places
    from faker.providers.person.en_US import Provider as People

    towns = {town for _, _, town, *_ in Places.land_coords}
    groups = (set(People.first_names), set(People.last_names), towns)
    plain = [sorted(name for name in group if re.fullmatch("[A-Za-z][A-Za-z' ]+", name)) for group in groups]
    endings = (
        "Bank Travel Energy Motors Dental Clinic Insurance Hotels Pizza Electronics Pharmacy Airlines Mobile Foods"
    )
    return plain[0], plain[1], plain[2], endings.split()


def word_lists(ranked: Sequence[str], dice: random.Random) -> Iterator[str]:
    """Words in lists of a few, over and over, with pauses between some; the most frequent words in more of them."""
    for most in itertools.cycle(LISTED):
        order = list(ranked[:most])
        dice.shuffle(order)
        rest = iter(order)
        while chosen := list(itertools.islice(rest, dice.randint(4, 9))):
            yield "".join(word + dice.choice([" ", " ", ", "]) for word in chosen).strip(" ,").capitalize() + "."


def ranked_words(most: int) -> list[str]:
    """English words that can be read, the most frequent first."""
    from wordfreq import top_n_list

    usual = re.compile(r"(?=.*[aeiouy])[a-z]{2,}('(s|t|re|ve|ll|d))?|a|i")
    return [word for word in top_n_list("en", 2 * most) if usual.fullmatch(word)][:most]


# ---- All of them ----


def write_kind(path: Path, lines: Iterator[str], most: int, held_out: HeldOut, seen: set[str]) -> None:
    """Up to `most` lines as they are said, none of them seen before, into a file, if it is not there."""
    if not path.exists():
        found: dict[str, None] = {}
        for tries, line in enumerate(lines):
            said = spoken(line)
            if said and said.lower() not in seen and not held_out.has(said):
                found[said] = None
                seen.add(said.lower())
            if len(found) >= most or tries > 20 * most:
                break
        partial = path.with_suffix(".part")
        partial.write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
        partial.rename(path)
    seen.update(line.lower() for line in read_lines(path))


def read_lines(path: Path) -> list[str]:
    """Of a file."""
    return path.read_text(encoding="utf-8").splitlines()


def lacking(lines: Iterable[str], ranked: Sequence[str], dice: random.Random) -> list[str]:
    """Words of the lines and of `ranked`, each as often as it lacks to what it should stand; shuffled."""
    counts = Counter(word for line in lines for word in words_of(line))
    wanted = dict.fromkeys([*counts, *ranked], ENOUGH)
    for most, times in reversed(OFTEN):
        wanted |= dict.fromkeys(ranked[:most], times)
    missing = [word for word, times in sorted(wanted.items()) for _ in range(times - counts[word])]
    dice.shuffle(missing)
    return missing


def ordered(lines: list[str], ranked: Sequence[str], dice: random.Random) -> list[str]:
    """Shuffled, and of every two lines one is there for what its words lack.

    Frequent words come first, as NEEDS has it, and lines that are full of lacking words before those that have one.
    """
    order = list(lines)
    dice.shuffle(order)
    ids: dict[str, int] = {word: number for number, word in enumerate(ranked)}
    said = [[ids.setdefault(word, len(ids)) for word in words_of(line)] for line in order]
    nothing = len(ids)  # stands where a line has ended
    words = np.full((len(said), max(map(len, said), default=0)), nothing, np.int32)
    for row, own in zip(words, said, strict=True):
        row[: len(own)] = own
    lengths = np.array([len(own) for own in said])
    counts = np.zeros(nothing + 1, np.int64)
    left, needed = np.arange(len(order)), list[int]()
    for most, times in NEEDS:
        last = most if most < len(ranked) else nothing
        for share in SHARES:
            takes = np.zeros(len(left), bool)
            for begin in range(0, len(left), AT_ONCE):
                some = left[begin : begin + AT_ONCE]
                lacks = counts < times
                lacks[last:] = False
                lacking_words = lacks[words[some]].sum(1)
                takes[begin : begin + AT_ONCE] = chosen = (lacking_words > 0) & (lacking_words >= share * lengths[some])
                counts += np.bincount(words[some[chosen]].ravel(), minlength=nothing + 1)
            needed += left[takes].tolist()
            left = left[~takes]
    # By turns, and what is left of the longer at the end.
    return [order[n] for pair in itertools.zip_longest(needed, left.tolist()) for n in pair if n is not None]


def variety(lines: list[str]) -> dict[str, object]:
    """Lines, words, different words, and which part of these stands fewer than ENOUGH times."""
    counts = Counter(word for line in lines for word in words_of(line))
    few = sum(count < ENOUGH for count in counts.values())
    return {
        "lines": len(lines),
        "words": counts.total(),
        "different": len(counts),
        f"under {ENOUGH}": round(few / max(1, len(counts)), 4),
    }


def make(folder: Path, seed: int, sources: Sources, held_out: HeldOut, share: float = 1.0) -> list[str]:
    """All files, texts.txt the last; returns its lines. share: of the counts in KINDS, for a try."""
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    for kind, most in KINDS.items():
        path = folder / f"{kind}.txt"
        most = max(1, round(most * share))
        write_kind(path, sources.lines(kind, random.Random(f"{seed} {kind}")), most, held_out, seen)
        print(f"{kind}: {len(read_lines(path))} lines", flush=True)
    lines = [line for kind in KINDS for line in read_lines(folder / f"{kind}.txt")]
    wanted = sources.ranked[:COMMON] if share == 1 else []
    for number in range(ROUNDS):
        dice, path = random.Random(f"{seed} rare {number}"), folder / f"rare-{number}.txt"
        sources.missing = lacking(lines, wanted, dice)
        write_kind(path, sources.lines("rare", dice), RARE_LINES, held_out, seen)
        lines += read_lines(path)
        print(f"rare, round {number + 1}: {len(read_lines(path))} lines", flush=True)
        stands = {word for line in lines for word in words_of(line)}
        wanted = [word for word in wanted if word in stands]  # the front end says the others in other words
    return ordered(lines, sources.ranked, random.Random(f"{seed} order"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="of all lines, for a try")
    given = parser.parse_args()
    sources = Sources(WordNet(), ranked_words(KNOWN))
    lines = make(given.folder, given.seed, sources, HeldOut(test_sentences()), given.share)
    (given.folder / "texts.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(json.dumps({"all": variety(lines), "first 50,000": variety(lines[:50_000])}))


if __name__ == "__main__":
    main()

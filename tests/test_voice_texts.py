"""What the bundled voice is taught to say: rules, figures, WordNet's words, and that no test is among them.

WordNet itself is not needed: a folder of its format with some entries takes its place.
"""

import random
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent.parent / "scripts" / "bundled-voice"))
import texts
import written
from grammar import Grammar, plural, read_rules, with_article
from texts import ENOUGH, HeldOut, Sources, lacking, make, ordered, spoken, test_sentences, variety, words_of
from wordnet import WordNet

test_sentences.__test__ = False  # pytest would take the function for a test

LICENCE = "  1 This software and database is being provided to you"
DATA = {
    "noun": [
        '00001740 03 n 02 dog 0 hunting_dog 0 000 | a domestic animal; "the dog barked all night"',
        '00001741 03 n 01 mouse 0 000 | a small rodent; "she was afraid of the mouse"',
        "00001742 03 n 01 house 0 000 | a building where people live",
        '00001743 03 n 01 Zyzzyva 0 000 | an insect; "the zyzzyva sat on the leaf"',
    ],
    "verb": [
        '00002000 29 v 01 go 0 000 01 + 01 00 | move away; "they go to work by train"',
        "00002001 29 v 01 stop 0 000 01 + 01 00 | come to an end",
        "00002002 29 v 01 carry 0 000 01 + 01 00 | move something",
    ],
    "adj": ['00003000 00 a 01 small(a) 0 000 | not large; "a small house"'],
    "adv": ["00004000 02 r 01 slowly 0 000 | not fast"],
}
RANKED = """the a an is was to of and it all by in on at she they dog mouse house go stop carry small slowly move work
train domestic animal barked night afraid rodent building where people live not large fast come end something away means
without""".split()  # noqa: SIM905


@pytest.fixture
def net(tmp_path: Path) -> WordNet:
    for part, lines in DATA.items():
        (tmp_path / f"data.{part}").write_text("\n".join([LICENCE, *lines]) + "\n")
    (tmp_path / "noun.exc").write_text("mice mouse\n")
    (tmp_path / "verb.exc").write_text("gone go\nwent go\nstopped stop\n")
    return WordNet(tmp_path)


@pytest.fixture
def sources(net: WordNet, monkeypatch: pytest.MonkeyPatch) -> Sources:
    monkeypatch.setattr(texts, "names", lambda: (["Ann", "Zoe"], ["Lee", "Ray"], ["Rome", "Oslo"], ["Bank"]))
    return Sources(net, RANKED)


# ---- Rules ----


def test_alternatives_stand_between_bars_or_one_a_line() -> None:
    rules = read_rules("# a comment\na: one | two |\n  three four\n\nb::\n  {a}, and | {a}\n  last\n")
    assert rules == {"a": ["one", "two", "three four"], "b": ["{a}, and | {a}", "last"]}


def test_blanks_are_filled_with_articles_plurals_and_capitals() -> None:
    grammar = Grammar({"s": ["{Thing} and {a:thing} and {s:thing}. {thing}!"], "thing": ["apple"]})
    assert grammar.sentence("s", random.Random(0)) == "Apple and an apple and apples. Apple!"


def test_a_circle_of_rules_is_told() -> None:
    with pytest.raises(RecursionError, match="goes round in circles"):
        Grammar({"a": ["{b}"], "b": ["{a}"]}).sentence("a", random.Random(0))


def test_a_blank_that_nothing_fills_is_told_when_the_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "g.txt").write_text("a: {b} and {made}\n")
    with pytest.raises(ValueError, match=r"^g\.txt: nothing fills b$"):
        Grammar.from_file(tmp_path / "g.txt", {"made": lambda dice: "x"})


@pytest.mark.parametrize(("word", "said"), [("hour", "an hour"), ("A", "an A"), ("B", "a B"), ("user", "a user")])
def test_articles_go_by_the_sound(word: str, said: str) -> None:
    assert with_article(word) == said


@pytest.mark.parametrize(("one", "many"), [("city", "cities"), ("box", "boxes"), ("knife", "knives"), ("day", "days")])
def test_plurals(one: str, many: str) -> None:
    assert plural(one) == many


def test_every_kind_makes_lines_that_the_front_end_reads(sources: Sources) -> None:
    """All of grammar.txt: no blank is left over, nearly every line can be said, and hardly one comes twice."""
    for kind in set(texts.KINDS) - {"examples", "definitions", "lists", "backchannel", "reply"}:
        lines = [line for line, _ in zip(sources.lines(kind, random.Random(kind)), range(200), strict=False)]
        assert not any(re.search("[{}|]", line) for line in lines)
        said = [spoken(line) for line in lines]
        assert said.count(None) < 30, kind
        assert len(set(said)) > 100, kind


# ---- WordNet ----


def test_wordnet_gives_examples_definitions_and_words_without_the_licence(net: WordNet) -> None:
    assert list(net.examples())[:2] == ["the dog barked all night", "she was afraid of the mouse"]
    assert list(net.definitions())[:5] == [
        "dog is a domestic animal",
        "a small rodent",
        "a building where people live",
        "an insect",
        "to go means to move away",
    ]
    assert (net.words("noun"), net.words("adj")) == (["dog", "mouse", "house"], ["small"])


def test_words_take_their_irregular_and_their_regular_forms(net: WordNet) -> None:
    assert [net.plural(word) for word in ("mouse", "dog")] == ["mice", "dogs"]
    assert [net.past(word) for word in ("go", "stop", "carry", "bake")] == ["went", "stopped", "carried", "baked"]
    assert [net.ing(word) for word in ("stop", "bake", "see", "lie")] == ["stopping", "baking", "seeing", "lying"]
    assert [net.third(word) for word in ("go", "carry", "have", "stop")] == ["goes", "carries", "has", "stops"]


def test_a_sentence_with_an_unknown_word_is_left_out(sources: Sources) -> None:
    assert sorted(sources.lines("examples", random.Random(0))) == [
        "a small house",
        "she was afraid of the mouse",
        "the dog barked all night",
        "they go to work by train",
    ]


# ---- As it is said ----


def test_figures_become_what_the_product_makes_of_them() -> None:
    assert spoken("call (212) 555-0147, it's $42.60") == (
        "Call two one two, five five five, zero one four seven, it's forty two dollars and sixty cents."
    )
    assert spoken("Your code is A7B.") == "Your code is A seven B."


@pytest.mark.parametrize("text", ["", "[S1] Hello.", 'wait <break time="1s"/> here', "čau", "word " * 60])
def test_what_a_voice_cannot_read_in_one_go_is_left_out(text: str) -> None:
    assert spoken(text) is None


@pytest.mark.parametrize("name", sorted(written.makers()))
def test_whatever_is_written_in_figures_can_be_said_in_letters(name: str) -> None:
    maker = written.makers()[name]
    said = [spoken(f"It is {maker(random.Random(number))} now.") for number in range(60)]
    assert said.count(None) <= 3
    assert all(re.fullmatch(r"[A-Za-z ,.?!'-]+", line) for line in said if line)


# ---- What is held out ----


def test_no_line_is_a_test_nor_shares_five_words_in_a_row_with_one() -> None:
    held_out = HeldOut(["We walked along the river until dark.", "Of course."])
    assert held_out.has("of course!")
    assert held_out.has("Later they walked along the river until noon, and we walked along the river until dark.")
    assert held_out.has("He walked along the river until noon.")
    assert not held_out.has("We walked along the canal until dark.")
    assert not held_out.has("Of course we did.")


def test_all_that_tests_and_judges_say_is_held_out_also_as_it_is_said() -> None:
    held_out = HeldOut(test_sentences())
    assert held_out.has("The train to London leaves at half past nine.")
    assert held_out.has("There are twelve rooms on the second floor.")
    assert held_out.has("I am going to the market.")
    assert held_out.has("The farmer sold his old horse to a friend.")
    assert held_out.has("How was the journey?")
    assert not held_out.has("The quick green fox.")


# ---- Enough of every word ----


def test_words_are_counted_without_marks_and_capitals() -> None:
    assert words_of("Well, O'Neill's co-pilot: 'stop!'") == ["well", "o'neill's", "co-pilot", "stop"]


def test_a_word_lacks_what_it_needs_to_stand_often_enough() -> None:
    often = texts.OFTEN[0][1]
    missing = Counter(lacking(["dog dog cat"] * 6, ["bird"], random.Random(0)))
    assert missing == {"dog": ENOUGH - 12, "cat": ENOUGH - 6, "bird": often}


def test_rare_lines_hold_every_word_that_is_missing(sources: Sources) -> None:
    wanted = ["zebra", "quartz", "oboe"] * 4
    sources.missing = list(wanted)
    said = Counter(word for line in sources.lines("rare", random.Random(0)) for word in words_of(line))
    assert all(said[word] >= 4 for word in ("zebra", "quartz", "oboe"))


@given(st.lists(st.text("abc ", min_size=1, max_size=8), unique=True, max_size=60), st.integers(0, 9))
def test_ordering_keeps_every_line_once_and_is_the_same_for_a_seed(lines: list[str], seed: int) -> None:
    found = ordered(lines, ["a", "b"], random.Random(seed))
    assert sorted(found) == sorted(lines)
    assert found == ordered(lines, ["a", "b"], random.Random(seed))


def test_what_people_say_most_comes_early_and_often() -> None:
    """Thirty lines for each of forty words; the first quarter has twenty of each that is frequent."""
    words = [first + second for first in "abcdefgh" for second in "klmno"]
    lines = [f"{word} number {n}" for word in words for n in range(30)]
    ranked = [*words[:5], *(f"w{n}" for n in range(70_000))]
    early = Counter(line.split()[0] for line in ordered(lines, ranked, random.Random(0))[: len(lines) // 4])
    assert min(early[word] for word in words[:5]) >= 20
    assert max(early[word] for word in words[5:]) < 20


def test_variety_counts_words_and_the_share_of_rare_ones() -> None:
    assert variety(["dog"] * ENOUGH + ["cat"]) == {"lines": 21, "words": 21, "different": 2, "under 20": 0.5}


# ---- All of it ----


def test_made_twice_it_is_the_same_and_files_that_are_there_are_kept(sources: Sources, tmp_path: Path) -> None:
    held_out = HeldOut(test_sentences())
    first = make(tmp_path / "a", 1, sources, held_out, share=0.0005)
    assert first == make(tmp_path / "b", 1, sources, held_out, share=0.0005)
    assert len({line.lower() for line in first}) == len(first)
    assert not any(held_out.has(line) for line in first)
    counts = Counter(word for line in first for word in words_of(line))
    assert sum(count < ENOUGH for count in counts.values()) < 0.1 * len(counts)
    (tmp_path / "a" / "agent.txt").unlink()
    kept = (tmp_path / "a" / "figures.txt").stat().st_mtime_ns
    assert make(tmp_path / "a", 1, sources, held_out, share=0.0005) == first
    assert (tmp_path / "a" / "figures.txt").stat().st_mtime_ns == kept
    assert make(tmp_path / "c", 2, sources, held_out, share=0.0005) != first

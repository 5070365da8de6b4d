"""The text front end: what is said for a text, that cutting it changes nothing, and what is held back."""

import json
import re
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_script import PIECES, Spelling

from dia2.text.script import ScriptReader
from dia2stream.text.front_end import Piece, TextFrontEnd
from dia2stream.text.lexicon import Lexicon
from dia2stream.text.normalizer import PieceKind

FOLDER = Path(__file__).parent / "texts"
LEXICON = Lexicon({"GIF": "jiff", "nginx": "engine x", "SQL": "sequel"})
# `held_out` was written before there were rules, and not looked at while they were written.
TEXTS: list[tuple[str, str]] = [
    (text, said)
    for name in ("open", "held_out")
    for rows in json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")).values()
    for text, said in rows
]
# Many more that agents write, by kind. The rules were mended by `agents`; `unseen` was written after that and run once
# (158 of 160 right, and 46 of 60 harder ones), and what it found was mended then. `strangers` was written by one who
# had not read the rules (133 of 205 right at first sight), and the rules were mended by its kinds; `apart`, of the same
# hand and kept apart meanwhile, was right in 42 of 60 then, and in 15 of 30 harder ones. `assistants` has 7 of those
# that were mended last, and 60 texts that were written before that: 34 of them were right at first sight. `callers` has
# 7 of the next mends, and 40 texts that were written before: 33 of them were right, and in four of the others only a
# comma or a capital was not as it had been written down.
AGENTS: dict[str, list[tuple[str, str]]] = {
    f"{name}: {kind}": rows
    for name in ("agents", "unseen", "strangers", "apart", "assistants", "callers")
    for kind, rows in json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")).items()
}
FRAGMENTS = [
    *("<think>", "</think>", "<b>", "</b>", "<br/>", "<p>", "<h1>", "</h1>", "<break time='1s'/>", "<break/>", "<!--"),
    *("-->", "[S1]", "[s2]", "[S9]", "```py\n", "```", "\n", "\n\n", "# ", "- ", "* ", "1. ", "> ", "| ", "|---|\n"),
    *("***", "**", "_", "`", "~~", "[a](", "http://x.com", ")", "](x)", "][1]", "\x1b[31m", "\x1b]0;t\x07", "&amp;"),
    *("&", "lt;", "&nbsp;", "\u2014", "--", "->", "5", "$", "%", "10 ", "am", "May ", "5th ", "No. ", "Dr. ", "St. "),
    *("+1 ", "555 ", "(212) ", "1/2 ", "\u00bd", "kg ", "a ", "the ", "<", "<a href='x'>", "<x y z", "\u200b"),
    *("\U0001f600", "...", "a.m. ", "etc. ", "(clears ", "throat) ", "(laughs)", "\t", "\x00", "\u30104\u2020x\u3011"),
    *("- [x] ", "=", "^", "2", "x", "/", ":", "30", " ", "word", "GIF", "[", "]", "(", "million ", "Main ", "\r\n"),
]
WORDS = sorted({word for rows in (TEXTS, *AGENTS.values()) for text, _ in rows for word in re.findall(r"\s*\S+", text)})
SIGNS = "0123456789.,:/-+$%\u00b0x\u00bd'\"()#@^*abkmMXI\u00b2\u20ac=&~<>[]_ "
fragments = st.lists(st.sampled_from([*FRAGMENTS, *WORDS]) | st.text(SIGNS, max_size=7))
rules = st.sampled_from(["spoken", "clean", "off"])


def read(pieces: Iterable[str], rules: Any = "spoken", lexicon: Lexicon = LEXICON) -> tuple[list[Piece], list[str]]:
    """All pieces of one utterance, and the codes of its notices."""
    front_end = TextFrontEnd(rules, lexicon)
    read, codes = [], []
    for piece in pieces:
        read += front_end.feed(piece)
        codes += [notice.code for notice in front_end.notices]
    read += front_end.flush()
    return read, sorted([*codes, *(notice.code for notice in front_end.notices)])


def shown(pieces: Iterable[Piece]) -> str:
    """What is said; a break of 0.4 s is <0.4s>."""
    return " ".join(f"<{p.said.split(chr(34))[1]}>" if p.kind is PieceKind.BREAK else p.said for p in pieces)


def said(text: str, rules: str = "spoken") -> str:
    return shown(read([text], rules)[0])


def codes(text: str, rules: str = "spoken") -> list[str]:
    return read([text], rules)[1]


# ---- What is said ----


@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_a_text_is_said_as_an_american_says_it(text: str, expected: str) -> None:
    assert said(text) == expected


@pytest.mark.parametrize("kind", AGENTS)
def test_what_agents_write_is_said_as_an_american_says_it_at_once_and_character_by_character(kind: str) -> None:
    wrong = [(text, expected, said(text)) for text, expected in AGENTS[kind] if said(text) != expected]
    assert wrong == []
    assert [text for text, _ in AGENTS[kind] if read(text) != read([text])] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("**Pay** $42.60 at 3:30 PM, _please_.", "Pay $42.60 at 3:30 PM, please."),
        ("\u201cIt\u2019s\u201d well\u2014known\u2026", '"It\'s" well- known...'),
        ("Dr. Lee & the FBI (maybe)", "Dr. Lee & the FBI maybe"),
        ("(laughs) Yes (clears throat) no (clears up)", "(laughs) Yes (clears throat) no clears up"),
        ("x <0.1> y", "x <0.1> y"),
        ("I :) you <3 :D", "I you"),
        ("a\u30104:0\u2020file\u3011b", "ab"),
        ("- [x] done\n- [ ] open", "done <0.4s> open"),
        ("snake_case_name() *args **kwargs", "snake_case_name args kwargs"),
    ],
)
def test_clean_takes_marks_away_and_spells_nothing_anew(text: str, expected: str) -> None:
    assert said(text, "clean") == expected


@pytest.mark.parametrize("rules", ["clean", "spoken"])
def test_sounds_that_a_voice_does_not_know_are_left_out(rules: Any) -> None:
    front_end = TextFrontEnd(rules, makes_sounds=False)
    pieces = front_end.feed("(laughs) Yes (clears throat), (see) (sighs).") + front_end.flush()
    assert shown(pieces) == "Yes see"


@pytest.mark.parametrize(
    "text", ["...", "\U0001f600", "*", "\u2014", "# ", "[", "<think>x", "&nbsp;", "\ufeff", "```\n```"]
)
def test_what_makes_no_sound_says_nothing(text: str) -> None:
    assert said(text) == said(text, "clean") == ""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ('<break time="500ms"/>', "0.5s"),
        ("<break time='1.5s' />", "1.5s"),
        ("<BREAK TIME=2S>", "2s"),
        ("<break time='1 sec'></break>", "1s"),
        ("<break strength='weak'/>", "0.2s"),
        ("<break />", "0.4s"),
        ("<break time='70s'/>", "70s"),
    ],
)
def test_a_break_may_be_written_in_every_usual_way(text: str, seconds: str) -> None:
    assert said(f"a{text}b", "clean") == f"a <{seconds}> b"


@pytest.mark.parametrize(
    "text", ["<break time='long'/>", "<break strength=loud/>", "<break time=5/>", "<break length='1s'/>"]
)
def test_a_break_that_says_no_length_is_left_out_with_a_notice_each_once(text: str) -> None:
    pieces, told = read([f"a{text}b{text}c"])
    assert shown(pieces) == "a b c"
    assert told == ["bad_break"]


def test_an_unknown_speaker_is_left_out_with_a_notice_that_has_its_place() -> None:
    front_end = TextFrontEnd("clean")
    assert shown(front_end.feed("Hi[S3] and [S3] bye ")) == "Hi and bye"
    (notice,) = front_end.notices
    assert (notice.code, notice.start) == ("unknown_tag", 2)
    assert "[S3]" in notice.message


def test_thoughts_are_left_out_and_an_open_one_ends_with_its_utterance() -> None:
    front_end = TextFrontEnd("spoken")
    assert front_end.feed("<think>secret ") == []
    assert front_end.incomplete == ""
    assert front_end.flush() == []
    assert [notice.code for notice in front_end.notices] == ["left_out"]
    assert shown(front_end.feed("Hello ")) == "Hello"
    assert front_end.notices == ()


@pytest.mark.parametrize("rules", ["clean", "spoken"])
def test_a_long_word_that_nobody_can_say_is_cut_with_a_notice(rules: str) -> None:
    key = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    assert said(f"key {key}, ok", rules) == "key nine F eight six D zero, ok"
    assert codes(key, rules) == ["long_word"]
    assert said(key, "off") == key
    long = "Donaudampfschifffahrtselektrizitaetenhauptbetriebswerkbauunterbeamten"
    assert (said(long, rules), codes(long, rules)) == (long, [])


@given(st.lists(st.sampled_from([*PIECES, "\u200b", "**", "[s1]", "<b>"]), max_size=14).map("".join))
def test_off_gives_the_entries_that_the_script_reader_makes_of_the_text(text: str) -> None:
    straight, through = ScriptReader(Spelling()), ScriptReader(Spelling())
    pieces, told = read(text, "off")
    entries = [entry for piece in pieces for entry in through.feed(piece.said) + through.finish()]
    assert entries == straight.feed(text.strip()) + straight.finish()
    assert told == []


# ---- Words as written ----


def test_words_carry_the_callers_own_characters() -> None:
    text = "[s2]**Pay** $5\u00a0million by 4:30, _it\u2019s_ [due](http://x.y/z). &amp; \u00bd"
    pieces, _ = read([text])
    assert [(p.said, p.written) for p in pieces] == [
        ("[S2]", "[s2]"),
        ("Pay", "Pay"),
        ("five million dollars", "$5\u00a0million"),
        ("by", "by"),
        ("four thirty,", "4:30,"),
        ("it's", "it\u2019s"),
        ("due.", "due](http://x.y/z)."),
        ("and", "&amp;"),
        ("one half", "\u00bd"),
    ]


@given(fragments.map("".join), rules)
def test_offsets_are_those_of_the_written_words_and_run_on(text: str, rules: str) -> None:
    pieces, _ = read([text], rules)
    assert all(text[p.text_start : p.text_end] == p.written for p in pieces)
    words = [p for p in pieces if p.kind is PieceKind.WORD]
    assert all(a.text_end <= b.text_start for a, b in pairwise(words))


# ---- Streams ----


@pytest.mark.parametrize(("text", "_"), TEXTS)
def test_a_text_cut_in_two_anywhere_gives_the_same(text: str, _: str) -> None:
    for rules in ("spoken", "clean", "off"):
        whole = read([text], rules)
        assert read(text, rules) == whole
        for at in range(1, len(text)):
            assert read([text[:at], text[at:]], rules) == whole


@settings(max_examples=300)
@given(fragments.map("".join), rules, st.data())
def test_any_text_cut_anywhere_gives_the_same(text: str, rules: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    whole = read([text], rules)
    assert read([text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)], rules) == whole
    assert read(text, rules) == whole


@given(fragments.map("".join), st.integers(0, 200))
def test_what_was_given_out_is_never_taken_back(text: str, at: int) -> None:
    begun = TextFrontEnd("spoken", LEXICON).feed(text[:at])
    assert read([text])[0][: len(begun)] == begun


@pytest.mark.parametrize("rules", ["off", "clean", "spoken"])
def test_plain_words_pass_as_soon_as_whitespace_follows(rules: Any) -> None:
    front_end = TextFrontEnd(rules, LEXICON)
    for word in re.findall(r"\S+", "Well, I'm sure that it may be the best. Is it? Yes! No doubt; a well-known fact."):
        assert front_end.feed(word) == []
        assert [piece.written for piece in front_end.feed(" ")] == [word]


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("I paid $5 ", "$5 "),
        ("I paid $5 to ", ""),
        ("I paid $5, ", ""),
        ("Call 555 ", "555 "),
        ("Call 555 123 ", "555 123 "),
        ("at 1 Aa Bb Cc ", "1 Aa Bb Cc "),
        ("at 1 Aa Bb Cc Dd Ee ", ""),
        ("see No. ", "No. "),
        ("see No. one", "No. one"),
        ("see No. one ", ""),
        ("a <b ", "<b "),
        ("a < b ", ""),
        ("a <b " + "x " * 99, ""),
        ("an 8", "8"),
    ],
)
def test_only_what_may_go_on_is_held(text: str, held: str) -> None:
    front_end = TextFrontEnd("spoken")
    front_end.feed(text)
    assert front_end.incomplete == held


def test_no_more_than_six_words_are_held() -> None:
    front_end, text = TextFrontEnd("spoken"), "4111 " * 40
    for number in range(40):
        front_end.feed(text[5 * number :][:5])
        assert len(front_end.incomplete.split()) <= 6


def test_half_a_surrogate_pair_waits_for_its_other_half() -> None:
    smile = "\U0001d54f\U0001f600"  # a letter and a face
    halves = smile.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    units = [smile.encode("utf-16-le")[i : i + 2].decode("utf-16-le", "surrogatepass") for i in range(0, 8, 2)]
    assert halves == smile
    assert read(["a", *units, " b"], "clean")[0] == read([f"a{smile} b"], "clean")[0]
    assert said("a\ud83d b \ude00c", "clean") == "a b c"
    front_end = TextFrontEnd("clean")
    front_end.feed("a \ud83d")
    assert front_end.incomplete == "\ud83d"
    assert shown(front_end.flush()) == ""


def test_a_copy_reads_on_without_disturbing_the_first() -> None:
    front_end = TextFrontEnd("spoken", LEXICON)
    front_end.feed("It costs $5 <b")
    trial = front_end.copy()
    assert shown(trial.feed(">million dollars") + trial.flush()) == "five million dollars dollars"
    assert shown(front_end.feed("r> each") + front_end.flush()) == "five dollars each"


@pytest.mark.parametrize(
    "character", ["<", "[", "*", "&", "(", ".", "-", "9", "1,", "a", "a.", "`", "|", "\x1b", "#", "a1", '"', "]("]
)
def test_no_text_takes_long_to_read(character: str) -> None:
    text = character * (20_000 // len(character)) + "x"
    began = time.process_time()
    read([text])
    read(re.findall(".{1,10}", text, re.DOTALL))
    assert time.process_time() - began < 4


# ---- The lexicon ----


def test_the_lexicon_goes_first_in_any_case_and_is_not_rewritten() -> None:
    lexicon = Lexicon({"dr": "D R 5", "etc.": "and so on", "IP": "12:30", "$5": "a fiver"})
    spoken = shown(read(["Dr Lee, **dr**! etc. (ip) $5, ip's"], "spoken", lexicon)[0])
    assert spoken == "D R 5 Lee, D R 5! and so on 12:30 a fiver, 12:30's"
    assert shown(read(["Dr (ip)."], "off", lexicon)[0]) == "D R 5 (12:30)."

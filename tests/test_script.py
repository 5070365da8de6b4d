"""Script reading: the goldens, and that no way of cutting the text changes its entries."""

import copy
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import cases, checkpoint, entry

from dia2.errors import ScriptError
from dia2.text.script import MAX_BREAK_SECONDS, Entry, ScriptReader, read_script

PIECES = [
    *('<break time="1.5s"/>', '<break time="0.04s"/>', '<break time=".4s" >', '<break\u2003time="2s"\n/>'),
    *('<break time="', '<break time="s"/>', '<break time="1.s"/>', "<break time='1s'/>", '<break time="1s" / >'),
    *("<", "<br", "break", " time", '="', "1", ".", "5", "s", '"', "/", ">", "eak"),
    *("[S1]", "[S2]", " [S1] ", " [S2] ", "[S", "1]", "word", "a", ":", "\u2019", "'"),
    *(" ", "\t", "\n", "\u00a0", "\u2028", "\x1c", "\u200b"),
]
WORDS = ["one", "two", "[S1]", "[S2]", '<break time="0.5s"/>', "4:30"]
texts = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


class Spelling:
    """A tokenizer of one token a character, and one a tag at the start."""

    speakers = (1, 2)

    def encode(self, text: str) -> list[int]:
        tag = [{"[S1]": 1, "[S2]": 2}[text[:4]]] if text[:4] in ("[S1]", "[S2]") else []
        return tag + [ord(c) for c in text[4 * len(tag) :]]


def read(*pieces: str) -> list[Entry]:
    reader = ScriptReader(Spelling())
    return [e for piece in pieces for e in reader.feed(piece)] + reader.finish()


def texts_of(entries: list[Entry]) -> list[str]:
    return [e.text for e in entries]


def test_scripts_become_the_entries_of_the_goldens(goldens: Path) -> None:
    tokenizer = checkpoint(goldens).tokenizer
    for case in cases(goldens)["script_parser"]:
        read = read_script(case["script"], tokenizer)
        assert [(e.tokens, e.text, e.padding) for e in read] == [
            (e.tokens, e.text, e.padding) for e in (entry(*raw) for raw in case["entries"])
        ]


def test_a_string_is_a_script_of_one_line() -> None:
    assert read_script(" one\ntwo ", Spelling()) == read_script(["one two"], Spelling())


def test_lines_alternate_between_the_speakers_and_a_line_without_words_counts() -> None:
    assert [e.speaker for e in read_script(["a b", "c", "", "d"], Spelling())] == [1, 1, 2, 2]
    assert [e.tokens[0] for e in read_script(["a", "", "b", "c"], Spelling())] == [1, ord("b"), 2]


@given(texts, st.data())
def test_text_in_pieces_gives_the_entries_of_the_same_text_at_once(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = read_script(text, Spelling())
    assert read(*pieces) == whole
    assert read(*text) == whole


@given(texts)
def test_what_was_read_from_the_beginning_of_a_text_is_never_taken_back(text: str) -> None:
    whole = read_script(text, Spelling())
    reader, so_far = ScriptReader(Spelling()), []
    for character in text:
        so_far += reader.feed(character)
        assert so_far == whole[: len(so_far)]


def test_a_word_is_complete_at_whitespace_and_a_break_at_its_end() -> None:
    reader = ScriptReader(Spelling())
    assert reader.feed("Hel") == []
    assert texts_of(reader.feed("lo the")) == ["Hello"]
    assert reader.incomplete == "the"
    assert texts_of(reader.feed('re<break time="0.4s"')) == []
    assert [(e.text, e.padding) for e in reader.feed("/>")] == [("there", 5), ("", 5)]
    assert reader.incomplete == ""


@pytest.mark.parametrize("begun", ["<", "<br", "<break ", '<break time="', '<break time="1.', '<break time="1s" /'])
def test_a_break_cut_off_by_the_end_of_the_text_is_words(begun: str) -> None:
    reader = ScriptReader(Spelling())
    assert texts_of(reader.feed(f"so {begun}")) == ["so"]
    assert reader.incomplete == begun
    assert texts_of(reader.finish()) == begun.split()
    assert reader.incomplete == ""


@pytest.mark.parametrize("text", ['<break time="1"/> ', "<break time=1s/> ", '<brake time="1s"/> ', "1 < 2 <= 3 "])
def test_what_only_looks_like_a_break_is_words_at_once(text: str) -> None:
    reader = ScriptReader(Spelling())
    assert texts_of(reader.feed(text)) == text.split()


def test_a_word_after_a_smaller_sign_waits_for_nothing_but_its_own_end() -> None:
    assert texts_of(ScriptReader(Spelling()).feed("a <b c ")) == ["a", "<b", "c"]


@pytest.mark.parametrize(("seconds", "frames"), [("0.04", None), ("0.05", 1), ("0.12", 2), (".2", 2), ("1.5", 19)])
def test_a_break_lasts_its_seconds_in_frames_and_one_of_none_is_left_out(seconds: str, frames: int | None) -> None:
    entries = read(f'<break time="{seconds}s"/>')
    assert [(e.tokens, e.padding) for e in entries] == ([] if frames is None else [((), frames)])


@pytest.mark.parametrize("seconds", ["61", "9" * 400])
def test_a_break_too_long_to_be_meant_is_an_error(seconds: str) -> None:
    with pytest.raises(ScriptError, match=f"at most {MAX_BREAK_SECONDS} s"):
        read(f'<break time="{seconds}s"/>')


@pytest.mark.parametrize("text", ['<break time="' + "1" * 20_000 + "x", "<break" + " " * 20_000 + "x", "<" * 20_000])
def test_no_text_takes_long_to_read(text: str) -> None:
    began = time.process_time()
    read(text)
    assert time.process_time() - began < 2


def test_a_tag_is_not_spoken_but_shown_to_the_next_word() -> None:
    hi, there = read("[S1] Hi [S2] there")
    assert (hi.speaker, there.speaker) == (1, 2)
    assert (hi.tokens[0], there.tokens[0]) == (1, 2)
    assert (hi.text, there.text) == ("Hi", "there")


def test_a_tag_holds_over_a_break_and_over_the_end_of_a_piece() -> None:
    assert read("a [S2]", ' <break time="1s"/> ', "b") == read('a [S2] <break time="1s"/> b')
    assert read('a [S2] <break time="1s"/> b')[2].tokens[0] == 2


def test_what_comes_after_the_end_of_a_text_goes_on_in_the_same_line_and_voice() -> None:
    reader = ScriptReader(Spelling())
    assert reader.feed("[S2] one") + reader.finish() == read("[S2] one")
    (two,) = reader.feed("two ")
    assert two == Entry(tuple(map(ord, "two")), "two", 3, speaker=2)


@given(st.lists(st.sampled_from(WORDS)), st.lists(st.sampled_from(WORDS)), st.lists(st.sampled_from(PIECES)))
def test_rewinding_to_a_word_forgets_what_was_read_after_it(
    heard: list[str], unheard: list[str], news: list[str]
) -> None:
    heard = [*heard, "last"]
    straight, rewound = ScriptReader(Spelling()), ScriptReader(Spelling())
    last = straight.feed(" ".join(heard) + " ")[-1]
    rewound.feed(" ".join([*heard, *unheard]) + " trailing")
    rewound.rewind(last)
    assert rewound.incomplete == ""
    assert rewound.speaker == straight.speaker
    for piece in news:
        assert rewound.feed(piece) == straight.feed(piece)


def test_rewinding_to_the_start_of_the_line_opens_it_again() -> None:
    reader = ScriptReader(Spelling())
    reader.feed("[S2] one two [S2]")
    reader.rewind(None)
    assert reader.feed("three ") == read("three")


def test_a_copy_reads_on_without_disturbing_the_reader() -> None:
    reader = ScriptReader(Spelling())
    reader.feed("[S2] one tw")
    trial = copy.copy(reader)
    trial.feed("enty [S1] three ")
    assert texts_of(reader.feed("o ")) == ["two"]
    assert reader.speaker == 2

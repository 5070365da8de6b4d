"""The lexicon: its files, its pairs, and the lines that say what is wrong with one."""

from pathlib import Path

import pytest

from dia2stream.errors import LexiconError
from dia2stream.protocol.fields import MAX_SAID_CHARS
from dia2stream.text.lexicon import Lexicon, read_lexicon, read_pair


def test_a_word_is_found_in_any_case_and_with_an_s_behind_it() -> None:
    lexicon = Lexicon({"GIF": "jiff"})
    assert [lexicon.find(word) for word in ("gif", "GIF", "Gif's", "gifs")] == ["jiff", "jiff", "jiff's", None]


def test_pairs_go_before_files_and_later_files_before_earlier_ones(tmp_path: Path) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("\ufeff# how we say it\nGIF=jiff\n\nSQL = sequel\nC#=C sharp\n", encoding="utf-8")
    second.write_text("sql=S Q L\r\nx=a=b\r\n", encoding="utf-8")
    lexicon = read_lexicon(["gif=ghif"], [str(first), str(second)])
    assert [lexicon.find(word) for word in ("GIF", "SQL", "c#", "x")] == ["ghif", "S Q L", "C sharp", "a=b"]


def test_more_words_are_a_lexicon_of_their_own() -> None:
    lexicon = Lexicon({"a": "1", "b": "2"})
    assert [lexicon.with_words({"B": "3"}).find(word) for word in "ab"] == ["1", "3"]
    assert lexicon.find("b") == "2"
    assert lexicon.with_words({}) is lexicon


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("GIF", "must be WORD=SAID, as GIF=jiff"),
        ("=jiff", "must be WORD=SAID"),
        ("GIF= ", "must be WORD=SAID"),
        ("New York=big apple", "the word must be one word, not 'New York'"),
        (f"{'a' * 61}=b", "the word has 61 characters, of at most 60"),
        (f"a={'b' * (MAX_SAID_CHARS + 1)}", "has 501 characters, of at most 500"),
    ],
)
def test_a_line_that_is_no_pair_is_refused_in_one_line(line: str, problem: str) -> None:
    with pytest.raises(LexiconError, match=problem) as refused:
        read_pair(line)
    assert "\n" not in str(refused.value)


def test_a_file_names_its_line_and_itself(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.txt"
    path.write_text("a=b\nnonsense\n")
    with pytest.raises(LexiconError, match=rf"^{path}, line 2: 'nonsense' must be WORD=SAID"):
        read_lexicon([], [str(path)])
    with pytest.raises(LexiconError, match=rf"^{path}\.none: No such file or directory$"):
        read_lexicon([], [f"{path}.none"])
    path.write_bytes(b"a=\xff\n")
    with pytest.raises(LexiconError, match=f"^{path}: this is no UTF-8 text$"):
        read_lexicon([], [str(path)])

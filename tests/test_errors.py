"""How messages show what comes from files: on one line, printable, and short, whatever it is."""

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia2.errors import first_line, plain, shown

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(categories=["L", "C", "Z", "S"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@given(JSON)
def test_any_value_is_shown_on_one_short_printable_line(value: Any) -> None:
    assert shown(value).isprintable()
    assert 0 < len(shown(value)) < 1000


@given(st.text())
def test_a_name_is_shown_on_one_short_printable_line(name: str) -> None:
    assert plain(name).isprintable()
    assert 0 < len(plain(name)) < 1000


@given(st.text())
def test_a_librarys_message_is_cut_to_its_first_line(message: str) -> None:
    assert first_line(ValueError(message)).isprintable()
    assert 0 < len(first_line(ValueError(message))) < 3000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("abc", "'abc'"),
        ("x" * 50, "'" + "x" * 40 + "'..."),
        (10**5000, "a number of about 5000 digits"),
        (-(2**63), "-9223372036854775808"),
        (True, "True"),
        (None, "None"),
        ({"a": 1}, "an object"),
        ([1, "b", None], "[1, 'b', None]"),
        ([0] * 9, "a list of 9"),
        (nested(10 * sys.getrecursionlimit()), "[...]"),
    ],
    ids=["text", "long text", "digits", "negative", "true", "null", "object", "list", "long list", "deep list"],
)
def test_values_are_shown_as_what_they_are(value: Any, expected: str) -> None:
    assert shown(value) == expected


def test_names_are_shown_as_they_are_where_that_is_possible() -> None:
    assert plain("data.channels") == "data.channels"
    assert plain("") == "''"
    assert plain("a\nb") == "'a\\nb'"


def test_an_error_without_a_message_is_named_by_its_type() -> None:
    assert first_line(KeyError()) == "KeyError"
    assert first_line(ValueError("\n one\ntwo")) == "one"
    assert first_line(ValueError("x" * 300)) == "x" * 200 + "..."

"""What every wire format shares: who asks, as which conversation, in which voice, and fields read with care."""

import pytest
from dialects import SERVED, refusal, request
from hypothesis import given
from hypothesis import strategies as st

from dia2stream.errors import CommandError
from dia2stream.server.dialects.dialect import (
    Served,
    Voice,
    choose_voice,
    conversation_of,
    read_object,
    retry_after,
    status_of,
)
from dia2stream.server.dialects.fields import bool_of, choice_of, number_of, object_of, text_of


@pytest.mark.parametrize(
    "asked",
    [
        request(x_conversation="call 17"),
        request(query={"conversation": "call 17"}),
        request(path_values={"conversation": "call 17"}),
    ],
)
def test_a_conversation_is_told_by_header_query_or_path(asked):
    assert conversation_of(asked) == "call 17"


def test_without_a_key_a_client_cannot_be_told_apart():
    assert conversation_of(request()) is None
    assert conversation_of(request(x_conversation="")) is None


def test_a_key_that_is_too_long_is_refused():
    assert refusal(lambda: conversation_of(request(x_conversation="x" * 129))).field == "conversation"


@given(st.none() | st.text())
def test_every_name_is_a_voice_and_always_the_same_one(name):
    chosen = choose_voice(name, Served("m", (), 0))
    assert chosen == choose_voice(name, Served("m", (), 0))
    assert chosen.seed is not None
    assert choose_voice(name, SERVED) == Voice(name if name in SERVED.voices else None)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("bad_json", 400),
        ("bad_field", 400),
        ("unauthorized", 401),
        ("busy", 429),
        ("overloaded", 503),
        ("internal", 500),
    ],
)
def test_an_error_has_a_status_and_says_when_to_come_again_if_that_helps(code, status):
    assert status_of(CommandError(code, "")) == status
    assert bool(retry_after(CommandError(code, ""))) == (status in (429, 503))


# --- fields ---


@pytest.mark.parametrize("text", ["", "[1]", "5", '{"a": 1, "a": 2}', '{"a": NaN}', b"\xff", "[" * 10000])
def test_only_an_object_is_an_object(text):
    assert refusal(lambda: read_object(text)).code == "bad_json"


def test_fields_are_read_with_their_types_and_defaults():
    fields: dict[str, object] = {"text": "a", "yes": True, "no": "false", "n": "2.5", "form": "mp3", "rate": "8000"}
    assert text_of(fields, "text") == "a"
    assert text_of(fields, "other", "b") == "b"
    assert (bool_of(fields, "yes"), bool_of(fields, "no"), bool_of(fields, "other", True)) == (True, False, True)
    assert number_of(fields, "n", 1.0, 0, 5) == 2.5
    assert number_of(fields, "other", None, 0, 5) is None
    assert choice_of(fields, "form", {"mp3": 1, "wav": 2}) == 1
    assert choice_of(fields, "rate", {8000: 8000}) == 8000
    assert choice_of(fields, "other", {"mp3": 1}, 3) == 3
    assert object_of(fields, "other") == {}


@pytest.mark.parametrize(
    ("read", "spelt", "value"),
    [
        (lambda fields: bool_of(fields, "it"), ["True", "TRUE", "true", "1", 1, True], True),
        (lambda fields: bool_of(fields, "it", True), ["False", "false", "0", 0, False], False),
        (lambda fields: bool_of(fields, "it", True), ["", None], True),
        (lambda fields: number_of(fields, "it", 1.0, 0, 9), ["", None, 1, 1.0, "1", "1.0"], 1.0),
        (lambda fields: choice_of(fields, "it", {8000: "a", 24000: "b"}), [24000, 24000.0, "24000", "24000.0"], "b"),
        (lambda fields: choice_of(fields, "it", {"mp3": "a", "wav": "b"}), ["mp3", "MP3"], "a"),
        (lambda fields: choice_of(fields, "it", {"mp3": "a"}, "c"), ["", None], "c"),
    ],
)
def test_a_value_may_be_spelt_as_clients_spell_it(read, spelt, value):
    assert [read({"it": each}) for each in spelt] == [value] * len(spelt)


@pytest.mark.parametrize("value", [5, [], {}, True, "x", "nan", "1e999", "9" * 400, 10**400, 2.5])
@pytest.mark.parametrize(
    ("read", "accepts"),
    [
        (lambda fields: text_of(fields, "it"), str),
        (lambda fields: bool_of(fields, "it"), bool),
        (lambda fields: number_of(fields, "it", None, 0, 1), ()),
        (lambda fields: choice_of(fields, "it", {"mp3": 1, 8000: 2}), ()),
        (lambda fields: object_of(fields, "it"), dict),
    ],
)
def test_a_field_that_is_not_of_its_kind_is_refused_in_one_line_that_names_it(value, read, accepts):
    if isinstance(value, accepts):
        read({"it": value})
        return
    error = refusal(lambda: read({"it": value}))
    assert (error.code, error.field) == ("bad_field", "it")
    assert str(error).startswith("it must be")
    assert "\n" not in str(error)

"""Commands and events: every bad line is one clear error, every good message comes back as it was."""

import copy
import dataclasses
import json
import pickle
import random
import unicodedata
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dia2stream import errors, protocol
from dia2stream.errors import CLOSE_CODES, CommandError, Dia2StreamError, ErrorCode, ProtocolError, UnknownEvent
from dia2stream.protocol.audio_message import Audio, pack_audio, unpack_audio
from dia2stream.protocol.fields import FIELDS, MAX_SEED, MAX_TEXT_CHARS, HeardWord, shown
from dia2stream.protocol.messages import (
    COMMANDS,
    EVENTS,
    MAX_COMMAND_BYTES,
    Cancel,
    Cancelled,
    Commit,
    Discard,
    Discarded,
    Done,
    End,
    Error,
    FirstAudio,
    Fork,
    Forked,
    Inject,
    Listen,
    Pause,
    Paused,
    Prepare,
    Prepared,
    Ready,
    Reset,
    ResetDone,
    Resume,
    Resumed,
    Start,
    Started,
    WordEvent,
    dump_command,
    dump_event,
    error_event,
    parse_command,
    parse_event,
)

WORDS = "words must be a list of [word, start, end], in seconds from 0 to 60"
fuzzed = settings(max_examples=200, deadline=None)


def refused(line):
    with pytest.raises(CommandError) as caught:
        parse_command(line)
    return caught.value


def start_with(**values):
    return json.dumps({"cmd": "start", "id": "u7", "text": "Hello.", **values})


# --- the tables ---


def test_every_command_and_field_of_the_protocol_is_there():
    sampling = (
        "voice seed cfg_scale cfg_filter_k text_temperature text_top_k audio_temperature audio_top_k initial_padding "
        "text_rules say"
    )
    expected = {
        "start": f"text id final {sampling}",
        "inject": "text id final voice",
        "end": "id",
        "cancel": "id",
        "prepare": "text id final voice",
        "commit": "id",
        "discard": "id",
        "pause": "played_ms",
        "resume": "",
        "reset": "",
        "listen": "audio text words speaker sample_rate final",
        "fork": "",
    }
    assert {name: [f.name for f in dataclasses.fields(cls)] for name, cls in COMMANDS.items()} == {
        name: names.split() for name, names in expected.items()
    }


def test_every_event_and_field_of_the_protocol_is_there():
    expected = {
        "ready": "version model device sample_rate encoding frame_ms voices conversation sampling",
        "started": "id seed",
        "first_audio": "id latency_ms words_ms",
        "word": "id word speaker start_ms said end_ms text_start text_end",
        "done": "id audio_ms",
        "cancelled": "id",
        "prepared": "id ready_ms",
        "discarded": "id",
        "paused": "heard_ms spoken pending words",
        "resumed": "",
        "reset": "",
        "forked": "conversation audio_ms",
        "notice": "code message id text_start",
        "error": "code message cmd id field",
    }
    assert {name: [f.name for f in dataclasses.fields(cls)] for name, cls in EVENTS.items()} == {
        name: names.split() for name, names in expected.items()
    }


def test_every_field_has_one_rule_and_every_rule_a_field():
    used = {f.name for cls in [*COMMANDS.values(), *EVENTS.values()] for f in dataclasses.fields(cls)}
    assert used == set(FIELDS)


def test_every_error_code_of_the_protocol_is_there_and_three_close_the_connection():
    names = "bad_json bad_command bad_field too_long no_session not_paused busy unauthorized overloaded internal"
    assert set(CLOSE_CODES) == set(get_args(ErrorCode)) == set(names.split())
    closing = {code: close for code, close in CLOSE_CODES.items() if close is not None}
    assert closing == {"unauthorized": 4401, "busy": 1013, "internal": 1011}
    assert CommandError("busy", "the seat is taken").close_code == 1013


@pytest.mark.parametrize("module", [errors, protocol])
def test_all_is_sorted_and_true(module):
    assert module.__all__ == sorted(module.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert all(hasattr(module, name) for name in module.__all__)


def test_messages_are_frozen_and_hold_nothing_else():
    start = Start("Hello.")
    with pytest.raises(dataclasses.FrozenInstanceError):
        start.text = "Bye."
    assert not any(hasattr(cls, "__dict__") for cls in (start, End(), Resumed(), Audio(0, b"")))


# --- commands that are accepted ---


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ('{"cmd": "start", "text": "[S1] Hello."}', Start("[S1] Hello.")),
        ('{"text": "", "cmd": "start", "id": "", "final": false}', Start("", "", final=False)),
        (b'{"cmd":"inject","text":"caf\xc3\xa9 \\ud83d\\ude00","id":"a"}', Inject("caf\u00e9 \U0001f600", "a")),
        ('{"cmd": "end"}', End()),
        ('{"cmd": "pause"}', Pause()),
        ('{"cmd": "pause", "played_ms": 1234.5}', Pause(1234.5)),
        ('{"cmd": "pause", "played_ms": 0}', Pause(0)),
        ('{"cmd": "pause", "played_ms": null}', Pause()),
        ('{"cmd": "resume"}\r\n', Resume()),
        ('\ufeff{"cmd": "reset"}', Reset()),
        (b'\xef\xbb\xbf {"cmd": "reset"}\n', Reset()),
        ('{"cmd": "listen"}', Listen()),
        (
            '{"cmd": "listen", "audio": "AAABAA==", "words": [["Hi", 0, 0.5]]}',
            Listen(b"\0\0\1\0", "", (("Hi", 0, 0.5),)),
        ),
    ],
)
def test_a_good_line_is_its_command(line, command):
    assert parse_command(line) == command


def test_start_takes_every_field_at_both_ends_of_its_range():
    ends = {
        "voice": ("", "v" * 128),
        "seed": (0, MAX_SEED),
        "cfg_scale": (0, 20.0),
        "cfg_filter_k": (0, 2048),
        "text_temperature": (0, 2),
        "text_top_k": (1, 2048),
        "audio_temperature": (0.0, 2.0),
        "audio_top_k": (1, 2048),
        "initial_padding": (0, 100),
    }
    for values in zip(*ends.values(), strict=True):
        fields = dict(zip(ends, values, strict=True))
        assert parse_command(start_with(**fields)) == Start("Hello.", "u7", **fields)


def test_control_characters_in_text_become_spaces_and_whitespace_stays():
    control = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) == "Cc"]
    for character in control:
        # The text front end knows the sequences that an escape begins.
        expected = character if character.isspace() or character == "\x1b" else " "
        assert Inject(f"a{character}b").text == f"a{expected}b"


def test_a_full_text_fits_the_line_however_it_is_escaped():
    text = "\U0001f600" * MAX_TEXT_CHARS
    line = json.dumps({"cmd": "start", "text": text, "id": "\U0001f600" * 128, "voice": "\U0001f600" * 128})
    assert parse_command(line).text == text


# --- commands that are refused ---


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the line is empty; expected a JSON object"),
        (" \n", "the line is empty; expected a JSON object"),
        ('{"cmd":', "not valid JSON: expecting value at character 7"),
        ('{"cmd": "end"} {}', "not valid JSON: extra data at character 15"),
        ("{'cmd': 'end'}", "not valid JSON: expecting property name enclosed in double quotes at character 1"),
        (b'{"cmd": "\xff"}', "not valid UTF-8: invalid start byte at 9"),
        ('{"cmd": "\udcff"}', "not valid UTF-8: surrogates not allowed at 9"),
        ('{"cmd": "pause", "played_ms": NaN}', "not valid JSON: NaN; numbers must be finite"),
        ('{"cmd": "pause", "played_ms": -Infinity}', "not valid JSON: -Infinity; numbers must be finite"),
        ('{"cmd": "end", "cmd": "end"}', "not usable JSON: key 'cmd' is given more than once"),
        ('{"cmd": "end", "x": {"y": 1, "y": 2}}', "not usable JSON: key 'y' is given more than once"),
        ("[" * 100_000, "not usable JSON: nested too deeply"),
        ('{"cmd":' * 30_000, "not usable JSON: nested too deeply"),
        ("1" * 5000, "not usable JSON: a number of 5000 digits; the limit is 400"),
    ],
)
def test_a_line_that_is_not_strict_json_is_bad_json(line, message):
    error = refused(line)
    assert (error.code, str(error), error.cmd, error.id) == ("bad_json", message, None, None)


@pytest.mark.parametrize(
    ("line", "problem", "cmd", "id"),
    [
        ('{"cmd": "strat", "id": "a"}', "unknown cmd 'strat'", "strat", "a"),
        ('{"cmd": ["end"]}', "unknown cmd a list", None, None),
        ('{"cmd": true, "id": 5}', "unknown cmd true", None, None),
        ('{"id": "a"}', "cmd is missing", None, "a"),
        ('{"cmd": null}', "cmd is missing", None, None),
        ('{"cmd": "\\ud800", "id": "\\ud800"}', "unknown cmd '\\ud800'", None, None),
        (json.dumps({"cmd": "x" * 5000, "id": "y" * 129}), f"unknown cmd '{'x' * 40}'...", None, None),
    ],
)
def test_an_object_without_a_known_cmd_is_bad_command_and_lists_the_known(line, problem, cmd, id):
    error = refused(line)
    assert (error.code, error.cmd, error.id, error.field) == ("bad_command", cmd, id, "cmd")
    known = "start, inject, end, cancel, prepare, commit, discard, pause, resume, reset, listen, fork"
    assert str(error) == f"{problem}; known are {known}"


@pytest.mark.parametrize(("line", "seen"), [("[]", "a list"), ("5", "5"), ("null", "null"), ('"end"', "'end'")])
def test_json_that_is_not_an_object_is_bad_command(line, seen):
    error = refused(line)
    assert error.code == "bad_command"
    assert str(error) == f'a command is an object like {{"cmd": "start", "text": "Hello."}}, not {seen}'


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("text", 5, "text must be a string of up to 20000 characters, not 5"),
        ("text", ["a"], "text must be a string of up to 20000 characters, not a list"),
        ("id", 7, "id must be a string of up to 128 characters, not 7"),
        ("id", "x" * 129, f"id must be a string of up to 128 characters, not 129: '{'x' * 40}'..."),
        ("voice", {}, "voice must be a string of up to 128 characters, not an object"),
        ("final", "yes", "final must be true or false, not 'yes'"),
        ("final", 1, "final must be true or false, not 1"),
        ("seed", True, "seed must be a whole number from 0 to 4294967295, not true"),
        ("seed", 1.0, "seed must be a whole number from 0 to 4294967295, not 1.0"),
        ("seed", -1, "seed must be a whole number from 0 to 4294967295, not -1"),
        ("seed", 10**300, "seed must be a whole number from 0 to 4294967295, not a number of about 300 digits"),
        ("cfg_scale", "3", "cfg_scale must be a number from 0 to 20, not '3'"),
        ("cfg_scale", 20.5, "cfg_scale must be a number from 0 to 20, not 20.5"),
        ("cfg_scale", False, "cfg_scale must be a number from 0 to 20, not false"),
        ("cfg_filter_k", 2049, "cfg_filter_k must be a whole number from 0 to 2048, not 2049"),
        ("text_temperature", -0.1, "text_temperature must be a number from 0 to 2, not -0.1"),
        ("text_top_k", 0, "text_top_k must be a whole number from 1 to 2048, not 0"),
        ("audio_temperature", 2.1, "audio_temperature must be a number from 0 to 2, not 2.1"),
        ("audio_top_k", 2049, "audio_top_k must be a whole number from 1 to 2048, not 2049"),
        ("initial_padding", 101, "initial_padding must be a whole number from 0 to 100, not 101"),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_what_would_be_accepted(field, value, message):
    error = refused(start_with(**{field: value}))
    assert (error.code, str(error), error.cmd, error.field) == ("bad_field", message, "start", field)
    assert error.id == (None if field == "id" else "u7")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("audio", 5, "audio must be base64 of 16-bit little-endian samples, not 5"),
        ("audio", "no base64", "audio must be base64 of 16-bit little-endian samples, not 'no base64'"),
        ("audio", "AAA=\n", "audio must be base64 of 16-bit little-endian samples, not 'AAA=\\n'"),
        ("audio", "AAAA", "audio must be base64 of 16-bit little-endian samples, not 3 bytes, an odd number"),
        ("words", "Hi", f"{WORDS}, not 'Hi'"),
        ("words", ["Hi"], f"{WORDS}; item 1 is not one"),
        ("words", [["Hi", 0, 1], ["you", 1, 0.5]], f"{WORDS}; item 2 is not one"),
        ("words", [["Hi", 0, 61]], f"{WORDS}; item 1 is not one"),
        ("words", [["Hi", -1, 1]], f"{WORDS}; item 1 is not one"),
        ("words", [[" ", 0, 1]], f"{WORDS}; item 1 is not one"),
        ("words", [["Hi", 0, True]], f"{WORDS}; item 1 is not one"),
        ("words", [["Hi", 0, 1, 2]], f"{WORDS}; item 1 is not one"),
        ("speaker", "S3", "speaker must be S1 or S2, not 'S3'"),
        ("sample_rate", 7999, "sample_rate must be a whole number from 8000 to 48000, not 7999"),
        ("final", None, None),
    ],
)
def test_a_bad_field_of_listen_is_named(field, value, message):
    line = json.dumps({"cmd": "listen", field: value})
    if message is None:
        assert parse_command(line) == Listen()
        return
    error = refused(line)
    assert (error.code, error.cmd, error.field) == ("bad_field", "listen", field)
    assert str(error) == message


def test_samples_are_as_they_were_given():
    listen = Listen(b"\x01\x02\xff\x7f", "Hi.", sample_rate=8000)
    assert listen.pcm == b"\x01\x02\xff\x7f"
    assert parse_command(dump_command(listen)) == listen


@pytest.mark.parametrize("number", ["-1", "-0.001", "1e999", "-1e999", "true", '"5"', "[]", "1" + "0" * 309])
def test_played_ms_is_a_finite_number_of_0_or_more(number):
    error = refused(f'{{"cmd": "pause", "played_ms": {number}}}')
    assert (error.code, error.field) == ("bad_field", "played_ms")
    assert str(error).startswith("played_ms must be a number of 0 or more, not ")


@pytest.mark.parametrize("line", ['{"cmd": "inject", "id": "a"}', '{"cmd": "inject", "id": "a", "text": null}'])
def test_a_missing_field_is_named(line):
    error = refused(line)
    assert (error.code, error.cmd, error.id, error.field) == ("bad_field", "inject", "a", "text")
    assert str(error) == "inject needs text, a string of up to 20000 characters"


def test_an_unknown_field_is_named_with_those_the_command_takes():
    error = refused('{"cmd": "inject", "text": "a", "id": "b", "speed": 2, "pitch": 1}')
    assert (error.code, error.cmd, error.id, error.field) == ("bad_field", "inject", "b", "speed")
    assert str(error) == "inject has no field 'speed'; it takes text, id, final, voice"
    assert str(refused('{"cmd": "resume", "id": "b"}')) == "resume has no field 'id'; it takes none"


def test_text_over_the_limit_is_too_long_and_the_limit_is_named():
    assert parse_command(start_with(text="x" * MAX_TEXT_CHARS)).text == "x" * 20_000
    error = refused(start_with(text="x" * (MAX_TEXT_CHARS + 1)))
    assert (error.code, error.cmd, error.id, error.field) == ("too_long", "start", "u7", "text")
    assert str(error) == "text is 20001 characters long; the limit is 20000 a command, send the rest with inject"


@pytest.mark.parametrize("filler", ["x", "\u00e9", "\ud800"])
def test_a_line_over_the_limit_is_too_long_whatever_is_in_it(filler):
    size = len(filler.encode(errors="surrogatepass"))
    line = filler * (MAX_COMMAND_BYTES // size)
    assert refused(line).code == "bad_json"
    for longer in (line + filler, (line + filler).encode(errors="surrogatepass")):
        error = refused(longer)
        assert (error.code, error.cmd, error.id, error.field) == ("too_long", None, None, None)
        actual = len((line + filler).encode(errors="surrogatepass"))
        assert str(error) == f"the command is {actual} bytes long; the limit is 262144"


@pytest.mark.parametrize("field", ["text", "id", "voice"])
def test_half_a_character_is_refused_because_no_tokenizer_can_encode_it(field):
    error = refused(start_with(**{field: "ab\ud83dc"}))
    assert (error.code, error.field) == ("bad_field", field)
    assert "half a character, the lone surrogate U+D83D at index 2" in str(error)


def test_text_may_be_cut_between_the_halves_of_a_character():
    assert parse_command(start_with(text="ab\ud83d")).text == "ab\ud83d"
    assert parse_command(start_with(text="\ude00c")).text == "\ude00c"
    for text in ("\ud83d\ud83d", "a\ude00", "\ude00\ude00", "\ud83da"):
        assert refused(start_with(text=text)).field == "text"
    piece = Inject("a\ud83d", final=False)
    assert parse_command(dump_command(piece)) == piece


@pytest.mark.parametrize(
    ("say", "message"),
    [
        ([], "must be an object of up to 1000 words and what is said for each, not a list"),
        ({"a": 1}, "must be an object of up to 1000 words and what is said for each, not 1"),
        ({"New York": "x"}, "'New York': the word must be one word"),
        ({"a": " "}, "'a': what is said for it is empty"),
        ({"a" * 61: "b"}, "the word has 61 characters, of at most 60"),
        ({"a": "b" * 501}, "has 501 characters, of at most 500"),
        ({"a": "\ud83d"}, "half a character"),
        ({str(n): "x" for n in range(1001)}, "must be an object of up to 1000 words"),
    ],
)
def test_what_cannot_be_a_lexicon_is_refused(say, message):
    error = refused(start_with(text="a", say=say))
    assert (error.code, error.field) == ("bad_field", "say")
    assert message in str(error)


def test_heard_words_are_objects_on_the_wire():
    event = Paused(80, "Hi", "there", (HeardWord("a", 0, 2, True), HeardWord("a", 3, 8, False)))
    assert json.loads(dump_event(event))["words"] == [
        {"id": "a", "text_start": 0, "text_end": 2, "heard": True},
        {"id": "a", "text_start": 3, "text_end": 8, "heard": False},
    ]
    assert parse_event(dump_event(event)) == event
    with pytest.raises(ProtocolError, match="words must be a list of objects with id"):
        parse_event('{"event": "paused", "heard_ms": 0, "spoken": "", "pending": "", "words": [1]}')


def test_a_command_made_in_python_is_held_to_the_same_limits():
    with pytest.raises(CommandError, match="cfg_scale must be a number from 0 to 20, not 99") as caught:
        Start("Hello.", "a", cfg_scale=99)
    assert (caught.value.code, caught.value.cmd, caught.value.id) == ("bad_field", "start", "a")
    with pytest.raises(CommandError, match="not a Python bytes"):
        Inject(b"Hello.")
    with pytest.raises(CommandError, match="not Infinity"):
        Pause(float("inf"))
    with pytest.raises(CommandError, match="not a number of about 5000 digits"):
        Start("Hello.", seed=10**5000)


def test_thirty_thousand_keys_given_twice_are_refused_at_once():
    keys = ",".join(f'"{key % 25_000}":0' for key in range(26_000))
    assert refused("{" + keys + "}").code == "bad_json"


def test_an_error_survives_copying_and_pickling():
    error = CommandError("bad_field", "no such voice", "start", "a", "voice")
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (twin.code, str(twin), twin.cmd, twin.id, twin.field) == (
            "bad_field",
            "no such voice",
            "start",
            "a",
            "voice",
        )
    assert isinstance(error, Dia2StreamError)


# --- 100,000 lines ---

WRONG = [None, True, False, 0, -1, 1.5, 2**70, 1e308, "", "x", "\ud800", "\0", [], {}, [[1]], {"a": [None]}, "9" * 200]
LITERALS = ["NaN", "Infinity", "-Infinity", "1e999", "-0", "01", "1" * 600, "tru", "'a'", '"\\x"', '"\n"', "undefined"]
SPICE = ['"', "\\", "{", "}", "[", ",", ":", "\0", "\x1b", "\u2028", "\ud800", "\U0001f600", "e9", "null", "\ufeff"]


def some_object(rng):
    names = [*FIELDS, "cmd", "event", "", "__class__", "self", "x" * 500]
    message = {"cmd": rng.choice([*COMMANDS, *COMMANDS, "listen", 5, None]), "text": "Hello."}
    for name in rng.sample(names, rng.randrange(4)):
        message[name] = rng.choice(WRONG)
    if rng.random() < 0.3:
        message = {"cmd": "start", "text": "Hello.", "id": "a", rng.choice(names[:13]): rng.choice(WRONG)}
    return json.dumps(message, ensure_ascii=rng.random() < 0.5)


def some_damage(rng):
    line = some_object(rng)
    at = rng.randrange(len(line))
    return line[:at] + rng.choice(["", *SPICE]) + line[at + rng.randrange(3) :]


def some_bytes(rng):
    line = bytearray(some_object(rng).encode(errors="surrogatepass") if rng.random() < 0.5 else rng.randbytes(40))
    line[rng.randrange(len(line))] = rng.randrange(256)
    return bytes(line)


def some_literal(rng):
    name, literal = rng.choice(["played_ms", "text", "id", "cmd"]), rng.choice(LITERALS)
    return f'{{"cmd": "pause", "{name}": {literal}}}'


def some_nesting(rng):
    depth = rng.choice([1, 5, 50, 500, 900, 1000, 5000])
    opening, closing = rng.choice([("[", "]"), ('{"a":', "}"), ('{"cmd":', "}")])
    return '{"cmd": "start", "text": ' + opening * depth + "0" + closing * rng.choice([0, depth]) + "}"


def some_giant(rng):
    size = rng.choice([MAX_TEXT_CHARS, MAX_TEXT_CHARS + 1, MAX_COMMAND_BYTES, MAX_COMMAND_BYTES + 1, 1_000_000])
    return rng.choice(['{"cmd": "start", "text": "%s"}' % ("x" * size), "x" * size, "[" * size, b"\xff" * size])


def check_form(error):
    """What a client and a log see of an error: one short printable line."""
    event = dump_event(error_event(error))
    assert len(event.splitlines()) == 1
    assert len(event.encode()) < 1000
    assert str(error).isprintable()


def outcome(line):
    """The code of the error that the line is, or "command"; any other exception is a failure."""
    try:
        command = parse_command(line)
    except CommandError as error:
        check_form(error)
        return error.code
    assert type(command) in COMMANDS.values()
    assert parse_command(dump_command(command)) == command
    return "command"


def test_a_hundred_thousand_fuzzed_lines_are_each_a_command_or_one_error():
    rng = random.Random(20)
    makers = [some_object, some_damage, some_bytes, some_literal, some_nesting, some_giant]
    kinds = rng.choices(makers, weights=[400, 300, 200, 80, 18, 2], k=100_000)
    seen = {outcome(make(rng)) for make in kinds}
    assert seen == {"bad_json", "bad_command", "bad_field", "too_long", "command"}


keys = st.sampled_from(["cmd", *FIELDS]) | st.text()
scalars = st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from(sorted(COMMANDS)) | st.text()
trees = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=20)


@settings(max_examples=100, deadline=None)
@given(st.binary() | st.text(st.characters()) | trees.map(json.dumps))
def test_any_line_is_a_command_or_one_error(line):
    outcome(line)


# --- round trips ---

words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=60)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=128)
millis = st.integers(0, 10**9)


def maybe(strategy):
    return st.none() | strategy


commands = st.one_of(
    st.builds(
        Start,
        words,
        maybe(names),
        st.booleans(),
        voice=maybe(names),
        seed=maybe(st.integers(0, MAX_SEED)),
        cfg_scale=maybe(st.floats(0, 20)),
        cfg_filter_k=maybe(st.integers(0, 2048)),
        text_temperature=maybe(st.floats(0, 2)),
        text_top_k=maybe(st.integers(1, 2048)),
        audio_temperature=maybe(st.integers(0, 2)),
        audio_top_k=maybe(st.integers(1, 2048)),
        initial_padding=maybe(st.integers(0, 100)),
    ),
    st.builds(Inject, words, maybe(names), st.booleans(), maybe(names)),
    st.builds(End, maybe(names)),
    st.builds(Cancel, names),
    st.builds(Prepare, words, names, st.booleans(), maybe(names)),
    st.builds(Commit, names),
    st.builds(Discard, names),
    st.builds(Pause, maybe(st.floats(0, allow_infinity=False) | millis)),
    st.sampled_from([Resume(), Reset(), Fork()]),
)

any_text = st.text(st.characters())  # lone surrogates and control characters too
events = st.one_of(
    st.builds(
        Ready,
        any_text,
        any_text,
        any_text,
        st.sampled_from([24000, 16000, 8000]),
        st.sampled_from(["pcm16", "mulaw", "alaw"]),
        st.just(80),
        st.lists(any_text, max_size=3).map(tuple),
        maybe(any_text),
    ),
    st.builds(Started, names, st.integers(0, MAX_SEED)),
    st.builds(FirstAudio, names, st.floats(0, 1e7)),
    st.builds(WordEvent, names, any_text, st.sampled_from(["S1", "S2"]), millis),
    st.builds(Done, names, millis),
    st.builds(Cancelled, names),
    st.builds(Forked, any_text, millis),
    st.builds(Prepared, names, st.floats(0, 1e7)),
    st.builds(Discarded, names),
    st.builds(Paused, millis, any_text, any_text),
    st.sampled_from([Resumed(), ResetDone()]),
    st.builds(Error, st.sampled_from(sorted(CLOSE_CODES)), any_text, maybe(any_text), maybe(names), maybe(any_text)),
)


@fuzzed
@given(commands)
def test_every_command_comes_back_from_its_line(command):
    line = dump_command(command)
    assert parse_command(line) == parse_command(line.encode()) == command
    assert None not in json.loads(line).values()


@fuzzed
@given(events)
def test_every_event_comes_back_from_its_line(event):
    line = dump_event(event)
    assert parse_event(line) == parse_event(line.encode()) == event
    assert line.startswith('{"event":"')
    assert len(line.splitlines()) == 1
    assert None not in json.loads(line).values()


def test_the_lines_look_like_this():
    assert dump_command(Start("Caf\u00e9.")) == '{"cmd":"start","text":"Caf\u00e9."}'
    assert dump_command(Inject("a", final=False)) == '{"cmd":"inject","text":"a","final":false}'
    assert dump_command(Pause(0)) == '{"cmd":"pause","played_ms":0}'
    assert dump_event(FirstAudio("a", 41.2512)) == '{"event":"first_audio","id":"a","latency_ms":41.3}'
    assert (
        dump_event(WordEvent("a", "Hi", "S1", 160.0))
        == '{"event":"word","id":"a","word":"Hi","speaker":"S1","start_ms":160}'
    )
    assert dump_event(Done("a", 514.375)) == '{"event":"done","id":"a","audio_ms":514}'
    assert dump_event(ResetDone()) == '{"event":"reset"}'


def test_whatever_breaks_lines_or_terminals_is_escaped_in_events():
    nasty = "\n\r\x0b\x0c\x1b\x1c\x7f\x85\x9b\u2028\u2029\ud800"
    line = dump_event(Paused(0, nasty, "\u00e9"))
    assert line.isprintable()
    assert line.isascii() is False
    assert parse_event(line).spoken == nasty


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, True, "5", None, 10**400])
def test_an_event_with_a_time_that_is_none_cannot_be_made(value):
    with pytest.raises(ProtocolError, match="first_audio event: latency_ms must be a number of 0 or more, not "):
        FirstAudio("a", value)


def test_an_old_client_survives_new_fields_and_can_skip_new_events():
    assert parse_event('{"event": "done", "id": "a", "audio_ms": 80, "new": [1]}') == Done("a", 80)
    with pytest.raises(UnknownEvent, match="unknown event 'heard'; known are ready, started, "):
        parse_event('{"event": "heard", "text": "Hello."}')
    assert parse_event('{"event": "error", "code": "new_code", "message": "x"}') == Error("new_code", "x")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", 'an event is an object with an "event" name, not a list'),
        ('{"event": 5}', 'an event is an object with an "event" name, not an object'),
        ('{"event": "done", "audio_ms": null}', "done event: id, audio_ms missing"),
        (
            '{"event": "done", "id": 5, "audio_ms": 80}',
            "done event: id must be a string of up to 128 characters, not 5",
        ),
        ('{"event": "done", "id": "a", "audio_ms": NaN}', "not valid JSON: NaN"),
        ('{"event": "started", "id": "a", "seed": true}', "started event: seed must be a whole number"),
        (
            '{"event": "ready", "version": "1", "model": "m", "device": "cpu", "sample_rate": 24000, '
            '"encoding": "pcm16", "frame_ms": 80, "voices": ["a", 5]}',
            "ready event: voices must be a list of strings, not a list",
        ),
    ],
)
def test_an_event_that_is_not_one_is_a_protocol_error(line, message):
    with pytest.raises(ProtocolError) as caught:
        parse_event(line)
    assert str(caught.value).startswith(message)


def test_a_command_error_becomes_an_error_event_with_the_same_fields():
    error = CommandError("bad_field", "no such voice", "start", "a", "voice")
    assert error_event(error) == Error("bad_field", "no such voice", "start", "a", "voice")
    assert dump_event(error_event(CommandError("busy", "taken"))) == '{"event":"error","code":"busy","message":"taken"}'


# --- audio ---


@fuzzed
@given(st.binary(max_size=100), st.sampled_from([1, 2]))
def test_audio_comes_back_from_its_message(samples, width):
    data = samples * width
    message = pack_audio(len(samples), data)
    assert message[:4] == len(samples).to_bytes(4, "little")
    assert unpack_audio(message) == Audio(len(samples), data)


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (b"\1\0\0", "an audio message starts with 4 bytes of count, not 3"),
        (b"\3\0\0\0abcd", r"3 samples are 6 bytes \(pcm16\) or 3 \(mulaw, alaw\), not 4"),
        (b"\0\0\0\0a", "0 samples are 0 bytes"),
    ],
)
def test_audio_whose_count_does_not_fit_is_a_protocol_error(message, problem):
    with pytest.raises(ProtocolError, match=problem):
        unpack_audio(message)


@pytest.mark.parametrize("count", [-1, 2**32])
def test_a_count_that_four_bytes_cannot_hold_is_refused(count):
    with pytest.raises(ProtocolError, match="an audio message holds 0 to 4294967295 samples, not "):
        pack_audio(count, b"")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        ("a\nb\u2028\ud800", "'a\\nb\\u2028\\ud800'"),
        ("x" * 41, f"'{'x' * 40}'..."),
        ({"a": 1}, "an object"),
        ((1,), "a Python tuple"),
    ],
)
def test_values_are_shown_short_and_printable(value, text):
    assert shown(value) == text

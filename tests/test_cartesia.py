"""Cartesia's wire format: contexts over the socket, bytes and events over HTTP, errors as their clients read them."""

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import av
import pytest
from conversations import words_of
from dialects import FRAME_BYTES, SERVED, Client, refusal, request, spoken
from hypothesis import given
from hypothesis import strategies as st

from dia2stream.audio import Encoder, encode_samples
from dia2stream.errors import CommandError
from dia2stream.items import Frame
from dia2stream.protocol.messages import Pause, Start
from dia2stream.server.dialects.cartesia import ROUTES, open_socket, refuse, speak_bytes, speak_events
from dia2stream.server.dialects.dialect import Close, Response, Standing, Translator

HELLO = "Hello there my friend, how are you?"
RAW = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 24000}


def say(context: str, transcript: str, **fields: object) -> dict[str, object]:
    """A message as pipecat and LiveKit send it."""
    voice = {"mode": "id", "id": "f9836c6e-a0bd-460e-9d3c-f7299fa60f94"}
    message = {"context_id": context, "transcript": transcript, "model_id": "sonic-3", "voice": voice}
    more = {"output_format": RAW, "continue": True, "add_timestamps": True, "language": "en"}
    return {**message, **more, **fields}


def end(context: str) -> dict[str, object]:
    return say(context, "", **{"continue": False})


def connect(standing: Standing | None = None, client: Client | None = None) -> Client:
    translator = open_socket(request(), SERVED)
    assert isinstance(translator, Translator)
    return Client(translator, client.rig if client else None, standing)


def sound(client: Client, context: str) -> bytes:
    chunks = [message for message in client.of("chunk") if message["context_id"] == context]
    return b"".join(base64.b64decode(message["data"]) for message in chunks)


def words(client: Client, context: str) -> list[str]:
    times = [each["word_timestamps"] for each in client.of("timestamps") if each["context_id"] == context]
    return [word for each in times for word in each["words"]]


# --- the socket ---


def test_a_context_gives_chunks_and_words_and_one_done():
    client = connect().send(say("a", HELLO), end("a")).run()
    assert [message["type"] for message in client.messages].count("done") == 1
    assert client.messages[-1] == {"type": "done", "done": True, "status_code": 200, "context_id": "a"}
    assert words(client, "a") == words_of(HELLO)
    heard = [item.pcm for item in client.rig.items if isinstance(item, Frame)]
    assert sound(client, "a") == b"".join(encode_samples(pcm, "pcm16") for pcm in heard)


def test_every_message_has_the_fields_that_their_sdk_reads():
    client = connect().send(say("a", HELLO, flush=True), end("a")).run()
    for message in client.messages:
        assert message["context_id"] == "a"
        assert isinstance(message["done"], bool)
        assert isinstance(message["status_code"], int)
    assert all(isinstance(each["step_time"], float) for each in client.of("chunk"))
    assert client.of("flush_done") == [
        {"type": "flush_done", "done": False, "flush_done": True, "flush_id": 1, "status_code": 206, "context_id": "a"}
    ]


def test_transcripts_of_a_context_are_joined_as_they_are():
    client = connect().send(say("a", "Hel"), say("a", "lo th"), say("a", "ere."), end("a")).run()
    assert words(client, "a") == ["Hello", "there."]


def test_sentences_are_spoken_at_once_where_the_client_does_the_buffering():
    client = connect().send(say("a", "One two three. ", max_buffer_delay_ms=0)).run()
    assert words(client, "a") == ["One", "two", "three."]
    client.send(say("a", "Four. ", max_buffer_delay_ms=0), end("a")).run()
    assert words(client, "a") == ["One", "two", "three.", "Four."]
    assert len(client.of("done")) == 1


def test_tokens_are_spoken_when_they_have_waited_for_as_long_as_the_client_says():
    client = connect().send(say("a", "One two three", max_buffer_delay_ms=1000)).run()
    assert words(client, "a") != ["One", "two", "three"]
    assert words(client.wait(1.1).run(), "a") == ["One", "two", "three"]


def test_word_times_are_seconds_from_the_start_of_the_context():
    client = connect().send(say("a", HELLO), end("a")).run().send(say("b", HELLO), end("b")).run()
    for context in ("a", "b"):
        played = 0.0
        for message in client.messages:
            if message["context_id"] != context:
                continue
            if message["type"] == "chunk":
                played += 0.08
            elif message["type"] == "timestamps":
                times = message["word_timestamps"]
                assert times["start"] == [pytest.approx(played)]
                assert times["end"][0] > times["start"][0]


def test_times_are_sent_only_to_who_asks():
    client = connect().send(say("a", HELLO, add_timestamps=False), end("a")).run()
    assert not client.of("timestamps")


@pytest.mark.parametrize(
    ("encoding", "rate", "bytes_a_frame"),
    [("pcm_f32le", 44100, 14112), ("pcm_mulaw", 8000, 640), ("pcm_alaw", 8000, 640), ("pcm_s16le", 48000, 7680)],
)
def test_each_context_has_its_own_form_and_every_chunk_is_80_ms(encoding, rate, bytes_a_frame):
    form = {"container": "raw", "encoding": encoding, "sample_rate": rate}
    client = connect().send(say("a", "One."), end("a"), say("b", "Two.", output_format=form), end("b")).run()
    sizes = {(each["context_id"], len(base64.b64decode(each["data"]))) for each in client.of("chunk")}
    assert sizes == {("a", FRAME_BYTES), ("b", bytes_a_frame)}


def test_a_cancelled_context_gives_nothing_more_and_its_late_text_is_not_said():
    client = connect().send(say("a", HELLO * 3)).run(frames=10)
    client.now += 0.5
    before = len(client.got)
    client.send({"context_id": "a", "cancel": True}, say("a", "Late."), end("a")).run()
    assert client.commands[-1] == Pause(500)
    assert len(client.got) == before
    client.send(say("b", "Yes?"), end("b")).run()
    assert {message["context_id"] for message in client.messages[before:]} == {"b"}
    assert words(client, "b") == ["Yes?"]


def test_a_cancel_of_nothing_is_no_error():
    assert not connect().send({"context_id": "never", "cancel": True}).run().got


@pytest.mark.parametrize("nothing", [{}, {"transcript": None}, {"transcript": ""}])
def test_a_flush_and_an_end_need_no_text(nothing):
    client = connect().send(say("a", HELLO), {"context_id": "a", "continue": True, "flush": True, **nothing}).run()
    assert [each["type"] for each in client.messages][-1] == "flush_done"
    assert client.send({"context_id": "a", **nothing}).run().messages[-1]["type"] == "done"
    assert words(client, "a") == HELLO.split()
    assert not client.of("error")


def test_contexts_that_are_sent_together_are_told_apart():
    client = connect().send(say("a", "One two."), say("b", "Three."), end("b"), end("a")).run()
    assert [each["context_id"] for each in client.of("done")] == ["a", "b"]
    assert (words(client, "a"), words(client, "b")) == (["One", "two."], ["Three."])


def test_a_second_socket_goes_on_with_the_conversation():
    first = connect().send(say("a", HELLO), end("a")).run()
    second = connect(Standing(True, 80 * first.sent), first).send(say("a", "Again."), end("a")).run()
    assert not any(isinstance(command, Start) for command in second.commands)
    assert words(second, "a") == ["Again."]


def test_a_socket_that_drops_in_mid_speech_is_an_interruption():
    client = connect().send(say("a", HELLO), end("a")).run(frames=10)
    client.now += 0.3
    assert client.leave().commands[-1] == Pause(300)


# --- errors of the socket ---


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("not json", "JSON"),
        ("[]", "object"),
        ({"transcript": 5, "context_id": "a"}, "transcript"),
        ({**say("a", "Hi."), "output_format": None}, "output_format"),
        ({**say("a", "Hi."), "output_format": {**RAW, "encoding": "opus"}}, "encoding"),
        ({**say("a", "Hi."), "output_format": {**RAW, "sample_rate": 11025}}, "sample_rate"),
        ({**say("a", "Hi."), "output_format": {**RAW, "container": "mp3"}}, "container"),
        ({**say("a", "Hi."), "voice": 5}, "voice"),
        ({**say("a", "Hi."), "max_buffer_delay_ms": 6000}, "max_buffer_delay_ms"),
        ({**say("a", "Hi."), "continue": "maybe"}, "continue"),
        ({"context_id": 5, "cancel": True}, "context_id"),
        (say("a", 'Hi <break time="99s"/>.'), "break"),
        (say("a", "\ud83d!"), "surrogate"),
    ],
)
def test_what_cannot_be_is_an_error_with_a_context_and_the_socket_goes_on(message, field):
    client = connect().send(message).run()
    (error,) = client.of("error")
    assert set(error) >= {"context_id", "title", "message", "error_code", "status_code", "request_id", "done"}
    assert (error["status_code"], error["done"]) == (400, True)
    assert field in error["message"]
    assert client.send(say("b", "Hi."), end("b")).run().of("done")


def test_a_failure_of_ours_is_told_to_every_open_context_and_closes_the_socket():
    client = connect().send(say("a", "One."), say("b", "Two."))
    *errors, close = client.translator.fail(CommandError("internal", "the model failed"))
    assert [json.loads(str(each))["context_id"] for each in errors] == ["a", "b"]
    assert close == Close(1011, "internal")


# --- HTTP ---


def body(**fields: object) -> Any:
    return request({"model_id": "sonic-3", "transcript": HELLO, "voice": "bob", "output_format": RAW, **fields})


def test_bytes_are_the_sound_in_its_container():
    raw = spoken(speak_bytes(body(), SERVED))
    assert len(raw.data) == raw.sent * FRAME_BYTES > 0
    (start,) = raw.commands
    assert isinstance(start, Start)
    assert start.voice == "bob"
    wav = speak_bytes(body(output_format={**RAW, "container": "wav"}), SERVED)
    assert isinstance(wav, Translator)
    assert wav.headers["Content-Type"] == "audio/wav"
    assert spoken(wav).data[44:] == raw.data
    mp3 = spoken(speak_bytes(body(output_format={"container": "mp3", "sample_rate": 44100, "bit_rate": 64000}), SERVED))
    with av.open(io.BytesIO(mp3.data)) as file:
        assert (file.streams.audio[0].rate, file.streams.audio[0].bit_rate) == (44100, 64000)


def test_events_are_those_of_the_socket():
    form = {"container": "raw", "encoding": "pcm_f32le", "sample_rate": 22050}
    translator = speak_events(body(output_format=form, add_timestamps=True, context_id="c"), SERVED)
    assert isinstance(translator, Translator)
    client = spoken(translator)
    assert translator.headers["Content-Type"] == "text/event-stream"
    assert {event["context_id"] for event in client.events} == {"c"}
    assert [event["type"] for event in client.events][-1] == "done"
    chunks = [event["data"] for event in client.events if event["type"] == "chunk"]
    encoder = Encoder("f32", 22050)
    encoder.restart()
    heard = [item.pcm for item in client.rig.items if isinstance(item, Frame)]
    assert b"".join(map(base64.b64decode, chunks)) == b"".join(encoder.encode(pcm) for pcm in heard)
    times = [event["word_timestamps"]["words"] for event in client.events if event["type"] == "timestamps"]
    assert [word for some in times for word in some] == words_of(HELLO)
    assert client.data.startswith(b"event: ")


def test_an_embedding_stands_for_a_voice():
    voice = {"mode": "embedding", "embedding": [0.1, 0.2]}
    assert spoken(speak_bytes(body(voice=voice), SERVED)).data


@pytest.mark.parametrize("open", [speak_bytes, speak_events])
def test_a_request_that_cannot_be_is_refused_in_the_formats_shape(open: Callable[..., Any]):
    error = refusal(lambda: open(body(transcript=" "), SERVED))
    answer = refuse(error)
    told = json.loads(answer.body)
    assert (answer.status, told["status_code"], told["error_code"]) == (400, 400, "bad_field")
    assert "transcript" in told["message"]


def test_busy_says_when_to_come_again():
    answer = refuse(CommandError("busy", "every slot is taken"))
    assert (answer.status, answer.headers["Retry-After"]) == (429, "2")
    assert {route.refuse for route in ROUTES} == {refuse}


# --- whatever comes ---

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=6), scalars, max_size=3)
names = st.sampled_from(
    ["transcript", "voice", "output_format", "continue", "flush", "cancel", "add_timestamps", "max_buffer_delay_ms"]
)
sane = st.builds(
    lambda context, text, changes: {**say(context, text), **changes},
    st.sampled_from(["a", "b", ""]),
    st.sampled_from(["Hello there.", " ", "", "wor", "[S2] Yes."]),
    st.just({}) | st.dictionaries(names, values | st.booleans(), max_size=2),
)


@given(st.lists(sane | st.binary(max_size=30) | st.text(max_size=30) | values, max_size=6), st.integers(0, 4))
def test_whatever_is_sent_every_message_is_one_of_the_format(messages, frames):
    client = connect()
    for message in messages:
        client.send(message)
        client.run_up_to(frames)
    client.wait(3.5).run().leave()
    known = {"chunk", "timestamps", "flush_done", "done", "error"}
    for message in client.messages:
        assert message["type"] in known
        assert isinstance(message["context_id"], str)
    assert client.close is None


@given(st.binary(max_size=40) | st.dictionaries(names, values, max_size=6))
def test_whatever_is_asked_over_http_is_spoken_or_refused_in_the_formats_shape(asked):
    data = (
        asked if isinstance(asked, bytes) else json.dumps({"transcript": "Hi.", "output_format": RAW, **asked}).encode()
    )
    for opens in (speak_bytes, speak_events):
        try:
            answer: Response | None = Client(opens(request(data), SERVED)).run().answer  # type: ignore[arg-type]
        except CommandError as error:
            answer = refuse(error)
        if answer is not None:
            assert set(json.loads(answer.body)) >= {"title", "message", "error_code", "status_code", "request_id"}

"""Deepgram's two sockets and their requests: turns, what was heard of one, and errors as their clients read them."""

import io
import json
from typing import Any

import av
import pytest
from conversations import words_of
from dialects import FRAME_BYTES, SERVED, Client, refusal, request, spoken
from hypothesis import given
from hypothesis import strategies as st

from dia2stream.audio import encode_samples
from dia2stream.errors import CommandError
from dia2stream.items import Frame
from dia2stream.protocol.messages import Pause, Start
from dia2stream.server.dialects.deepgram import ROUTES, open_v1, open_v2
from dia2stream.server.dialects.deepgram_requests import refuse, speak
from dia2stream.server.dialects.dialect import Close, Response, Standing, Translator

HELLO = "Hello there my friend, how are you?"
FLUSH, CLEAR, CLOSE = {"type": "Flush"}, {"type": "Clear"}, {"type": "Close"}


def say(text: str) -> dict[str, object]:
    return {"type": "Speak", "text": text}


def interrupt(value: int | None = None) -> dict[str, object]:
    offset = {} if value is None else {"playback_offset": {"type": "time_ms", "value": value}}
    return {"type": "Interrupt", **offset}


def aura(standing: Standing | None = None, **query: str) -> Client:
    translator = open_v1(request(query={"model": "aura-2-thalia-en", **query}), SERVED)
    assert isinstance(translator, Translator)
    return Client(translator, standing=standing)


def flux(**query: str) -> Client:
    translator = open_v2(request(query={"model": "flux-alexis-en", **query}), SERVED)
    assert isinstance(translator, Translator)
    return Client(translator)


def types(client: Client) -> list[str]:
    """The messages in order, with sound that comes in a row as one."""
    told = ["audio" if isinstance(message, bytes) else json.loads(message)["type"] for message in client.got]
    return [type for number, type in enumerate(told) if number == 0 or (type, told[number - 1]) != ("audio", "audio")]


def heard(client: Client) -> bytes:
    return b"".join(encode_samples(item.pcm, "pcm16") for item in client.rig.items if isinstance(item, Frame))


# --- /v1/speak ---


def test_a_turn_of_aura_is_sound_between_metadata_and_flushed():
    client = aura().send(say("Hello "), say("there."), FLUSH).run()
    assert types(client) == ["Metadata", "audio", "Flushed"]
    assert client.data == heard(client)
    assert client.of("Flushed") == [{"type": "Flushed", "sequence_id": 0}]
    assert set(client.messages[0]) >= {"request_id", "model_name", "model_version", "model_uuid"}


def test_words_of_aura_are_joined_as_they_are_and_turns_follow_each_other():
    client = aura().send(say("Hel"), say("lo "), FLUSH, say("Again."), FLUSH).run()
    assert types(client) == ["Metadata", "audio", "Flushed", "audio", "Flushed"]
    assert "".join(client.texts) == "Hello Again."


def test_clear_stops_the_sound_and_what_follows_is_said():
    client = aura().send(say(HELLO * 3), FLUSH).run(frames=10)
    client.now += 0.5
    client.send(say("Waits."), FLUSH, CLEAR)
    assert client.commands[-1] == Pause(500)
    before = len(client.got)
    client.send(say("Yes?"), FLUSH).run()
    assert [client.messages[-2]["type"], client.messages[-1]["type"]] == ["Cleared", "Flushed"]
    assert all(isinstance(message, bytes) for message in client.got[before:-1])
    assert client.texts[-1] == "Yes?"


def test_flush_and_clear_of_nothing_are_answered():
    client = aura().send(FLUSH, CLEAR, FLUSH)
    assert [message["sequence_id"] for message in client.messages[1:]] == [0, 1, 2]


def test_a_flush_of_nothing_is_answered_behind_the_turn_before_it():
    client = aura().send(say("Hello there."), FLUSH, FLUSH).run()
    assert types(client) == ["Metadata", "audio", "Flushed", "Flushed"]
    client.now += 0.3
    client.send(CLEAR).run()
    assert client.pauses == [300]


def test_close_waits_for_what_was_asked_for():
    client = aura().send(say("Hello there."), CLOSE)
    assert client.close is None
    assert client.run().close == Close()
    assert types(client) == ["Metadata", "audio", "Flushed"]
    assert aura().send(CLOSE).close == Close()


@pytest.mark.parametrize(
    ("query", "size"),
    [
        ({}, 3840),
        ({"encoding": "mulaw"}, 640),
        ({"encoding": "alaw", "sample_rate": "16000"}, 1280),
        ({"encoding": "linear16", "sample_rate": "48000"}, 7680),
    ],
)
def test_every_message_of_sound_is_80_ms_in_the_form_of_the_query(query, size):
    client = aura(**query).send(say("Hi."), FLUSH, say("You."), FLUSH).run()
    assert {len(message) for message in client.got if isinstance(message, bytes)} == {size}


def test_the_voice_is_in_the_models_name():
    for model in ("bob", "aura-2-bob-en", "flux-bob-en", "aura-bob-en"):
        start = aura(model=model).send(say("Hi."), FLUSH).commands[0]
        assert isinstance(start, Start)
        assert start.voice == "bob"
    start = aura().send(say("Hi."), FLUSH).commands[0]
    assert isinstance(start, Start)
    assert start.voice is None


def test_a_speed_is_passed_over_with_a_warning():
    (_, warning) = aura(speed="1.2").messages
    assert (warning["type"], warning["code"]) == ("Warning", "SPEED_NOT_SUPPORTED")
    assert warning["warn_msg"] == warning["description"]
    assert len(aura(speed="1.0").messages) == 1


def test_a_keepalive_is_not_answered():
    for client in (aura(), flux()):
        before = len(client.got)
        assert len(client.send({"type": "KeepAlive"}).got) == before
        assert client.send(say("Hi."), FLUSH).run().data


@pytest.mark.parametrize("message", ["no json", "[]", {"type": "Sing"}, {"type": 5}, {"type": "Speak", "text": 5}])
def test_what_aura_does_not_understand_is_a_warning_and_the_socket_goes_on(message):
    client = aura().send(message)
    assert [each["type"] for each in client.messages[1:]] == ["Warning"]
    assert types(client.send(say("Hi."), FLUSH).run())[-1] == "Flushed"


def test_text_that_cannot_be_said_is_an_error_and_the_next_turn_is_said():
    client = aura().send(say('Hi <break time="99s"/>.'), FLUSH, say("Hi."), FLUSH).run()
    assert types(client) == ["Metadata", "Error", "audio", "Flushed"]


# --- /v2/speak ---


def test_a_turn_of_flux_begins_and_ends_with_its_id_and_what_it_took():
    client = flux().send(say("Hello "), say("there."), FLUSH).run()
    assert types(client) == ["Connected", "Flushed", "SpeechStarted", "audio", "SpeechMetadata"]
    ids = {message["speech_id"] for message in client.messages if "speech_id" in message}
    assert len(ids) == 1
    assert next(iter(ids)).startswith("dg_sp_")
    metadata = client.messages[-1]
    assert metadata["audio_duration_ms"] == 80 * client.sent
    assert metadata["input_character_count"] == metadata["billable_character_count"] == 12
    assert client.data == heard(client)


def test_a_turn_that_is_silent_says_so_and_still_ends():
    client = flux().send(say("  "), FLUSH).run()
    assert types(client) == ["Connected", "Flushed", "SpeechStarted", "Warning", "SpeechMetadata"]
    assert client.of("Warning")[0]["code"] == "NO_SYNTHESIZABLE_TEXT"
    assert client.messages[-1]["audio_duration_ms"] == 0


def test_an_interrupt_tells_what_was_heard_and_the_memory_is_that():
    client = flux().send(say(HELLO), FLUSH).run(frames=20)
    client.send(interrupt(880)).run()
    (interrupted,) = client.of("SpeechInterrupted")
    assert interrupted["audio_played_ms"] == 880
    assert interrupted["text_spoken"] + interrupted["text_remaining"] == HELLO
    assert interrupted["metadata"]["audio_duration_ms"] == 880
    spoken_words = interrupted["text_spoken"].split()
    assert spoken_words == words_of(HELLO)[: len(spoken_words)] != []
    client.send(say("Yes?"), FLUSH).run()
    assert client.rig.context.frames - client.rig.context.first_frame == 11 + client.sent - 20


def test_offsets_count_from_the_start_of_the_session_and_leave_out_what_was_not_heard():
    client = flux().send(say(HELLO * 3), FLUSH).run(frames=20).send(interrupt(480)).run()
    client.send(say(HELLO), FLUSH).run(frames=10).send(interrupt(880)).run()
    first, second = client.of("SpeechInterrupted")
    assert (first["audio_played_ms"], second["audio_played_ms"]) == (480, 880)
    assert second["metadata"]["audio_duration_ms"] == 400
    client.send(interrupt(300))
    assert client.of("Warning")[-1]["code"] == "INVALID_INTERRUPT_OFFSET"
    assert client.send(CLOSE).of("SessionMetadata")[0]["total_audio_duration_ms"] == 880


def test_an_interrupt_without_an_offset_goes_by_the_clock_and_tells_no_text():
    client = flux().send(say(HELLO * 3), FLUSH).run(frames=20)
    client.now += 0.8
    (interrupted,) = client.send(interrupt()).run().of("SpeechInterrupted")
    assert interrupted["audio_played_ms"] == 800
    assert not {"text_spoken", "text_remaining"} & set(interrupted)
    assert client.pauses == [800]


def test_an_interrupt_after_the_end_of_a_turn_still_tells_what_was_heard():
    client = flux().send(say(HELLO), FLUSH).run()
    assert types(client)[-1] == "SpeechMetadata"
    (interrupted,) = client.send(interrupt(400)).run().of("SpeechInterrupted")
    assert interrupted["text_remaining"]
    assert client.pauses == [400]


def test_an_interrupt_of_what_was_heard_or_of_nothing_is_a_warning():
    client = flux().send(interrupt())
    assert client.of("Warning")[-1]["code"] == "NO_ACTIVE_SPEECH"
    client.send(say("Hi."), FLUSH).run()
    client.now += 60
    assert client.send(interrupt()).of("Warning")[-1]["code"] == "NO_ACTIVE_SPEECH"
    assert not client.pauses


def test_a_turn_that_has_not_begun_to_sound_can_be_interrupted():
    client = flux().send(say("Hel"), interrupt(0))
    assert not client.got[1:]
    client.run()
    assert client.of("SpeechInterrupted")[0]["text_remaining"] == "Hel"
    assert types(client.send(say("Yes?"), FLUSH).run())[-2:] == ["audio", "SpeechMetadata"]


def test_turns_that_wait_go_with_the_one_that_is_interrupted():
    client = flux().send(say(HELLO * 2), FLUSH, say("Second."), FLUSH, say("Third.")).run(frames=5)
    client.send(interrupt(80), interrupt(80)).run()
    assert len(client.of("SpeechInterrupted")) == 1
    assert client.of("Warning")[0]["code"] == "INTERRUPT_IN_PROGRESS"
    client.send(say("Last."), FLUSH).run()
    assert client.texts == [HELLO * 2, "Last."]


def test_a_flush_of_nothing_is_a_warning():
    assert flux().send(FLUSH).of("Warning")[0]["code"] == "NO_ACTIVE_SPEECH"


def test_speed_cannot_be_configured():
    client = flux().send({"type": "Configure", "speed": 1.1}, {"type": "Configure", "speed": 1.0})
    failure, success = client.messages[1:]
    assert (failure["type"], failure["code"], failure["field"]) == ("ConfigureFailure", "SPEED_NOT_SUPPORTED", "speed")
    assert success == {"type": "ConfigureSuccess", "applied": {"speed": 1.0}}


def test_close_drains_the_turn_and_tells_the_sessions_totals():
    client = flux().send(say("Hello there."), CLOSE).run()
    assert types(client) == ["Connected", "SpeechStarted", "audio", "SpeechMetadata", "SessionMetadata"]
    assert client.messages[-1]["total_input_character_count"] == 12
    assert client.close == Close()


def test_tokens_are_said_without_a_flush_when_nothing_follows():
    client = flux().send(say("One two three.")).run().wait(0.5).run()
    assert client.rig.words == ["One", "two", "three."]
    assert not client.of("SpeechMetadata")


@pytest.mark.parametrize("message", ["no json", "5", {"type": "Sing"}, {"text": "Hi."}, {"type": "Speak"}])
def test_what_flux_does_not_understand_is_an_error_and_the_socket_goes_on(message):
    client = flux().send(message)
    assert [(each["type"], each["code"]) for each in client.messages[1:]] == [("Error", "MESSAGE-0000")]
    assert types(client.send(say("Hi."), FLUSH).run())[-1] == "SpeechMetadata"


def test_a_failure_of_ours_is_an_error_and_the_end():
    error, close = flux().translator.fail(CommandError("internal", "the model failed"))
    assert json.loads(str(error))["code"] == "NET-0000"
    assert close == Close(1011, "internal")


def test_a_socket_that_drops_in_mid_speech_is_an_interruption():
    client = flux().send(say(HELLO), FLUSH).run(frames=10)
    client.now += 0.3
    assert client.leave().pauses == [300]


# --- requests ---


def asked(body: object = None, **query: str) -> Any:
    return request({"text": HELLO} if body is None else body, query=query)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("query", "content_type", "codec", "rate"),
    [
        ({}, "audio/mpeg", "mp3float", 22050),
        ({"encoding": "mp3", "bit_rate": "32000"}, "audio/mpeg", "mp3float", 22050),
        ({"encoding": "flac"}, "audio/flac", "flac", 48000),
        ({"encoding": "opus"}, "audio/ogg", "opus", 48000),
        ({"encoding": "linear16"}, "audio/wav", "pcm_s16le", 24000),
        ({"encoding": "mulaw"}, "audio/wav", "pcm_mulaw", 8000),
    ],
)
def test_a_request_is_answered_in_the_form_of_its_query(query, content_type, codec, rate):
    translator = speak(asked(**query), SERVED)
    assert isinstance(translator, Translator)
    assert translator.headers["Content-Type"] == content_type
    with av.open(io.BytesIO(spoken(translator).data)) as file:
        assert (file.streams.audio[0].codec_context.name, file.streams.audio[0].rate) == (codec, rate)


def test_a_request_without_a_container_is_answered_by_samples_alone():
    client = spoken(speak(asked(encoding="linear16", container="none", sample_rate="24000"), SERVED))
    assert client.data == heard(client)
    assert len(client.data) == client.sent * FRAME_BYTES > 0


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"encoding": "aac"}, "encoding"),
        ({"encoding": "opus", "sample_rate": "44100"}, "sample_rate"),
        ({"speed": "1.3"}, "speed"),
        ({"encoding": "linear16", "container": "ogg"}, "container"),
        ({"bit_rate": "fast"}, "bit_rate"),
    ],
)
def test_a_query_that_cannot_be_is_refused_and_the_field_named(query, field):
    answer = refuse(refusal(lambda: speak(asked(**query), SERVED)))
    told = json.loads(answer.body)
    assert answer.status == 400
    assert set(told) == {"err_code", "err_msg", "request_id"}
    assert field in told["err_msg"]


@pytest.mark.parametrize("body", [b"", b"text", {"text": ""}, {"text": 5}, {"url": "x"}])
def test_a_body_without_text_is_refused(body):
    assert refuse(refusal(lambda: speak(asked(body), SERVED))).status == 400


@pytest.mark.parametrize("opens", [open_v1, open_v2])
def test_a_socket_that_cannot_be_is_refused_before_the_handshake(opens):
    for query in ({"encoding": "opus"}, {"sample_rate": "11025"}, {"speed": "fast"}):
        assert refuse(refusal(lambda query=query: opens(request(query=query), SERVED))).status == 400
    assert {route.refuse for route in ROUTES} == {refuse}


# --- whatever comes ---

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
sane = st.sampled_from(
    [
        *[say("Hello there."), say(" "), say("wor"), FLUSH, FLUSH, CLEAR, interrupt(), interrupt(0), interrupt(400)],
        *[{"type": "Configure", "speed": 1.05}, say('<break time="99s"/>'), say("[S2] Yes.")],
    ]
)
noise = st.dictionaries(st.sampled_from(["type", "text", "playback_offset", "speed"]), scalars, max_size=3)
V1 = {"Metadata", "Flushed", "Cleared", "Warning", "Error"}
V2 = {"Connected", "SpeechStarted", "Flushed", "SpeechMetadata", "SpeechInterrupted", "ConfigureSuccess"} | {
    *("ConfigureFailure", "SessionMetadata", "Warning", "Error")
}


@given(st.lists(sane | noise | st.binary(max_size=20) | scalars, max_size=8), st.integers(0, 6), st.booleans())
def test_whatever_is_sent_every_message_is_one_of_the_format_and_close_ends_it(messages, frames, newer):
    client = flux() if newer else aura()
    for message in messages:
        client.send(message)
        client.run_up_to(frames)
    client.wait(3.5).run().send(CLOSE).run()
    assert client.close == Close()
    for message in client.messages:
        assert message["type"] in (V2 if newer else V1)
        if message["type"] in ("Warning", "Error"):
            assert message["code"]
            assert message["description"]
            assert "\n" not in message["description"]
    started = [message["speech_id"] for message in client.of("SpeechStarted")]
    ended = [message["speech_id"] for message in client.of("SpeechMetadata")]
    ended += [message["metadata"]["speech_id"] for message in client.of("SpeechInterrupted")]
    assert len(started) == len(set(started))
    if not client.of("Error"):
        assert set(started) <= set(ended)


@given(
    st.binary(max_size=30) | noise, st.dictionaries(st.sampled_from(["encoding", "sample_rate", "model"]), st.text())
)
def test_whatever_is_asked_over_http_is_spoken_or_refused_in_the_formats_shape(body, query):
    try:
        answer: Response | None = spoken(speak(asked(body, **query), SERVED)).answer
    except CommandError as error:
        answer = refuse(error)
    if answer is not None:
        assert set(json.loads(answer.body)) == {"err_code", "err_msg", "request_id"}

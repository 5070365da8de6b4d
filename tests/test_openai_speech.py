"""OpenAI's speech endpoint: what its clients send becomes our commands, what they read is what they expect."""

import base64
import io
import json
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from dialects import SERVED, Client, refusal, request, spoken
from hypothesis import given
from hypothesis import strategies as st

from dia2stream.audio import encode_samples
from dia2stream.errors import CommandError
from dia2stream.items import Frame
from dia2stream.protocol.messages import Pause, Start
from dia2stream.server.dialects.dialect import Close, Response, Served, Standing, Translator
from dia2stream.server.dialects.openai_speech import (
    ROUTES,
    THEIR_MODELS,
    get_model,
    list_models,
    list_voices,
    refuse,
    speak,
)

HELLO = "Hello there my friend, how are you?"


def opened(served: Served = SERVED, **fields: object) -> Translator:
    body = {"model": "tts-1", "voice": "alloy", "input": HELLO, "response_format": "pcm", **fields}
    translator = speak(request({name: value for name, value in body.items() if value is not None}), served)
    assert isinstance(translator, Translator)
    return translator


def heard(client: Client) -> bytes:
    """What the conversation made, as PCM16."""
    return b"".join(encode_samples(item.pcm, "pcm16") for item in client.rig.items if isinstance(item, Frame))


def error_of(answer: Response | None) -> Any:
    assert answer is not None
    return json.loads(answer.body)["error"]


# --- speech ---


def test_pcm_is_the_conversations_samples_and_nothing_else():
    translator = opened()
    client = spoken(translator)
    assert translator.headers["Content-Type"] == "audio/pcm"
    assert client.data == heard(client)
    assert client.close == Close()
    assert client.texts == [HELLO]


def test_a_body_is_sent_while_it_is_made():
    client = Client(opened()).run(frames=1)
    assert len(client.data) == 3840


@pytest.mark.parametrize(
    ("form", "content_type"),
    [("wav", "audio/wav"), ("flac", "audio/flac"), ("mp3", "audio/mpeg"), ("opus", "audio/ogg"), (None, "audio/mpeg")],
)
def test_every_form_has_its_content_type_and_its_length(form, content_type):
    translator = opened(response_format=form)
    client = spoken(translator)
    assert translator.headers["Content-Type"] == content_type
    with av.open(io.BytesIO(client.data)) as container:
        stream = container.streams.audio[0]
        seconds = sum(frame.samples for frame in container.decode(stream)) / stream.rate
    assert seconds == pytest.approx(client.sent * 0.08, abs=0.15)


def test_a_wav_holds_the_samples_at_the_rate_that_was_asked_for():
    client = spoken(opened(response_format="wav", sample_rate=8000))
    samples, rate = soundfile.read(io.BytesIO(client.data), dtype="float32")
    assert rate == 8000
    assert len(samples) == client.sent * 640


@pytest.mark.parametrize(("form", "content_type"), [("PCM", "audio/pcm"), (None, "audio/mpeg"), ("", "audio/mpeg")])
def test_a_form_may_be_spelt_otherwise_or_left_empty(form, content_type):
    assert opened(response_format=form).headers["Content-Type"] == content_type


def test_aac_is_refused_and_what_there_is_is_named():
    error = refusal(lambda: opened(response_format="aac"))
    assert (error.field, str(error)) == (
        "response_format",
        "response_format aac is not made here; it must be one of mp3, opus, flac, wav, pcm",
    )


def test_server_sent_events_carry_the_sound_and_end_with_what_it_took():
    translator = opened(stream_format="sse")
    client = spoken(translator)
    assert translator.headers["Content-Type"] == "text/event-stream"
    *deltas, done = client.events
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    assert b"".join(base64.b64decode(event["audio"]) for event in deltas) == heard(client)
    assert done == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 7, "output_tokens": client.sent, "total_tokens": 7 + client.sent},
    }


# --- voices and conversations ---


@pytest.mark.parametrize("voice", ["bob", {"id": "bob"}])
def test_a_voice_that_the_server_has_is_the_voice(voice):
    (start,) = Client(opened(voice=voice)).commands
    assert isinstance(start, Start)
    assert start.voice == "bob"


def test_a_voice_of_theirs_is_the_servers_first_one():
    (start,) = Client(opened(voice="alloy")).commands
    assert isinstance(start, Start)
    assert (start.voice, start.seed) == (None, None)


def test_without_voices_a_name_is_always_the_same_random_voice_and_another_name_another():
    none = Served("m", (), 0)
    starts = [Client(opened(none, voice=name)).commands[0] for name in ("alloy", "alloy", "echo")]
    seeds = [start.seed for start in starts if isinstance(start, Start)]
    assert seeds[0] is not None
    assert seeds[0] == seeds[1] != seeds[2]


def test_a_users_next_request_goes_on_in_the_same_conversation():
    first = opened(user="call-17")
    assert first.conversation == "call-17"
    client = Client(first).run()
    again = Client(opened(user="call-17", input="And again."), client.rig, Standing(True, 80 * client.sent)).run()
    assert not isinstance(again.commands[0], Start)
    assert again.data
    assert again.close == Close()


def test_a_client_that_goes_away_has_interrupted():
    client = Client(opened()).run(frames=12)
    client.now += 0.4
    client.leave()
    assert client.commands[-1] == Pause(400)


def test_a_client_that_has_got_all_has_interrupted_nothing():
    client = spoken(opened()).leave()
    assert len(client.commands) == 1


# --- errors ---


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"input": None}, "input"),
        ({"input": " \n"}, "input"),
        ({"input": 5}, "input"),
        ({"voice": 7}, "voice"),
        ({"voice": {"id": 7}}, "voice"),
        ({"speed": 1.5}, "speed"),
        ({"speed": "fast"}, "speed"),
        ({"speed": True}, "speed"),
        ({"response_format": "m4a"}, "response_format"),
        ({"response_format": ["mp3"]}, "response_format"),
        ({"stream_format": "chunks"}, "stream_format"),
        ({"sample_rate": 12345}, "sample_rate"),
        ({"response_format": "opus", "sample_rate": 44100}, "sample_rate"),
        ({"user": "x" * 200}, "conversation"),
    ],
)
def test_a_field_out_of_range_is_a_bad_request_that_names_it(fields, field):
    error = refusal(lambda: opened(**fields))
    answer = refuse(error)
    assert answer.status == 400
    told = json.loads(answer.body)["error"]
    assert (told["type"], told["param"]) == ("invalid_request_error", field)
    assert field in told["message"]


def test_what_is_ours_alone_to_ignore_is_ignored():
    opened(instructions="cheerful", speed=1, language="en", ref_audio=None, lang_code="a", stream=True, what=[1])


def test_text_that_the_conversation_refuses_is_a_bad_request_before_anything_is_sent():
    client = spoken(opened(input='Hello <break time="99s"/> there.'))
    assert client.answer is not None
    assert client.answer.status == 400
    assert error_of(client.answer)["param"] == "input"


@pytest.mark.parametrize(
    ("code", "status", "type", "told"),
    [
        ("unauthorized", 401, "authentication_error", "invalid_api_key"),
        ("busy", 429, "rate_limit_error", "rate_limit_exceeded"),
        ("overloaded", 503, "server_error", "overloaded"),
        ("internal", 500, "server_error", None),
    ],
)
def test_our_errors_have_their_status_and_shape(code, status, type, told):
    answer = refuse(CommandError(code, "because"))
    assert answer.status == status
    assert error_of(answer) == {"message": "because", "type": type, "param": None, "code": told}
    assert ("Retry-After" in answer.headers) == (code in ("busy", "overloaded"))


def test_a_failure_in_mid_speech_breaks_the_body_off_and_is_an_event_where_there_are_events():
    audio = Client(opened()).run(frames=3)
    assert audio.translator.fail(CommandError("internal", "the model failed")) == [Close(broken=True)]
    events = Client(opened(stream_format="sse")).run(frames=3)
    last, end = events.translator.fail(CommandError("internal", "the model failed"))
    assert isinstance(last, bytes)
    told = json.loads(last.decode().removeprefix("data: "))
    assert (told["type"], told["error"]["message"]) == ("error", "the model failed")
    assert end == Close()


# --- lists ---


def test_the_model_that_is_served_is_listed_and_their_names_stand_for_it():
    listed = json.loads(list_models(request(), SERVED).body)
    assert [model["id"] for model in listed["data"]] == [SERVED.model]
    for name in (SERVED.model, *THEIR_MODELS):
        answer = get_model(request(path_values={"model": name}), SERVED)
        assert (answer.status, json.loads(answer.body)["id"]) == (200, name)
    missing = get_model(request(path_values={"model": "gpt-5"}), SERVED)
    assert (missing.status, error_of(missing)["code"]) == (404, "model_not_found")


def test_voices_are_listed_with_id_and_name_and_there_is_always_one():
    assert json.loads(list_voices(request(), SERVED).body) == {
        "voices": [{"id": "anna", "name": "anna"}, {"id": "bob", "name": "bob"}]
    }
    assert len(json.loads(list_voices(request(), Served("m", (), 0)).body)["voices"]) == 1


def test_every_route_refuses_in_the_formats_shape():
    assert {route.refuse for route in ROUTES} == {refuse}


# --- whatever comes ---

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["input", "voice", "model", "speed", "response_format", "stream_format", "user", "sample_rate"])
sane = st.sampled_from(["Hello.", "pcm", "mp3", "flac", "wav", "sse", "audio", {"id": "bob"}, 1, 1.0, 24000, 8000])


@given(st.binary(max_size=60) | st.dictionaries(names, json_values | sane, max_size=8))
def test_whatever_is_sent_is_spoken_or_refused_in_the_formats_shape(body):
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        translator = speak(request(data), SERVED)
    except CommandError as error:
        answer: Response | None = refuse(error)
    else:
        assert isinstance(translator, Translator)
        client = Client(translator).run()
        answer = client.answer
        assert answer or client.close == Close()
        assert client.data or not client.sent  # there is text, such as ":", that has no sound
    if answer is not None:
        assert answer.status in (400, 503)
        assert set(error_of(answer)) == {"message", "type", "param", "code"}
        assert "\n" not in error_of(answer)["message"]


def test_samples_are_told_apart_from_silence():
    assert np.frombuffer(spoken(opened()).data, "<i2").any()

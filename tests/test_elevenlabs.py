"""ElevenLabs' sockets and requests: contexts, times of characters, and interruptions that nobody calls by name."""

import base64
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
from dia2stream.protocol.messages import Pause, Start, WordEvent
from dia2stream.server.dialects.character_times import Aligner
from dia2stream.server.dialects.context_items import Word
from dia2stream.server.dialects.dialect import Close, Response, Translator
from dia2stream.server.dialects.elevenlabs import ROUTES, open_multi, open_single
from dia2stream.server.dialects.elevenlabs_requests import (
    get_voice,
    list_voices,
    refuse,
    speak,
    speak_whole_with_timestamps,
    speak_with_timestamps,
    wanted_of,
)

HELLO = "Hello there my friend, how are you? "


def connect(opens: Any = open_multi, voice: str = "bob", **query: str) -> Client:
    asked = request(path_values={"voice": voice}, query={"output_format": "pcm_24000", **query})
    translator = opens(asked, SERVED)
    assert isinstance(translator, Translator)
    return Client(translator)


def init(context: str) -> dict[str, object]:
    return {"text": " ", "context_id": context, "voice_settings": {"stability": 0.5}}


def say(context: str, text: str, **fields: object) -> dict[str, object]:
    return {"text": text, "context_id": context, **fields}


def flush(context: str) -> dict[str, object]:
    return {"context_id": context, "flush": True}


def close(context: str) -> dict[str, object]:
    return {"context_id": context, "close_context": True}


def sound(client: Client, context: str | None = None) -> bytes:
    mine = [message for message in client.messages if message.get("contextId") == context]
    return b"".join(base64.b64decode(message["audio"]) for message in mine if message.get("audio"))


def finals(client: Client) -> list[Any]:
    return [message.get("contextId") for message in client.messages if message.get("isFinal")]


def heard(client: Client) -> bytes:
    return b"".join(encode_samples(item.pcm, "pcm16") for item in client.rig.items if isinstance(item, Frame))


def added_up(client: Client, context: str) -> list[tuple[str, float]]:
    """Words and their starts in seconds, as pipecat reckons them: each alignment begins where the last one ended."""
    words, base, word, start = [], 0.0, "", 0.0
    for message in client.messages:
        aligned = message.get("alignment")
        if message.get("contextId") != context or not aligned:
            continue
        for char, at in zip(aligned["chars"], aligned["charStartTimesMs"], strict=True):
            if char == " ":
                words.append((word, start))
                word = ""
            else:
                start = start if word else base + at / 1000
                word += char
        base += (aligned["charStartTimesMs"][-1] + aligned["charDurationsMs"][-1]) / 1000
    assert not word
    return words


def true_starts(client: Client, context_began: float = 0.0) -> list[float]:
    return [word.start_ms / 1000 - context_began for word in client.rig.of(WordEvent)]


# --- multi-stream-input ---


def test_a_context_as_pipecat_has_it():
    client = connect().send(init("a"), say("a", "Hello "), say("a", "there. "), flush("a"), close("a")).run()
    assert sound(client, "a") == heard(client)
    assert finals(client) == ["a"]
    assert client.messages[-1]["isFinal"] is True
    (start,) = [command for command in client.commands if isinstance(command, Start)]
    assert start.voice == "bob"


def test_a_context_as_livekit_has_it():
    client = connect(auto_mode="true", sync_alignment="true")
    client.send(init("a"), say("a", HELLO, flush=True), say("a", "", flush=True), close("a")).run()
    assert sound(client, "a") == heard(client)
    assert finals(client) == ["a"]


def test_every_message_names_its_context_in_both_spellings():
    client = connect().send(say("a", HELLO), flush("a"), close("a")).run()
    assert {(message["contextId"], message["context_id"]) for message in client.messages} == {("a", "a")}


def test_characters_are_the_words_and_times_add_up_to_those_of_the_words():
    client = connect().send(say("a", HELLO), flush("a"), close("a")).run()
    words = added_up(client, "a")
    assert [word for word, _ in words] == words_of(HELLO)
    starts = true_starts(client)
    assert [start for _, start in words] == pytest.approx(starts, abs=0.002)
    assert words[0][1] == pytest.approx(starts[0])


def test_times_are_the_contexts_own_where_that_is_asked_for():
    client = connect(sync_alignment="true").send(say("a", HELLO), flush("a"), close("a")).run()
    client.send(say("b", HELLO), flush("b"), close("b")).run()
    for context in ("a", "b"):
        aligned = [m["alignment"] for m in client.messages if m.get("contextId") == context and m.get("alignment")]
        starts = [start for each in aligned for start in each["charStartTimesMs"]]
        assert starts == sorted(starts)
        assert starts[0] < 1000
        assert "".join(char for each in aligned for char in each["chars"]) == HELLO


def test_a_context_stays_open_after_a_flush():
    client = connect().send(say("a", "One two. ", flush=True)).run()
    assert not finals(client)
    client.send(say("a", "Three. "), flush("a"), close("a")).run()
    assert [word for word, _ in added_up(client, "a")] == ["One", "two.", "Three."]


def test_sentences_are_spoken_at_once_in_auto_mode():
    client = connect(auto_mode="true").send(init("a"), say("a", "One two three. ")).run()
    assert [word for word, _ in added_up(client, "a")] == ["One", "two", "three."]


def test_keepalives_say_nothing_and_end_nothing():
    client = connect().send({"text": ""}, init("a"), say("a", ""), {"text": "", "context_id": "a"}).run()
    assert not client.got
    assert not client.commands
    assert finals(client.send(say("a", "Hi. "), flush("a"), close("a")).run()) == ["a"]


def test_messages_without_a_name_are_of_one_context_that_may_be_opened_again():
    client = connect()
    for _ in range(2):
        client.send({"text": "Hi. ", "flush": True}, {"close_context": True}).run()
    assert finals(client) == ["default", "default"]


def test_a_context_without_a_word_is_final_at_once():
    assert finals(connect().send(init("a"), close("a"))) == ["a"]


def test_contexts_that_are_closed_before_they_sound_are_all_said():
    client = connect().send(say("a", "One. "), close("a"), say("b", "Two. "), close("b")).run()
    assert finals(client) == ["a", "b"]
    assert sound(client, "a")
    assert sound(client, "b")


# --- interruptions ---


def test_a_close_without_a_flush_while_it_sounds_is_an_interruption():
    client = connect().send(init("a"), say("a", HELLO * 3)).run(frames=10)
    client.now += 0.5
    client.send(close("a"))
    assert client.pauses == [500]
    before = len(sound(client, "a"))
    client.send(say("a", "Late. "), say("b", "Yes? "), flush("b"), close("b")).run()
    assert len(sound(client, "a")) == before
    assert finals(client) == ["a", "b"]
    assert client.texts[-1] == "Yes? "


@pytest.mark.parametrize("named", [{}, {"context_id": "a"}])
def test_a_name_that_was_interrupted_may_be_that_of_a_new_context(named):
    begin = {"text": " ", "voice_settings": {}, **named}
    client = connect().send(begin, {"text": HELLO * 3, **named}).run(frames=10)
    client.send({"close_context": True, **named}).run()
    before = len(client.got)
    client.send(begin, {"text": "Yes? ", "flush": True, **named}, {"close_context": True, **named}).run()
    assert client.texts[-1].strip() == "Yes?"
    assert any(message.get("audio") for message in client.messages[before:])
    assert len(finals(client)) == 2


def test_a_name_that_is_used_again_while_the_interruption_is_carried_out_is_a_new_context():
    client = connect().send(say("", HELLO)).run(frames=5).send(close(""), say("", "Yes? "), close("")).run()
    assert finals(client) == ["default", "default"]
    assert client.texts == [HELLO, "Yes? "]
    client = connect().send(say("a", HELLO), flush("a"), close("a")).run()
    client.send(close("a"), init("a"), say("a", "Yes? "), flush("a"), close("a")).run()
    assert finals(client) == ["a", "a"]
    assert client.texts == [HELLO, " Yes? "]


def test_a_context_that_has_too_much_to_say_is_an_error_and_the_others_go_on():
    client = connect().send(say("a", HELLO), *[say("b", "word " * 4000)] * 6).run(frames=3)
    (error,) = [message for message in client.messages if "error" in message]
    assert error["contextId"] == "b"
    client.send(flush("a"), close("a")).run()
    assert finals(client) == ["a"]
    assert sound(client, "a") == heard(client)


def test_a_close_long_after_the_last_text_is_an_interruption_too():
    client = connect().send(init("a"), say("a", HELLO))
    client.now += 0.4
    client.send(close("a")).run()
    assert client.pauses == [0]
    assert finals(client) == ["a"]


def test_a_second_close_is_an_interruption_also_after_the_end():
    client = connect().send(init("a"), say("a", HELLO), flush("a"), close("a")).run()
    assert finals(client) == ["a"]
    client.now += 0.4
    client.send(close("a")).run()
    assert client.pauses == [400]
    assert finals(client) == ["a"]


def test_a_second_close_while_it_is_said_is_an_interruption():
    client = connect().send(init("a"), say("a", HELLO), flush("a"), close("a")).run(frames=10)
    client.now += 0.3
    client.send(close("a")).run()
    assert client.pauses == [300]
    assert finals(client) == ["a"]


def test_text_for_another_context_interrupts_one_that_is_closed_and_heard():
    client = connect().send(init("a"), say("a", HELLO * 3), flush("a"), close("a")).run(frames=10)
    client.now += 0.7
    client.send(init("b"))
    assert not client.pauses
    client.send(say("b", "Yes? "), flush("b"), close("b")).run()
    assert client.pauses == [700]
    assert finals(client) == ["a", "b"]


def test_text_for_another_context_leaves_one_that_is_open_alone():
    client = connect().send(say("a", HELLO)).run(frames=5).send(say("b", "Four. "), flush("b"))
    client.send(flush("a"), close("a"), close("b")).run()
    assert not client.pauses
    assert finals(client) == ["a", "b"]


def test_closing_the_socket_waits_for_what_was_asked_for():
    client = connect().send(say("a", "Hi. "), {"close_socket": True})
    assert client.close is None
    assert client.run().close == Close()
    assert finals(client) == ["a"]
    assert connect().send({"close_socket": True}).close == Close()


def test_a_socket_that_drops_in_mid_speech_is_an_interruption():
    client = connect().send(say("a", HELLO), flush("a")).run(frames=10)
    client.now += 0.3
    assert client.leave().commands[-1] == Pause(300)


# --- stream-input ---


def single(**query: str) -> Client:
    return connect(open_single, **query)


def test_one_context_is_ended_by_an_empty_text_and_then_the_socket_closes():
    begin = {"text": " ", "voice_settings": None, "generation_config": {"chunk_length_schedule": [50]}}
    client = single().send(begin, {"text": "Hello ", "try_trigger_generation": True}, {"text": "there. "}, {"text": ""})
    client.run()
    assert sound(client) == heard(client)
    assert client.messages[-1] == {"audio": None, "isFinal": True, "alignment": None, "normalizedAlignment": None}
    assert client.close == Close()
    assert not any("message" in message for message in client.messages)


def test_a_single_space_keeps_alive_and_nothing_is_final():
    client = single().send({"text": " "}, {"text": " "}).run()
    assert not client.got
    assert client.send({"text": ""}).close == Close()


@pytest.mark.parametrize("without", [{}, {"text": None}])
def test_a_message_without_a_text_ends_nothing(without):
    client = single().send({**without, "voice_settings": {}, "xi_api_key": "key"}, {"text": "One two three. "})
    client.send({**without, "flush": True}).run()
    assert client.close is None
    spoken = len(sound(client))
    client.send({"text": "Four. "}, {"text": ""}).run()
    assert client.close == Close()
    assert len(sound(client)) > spoken > 0


def test_an_error_of_the_one_context_closes_the_socket():
    client = single().send({"text": 'Hi <break time="99s"/>. '}, {"text": ""}).run()
    (error,) = client.messages
    assert (error["error"], error["code"]) == ("invalid_request", 400)
    assert client.close is not None
    assert client.close.code == 1008


# --- forms ---


@pytest.mark.parametrize(("form", "kind"), [("PCM_24000", "raw"), ("Mp3_22050_32", "mp3"), ("", "mp3")])
def test_a_form_may_be_spelt_otherwise_or_left_empty(form, kind):
    assert wanted_of({"output_format": form}).container == kind


@pytest.mark.parametrize(
    ("form", "codec", "rate"),
    [
        ("mp3_44100_128", "mp3float", 44100),
        ("mp3_22050_32", "mp3float", 22050),
        ("opus_48000_64", "opus", 48000),
        ("wav_16000", "pcm_s16le", 16000),
    ],
)
def test_sound_comes_in_the_form_that_was_asked_for(form, codec, rate):
    client = connect(output_format=form).send(say("a", HELLO), flush("a"), close("a")).run()
    with av.open(io.BytesIO(sound(client, "a"))) as file:
        assert (file.streams.audio[0].codec_context.name, file.streams.audio[0].rate) == (codec, rate)
    assert [word for word, _ in added_up(client, "a")] == words_of(HELLO)


@pytest.mark.parametrize(("form", "bytes_a_frame"), [("ulaw_8000", 640), ("alaw_8000", 640), ("pcm_48000", 7680)])
def test_raw_sound_is_as_long_as_it_was(form, bytes_a_frame):
    client = connect(output_format=form).send(say("a", HELLO), flush("a"), close("a")).run()
    assert len(sound(client, "a")) == client.sent * bytes_a_frame


@pytest.mark.parametrize("form", ["aac_44100", "mp3_44100", "mp3_12345_128", "pcm_24000_16", "ulaw_16000", "x"])
@pytest.mark.parametrize("opens", [open_single, open_multi, speak, speak_with_timestamps])
def test_a_form_that_there_is_not_is_refused_and_named(form, opens):
    asked = request({"text": "Hi."}, path_values={"voice": "bob"}, query={"output_format": form})
    answer = refuse(refusal(lambda: opens(asked, SERVED)))
    assert answer.status == 400
    assert "output_format" in json.loads(answer.body)["detail"]["message"]


# --- requests ---


def asked(body: Any = None, **query: str) -> Any:
    text = {"text": HELLO, "model_id": "eleven_flash_v2_5", "voice_settings": None} if body is None else body
    return request(text, path_values={"voice": "bob"}, query={"output_format": "pcm_24000", **query})


def test_a_request_is_answered_by_sound():
    translator = speak(asked(), SERVED)
    client = spoken(translator)
    assert client.data == heard(client)
    assert isinstance(translator, Translator)
    assert translator.headers["Content-Type"].startswith("audio/")
    (start,) = client.commands
    assert isinstance(start, Start)
    assert start.voice == "bob"
    default = speak(request({"text": "Hi."}, path_values={"voice": "x"}), SERVED)
    assert isinstance(default, Translator)
    assert default.headers["Content-Type"] == "audio/mpeg"


@pytest.mark.parametrize("speaks", [speak_with_timestamps, speak_whole_with_timestamps])
def test_times_of_a_request_are_seconds_of_its_sound(speaks):
    client = spoken(speaks(asked(), SERVED))
    lines = [json.loads(line) for line in client.data.decode().splitlines()]
    assert b"".join(base64.b64decode(line["audio_base64"]) for line in lines) == heard(client)
    aligned = [line["alignment"] for line in lines if line["alignment"]]
    chars = [char for each in aligned for char in each["characters"]]
    starts = [start for each in aligned for start in each["character_start_times_seconds"]]
    ends = [end for each in aligned for end in each["character_end_times_seconds"]]
    assert "".join(chars) == HELLO
    assert starts == sorted(starts)
    assert all(start <= end for start, end in zip(starts, ends, strict=True))
    assert starts[0] == pytest.approx(true_starts(client)[0])
    assert ends[-1] <= client.sent * 0.08 + 0.4
    if speaks is speak_whole_with_timestamps:
        assert len(lines) == 1


@pytest.mark.parametrize("body", [b"", b"[]", {"text": " "}, {"text": 5}, {}])
def test_a_body_without_text_is_refused(body):
    for opens in (speak, speak_with_timestamps, speak_whole_with_timestamps):
        answer = refuse(refusal(lambda opens=opens: opens(asked(body), SERVED)))
        assert answer.status == 400
        assert set(json.loads(answer.body)["detail"]) == {"status", "message"}


def test_voices_are_listed_and_found():
    listed = json.loads(list_voices(request(), SERVED).body)["voices"]
    assert [(voice["voice_id"], voice["name"]) for voice in listed] == [("anna", "anna"), ("bob", "bob")]
    assert all("category" in voice for voice in listed)
    assert get_voice(request(path_values={"voice": "bob"}), SERVED).status == 200
    assert get_voice(request(path_values={"voice": "x"}), SERVED).status == 404


def test_errors_have_their_status_and_busy_says_when_to_come_again():
    for code, status in (("unauthorized", 401), ("busy", 429), ("overloaded", 503), ("internal", 500)):
        answer = refuse(CommandError(code, "because"))  # type: ignore[arg-type]
        assert answer.status == status
        assert ("Retry-After" in answer.headers) == (status in (429, 503))
    assert {route.refuse for route in ROUTES} == {refuse}


def test_a_failure_of_ours_is_an_error_and_the_end():
    error, end = connect().translator.fail(CommandError("internal", "the model failed"))
    assert json.loads(str(error))["message"] == "the model failed"
    assert end == Close(1011, "internal")


# --- characters ---


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1), st.integers(0, 900), st.booleans()
        ),
        max_size=8,
    )
)
def test_alignments_tile_the_time_whatever_the_words_and_however_many_share_a_message(words):
    own, of_context = Aligner(False), Aligner(True)
    clock = base = 0
    taken: list[tuple[int, int]] = []
    for text, gap, ends_message in [*words, ("end", 0, True)]:
        clock += gap
        word = Word("a", text, clock, clock + 300, 0, len(text))
        own.add(word)
        of_context.add(word)
        if ends_message:
            one, other = own.take(), of_context.take()
            assert one.chars == other.chars
            assert [base + start for start in one.starts] == other.starts
            assert [base + end for end in one.ends] == other.ends
            base += one.ends[-1]
            taken += zip(other.starts, other.ends, strict=True)
    assert taken == sorted(taken)
    assert not own
    assert not of_context


def test_a_socket_that_is_closed_while_nothing_is_to_be_said_closes_once():
    client = connect().send(init("a"), init("b"), {"close_socket": True})
    assert client.close is not None


# --- whatever comes ---

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
contexts = st.sampled_from(["a", "b", ""])
sane = st.one_of(
    *[st.builds(make, contexts) for make in (init, flush, close)],
    st.builds(say, contexts, st.sampled_from(["Hello there. ", " ", "", "wor", "[S2] Yes. ", '<break time="99s"/>'])),
)
noise = st.dictionaries(st.sampled_from(["text", "context_id", "flush", "close_context", "close_socket"]), scalars)


@given(st.lists(sane | noise | st.binary(max_size=20), max_size=9), st.integers(0, 6), st.booleans())
def test_whatever_is_sent_every_message_is_one_of_the_format(messages, frames, multi):
    client = connect() if multi else single()
    for message in messages:
        if client.close is None:
            client.send(message)
            client.run_up_to(frames)
    if client.close is None:
        client.wait(3.5).run()
    for message in client.messages:
        if "error" in message:
            assert set(message) >= {"message", "error", "code"}
            assert "\n" not in message["message"]
        else:
            assert "message" not in message
            assert message["isFinal"] in (None, True)


@given(st.lists(sane, max_size=9), st.lists(st.integers(0, 9), min_size=9, max_size=9))
def test_a_context_that_is_final_says_no_more_until_its_name_is_used_again(messages, frames):
    client = connect()
    quiet: set[str] = set()
    for message, count in zip([*messages, {"close_socket": True}], [*frames, 0], strict=False):
        told = len(client.messages)
        client.send(message)
        quiet.discard(str(message.get("context_id") or "default"))
        if message.get("close_socket"):
            client.run()
        else:
            client.run_up_to(count)
        for each in client.messages[told:]:
            name = each.get("contextId", "default")
            assert name not in quiet or "error" in each
            if each.get("isFinal"):
                quiet.add(name)
    assert client.close == Close()


@given(st.binary(max_size=30) | noise, st.text(max_size=12))
def test_whatever_is_asked_over_http_is_spoken_or_refused_in_the_formats_shape(body, form):
    for opens in (speak, speak_with_timestamps, speak_whole_with_timestamps):
        for query in ({}, {"output_format": form}):
            try:
                answer: Response | None = spoken(opens(asked(body, **query), SERVED)).answer
            except CommandError as error:
                answer = refuse(error)
            if answer is not None:
                assert set(json.loads(answer.body)["detail"]) == {"status", "message"}


def test_a_message_of_sound_is_80_ms():
    client = connect().send(say("a", HELLO), flush("a"), close("a")).run()
    sizes = {len(base64.b64decode(message["audio"])) for message in client.messages if message.get("audio")}
    assert sizes == {FRAME_BYTES}

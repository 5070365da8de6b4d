"""Other services' wire formats on a real server: their addresses, keys, conversations that go on, and how they end."""

import asyncio
import base64
import contextlib
import json
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from piping import PATIENCE
from serving import NEVER_LOADED, Serve, on_loop
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus

HELLO = "[S1] One two three four."
LONG = "[S1] " + "One two three four five six seven eight nine ten. " * 20
SPEECH = {"model": "tts-1", "voice": "alloy", "input": HELLO, "response_format": "pcm"}
SAY = {"type": "Speak", "text": HELLO}
VOICE = "/v1/text-to-speech/any"
RAW = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 24000}


class Answer:
    """A POST. Its body comes as it is read."""

    def __init__(self, server: Serve, path: str, body: object, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(
            f"http://127.0.0.1:{server.port}{path}", data, {"Content-Type": "application/json", **named}
        )
        self.status = 429
        while self.status == 429:  # the request before is over, and the server will notice
            try:
                self.stream: Any = urllib.request.urlopen(request, timeout=PATIENCE)
            except urllib.error.HTTPError as refused:
                self.stream = refused
            self.status, self.headers = self.stream.status, self.stream.headers
            if self.status == 429:
                self.stream.close()

    def read(self) -> bytes:
        with self.stream:
            return self.stream.read()  # type: ignore[no-any-return]

    @property
    def json(self) -> Any:
        return json.loads(self.read())


def cartesia(context: str, text: str, **fields: object) -> str:
    said = {"context_id": context, "transcript": text, "voice": "any", "output_format": RAW, "add_timestamps": True}
    return json.dumps({**said, "continue": False, **fields})


@contextlib.asynccontextmanager
async def dialled(server: Serve, path: str, **headers: str) -> AsyncIterator[ClientConnection]:
    """A WebSocket, as soon as there is a slot: the test before has closed its own, and the server will notice."""
    while True:
        try:
            socket = await open_websocket(f"{server.url}{path}", additional_headers=headers)
            break
        except InvalidStatus as refused:
            if refused.response.status_code != 429:
                raise
            await asyncio.sleep(0.05)
    async with socket:
        yield socket


async def until(socket: ClientConnection, kind: str) -> list[Any]:
    """Text messages up to one of that type."""
    messages = []
    while not messages or messages[-1].get("type") != kind:
        message = await asyncio.wait_for(socket.recv(), PATIENCE)
        if isinstance(message, str):
            messages.append(json.loads(message))
    return messages


# --- HTTP ---


def test_a_request_is_answered_by_speech_while_it_is_made(server):
    answer = Answer(server, "/v1/audio/speech", SPEECH)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "audio/pcm")
    assert "Content-Length" not in answer.headers
    assert len(answer.stream.read(3840)) == 3840
    assert len(answer.read()) % 3840 == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/audio/speech", SPEECH),
        ("/tts/bytes", {"transcript": HELLO, "voice": "any", "output_format": RAW}),
        ("/v1/speak?encoding=linear16&container=none", {"text": HELLO}),
        ("/v2/speak?encoding=linear16&container=none", {"text": HELLO}),
        ("/v1/text-to-speech/any/stream?output_format=pcm_24000", {"text": HELLO}),
    ],
)
def test_every_format_gives_the_same_text_as_sound(server, path, body):
    sound = Answer(server, path, body).read()
    assert len(sound) % 3840 == 0
    assert len(sound) > 10 * 3840


@pytest.mark.parametrize("path", ["/v1/models", "/v1/audio/voices", "/v1/voices", "/c/me/v1/models"])
def test_lists_are_told(server, path):
    status, body, headers = server.get(path)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body)


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/audio/speech", {"error"}),
        ("/tts/bytes", {"title", "message", "error_code", "status_code", "request_id", "doc_url"}),
        ("/v1/speak", {"err_code", "err_msg", "request_id"}),
        ("/v1/text-to-speech/any/stream", {"detail"}),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_in_the_formats_shape(server, path, shape):
    for body in (b"", b"[]", b"\xff", {}, b"x" * (2**20 + 1)):
        answer = Answer(server, path, body)
        assert answer.status == 400
        assert set(answer.json) == shape


def test_a_key_is_taken_in_every_form_and_a_wrong_one_refused_in_the_formats_shape(guarded):
    token = "s3cret é"
    as_sent = token.encode().decode("latin-1")
    for headers in (
        {"Authorization": f"Bearer {as_sent}"},
        {"Authorization": f"Token {as_sent}"},
        {"X-API-Key": as_sent},
        {"xi-api-key": as_sent},
    ):
        assert len(Answer(guarded, "/v1/audio/speech", SPEECH, **headers).read()) > 3840
    assert len(Answer(guarded, "/v1/audio/speech?api_key=s3cret%20%C3%A9", SPEECH).read()) > 3840
    refused = Answer(guarded, "/v1/audio/speech", SPEECH, Authorization="Bearer wrong")
    assert (refused.status, refused.json["error"]["code"]) == (401, "invalid_api_key")
    refused = Answer(guarded, "/v1/text-to-speech/any", {"text": "Hi."})
    assert (refused.status, refused.json["detail"]["status"]) == (401, "invalid_api_key")


def test_requests_of_one_user_are_one_conversation_and_others_are_not(server):
    began = server.metric("dia2stream_conversations_total")
    for _ in range(3):
        Answer(server, "/v1/audio/speech", {**SPEECH, "user": "call-1"}).read()
    assert server.metric("dia2stream_conversations_total") == began + 1
    Answer(server, "/v1/audio/speech", {**SPEECH, "user": "call-2"}).read()
    Answer(server, "/v1/audio/speech", SPEECH).read()
    assert server.metric("dia2stream_conversations_total") == began + 3


def test_a_conversation_whose_first_text_was_refused_begins_with_the_next_one(server):
    bad = Answer(server, "/v1/audio/speech", {**SPEECH, "user": "clumsy", "input": 'Hi <break time="99s"/>.'})
    assert bad.status == 400
    assert "break" in bad.json["error"]["message"]
    good = Answer(server, "/v1/audio/speech", {**SPEECH, "user": "clumsy"})
    assert good.status == 200
    assert good.read()


def test_requests_of_one_conversation_wait_for_each_other(server):
    first = Answer(server, "/c/call-3/v1/audio/speech", SPEECH)
    assert first.stream.read(3840)
    began = server.metric("dia2stream_conversations_total")
    second = Answer(server, "/v1/audio/speech", {**SPEECH, "input": "Five six."}, X_Conversation="call-3")
    assert len(second.read()) > 3840
    assert len(first.read()) > 3840
    assert server.metric("dia2stream_conversations_total") == began


def test_a_request_that_goes_away_leaves_its_slot(server):
    for _ in range(3):
        answer = Answer(server, "/v1/audio/speech", {**SPEECH, "input": LONG})
        assert answer.stream.read(3840)
        answer.stream.close()
    assert len(Answer(server, "/v1/audio/speech", SPEECH).read()) > 3840


def test_a_request_without_a_conversation_is_answered_faster_than_it_is_played(impatient):
    assert len(Answer(impatient, "/v1/audio/speech", SPEECH).read()) > 3840


# --- sockets ---


@on_loop
async def test_contexts_over_a_socket(server):
    async with dialled(server, "/tts/websocket?api_key=x&cartesia_version=2026-03-01") as socket:
        await socket.send(cartesia("a", HELLO))
        messages = await until(socket, "done")
        words = [each["word_timestamps"]["words"][0] for each in messages if each["type"] == "timestamps"]
        assert words == ["One", "two", "three", "four."]
        assert all(len(base64.b64decode(each["data"])) == 3840 for each in messages if each["type"] == "chunk")


@pytest.mark.parametrize("model", ["%00", "a%0d%0aSet-Cookie:%20b", "%e9%ff", "\u2603"])
@on_loop
async def test_what_a_client_sends_makes_no_header_of_the_answer(server, model):
    """Deepgram's clients are told the model's name in a header."""
    async with dialled(server, f"/v1/speak?model={model}") as client:
        assert client.response.headers["dg-model-name"].isascii()
        assert "?" in client.response.headers["dg-model-name"]
        assert "Set-Cookie" not in client.response.headers
    answer = Answer(server, f"/v1/speak?encoding=linear16&model={urllib.parse.quote(model, safe='%')}", {"text": "Hi."})
    assert answer.status == 200
    assert answer.headers["Set-Cookie"] is None
    answer.read()
    assert not server.faults


@on_loop
async def test_a_cancel_while_it_is_spoken_acts_at_once_and_the_next_context_is_said(server):
    async with dialled(server, "/tts/websocket") as socket:
        await socket.send(cartesia("a", LONG))
        await until(socket, "chunk")
        await socket.send('{"context_id": "a", "cancel": true}')
        await socket.send(cartesia("b", HELLO))
        messages = await until(socket, "done")
        assert messages[-1]["context_id"] == "b"
        kinds = [each["context_id"] for each in messages]
        assert "a" not in kinds[kinds.index("b") :]


@on_loop
async def test_a_socket_that_comes_back_with_its_key_goes_on(server):
    began = server.metric("dia2stream_conversations_total")
    for path in ("/c/call-4/tts/websocket", "/tts/websocket?conversation=call-4?api_key=x"):
        async with dialled(server, path) as socket:
            await socket.send(cartesia("a", HELLO))
            await until(socket, "done")
    assert server.metric("dia2stream_conversations_total") == began + 1


@dataclass(frozen=True)
class Way:
    """How a format is spoken to over a socket: what is sent, and whether a message is the end of a turn."""

    path: str
    messages: list[Any]
    ends: Callable[[Any], bool]


SOCKETS = {
    "cartesia": Way("/tts/websocket", [cartesia("a", HELLO)], lambda told: told["type"] == "done"),
    "aura": Way("/v1/speak", [SAY, {"type": "Flush"}], lambda told: told["type"] == "Flushed"),
    "flux": Way("/v2/speak", [SAY, {"type": "Flush"}], lambda told: told["type"] == "SpeechMetadata"),
    "single": Way(f"{VOICE}/stream-input", [{"text": f"{HELLO} "}, {"text": ""}], lambda told: bool(told["isFinal"])),
    "multi": Way(
        f"{VOICE}/multi-stream-input",
        [{"text": f"{HELLO} ", "flush": True, "context_id": "a"}, {"context_id": "a", "close_context": True}],
        lambda told: bool(told["isFinal"]),
    ),
}
REQUESTS = {
    "openai": ("/v1/audio/speech", SPEECH),
    "cartesia": ("/tts/bytes", {"transcript": HELLO, "voice": "any", "output_format": RAW}),
    "aura": ("/v1/speak?encoding=linear16", {"text": HELLO}),
    "flux": ("/v2/speak?encoding=linear16", {"text": HELLO}),
    "single": (f"{VOICE}/stream?output_format=pcm_24000", {"text": HELLO}),
    "multi": (f"{VOICE}/stream/with-timestamps?output_format=pcm_24000", {"text": HELLO}),
}


@pytest.mark.parametrize("format", REQUESTS)
@on_loop
async def test_every_formats_conversation_survives_in_every_way_to_name_it_by_requests_and_by_sockets(server, format):
    key, began = f"kept-{format}", server.metric("dia2stream_conversations_total")
    path, body = REQUESTS[format]
    joined = f"{path}&" if "?" in path else f"{path}?"
    for address, headers in (
        (f"/c/{key}{path}", {}),
        (f"{joined}conversation={key}", {}),
        (path, {"X-Conversation": key}),
    ):
        answer = await asyncio.to_thread(Answer, server, address, body, **headers)
        assert await asyncio.to_thread(answer.read)
    if (way := SOCKETS.get(format)) is not None:
        asked = f"{way.path}?conversation={key}"
        for address, named in ((f"/c/{key}{way.path}", {}), (asked, {}), (way.path, {"X-Conversation": key})):
            async with dialled(server, address, **named) as socket:
                await speak(socket, way)
    assert server.metric("dia2stream_conversations_total") == began + 1


async def speak(socket: ClientConnection, way: Way) -> None:
    """A turn."""
    for message in way.messages:
        await socket.send(message if isinstance(message, str) else json.dumps(message))
    while True:
        told = await asyncio.wait_for(socket.recv(), PATIENCE)
        if isinstance(told, str) and way.ends(json.loads(told)):
            return


@on_loop
async def test_deepgrams_interrupt_tells_what_was_heard(server):
    async with dialled(server, "/v2/speak?model=flux-alexis-en") as socket:
        assert socket.response is not None
        assert socket.response.headers["dg-request-id"]
        await socket.send(json.dumps({"type": "Speak", "text": LONG}))
        heard = 0
        while heard < 30:
            heard += isinstance(await socket.recv(), bytes)
        await socket.send('{"type": "Interrupt", "playback_offset": {"type": "time_ms", "value": 1600}}')
        interrupted = (await until(socket, "SpeechInterrupted"))[-1]
        assert interrupted["audio_played_ms"] == 1600
        assert interrupted["text_spoken"] + interrupted["text_remaining"] == LONG
        assert interrupted["text_spoken"].startswith("[S1] One")
        await socket.send('{"type": "Close"}')
        await until(socket, "SessionMetadata")
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1000


@on_loop
async def test_elevenlabs_socket_closes_after_the_last_sound(server):
    path = "/v1/text-to-speech/any/stream-input?output_format=pcm_24000"
    async with dialled(server, path) as socket:
        for text in (" ", "One two ", "three four. ", ""):
            await socket.send(json.dumps({"text": text}))
        messages = [json.loads(message) async for message in socket]
    assert messages[-1]["isFinal"] is True
    chars = "".join(char for each in messages if each["alignment"] for char in each["alignment"]["chars"])
    assert chars == "One two three four. "


@on_loop
async def test_a_socket_that_cannot_be_is_refused_before_the_handshake(server, guarded):
    for target, path, status in (
        (server, "/v1/speak?encoding=opus", 400),
        (guarded, "/tts/websocket?api_key=wrong", 401),
        (guarded, "/v1/text-to-speech/any/multi-stream-input?api_key=wrong", 401),
    ):
        with pytest.raises(InvalidStatus) as refused:
            await open_websocket(f"{target.url}{path}")
        assert refused.value.response.status_code == status
        assert json.loads(refused.value.response.body)


@pytest.mark.parametrize("name", ["xi_api_key", "xi-api-key", "authorization"])
@on_loop
async def test_elevenlabs_sockets_may_bring_their_key_in_the_first_message(guarded, name):
    key = "Bearer s3cret é" if name == "authorization" else "s3cret é"
    async with dialled(guarded, f"{VOICE}/stream-input?output_format=pcm_24000") as socket:
        for message in ({"text": " ", name: key}, {"text": "One two. "}, {"text": ""}):
            await socket.send(json.dumps(message))
        messages = [json.loads(message) async for message in socket]
    assert messages[-1]["isFinal"] is True
    assert any(message["audio"] for message in messages)


@pytest.mark.parametrize(
    "first",
    ['{"text": " "}', '{"text": " ", "xi_api_key": "wrong"}', '{"text": " ", "xi_api_key": 5}', "what?", b"\xff"],
)
@on_loop
async def test_without_the_key_in_the_first_message_an_elevenlabs_socket_is_told_and_closed(guarded, first):
    async with open_websocket(f"{guarded.url}{VOICE}/multi-stream-input") as socket:
        await socket.send(first)
        told = json.loads(await socket.recv())
        assert (told["error"], told["code"]) == ("invalid_api_key", 401)
        with pytest.raises(ConnectionClosed, match="1008"):
            await socket.recv()


@pytest.mark.parametrize("scheme", ["token", "bearer"])
def test_a_browsers_socket_has_its_key_in_what_it_offers_and_is_told_the_scheme(scheme):
    @on_loop
    async def check() -> None:
        with Serve(token="key-17") as server:
            async with open_websocket(f"{server.url}/v1/speak", subprotocols=[scheme, "key-17"]) as socket:
                assert socket.subprotocol == scheme
                assert (await until(socket, "Metadata"))[-1]
            for offered in ([scheme, "wrong"], [scheme], ["key-17"], ["other", "key-17"]):
                with pytest.raises(InvalidStatus) as refused:
                    await open_websocket(f"{server.url}/v1/speak", subprotocols=offered)
                assert refused.value.response.status_code == 401
            assert not server.faults

    check()


@on_loop
async def test_messages_that_make_no_sense_leave_no_traceback(server):
    for path in ("/tts/websocket", "/v1/speak", "/v2/speak", "/v1/text-to-speech/x/multi-stream-input"):
        async with dialled(server, path) as socket:
            for message in ("no json", b"\xff\xfe", "[]", '{"type": 5, "text": [], "context_id": 7}'):
                try:
                    await socket.send(message)
                except ConnectionClosed:
                    break
            await asyncio.sleep(0.1)


# --- coming and going of the server ---


def test_who_comes_while_the_model_is_loading_is_kept_waiting_and_then_served():
    with Serve(wait=False) as starting:
        answer = Answer(starting, "/v1/audio/speech", SPEECH)
        while answer.status == 503:  # a busy machine takes longer to load than anybody waits
            assert answer.headers["Retry-After"]
            answer.read()
            answer = Answer(starting, "/v1/audio/speech", SPEECH)
        assert answer.status == 200
        assert len(answer.read()) > 3840


def test_who_comes_to_a_model_that_never_loads_is_told_to_come_again():
    impatient = "\nfrom dia2stream.server import front\nfront.REQUEST_SECONDS = 0.5"
    with Serve(wait=False, before=NEVER_LOADED + impatient) as starting:
        answer = Answer(starting, "/v1/text-to-speech/any", {"text": "Hi."})
        assert (answer.status, answer.json["detail"]["status"]) == (503, "system_busy")
        assert answer.headers["Retry-After"]


# A server on which sockets are accepted soon; its model is there when the test says so, by a file.
LOADED_LATER = """
import pathlib, sys, time
from dia2stream.server import front
from dia2stream.server.server import Server
front.HANDSHAKE_SECONDS, front.SOCKET_SECONDS = 0.1, {seconds}
load = Server._load_engine
def load_later(self):
    while not pathlib.Path({file!r}).exists():
        time.sleep(0.02)
    return load(self)
Server._load_engine = load_later
"""


@pytest.mark.parametrize("path", ["/tts/websocket", "/tts/websocket?conversation=call-5"])
def test_a_socket_is_accepted_while_the_model_is_loading_and_what_was_said_is_spoken_then(tmp_path, path):
    loaded = tmp_path / "loaded"

    @on_loop
    async def talk(server: Serve) -> None:
        async with open_websocket(f"{server.url}{path}") as socket:
            await socket.send(cartesia("a", HELLO))
            await (await socket.ping())
            assert server.get("/readyz")[0] == 503
            loaded.touch()
            messages = await until(socket, "done")
            assert [each["type"] for each in messages].count("timestamps") == 4

    with Serve(wait=False, before=LOADED_LATER.format(seconds=PATIENCE, file=str(loaded))) as server:
        talk(server)
        assert not server.faults


def test_a_socket_that_was_accepted_is_closed_when_the_model_never_loads(tmp_path):
    @on_loop
    async def talk(server: Serve) -> None:
        async with open_websocket(f"{server.url}/v2/speak") as socket:
            with pytest.raises(ConnectionClosed) as closed:
                await asyncio.wait_for(socket.recv(), PATIENCE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
        assert closed.value.rcvd.reason.startswith("loading")

    with Serve(wait=False, before=LOADED_LATER.format(seconds=0.2, file=str(tmp_path / "never"))) as server:
        talk(server)
        assert not server.faults


def test_a_socket_that_was_accepted_is_told_in_the_formats_shape_what_is_wrong(tmp_path):
    loaded = tmp_path / "loaded"

    @on_loop
    async def talk(server: Serve) -> None:
        async with (
            open_websocket(f"{server.url}/tts/websocket") as first,
            open_websocket(f"{server.url}/tts/websocket") as second,
            open_websocket(f"{server.url}/v1/speak?encoding=mp4") as third,
        ):
            loaded.touch()
            told = [asyncio.ensure_future(until(socket, "error")) for socket in (first, second)]
            done, waiting = await asyncio.wait(told, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
            (refused,), (_,) = done, waiting  # there is one slot
            assert refused.result()[-1]["error_code"] == "busy"
            with pytest.raises(ConnectionClosed) as closed:
                await asyncio.wait_for(third.recv(), PATIENCE)
            assert closed.value.rcvd is not None
            assert "encoding" in closed.value.rcvd.reason
            for waits in waiting:
                waits.cancel()

    with Serve(wait=False, before=LOADED_LATER.format(seconds=PATIENCE, file=str(loaded))) as server:
        talk(server)
        assert not server.faults


def test_a_server_that_stops_lets_its_clients_hear_what_they_asked_for():
    with Serve(drain_seconds=30) as stopping:
        answer = Answer(stopping, "/v1/audio/speech", {**SPEECH, "input": LONG[:200]})
        assert answer.stream.read(3840)
        whole: list[bytes] = []
        reading = threading.Thread(target=lambda: whole.append(answer.read()))
        reading.start()
        assert stopping.stop() == 0
        reading.join(PATIENCE)
        assert len(whole[0]) > 20 * 3840

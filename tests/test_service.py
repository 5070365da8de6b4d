"""What dialects are given: streamed answers to POST, WebSockets of another format, slots, refusals, tokens."""

import asyncio
import http.client
import time
from pathlib import Path

import pytest
from piping import PATIENCE, a_second, soon
from serving import LONG, QUICK, SHORT, Serve, hear, on_loop, sound, take_slot
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from dia2stream.protocol.messages import parse_event

FRAMES = "dia2stream_frames_total"
TESTS = str(Path(__file__).parent)
INSTALL = f"import sys; sys.path.insert(0, {TESTS!r}); import small_dialect; small_dialect.install()"


@pytest.fixture(scope="module")
def server():
    with Serve(before=INSTALL + QUICK, linger=60, max_lead_ms=3_600_000) as running:
        yield running
        assert not running.faults


class Post:
    """A request with a body, and its answer."""

    def __init__(self, server: Serve, path: str, text: str) -> None:
        self._line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        self._line.request("POST", path, text.encode())
        self.answer = self._line.getresponse()

    def __enter__(self) -> http.client.HTTPResponse:
        return self.answer

    def __exit__(self, *exception: object) -> None:
        self.answer.close()
        self._line.close()


async def post(server: Serve, path: str, text: str) -> Post:
    return await asyncio.to_thread(Post, server, path, text)


async def spoken(server: Serve, text: str) -> bytes:
    """The same by our own protocol."""
    async with await take_slot(server, encoding="mulaw", sample_rate=8000) as client:
        await client.start(text, seed=1)
        heard = sound(await hear(client))
        await client.hang_up()
        return heard


@on_loop
async def test_a_post_is_answered_by_sound_as_it_is_made(server):
    whole = await spoken(server, SHORT)
    with await post(server, "/say", SHORT) as answer:
        assert (answer.status, answer.headers["Content-Type"]) == (200, "audio/basic")
        assert await asyncio.to_thread(answer.read) == whole
    with await post(server, "/say", LONG) as answer:
        assert len(await asyncio.to_thread(answer.read, 640)) == 640  # long before the end


@on_loop
async def test_a_client_that_takes_nothing_of_a_streamed_answer_holds_generation_back(server):
    await (await take_slot(server)).close()
    first = now = server.metric(FRAMES)
    with await post(server, "/say", LONG * 9):
        before = -1.0
        while before != now or now == first:
            await asyncio.sleep(a_second())
            before, now = now, server.metric(FRAMES)
        assert now - first < 5000  # of the many that were asked for; the kernel holds the most


@on_loop
async def test_a_post_is_refused_while_every_slot_is_taken_and_gives_its_slot_back_when_its_client_goes(server):
    await (await take_slot(server)).close()
    with await post(server, "/say", LONG) as answer:
        await asyncio.to_thread(answer.read, 640)
        with await post(server, "/say", SHORT) as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (503, "2")
            assert parse_event(refused.read()).code == "busy"
    async with await take_slot(server) as client:
        await client.start(SHORT)
        await hear(client)


@on_loop
async def test_a_client_that_goes_before_anything_is_said_gives_its_slot_back_at_once(server):
    with await post(server, "/say", "") as answer:
        assert answer.status == 200  # and there it waits
        assert server.metric("dia2stream_slots_taken") == 1
    began = time.monotonic()
    await (await take_slot(server)).close()
    assert time.monotonic() - began < soon()  # and not the 60 s of `linger`


@on_loop
async def test_the_name_that_a_client_gives_is_the_conversation_that_it_goes_on_with(server):
    returns = server.metric("dia2stream_returns_total")
    for _ in range(2):
        with await post(server, "/say?name=ann", SHORT) as answer:
            assert (answer.status, bool(await asyncio.to_thread(answer.read))) == (200, True)
    assert server.metric("dia2stream_returns_total") == returns + 1


@on_loop
async def test_another_format_over_a_websocket(server):
    whole = await spoken(server, SHORT)
    async with open_websocket(f"{server.url}/talk", subprotocols=["plain"]) as client:
        assert client.subprotocol == "plain"
        await client.send(b"bytes")
        assert await client.recv() == "bad_field"
        await client.send(SHORT)
        heard = b""
        while isinstance(message := await client.recv(), bytes):
            heard += message
        assert (message, heard) == ("done", whole)
        with pytest.raises(InvalidStatus) as refused:
            await open_websocket(f"{server.url}/talk")
        assert refused.value.response.status_code == 503


def test_whatever_has_an_address_wants_the_token(monkeypatch):
    import small_dialect
    from starlette.routing import Route, WebSocketRoute

    from dia2stream.options import ModelOptions, ServeOptions, SpeechOptions
    from dia2stream.server import app, page
    from dia2stream.server.gate import OPEN_PATHS
    from dia2stream.server.server import Server

    monkeypatch.setattr(app, "DIALECTS", (*app.DIALECTS, small_dialect.routes))
    places = Server(ModelOptions(), SpeechOptions(), ServeOptions()).routes
    assert len(places) > 5
    with Serve(before=INSTALL, token="secret", wait=False) as guarded:
        for place in places:
            path = place.path.replace("{path:path}", "x").replace("{", "").replace("}", "").replace(":path", "")
            if isinstance(place, WebSocketRoute):
                assert asyncio.run(refusal(f"{guarded.url}{path}")) in (401, 404, 1008), path
            elif isinstance(place, Route) and path not in (*OPEN_PATHS, *page.FILES):
                for method in place.methods or ():
                    assert guarded.get(path, method)[0] == 401, (method, path)


async def refusal(url: str) -> int:
    """The status that refuses a handshake, or the code that closes a socket whose key may be in its first message."""
    try:
        async with open_websocket(url) as socket:
            await socket.send('{"text": " "}')
            while True:
                assert isinstance(await socket.recv(), str)  # no sound
    except InvalidStatus as refused:
        return refused.response.status_code
    except ConnectionClosedError as closed:
        return 0 if closed.rcvd is None else closed.rcvd.code

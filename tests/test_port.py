"""The port under the server, with applications of a few lines: HTTP/1.1, WebSockets, TLS, and clients of all kinds."""

import asyncio
import contextlib
import logging
import re
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator

import pytest
from piping import soon
from serving import HANDSHAKE, frame, on_loop, tls_ends
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dia2stream.server import http1, port, websocket
from dia2stream.server.connection import GONE, App, Limits
from dia2stream.server.port import Port

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await request.body())


async def count(request: Request) -> StreamingResponse:
    async def numbers() -> AsyncIterator[bytes]:
        for number in range(int(request.query_params["to"])):
            request.app.state.made = number
            yield str(number).encode().rjust(1000)

    return StreamingResponse(numbers())


async def fail(request: Request) -> PlainTextResponse:
    raise ValueError("a fault of ours")


async def break_off(request: Request) -> StreamingResponse:
    async def half() -> AsyncIterator[bytes]:
        yield b"half"
        raise ValueError("a fault of ours")

    return StreamingResponse(half())


async def talk(socket: WebSocket) -> None:
    await socket.accept()
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                socket.app.state.ended = message["code"]
                return
            if message.get("text") == "refuse":
                await socket.close(4000, "as you wish")
            elif message.get("text") is not None:
                await socket.send_text(message["text"])
            else:
                await socket.send_bytes(message["bytes"])


async def turn_away(socket: WebSocket) -> None:
    await socket.send_denial_response(PlainTextResponse("not you", 418))


APP = Starlette(
    routes=[
        Route("/", hello),
        Route("/echo", echo, methods=["POST"]),
        Route("/count", count),
        Route("/fail", fail),
        Route("/half", break_off),
        WebSocketRoute("/", talk),
        WebSocketRoute("/no", turn_away),
    ]
)


@contextlib.asynccontextmanager
async def listening(
    app: App = APP, limits: Limits | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """The number of a port on which an application is served."""
    opened = Port(app, limits or Limits(), tls)
    await opened.open("127.0.0.1", 0)
    try:
        yield opened.addresses[0][1]
    finally:
        await opened.close()


class Raw:
    """A connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def end(self) -> None:
        self.writer.write_eof()

    async def rest(self, seconds: float = 20) -> bytes:
        """What comes until the server hangs up."""
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.read(), seconds)
        return b"reset"


@contextlib.asynccontextmanager
async def dialling(number: int, *sent: bytes) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", number)
    for piece in sent:
        writer.write(piece)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()


async def asked(number: int, request: bytes, end: bool = False) -> bytes:
    """What a request is answered."""
    async with dialling(number, request) as raw:
        if end:
            raw.end()
        return await raw.rest()


def statuses(said: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", said)]


# ---- Requests and answers ----


@on_loop
async def test_a_connection_serves_one_request_after_the_other_and_pipelined_ones_in_order():
    one = POST + b"Content-Length: 3\r\n\r\none"
    two = CHUNKED + b"1\r\nt\r\n2\r\nwo\r\n0\r\n\r\n"
    last = b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with listening() as number:
        said = await asked(number, one + two + GET + last)
    assert statuses(said) == [200] * 4
    assert [said.index(word) for word in (b"one", b"two", b"hello")] == sorted(
        said.index(word) for word in (b"one", b"two", b"hello")
    )
    assert said.count(b"hello") == 1
    assert said.endswith(b"\r\n\r\n")  # HEAD has no body


@on_loop
async def test_an_answer_comes_in_pieces_as_it_is_made_and_no_faster_than_it_is_read():
    async with listening() as number:
        async with dialling(number, b"GET /count?to=3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as raw:
            said = await raw.rest()
        assert b"transfer-encoding: chunked" in said.lower()
        assert [said.count(str(n).encode().rjust(1000)) for n in range(3)] == [1, 1, 1]
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            await asyncio.get_running_loop().sock_connect(slow, ("127.0.0.1", number))
            await asyncio.get_running_loop().sock_sendall(slow, b"GET /count?to=100000 HTTP/1.1\r\nHost: x\r\n\r\n")
            before = -1
            while before != (before := APP.state.made):
                await asyncio.sleep(0.2)
            assert 0 < APP.state.made < 5000  # the kernel holds some of it


@on_loop
async def test_who_waits_for_100_continue_is_told_to_go_on():
    async with (
        listening() as number,
        dialling(number, POST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n") as raw,
    ):
        assert (await raw.reader.readline()).startswith(b"HTTP/1.1 100")
        raw.writer.write(b"hi")
        raw.end()
        assert (await raw.rest()).endswith(b"hi")


@on_loop
async def test_an_answer_is_given_also_to_who_has_closed_its_end():
    async with listening() as number:
        assert statuses(await asked(number, GET, end=True)) == [200]
        assert statuses(await asked(number, GET + GET, end=True)) == [200, 200]
        assert statuses(await asked(number, POST + b"Content-Length: 2\r\n\r\nhi" + GET, end=True)) == [200, 200]


@on_loop
async def test_an_answer_that_takes_long_reaches_a_client_that_has_closed_its_end_and_is_there(monkeypatch):
    monkeypatch.setattr(http1, "HALF_CLOSED_SECONDS", 0.2)
    begun, gone, answer = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(scope, receive, send):
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    async def late(scope, receive, send):
        await answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"late"})

    async with listening(late) as number, dialling(number, GET) as raw:
        raw.end()
        assert (await raw.reader.readline()).startswith(b"HTTP/1.1 100")  # which every client passes over
        answer.set()
        assert statuses(await raw.rest())[-1] == 200
    async with listening(slow) as number:
        async with dialling(number, GET):
            await begun.wait()
        await asyncio.wait_for(gone.wait(), 10)  # of one that is gone


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HT", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (POST + b"Content-Length: 10\r\n\r\nfour", 400),
        (POST + b"Content-Length: ten\r\n\r\nfour", 400),
        (CHUNKED + b"ZZ\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nfour", 405),
        (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (HANDSHAKE.replace(b"GET", b"POST"), 400),
        (HANDSHAKE.replace(b"Host", b"Content-Length: 3\r\nHost") + b"abc", 400),
        (HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.0"), 200),  # which has no WebSockets
        (HANDSHAKE.replace(b"Sec-WebSocket-Key", b"Key"), 400),
        (HANDSHAKE.replace(b"AAAAAAAAAAAAAAAAAAAAAA==", b"short"), 400),
        (HANDSHAKE.replace(b"Host", b"".join(b"A%d: b\r\n" % n for n in range(500)) + b"Host"), 101),
        (HANDSHAKE.replace(b"Host", b"Cookie: \xc3\xa9\xff\r\nHost"), 101),
        (HANDSHAKE.replace(b"Host", b"Sec-WebSocket-Protocol: \xff\r\nHost"), 400),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    ],
)
@on_loop
async def test_every_request_is_answered(caplog, request_, status):
    caplog.set_level(logging.INFO)
    async with listening() as number:
        began = time.monotonic()
        said = await asked(number, request_, end=True)
        assert statuses(said)[:1] == [status]
        assert time.monotonic() - began < soon()  # nobody waits for a deadline
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "Sec-WebSocket" not in caplog.text


@on_loop
async def test_an_answer_arrives_although_the_request_was_not_read_to_its_end():
    """Closing a socket with unread input would make the kernel throw the answer away."""
    async with listening() as number:
        for _ in range(20):
            async with dialling(
                number, b"PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9000000\r\n\r\n"
            ) as raw:
                raw.writer.write(b"x" * 500_000)
                assert statuses(await raw.rest()) == [405]


@on_loop
async def test_a_body_that_nobody_wants_is_read_only_so_far():
    async with (
        listening() as number,
        dialling(number, b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\n\r\n") as raw,
    ):
        assert (await raw.reader.readline()).startswith(b"HTTP/1.1 405")
        with pytest.raises(ConnectionError):
            await flood(raw, b"x" * 1_000_000, 90, 0.05)


@on_loop
async def test_a_request_that_does_not_come_to_its_end_is_told(monkeypatch):
    for name in ("REQUEST_SECONDS", "BODY_SECONDS", "KEEP_ALIVE_SECONDS"):
        monkeypatch.setattr(http1, name, 0.3)
    async with listening(limits=Limits(patience=60)) as number:
        assert statuses(await asked(number, b"GET / HTT")) == [408]
        assert statuses(await asked(number, POST + b"Content-Length: 3\r\n\r\nab")) == [408]
        assert await asked(number, b"") == b""  # who asks nothing is told nothing
        assert statuses(await asked(number, GET)) == [200]  # and is not kept for ever


@on_loop
async def test_a_request_whose_client_falls_silent_is_told_before_its_connection_is_dropped():
    async with listening(limits=Limits(patience=0.3)) as number:
        for half in (b"GET / HTT", POST + b"Content-Length: 3\r\n\r\nab", CHUNKED + b"3\r\n"):
            assert statuses(await asked(number, half)) == [408]


@pytest.mark.parametrize(("path", "said"), [(b"/fail", b"HTTP/1.1 500"), (b"/half", b"HTTP/1.1 200")])
@on_loop
async def test_a_failing_application_is_logged_once_and_its_client_told(caplog, path, said):
    async with listening() as number:
        answer = await asked(
            number, GET.replace(b"/ ", path + b" ").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
    assert answer.startswith(said)
    assert not answer.endswith(b"0\r\n\r\n")  # half an answer does not look like a whole one
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.exc_info is not None


@on_loop
async def test_an_application_finds_out_that_its_client_is_gone():
    ended = asyncio.Event()

    async def endless(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    async def waiting(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass
        ended.set()

    for app in (endless, waiting):
        ended.clear()
        async with listening(app) as number:
            async with dialling(number, GET) as raw:
                await asyncio.sleep(0.2)
                ours = raw.writer.get_extra_info("socket")
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
                raw.writer.transport.abort()
            await asyncio.wait_for(ended.wait(), 10)


# ---- WebSockets ----


@on_loop
async def test_messages_go_both_ways_in_fragments_and_before_the_handshake_is_answered():
    async with listening() as number:
        async with open_websocket(f"ws://127.0.0.1:{number}/") as client:
            for message in ("text é", b"\0bytes", "", "x" * 100_000):
                await client.send(message)
                assert await client.recv() == message
            await client.send(["in ", "several ", "pieces"])
            assert await client.recv() == "in several pieces"
            await (await client.ping())
        async with dialling(number, HANDSHAKE + frame(0x81, b"early"), frame(0x89, b"ping")) as raw:
            said = await raw.reader.readuntil(b"\x8a\x04ping")
            if b"early" not in said:
                said += await raw.reader.readuntil(b"early")
            assert b"\x81\x05early" in said


@on_loop
async def test_text_that_is_not_utf_8_comes_as_bytes_and_ends_nothing():
    async with listening() as number, dialling(number, HANDSHAKE, frame(0x81, b"\xff"), frame(0x81, b"on")) as raw:
        assert b"\x82\x01\xff" in await raw.reader.readuntil(b"\x81\x02on")


@on_loop
async def test_both_ends_may_close_and_are_told_why():
    async with listening() as number:
        async with open_websocket(f"ws://127.0.0.1:{number}/") as client:
            await client.send("refuse")
            with pytest.raises(ConnectionClosed):
                await client.recv()
        assert (client.close_code, client.close_reason) == (4000, "as you wish")
        client = await open_websocket(f"ws://127.0.0.1:{number}/")
        await client.close(4001)
        while getattr(APP.state, "ended", None) != 4001:
            await asyncio.sleep(0.01)
        with pytest.raises(InvalidStatus) as refused:
            await open_websocket(f"ws://127.0.0.1:{number}/no")
        assert (refused.value.response.status_code, refused.value.response.body) == (418, b"not you")


@on_loop
async def test_a_message_over_the_limit_closes_with_1009_also_in_fragments():
    async with listening(limits=Limits(message_bytes=1000)) as number:
        for message in ("x" * 1001, ["x" * 600, "x" * 600]):
            async with open_websocket(f"ws://127.0.0.1:{number}/") as client:
                with contextlib.suppress(ConnectionClosed):
                    await client.send(message)
                    await client.recv()
            assert client.close_code == 1009


@on_loop
async def test_a_client_that_never_answers_a_close_is_let_go():
    async with listening() as number, dialling(number, HANDSHAKE, frame(0x81, b"refuse")) as raw:
        began = time.monotonic()
        assert b"\x88" in await raw.rest()
        assert 1 < time.monotonic() - began < websocket.CLOSE_SECONDS + soon()


@on_loop
async def test_messages_wait_in_the_kernel_until_the_application_takes_them():
    taken = 0
    go_on = asyncio.Event()

    async def slow(scope, receive, send):
        nonlocal taken
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            taken += 1
            await go_on.wait()

    async with listening(slow) as number, dialling(number, HANDSHAKE) as raw:
        writing = asyncio.create_task(flood(raw, frame(0x81, b"x" * 1000) * 100, 300))
        await asyncio.sleep(0.5)
        assert taken == 1
        assert not writing.done()  # 30 MB do not fit anywhere
        go_on.set()
        await writing
        while taken < 30_000:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("size", [20, 5000])
@on_loop
async def test_a_client_that_goes_behind_a_flood_is_noticed_soon(size):
    """Its end stands in its own kernel, behind megabytes that nobody reads."""
    gone_at = asyncio.get_running_loop().create_future()

    async def slow(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        await scope["extensions"][GONE]
        gone_at.set_result(time.monotonic())

    async with listening(slow) as number:
        with socket.create_connection(("127.0.0.1", number)) as raw:
            raw.sendall(HANDSHAKE)
            raw.setblocking(False)
            flood, sent = frame(0x81, b"x" * size) * 1000, 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += raw.send(flood[sent % len(flood) :])
                    await asyncio.sleep(0)
            await asyncio.sleep(0.3)  # the answer to the handshake has come
            raw.recv(1 << 16)
        left_at = time.monotonic()
        assert sent > 1_000_000
        assert await gone_at - left_at < soon()


async def flood(raw: Raw, piece: bytes, times: int, pause: float = 0) -> None:
    for _ in range(times):
        raw.writer.write(piece)
        await raw.writer.drain()
        await asyncio.sleep(pause)


# ---- Signs of life ----


async def lifetime(number: int, sent: bytes) -> float:
    """Seconds until the server hangs up on a client that sends this and no more."""
    began = time.monotonic()
    async with dialling(number, sent) as raw:
        await raw.rest()
    return time.monotonic() - began


@on_loop
async def test_a_silent_websocket_is_pinged_and_dropped_and_one_that_answers_is_kept():
    brief = Limits(patience=0.5)
    async with listening(limits=brief) as number, open_websocket(f"ws://127.0.0.1:{number}/") as client:
        assert 0.8 < await lifetime(number, HANDSHAKE) < 1 + soon()
        await client.send("still here")
        assert await client.recv() == "still here"


@on_loop
async def test_a_process_that_stood_still_blames_no_client(monkeypatch):
    """As after SIGSTOP: the clock has gone on, and what the clients sent meanwhile is not read yet."""
    async with listening(limits=Limits(patience=1)) as number, open_websocket(f"ws://127.0.0.1:{number}/") as client:
        await client.send("hello")
        assert await client.recv() == "hello"
        time.sleep(5)  # the loop, the server's and the client's, stands still
        await asyncio.sleep(0.3)
        await client.send("still here")
        assert await client.recv() == "still here"


# ---- TLS ----


@pytest.mark.needs("openssl")
@on_loop
async def test_a_tls_port_speaks_tls_and_tells_who_does_not(tmp_path, caplog):
    ours, theirs = tls_ends(tmp_path)
    async with listening(tls=ours) as number:
        async with open_websocket(f"wss://127.0.0.1:{number}/", ssl=theirs) as client:
            await client.send("x" * 100_000)
            assert len(await client.recv()) == 100_000
        reader, writer = await asyncio.open_connection("127.0.0.1", number, ssl=theirs)
        writer.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert (await reader.read()).endswith(b"hello")
        writer.close()
        said = await asked(number, GET)
        assert statuses(said) == [400]
        assert b"https://" in said
        for nonsense in (b"", b"\x16", b"\x16\x03\x01\x00\x05hello", b"\0"):
            await asked(number, nonsense, end=True)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.needs("openssl")
@on_loop
async def test_an_answer_in_tls_arrives_although_the_input_was_not_read_to_its_end(tmp_path):
    """A frame that is none, and so much behind it that most was not read when the server closes with 1002."""
    ours, theirs = tls_ends(tmp_path)
    async with listening(tls=ours) as number:
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", number, ssl=theirs)
            writer.write(HANDSHAKE + frame(0xF1, b"none") + bytes(60_000))
            said = b""
            with contextlib.suppress(ConnectionError):
                while data := await asyncio.wait_for(reader.read(1 << 16), 20):
                    said += data
            writer.transport.abort()
            assert statuses(said) == [101]
            assert b"\x03\xea" in said  # 1002


@pytest.mark.needs("openssl")
@on_loop
async def test_an_answer_in_tls_arrives_although_more_comes_behind_its_request(tmp_path):
    """A blocking client: it sends all that it has, which comes while the server closes, and then reads."""
    ours, theirs = tls_ends(tmp_path)

    def talk(number: int) -> bytes:
        with socket.create_connection(("127.0.0.1", number)) as raw, theirs.wrap_socket(raw) as client:
            client.settimeout(20)
            client.sendall(b"nonsense\r\n\r\n")
            with contextlib.suppress(OSError):
                for _ in range(10):
                    client.sendall(bytes(30_000))
                    time.sleep(0.002)
                return client.recv(1 << 16)
        return b""

    async with listening(tls=ours) as number:
        for _ in range(30):
            assert statuses(await asyncio.to_thread(talk, number)) == [400]


@pytest.mark.needs("openssl")
@on_loop
async def test_a_client_that_does_not_let_go_of_its_tls_leaves_the_others_looked_after(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(http1, "REQUEST_SECONDS", 0.5)
    ours, theirs = tls_ends(tmp_path)
    async with listening(tls=ours) as number:
        with socket.create_connection(("127.0.0.1", number)) as raw:
            deaf = await asyncio.to_thread(theirs.wrap_socket, raw)  # reads nothing, so it never answers the end of TLS
            await asyncio.to_thread(deaf.sendall, b"GET / HTT")
            await asyncio.sleep(0.5 + 5 * port.LOOK_SECONDS)
            reader, writer = await asyncio.open_connection("127.0.0.1", number, ssl=theirs)
            writer.write(b"GET / HTT")
            assert statuses(await asyncio.wait_for(reader.read(1000), 20)) == [408]
            writer.transport.abort()
            deaf.close()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@on_loop
async def test_a_connection_that_cannot_be_looked_after_leaves_the_others(monkeypatch, caplog):
    look, seen, token = http1.Http.look, [], "-".join(("s3cret", "token"))

    def fail_once(self: http1.Http, now: float, silence: float) -> None:
        if not seen:
            seen.append(self)
            raise ValueError(token)
        look(self, now, silence)

    monkeypatch.setattr(http1.Http, "look", fail_once)
    monkeypatch.setattr(http1, "REQUEST_SECONDS", 0.5)
    async with listening() as number:
        said = await asyncio.gather(*(asked(number, b"GET / HTT") for _ in range(2)))
    assert sorted(map(statuses, said)) == [[], [408]]
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert token not in str(vars(record))


@on_loop
async def test_what_fails_while_reading_is_logged_without_what_was_read(caplog, monkeypatch):
    def fail(self: http1.Http, data: bytes) -> None:
        raise ValueError(f"cannot read {data!r}")

    monkeypatch.setattr(http1.Http, "data", fail)
    async with listening() as number:
        assert await asked(number, GET.replace(b"Host", b"Authorization: Bearer s3cret\r\nHost")) in (b"", b"reset")
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.error == "ValueError"
    assert "s3cret" not in str(vars(record))


# ---- The end ----


@on_loop
async def test_closing_the_port_closes_every_connection_in_good_order():
    opened = Port(APP, Limits())
    await opened.open("127.0.0.1", 0)
    [(_, number)] = opened.addresses
    client = await open_websocket(f"ws://127.0.0.1:{number}/")
    async with dialling(number) as idle, dialling(number, HANDSHAKE) as deaf:
        await deaf.reader.readuntil(b"\r\n\r\n")
        began = time.monotonic()
        await opened.close()
        assert time.monotonic() - began < port.CLOSE_SECONDS + soon()
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert client.close_code == 1001
        assert await idle.rest() == b""
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", number)

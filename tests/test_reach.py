"""Reaching a server: which proxy is asked, and what is said when it is not reached. With real proxies and servers."""

import asyncio
import contextlib
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from piping import PATIENCE
from proxies import PROXY_VARIABLES, Proxy
from serving import on_loop, tls_ends
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from dia2stream.client import connect
from dia2stream.errors import Disconnected
from dia2stream.protocol.messages import Ready, dump_event
from dia2stream.reach import is_loopback, proxy_for, without_secrets
from dia2stream.server.connection import Limits
from dia2stream.server.port import Port

READY = Ready("1", "m", "cpu", 24000, "pcm16", 80, (), "c")


@contextlib.asynccontextmanager
async def listening(tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """The port of a server that is ready to speak."""

    async def talk(peer: WebSocket) -> None:
        await peer.accept()
        await peer.send_text(dump_event(READY))
        await peer.receive()

    opened = Port(Starlette(routes=[WebSocketRoute("/", talk)]), Limits(), tls)
    await opened.open(host, 0)
    try:
        yield opened.addresses[0][1]
    finally:
        await opened.close()


@contextlib.asynccontextmanager
async def raw_server(answer: bytes) -> AsyncIterator[int]:
    """The port of something that says this to everybody, whatever it is asked, and closes."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    listener = await asyncio.start_server(say, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


async def said(url: str, **options: object) -> str:
    """Why a server is not reached."""
    with pytest.raises(Disconnected) as failed:
        await connect(url, **options)
    assert "\n" not in str(failed.value)
    return str(failed.value)


@pytest.fixture
def closed_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield unused.getsockname()[1]


@pytest.fixture
def contexts(tmp_path):
    """A server's TLS, and that of a client that trusts it whatever its name."""
    return tls_ends(tmp_path)


# ---- Which proxy ----


@pytest.mark.parametrize("spelling", [str.lower, str.upper])
@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost"])
@on_loop
async def test_a_server_on_this_machine_is_asked_directly_whatever_proxies_are_set(monkeypatch, host, spelling):
    async with Proxy().running() as proxy, listening(host="0.0.0.0") as port:
        for name in PROXY_VARIABLES:
            monkeypatch.setenv(spelling(name), proxy.url)
        for scheme in ("ws", "http"):
            async with connect(f"{scheme}://{host}:{port}") as client:
                assert client.ready == READY
        assert proxy.asked == []


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True),
        ("LocalHost.", True),
        ("bot.localhost", True),
        ("127.0.0.1", True),
        ("127.255.0.9", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", True),
        ("128.0.0.1", False),
        ("::2", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("", False),
    ],
)
def test_what_is_this_machine(host, own):
    assert is_loopback(host) == own


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "all_proxy", "ws_proxy", "HTTPS_PROXY"])
@on_loop
async def test_other_hosts_are_asked_through_the_proxy_that_the_environment_names(monkeypatch, variable):
    async with listening() as port, Proxy(port).running() as proxy:
        if variable == "HTTPS_PROXY":
            monkeypatch.setenv(variable, f"127.0.0.1:{proxy.port}")  # many are written so
        else:
            monkeypatch.setenv(variable, proxy.url.replace("//", "//user:p%40ss@"))
        async with connect("ws://speech.example:8765/") as client:
            assert client.ready == READY
        assert proxy.asked == ["speech.example:8765"]
        assert len(proxy.authorizations) == (variable != "HTTPS_PROXY")


@pytest.mark.needs("openssl")
@on_loop
async def test_tls_goes_through_a_proxy_to_the_server(monkeypatch, contexts):
    ours, theirs = contexts
    async with listening(ours) as port, Proxy(port).running() as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        async with connect("wss://speech.example", ssl=theirs) as client:
            assert client.ready == READY
        assert proxy.asked == ["speech.example:443"]


@pytest.mark.parametrize("without", ["speech.invalid", ".invalid", "speech.invalid:8765", "*"])
@on_loop
async def test_hosts_that_need_no_proxy_are_asked_directly(monkeypatch, without):
    async with Proxy().running() as proxy:
        monkeypatch.setenv("all_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", without)
        assert "proxy" not in await said("ws://speech.invalid:8765")  # which there is not
        assert proxy.asked == []


def test_a_url_names_its_proxy(monkeypatch):
    assert proxy_for("ws://a.example") is proxy_for("wss://a.example") is None
    monkeypatch.setenv("http_proxy", "http://plain:1")
    monkeypatch.setenv("ALL_PROXY", "http://all:1")
    assert proxy_for("ws://a.example") == "http://plain:1"
    assert proxy_for("wss://a.example") == "http://all:1"
    monkeypatch.setenv("socks_proxy", "http://socks:1")
    assert proxy_for("wss://a.example") == "socks5h://socks:1"
    assert proxy_for("wss://[::1]:99/") is None
    with pytest.raises(ValueError, match=r"[Pp]ort"):
        proxy_for("ws://a.example:many")


@on_loop
async def test_whoever_writes_the_program_may_name_a_proxy_or_none(monkeypatch):
    async with listening() as port, Proxy(port).running() as proxy:
        async with connect(f"ws://127.0.0.1:{port}", proxy=proxy.url):
            assert proxy.asked == [f"127.0.0.1:{port}"]
        monkeypatch.setenv("all_proxy", proxy.url)
        assert "proxy" not in await said("ws://speech.invalid", proxy=None)
        with socket.create_connection(("127.0.0.1", port)) as mine:
            mine.setblocking(False)
            async with connect("ws://speech.invalid", sock=mine):
                pass
        async with connect(f"ws://127.0.0.1:{port}", proxy=True):
            assert len(proxy.asked) == 1


# ---- What is said ----


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@on_loop
async def test_a_proxy_that_does_not_help_is_named_without_its_password(monkeypatch, closed_port, scheme):
    url = f"{scheme}://speech.example:8765/"
    secret = f"http://user:secret@127.0.0.1:{closed_port}"
    for variable, value, named in (
        ("https_proxy", secret, f"http://127.0.0.1:{closed_port}: Connection refused"),
        ("https_proxy", "gopher://user:secret@p:1", "gopher://p:1: no usable URL of a proxy: scheme gopher"),
        ("https_proxy", "http://secret@p:1", "http://p:1: no usable URL of a proxy: username provided without"),
    ):
        monkeypatch.setenv(variable, value)
        told = await said(f"{url}?token=secret")
        assert told.startswith(f"{url}: through the proxy {named}")
        assert "secret" not in told


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "403"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "502"),
        (b"SSH-2.0-OpenSSH\r\n", "valid HTTP response"),
    ],
)
@on_loop
async def test_what_a_proxy_answers_is_told(monkeypatch, answer, why):
    async with Proxy(answer=answer).running() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        told = await said("ws://speech.example")
        assert told.startswith(f"ws://speech.example/: through the proxy {proxy.url}: ")
        assert why in told


@on_loop
async def test_a_socks_proxy_says_which_package_it_needs(monkeypatch, closed_port):
    monkeypatch.setitem(sys.modules, "python_socks", None)
    monkeypatch.setenv("socks_proxy", f"socks5h://127.0.0.1:{closed_port}")
    told = await said("ws://speech.example")
    assert "pip install python-socks" in told or "Connection refused" in told  # the latter where it was imported before


@pytest.mark.needs("openssl")
@on_loop
async def test_a_client_is_told_that_the_server_speaks_tls_or_does_not(contexts, monkeypatch):
    ours, theirs = contexts
    async with listening(ours) as secure, listening() as plain, Proxy(plain).running() as proxy:
        assert (await said(f"wss://127.0.0.1:{plain}")).endswith("the server does not speak TLS: use ws://")
        assert (await said(f"ws://127.0.0.1:{secure}")).endswith("the server speaks TLS: use wss://")
        assert "certificate is not trusted: self" in await said(f"wss://127.0.0.1:{secure}")
        theirs.check_hostname = True
        assert "certificate is not trusted: IP address mismatch" in await said(f"wss://127.0.0.1:{secure}", ssl=theirs)
        monkeypatch.setenv("https_proxy", proxy.url)
        through = f"through the proxy {proxy.url}: the server does not speak TLS: use ws://"
        assert (await said("wss://speech.example")).endswith(through)


@pytest.mark.parametrize(
    ("scheme", "answer", "why"),
    [
        ("ws", b"", "no answer in HTTP; if the server speaks TLS, use wss://"),
        ("ws", b"\x15\x03\x01\x00\x02\x02\x46", "no answer in HTTP; if the server speaks TLS, use wss://"),
        ("wss", b"", "the connection broke in the TLS handshake; if the server does not speak TLS, use ws://"),
        ("wss", b"\x15\x03\x01\x00\x02\x02\x46", "TLS failed: tlsv1 alert protocol version"),
        ("wss", b"SSH-2.0-OpenSSH\r\n", "the server does not speak TLS: use ws://"),
        (
            "ws",
            b"HTTP/1.1 400 Bad Request\r\nContent-Length: 30\r\n\r\n<html>plain HTTP to HTTPS port",
            "the server speaks TLS: use wss://",
        ),
        (
            "ws",
            b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 17\r\n\r\nnot \x1b[31mhere\nmore",
            "the server answered 404 Not Found: not ?[31mhere",
        ),
        ("ws", b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n<>", "the server answered 404 Not Found"),
    ],
)
@on_loop
async def test_what_else_a_server_may_answer(scheme, answer, why):
    async with raw_server(answer) as port:
        assert await said(f"{scheme}://127.0.0.1:{port}?token=secret") == f"{scheme}://127.0.0.1:{port}/: {why}"


@on_loop
async def test_a_host_that_is_not_there_and_a_url_that_is_none(closed_port):
    assert await said(f"ws://localhost:{closed_port}") == f"ws://localhost:{closed_port}/: Connection refused"
    assert "not known" in await said("ws://speech.invalid") or "resolution" in await said("ws://speech.invalid")
    for wrong in ("ws://a:many", "ws://[::1", "gopher://a", "ws://", "ws://a..b"):
        assert "Traceback" not in await said(wrong)
    with raw_listener() as silent:
        assert (await said(f"ws://127.0.0.1:{silent}", open_timeout=0.2)).endswith("no answer in time")


@contextlib.contextmanager
def raw_listener():
    """The port of a socket that nobody accepts from."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_what_is_shown_of_a_url_has_no_secrets():
    assert without_secrets("wss://me:secret@a.example:1/x?token=secret#secret") == "wss://a.example:1/x"


@pytest.mark.parametrize("command", [("client", "--url"), ("bench", "--url")])
def test_the_commands_name_the_proxy(monkeypatch, closed_port, command):
    monkeypatch.setenv("https_proxy", f"http://user:secret@127.0.0.1:{closed_port}")
    asked = [sys.executable, "-m", "dia2stream", *command, "ws://speech.example"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE)
    proxy = f"http://127.0.0.1:{closed_port}"
    assert done.returncode == 1
    assert done.stderr.endswith(f"dia2stream: ws://speech.example/: through the proxy {proxy}: Connection refused\n"), (
        done.stderr
    )

"""The port that everything is served on: opened, watched, closed.

    port = Port(app, Limits())
    await port.open("127.0.0.1", 8765)
    ...
    await port.close()

`app` is any ASGI application; it is given HTTP requests and WebSockets. With TLS, the first byte of a connection says
whether its client knows that: who speaks plain HTTP gets an answer that says so, rather than a closed connection.
"""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from http import HTTPStatus
from typing import Any

from dia2stream.errors import Dia2StreamError
from dia2stream.server.connection import App, Connection, Limits, plain_answer
from dia2stream.server.http1 import Http

_log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25  # how often connections are looked after
BACKLOG = 1024
CLOSE_SECONDS = 2.0
HANDSHAKE_SECONDS = 10.0  # for TLS
_TLS_HANDSHAKE = b"\x16"


class Port:
    """The listening sockets, and every connection that came in through them."""

    def __init__(self, app: App, limits: Limits, tls: ssl.SSLContext | None = None) -> None:
        self._app, self._limits, self._tls = app, limits, tls
        self._connections: set[Connection] = set()
        self._listener: asyncio.Server
        self._watching: asyncio.Task[None]
        self._arriving: set[asyncio.Task[None]] = set()

    async def open(self, host: str, port: int) -> None:
        """Begins to listen. Raises Dia2StreamError when it cannot."""
        loop = asyncio.get_running_loop()
        factory: Any = self._connection if self._tls is None else self._arrival
        try:
            self._listener = await loop.create_server(factory, host, port, backlog=BACKLOG)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise Dia2StreamError(f"cannot listen on {host} port {port}: {reason}") from None
        self._watching = loop.create_task(self._look_after_connections())

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens: host and port."""
        return [listening.getsockname()[:2] for listening in self._listener.sockets]

    async def close(self) -> None:
        """Listens no more, closes every connection in good order, and after CLOSE_SECONDS those that are left."""
        self._listener.close()
        for task in self._arriving:
            task.cancel()
        for connection in tuple(self._connections):
            connection.finish()
        deadline = asyncio.get_running_loop().time() + CLOSE_SECONDS
        while self._connections and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        self._watching.cancel()
        await asyncio.gather(*(connection.stop() for connection in tuple(self._connections)))

    def _connection(self) -> Connection:
        return Connection(self._app, self._limits, self._connections, Http)

    async def _look_after_connections(self) -> None:
        loop = asyncio.get_running_loop()
        interval = min(LOOK_SECONDS, self._limits.patience / 4)
        before = loop.time()
        while True:
            await asyncio.sleep(interval)
            now = loop.time()
            late = now - before > 2 * interval + 1.0  # the process was stopped, or was kept from running
            for connection in tuple(self._connections):
                try:
                    connection.look(now, late)
                except Exception as error:  # all the others must go on to be looked after
                    connection.fail(error)
            before = now

    # ---- TLS ----

    def _arrival(self) -> "_Arrival":
        return _Arrival(self._receive)

    def _receive(self, client: socket.socket) -> None:
        task = asyncio.get_running_loop().create_task(self._begin_tls(client))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    async def _begin_tls(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError, asyncio.TimeoutError):  # ssl.SSLError too: one who cannot speak TLS
            first = await asyncio.wait_for(_first_byte(client), HANDSHAKE_SECONDS)
            if first == _TLS_HANDSHAKE:
                await loop.connect_accepted_socket(
                    self._connection, client, ssl=self._tls, ssl_handshake_timeout=HANDSHAKE_SECONDS
                )
                return
            if first:
                text = "this port speaks TLS: use https:// or wss://"
                await loop.sock_sendall(client, plain_answer(HTTPStatus.BAD_REQUEST, text))
                client.shutdown(socket.SHUT_WR)
                await asyncio.wait_for(_read_to_the_end(client), 1.0)
        client.close()


class _Arrival(asyncio.Protocol):
    """A socket that was accepted: handed over before anything is read from it."""

    def __init__(self, receive: Any) -> None:
        self._receive = receive

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The event loop closes its own copy of the descriptor; the connection lives on in ours.
        client = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        client.setblocking(False)
        transport.abort()  # type: ignore[attr-defined]
        self._receive(client)


async def _first_byte(client: socket.socket) -> bytes:
    """The first byte, which stays where it is; b"" when there comes none."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(client.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(client.fileno())
    return client.recv(1, socket.MSG_PEEK)


async def _read_to_the_end(client: socket.socket) -> None:
    while await asyncio.get_running_loop().sock_recv(client, 1 << 16):
        pass

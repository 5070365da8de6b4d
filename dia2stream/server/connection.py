"""A WebSocket connection that gives up on a client who is no longer there.

websockets has a keepalive of its own, but it waits for a pong that stands behind the audio in a slow reader's queue,
and never gets to send a ping when that reader has stopped for good. What counts here is any sign of life: bytes that
come in, or room that our own bytes make by being taken. A client that reads at half speed is alive; one that reads
nothing, or whose machine is gone, is dropped two `patience`s after its last sign.

Buffers are small, so that what counts as sent has nearly reached the client, and a slow reader is felt by the engine,
which waits, rather than by the memory.
"""

import asyncio
import contextlib
import logging
import secrets
import socket
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

_log = logging.getLogger(__name__)

WRITE_LIMIT = 16 * 1024  # four frames of PCM16
RECEIVE_BUFFER = 32 * 1024  # what one turn of the event loop may have to parse, if it is all tiny pings
# Pongs are not held back by the write limit. A client that pings without end and reads nothing ends here.
MAX_UNREAD = 256 * 1024


class Connection(ServerConnection):
    """The server's end of a connection. patience: seconds of silence until a ping, and from there to the end."""

    def __init__(self, *args: Any, patience: float, **options: Any) -> None:
        super().__init__(*args, **{**options, "ping_interval": None, "write_limit": WRITE_LIMIT})
        self.new_id = secrets.token_urlsafe(16)  # of its conversation, if it begins one; nobody can guess it
        self._patience = patience
        self._alive = 0.0  # when there was a sign of life
        self._check: asyncio.TimerHandle | None = None
        self._pinging: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        _use_small_buffers(transport.get_extra_info("socket"))
        self._alive = self.loop.time()
        self._look()

    def data_received(self, data: bytes) -> None:
        self._alive = self.loop.time()
        super().data_received(data)
        if self.transport.get_write_buffer_size() > MAX_UNREAD:
            self._drop("it reads nothing of what it asks for")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._alive = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._check is not None:
            self._check.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Asks for a sign of life when there was none for a while, and ends the connection when none comes."""
        silence = self.loop.time() - self._alive
        if silence >= 2 * self._patience:
            self._drop(f"no sign of life for {silence:.0f} s")
            return
        idle = self._pinging is None or self._pinging.done()
        if silence >= self._patience and idle and self.protocol.state is State.OPEN:
            self._pinging = self.loop.create_task(self._ping())
        self._check = self.loop.call_later(self._patience / 4, self._look)

    async def _ping(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self.ping()

    def _drop(self, reason: str) -> None:
        _log.info("connection dropped", extra={"reason": reason})
        self.transport.abort()


def _use_small_buffers(ours: socket.socket) -> None:
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    # Unsent bytes in the kernel: what is there can no longer be held back by a pause.
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, WRITE_LIMIT)

"""One socket: its bytes, its back-pressure, and how it is noticed that nobody is there any more.

What is spoken over a socket is a speaker's business: it begins as HTTP (`http1.py`) and may become a WebSocket
(`websocket.py`). Here are the guarantees that both need:

- **Small write buffers.** What counts as sent has nearly reached the client, and a slow reader is felt by the engine,
  which waits, rather than by the memory.
- **Little work at a time.** One turn of the event loop reads at most READ_BYTES of a socket: eight kilobytes of tiny
  pings cost a millisecond, and then it is somebody else's turn. The kernel's receive buffer stays as it is: making
  that one small stalls TCP when a client sends many tiny packets.
- **Signs of life.** Bytes that come in, or bytes of ours that are taken. A client that reads at half speed is alive.
  One that reads nothing, or whose machine is gone, is dropped two `patience`s after its last sign. The `look` that
  notices is called by the port for all connections at once, and does not count the time in which the whole process
  stood still.
- **The end is noticed behind a flood.** While a client's messages are not read, its end is not seen either: it comes
  behind megabytes in the client's own kernel. So something is sent at each look meanwhile. The kernel of a client that
  has closed its socket answers that with a reset.
- **An answer arrives.** Closing a socket whose input was not read to its end makes the kernel throw away what was just
  sent. So a connection closes in two steps: our end first, and after the client's end, or LINGER_SECONDS, the rest.
  TLS has no first step: there, what has come is read, and the connection closed once no more comes.
"""

import asyncio
import contextlib
import logging
import select
import socket
import traceback
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Protocol, TypeAlias, cast

_log = logging.getLogger(__name__)

READ_BYTES = 8 * 1024
WRITE_LIMIT = 16 * 1024  # four frames of PCM16
# Pongs, and answers to pipelined requests, are not held back by the write limit. Who asks and reads nothing ends here.
MAX_UNREAD = 256 * 1024
LINGER_SECONDS = 2.0
QUIET_SECONDS = 0.3  # without input, after which there is none on its way
_HANG_UP = getattr(select, "POLLRDHUP", 0)  # Linux: the client has closed its end, whether we have read so far or not

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

# In an ASGI scope's extensions: a future that is done as soon as the socket is gone, read to its end or not.
GONE = "dia2stream.gone"


class ClientGone(OSError):
    """Nobody is there to send to. ASGI has it that this is an OSError."""


@dataclass(frozen=True)
class Limits:
    """What a connection may take. Seconds and bytes.

    patience: of silence until a ping, and from there to the end. message_bytes: of one WebSocket message.
    """

    patience: float = 15.0
    message_bytes: int = 2**20


class Speaker(Protocol):
    """What is spoken over a connection.

    ends_with_client: a client that closes its end is gone. In HTTP the client may still wait for its answer.
    """

    ends_with_client: bool

    @property
    def expects_nothing(self) -> bool:
        """Whether the client has nothing to say now, so that its silence is no sign of anything."""

    def data(self, data: bytes) -> None:
        """Bytes that came in."""

    def end_of_data(self) -> bool:
        """The client has closed its end. Returns whether there is still something to answer."""

    def lost(self) -> None:
        """The socket is gone."""

    def finish(self) -> None:
        """The server stops: ends what goes on for nobody."""

    def look(self, now: float, silence: float) -> None:
        """Called every now and then: the place for deadlines and pings. silence: seconds since a sign of life."""

    def probe(self) -> None:
        """Sends something that means nothing, if the protocol has it, so that a client that is gone is noticed."""


class Connection(asyncio.BufferedProtocol):
    """One socket of a port. `speaker` makes what is spoken over it first."""

    _buffer = memoryview(bytearray(READ_BYTES))  # of all connections: what is read into it is taken at once

    def __init__(
        self, app: App, limits: Limits, others: "set[Connection]", speaker: "Callable[[Connection], Speaker]"
    ) -> None:
        self.app, self.limits = app, limits
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport
        self.gone: asyncio.Future[None] = self.loop.create_future()
        self.closing = False  # our end is closed, or about to be
        self._others = others
        self._speaker = speaker(self)
        self._writable = asyncio.Event()
        self._writable.set()
        self._alive = self.loop.time()  # when there was a sign of life
        self._unsent = 0  # in our buffer, when it was looked at last
        self._held_back = False  # since the last look
        self._hung_up = False  # at the last look
        self._client_ended = False
        self._closed_at = 0.0
        self.active = self._alive  # when bytes came or went last
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- Called by the event loop ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._others.add(self)
        self.transport.set_write_buffer_limits(high=WRITE_LIMIT)
        # Unsent bytes in the kernel: what is there can no longer be held back by a pause.
        if hasattr(socket, "TCP_NOTSENT_LOWAT") and (ours := transport.get_extra_info("socket")) is not None:
            with contextlib.suppress(OSError):  # a Unix socket
                ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, WRITE_LIMIT)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._alive = self.active = self.loop.time()
        if self.closing:
            return  # read, so that what was sent arrives, and not looked at
        try:
            self._speaker.data(bytes(self._buffer[:nbytes]))
        except Exception as error:
            self.fail(error)
            return
        if self.transport.get_write_buffer_size() > MAX_UNREAD:
            self.drop("it reads nothing of what it asks for")

    def eof_received(self) -> bool:
        self._client_ended = True
        if self.closing:
            return False
        try:
            to_be_answered = self._speaker.end_of_data()
        except Exception as error:
            self.fail(error)
            return False
        return to_be_answered and self.transport.can_write_eof()  # TLS has no half-closed connections

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._alive = self.loop.time()
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        self._others.discard(self)
        self._writable.set()  # whoever waits to write finds out that the client is gone
        if not self.gone.done():
            self.gone.set_result(None)
        self._speaker.lost()

    # ---- Called by the speaker ----

    def switch(self, speaker: Speaker) -> None:
        """Another protocol from here on."""
        self._speaker = speaker

    def run(self, application: Coroutine[Any, Any, None]) -> None:
        """Runs an application's coroutine."""
        task = self.loop.create_task(application)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def write(self, data: bytes) -> None:
        """Sends, without waiting."""
        if not self.closing:
            self.active = self.loop.time()
            self.transport.write(data)

    async def drain(self) -> None:
        """Waits until the client has taken most of what was written. Raises ClientGone when it never will."""
        await self._writable.wait()
        if self.gone.done():
            raise ClientGone("the client is gone")

    def read(self, wanted: bool) -> None:
        """Whether to read on: a client whose messages are not taken has to wait."""
        if self.closing:
            return
        if wanted:
            self.transport.resume_reading()
        else:
            self._held_back = True
            self.transport.pause_reading()

    def close(self) -> None:
        """Closes our end when all is sent, then the rest: see above."""
        if self.closing:
            return
        self.closing = True
        self._closed_at = self.loop.time()
        half = self.transport.can_write_eof()
        # Behind a request more may be on its way; behind the end of a WebSocket only what the kernel has already.
        more = not self._speaker.ends_with_client or self._has_unread()
        if self._client_ended or not (half or more):
            self.transport.close()
            return
        with contextlib.suppress(OSError, RuntimeError):  # it is closing by itself
            if half:
                self.transport.write_eof()
            self.transport.resume_reading()

    def drop(self, reason: str) -> None:
        """Gives up on the client at once."""
        _log.info("connection dropped", extra={"reason": reason})
        self.closing = True
        self.transport.abort()

    def fail(self, error: Exception) -> None:
        """Gives up on the client because of a fault of ours.

        The error's message is not logged: it may hold what the client sent, a token for instance.
        """
        stack = "".join(traceback.format_tb(error.__traceback__))
        _log.error("serving a connection failed", extra={"error": type(error).__name__, "stack": stack})
        self.drop("the server failed")

    # ---- Called by the port ----

    def look(self, now: float, late: bool) -> None:
        """Looks for signs of life. late: the process stood still, so that nobody's silence counts."""
        unsent = self.transport.get_write_buffer_size()
        held_back, self._held_back = self._held_back, not self.transport.is_reading()
        listening = self.transport.is_reading() and not self._speaker.expects_nothing
        if late or unsent < self._unsent or not (unsent or listening):
            self._alive = now
        self._unsent = unsent
        silence = now - self._alive
        if held_back and self._has_hung_up():
            self.drop("it has gone, and what it sent last is not read yet")
        elif silence >= 2 * self.limits.patience:
            self.drop(f"no sign of life for {silence:.0f} s")
        elif not self.closing:
            self._speaker.look(now, silence)
        elif unsent:
            self._closed_at = now
        elif now - self._closed_at >= LINGER_SECONDS:
            self.transport.abort()
        elif now - self.active >= QUIET_SECONDS and not (self.transport.can_write_eof() or self.transport.is_closing()):
            self.transport.close()  # once: asyncio's TLS cannot be asked anything after a second time
        if held_back and not unsent and not self.closing:
            self._speaker.probe()

    def _has_unread(self) -> bool:
        """Whether there is input that nobody has read, as far as the kernel knows."""
        if not self.transport.is_reading():
            return True
        ours, poll = self.transport.get_extra_info("socket"), select.poll()
        poll.register(ours.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _has_hung_up(self) -> bool:
        """Whether the client is gone behind messages that are not read yet: for a look, or with its whole socket."""
        if not self._speaker.ends_with_client or self.closing:
            return False
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), _HANG_UP)
        found = poll.poll(0)
        before, self._hung_up = self._hung_up, bool(found)
        return before if found and found[0][1] == _HANG_UP else self._hung_up

    def finish(self) -> None:
        """The server stops."""
        if not self.closing:
            self._speaker.finish()

    async def stop(self) -> None:
        """Ends it and what runs for it; at the end of the server."""
        self.transport.abort()
        for task in (tasks := tuple(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def plain_answer(status: HTTPStatus, text: str) -> bytes:
    """A whole answer for whoever cannot be served, after which the connection is closed."""
    body = f"{text}\n".encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nDate: {formatdate(usegmt=True)}\r\n"
        f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body

"""A WebSocket over a connection, as ASGI sees one. The websockets library knows the frames, here they meet the socket.

What an application sends waits until the client has taken most of it; what a client sends waits, in the kernel, until
the application has taken what came before. A silent client is pinged. There is no compression: nothing is gained on
audio, memory is lost, and what is small on the wire is small in memory.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterable
from http import HTTPStatus

from websockets.datastructures import Headers
from websockets.exceptions import InvalidState, WebSocketException
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import SERVER, State
from websockets.protocol import Protocol as Frames
from websockets.server import ServerProtocol

from dia2stream.server.connection import ClientGone, Connection, Message, Scope, plain_answer
from dia2stream.server.gate import TOKEN_SCHEMES, subprotocols

_log = logging.getLogger(__name__)
_library_log = logging.getLogger("dia2stream.websockets")  # never at debug: it would show tokens

_HANDSHAKE_HEADERS = (b"connection", b"upgrade", b"sec-websocket-")
MAX_AHEAD = 16  # messages that wait for the application
MAX_AHEAD_BYTES = 64 * 1024  # the same, in bytes
MAX_EARLY = 16 * 1024  # bytes that wait for the handshake
CLOSE_SECONDS = 2.0  # for a client to answer that we close


class WebSocket:
    """The speaker of a connection that asked for a WebSocket. The application answers whether it gets one."""

    ends_with_client = True

    def __init__(self, connection: Connection, scope: Scope) -> None:
        scope["subprotocols"] = subprotocols(scope)
        scope["extensions"]["websocket.http.response"] = {}  # refusals may have a status and a body
        self._connection, self._scope = connection, scope
        self._frames = Frames(SERVER, max_size=connection.limits.message_bytes, logger=_library_log)
        self._acceptance: Response
        self._answered = self._closed = False
        self._refusal: tuple[int, list[tuple[bytes, bytes]], bytes] | None = None
        self._early = b""  # what came before the handshake was answered
        self._parts: list[bytes] = []  # of a message in fragments
        self._is_text = False
        self._messages: deque[tuple[Message, int]] = deque([({"type": "websocket.connect"}, 0)])  # each with its bytes
        self._ahead = 0  # bytes in them
        self._holds_back = False
        self._news = asyncio.Event()
        self._pinged = False
        self._close_at: float | None = None

    def open(self, early: bytes) -> None:
        """Checks the handshake, and has the application answer it. early: what came behind it."""
        self._acceptance = self._judge_handshake()
        if self._acceptance.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self._connection.write(self._acceptance.serialize())
            self._connection.close()
            return
        self._early = early
        self._connection.run(self._run())

    def _judge_handshake(self) -> Response:
        """The answer of the library that knows the rules: 101, or 400 and why."""
        rules = ServerProtocol(subprotocols=None, logger=_library_log)
        # It is shown no other headers, as it refuses bytes above 0x7F in any of them, which cookies may well have.
        shown = [(name, value) for name, value in self._scope["headers"] if name.startswith(_HANDSHAKE_HEADERS)]
        try:
            return rules.accept(Request(self._scope["raw_path"].decode(), Headers(_as_text(shown))))
        except WebSocketException:
            return rules.reject(HTTPStatus.BAD_REQUEST, "a header of the handshake holds what no header may hold\n")

    # ---- Called by the connection ----

    @property
    def expects_nothing(self) -> bool:
        return not self._answered  # it may be waiting for a slot

    def data(self, data: bytes) -> None:
        self._pinged = False
        if not self._answered:
            self._early += data
            self._connection.read(len(self._early) < MAX_EARLY)
            return
        self._frames.receive_data(data)
        for event in self._frames.events_received():
            if isinstance(event, Frame):
                self._take(event)
        self._flush()

    def end_of_data(self) -> bool:
        return False

    def lost(self) -> None:
        self._disconnected(1006, "")

    def finish(self) -> None:
        if self._answered:
            self._close(1001, "the server stops")

    def look(self, now: float, silence: float) -> None:
        if self._close_at is not None and now >= self._close_at:
            self._connection.close()
        elif silence >= self._connection.limits.patience and self._answered and not self._pinged:
            self._pinged = True
            self.probe()

    def probe(self) -> None:
        if self._answered and self._frames.state is State.OPEN:
            self._frames.send_ping(b"")
            self._flush()

    # ---- What comes ----

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            close = self._frames.close_rcvd
            self._disconnected(close.code if close else 1005, close.reason if close else "")
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            if frame.opcode is not Opcode.CONT:
                self._is_text = frame.opcode is Opcode.TEXT
            if frame.data:  # an endless row of empty fragments takes no memory
                self._parts.append(bytes(frame.data))
            if frame.fin:
                self._message(b"".join(self._parts))
                self._parts.clear()

    def _message(self, data: bytes) -> None:
        if self._closed:
            return
        message: Message = {"type": "websocket.receive", "bytes": data, "text": None}
        if self._is_text:
            with contextlib.suppress(UnicodeDecodeError):  # as bytes, the application can say what is wrong with it
                message.update(bytes=None, text=data.decode())
        self._messages.append((message, len(data)))
        self._ahead += len(data)
        self._news.set()
        if not self._holds_back and (len(self._messages) > MAX_AHEAD or self._ahead > MAX_AHEAD_BYTES):
            self._holds_back = True
            self._connection.read(False)

    def _disconnected(self, code: int, reason: str) -> None:
        """The application finds out, when it has read what came before."""
        if not self._closed:
            self._closed = True
            self._messages.append(({"type": "websocket.disconnect", "code": code, "reason": reason}, 0))
            self._news.set()

    def _flush(self) -> None:
        """Sends what the library has to send: frames, and after the last one the end."""
        pieces = self._frames.data_to_send()
        if data := b"".join(pieces):
            self._connection.write(data)
        if b"" in pieces:  # both have said that they close, or what the client sends breaks the rules
            sent = self._frames.close_sent
            self._disconnected(sent.code if sent else 1006, sent.reason if sent else "")
            self._connection.close()

    # ---- The application ----

    async def _run(self) -> None:
        try:
            await self._connection.app(self._scope, self._receive, self._send)
        except ClientGone:
            pass
        except Exception:
            _log.exception("serving a WebSocket failed", extra={"path": self._scope["path"]})
        if self._answered and self._frames.state is State.OPEN:
            self._close(1011, "")
        elif not self._answered:
            text = "the server failed; its log says why"
            self._connection.write(plain_answer(HTTPStatus.INTERNAL_SERVER_ERROR, text))
            self._connection.close()

    async def _receive(self) -> Message:
        while not self._messages:
            self._news.clear()
            await self._news.wait()
        message, size = self._messages.popleft()
        self._ahead -= size
        if self._holds_back and len(self._messages) <= MAX_AHEAD // 2 and self._ahead <= MAX_AHEAD_BYTES // 2:
            self._holds_back = False
            self._connection.read(True)
        return message

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if self._connection.closing:
            raise ClientGone("the client is gone")
        if kind == "websocket.send":
            self._send_message(message)
            await self._connection.drain()
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close" and self._answered:
            self._close(message.get("code", 1000), message.get("reason") or "")
        elif kind == "websocket.close":
            self._refuse(HTTPStatus.FORBIDDEN, [], b"")
        elif kind == "websocket.http.response.start":
            self._refusal = message["status"], list(message.get("headers", ())), b""
        elif kind == "websocket.http.response.body" and self._refusal is not None:
            status, headers, before = self._refusal
            self._refusal = status, headers, before + message.get("body", b"")
            if not message.get("more_body", False):
                self._refuse(*self._refusal)
        else:
            raise RuntimeError(f"{kind} does not fit here")

    def _send_message(self, message: Message) -> None:
        try:
            if (data := message.get("bytes")) is not None:
                self._frames.send_binary(data)
            else:
                self._frames.send_text(message["text"].encode())
        except InvalidState:
            raise ClientGone("the client has closed the connection") from None
        self._connection.write(b"".join(self._frames.data_to_send()))

    def _accept(self, message: Message) -> None:
        headers = self._acceptance.headers
        headers.update(_as_text(message.get("headers", ())))
        if subprotocol := message.get("subprotocol") or self._scheme:
            headers["Sec-WebSocket-Protocol"] = subprotocol
        self._connection.write(self._acceptance.serialize())
        self._answered = True
        early, self._early = self._early, b""
        self._connection.read(True)
        if early:
            self.data(early)

    @property
    def _scheme(self) -> str | None:
        """The subprotocol that only stands before a key: a client that offered it wants to see it chosen."""
        offered: list[str] = self._scope["subprotocols"]
        return offered[0] if len(offered) > 1 and offered[0].lower() in TOKEN_SCHEMES else None

    def _refuse(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        names = {name.lower() for name, _ in headers}
        more = [("Connection", "close")] + ([] if b"content-length" in names else [("Content-Length", str(len(body)))])
        told = Headers([*_as_text(headers), *more])
        self._connection.write(Response(status, HTTPStatus(status).phrase, told, body).serialize())
        self._answered = True
        self._frames.state = State.CLOSED
        self._connection.close()

    def _close(self, code: int, reason: str) -> None:
        try:
            self._frames.send_close(code, reason)
        except InvalidState:
            return
        self._flush()
        self._disconnected(code, reason)
        self._connection.read(True)  # for the client's answer
        self._close_at = self._connection.loop.time() + CLOSE_SECONDS


def _as_text(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]

"""A client at the other end of a WebSocket: ASGI on one side, commands, events and audio on the other."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

from starlette.responses import Response

from dia2stream.audio import Encoder
from dia2stream.protocol.messages import Command
from dia2stream.server.connection import GONE, ClientGone, Receive, Scope, Send
from dia2stream.server.conversations import HangUp, Outgoing

# A client that is gone has sent a few messages that are not read yet: they are, if that does not take longer.
LAST_WORDS_SECONDS = 0.5


class Translator(Protocol):
    """A wire format, without any I/O."""

    def commands(self, message: str | bytes) -> Iterable[Command]:
        """What a message asks for. Raises CommandError when that cannot be read."""

    def messages(self, item: Outgoing) -> Iterable[str | bytes]:
        """How an event or audio is told: text messages and binary ones."""


class WebSocketClient:
    """A ClientConnection over ASGI. Raises ClientGone, from wherever it is waiting, when the client is gone."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        encoder: Encoder | None,
        translator: Translator,
        received_ms: float | None = None,
    ) -> None:
        self.encoder, self.received_ms = encoder, received_ms
        self.address = str((scope.get("client") or [""])[0])
        self.accepted = False
        self._scope, self._receive, self._send, self._translator = scope, receive, send, translator
        self._lost: asyncio.Future[None] | None = scope.get("extensions", {}).get(GONE)
        self._closed = asyncio.Event()  # the client said so, or we have read all that it sent
        self._commands: deque[Command] = deque()

    @property
    def open(self) -> bool:
        return not (self._closed.is_set() or (self._lost is not None and self._lost.done()))

    async def accept(self, *headers: tuple[str, str], subprotocol: str | None = None) -> None:
        """Finishes the handshake."""
        pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
        await self._tell({"type": "websocket.accept", "headers": pairs, "subprotocol": subprotocol})
        self.accepted = True

    async def refuse(self, answer: Response) -> None:
        """Answers the handshake otherwise."""
        with contextlib.suppress(OSError):
            await answer(self._scope, self._receive, self._send)

    async def close(self, how: HangUp) -> None:
        """Ends it, with its event if it has one; also when the client is gone already."""
        with contextlib.suppress(ClientGone):
            if how.event is not None:
                await self._write(how.event)
            await self._tell({"type": "websocket.close", "code": how.code, "reason": how.reason})

    async def receive(self) -> Command:
        while not self._commands:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._closed.set()
                raise ClientGone("the client has closed the connection")
            if message["type"] == "websocket.receive":
                text = message.get("text")
                self._commands.extend(self._translator.commands(message["bytes"] if text is None else text))
        return self._commands.popleft()

    async def send(self, item: Outgoing) -> None:
        try:
            await self._write(item)
        except ClientGone:
            await self._last_words()
            raise

    async def _write(self, item: Outgoing) -> None:
        for message in self._translator.messages(item):
            kind = "text" if isinstance(message, str) else "bytes"
            await self._tell({"type": "websocket.send", kind: message})

    async def gone(self) -> None:
        if self._lost is None:
            await self._closed.wait()
            return
        await asyncio.shield(self._lost)
        await self._last_words()

    async def _last_words(self) -> None:
        """Waits until what the client said before it went has been received.

        A client that hangs up says `reset` and closes. Unread, that would keep its slot as if it came back.
        """
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._closed.wait(), LAST_WORDS_SECONDS)

    def heard_ms(self) -> float | None:
        return None

    async def _tell(self, message: dict[str, Any]) -> None:
        try:
            await self._send(message)
        except ClientGone:
            raise
        except OSError as error:  # another ASGI server than ours
            raise ClientGone(str(error)) from None

"""A client that speaks another wire format: ASGI on one side, a conversation on the other, a translator between them.

To the conversation it is a ClientConnection. What the translator has for the client waits in one queue, which one task
at a time writes, so that messages keep their order whichever side they came from. A client that is slow to take them
holds back the conversation, which waits in `send`, and not the reading of what it says.
"""

import asyncio
import contextlib
import logging
import re
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from starlette.responses import Response as PlainResponse

from dia2stream.audio import Encoder
from dia2stream.errors import CommandError, ErrorCode
from dia2stream.items import Item
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Command, Error, Pause, Ready
from dia2stream.server.connection import ClientGone, Receive, Scope, Send
from dia2stream.server.conversations import HangUp, Outgoing
from dia2stream.server.dialects.dialect import Close, Output, Response, Standing, Translator

_log = logging.getLogger(__name__)
_UNSAFE = re.compile("[^ -~]")

LOOK_SECONDS = 0.1
MAX_UNSENT = 200  # messages to the client at which nothing more is read of it
MAX_UNREAD = 50  # commands that the conversation has not taken


class DialectClient(ABC):
    """What a socket and a request have in common.

    standing: how the conversation is when the client gets it. accepted: whether its handshake is finished.
    """

    encoder: Encoder | None = None  # the translator has its own
    received_ms: float | None = None

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, translator: Translator, accepted: bool = False
    ) -> None:
        self.address = str((scope.get("client") or [""])[0])
        self.standing: Callable[[], Standing] = Standing
        self.accepted = accepted
        self._scope, self._receive, self._send, self._translator = scope, receive, send, translator
        self._commands: asyncio.Queue[Command] = asyncio.Queue()
        self._unsent: deque[str | bytes] = deque()
        self._news = asyncio.Event()
        self._writing = asyncio.Lock()
        self._end: Close | Response | None = None  # how the translator ends it
        self._gone = self._failed = False

    # ---- What the conversation asks of a client ----

    @property
    def open(self) -> bool:
        return not self._gone and self._end is None

    async def receive(self) -> Command:
        return await self._commands.get()

    async def send(self, item: Outgoing) -> None:
        if self._end is not None:
            raise ClientGone("the translator has ended it")
        if isinstance(item, Ready):
            self._do(self._translator.begin(self.standing(), time.monotonic()))
        elif not isinstance(item, Audio) and not _is_news_of_the_server(item):
            self._do(self._translator.take(item, time.monotonic()))
        await self._write()

    async def gone(self) -> None:
        """Moves messages until the client is gone, or the translator has ended it and all of it was sent."""
        tasks = [asyncio.create_task(work) for work in (self._read(), self._write_on(), self._look())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if (error := task.exception()) is not None and not isinstance(error, ClientGone):
                    _log.error("a translator failed", exc_info=error)
                    self._failed = True
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._gone = self._end is None and not self._failed

    def heard_ms(self) -> float | None:
        waiting = [self._commands.get_nowait() for _ in range(self._commands.qsize())]
        last = [*waiting, *self._translator.leave(time.monotonic())]
        return next((output.played_ms for output in last if isinstance(output, Pause)), None)

    # ---- Its end ----

    async def end(self, how: HangUp) -> None:
        """Closes the socket or the answer, as the translator says or else as the server has it."""
        if self._gone:
            return
        with contextlib.suppress(ClientGone):
            if self._end is None:
                self._do(self._translator.fail(_why(how, self._failed)))
            await self._write()
            await self._finish(self._end or Close(how.code, how.reason))

    async def refuse(self, response: Response) -> None:
        """Answers otherwise, before anything was sent."""
        await answer(response, self._scope, self._receive, self._send)

    @abstractmethod
    async def _finish(self, end: Close | Response) -> None: ...

    # ---- Messages ----

    def _do(self, outputs: list[Output]) -> None:
        for output in outputs:
            if self._end is not None:
                break
            if isinstance(output, Close | Response):
                self._end = output
            elif isinstance(output, str | bytes):
                self._unsent.append(output)
            else:
                self._commands.put_nowait(output)
        self._news.set()

    async def _write_on(self) -> None:
        while self._end is None or self._unsent:
            await self._news.wait()
            self._news.clear()
            await self._write()

    async def _write(self) -> None:
        async with self._writing:
            while self._unsent:
                await self._tell(self._unsent.popleft())

    @abstractmethod
    def _tell(self, message: str | bytes) -> Coroutine[Any, Any, None]: ...

    @abstractmethod
    async def _read(self) -> None: ...

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._do(self._translator.look(time.monotonic()))


class DialectSocket(DialectClient):
    """Over a WebSocket."""

    async def accept(self) -> None:
        """Finishes the handshake."""
        if self.accepted:
            return
        self.accepted = True
        await self._send({"type": "websocket.accept", "headers": header_pairs(self._translator.headers)})

    async def _read(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                raise ClientGone("the client has closed the connection")
            if message["type"] == "websocket.receive":
                text = message.get("text")
                self._do(self._translator.receive(message["bytes"] if text is None else text, time.monotonic()))
            await asyncio.sleep(0)  # let the audio through: more messages may be there
            while len(self._unsent) > MAX_UNSENT or self._commands.qsize() > MAX_UNREAD:
                await asyncio.sleep(0.01)

    async def _tell(self, message: str | bytes) -> None:
        await self._send({"type": "websocket.send", "text" if isinstance(message, str) else "bytes": message})

    async def _finish(self, end: Close | Response) -> None:
        code, reason = (end.code, end.reason) if isinstance(end, Close) else (1011, "")
        await self._send({"type": "websocket.close", "code": code, "reason": reason})


class DialectAnswer(DialectClient):
    """The answer to a request, which has been read. It begins with its first bytes."""

    _begun = False

    async def _read(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        raise ClientGone("the client has closed the connection")

    async def _tell(self, message: str | bytes) -> None:
        await self._begin()
        data = message.encode() if isinstance(message, str) else message
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            headers = header_pairs({"Cache-Control": "no-store", **self._translator.headers})
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _finish(self, end: Close | Response) -> None:
        if isinstance(end, Response) and not self._begun:
            await self.refuse(end)
        elif isinstance(end, Close) and not end.broken:
            await self._begin()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        # Else it breaks off: the server closes the connection under an answer that was not finished.


async def answer(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """A whole answer, also in place of a handshake."""
    headers = header_pairs({"Cache-Control": "no-store", **response.headers})
    plain = {name.decode(): value.decode() for name, value in headers}
    with contextlib.suppress(OSError):
        await PlainResponse(response.body, response.status, plain)(scope, receive, send)


def header_pairs(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI takes them. A value may come from a client's request, which can hold what no header may."""
    return [(name.lower().encode(), _UNSAFE.sub("?", value).encode()) for name, value in headers.items()]


async def close_early(error: CommandError, send: Send) -> None:
    """Closes a socket that was accepted and for which there is no translator to tell the error."""
    code = 1013 if error.code in ("busy", "overloaded") else 1008  # try again later; not like this
    with contextlib.suppress(ClientGone, OSError):
        await send({"type": "websocket.close", "code": code, "reason": error.message[:120]})


def _is_news_of_the_server(item: Item) -> bool:
    """What no command has led to, such as that the server stops; other formats have no word for it."""
    return isinstance(item, Error) and item.code == "busy" and item.cmd is None


def _why(how: HangUp, failed: bool) -> CommandError:
    if failed:
        return CommandError("internal", "the server failed; its log says why")
    if isinstance(how.event, Error):
        code: ErrorCode = how.event.code  # type: ignore[assignment]
        return CommandError(code, how.event.message)
    return CommandError("busy" if how.code in (1000, 1013) else "internal", how.reason or "the conversation is over")

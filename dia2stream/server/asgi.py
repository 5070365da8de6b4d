"""The server as an ASGI application, for whoever has a port already: uvicorn, Hypercorn, Ray Serve.

    application = Application(Server(model, speech, options), options)
    uvicorn.run(application, ws="websockets-sansio")

The application's lifespan is the server's life: `startup` loads the model, `shutdown` lets the conversations finish, or
hands them over if there is a journal. What our own port does besides, the other server has to do: TLS, pings, and
holding back a client that sends more than is read. The size of a WebSocket's messages is checked here.
"""

import asyncio
import contextlib
from typing import TYPE_CHECKING

from dia2stream.server.connection import ClientGone, Message, Receive, Scope, Send
from dia2stream.server.server import Server

if TYPE_CHECKING:
    from dia2stream.options import ServeOptions

TOO_LONG = 1009  # the close code for a message over --max-message-bytes


class Application:
    """An ASGI application with a lifespan; `server` is what it serves."""

    def __init__(self, server: Server, options: "ServeOptions") -> None:
        self.server = server
        self._limit = options.max_message_bytes
        self._stop: asyncio.Future[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await self.server.app(scope, *_limited(receive, send, self._limit))
        else:
            await self.server.app(scope, receive, send)

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stop is not None and self._stop.done()

    def stop(self) -> None:
        """Refuses new clients, and lets those that are there finish, or hands them over. Before the lifespan ends."""
        if self._stop is not None and not self._stop.done():
            self._stop.set_result(None)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        ready = asyncio.Event()
        self._stop = asyncio.get_running_loop().create_future()
        living = asyncio.create_task(self.server.live(self._stop, ready.set))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({living, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not ready.is_set() and (error := living.exception()) is not None:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()  # lifespan.shutdown
        self.stop()
        with contextlib.suppress(Exception):  # the log has said why, and /healthz
            await living
        await self.server.close()
        await send({"type": "lifespan.shutdown.complete"})


def _limited(receive: Receive, send: Send, limit: int) -> tuple[Receive, Send]:
    """Both ends of a WebSocket whose client may send messages of so many bytes at most."""
    closed = False

    async def receive_limited() -> Message:
        nonlocal closed
        message = await receive()
        if message["type"] == "websocket.receive" and _is_longer(message, limit):
            closed = True
            reason = f"a message is over {limit} bytes, which is the limit"
            await send({"type": "websocket.close", "code": TOO_LONG, "reason": reason})
            return {"type": "websocket.disconnect", "code": TOO_LONG}
        return message

    async def send_until_closed(message: Message) -> None:
        if closed:
            raise ClientGone("its connection was closed")
        await send(message)

    return receive_limited, send_until_closed


def _is_longer(message: Message, limit: int) -> bool:
    if (data := message.get("bytes")) is not None:
        return len(data) > limit
    text = message["text"]
    return len(text) > limit or (4 * len(text) > limit and len(text.encode("utf-8", "replace")) > limit)

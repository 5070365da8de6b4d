"""A client within this process: for dialects whose clients have no connection of their own, only a request."""

import asyncio
from collections.abc import AsyncIterator

from dia2stream.audio import Encoder
from dia2stream.protocol.messages import Command
from dia2stream.server.connection import ClientGone
from dia2stream.server.conversations import HangUp, Outgoing


class LocalClient:
    """Submit commands, iterate for events and audio; see `service.py`. One iteration at a time.

    encoder: None gives the frames as the codec made them. lost: done when the socket that all this is for is gone.
    To the server it is a ClientConnection, and a slow one when its items are not taken.
    """

    address = "local"

    def __init__(
        self,
        encoder: Encoder | None = None,
        received_ms: float | None = None,
        lost: "asyncio.Future[None] | None" = None,
    ) -> None:
        self.encoder, self.received_ms = encoder, received_ms
        self.how: HangUp | None = None  # why the server ended it
        self._commands: asyncio.Queue[Command] = asyncio.Queue()
        self._items: asyncio.Queue[Outgoing | None] = asyncio.Queue(maxsize=2)
        self._left = asyncio.Event()
        self._over = False
        if lost is not None:
            lost.add_done_callback(lambda _: self.leave())

    # ---- The dialect's side ----

    def submit(self, command: Command) -> None:
        """Sends a command."""
        self._commands.put_nowait(command)

    async def __aiter__(self) -> AsyncIterator[Outgoing]:
        """What the server sends; ends when it hangs up."""
        while not (self._over and self._items.empty()):
            if (item := await self._items.get()) is not None:
                yield item
        if self.how is not None and self.how.event is not None:
            yield self.how.event

    def leave(self) -> None:
        """Hangs up: the conversation is paused, and kept for a while."""
        self._left.set()

    # ---- The server's side ----

    @property
    def open(self) -> bool:
        return not self._left.is_set()

    async def receive(self) -> Command:
        return await self._commands.get()

    async def send(self, item: Outgoing) -> None:
        if self._left.is_set():
            raise ClientGone("the client has left")
        await self._items.put(item)

    async def gone(self) -> None:
        await self._left.wait()

    def heard_ms(self) -> float | None:
        return None

    def ended(self, serving: "asyncio.Task[HangUp]") -> None:
        """The server has hung up."""
        self._over = True
        if not serving.cancelled() and serving.exception() is None:
            self.how = serving.result()
        if self._items.empty():  # somebody may be waiting for an item
            self._items.put_nowait(None)

"""One caller's end of a conversation in a load test, with the engine in this process or with a server."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeAlias

from dia2stream.client import Client, connect
from dia2stream.engine.engine import Engine
from dia2stream.engine.session import Session
from dia2stream.errors import EngineError
from dia2stream.items import FRAME_MS, Cut, Frame
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Command, Event


class CallClient(Protocol):
    """A client in one conversation."""

    async def send(self, command: Command) -> None:
        """Sends a command of the protocol."""

    def received(self) -> AsyncIterator[Event | float]:
        """Everything that comes: events, and sound as its length in seconds. Raises Dia2StreamError when it breaks."""

    async def close(self) -> None:
        """Leaves. The slot is free again when this returns, or soon after."""


# Opens a conversation. Raises CommandError when it is refused, Dia2StreamError when it cannot be had.
Connect: TypeAlias = Callable[[], Awaitable[CallClient]]


class EngineCallClient:
    """A client of the engine in this process. Sound comes at most as far ahead of playback as the session's lead."""

    def __init__(self, engine: Engine, session: Session) -> None:
        self._engine, self._session = engine, session

    async def send(self, command: Command) -> None:
        self._session.submit(command)

    async def received(self) -> AsyncIterator[Event | float]:
        async for item in self._session:
            if isinstance(item, Frame):
                yield FRAME_MS / 1000
            elif isinstance(item, Event):
                yield item
            elif not isinstance(item, Cut):
                raise EngineError(self._engine.broken or "the engine has ended the conversation")

    async def close(self) -> None:
        await self._session.aclose()


class ServerCallClient:
    """A client of a server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def send(self, command: Command) -> None:
        await self._client.send(command)

    async def received(self) -> AsyncIterator[Event | float]:
        async for item in self._client:
            yield item.samples / self._client.ready.sample_rate if isinstance(item, Audio) else item

    async def close(self) -> None:
        await self._client.hang_up()


def engine_calls(engine: Engine, lead_ms: float | None) -> Connect:
    """Calls of an engine, whose sending is at most `lead_ms` ahead of playback."""

    async def open_call() -> CallClient:
        return EngineCallClient(engine, engine.conversation(max_lead_ms=lead_ms))

    return open_call


def server_calls(url: str, token: str | None) -> Connect:
    """Calls of a server."""

    async def open_call() -> CallClient:
        return ServerCallClient(await connect(url, token=token))

    return open_call

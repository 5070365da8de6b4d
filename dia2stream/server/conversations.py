"""A call: a conversation that outlives its sockets.

Agent frameworks drop the socket on every interruption, and networks drop it whenever they like. So a conversation
belongs to its id: without a socket it is paused and waits, and the next socket that brings the id goes on with it.

    socket A: start ... audio ... gone        the call is paused and lingers
    socket B: ready, paused, then what B says: resume, or pause with played_ms and inject

What A was sent and never got is not lost either: the last seconds are kept, and when B says how much it has, the rest
comes between ready and paused. So the audio clock is right again, and B may go on in either way.

While there is a socket two tasks serve it, so that neither waits for the other: one reads commands and hands them to
the engine, one sends what the engine makes. Only bytes move here; what they mean is the engine's business.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from dia2stream.audio import Encoder
from dia2stream.errors import CLOSE_CODES, CommandError
from dia2stream.items import Cut, Frame, Item
from dia2stream.protocol.audio_message import pack_audio
from dia2stream.protocol.messages import (
    Done,
    Error,
    Event,
    FirstAudio,
    Pause,
    Paused,
    Ready,
    Reset,
    ResetDone,
    Resumed,
    Start,
    Started,
    WordEvent,
    dump_event,
    parse_command,
)
from dia2stream.server.metrics import Metrics
from dia2stream.server.resend import Sent

if TYPE_CHECKING:
    from dia2stream.engine.engine import Engine
    from dia2stream.engine.session import Session

# Commands on their way and answers not sent at which reading stops, so that a flood of them costs no memory.
BEHIND = 200


@dataclass(frozen=True)
class ClientConnection:
    """One client's connection: where to send, in which form, and what it has of the conversation it came back to."""

    socket: ServerConnection
    encoder: Encoder
    received_ms: float | None = None


@dataclass(frozen=True)
class HangUp:
    """Why a connection ends: a WebSocket close code, the reason, and the event that goes before, if one does."""

    code: int
    reason: str
    event: Event | None = None


GONE = HangUp(1000, "")  # the client has closed, or its connection broke


class ServedConversation:
    """A conversation, and the client that listens to it when there is one. For one event loop."""

    session: "Session"

    def __init__(self, id: str, metrics: Metrics) -> None:
        self.id = id  # who knows it may take the call over
        self.begun = False  # whether there is anything to come back to
        self.since = time.monotonic()  # when its client came, last spoke, or left
        self.expected = False  # another client is about to take it over
        self._metrics = metrics
        self._sent = Sent()
        self._paused: Paused | None = None  # what a client that comes back is told
        self._held = False  # whether it stands still already when the client goes
        self._connection: ClientConnection | None = None
        self._hang_up: asyncio.Future[HangUp] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._telling: asyncio.Future[None] | None = None

    def open(self, engine: "Engine", max_lead_ms: float) -> None:
        """Takes the slot of the engine. Raises CommandError or EngineError when there is none."""
        self.session = engine.conversation(max_lead_ms=max_lead_ms)

    async def close(self) -> None:
        """Gives the slot back and waits until it is free. May be called twice, and the waiting may be cancelled."""
        if self._closing is None and self.has_slot:
            self._closing = asyncio.create_task(self.session.aclose())
        if self._closing is not None:
            await asyncio.shield(self._closing)

    @property
    def has_slot(self) -> bool:
        """Whether it has the slot of the engine; until then there is nothing in it."""
        return hasattr(self, "session")

    @property
    def connected(self) -> bool:
        """Whether a client is there. One that has closed is not, although it is still being seen off."""
        return self._connection is not None and self._connection.socket.state is State.OPEN

    @property
    def speaking(self) -> bool:
        """Whether its client waits for something it has asked for."""
        if not self.connected:
            return False
        conversation = self.session.conversation
        return not (self.session.ended or conversation.paused or conversation.idle)

    @property
    def over(self) -> bool:
        """Whether it cannot go on."""
        return self._closing is not None or (self.has_slot and self.session.ended)

    async def leave(self, how: HangUp) -> None:
        """Has the client's connection closed, if there is one, and waits until nobody serves it. The call stays."""
        while self._hang_up is not None:  # a loop: another client may be as quick
            if not self._hang_up.done():
                self._hang_up.set_result(how)
            await asyncio.sleep(0.001)

    def tell(self, event: Event) -> None:
        """Sends the client an event that does not come from the conversation."""
        if self._connection is not None:
            self._telling = asyncio.ensure_future(_tell(self._connection.socket, event))

    async def serve(self, connection: ClientConnection, ready: Ready) -> HangUp:
        """Serves a client until it goes or has to go. Returns how to close its connection."""
        hang_up = self._hang_up = asyncio.get_running_loop().create_future()
        self._connection, self.expected = connection, False
        missed = [] if connection.received_ms is None else self._missed(connection.received_ms)
        tasks = [
            asyncio.create_task(self._read_commands(connection.socket)),
            asyncio.create_task(self._deliver(connection, ready, missed)),
        ]
        try:
            await asyncio.wait({*tasks, hang_up}, return_when=asyncio.FIRST_COMPLETED)
            return hang_up.result() if hang_up.done() else _outcome(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._stand_still()
            self.since = time.monotonic()
            self._connection = self._hang_up = None

    def _missed(self, received_ms: float) -> list[Item]:
        """What was sent and did not arrive, as far as it is kept."""
        if received_ms < self._sent.kept_from_ms:
            problem = (
                f"received_ms {received_ms:.0f} is too long ago: what came before {self._sent.kept_from_ms} is gone"
            )
            self.session.refuse(CommandError("bad_field", problem, field="received_ms"))
        return self._sent.since(received_ms)

    def _stand_still(self) -> None:
        """Nobody listens: nothing more is said, unless the client had stopped it already and knows better where."""
        if self.begun and not self._held:
            self._held = True
            # Now, and not when the engine comes to it: the next client may be quicker, and `paused` is its first word.
            self.session.conversation.outbox.hold(time.monotonic())
            # Still paused after a command: that was refused, or nothing of what it led to was heard.
            self.session.submit(Pause(self._paused.heard_ms if self._paused else None))

    # ---- Commands ----

    async def _read_commands(self, socket: ServerConnection) -> None:
        while True:
            self._obey(await socket.recv(decode=False))
            # recv does not wait while messages are there: let the audio through, and the engine catch up.
            await asyncio.sleep(0)
            while self.session.behind > BEHIND:
                await asyncio.sleep(0.01)

    def _obey(self, message: bytes) -> None:
        try:
            command = parse_command(message)
        except CommandError as error:
            self.session.refuse(error)
            return
        if isinstance(command, Start | Reset):
            self.begun = isinstance(command, Start)
        self._held, self.since = isinstance(command, Pause), time.monotonic()
        self.session.submit(command)

    # ---- Audio and events ----

    async def _deliver(self, connection: ClientConnection, ready: Ready, missed: list[Item]) -> None:
        encoder = _Frames(connection.encoder)
        await connection.socket.send(dump_event(ready))
        for item in missed:  # it counts as sent, so it comes before `paused`, whatever is done then
            await _send(connection.socket, encoder, item)
        if self._paused is not None:
            await connection.socket.send(dump_event(self._paused))
        items = cast("AsyncGenerator[Item, None]", aiter(self.session))
        async with contextlib.aclosing(items):
            async for item in items:
                self._note(item)
                await _send(connection.socket, encoder, item)

    def _note(self, item: Item) -> None:
        """Keeps the books: before it is sent, because what is under way when the socket breaks has to be in them."""
        match item:
            case Frame() | WordEvent() | Done():
                self._sent.add(item)
            case FirstAudio():
                self._metrics.first_audio.observe(item.latency_ms / 1000)
                self._sent.add(item)
            case Started() | ResetDone():
                self._metrics.conversations.inc(isinstance(item, Started))
                self._sent, self._paused = Sent(), None
            case Cut():
                self._sent.cut()
                self._paused = None
            case Paused():
                self._paused = item
            case Resumed():
                self._paused = None
            case Error():
                self._metrics.errors.labels(item.code).inc()
                self._held = self._held and item.cmd != "pause"


class _Frames:
    """Frames -> messages of 80 ms each."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.restart()

    def restart(self) -> None:
        """What was encoded is not going on."""
        self._encoder.restart()

    def message(self, frame: Frame) -> bytes:
        """The binary message."""
        data = self._encoder.encode(frame.pcm)
        return pack_audio(len(data) // self._encoder.sample_bytes, data)


async def _send(socket: ServerConnection, frames: _Frames, item: Item) -> None:
    if isinstance(item, Cut | Started | ResetDone):
        frames.restart()
    if isinstance(item, Frame):
        await socket.send(frames.message(item))
    elif isinstance(item, Event):
        await socket.send(dump_event(item))


async def _tell(socket: ServerConnection, event: Event) -> None:
    with contextlib.suppress(ConnectionClosed):
        await socket.send(dump_event(event))


def _outcome(tasks: list[asyncio.Task[None]]) -> HangUp:
    """How serving a client ended, told by the task that ended it. Raises what is a fault of ours."""
    for task in tasks:
        error = task.exception() if task.done() else None
        if isinstance(error, ConnectionClosed):
            return GONE
        if error is not None:
            raise error
    # All was delivered although nobody asked for an end: the engine has given up on this conversation, and said so.
    return HangUp(CLOSE_CODES["internal"] or 1011, "the conversation is over")

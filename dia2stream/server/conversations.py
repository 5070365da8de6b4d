"""A conversation that outlives its connections.

Agent frameworks drop the connection on every interruption, and networks drop it whenever they like. So a conversation
belongs to its id: without a connection it is paused and waits, and the next connection that brings the id goes on:

    connection A: start ... audio ... gone        the conversation is paused and lingers
    connection B: ready, paused, then what B says: resume, or pause with played_ms and inject

What A was sent and never got is not lost either: the last seconds are kept, and when B says how much it has, the rest
comes between ready and paused. So the audio clock is right again, and B may go on in either way.

While there is a connection two tasks serve it, so that neither waits for the other: one reads commands and hands them
to the engine, one sends what the engine makes. Only bytes move here; what they mean is the engine's business.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

from dia2stream.audio import Encoder
from dia2stream.errors import CLOSE_CODES, CommandError
from dia2stream.items import FRAME_MS, Cut, Frame, Item
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import (
    Command,
    Done,
    Error,
    Event,
    FirstAudio,
    Fork,
    Forked,
    Listen,
    Pause,
    Ready,
    Reset,
    ResetDone,
    Start,
    Started,
    WordEvent,
)
from dia2stream.server.connection import ClientGone
from dia2stream.server.metrics import Metrics
from dia2stream.server.resend import Sent
from dia2stream.waits import within

if TYPE_CHECKING:
    from dia2stream.engine.engine import Engine
    from dia2stream.engine.session import Session
    from dia2stream.journal.journal import Taken
    from dia2stream.journal.tape import Tape

_log = logging.getLogger(__name__)

# What a client is sent: Audio where it asked for an encoding, else the frames, and where they do not go on.
Outgoing: TypeAlias = Event | Audio | Frame | Cut


class ClientConnection(Protocol):
    """One client, however it is connected: by a WebSocket of ours, by a dialect's, or within this process.

    encoder: the form in which it wants its audio; None for a client that encodes frames itself. received_ms: how much
    of the conversation it has already, None for a client that does not say.
    """

    encoder: Encoder | None
    received_ms: float | None

    @property
    def open(self) -> bool:
        """Whether the client is there. One that has closed is not, although it is still being seen off."""

    async def receive(self) -> Command:
        """The next command. Raises CommandError for one that cannot be read, ClientGone when there will be none."""

    async def send(self, item: Outgoing) -> None:
        """Sends an event or 80 ms of audio; waits while the client is slow. Raises ClientGone."""

    async def gone(self) -> None:
        """Returns when the client is gone, also while nothing of it is received."""

    def heard_ms(self) -> float | None:
        """Where it is on the conversation's clock, when it goes; None for where sending stopped."""


@dataclass(frozen=True)
class HangUp:
    """Why a connection ends: a WebSocket close code, the reason, and the event that goes before, if one does."""

    code: int
    reason: str
    event: Event | None = None


GONE = HangUp(1000, "")  # the client has closed, or its connection broke
ARRIVE_SECONDS = 5.0  # for a conversation of another server to come to where its client is
BUSY_SECONDS = 0.002  # of one turn of the event loop, from which on a client's next command waits
YIELDS = 4  # for so many times the length of that turn
TAKEN_OVER = HangUp(1000, "the conversation goes on over another connection")


@dataclass(frozen=True, eq=False)
class Claim:
    """The right to serve a conversation, of whoever took it last; worth nothing once somebody else takes it."""

    conversation: "ServedConversation"


def new_id() -> str:
    """An id that nobody can guess."""
    return secrets.token_urlsafe(16)


class ServedConversation:
    """A conversation, and the client that listens to it when there is one. For one event loop."""

    session: "Session"

    def __init__(self, id: str, metrics: Metrics) -> None:
        self.id = id  # who knows it may take the conversation over
        self.tape: Tape | None = None  # what writes it down
        self.may_speak: Callable[[], bool] = lambda: True  # whether this server owns it, by the journal
        self.forks: Callable[[ServedConversation], Awaitable[None]] | None = None  # copies it into a slot of its own
        self.copies: dict[str, ServedConversation] = {}  # by id, until its client is told
        self.original = ""  # the id of the conversation that it is a copy of, until somebody has come to it
        self._taken: Taken | None = None  # another server's conversation, until it stands where its client is
        self._adopted: concurrent.futures.Future[None] | None = None  # done when its slot has it
        self._arriving: asyncio.Future[None] | None = None  # done when it stands where its client is
        self.lost = False  # another server has it
        self.begun = False  # whether there is anything to come back to
        self.since = time.monotonic()  # when its client came, said or was sent something last, or left
        self.awaited = False  # somebody has taken it and is about to be served
        self._claim: Claim | None = None  # of whoever took it last
        self._has_ear = False  # what hears callers is loaded
        self._metrics = metrics
        self._sent = Sent()
        self._connection: ClientConnection | None = None
        self._hang_up: asyncio.Future[HangUp] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._telling: asyncio.Future[None] | None = None

    def open(
        self,
        engine: "Engine",
        max_lead_ms: float | None,
        tape: "Tape | None" = None,
        taken: "Taken | None" = None,
    ) -> None:
        """Takes a slot of the engine. Raises CommandError or EngineError when there is none.

        tape: writes it down. taken: another server's conversation, which goes on.
        """
        self.session = engine.conversation(max_lead_ms=max_lead_ms, tape=tape)
        self.tape, self._taken = tape, taken
        if taken is not None:
            self.begun = True
            self._adopted = self.session.adopt(taken.revived)

    async def close(self) -> None:
        """Gives the slot back and waits until it is free. May be called twice, and the waiting may be cancelled."""
        if self._closing is None and self.has_slot:
            self._closing = asyncio.create_task(self.session.aclose())
        if self._closing is not None:
            await asyncio.shield(self._closing)

    @property
    def has_slot(self) -> bool:
        """Whether it has a slot of the engine; until then there is nothing in it."""
        return hasattr(self, "session")

    @property
    def connected(self) -> bool:
        """Whether a client is there."""
        return self._connection is not None and self._connection.open

    @property
    def speaking(self) -> bool:
        """Whether its client waits for something it has asked for."""
        if not self.connected:
            return False
        conversation = self.session.conversation
        return not (self.session.ended or conversation.paused or conversation.idle)

    @property
    def over(self) -> bool:
        """Whether it cannot go on here."""
        return self.lost or self._closing is not None or (self.has_slot and self.session.ended)

    @property
    def clock_ms(self) -> int:
        """How much of its audio was sent."""
        return self._sent.clock_ms

    async def leave(self, how: HangUp) -> None:
        """Has the client's connection closed, if there is one, and waits until nobody serves it. This one stays."""
        while self._hang_up is not None:  # a loop: another client may be as quick
            if not self._hang_up.done():
                self._hang_up.set_result(how)
            await asyncio.sleep(0.001)

    def tell(self, event: Event) -> None:
        """Sends the client an event that does not come from the conversation."""
        if self._connection is not None:
            self._telling = asyncio.ensure_future(_tell(self._connection, event))

    def take(self) -> Claim:
        """From here on the conversation is the taker's; whoever is served is to be hung up on."""
        self.awaited = True
        self._claim = Claim(self)
        return self._claim

    def give_up(self, claim: Claim) -> bool:
        """Whoever has the claim is gone. Returns whether nobody else has taken the conversation."""
        mine = self._claim is claim
        self.awaited = self.awaited and not mine
        return mine

    async def serve(self, claim: Claim, connection: ClientConnection, ready: Ready) -> HangUp:
        """Serves a client until it goes or has to go. Returns how to close its connection."""
        await self.leave(TAKEN_OVER)
        if self._claim is not claim:
            return TAKEN_OVER
        self.awaited, self.original = False, ""
        await self._arrive()
        if self._claim is not claim:
            return TAKEN_OVER
        self.session.say_where()
        hang_up = self._hang_up = asyncio.get_running_loop().create_future()
        self._connection = connection
        missed = [] if connection.received_ms is None else self._missed(connection.received_ms)
        if connection.encoder is not None:
            self._lead_in(connection.encoder, connection.received_ms)
        tasks = [
            asyncio.create_task(self._read_commands(connection)),
            asyncio.create_task(self._deliver(connection, ready, missed)),
            asyncio.create_task(connection.gone()),
        ]
        try:
            await asyncio.wait({*tasks, hang_up}, return_when=asyncio.FIRST_COMPLETED)
            return hang_up.result() if hang_up.done() else _outcome(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._stand_still(connection.heard_ms())
            self.since = time.monotonic()
            self._connection = self._hang_up = None

    async def _arrive(self) -> None:
        """Waits until a conversation of another server stands where its client is; so does who comes meanwhile."""
        if self._taken is not None and self._adopted is not None:
            self._arriving = asyncio.ensure_future(self._come(self._taken, asyncio.wrap_future(self._adopted)))
            self._taken = None
        if self._arriving is not None:
            await asyncio.shield(self._arriving)  # it arrives also if its client goes
            self._arriving = None

    async def _come(self, taken: "Taken", adopted_here: "asyncio.Future[None]") -> None:
        began, revived = time.monotonic(), taken.revived
        await adopted_here
        last = revived.lead_in if isinstance(revived.lead_in, Frame) else None
        self._sent = Sent(revived.conversation.outbox.sent, last)
        adopted = time.monotonic()
        if revived.behind:
            with contextlib.suppress(asyncio.TimeoutError):
                await within(ARRIVE_SECONDS, self._catch_up(revived.clock * FRAME_MS))
            self.session.stand_still()
        parts = [taken.lease_seconds, taken.read_seconds, adopted - began, time.monotonic() - adopted]
        self._metrics.take_over.observe(sum(parts))
        names = ("lease_ms", "read_ms", "slot_ms", "catch_up_ms")
        told = {name: round(seconds * 1000) for name, seconds in zip(names, parts, strict=True)}
        _log.info("conversation taken over", extra={"conversation": self.id[:6], "behind": revived.behind, **told})

    async def _catch_up(self, clock_ms: int) -> None:
        """Makes again what its client has and the journal has not."""
        items = cast("AsyncGenerator[Item, None]", aiter(self.session))
        async with contextlib.aclosing(items):
            async for item in items:
                self._note(item)
                if self._sent.clock_ms >= clock_ms:
                    return

    def _missed(self, received_ms: float) -> list[Item]:
        """What was sent and did not arrive, as far as it is kept."""
        if received_ms < self._sent.kept_from_ms:
            problem = (
                f"received_ms {received_ms:.0f} is too long ago: what came before {self._sent.kept_from_ms} is gone"
            )
            self.session.refuse(CommandError("bad_field", problem, field="received_ms"))
        return self._sent.since(received_ms)

    def _lead_in(self, encoder: Encoder, received_ms: float | None) -> None:
        """Has an encoder give the bytes from there on that one of an undisturbed connection would give."""
        encoder.restart()
        for frame in self._sent.lead_in(self._sent.clock_ms if received_ms is None else received_ms):
            encoder.encode(frame.pcm)

    def _stand_still(self, heard_ms: float | None) -> None:
        """Nobody listens: nothing more is said. What was sent counts as heard, unless the client knows better."""
        if heard_ms is not None and self.begun:
            self.session.submit(Pause(heard_ms))
        self.session.stand_still()

    # ---- Commands ----

    async def _read_commands(self, connection: ClientConnection) -> None:
        while True:
            try:
                command = await connection.receive()
                if isinstance(command, Listen) and command.audio:
                    await self._load_ear()
                await self._obey(command)
            except CommandError as error:
                self.session.refuse(error)
            await _let_others_run()
            while self.session.behind >= 1:  # what the client sends now waits in its own buffers
                await asyncio.sleep(0.01)

    async def _load_ear(self) -> None:
        """Has what hears callers loaded on a thread of its own, so that nobody's speech waits for that."""
        if not self._has_ear:
            with contextlib.suppress(Exception):  # the engine meets the same problem, and tells the client
                await asyncio.to_thread(self.session.engine.load_ear)
            self._has_ear = True

    async def _obey(self, command: Command) -> None:
        if isinstance(command, Start | Reset):
            self.begun = isinstance(command, Start)
        self.since = time.monotonic()
        if isinstance(command, Fork):
            # In a task of its own, because a client that goes meanwhile is told when it is back.
            await asyncio.shield(asyncio.ensure_future(self._fork()))
        else:
            self.session.submit(command)

    async def _fork(self) -> None:
        try:
            if self.forks is None:
                raise CommandError("bad_command", "there is one conversation here")
            await self.forks(self)
        except CommandError as error:
            error.cmd = "fork"
            self.session.refuse(error)

    def go_on_from(self, sent: Sent) -> None:
        """It is a copy of a conversation of which so much was sent."""
        self._sent = sent

    # ---- Audio and events ----

    async def _deliver(self, connection: ClientConnection, ready: Ready, missed: list[Item]) -> None:
        encoder = connection.encoder
        await connection.send(ready)
        for item in missed:  # this counts as sent, so it comes before `paused`
            await _send(connection, encoder, item)
        items = cast("AsyncGenerator[Item, None]", aiter(self.session))
        async with contextlib.aclosing(items):
            async for item in items:
                self._note(item)
                if isinstance(item, Frame):
                    while not self.may_speak():
                        await asyncio.sleep(0.002)
                await _send(connection, encoder, item)

    def _note(self, item: Item) -> None:
        """Keeps the books: before it is sent, because what is under way when the socket breaks has to be in them."""
        match item:
            case Frame():
                self.since = time.monotonic()
                self._sent.add(item)
            case WordEvent() | Done():
                self._sent.add(item)
            case FirstAudio():
                self._metrics.first_audio.observe(item.latency_ms / 1000)
                self._sent.add(item)
            case Started() | ResetDone():
                self.begun = isinstance(item, Started)
                self._metrics.conversations.inc(isinstance(item, Started))
                self._sent = Sent()
            case Cut():
                self._sent.cut()
            case Forked():
                if (copy := self.copies.pop(item.conversation, None)) is not None:
                    copy.go_on_from(self._sent.copy(item.audio_ms // FRAME_MS))
            case Error():
                self._metrics.errors.labels(item.code).inc()
                if item.cmd == "start":  # it was refused
                    self.begun = self.session.conversation.active


async def _let_others_run() -> None:
    """Between two commands: `receive` does not wait while messages are there, and the others' audio has to leave.

    Where the others have much to do, a client that floods waits for several times as long as they took.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.sleep(0)
    if (busy := loop.time() - began) > BUSY_SECONDS:
        await asyncio.sleep(YIELDS * busy)


async def _send(connection: ClientConnection, encoder: Encoder | None, item: Item) -> None:
    if encoder is None:
        if isinstance(item, Event | Frame | Cut):
            await connection.send(item)
        return
    if isinstance(item, Frame):
        data = encoder.encode(item.pcm)
        await connection.send(Audio(len(data) // encoder.sample_bytes, data))
        return
    if isinstance(item, Cut | Started | ResetDone):
        encoder.restart()  # what was encoded before is not going on
    if isinstance(item, Event):
        await connection.send(item)


async def _tell(connection: ClientConnection, event: Event) -> None:
    with contextlib.suppress(ClientGone):
        await connection.send(event)


def _outcome(tasks: list[asyncio.Task[None]]) -> HangUp:
    """How serving a client ended, told by the task that ended it. Raises what is a fault of ours."""
    *serving, gone = tasks
    for task in serving:
        error = task.exception() if task.done() else None
        if isinstance(error, OSError):  # ClientGone
            return GONE
        if error is not None:
            raise error
    if gone.done():
        return GONE
    # Everything was delivered although nobody asked for an end: the engine gave up on this conversation, and said why.
    return HangUp(CLOSE_CODES["internal"] or 1011, "the conversation is over")

"""Calls that go on at another server when theirs ends; each says what it has to, whatever befalls it.

A call knows what it has asked for. When it comes back, `paused` tells it what the server knows of that, and it asks
again for what got lost on its way: commands of the last milliseconds before a server was killed.
"""

import asyncio
import contextlib
import random
import re
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from piping import PATIENCE
from serving import Serve
from soak_calls import PATIENT, Figures

from dia2stream.client import Client, connect
from dia2stream.errors import CommandError, Disconnected
from dia2stream.items import FRAME_MS, FRAME_SAMPLES
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Done, Error, Event, Paused, WordEvent

WORDS = ("one two three four five six seven eight nine ten eleven twelve " * 2).split()
REPLY = ["red", "green", "blue", "white", "black", "yellow", "orange", "violet"]


class Call:
    """One call. Its servers: it begins at the first one, and goes to the other when it has to, or at `leaves_at`.

    story: what befell it. moved: whether it has been at both. unsure: a command may have got lost of which the server
    tells nothing.
    """

    last = "1"  # the utterance that the call ends with

    def __init__(self, servers: Sequence[Serve], seed: int, chance: random.Random, figures: Figures) -> None:
        self.servers, self.seed, self.chance, self.figures = list(servers), seed, chance, figures
        self.leaves_at: float | None = None  # on the audio clock, ms
        self.ends_by = ""  # the signal that its server gets
        self.settled = asyncio.Event()  # its server has ended and it is back, or it is over
        self.story, self.moved, self.unsure = "undisturbed", False, False
        self.id = ""
        self.away = False  # on its way to another server, and not yet going on there
        self.said: list[str] = []
        self._told: set[tuple[str, int]] = set()
        self._sound = bytearray()
        self._over = False

    @property
    def server(self) -> Serve:
        """Where it is."""
        return self.servers[0]

    @property
    def clock_ms(self) -> int:
        """How much it has heard."""
        return len(self._sound) // (2 * FRAME_SAMPLES) * FRAME_MS

    async def run(self) -> None:
        """The whole call. Raises AssertionError for whatever is wrong."""
        self.client = await self._connect()
        self.id = self.client.ready.conversation
        await self.begin()
        while not self._over:
            if self.leaves_at is not None and self.clock_ms >= self.leaves_at:
                await self._leave()
            else:
                await self._go_on()
        await self.finished()
        assert self.said == self.asked(), f"asked {self.asked()}, heard {self.said}"

    async def _connect(self) -> Client:
        """To its server, or to the other one if that has ended already, or is about to."""
        try:
            return await connect(self.server.url, **PATIENT)
        except (Disconnected, CommandError):
            self.servers.reverse()
            return await connect(self.server.url, **PATIENT)

    async def hang_up(self) -> None:
        """The conversation is not needed any more."""
        if self.id:
            await self.client.hang_up()

    # ---- What each kind of call does ----

    async def begin(self) -> None:
        """Asks for the first words."""
        await self.client.start(f"[S1] {' '.join(WORDS)}.", seed=self.seed)

    async def act(self, item: Any) -> None:
        """Something has come."""

    async def recover(self, paused: Paused) -> None:
        """It is back, where `paused` says."""
        await self.client.resume()

    async def finished(self) -> None:
        """The last word was heard."""

    def asked(self) -> list[str]:
        """The words that were to be heard."""
        return WORDS

    def parts(self) -> list[slice]:
        """The frames that are those of an undisturbed call."""
        return [slice(None)]

    # ---- What is compared ----

    def frames(self, codes: NDArray[np.int16]) -> list[NDArray[np.int16]]:
        """The codes of those frames, of all that were heard: [frames, C]."""
        return [codes[part] for part in self.parts()]

    def sounds(self) -> list[NDArray[np.int64]]:
        """Their samples."""
        samples = np.frombuffer(bytes(self._sound), "<i2").astype(np.int64).reshape(-1, FRAME_SAMPLES)
        return [samples[part].ravel() for part in self.parts()]

    # ---- Coming and going ----

    async def _go_on(self) -> None:
        try:
            item = await asyncio.wait_for(self.client.receive(), PATIENCE)
            self._check(item)
            await self.act(item)
        except Disconnected:
            await self._come_back("its server ended")

    async def _leave(self) -> None:
        """Goes to the other server while this one is well. From then on nothing may come from this one."""
        old = self.client
        await self._come_back("it left")
        began = time.monotonic()
        with contextlib.suppress(Disconnected):
            while True:
                item = await asyncio.wait_for(old.receive(), PATIENCE)
                # What was on its way when the other one took over may still be in this machine's buffers.
                assert not isinstance(item, Audio) or time.monotonic() - began < 0.2, "two servers spoke"

    async def _come_back(self, why: str) -> None:
        self.story = f"{self.story.replace('undisturbed', '')} {why} at {self.clock_ms} ms;".strip()
        self.figures.count(f"calls moved because {why}")
        began, self.leaves_at, self.away = time.monotonic(), None, True
        self.servers.reverse()
        self.moved = True
        paused = await self._reconnect()
        took = (time.monotonic() - began) * 1000
        self.figures.measure("back_ms", took)
        self.figures.measure(f"back_ms_{self.ends_by or 'left'}", took)
        if paused is None:
            assert not self._sound, "a conversation that had been heard was gone"
            self.figures.count("calls begun again, as nothing had been heard")
            await self.begin()
        else:
            assert paused.heard_ms <= self.clock_ms, f"{paused.heard_ms} heard of {self.clock_ms}"
            await self.recover(paused)
        self.away = False
        self.figures.measure("heard_again_ms", await self._until_heard(began))
        self.settled.set()

    async def _reconnect(self) -> Paused | None:
        """To the other server. Returns where it stands there, None if that server does not know the conversation."""
        while True:
            try:
                received = self.clock_ms
                began = time.monotonic()
                self.client = await connect(self.server.url, conversation=self.id, received_ms=received, **PATIENT)
                self.figures.measure("ready_ms", (time.monotonic() - began) * 1000)
                break
            except CommandError as error:
                if error.code != "busy":
                    raise
        if self.client.ready.conversation != self.id:
            self.id = self.client.ready.conversation
            match await asyncio.wait_for(self.client.receive(), PATIENCE):
                case Error(code="no_session"):
                    return None
                case other:
                    raise AssertionError(other)
        return await self.until(Paused)

    async def _until_heard(self, began: float) -> float:
        """Goes on until there is audio again, or the call is over. Returns how long that took since then, in ms."""
        heard = len(self._sound)
        while len(self._sound) == heard and not self._over:
            await self._go_on()
        return (time.monotonic() - began) * 1000

    async def until(self, kind: type[Event]) -> Any:
        """The next event of that type."""
        while True:
            item = await asyncio.wait_for(self.client.receive(), PATIENCE)
            self._check(item)
            if isinstance(item, kind):
                return item

    def _check(self, item: Any) -> None:
        assert not isinstance(item, Error), item
        if isinstance(item, Audio):
            self._sound += item.data
        elif isinstance(item, WordEvent) and (item.id, item.start_ms) not in self._told:
            self._told.add((item.id, item.start_ms))
            assert item.start_ms == self.clock_ms, f"{item} at {self.clock_ms}"
            self.said.append(item.word.strip("."))
        elif isinstance(item, Done) and item.id == self.last:
            assert item.audio_ms == self.clock_ms, f"{item} at {self.clock_ms}"
            self._over = True


class Plain(Call):
    """All its text at once; it holds the speech for a moment, and goes on."""

    held = False

    async def act(self, item: Any) -> None:
        if self.clock_ms >= 1600 and not self.held:
            self.held = True
            await self.client.pause()
            await self.until(Paused)
            await self.client.resume()


class Pieces(Call):
    """Text in pieces, as a language model gives it."""

    given = 0  # words that were sent
    feeding: "asyncio.Task[None] | None" = None

    async def begin(self) -> None:
        self.given = 4
        await self.client.start(f"[S1] {' '.join(WORDS[:4])} ", seed=self.seed, final=False)
        self.feeding = self.feeding or asyncio.create_task(self._feed())

    async def _feed(self) -> None:
        while not self._over:
            await asyncio.sleep(0.15)
            with contextlib.suppress(Disconnected):
                if not self.away:  # else text would be said instead of what was not heard
                    await self._give(self.client)

    async def _give(self, client: Client) -> None:
        if self.given < len(WORDS):
            self.given += 4
            stop = "." if self.given == len(WORDS) else ""
            piece = f"{' '.join(WORDS[self.given - 4 : self.given])}{stop} "
            await client.inject(piece, id="1", final=False)
        elif self.given == len(WORDS):
            self.given += 1
            await client.end("1")

    async def recover(self, paused: Paused) -> None:
        # Words that a turn has sounded and forgotten are in neither, but by then all were given.
        known = len(_plain(f"{paused.spoken} {paused.pending}"))
        assert known % 4 == 0, paused
        self.given = min(known, len(WORDS))  # and `end` once more, in any case
        await self.client.resume()

    async def finished(self) -> None:
        if self.feeding is not None:
            await self.feeding


class Interrupted(Call):
    """The caller interrupts: what was not heard is dropped, and something else is said."""

    last = "2"
    at, played = 2400, 2000
    asks: bool | None = None  # whether the pause or the reply is on its way; None before that
    spoken: list[str]

    async def begin(self) -> None:
        await self.client.start(f"[S1] {' '.join(WORDS)}.", seed=self.seed, id="1")

    async def act(self, item: Any) -> None:
        if self.clock_ms >= self.at and self.asks is None:
            await self._interrupt()

    async def _interrupt(self) -> None:
        self.asks = True
        await self.client.pause(self.played)
        paused = await self.until(Paused)
        self.spoken = _plain(paused.spoken)
        await self.client.inject(f"[S2] {' '.join(REPLY)}.", id="2")

    async def recover(self, paused: Paused) -> None:
        known = {*_plain(f"{paused.spoken} {paused.pending}")} & {*REPLY}
        if self.asks and not known:
            await self._interrupt()
        else:
            await self.client.resume()

    def asked(self) -> list[str]:
        return [*(word for word in self.said if word not in REPLY), *REPLY]

    async def finished(self) -> None:
        assert self.spoken == WORDS[: len(self.spoken)]
        before = [word for word in self.said if word not in REPLY]
        assert before == WORDS[: len(before)]
        # The next frames are the reply's: where they begin depends on how much had been sent.
        self.begins = min(start for id, start in self._told if id == "2") // FRAME_MS

    def parts(self) -> list[slice]:
        return [slice(self.played // FRAME_MS), slice(self.begins, None)]


class Listening(Call):
    """The caller speaks, and is answered."""

    last = "2"
    said_it = False

    async def begin(self) -> None:
        self.said_it = False
        await self.client.start(f"[S1] {' '.join(WORDS[:8])}.", seed=self.seed, id="1")

    async def act(self, item: Any) -> None:
        if isinstance(item, Done) and item.id == "1":
            await self._speak()

    async def _speak(self) -> None:
        self.said_it = True
        tone = (8000 * np.sin(np.arange(12000) / 20)).astype("<i2").tobytes()
        await self.client.listen(tone, "Can you hear me?", sample_rate=8000)
        await self.client.inject(f"{' '.join(REPLY)}.", id="2")

    async def recover(self, paused: Paused) -> None:
        known = {*_plain(f"{paused.spoken} {paused.pending}")} & {*REPLY}
        if self.said_it and not known:
            # Nobody tells whether `listen` has arrived: what the model has heard may be in its memory twice.
            self.unsure = True
            self.figures.count("calls of which nobody knows whether `listen` had arrived")
            await self.client.resume()
            await self._speak()
        else:
            await self.client.resume()

    def asked(self) -> list[str]:
        return [*WORDS[:8], *REPLY]


CALLS: list[type[Call]] = [Plain, Pieces, Interrupted, Listening]


def _plain(text: str) -> list[str]:
    return re.sub(r"\[S\d\]|\.", " ", text).split()

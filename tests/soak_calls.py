"""Scripted callers for the soak test: everything that a server sends them is checked, item by item.

A `Caller` starts, adds, interrupts, holds, lets the model listen, drops its socket and comes back, at random. It holds
the server to this:

- a word's start is the audio clock when the word arrives; the last sample of an utterance is told;
- what was asked for and not interrupted is said, word for word;
- at an interruption, what was said and what was not are together what was asked for in this turn;
- nothing is heard between `paused` and what ends the pause.

A `KnownCall` says the same text again and again, in one of several forms, over a socket that breaks, and compares what
comes with the bytes of an undisturbed connection, as far as the machine computes the same with others in the batch.
"""

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from piping import PATIENCE
from serving import LONG, Serve, hear, sound, take_slot

from dia2stream.client import Client
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Done, Error, Event, FirstAudio, Paused, ResetDone, Started, WordEvent

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
# A client's own patience is not what is tried: the server is stopped for longer.
PATIENT = {"ping_interval": None, "open_timeout": PATIENCE, "wait": 30}


class Figures:
    """What is counted and measured, by name, and what went wrong."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.measured: dict[str, list[float]] = {}
        self.faults: list[str] = []

    def count(self, name: str, number: int = 1) -> None:
        self.counts[name] += number

    def measure(self, name: str, value: float) -> None:
        self.measured.setdefault(name, []).append(value)

    def fault(self, where: str, error: BaseException) -> None:
        """Something went wrong. It is told at once, because the end may be an hour away."""
        self.faults.append(f"{where}: {type(error).__name__}: {error}")
        print(f"FAULT {self.faults[-1]}", flush=True)

    def table(self) -> dict[str, float]:
        """All of it, in one row a figure."""
        rows: dict[str, float] = dict(sorted(self.counts.items()))
        for name, values in sorted(self.measured.items()):
            rows[f"{name}_p50"] = statistics.median(values)
            rows[f"{name}_p99"] = percentile(values, 0.99)
            rows[f"{name}_max"] = max(values)
        return rows


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


class Listener:
    """Plays what comes in real time, and knows when it had nothing to play in mid-speech."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._dry_at: float | None = None

    def hear(self) -> None:
        """80 ms more."""
        now = time.monotonic()
        if self._dry_at is not None and now > self._dry_at:
            self._figures.count("late_frames")
            self._figures.measure("late_ms", (now - self._dry_at) * 1000)
        self._figures.count("frames")
        self._dry_at = max(now, self._dry_at or now) + 0.08

    def rest(self) -> None:
        """The speech has ended here: silence is not the server's fault."""
        self._dry_at = None


class Caller:
    """One call after the other. Every item that comes is checked."""

    client: Client

    def __init__(self, server: Serve, figures: Figures, chance: random.Random) -> None:
        self.server, self.figures, self.chance = server, figures, chance

    async def call(self) -> None:
        """One conversation of a few random acts. Raises whatever is wrong."""
        self.paused, self.clock = False, 0.0
        self.asked: list[str] = []  # words of this turn that were not interrupted
        self.said: list[str] = []
        self.waiting: set[int] = set()  # utterances that are not done, as the server numbers them
        self.number = 0
        self.told: set[tuple[str, int]] = set()
        self.listener = Listener(self.figures)
        acts = [self._add, self._interrupt, self._drop, self._listen, self._hold, self._speak_to_it]
        self.client = await take_slot(self.server, **PATIENT)
        try:
            await self._ask(first=True)
            for _ in range(self.chance.randint(2, 6)):
                await self.chance.choice(acts)()
            await self._finish()
            await self.client.reset()
            await self._until(ResetDone)
        finally:
            await self.client.close()
        self.figures.count("calls")

    # ---- Acts ----

    async def _ask(self, first: bool = False) -> None:
        words = [self.chance.choice(WORDS) for _ in range(self.chance.randint(2, 12))]
        text = f"[S{self.chance.randint(1, 2)}] {' '.join(words)}."
        self.asked += [*words[:-1], f"{words[-1]}."]
        self.number += 1
        self.waiting.add(self.number)
        self.figures.count("utterances")
        if first:
            await self.client.start(text)
            await self._until(Started)
        else:
            await self.client.inject(text)

    async def _add(self) -> None:
        await self._listen()
        await self._ask()

    async def _listen(self) -> None:
        """For a while; or until everything was said."""
        until = self.clock + self.chance.uniform(0, 2500)
        while self.waiting and self.clock < until:
            self._check(await self._next())

    async def _finish(self) -> None:
        while self.waiting:
            self._check(await self._next())
        assert self.said == self.asked, f"asked {self.asked}, said {self.said}"
        self.figures.count("words", len(self.said))
        self.asked, self.said = [], []
        self.listener.rest()

    async def _hold(self) -> None:
        """Pause, and go on as if nothing had been."""
        await self._listen()
        await self._pause(None)
        await asyncio.sleep(self.chance.uniform(0, 0.2))
        await self.client.resume()
        self.paused = False

    async def _interrupt(self) -> None:
        """Pause at what was heard, and say something else."""
        await self._listen()
        await self._rewind(max(0.0, self.clock - self.chance.uniform(0, 2500)))

    async def _speak_to_it(self) -> None:
        """What the caller says goes into the context when the turn has ended, and is answered."""
        await self._finish()
        pieces = self.chance.randint(1, 3)
        for piece in range(pieces):
            sound = self.chance.randbytes(2 * self.chance.randint(1, 8000))
            await self.client.listen(sound, sample_rate=8000, final=piece == pieces - 1)
        self.figures.count("heard_callers")
        await self._ask()

    async def _drop(self) -> None:
        """The socket breaks; the client comes back and goes on, or says something else."""
        await self._listen()
        had, id = self.client.received_ms, self.client.ready.conversation
        self.client.socket.transport.abort()
        await asyncio.sleep(self.chance.choice([0, 0.01, 0.3]))
        self.client = await take_slot(self.server, conversation=id, received_ms=had, **PATIENT)
        assert self.client.ready.conversation == id, "the conversation was gone"
        self.figures.count("drops")
        self.listener.rest()
        await self._until(Paused)
        if self.chance.random() < 0.3:
            await self._rewind(max(0.0, self.clock - 500))
        else:
            await self.client.resume()

    async def _pause(self, played: float | None) -> Paused:
        began = time.monotonic()
        await self.client.pause(played)
        paused: Paused = await self._until(Paused)
        self.figures.measure("pause_ms", (time.monotonic() - began) * 1000)
        self.paused = True
        self.listener.rest()
        return paused

    async def _rewind(self, played: float) -> None:
        paused = await self._pause(played)
        self._check_report(paused)
        self.paused, self.waiting, self.asked, self.said = False, set(), [], []
        await self._ask()
        self.figures.count("interruptions")

    # ---- Checks ----

    def _check_report(self, paused: Paused) -> None:
        """Spoken and pending end with what was asked for and not interrupted; a turn may have begun before that."""
        turn = [word for word in (*paused.spoken.split(), *paused.pending.split()) if not word.startswith("[S")]
        asked = self.asked[-len(turn) :] if turn else []
        assert turn[-len(asked) :] == asked if asked else True, f"asked {self.asked}, reported {paused}"

    async def _until(self, kind: type[Event]) -> Any:
        while True:
            item = await self._next()
            if isinstance(item, kind):
                return item
            self._check(item)

    async def _next(self) -> Any:
        return await asyncio.wait_for(self.client.receive(), PATIENCE)

    def _check(self, item: Any) -> None:
        assert not isinstance(item, Error), item
        if isinstance(item, Audio):
            assert not self.paused, "audio in a pause"
            self.clock += 80
            self.listener.hear()
        elif isinstance(item, FirstAudio):
            self.figures.measure("first_audio_ms", item.latency_ms)
            self.listener.rest()
        elif isinstance(item, WordEvent):
            if (item.id, item.start_ms) in self.told:  # again, after a drop
                return
            self.told.add((item.id, item.start_ms))
            assert abs(item.start_ms - self.clock) < 1, f"{item} at {self.clock}"
            self.said.append(item.word)
        elif isinstance(item, Done):
            if ("done", int(item.id)) in self.told:
                return
            self.told.add(("done", int(item.id)))
            # Of an utterance that was sent to its end it may come after the interruption.
            self.waiting.discard(int(item.id))


class KnownCall:
    """A call whose every byte is known: `learn` it while nobody else is there.

    same: what has to be as it was then.
        bytes    every byte
        samples  each sample, but it may be off by one, and a byte of mu-law by its step: with others in the batch, the
                 codec adds up in another order
        length   nothing is missing or doubled behind a break: in bf16 the size of a batch changes what is drawn
    """

    TEXT = LONG[:70]
    FORMS = (("pcm16", 24000), ("pcm16", 8000), ("mulaw", 8000), ("pcm16", 16000))

    def __init__(self, server: Serve, figures: Figures, same: Literal["bytes", "samples", "length"]) -> None:
        self.server, self.figures, self._same = server, figures, same
        self._known: dict[tuple[str, int], bytes] = {}

    async def learn(self) -> None:
        """Hears it over an undisturbed connection, once for each form."""
        for encoding, rate in self.FORMS:
            client = await take_slot(self.server, encoding=encoding, sample_rate=rate, **PATIENT)
            await client.start(self.TEXT, seed=5)
            self._known[encoding, rate] = sound(await hear(client))
            await client.hang_up()

    async def call(self, chance: random.Random) -> None:
        """Hears it over a socket that breaks once or twice. Raises AssertionError if a byte differs."""
        encoding, rate = chance.choice(self.FORMS)
        form = {"encoding": encoding, "sample_rate": rate, **PATIENT}
        client = await take_slot(self.server, **form)
        try:
            await client.start(self.TEXT, seed=5)
            heard: list[Any] = []
            for _ in range(chance.randint(0, 2)):
                heard += await self._hear(client, client.received_ms + chance.uniform(0, 1500))
                had, id = client.received_ms, client.ready.conversation
                client.socket.transport.abort()
                client = await take_slot(self.server, conversation=id, received_ms=had, **form)
                assert client.ready.conversation == id, "the conversation was gone"
                heard += await hear(client, Paused)
                await client.resume()
                self.figures.count("known_reconnects")
            if not _done(heard):
                heard += await hear(client)
            if self._same == "length":
                self._check_length(heard, encoding, rate)
            else:
                self._compare(sound(heard), self._known[encoding, rate], encoding, f"{encoding} at {rate} Hz")
            self.figures.count("known_calls")
        finally:
            await client.hang_up()

    def _check_length(self, heard: Sequence[Any], encoding: str, rate: int) -> None:
        got, done = len(sound(heard)), next(item for item in heard if isinstance(item, Done))
        told = done.audio_ms * rate // 1000 * (2 if encoding == "pcm16" else 1)
        assert got == told, f"{encoding} at {rate} Hz: {got} bytes, and the server tells of {told}"

    def _compare(self, got: bytes, known: bytes, encoding: str, form: str) -> None:
        assert len(got) == len(known), f"{form}: {len(got)} bytes, not {len(known)}"
        if got == known:
            self.figures.count("known_to_the_byte")
            return
        samples, right = linear(got, encoding), linear(known, encoding)
        off = np.abs(samples - right)
        most = 1 if encoding == "pcm16" else np.maximum(np.abs(samples), np.abs(right)) // 8 + 16
        self.figures.measure("known_samples_off", float(np.count_nonzero(off)))
        wrong = np.flatnonzero(off > most)
        assert self._same == "samples", f"{form}: differs at sample {np.argmax(off > 0)} of {len(off)}"
        assert not len(wrong), f"{form}: {len(wrong)} samples of {len(off)}, by up to {off.max()}, from {wrong[0]} on"

    async def _hear(self, client: Client, until: float) -> list[Any]:
        return await hear(client, lambda item: isinstance(item, Done) or client.received_ms >= until)


def linear(data: bytes, encoding: str) -> NDArray[np.int64]:
    """The samples that bytes stand for, 16 bits each."""
    if encoding == "pcm16":
        return np.frombuffer(data, "<i2").astype(np.int64)
    code = ~np.frombuffer(data, np.uint8).astype(np.int64) & 0xFF
    size = ((((code & 0x0F) << 3) + 0x84) << ((code >> 4) & 7)) - 0x84
    return np.where(code & 0x80, -size, size)


def _done(items: Sequence[Any]) -> bool:
    return any(isinstance(item, Done) for item in items)

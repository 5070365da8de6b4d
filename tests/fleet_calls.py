"""Callers of several servers: each says a text, and comes back whenever its connection is lost."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from piping import PATIENCE

from dia2stream.client import Client, connect
from dia2stream.errors import CommandError, Disconnected
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Done, FirstAudio, Paused, WordEvent

NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
FRAME_SECONDS = 0.08
AGAIN_SECONDS = 0.1  # between two tries
UNWRITTEN_SECONDS = 0.5 + PATIENCE / 90  # the journal is written every 0.2 s, and the machine is busy
PATIENT = {"ping_interval": None, "open_timeout": PATIENCE}


def text_of(words: int, turn: int = 0) -> list[str]:
    """So many words, none like its neighbours."""
    return [NUMBERS[(turn + index) % len(NUMBERS)] for index in range(words)]


@dataclass
class Call:
    """What one caller has heard and measured."""

    words: list[str]
    heard: list[tuple[str, int]] = field(default_factory=list)
    refusals: int = 0  # `busy`, before it got in
    tries: int = 0  # that reached nobody, or found no room when it came back
    returns: int = 0
    begun_anew: int = 0  # its server died before the start was written down
    open_seconds: float = 0.0
    first_seconds: float = 0.0  # from `start` to the first sample
    server_first_ms: float = 0.0  # the same by the server's clock
    away_seconds: list[float] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)  # of frames, over the first connection

    @property
    def said_as_asked(self) -> bool:
        """Whether each word was heard once, in order."""
        return [word.strip(".").lower() for word, _ in self.heard] == self.words

    @property
    def jitter(self) -> list[float]:
        """How far the time between two frames is from 80 ms, while frames come at playback speed."""
        gaps = [after - before for before, after in zip(self.arrivals, self.arrivals[1:], strict=False)]
        return [abs(gap - FRAME_SECONDS) for gap in gaps[5:]]


async def call(url: str, words: list[str], seed: int, **options: Any) -> Call:
    """One call from its first to its last word, whatever happens to the servers. Raises TimeoutError."""
    made = Call(words)
    began = time.monotonic()
    client = await _arrive(url, made, **options)
    made.open_seconds = time.monotonic() - began
    asked = time.monotonic()
    text = f"[S1] {' '.join(words)}."
    try:
        await client.start(text, seed=seed)
        while True:
            try:
                await _listen(client, made, asked)
                return made
            except Disconnected:
                left, gone = time.monotonic(), client
                client = await _come_back(url, made, gone, **options)
                if client.ready.conversation != gone.ready.conversation:
                    await _begin_anew(client, made, text, seed)
                made.away_seconds.append(time.monotonic() - left)
                made.returns += 1
    finally:
        await client.hang_up()


async def _arrive(url: str, made: Call, **options: Any) -> Client:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            return await connect(url, **{**PATIENT, **options})
        except CommandError as error:
            if error.code != "busy":
                raise
            made.refusals += 1
        except Disconnected:
            made.tries += 1
        await asyncio.sleep(AGAIN_SECONDS)
    raise TimeoutError(f"{url} lets nobody in")


async def _come_back(url: str, made: Call, gone: Client, **options: Any) -> Client:
    """Another connection for the same conversation, which goes on."""
    known = {"conversation": gone.ready.conversation, "received_ms": gone.received_ms}
    refusals = made.refusals
    client = await _arrive(url, made, **known, **options)
    made.tries, made.refusals = made.tries + made.refusals - refusals, refusals
    return client


async def _begin_anew(client: Client, made: Call, text: str, seed: int) -> None:
    """A conversation that its server had no time to write down is lost with it."""
    lived = made.arrivals[-1] - made.arrivals[0] if made.arrivals else 0.0
    assert lived < UNWRITTEN_SECONDS, f"the conversation is lost, after {lived:.1f} s"
    made.begun_anew += 1
    made.heard.clear()
    await client.start(text, seed=seed)


async def _listen(client: Client, made: Call, asked: float) -> None:
    """Until everything is said. Raises Disconnected."""
    async for item in client:
        match item:
            case Audio():
                if not made.first_seconds:
                    made.first_seconds = time.monotonic() - asked
                if not made.returns:
                    made.arrivals.append(time.monotonic())
            case FirstAudio():
                made.server_first_ms = made.server_first_ms or item.latency_ms
            case WordEvent():
                if (item.word, item.start_ms) not in made.heard:  # told again, as its audio had not arrived
                    made.heard.append((item.word, item.start_ms))
            case Paused():
                await client.resume()
            case Done():
                return
    raise Disconnected("closed")


async def several(url: str, count: int, words: int, seconds: float, **options: Any) -> list[Call]:
    """So many calls, which begin one after the other within so many seconds."""

    async def one(number: int) -> Call:
        await asyncio.sleep(number * seconds / count)
        return await call(url, text_of(words, number), number, **options)

    return list(await asyncio.gather(*(one(number) for number in range(count))))


def percentile(values: list[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def row(calls: list[Call]) -> dict[str, float]:
    """Their figures; times in milliseconds."""
    first = [made.first_seconds * 1000 for made in calls]
    away = [seconds * 1000 for made in calls for seconds in made.away_seconds]
    jitter = [seconds * 1000 for made in calls for seconds in made.jitter]
    return {
        "calls": len(calls),
        "words_asked": sum(len(made.words) for made in calls),
        "words_heard": sum(len(made.heard) for made in calls),
        "said_as_asked": sum(made.said_as_asked for made in calls),
        "refusals": sum(made.refusals for made in calls),
        "returns": sum(made.returns for made in calls),
        "begun_anew": sum(made.begun_anew for made in calls),
        "tries": sum(made.tries for made in calls),
        "open_p50": percentile([made.open_seconds * 1000 for made in calls], 0.5),
        "first_p50": percentile(first, 0.5),
        "first_p99": percentile(first, 0.99),
        "server_first_p50": percentile([made.server_first_ms for made in calls], 0.5),
        "jitter_p50": percentile(jitter, 0.5),
        "jitter_p99": percentile(jitter, 0.99),
        "away_p50": percentile(away, 0.5),
        "away_max": max(away, default=0.0),
    }

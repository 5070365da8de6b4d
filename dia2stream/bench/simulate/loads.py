"""The loads of a simulation: who calls when, and what each call does. Pure, from a seed.

A call is a generator: it yields what it does next, and is resumed when that has ended. So a kind of call is a few
lines, and knows nothing of slots, steps and clocks.
"""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from math import inf
from random import Random
from statistics import fmean
from typing import Protocol, TypeAlias

from dia2stream.bench.load.arrivals import spread_arrivals
from dia2stream.bench.load.script import Turn, phone_turns
from dia2stream.bench.load.sentences import SENTENCES
from dia2stream.engine.admission import FRAME_SECONDS, TAIL_FRAMES

_ARRIVE_WITHIN = 5.0  # seconds in which the callers come who are to be there all the time
FRAMES_A_CHARACTER = 62 / fmean(len(sentence) for sentence in SENTENCES)


@dataclass(frozen=True)
class Say:
    """A turn of so many frames, silence at its end included.

    heard: the listener interrupts after so many seconds of playback. fresh: a new conversation, with an empty context.
    """

    frames: float
    heard: float = inf
    fresh: bool = False


@dataclass(frozen=True)
class Silence:
    """So many seconds in which nothing is asked for. listens: the caller's voice goes into the context meanwhile."""

    seconds: float
    listens: bool = False


Script: TypeAlias = Generator[Say | Silence, None, None]


@dataclass(frozen=True)
class Arrival:
    """A call that comes at `at` seconds. measured: whether its first audio counts."""

    at: float
    script: Script
    measured: bool = True


class Load(Protocol):
    """Who calls, and when."""

    def arrivals(self, random: Random) -> Iterator[Arrival]:
        """All calls, in the order in which they come; there may be no end to them."""


@dataclass(frozen=True)
class Crowd:
    """So many calls: all but one speak without pause, and one, which is timed, starts again and again."""

    calls: int

    def arrivals(self, random: Random) -> Iterator[Arrival]:
        """All of them come in the first seconds."""
        for at in spread_arrivals(self.calls - 1, _ARRIVE_WITHIN, random) if self.calls > 1 else ():
            yield Arrival(at, _monologue(), measured=False)
        yield Arrival(_ARRIVE_WITHIN, _starter(random))


@dataclass(frozen=True)
class Requests:
    """Open loop: so many sentences a second come, each independent of all others."""

    rate: float

    def arrivals(self, random: Random) -> Iterator[Arrival]:
        """One request after the other, without end."""
        at = 0.0
        while True:
            at += random.expovariate(self.rate)
            yield Arrival(at, _request(random))


@dataclass(frozen=True)
class PhoneCalls:
    """So many calls in which agent and caller take turns, as those of `bench --calls`.

    turn: seconds that the agent speaks at once, on average; None: as long as the texts of `bench` take, some 6.5 s.
    pause: seconds that the caller then speaks, on average; None: as long as the agent. listens: what the caller says
    goes into the context.
    """

    calls: int
    turn: float | None = None
    pause: float | None = None
    listens: bool = False

    def arrivals(self, random: Random) -> Iterator[Arrival]:
        """All of them come in the first seconds and stay."""
        for at in spread_arrivals(self.calls, _ARRIVE_WITHIN, random):
            yield Arrival(at, self.call(Random(random.random())))

    def call(self, random: Random) -> Script:
        """One of the calls, without end."""
        fresh = True
        for said in phone_turns(random):
            seconds = spoken_frames(said.text) * FRAME_SECONDS
            heard = inf if said.barge_in is None else said.barge_in
            if self.turn is not None:
                wanted = max(0.4, self.turn * random.gammavariate(4.0, 0.25))
                seconds, heard = wanted, heard * wanted / seconds
            yield Say(round(seconds / FRAME_SECONDS) + TAIL_FRAMES, heard, fresh)
            reply = min(seconds, heard) if self.pause is None else self.pause
            yield Silence(said.reply * reply, self.listens)
            fresh = False


def planned_script(turns: Iterable[Turn], frames_a_character: float = FRAMES_A_CHARACTER) -> Script:
    """A call that has these turns and then ends, of a model that speaks at that pace."""
    for number, turn in enumerate(turns):
        frames = spoken_frames(turn.text, frames_a_character)
        heard = inf if turn.barge_in is None else turn.barge_in
        yield Say(frames + TAIL_FRAMES, heard, fresh=number == 0)
        yield Silence(turn.reply * min(frames * FRAME_SECONDS, heard))


def spoken_frames(text: str, frames_a_character: float = FRAMES_A_CHARACTER) -> int:
    """How many frames a text takes; by default as bench's sentences take 62 on average."""
    return max(1, round(len(text) * frames_a_character))


def _monologue() -> Script:
    yield Say(inf, fresh=True)


def _starter(random: Random) -> Script:
    while True:
        yield Say(inf, heard=0.0, fresh=True)
        yield Silence(random.uniform(0.2, 0.6))


def _request(random: Random) -> Script:
    yield Say(spoken_frames(random.choice(SENTENCES)) + TAIL_FRAMES, fresh=True)

"""What happens in a call: who speaks when, what the agent says, and where the caller interrupts. Pure, from a seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

from dia2stream.bench.load.arrivals import poisson_arrivals
from dia2stream.bench.load.sentences import SENTENCES

_TOKEN_CHARS = 4  # of a language model's token, on average
_TOKEN_SECONDS = 1 / 60  # that a language model takes for one
_BARGE_INS = 0.2  # share of turns that the caller interrupts


@dataclass(frozen=True)
class Piece:
    """A piece of text and when the language model has it, in seconds after the first one."""

    at: float
    text: str


@dataclass(frozen=True)
class Turn:
    """One turn of the agent, and of the caller after it.

    text: what the agent says. barge_in: seconds of playback after which the caller interrupts; None: the caller hears
    all of it. reply: how long the caller then speaks, as a multiple of the seconds that the agent was heard.
    """

    text: str
    barge_in: float | None
    reply: float


@dataclass(frozen=True)
class PlannedCall:
    """A call that comes at `at` seconds, has these turns and then ends."""

    at: float
    turns: tuple[Turn, ...]


def planned_calls(rate: float, seconds: float, turns: float, seed: int) -> list[PlannedCall]:
    """Phone calls at random moments, `rate` a second, for so many seconds; of `turns` turns each on average."""
    random = Random(f"{seed} planned")
    calls = []
    for at in poisson_arrivals(rate, seconds, random):
        many = 1 + round(random.expovariate(1 / (turns - 1))) if turns > 1 else 1
        calls.append(PlannedCall(at, tuple(islice(phone_turns(Random(random.random())), many))))
    return calls


def phone_turns(random: Random) -> Iterator[Turn]:
    """The turns of a phone call, without end: one or two sentences each; the agent speaks half of the time."""
    while True:
        text = " ".join(random.choice(SENTENCES) for _ in range(random.choice((1, 1, 2))))
        barge_in = random.uniform(1.5, 3.5) if random.random() < _BARGE_INS else None
        yield Turn(text, barge_in, random.uniform(0.5, 1.5))


def model_pieces(text: str) -> list[Piece]:
    """A text as a language model streams it: a token every 17 ms."""
    starts = range(0, len(text), _TOKEN_CHARS)
    return [Piece(n * _TOKEN_SECONDS, text[at : at + _TOKEN_CHARS]) for n, at in enumerate(starts)]

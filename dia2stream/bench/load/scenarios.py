"""The kinds of calls in a load test. Each is a coroutine that holds one call.

    request      one sentence, all of its text at once, heard to its end, as open-loop benchmarks send them
    phone_call   agent and caller take turns; text comes in pieces as from a language model; the caller interrupts
    monologue    speaks without pause
    starter      starts again and again, and stops each time when the first sample has come

Those that have no end run until they are cancelled.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import TypeAlias

from dia2stream.bench.load.clients import CallClient
from dia2stream.bench.load.listener import Listener
from dia2stream.bench.load.results import CallRecord
from dia2stream.bench.load.script import Piece, Turn, model_pieces, phone_turns
from dia2stream.bench.load.sentences import SENTENCES
from dia2stream.errors import EngineError
from dia2stream.protocol.fields import MAX_SEED
from dia2stream.protocol.messages import Inject, Pause, Reset, Start

_PATIENCE = 30.0  # seconds without progress after which a call has failed
_QUEUED = 2  # utterances of a monologue that wait to be spoken


@dataclass
class Call:
    """What a scenario works with. start: makes a start command with the options of speech."""

    client: CallClient
    listener: Listener
    record: CallRecord
    random: Random
    start: Callable[..., Start]

    def sentence(self) -> str:
        """Something to say."""
        return f"[S1] {self.random.choice(SENTENCES)}"

    async def begin(self, text: str, id: str, final: bool = True) -> None:
        """Begins a conversation."""
        await self.client.send(self.start(text, id=id, final=final, seed=self.random.randint(0, MAX_SEED)))

    async def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Waits for a condition of the listener. Raises EngineError when that takes too long."""
        if not await self.listener.until(condition, _PATIENCE):
            raise EngineError(f"no {what} for {_PATIENCE:g} s")


Scenario: TypeAlias = Callable[[Call], Awaitable[None]]


async def request(call: Call) -> None:
    """One sentence, heard to its end."""
    listener = call.listener
    listener.expect_turn()
    listener.words_come()
    await call.begin(call.sentence(), "0")
    await call.wait(lambda: listener.speaking, "sound")
    await call.wait(lambda: listener.is_done("0"), "end of the sentence")


async def monologue(call: Call) -> None:
    """Speaks without pause: there is always another sentence in the queue. Its first sample is not recorded."""
    listener = call.listener
    listener.expect_turn()
    await call.begin(call.sentence(), "0")
    for number in count(1):
        await call.client.send(Inject(call.sentence(), id=str(number)))
        due = str(number - _QUEUED + 1)
        if number >= _QUEUED:
            await call.wait(lambda due=due: listener.is_done(due), "end of a sentence")  # type: ignore[misc]


async def starter(call: Call) -> None:
    """Starts again and again, each time a new conversation, of which only the first sample is wanted."""
    listener = call.listener
    while True:
        listener.forget()
        listener.expect_turn()
        listener.words_come()
        await call.begin(call.sentence(), "0")
        await call.wait(lambda: listener.speaking, "sound")
        await call.client.send(Reset())
        await call.wait(lambda: listener.is_reset, "answer to a reset")
        await asyncio.sleep(call.random.uniform(0.2, 0.6))


async def phone_call(call: Call, turns: Iterable[Turn] | None = None) -> None:
    """Agent and caller take turns, each speaking about half of the time. turns: None is without end."""
    for number, turn in enumerate(phone_turns(call.random) if turns is None else turns):
        heard = await _agent_turn(call, turn, number)
        await asyncio.sleep(turn.reply * heard)


async def _agent_turn(call: Call, turn: Turn, number: int) -> float:
    """The agent says its text, as far as the caller lets it. Returns the seconds that were heard."""
    listener, id, begins_at_ms = call.listener, str(number), call.listener.heard_ms
    listener.expect_turn()
    sending = asyncio.create_task(_send_pieces(call, model_pieces(f"[S1] {turn.text}"), id))
    try:
        await call.wait(lambda: listener.speaking, "sound")
        if turn.barge_in is not None and await _reaches(call, turn.barge_in, id):
            sending.cancel()
            await _barge_in(call, begins_at_ms)
        else:
            await sending
            await call.wait(lambda: listener.is_done(id), "end of a turn")
            await asyncio.sleep(listener.playback.left(_now()))
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    return listener.playback.played(_now())


async def _send_pieces(call: Call, pieces: Sequence[Piece], id: str) -> None:
    """Sends a text as the language model has it."""
    began = _now()
    call.listener.words_come()
    for index, piece in enumerate(pieces):
        await asyncio.sleep(began + piece.at - _now())
        final = index == len(pieces) - 1
        if id == "0" and index == 0:
            await call.begin(piece.text, id, final)
        else:
            await call.client.send(Inject(piece.text, id=id, final=final))


async def _reaches(call: Call, seconds: float, id: str) -> bool:
    """Waits until so much of a turn has been played. Returns False if the turn ends before."""
    playback = call.listener.playback
    while (missing := seconds - playback.played(_now())) > 0:
        if call.listener.is_done(id) and playback.received < seconds:
            return False
        await asyncio.sleep(max(missing, 0.01))
    return True


async def _barge_in(call: Call, begins_at_ms: float) -> None:
    """The caller interrupts a turn that began at a place of the audio clock; times the answer."""
    listener, asked = call.listener, _now()
    listener.paused = False
    await call.client.send(Pause(begins_at_ms + 1000 * listener.playback.played(asked)))
    await call.wait(lambda: listener.paused, "answer to a pause")
    call.record.pauses.append(_now() - asked)


def _now() -> float:
    return asyncio.get_running_loop().time()

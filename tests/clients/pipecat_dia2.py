"""Pipecat with our own service: interruptions early, in mid-speech, late and twice, a false one, and what was heard."""

import asyncio
import contextlib

from pipecat.frames.frames import InterruptionFrame
from pipecat_pipeline import RATE, Agent, restart, run, silence
from report import FIRST, KEY, LONG, SECOND, WS_URL, tell

from dia2stream.plugins.pipecat import Dia2TTSService


class Interruptions:
    """What the service says that was heard."""

    def __init__(self, tts: Dia2TTSService) -> None:
        self._heard: asyncio.Queue = asyncio.Queue()

        @tts.event_handler("on_speech_interrupted")
        async def on_speech_interrupted(tts, spoken: str, pending: str) -> None:
            self._heard.put_nowait((spoken, pending))

    async def tell(self, name: str, seconds: float = 120, but: str = "") -> None:
        """Of the next interruption; but: a text that was never said, if it is that of the one before, told late."""
        spoken, pending = await asyncio.wait_for(self._heard.get(), seconds)
        if but and not spoken and pending == but:
            spoken, pending = await asyncio.wait_for(self._heard.get(), seconds)
        tell("heard", name=name, spoken=spoken, pending=pending)


async def played(agent: Agent, seconds: float) -> None:
    while len(agent.speaker.played) < seconds * RATE * 2:
        await asyncio.sleep(0.01)


async def main() -> None:
    tts = Dia2TTSService(url=WS_URL, token=KEY, seed=2)
    heard = Interruptions(tts)

    async def talk(agent: Agent) -> None:
        await asyncio.sleep(0.5)
        await agent.turn("turn", FIRST, "turn")
        await agent.cut("cut", LONG, "cut", 1.5)
        await heard.tell("cut")

        # Before anything sounds; the text may not even have reached the service.
        agent.begin()
        await agent.reply(FIRST)
        await agent.worker.queue_frame(InterruptionFrame())
        await asyncio.sleep(0.5)
        with contextlib.suppress(asyncio.TimeoutError):
            await heard.tell("early", 10)
        tell("early", seconds=len(agent.speaker.played) / 2 / RATE)

        # When all was sent, and most of it is still to be played.
        agent.begin()
        await agent.reply(SECOND)
        await played(agent, 1.2)
        await agent.worker.queue_frame(InterruptionFrame())
        await heard.tell("late", but=FIRST)
        await asyncio.sleep(0.5)
        agent.end("late", "late")

        for number in (1, 2):
            await agent.cut("twice", LONG, f"twice-{number}", 0.8)
            await heard.tell(f"twice-{number}")

        # One that was none: what the player threw away is said again, and the rest.
        agent.begin()
        await agent.reply(FIRST)
        await played(agent, 1.5)
        await agent.worker.queue_frame(InterruptionFrame())
        await heard.tell("false")
        agent.notes.finished.clear()
        agent.notes.begun = False
        tell("resumed", resumed=await tts.resume())
        await silence(agent.notes, 180)
        agent.end("whole", "whole")

        await agent.turn("after", SECOND, "after")
        tell("nothing", resumed=await tts.resume())
        await tts.listen(b"\0\0" * 16000, "Hello?", sample_rate=16000)
        await agent.turn("listened", SECOND, "listened")
        await restart(agent)
        await agent.worker.cancel()

    await run(Agent(tts), talk)


asyncio.run(main())

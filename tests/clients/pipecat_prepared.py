"""Pipecat with our own service: a reply that is said, one that was prepared and is committed, one that is discarded.

Each is said in a conversation of its own with the same words in it, so that one must sound like the other.
"""

import asyncio

from pipecat.frames.frames import EagerEndOfTurnCancelFrame, TTSSpeakFrame
from pipecat_pipeline import Agent, run, silence
from report import FIRST, KEY, SECOND, WS_URL, frames_made, tell

from dia2stream.plugins.pipecat import Dia2TTSService

GREETING = "Hello there."


async def converse(name: str) -> None:
    """One conversation: a greeting, and an answer."""
    tts = Dia2TTSService(url=WS_URL, token=KEY, seed=2)

    async def answer(agent: Agent) -> None:
        await agent.say(GREETING)
        agent.begin()
        before = await frames_made()
        if name == "discarded":
            await tts.prepare(FIRST)
            await frames_made(more_than=before)
            await agent.worker.queue_frame(EagerEndOfTurnCancelFrame())
            await asyncio.sleep(0.2)
            assert not await tts.commit()
        if name == "committed":
            await tts.prepare(SECOND)
            await frames_made(more_than=before)
        assert not agent.speaker.played
        tell("made", early=await frames_made() - before)
        agent.begin()
        if name == "committed":
            assert await tts.commit()
        else:
            await agent.worker.queue_frame(TTSSpeakFrame(SECOND))
        await silence(agent.notes, 60)
        agent.end(name, name)
        await agent.worker.cancel()

    await run(Agent(tts), answer)


async def main() -> None:
    for name in ("usual", "committed", "discarded"):
        await converse(name)


asyncio.run(main())

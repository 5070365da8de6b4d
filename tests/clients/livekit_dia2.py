"""LiveKit Agents with our own plugin: a session that plays in real time, is interrupted, and says what was heard."""

import asyncio
import contextlib

from livekit.agents import Agent, AgentSession
from livekit_loudspeaker import RATE, Loudspeaker
from report import FIRST, KEY, LONG, MODE, SECOND, WS_URL, Stopwatch, asked_meanwhile, save, tell, tell_turn, wait

from dia2stream.plugins import livekit as dia2


async def main() -> None:
    speaker = dia2.TTS(url=WS_URL, token=KEY, seed=2)
    interruptions: asyncio.Queue = asyncio.Queue()
    speaker.on("speech_interrupted", interruptions.put_nowait)
    metrics: list = []
    speaker.on("metrics_collected", metrics.append)
    session = AgentSession(tts=speaker)
    loudspeaker = Loudspeaker()
    session.output.audio = loudspeaker
    await session.start(Agent(instructions=""))
    speaker.follow(session)

    def begin() -> None:
        loudspeaker.played.clear()
        loudspeaker.watch = Stopwatch()

    async def turn(what: str, text: str) -> None:
        begin()
        await session.say(text, allow_interruptions=True)
        seconds = save(what, bytes(loudspeaker.played), RATE)
        tell(what, seconds=seconds, first_ms=loudspeaker.watch.first_ms, ttfb=[each.ttfb for each in metrics])

    async def cut(what: str, text: str, seconds: float) -> None:
        begin()
        speech = session.say(text, allow_interruptions=True)
        while len(loudspeaker.played) < seconds * RATE * 2:
            await asyncio.sleep(0.01)
        await session.interrupt()
        await speech
        heard = await asyncio.wait_for(interruptions.get(), 120)
        if not heard.spoken and heard.pending == FIRST != text:  # of the early one, told late
            heard = await asyncio.wait_for(interruptions.get(), 120)
        tell("heard", name=what, spoken=heard.spoken, pending=heard.pending, heard_ms=heard.heard_ms)
        tell(what, seconds=save(what, bytes(loudspeaker.played), RATE))

    async def early() -> None:
        """Before anything sounds; the text may not even have been sent."""
        begin()
        speech = session.say(FIRST, allow_interruptions=True)
        await asyncio.sleep(0.03)
        await session.interrupt()
        await speech
        with contextlib.suppress(asyncio.TimeoutError):
            heard = await asyncio.wait_for(interruptions.get(), 10)
            tell("heard", name="early", spoken=heard.spoken, pending=heard.pending, heard_ms=heard.heard_ms)
        tell("early", seconds=save("early", bytes(loudspeaker.played), RATE))

    async def pause() -> None:
        """What LiveKit does when it is not sure of an interruption: its player stands still, and then goes on."""
        begin()
        speech = session.say(FIRST, allow_interruptions=True)
        while len(loudspeaker.played) < RATE * 2:
            await asyncio.sleep(0.01)
        loudspeaker.pause()
        await asyncio.sleep(1)
        seconds = len(loudspeaker.played) / 2 / RATE
        loudspeaker.resume()
        await speech
        tell("paused", stood_at=seconds, seconds=save("paused", bytes(loudspeaker.played), RATE))

    if MODE == "turns":
        async for name, text in asked_meanwhile():
            begin()
            await session.say(text)
            tell_turn(name, bytes(loudspeaker.played), loudspeaker.watch)
        await session.aclose()
        await speaker.aclose()
        return

    await turn("turn", FIRST)
    await cut("cut", LONG, 1.5)
    await early()
    await cut("late", SECOND, 1.2)
    await cut("twice-1", LONG, 0.8)
    await cut("twice-2", LONG, 0.8)
    await pause()
    await turn("after", SECOND)
    await speaker.listen(b"\0\0" * 16000, "Hello?", sample_rate=16000)
    await turn("listened", SECOND)
    tell("restart")
    await asyncio.to_thread(wait)
    await turn("restarted", SECOND)
    await session.aclose()
    await speaker.aclose()


asyncio.run(main())

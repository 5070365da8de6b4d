"""LiveKit Agents with our own plugin: a session that plays in real time, is interrupted, and says what was heard."""

import asyncio
import time

from livekit import rtc
from livekit.agents import Agent, AgentSession
from livekit.agents.voice import io
from report import FIRST, KEY, LONG, SECOND, WS_URL, Stopwatch, save, tell, wait

from dia2stream.plugins import livekit as dia2

RATE = 24000


class Loudspeaker(io.AudioOutput):
    """Plays into memory, in real time."""

    def __init__(self) -> None:
        super().__init__(label="loudspeaker", capabilities=io.AudioOutputCapabilities(pause=False), sample_rate=RATE)
        self.played = bytearray()
        self.watch = Stopwatch()
        self._segment = 0.0  # seconds of it that were played
        self._waiting: asyncio.Queue = asyncio.Queue()
        self._cleared = False
        self._playing = asyncio.create_task(self._play())

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        self._waiting.put_nowait(frame)

    def flush(self) -> None:
        super().flush()
        self._waiting.put_nowait(None)

    def clear_buffer(self) -> None:
        waiting = not self._waiting.empty() or self._segment > 0
        while not self._waiting.empty():
            self._waiting.get_nowait()
        if waiting:
            self._finish(interrupted=True)

    def _finish(self, interrupted: bool) -> None:
        position, self._segment = self._segment, 0.0
        self.on_playback_finished(playback_position=position, interrupted=interrupted)

    async def _play(self) -> None:
        due = 0.0
        while True:
            frame = await self._waiting.get()
            if frame is None:
                if self._segment:
                    self._finish(interrupted=False)
                continue
            if not self._segment:
                self.on_playback_started(created_at=time.time())
            self.watch.sound()
            self.played += bytes(frame.data)
            self._segment += frame.duration
            due = max(due, time.monotonic()) + frame.duration
            await asyncio.sleep(max(0.0, due - time.monotonic()))


async def main() -> None:
    speaker = dia2.TTS(url=WS_URL, token=KEY, seed=2)
    interruptions: asyncio.Queue = asyncio.Queue()
    speaker.on("speech_interrupted", interruptions.put_nowait)
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
        tell(what, seconds=seconds, first_ms=loudspeaker.watch.first_ms)

    async def cut(what: str, text: str, seconds: float) -> None:
        begin()
        speech = session.say(text, allow_interruptions=True)
        while len(loudspeaker.played) < seconds * RATE * 2:
            await asyncio.sleep(0.01)
        await session.interrupt()
        await speech
        heard = await asyncio.wait_for(interruptions.get(), 10)
        tell("heard", name=what, spoken=heard.spoken, pending=heard.pending)
        tell(what, seconds=save(what, bytes(loudspeaker.played), RATE))

    await turn("turn", FIRST)
    await cut("cut", LONG, 1.5)
    await cut("late", SECOND, 1.2)
    await cut("twice-1", LONG, 0.8)
    await cut("twice-2", LONG, 0.8)
    await turn("after", SECOND)
    await speaker.listen(b"\0\0" * 16000, "Hello?", sample_rate=16000)
    await turn("listened", SECOND)
    tell("restart")
    await asyncio.to_thread(wait)
    await turn("restarted", SECOND)
    await session.aclose()
    await speaker.aclose()


asyncio.run(main())

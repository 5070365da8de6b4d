"""A loudspeaker for LiveKit's sessions that says how much of a speech it has played."""

import asyncio
import time

from livekit import rtc
from livekit.agents.voice import io
from report import Stopwatch

RATE = 24000


class Loudspeaker(io.AudioOutput):
    """Plays into memory, in real time."""

    def __init__(self) -> None:
        super().__init__(label="loudspeaker", capabilities=io.AudioOutputCapabilities(pause=True), sample_rate=RATE)
        self.played = bytearray()
        self.watch = Stopwatch()
        self._segment = 0.0  # seconds of it that were played
        self._waiting: asyncio.Queue = asyncio.Queue()
        self._may_play = asyncio.Event()
        self._may_play.set()
        self._playing = asyncio.create_task(self._play())

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        self._waiting.put_nowait(frame)

    def flush(self) -> None:
        super().flush()
        self._waiting.put_nowait(None)

    def pause(self) -> None:
        super().pause()
        self._may_play.clear()

    def resume(self) -> None:
        super().resume()
        self._may_play.set()

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
            await self._may_play.wait()
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

"""Pipecat: one of its own TTS services in a pipeline with a loudspeaker that plays in real time.

python pipecat_pipeline.py URL KEY FOLDER whole|turns SERVICE
"""

import asyncio
import contextlib
import sys
import time

from loguru import logger
from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    MetricsFrame,
    OutputAudioRawFrame,
    StartFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.cartesia.tts import CartesiaTTSService
from pipecat.services.deepgram.flux.tts import DeepgramFluxTTSService
from pipecat.services.deepgram.tts import DeepgramTTSService
from pipecat.services.elevenlabs.tts import ElevenLabsTTSService
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner
from report import (
    FIRST,
    KEY,
    LONG,
    MODE,
    SECOND,
    SERVICE,
    URL,
    WS_URL,
    Stopwatch,
    asked_meanwhile,
    save,
    tell,
    tell_turn,
    tokens,
    wait,
)

RATE = 24000
PATIENT = {"stop_frame_timeout_s": 30}  # a busy machine may take longer than usual to begin
SERVICES = {
    "openai": lambda: OpenAITTSService(api_key=KEY, base_url=f"{URL}/v1", **PATIENT),
    "cartesia": lambda: CartesiaTTSService(
        api_key=KEY, url=f"{WS_URL}/tts/websocket", settings=CartesiaTTSService.Settings(voice="any"), **PATIENT
    ),
    "deepgram": lambda: DeepgramTTSService(api_key=KEY, base_url=WS_URL, **PATIENT),
    "flux": lambda: DeepgramFluxTTSService(api_key=KEY, url=f"{WS_URL}/v2/speak", **PATIENT),
    "elevenlabs": lambda: ElevenLabsTTSService(
        api_key=KEY,
        url=WS_URL,
        settings=ElevenLabsTTSService.Settings(voice="any", model="eleven_flash_v2_5"),
        **PATIENT,
    ),
}


class Loudspeaker(BaseOutputTransport):
    """Plays into memory, in real time."""

    def __init__(self) -> None:
        super().__init__(TransportParams(audio_out_enabled=True, audio_out_sample_rate=RATE))
        self.played = bytearray()
        self.watch = Stopwatch()
        self.stalled = 0.0  # seconds for which there was nothing to play, in the midst of speech
        self._play_at = 0.0

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        self.watch.sound()
        now = time.monotonic()
        if self.played:
            self.stalled += max(0.0, now - self._play_at)
        self.played += frame.audio
        self._play_at = max(self._play_at, now) + len(frame.audio) / 2 / RATE
        await asyncio.sleep(max(0.0, self._play_at - time.monotonic()))
        return True


class Notes(FrameProcessor):
    """What reaches the end of the pipeline."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.begun = False
        self.errors: list[str] = []
        self.metrics: set[str] = set()
        self.finished = asyncio.Event()  # the service has given all of a turn, and all of it was played

    def begin(self) -> None:
        """Notes a turn from its beginning."""
        self.words.clear()
        self.finished.clear()
        self.begun = False

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSTextFrame):
            self.words.append(frame.text)
        elif isinstance(frame, MetricsFrame):
            self.metrics |= {type(each).__name__ for each in frame.data}
        elif isinstance(frame, TTSStartedFrame):
            self.begun = True
        elif isinstance(frame, TTSStoppedFrame) and self.begun:  # else it is of the turn before
            self.finished.set()
        await self.push_frame(frame, direction)


async def silence(notes: Notes, seconds: float) -> None:
    """Waits for the end of what is played, at most so long. Not for a gap, at which pipecat says that it stopped."""
    await asyncio.wait_for(notes.finished.wait(), seconds)
    await asyncio.sleep(1)  # words go by the clock


class Agent:
    """The pipeline, and turns of it."""

    def __init__(self, service) -> None:
        self.speaker, self.notes = Loudspeaker(), Notes()
        self.worker = PipelineWorker(
            Pipeline([service, self.speaker, self.notes]),
            params=PipelineParams(audio_out_sample_rate=RATE, enable_metrics=True, enable_usage_metrics=True),
            cancel_on_idle_timeout=False,
        )

        @self.worker.event_handler("on_pipeline_error")
        async def on_error(worker, frame: ErrorFrame) -> None:
            self.notes.errors.append(frame.error)

    def begin(self) -> None:
        self.speaker.played.clear()
        self.speaker.stalled = 0.0
        self.notes.begin()
        self.speaker.watch = Stopwatch()

    async def reply(self, text: str) -> None:
        """What an LLM gives, token by token."""
        await self.worker.queue_frame(LLMFullResponseStartFrame())
        for token in tokens(text):
            await self.worker.queue_frame(LLMTextFrame(token))
            await asyncio.sleep(0.005)
        await self.worker.queue_frame(LLMFullResponseEndFrame())

    def end(self, what: str, name: str) -> None:
        seconds = save(name, bytes(self.speaker.played), RATE)
        sound = {"seconds": seconds, "first_ms": self.speaker.watch.first_ms, "stalled": self.speaker.stalled}
        notes = {"words": [*self.notes.words], "errors": self.notes.errors, "metrics": sorted(self.notes.metrics)}
        tell(what, **sound, **notes)

    async def say(self, text: str) -> None:
        """A turn that is heard to its end."""
        self.begin()
        await self.reply(text)
        await silence(self.notes, 180)

    async def turn(self, what: str, text: str, name: str) -> None:
        await self.say(text)
        self.end(what, name)

    async def cut(self, what: str, text: str, name: str, played_s: float) -> None:
        """A turn that the user interrupts when so much of it was played."""
        self.begin()
        replying = asyncio.create_task(self.reply(text))
        while len(self.speaker.played) < played_s * RATE * 2:
            await asyncio.sleep(0.01)
        await self.worker.queue_frame(InterruptionFrame())
        await replying
        await asyncio.sleep(0.5)
        self.end(what, name)


async def talk(agent: Agent) -> None:
    await asyncio.sleep(0.5)
    await agent.turn("turn", FIRST, "turn-1")
    await agent.cut("cut", LONG, "cut", 1.5)
    await agent.turn("after", SECOND, "after")
    await restart(agent)
    await agent.worker.cancel()


async def talk_in_turns(agent: Agent) -> None:
    await asyncio.sleep(0.5)
    async for name, text in asked_meanwhile():
        await agent.say(text)
        tell_turn(name, bytes(agent.speaker.played), agent.speaker.watch)
    await agent.worker.cancel()


async def restart(agent: Agent) -> None:
    """The server goes away and comes back."""
    tell("restart")
    await asyncio.to_thread(wait)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # turns until one is heard: a service may need one to find its socket gone
        agent.begin()
        await agent.reply(SECOND)
        with contextlib.suppress(asyncio.TimeoutError):
            await silence(agent.notes, 30)
            if len(agent.speaker.played) > RATE * 2:
                break
            await asyncio.sleep(1)  # turns that fail at once may all fail before the server is back
    agent.end("restarted", "restarted")


async def run(agent: Agent, talk) -> None:
    """The pipeline, for as long as the talk goes on."""
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(agent.worker)
    talking = asyncio.create_task(talk_in_turns(agent) if MODE == "turns" else talk(agent))
    await runner.run()
    await talking


async def main() -> None:
    await run(Agent(SERVICES[SERVICE]()), talk)


if __name__ == "__main__":
    asyncio.run(main())

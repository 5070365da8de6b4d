"""LiveKit Agents with our own plugin and `preemptive_tts`: replies that are made before the caller's turn is over.

A session in which a caller speaks: what is heard of them, and what the language model answers, are made up. Each
conversation has the same words in it, so that one must sound like the other.
"""

import asyncio

from livekit import rtc
from livekit.agents import Agent, AgentSession, llm, stt
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS
from livekit.agents.voice import io
from livekit_loudspeaker import RATE, Loudspeaker
from report import KEY, WS_URL, frames_made, save, tell

from dia2stream.plugins import livekit as dia2

GREETING, REPLY, NEVER = "Hello there.", "It takes about twenty minutes.", "Please close the window before you leave."
ASKED, GOES_ON = "How long does it take?", "How long does it take to cook the rice?"
THINKING = 2.0  # seconds from the guess that the caller's turn is over to its end
SPOKEN = b"\0\1" * 8000  # what the caller says, as sound

Type = stt.SpeechEventType


class Quiet(io.AudioInput):
    """A microphone in a quiet room."""

    def __init__(self) -> None:
        super().__init__(label="quiet")

    async def __anext__(self) -> rtc.AudioFrame:
        await asyncio.sleep(0.05)
        return rtc.AudioFrame.create(RATE, 1, RATE // 20)


class Ears(stt.STT):
    """Hears what it is told to."""

    def __init__(self) -> None:
        super().__init__(capabilities=stt.STTCapabilities(streaming=True, interim_results=True))
        self.heard: asyncio.Queue[stt.SpeechEvent] = asyncio.Queue()

    async def _recognize_impl(self, buffer, *, language, conn_options):
        raise NotImplementedError

    def stream(self, *, language=None, conn_options=DEFAULT_API_CONNECT_OPTIONS) -> stt.RecognizeStream:
        return EarsStream(stt=self, conn_options=conn_options)

    def hear(self, type: Type, text: str = "") -> None:
        alternatives = [stt.SpeechData("en", text, confidence=1.0)] if text else []
        self.heard.put_nowait(stt.SpeechEvent(type, alternatives=alternatives))


class EarsStream(stt.RecognizeStream):
    async def _run(self) -> None:
        while True:
            self._event_ch.send_nowait(await self._stt.heard.get())


class Brain(llm.LLM):
    """Says what it was told to say to a question."""

    def __init__(self, answers: dict[str, str]) -> None:
        super().__init__()
        self.answers = answers

    def chat(self, *, chat_ctx, tools=None, conn_options=DEFAULT_API_CONNECT_OPTIONS, **rest) -> llm.LLMStream:
        return BrainStream(self, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options)


class BrainStream(llm.LLMStream):
    async def _run(self) -> None:
        asked = self._chat_ctx.messages()[-1].text_content
        self._event_ch.send_nowait(llm.ChatChunk(id="1", delta=llm.ChoiceDelta(content=self._llm.answers[asked])))


class Call:
    """A conversation of one question and one answer."""

    def __init__(self, name: str, answers: dict[str, str], preemptive_tts: bool) -> None:
        self.preemptive = preemptive_tts
        self.name, self.ears, self.loudspeaker = name, Ears(), Loudspeaker()
        self.speaker = dia2.TTS(url=WS_URL, token=KEY, seed=2)
        self.session = AgentSession(
            tts=self.speaker,
            stt=self.ears,
            vad=None,
            llm=Brain(answers),
            turn_handling={
                "turn_detection": "stt",
                "endpointing": {"min_delay": 0.0},
                "preemptive_generation": {"preemptive_tts": preemptive_tts},
            },
        )

    async def run(self, ask) -> None:
        self.session.output.audio = self.loudspeaker
        self.session.input.audio = Quiet()
        await self.session.start(Agent(instructions=""))
        self.speaker.follow(self.session)
        await self.session.say(GREETING)
        self.loudspeaker.played.clear()
        before = await frames_made()
        self.ears.hear(Type.START_OF_SPEECH)
        await ask(self)
        if self.preemptive:
            await frames_made(more_than=before)
        await self._answered(before)
        await self.session.aclose()
        await self.speaker.aclose()

    async def _answered(self, before: int) -> None:
        """The end of the caller's turn, and all of the answer. before: the frames made before the question."""
        spoken = asyncio.Event()
        self.loudspeaker.on("playback_finished", lambda _: spoken.set())
        await self.speaker.listen(SPOKEN, "How long?", sample_rate=16000)
        await asyncio.sleep(THINKING)
        early = {"unheard": not self.loudspeaker.played, "made": await frames_made() - before}
        self.ears.hear(Type.FINAL_TRANSCRIPT, self.question)
        self.ears.hear(Type.END_OF_SPEECH)
        await asyncio.wait_for(spoken.wait(), 120)
        played = bytes(self.loudspeaker.played)
        tell(self.name, **early, seconds=save(self.name, played, RATE))


async def asks(call: Call) -> None:
    """LiveKit guesses that the caller has asked this, and is right."""
    call.question = ASKED
    call.ears.hear(Type.PREFLIGHT_TRANSCRIPT, ASKED)


async def goes_on(call: Call) -> None:
    """LiveKit's guess is wrong: the caller goes on."""
    call.question = GOES_ON
    call.ears.hear(Type.PREFLIGHT_TRANSCRIPT, ASKED)
    await asyncio.sleep(THINKING)
    call.ears.hear(Type.INTERIM_TRANSCRIPT, GOES_ON)


async def main() -> None:
    await Call("usual", {ASKED: REPLY}, preemptive_tts=False).run(asks)
    await Call("confirmed", {ASKED: REPLY}, preemptive_tts=True).run(asks)
    await Call("dropped", {ASKED: NEVER, GOES_ON: REPLY}, preemptive_tts=True).run(goes_on)


asyncio.run(main())

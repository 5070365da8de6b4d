"""Pipecat's text-to-speech service for this server: `pip install 'dia2stream[pipecat]'`.

    tts = Dia2TTSService(url="ws://127.0.0.1:8765", token="secret")
    pipeline = Pipeline([..., llm, tts, transport.output(), ...])

    @tts.event_handler("on_speech_interrupted")
    async def on_speech_interrupted(tts, spoken: str, pending: str):
        ...                     # what the caller heard of this turn, and what not; `await tts.resume()` goes on with it

One service is one conversation: its voice, its prosody and what was said stay from turn to turn, also when the
connection breaks. Tokens are spoken as they come. After an interruption, early, in mid-speech, or late when all was
sent and some is still to be played, the model's memory holds exactly what was played. Pipecat tells no position, so it
is reckoned from when the bot started speaking.

What the caller said can be given to the model, so that the reply answers how it was said: `tts.listen(pcm, text)`.

A reply can be made before it is sure that it is wanted: `await tts.prepare(text)`, then `await tts.commit()`, which
plays it at once, or `await tts.discard()`, after which it never was. An interruption discards it too, and so does an
`EagerEndOfTurnCancelFrame`.
"""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from loguru import logger
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    CancelFrame,
    EagerEndOfTurnCancelFrame,
    EndFrame,
    Frame,
    InterruptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessorSetup
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TextAggregationMode, TTSService

from dia2stream.plugins.playback import Playback
from dia2stream.plugins.talk import Again, Lost, Sound, Talk
from dia2stream.protocol.messages import Done, Error, FirstAudio, Listen, Notice, Paused, WordEvent

_RATES = (8000, 16000, 24000)
# Pipecat ends a turn that gives no sound for so long. Ours end by themselves, but for a server that is lost.
_SILENT_SECONDS = 20.0


@dataclass
class CommitFrame(TTSSpeakFrame):
    """The prepared reply of this text is wanted now. reply: its id, and that of its context."""

    reply: str = ""


class Dia2TTSService(TTSService):
    """See above. url: the server's address. voice: one that the server has. seed: of the sound, for repetition.

    Event handlers beside those of every service: on_speech_interrupted(service, spoken, pending).
    """

    Settings = TTSSettings
    _settings: TTSSettings

    def __init__(
        self,
        *,
        url: str = "ws://127.0.0.1:8765",
        token: str | None = None,
        voice: str | None = None,
        seed: int | None = None,
        sample_rate: int | None = None,
        text_aggregation_mode: TextAggregationMode = TextAggregationMode.TOKEN,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            push_text_frames=False,
            push_start_frame=True,
            sample_rate=sample_rate,
            text_aggregation_mode=text_aggregation_mode,
            append_trailing_space=True,
            stop_frame_timeout_s=_SILENT_SECONDS,
            settings=TTSSettings(model="dia2", voice=voice, language=None),
            **kwargs,
        )
        self._url, self._token, self._seed = url, token, seed
        self._talk: Talk | None = None
        self._receiving: asyncio.Task[None] | None = None
        self._playback = Playback()
        self._plays_next_ms: float | None = None  # where what is played next stands on the talk's clock
        self._begins_ms: dict[str, float] = {}  # of each context that is not done, on that clock
        self._prepared_text = ""  # of the reply that is prepared
        self._committing: str | None = None  # the reply whose context is made next
        self._dropped: set[str] = set()  # contexts that were interrupted
        self._resumed: set[str] = set()  # those of them that are said on, and whose words pipecat has forgotten
        self._register_event_handler("on_speech_interrupted")

    def can_generate_metrics(self) -> bool:
        """Time to the first byte, and characters."""
        return True

    @property
    def supports_processing_metrics(self) -> bool:
        """Text is handed over; when it is spoken is not known to who hands it over."""
        return False

    # ---- Its life ----

    async def setup(self, setup: FrameProcessorSetup) -> None:
        """Connects."""
        await super().setup(setup)
        if self.sample_rate not in _RATES:
            raise ValueError(f"sample_rate must be one of {', '.join(map(str, _RATES))}, not {self.sample_rate}")
        self._talk = Talk(
            self._url,
            token=self._token,
            voice=self._settings.voice if isinstance(self._settings.voice, str) else None,
            seed=self._seed,
            sample_rate=self.sample_rate,
        )
        self._talk.open()
        self._receiving = self.create_task(self._receive(self._talk))

    async def stop(self, frame: EndFrame) -> None:
        """Disconnects."""
        await super().stop(frame)
        await self._disconnect()

    async def cancel(self, frame: CancelFrame) -> None:
        """Disconnects."""
        await super().cancel(frame)
        await self._disconnect()

    async def cleanup(self) -> None:
        """Disconnects."""
        await super().cleanup()
        await self._disconnect()

    async def _disconnect(self) -> None:
        talk, self._talk = self._talk, None
        if talk is not None:
            await talk.close()
            await self._call_event_handler("on_disconnected")
        if self._receiving is not None:
            await self.cancel_task(self._receiving)
            self._receiving = None

    # ---- Text ----

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Hands text over; its sound comes by itself."""
        if self._talk is not None:
            if self._talk.prepared == context_id:
                await self._talk.commit(context_id)
            else:
                await self._talk.say(context_id, text)
            await self.start_tts_usage_metrics(text)
        yield None

    async def flush_audio(self, context_id: str | None = None) -> None:
        """The turn's text is complete."""
        if self._talk is not None and context_id is not None:
            await self._talk.end(context_id)

    async def listen(self, pcm: bytes, text: str = "", *, sample_rate: int = 16000) -> None:
        """What the caller said, mono PCM16, up to 4 s at 24 kHz at a time, for the reply to answer."""
        if self._talk is not None:
            await self._talk.listen(Listen(base64.b64encode(pcm).decode(), text, sample_rate=sample_rate))

    # ---- Prepared replies ----

    async def prepare(self, text: str) -> None:
        """Makes a reply in advance, in place of one that was prepared before. Only `commit` has it heard."""
        if self._talk is not None:
            self._prepared_text = text
            await self._talk.prepare(str(uuid.uuid4()), text, final=True)

    async def commit(self) -> bool:
        """Plays the prepared reply as a TTSSpeakFrame of its text would be. Returns False when there is none."""
        if self._talk is None or self._talk.prepared is None:
            return False
        await self.queue_frame(CommitFrame(self._prepared_text, reply=self._talk.prepared))
        return True

    async def discard(self) -> None:
        """The prepared reply is not wanted, and never was. No error when there is none."""
        if self._talk is not None and self._talk.prepared is not None:
            await self._talk.discard(self._talk.prepared)

    def create_context_id(self) -> str:
        """That of the reply that is committed, or a new one."""
        id, self._committing = self._committing, None
        return id or super().create_context_id()

    # ---- Interruptions ----

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Notes when the bot speaks, and what becomes of the prepared reply; all else is as in every service."""
        if isinstance(frame, InterruptionFrame | EagerEndOfTurnCancelFrame):
            await self.discard()
        elif isinstance(frame, CommitFrame):
            self._committing = frame.reply
        if isinstance(frame, BotStartedSpeakingFrame):
            self._playback.started(time.monotonic(), self._plays_next_ms)
            self._plays_next_ms = None
        elif isinstance(frame, BotStoppedSpeakingFrame) and self._playback.playing and self._talk is not None:
            self._playback.stopped(self._talk.received_ms)
        await super().process_frame(frame, direction)

    async def _handle_interruption(self, frame: InterruptionFrame, direction: FrameDirection) -> None:
        """Also when all was sent: what the player still holds is not going to be heard."""
        if self._talk is not None and not self._plays_on():
            position_ms = self._playback.position_ms(time.monotonic(), self._talk.received_ms)
            self._playback.interrupted(position_ms)
            self._plays_next_ms = None
            self._dropped |= {*self._begins_ms}
            self._resumed.clear()
            heard = await self._talk.interrupt(position_ms)
            if heard is not None:
                self.create_task(self._tell(heard))
        await super()._handle_interruption(frame, direction)

    def _plays_on(self) -> bool:
        """Whether what is said may not be interrupted."""
        return any(not context.interruptible for context in self._tts_contexts.values())

    async def _tell(self, heard: asyncio.Future[Paused]) -> None:
        paused = await heard
        await self._call_event_handler("on_speech_interrupted", paused.spoken, paused.pending)

    async def resume(self) -> bool:
        """Goes on after an interruption that was none. Returns False when something else was said since."""
        return self._talk is not None and await self._talk.resume()

    # ---- Sound ----

    async def _receive(self, talk: Talk) -> None:
        async for item in talk:
            match item:
                case Sound():
                    await self._sound(item)
                case Again():
                    self._resumed, self._dropped = self._dropped, set()
                case FirstAudio():
                    self._begins_ms.setdefault(item.id, talk.received_ms)
                case WordEvent():
                    await self._word(item)
                case Done():
                    await self._done(item.id)
                case Error():
                    await self.push_error(error_msg=f"{self}: {item.code}: {item.message}")
                case Notice():
                    logger.debug(f"{self}: {item.code}: {item.message}")
                case Lost():
                    logger.warning(f"{self}: {item.reason}")
                    await self._call_event_handler("on_connection_error", item.reason)

    async def _sound(self, sound: Sound) -> None:
        if sound.id in self._dropped:
            return
        await self._open_again(sound.id, sound.at_ms)
        if sound.at_ms <= self._begins_ms.get(sound.id, 0.0) and not self._playback.playing:
            self._plays_next_ms = sound.at_ms
        frame = TTSAudioRawFrame(sound.pcm, self.sample_rate, 1, context_id=sound.id)
        await self.append_to_audio_context(sound.id, frame)

    async def _word(self, event: WordEvent) -> None:
        if event.id in self._dropped:
            return
        await self._open_again(event.id, event.start_ms)
        if event.id in self._resumed:
            frame = TTSTextFrame(event.word, "word")
            frame.context_id = event.id
            await self.append_to_audio_context(event.id, frame)
        elif event.id in self._begins_ms:
            seconds = (event.start_ms - self._begins_ms[event.id]) / 1000
            await self.add_word_timestamps([(event.word, seconds)], event.id)

    async def _open_again(self, id: str, at_ms: float) -> None:
        """A context that was interrupted is resumed; pipecat has thrown it away."""
        if id in self._resumed and not self.audio_context_available(id):
            self._begins_ms[id] = at_ms
            await self.create_audio_context(id)
            await self.append_to_audio_context(id, TTSStartedFrame(context_id=id))

    async def _done(self, id: str) -> None:
        self._begins_ms.pop(id, None)
        for ids in (self._resumed, self._dropped):
            ids.discard(id)
        if self.audio_context_available(id):
            await self.append_to_audio_context(id, TTSStoppedFrame(context_id=id))
            await self.remove_audio_context(id)

"""A LiveKit Agents text-to-speech plugin for this server: `pip install 'dia2stream[livekit]'`.

    from dia2stream.plugins import livekit as dia2

    speaker = dia2.TTS(url="ws://127.0.0.1:8765", token="secret")
    session = AgentSession(tts=speaker, ...)
    await session.start(agent, room=ctx.room)
    speaker.follow(session)         # LiveKit knows what was played: tell the model exactly that
    speaker.on("speech_interrupted", lambda paused: print(paused.spoken, "|", paused.pending))

One TTS is one conversation: its voice, its prosody and what was said stay from turn to turn, also when the connection
breaks. Tokens are spoken as they come, and words have their times. After an interruption, early, in mid-speech, or late
when all was sent and some is still to be played, the model's memory holds exactly what was played. Without `follow` the
position is reckoned from when the sound came.

With `preemptive_tts` LiveKit has a reply spoken before it is sure that the caller's turn is over. Such a reply is a
prepared one: its sound is made, and leaves the server when LiveKit wants the reply. If LiveKit drops the reply, the
model's memory is as if there had been none. What is listened to meanwhile goes before the reply. This works without
`follow` too, but `follow` saves up to 10 ms.

A false interruption is LiveKit's own to resume: it pauses its player and goes on. What the caller said can be given to
the model, so that the reply answers how it was said: `await speaker.listen(pcm, text)`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import contextvars
import time
from collections import deque
from typing import Any, cast

from livekit.agents import APIConnectionError, APIConnectOptions, APIError, tts, utils
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS
from livekit.agents.voice import SpeechHandle
from livekit.agents.voice.io import TimedString

from dia2stream import __version__
from dia2stream.plugins.playback import Playback
from dia2stream.plugins.talk import Item, Lost, Sound, Talk
from dia2stream.protocol.messages import Done, Error, Listen, Paused, WordEvent
from dia2stream.waits import within

# How long after a speech was given up LiveKit may take to tell how much of it was played.
_TOLD_SECONDS = 3.0
# LiveKit tells nobody that it wants a speech that was made in advance: the speech is looked at so often.
_LOOK_SECONDS = 0.01


class TTS(tts.TTS):
    """See above. url: the server's address. voice: one that the server has. seed: of the sound, for repetition.

    Emits `speech_interrupted` with what was heard, and `connection_lost` with a reason.
    """

    def __init__(
        self,
        *,
        url: str = "ws://127.0.0.1:8765",
        token: str | None = None,
        voice: str | None = None,
        seed: int | None = None,
        sample_rate: int = 24000,
    ) -> None:
        super().__init__(
            capabilities=tts.TTSCapabilities(streaming=True, aligned_transcript=True),
            sample_rate=sample_rate,
            num_channels=1,
        )
        self._options = {"token": token, "voice": voice, "seed": seed, "sample_rate": sample_rate}
        self._url = url
        self._talk: Talk | None = None
        self._receiving: asyncio.Task[None] | None = None
        self._streams: dict[str, asyncio.Queue[Item]] = {}
        self._played = Playback()
        self._followed = False
        self._begun: deque[tuple[str, float]] = deque()  # utterances that sounded and were not played to their end
        # Those that nobody wants any more, and of which it is not told what was played; each with who waits for that.
        self._given_up: dict[str, asyncio.Task[None]] = {}
        self._more_is_said = asyncio.Event()
        self._turn_is_over = asyncio.Event()  # of the caller: LiveKit may want what was made in advance
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def model(self) -> str:
        """The model's name."""
        return f"dia2stream {__version__}"

    @property
    def provider(self) -> str:
        """Who serves it."""
        return "dia2stream"

    # ---- Speech ----

    def synthesize(self, text: str, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS) -> Any:
        """A whole text."""
        return self._synthesize_with_stream(text, conn_options=conn_options)

    def stream(self, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS) -> SynthesizeStream:
        """Text as it comes."""
        return SynthesizeStream(tts=self, conn_options=conn_options)

    def prewarm(self) -> None:
        """Connects."""
        self.talk()

    async def listen(self, pcm: bytes, text: str = "", *, sample_rate: int = 24000) -> None:
        """What the caller said, mono PCM16, up to 4 s at 24 kHz at a time, for the reply to answer."""
        await self.talk().listen(Listen(base64.b64encode(pcm).decode(), text, sample_rate=sample_rate))

    async def aclose(self) -> None:
        """Hangs up."""
        talk, self._talk = self._talk, None
        if talk is not None:
            await talk.close()
        if self._receiving is not None:
            await self._receiving
            self._receiving = None

    def talk(self) -> Talk:
        """The conversation."""
        if self._talk is None:
            self._talk = Talk(self._url, **cast("dict[str, Any]", self._options))
            self._talk.open()
            self._receiving = asyncio.create_task(self._receive(self._talk))
        return self._talk

    async def commit(self, id: str, speech: SpeechHandle) -> None:
        """Says a prepared reply as soon as LiveKit wants its speech."""
        while not speech.scheduled:
            self._turn_is_over.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await within(_LOOK_SECONDS, self._turn_is_over.wait())
        await self.settle()
        await self.talk().commit(id)

    # ---- What was played ----

    def follow(self, session: Any) -> None:
        """Hears from the session's player what was played. Call it when the session has started."""
        output = session.output.audio
        if output is None:
            raise ValueError("the session has no audio output yet: call follow after session.start")
        output.on("playback_started", self._playback_started)
        output.on("playback_finished", self._playback_finished)
        session.on("conversation_item_added", lambda _: self._turn_is_over.set())
        self._followed = True

    def _playback_started(self, event: Any) -> None:
        if self._begun:
            self._played.started(time.monotonic(), self._begun[0][1])

    def _playback_finished(self, event: Any) -> None:
        if not self._begun:
            return
        id, begins_ms = self._begun.popleft()
        self._given_up.pop(id, None)
        position_ms = begins_ms + event.playback_position * 1000
        if event.interrupted:
            self._streams.pop(id, None)  # LiveKit may close the stream only later; it is not to be said again till then
            self._do(self._interrupt(position_ms))
        else:
            self._played.stopped(position_ms)

    def begins(self, id: str, at_ms: float) -> None:
        """The sound of an utterance begins to come. If no player is followed, it counts as played from now on."""
        self._begun.append((id, at_ms))
        now = time.monotonic()
        if not self._followed and (not self._played.playing or self._played.position_ms(now, at_ms) >= at_ms):
            self._played.started(now, at_ms)

    def give_up(self, id: str) -> None:
        """Nobody wants the rest of an utterance: the player will say how much of it was played, or the clock does."""
        if self._streams.pop(id, None) is None:
            return  # the player has told already
        if self._talk is not None and self._talk.prepared == id:
            self._do(self._talk.discard(id))
            return
        self._given_up[id] = self._do(self._interrupt_unless_told(id))

    async def _interrupt_unless_told(self, id: str) -> None:
        position_ms = self._played.position_ms(time.monotonic(), self.talk().received_ms)
        if self._followed and any(id == begun for begun, _ in self._begun):
            with contextlib.suppress(asyncio.TimeoutError):
                await within(_TOLD_SECONDS, self._more_is_said.wait())
        if self._given_up.pop(id, None) is not None:
            self._begun = deque(begun for begun in self._begun if begun[0] != id)
            await self._interrupt(position_ms)

    async def settle(self) -> None:
        """Before more is said: what was given up is interrupted now, as later that would interrupt what is new."""
        if self._given_up:
            self._more_is_said.set()
            try:
                await asyncio.wait({*self._given_up.values()})
            finally:
                self._more_is_said.clear()

    async def _interrupt(self, position_ms: float) -> None:
        self._played.interrupted(position_ms)
        heard = await self.talk().interrupt(position_ms, keep=self._streams)
        if heard is not None:
            self._do(self._tell(heard))

    async def _tell(self, heard: asyncio.Future[Paused]) -> None:
        self.emit("speech_interrupted", await heard)

    def _do(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # ---- What comes ----

    def register(self, id: str) -> asyncio.Queue[Item]:
        """What will come for an utterance."""
        return self._streams.setdefault(id, asyncio.Queue())

    def done(self, id: str) -> None:
        """All of an utterance was taken."""
        self._streams.pop(id, None)
        if not self._followed:
            self._begun.clear()

    async def _receive(self, talk: Talk) -> None:
        async for item in talk:
            if isinstance(item, Lost):
                self.emit("connection_lost", item.reason)
                for queue in self._streams.values():
                    queue.put_nowait(item)
            elif isinstance(item, Sound | WordEvent | Done | Error) and item.id in self._streams:
                self._streams[item.id].put_nowait(item)


class SynthesizeStream(tts.SynthesizeStream):
    """One reply: an utterance of the conversation."""

    def __init__(self, *, tts: TTS, conn_options: APIConnectOptions) -> None:
        super().__init__(tts=tts, conn_options=conn_options)
        self._dia2 = tts

    async def _run(self, output_emitter: Any) -> None:
        id, speaker = utils.shortuuid(), self._dia2
        items = speaker.register(id)
        output_emitter.initialize(
            request_id=id, sample_rate=speaker.sample_rate, num_channels=1, mime_type="audio/pcm", stream=True
        )
        output_emitter.start_segment(segment_id=id)
        tasks: list[asyncio.Task[None]] = []
        try:
            if (speech := speech_in_advance()) is not None:
                await speaker.talk().prepare(id)
                tasks.append(asyncio.create_task(self._commit(id, speech)))
            tasks.append(asyncio.create_task(self._write(id, speaker.talk())))
            await self._read(id, items, output_emitter)
            output_emitter.end_input()
            speaker.done(id)
        except BaseException:
            speaker.give_up(id)
            raise
        finally:
            await utils.aio.gracefully_cancel(*tasks)

    async def _write(self, id: str, talk: Talk) -> None:
        async for data in self._input_ch:
            if isinstance(data, str):
                if talk.prepared != id:
                    self._mark_started()
                    await self._dia2.settle()
                await talk.say(id, data)
        await talk.end(id)

    async def _commit(self, id: str, speech: SpeechHandle) -> None:
        await self._dia2.commit(id, speech)
        self._mark_started()

    async def _read(self, id: str, items: asyncio.Queue[Item], emitter: Any) -> None:
        """All of an utterance. Raises APIError for what cannot be said, or when the server stays away."""
        begins_ms: float | None = None
        patience: float | None = None  # seconds, once the server was lost
        while True:
            try:
                item = await within(patience, items.get())
            except asyncio.TimeoutError:
                raise APIConnectionError("the server cannot be reached") from None
            patience = self._conn_options.timeout if isinstance(item, Lost) else None
            match item:
                case Sound():
                    if begins_ms is None:
                        begins_ms = item.at_ms
                        self._dia2.begins(id, begins_ms)
                    emitter.push(item.pcm)
                case WordEvent():
                    emitter.push_timed_transcript(_timed(item, item.start_ms if begins_ms is None else begins_ms))
                case Error():
                    raise APIError(item.message, retryable=False)
                case Done():
                    return


def speech_in_advance() -> SpeechHandle | None:
    """The speech that LiveKit has made before it wants it, if this is one. Each of its tasks knows its speech."""
    known = contextvars.copy_context().values()
    return next((each for each in known if isinstance(each, SpeechHandle) and not each.scheduled), None)


def _timed(word: WordEvent, begins_ms: float) -> Any:
    start, end = word.start_ms, word.start_ms if word.end_ms is None else word.end_ms
    return TimedString(f"{word.word} ", start_time=(start - begins_ms) / 1000, end_time=(end - begins_ms) / 1000)

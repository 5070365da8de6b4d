"""A conversation with a server, over as many connections as it takes, for the plugins of agent frameworks.

    async with Talk("ws://127.0.0.1:8765", token="secret") as talk:
        await talk.say("a", "Hello there. ")
        await talk.say("a", "How are you?", final=True)
        async for item in talk:                 # events of the protocol, and Sound
            ...
        heard = await talk.interrupt(840)       # where the listener is, on the talk's own clock
        await heard                             # Paused: what was heard, and what was not
        await talk.resume()                     # it was nothing: go on, with the sound that the player threw away

    await talk.prepare("c", "Sure, I can ")     # a reply that may never be heard: made in advance, more by `say`
    await talk.commit("c")                      # it is wanted: its sound leaves at once
    await talk.discard("c")                     # or not, and it never was

A connection that breaks is made anew, and the server goes on where it stopped. If the server has forgotten the
conversation, because it was started anew, what was not said yet is said in a new one; the talk's clock goes on.

Needs neither torch nor a framework.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Container
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TypeAlias

from dia2stream.client import Client, connect
from dia2stream.errors import CommandError, Disconnected
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import (
    Command,
    Commit,
    Discard,
    Done,
    Error,
    Event,
    FirstAudio,
    Inject,
    Listen,
    Pause,
    Paused,
    Prepare,
    Resume,
    Start,
    Started,
    WordEvent,
)

SOONEST_RETRY, LATEST_RETRY = 0.1, 2.0  # seconds between two attempts to connect
KEPT_MS = 30_000  # of sound that the listener may not have heard yet
_UNKNOWN = Paused(0, "", "")  # the server that knew what was heard is gone


@dataclass(frozen=True)
class Sound:
    """PCM16 of an utterance. at_ms: where it stands on the talk's clock."""

    id: str
    pcm: bytes
    at_ms: float
    duration_ms: float


@dataclass(frozen=True)
class Again:
    """After an interruption that was none: what was not heard of the sound that came already, and its words, follow."""

    at_ms: float


@dataclass(frozen=True)
class Lost:
    """The server cannot be reached. Goes on trying."""

    reason: str


@dataclass
class _Utterance:
    """text: all of it so far; sent: how many characters of it the server has been sent; said: how far it has spoken."""

    text: str = ""
    final: bool = False
    closed: bool = False  # the server knows that it is final
    sent: int = 0
    said: int = 0
    begin: int = 0  # where in `text` the server's own text of it begins
    prepared: bool = False  # the server has what was sent of it as its prepared reply
    committed: bool = False  # it was one

    @property
    def is_due(self) -> bool:
        """Whether the server lacks something of it."""
        return self.sent < len(self.text) or (self.final and not self.closed)

    def anew(self) -> "_Utterance":
        """The same, of which the server has nothing but what it prepared."""
        return self if self.prepared else _Utterance(self.text, self.final)

    def take(self) -> str:
        """The text that the server lacks, which now is sent."""
        text, self.sent, self.closed = self.text[self.sent :], len(self.text), self.final
        return text

    def forget_sent(self) -> None:
        """The server has nothing of it any more that was not said."""
        self.sent, self.closed, self.prepared = self.begin, False, False


Item: TypeAlias = Event | Sound | Again | Lost


class _Kept:
    """What was received lately, for a listener who goes back to hear it."""

    def __init__(self) -> None:
        self._items: deque[tuple[float, Sound | WordEvent]] = deque()  # with where a sound ends, or a word begins

    def add(self, item: Sound | WordEvent) -> None:
        end_ms = item.at_ms + item.duration_ms if isinstance(item, Sound) else item.start_ms + 1
        self._items.append((end_ms, item))
        while self._items[0][0] < end_ms - KEPT_MS:
            self._items.popleft()

    def since(self, position_ms: float) -> list[Sound | WordEvent]:
        return [item for end_ms, item in self._items if end_ms > position_ms]


class Talk:
    """See above. voice, seed: of the conversation. sample_rate: 8000, 16000 or 24000."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        voice: str | None = None,
        seed: int | None = None,
        sample_rate: int = 24000,
    ) -> None:
        self.sample_rate = sample_rate
        self._url, self._token, self._voice, self._seed = url, token, voice, seed
        self._client: Client | None = None
        self._conversation: str | None = None
        self._begun = False
        self._offset_ms = 0.0  # of the talk's clock to the server's
        self._received_ms = 0.0  # on the server's clock
        self._utterances: dict[str, _Utterance] = {}  # those that are not done, in order
        self._set_aside: dict[str, _Utterance] | None = None  # what was interrupted last, if one can go on with it
        self._reply: tuple[str, _Utterance] | None = None  # what is prepared
        self._refused_reply = False  # the server cannot prepare it: its text waits here until it is wanted
        self._sounding = ""
        self._kept = _Kept()
        self._stopped_at: float | None = None  # where it was interrupted, on the server's clock
        self._asked: deque[asyncio.Future[Paused]] = deque()  # who waits for the answer to each `pause`
        self._items: asyncio.Queue[Item | None] = asyncio.Queue()
        self._running: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()  # of what is sent
        self._catching_up = False  # the server is to say yet how far it has come

    # ---- Its life ----

    async def __aenter__(self) -> "Talk":
        self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    def open(self) -> None:
        """Begins to connect."""
        if self._running is None:
            self._running = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Hangs up. The server keeps the conversation for a while."""
        client = self._client  # which is forgotten when the task ends
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running
            self._running = None
        if client is not None:
            await client.close()
        self._items.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[Item]:
        while (item := await self._items.get()) is not None:
            yield item

    @property
    def received_ms(self) -> float:
        """How much sound has come, on the talk's clock."""
        return self._offset_ms + self._received_ms

    # ---- What is to be said ----

    async def say(self, id: str, text: str, *, final: bool = False) -> None:
        """More text of an utterance or of the prepared reply; a new id begins one, behind those that are not done."""
        if self._reply is not None and self._reply[0] == id:
            utterance = self._reply[1]
        else:
            utterance = self._utterances.setdefault(id, _Utterance())
        utterance.text += text
        utterance.final = utterance.final or final
        await self._send_text()

    async def end(self, id: str) -> None:
        """No more text of it will come. No error for one that is done."""
        if id in self._utterances or id == self.prepared:
            await self.say(id, "", final=True)

    @property
    def prepared(self) -> str | None:
        """The id of the reply that is prepared."""
        return self._reply[0] if self._reply is not None else None

    async def prepare(self, id: str, text: str = "", *, final: bool = False) -> None:
        """Makes a reply in advance, in place of the one that was prepared before. Only `commit` has it heard.

        What is said and listened to meanwhile goes before it in the model's memory.
        """
        before, self._reply = self._reply, (id, _Utterance())
        self._refused_reply = False
        if before is not None and before[1].prepared:
            await self._send(Discard(before[0]))
        await self.say(id, text, final=final)

    async def commit(self, id: str) -> None:
        """The prepared reply is wanted: it is said now, and more of its text may come. No error for any other id."""
        if self._reply is not None and self._reply[0] == id:
            self._utterances[id], self._reply = self._reply[1], None
            await self._send_text()

    async def discard(self, id: str) -> None:
        """The prepared reply is not wanted, and never was. No error for any other id."""
        if self._reply is not None and self._reply[0] == id:
            prepared, self._reply = self._reply[1].prepared, None
            if prepared:
                await self._send(Discard(id))

    async def interrupt(self, position_ms: float, *, keep: Container[str] = ()) -> "asyncio.Future[Paused] | None":
        """Stops now, and forgets what was to be said. Returns what comes to tell what was heard; None if nothing was.

        position_ms: how much the listener has heard, on the talk's clock. keep: ids of utterances that are still to be
        said, from their beginning.
        """
        if not self._begun or self._stopped_at is not None:
            return self._drop_unsent(keep)
        if position_ms >= self.received_ms and not self._utterances:
            return None
        kept = {id: each.anew() for id, each in self._utterances.items() if id in keep}
        self._set_aside = {id: each for id, each in self._utterances.items() if id not in keep}
        self._utterances = kept
        self._stopped_at = max(0.0, min(position_ms, self.received_ms) - self._offset_ms)
        heard = self._ask()
        await self._send(Pause(self._stopped_at))
        await self._send_text()
        return heard

    def _drop_unsent(self, keep: Container[str]) -> "asyncio.Future[Paused] | None":
        """Interrupts what the server has not been sent: of that, nothing was heard."""
        dropped = [self._utterances.pop(id) for id in [*self._utterances] if id not in keep]
        if not dropped:
            return None
        self._set_aside = None
        stood_ms = self._offset_ms + (self._stopped_at or 0.0)
        heard: asyncio.Future[Paused] = asyncio.get_running_loop().create_future()
        heard.set_result(Paused(round(stood_ms), "", " ".join(each.text.strip() for each in dropped)))
        return heard

    def _ask(self) -> "asyncio.Future[Paused]":
        """What the answer to the `pause` that follows will come to."""
        self._asked.append(asyncio.get_running_loop().create_future())
        return self._asked[-1]

    async def resume(self) -> bool:
        """Goes on after an interruption that was none. Returns False when something else was said since."""
        if self._stopped_at is None or self._set_aside is None or self._utterances:
            return False
        position_ms, self._stopped_at = self._stopped_at + self._offset_ms, None
        self._utterances, self._set_aside = self._set_aside, None
        for utterance in self._utterances.values():
            utterance.final = True  # whoever wrote it was told to stop
        if self._reply is not None:
            self._reply[1].forget_sent()  # what was prepared in a pause ends with it
        self._items.put_nowait(Again(position_ms))
        for item in self._kept.since(position_ms):
            self._items.put_nowait(item)
        await self._send(Resume())
        await self._send_text()
        return True

    async def listen(self, command: Listen) -> None:
        """What the caller said, for the reply to answer."""
        await self._send(command)

    async def _send(self, command: Command) -> None:
        """Sends a command if there is a connection; what is to hold for the next one is known by our own state."""
        async with self._lock:
            if self._client is not None and not self._catching_up:
                with contextlib.suppress(Disconnected):
                    await self._client.send(command)

    async def _send_text(self) -> None:
        """Sends what the server does not have of every utterance, in order, and of the prepared reply."""
        async with self._lock:
            if self._client is None or self._catching_up:
                return
            with contextlib.suppress(Disconnected):
                while (command := self._due()) is not None:
                    await self._client.send(command)

    def _due(self) -> Command | None:
        """What the server lacks first."""
        for id, utterance in self._utterances.items():
            if utterance.prepared or utterance.is_due:
                return self._next_of(id, utterance)
            if not utterance.final:
                break  # the next utterance would close this one
        if self._reply is not None and self._reply[1].is_due and not self._refused_reply:
            return self._next_prepared(*self._reply)
        return None

    def _next_of(self, id: str, utterance: _Utterance) -> Command:
        self._stopped_at = self._set_aside = None
        if utterance.prepared:
            utterance.prepared, utterance.committed = False, True
            return Commit(id)
        text = utterance.take()
        if self._begun:
            return Inject(text, id=id, final=utterance.final)
        self._begun = True
        return Start(text, id=id, final=utterance.final, voice=self._voice, seed=self._seed)

    def _next_prepared(self, id: str, reply: _Utterance) -> Command:
        if not self._begun:  # only a conversation that has begun can prepare a reply
            self._begun = True
            return Start("", voice=self._voice, seed=self._seed)
        known, reply.prepared = reply.prepared, True
        return (Inject if known else Prepare)(reply.take(), id=id, final=reply.final)

    # ---- The connection ----

    async def _run(self) -> None:
        wait = SOONEST_RETRY
        while True:
            try:
                client = await connect(
                    self._url,
                    token=self._token,
                    conversation=self._conversation,
                    received_ms=self._received_ms if self._begun else None,
                    sample_rate=self.sample_rate,
                    encoding="pcm16",
                )
                wait = SOONEST_RETRY
                await self._serve(client)
            except CommandError as error:
                if error.code not in ("busy", "overloaded"):
                    self._items.put_nowait(Lost(str(error)))
                    self._items.put_nowait(None)
                    return
                self._items.put_nowait(Lost(str(error)))
            except Disconnected as error:
                self._items.put_nowait(Lost(str(error)))
            finally:
                self._client = None
            await asyncio.sleep(wait)
            wait = min(2 * wait, LATEST_RETRY)

    async def _serve(self, client: Client) -> None:
        """Takes what comes over a connection until it is gone."""
        ready = client.ready
        if self._begun and ready.conversation != self._conversation:
            self._begin_anew()
        self._conversation = ready.conversation
        self._catching_up = self._begun  # until `paused` says how far the server has come
        self._client = client
        self._items.put_nowait(ready)
        await self._send_text()
        while True:
            item = await client.receive()
            self._received_ms = client.received_ms
            if isinstance(item, Audio):
                self._hear(item)
            else:
                await self._take(item)

    def _begin_anew(self) -> None:
        """The server has forgotten all: what was not said yet is said to a new conversation."""
        self._offset_ms += self._received_ms
        self._received_ms, self._begun, self._stopped_at = 0.0, False, None
        if self._reply is not None:
            self._reply[1].forget_sent()
        for id, utterance in [*self._utterances.items()]:
            utterance.begin = utterance.said
            utterance.forget_sent()
            if utterance.final and not utterance.text[utterance.said :].strip():
                del self._utterances[id]
                self._items.put_nowait(Done(id, round(self._offset_ms)))
        self._tell_unknown(0)

    def _hear(self, audio: Audio) -> None:
        duration_ms = audio.samples * 1000 / self.sample_rate
        sound = Sound(self._sounding, audio.data, self.received_ms - duration_ms, duration_ms)
        self._kept.add(sound)
        self._items.put_nowait(sound)

    async def _take(self, event: Event) -> None:
        match event:
            case FirstAudio():
                self._sounding = event.id
            case WordEvent():
                event = self._word(event)
                self._kept.add(event)
            case Done():
                self._utterances.pop(event.id, None)
            case Paused():
                await self._stands(event)
                return
            case Error(code="no_session", field="conversation") | Error(cmd="discard"):
                return  # `ready` has told that already; and what was to be forgotten is not there
            case Error():
                await self._refused(event)
            case Started():
                self._received_ms = 0.0
        self._items.put_nowait(event)
        if isinstance(event, Done):
            await self._send_text()

    def _word(self, event: WordEvent) -> WordEvent:
        """The word on the talk's clock, and in all of its utterance's text."""
        self._sounding = event.id
        utterance = self._utterances.get(event.id)
        begin = utterance.begin if utterance else 0
        if utterance is not None and event.text_end is not None:
            utterance.said = begin + event.text_end
        return WordEvent(
            event.id,
            event.word,
            event.speaker,
            round(event.start_ms + self._offset_ms),
            event.said,
            None if event.end_ms is None else round(event.end_ms + self._offset_ms),
            None if event.text_start is None else begin + event.text_start,
            None if event.text_end is None else begin + event.text_end,
        )

    async def _stands(self, paused: Paused) -> None:
        """The conversation stands still: because it was interrupted, or because the connection was gone for a while."""
        if not self._catching_up:
            paused = replace(paused, heard_ms=round(paused.heard_ms + self._offset_ms))
            self._tell_heard(paused)
            self._items.put_nowait(paused)
            return
        self._catching_up = False
        self._tell_unknown(0 if self._stopped_at is None else 1)
        if self._stopped_at is not None:  # it was interrupted while nobody could be told
            await self._send(Pause(self._stopped_at))
        else:
            self._find_out_what_arrived(paused)
            await self._send(Resume())
        await self._prepare_anew()
        await self._send_text()

    async def _prepare_anew(self) -> None:
        """A commit that never arrived would leave its reply prepared: more of its text would only go on with that."""
        for id, utterance in self._utterances.items():
            if utterance.prepared or utterance.committed:
                await self._send(Discard(id))  # which is refused where the commit did arrive
        for utterance in [*self._utterances.values(), *([self._reply[1]] if self._reply is not None else [])]:
            if utterance.prepared:
                utterance.forget_sent()

    def _find_out_what_arrived(self, paused: Paused) -> None:
        """What was under way when the connection broke may never have come: it is sent again."""
        known: dict[str, int] = {}
        for word in paused.words:
            known[word.id] = max(known.get(word.id, 0), word.text_end)
        for id, utterance in self._utterances.items():
            arrived = max(utterance.begin + known.get(id, 0), utterance.said)
            begun_word = utterance.text[arrived : utterance.sent].strip()
            if not (begun_word and paused.pending.rstrip().endswith(begun_word)):
                utterance.sent = min(utterance.sent, arrived)
            utterance.closed = False

    async def _refused(self, error: Error) -> None:
        """An utterance that cannot be said is over. The next ones are said without it."""
        if error.cmd == "start":
            self._begun = False
        if error.cmd == "pause":
            await self._pause_refused(error)
        if self._reply is not None and self._reply[0] == error.id:
            await self._reply_refused(*self._reply)
        utterance = self._utterances.get(error.id or "")
        if utterance is None:
            return
        if error.code == "no_session":  # it came behind a start that was refused
            utterance.sent, utterance.closed = utterance.begin, False
        else:
            self._utterances.pop(error.id or "")
        await self._send_text()

    async def _reply_refused(self, id: str, reply: _Utterance) -> None:
        """The text of the prepared reply waits here; what is wrong with it is told when it is to be said."""
        self._refused_reply = True
        if reply.prepared:
            reply.forget_sent()
            await self._send(Discard(id))

    async def _pause_refused(self, error: Error) -> None:
        """If it was too long ago to go back to, all that was sent counts as heard."""
        if error.code == "bad_field":
            await self._send(Pause())
        else:
            self._tell_heard(_UNKNOWN)

    def _tell_heard(self, paused: Paused) -> None:
        """The answer to the oldest `pause`."""
        if self._asked:
            heard = self._asked.popleft()
            if not heard.done():
                heard.set_result(paused)

    def _tell_unknown(self, but: int) -> None:
        """No answer will come any more to any `pause` but so many of the last ones."""
        while len(self._asked) > but:
            self._tell_heard(_UNKNOWN)

"""The plugin for LiveKit Agents: what it does with what a player tells, in whatever order that comes.

The framework is not here; what stands in for it has the few names that the plugin takes from it. scripts/test-clients
runs the plugin in the real one.
"""

import asyncio
import contextvars
import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from piping import PATIENCE
from serving import on_loop

from dia2stream.plugins.talk import Sound
from dia2stream.protocol.messages import Done, Paused, WordEvent

LONG = "[S1] One two three four five six seven eight nine ten. " * 6


class Emitter:
    """LiveKit's TTS, and its audio output: events by name."""

    def __init__(self, **options: Any) -> None:
        self._heard: dict[str, list[Callable[..., None]]] = {}

    def on(self, name: str, function: Callable[..., None]) -> None:
        self._heard.setdefault(name, []).append(function)

    def emit(self, name: str, *told: object) -> None:
        for function in self._heard.get(name, []):
            function(*told)


class Handle:
    """LiveKit's handle of a speech. scheduled: whether LiveKit wants it."""

    def __init__(self) -> None:
        self.scheduled = False


class Session(Emitter):
    """A session that plays with an output."""

    def __init__(self, audio: Emitter) -> None:
        super().__init__()
        self.output = SimpleNamespace(audio=audio)


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The plugin, beside a framework of names."""
    tts = SimpleNamespace(TTS=Emitter, SynthesizeStream=object, TTSCapabilities=SimpleNamespace)
    errors = {name: type(name, (Exception,), {}) for name in ("APIError", "APIConnectionError")}
    modules = {
        "livekit": {},
        "livekit.agents": {"tts": tts, "utils": SimpleNamespace(), "APIConnectOptions": object, **errors},
        "livekit.agents.types": {"DEFAULT_API_CONNECT_OPTIONS": None},
        "livekit.agents.voice": {"SpeechHandle": Handle},
        "livekit.agents.voice.io": {"TimedString": str},
    }
    for name, names in modules.items():
        module = ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "dia2stream.plugins.livekit", raising=False)
    yield importlib.import_module("dia2stream.plugins.livekit")
    del sys.modules["dia2stream.plugins.livekit"]


class Speech:
    """One that a player plays. Its items come from the plugin."""

    def __init__(self, speaker: Any, id: str) -> None:
        self.id, self.words, self.ended = id, [], False
        self._speaker, self._items = speaker, speaker.register(id)
        self._sounded = False

    async def say(self, text: str) -> None:
        await self._speaker.settle()
        await self._speaker.talk().say(self.id, text, final=True)

    async def hear(self, seconds: float = 1e9) -> None:
        """Until so much of it has come, or all of it."""
        heard_ms = 0.0
        while heard_ms < seconds * 1000 and not self.ended:
            item = await asyncio.wait_for(self._items.get(), PATIENCE)
            if isinstance(item, Sound):
                if not self._sounded:
                    self._speaker.begins(self.id, item.at_ms)
                self._sounded = True
                heard_ms += item.duration_ms
            elif isinstance(item, WordEvent):
                self.words.append(item.word)
            self.ended = isinstance(item, Done)


def stopped(output: Emitter, seconds: float) -> None:
    """The player says how much of a speech it has played when it was interrupted."""
    output.emit("playback_finished", SimpleNamespace(playback_position=seconds, interrupted=True))


@pytest.mark.parametrize("player_tells", ["first", "last", "never"])
def test_an_interrupted_speech_is_told_once_and_never_said_again(impatient, plugin, player_tells):
    @on_loop
    async def check() -> None:
        speaker, output, told = plugin.TTS(url=impatient.url, seed=3), Emitter(), []
        speaker.on("speech_interrupted", told.append)
        speaker.follow(Session(output))
        first = Speech(speaker, "a")
        await first.say(LONG)
        await first.hear(2)
        if player_tells == "first":
            stopped(output, 0.8)
            await asyncio.sleep(0)
        speaker.give_up("a")
        if player_tells == "last":
            stopped(output, 0.8)
        second = Speech(speaker, "b")
        await second.say("Eleven twelve.")
        await second.hear()
        assert second.words == ["Eleven", "twelve."]
        assert [type(each) for each in told] == [Paused]
        assert told[0].pending
        if player_tells != "never":
            assert told[0].heard_ms == 800
        await speaker.aclose()

    check()


@on_loop
async def test_a_speech_that_was_never_played_was_not_heard(impatient, plugin):
    speaker, output, told = plugin.TTS(url=impatient.url, seed=3), Emitter(), []
    speaker.on("speech_interrupted", told.append)
    speaker.follow(Session(output))
    first = Speech(speaker, "a")
    await first.say("One two three four.")
    await first.hear()
    started(output)
    output.emit("playback_finished", SimpleNamespace(playback_position=1.2, interrupted=False))
    second = Speech(speaker, "b")
    await second.say(LONG)
    await second.hear(2)
    speaker.give_up("b")
    third = Speech(speaker, "c")
    await third.say("Eleven.")
    await third.hear()
    assert third.words == ["Eleven."]
    assert [(each.heard_ms, each.pending.split()[-10:]) for each in told] == [(1200, LONG.split()[-10:])]
    await speaker.aclose()


def started(output: Emitter) -> None:
    """The player has begun to play a speech."""
    output.emit("playback_started", SimpleNamespace(created_at=0.0))


@pytest.mark.parametrize("followed", [True, False])
def test_a_prepared_reply_is_said_when_livekit_wants_it_or_else_never_was(impatient, plugin, followed):
    @on_loop
    async def check() -> None:
        speaker, session = plugin.TTS(url=impatient.url, seed=3), Session(Emitter())
        if followed:
            speaker.follow(session)
        before = Speech(speaker, "a")
        await before.say("One two.")
        await before.hear()
        for id in ("never", "b"):
            speech, handle = Speech(speaker, id), Handle()
            await speaker.talk().prepare(id)
            await speaker.talk().say(id, "Three four.", final=True)
            committing = asyncio.create_task(speaker.commit(id, handle))
            await asyncio.sleep(0.3)
            assert speaker.talk().prepared == id
            if id == "never":
                committing.cancel()
                speaker.give_up(id)
        handle.scheduled = True
        session.emit("conversation_item_added", None)
        await committing
        assert speaker.talk().prepared is None
        await speech.hear()
        assert speech.words == ["Three", "four."]
        await speaker.aclose()

    check()


@pytest.mark.parametrize("turns", range(5))
def test_a_reply_that_livekit_drops_just_as_a_turn_ends_is_not_waited_for(plugin, turns):
    @on_loop
    async def check() -> None:
        speaker, session = plugin.TTS(), Session(Emitter())
        speaker.follow(session)
        committing = asyncio.create_task(speaker.commit("a", Handle()))
        await asyncio.sleep(0)
        session.emit("conversation_item_added", None)
        for _ in range(turns):  # of the event loop
            await asyncio.sleep(0)
        committing.cancel()
        await asyncio.wait({committing}, timeout=1)
        assert committing.cancelled()

    check()


def test_a_stream_knows_whether_its_speech_is_made_in_advance(plugin):
    speech = Handle()
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("speech")
    assert plugin.speech_in_advance() is None
    variable.set(speech)
    assert plugin.speech_in_advance() is speech
    speech.scheduled = True
    assert plugin.speech_in_advance() is None

"""Has a model speak: in process, through `dia2stream pipe` or through `dia2stream serve`.

    with EngineVoice(model, speech, slots=4) as voice:
        spoken = asyncio.run(voice.speak([Task("[S1] Hello there.", seed=1)]))

A `Task` is one conversation: a text, and perhaps an interruption by another text. `Spoken` is what a listener got. All
three ways take the same commands and give the same items, so one function, `converse`, holds every conversation.
"""

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dia2stream.client import Client, connect
from dia2stream.items import FRAME_MS, FRAME_SAMPLES, Frame
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import (
    Command,
    Done,
    Error,
    Event,
    Inject,
    Pause,
    Paused,
    Resume,
    Resumed,
    Start,
    WordEvent,
    dump_command,
    parse_event,
)

SAMPLE_RATE = FRAME_SAMPLES * 1000 // FRAME_MS
Sound = NDArray[np.float32]


@dataclass(frozen=True)
class Interruption:
    """Once the listener has heard `heard_ms` of audio, `text` is said instead of the rest."""

    heard_ms: int
    text: str


@dataclass(frozen=True)
class Task:
    """What one conversation is asked to say.

    pauses: once all is said, what would be told of a listener who had heard these shares of it, 0 to 1.
    """

    text: str
    seed: int
    interruption: Interruption | None = None
    pauses: tuple[float, ...] = ()


@dataclass
class Spoken:
    """What came of a task: float32 sound at 24 kHz, as it was sent, and the events.

    cut: samples that were sent before an interruption. The listener threw away those behind `heard`.
    """

    task: Task
    sound: Sound
    events: list[Event] = field(default_factory=list)
    cut: int | None = None

    @property
    def words(self) -> list[WordEvent]:
        """The words told, of both texts."""
        return [event for event in self.events if isinstance(event, WordEvent)]

    @property
    def pauses(self) -> list[Paused]:
        """The answers to pauses."""
        return [event for event in self.events if isinstance(event, Paused)]

    @property
    def heard(self) -> Sound:
        """Before an interruption, what was heard."""
        return self.sound[: self.pauses[0].heard_ms * SAMPLE_RATE // 1000]

    @property
    def reply(self) -> Sound:
        """What came after an interruption."""
        return self.sound[self.cut :]


class Line(Protocol):
    """A conversation's two directions."""

    async def send(self, command: Command) -> None:
        """Hands over a command."""

    async def receive(self) -> Event | Sound:
        """The next event, or the next piece of sound."""


class _Listener:
    """Collects what one conversation gives."""

    def __init__(self, line: Line, task: Task) -> None:
        self._line, self._task = line, task
        self._pieces: list[Sound] = []
        self.events: list[Event] = []
        self.samples = 0

    async def until(self, enough: Callable[[Event | Sound], bool]) -> None:
        """Listens until an item is there that is enough. Raises RuntimeError for an error event."""
        while True:
            item = await self._line.receive()
            if isinstance(item, Error):
                raise RuntimeError(f"{self._task.text!r}: {item.message}")
            if isinstance(item, np.ndarray):
                self._pieces.append(item)
                self.samples += len(item)
            else:
                self.events.append(item)
            if enough(item):
                return

    @property
    def sound(self) -> Sound:
        """All of it."""
        return np.concatenate([np.zeros(0, np.float32), *self._pieces])


async def converse(line: Line, task: Task) -> Spoken:
    """Holds one conversation. Raises RuntimeError when the model answers with an error."""
    listener, cut = _Listener(line, task), None
    await line.send(Start(task.text, id="text", seed=task.seed))
    if task.interruption is None:
        await listener.until(lambda item: isinstance(item, Done))
    else:
        needed = task.interruption.heard_ms * SAMPLE_RATE // 1000
        await listener.until(lambda item: isinstance(item, Done) or listener.samples >= needed)
        await line.send(Pause(task.interruption.heard_ms))
        await listener.until(lambda item: isinstance(item, Paused))
        cut = listener.samples
        await line.send(Inject(task.interruption.text, id="reply"))
        await listener.until(lambda item: isinstance(item, Done) and item.id == "reply")
    for share in task.pauses:
        await line.send(Pause(round(share * listener.samples * 1000 / SAMPLE_RATE)))
        await line.send(Resume())
        await listener.until(lambda item: isinstance(item, Resumed))
    return Spoken(task, listener.sound, listener.events, cut)


async def speak_all(
    tasks: Sequence[Task],
    lines: Callable[[], contextlib.AbstractAsyncContextManager[Line]],
    at_once: int,
    tell: Callable[[], None],
) -> list[Spoken]:
    """Speaks tasks, so many at once, each on a line of its own; calls `tell` behind each."""
    free = asyncio.Semaphore(at_once)

    async def one(task: Task) -> Spoken:
        async with free, lines() as line:
            spoken = await converse(line, task)
        tell()
        return spoken

    return list(await asyncio.gather(*map(one, tasks)))


def no_progress() -> None:
    """For who does not want to be told."""


# ---- In process ----


class EngineLine:
    """A session of an engine in this process."""

    def __init__(self, session: Any) -> None:
        self._session, self._items = session, aiter(session)

    async def send(self, command: Command) -> None:
        self._session.submit(command)

    async def receive(self) -> Event | Sound:
        while True:
            item = await anext(self._items)
            if isinstance(item, Frame):
                return item.pcm
            if isinstance(item, Event):
                return item


class EngineVoice:
    """An engine in this process, which steps its slots together."""

    def __init__(self, engine: Any) -> None:
        self.engine, self._slots = engine, engine.free

    async def speak(self, tasks: Sequence[Task], tell: Callable[[], None] = no_progress) -> list[Spoken]:
        """Speaks tasks, one in each slot."""
        return await speak_all(tasks, self._line, self._slots, tell)

    @contextlib.asynccontextmanager
    async def _line(self) -> AsyncIterator[Line]:
        session = self.engine.conversation(queue_frames=4)
        try:
            yield EngineLine(session)
        finally:
            session.close()
            while not session.released:
                await asyncio.sleep(0.01)


# ---- Through pipe ----


class PipeLine:
    """A running `dia2stream pipe --framed`, which one conversation after another may use.

    Sound and events come on two streams. So a `done` waits until the sound that it counts is there.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process, self._samples = process, 0
        self._items: asyncio.Queue[Event | Sound | None] = asyncio.Queue()
        self._done: list[Done] = []
        self._readers = [asyncio.create_task(self._read_sound()), asyncio.create_task(self._read_events())]

    async def send(self, command: Command) -> None:
        assert self._process.stdin is not None
        if isinstance(command, Start):
            self._samples = 0
        self._process.stdin.write(dump_command(command).encode() + b"\n")
        await self._process.stdin.drain()

    async def receive(self) -> Event | Sound:
        while True:
            if self._done and self._samples * 1000 >= self._done[0].audio_ms * SAMPLE_RATE:
                return self._done.pop(0)
            item = await self._items.get()
            if item is None:
                raise RuntimeError("pipe ended before its time")
            if isinstance(item, Done):
                self._done.append(item)
                continue
            if isinstance(item, np.ndarray):
                self._samples += len(item)
            return item

    async def _read_sound(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                count = int.from_bytes(await self._process.stdout.readexactly(4), "little")
                self._items.put_nowait(_floats(await self._process.stdout.readexactly(2 * count)))
        self._items.put_nowait(None)

    async def _read_events(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            if json.loads(line)["event"] not in ("ready", "log"):
                self._items.put_nowait(parse_event(line))


async def speak_through_pipe(
    flags: Sequence[str], tasks: Sequence[Task], tell: Callable[[], None] = no_progress
) -> list[Spoken]:
    """Speaks tasks one after the other through one `dia2stream pipe` with these flags."""
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(*_DIA2STREAM, "pipe", "--framed", *flags, **pipes)
    try:
        line = PipeLine(process)

        @contextlib.asynccontextmanager
        async def same_line() -> AsyncIterator[Line]:
            yield line

        return await speak_all(tasks, same_line, 1, tell)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await _end(process)


# ---- Through serve ----


class ServeLine:
    """A connection to a server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def send(self, command: Command) -> None:
        await self._client.send(command)

    async def receive(self) -> Event | Sound:
        item = await self._client.receive()
        return _floats(item.data) if isinstance(item, Audio) else item


async def speak_through_serve(
    flags: Sequence[str], tasks: Sequence[Task], tell: Callable[[], None] = no_progress
) -> list[Spoken]:
    """Speaks tasks through a `dia2stream serve` of our own with these flags, two at once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["serve", "--host", "127.0.0.1", "--port", str(port), "--slots", "2", *flags]
    silent = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(*_DIA2STREAM, *command, **silent)
    try:
        await _ready(process, port)

        @contextlib.asynccontextmanager
        async def connection() -> AsyncIterator[Line]:
            async with connect(f"ws://127.0.0.1:{port}", wait=30) as client:
                yield ServeLine(client)
                await client.hang_up()  # the slot is free at once

        return await speak_all(tasks, connection, 2, tell)
    finally:
        process.terminate()
        await _end(process)


async def _ready(process: asyncio.subprocess.Process, port: int) -> None:
    """Waits until the server answers; what it logs is read away. Raises RuntimeError when it ends instead."""
    assert process.stderr is not None
    ended = asyncio.create_task(process.stderr.read())
    while not ended.done():
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
            answer = await reader.readline()
            writer.close()
            if b" 200 " in answer:
                return
        await asyncio.wait([ended], timeout=0.3)
    raise RuntimeError(f"serve ended before its time: {ended.result().decode(errors='replace')[-500:]}")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Waits for the end of a process that was asked to end, and ends it after 20 s."""
    try:
        await asyncio.wait_for(process.wait(), 20)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()


_DIA2STREAM = (sys.executable, "-m", "dia2stream")


def _floats(pcm16: bytes) -> Sound:
    return np.frombuffer(pcm16, "<i2").astype(np.float32) / 32768

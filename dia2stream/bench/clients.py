"""Who `bench` is in a conversation: a client of the engine in this process, or of a server.

Both block: `next` returns the next event or frame together with the moment at which it was there.
"""

import asyncio
import contextlib
import queue
import threading
import time
from typing import Protocol

from dia2stream.bench.steps import EngineWatch
from dia2stream.client import connect
from dia2stream.engine.engine import Engine
from dia2stream.engine.session import Session
from dia2stream.errors import Dia2StreamError, EngineError
from dia2stream.items import Cut, Frame
from dia2stream.protocol.messages import Command, Event, Ready

_SILENCE = 60.0  # seconds without a message after which a server is taken for dead


class BenchClient(Protocol):
    """A client in one conversation."""

    def submit(self, command: Command) -> None:
        """Sends a command and returns at once."""

    def next(self) -> tuple[Event | None, float]:
        """The next event, or None for a frame of 80 ms, and when it arrived, on the clock of time.perf_counter.

        Raises EngineError when the conversation is over.
        """

    def settle(self, played: float) -> None:
        """Returns when all commands are carried out, nothing is being made, and the sound has been played.

        played: when a listener will have heard everything sent so far. Only a server sends at the pace of playback.
        """


class EngineClient:
    """A client of the engine. `watch` must be one of the engine's observers."""

    def __init__(self, engine: Engine, session: Session, watch: EngineWatch) -> None:
        self._engine, self._session, self._watch = engine, session, watch

    def submit(self, command: Command) -> None:
        self._session.submit(command)

    def next(self) -> tuple[Event | None, float]:
        while True:
            item = self._session.next()
            at = time.perf_counter()
            if isinstance(item, Frame):
                return None, at
            if isinstance(item, Event):
                return item, at
            if not isinstance(item, Cut):
                raise EngineError(self._engine.broken or "the engine has ended the conversation")

    def settle(self, played: float) -> None:
        while True:
            self._watch.rests.clear()
            while self._session.behind and self._session.take(answers_only=True) is not None:
                pass
            if not self._session.behind and not self._engine.has_work:
                return
            self._watch.rests.wait()


class ServerClient:
    """A client of a server. Its socket is read on a thread of its own, which times each message when it arrives."""

    ready: Ready

    def __init__(self, url: str, token: str | None) -> None:
        self._url, self._token = url, token
        self._came: queue.SimpleQueue[tuple[Event | None, float] | Exception] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="server-client", daemon=True)

    def __enter__(self) -> "ServerClient":
        self._thread.start()
        event, _ = self.next()
        assert isinstance(event, Ready)  # `connect` raises for anything else
        self.ready = event
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed already if the server was the first to leave
            self._loop.call_soon_threadsafe(self._talking.cancel)
        self._thread.join()

    def submit(self, command: Command) -> None:
        asyncio.run_coroutine_threadsafe(self._client.send(command), self._loop)

    def next(self) -> tuple[Event | None, float]:
        try:
            came = self._came.get(timeout=_SILENCE)
        except queue.Empty:
            raise EngineError(f"the server was silent for {_SILENCE:g} s") from None
        if isinstance(came, Exception):
            raise came
        return came

    def settle(self, played: float) -> None:
        # A server does not say that it rests. A quarter of a second after playback nothing is under way any more.
        time.sleep(max(0.0, played - time.perf_counter()) + 0.25)

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._talking = self._loop.create_task(self._talk())
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._talking)

    async def _talk(self) -> None:
        try:
            async with connect(self._url, token=self._token) as self._client:
                self._came.put((self._client.ready, time.perf_counter()))
                try:
                    async for item in self._client:
                        self._came.put((item if isinstance(item, Event) else None, time.perf_counter()))
                finally:
                    await self._client.hang_up()
            self._came.put(EngineError("the server has closed the connection"))
        except Dia2StreamError as error:
            self._came.put(error)

"""A lent conversation, seen from outside the engine's thread."""

import asyncio
import base64
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from dia2stream.engine.backlog import Backlog, OrderSeconds
from dia2stream.engine.bell import Bell
from dia2stream.engine.orders import CLOSE, FINISH, SAY_WHERE, STAND_STILL, Adoption, Forking, Order, Revival
from dia2stream.errors import CommandError
from dia2stream.items import Frame, Item
from dia2stream.protocol.messages import (
    Cancel,
    Command,
    Commit,
    Discard,
    End,
    Inject,
    Listen,
    Pause,
    Prepare,
    Reset,
    Resume,
    Start,
)

if TYPE_CHECKING:  # brings torch along
    from dia2stream.conversation.conversation import Conversation
    from dia2stream.journal.tape import Tape


class Lender(Protocol):
    """What a session needs of the engine. Every method may be called from any thread."""

    @property
    def broken(self) -> str | None:
        """Why the engine can hold no conversation any more; None while it can."""

    def conversation(self, *, queue_frames: int = ..., tape: "Tape | None" = None) -> "Session":
        """A conversation in a free slot. Raises CommandError `busy` without one, EngineError."""

    def load_ear(self) -> None:
        """Loads what hears callers, on the caller's thread."""


class Worker(Protocol):
    """What a session needs of the engine's thread. Every method may be called from any thread."""

    @property
    def order_seconds(self) -> OrderSeconds:
        """How long orders take."""

    def submit(self, session: "Session", order: Order) -> None:
        """Hands an order to the engine's thread. CLOSE goes before all others."""

    def wake(self, session: "Session") -> None:
        """Tells the engine's thread that the session's outbox has room again."""


class Session:
    """A lent conversation: commands go in from any thread, items come out of one loop, plain or async.

    Commands never wait and never raise for what a client may get wrong: the answer, or the error, is an event.
    """

    def __init__(self, engine: Lender, worker: Worker, conversation: "Conversation") -> None:
        self.engine, self.conversation = engine, conversation
        self._worker = worker
        self.ended = False  # nothing more will be made
        self.finishing = False  # the loop ends when all is spoken
        self._closed = False  # nothing more comes out
        self._paced = False  # whoever takes has been told when the next item may leave
        self._halting = 0  # requests to stand still that are on their way
        self._released = threading.Event()
        self._backlog = Backlog(worker.order_seconds.of)
        self._backlog_lock = threading.Lock()
        self._ready = threading.Event()
        self._listeners: list[Callable[[], None]] = [self._ready.set]
        self._waiters: list[threading.Event] = []  # of `wait_while`

    # ---- Commands ----

    def submit(self, command: Command) -> None:
        """Sends any command of the protocol."""
        self._order(command)

    def refuse(self, error: CommandError) -> None:
        """Answers, in its place among the others, a command that could not be read."""
        self._order(error)

    def _order(self, order: Order) -> None:
        with self._backlog_lock:
            self._backlog.add(order)
        self._worker.submit(self, order)

    async def start(self, text: str, **fields: Any) -> None:
        """Begins a new conversation; `fields` are those of the `start` command."""
        self.submit(Start(text, **fields))

    async def inject(self, text: str, **fields: Any) -> None:
        """Adds text, at any moment."""
        self.submit(Inject(text, **fields))

    async def end(self, id: str | None = None) -> None:
        """Closes text that was opened with final=False: the open one, or that of an id."""
        self.submit(End(id))

    async def cancel(self, id: str) -> None:
        """Has an utterance forgotten that waits to be spoken."""
        self.submit(Cancel(id))

    async def prepare(self, text: str, id: str, **fields: Any) -> None:
        """Makes a reply in advance; `fields` are those of the `prepare` command."""
        self.submit(Prepare(text, id, **fields))

    async def commit(self, id: str) -> None:
        """Has the prepared reply spoken."""
        self.submit(Commit(id))

    async def discard(self, id: str) -> None:
        """Has the prepared reply forgotten."""
        self.submit(Discard(id))

    async def listen(self, pcm: bytes, text: str = "", **fields: Any) -> None:
        """What the caller said, mono PCM16, for the reply to answer; `fields` are those of the `listen` command."""
        self.submit(Listen(base64.b64encode(pcm).decode(), text, **fields))

    async def pause(self, played_ms: float | None = None) -> None:
        """Stops now; played_ms is what the listener has heard."""
        self.submit(Pause(played_ms))

    async def resume(self) -> None:
        """Goes on exactly where it stopped."""
        self.submit(Resume())

    async def reset(self) -> None:
        """Forgets the conversation; the slot stays taken."""
        self.submit(Reset())

    def finish(self) -> None:
        """No more commands: open text is complete, and the loop ends when everything asked for has been delivered."""
        self._order(FINISH)

    def stand_still(self) -> None:
        """Nobody listens for now: no audio leaves from here on. What the client had paused stays where it was."""
        with self._backlog_lock:
            self._halting += 1
        self._order(STAND_STILL)

    def say_where(self) -> None:
        """Somebody listens again: has `paused` told once more, if that is where the conversation stands."""
        self._order(SAY_WHERE)

    def adopt(self, revival: Revival) -> "Future[None]":
        """Goes on with a conversation from elsewhere, before anything was said in this one.

        There is a result when it stands where it stood, or when it is over.
        """
        order = Adoption(revival, Future())
        self._order(order)
        return order.done

    async def fork(self) -> "Session":
        """A copy of the conversation as it is now, in a slot of its own. It stands still: `resume` it, or `inject`.

        Raises CommandError `busy` when no slot is free, `no_session` when nothing has begun.
        """
        copy = self.engine.conversation()
        try:
            await asyncio.wrap_future(self.fork_into(copy))
        except BaseException:
            copy.close()
            raise
        return copy

    def fork_into(self, copy: "Session", id: str | None = None) -> "Future[None]":
        """Makes another session, in which nothing has been said, a copy of this one; id: what the client is told of it.

        The result is there when it is one. It raises CommandError where that cannot be.
        """
        order = Forking(copy, id, Future())
        if self.ended:
            raise CommandError("no_session", "fork: the conversation is over")
        self._order(order)
        return order.done

    def stands_still(self) -> None:
        """The engine has carried out a `stand_still`."""
        with self._backlog_lock:
            self._halting -= 1

    def close(self) -> None:
        """Gives the slot back at the end of the step that is going on. Nothing more comes out, and a loop ends."""
        self._closed = self.ended = True
        self._order(CLOSE)

    # ---- Items ----

    def take(self, answers_only: bool = False) -> Item | float | None:
        """The next item, without waiting; seconds until the next may leave; None when there is none yet."""
        if self._closed:
            return None
        self._paced = False  # before the look: what is put behind it wakes whoever found nothing
        item = self.conversation.take(time.monotonic(), answers_only or self._halting > 0)
        self._paced = isinstance(item, float)
        for waiter in tuple(self._waiters):
            waiter.set()
        if isinstance(item, Frame):
            self._worker.wake(self)
        return item

    def next(self, answers_only: Callable[[], bool] = lambda: False) -> Item | None:
        """The next item, blocking; None when `finished`. answers_only: asked anew each time `notify` was called."""
        while True:
            self._ready.clear()
            item = self.take(answers_only())
            if item is None and self.finished:
                return None
            if item is not None and not isinstance(item, float):
                return item
            self._ready.wait(item)

    def wait_while(self, condition: Callable[[], bool]) -> None:
        """Blocks while `condition()` is true. Asks again when the engine has worked for this session, and at each take.

        For the thread that submits: it waits until the engine, or whoever reads the answers, has caught up.
        """
        changed = threading.Event()
        self._waiters.append(changed)
        self._listeners.append(changed.set)
        try:
            while condition():
                changed.wait()
                changed.clear()
        finally:
            self._listeners.remove(changed.set)
            self._waiters.remove(changed)

    @property
    def behind(self) -> float:
        """How much is on its way to the engine, or answered and not taken, as a share of what may be: see `Backlog`.

        0 is nothing. Whoever reads commands waits while it is 1 or more.
        """
        with self._backlog_lock:
            return self._backlog.share(self.conversation.outbox)

    @property
    def queued_words(self) -> int:
        """Words that wait to be spoken."""
        return self.conversation.queued

    @property
    def finished(self) -> bool:
        """Whether the loop has nothing left to deliver."""
        conversation = self.conversation
        over = self.ended or (self.finishing and (conversation.paused or conversation.idle))
        # In this order: once it is over, nothing is added to the outbox.
        return self._closed or (over and not conversation.outbox.ready)

    @property
    def released(self) -> bool:
        """Whether the slot is free again."""
        return self._released.is_set()

    def __iter__(self) -> Iterator[Item]:
        """Items as they come, blocking; ends when `finished`."""
        while (item := self.next()) is not None:
            yield item

    async def __aiter__(self) -> AsyncIterator[Item]:
        """Items as they come; ends when `finished`. One loop at a time."""
        loop = asyncio.get_running_loop()
        with self._listening() as ready:
            while True:
                ready.clear()
                item = self.take()
                if item is None:
                    if self.finished:
                        return
                    await ready.wait()
                elif isinstance(item, float):
                    # A timer costs half of wait_for, which makes a task and wakes the loop twice more for a frame.
                    timer = loop.call_later(item, ready.set)
                    try:
                        await ready.wait()
                    finally:
                        timer.cancel()
                else:
                    yield item

    def stop(self) -> None:
        """Nothing more will be made. The loop delivers what is there and ends."""
        self.ended = True
        self.notify()

    def release(self) -> None:
        """The slot is free again."""
        self._released.set()
        self.stop()

    def worked(self) -> None:
        """The engine has worked for this session: tells the listeners, if there is something to take, or the end.

        A lead-in step makes nothing to take, and a reader that is woken takes the interpreter from the engine's thread.
        So a reader is left alone, too, that waits for the moment at which the item before the new ones may leave.
        """
        outbox = self.conversation.outbox
        if (outbox.ready and not self._paced) or outbox.answers or self.finished:
            self.notify()
        for waiter in tuple(self._waiters):
            waiter.set()

    def notify(self) -> None:
        """There may be something to take, or nothing any more."""
        for listener in tuple(self._listeners):
            listener()

    def carried_out(self, order: Order) -> None:
        """The engine is done with an order of this session."""
        with self._backlog_lock:
            self._backlog.remove(order)
        if isinstance(order, Forking) and not order.done.done():
            order.done.set_exception(CommandError("no_session", "fork: the conversation is over"))
        if isinstance(order, Adoption) and order.done.set_running_or_notify_cancel():
            order.done.set_result(None)
        self.notify()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
        self._released.wait()

    async def __aenter__(self) -> "Session":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Gives the slot back, and waits until it is free."""
        with self._listening() as ready:
            self.close()
            while not self.released:
                await ready.wait()
                ready.clear()

    @contextmanager
    def _listening(self) -> Iterator[asyncio.Event]:
        """An event of this loop that `notify` sets."""
        ready = asyncio.Event()
        bell = Bell.of(asyncio.get_running_loop())

        def listener() -> None:
            bell.ring(ready)

        self._listeners.append(listener)
        try:
            yield ready
        finally:
            self._listeners.remove(listener)

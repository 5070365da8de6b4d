"""The last turns of an engine's thread, so that a start that took long explains itself in the log.

    log = EngineLog(engine, slow_ms=90)
    connect = logged_calls(engine, 500, log)    # calls that tell the log of each first audio
    asyncio.run(log.beside(held()))             # watches the event loop, too

Kept are steps with their kind and rows, and whatever else takes the engine's thread NOTABLE seconds or more: orders,
passes, a rebuilt context, the codec going back, garbage collections on any thread, the event loop when it comes late. A
first audio over `slow_ms` that is slower than all before it is printed at once, with everything since the command. Of
all calls and collections, short ones included, `table` has the count, the sum and the longest.
"""

import asyncio
import gc
import threading
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from dia2.steps.context import Context
from dia2.steps.playback import Playback
from dia2stream.bench.load.clients import CallClient, Connect, EngineCallClient
from dia2stream.engine.ears import Ears
from dia2stream.engine.engine import Engine
from dia2stream.engine.scheduler import Decision
from dia2stream.engine.session import Session
from dia2stream.protocol.messages import Command, Event, Start

NOTABLE = 0.0003  # seconds
KEPT = 6000  # entries: some ten seconds of a crowd of 128
LOOP_EACH = 0.005  # seconds between two looks at the event loop
# What is watched besides steps. A name that is gone ends the script.
THREAD = ("_carry_out_orders", "_tell_demands", "_rest")
WATCHED: tuple[tuple[type, tuple[str, ...]], ...] = (
    (Context, ("begin", "release", "rollover", "run_due")),
    (Playback, ("go_back",)),
    (Ears, ("hear",)),
)
T = TypeVar("T")


@dataclass
class _Total:
    """Of all calls of a function: how many, seconds together, and of the longest by the clock and by the CPU's."""

    count: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    longest_cpu: float = 0.0

    def add(self, seconds: float, cpu: float) -> None:
        """Counts a call."""
        self.count, self.seconds = self.count + 1, self.seconds + seconds
        self.longest, self.longest_cpu = max(self.longest, seconds), max(self.longest_cpu, cpu)


class EngineLog:
    """What the thread of an engine has done lately, and the slowest start of all.

    slow_ms: a first audio that takes no longer is not told. worst_ms: the slowest one so far.
    """

    def __init__(self, engine: Engine, slow_ms: float) -> None:
        self.worst_ms = slow_ms
        self._entries: deque[tuple[float, float, float, str]] = deque(maxlen=KEPT)  # began, seconds, of the CPU, what
        self._totals: dict[str, _Total] = defaultdict(_Total)
        self._gc_began = (0.0, 0.0)
        thread: Any = engine.thread
        thread._work = self._timed(thread._work, None)
        for name in THREAD:
            setattr(thread, name, self._timed(getattr(thread, name), name))
        for owner, names in WATCHED:
            for name in names:
                setattr(owner, name, self._timed(getattr(owner, name), f"{owner.__name__}.{name}"))
        stepper: Any = type(engine.stepper)
        stepper.prefill = self._timed(stepper.prefill, "stepper.prefill")
        gc.callbacks.append(self._collected)

    def heard(self, slot: int, seconds: float) -> None:
        """The first sample of a conversation has reached its listener, so long after the command."""
        if 1000 * seconds > self.worst_ms:
            self.worst_ms = 1000 * seconds
            self._tell(slot, time.perf_counter() - seconds)

    def table(self) -> str:
        """What took the engine's thread, and the collector, since the last table."""
        lines = ["times, s together, ms at most, of these the CPU's at most; of:"]
        for what, total in sorted(self._totals.items(), key=lambda row: -row[1].seconds):
            longest = f"{1e3 * total.longest:9.2f} {1e3 * total.longest_cpu:9.2f}"
            lines.append(f"  {total.count:7d} {total.seconds:8.3f} {longest}  {what}")
        self._totals.clear()
        return "\n".join(lines)

    async def beside(self, work: Coroutine[Any, Any, T]) -> T:
        """Does work on the loop, and notes meanwhile when the loop comes late."""
        watch = asyncio.create_task(self._watch_loop())
        try:
            return await work
        finally:
            watch.cancel()

    async def _watch_loop(self) -> None:
        while True:
            due = time.perf_counter() + LOOP_EACH
            await asyncio.sleep(LOOP_EACH)
            if (late := time.perf_counter() - due) > LOOP_EACH:
                self._entries.append((due, late, 0.0, "event loop is late"))

    def _timed(self, work: Callable[..., T], what: str | None) -> Callable[..., T]:
        """The same function, but noted. what: its name; None: it carries out a decision, and is noted each time."""

        def timed(*arguments: Any, **named: Any) -> T:
            began, cpu = time.perf_counter(), time.thread_time()
            try:
                return work(*arguments, **named)
            finally:
                seconds, cpu = time.perf_counter() - began, time.thread_time() - cpu
                self._totals[what or arguments[0].kind.value].add(seconds, cpu)
                if what is None or seconds >= NOTABLE:
                    self._entries.append((began, seconds, cpu, what or _decided(*arguments)))

        return timed

    def _collected(self, phase: str, found: dict[str, int]) -> None:
        """A garbage collection begins or ends; all threads stand still meanwhile."""
        if phase == "start":
            self._gc_began = time.perf_counter(), time.thread_time()
            return
        began, cpu = self._gc_began
        seconds, cpu = time.perf_counter() - began, time.thread_time() - cpu
        what = f"garbage collection of generation {found['generation']}"
        self._totals[what].add(seconds, cpu)
        if seconds >= NOTABLE:
            self._entries.append((began, seconds, cpu, f"{what} on {threading.current_thread().name}"))

    def _tell(self, slot: int, asked: float) -> None:
        """Prints what there was since the command, in order; times count from the command."""
        print(f"slow start in slot {slot}: {self.worst_ms:.1f} ms. At ms, for ms, of these the CPU's:", flush=True)
        for began, seconds, cpu, what in sorted(self._entries.copy()):
            if began + seconds >= asked:
                print(f"  {1e3 * (began - asked):8.2f} {1e3 * seconds:8.2f} {1e3 * cpu:8.2f}  {what}", flush=True)


class LoggedClient(EngineCallClient):
    """A client of the engine that tells the log how long each start took."""

    def __init__(self, engine: Engine, session: Session, log: EngineLog) -> None:
        super().__init__(engine, session)
        self._slot, self._log = session.conversation.slot, log
        self._asked: float | None = None  # when a start was sent whose first sample is still to come

    async def send(self, command: Command) -> None:
        if isinstance(command, Start):
            self._asked = time.perf_counter()
        await super().send(command)

    async def received(self) -> AsyncIterator[Event | float]:
        async for item in super().received():
            if self._asked is not None and isinstance(item, float):
                self._log.heard(self._slot, time.perf_counter() - self._asked)
                self._asked = None
            yield item


def logged_calls(engine: Engine, lead_ms: float | None, log: EngineLog) -> Connect:
    """As `engine_calls`: calls of an engine, whose sending is at most `lead_ms` ahead of playback."""

    async def open_call() -> CallClient:
        return LoggedClient(engine, engine.conversation(max_lead_ms=lead_ms), log)

    return open_call


def _decided(decision: Decision) -> str:
    riders = f" and {len(decision.riders)} riders" if decision.riders else ""
    columns = f", {decision.columns} columns" if decision.columns else ""
    steps = f", up to {decision.steps} steps" if decision.steps > 1 else ""
    planned = f", planned {1e3 * decision.seconds:.2f} ms"
    return f"{decision.kind.value} of {len(decision.slots)}{riders}{columns}{steps}{planned}"

"""Holds all calls of a load at once, on one event loop, and measures what became of them.

All times are those of the loop, so a loop with a simulated clock measures simulated calls.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Literal

from dia2stream.bench.load.arrivals import poisson_arrivals, spread_arrivals
from dia2stream.bench.load.clients import CallClient, Connect
from dia2stream.bench.load.listener import Listener
from dia2stream.bench.load.results import CallRecord, Usage, summarize
from dia2stream.bench.load.scenarios import Call, Scenario, monologue, phone_call, request, starter
from dia2stream.bench.load.script import PlannedCall
from dia2stream.errors import CommandError, Dia2StreamError
from dia2stream.protocol.messages import Start

_DRAIN = 30.0  # seconds that requests have to end after the last one has come
_LONGEST_CALL = 300.0  # the same of planned calls
_RAMP = 0.1  # seconds for each call that begins, where all begin at about the same time
_LONGEST_RAMP = 10.0

Kind = Literal["rate", "phone", "crowd"]


@dataclass(frozen=True)
class Load:
    """What is measured. kind: requests that arrive at random, phone calls, or monologues and one starter.

    amount: requests a second, or calls at the same time. seconds: for how long it is held. seed: repeats arrivals,
    texts and voices. start_lead: how long a listener waits with the first sample of a turn, in seconds.
    """

    kind: Kind
    amount: float
    seconds: float
    seed: int = 0
    start_lead: float = 0.0

    def random(self, name: str) -> Random:
        """Numbers of their own for each purpose."""
        return Random(f"{self.seed} {self.kind} {self.amount} {name}")


@dataclass(frozen=True)
class Target:
    """Where calls go. start: see `Call`. take_usage: what the engine did since the last time."""

    connect: Connect
    start: Callable[..., Start]
    take_usage: Callable[[], Usage] | None = None


async def measure(load: Load, target: Target) -> dict[str, Any]:
    """Holds a load, and returns its point of the report."""
    run = _Run(load, target)
    if load.kind == "rate":
        arrivals = poisson_arrivals(load.amount, load.seconds, load.random("arrivals"))
        await run.arrivals([(at, request) for at in arrivals])
    elif load.kind == "phone":
        await run.calls([phone_call] * round(load.amount))
    else:
        await run.calls([monologue] * (round(load.amount) - 1), then=starter)
    return run.point()


async def measure_planned(calls: Sequence[PlannedCall], target: Target, seed: int = 0) -> dict[str, Any]:
    """Holds planned calls, and returns a point of the report, of the time until the last one has ended or failed."""
    run = _Run(Load("rate", len(calls), calls[-1].at if calls else 0.0, seed), target)
    await run.arrivals([(call.at, partial(phone_call, turns=call.turns)) for call in calls], patience=_LONGEST_CALL)
    return run.point()


class _Run:
    """One load while it is held."""

    def __init__(self, load: Load, target: Target) -> None:
        self._load, self._target = load, target
        self._records: list[CallRecord] = []
        self._open = self._most = 0  # calls that are let in
        self._began = 0.0
        self._frames_before = 0
        self._seconds = 0.0
        self._usage: Usage | None = None
        self._frames = 0

    async def arrivals(self, arrivals: Sequence[tuple[float, Scenario]], patience: float = _DRAIN) -> None:
        """Calls come at their moments, whatever became of those before: an open loop.

        patience: seconds that calls have to end after the last one has come.
        """
        tasks = []
        self._begin_window()
        for number, (at, scenario) in enumerate(arrivals):
            await asyncio.sleep(self._began + at - _now())
            tasks.append(asyncio.create_task(self._hold(scenario, number)))
        await asyncio.sleep(self._began + self._load.seconds - _now())
        self._end_window()
        await self._drain(tasks, patience)

    async def calls(self, scenarios: Sequence[Scenario], then: Scenario | None = None) -> None:
        """Calls begin one after the other; once all have begun, the time runs, and `then` begins too."""
        ramp = min(_LONGEST_RAMP, _RAMP * len(scenarios))
        begins = spread_arrivals(len(scenarios), ramp, self._load.random("arrivals")) if scenarios else []
        began, tasks = _now(), []
        for number, (at, scenario) in enumerate(zip(begins, scenarios, strict=True)):
            await asyncio.sleep(began + at - _now())
            tasks.append(asyncio.create_task(self._hold(scenario, number)))
        await asyncio.sleep(began + ramp - _now())
        self._begin_window()
        if then is not None:
            tasks.append(asyncio.create_task(self._hold(then, len(scenarios))))
        await asyncio.sleep(self._load.seconds)
        self._end_window()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def point(self) -> dict[str, Any]:
        """What was measured."""
        point = summarize(self._records, self._seconds, self._frames, self._usage)
        return {"load": self._load.amount, "most_at_once": self._most, **point}

    # ---- Calls ----

    async def _hold(self, scenario: Scenario, number: int) -> None:
        """One call from connecting to closing, whatever happens in it."""
        record, began = CallRecord(), _now()
        self._records.append(record)
        try:
            client = await self._target.connect()
        except Dia2StreamError as error:
            record.problem = _code(error)
            record.refused = record.problem == "busy"
            return
        record.connect = _now() - began
        self._open += 1
        self._most = max(self._most, self._open)
        try:
            await self._talk(scenario, client, record, number)
        except Dia2StreamError as error:
            record.problem = _code(error)
        finally:
            self._open -= 1

    async def _talk(self, scenario: Scenario, client: CallClient, record: CallRecord, number: int) -> None:
        listener = Listener(client, record, self._load.start_lead)
        receiving = asyncio.create_task(listener.receive())
        try:
            random = self._load.random(str(number))
            await scenario(Call(client, listener, record, random, self._target.start))
        finally:
            receiving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await receiving
            with contextlib.suppress(Dia2StreamError):
                await client.close()

    async def _drain(self, tasks: Sequence["asyncio.Task[None]"], patience: float) -> None:
        """Lets calls end; those that take too long have failed."""
        late = (await asyncio.wait(tasks, timeout=patience))[1] if tasks else set()
        for task, record in zip(tasks, self._records, strict=True):
            if task in late:
                record.problem = "unfinished"
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- The time that is measured ----

    def _begin_window(self) -> None:
        self._began, self._frames_before = _now(), self._received()
        if self._target.take_usage is not None:
            self._target.take_usage()

    def _end_window(self) -> None:
        self._seconds, self._frames = _now() - self._began, self._received() - self._frames_before
        if self._target.take_usage is not None:
            self._usage = self._target.take_usage()

    def _received(self) -> int:
        return sum(record.frames for record in self._records)


def _code(error: Dia2StreamError) -> str:
    return error.code if isinstance(error, CommandError) else "broken"


def _now() -> float:
    return asyncio.get_running_loop().time()

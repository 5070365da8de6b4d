"""One GPU that is not there: callers, listeners and the engine's own scheduler, on a clock that only this file moves.

    outcome = SimulatedMachine(PhoneCalls(128), H100).run(seconds=60)
    outcome.point["first_audio_ms"]["p95"]

Real: the scheduler, the admission, their decisions and the order of those. A model: a step takes what the cost curve
says, give or take `jitter`; what comes in while it runs is looked at when it has ended, as by the engine's thread; a
listener plays in real time from the first frame on; an outbox has room for `max_lead` seconds that are sent and for
`queue_frames` that are not. Left out: text that comes slower than it is spoken, and the network.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import inf
from random import Random
from typing import Any

from dia2stream.bench.load.playback import PlaybackClock
from dia2stream.bench.load.results import CallRecord, Usage, summarize
from dia2stream.bench.simulate.loads import Arrival, Load, Say, Script, Silence
from dia2stream.engine.admission import FRAME_SECONDS, LEAD_IN_STEPS, TAIL_FRAMES, Admission
from dia2stream.engine.costs import TREE_STEPS, CostCurve
from dia2stream.engine.scheduler import Decision, Demand, Kind, Policy, Scheduler, Waits

_OBSERVE_EACH = 1.0  # seconds between two looks of the admission
_LISTEN_EACH = 1.0  # seconds of the caller in one piece
_CONTEXT, _HISTORY, _TURN_ROOM = 1500, 375, 250  # columns: see Context and Conversation


@dataclass(frozen=True)
class Settings:
    """How the machine is set up, and what its surroundings are like; seconds.

    start_lead: how long a listener waits with the first sample of a turn. jitter: of a step, as a share of it (standard
    deviation). stall_each, stall: so often on average, a step takes so much longer. delivery: from the end of a step to
    the listener.
    """

    slots: int = 256
    max_lead: float = 3.0
    queue_frames: int = 25
    start_lead: float = 0.0
    jitter: float = 0.03
    stall_each: float = inf
    stall: float = 0.0
    delivery: float = 0.0005


@dataclass(eq=False)
class _Call:
    """A call that has a slot, and where its turn stands."""

    slot: int
    script: Script
    measured: bool
    playback: PlaybackClock
    record: CallRecord = field(default_factory=CallRecord)
    turn: int = 0  # counted up with everything that it does: what was meant for an older turn is void
    saying: Say | None = None
    asked: float = 0.0
    lead_in: int = 0
    left: float = 0.0  # frames to make in this turn
    columns: int = 0  # of the context that are taken
    passing: int = 0  # columns of a pass that comes before anything else
    passing_since: float = 0.0
    begun: float = inf  # when the first frame of this turn was heard
    full: bool = False

    @property
    def rebuild(self) -> int:
        """Columns that the next step runs first, because the context is full."""
        return _HISTORY if self.columns >= _CONTEXT else 0

    @property
    def sounding(self) -> bool:
        """Whether a frame of this turn was heard."""
        return self.begun < inf


@dataclass
class Outcome:
    """What came of a simulation.

    point: as `bench --calls` reports it. records: of the calls. most_at_once: calls that had a slot. batches: how often
    a decision of each kind had how many slots. wasted: frames that were made and, because of a barge-in, never heard.
    rebuilt: contexts that were full and rebuilt by a step. frames, rows: that were made, and that were in the
    backbone's batches. busy, host: seconds, host a part of busy.
    """

    records: list[CallRecord] = field(default_factory=list)
    batches: Counter[tuple[Kind, int]] = field(default_factory=Counter)
    most_at_once: int = 0
    wasted: int = 0
    rebuilt: int = 0
    frames: int = 0
    rows: int = 0
    busy: float = 0.0
    host: float = 0.0
    point: dict[str, Any] = field(default_factory=dict)


class Cores:
    """Cores of one real machine on which several simulated ones run: what has to wait for a core takes longer.

    count: of them. besides: seconds of a core that a frame takes outside of the engine's thread, after its step: the
    event loop, the proxy, whoever listens.
    Example: two cores; two engines are in the middle of a step when a third begins one -> that takes 1.5 times as long.
    """

    def __init__(self, count: int, besides: float = 0.0) -> None:
        self._count, self._besides = count, besides
        self._runs: list[tuple[float, float]] = []  # from when to when something runs

    def work(self, now: float, seconds: float, frames: int) -> float:
        """A step that begins now, would take so long on a core of its own and makes so many frames: what it takes.

        Steps have to come in the order in which they begin.
        """
        self._runs = [run for run in self._runs if run[1] > now]
        slower = max(1.0, (1 + sum(began <= now for began, _ in self._runs)) / self._count)
        ends = now + slower * seconds
        self._runs += [(now, ends), (ends, ends + slower * self._besides * frames)]
        return slower * seconds


class SimulatedMachine:
    """A machine and its callers.

    load: None where whoever holds the machine sends the calls, by `receive`. cores: that it shares with other machines;
    None: what its cost curve says is what its steps take.
    """

    def __init__(
        self,
        load: Load | None,
        costs: CostCurve,
        *,
        settings: Settings | None = None,
        policy: Policy | None = None,
        admission: Admission | None = None,
        cores: Cores | None = None,
        seed: int = 0,
    ) -> None:
        self.now = 0.0
        self.outcome = Outcome()
        self._cores = cores
        self._costs, self._settings, self._admission = costs, settings or Settings(), admission
        self._scheduler = Scheduler(costs, policy)
        self._random = Random(seed)
        self._arrivals = load.arrivals(Random(seed + 1)) if load is not None else iter(())
        self._calls: dict[int, _Call] = {}
        self._free = list(reversed(range(self._settings.slots)))
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._rooms: list[tuple[float, int, _Call, int]] = []  # when who has room in the outbox again, in which turn
        self._numbers = count()
        self._starts = 0  # turns that have begun since the admission looked
        self._expect()
        if admission is not None:
            self._observe()

    def run(self, seconds: float, warm_up: float = 10.0) -> Outcome:
        """Lets so much time pass. What happens in the warm-up is not counted."""
        self.advance(self.now + warm_up)
        self._forget()
        began = self.now
        self.advance(began + seconds)
        for call in self._calls.values():
            self._close_record(call)
        outcome, passed = self.outcome, self.now - began
        steps = sum(outcome.batches.values())
        usage = Usage(steps, outcome.rows, outcome.frames, outcome.busy, outcome.busy - outcome.host)
        outcome.point = summarize(outcome.records, passed, outcome.frames, usage)
        return outcome

    @property
    def calls(self) -> int:
        """Calls that have a slot."""
        return len(self._calls)

    def receive(self, arrival: Arrival) -> None:
        """A call comes to this machine, besides those of its load."""
        self._at(arrival.at, lambda: self._arrive(arrival))

    def advance(self, end: float) -> None:
        """Lets time pass until a moment, and until the step that is under way then has ended."""
        while self.now < end:
            self.turn(end)

    def turn(self, end: float) -> None:
        """One turn of the engine's loop: a step, or a rest until there is something to do, or until `end`."""
        self._catch_up()
        decision = self._scheduler.decide(self.now)
        if decision.kind is Kind.REST:
            self.now = min(end, self._wakes(decision.until))
        else:
            self._carry_out(decision)

    def _wakes(self, until: float) -> float:
        """When a rest ends: with the next event, or with room in an outbox if that may matter."""
        events = self._events[0][0] if self._events else inf
        rooms = self._rooms[0][0] if self._rooms and until == inf else inf
        return max(self.now, min(until, events, rooms))

    def _catch_up(self) -> None:
        """Everything that has happened since the last look."""
        while self._events and self._events[0][0] <= self.now:
            heappop(self._events)[2]()
        while self._rooms and self._rooms[0][0] <= self.now:
            _, _, call, turn = heappop(self._rooms)
            if call.turn == turn:
                call.full = False
                self._tell(call)

    def _at(self, time: float, event: Callable[[], None]) -> None:
        heappush(self._events, (time, next(self._numbers), event))

    def _forget(self) -> None:
        """The warm-up is over."""
        self.outcome = Outcome(most_at_once=len(self._calls))
        for call in self._calls.values():
            call.record, call.playback.late, call.playback.worst_underrun = CallRecord(), 0, 0.0

    # ---- Calls come and go ----

    def _expect(self) -> None:
        arrival = next(self._arrivals, None)
        if arrival is not None:
            self._at(arrival.at, lambda: self._arrive_in_turn(arrival))

    def _arrive_in_turn(self, arrival: Arrival) -> None:
        self._expect()
        self._arrive(arrival)

    def _arrive(self, arrival: Arrival) -> None:
        refusal = self._admission.refusal(self.now, len(self._calls)) if self._admission else None
        if refusal is not None or not self._free:
            self.outcome.records.append(CallRecord(problem="busy", refused=True))
            return
        slot = self._free.pop()
        call = self._calls[slot] = _Call(
            slot, arrival.script, arrival.measured, PlaybackClock(self._settings.start_lead)
        )
        self.outcome.most_at_once = max(self.outcome.most_at_once, len(self._calls))
        self._go_on(call, arrival.at)

    def _observe(self) -> None:
        assert self._admission is not None
        speaking = sum(call.saying is not None for call in self._calls.values())
        self._admission.observe(self.now, len(self._calls), speaking, self._starts)
        self._starts = 0
        self._at(self.now + _OBSERVE_EACH, self._observe)

    def _close_record(self, call: _Call) -> None:
        call.record.late, call.record.worst_underrun = call.playback.late, call.playback.worst_underrun
        self.outcome.records.append(call.record)

    def _go_on(self, call: _Call, now: float) -> None:
        """What a call has been doing has ended: it does the next thing, or is over."""
        call.turn += 1
        call.saying, call.full = None, False
        match next(call.script, None):
            case None:
                self._scheduler.update(call.slot, None)
                self._close_record(call)
                del self._calls[call.slot]
                self._free.append(call.slot)
            case Silence() as silence:
                self._be_silent(call, silence, now)
            case Say() as say:
                self._begin_turn(call, say, now)

    def _later(self, call: _Call, time: float, event: Callable[[_Call, float], None]) -> None:
        """At `time`, unless the call does something else by then."""
        turn = call.turn
        self._at(time, lambda: event(call, time) if call.turn == turn else None)

    def _be_silent(self, call: _Call, silence: Silence, now: float) -> None:
        pieces = int(silence.seconds / _LISTEN_EACH) if silence.listens else 0
        for piece in range(1, pieces + 1):
            self._later(call, now + piece * _LISTEN_EACH, self._listen)
        if call.columns + 2 * _TURN_ROOM > _CONTEXT:
            self._roll_over(call, now)
        self._later(call, now + silence.seconds, self._go_on)
        self._tell(call)

    def _listen(self, call: _Call, now: float) -> None:
        """A piece of what the caller says goes into the context."""
        columns = round(_LISTEN_EACH / FRAME_SECONDS)
        call.passing_since = call.passing_since if call.passing else now
        call.passing, call.columns = call.passing + columns, call.columns + columns
        self._tell(call)

    def _begin_turn(self, call: _Call, say: Say, now: float) -> None:
        self._starts += 1
        if say.fresh:
            call.columns = call.passing = 0
        elif call.columns + _TURN_ROOM > _CONTEXT:
            self._roll_over(call, now)
        call.saying, call.asked, call.begun = say, now, inf
        call.lead_in, call.left = LEAD_IN_STEPS, say.frames
        call.playback.begin()
        self._tell(call)

    def _roll_over(self, call: _Call, now: float) -> None:
        call.passing, call.passing_since, call.columns = _HISTORY, now, _HISTORY

    def _interrupt(self, call: _Call, now: float) -> None:
        """The listener has heard enough: the rest is forgotten."""
        unheard = round(call.playback.left(now) / FRAME_SECONDS)
        self.outcome.wasted += unheard
        call.columns = max(0, call.columns - unheard)
        self._go_on(call, now)

    # ---- The engine's thread ----

    def _tell(self, call: _Call) -> None:
        """Tells the scheduler what a call asks for now."""
        self._scheduler.update(call.slot, self._demand(call))

    def _demand(self, call: _Call) -> Demand | None:
        if call.saying is None:
            return Demand(Waits.NOBODY, columns=call.passing, since=call.passing_since) if call.passing else None
        if call.left <= 0:
            return None
        if not call.sounding:
            return Demand(Waits.STARTING, columns=call.passing, lead_in=call.lead_in, since=call.asked)
        dry = self.now + call.playback.left(self.now)
        ready, rebuild = not call.full, 0 if call.passing else call.rebuild
        return Demand(Waits.SPEAKING, columns=call.passing, ready=ready, deadline=dry, rebuild=rebuild)

    def _carry_out(self, decision: Decision) -> None:
        taken = decision.seconds * (1 + abs(self._random.gauss(0, self._settings.jitter)))
        if self._random.random() < taken / self._settings.stall_each:
            taken += self._settings.stall
        if self._cores is not None:
            taken = self._cores.work(self.now, taken, len(decision.slots) if decision.kind is Kind.FRAMES else 0)
        self.now += taken
        self._count(decision, taken)
        if decision.kind is Kind.PASS:
            call = self._calls[decision.slots[0]]
            call.passing -= decision.columns
            self._tell(call)
        for slot in decision.slots if decision.kind is Kind.LEAD_IN else decision.riders:
            self._calls[slot].lead_in -= self._steps_made(decision)
            self._tell(self._calls[slot])
        for slot in decision.slots if decision.kind is Kind.FRAMES else ():
            self._deliver(self._calls[slot], self.now + self._settings.delivery)

    def _steps_made(self, decision: Decision) -> int:
        """Of the lead-in, for one of the slots: one, or what a pass of trees makes."""
        if not self._costs.by_trees(len(decision.slots), decision.steps):
            return 1
        return min(decision.steps, max(1, round(self._random.gauss(TREE_STEPS, TREE_STEPS / 3))))

    def _count(self, decision: Decision, taken: float) -> None:
        rows = len(decision.slots) + len(decision.riders)
        self.outcome.rows += rows
        self.outcome.busy += taken
        self.outcome.host += self._costs.turn + self._costs.host * rows
        self.outcome.batches[decision.kind, len(decision.slots)] += 1
        self.outcome.frames += len(decision.slots) if decision.kind is Kind.FRAMES else 0

    def _deliver(self, call: _Call, at: float) -> None:
        """A frame reaches its listener."""
        assert call.saying is not None
        call.left -= 1
        self.outcome.rebuilt += call.rebuild > 0
        call.columns = (call.rebuild or call.columns) + 1
        call.record.frames += 1
        underrun = max(0.0, at - (self.now + call.playback.left(self.now))) if call.sounding else 0.0
        if underrun > 0 and self._admission is not None:
            self._admission.late(at, underrun)
        call.playback.receive(at, FRAME_SECONDS)
        if not call.sounding:
            self._be_heard(call, at)
        if call.left <= 0:
            self._later(call, at + call.playback.left(at) - TAIL_FRAMES * FRAME_SECONDS, self._go_on)
        self._look_for_room(call)
        self._tell(call)

    def _be_heard(self, call: _Call, at: float) -> None:
        """The first frame of a turn is there."""
        assert call.saying is not None
        call.begun = at
        if call.measured:
            call.record.first.append(at - call.asked)
        if call.saying.heard < inf:
            self._later(call, at + call.saying.heard, self._interrupt)

    def _look_for_room(self, call: _Call) -> None:
        most = self._settings.max_lead + self._settings.queue_frames * FRAME_SECONDS
        room_in = call.playback.left(self.now) + FRAME_SECONDS - most
        if room_in > 0:
            call.full = True
            heappush(self._rooms, (self.now + room_in, next(self._numbers), call, call.turn))

"""A day of calls on many machines: replicas that are started, drained, lost and replaced.

Each replica is one server with one GPU and as many conversations as the admission's own code lets in. Simulated here is
which call is where. How long first audio takes on a replica with so many conversations comes from `SimulatedMachine`,
with the scheduler's own code: see `plan.py`.

- A call goes to the replica with the fewest calls. Where all are full, the call is refused.
- An autoscaler keeps open calls near `target` of all slots, as Ray Serve does: it starts replicas when more were wanted
  for `up_seconds`, and stops some when fewer were wanted for `down_seconds`. It does nothing during a rollout.
- A replica that starts costs money from the beginning and serves when it is warm: `ColdStart`.
- A replica that dies hands its calls to others through the journal: each comes back after `back_seconds`. A call that
  finds no slot tries again until `linger_seconds` have passed, and is then lost.
- A rollout replaces every replica, a quarter of them at a time. A replica that is drained hands its calls on likewise.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import ceil
from random import Random

from dia2stream.bench.simulate.day import DAY, HOUR, Day

_WARM_UP = HOUR  # of the day before
_LOOK_EACH = 10.0  # seconds between two looks of the autoscaler
_LOOK_BACK = 30.0  # seconds that it averages over
_RETRY_EACH = 2.0  # seconds between two tries of a call that lost its replica


@dataclass(frozen=True)
class ColdStart:
    """What passes between asking for a replica and its first call.

    node: seconds until the machine is there. image_gb, model_gb: what it fetches, at `node_gbps` and with all others
    that start at `registry_gbps` at most. load, warm_up: seconds.
    """

    node: float = 120.0
    image_gb: float = 5.0
    model_gb: float = 7.7
    node_gbps: float = 5.0
    registry_gbps: float = 40.0
    load: float = 6.0
    warm_up: float = 33.0

    def stages(self, starting: int) -> dict[str, float]:
        """Seconds of each stage, for one of so many that start at the same time."""
        speed = min(self.node_gbps, self.registry_gbps / max(1, starting))
        fetches = {"image": 8 * self.image_gb / speed, "model": 8 * self.model_gb / speed}
        return {"machine": self.node, **fetches, "load": self.load, "warm-up": self.warm_up}

    def seconds(self, starting: int) -> float:
        """All stages together."""
        return sum(self.stages(starting).values())


@dataclass(frozen=True)
class Operations:
    """How the fleet is run.

    slots: of each replica. days_between_deaths: of one replica, on average. loss_hour: when the replica with the most
    calls is lost besides, None: never. rollout_hour: when a rollout begins, None: never.
    """

    slots: int
    min_replicas: int = 1
    max_replicas: int = 1000
    target: float = 0.7
    up_seconds: float = 30.0
    down_seconds: float = 600.0
    cold_start: ColdStart = ColdStart()
    days_between_deaths: float = 30.0
    back_seconds: float = 2.0
    linger_seconds: float = 30.0
    loss_hour: float | None = 10.5
    rollout_hour: float | None = 14.0


@dataclass(eq=False)
class _Replica:
    begun: float  # from when on it is paid for, in the hour that is counted
    ready: bool = False
    old: bool = False  # when a rollout began, it was there
    calls: set[int] = field(default_factory=set)
    changed: float = 0.0  # when the number of calls did


@dataclass
class HourOutcome:
    """What an hour of the day came to.

    served: calls that got a slot. refused: by reason. lost: calls whose replica died and that found no slot in time.
    held: seconds of all conversations, by how many their replica had.
    """

    served: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    held: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    gpu_seconds: float = 0.0


@dataclass
class DayOutcome:
    """What a day came to.

    hours: from midnight on. handed_over: how often a call went on at another replica. gaps: seconds in which calls had
    no replica. peak_calls, peak_replicas, peak_starting: at any moment.
    """

    hours: list[HourOutcome] = field(default_factory=lambda: [HourOutcome()])
    deaths: int = 0
    handed_over: int = 0
    gaps: list[float] = field(default_factory=list)
    peak_calls: int = 0
    peak_replicas: int = 0
    peak_starting: int = 0

    @property
    def served(self) -> int:
        """Calls that got a slot."""
        return sum(hour.served for hour in self.hours)

    @property
    def refused(self) -> Counter[str]:
        """Calls that got none, by reason."""
        return sum((hour.refused for hour in self.hours), Counter[str]())

    @property
    def lost(self) -> int:
        """Calls whose replica died and that found no slot in time."""
        return sum(hour.lost for hour in self.hours)

    @property
    def gpu_seconds(self) -> float:
        """For which GPUs are paid."""
        return sum(hour.gpu_seconds for hour in self.hours)

    @property
    def held(self) -> dict[int, float]:
        """Seconds of all conversations, by how many their replica had."""
        held: defaultdict[int, float] = defaultdict(float)
        for hour in self.hours:
            for calls, seconds in hour.held.items():
                held[calls] += seconds
        return dict(held)


class Fleet:
    """The replicas of one day."""

    def __init__(self, day: Day, operations: Operations, seed: int = 0) -> None:
        self.outcome = DayOutcome()
        self._day, self._operations, self._random = day, operations, Random(seed)
        self._arrivals = self._with_numbers(day.arrivals(-_WARM_UP, DAY, seed))
        self._now = -_WARM_UP
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._replicas: list[_Replica] = []
        self._open: dict[int, _Replica | None] = {}  # by call: where it is; None: it has no replica now
        self._seen: deque[int] = deque(maxlen=round(_LOOK_BACK / _LOOK_EACH))
        self._wanted_more = self._wanted_fewer = 0.0  # for how long
        self._rolling = False

    def run(self) -> DayOutcome:
        """The day, after an hour of the day before that is not counted."""
        usual = self._day.rate(self._now) * self._day.call_seconds
        for _ in range(max(self._operations.min_replicas, self._wanted(usual))):
            self._become_ready(self._new_replica())
        self._expect()
        self._at(self._now, self._look)
        self._at(0.0, self._begin_counting)
        if self._operations.rollout_hour is not None:
            self._at(self._operations.rollout_hour * HOUR, self._begin_rollout)
        if self._operations.loss_hour is not None:
            self._at(self._operations.loss_hour * HOUR, self._lose_fullest)
        for hour in range(1, 24):
            self._at(hour * HOUR, self._begin_hour)
        while self._events and self._events[0][0] <= DAY:
            self._now, _, event = heappop(self._events)
            event()
        self._now = DAY
        for replica in list(self._replicas):
            self._stop(replica)
        return self.outcome

    def _with_numbers(self, arrivals: Iterator[tuple[float, float]]) -> Iterator[tuple[int, float, float]]:
        return ((number, at, seconds) for number, (at, seconds) in enumerate(arrivals))

    def _at(self, time: float, event: Callable[[], None]) -> None:
        heappush(self._events, (time, next(self._order), event))

    def _begin_counting(self) -> None:
        self.outcome = DayOutcome(peak_calls=len(self._open), peak_replicas=len(self._replicas))
        for replica in self._replicas:
            replica.begun = replica.changed = self._now

    @property
    def _hour(self) -> HourOutcome:
        """The hour that is counted."""
        return self.outcome.hours[-1]

    def _begin_hour(self) -> None:
        for replica in self._replicas:
            self._pay(replica)
        self.outcome.hours.append(HourOutcome())

    # ---- Calls ----

    def _expect(self) -> None:
        arrival = next(self._arrivals, None)
        if arrival is not None:
            number, at, seconds = arrival
            self._at(at, lambda: self._arrive(number, seconds))

    def _arrive(self, call: int, seconds: float) -> None:
        self._expect()
        replica = self._choose()
        if replica is None:
            starting = any(not r.ready for r in self._replicas)
            self._hour.refused["while replicas start" if starting else "all replicas are full"] += 1
            return
        self._hour.served += 1
        self._put(call, replica)
        self.outcome.peak_calls = max(self.outcome.peak_calls, len(self._open))
        self._at(self._now + seconds, lambda: self._end(call))

    def _end(self, call: int) -> None:
        replica = self._open.pop(call, None)
        if replica is not None:
            self._hold(replica)
            replica.calls.discard(call)

    def _choose(self) -> _Replica | None:
        """The replica with the fewest calls that takes another one."""
        ready = [replica for replica in self._replicas if replica.ready]
        best = min(ready, key=lambda replica: len(replica.calls), default=None)
        return best if best is not None and len(best.calls) < self._operations.slots else None

    def _put(self, call: int, replica: _Replica) -> None:
        self._hold(replica)
        replica.calls.add(call)
        self._open[call] = replica

    def _hold(self, replica: _Replica) -> None:
        """Counts the time that the replica had as many calls as it has."""
        held = len(replica.calls)
        self._hour.held[held] += held * (self._now - replica.changed)
        replica.changed = self._now

    def _come_back(self, call: int, since: float) -> None:
        """A call whose replica is gone asks another one."""
        if call not in self._open:
            return  # it would have ended meanwhile
        replica = self._choose()
        if replica is not None:
            self.outcome.handed_over += 1
            self.outcome.gaps.append(self._now - since)
            self._put(call, replica)
        elif self._now - since >= self._operations.linger_seconds:
            self._hour.lost += 1
            del self._open[call]
        else:
            self._at(self._now + _RETRY_EACH, lambda: self._come_back(call, since))

    # ---- Replicas ----

    def _new_replica(self) -> _Replica:
        replica = _Replica(self._now, changed=self._now)
        self._replicas.append(replica)
        self.outcome.peak_replicas = max(self.outcome.peak_replicas, len(self._replicas))
        return replica

    def _start(self) -> None:
        replica = self._new_replica()
        starting = sum(not other.ready for other in self._replicas)
        self.outcome.peak_starting = max(self.outcome.peak_starting, starting)
        takes = self._operations.cold_start.seconds(starting)
        self._at(self._now + takes, lambda: self._become_ready(replica))

    def _become_ready(self, replica: _Replica) -> None:
        if replica not in self._replicas:
            return  # stopped before it was ready
        replica.ready = True
        life = self._random.expovariate(1 / (self._operations.days_between_deaths * DAY))
        self._at(self._now + life, lambda: self._die(replica))
        if self._rolling:
            self._roll()

    def _stop(self, replica: _Replica) -> None:
        self._pay(replica)
        self._replicas.remove(replica)

    def _pay(self, replica: _Replica) -> None:
        """Counts a replica up to now."""
        self._hold(replica)
        self._hour.gpu_seconds += self._now - replica.begun
        replica.begun = self._now

    def _die(self, replica: _Replica) -> None:
        if replica not in self._replicas:
            return
        self.outcome.deaths += 1
        orphans = sorted(replica.calls)
        self._stop(replica)
        self._start()
        self._scatter(orphans)

    def _lose_fullest(self) -> None:
        ready = [replica for replica in self._replicas if replica.ready]
        if ready:
            self._die(max(ready, key=lambda replica: len(replica.calls)))

    def _drain(self, replica: _Replica) -> None:
        """Stops a replica whose calls go on elsewhere."""
        calls = sorted(replica.calls)
        self._stop(replica)
        self._scatter(calls)

    def _scatter(self, calls: list[int]) -> None:
        """Calls that have lost their replica come back, not all at the same moment."""
        for call in calls:
            self._open[call] = None
            delay, since = self._random.uniform(0.5, 1.0) * self._operations.back_seconds, self._now
            self._at(self._now + delay, lambda call=call, since=since: self._come_back(call, since))  # type: ignore[misc]

    # ---- Scaling ----

    def _wanted(self, calls: float) -> int:
        return ceil(calls / (self._operations.target * self._operations.slots))

    def _look(self) -> None:
        """The autoscaler."""
        operations = self._operations
        self._at(self._now + _LOOK_EACH, self._look)
        self._seen.append(len(self._open))
        wanted = self._wanted(sum(self._seen) / len(self._seen))
        wanted = min(max(wanted, operations.min_replicas), operations.max_replicas)
        have = len(self._replicas)
        if self._rolling:
            return
        self._wanted_more = self._wanted_more + _LOOK_EACH if wanted > have else 0.0
        self._wanted_fewer = self._wanted_fewer + _LOOK_EACH if wanted < have else 0.0
        if self._wanted_more > operations.up_seconds or wanted > have == 0:
            for _ in range(wanted - have):
                self._start()
        elif self._wanted_fewer > operations.down_seconds:
            self._shrink(have - wanted)

    def _shrink(self, surplus: int) -> None:
        """Stops replicas, those that start first and then those with the fewest calls."""
        for replica in sorted(self._replicas, key=lambda replica: (replica.ready, len(replica.calls)))[:surplus]:
            self._drain(replica)

    def _begin_rollout(self) -> None:
        self._rolling = True
        for replica in self._replicas:
            replica.old = True
        for _ in range(ceil(len(self._replicas) / 4)):
            self._start()

    def _roll(self) -> None:
        """A new replica is ready: an old one may go, and the next new one may start."""
        old = [replica for replica in self._replicas if replica.old]
        if old:
            self._drain(min(old, key=lambda replica: len(replica.calls)))
        starting = sum(not replica.ready for replica in self._replicas)
        if len(old) - 1 > starting:
            self._start()
        self._rolling = len(old) > 1

"""Who is stepped next: the scheduler of one model that many conversations share.

The engine's thread keeps the scheduler's table of demands true, and asks it before each turn of its loop:

    scheduler = Scheduler(costs)
    scheduler.update(slot, Demand(Waits.STARTING, lead_in=17, since=now))  # whenever a conversation has changed
    scheduler.update(slot, None)                                          # it cannot step, or has nothing to do
    decision = scheduler.decide(now)                                      # LEAD_IN, FRAMES, PASS or REST

A conversation asks for one of three kinds of work, in this order: a pass of many columns (a voice, a rebuilt context,
what the caller said), lead-in steps (the backbone alone), whole steps (each completes a frame of 80 ms). The scheduler
says which kind is next and for whom. All of its times are seconds on the clock of whoever asks.

The rules, first to last:

1. **Deadlines.** A speaking conversation has a deadline: when its listener runs dry. From the deadlines and the costs
   follows the latest moment at which the next frames have to begin. Nothing else is begun that would end after it. A
   conversation whose lead-in is done, and which nobody hears yet, is overdue like one whose listener has run dry.
2. **Starters.** Until then, whoever waits for the first frame goes first. All starters share their steps: four cost
   little more than one. A voice that has to be run first takes turns with the lead-in steps of the others. So does a
   step that has to rebuild a full context first, once that is urgent; until then it is made when nobody else waits.
   Several of these come one behind the other, so the first is urgent as early as all of them together ask for.
3. **Frames in advance.** Nobody is in danger and nobody starts: speakers are stepped in the batch that makes the most
   frames a second. Who has less than `comfort` in hand is served at once. Otherwise such work takes at most `share`
   of the time, so that a starter finds the model free. A conversation that is alone is stepped whenever it can.
4. **What nobody waits for:** passes in the background, then prepared replies. A pass that has waited for `background`
   counts as a starter's, so it is not starved by others who start again and again.

Where the load is too much for the machine, somebody has to be late. Starters and passes that somebody has waited for
longer than `patience` then take turns with frames in need, so nobody waits for ever.

Places of a batch that its size leaves free are filled: with starters, who take part in the backbone and so win a step
for nothing, then with prepared replies.

Example: 64 conversations speak, each 500 ms ahead, and one starts. Its 17 lead-in steps go alone, 1.4 ms each, then its
first frame, 5.3 ms. Had the speakers been 20 ms from running dry, their frames would have gone before, the starter's
next lead-in step among them.

Pure: no torch, no threads, no clock. The same demands in whatever order, and the same `now`, give the same decision.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import NamedTuple

from dia2.steps.speculation import LEAST_DEPTH
from dia2stream.engine.costs import TREE_STEPS, CostCurve


class Waits(Enum):
    """Who waits for a conversation's next frame."""

    SPEAKING = "a listener, who has frames to play until the deadline"
    STARTING = "a listener, who hears nothing yet"
    NOBODY = "no one: a pass whose words are still to come"
    PREPARED = "no one: a reply that may never be heard"


class Kind(Enum):
    """What the engine does next."""

    LEAD_IN = "one step of the backbone alone"
    FRAMES = "one whole step"
    PASS = "columns of one slot in one pass"
    REST = "nothing"


class Demand(NamedTuple):
    """What one conversation asks of the model now.

    waits: who waits for it. columns: of a pass that comes first; 0: none. lead_in: steps of the backbone alone before
    its next whole step. ready: False if it speaks, but its outbox is full; then it is not stepped. deadline: when the
    listener of one that is SPEAKING runs dry. since: when the others began to wait. rows: 2 with guidance, 1 without.
    rebuild: columns that its next step itself runs first, because its context is full; 0: it is not.
    """

    waits: Waits
    columns: int = 0
    lead_in: int = 0
    ready: bool = True
    deadline: float = inf
    since: float = 0.0
    rows: int = 2
    rebuild: int = 0


@dataclass(frozen=True)
class Decision:
    """What to do next.

    slots: LEAD_IN: whom to step; FRAMES: who completes a frame; PASS: the one slot. riders: FRAMES: slots in their
    lead-in that take part in the backbone of this step. columns: PASS: how many columns of it now. steps: LEAD_IN: so
    many of them may follow each other, as long as nobody wants anything new. Where the curve has trees, `LEAST_DEPTH`
    steps and more are made by them. seconds: what this takes, by the cost curve; of several steps or trees, each.
    until: REST: until then only a changed demand other than room in an outbox matters; inf: any change may matter.
    """

    kind: Kind
    slots: tuple[int, ...] = ()
    riders: tuple[int, ...] = ()
    columns: int = 0
    steps: int = 1
    seconds: float = 0.0
    until: float = inf


@dataclass(frozen=True)
class Policy:
    """What the scheduler aims at, in seconds.

    margin: how long before its deadline a frame should be there. comfort: who has less in hand is stepped at once.
    share: of the time, for frames that are made in advance while others may start. patience: who has
    waited for so long to be heard takes turns with frames in need. background: a pass that nobody waits for counts as
    a starter's after so long. piece: how long a part of a pass may take while others have something to do.
    """

    margin: float = 0.012
    comfort: float = 0.4
    share: float = 0.25
    patience: float = 1.0
    background: float = 5.0
    piece: float = 0.008


class _Job(NamedTuple):
    """A pass or a lead-in. due: from when on it goes before frames in advance; overdue: and before frames in need."""

    due: float
    overdue: float
    slot: int
    demand: Demand


class Scheduler:
    """The demands of all conversations, and the decision that follows from them."""

    def __init__(self, costs: CostCurve, policy: Policy | None = None) -> None:
        self.costs, self.policy = costs, policy or Policy()
        self._demands: dict[int, Demand] = {}
        self._stale = True  # the lists below do not agree with the demands
        self._line: list[tuple[float, float, int]] = []  # whose frames somebody waits for: deadline, since, slot
        self._latest = inf  # when their frames have to begin
        self._leads: list[_Job] = []
        self._passes: list[_Job] = []
        self._prepared: list[int] = []  # whose frames nobody waits for
        self._calm_until = -inf  # frames in advance rest until then
        self._last = Kind.REST
        self._passed = False  # the last decision was for one who has columns to run first

    def update(self, slot: int, demand: Demand | None) -> None:
        """What a slot asks for from now on; None: nothing."""
        if self._demands.get(slot) == demand:
            return
        if demand is None:
            del self._demands[slot]
        else:
            self._demands[slot] = demand
        self._stale = True

    def decide(self, now: float) -> Decision:
        """What to do next. The engine tells by `update` what became of it before it asks again."""
        if self._stale:
            self._sort()
        decision = self._decide(now)
        first = self._demands[decision.slots[0]] if decision.slots else None
        self._last, self._passed = decision.kind, first is not None and (first.columns or first.rebuild) > 0
        return decision

    def margin(self, now: float) -> float | None:
        """For how many seconds the most urgent listener has sound; None when nobody hears anything."""
        first = bisect_left(self._line, (-inf, inf, 0))  # behind those who are not heard yet
        return self._line[first][0] - now if first < len(self._line) else None

    def _decide(self, now: float) -> Decision:
        job = self._job(now)
        if job is not None and (now + job.seconds <= self._latest or self._starves(now)):
            return job
        if self._line and (job is not None or now >= self._short_from()):
            return self._frames(now)
        if self._line and (now >= self._calm_until or len(self._demands) == 1):
            decision = self._frames(now)
            self._calm_until = now + decision.seconds / self.policy.share
            return decision
        unheard = self._unheard(now)
        if unheard is not None and now + unheard.seconds <= self._latest:
            return unheard
        until = min(self._calm_until, self._short_from()) if self._line else inf
        return Decision(Kind.REST, until=until)

    # ---- The table, sorted ----

    def _sort(self) -> None:
        """Sorts the demands into the lists."""
        self._line, self._leads, self._passes, self._prepared = [], [], [], []
        for slot, demand in self._demands.items():
            if not demand.ready:
                continue
            if demand.columns or demand.rebuild:
                self._passes.append(self._timed(slot, demand))
            elif demand.lead_in:
                self._leads.append(self._timed(slot, demand))
            elif demand.waits is Waits.STARTING:
                self._line.append((-inf, demand.since, slot))
            elif demand.waits is not Waits.SPEAKING:
                self._prepared.append(slot)
            else:
                self._line.append((demand.deadline, 0.0, slot))
        for entries in (self._line, self._leads, self._passes, self._prepared):
            entries.sort()
        self._queue_passes()
        self._latest = self._latest_start()
        self._stale = False

    def _queue_passes(self) -> None:
        """Makes each pass that a listener waits for pressing early enough for those that come behind it."""
        latest = inf
        for place, job in reversed([*enumerate(self._passes)]):
            if job.demand.waits is Waits.SPEAKING:
                latest = min(job.overdue, latest - (job.demand.deadline - job.overdue))
                self._passes[place] = job._replace(due=latest - self.policy.comfort)

    def _timed(self, slot: int, demand: Demand) -> _Job:
        """A pass or a lead-in with the times at which it becomes pressing."""
        if demand.waits is Waits.STARTING:
            return _Job(-inf, demand.since + self.policy.patience, slot, demand)
        if demand.waits is Waits.SPEAKING:
            columns = demand.columns or demand.rebuild
            passing = self.costs.one_pass(columns) if columns else 0.0
            takes = passing + self.costs.lead_ins(1, demand.lead_in) + self.costs.frame(1, 1)
            return _Job(demand.deadline - takes - self.policy.comfort, demand.deadline - takes, slot, demand)
        if demand.waits is Waits.NOBODY:
            return _Job(demand.since + self.policy.background, inf, slot, demand)
        return _Job(inf, inf, slot, demand)

    def _latest_start(self, served: int = 0) -> float:
        """When the frames of the line, but for the first `served`, have to begin, so that all are there in time."""
        latest, taking = inf, self.policy.margin
        while served < len(self._line):
            count = self.costs.best(len(self._line) - served)
            taking += self.costs.frame(count, count)
            latest = min(latest, self._line[served][0] - taking)
            served += count
        return latest

    def _short_from(self) -> float:
        """From when on the first of the line has less than `comfort` in hand."""
        return self._line[0][0] - self.policy.comfort

    # ---- Passes and lead-ins ----

    def _job(self, now: float) -> Decision | None:
        """The pass or the lead-in steps that somebody waits for."""
        passing = bool(self._passes) and self._passes[0].due <= now
        leading = bool(self._leads) and self._leads[0].due <= now
        if passing and not (leading and self._passed):
            return self._pass(self._passes[0])
        return self._lead_in(now) if leading else None

    def _starves(self, now: float) -> bool:
        """Whether a pass or a lead-in has waited for so long that it takes turns with frames in need."""
        overdue = min(job.overdue for job in (*self._passes[:1], *self._leads[:1]))
        return self._last is Kind.FRAMES and not self._passed and overdue <= now

    def _pass(self, job: _Job) -> Decision:
        """The next part of a pass: all of it for one who is alone, else what takes no longer than `piece`.

        A context that is full is rebuilt by the step that needs the room, which nobody else has to wait for then.
        """
        columns = job.demand.columns
        if not columns:
            return self._step_with_rebuild(job)
        if len(self._demands) > 1:
            within = max(self.policy.piece, self.costs.one_pass(1))
            columns = min(columns, self.costs.columns_within(within))
        return Decision(Kind.PASS, (job.slot,), columns=columns, seconds=self.costs.one_pass(columns))

    def _step_with_rebuild(self, job: _Job) -> Decision:
        seconds = self.costs.one_pass(job.demand.rebuild)
        if job.demand.lead_in:
            return Decision(Kind.LEAD_IN, (job.slot,), seconds=seconds + self.costs.lead_in(1, 1))
        return Decision(Kind.FRAMES, (job.slot,), seconds=seconds + self.costs.frame(1, 1))

    def _lead_in(self, now: float) -> Decision:
        """Steps for all who start, or for the first of very many; what is free in their batch goes to who can wait."""
        hurried = [job for job in self._leads if job.due <= now]
        if self.costs.by_trees(1, LEAST_DEPTH):
            # Who has too few steps left for trees goes first, and alone: trees serve the others better.
            hurried = [job for job in hurried if job.demand.lead_in < LEAST_DEPTH] or hurried
        most = min((job.demand.lead_in for job in hurried), default=1)
        hurried = hurried[: self.costs.starters(len(hurried), most)]
        if not self.costs.by_trees(len(hurried), most):
            slots = [job.slot for job in hurried]
            chosen = {*slots}
            free = max(0, self.costs.padded(self._places(slots)) - len(slots))
            others = [job for job in self._leads if job.slot not in chosen][:free]
            if others:
                return self._steps_in_a_row([*hurried, *others], 1, now)
        return self._steps_in_a_row(hurried, most, now)

    def _steps_in_a_row(self, jobs: Sequence[_Job], most: int, now: float) -> Decision:
        """Lead-in steps of these slots, at most so many, until frames have to begin or a pass is wanted.

        A pass that is wanted already takes turns with one step, or with one pass of trees.
        """
        slots = [job.slot for job in jobs]
        seconds, made, tree = self.costs.lead_in(self._places(slots), len(slots)), 1, self.costs.tree(len(slots))
        if self.costs.by_trees(len(slots), most):
            if now + tree <= self._latest:
                seconds, made = tree, TREE_STEPS
            else:
                most = LEAST_DEPTH - 1
        time = min(self._latest, self._passes[0].due if self._passes else inf) - now
        steps = int(min(most, max(made, made * time / seconds)))
        return Decision(Kind.LEAD_IN, tuple(slots), steps=steps, seconds=seconds)

    def _unheard(self, now: float) -> Decision | None:
        """What nobody waits for now."""
        background = next((job for job in self._passes if job.demand.waits is not Waits.PREPARED), None)
        if background is not None:
            return self._pass(background)
        if self._leads:
            return self._unheard_lead_in(self._leads[0], now)
        if self._passes:
            return self._pass(self._passes[0])
        return self._whole_step(self._prepared[: self.costs.largest]) if self._prepared else None

    def _unheard_lead_in(self, job: _Job, now: float) -> Decision:
        """Lead-in steps of one slot: by trees where there are any, as these take less of the model's time in all.

        One by one otherwise, so that a starter waits for a single step.
        """
        steps = job.demand.lead_in
        return self._steps_in_a_row([job], steps if self.costs.by_trees(1, steps) else 1, now)

    # ---- Frames ----

    def _frames(self, now: float) -> Decision:
        """One whole step for the most urgent, filled up with those who profit."""
        slots = [slot for _, _, slot in self._line[: self._count(now)]]
        free = self.costs.padded(self._places(slots)) - self._places(slots)
        return self._whole_step([*slots, *self._prepared[:free]])

    def _count(self, now: float) -> int:
        """How many of the line to step: the most frames a second that leave nobody late.

        Whoever is overdue is not made to wait for a batch larger than their own, as long as all others have the time.
        """
        best = self.costs.best(len(self._line))
        overdue = bisect_left(self._line, (now,), hi=best)
        smaller = [size for size in self.costs.sizes if overdue <= size < best]
        choices = [*smaller, best] if overdue else [best, *reversed(smaller)]
        for spare in (0.0, -self.policy.margin):
            for count in choices:
                if self._slack(count, overdue, now) >= spare:
                    return count
        return best

    def _slack(self, count: int, overdue: int, now: float) -> float:
        """How long a step of the first `count` could wait before somebody who is not overdue yet would be."""
        ends = now + self.costs.frame(count, count)
        first = self._line[overdue][0] - ends - self.policy.margin if overdue < count else inf
        return min(first, self._latest_start(count) - ends)

    def _whole_step(self, slots: Sequence[int]) -> Decision:
        """A whole step of `slots`; those in their lead-in ride along where that is cheaper than a step of their own."""
        places = self._places(slots)
        riders = [job.slot for job in self._leads]
        while riders and not self._riding_pays(places, self._places(riders)):
            riders = riders[: min(len(riders) - 1, max(0, self.costs.padded(places) - places))]
        seconds = self.costs.frame(places, len(slots), self._places(riders), len(riders))
        return Decision(Kind.FRAMES, tuple(slots), tuple(riders), seconds=seconds)

    def _riding_pays(self, places: int, riding: int) -> bool:
        if places + riding > self.costs.largest:
            return False
        alone = self.costs.frame(places, places)
        return self.costs.frame(places, places, riding) - alone <= self.costs.lead_ins(riding, 1)

    def _places(self, slots: Sequence[int]) -> int:
        """The places that slots take in a batch: one with guidance, half of one without."""
        return (sum(self._demands[slot].rows for slot in slots) + 1) // 2

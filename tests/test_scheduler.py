"""The scheduler: who is stepped next, with the measured costs of an H100 and a clock of the test's own."""

from dataclasses import dataclass, field, replace
from math import inf
from random import Random
from time import perf_counter
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dia2.steps.speculation import LEAST_DEPTH
from dia2stream.engine.costs import H100, TREE_STEPS, CostCurve
from dia2stream.engine.scheduler import Decision, Demand, Kind, Policy, Scheduler, Waits

FRAME = 0.08
POLICY = Policy()
STARTER = Demand(Waits.STARTING, lead_in=17)
PREPARED = Demand(Waits.PREPARED)
# A machine on which a pass can be cut: 100 columns take 4 ms.
CUTTING = CostCurve(
    "cutting", H100.sizes, H100.backbone, H100.depformer, H100.codec, ((1, 0.002), (100, 0.004), (1000, 0.022))
)

TREES = replace(H100, trees=((1, 0.02),))
CHEAP_TREES = replace(H100, trees=((1, 0.003), (8, 0.005)))


def speaking(in_hand: float, **fields: Any) -> Demand:
    """A speaker whose listener has so many seconds to play, at time 0."""
    return Demand(Waits.SPEAKING, deadline=in_hand, **fields)


def scheduler_of(demands: dict[int, Demand], costs: CostCurve = H100) -> Scheduler:
    scheduler = Scheduler(costs)
    for slot, demand in demands.items():
        scheduler.update(slot, demand)
    return scheduler


def decide(demands: dict[int, Demand], costs: CostCurve = H100) -> Decision:
    return scheduler_of(demands, costs).decide(0.0)


# ---- One at a time ----


def test_without_demands_the_engine_rests_until_something_changes():
    assert decide({}) == Decision(Kind.REST, until=inf)
    assert decide({0: speaking(1.0, ready=False)}) == Decision(Kind.REST, until=inf)


def test_the_margin_is_that_of_the_most_urgent_listener_whoever_starts_meanwhile():
    scheduler = scheduler_of({0: speaking(0.5), 1: speaking(0.2), 2: Demand(Waits.STARTING), 3: STARTER})
    scheduler.decide(0.0)
    assert scheduler.margin(0.05) == pytest.approx(0.15)
    assert scheduler.margin(0.25) == pytest.approx(-0.05)
    silent = scheduler_of({2: Demand(Waits.STARTING)})
    silent.decide(0.0)
    assert silent.margin(0.0) is None


def test_one_conversation_alone_is_stepped_at_once_and_every_time():
    scheduler = scheduler_of({3: STARTER})
    for left in range(17, 0, -1):
        scheduler.update(3, Demand(Waits.STARTING, lead_in=left))
        assert scheduler.decide(0.0).kind is Kind.LEAD_IN
    scheduler.update(3, Demand(Waits.STARTING))
    assert scheduler.decide(0.03).kind is Kind.FRAMES
    for turn in range(10):
        scheduler.update(3, speaking(5.0 + turn))
        assert scheduler.decide(0.04 + turn * 0.005).slots == (3,)


def test_the_pass_of_one_who_is_alone_is_not_cut():
    assert decide({0: STARTER._replace(columns=900)}, CUTTING).columns == 900


def test_a_pass_is_cut_where_that_saves_time_for_others():
    shared = {0: STARTER._replace(columns=900), 1: speaking(2.0)}
    assert decide(shared, CUTTING).columns == 295  # 7.9 ms
    assert decide(shared, H100).columns == 512  # 6 ms, and one column more costs another 2


def test_a_demand_that_is_gone_is_not_named():
    scheduler = scheduler_of({0: speaking(1.0), 1: speaking(1.0)})
    scheduler.update(1, None)
    scheduler.update(7, None)
    assert scheduler.decide(0.0).slots == (0,)


# ---- Starters ----


@pytest.mark.parametrize(
    ("others", "steps"),
    [
        ({}, 17),
        ({1: Demand(Waits.STARTING, lead_in=5)}, 5),  # both are in the batch, and one is done earlier
        ({1: speaking(2.0)}, 17),
        ({1: speaking(0.035)}, 16),  # its frame takes 3.5 ms and is wanted 12 ms early; a step takes 1.2 ms
        ({1: STARTER._replace(columns=900)}, 1),  # a pass takes turns
        ({1: Demand(Waits.PREPARED, lead_in=3)}, 17),
    ],
)
def test_lead_in_steps_follow_each_other_as_long_as_nobody_else_is_next(others, steps):
    scheduler = scheduler_of({0: STARTER, **others})
    if 1 in others and others[1].columns:
        assert scheduler.decide(0.0).kind is Kind.PASS
    decision = scheduler.decide(0.0)
    assert (decision.kind, decision.steps) == (Kind.LEAD_IN, steps)


@pytest.mark.parametrize(
    ("other", "steps"),
    [
        (Demand(Waits.NOBODY, columns=100), 17),  # what the caller said waits for up to 5 s
        (Demand(Waits.NOBODY, columns=100, since=-POLICY.background), TREE_STEPS),  # it has waited: one tree, then it
        (Demand(Waits.NOBODY, columns=100, since=0.05 - POLICY.background), 14),  # two trees and a bit until then
        (STARTER._replace(columns=900), TREE_STEPS),
    ],
)
def test_a_pass_takes_turns_with_trees_once_it_is_wanted(other, steps):
    scheduler = scheduler_of({0: STARTER, 1: other}, TREES)
    first = scheduler.decide(0.0)
    decision = scheduler.decide(0.0) if first.kind is Kind.PASS else first
    assert (decision.kind, decision.steps) == (Kind.LEAD_IN, steps)


@pytest.mark.parametrize(
    ("until_dry", "steps", "seconds"),
    [
        (2.0, 17, TREES.tree(1)),
        (0.0309, 2, TREES.lead_in(1, 1)),  # its frame takes 3.9 ms and is wanted 12 ms early; a tree takes 20 ms
        (0.0379, 6, TREES.tree(1)),
    ],
)
def test_lead_in_steps_are_made_by_trees_where_these_are_done_before_the_next_frame_has_to_begin(
    until_dry, steps, seconds
):
    scheduler = Scheduler(TREES)
    scheduler.update(0, STARTER)
    scheduler.update(1, speaking(until_dry))
    decision = scheduler.decide(0.0)
    assert (decision.kind, decision.slots, decision.steps) == (Kind.LEAD_IN, (0,), steps)
    assert decision.seconds == seconds


@pytest.mark.parametrize("unheard", [Demand(Waits.PREPARED, lead_in=17), speaking(3.0, lead_in=17)])
def test_lead_ins_that_nobody_waits_for_are_made_by_trees_and_one_by_one_where_there_are_none(unheard):
    assert decide({0: unheard}).steps == 1
    decision = decide({0: unheard, 1: Demand(Waits.PREPARED, lead_in=9)}, TREES)
    assert (decision.kind, decision.seconds) == (Kind.LEAD_IN, TREES.tree(1))
    assert (decision.slots, decision.steps) == ((0,), 17)


@pytest.mark.parametrize(("seconds", "steps"), [(0.1, 17), (0.5, LEAST_DEPTH - 1)])
def test_a_tree_that_nobody_waits_for_is_not_begun_where_it_would_make_a_frame_late(seconds, steps):
    scheduler = scheduler_of(
        {0: speaking(0.45), 1: Demand(Waits.PREPARED, lead_in=17)}, replace(TREES, trees=((1, seconds),))
    )
    assert scheduler.decide(0.0).slots == (0,)
    decision = scheduler.decide(0.001)
    assert (decision.slots, decision.steps) == ((1,), steps)


def test_of_more_starters_than_places_those_go_first_who_came_first():
    starters = {slot: STARTER._replace(since=-slot) for slot in range(200)}
    assert {*decide(starters).slots} == {*range(72, 200)}


def test_starters_who_have_no_room_in_one_pass_of_trees_have_theirs_in_turns_where_that_is_faster():
    demands = {slot: STARTER._replace(since=-slot) for slot in range(20)}
    decision = decide(demands, CHEAP_TREES)
    assert (decision.slots, decision.steps) == (tuple(range(19, 11, -1)), 17)
    assert decision.seconds == CHEAP_TREES.tree(8)
    slow = replace(CHEAP_TREES, trees=((1, 0.003), (8, 0.03)))
    assert len(decide(demands, slow).slots) == 20


def test_whoever_is_nearly_done_goes_before_trees():
    nearly, prepared = Demand(Waits.STARTING, lead_in=1), Demand(Waits.PREPARED, lead_in=17)
    decision = decide({0: STARTER, 1: nearly, 2: prepared}, CHEAP_TREES)
    assert (decision.slots, decision.steps) == ((1,), 1)
    first_frame = decide({0: STARTER, 1: Demand(Waits.STARTING)}, CHEAP_TREES)
    assert (first_frame.kind, first_frame.slots, first_frame.riders) == (Kind.FRAMES, (1,), ())


def test_starters_share_their_steps_and_go_before_frames_in_advance():
    decision = decide({0: speaking(2.0), 1: STARTER, 2: STARTER, 3: speaking(1.0)})
    assert (decision.kind, decision.slots) == (Kind.LEAD_IN, (1, 2))


def test_a_starter_waits_for_a_speaker_in_danger_and_rides_along():
    decision = decide({0: speaking(0.016), 1: STARTER})
    assert (decision.kind, decision.slots, decision.riders) == (Kind.FRAMES, (0,), (1,))


def test_a_first_frame_does_not_wait_for_speakers_with_time():
    decision = decide({0: STARTER._replace(lead_in=0), **{slot: speaking(1.0) for slot in range(1, 65)}})
    assert (decision.kind, decision.slots) == (Kind.FRAMES, (0,))


def test_a_first_frame_shares_its_step_with_speakers_who_would_be_late_behind_it():
    demands = {0: STARTER._replace(lead_in=0), **{slot: speaking(0.032) for slot in range(1, 64)}}
    assert len(decide(demands).slots) == 64


def test_riders_do_not_make_a_full_batch_twice_as_large():
    decision = decide({0: STARTER, **{slot: speaking(0.03) for slot in range(1, 65)}})
    assert (len(decision.slots), decision.riders) == (64, ())


def test_a_voice_takes_turns_with_the_lead_in_of_others():
    scheduler = scheduler_of({0: STARTER._replace(columns=900), 1: STARTER}, CUTTING)
    assert [scheduler.decide(0.0).kind for _ in range(4)] == [Kind.PASS, Kind.LEAD_IN] * 2


def test_a_turn_that_begins_behind_a_long_one_does_not_hurry():
    behind = speaking(3.0, lead_in=17)
    assert decide({0: behind, 1: speaking(0.3)}).slots == (1,)
    assert decide({0: behind, 1: STARTER}).slots == (1,)
    assert decide({0: speaking(0.3, lead_in=17), 1: speaking(1.0)}).kind is Kind.LEAD_IN


def test_a_context_is_rebuilt_before_its_listener_runs_dry():
    assert decide({0: speaking(0.3, columns=400), 1: speaking(1.0)}).kind is Kind.PASS
    assert decide({0: speaking(0.3, columns=400), 1: speaking(0.020)}).slots == (1,)


def test_full_contexts_are_rebuilt_one_by_one_when_nobody_waits():
    full = speaking(2.0, rebuild=375)
    decision = decide({0: full, 1: full, 2: speaking(2.0, ready=False)})
    assert (decision.kind, decision.slots) == (Kind.FRAMES, (0,))
    assert decision.seconds == pytest.approx(H100.one_pass(375) + H100.frame(1, 1))
    assert decide({0: full, 1: speaking(0.3)}).slots == (1,)
    assert decide({0: full, 1: STARTER}).slots == (1,)
    behind = decide({0: speaking(2.0, rebuild=375, lead_in=3)})
    assert (behind.kind, behind.steps) == (Kind.LEAD_IN, 1)


def test_full_contexts_whose_listeners_are_about_to_run_dry_take_turns_with_starters():
    full = speaking(0.3, rebuild=375)
    scheduler = scheduler_of({0: full, 1: full, 2: STARTER})
    decisions = [scheduler.decide(0.0) for _ in range(4)]
    assert [decision.slots for decision in decisions] == [(0,), (2,)] * 2


# ---- Frames in advance, and what nobody waits for ----


def test_frames_in_advance_leave_a_part_of_the_time_to_starters():
    scheduler = scheduler_of({slot: speaking(2.0) for slot in range(16)})
    first = scheduler.decide(0.0)
    rest = scheduler.decide(first.seconds)
    assert rest.kind is Kind.REST
    assert rest.until == pytest.approx(first.seconds / POLICY.share)
    assert scheduler.decide(rest.until).kind is Kind.FRAMES


def test_a_rest_ends_before_anyone_is_short_of_frames():
    scheduler = scheduler_of({0: speaking(POLICY.comfort + 0.006), **{slot: speaking(2.0) for slot in range(1, 64)}})
    taken = scheduler.decide(0.0).seconds
    assert scheduler.decide(taken).kind is Kind.FRAMES


def test_what_nobody_waits_for_is_done_in_the_time_that_is_left():
    listening, prepared = Demand(Waits.NOBODY, columns=100), Demand(Waits.PREPARED, lead_in=17)
    others = {slot: speaking(2.0) for slot in range(8)}
    scheduler = scheduler_of({**others, 8: listening, 9: prepared}, CUTTING)
    assert scheduler.decide(0.0).slots == tuple(range(8))
    assert scheduler.decide(0.0101).slots == (8,)
    scheduler.update(8, None)
    assert scheduler.decide(0.0101).slots == (9,)


def test_a_pass_that_nobody_waits_for_is_not_starved_by_starters():
    scheduler = scheduler_of({0: Demand(Waits.NOBODY, columns=100, since=0.0), 1: STARTER}, CUTTING)
    assert scheduler.decide(0.1).kind is Kind.LEAD_IN
    assert scheduler.decide(POLICY.background).kind is Kind.PASS


def test_a_prepared_reply_is_behind_everything_that_is_heard():
    for other in (speaking(0.1), STARTER, Demand(Waits.NOBODY, columns=10)):
        decision = decide({0: PREPARED._replace(lead_in=3), 1: other})
        assert decision.slots == (1,)


def test_a_prepared_reply_takes_places_that_would_be_empty():
    decision = decide({0: PREPARED, **{slot: speaking(0.1) for slot in range(1, 8)}})
    assert decision.slots == (1, 2, 3, 4, 5, 6, 7, 0)
    assert 0 not in decide({0: PREPARED, **{slot: speaking(0.1) for slot in range(1, 9)}}).slots


def test_two_conversations_without_guidance_take_one_place():
    assert decide({slot: STARTER._replace(rows=1) for slot in range(4)}).seconds == H100.lead_in(2, 4)


# ---- Danger ----


def test_a_speaker_who_is_nearly_dry_is_not_made_late_by_a_large_batch():
    decision = decide({0: speaking(0.019), **{slot: speaking(1.0) for slot in range(1, 64)}})
    assert decision.slots[0] == 0
    assert decision.seconds <= 0.019


def test_speakers_who_are_nearly_dry_together_are_not_served_in_small_batches():
    # Served eight at a time, each batch would take half as long as all of them, and the last would be late.
    assert len(decide({slot: speaking(0.035 + slot * 0.0005) for slot in range(64)}).slots) == 64


# ---- Whatever the demands are ----

DEMANDS = st.builds(
    Demand,
    waits=st.sampled_from(Waits),
    columns=st.sampled_from([0, 0, 0, 1, 30, 400]),
    lead_in=st.sampled_from([0, 0, 0, 1, 17]),
    ready=st.sampled_from([True, True, True, False]),
    deadline=st.floats(-0.1, 4.0),
    since=st.floats(-8.0, 0.0),
    rows=st.sampled_from([1, 2, 2]),
    rebuild=st.sampled_from([0, 0, 0, 375]),
)
TABLES = st.dictionaries(st.integers(0, 255), DEMANDS, max_size=200)


@given(TABLES, st.sampled_from([H100, CUTTING, CHEAP_TREES]))
def test_a_decision_names_only_slots_that_want_what_it_is(table, costs):
    decision = decide(table, costs)
    named = [*decision.slots, *decision.riders]
    wants = [table[slot] for slot in named]
    assert len(set(named)) == len(named)
    assert all(demand.ready for demand in wants)
    assert (sum(demand.rows for demand in wants) + 1) // 2 <= costs.largest
    assert bool(decision.riders) <= (decision.kind is Kind.FRAMES)
    match decision.kind:
        case Kind.PASS:
            assert len(named) == 1
            assert 1 <= decision.columns <= wants[0].columns
        case Kind.LEAD_IN:
            assert wants
            assert all(demand.lead_in and not demand.columns for demand in wants)
        case Kind.FRAMES:
            assert decision.slots
            assert not any(table[slot].lead_in or table[slot].columns for slot in decision.slots)
            assert all(table[slot].lead_in and not table[slot].columns for slot in decision.riders)
        case Kind.REST:
            assert not named
    assert len(named) == 1 or not any(demand.rebuild for demand in wants)


@given(TABLES, st.randoms(use_true_random=False))
def test_the_order_in_which_demands_were_told_does_not_matter(table, random):
    shuffled = list(table.items())
    random.shuffle(shuffled)
    assert decide(dict(shuffled)) == decide(table)


@given(TABLES)
def test_the_engine_rests_only_when_nobody_could_be_stepped(table):
    # The first decision owes no rest to a step before it.
    assert (decide(table).kind is Kind.REST) == (not any(demand.ready for demand in table.values()))


@given(TABLES)
def test_prepared_replies_are_alone_in_a_step_only_if_nothing_else_can_be_done(table):
    decision = decide(table)
    named = [table[slot] for slot in (*decision.slots, *decision.riders)]
    if named and all(demand.waits is Waits.PREPARED for demand in named):
        heard = [d for d in table.values() if d.ready and d.waits in (Waits.STARTING, Waits.SPEAKING)]
        assert not [d for d in heard if not d.columns and not d.lead_in]
        assert not [d for d in heard if d.waits is Waits.STARTING]


@given(st.dictionaries(st.integers(1, 128), st.builds(speaking, st.floats(0.02, 2.0)), min_size=1, max_size=127))
def test_a_starter_goes_before_frames_exactly_as_long_as_all_of_them_can_still_be_in_time(speakers):
    decision = decide({**speakers, 0: STARTER})
    begins = H100.lead_in(1, 1)
    in_time, ends, deadlines = True, begins, sorted(demand.deadline for demand in speakers.values())
    while deadlines:
        batch = H100.best(len(deadlines))
        ends += H100.frame(batch, batch)
        in_time &= ends + POLICY.margin <= deadlines[0]
        del deadlines[:batch]
    assert (decision.kind is Kind.LEAD_IN) == in_time


# ---- For a while ----


@dataclass
class World:
    """Conversations that take what the scheduler gives them, at the cost that the curve says. None has an outbox."""

    costs: CostCurve
    demands: dict[int, Demand]
    now: float = 0.0
    late: list[float] = field(default_factory=list)
    done: dict[int, float] = field(default_factory=dict)  # when a slot's first frame, or its pass, was there

    def run(self, until: float) -> None:
        scheduler = scheduler_of(self.demands, self.costs)
        while self.now < until:
            decision = scheduler.decide(self.now)
            if decision.kind is Kind.REST:
                assert decision.until > self.now
                self.now = min(until, decision.until)
                continue
            self.now += decision.seconds
            for slot in (*decision.slots, *decision.riders):
                self.demands[slot] = self.after(slot, decision)
                scheduler.update(slot, self.demands[slot])

    def after(self, slot: int, decision: Decision) -> Demand:
        demand = self.demands[slot]
        if demand.columns:
            demand = demand._replace(columns=demand.columns - decision.columns)
            if not demand.columns and demand.waits is Waits.NOBODY:
                self.done.setdefault(slot, self.now)
                return Demand(Waits.PREPARED)  # has nothing to do that could be starved
            return demand
        if demand.lead_in:
            return demand._replace(lead_in=demand.lead_in - 1)
        if demand.waits is Waits.PREPARED:
            return demand
        self.done.setdefault(slot, self.now)
        if demand.waits is Waits.STARTING:
            return self.again(slot) or speaking(self.now + FRAME)
        if self.now > demand.deadline:
            self.late.append(self.now - demand.deadline)
        return demand._replace(rebuild=0, deadline=max(demand.deadline, self.now) + FRAME)

    def again(self, slot: int) -> Demand | None:
        """What a starter does when its first frame is there."""
        return None


class RestartingWorld(World):
    """Starters start again at once, so somebody always starts."""

    def again(self, slot: int) -> Demand | None:
        return STARTER._replace(since=self.now)


class PreparingWorld(World):
    """Prepared replies are discarded as soon as they are there, and others are prepared."""

    def after(self, slot: int, decision: Decision) -> Demand:
        prepares = self.demands[slot].waits is Waits.PREPARED and not self.demands[slot].lead_in
        return PREPARED._replace(lead_in=17) if prepares else super().after(slot, decision)


def preparing(count: int) -> dict[int, Demand]:
    return {300 + number: PREPARED._replace(lead_in=17) for number in range(count)}


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 128), st.integers(1, 64), st.randoms(use_true_random=False))
def test_prepared_replies_make_nobody_late(speakers, prepared, random):
    demands = {slot: speaking(0.15 + random.uniform(0, 0.3)) for slot in range(speakers)}
    world = PreparingWorld(H100, {**demands, **preparing(prepared)})
    world.run(2.0)
    assert world.late == []


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 100), st.integers(1, 64))
def test_a_starter_waits_for_one_step_of_prepared_replies_at_most(speakers, prepared):
    demands = {0: STARTER, **{1 + number: speaking(0.45) for number in range(speakers)}}
    alone, world = World(H100, {**demands}), PreparingWorld(H100, {**demands, **preparing(prepared)})
    for each in (alone, world):
        each.run(1.0)
    longest = H100.frame(H100.padded(prepared), prepared, H100.padded(prepared), prepared)
    assert world.done[0] <= alone.done[0] + longest


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200), st.randoms(use_true_random=False))
def test_speakers_are_never_late_where_the_machine_can_serve_them(count, random):
    world = World(H100, {slot: speaking(0.15 + random.uniform(0, 0.3)) for slot in range(count)})
    world.run(3.0)
    assert world.late == []


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 128), st.integers(1, 6))
def test_speakers_are_never_late_because_others_start_without_end(speakers, starters):
    demands = {slot: speaking(0.15 + slot * 0.002) for slot in range(speakers)}
    world = RestartingWorld(H100, {**demands, **{200 + n: STARTER for n in range(starters)}})
    world.run(3.0)
    assert world.late == []
    assert len(world.done) == speakers + starters


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 60), st.sampled_from([0.0, 0.1, 1.0]), st.randoms(use_true_random=False))
@example(full=60, spread=0.0, random=Random(0))
def test_contexts_that_are_full_at_the_same_time_make_nobody_late_while_others_start(full, spread, random):
    ends = {slot: 1.0 + spread * random.random() for slot in range(64)}
    demands = {slot: speaking(end, rebuild=375 if slot < full else 0) for slot, end in ends.items()}
    world = RestartingWorld(H100, {**demands, 200: STARTER})
    world.run(3.0)
    assert world.late == []
    assert len(world.done) == 65


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 3), st.integers(0, 250))
def test_nobody_who_is_heard_waits_for_ever_even_where_the_load_is_too_much(voices, speakers):
    demands = {slot: speaking(0.1) for slot in range(speakers)}
    demands |= {300 + n: STARTER for n in range(12)}
    demands |= {400 + n: STARTER._replace(columns=400) for n in range(voices)}
    world = RestartingWorld(H100, demands)
    world.run(12.0)
    assert set(world.done) == set(demands)


def test_a_machine_that_is_overloaded_makes_as_many_frames_as_it_can():
    world = World(H100, {slot: speaking(0.1) for slot in range(600)})
    world.run(5.0)
    most = 5.0 / H100.frame(128, 128) * 128
    assert len(world.done) == 600
    assert len(world.late) > 0.9 * most


def test_the_same_demands_at_the_same_times_give_the_same_decisions():
    def world() -> World:
        random = Random(7)
        demands = {slot: speaking(random.uniform(0.1, 2.0)) for slot in range(40)}
        return RestartingWorld(H100, {**demands, 50: STARTER, 51: STARTER._replace(columns=100)})

    first, second = world(), world()
    first.run(2.0)
    second.run(2.0)
    assert (first.now, first.demands) == (second.now, second.demands)


def test_a_decision_for_128_conversations_takes_little_time():
    random = Random(1)
    scheduler = scheduler_of({slot: speaking(random.uniform(0.5, 3.0)) for slot in range(120)})
    for slot in range(120, 128):
        scheduler.update(slot, STARTER)
    best = inf
    for turn in range(200):
        began = perf_counter()
        for slot in range(64):
            scheduler.update(slot, speaking(1.0 + turn * 0.01))
        scheduler.decide(0.0)
        best = min(best, perf_counter() - began)
    assert best < 0.001  # 0.15 ms where nothing else runs

"""The scheduler: who is stepped next, with the measured costs of an H100 and a clock of the test's own."""

from math import inf

import pytest

from dia2stream.engine.costs import H100, CostCurve
from dia2stream.engine.scheduler import Decision, Demand, Kind, Scheduler, Waits


def speaking(in_hand: float, **fields: float) -> Demand:
    """A speaker whose listener has so many seconds to play, at time 0."""
    return Demand(Waits.SPEAKING, deadline=in_hand, **fields)


STARTER = Demand(Waits.STARTING, lead_in=17)


def decide(demands: dict[int, Demand], now: float = 0.0) -> Decision:
    scheduler = Scheduler(H100)
    for slot, demand in demands.items():
        scheduler.update(slot, demand)
    return scheduler.decide(now)


def test_without_demands_the_engine_rests_until_something_changes():
    assert decide({}) == Decision(Kind.REST, until=inf)


def test_one_conversation_alone_is_stepped_at_once_and_every_time():
    scheduler = Scheduler(H100)
    scheduler.update(3, speaking(5.0))
    for turn in range(10):
        assert scheduler.decide(turn * 0.005).slots == (3,)


def test_starters_share_their_steps_and_go_before_frames_in_advance():
    decision = decide({0: speaking(2.0), 1: STARTER, 2: STARTER, 3: speaking(1.0)})
    assert (decision.kind, decision.slots) == (Kind.LEAD_IN, (1, 2))


def test_a_starter_waits_for_a_speaker_in_danger_and_rides_along():
    decision = decide({0: speaking(0.025), 1: STARTER})
    assert (decision.kind, decision.slots, decision.riders) == (Kind.FRAMES, (0,), (1,))


@pytest.mark.parametrize("places", [1, 2, 3, 5, 9, 64, 65, 128])
def test_a_batch_costs_what_the_next_size_costs(places):
    assert H100.padded(places) == min(size for size in H100.sizes if size >= places)
    assert H100.frame(places, places) - places * H100.host == pytest.approx(
        H100.frame(H100.padded(places), places) - places * H100.host
    )


def test_a_cost_curve_needs_a_cost_for_every_size():
    with pytest.raises(ValueError, match="one for each size"):
        CostCurve("half", (1, 2), (0.1,), (0.1, 0.2), (0.1, 0.2), ((1, 0.1),))

"""How many conversations an engine is built for, and when one more is refused."""

import pytest
from conversations import tiny

from dia2stream.engine.capacity import Capacity, slot_bytes, slots_to_build
from dia2stream.engine.costs import H100, CostCurve
from dia2stream.engine.scheduler import Demand, Waits
from dia2stream.errors import EngineError

SLOW = CostCurve.measured("slow", backbone={1: 0.05}, depformer={1: 0.02}, codec={1: 0.01}, passes={125: 0.1})


def test_a_number_of_slots_is_built_as_it_is():
    assert slots_to_build(3, tiny()) == 3
    assert slots_to_build("3", tiny()) == 3


@pytest.mark.parametrize("slots", [0, -1, "0", "many", "1.5", 5000, ""])
def test_what_is_no_number_of_slots_is_refused_in_one_line(slots):
    with pytest.raises(EngineError, match="it must be auto, or a number from 1 to 1024") as caught:
        slots_to_build(slots, tiny())
    assert "\n" not in str(caught.value)


def test_auto_builds_what_memory_holds_up_to_a_bound():
    assert slots_to_build("auto", tiny()) == 16
    assert slot_bytes(tiny()) > 0


def test_slots_alone_decide_until_the_costs_are_known():
    capacity = Capacity(2)
    assert capacity.refusal(1) is None
    assert capacity.refusal(2) == "every slot is taken: this engine holds 2 at a time"


def test_a_slow_machine_keeps_as_many_as_it_serves_and_says_why():
    capacity = Capacity(16)
    reason = capacity.choose(SLOW, tiny())
    assert capacity.slots == 1
    assert reason.startswith("slots: 1, ")


def test_a_fast_machine_keeps_all_slots_that_were_built():
    capacity = Capacity(16)
    capacity.choose(H100, tiny())
    assert capacity.slots == 16
    assert capacity.refusal(15) is None


def test_a_late_frame_keeps_new_conversations_out_for_a_while(monkeypatch):
    capacity = Capacity(16)
    capacity.choose(H100, tiny())
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    capacity.demanded(3, Demand(Waits.SPEAKING, deadline=99.9), 100.0)
    assert "late" in str(capacity.refusal(2))
    monkeypatch.setattr("time.monotonic", lambda: 110.0)
    assert capacity.refusal(2) is None


def test_a_number_of_slots_is_kept_whatever_goes_on():
    capacity = Capacity(16)
    capacity.demanded(3, Demand(Waits.SPEAKING, deadline=0.0), 100.0)
    assert capacity.refusal(15) is None

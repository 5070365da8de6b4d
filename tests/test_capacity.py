"""How many conversations an engine is built for, and when one more is refused."""

from dataclasses import replace

import pytest
import torch
from conversations import tiny

from dia2.checkpoint.load import Checkpoint
from dia2.model.blocks import BLOCK_COLUMNS, assured_blocks
from dia2stream.engine.capacity import Capacity, blocks_to_build, slot_bytes, slots_to_build
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
    assert blocks_to_build(16, tiny(), 0) is None


COLUMN = 2 * 2 * 2 * 2 * 32 * 4  # keys and values, rows, layers, heads, floats, bytes


@pytest.fixture
def gpu(monkeypatch) -> Checkpoint:
    """A checkpoint that says it is on a GPU, of which so much is free that 10 slots fit."""
    loaded = replace(tiny(), device=torch.device("cuda"))
    free = 10.5 / 0.9 * slot_bytes(loaded, 2)
    monkeypatch.setattr("dia2stream.engine.capacity.free_bytes", lambda device: free)
    return loaded


def test_on_a_gpu_a_slot_needs_two_thirds_of_a_context_and_both_states_of_the_codec(gpu):
    codec = slot_bytes(gpu, 1) - 1502 * COLUMN
    assert codec == gpu.codec.state(1, 96).bytes + gpu.codec.hearing(1).bytes
    assert slot_bytes(gpu, 2) == 16 * 64 * COLUMN + codec
    assert assured_blocks(1502, BLOCK_COLUMNS) == 16


def test_auto_builds_the_slots_whose_right_memory_holds_and_more_are_refused_in_one_line(gpu):
    assert slots_to_build("auto", gpu) == slots_to_build(10, gpu) == 10
    with pytest.raises(EngineError, match=r"slots is 11: 0\.\d+ GB are free on the GPU, for 10 of [\d.]+ MB each"):
        slots_to_build(11, gpu)


def test_the_cache_gets_the_memory_that_is_left_and_at_least_what_slots_have_a_right_to(gpu):
    assert blocks_to_build(1, gpu, 0) is None
    block = 64 * COLUMN
    memory = 10.5 * slot_bytes(gpu, 2)
    assert blocks_to_build(4, gpu, 0) == memory // block
    assert blocks_to_build(4, gpu, 3 * block) == memory // block - 3
    assert blocks_to_build(40, gpu, 0) == 40 * 16


def test_slots_alone_decide_until_the_costs_are_known():
    capacity = Capacity(2)
    assert capacity.refusal(1) is None
    assert capacity.refusal(2) == "every slot is taken: this engine holds 2 at a time"


def test_a_slow_machine_keeps_as_many_as_it_serves_and_says_why():
    capacity = Capacity(16)
    reason = capacity.choose(SLOW, 1e9, 10**7)
    assert capacity.slots == 1
    assert reason.startswith("slots: 1, ")


def test_a_fast_machine_keeps_all_slots_that_were_built():
    capacity = Capacity(16)
    capacity.choose(H100, 1e9, 10**7)
    assert capacity.slots == 16
    assert capacity.refusal(15) is None


def test_a_late_frame_keeps_new_conversations_out_for_a_while(monkeypatch):
    capacity = Capacity(16)
    capacity.choose(H100, 1e9, 10**7)
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    capacity.demanded(3, Demand(Waits.SPEAKING, deadline=99.9), 100.0)
    assert "late" in str(capacity.refusal(2))
    monkeypatch.setattr("time.monotonic", lambda: 110.0)
    assert capacity.refusal(2) is None


def test_a_number_of_slots_is_kept_whatever_goes_on():
    capacity = Capacity(16)
    capacity.demanded(3, Demand(Waits.SPEAKING, deadline=0.0), 100.0)
    assert capacity.refusal(15) is None

"""Admission: how many conversations a machine serves, and when the next one is refused."""

import re
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia2stream.engine.admission import (
    LATE_SECONDS,
    MOST_SLOTS,
    Admission,
    Load,
    most_conversations,
    need,
    slots_for,
)
from dia2stream.engine.costs import H100

LOADS = st.builds(Load, st.floats(0.05, 1.0), st.floats(1.0, 60.0))


def watched(conversations: int, speaking: int, starts: float, seconds: int = 60, **options: float) -> Admission:
    """An admission that has watched a steady load for a while; starts are each second."""
    admission = Admission(H100, slots=256, **options)
    begun = 0.0
    for second in range(seconds):
        begun += starts
        admission.observe(float(second), conversations, speaking, int(begun))
        begun -= int(begun)
    return admission


def test_one_conversation_alone_waits_for_its_lead_in_and_its_frame():
    alone = need(H100, 1, Load())
    assert alone.first_audio == pytest.approx(17 * H100.lead_in(1, 1) + 1.5 * H100.frame(1, 1), rel=0.1)


@given(LOADS, st.integers(1, 200))
def test_more_conversations_never_wait_much_shorter(load, conversations):
    # Batch sizes make steps: at one of them a little more load can be a little cheaper.
    fewer, more = need(H100, conversations, load), need(H100, 2 * conversations, load)
    assert more.first_audio >= 0.8 * fewer.first_audio


@given(LOADS)
def test_the_most_conversations_are_served_well_and_one_more_is_not(load):
    most = most_conversations(H100, load)
    assert need(H100, most, load).first_audio <= 0.1 or most == 1
    assert need(H100, most + 1, load).first_audio > 0.1


def test_where_frames_alone_fill_the_gpu_first_audio_has_no_bound():
    assert need(H100, 400, Load(speaking=1.0, turn=60.0)).first_audio == inf


def test_slots_are_bounded_by_the_gpus_time_and_the_reason_says_so():
    slots = slots_for(H100, memory_bytes=70e9, slot_bytes=100e6, load=Load(speaking=1.0, turn=2.5))
    assert slots.slots == most_conversations(H100, Load(speaking=1.0, turn=2.5)) < MOST_SLOTS
    assert re.fullmatch(
        rf"the GPU serves {slots.slots} conversations \(100% of the time spent speaking, in turns of 2.5 s\), "
        r"with first audio in \d+ ms at p95; memory would hold 700",
        slots.reason,
    )


def test_slots_are_bounded_by_what_one_step_takes_and_the_reason_says_so():
    slots = slots_for(H100, memory_bytes=70e9, slot_bytes=100e6)
    assert slots.slots == MOST_SLOTS == H100.largest < most_conversations(H100, Load())
    assert slots.reason.startswith("one step of the model takes 128; the GPU could serve ")


def test_slots_are_bounded_by_memory_and_the_reason_says_so():
    slots = slots_for(H100, memory_bytes=30e9, slot_bytes=344e6)
    assert slots.slots == 87
    assert slots.reason.startswith("30 GB of memory hold 87 slots of 344 MB; the GPU could serve ")


def test_there_is_always_one_slot():
    assert slots_for(H100, memory_bytes=1e6, slot_bytes=344e6).slots == 1


def test_a_conversation_beyond_the_slots_is_refused():
    admission = Admission(H100, slots=2)
    assert admission.refusal(0.0, 1) is None
    assert admission.refusal(0.0, 2) == "every slot is taken: this engine holds 2 conversations"


def test_before_anything_was_seen_the_stated_load_decides():
    admission = Admission(H100, slots=1000)
    most = most_conversations(H100, Load())
    assert admission.refusal(0.0, most - 1) is None
    assert f"with more than {most} conversations first audio would take" in (admission.refusal(0.0, most) or "")


def test_conversations_that_speak_less_than_stated_leave_room_for_more():
    most = most_conversations(H100, Load())
    assert watched(most, speaking=most // 8, starts=most / 20).refusal(60.0, most) is None


def test_conversations_that_speak_more_than_stated_leave_room_for_fewer():
    assert watched(100, speaking=100, starts=40).refusal(60.0, 100) is not None


def test_a_frame_that_came_late_keeps_new_conversations_out_for_a_while():
    admission = watched(20, speaking=10, starts=4)
    assert admission.refusal(60.0, 20) is None
    admission.late(60.0, 0.030)
    admission.late(61.0, 0.012)
    assert (admission.refusal(62.0, 20) or "").startswith("a frame came 30 ms late 1 s ago: 20 conversations are")
    assert admission.refusal(61.0 + LATE_SECONDS + 0.1, 20) is None


def test_an_engine_that_is_empty_refuses_nobody():
    admission = Admission(H100, slots=8, first_audio=0.001)
    admission.late(0.0, 1.0)
    assert admission.refusal(0.0, 0) is None
    assert admission.refusal(0.0, 1) is not None


def test_what_is_seen_is_forgotten_when_it_has_changed():
    admission = watched(100, speaking=100, starts=40)
    for second in range(60, 180):
        admission.observe(float(second), 100, 10, 2)
    assert admission.refusal(180.0, 100) is None

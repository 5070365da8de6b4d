"""The callers of many conversations are heard together, each as if alone."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_encoder import FRAME, SMALL, recordings

from dia2.codec.hearing import Hearing
from dia2.codec.mimi import Mimi


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sets(st.integers(0, 3), max_size=4), max_size=10), st.integers(1, 9))
def test_slots_that_are_heard_together_and_alone_by_turns_give_the_codes_of_one_recording(turns, alone) -> None:
    mimi = Mimi.from_folder(SMALL, 8, "cpu")
    hearing, sounds = Hearing(mimi, 4), recordings(20 * FRAME, count=4)
    codes: list[list[torch.Tensor]] = [[] for _ in range(4)]
    at = [0] * 4
    for slot in range(4):
        hearing.begin(slot)
    for who in turns:
        slots = sorted(who)
        if slots:
            together = torch.stack([sounds[slot, at[slot] * FRAME :][:FRAME] for slot in slots])
            for slot, code in zip(slots, hearing.encode_together(slots, together), strict=True):
                codes[slot].append(code[:, None])
                at[slot] += 1
    for slot in range(4):
        codes[slot].append(hearing.slot(slot).encode(sounds[slot, at[slot] * FRAME :][: alone * FRAME]))
        whole = mimi.encode(sounds[slot : slot + 1])[0]
        assert torch.equal(torch.cat(codes[slot], dim=1), whole[:, : at[slot] + alone])


def test_a_recording_that_begins_anew_hears_nothing_of_the_one_before() -> None:
    mimi = Mimi.from_folder(SMALL, 8, "cpu")
    ear, sounds = Hearing(mimi, 2).slot(1), recordings(5 * FRAME, count=2)
    ear.begin()
    ear.encode(sounds[0])
    ear.begin()
    assert torch.equal(ear.encode(sounds[1]), mimi.encode(sounds[1:])[0])


def test_the_encoder_is_read_when_somebody_is_heard_and_not_before() -> None:
    read = []
    mimi = Mimi.from_folder(SMALL, 8, "cpu")
    load = mimi.load_encoder
    mimi.load_encoder = lambda: read.append(1) or load()  # type: ignore[method-assign]
    hearing = Hearing(mimi, 2)
    ear = hearing.slot(0)
    assert not read
    assert not hearing.loaded
    ear.begin()
    assert read
    assert hearing.loaded


def test_the_memory_of_hearing_a_caller_is_known_before_the_encoder_is_read() -> None:
    mimi = Mimi.from_folder(SMALL, 8, "cpu")
    mimi.load_encoder = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    assert mimi.hearing_bytes == Mimi.from_folder(SMALL, 8, "cpu").hearing(1).bytes

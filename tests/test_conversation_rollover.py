"""Conversations that outlive the model's context: the context is rebuilt, and the listener loses nothing."""

import os
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from conftest import GOLDENS
from conversations import (
    HELLO,
    LONG,
    Make,
    ToyEar,
    ToyStepper,
    assert_goes_on_from,
    cut,
    frame_numbers,
    golden,
    real,
    said_in_pieces,
    step_together,
    tiny,
    toy,
    toy_voice,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from dia2.model.blocks import assured_blocks
from dia2stream.engine.demands import demand_of
from dia2stream.protocol.messages import Done, Error, Inject, Listen, Pause, Reset, Resume, Start, WordEvent


@pytest.mark.parametrize("clips", [{}, {"clips": toy_voice()}], ids=["cold", "in a voice"])
@pytest.mark.parametrize(("limit", "history"), [(39, 375), (100, 375), (160, 40), (160, 375), (500, 60)])
def test_a_monologue_of_many_contexts_is_said_once_from_end_to_end(limit: int, history: int, clips: Any) -> None:
    rig = toy(limit=limit, history=history, voices=clips).say(LONG)
    assert rig.context.rollovers >= 3
    assert rig.words == LONG.split()
    first = rig.context.first_frame
    assert frame_numbers(rig) == list(range(first, first + len(rig.frames)))
    starts = [word.start_ms for word in rig.of(WordEvent)]
    assert starts == sorted(set(starts))
    assert rig.of(Done) == [Done("1", len(rig.frames) * 80)]


def test_a_conversation_whose_context_is_full_asks_for_a_step_that_rebuilds_it() -> None:
    rig = toy(limit=100, history=40).do(Start(LONG))
    while rig.context.room > 0:
        demand = demand_of(rig.conversation, 0.0, rig.now)
        assert demand is not None
        assert demand.rebuild == 0
        rig.step()
        rig.take()
    asked = demand_of(rig.conversation, 0.0, rig.now)
    assert asked is not None
    assert (asked.columns, rig.context.rollovers) == (0, 0)
    rig.step()
    assert rig.context.rollovers == 1
    ran = rig.context.columns.next - 1  # by the pass, besides the step's own column
    assert 20 <= ran <= asked.rebuild <= 40
    after = demand_of(rig.conversation, 0.0, rig.now)
    assert after is not None
    assert after.rebuild == 0


@pytest.mark.parametrize(
    "make", [toy, partial(golden, GOLDENS / "published-like"), partial(golden, GOLDENS / "every-option")]
)
def test_up_to_the_seam_nothing_tells_that_the_context_is_short(make: Make) -> None:
    short, wide = make(limit=70, history=30), make(limit=200)
    for rig in (short, wide):
        rig.do(Start(LONG)).run(85)
    assert (short.context.rollovers, wide.context.rollovers) == (1, 0)
    seam = 70 - short.context.lead_in
    assert [f.tobytes() for f in short.frames[: seam + 1]] == [f.tobytes() for f in wide.frames[: seam + 1]]
    # Behind it the model goes on from less; what was under way at the seam is said to its end.
    assert [f.tobytes() for f in short.frames] != [f.tobytes() for f in wide.frames]
    count = min(len(short.words), len(wide.words))
    assert short.words[:count] == wide.words[:count]
    assert len(short.frames) == len(wide.frames)


def test_the_real_model_says_a_long_text_once_across_seams(goldens: Path) -> None:
    text = " ".join(f"w{number}" for number in range(30))
    rig = golden(goldens, limit=80, history=30).say(text)
    assert rig.context.rollovers >= 2
    assert rig.words == text.split()
    assert all(np.abs(frame).max() <= 1 for frame in rig.frames)


@pytest.mark.long
@settings(max_examples=15)
@given(
    cuts=st.lists(st.integers(1, 500), max_size=20),
    between=st.lists(st.integers(0, 60), min_size=1, max_size=7),
    queue=st.integers(1, 40),
    with_voice=st.booleans(),
)
def test_seams_are_where_they_are_however_text_comes_and_audio_goes(
    cuts: list[int], between: list[int], queue: int, with_voice: bool
) -> None:
    voices = {"clips": toy_voice()} if with_voice else {}
    text = LONG[:500]
    whole = toy(voices=voices).say(text)
    assert whole.context.rollovers > 1
    rig = toy(voices=voices, queue_frames=queue)
    assert said_in_pieces(rig, cut(text, cuts), between).told == whole.told
    rig = toy(voices=voices).do(Start(text))
    while rig.run(between[0] + 1).can_step():
        rig.do(Pause(), Resume())
    assert rig.told == whole.told


@pytest.mark.parametrize("limit", [7, 9, 12])
def test_even_the_shortest_context_that_a_model_may_have_is_enough_to_go_on_in(limit: int) -> None:
    rig = toy(limit=limit).do(Start("One two three.")).run()
    for number in range(3):
        rig.do(Inject(f"And turn {number}.")).run(9 * number).do(Pause(), Resume()).run()
    rig.do(Pause((rig.sent - 9) * 80), Inject("The end.")).run()
    assert rig.words[:3] + rig.words[-2:] == ["One", "two", "three.", "The", "end."]
    assert frame_numbers(rig)[:30] == list(range(30))
    assert [done.id for done in rig.of(Done)] == ["1", "2", "3", "4", "5"]


def test_a_conversation_of_many_turns_loses_none() -> None:
    rig = toy().do(Start("Turn zero."))
    for number in range(1, 80):
        rig.run().do(Inject(f"[S{number % 2 + 1}] This is turn {number}, and it goes on a little."))
    rig.run()
    assert rig.context.rollovers > 10
    assert frame_numbers(rig) == list(range(len(rig.frames)))
    assert [done.id for done in rig.of(Done)] == [str(number) for number in range(1, 81)]
    assert rig.words == [
        "Turn",
        "zero.",
        *[w for n in range(1, 80) for w in f"This is turn {n}, and it goes on a little.".split()],
    ]


def resident_mb() -> float:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("make", [toy, lambda: real(tiny())], ids=["toy", "random:tiny"])
def test_an_hour_of_audio_takes_no_more_memory_than_its_first_minutes(make: Make) -> None:
    rig, sent, asked, said, figures = make().do(Start("", seed=1)), 0, 0, 0, []
    while sent < 3600 * 12.5:
        # A monologue, a short turn, and text that comes while words are left or the last one sounds.
        for count, steps in [(400, 10**9), (3, 10**9), (20, 60), (20, 10**9)]:
            rig.do(Inject(" ".join(f"w{number}" for number in range(asked, asked + count)))).run(steps)
            asked += count
        assert rig.words == [f"w{number}" for number in range(said, asked)]
        sent, said = sent + len(rig.frames), asked
        assert rig.sent == rig.context.frames == sent
        assert rig.of(Done)[-1].audio_ms == 80 * sent
        rig.items.clear()
        figures.append((sent * 0.08, resident_mb()))
    first = next(memory for seconds, memory in figures if seconds > 800)  # ten minutes are kept
    print(f"{rig.context.rollovers} rollovers; {figures[0]}, {first} -> {figures[-1]}")
    assert figures[-1][1] - first < 10


def test_room_for_the_next_turn_is_made_when_a_turn_ends_so_that_its_lead_in_is_not_longer() -> None:
    rig = toy(limit=300, history=40).do(Start("Turn zero."))
    for number in range(40):
        rig.run()
        ran, rolled = rig.stepper.prefilled, rig.context.rollovers
        rig.do(Inject(f"This is turn {number}."))
        assert (rig.stepper.prefilled, rig.context.rollovers) == (ran, rolled)
    assert rig.context.rollovers > 2


def test_an_interruption_may_go_back_behind_seams() -> None:
    rig, sent = toy().do(Start(LONG)).run_until_sent(700), 700
    for frame in (600, 480, 300, 90, 4):
        numbers = frame_numbers(rig)
        latest = len(numbers) - 1 - numbers[::-1].index(frame)
        there = numbers[max(word.start_ms // 80 for word in rig.of(WordEvent) if word.start_ms < latest * 80)] + 1
        rig.do(Pause(latest * 80), Inject(LONG)).run_until_sent(sent + 100)
        assert frame - 6 < there <= frame
        assert_goes_on_from(rig, sent, there)
        sent += 100
    assert rig.context.rollovers > 5


# ---- Where the cache has too few blocks for everybody ----


@pytest.mark.parametrize("frames", [0, 14, 40], ids=["cold", "in a voice", "in a voice of half the context"])
@pytest.mark.parametrize("spare", [0, 1, 5])
def test_contexts_that_find_no_block_are_rebuilt_earlier_and_all_is_said_once(frames: int, spare: int) -> None:
    slots, voices = 4, {"clips": toy_voice(frames)} if frames else {}
    stepper = ToyStepper(slots=slots, blocks=slots * assured_blocks(162, 16) + spare)
    rigs, longest, text = [], 0, LONG[:800]
    for slot in range(slots):
        rigs.append(toy(stepper=stepper, slot=slot, voices=voices).do(Start(text)))
    while step_together(*rigs):
        for rig in rigs:
            rig.take()
        longest = max(longest, *(slot.column for slot in stepper.slots))
    assert longest == min(160, 16 * (assured_blocks(162, 16) + spare))
    for rig in rigs:
        assert rig.words == text.split()
        first = rig.context.first_frame
        assert frame_numbers(rig) == list(range(first, first + len(rig.frames)))
        assert rig.of(Done) == [Done("1", len(rig.frames) * 80)]
        assert rig.context.rollovers >= 2
    for rig in rigs:
        rig.run().do(Reset())  # what is due has been run: the voice stays
    assert stepper.blocks.taken == slots * max(1, -(-2 * frames // 16))


_DOES = ["step", "step", "together", "barge", "text", "pause", "listen", "again", "reset"]


@pytest.mark.long
@settings(max_examples=60)
@given(
    plan=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(_DOES)), max_size=80),
    spare=st.integers(0, 6),
    with_voice=st.booleans(),
)
def test_whatever_conversations_do_in_a_tight_cache_none_runs_out_of_it(
    plan: list[tuple[int, str]], spare: int, with_voice: bool
) -> None:
    """A toy's columns are hashes of those before, so a block that two had, or that was given back early, would show."""
    voices = {"clips": toy_voice(40)} if with_voice else {}
    stepper = ToyStepper(slots=3, blocks=3 * assured_blocks(162, 16) + spare)
    rigs = [toy(stepper=stepper, slot=slot, voices=voices, ear=ToyEar()).do(Start(HELLO)) for slot in range(3)]
    for number, does in plan:
        rig = rigs[number]
        if not rig.conversation.active or does == "again":
            rig.do(Start(LONG[:200], seed=number))
        elif does == "step":
            rig.run(25)
        elif does == "together":
            for _ in range(20):
                step_together(*rigs)
                for each in rigs:
                    each.take()
        elif does == "barge":
            rig.do(Pause(max(0, rig.sent - 5) * 80), Inject("[S2] Something else, and quite long."))
        elif does == "text":
            rig.do(Inject(LONG[:300]))
        elif does == "pause":
            rig.do(Pause(), Resume())
        elif does == "listen":
            rig.do(Listen(cast(str, bytes(2 * 1920 * 20)), "Can you hear me at all?"))
        else:
            rig.do(Reset())
    while step_together(*rigs):
        for rig in rigs:
            rig.take()
    for rig in rigs:
        assert rig.of(Error) == []
        slot = rig.conversation.slot
        columns = stepper.slots[slot].column if rig.conversation.active else 0
        assert stepper.remembered(slot, columns) == stepper.relived(slot, columns)


def test_a_slot_keeps_the_blocks_of_its_voice_while_others_take_what_it_gives_back() -> None:
    stepper = ToyStepper(slots=2, blocks=2 * assured_blocks(162, 16))
    one, other = (toy(stepper=stepper, slot=slot, voices={"clips": toy_voice(20)}) for slot in range(2))
    one.say("Some words.").do(Reset())
    assert stepper.blocks.taken == 3 + 1
    other.say(LONG[:400])
    run = stepper.prefilled
    one.do(Start("More words, and some more."))
    assert stepper.prefilled == run
    one.run()
    columns = stepper.slots[0].column
    assert columns > 48
    assert stepper.remembered(0, columns) == stepper.relived(0, columns)

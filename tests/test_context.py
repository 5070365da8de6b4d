"""What the model remembers: going back, being rebuilt, voices, and the codec that moves along."""

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from conftest import GOLDENS
from conversations import (
    GREEDY,
    Memory,
    Rig,
    ToyStepper,
    assert_holds_what_was_heard,
    assert_same_memory,
    assert_sound_alike,
    frame_numbers,
    golden,
    memory_at,
    stopped_at,
    toy,
    toy_voice,
    voice,
)

from dia2.steps.history import ARCHIVE_FRAMES
from dia2.steps.stepper import TextColumn
from dia2stream.options import SpeechOptions
from dia2stream.protocol.messages import Inject, Pause, Reset, Start

TALE = "[S1] Once upon a time there was a clock. [S2] It had no hands, and nobody knew what it was for."
LONG = " ".join(f"word{number} and so on" for number in range(300))

Make = Callable[..., Rig]


def golden_in_a_voice(name: str) -> Rig:
    return golden(GOLDENS / name, GREEDY, voices={"clips": voice(GOLDENS / name)})


every_kind = pytest.mark.parametrize(
    "make",
    [
        pytest.param(toy, id="toy"),
        pytest.param(lambda: toy(voices={"clips": toy_voice()}), id="toy in a voice"),
        pytest.param(lambda: golden(GOLDENS / "published-like", GREEDY), id="published-like"),
        pytest.param(
            lambda: golden(GOLDENS / "every-option", SpeechOptions(seed=3)), id="every-option, guided, sampled"
        ),
        pytest.param(partial(golden_in_a_voice, "published-like"), id="published-like in a voice"),
        pytest.param(partial(golden_in_a_voice, "every-option"), id="every-option in a voice"),
    ],
)


def interrupted(rig: Rig, sent: int, played_ms: int, text: str = "[S2] Wait.") -> Rig:
    """Stands where so much of what was sent has been heard, about to say something else."""
    return rig.run_until_sent(sent).do(Pause(played_ms), Inject(text))


# ---- Going back ----


@every_kind
def test_after_going_back_it_holds_the_columns_of_what_was_heard_and_nothing_else(make: Make) -> None:
    rig = make().do(Start(TALE)).run_until_sent(15)
    played = rig.context.history.frames(0, rig.context.first_frame + 10)
    interrupted(rig, sent=15, played_ms=10 * 80 + 30)
    assert rig.context.frames == memory_at(rig, 10) < rig.context.first_frame + 10
    assert_holds_what_was_heard(rig, make(), played)


@every_kind
def test_going_back_is_the_same_as_never_having_gone_further(make: Make) -> None:
    ahead = interrupted(make().do(Start(TALE)), sent=14, played_ms=9 * 80)
    there = stopped_at(make().do(Start(TALE)), 9).do(Inject("[S2] Wait."))
    assert_same_memory(Memory(ahead), Memory(there))
    assert_sound_alike(ahead.run().frames[14:], there.run().frames[9:])
    assert torch.equal(
        ahead.context.history.frames(0, ahead.context.frames), there.context.history.frames(0, there.context.frames)
    )


@pytest.mark.parametrize("to", [0, 1, 5, 11, 12, 13, 30, 95, 180])
@pytest.mark.parametrize("clips", [{}, {"clips": toy_voice()}], ids=["cold", "in a voice"])
def test_any_frame_can_be_gone_back_to(to: int, clips: dict[str, object]) -> None:
    rig = toy(limit=600, voices=clips).do(Start(LONG)).run_until_sent(200)
    played = rig.context.history.frames(0, rig.context.first_frame + to)
    interrupted(rig, sent=200, played_ms=to * 80)
    assert_holds_what_was_heard(rig, toy(limit=600), played)
    assert frame_numbers(rig.run())[200:] == list(range(memory_at(rig, to), rig.context.frames))


def test_going_back_finds_nothing_of_the_conversation_before() -> None:
    second = toy(limit=600).do(Start(LONG, seed=9)).run_until_sent(60).do(Start(TALE))
    only = toy(limit=600).do(Start(TALE))
    for rig in (second, only):
        interrupted(rig, sent=30, played_ms=27 * 80)
    assert_same_memory(Memory(second), Memory(only))


def test_going_back_to_before_the_oldest_saved_codec_state_hears_enough_to_sound_the_same() -> None:
    ahead = interrupted(toy(limit=2000).do(Start(LONG)), sent=900, played_ms=400 * 80)
    there = stopped_at(toy(limit=2000).do(Start(LONG)), 400).do(Inject("[S2] Wait."))
    assert_same_memory(Memory(ahead), Memory(there))


def test_going_back_behind_a_rebuild_rebuilds_once_more() -> None:
    rig = toy().do(Start(LONG)).run_until_sent(250)
    assert rig.context.base > 100
    rig.do(Pause(90 * 80), Inject("[S2] Wait."))
    context, slot, there = rig.context, rig.stepper.slots[0], memory_at(rig, 90)
    assert 84 < there <= 90
    assert (context.step, context.frames, slot.known + context.base) == (there, there, there)
    assert context.base < there
    assert frame_numbers(rig.run())[250:] == list(range(there, context.frames))


@pytest.mark.parametrize("make", [toy, partial(golden, GOLDENS / "published-like", GREEDY)], ids=["toy", "golden"])
def test_known_codes_stay_when_the_context_is_rebuilt_for_going_back(make: Make) -> None:
    rig = make(history=40).do(Start(LONG)).run_until_sent(160)
    there = memory_at(rig, 100)
    known = rig.context.history.frames(85, there)
    rig.do(Pause(100 * 80), Inject("[S2] Wait.")).run(rig.context.lead_in + 3)
    base = rig.context.base
    assert 0 < base < 85
    assert torch.equal(rig.stepper.frames(0, 85 - base, there - base), known)


def test_ten_minutes_can_be_gone_back_and_not_a_frame_more() -> None:
    text = " ".join(f"w{number}" for number in range(1990))
    rig = toy(limit=400).do(Start(text)).run_until_sent(ARCHIVE_FRAMES + 900)
    oldest = rig.context.oldest_step()
    rig.do(Pause(oldest * 80), Inject("Back again."))
    assert rig.context.frames == oldest
    sent = len(rig.frames)
    assert frame_numbers(rig.run())[sent:] == list(range(oldest, rig.context.frames))


# ---- Rebuilding ----


def test_a_rebuilt_context_holds_the_clips_and_the_last_seconds() -> None:
    rig = toy(voices={"clips": toy_voice()}).do(Start(LONG))
    while not rig.context.rollovers:
        assert rig.step()
        rig.take()
    context, prefix = rig.context, toy_voice().frames
    start = context.base + prefix
    assert context.room > context.columns.limit // 4
    assert context.step - start >= (context.columns.limit - prefix) // 4
    blank = toy(voices={"clips": toy_voice()}).do(Start(LONG))
    assert rig.stepper.remembered(0, prefix) == blank.stepper.remembered(0, prefix)
    # The codes of the clips, then those of the history, each as late as its codebook.
    codes = torch.cat([toy_voice().codes, context.history.frames(start, context.frames)], dim=1)
    for k, late in enumerate(rig.stepper.delays):
        until = prefix + context.frames - start
        assert torch.equal(rig.stepper.codes[0, k, late : late + until], codes[k])


def test_codes_whose_frames_are_not_complete_survive_a_rebuild() -> None:
    rig = toy().do(Start(LONG))
    while rig.context.room > 0:
        rig.step()
        rig.take()
    slot = rig.stepper.slots[0]
    before = rig.stepper.codes[0, :, slot.column - 5 : slot.column + 1].clone()
    rig.context.rollover()
    rig.context.run_due()
    slot = rig.stepper.slots[0]
    assert torch.equal(rig.stepper.codes[0, :, slot.column - 5 : slot.column + 1], before)


def test_a_rebuilt_context_begins_at_a_word() -> None:
    rig = toy(limit=400, history=100).do(Start(LONG))
    for _ in range(5):
        count = rig.context.rollovers
        while rig.context.rollovers == count:
            rig.step()
            rig.take()
        start = rig.context.base - rig.context.oldest_step()
        mark = rig.context.history.columns[start][1]
        assert not mark.pending
        assert not mark.lookahead


@pytest.mark.parametrize("history", [0, 1, 10])
def test_a_history_that_is_too_short_to_speak_on_is_made_long_enough(history: int) -> None:
    rig = toy(history=history).say(LONG)
    assert rig.words == LONG.split()
    assert frame_numbers(rig) == list(range(len(rig.frames)))


# ---- Voices ----


@pytest.mark.parametrize("guided", [1.0, 3.0])
def test_starting_again_in_the_same_voice_runs_no_column_twice(guided: float) -> None:
    rig = toy(voices={"clips": toy_voice()}).say("Hello.", cfg_scale=guided)
    assert rig.stepper.prefilled == toy_voice().frames
    first = rig.told
    rig.items.clear()
    rig.do(Reset())
    assert rig.say("Hello.", cfg_scale=guided).told == first
    assert rig.stepper.prefilled == toy_voice().frames


def test_a_voice_is_run_again_for_another_voice_and_for_another_number_of_rows() -> None:
    rig = toy(voices={"one": toy_voice(), "two": toy_voice(seed=1)})
    fresh = {}
    for name, guided in [("one", 1.0), ("two", 1.0), ("two", 3.0), ("one", 3.0)]:
        ran = rig.stepper.prefilled
        rig.items.clear()
        rig.say("Hello there.", voice=name, cfg_scale=guided)
        assert rig.stepper.prefilled == ran + toy_voice().frames
        fresh[name, guided] = rig.told
        alone = toy(voices={"one": toy_voice(), "two": toy_voice(seed=1)})
        assert rig.told == alone.say("Hello there.", voice=name, cfg_scale=guided).told
    assert fresh["one", 1.0] != fresh["two", 1.0]


def test_a_voice_survives_conversations_that_filled_the_context_many_times() -> None:
    rig = toy(voices={"clips": toy_voice()}).say("Hello.")
    first = rig.told
    rig.say(LONG)
    assert rig.context.rollovers > 3
    rig.items.clear()
    ran = rig.stepper.prefilled
    assert rig.say("Hello.").told == first
    assert rig.stepper.prefilled == ran


class Faulty(ToyStepper):
    """Stops in the middle of a pass, when it is told to."""

    fails = False

    def prefill(self, slot: int, texts: Sequence[TextColumn]) -> None:
        super().prefill(slot, texts[:5] if self.fails else texts)
        if self.fails:
            raise RuntimeError("half way")


def test_a_voice_that_failed_half_way_is_not_taken_for_there() -> None:
    stepper = Faulty()
    rig = toy(stepper=stepper, voices={"one": toy_voice(), "two": toy_voice(seed=1)}).say("Hello.", voice="one")
    first = rig.told
    stepper.fails = True
    with pytest.raises(RuntimeError):
        rig.do(Start("Hello.", voice="two"))
    stepper.fails = False
    rig.items.clear()
    assert rig.say("Hello.", voice="one").told == first

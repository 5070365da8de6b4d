"""Voices: a conversation goes on from its clips, and the clips are never played."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conversations import (
    GREEDY,
    HELLO,
    assert_goes_on_from,
    cut,
    frame_numbers,
    golden,
    paused,
    report,
    said_in_pieces,
    stopped_at,
    toy,
    toy_voice,
    voice,
    words_of,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from models import checkpoint

from dia2.model.delays import aligned
from dia2stream.errors import CommandError
from dia2stream.protocol.messages import Cancel, Inject, Start, WordEvent


def test_a_voice_is_heard_in_nothing_but_what_follows_it(goldens: Path) -> None:
    rig = golden(goldens, GREEDY, voices={"clips": voice(goldens)}).say("[S1] Hello there.")
    clips = voice(goldens).frames
    assert rig.words == ["Hello", "there."]
    assert rig.of(WordEvent)[0].start_ms == 0
    assert rig.context.frames == clips + len(rig.frames)
    # It goes on from the clips' sound, without a click.
    whole = checkpoint(goldens).codec.decode(rig.context.history.frames(0, rig.context.frames)[None])[0]
    frame = len(rig.frames[0])
    np.testing.assert_allclose(rig.audio, whole[clips * frame :].clamp(-1, 1).numpy(), atol=1e-5)
    assert golden(goldens, GREEDY).say("[S1] Hello there.").audio.tobytes() != rig.audio.tobytes()


def test_the_first_voice_is_the_default_and_others_go_by_name() -> None:
    voices = {"one": toy_voice(), "two": toy_voice(seed=1)}
    told = {name: toy(voices=voices).say("Hello.", voice=name).told for name in (None, "one", "two")}
    assert told[None] == told["one"] != told["two"]
    rig = toy(voices=voices)
    with pytest.raises(CommandError, match="'three' is not known: one, two") as caught:
        rig.do(Start("Hello.", voice="three", id="a"))
    error = caught.value
    assert (error.code, error.field, error.cmd, error.id) == ("bad_field", "voice", "start", "a")
    assert not rig.conversation.active
    with pytest.raises(CommandError, match="none is loaded"):
        toy().do(Start("Hello.", voice="one"))


def test_in_a_voice_everything_is_the_same_but_the_voice() -> None:
    in_voice = partial(toy, voices={"clips": toy_voice()})
    whole = in_voice().say(HELLO)
    assert whole.words == words_of(HELLO)
    first = in_voice().context.first_frame + toy_voice().frames
    assert frame_numbers(whole) == list(range(first, first + len(whole.frames)))
    assert said_in_pieces(in_voice(), cut(HELLO, range(99)), [1, 2, 0]).told == whole.told
    rig = in_voice().do(Start(HELLO)).run_until_sent(20)
    assert report(paused(rig, 0)) == (0, "", HELLO)
    rig.do(Inject("Anew.")).run()
    assert_goes_on_from(rig, 20, first)


# ---- Another voice in the middle ----


def in_voices(**options: Any) -> Any:
    return toy(voices={"one": toy_voice(), "two": toy_voice(20, seed=1)}, **options)


def context_reads(rig: Any) -> list[Any]:
    """The text of every column of the model's context, as it stands behind the voice's clips."""
    rig.context.run_due()
    clips = rig.context.voice.frames
    codes = aligned(rig.stepper.codes[0], rig.stepper.delays, 0, clips)
    assert torch.equal(codes, rig.context.voice.codes), "the context begins with the voice's clips"
    return list(rig.context.history.columns)


def test_an_inject_in_another_voice_goes_on_behind_its_clips_with_the_memory_kept() -> None:
    rig = in_voices().say("One two three.")
    before, sent = context_reads(rig), rig.sent
    rig.do(Inject("Four five.", voice="two"))
    assert rig.context.voice is rig.conversation.voices["two"]
    assert context_reads(rig)[-30:] == before[: rig.context.step - rig.context.oldest_step()][-30:]
    assert rig.context.step - rig.context.base > rig.context.voice.frames  # the clips, and the history behind them
    rig.run()
    assert rig.words == ["One", "two", "three.", "Four", "five."]
    assert_goes_on_from(rig, sent, sent + toy_voice().frames)
    plain = in_voices().say("One two three.").do(Inject("Four five.")).run()
    assert plain.frames[0].tobytes() == rig.frames[0].tobytes()
    assert plain.audio.tobytes() != rig.audio.tobytes()


def test_the_voice_stays_until_another_one_is_named_and_its_own_name_changes_nothing() -> None:
    rig = in_voices().say("One.").do(Inject("Two.", voice="two")).run().do(Inject("Three.")).run()
    again = in_voices().say("One.").do(Inject("Two.", voice="two")).run().do(Inject("Three.", voice="two")).run()
    assert rig.told == again.told
    assert rig.context.voice is rig.conversation.voices["two"]
    rig.do(Inject("Four.", voice="one")).run()
    assert rig.context.voice is rig.conversation.voices["one"]
    rig.do(Start("Anew.")).run()
    assert rig.told[-5:] == in_voices().say("Anew.").told[-5:]


@pytest.mark.parametrize("between", [[], [Inject("So.", id="x")]])
def test_text_keeps_the_voice_that_it_names_if_what_brought_that_voice_is_cancelled(between: list[Inject]) -> None:
    named = [*between, Inject("Six seven.", voice="two", id="c"), Inject("Eight.", voice="two", id="d")]
    plain = in_voices().do(Start("One two three four.")).run(20).do(*named).run()
    rig = in_voices().do(Start("One two three four.")).run(20)
    rig.do(Inject("Never.", voice="two", id="b"), *named, Cancel("b")).run()
    assert rig.context.voice is rig.conversation.voices["two"]
    if not between:
        assert rig.told == plain.told


def test_while_it_speaks_another_voice_waits_for_the_end_of_the_turn() -> None:
    rig = in_voices().do(Start("One two three four.")).run(30)
    rig.do(Inject("Five", id="b", voice="two", final=False), Inject("six.", id="c"), Inject("Seven.", voice="one"))
    rig.run()
    assert rig.words == ["One", "two", "three", "four.", "Five", "six.", "Seven."]
    later = in_voices().do(Start("One two three four.")).run()
    later.do(Inject("Five", id="b", voice="two", final=False), Inject("six.", id="c")).run()
    later.do(Inject("Seven.", voice="one")).run()
    assert rig.told == later.told


def test_where_nothing_was_said_the_conversation_is_that_of_a_start_in_the_voice() -> None:
    rig = in_voices().do(Start("", voice="one"), Inject("[S1] Hello there.", voice="two")).run()
    plain = in_voices().do(Start("", voice="two"), Inject("[S1] Hello there.")).run()
    assert rig.told == plain.told
    stopped = stopped_at(in_voices().do(Start("Never heard at all.")), 8)
    paused(stopped, 0)
    stopped.do(Inject("Hello there.", voice="two")).run()
    assert_goes_on_from(stopped, 8, toy_voice(20).frames)


# Nothing was heard of the first turn, nor of the second in another voice; the third is in the first voice again.
@example(voices=["two", "one"], heard=[33, 20, None, None, None], limit=160, begins_in="one")
@settings(max_examples=40)
@given(
    voices=st.lists(st.sampled_from([None, "one", "two"]), min_size=1, max_size=5),
    heard=st.lists(st.none() | st.integers(0, 60), min_size=5, max_size=5),
    limit=st.sampled_from([160, 400]),
    begins_in=st.sampled_from([None, "one"]),
)
def test_whatever_voices_and_interruptions_come_the_memory_is_what_was_heard(
    voices: list[str | None], heard: list[int | None], limit: int, begins_in: str | None
) -> None:
    rig = in_voices(limit=limit)
    if begins_in is None:
        rig.conversation.voices = dict(reversed(rig.conversation.voices.items()))
    rig.do(Start("One two three four five.", voice=begins_in)).run()
    for number, name in enumerate(voices):
        at, back, first = rig.sent, heard[number], rig.context.first_frame
        step = rig.context.frames
        if back is not None:
            step = rig.conversation.clock.step_at(paused(rig, max(0, at - back) * 80).heard_ms)
        rig.do(Inject("Six seven eight.", id=str(number), voice=name)).run()
        begins = frame_numbers(rig)[at]
        assert_goes_on_from(rig, at, begins)
        longest_word = 0 if back is None else 12
        if step == first:  # where nothing was heard, the conversation begins behind the other clips
            assert begins == rig.context.first_frame
        elif begins == rig.context.first_frame:  # nothing was heard but the word that was cut
            assert step - first <= longest_word
        else:  # the word that was cut is forgotten, and no more
            assert step - longest_word <= begins <= step
        assert name is None or rig.context.voice is rig.conversation.voices[name]
    assert rig.words[-3:] == ["Six", "seven", "eight."]
    assert rig.conversation.idle


def test_with_real_weights_the_history_is_the_same_and_the_clips_are_the_other_voices(goldens: Path) -> None:
    other = replace(voice(goldens), codes=voice(goldens).codes.flip(1))
    rig = golden(goldens, GREEDY, voices={"clips": voice(goldens), "other": other}).say("[S1] Hello there.")
    rig.do(Inject("[S1] And again.", voice="other")).run()
    assert rig.words == ["Hello", "there.", "And", "again."]
    fresh = golden(goldens, GREEDY, voices={"other": other})
    fresh.context.begin(rig.stepper.slots[0].settings, rig.context.seed, other, 0)
    fresh.context.run_due()
    clips = other.frames
    ours, theirs = rig.stepper.cache, fresh.stepper.cache
    torch.testing.assert_close(ours.k[:, 0, :, :, :clips], theirs.k[:, 0, :, :, :clips], atol=1e-5, rtol=1e-4)


def test_another_voice_is_refused_in_the_middle_of_an_utterance_and_where_it_is_unknown() -> None:
    rig = in_voices().do(Start("One two", id="a", final=False))
    for command, told in (
        (Inject(" three", voice="two"), "voice: the open utterance has begun in another one"),
        (Inject("Three", id="b", voice="three"), "voice 'three' is not known: one, two"),
    ):
        with pytest.raises(CommandError) as caught:
            rig.do(command)
        assert (caught.value.message, caught.value.field, caught.value.cmd) == (told, "voice", "inject")
    rig.do(Inject(" three.", voice="one")).run()
    assert rig.words == ["One", "two", "three."]


def test_a_voice_that_is_cancelled_or_interrupted_before_its_turn_is_never_taken() -> None:
    rig = in_voices().do(Start("One two three four.")).run(20)
    rig.do(Inject("Five.", id="b", voice="two"), Inject("Six.", id="c"), Cancel("b")).run()
    assert (rig.words[-1], rig.context.voice) == ("Six.", rig.conversation.voices["one"])
    stopped_at(rig.do(Inject("Seven eight nine.")), rig.sent + 3).do(Inject("Ten.", voice="one")).run()
    assert rig.context.voice is rig.conversation.voices["one"]

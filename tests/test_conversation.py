"""A conversation: how it begins, what it draws, and that several in one stepper do not touch each other."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GOLDENS
from conversations import (
    GREEDY,
    HELLO,
    Counts,
    Make,
    Rig,
    ToyStepper,
    assert_sound_alike,
    golden,
    real,
    step_together,
    tiny,
    toy,
    toy_voice,
    voice,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from models import cases, checkpoint, expected

from dia2.steps.stepper import Stepper
from dia2stream.options import SpeechOptions
from dia2stream.protocol.messages import Done, Inject, Pause, Resume, Start, WordEvent

# ---- A cold start ----


def lines(goldens: Path) -> list[dict[str, Any]]:
    """The goldens that are one line."""
    return [case for case in cases(goldens)["generate"] if isinstance(case["script"], str)]


def test_a_cold_start_says_what_the_goldens_say(goldens: Path) -> None:
    heard = 0
    for case in lines(goldens):
        defaults = SpeechOptions(
            text_temperature=0.0,
            audio_temperature=0.0,
            cfg_scale=case["cfg_scale"],
            cfg_filter_k=case["cfg_filter_k"],
            initial_padding=case["initial_padding"],
        )
        rig = golden(goldens, defaults).say(case["script"], text_rules="off")
        tokens = expected(goldens)[case["id"] + ".audio_tokens"]
        assert torch.equal(rig.context.history.frames(0, rig.context.frames), tokens.long())
        # A colon parts words. The caller's own word, "4:30", is one event.
        stamps = iter(case["timestamps"])
        for event in rig.of(WordEvent):
            first, *more = re.sub(":", " ", event.word.replace("\u2019", "'")).split()
            assert [first, event.start_ms / 1000] == next(stamps)
            assert [next(stamps)[0] for _ in more] == more
        assert not list(stamps)
        waveform = expected(goldens).get(case["id"] + ".waveform")
        if waveform is not None:
            np.testing.assert_allclose(rig.audio, waveform.numpy(), atol=1e-4)
            heard += 1
    assert heard


@pytest.mark.parametrize("late", [0, 1, 3])
def test_a_model_with_codebooks_without_a_delay_speaks_too(goldens: Path, late: int) -> None:
    loaded = checkpoint(goldens)
    data = replace(loaded.config.data, delay_pattern=(late, *[0] * (loaded.config.data.codebooks - 1)))
    rig = real(replace(loaded, config=replace(loaded.config, data=data))).say("One two.")
    rig.do(Inject("Three.")).run(4)
    rig.do(Pause(), Inject("Four.")).run()
    assert rig.words[:2] == ["One", "two."]
    assert rig.words[-1] == "Four."
    assert [done.id for done in rig.of(Done)] == ["1", "3"]
    assert rig.of(Done)[-1].audio_ms == rig.sent * 80


# ---- The lead-in ----


def lead_in_of(rig: Rig, counts: Counts) -> list[int]:
    """Stages of the depformer in each step up to the next frame that leaves."""
    sent, stages = rig.sent, []
    while rig.sent == sent:
        before = counts.steps, counts.stages
        assert rig.step()
        assert counts.steps == before[0] + 1
        stages.append(counts.stages - before[1])
        rig.take()
    return stages


@pytest.mark.parametrize("make", [partial(golden, GOLDENS / "published-like", GREEDY), lambda **o: real(tiny(), **o)])
def test_speech_begins_after_steps_of_the_backbone_alone_and_one_whole_step_in_all_four_cases(make: Make) -> None:
    rig = make()
    counts = Counts(rig.stepper)
    late = max(rig.stepper.delays)
    lead_in = [0] * (late - 1) + [len(rig.stepper.delays) - 1]
    assert lead_in_of(rig.do(Start("Yes.")), counts) == lead_in  # cold
    rig.run()
    assert lead_in_of(rig.do(Inject("No.")), counts) == lead_in  # after silence
    rig.run(4).do(Pause(rig.sent * 80 - 200))
    assert lead_in_of(rig.do(Inject("Well.")), counts) == lead_in  # after an interruption
    assert counts.prefilled == 0


def test_the_published_lead_in_is_seventeen_steps_and_one() -> None:
    assert max(tiny().config.data.delays) == 17 + 1


def test_speech_in_a_voice_begins_after_one_pass_over_the_clips_and_a_lead_in() -> None:
    rig = golden(GOLDENS / "published-like", GREEDY, voices={"clips": voice(GOLDENS / "published-like")})
    counts = Counts(rig.stepper)
    rig.do(Start("Yes."))
    assert counts.prefilled == voice(GOLDENS / "published-like").frames
    lead_in = [0] * (max(rig.stepper.delays) - 1) + [len(rig.stepper.delays) - 1]
    assert lead_in_of(rig, counts) == lead_in
    rig.run().do(Start("Yes."))
    assert lead_in_of(rig, counts) == lead_in
    assert counts.prefilled == voice(GOLDENS / "published-like").frames


# ---- Draws ----


def test_the_same_seed_gives_the_same_audio_and_another_one_another(goldens: Path) -> None:
    text = "[S1] Hello there."
    first = golden(goldens, SpeechOptions()).say(text, seed=1)
    again = golden(goldens, SpeechOptions(), queue_frames=1)
    again.do(Start(text, seed=1))
    while again.step():
        again.do(Pause(), Resume()).take()
    assert first.told == again.told
    assert golden(goldens, SpeechOptions()).say(text, seed=2).audio.tobytes() != first.audio.tobytes()


@settings(max_examples=60)
@given(queue=st.integers(1, 60), takes=st.lists(st.integers(0, 9), min_size=1, max_size=9), seed=st.integers(0, 9))
def test_how_fast_it_is_read_changes_nothing(queue: int, takes: list[int], seed: int) -> None:
    rig = toy(queue_frames=queue).do(Start(HELLO, seed=seed))
    for number in range(10**6):
        taken = rig.take(takes[number % len(takes)])
        if not rig.step() and not taken and rig.conversation.idle:
            break
        assert rig.conversation.outbox.waiting <= queue
        if not any(takes):
            rig.take(1)
    assert rig.told == toy().say(HELLO, seed=seed).told


# ---- Two at once ----


@pytest.mark.parametrize("rhythm", [(1, 1), (1, 3), (5, 2)])
def test_two_conversations_in_one_stepper_each_sound_as_alone(goldens: Path, rhythm: tuple[int, int]) -> None:
    stepper, texts = Stepper(checkpoint(goldens), 2), ["[S1] Hello there.", "[S2] Good day to you."]
    options = [SpeechOptions(seed=1), SpeechOptions(seed=2, cfg_scale=1.0, audio_temperature=0.0)]
    pair = [golden(goldens, options[n], stepper=stepper, slot=n).do(Start(texts[n])) for n in (0, 1)]
    while any(rig.can_step() for rig in pair):
        for rig, steps in zip(pair, rhythm, strict=True):
            rig.run(steps)
        step_together(*pair)
        for rig in pair:
            rig.take()
    for rig, text, chosen in zip(pair, texts, options, strict=True):
        alone = golden(goldens, chosen).say(text)
        assert rig.of(WordEvent) == alone.of(WordEvent)
        assert torch.equal(
            rig.context.history.frames(0, rig.context.frames), alone.context.history.frames(0, alone.context.frames)
        )
        assert_sound_alike(rig.frames, alone.frames)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["step", "both", "barge", "text", "pause"])), max_size=60))
def test_what_one_conversation_does_is_nothing_to_another(plan: list[tuple[int, str]]) -> None:
    stepper = ToyStepper(slots=3, limit=120)
    together = [toy(stepper=stepper, slot=slot, voices={"clips": toy_voice()}) for slot in range(3)]
    alone = [toy(limit=120, voices={"clips": toy_voice()}) for _ in range(3)]
    for number, (one, other) in enumerate(zip(together, alone, strict=True)):
        for rig in (one, other):
            rig.do(Start(HELLO, seed=number))
    for number, what in plan:
        for rig in (together[number], alone[number]):
            if what == "barge":
                rig.do(Pause(max(0, rig.sent - 5) * 80), Inject("[S2] Something else, and quite long."))
            elif what == "text":
                rig.do(Inject("and more"))
            elif what == "pause":
                rig.do(Pause(), Resume())
            elif what == "step":
                rig.run(3)
        if what == "both":
            step_together(*together)
            for rig in together:
                rig.take()
            for rig in alone:
                rig.run(1)
    while step_together(*together):
        for rig in together:
            rig.take()
    for one, other in zip(together, alone, strict=True):
        assert one.told == other.run().told

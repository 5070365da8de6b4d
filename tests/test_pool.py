"""Contexts that are stepped together: frames by one gather and one pass of the codec, as each context makes alone."""

import random
from pathlib import Path

import pytest
import torch
from models import GREEDY, checkpoint
from torch import Tensor

from dia2.codec.frames import FrameCodec
from dia2.model.sampling import SamplingConfig, SlotSettings
from dia2.steps.context import Context
from dia2.steps.pool import ContextPool
from dia2.steps.stepper import Stepper
from dia2.steps.voice_cache import VoiceCache
from dia2.text.script import read_script

TEXTS = ["[S1] Hello there, how can I help you today?", "[S2] Thank you very much, that is all. [S1] Sure."]
SETTINGS = [SlotSettings(1.0, 50, GREEDY, GREEDY), SlotSettings(3.0, 20, SamplingConfig(0.8, 20))]
STEPS = 40


def pool_of(goldens: Path, slots: int) -> ContextPool:
    loaded = checkpoint(goldens)
    return ContextPool(Stepper(loaded, slots), FrameCodec(loaded.codec, slots), 375, VoiceCache(0))


def begin(goldens: Path, context: Context, number: int) -> None:
    context.begin(SETTINGS[number % 2], number, None, 0)
    context.state.append(read_script(TEXTS[number // 2 % 2], checkpoint(goldens).tokenizer))


def step(pool: ContextPool, contexts: list[Context]) -> dict[int, Tensor]:
    """One step of some contexts; the sound of the frames that it completed, by slot."""
    actions = pool.stepper.act([context.slot for context in contexts])
    pool.stepper.complete([context.advance(action) for context, action in zip(contexts, actions, strict=True)])
    finished = pool.take_frames(contexts)
    if not finished:
        return {}
    sounds = pool.decode(finished).pcm()
    return {context.slot: pcm.clone() for context, pcm in zip(finished.contexts, sounds, strict=True)}


def alone(goldens: Path, number: int, steps: int) -> tuple[Tensor, Tensor]:
    """Codes [C, frames] and sound of a conversation that has the model for itself, by the context's own calls."""
    pool = pool_of(goldens, 1)
    context, sound = pool.contexts[0], [torch.zeros(0)]
    begin(goldens, context, number)
    for _ in range(steps):
        (action,) = pool.stepper.act([0])
        pool.stepper.complete([context.advance(action)])
        frame = context.next_frame()
        if frame is not None:
            sound.append(context.playback.decode(frame).pcm().clone())
    return pool.stepper.frames(0, 0, context.frames), torch.cat(sound)


@pytest.mark.parametrize("slots", [1, 2, 4, 8])
def test_conversations_that_step_together_say_what_each_says_alone(goldens: Path, slots: int) -> None:
    dice, pool = random.Random(slots), pool_of(goldens, slots)
    for number, context in enumerate(pool.contexts):
        begin(goldens, context, number)
    sounds: list[list[Tensor]] = [[torch.zeros(0)] for _ in range(slots)]
    for _ in range(STEPS):
        for slot, pcm in step(pool, dice.sample(pool.contexts, dice.randint(1, slots))).items():
            sounds[slot].append(pcm)
    for context, sound in zip(pool.contexts, sounds, strict=True):
        codes, heard = alone(goldens, context.slot, context.step)
        assert torch.equal(pool.stepper.frames(context.slot, 0, context.frames), codes)
        torch.testing.assert_close(torch.cat(sound), heard, rtol=0, atol=1e-5)


def test_a_context_in_its_lead_in_has_no_frame_and_its_neighbours_do(goldens: Path) -> None:
    pool = pool_of(goldens, 2)
    begin(goldens, pool.contexts[0], 0)
    for _ in range(20):
        step(pool, pool.contexts[:1])
    begin(goldens, pool.contexts[1], 1)
    finished = []
    for _ in range(pool.contexts[1].lead_in + 1):
        finished.append(sorted(step(pool, pool.contexts)))
    assert finished == [[0]] * (pool.contexts[1].lead_in - 1) + [[0, 1]] * 2


def test_one_that_goes_back_neither_disturbs_the_others_nor_is_disturbed(goldens: Path) -> None:
    pool = pool_of(goldens, 3)
    for number, context in enumerate(pool.contexts):
        begin(goldens, context, number)
    sounds: list[list[Tensor]] = [[] for _ in range(3)]
    middle = pool.contexts[1]
    for now in range(STEPS):
        if now == 30:  # back to what it had then, to say the same again
            heard = middle.frames - 9
            mark = middle.mark_at(heard)
            queue = [entry for step, entry in middle.state.taken if step >= heard]
            del middle.state.taken[len(middle.state.taken) - len(queue) :]
            middle.state.queue.extendleft(reversed(queue))
            middle.rewind(heard, heard)
            middle.state.restore(mark)
            del sounds[1][heard:]
        for slot, pcm in step(pool, pool.contexts).items():
            sounds[slot].append(pcm)
    for context, sound in zip(pool.contexts, sounds, strict=True):
        _, expected = alone(goldens, context.slot, context.step)
        torch.testing.assert_close(torch.cat(sound), expected, rtol=0, atol=1e-5)


def test_a_codec_of_other_slots_than_the_steppers_is_refused(goldens: Path) -> None:
    loaded = checkpoint(goldens)
    with pytest.raises(ValueError, match="the codec has 1 slots, the stepper 2"):
        ContextPool(Stepper(loaded, 2), FrameCodec(loaded.codec), 375, VoiceCache(0))

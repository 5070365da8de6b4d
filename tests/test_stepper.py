"""Stepping: nothing is computed that nobody reads, and neither neighbours nor going back change a token."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from models import GREEDY, Talk, checkpoint, step
from torch import Tensor

from dia2.model.sampling import SamplingConfig, SlotSettings, uniform_table
from dia2.steps.stepper import Stepper

HELLO = "[S1] Hello there, how can I help you today?"
THANKS = '[S2] Thank you very much! <break time="0.4s"/> [S1] Sure.'
WARM = SamplingConfig(0.8, 20)

greedy = SlotSettings(1.0, 50, GREEDY, GREEDY)
guided = SlotSettings(3.0, 10, GREEDY, GREEDY)
sampled = SlotSettings(1.0, 50, WARM, WARM)
both = SlotSettings(3.0, 20, WARM, WARM)
both_ways = pytest.mark.parametrize("settings", [greedy, both], ids=["greedy", "guided and sampled"])

STEPS = 26  # four times the longest delay


class Everything(Stepper):
    """Draws every codebook at every step, as the published loop does."""

    def _codebooks_due(self, slot: int) -> int:
        return len(self.delays)


class TwoRows(SlotSettings):
    """Runs the unconditional row whatever the scale."""

    guided = True


class Recorded:
    """A transformer that notes each call of one of its methods, and how many rows it was given."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.rows: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __call__(self, tokens: Tensor, *rest: Any) -> Tensor:
        self.rows.append(len(tokens))
        return self._module(tokens, *rest)

    def stage(self, stage: int, hidden: Tensor, *rest: Any) -> Tensor:
        self.rows.append(len(hidden))
        return self._module.stage(stage, hidden, *rest)


def recorded(stepper: Stepper) -> tuple[Recorded, Recorded]:
    """Puts a recorder before each transformer of a stepper."""
    stepper.backbone, stepper.depformer = backbone, depformer = Recorded(stepper.backbone), Recorded(stepper.depformer)
    return backbone, depformer


def spoken(goldens: Path, script: str, settings: SlotSettings, seed: int = 0, steps: int = STEPS) -> Talk:
    """A talk of so many steps that has its stepper for itself."""
    talk = Talk(checkpoint(goldens), Stepper(checkpoint(goldens)), 0, script, settings, seed)
    for _ in range(steps):
        step(talk)
    return talk


@both_ways
def test_drawing_only_what_is_read_changes_no_token(goldens: Path, settings: SlotSettings) -> None:
    stepper = Everything(checkpoint(goldens))
    _, depformer = recorded(stepper)
    everything = Talk(checkpoint(goldens), stepper, 0, HELLO, settings)
    for _ in range(STEPS):
        step(everything)
    assert len(depformer.rows) == STEPS * (len(stepper.delays) - 1)
    lean = spoken(goldens, HELLO, settings)
    assert torch.equal(lean.codes, everything.codes)
    assert lean.texts == everything.texts


@pytest.mark.parametrize("known", [0, 13])
def test_a_stage_runs_only_when_the_frame_of_its_codebook_is_not_known(goldens: Path, known: int) -> None:
    talk = spoken(goldens, HELLO, guided, steps=known)
    backbone, depformer = recorded(talk.stepper)
    talk.stepper.slots[0].known = known
    stages = []
    for _ in range(12):
        depformer.rows.clear()
        step(talk)
        stages.append(len(depformer.rows))
    delays = talk.stepper.delays[1:]
    assert stages == [sum(delay <= frame for delay in delays) for frame in range(1, 13)]
    assert set(stages[: min(delays) - 1]) <= {0}
    assert len(backbone.rows) == 12


@pytest.mark.parametrize("text", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_one_row_without_guidance_gives_what_two_rows_give(goldens: Path, text: SamplingConfig) -> None:
    talks, rows = [], []
    for settings in (SlotSettings(1.0, 0, text, text), TwoRows(1.0, 0, text, text)):
        stepper = Stepper(checkpoint(goldens))
        backbone, depformer = recorded(stepper)
        talks.append(Talk(checkpoint(goldens), stepper, 0, HELLO, settings))
        for _ in range(STEPS):
            step(talks[-1])
        rows.append({*backbone.rows, *depformer.rows})
    assert rows == [{1}, {2}]
    assert torch.equal(talks[0].codes, talks[1].codes)
    assert talks[0].texts == talks[1].texts


@pytest.mark.parametrize(
    "settings", [(greedy, guided), (sampled, both), (both, greedy)], ids=["greedy", "sampled", "mixed"]
)
def test_slots_give_the_tokens_that_each_gives_alone(
    goldens: Path, settings: tuple[SlotSettings, SlotSettings]
) -> None:
    first, second = settings
    stepper = Stepper(checkpoint(goldens), slots=3)
    talks = [
        Talk(checkpoint(goldens), stepper, 0, HELLO, first, seed=1),
        Talk(checkpoint(goldens), stepper, 1, THANKS, second, seed=2),
        Talk(checkpoint(goldens), stepper, 2, THANKS, first, seed=3),
    ]
    for now in range(45):  # the second starts later and pauses between its neighbours, the third comes first
        active = [now >= 3, 8 <= now < 20 or now >= 30, now < 35]
        step(*[talk for talk, steps in zip(talks, active, strict=True) if steps])
    for talk, script, config, seed in zip(
        talks, (HELLO, THANKS, THANKS), (first, second, first), (1, 2, 3), strict=True
    ):
        alone = spoken(goldens, script, config, seed, steps=len(talk.texts) - 1)
        assert torch.equal(talk.codes, alone.codes)
        assert talk.texts == alone.texts
        assert talk.state.taken == alone.state.taken


def test_slots_may_be_named_in_any_order(goldens: Path) -> None:
    stepper = Stepper(checkpoint(goldens), slots=2)
    talks = [Talk(checkpoint(goldens), stepper, slot, script, both) for slot, script in enumerate((HELLO, THANKS))]
    for now in range(20):
        step(*talks[:: 1 if now % 2 else -1])
    assert torch.equal(talks[0].codes, spoken(goldens, HELLO, both, steps=20).codes)
    assert torch.equal(talks[1].codes, spoken(goldens, THANKS, both, steps=20).codes)


@pytest.mark.parametrize(("slots", "columns"), [(1, None), (2, None), (4, 5), (8, None), (16, 7)])
def test_any_of_the_slots_step_in_any_order_as_each_does_alone(goldens: Path, slots: int, columns: int | None) -> None:
    """columns: of the cache's blocks."""
    dice, stepper = random.Random(slots), Stepper(checkpoint(goldens), slots, block_columns=columns)
    configs = [(greedy, guided, sampled, both)[slot % 4] for slot in range(slots)]
    talks = [
        Talk(checkpoint(goldens), stepper, slot, (HELLO, THANKS)[slot % 2], config, seed=slot)
        for slot, config in enumerate(configs)
    ]
    for _ in range(30):
        step(*dice.sample(talks, dice.randint(1, slots)))
    for slot, talk in enumerate(talks):
        alone = spoken(goldens, (HELLO, THANKS)[slot % 2], configs[slot], slot, steps=len(talk.texts) - 1)
        assert torch.equal(talk.codes, alone.codes)
        assert talk.texts == alone.texts


def test_slots_that_do_not_step_stay_as_they_are(goldens: Path) -> None:
    stepper = Stepper(checkpoint(goldens), slots=4)
    talks = [Talk(checkpoint(goldens), stepper, slot, HELLO, both, seed=slot) for slot in range(4)]
    for _ in range(10):
        step(*talks)
    resting = torch.tensor([1, 2])
    before = stepper.codes[resting], stepper.cache.k[:, resting], stepper.cache.v[:, resting]
    for _ in range(5):
        step(talks[3], talks[0])
    for was, now in zip(before, (stepper.codes, stepper.cache.k, stepper.cache.v), strict=True):
        assert torch.equal(now[resting] if now is stepper.codes else now[:, resting], was)
    assert [slot.column for slot in stepper.slots] == [15, 10, 10, 15]


def test_slots_whose_codes_are_known_take_no_row_of_the_depformer(goldens: Path) -> None:
    stepper = Stepper(checkpoint(goldens), slots=3)
    speakers = [Talk(checkpoint(goldens), stepper, slot, THANKS, greedy, seed=slot) for slot in (0, 2)]
    for _ in range(10):
        step(*speakers)
    starter = Talk(checkpoint(goldens), stepper, 1, HELLO, greedy)
    backbone, depformer = recorded(stepper)
    rows = []
    for _ in range(max(stepper.delays)):
        depformer.rows.clear()
        step(starter, *speakers)
        rows.append(set(depformer.rows))
    assert set(backbone.rows) == {3}
    free = min(delay for delay in stepper.delays if delay) - 1
    assert rows == [{2}] * free + [{3}] * (max(stepper.delays) - free)


@pytest.mark.parametrize("slots", [[], [1, 1]])
def test_a_step_of_no_slot_or_of_one_twice_is_refused(goldens: Path, slots: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one and none twice"):
        Stepper(checkpoint(goldens), slots=2).act(slots)


@both_ways
@pytest.mark.parametrize("back_to", [1, 11])
def test_going_back_and_saying_the_same_gives_the_same(goldens: Path, settings: SlotSettings, back_to: int) -> None:
    stepper = Stepper(checkpoint(goldens))
    talk = Talk(checkpoint(goldens), stepper, 0, HELLO, settings)
    actions = [step(talk) for _ in range(STEPS)]
    codes, slot = talk.codes, stepper.slots[0]
    for codebook, delay in enumerate(stepper.delays):  # frames from there on are gone
        stepper.codes[0, codebook, back_to + delay :] = 0
    slot.column, slot.text, slot.known = back_to, talk.texts[back_to], back_to
    for at in range(back_to, STEPS):
        assert stepper.act([0]) == actions[at]
        stepper.complete([talk.texts[at + 1]])
    assert torch.equal(talk.codes, codes)


def test_going_back_with_other_words_keeps_the_known_frames_whatever_a_neighbour_draws(goldens: Path) -> None:
    stepper = Stepper(checkpoint(goldens), slots=2)
    talk, neighbour = (Talk(checkpoint(goldens), stepper, i, script, both) for i, script in enumerate((HELLO, THANKS)))
    for _ in range(16):
        step(talk, neighbour)
    slot, before, frames = stepper.slots[0], talk.codes, stepper.frames(0, 0, 10)
    slot.column, slot.text, slot.known = 10, talk.texts[10], 10
    for _ in range(6):
        _, action = stepper.act([0, 1])
        stepper.complete([stepper.opening, neighbour.say(action)])
    assert torch.equal(stepper.frames(0, 0, 10), frames)
    assert not torch.equal(talk.codes, before)
    assert torch.equal(neighbour.codes, spoken(goldens, THANKS, both, steps=22).codes)


@pytest.mark.parametrize("settings", [sampled, both], ids=["sampled", "both"])
def test_a_seed_repeats_exactly_and_another_does_not(goldens: Path, settings: SlotSettings) -> None:
    stepper = Stepper(checkpoint(goldens))
    codes = []
    for seed in (5, 6, 5):
        talk = Talk(checkpoint(goldens), stepper, 0, HELLO, settings, seed)
        for _ in range(20):
            step(talk)
        codes.append(talk.codes)
    assert torch.equal(codes[0], codes[2])
    assert not torch.equal(codes[0], codes[1])


@both_ways
def test_a_batched_pass_over_known_columns_goes_on_as_their_steps_did(goldens: Path, settings: SlotSettings) -> None:
    talk = spoken(goldens, HELLO, settings)
    stepper = Stepper(checkpoint(goldens), slots=2)
    stepper.begin(1, settings, seed=0)
    stepper.codes[1, :, :15] = talk.codes[:, :15]
    stepper.prefill(1, [])
    stepper.prefill(1, talk.texts[:8])
    stepper.prefill(1, talk.texts[8:14])
    assert stepper.slots[1].column == 14
    stepper.slots[1].text = talk.texts[14]
    for at in range(14, STEPS):
        stepper.act([1])
        stepper.complete([talk.texts[at + 1]])
    assert torch.equal(stepper.codes[1, :, : STEPS + 1], talk.codes)


@pytest.mark.parametrize("first_step", [0, 1000])
def test_every_draw_has_the_uniform_of_its_step_and_stream(goldens: Path, first_step: int) -> None:
    hot = SamplingConfig(1e9, 0)  # every token as likely as the next: a draw is its uniform
    loaded, stepper = checkpoint(goldens), Stepper(checkpoint(goldens))
    talk = Talk(loaded, stepper, 0, HELLO, SlotSettings(1.0, 0, hot, hot), seed=4)
    stepper.rebase(0, 4, first_step)
    actions = [action for _ in range(STEPS) for action in step(talk)]
    uniforms = uniform_table(4, first_step, STEPS, 1 + len(stepper.delays)).double()
    assert actions == (uniforms[:, 0] * 2).long().tolist()
    for codebook, delay in enumerate(stepper.delays):
        drawn = (uniforms[delay - 1 :, 1 + codebook] * loaded.config.data.audio_codes).long()
        assert torch.equal(talk.codes[codebook, delay:], drawn)
    assert stepper.slots[0].settings.text == hot


@pytest.mark.parametrize("filter_k", [1, 2])
@pytest.mark.parametrize("audio", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_neither_pad_nor_bos_is_drawn_even_if_guidance_wants_nothing_else(
    goldens: Path, filter_k: int, audio: SamplingConfig
) -> None:
    loaded = checkpoint(goldens)
    stepper = Stepper(loaded)
    wanted = torch.tensor([loaded.config.data.audio_pad_token_id, loaded.config.data.audio_bos_token_id])
    stepper.backbone = backbone = Recorded(stepper.backbone)
    backbone.cb0_logits = lambda hidden: loaded.backbone.cb0_logits(hidden).index_add(
        1, wanted, torch.tensor([[200.0, 200.0], [0.0, 0.0]])
    )
    talk = Talk(loaded, stepper, 0, HELLO, SlotSettings(3.0, filter_k, GREEDY, audio))
    for _ in range(20):
        step(talk)
    drawn = talk.codes[:, max(stepper.delays) :]
    assert drawn.max() < loaded.config.data.audio_codes
    assert len(drawn[0].unique()) > 1


def test_a_frame_of_each_slot_is_gathered_at_once(goldens: Path) -> None:
    stepper = Stepper(checkpoint(goldens), slots=3)
    talks = [Talk(checkpoint(goldens), stepper, slot, HELLO, both, seed=slot) for slot in range(3)]
    for _ in range(16):
        step(*talks)
    slots, frames = [2, 0, 1], [3, 0, 7]
    expected = [stepper.frames(slot, frame, frame + 1)[:, 0] for slot, frame in zip(slots, frames, strict=True)]
    assert torch.equal(stepper.frame_of_each(slots, frames), torch.stack(expected))


def test_frames_are_the_columns_with_their_delays_taken_back(goldens: Path) -> None:
    talk = spoken(goldens, HELLO, greedy, steps=20)
    frames = talk.stepper.frames(0, 2, 9)
    for codebook, delay in enumerate(talk.stepper.delays):
        assert torch.equal(frames[codebook], talk.codes[codebook, 2 + delay : 9 + delay])

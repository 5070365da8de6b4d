"""Passes of many columns as CUDA graphs: the codes behind them are those behind an eager pass.

Run by scripts/gpu-tests. MODEL is the model that is compared in bfloat16, `random:2b` if not given.
"""

import os
import random
from collections.abc import Iterator

import pytest
import torch
from test_gpu_stepper import captured, distance, loaded, step, text_of
from torch import Tensor

from dia2.model.sampling import SamplingConfig, SlotSettings
from dia2.steps.speculation import Guess
from dia2.steps.stepper import Stepper
from dia2.text.machine import TextMachine
from dia2.text.script import Entry

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(580)]

MODEL = os.environ.get("MODEL", "random:2b")
GREEDY = SlotSettings(text=SamplingConfig(0.0, 0), audio=SamplingConfig(0.0, 0))
LENGTHS = [1, 16, 17, 63, 64, 65, 200, 500, 513, 1100]


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield
    torch.cuda.empty_cache()


def stand_behind(stepper: Stepper, slot: int, lengths: list[int], settings: SlotSettings) -> None:
    """Behind passes of so many columns, whose codes are noise that depends on nothing else; every code is due."""
    torch.set_float32_matmul_precision("highest")
    make = torch.Generator().manual_seed(sum(lengths))
    stepper.begin(slot, settings, seed=sum(lengths))
    codes = torch.randint(200, stepper.codes[0].shape, generator=make)
    stepper.codes[slot].copy_(codes)
    for length in lengths:
        first = stepper.slots[slot].column
        stepper.prefill(slot, [(20 + at % 200, 3 if at % 3 else 40) for at in range(first, first + length)])
    stepper.slots[slot].known = sum(lengths) - 100


def codes_behind(stepper: Stepper, slot: int, columns: int) -> Tensor:
    """Those of the next columns."""
    first = stepper.slots[slot].column
    for _ in range(columns):
        step(stepper, [slot])
    return stepper.codes[slot, :, first : first + columns + 1].clone()


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("model", ["random:tiny", "random:1b"])
def test_in_float32_codes_behind_passes_are_those_behind_eager_ones(model: str, slots: int) -> None:
    torch.set_float32_matmul_precision("highest")
    checkpoint = loaded(model, "float32")
    torch.set_float32_matmul_precision("highest")
    eager, graphs, slot = Stepper(checkpoint, slots), captured(checkpoint, slots, plain=False), slots - 1
    assert graphs.pass_sizes
    for settings in (GREEDY, SlotSettings(), SlotSettings(cfg_scale=1.0)):
        for lengths in ([length] for length in LENGTHS) if model == "random:tiny" else ([17, 200], [500]):
            for stepper in (eager, graphs):
                stand_behind(stepper, slot, lengths, settings)
            assert torch.equal(codes_behind(graphs, slot, 8), codes_behind(eager, slot, 8)), lengths


def lead_in(stepper: Stepper, slots: list[int], settings: SlotSettings, seed: int) -> Tensor:
    """The codes behind lead-ins of some slots and four whole steps; a stepper that can guess does."""
    torch.set_float32_matmul_precision("highest")
    machine, dice = TextMachine.of(stepper.config.data), random.Random(seed)
    states = {slot: machine.start() for slot in slots}
    for slot in slots:
        stepper.begin(slot, settings, seed + slot)
        stepper.prefill(slot, [text_of(slot, column) for column in range(20 + slot)])
        stepper.slots[slot].known = stepper.slots[slot].column
        words = [tuple(dice.randint(20, 200) for _ in range(dice.randint(1, 3))) for _ in range(12)]
        states[slot].append(Entry(tokens, "word", len(tokens)) for tokens in words)
    ends = {slot: stepper.slots[slot].column + min(stepper.delays) for slot in slots}
    while stepper.tree_size(len(slots)) and (left := [s for s in slots if stepper.slots[s].column < ends[s]]):
        trees = []
        for slot in left:
            state = stepper.slots[slot]
            uniforms = stepper.action_uniforms(slot, ends[slot] - state.column)
            guess = Guess(machine, states[slot], state.column, state.text, uniforms, True)
            trees.append(guess.tree(stepper.tree_size(len(slots))))
        for slot, tree, actions in zip(left, trees, stepper.verify(left, trees), strict=True):
            place: int | None = 0
            while place is not None:
                text = machine.process(states[slot], stepper.slots[slot].column, actions[place])
                stepper.confirm(slot, place, text)
                place = tree.follow(place, text)
        stepper.keep()
    last = {slot: ends[slot] + max(stepper.delays) - min(stepper.delays) + 4 for slot in slots}
    while left := [slot for slot in slots if stepper.slots[slot].column < last[slot]]:
        actions = stepper.act(left)
        stepper.complete(
            [machine.process(states[s], stepper.slots[s].column, a) for s, a in zip(left, actions, strict=True)]
        )
    return torch.cat([stepper.codes[slot, :, : last[slot] + 1] for slot in slots], dim=1)


@pytest.mark.parametrize("slots", [[0], [2, 0, 1], [*range(8)]], ids=len)
@pytest.mark.parametrize("model", ["random:tiny", "random:1b"])
def test_in_float32_guessed_lead_ins_draw_what_single_steps_draw(model: str, slots: list[int]) -> None:
    torch.set_float32_matmul_precision("highest")
    checkpoint = loaded(model, "float32")
    torch.set_float32_matmul_precision("highest")
    eager = Stepper(checkpoint, len(slots))
    graphs = captured(checkpoint, len(slots), plain=False, speculate=True)
    assert graphs.tree_size(len(slots)) >= 16
    for settings in (GREEDY, SlotSettings(), SlotSettings(cfg_scale=1.0)):
        for seed in (0, 100, 200):
            assert torch.equal(lead_in(graphs, slots, settings, seed), lead_in(eager, slots, settings, seed)), seed


def test_in_bfloat16_a_guessed_lead_in_repeats_exactly() -> None:
    stepper = captured(loaded(MODEL, "bfloat16"), slots=2, speculate=True)
    first, second = (lead_in(stepper, [1], SlotSettings(), seed=5) for _ in range(2))
    assert torch.equal(first, second)


def test_in_bfloat16_a_pass_is_as_near_to_float32_as_the_eager_one() -> None:
    exact, eager = Stepper(loaded(MODEL, "float32")), Stepper(loaded(MODEL, "bfloat16"))
    graphs = captured(loaded(MODEL, "bfloat16"), slots=2)
    for lengths in ([1], [16], [100], [250, 250], [512], [700]):
        kept = []
        for stepper in (eager, graphs, exact):
            stand_behind(stepper, 0, lengths, GREEDY)
            columns = stepper.cache.copied(0, 2, sum(lengths))
            kept.append((columns.k[-1].float(), columns.v[-1].float()))
        for theirs, ours, right in zip(*kept, strict=True):
            assert distance(ours, right) < 1.2 * distance(theirs, right), lengths


def test_a_pass_repeats_exactly_and_touches_no_other_slot() -> None:
    graphs = captured(loaded(MODEL, "bfloat16"), slots=4)
    for slot in range(4):
        stand_behind(graphs, slot, [80 + slot], GREEDY)
    others = [graphs.cache.copied(slot, 2, 80 + slot) for slot in (0, 1, 3)]
    found = []
    for _ in range(2):
        stand_behind(graphs, 2, [300], GREEDY)
        columns = graphs.cache.copied(2, 2, 300)
        found.append((columns, codes_behind(graphs, 2, 4)))
    assert torch.equal(found[0][0].k, found[1][0].k)
    assert torch.equal(found[0][0].v, found[1][0].v)
    assert torch.equal(found[0][1], found[1][1])
    for slot, before in zip((0, 1, 3), others, strict=True):
        now = graphs.cache.copied(slot, 2, 80 + slot)
        assert torch.equal(now.k, before.k)
        assert torch.equal(now.v, before.v)


def test_passes_that_follow_each_other_without_a_wait_do_not_mix() -> None:
    """The numbers of a pass are handed over while the pass before may still be running."""
    graphs = captured(loaded(MODEL, "bfloat16"), slots=2)
    for _ in range(5):
        stand_behind(graphs, 0, [200, 30, 500, 12], GREEDY)
        stand_behind(graphs, 1, [742], GREEDY)
        ours, whole = graphs.cache.copied(0, 2, 742), graphs.cache.copied(1, 2, 742)
        assert distance(ours.k[-1], whole.k[-1]) < 0.05
        assert distance(ours.v[-1], whole.v[-1]) < 0.05


def test_float32_keeps_the_eager_pass() -> None:
    assert captured(loaded("random:tiny", "float32"), slots=2).pass_sizes == ()

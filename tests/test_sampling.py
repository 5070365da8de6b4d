"""Guidance, draws and the table of uniforms: exact, not by counting frequencies."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import GREEDY, cases, expected
from torch import Tensor

from dia2.model.sampling import Draws, Guidance, SamplingConfig, SlotSettings, uniform_table
from dia2.model.slots import SlotIndex

CPU = torch.device("cpu")
LAST = 1 - 2.0**-24  # the largest uniform there is
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def slots(*numbers: int, device: torch.device = CPU) -> SlotIndex:
    return SlotIndex.of(numbers, device)


def draw(logits: Tensor, uniforms: Tensor, *configs: SamplingConfig) -> Tensor:
    """logits [V] or [n, V] drawn from at uniforms [n]; one config for all, or one each."""
    draws = Draws(len(uniforms), logits.device)
    for slot in range(len(uniforms)):
        draws.set(slot, configs[slot % len(configs)])
    return draws(
        logits.expand(len(uniforms), -1), uniforms.to(logits.device), slots(*range(len(uniforms)), device=logits.device)
    )


def probabilities(logits: Tensor, config: SamplingConfig) -> Tensor:
    """What model.md section 5 says, one plain step at a time, in float64."""
    weights = (logits.double() / config.temperature).softmax(-1)
    if 0 < config.top_k < len(weights):
        weights[weights < weights.sort(descending=True).values[config.top_k - 1]] = 0
    return weights / weights.sum()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_guidance_keeps_the_candidates_of_the_goldens(goldens: Path) -> None:
    logits = expected(goldens)["guidance.logits"]
    for case in cases(goldens)["guidance"]:
        guidance = Guidance(1, CPU)
        guidance.set(0, SlotSettings(case["scale"], case["filter_k"]))
        kept, wanted = guidance(logits.transpose(0, 1), slots(0)), expected(goldens)[case["id"]][0]
        assert torch.equal(kept.isneginf(), wanted.isneginf())
        torch.testing.assert_close(kept, wanted, rtol=0, atol=1e-4)


def test_guidance_keeps_ties_and_ranks_by_the_guided_value() -> None:
    conditional, unconditional = torch.tensor([3.0, 2.0, 2.0, 1.0]), torch.tensor([3.0, 1.0, 1.0, -3.0])
    guidance = Guidance(1, CPU)  # at scale 2 the guided values are 3, 3, 3, 5
    for filter_k, kept in ((1, [3]), (2, [0, 1, 2, 3]), (0, [0, 1, 2, 3]), (9, [0, 1, 2, 3]), (-1, [0, 1, 2, 3])):
        guidance.set(0, SlotSettings(2.0, filter_k))
        candidates = guidance(torch.stack([conditional, unconditional])[None], slots(0))[0]
        assert candidates.isfinite().nonzero().flatten().tolist() == kept
        assert torch.equal(candidates[kept], conditional[kept])


def test_guidance_is_each_slots_own() -> None:
    logits = noise(4, 2, 40)
    settings = [SlotSettings(3.0, 5), SlotSettings(1.0, 5), SlotSettings(1.5, 0), SlotSettings(1.2, 9)]
    together = Guidance(4, CPU)
    for slot, config in enumerate(settings):
        together.set(slot, config)
    for slot, config in enumerate(settings):
        alone = Guidance(1, CPU)
        alone.set(0, config)
        kept = alone(logits[slot, None], slots(0))[0]
        assert torch.equal(together(logits, slots(0, 1, 2, 3))[slot], kept)
        assert torch.equal(together(logits[slot, None], slots(slot))[0], kept)
    order = [2, 0, 3]
    assert torch.equal(together(logits[order], slots(*order)), together(logits, slots(0, 1, 2, 3))[order])
    assert torch.equal(together(logits, slots(0, 1, 2, 3))[1], logits[1, 0])


@devices
@pytest.mark.parametrize("config", [SamplingConfig(0.8, 0), SamplingConfig(0.6, 7), SamplingConfig(2.0, 50)], ids=str)
def test_a_draw_is_the_token_whose_share_of_the_unit_interval_holds_the_uniform(
    device: str, config: SamplingConfig
) -> None:
    logits, uniforms = noise(60), torch.arange(2000) / 2000
    ends = probabilities(logits, config).cumsum(0)
    clear = (uniforms.double()[:, None] - ends).abs().min(dim=1).values > 1e-6  # of where rounding decides
    assert clear.sum() > 1900
    tokens = draw(logits.to(device), uniforms, config).cpu()
    assert torch.equal(tokens[clear], torch.searchsorted(ends, uniforms.double(), right=True)[clear])


@devices
@pytest.mark.parametrize("vocabulary", [2, 66, 2050])
def test_a_token_of_no_probability_is_never_drawn(device: str, vocabulary: int) -> None:
    logits = noise(vocabulary)
    logits[1::2] = -torch.inf
    ends = probabilities(logits, SamplingConfig(1.0, 0)).cumsum(0)
    edges = (ends * 2**24).floor() / 2**24  # where rounding could put the uniform into the wrong interval
    uniforms = torch.cat([edges, edges + 2.0**-24, torch.tensor([0.0, LAST])]).clamp(0, LAST).float()
    for uniform in uniforms.split(1):  # a batch of one: the device then sums in its own way
        assert draw(logits.to(device), uniform, SamplingConfig(1.0, 0)) % 2 == 0


@devices
@pytest.mark.parametrize("impossible", [0, 3, 9])
def test_the_first_and_last_uniform_draw_the_first_and_last_candidate(device: str, impossible: int) -> None:
    logits = torch.zeros(10, device=device)
    logits[:impossible], logits[10 - impossible :] = -torch.inf, -torch.inf
    logits[impossible % 9] = 0.0
    possible = logits.isfinite().nonzero().flatten()
    ends = draw(logits, torch.tensor([0.0, LAST]), SamplingConfig(0.7, 0))
    assert ends.tolist() == [possible[0], possible[-1]]


def test_top_k_keeps_the_likeliest_and_all_that_tie_with_the_last_of_them() -> None:
    logits, uniforms = torch.tensor([0.0, 2.0, 1.0, 1.0, -1.0]), torch.arange(500) / 500
    for top_k, kept in ((1, {1}), (2, {1, 2, 3}), (4, {0, 1, 2, 3}), (5, set(range(5))), (0, set(range(5)))):
        assert set(draw(logits, uniforms, SamplingConfig(1.0, top_k)).tolist()) == kept
    assert set(draw(logits, uniforms, SamplingConfig(1.0, -3)).tolist()) == set(range(5))


@pytest.mark.parametrize("temperature", [0.0, -1.0, 1e-30])
def test_no_temperature_is_the_most_likely_whatever_the_uniform(temperature: float) -> None:
    logits = noise(30)
    tokens = draw(logits, torch.tensor([0.0, 0.5, LAST]), SamplingConfig(temperature, 5))
    assert tokens.tolist() == [logits.argmax()] * 3


def test_draws_are_each_slots_own() -> None:
    configs = [SamplingConfig(0.8, 5), GREEDY, SamplingConfig(1.5, 0), SamplingConfig(0.3, 50), SamplingConfig(0.0, 3)]
    logits, uniforms = noise(5, 40), torch.tensor([0.9, 0.1, 0.97, 0.6, 0.99])
    logits[1] = torch.linspace(0, 1e-5, 40)  # the last is the most likely, if only just
    together = draw(logits, uniforms, *configs)
    alone = [draw(logits[i, None], uniforms[i, None], config) for i, config in enumerate(configs)]
    assert together.tolist() == [int(token) for token in alone]
    assert together[1] == 39


def test_a_slots_settings_can_change() -> None:
    draws, logits, uniform = Draws(2, CPU), noise(1, 40), torch.tensor([LAST])
    for config in (SamplingConfig(0.8, 5), GREEDY, SamplingConfig(2.0, 0)):
        draws.set(1, config)
        assert draws(logits, uniform, slots(1)) == draw(logits, uniform, config)


def test_the_table_of_uniforms_keeps_its_values_so_that_a_seed_keeps_its_voice() -> None:
    bits = (uniform_table(0, 0, 3, 5) * 2**24).long()
    assert bits.tolist() == [
        [193722, 4052523, 1869415, 9469306, 8428531],
        [4258438, 3272405, 11940510, 2202255, 9604198],
        [4688045, 2855082, 15935871, 7206042, 2766072],
    ]
    assert (uniform_table(1234, 70, 1, 3) * 2**24).long().tolist() == [[13364071, 9981289, 9364015]]


@given(st.integers(0, 2**63 - 1), st.integers(0, 10**6), st.integers(0, 40), st.integers(1, 30), st.integers(1, 40))
def test_any_stretch_of_the_table_reads_the_same_alone(
    seed: int, first: int, before: int, steps: int, streams: int
) -> None:
    whole = uniform_table(seed, first, before + steps, streams)
    assert whole.shape == (before + steps, streams)
    assert torch.equal(uniform_table(seed, first + before, steps, streams), whole[before:])
    assert whole.min() >= 0
    assert whole.max() <= LAST


def test_steps_streams_and_seeds_have_their_own_uniforms() -> None:
    tables = torch.stack([uniform_table(seed, 0, 50, 33) for seed in (0, 1, 2**40)])
    assert len(tables.unique()) > tables.numel() - 5
    assert abs(tables.mean().item() - 0.5) < 0.02

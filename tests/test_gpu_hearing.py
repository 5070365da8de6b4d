"""The encoder as CUDA graphs: any of the slots is heard as it is alone. Run by scripts/gpu-tests."""

import random

import pytest
import torch
from torch import Tensor

from dia2.backend import make_hearing
from dia2.codec.config import PUBLISHED
from dia2.codec.mimi import Mimi

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

FRAME, FRAMES = 1920, 40


def agreeing(found: Tensor, expected: Tensor) -> float:
    """The share of codes that are the same: libraries sum in another order for other batch sizes, and ties turn."""
    return float((found == expected).float().mean())


@pytest.mark.parametrize("slots", [1, 3, 16, 128])
def test_any_of_the_slots_in_any_order_are_heard_as_each_is_alone(slots: int) -> None:
    mimi, dice = Mimi.random(PUBLISHED, 32, "cuda", seed=1), random.Random(slots)
    hearing = make_hearing(mimi, slots)
    assert type(hearing).__name__ == "GraphHearing"
    pcm = 0.2 * torch.randn(slots, FRAMES * FRAME, generator=torch.Generator().manual_seed(2))
    codes: list[list[Tensor]] = [[] for _ in range(slots)]
    done = [0] * slots
    for slot in range(slots):
        hearing.begin(slot)
    while waiting := [slot for slot in range(slots) if done[slot] < FRAMES]:
        chosen = dice.sample(waiting, dice.randint(1, len(waiting)))
        if len(chosen) == 1:
            count = min(dice.randint(1, 20), FRAMES - done[chosen[0]])
            part = pcm[chosen[0], done[chosen[0]] * FRAME :][: count * FRAME]
            codes[chosen[0]].append(hearing.encode(chosen[0], part))
            done[chosen[0]] += count
            continue
        frames = torch.stack([pcm[slot, done[slot] * FRAME :][:FRAME] for slot in chosen])
        for slot, code in zip(chosen, hearing.encode_together(chosen, frames), strict=True):
            codes[slot].append(code[:, None])
            done[slot] += 1
    for slot in dice.sample(range(slots), min(slots, 8)):
        assert agreeing(torch.cat(codes[slot], dim=1), mimi.encode(pcm[slot : slot + 1])[0]) > 0.98


def test_a_new_recording_hears_nothing_of_the_one_before() -> None:
    mimi = Mimi.random(PUBLISHED, 32, "cuda", seed=1)
    ear = make_hearing(mimi, 2).slot(1)
    pcm = 0.2 * torch.randn(2, 5 * FRAME, generator=torch.Generator().manual_seed(3))
    ear.begin()
    ear.encode(pcm[0])
    ear.begin()
    assert agreeing(ear.encode(pcm[1]), mimi.encode(pcm[1:])[0]) > 0.98

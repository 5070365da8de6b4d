"""The codec's encoder against transformers' MimiModel, and against itself however a recording is cut."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import MimiModel

from dia2.codec.config import PUBLISHED
from dia2.codec.mimi import Mimi

SMALL = Path(__file__).parent / "goldens" / "published-like" / "checkpoint" / "mimi"  # 8 codebooks of 64, window 12
FRAME = 1920


@pytest.fixture(scope="module")
def small() -> Mimi:
    return Mimi.from_folder(SMALL, 8, "cpu")


def recordings(samples: int, count: int = 1, seed: int = 0) -> Tensor:
    """Sounds that change as speech does: tones that glide, and noise of changing loudness."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(samples) / 24_000
    loud = torch.rand(count, samples // 960 + 2, generator=generator).repeat_interleave(960, dim=1)[:, :samples]
    tones = torch.sin(2 * torch.pi * (120 + 80 * torch.rand(count, 1, generator=generator)) * time * (1 + time / 9))
    return loud * (0.4 * tones + 0.05 * torch.randn(count, samples, generator=generator))


@torch.no_grad()
def reference(pcm: Tensor) -> Tensor:
    return MimiModel.from_pretrained(SMALL).eval().encode(pcm[:, None], num_quantizers=8).audio_codes


@pytest.mark.parametrize("samples", [1, 1919, FRAME, FRAME + 1, 3 * FRAME, 40 * FRAME + 960, 30 * FRAME - 1])
def test_its_codes_are_those_of_transformers_also_where_a_recording_ends_within_a_frame(small, samples) -> None:
    pcm = recordings(samples)
    assert torch.equal(small.encode(pcm), reference(pcm))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 3))
def test_however_whole_frames_are_cut_into_calls_the_codes_are_the_same(cuts: list[int], seed: int) -> None:
    mimi = Mimi.from_folder(SMALL, 8, "cpu")
    pcm, state = recordings(sum(cuts) * FRAME, seed=seed), mimi.hearing()
    codes = [mimi.encode(part, state) for part in pcm.split([cut * FRAME for cut in cuts], dim=1)]
    assert torch.equal(torch.cat(codes, dim=2), mimi.encode(pcm))


def test_slots_are_encoded_in_any_company(small: Mimi) -> None:
    pcm, state = recordings(12 * FRAME, count=3), small.hearing(5)
    slots, heard = [4, 0, 2], [[], [], []]
    left = [0, 0, 0]
    for turn in range(36):
        who = [one for one in range(3) if left[one] < 12 and (turn + one) % (one + 1) == 0]
        if not who:
            continue
        frames = torch.stack([pcm[one, left[one] * FRAME :][:FRAME] for one in who])
        codes = small.encode(frames, state, torch.tensor([slots[one] for one in who]))
        for one, code in zip(who, codes, strict=True):
            heard[one].append(code)
            left[one] += 1
    assert left == [12, 12, 12]
    for one in range(3):
        assert torch.equal(torch.cat(heard[one], dim=1), small.encode(pcm[one : one + 1])[0])


def test_a_slot_that_was_reset_hears_a_new_recording(small: Mimi) -> None:
    pcm, state = recordings(6 * FRAME, count=2), small.hearing()
    small.encode(pcm[:1], state)
    assert torch.equal(small.encode(pcm[1:], state.reset(0)), small.encode(pcm[1:]))


def test_a_random_encoder_of_the_published_shape_gives_codes_of_many_kinds() -> None:
    mimi = Mimi.random(replace(PUBLISHED, num_hidden_layers=2), 32, "cpu", seed=3)
    codes = mimi.encode(recordings(8 * FRAME))
    assert codes.shape == (1, 32, 8)
    assert codes.unique().numel() > 100


@pytest.mark.parametrize("shape", [(), (1920,), (0, 1920), (1, 0), (1, 1, 1920)])
def test_sound_of_another_shape_is_refused(small: Mimi, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \[recordings, samples\]"):
        small.encode(torch.zeros(shape))


def test_sound_is_float32(small: Mimi) -> None:
    with pytest.raises(ValueError, match=r"torch\.int16, expected torch\.float32"):
        small.encode(torch.zeros(1, 1920, dtype=torch.int16))

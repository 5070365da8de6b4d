"""The codec of many slots: any of them at a time sounds as each does alone, and goes back as if it had not gone on."""

import random
from functools import cache

import pytest
import torch
from conftest import GOLDENS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dia2.codec.config import PUBLISHED
from dia2.codec.decoder import MimiDecoder
from dia2.codec.frames import BACK_FRAMES, FrameCodec
from dia2.codec.mimi import Mimi
from dia2.codec.state import CodecState

SMALL = GOLDENS / "published-like" / "checkpoint" / "mimi"
TOLERANCE = 1e-5


@cache
def small_codec() -> Mimi:
    return Mimi.from_folder(SMALL, 8, "cpu")


@pytest.fixture
def small() -> Mimi:
    return small_codec()


def draw_codes(mimi: Mimi, frames: int, slots: int = 1, seed: int = 0) -> Tensor:
    shape = (slots, mimi.codebooks, frames)
    return torch.randint(mimi.config.codebook_size, shape, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("slots", [1, 2, 4, 8, 16, 32])
def test_any_of_the_slots_in_any_order_sound_as_each_does_alone(small: Mimi, slots: int) -> None:
    dice, codec, frames = random.Random(slots), FrameCodec(small, slots), 30
    codes, done = draw_codes(small, frames, slots), [0] * slots
    heard = torch.zeros(slots, frames, small.frame_samples)
    while waiting := [slot for slot in range(slots) if done[slot] < frames]:
        chosen = dice.sample(waiting, dice.randint(1, len(waiting)))
        pcm = codec.submit(chosen, torch.stack([codes[slot, :, done[slot], None] for slot in chosen])).pcm()
        assert pcm.shape == (len(chosen), small.frame_samples)
        for slot, sound in zip(chosen, pcm, strict=True):
            heard[slot, done[slot]] = sound
            done[slot] += 1
    close(heard.flatten(1), small.decode(codes))


def test_slots_that_are_not_decoded_stay_as_they_are(small: Mimi) -> None:
    codec, codes = FrameCodec(small, 3), draw_codes(small, 5, slots=3)
    for frame in range(5):
        codec.submit([0, 1, 2], codes[:, :, frame, None])
    before = codec.saved(1)
    codec.submit([2, 0], codes[:2, :, :1])
    assert same(codec.saved(1), before)


def same(one: CodecState, other: CodecState) -> bool:
    tensors = ((s.position, s.filled, s.keys, s.values, s.log) for s in (one, other))
    return all(torch.equal(a, b) for a, b in zip(*tensors, strict=True))


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 60)), min_size=1, max_size=5), st.integers(0, 9))
def test_going_back_is_as_if_it_had_not_gone_on(moves: list[tuple[int, int]], seed: int) -> None:
    mimi = small_codec()
    codec, kept = FrameCodec(mimi, 2), list[Tensor]()
    codes = draw_codes(mimi, sum(on for on, _ in moves), seed=seed)
    other, at = draw_codes(mimi, 1, seed=99), 0
    for on, back in moves:
        for frame in codes[0, :, at : at + on].T:
            codec.submit([1], frame[None, :, None])
            kept.append(frame)
        codec.submit([0], other)
        at += on
        back = min(back, codec.most_back(1))
        codec.go_back(1, back)
        del kept[len(kept) - back :]
    sound = codec.submit([1], other).pcm()
    whole = torch.cat([torch.stack([*kept], dim=1)[None], other], dim=2) if kept else other
    close(sound, mimi.decode(whole)[:, -mimi.frame_samples :])


def test_a_slot_goes_back_as_far_as_its_frames_were_decoded_one_by_one(small: Mimi) -> None:
    codec, codes = FrameCodec(small, 2), draw_codes(small, 200)
    codec.hear(1, codes[0, :, :50])
    assert codec.most_back(1) == 0
    for frame in range(50, 200):
        codec.submit([1], codes[:, :, frame, None])
    assert codec.most_back(1) == BACK_FRAMES
    codec.go_back(1, 90)
    assert codec.most_back(1) == BACK_FRAMES - 90
    close(codec.submit([1], codes[:, :, 110, None]).pcm(), small.decode(codes)[:, 110 * 1920 : 111 * 1920])
    with pytest.raises(ValueError, match="slot 1 cannot go back 8 frames, but at most 7"):
        codec.go_back(1, 8)
    for forget in (lambda: codec.reset(1), lambda: codec.restore(1, codec.saved(1)), lambda: codec.hear(1, codes[0])):
        codec.submit([1], codes[:, :, :1])
        forget()
        assert codec.most_back(1) == 0


def test_one_slots_state_is_put_into_another_and_goes_on_alike(small: Mimi) -> None:
    codec, codes = FrameCodec(small, 3), draw_codes(small, 80)
    for frame in range(70):
        codec.submit([2], codes[:, :, frame, None])
    codec.restore(0, codec.saved(2))
    for frame in range(70, 80):
        both = codec.submit([0, 2], codes[:, :, frame, None].expand(2, -1, -1)).pcm()
        close(both[0], both[1])


def test_one_conversations_view_is_its_slot(small: Mimi) -> None:
    codec, codes = FrameCodec(small, 2), draw_codes(small, 6)
    view, expected = codec.slot(1), small.decode(codes)[0].view(6, -1)
    view.hear(codes[0, :, :2])
    saved = view.saved()
    for again in range(2):
        close(view.submit(codes[0, :, 2:3]).pcm(), expected[2])
        close(view.submit(codes[0, :, 3:4]).pcm(), expected[3])
        assert view.most_back == 2
        view.go_back(1)
        close(view.submit(codes[0, :, 3:4]).pcm(), expected[3])
        if not again:
            view.restore(saved)
    view.reset()
    close(view.submit(codes[0, :, :1]).pcm(), expected[0])
    assert codec.state.position.tolist() == [0, 2]


def test_a_slot_that_is_silent_already_is_not_reset_again(small: Mimi, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, codes, resets = FrameCodec(small, 2), draw_codes(small, 3), []
    reset = codec.state.reset
    monkeypatch.setattr(codec.state, "reset", lambda slot: resets.append(slot) or reset(slot))
    codec.reset(0)
    assert resets == []
    for use in (lambda: codec.submit([0], codes[:, :, :1]), lambda: codec.hear(0, codes[0]), lambda: None):
        use()
        codec.reset(0)
    assert resets == [0, 0]
    saved = codec.saved(1)
    codec.restore(0, saved)
    codec.reset(0)
    assert resets == [0, 0, 0]


def test_the_published_codec_remembers_128_conversations_in_less_than_3_gb() -> None:
    with torch.device("meta"):
        shape = MimiDecoder(PUBLISHED, 32).state_shape()
        state = CodecState(shape, 128, torch.device("meta"), BACK_FRAMES)
    assert 2e9 < state.bytes < 3e9


def test_frames_that_follow_each_other_are_decoded_at_once(small: Mimi) -> None:
    codec, codes = FrameCodec(small, 2), draw_codes(small, 70)
    codec.submit([1], codes[:, :, :1])
    sound = codec.submit_run(1, codes[0, :, 1:69]).pcm()
    expected = small.decode(codes)[0].view(70, -1)
    close(sound, expected[1:69])
    assert codec.most_back(1) == 0
    close(codec.submit([1], codes[:, :, 69:]).pcm()[0], expected[69])


@pytest.mark.parametrize("count", [1, 3, 4, 5, 30, 90])
def test_what_is_heard_without_sound_leaves_a_slot_where_decoding_it_does(small: Mimi, count: int) -> None:
    codec, codes = FrameCodec(small, 2), draw_codes(small, count + 3)
    for frame in (0, 1):
        codec.submit([1], codes[:, :, frame, None])
    codec.hear(1, codes[0, :, 2:-1])
    close(codec.submit([1], codes[:, :, -1:]).pcm()[0], small.decode(codes)[0, -1920:])


def test_the_convolutions_hear_as_far_back_as_their_kernels_say(small: Mimi) -> None:
    """One frame less, and what they remembered before the lead-in would be heard."""
    codes = draw_codes(small, small.decoder.lead_in + 1)

    def sound(before: float, frames: int) -> Tensor:
        state = small.state(1)
        for name, part in state.shape.parts(state.log[0]).items():
            part.fill_(0.0 if name.startswith("upsample") else before)
        small.decode(codes[:, :, :frames], state)
        return small.decode(codes[:, :, -1:], state)

    assert torch.equal(sound(0.0, small.decoder.lead_in), sound(9.0, small.decoder.lead_in))
    assert not torch.equal(sound(0.0, small.decoder.lead_in - 1), sound(9.0, small.decoder.lead_in - 1))


def test_a_slot_that_has_heard_a_warm_up_sounds_as_if_it_had_heard_all(small: Mimi) -> None:
    codec = FrameCodec(small, 2)
    codes = draw_codes(small, codec.warm_up + 60)
    assert codec.warm_up == min(250, small.decoder.reach)
    codec.hear(0, codes[0, :, :-1])
    codec.hear(1, codes[0, :, -1 - codec.warm_up : -1])
    close(codec.submit([0], codes[:, :, -1:]).pcm(), codec.submit([1], codes[:, :, -1:]).pcm())

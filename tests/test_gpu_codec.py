"""The codec as CUDA graphs: any of the slots sounds as it does alone, goes back, and shares the device with the model.

Run by scripts/gpu-tests.
"""

import random
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from dia2.backend import make_codec
from dia2.codec.config import PUBLISHED
from dia2.codec.frames import BACK_FRAMES, FrameCodec
from dia2.codec.mimi import Mimi
from dia2.cuda.codec import GraphCodec

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

FRAMES = 30
TOLERANCE = 1e-4  # of samples with a standard deviation of 0.1; libraries sum in another order for other batch sizes


@cache
def mimi() -> Mimi:
    return Mimi.random(PUBLISHED, 32, "cuda", seed=1)


def captured(slots: int = 1, kernels: str = "plain") -> FrameCodec:
    """A codec of graphs; if they are fused, then at all batch sizes that the fused kernels take, faster or not."""
    codec = make_codec(mimi(), slots, fuse=False)
    assert isinstance(codec, GraphCodec)
    if kernels != "plain":
        codec.passes |= codec.fused_passes(kernels)
        codec.state.reset()
    return codec


def draw_codes(frames: int, slots: int = 1) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(frames)
    return torch.randint(2048, (slots, 32, frames), generator=generator, device="cuda")


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected.cpu(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kernels", ["plain", "ieee", "tf32x3"])
@pytest.mark.parametrize("slots", [1, 2, 3, 8, 32, 128])
def test_any_of_the_slots_in_any_order_sound_as_each_does_alone(slots: int, kernels: str) -> None:
    dice, codec, codes = random.Random(slots), captured(slots, kernels), draw_codes(FRAMES, slots)
    done, heard = [0] * slots, torch.zeros(slots, FRAMES, 1920)
    while waiting := [slot for slot in range(slots) if done[slot] < FRAMES]:
        chosen = dice.sample(waiting, dice.randint(1, len(waiting)))
        pcm = codec.submit(chosen, torch.stack([codes[slot, :, done[slot], None] for slot in chosen])).pcm()
        for slot, sound in zip(chosen, pcm, strict=True):
            heard[slot, done[slot]] = sound
            done[slot] += 1
    for slot in dice.sample(range(slots), min(slots, 8)):
        close(heard[slot].flatten(), mimi().decode(codes[slot : slot + 1])[0])


def test_without_triton_the_codec_is_captured_with_plain_attention() -> None:
    codec, codes = GraphCodec(mimi(), 3), draw_codes(FRAMES, 2)
    sounds = [codec.submit([2, 0], codes[:, :, frame, None]).pcm() for frame in range(FRAMES)]
    close(torch.cat(sounds, dim=1), mimi().decode(codes))


def test_batches_that_are_submitted_before_the_first_is_heard_are_all_right() -> None:
    codec, codes = captured(4), draw_codes(FRAMES, 4)
    sounds = [codec.submit([0, 2, 3], codes[[0, 2, 3], :, frame, None]) for frame in range(FRAMES)]
    heard = torch.cat([sound.pcm() for sound in sounds], dim=1)
    for row, slot in enumerate((0, 2, 3)):
        close(heard[row], mimi().decode(codes[slot : slot + 1])[0])


@pytest.mark.parametrize("kernels", ["plain", "ieee"])
@pytest.mark.parametrize("back", [1, 17, BACK_FRAMES])
def test_going_back_is_as_if_it_had_not_gone_on(back: int, kernels: str) -> None:
    codec, codes = captured(3, kernels), draw_codes(120)
    for frame in range(119):
        codec.submit([1], codes[:, :, frame, None])
    codec.go_back(1, back)
    kept = torch.cat([codes[:, :, : 119 - back], codes[:, :, 119:]], dim=2)
    close(codec.submit([1], codes[:, :, 119:]).pcm()[0], mimi().decode(kept)[0, -1920:])


@pytest.mark.parametrize("kernels", ["plain", "ieee"])
@pytest.mark.parametrize("count", [1, 15, 16, 50])
def test_what_is_heard_again_leaves_a_slot_where_it_was(count: int, kernels: str) -> None:
    codec, codes = captured(3, kernels), draw_codes(60)
    codec.hear(2, codes[0, :, :count])
    saved = codec.saved(2)
    expected = mimi().decode(codes)[0, count * 1920 :][:1920]
    close(codec.submit([2], codes[:, :, count, None]).pcm()[0], expected)
    codec.restore(0, saved)
    close(codec.submit([0], codes[:, :, count, None]).pcm()[0], expected)
    codec.reset(2)
    close(codec.submit([2], codes[:, :, :1]).pcm()[0], mimi().decode(codes[:, :, :1])[0])


def test_more_slots_at_once_than_the_largest_graph_are_refused() -> None:
    codec = captured(2)
    with pytest.raises(ValueError, match="3 slots at once; at most 2 can be"):
        codec.submit([0, 1, 0], draw_codes(1, 3))


@pytest.mark.parametrize("kernels", ["ieee", "tf32x3"])
def test_fused_kernels_give_the_same_bits_every_time(kernels: str) -> None:
    codec, codes = captured(1, kernels), draw_codes(FRAMES)
    sounds = []
    for _ in range(20):
        codec.reset(0)
        sounds.append(torch.cat([codec.submit([0], codes[:, :, frame, None]).pcm() for frame in range(FRAMES)]))
    assert all(torch.equal(sound, sounds[0]) for sound in sounds)


def test_fused_kernels_prove_right_and_are_told_with_their_times() -> None:
    codec = make_codec(mimi(), 8)
    assert isinstance(codec, GraphCodec)
    assert "differ" not in codec.kind
    assert codec.kind.startswith("CUDA graphs, of fused kernels for ")
    assert not any(codec.state.position.tolist())
    close(codec.submit([5], draw_codes(1)).pcm()[0], mimi().decode(draw_codes(1))[0])


def test_a_codec_that_fused_kernels_do_not_take_keeps_plain_ones_and_says_why() -> None:
    wide = Mimi.random(replace(PUBLISHED, intermediate_size=4096, num_hidden_layers=1), 32, "cuda", seed=1)
    codec = make_codec(wide)
    assert codec.kind == "CUDA graphs of plain operations: a layer has 4096 channels, the kernels take up to 2048"


def test_on_a_card_that_has_too_little_for_fused_kernels_the_codec_keeps_plain_ones_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from triton.runtime.errors import OutOfResources  # a GPU's torch brings it; other machines only collect this

    def too_large(codec: GraphCodec, precision: str = "") -> dict[int, object]:
        raise OutOfResources(180_000, 101_376, "shared memory")

    monkeypatch.setattr(GraphCodec, "fused_passes", too_large)
    codec = make_codec(mimi())
    assert codec.kind.startswith("CUDA graphs of plain operations: out of resource: shared memory, Required: 180000")
    close(codec.submit([0], draw_codes(1)).pcm()[0], mimi().decode(draw_codes(1))[0])

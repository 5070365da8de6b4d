"""A frame of the codec by its fused kernels is the frame that plain operations decode, and leaves the same memory."""

import math
from dataclasses import replace

import pytest
import torch
from tools import require
from torch import Tensor

require("triton")

from dia2.codec.config import PUBLISHED, MimiConfig
from dia2.codec.mimi import Mimi
from dia2.codec.state import CodecState
from dia2.cuda.codec import Trial
from dia2.cuda.fused_codec import FusedDecoder, obstacle_to_fusing
from dia2.cuda.kernels import codec_residual

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CODEBOOKS, SLOTS, BACK = 3, 5, 1
# Every kind of kernel, at sizes that are no powers of two: wide and narrow blocks, few and many lines, two key heads.
SMALL = replace(
    PUBLISHED,
    hidden_size=24,
    num_filters=12,
    upsampling_ratios=(3, 2),
    codebook_size=32,
    codebook_dim=8,
    num_quantizers=4,
    upsample_groups=24,
    num_hidden_layers=1,
    intermediate_size=40,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    sliding_window=70,
    num_residual_layers=2,
)


def decoders(config: MimiConfig, codebooks: int = CODEBOOKS) -> tuple[Mimi, CodecState, CodecState, FusedDecoder]:
    """A codec, the states that it and its fused twin work on, and the twin."""
    mimi = Mimi.random(config, codebooks, DEVICE, seed=1)
    plain, fused = mimi.state(SLOTS, BACK), mimi.state(SLOTS, BACK)
    return mimi, plain, fused, FusedDecoder(mimi.decoder, fused)


def draw(config: MimiConfig, rows: int, codebooks: int = CODEBOOKS) -> Tensor:
    return torch.randint(-1, config.codebook_size, (rows, codebooks, 1), device=DEVICE)


def compare(mimi: Mimi, plain: CodecState, fused: CodecState, decoder: FusedDecoder, rows: list[int]) -> None:
    """Decodes a frame of the slots both ways; sound and memory must be equal but for the order of sums."""
    slots = torch.tensor(rows, device=DEVICE)
    codes = draw(mimi.config, len(rows), mimi.codebooks)
    expected = mimi.decode(codes, plain, check=False, rows=slots)
    sound = torch.full_like(expected, float("nan"))
    decoder(codes, slots, sound)
    torch.testing.assert_close(sound, expected, rtol=0, atol=2e-5)
    for name in ("keys", "values", "log"):
        torch.testing.assert_close(getattr(fused, name), getattr(plain, name), rtol=1e-4, atol=2e-5, msg=name)
    assert torch.equal(fused.position, plain.position)
    assert torch.equal(fused.filled, plain.filled)


def test_frames_of_changing_slots_sound_as_plain_operations_make_them() -> None:
    torch.manual_seed(0)
    both = decoders(SMALL)
    for rows in ([3], [4, 1, 3, 0]):
        compare(*both, rows)


def test_a_window_that_is_full_and_a_ring_that_goes_round_are_seen_as_by_plain_attention() -> None:
    torch.manual_seed(0)
    mimi, plain, fused, decoder = decoders(SMALL)
    codes = torch.randint(SMALL.codebook_size, (SLOTS, CODEBOOKS, 80), device=DEVICE)
    mimi.decode(codes, plain)
    fused.copy_(plain)
    plain.copy_(plain.clone())  # one carry of the log counts in both
    fused.log.copy_(plain.log)
    assert int(plain.position[0]) > plain.capacity
    compare(mimi, plain, fused, decoder, [1, 4])


def test_a_slot_that_went_back_goes_on_as_if_nothing_had_been_decoded_since() -> None:
    torch.manual_seed(0)
    mimi, plain, fused, decoder = decoders(SMALL)
    for _ in range(BACK):
        compare(mimi, plain, fused, decoder, [2])
    for state in (plain, fused):
        state.go_back(2, BACK)
    compare(mimi, plain, fused, decoder, [2])


@pytest.fixture(autouse=True)
def narrow_blocks_are_one_kernel_and_wide_ones_two(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small codec has blocks of 24 and 12 channels."""
    if "published" not in request.node.name:
        monkeypatch.setattr(codec_residual, "WIDEST", 16)


@pytest.mark.slow  # some minutes in Triton's interpreter
@pytest.mark.timeout(600)
def test_the_published_shape_sounds_as_plain_operations_make_it() -> None:
    torch.manual_seed(0)
    both = decoders(replace(PUBLISHED, num_hidden_layers=1, codebook_size=64), 32)
    for rows in ([2], [4, 1, 0, 3])[: 2 if DEVICE.type == "cuda" else 1]:
        compare(*both, rows)


@pytest.mark.parametrize(
    ("difference", "fused_ms", "passed", "told"),
    [
        (2e-6, 0.22, True, "2: 0.22 ms, plain 0.86"),
        (2e-6, 0.97, False, "2: 0.97 ms, plain 0.86"),
        (3e-3, 0.22, False, "2: 0.22 ms, plain 0.86, samples differ by 3.0e-03"),
        (math.nan, 0.22, False, "2: 0.22 ms, plain 0.86, samples differ by nan"),
    ],
)
def test_fused_kernels_are_taken_where_they_are_right_and_faster(
    difference: float, fused_ms: float, passed: bool, told: str
) -> None:
    trial = Trial(2, difference, plain_ms=0.86, fused_ms=fused_ms)
    assert trial.passed is passed
    assert str(trial) == told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"upsample_groups": 12}, "upsample_groups is 12, the kernels need 24, the hidden_size"),
        ({"intermediate_size": 4096}, "a layer has 4096 channels, the kernels take up to 2048"),
        ({"sliding_window": 3000}, "sliding_window is 3000, the kernels take up to 1024"),
    ],
)
def test_a_codec_that_the_kernels_do_not_fit_is_told_why(changes: dict[str, int], told: str) -> None:
    mimi = Mimi.random(replace(SMALL, **changes), CODEBOOKS, "cpu", seed=1)
    assert obstacle_to_fusing(mimi.config, mimi.state(1, back=1)) == told


def test_a_state_that_cannot_go_back_is_refused() -> None:
    mimi = Mimi.random(SMALL, CODEBOOKS, "cpu", seed=1)
    with pytest.raises(ValueError, match="the state keeps one carry"):
        FusedDecoder(mimi.decoder, mimi.state(1))

"""The delayed grid: delaying and aligning undo each other, and a frame is complete when its last codebook is."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dia2.model.delays import aligned, blank, complete_frames, delay_frames

BOS = 99
delays = st.lists(st.integers(0, 6), min_size=1, max_size=5).map(tuple)


def numbered(codebooks: int, frames: int) -> Tensor:
    """Frames [C, frames] of which no two codes are the same."""
    return torch.arange(codebooks * frames).view(codebooks, frames) + 1000


def columns_of(delays: tuple[int, ...], steps: int) -> Tensor:
    return blank(1, steps, delays, BOS, torch.device("cpu"))[0]


def test_a_code_stands_in_its_frames_column_plus_its_codebooks_delay() -> None:
    columns = columns_of((1, 0, 3), 6)
    delay_frames(torch.tensor([[1, 2], [3, 4], [5, 6]]), (1, 0, 3), columns)
    assert columns.tolist() == [[BOS, 1, 2, BOS, BOS, BOS], [3, 4, BOS, BOS, BOS, BOS], [BOS, BOS, BOS, 5, 6, BOS]]


@given(delays, st.integers(0, 8), st.integers(0, 5))
def test_aligning_undoes_delaying(pattern: tuple[int, ...], count: int, start: int) -> None:
    frames, columns = numbered(len(pattern), count), columns_of(pattern, start + count + max(pattern))
    delay_frames(frames, pattern, columns, start)
    assert torch.equal(aligned(columns, pattern, start, start + count), frames)
    assert (columns == BOS).sum() == columns.numel() - frames.numel()


@given(delays, st.integers(1, 20))
def test_delaying_undoes_aligning(pattern: tuple[int, ...], steps: int) -> None:
    columns = numbered(len(pattern), steps)
    frames = aligned(columns, pattern, 0, complete_frames(steps, pattern))
    again = columns.clone()
    delay_frames(frames, pattern, again)
    assert torch.equal(again, columns)


@given(delays, st.integers(1, 20), st.integers(0, 20))
def test_frames_that_do_not_fit_are_written_as_far_as_they_do(pattern: tuple[int, ...], steps: int, start: int) -> None:
    frames = numbered(len(pattern), 8)
    short, long = columns_of(pattern, steps), columns_of(pattern, 60)
    delay_frames(frames, pattern, short, start)
    delay_frames(frames, pattern, long, start)
    assert torch.equal(short, long[:, :steps])


@given(delays, st.integers(0, 20))
def test_complete_frames_are_those_of_which_every_column_is_known(pattern: tuple[int, ...], known: int) -> None:
    columns = columns_of(pattern, 60)
    delay_frames(numbered(len(pattern), 40), pattern, columns)
    columns[:, known:] = -1
    whole = (aligned(columns, pattern, 0, 40) >= 0).all(dim=0)
    assert complete_frames(known, pattern) == whole.sum()
    assert whole[: complete_frames(known, pattern)].all()


def test_slots_are_aligned_and_delayed_alike() -> None:
    pattern, frames = (0, 2), torch.stack([numbered(2, 4), numbered(2, 4) + 500])
    columns = blank(2, 6, pattern, BOS, torch.device("cpu"))
    delay_frames(frames, pattern, columns)
    assert torch.equal(aligned(columns, pattern, 1, 4), frames[..., 1:])

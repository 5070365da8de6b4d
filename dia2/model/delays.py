"""The delayed grid: columns that the model reads <-> frames that the codec plays.

Codebook k of frame f stands in column f + delay_k. So a column holds codebooks of different frames, and a frame is
complete once the column of its most delayed codebook is known. In the columns before its delay, a codebook has no frame
and reads BOS. Example with delays (0, 2), b for BOS and k.f for codebook k of frame f:

    column      0    1    2    3    4
    codebook 0  0.0  0.1  0.2  0.3  0.4
    codebook 1  b    b    1.0  1.1  1.2       frame 2 is complete with column 4
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def complete_frames(columns: int, delays: tuple[int, ...]) -> int:
    """How many frames, from frame 0 on, are complete when the first `columns` columns are known."""
    return max(0, columns - max(delays))


def aligned(columns: Tensor, delays: Sequence[int] | Tensor, start: int, stop: int) -> Tensor:
    """columns [..., C, steps] -> frames start..stop - 1, [..., C, stop - start], by one gather."""
    delays = torch.as_tensor(delays, device=columns.device)
    where = delays[:, None] + torch.arange(start, stop, device=columns.device)
    return columns.gather(-1, where.expand(*columns.shape[:-1], -1))


def frame_of_each(columns: Tensor, delays: Tensor, slots: Tensor, frames: Tensor) -> Tensor:
    """One frame of each of n slots, by one gather: columns [slots, C, steps] -> [n, C].

    delays: int64 [C]. slots, frames: int64 [n], which slot, and the number of its frame, counted from its column 0.
    """
    codebooks = torch.arange(len(delays), device=columns.device)
    return columns[slots[:, None], codebooks, frames[:, None] + delays]


def delay_frames(frames: Tensor, delays: tuple[int, ...], columns: Tensor, start: int = 0) -> None:
    """Writes frames [..., C, n], the first of them frame `start`, into columns [..., C, steps], as far as they fit."""
    steps, count = columns.shape[-1], frames.shape[-1]
    for k, d in enumerate(delays):
        fits = max(0, min(count, steps - start - d))
        columns[..., k, start + d : start + d + fits] = frames[..., k, :fits]


def blank(slots: int, columns: int, delays: tuple[int, ...], bos: int, device: torch.device) -> Tensor:
    """Columns of conversations that have not begun, int64 [slots, C, columns]: all BOS.

    Columns before a codebook's delay keep their BOS; all others are written before they are read.
    """
    return torch.full((slots, len(delays), columns), bos, dtype=torch.int64, device=device)


def column_of_each(columns: Tensor, slots: Tensor, numbers: Tensor) -> Tensor:
    """One column of each of n slots: columns [slots, C, steps] -> [n, C]. slots, numbers: int64 [n]."""
    return columns[slots, :, numbers]


def token_rows(text: Tensor, codes: Tensor, blanked_text: Tensor | None) -> Tensor:
    """What the backbone reads: text [n, steps, 2] and codes [n, steps, C] -> tokens [n, branches, steps, 2 + C].

    blanked_text: int64 [2], the two text tokens of the unconditional branch; None gives the conditional branch alone.
    """
    conditional = torch.cat([text, codes], dim=-1)
    if blanked_text is None:
        return conditional[:, None]
    return torch.stack([conditional, torch.cat([blanked_text.expand_as(text), codes], dim=-1)], dim=1)

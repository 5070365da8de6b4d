"""The delayed grid: columns that the model reads <-> frames that the codec plays.

Codebook k of frame f stands in column f + delay_k, so a column holds codebooks of different frames, and a frame is
complete once the column of its most delayed codebook is. Columns before a codebook's delay have no frame to hold:
they read BOS.
"""

import torch
from torch import Tensor


def complete_frames(columns: int, delays: tuple[int, ...]) -> int:
    """How many frames, from frame 0 on, are complete when the first `columns` columns are known."""
    return max(0, columns - max(delays))


def aligned(columns: Tensor, delays: tuple[int, ...], start: int, stop: int) -> Tensor:
    """columns [..., C, steps] -> frames start..stop - 1, [..., C, stop - start]."""
    return torch.stack([columns[..., k, start + d : stop + d] for k, d in enumerate(delays)], dim=-2)


def delay_frames(frames: Tensor, delays: tuple[int, ...], columns: Tensor, start: int = 0) -> None:
    """Writes frames [..., C, n], the first of them frame `start`, into columns [..., C, steps], as far as they fit."""
    steps, count = columns.shape[-1], frames.shape[-1]
    for k, d in enumerate(delays):
        fits = max(0, min(count, steps - start - d))
        columns[..., k, start + d : start + d + fits] = frames[..., k, :fits]


def blank(slots: int, columns: int, delays: tuple[int, ...], bos: int, device: torch.device) -> Tensor:
    """Columns of a conversation that has not begun, int64 [slots, C, columns]: all BOS.

    A column below its codebook's delay keeps its BOS for good; the others are written before they are read.
    """
    return torch.full((slots, len(delays), columns), bos, dtype=torch.int64, device=device)


def column_of(columns: Tensor, numbers: Tensor) -> Tensor:
    """One column of each grid: number numbers[n] of columns [n, C, steps] -> [n, C]."""
    return columns.gather(2, numbers[:, None, None].expand(-1, columns.shape[1], 1)).squeeze(2)


def token_rows(text: Tensor, codes: Tensor, blanked_text: Tensor | None) -> Tensor:
    """What the backbone reads: text [n, steps, 2] and codes [n, steps, C] -> tokens [n, branches, steps, 2 + C].

    blanked_text: int64 [2], the two text tokens of the unconditional branch; None gives the conditional branch alone.
    """
    conditional = torch.cat([text, codes], dim=-1)
    if blanked_text is None:
        return conditional[:, None]
    return torch.stack([conditional, torch.cat([blanked_text.expand_as(text), codes], dim=-1)], dim=1)

"""The codec's attention for few rows: the window of a slot is divided among programs, which read it at once.

One program for a row and head (ring.py) goes through 10 s of keys and values block by block, and with one row most of
the GPU waits for eight programs. Here each program has one block (*split*), which it loads before the queries are
there. It keeps its largest score, the sum of its weights and its weighted sum of values, and the product behind
attention puts the splits together (codec_layers.py). All in float32, as the codec is.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from dia2.cuda.kernels.codec_front import Memory
from dia2.cuda.kernels.launch import launch, launch_options, next_power_of_2, wait_for_previous

_BLOCK = 32  # positions of one split


@dataclass(frozen=True)
class Parts:
    """What the splits of one attention found, float32.

    mixed: [n, heads, splits, 2, width], weighted sums of values. best, total: [n, heads, splits, 2], the largest score
    and the sum of weights, each of which is exp(score - best).
    """

    mixed: Tensor
    best: Tensor
    total: Tensor


def splits_of(window: int) -> int:
    """How many splits cover a window, without the query's own position."""
    return max(1, -(-(window - 1) // _BLOCK))


@triton.jit
def _ring_splits_kernel(
    qkv_ptr,
    turns_ptr,
    slots_ptr,
    position_ptr,
    filled_ptr,
    keys_ptr,
    values_ptr,
    mixed_ptr,
    best_ptr,
    total_ptr,
    capacity,
    window,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    HALF: tl.constexpr,
    BH: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """Two new positions of a row's slot, for one query head and one block of the past. Programs: (row, head, split).

    The last split also has the new positions themselves, and writes their keys and values into the ring.
    """
    DIM: tl.constexpr = 2 * HALF
    WIDTH: tl.constexpr = (HEADS + 2 * GROUPS) * DIM
    row, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group = head // (HEADS // GROUPS)
    s = tl.arange(0, 2)
    d = tl.arange(0, BH)
    slot = tl.load(slots_ptr + row)
    position, filled = tl.load(position_ptr + slot), tl.load(filled_ptr + slot)
    ring = (slot * GROUPS + group) * capacity
    # Nobody writes positions, or past keys and values, during a pass, so their block is loaded before the wait.
    p = tl.maximum(position - window + 1, position - filled) + split * BLOCK + tl.arange(0, BLOCK)
    there = (p < position)[:, None] & (d < HALF)[None, :]
    entry = (ring + p % capacity)[:, None] * DIM + 2 * d[None, :]
    past_k1, past_k2 = tl.load(keys_ptr + entry, there, 0.0), tl.load(keys_ptr + entry + 1, there, 0.0)
    past_v1, past_v2 = tl.load(values_ptr + entry, there, 0.0), tl.load(values_ptr + entry + 1, there, 0.0)
    wait_for_previous(PDL)

    live = (s >= 0)[:, None] & (d < HALF)[None, :]
    turn = turns_ptr + ((row * 2 + s)[:, None] * HALF + d[None, :]) * 2
    cos, sin = tl.load(turn, live, 0.0), tl.load(turn + 1, live, 0.0)
    at = qkv_ptr + (row * 2 + s)[:, None] * WIDTH + 2 * d[None, :]
    a, b = tl.load(at + head * DIM, live, 0.0), tl.load(at + head * DIM + 1, live, 0.0)
    q1, q2 = a * cos - b * sin, b * cos + a * sin
    key_at = at + (HEADS + group) * DIM
    a, b = tl.load(key_at, live, 0.0), tl.load(key_at + 1, live, 0.0)
    k1, k2 = a * cos - b * sin, b * cos + a * sin
    value_at = at + (HEADS + GROUPS + group) * DIM
    v1, v2 = tl.load(value_at, live, 0.0), tl.load(value_at + 1, live, 0.0)

    past = tl.sum(q1[:, None, :] * past_k1[None, :, :] + q2[:, None, :] * past_k2[None, :, :], axis=2)
    seen = (p < position)[None, :] & (p[None, :] > (position + s)[:, None] - window)
    past = tl.where(seen, past, float("-inf"))
    new = tl.sum(q1[:, None, :] * k1[None, :, :] + q2[:, None, :] * k2[None, :, :], axis=2)
    is_last = s * 0 + split == SPLITS - 1
    new = tl.where((s[None, :] <= s[:, None]) & is_last[:, None], new, float("-inf"))
    best = tl.maximum(tl.max(past, axis=1), tl.max(new, axis=1))
    safe = tl.where(best > float("-inf"), best, 0.0)  # a split may see nothing
    past, new = tl.exp(past - safe[:, None]), tl.exp(new - safe[:, None])
    mixed1 = tl.sum(past[:, :, None] * past_v1[None, :, :], axis=1) + tl.sum(new[:, :, None] * v1[None, :, :], axis=1)
    mixed2 = tl.sum(past[:, :, None] * past_v2[None, :, :], axis=1) + tl.sum(new[:, :, None] * v2[None, :, :], axis=1)

    part = ((row * HEADS + head) * SPLITS + split) * 2 + s
    tl.store(best_ptr + part, best)
    tl.store(total_ptr + part, tl.sum(past, axis=1) + tl.sum(new, axis=1))
    into = mixed_ptr + part[:, None] * DIM + 2 * d[None, :]
    tl.store(into, mixed1, live)
    tl.store(into + 1, mixed2, live)
    # What these entries held is out of every window, so no other program reads them. One head of a group writes.
    first = live & (is_last & (s * 0 + head % (HEADS // GROUPS) == 0))[:, None]
    entry = (ring + (position + s) % capacity)[:, None] * DIM + 2 * d[None, :]
    tl.store(keys_ptr + entry, k1, first)
    tl.store(keys_ptr + entry + 1, k2, first)
    tl.store(values_ptr + entry, v1, first)
    tl.store(values_ptr + entry + 1, v2, first)


def attend_ring_in_splits(
    qkv: Tensor, turns: Tensor, keys: Tensor, values: Tensor, memory: Memory, window: int, heads: int
) -> Parts:
    """What `attend_ring` of dia2/codec/ring.py does for one frame, but for the sum over splits.

    qkv: [2 n, (heads + 2 groups) * width]. turns: of `front`. keys, values: one layer's, of all slots.
    """
    _, groups, capacity, width = keys.shape
    shape = (len(memory.slots), heads, splits_of(window), 2)
    parts = Parts(*(torch.empty(*shape, *more, device=qkv.device) for more in ((width,), (), ())))
    launch(
        _ring_splits_kernel,
        shape[:3],
        qkv,
        turns,
        memory.slots,
        memory.state.position,
        memory.state.filled,
        keys,
        values,
        parts.mixed,
        parts.best,
        parts.total,
        capacity,
        window,
        HEADS=heads,
        GROUPS=groups,
        HALF=width // 2,
        BH=next_power_of_2(width // 2),
        SPLITS=shape[2],
        BLOCK=_BLOCK,
        num_warps=4,
        **launch_options(),
    )
    return parts

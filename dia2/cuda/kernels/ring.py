"""The codec's attention over its rings in one kernel: rotation, writing of the new keys and values, and the sum.

The plain way (dia2/codec/ring.py) copies the rings of the slots that are decoded, 15 MB of each, before it reads them,
and takes some fifteen kernels a layer. Here a program for each slot and head reads the part of the ring that is in the
window where it lies. All in float32, as the codec is.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dia2.codec.ring import RingView
from dia2.cuda.kernels.launch import FUSED, launch, next_power_of_2


@triton.jit
def _ring_kernel(
    qkv_ptr,
    rotation_ptr,
    slots_ptr,
    position_ptr,
    filled_ptr,
    keys_ptr,
    values_ptr,
    out_ptr,
    capacity,
    window,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    STEPS: tl.constexpr,
    LINES: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """STEPS new positions of a row's slot, for one query head. Programs: (row, head).

    Halves are the first and the second parts of the pairs that RoPE turns, which lie beside each other.
    """
    DIM: tl.constexpr = 2 * HALF
    WIDTH: tl.constexpr = (HEADS + 2 * GROUPS) * DIM
    row, head = tl.program_id(0), tl.program_id(1)
    group = head // (HEADS // GROUPS)
    s = tl.arange(0, LINES)
    d = tl.arange(0, HALF)
    live = (s < STEPS)[:, None] & (d >= 0)[None, :]
    turn = rotation_ptr + ((row * STEPS + s)[:, None] * HALF + d[None, :]) * 2
    cos, sin = tl.load(turn, mask=live, other=0.0), tl.load(turn + 1, mask=live, other=0.0)
    at = qkv_ptr + (row * STEPS + s)[:, None] * WIDTH + 2 * d[None, :]
    a, b = tl.load(at + head * DIM, mask=live, other=0.0), tl.load(at + head * DIM + 1, mask=live, other=0.0)
    q1, q2 = a * cos - b * sin, b * cos + a * sin
    key_at = at + (HEADS + group) * DIM
    a, b = tl.load(key_at, mask=live, other=0.0), tl.load(key_at + 1, mask=live, other=0.0)
    k1, k2 = a * cos - b * sin, b * cos + a * sin
    value_at = at + (HEADS + GROUPS + group) * DIM
    v1, v2 = tl.load(value_at, mask=live, other=0.0), tl.load(value_at + 1, mask=live, other=0.0)
    position, filled = tl.load(position_ptr + row), tl.load(filled_ptr + row)
    ring = (tl.load(slots_ptr + row) * GROUPS + group) * capacity

    # What was there before this pass, a block of positions at a time.
    best = tl.full([LINES], float("-inf"), tl.float32)
    total = tl.zeros([LINES], tl.float32)
    mixed1, mixed2 = tl.zeros([LINES, HALF], tl.float32), tl.zeros([LINES, HALF], tl.float32)
    start = tl.maximum(position - window + 1, position - filled)
    while start < position:
        p = start + tl.arange(0, BLOCK)
        entry = (ring + p % capacity)[:, None] * DIM + 2 * d[None, :]
        there = (p < position)[:, None] & (d >= 0)[None, :]
        past1, past2 = (
            tl.load(keys_ptr + entry, mask=there, other=0.0),
            tl.load(keys_ptr + entry + 1, mask=there, other=0.0),
        )
        scores = tl.sum(q1[:, None, :] * past1[None, :, :] + q2[:, None, :] * past2[None, :, :], axis=2)
        seen = (p < position)[None, :] & (p[None, :] > (position + s)[:, None] - window)
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, axis=1))
        safe = tl.where(higher > float("-inf"), higher, 0.0)  # a block may be out of a later step's window
        weights, shrink = tl.exp(scores - safe[:, None]), tl.exp(best - safe)
        past1, past2 = (
            tl.load(values_ptr + entry, mask=there, other=0.0),
            tl.load(values_ptr + entry + 1, mask=there, other=0.0),
        )
        total = total * shrink + tl.sum(weights, axis=1)
        mixed1 = mixed1 * shrink[:, None] + tl.sum(weights[:, :, None] * past1[None, :, :], axis=1)
        mixed2 = mixed2 * shrink[:, None] + tl.sum(weights[:, :, None] * past2[None, :, :], axis=1)
        best = higher
        start += BLOCK

    # The new positions: each sees itself and those before it.
    scores = tl.sum(q1[:, None, :] * k1[None, :, :] + q2[:, None, :] * k2[None, :, :], axis=2)
    seen = (s[None, :] <= s[:, None]) & (s < STEPS)[None, :]
    scores = tl.where(seen, scores, float("-inf"))
    higher = tl.maximum(best, tl.max(scores, axis=1))
    weights, shrink = tl.exp(scores - higher[:, None]), tl.exp(best - higher)
    total = total * shrink + tl.sum(weights, axis=1)
    mixed1 = mixed1 * shrink[:, None] + tl.sum(weights[:, :, None] * v1[None, :, :], axis=1)
    mixed2 = mixed2 * shrink[:, None] + tl.sum(weights[:, :, None] * v2[None, :, :], axis=1)

    into = out_ptr + (row * STEPS + s)[:, None] * (HEADS * DIM) + head * DIM + 2 * d[None, :]
    tl.store(into, mixed1 / total[:, None], mask=live)
    tl.store(into + 1, mixed2 / total[:, None], mask=live)
    # What these entries held is out of every window, so no other program reads them. One head of a group writes.
    first = live & ((s * 0 + head % (HEADS // GROUPS))[:, None] == 0)
    entry = (ring + (position + s) % capacity)[:, None] * DIM + 2 * d[None, :]
    tl.store(keys_ptr + entry, k1, mask=first)
    tl.store(keys_ptr + entry + 1, k2, mask=first)
    tl.store(values_ptr + entry, v1, mask=first)
    tl.store(values_ptr + entry + 1, v2, mask=first)


def attend_ring_fused(qkv: Tensor, keys: Tensor, values: Tensor, view: RingView) -> Tensor:
    """What `attend_ring` of dia2/codec/ring.py does, in one kernel."""
    _, groups, capacity, width = keys.shape
    heads = qkv.shape[2] // width - 2 * groups
    out = torch.empty(*qkv.shape[:2], heads * width, device=qkv.device)
    launch(
        _ring_kernel,
        (len(qkv), heads),
        qkv,
        torch.view_as_real(view.rotation),
        view.slots,
        view.position,
        view.filled,
        keys,
        values,
        out,
        capacity,
        view.window,
        HEADS=heads,
        GROUPS=groups,
        STEPS=view.steps,
        LINES=next_power_of_2(view.steps),
        HALF=width // 2,
        BLOCK=32,
        num_warps=4,
        **FUSED,
    )
    return out

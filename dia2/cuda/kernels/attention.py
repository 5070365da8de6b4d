"""Attention of one new column in every row, in one kernel: norm, rotation, cache write, and the sum over all columns.

A conversation has one query but up to 1,500 columns of keys and values, so attention is a long read. It is divided
among programs by row and key head, and, where that gives too few of them to fill the GPU, by columns too (*splits*).
Each split keeps its largest score, the sum of its weights and the weighted sum of values; the split that is done last
combines them, as in any softmax that is computed in pieces.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from dia2.cuda.kernels.launch import STEP_FIELDS, launch, launch_options, next_power_of_2


@triton.jit
def turned(first, second, gain_ptr, d, cos, sin, eps, HALF: tl.constexpr, ROPE: tl.constexpr):
    """RMSNorm and rotation of heads [n, 2 HALF], given and returned as their two halves, float32 [n, HALF]."""
    dtype = gain_ptr.dtype.element_ty
    scale = tl.rsqrt((tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)) / (2 * HALF) + eps)[:, None]
    first = (first * scale * tl.load(gain_ptr + d).to(tl.float32)[None, :]).to(dtype).to(tl.float32)
    second = (second * scale * tl.load(gain_ptr + HALF + d).to(tl.float32)[None, :]).to(dtype).to(tl.float32)
    if ROPE:
        turned = first * cos - second * sin
        second = (second * cos + first * sin).to(dtype).to(tl.float32)
        first = turned.to(dtype).to(tl.float32)
    return first, second


@triton.jit
def place(table_ptr, head, t, seen, HEADS: tl.constexpr, DIM: tl.constexpr, COLUMNS: tl.constexpr, TABLE: tl.constexpr):
    """Where a head's column t lies in the cache, as an offset; the columns behind t in its block follow.

    With a table (TABLE), it names the slot's blocks, and a block has HEADS heads. Else each head has one block.
    """
    if TABLE:
        block = tl.load(table_ptr + t // COLUMNS, mask=seen, other=0).to(tl.int64)
        return ((block * HEADS + head) * COLUMNS + t % COLUMNS) * DIM
    return (head.to(tl.int64) * COLUMNS + t) * DIM


@triton.jit
def _cached(k_ptr, v_ptr, count, d, both, HALF: tl.constexpr, BLOCK: tl.constexpr):
    """The first `count` columns from the pointers on: both halves of the keys [BLOCK, HALF], values [BLOCK, 2 HALF]."""
    t = tl.arange(0, BLOCK)[:, None]
    k_at = k_ptr + t * (2 * HALF) + d[None, :]
    k1 = tl.load(k_at, mask=t < count, other=0.0, eviction_policy="evict_first")
    k2 = tl.load(k_at + HALF, mask=t < count, other=0.0, eviction_policy="evict_first")
    v_at = v_ptr + t * (2 * HALF) + both[None, :]
    return k1, k2, tl.load(v_at, mask=t < count, other=0.0, eviction_policy="evict_first")


@triton.jit
def _scores(q, k, LANES: tl.constexpr, GROUP: tl.constexpr):
    """q float32 [LANES, n], of values of k's dtype, and k [BLOCK, n] -> their products float32 [LANES, BLOCK]."""
    if LANES > GROUP:
        return tl.dot(q.to(k.dtype), tl.trans(k), input_precision="ieee")
    return tl.sum(q[:, None, :] * k.to(tl.float32)[None, :, :], axis=2)


@triton.jit
def _mix(weights, v, LANES: tl.constexpr, GROUP: tl.constexpr):
    """weights float32 [LANES, BLOCK] of v [BLOCK, n] -> float32 [LANES, n]; the matrix units take them in v's dtype."""
    if LANES > GROUP:
        return tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    return tl.sum(weights[:, :, None] * v.to(tl.float32)[None, :, :], axis=1)


@triton.jit(do_not_specialize=["stage"])
def _attention_kernel(
    qkv_ptr,
    q_norm_ptr,
    k_norm_ptr,
    cos_ptr,
    sin_ptr,
    k_ptr,
    v_ptr,
    step_ptr,
    table_ptr,
    out_ptr,
    part_ptr,
    count_ptr,
    stage,
    eps,
    FIELDS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TABLE_WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    KV: tl.constexpr,
    HALF: tl.constexpr,
    GROUP: tl.constexpr,
    LANES: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    STEPPED: tl.constexpr,
    ROPE: tl.constexpr,
    PDL: tl.constexpr,
):
    """One new column of every row: norm, rotation, cache write, attention. Programs: (row x KV head, split).

    A program has the query heads that share a KV head, GROUP at most, in LANES: 16 for the matrix units, or GROUP.

    With the step's fields (STEPPED), columns and fields were there before this step's first kernel ran: the first
    columns are loaded before the wait for the kernel ahead.

    The columns before the new one are cut into as many splits as are worth it, at most SPLITS; programs beyond that
    exit. The last split also takes the new column, straight from the projection, and writes it to the cache, so that
    no program reads what another one writes. The split that finishes last adds up the others', in their order.

    A row's keys and values lie in the blocks of its slot, COLUMNS columns in each: a multiple of BLOCK, or a whole
    context. A row that only fills up the batch reads no cached column and writes none.
    """
    DIM: tl.constexpr = 2 * HALF
    pair, split = tl.program_id(0), tl.program_id(1)
    row, kv = pair // KV, pair % KV
    if PDL:
        gdc_launch_dependents()
        if not STEPPED:
            gdc_wait()
    stored = DIM  # how much of the new key and value is written to the cache: all, or nothing
    head = row * KV + kv
    if STEPPED:  # where the column stands: the row's slot, position and cache index
        step = step_ptr + (row // 2) * FIELDS
        slot = tl.load(step + 5)
        stored = tl.where(slot >= 0, DIM, 0)
        table_ptr += tl.maximum(slot, 0) * TABLE_WIDTH
        head = row % 2 * KV + kv
        position = tl.load(step)
        index = tl.where(slot >= 0, tl.load(step + 1), 0).to(tl.int32)
    else:
        position = stage
        index = stage
    chunk = tl.cdiv(tl.cdiv(index, SPLITS), BLOCK) * BLOCK
    chunk = tl.maximum(chunk, BLOCK)
    splits = tl.maximum(tl.cdiv(index, chunk), 1)
    if split >= splits:
        return
    d = tl.arange(0, HALF)
    both = tl.arange(0, DIM)
    g = tl.arange(0, LANES)
    start, stop = split * chunk, tl.minimum((split + 1) * chunk, index)
    at = place(table_ptr, head, start, start < stop, 2 * KV, DIM, COLUMNS, STEPPED)
    k1, k2, v = _cached(k_ptr + at, v_ptr + at, stop - start, d, both, HALF, BLOCK)
    if PDL and STEPPED:
        gdc_wait()
    width: tl.constexpr = (HEADS + 2 * KV) * DIM
    ours: tl.constexpr = HEADS // KV
    cos = tl.zeros([1, HALF], tl.float32)
    sin = tl.zeros([1, HALF], tl.float32)
    if ROPE:
        cos = tl.load(cos_ptr + position * HALF + d)[None, :]
        sin = tl.load(sin_ptr + position * HALF + d)[None, :]
    q_at = qkv_ptr + row * width + (kv * ours + g)[:, None] * DIM + d[None, :]
    mine = (g < ours)[:, None]
    q1 = tl.load(q_at, mask=mine, other=0.0).to(tl.float32)
    q2 = tl.load(q_at + HALF, mask=mine, other=0.0).to(tl.float32)
    q1, q2 = turned(q1, q2, q_norm_ptr, d, cos, sin, eps, HALF, ROPE)

    best = tl.full([LANES], float("-inf"), tl.float32)
    total = tl.zeros([LANES], tl.float32)
    mixed = tl.zeros([LANES, DIM], tl.float32)
    while start < stop:
        seen = start + tl.arange(0, BLOCK) < stop
        start += BLOCK
        at = place(table_ptr, head, start, start < stop, 2 * KV, DIM, COLUMNS, STEPPED)
        next_k1, next_k2, next_v = _cached(k_ptr + at, v_ptr + at, stop - start, d, both, HALF, BLOCK)
        scores = tl.where(seen[None, :], _scores(q1, k1, LANES, GROUP) + _scores(q2, k2, LANES, GROUP), float("-inf"))
        higher = tl.maximum(best, tl.max(scores, axis=1))
        weights = tl.exp(scores - higher[:, None])
        shrink = tl.exp(best - higher)
        total = total * shrink + tl.sum(weights, axis=1)
        mixed = mixed * shrink[:, None] + _mix(weights, v, LANES, GROUP)
        best = higher
        k1, k2, v = next_k1, next_k2, next_v

    if split == splits - 1:
        one = tl.arange(0, 1)
        k_at = qkv_ptr + row * width + (HEADS + kv + one)[:, None] * DIM + d[None, :]
        new_k1, new_k2 = tl.load(k_at).to(tl.float32), tl.load(k_at + HALF).to(tl.float32)
        new_k1, new_k2 = turned(new_k1, new_k2, k_norm_ptr, d, cos, sin, eps, HALF, ROPE)
        v_new = tl.load(qkv_ptr + row * width + (HEADS + KV + kv) * DIM + both)
        into = place(table_ptr, head, index, True, 2 * KV, DIM, COLUMNS, STEPPED)
        new_k = k_ptr + into + one[:, None] * DIM + d[None, :]
        tl.store(new_k, new_k1.to(k_ptr.dtype.element_ty), mask=(d < stored)[None, :])
        tl.store(new_k + HALF, new_k2.to(k_ptr.dtype.element_ty), mask=(d < stored)[None, :])
        tl.store(v_ptr + into + both, v_new, mask=both < stored)
        score = tl.sum(q1 * new_k1 + q2 * new_k2, axis=1)
        higher = tl.maximum(best, score)
        weight, shrink = tl.exp(score - higher), tl.exp(best - higher)
        total = total * shrink + weight
        mixed = mixed * shrink[:, None] + weight[:, None] * v_new.to(tl.float32)[None, :]
        best = higher

    out_at = out_ptr + row * HEADS * DIM + (kv * ours + g)[:, None] * DIM + both[None, :]
    if splits == 1:
        tl.store(out_at, (mixed / total[:, None]).to(out_ptr.dtype.element_ty), mask=mine)
    else:
        # A part is [GROUP, DIM] sums, then [GROUP] maxima, then [GROUP] totals.
        size: tl.constexpr = GROUP * (DIM + 2)
        part = part_ptr + (pair * SPLITS + split) * size
        tl.store(part + g[:, None] * DIM + both[None, :], mixed, mask=(g < GROUP)[:, None])
        tl.store(part + GROUP * DIM + g, best, mask=g < GROUP)
        tl.store(part + GROUP * (DIM + 1) + g, total, mask=g < GROUP)
        tl.debug_barrier()  # every thread's part is written before one thread counts it in
        before = tl.atomic_add(count_ptr + pair, 1, sem="acq_rel", scope="gpu")
        if before == splits - 1:
            s = tl.arange(0, SPLITS)
            h = tl.arange(0, GROUP)
            parts = part_ptr + (pair * SPLITS + s) * size
            have = (s < splits)[:, None]
            best_of = tl.load(
                parts[:, None] + GROUP * DIM + h[None, :], mask=have, other=float("-inf"), cache_modifier=".cg"
            )
            totals = tl.load(
                parts[:, None] + GROUP * (DIM + 1) + h[None, :], mask=have, other=0.0, cache_modifier=".cg"
            )
            sums = tl.load(
                parts[:, None, None] + h[None, :, None] * DIM + both[None, None, :],
                mask=have[:, :, None],
                other=0.0,
                cache_modifier=".cg",
            )
            scale = tl.exp(best_of - tl.max(best_of, axis=0)[None, :])
            summed = tl.sum(sums * scale[:, :, None], axis=0) / tl.sum(totals * scale, axis=0)[:, None]
            into = out_ptr + row * HEADS * DIM + (kv * ours + h)[:, None] * DIM + both[None, :]
            tl.store(into, summed.to(out_ptr.dtype.element_ty), mask=(h < ours)[:, None])
            tl.store(count_ptr + pair, 0)


class Attention:
    """Attention of one new column a row over a cache, for rows of one shape; holds the scratch the splits need.

    splits: into how many parts the columns before the new one are cut at most. long: whether they can be more than a
    block of 16.
    """

    def __init__(
        self,
        rows: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        splits: int,
        device: torch.device,
        long: bool = True,
    ) -> None:
        self.heads, self.kv_heads, self.half, self.splits = heads, kv_heads, head_dim // 2, splits
        self.group = next_power_of_2(heads // kv_heads)
        # A single short block is summed up in registers. Long rows use the matrix units, which have at least 16 lanes.
        units = long and self.half >= 16
        self.lanes, self.block = (max(16, 2 * self.group), 32) if units else (self.group, 16)
        self.parts = torch.zeros(rows * kv_heads, splits, self.group * (head_dim + 2), device=device)
        self.counts = torch.zeros(rows * kv_heads, dtype=torch.int32, device=device)

    def __call__(
        self,
        qkv: Tensor,
        norms: tuple[Tensor, Tensor],
        eps: float,
        tables: tuple[Tensor, Tensor] | None,
        cache: tuple[Tensor, Tensor],
        out: Tensor,
        at: tuple[Tensor, Tensor] | int,
    ) -> None:
        """qkv [R, (heads + 2 kv_heads) head_dim] -> out [R, heads head_dim], writing k and v into the cache.

        tables: cosines and sines [positions, head_dim / 2], None for no rotation.
        cache: keys and values, each in one piece: [blocks, 2, kv_heads, columns, head_dim] or, for a single index,
        [rows, kv_heads, columns, head_dim]. columns: a multiple of 32, or all that a row can have.
        at: the step's fields, [R / 2, STEP_FIELDS], and the table of blocks, int32 [slots, blocks of a context]: rows
        2 i and 2 i + 1 belong to the slot of line i. Or one index and position for all rows.
        """
        stepped = isinstance(at, tuple)
        fields, table = at if isinstance(at, tuple) else (self.counts, self.counts)
        cos, sin = tables or (norms[0], norms[0])
        launch(
            _attention_kernel,
            (qkv.shape[0] * self.kv_heads, self.splits),
            qkv,
            *norms,
            cos,
            sin,
            *cache,
            fields,
            table,
            out,
            self.parts,
            self.counts,
            0 if stepped else at,
            eps,
            FIELDS=STEP_FIELDS,
            COLUMNS=cache[0].shape[-2],
            TABLE_WIDTH=table.shape[-1],
            HEADS=self.heads,
            KV=self.kv_heads,
            HALF=self.half,
            GROUP=self.group,
            LANES=self.lanes,
            BLOCK=self.block,
            SPLITS=self.splits,
            STEPPED=stepped,
            ROPE=tables is not None,
            num_warps=4,
            **launch_options(),
        )

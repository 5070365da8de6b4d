"""Triton kernels for a frame of a few rows, each with a plain torch twin.

At two to eight rows a transformer step is one long read of its weights: 2.8 GB for the backbone, 3.6 GB for the
depformer, and arithmetic that is free beside it. What separates plain ops from the memory's speed is everything that
happens between reads: a kernel for the norm, one for the rotation, one for the activation, each waiting for the last.
So here every matrix product takes in what comes before it (norm, embedding) and what comes after it (activation,
residual); attention takes in norm, rotation and the cache write; and a draw is one kernel from logits to token.

Four habits, in all of them:

- **Weights first.** A program loads its tile of the weights, which depend on nobody, before it waits for the kernel
  ahead (programmatic dependent launch, on Hopper and later). The memory so keeps reading while activations settle.
- **Round where the layers round.** Products accumulate in float32; results are rounded to the model's dtype at the
  places where dia2/layers.py does, so that eager and fast agree to rounding of sums.
- **Weights give way.** Most are read once a step and are larger than any cache, so in L2 they go first (`evict_first`),
  before activations, gains and tables, and before the few that the next stage reads again.
- **The same bits every time.** No float atomics: every sum has one order, so a conversation repeats exactly.

Products are for up to four rows, their sums taken in registers; they read 8-bit weights (fp8.py) as they are. Beyond,
matrix units do them, by a library, with norm and activation as kernels of their own.

Every wrapper writes into buffers it is given: nothing here allocates, so all of it can be captured in a CUDA graph.
Knows nothing about models or steps. Importing this module imports triton.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from dia2.model.fp8 import Fp8Matrix, Matrix

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

MOST_ROWS = 4
"""Up to here products are sums in registers; beyond, matrix units (cuBLAS) are the better tool."""

# Fields of a step's row, one row a slot, int64: what the host tells the device about a step.
COLUMN, INDEX, KNOWN, MAIN, SECOND, STEP_FIELDS = 0, 1, 2, 3, 4, 5

_ACTIVATIONS = {"silu": 1, "swish": 1, "swiglu": 1, "gelu": 2, "geglu": 2, "relu": 3, "linear": 0, "identity": 0}


# ---- Launching ----

DEPENDENT = True
"""Whether kernels may start before the one ahead has ended, where the GPU can do that."""


def _dependent() -> dict[str, Any]:
    """Launch options for programmatic dependent launch (`PDL` in the kernels)."""
    if INTERPRETED or not DEPENDENT or torch.cuda.get_device_capability()[0] < 9:
        return {"PDL": False}
    return {"PDL": True, "launch_pdl": True}


def _parts(matrix: Matrix) -> tuple[Tensor, Tensor, bool]:
    """Values, scales and whether there are any, as kernels take them: 8-bit values as bytes where a GPU has no e4m3."""
    if not isinstance(matrix, Fp8Matrix):
        return matrix, matrix, False
    values = matrix.values.data
    known = not INTERPRETED and torch.cuda.get_device_capability() >= (8, 9)
    return values if known else values.view(torch.uint8), matrix.scale.data, True


def _power(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


@triton.jit
def _ahead(PDL: tl.constexpr):
    """Lets the next kernel start, then waits for the one ahead: what it wrote may be read from here on."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()


# ---- Products ----


@triton.jit
def _weights(w, n, k, N, K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, AGAIN: tl.constexpr):
    """Rows n and columns k of a matrix [N, K], [BN, BK]. AGAIN: they are to stay in L2."""
    offsets = n[:, None].to(tl.int64) * K + k[None, :]
    mask = (n < N)[:, None]
    if K % BK != 0:
        mask = mask & (k < K)[None, :]
    if AGAIN:
        return tl.load(w + offsets, mask=mask, other=0.0)
    return tl.load(w + offsets, mask=mask, other=0.0, eviction_policy="evict_first")


@triton.jit
def _widened(w):
    """Weights as float32; bytes are e4m3."""
    if w.dtype == tl.uint8:  # its bits, moved to where float32 has them, with another bias
        bits = w.to(tl.int32)
        bits = ((bits & 0x80) << 24) | ((bits & 0x7F) << 20)
        w = bits.to(tl.float32, bitcast=True) * 1.329227995784916e36  # 2**120
    return w.to(tl.float32)


@triton.jit
def _rows(x, r, k, R, K: tl.constexpr, stride, ROWS: tl.constexpr, BK: tl.constexpr):
    """All rows, and columns k, of x [R, K]; float32 [ROWS, BK]."""
    return tl.load(x + r[:, None] * stride + k[None, :], mask=(r < R)[:, None] & (k < K)[None, :], other=0.0).to(
        tl.float32
    )


@triton.jit
def _embedded(x, table_ptr, token_ptr, sum_ptr, r, k, R, token_stride, K: tl.constexpr):
    """x float32 [ROWS, BK] plus their slots' entries of a table, rounded to the sum's dtype; a slot has two rows."""
    token = tl.load(token_ptr + (r // 2) * token_stride, mask=r < R, other=0)
    entry = tl.load(table_ptr + token[:, None] * K + k[None, :], mask=(r < R)[:, None] & (k < K)[None, :], other=0.0)
    return (x + entry.to(tl.float32)).to(sum_ptr.dtype.element_ty).to(tl.float32)


@triton.jit
def _normed(x, norm, k, K: tl.constexpr, eps):
    """RMSNorm of rows x float32 [ROWS, BK], rounded to the model's dtype, which its gains have."""
    gain = tl.load(norm + k, mask=k < K, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, axis=1) / K + eps)
    return (x * scale[:, None] * gain[None, :]).to(norm.dtype.element_ty).to(tl.float32)


@triton.jit
def _products(w, x):
    """w [BN, BK], x float32 [ROWS, BK] -> float32 [ROWS, BN]."""
    return tl.sum(_widened(w)[None, :, :] * x[:, None, :], axis=2)


@triton.jit
def _scaled(y, scale, n, N, SCALED: tl.constexpr):
    """Sums [ROWS, BN] of 8-bit weights, times the scales of their outputs."""
    if SCALED:
        y *= tl.load(scale + n, mask=n < N, other=0.0)[None, :]
    return y


@triton.jit
def _linear_kernel(
    x_ptr,
    norm_ptr,
    w_ptr,
    scale_ptr,
    out_ptr,
    table_ptr,
    token_ptr,
    sum_ptr,
    R,
    N,
    x_stride,
    token_stride,
    eps,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    NORM: tl.constexpr,
    ADD: tl.constexpr,
    EMBED: tl.constexpr,
    SCALED: tl.constexpr,
    AGAIN: tl.constexpr,
    PDL: tl.constexpr,
):
    """out [R, N] (+)= norm(x [R, K] + table[token]) @ w [N, K].T, a program for every BN outputs."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    r = tl.arange(0, ROWS)
    w = _weights(w_ptr, n, k, N, K, BN, BK, AGAIN)
    _ahead(PDL)
    x = _rows(x_ptr, r, k, R, K, x_stride, ROWS, BK)
    if EMBED:
        x = _embedded(x, table_ptr, token_ptr, sum_ptr, r, k, R, token_stride, K)
        if tl.program_id(0) == 0:
            tl.store(sum_ptr + r[:, None] * K + k[None, :], x, mask=(r < R)[:, None] & (k < K)[None, :])
    if NORM:
        x = _normed(x, norm_ptr, k, K, eps)
    y = _products(w, x)
    for start in tl.static_range(BK, K, BK):
        w = _weights(w_ptr, n, start + k, N, K, BN, BK, AGAIN)
        y += _products(w, _rows(x_ptr, r, start + k, R, K, x_stride, ROWS, BK))
    y = _scaled(y, scale_ptr, n, N, SCALED)
    where = out_ptr + r[:, None] * N + n[None, :]
    mask = (r < R)[:, None] & (n < N)[None, :]
    if ADD:
        y = y.to(out_ptr.dtype.element_ty).to(tl.float32) + tl.load(where, mask=mask, other=0.0).to(tl.float32)
    tl.store(where, y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _activate(x, KIND: tl.constexpr):
    if KIND == 1:
        x = x / (1.0 + tl.exp(-x))
    if KIND == 2:
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    if KIND == 3:
        x = tl.maximum(x, 0.0)
    return x


@triton.jit
def _gated_kernel(
    x_ptr,
    norm_ptr,
    w_ptr,
    scale_ptr,
    out_ptr,
    R,
    N,
    eps,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GATE: tl.constexpr,
    UP: tl.constexpr,
    SCALED: tl.constexpr,
    PDL: tl.constexpr,
):
    """out [R, N] = act0(gate) * act1(up), where gate and up are the halves of norm(x [R, K]) @ w [2 N, K].T."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    r = tl.arange(0, ROWS)
    w_gate = _weights(w_ptr, n, k, N, K, BN, BK, False)
    w_up = _weights(w_ptr + N.to(tl.int64) * K, n, k, N, K, BN, BK, False)
    _ahead(PDL)
    x = _normed(_rows(x_ptr, r, k, R, K, K, ROWS, BK), norm_ptr, k, K, eps)
    dtype = out_ptr.dtype.element_ty
    gate = _scaled(_products(w_gate, x), scale_ptr, n, N, SCALED).to(dtype).to(tl.float32)
    up = _scaled(_products(w_up, x), scale_ptr + N, n, N, SCALED).to(dtype).to(tl.float32)
    gate, up = _activate(gate, GATE).to(dtype).to(tl.float32), _activate(up, UP).to(dtype).to(tl.float32)
    mask = (r < R)[:, None] & (n < N)[None, :]
    tl.store(out_ptr + r[:, None] * N + n[None, :], (gate * up).to(dtype), mask=mask)


@triton.jit
def _embed_kernel(
    step_ptr,
    codes_ptr,
    text_ptr,
    main_ptr,
    second_ptr,
    audio_ptr,
    out_ptr,
    R,
    N,
    capacity,
    zero,
    pad,
    FIELDS: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    V: tl.constexpr,
    ROWS: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BC: tl.constexpr,
    PDL: tl.constexpr,
):
    """out [R, N]: the embedding of every slot's column, in row 2 slot as it is and in row 2 slot + 1 without text."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    r = tl.arange(0, ROWS)
    w_main = _weights(main_ptr, n, k, N, K, BN, BK, False)
    w_second = _weights(second_ptr, n, k, N, K, BN, BK, False)
    _ahead(PDL)
    dtype = out_ptr.dtype.element_ty
    step = step_ptr + (r // 2) * FIELDS
    live, blanked = r < R, r % 2 == 1
    main = tl.where(blanked, zero, tl.load(step + 3, mask=live, other=0))
    second = tl.where(blanked, pad, tl.load(step + 4, mask=live, other=0))
    inside = live[:, None] & (k < K)[None, :]
    x = tl.load(text_ptr + main[:, None] * K + k[None, :], mask=inside, other=0.0).to(tl.float32)
    y = _products(w_main, x).to(dtype).to(tl.float32)
    x = tl.load(text_ptr + second[:, None] * K + k[None, :], mask=inside, other=0.0).to(tl.float32)
    spoken = _products(w_second, x).to(dtype).to(tl.float32)
    y = (y + tl.where((second != pad)[:, None], spoken, 0.0)).to(dtype).to(tl.float32)
    c = tl.arange(0, BC)
    column = tl.load(step, mask=live, other=0)
    have = live[:, None] & (c < C)[None, :]
    code = tl.load(codes_ptr + ((r // 2)[:, None] * C + c[None, :]) * capacity + column[:, None], mask=have, other=0)
    entry = (c[None, :] * V + code)[:, :, None] * N + n[None, None, :]
    audio = tl.load(audio_ptr + entry, mask=have[:, :, None] & (n < N)[None, None, :], other=0.0).to(tl.float32)
    y += tl.sum(audio, axis=1).to(dtype).to(tl.float32)
    tl.store(out_ptr + r[:, None] * N + n[None, :], y.to(dtype), mask=live[:, None] & (n < N)[None, :])


# ---- Attention ----


@triton.jit
def _turned(first, second, gain_ptr, d, cos, sin, eps, HALF: tl.constexpr, ROPE: tl.constexpr):
    """RMSNorm and rotation of heads [n, 2 HALF], given and returned as their halves, float32 [n, HALF]."""
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
def _cached(k_ptr, v_ptr, start, stop, d, both, HALF: tl.constexpr, BLOCK: tl.constexpr):
    """Columns start..stop - 1 of a head's cache: both halves of the keys [BLOCK, HALF], and values [BLOCK, 2 HALF]."""
    t = start + tl.arange(0, BLOCK)[:, None]
    k_at = k_ptr + t * (2 * HALF) + d[None, :]
    k1 = tl.load(k_at, mask=t < stop, other=0.0, eviction_policy="evict_first")
    k2 = tl.load(k_at + HALF, mask=t < stop, other=0.0, eviction_policy="evict_first")
    v_at = v_ptr + t * (2 * HALF) + both[None, :]
    return k1, k2, tl.load(v_at, mask=t < stop, other=0.0, eviction_policy="evict_first")


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
    out_ptr,
    part_ptr,
    count_ptr,
    stage,
    capacity,
    eps,
    FIELDS: tl.constexpr,
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
    """
    DIM: tl.constexpr = 2 * HALF
    pair, split = tl.program_id(0), tl.program_id(1)
    row, kv = pair // KV, pair % KV
    if PDL:
        gdc_launch_dependents()
        if not STEPPED:
            gdc_wait()
    if STEPPED:  # where the column stands: position and cache index of the row's slot
        position = tl.load(step_ptr + (row // 2) * FIELDS)
        index = tl.load(step_ptr + (row // 2) * FIELDS + 1).to(tl.int32)
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
    cached = pair.to(tl.int64) * capacity * DIM
    start, stop = split * chunk, tl.minimum((split + 1) * chunk, index)
    k1, k2, v = _cached(k_ptr + cached, v_ptr + cached, start, stop, d, both, HALF, BLOCK)
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
    q1, q2 = _turned(q1, q2, q_norm_ptr, d, cos, sin, eps, HALF, ROPE)

    best = tl.full([LANES], float("-inf"), tl.float32)
    total = tl.zeros([LANES], tl.float32)
    mixed = tl.zeros([LANES, DIM], tl.float32)
    while start < stop:
        seen = start + tl.arange(0, BLOCK) < stop
        start += BLOCK
        next_k1, next_k2, next_v = _cached(k_ptr + cached, v_ptr + cached, start, stop, d, both, HALF, BLOCK)
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
        new_k1, new_k2 = _turned(new_k1, new_k2, k_norm_ptr, d, cos, sin, eps, HALF, ROPE)
        v_new = tl.load(qkv_ptr + row * width + (HEADS + KV + kv) * DIM + both)
        into = cached + index.to(tl.int64) * DIM
        tl.store(k_ptr + into + one[:, None] * DIM + d[None, :], new_k1.to(k_ptr.dtype.element_ty))
        tl.store(k_ptr + into + one[:, None] * DIM + HALF + d[None, :], new_k2.to(k_ptr.dtype.element_ty))
        tl.store(v_ptr + into + both, v_new)
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


# ---- Draws ----


@triton.jit
def _kth(values, k):
    """A value with exactly the k largest of `values` at or above it, or the k-th largest itself where ties forbid that.

    Each round cuts the range where it lies into four, and counts for all three cuts in one sum.
    """
    low = tl.min(tl.where(values > float("-inf"), values, float("inf")), axis=0)  # at least k are at or above it
    high = tl.max(values, axis=0)  # fewer than k are, or it is the one
    low = tl.where(tl.sum((values >= high).to(tl.int32), axis=0) >= k, high, low)
    going = (low < high).to(tl.int32)
    while going > 0:
        quarter = (high - low) * 0.25
        a, b, c = low + quarter, low + 2 * quarter, low + 3 * quarter
        ones = (values >= a).to(tl.int64) + ((values >= b).to(tl.int64) << 20) + ((values >= c).to(tl.int64) << 40)
        counts = tl.sum(ones, axis=0)
        above_a, above_b, above_c = counts & 0xFFFFF, (counts >> 20) & 0xFFFFF, counts >> 40
        new_low = tl.where(above_c >= k, c, tl.where(above_b >= k, b, tl.where(above_a >= k, a, low)))
        new_high = tl.where(above_c >= k, high, tl.where(above_b >= k, c, tl.where(above_a >= k, b, a)))
        found = (above_a == k) | (above_b == k) | (above_c == k)
        going = ((new_low > low) | (new_high < high)).to(tl.int32) * (1 - found.to(tl.int32))
        low, high = new_low, new_high
    return low


@triton.jit(do_not_specialize=["stream", "codebook", "delay", "banned", "also_banned"])
def _draw_kernel(
    logits_ptr,
    scale_ptr,
    filter_ptr,
    temperature_ptr,
    top_k_ptr,
    uniforms_ptr,
    step_ptr,
    token_ptr,
    codes_ptr,
    V,
    banned,
    also_banned,
    stream,
    codebook,
    delay,
    logits_stride,
    token_stride,
    capacity,
    streams,
    codebooks,
    FIELDS: tl.constexpr,
    BLOCK: tl.constexpr,
    WRITE: tl.constexpr,
    PDL: tl.constexpr,
):
    """One draw a slot: guidance, filter, temperature, top k, inverse CDF in the vocabulary's order.

    The token goes to token[slot]; with WRITE also to the codes of the next column, unless its frame is known.
    """
    slot = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    inside = i < V
    _ahead(PDL)
    scale = tl.load(scale_ptr + slot)
    filter_k = tl.load(filter_ptr + slot).to(tl.int32)
    temperature = tl.load(temperature_ptr + slot)
    top_k = tl.load(top_k_ptr + slot).to(tl.int32)
    column = tl.load(step_ptr + slot * FIELDS)
    uniform = tl.load(uniforms_ptr + (slot.to(tl.int64) * capacity + column) * streams + stream)
    row = logits_ptr + 2 * slot * logits_stride + i
    all_logits = tl.load(row, mask=inside, other=0.0)
    logits = all_logits
    if (filter_k > 0) & (filter_k < V):
        other = tl.load(row + logits_stride, mask=inside, other=0.0)
        guided = tl.where(inside, other + scale * (logits - other), float("-inf"))
        logits = tl.where(guided >= _kth(guided, filter_k), logits, float("-inf"))
    allowed = inside & (i != banned) & (i != also_banned)
    logits = tl.where(allowed, logits, float("-inf"))
    # A narrow filter may have kept nothing but what may not be drawn: then all the others are candidates.
    kept = tl.max(logits, axis=0) > float("-inf")
    logits = tl.where(kept, logits, tl.where(allowed, all_logits, float("-inf")))
    most = tl.max(logits, axis=0)
    if temperature > 0:
        scaled = logits / tl.maximum(temperature, 1e-4)
        candidates = tl.sum((logits > float("-inf")).to(tl.int32), axis=0)
        if (top_k > 0) & (top_k < candidates):
            scaled = tl.where(scaled >= _kth(scaled, top_k), scaled, float("-inf"))
        weights = tl.exp(scaled - most / tl.maximum(temperature, 1e-4))
        # In fixed point: sums of floats taken in parallel need not rise, and a uniform between two of them that should
        # be equal would draw an impossible token.
        cdf = tl.cumsum((weights * 4294967296.0).to(tl.int64), axis=0)
        drawn = (uniform.to(tl.float64) * tl.max(cdf, axis=0).to(tl.float64)).to(tl.int64)
        token = tl.sum((cdf <= drawn).to(tl.int32), axis=0)
    else:
        token = tl.min(tl.where(logits == most, i, BLOCK), axis=0)
    tl.store(token_ptr + slot * token_stride, token.to(tl.int64))
    if WRITE:
        new = column + 1 - delay >= tl.load(step_ptr + slot * FIELDS + 2)
        into = codes_ptr + (slot.to(tl.int64) * codebooks + codebook) * capacity + column + 1
        tl.store(into, token.to(tl.int64), mask=new)


@triton.jit
def _norm_kernel(
    x_ptr,
    norm_ptr,
    out_ptr,
    table_ptr,
    token_ptr,
    sum_ptr,
    x_stride,
    token_stride,
    eps,
    K: tl.constexpr,
    BK: tl.constexpr,
    EMBED: tl.constexpr,
    PDL: tl.constexpr,
):
    """out = norm(x + table[token]), a program a row: for products of many rows."""
    k = tl.arange(0, BK)
    row = tl.arange(0, 1) + tl.program_id(0)
    _ahead(PDL)
    x = _rows(x_ptr, row, k, tl.num_programs(0), K, x_stride, 1, BK)
    if EMBED:
        x = _embedded(x, table_ptr, token_ptr, sum_ptr, row, k, tl.num_programs(0), token_stride, K)
        tl.store(sum_ptr + row[:, None] * K + k[None, :], x.to(sum_ptr.dtype.element_ty), mask=(k < K)[None, :])
    y = _normed(x, norm_ptr, k, K, eps)
    tl.store(out_ptr + row[:, None] * K + k[None, :], y.to(out_ptr.dtype.element_ty), mask=(k < K)[None, :])


@triton.jit
def _product_kernel(both_ptr, out_ptr, N, BN: tl.constexpr, GATE: tl.constexpr, UP: tl.constexpr, PDL: tl.constexpr):
    """out [rows, N] = act0(first half) * act1(second half) of both [rows, 2 N]."""
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    row = tl.program_id(0)
    _ahead(PDL)
    dtype = out_ptr.dtype.element_ty
    at = both_ptr + row * 2 * N + n
    gate = _activate(tl.load(at, mask=n < N, other=0.0).to(tl.float32), GATE).to(dtype).to(tl.float32)
    up = _activate(tl.load(at + N, mask=n < N, other=0.0).to(tl.float32), UP).to(dtype).to(tl.float32)
    tl.store(out_ptr + row * N + n, (gate * up).to(dtype), mask=n < N)


# ---- What the rest of the library calls ----


@dataclass(frozen=True)
class Tile:
    """How a product is cut: outputs a program, warps a program. The columns come in one piece, up to `_WIDEST`."""

    outputs: int = 4
    warps: int = 4


_WIDEST = 2048

TILES: dict[tuple[str, int, int], Tile] = {
    ("linear", 4096, 2048): Tile(8, 4),
    ("gated", 6144, 2048): Tile(2, 4),
    ("gated", 3072, 1024): Tile(2, 1),
    ("linear", 2048, 1024): Tile(2, 4),
}
"""(kind, outputs, inputs) of a product -> its tile, where whole steps on an H100 were faster than with the usual."""


def _tile(kind: str, outputs: int, inputs: int) -> Tile:
    return TILES.get((kind, outputs, inputs), Tile())


@dataclass(frozen=True)
class Embedding:
    """What a product's input gets added first: row token[slot] of a table, for both of a slot's rows."""

    table: Tensor  # [vocabulary, K]
    token: Tensor  # int64 [slots], any stride
    total: Tensor  # [rows, K], where the sum is left


def linear(
    x: Tensor,
    matrix: Matrix,
    out: Tensor,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    add: bool = False,
    again: bool = False,
    embedding: Embedding | None = None,
) -> None:
    """out [R, N] = (out +) norm(x [R, K] + embedding) @ matrix [N, K].T; x may have a stride.

    again: the matrix is read again soon, and small enough to stay in L2 until then.
    """
    rows, (outputs, inputs) = x.shape[0], matrix.shape
    values, scale, scaled = _parts(matrix)
    tile = _tile("linear", outputs, inputs)
    whole = norm is not None or embedding is not None  # the norm needs the row in one piece
    width = _power(inputs) if whole else min(_power(inputs), _WIDEST)
    extra = embedding or Embedding(x, out, x)
    _linear_kernel[(triton.cdiv(outputs, tile.outputs),)](
        x,
        x if norm is None else norm,
        values,
        scale,
        out,
        extra.table,
        extra.token,
        extra.total,
        rows,
        outputs,
        x.stride(0),
        extra.token.stride(0),
        eps,
        K=inputs,
        ROWS=_power(rows),
        BN=tile.outputs,
        BK=width,
        NORM=norm is not None,
        ADD=add,
        EMBED=embedding is not None,
        SCALED=scaled,
        AGAIN=again,
        num_warps=tile.warps,
        **_dependent(),
    )


def gated(x: Tensor, norm: Tensor, eps: float, matrix: Matrix, out: Tensor, activations: tuple[str, ...]) -> None:
    """out [R, N] = act0(gate) * act1(up) of norm(x [R, K]) @ matrix [2 N, K].T."""
    (rows, inputs), outputs = x.shape, out.shape[1]
    values, scale, scaled = _parts(matrix)
    tile = _tile("gated", outputs, inputs)
    _gated_kernel[(triton.cdiv(outputs, tile.outputs),)](
        x,
        norm,
        values,
        scale,
        out,
        rows,
        outputs,
        eps,
        K=inputs,
        ROWS=_power(rows),
        BN=tile.outputs,
        BK=_power(inputs),
        GATE=_ACTIVATIONS[activations[0]],
        UP=_ACTIVATIONS[activations[1]],
        SCALED=scaled,
        num_warps=tile.warps,
        **_dependent(),
    )


def normed(x: Tensor, norm: Tensor, eps: float, out: Tensor, embedding: Embedding | None = None) -> None:
    """out = norm(x + embedding), [rows, K]; x may have a stride."""
    rows, width = x.shape
    extra = embedding or Embedding(x, out, x)
    _norm_kernel[(rows,)](
        x,
        norm,
        out,
        extra.table,
        extra.token,
        extra.total,
        x.stride(0),
        extra.token.stride(0),
        eps,
        K=width,
        BK=_power(width),
        EMBED=embedding is not None,
        num_warps=4,
        **_dependent(),
    )


def product(both: Tensor, out: Tensor, activations: tuple[str, ...]) -> None:
    """out [rows, N] = act0(first half) * act1(second half) of both [rows, 2 N]."""
    rows, width = out.shape
    gate, up = (_ACTIVATIONS[name] for name in activations)
    grid = (rows, triton.cdiv(width, 1024))
    _product_kernel[grid](both, out, width, BN=1024, GATE=gate, UP=up, num_warps=4, **_dependent())


def embed(
    fields: Tensor,
    codes: Tensor,
    text: Tensor,
    main_proj: Tensor,
    second_proj: Tensor,
    audio: Tensor,
    out: Tensor,
    zero: int,
    pad: int,
) -> None:
    """out [2 slots, D]: every slot's column of codes [slots, C, capacity] and its text, embedded; odd rows textless."""
    outputs, inputs = main_proj.shape
    codebooks, vocabulary = audio.shape[:2]
    tile = _tile("embed", outputs, inputs)
    _embed_kernel[(triton.cdiv(outputs, tile.outputs),)](
        fields,
        codes,
        text,
        main_proj,
        second_proj,
        audio,
        out,
        out.shape[0],
        outputs,
        codes.shape[2],
        zero,
        pad,
        FIELDS=STEP_FIELDS,
        K=inputs,
        C=codebooks,
        V=vocabulary,
        ROWS=_power(out.shape[0]),
        BN=tile.outputs,
        BK=_power(inputs),
        BC=_power(codebooks),
        num_warps=tile.warps,
        **_dependent(),
    )


class Attention:
    """Attention of one new column a row over a cache, for rows of one shape; holds the scratch the splits need."""

    def __init__(self, rows: int, heads: int, kv_heads: int, head_dim: int, splits: int, device: torch.device) -> None:
        self.heads, self.kv_heads, self.half, self.splits = heads, kv_heads, head_dim // 2, splits
        self.group = _power(heads // kv_heads)
        # One short block is sums in registers; many are for the matrix units, which have 16 lanes at least.
        units = splits > 1 and self.half >= 16
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
        at: Tensor | int,
    ) -> None:
        """qkv [R, (heads + 2 kv_heads) head_dim] -> out [R, heads head_dim], writing k and v into the cache.

        tables: cosines and sines [positions, head_dim / 2], None for no rotation.
        cache: keys and values, each [R, kv_heads, capacity, head_dim] in one piece.
        at: the step's fields (two rows a slot), or one index and position for all rows.
        """
        stepped = isinstance(at, Tensor)
        cos, sin = tables or (norms[0], norms[0])
        _attention_kernel[(qkv.shape[0] * self.kv_heads, self.splits)](
            qkv,
            *norms,
            cos,
            sin,
            *cache,
            at if stepped else self.counts,
            out,
            self.parts,
            self.counts,
            0 if stepped else at,
            cache[0].shape[2],
            eps,
            FIELDS=STEP_FIELDS,
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
            **_dependent(),
        )


@dataclass(frozen=True)
class Sampler:
    """The settings of a kind of draw, one a slot, and the uniforms [slots, capacity, streams] all draws share."""

    scale: Tensor
    filter_k: Tensor
    temperature: Tensor
    top_k: Tensor
    uniforms: Tensor

    def __call__(
        self,
        logits: Tensor,
        fields: Tensor,
        stream: int,
        token: Tensor,
        *,
        banned: tuple[int, int] = (-1, -1),
        codes: Tensor | None = None,
        codebook: int = 0,
        delay: int = 0,
    ) -> None:
        """logits float32 [2 slots, V], rows of any stride -> token int64 [slots], of any stride.

        With codes [slots, C, capacity], the token is also that codebook's of the slot's next column, unless known.
        """
        into = token if codes is None else codes
        _draw_kernel[(token.shape[0],)](
            logits,
            self.scale,
            self.filter_k,
            self.temperature,
            self.top_k,
            self.uniforms,
            fields,
            token,
            into,
            logits.shape[1],
            *banned,
            stream,
            codebook,
            delay,
            logits.stride(0),
            token.stride(0),
            self.uniforms.shape[1],
            self.uniforms.shape[2],
            into.shape[1] if codes is not None else 0,
            FIELDS=STEP_FIELDS,
            BLOCK=_power(logits.shape[1]),
            WRITE=codes is not None,
            num_warps=4,
            **_dependent(),
        )

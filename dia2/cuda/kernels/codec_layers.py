"""Products of the codec's transformer layers for few rows, each in one kernel with what stands before and behind it.

A frame of a row is two lines. So a product is one read of its weights, and what costs is the time between reads: norm,
GELU and the residual sum would each be a kernel of their own that waits for the one before. The rules are those of
products.py: weights are loaded before the wait for the kernel ahead, and every sum has one order. All in float32.
"""

import triton
import triton.language as tl
from torch import Tensor

from dia2.cuda.kernels.launch import launch, launch_options, next_power_of_2, wait_for_previous
from dia2.cuda.kernels.ring_splits import Parts

WIDEST = 2048
"""Inputs that a product may have: a program has all of them in registers."""
_PRODUCTS = 8192  # numbers that a program of four warps multiplies and sums up at once


@triton.jit
def _tile(w_ptr, n, k, N: tl.constexpr, K: tl.constexpr):
    """Rows n of a matrix [N, K], as [BN, BK]."""
    mask = (n < N)[:, None] & (k < K)[None, :]
    return tl.load(w_ptr + n[:, None] * K + k[None, :], mask=mask, other=0.0, eviction_policy="evict_first")


@triton.jit
def _normed_kernel(
    x_ptr,
    gain_ptr,
    shift_ptr,
    w_ptr,
    out_ptr,
    R,
    eps,
    N: tl.constexpr,
    K: tl.constexpr,
    LINES: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GELU: tl.constexpr,
    PDL: tl.constexpr,
):
    """out [R, N] = gelu(layer norm(x [R, K]) @ w [N, K].T), a program for every BN outputs."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    r = tl.arange(0, LINES)
    w = _tile(w_ptr, n, k, N, K)
    gain = tl.load(gain_ptr + k, mask=k < K, other=0.0)
    shift = tl.load(shift_ptr + k, mask=k < K, other=0.0)
    wait_for_previous(PDL)
    inside = (r < R)[:, None] & (k < K)[None, :]
    x = tl.load(x_ptr + r[:, None] * K + k[None, :], mask=inside, other=0.0)
    x = tl.where(inside, x - (tl.sum(x, axis=1) / K)[:, None], 0.0)
    x = x * tl.rsqrt(tl.sum(x * x, axis=1) / K + eps)[:, None] * gain[None, :] + shift[None, :]
    y = tl.sum(w[None, :, :] * x[:, None, :], axis=2)
    if GELU:
        y = 0.5 * y * (1.0 + tl.erf(y * 0.7071067811865476))
    tl.store(out_ptr + r[:, None] * N + n[None, :], y, mask=(r < R)[:, None] & (n < N)[None, :])


@triton.jit
def _together(
    mixed_ptr,
    best_ptr,
    total_ptr,
    r,
    live,
    DIM: tl.constexpr,
    HEADS: tl.constexpr,
    SPLITS: tl.constexpr,
    LINES: tl.constexpr,
    BH: tl.constexpr,
    BD: tl.constexpr,
    BS: tl.constexpr,
):
    """Attention's result of lines r, from what the splits found: [LINES, BH * BD], BD places a head."""
    h, d, split = tl.arange(0, BH), tl.arange(0, BD), tl.arange(0, BS)
    part = ((r // 2)[:, None] * HEADS + h[None, :]) * SPLITS * 2 + (r % 2)[:, None]
    inside = live[:, None] & (h < HEADS)[None, :]
    at = part[:, :, None] + 2 * split[None, None, :]
    there = inside[:, :, None] & (split < SPLITS)[None, None, :]
    best = tl.load(best_ptr + at, mask=there, other=float("-inf"))
    highest = tl.where(inside, tl.max(best, axis=2), 0.0)
    weights = tl.exp(best - highest[:, :, None])
    total = tl.sum(weights * tl.load(total_ptr + at, mask=there, other=0.0), axis=2)
    weights = weights / tl.where(inside, total, 1.0)[:, :, None]
    where = part[:, :, None] * DIM + d[None, None, :]
    there = inside[:, :, None] & (d < DIM)[None, None, :]
    mixed = tl.zeros([LINES, BH, BD], tl.float32)
    for s in tl.static_range(SPLITS):
        weight = tl.sum(tl.where(split == s, weights, 0.0), axis=2)
        mixed += weight[:, :, None] * tl.load(mixed_ptr + where + 2 * s * DIM, mask=there, other=0.0)
    return tl.reshape(mixed, [LINES, BH * BD])


@triton.jit
def _added_kernel(
    x_ptr,
    best_ptr,
    total_ptr,
    w_ptr,
    out_ptr,
    R,
    N: tl.constexpr,
    DIM: tl.constexpr,
    HEADS: tl.constexpr,
    SPLITS: tl.constexpr,
    LINES: tl.constexpr,
    BN: tl.constexpr,
    BH: tl.constexpr,
    BD: tl.constexpr,
    BS: tl.constexpr,
    PDL: tl.constexpr,
):
    """out [R, N] += x [R, K] @ w [N, K].T, a program for every BN outputs. x may be what the splits of attention found.

    K = HEADS * DIM inputs have BH * BD places in registers, both powers of 2: BD for each head. Without splits, there
    is one head. A program reads and writes the same places of `out`, and no other program does.
    """
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    r = tl.arange(0, LINES)
    h, d = tl.arange(0, BH * BD) // BD, tl.arange(0, BH * BD) % BD
    k, used = h * DIM + d, (h < HEADS) & (d < DIM)
    mask = (n < N)[:, None] & used[None, :]
    w = tl.load(w_ptr + n[:, None] * (HEADS * DIM) + k[None, :], mask=mask, other=0.0, eviction_policy="evict_first")
    wait_for_previous(PDL)
    if SPLITS > 0:
        x = _together(x_ptr, best_ptr, total_ptr, r, r < R, DIM, HEADS, SPLITS, LINES, BH, BD, BS)
    else:
        x = tl.load(x_ptr + r[:, None] * DIM + k[None, :], mask=(r < R)[:, None] & used[None, :], other=0.0)
    where = out_ptr + r[:, None] * N + n[None, :]
    mask = (r < R)[:, None] & (n < N)[None, :]
    y = tl.sum(w[None, :, :] * x[:, None, :], axis=2) + tl.load(where, mask=mask, other=0.0)
    tl.store(where, y, mask=mask)


def _cut(lines: int, outputs: int, places: int) -> dict[str, int]:
    """Lines, outputs and warps of a program that has so many places for inputs in registers."""
    rows = next_power_of_2(lines)
    block = min(16, max(1, _PRODUCTS // (rows * places)), next_power_of_2(outputs))
    return {"LINES": rows, "BN": block, "num_warps": 8 if rows * block * places > _PRODUCTS else 4}


def normed_product(
    x: Tensor, gain: Tensor, shift: Tensor, eps: float, weight: Tensor, out: Tensor, gelu: bool = False
) -> None:
    """out [R, N] = gelu(layer norm(x [R, K]) @ weight [N, K].T)."""
    (outputs, inputs), width = weight.shape, next_power_of_2(weight.shape[1])
    cut = _cut(len(x), outputs, width)
    launch(
        _normed_kernel,
        (triton.cdiv(outputs, cut["BN"]),),
        x,
        gain,
        shift,
        weight,
        out,
        len(x),
        eps,
        N=outputs,
        K=inputs,
        BK=width,
        GELU=gelu,
        **cut,
        **launch_options(),
    )


def added_product(x: Tensor | Parts, weight: Tensor, out: Tensor) -> None:
    """out [R, N] += x [R, K] @ weight [N, K].T. x may be what the splits of attention found, of K = heads * width."""
    outputs, inputs = weight.shape
    split = isinstance(x, Parts)
    mixed, best, total = (x.mixed, x.best, x.total) if isinstance(x, Parts) else (x, x, x)
    heads, splits, dim = (mixed.shape[1], mixed.shape[2], mixed.shape[4]) if split else (1, 0, inputs)
    blocks = {"BH": next_power_of_2(heads), "BD": next_power_of_2(dim), "BS": next_power_of_2(splits)}
    cut = _cut(len(out), outputs, blocks["BH"] * blocks["BD"])
    if split and len(out) > 2:
        cut["num_warps"] = 8  # the splits of all lines lie in registers at once
    launch(
        _added_kernel,
        (triton.cdiv(outputs, cut["BN"]),),
        mixed,
        best,
        total,
        weight,
        out,
        len(out),
        N=outputs,
        DIM=dim,
        HEADS=heads,
        SPLITS=splits,
        **blocks,
        **cut,
        **launch_options(),
    )

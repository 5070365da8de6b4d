"""The codec's transposed convolutions, which raise the rate: one kernel each, with overlap-add.

A kernel of 2 * stride taps spreads an input over its own `stride` outputs and over those of the next input. So a line
of outputs is `now` of its own input and `later` of the input before; for the first line of a frame, the frame before
has left `later` of its last input in the carry. Turned round: a frame of T inputs has T + 1 lines of outputs, the last
of which gets only `later`, belongs to the next frame, and goes into the next carry. Then no line is a special case but
for what it leaves out.
"""

import triton
import triton.language as tl
from torch import Tensor

from dia2.cuda.kernels.codec_conv import SUMMED_LINES, TILE
from dia2.cuda.kernels.codec_front import Memory, carries
from dia2.cuda.kernels.launch import launch, launch_options, next_power_of_2, wait_for_previous

_CHUNK = 64  # inputs that a tile reads at once
_PRODUCTS = 8192  # numbers that a program of four warps multiplies and sums up at once


@triton.jit
def _inputs(x_ptr, row, t, k, live, STEPS: tl.constexpr, K: tl.constexpr):
    """Inputs t of the rows, channels k; zero where the frame has no such input. [lines, BK]."""
    mask = (live & (t >= 0) & (t < STEPS))[:, None] & (k < K)[None, :]
    return tl.load(x_ptr + (row * STEPS + t)[:, None] * K + k[None, :], mask=mask, other=0.0)


@triton.jit
def _add_up(y, bias_ptr, out_ptr, log_ptr, old, new, row, t, n, live, STEPS: tl.constexpr, N: tl.constexpr):
    """Writes sums [lines, BN]: with bias, and what waited for the first line, as outputs; the last line as a carry."""
    inside = live[:, None] & (n < N)[None, :]
    is_next = (t == STEPS)[:, None]
    y += tl.load(log_ptr + old[:, None] + n[None, :], mask=inside & (t == 0)[:, None], other=0.0)
    tl.store(log_ptr + new[:, None] + n[None, :], y, mask=inside & is_next)
    y += tl.load(bias_ptr + n, mask=n < N, other=0.0)[None, :]
    tl.store(out_ptr + (row * STEPS + t)[:, None] * N + n[None, :], y, mask=inside & (t < STEPS)[:, None])


@triton.jit
def _up_sum_kernel(
    x_ptr,
    w_ptr,
    bias_ptr,
    out_ptr,
    log_ptr,
    slots_ptr,
    position_ptr,
    R,
    STEPS: tl.constexpr,
    K: tl.constexpr,
    N: tl.constexpr,
    ENTRIES: tl.constexpr,
    FLOATS: tl.constexpr,
    LINES: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PDL: tl.constexpr,
):
    """out [R * STEPS, N] of x [R * STEPS, K]; w [2 N, K] is `now` and `later`. All lines. Programs: (outputs)."""
    line, k = tl.arange(0, LINES), tl.arange(0, BK)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    row, t, live = line // (STEPS + 1), line % (STEPS + 1), line < R * (STEPS + 1)
    old, new = carries(slots_ptr, position_ptr, row, live, ENTRIES, FLOATS)
    there = (n < N)[:, None] & (k < K)[None, :]
    tile = w_ptr + n[:, None] * K + k[None, :]
    now = tl.load(tile, mask=there, other=0.0, eviction_policy="evict_first")
    later = tl.load(tile + N * K, mask=there, other=0.0, eviction_policy="evict_first")
    wait_for_previous(PDL)
    sums = now[None, :, :] * _inputs(x_ptr, row, t, k, live, STEPS, K)[:, None, :]
    sums += later[None, :, :] * _inputs(x_ptr, row, t - 1, k, live, STEPS, K)[:, None, :]
    _add_up(tl.sum(sums, axis=2), bias_ptr, out_ptr, log_ptr, old, new, row, t, n, live, STEPS, N)


@triton.jit
def _up_dot_kernel(
    x_ptr,
    w_ptr,
    bias_ptr,
    out_ptr,
    log_ptr,
    slots_ptr,
    position_ptr,
    R,
    STEPS: tl.constexpr,
    K: tl.constexpr,
    N: tl.constexpr,
    ENTRIES: tl.constexpr,
    FLOATS: tl.constexpr,
    LINES: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    """The same in tiles. Programs: (outputs, lines)."""
    line = tl.program_id(1) * LINES + tl.arange(0, LINES)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    row, t, live = line // (STEPS + 1), line % (STEPS + 1), line < R * (STEPS + 1)
    old, new = carries(slots_ptr, position_ptr, row, live, ENTRIES, FLOATS)
    wait_for_previous(PDL)
    y = tl.zeros([LINES, BN], tl.float32)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        there = (n < N)[:, None] & (k < K)[None, :]
        tile = w_ptr + n[:, None] * K + k[None, :]
        now, later = tl.load(tile, there, 0.0), tl.load(tile + N * K, there, 0.0)
        x = _inputs(x_ptr, row, t, k, live, STEPS, K)
        y = tl.dot(x, tl.trans(now), y, input_precision=PRECISION)
        x = _inputs(x_ptr, row, t - 1, k, live, STEPS, K)
        y = tl.dot(x, tl.trans(later), y, input_precision=PRECISION)
    _add_up(y, bias_ptr, out_ptr, log_ptr, old, new, row, t, n, live, STEPS, N)


def _warps(products: int) -> int:
    return 8 if products > _PRODUCTS else 4


def transposed_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    memory: Memory,
    name: str,
    out: Tensor,
    *,
    precision: str = "ieee",
) -> None:
    """x [n, steps, inputs] -> out [n, steps * stride, outputs], adding what waits in the carry of `name`.

    weight: [2 * stride * outputs, inputs], in order of time. bias: the same length, of which the first half counts.
    """
    rows, steps, inputs = x.shape
    outputs, lines, width = len(weight) // 2, rows * (steps + 1), next_power_of_2(inputs)
    given = (x, weight, bias, out, memory.part(name), memory.slots, memory.state.position, rows)
    sizes = {"STEPS": steps, "K": inputs, "N": outputs, "ENTRIES": memory.entries, "FLOATS": memory.floats}
    options = {**sizes, **launch_options()}
    if lines <= SUMMED_LINES:
        tile = next_power_of_2(lines)
        block = min(8, max(1, _PRODUCTS // (tile * width)))
        launch(
            _up_sum_kernel,
            (triton.cdiv(outputs, block),),
            *given,
            **options,
            LINES=tile,
            BN=block,
            BK=width,
            num_warps=_warps(tile * block * width),
        )
    else:
        grid = (triton.cdiv(outputs, TILE), triton.cdiv(lines, TILE))
        tiles = {"LINES": TILE, "BN": TILE, "BK": min(_CHUNK, max(16, width)), "PRECISION": precision}
        launch(_up_dot_kernel, grid, *given, **options, **tiles, num_warps=4)

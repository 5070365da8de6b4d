"""The end of the codec's decoder: a narrow residual block as one kernel, and the last convolution, which makes samples.

A residual block is ELU, a convolution to fewer channels, ELU, a pointwise convolution back, and the sum with its input.
Up to 128 channels its weights are so small (131 KB) that every program may read all of them; then what lies between the
two convolutions never leaves the program. Wider blocks have few lines and many weights, and are two convolutions of
codec_conv.py.
"""

import triton
import triton.language as tl
from torch import Tensor

from dia2.cuda.kernels.codec_conv import elu, from_context, from_frame, keep_context, tap_products
from dia2.cuda.kernels.codec_front import Memory, carries
from dia2.cuda.kernels.launch import launch, launch_options, next_power_of_2, wait_for_previous

WIDEST = 128
"""Channels of a residual block that is one kernel."""
_TILE, _CHUNK = 16, 32  # lines of a program, and channels that it reads at once


@triton.jit
def _residual_kernel(
    x_ptr,
    squeeze_ptr,
    squeeze_bias_ptr,
    expand_ptr,
    expand_bias_ptr,
    out_ptr,
    log_ptr,
    slots_ptr,
    position_ptr,
    R,
    STEPS: tl.constexpr,
    TAPS: tl.constexpr,
    DILATION: tl.constexpr,
    K: tl.constexpr,
    INNER: tl.constexpr,
    ENTRIES: tl.constexpr,
    FLOATS: tl.constexpr,
    ELU_OUT: tl.constexpr,
    LINES: tl.constexpr,
    BI: tl.constexpr,
    BK: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    """out [R * STEPS, K] = x + expand(elu(squeeze(elu(x)))), for a tile of lines. Programs: (lines)."""
    CONTEXT: tl.constexpr = (TAPS - 1) * DILATION
    line = tl.program_id(0) * LINES + tl.arange(0, LINES)
    row, t, live = line // STEPS, line % STEPS, line < R * STEPS
    i = tl.arange(0, BI)
    old, _ = carries(slots_ptr, position_ptr, row, live, ENTRIES, FLOATS)
    wait_for_previous(PDL)
    h = tap_products(
        x_ptr,
        squeeze_ptr,
        log_ptr,
        old,
        row,
        t,
        i,
        live,
        STEPS,
        TAPS,
        DILATION,
        K,
        INNER,
        True,
        LINES,
        BI,
        CHUNK,
        PRECISION,
    )
    h = elu(h + tl.load(squeeze_bias_ptr + i, mask=i < INNER, other=0.0)[None, :])
    for start in range(0, K, CHUNK):
        n = start + tl.arange(0, CHUNK)
        there = (n < K)[:, None] & (i < INNER)[None, :]
        w = tl.load(expand_ptr + n[:, None] * INNER + i[None, :], mask=there, other=0.0)
        inside = live[:, None] & (n < K)[None, :]
        where = line[:, None] * K + n[None, :]
        y = tl.load(expand_bias_ptr + n, mask=n < K, other=0.0)[None, :] + tl.load(
            x_ptr + where, mask=inside, other=0.0
        )
        y = tl.dot(h, tl.trans(w), y, input_precision=PRECISION)
        if ELU_OUT:
            y = elu(y)
        tl.store(out_ptr + where, y, mask=inside)
    program, programs = tl.program_id(0), tl.num_programs(0)
    keep_context(
        x_ptr, log_ptr, slots_ptr, position_ptr, R, program, programs, STEPS, CONTEXT, K, True, ENTRIES, FLOATS, BK
    )


@triton.jit
def _last_kernel(
    x_ptr,
    w_ptr,
    bias_ptr,
    sound_ptr,
    log_ptr,
    slots_ptr,
    position_ptr,
    filled_ptr,
    began_ptr,
    capacity,
    STEPS: tl.constexpr,
    TAPS: tl.constexpr,
    K: tl.constexpr,
    ENTRIES: tl.constexpr,
    FLOATS: tl.constexpr,
    LINES: tl.constexpr,
    BK: tl.constexpr,
    PDL: tl.constexpr,
):
    """Samples [STEPS] of a row, whose slot moves on by two positions. Programs: (row, samples).

    The slot's position may have been changed by another program of this kernel already; what it was is in `began`.
    """
    CONTEXT: tl.constexpr = TAPS - 1
    row = tl.program_id(0)
    t, k = tl.program_id(1) * LINES + tl.arange(0, LINES), tl.arange(0, BK)
    live = t < STEPS
    wait_for_previous(PDL)
    slot, position = tl.load(slots_ptr + row), tl.load(began_ptr + row)
    old = (slot * ENTRIES + position // 2 % ENTRIES) * FLOATS
    new = (slot * ENTRIES + (position // 2 + 1) % ENTRIES) * FLOATS
    y = tl.zeros([LINES], tl.float32)
    for tap in tl.static_range(TAPS):
        x = from_frame(x_ptr, row, t + tap, k, live, STEPS, CONTEXT, K, False)
        if tap < CONTEXT:
            x += from_context(log_ptr, old + t * 0, t + tap, k, live, CONTEXT, K)
        w = tl.load(w_ptr + tap * K + k, mask=k < K, other=0.0)
        y += tl.sum(x * w[None, :], axis=1)
    tl.store(sound_ptr + row * STEPS + t, y + tl.load(bias_ptr), mask=live)
    if tl.program_id(1) == 0:
        for i in tl.static_range(CONTEXT):
            kept = tl.load(x_ptr + (row * STEPS + STEPS - CONTEXT + i) * K + k, mask=k < K, other=0.0)
            tl.store(log_ptr + new + i * K + k, kept, mask=k < K)
        filled = tl.load(filled_ptr + slot) + 2
        tl.store(filled_ptr + slot, tl.minimum(filled, capacity))
        tl.store(position_ptr + slot, position + 2)


def residual(
    x: Tensor,
    squeeze: tuple[Tensor, Tensor],
    expand: tuple[Tensor, Tensor],
    taps: int,
    dilation: int,
    memory: Memory,
    name: str,
    out: Tensor,
    *,
    elu_behind: bool = False,
    precision: str = "ieee",
) -> None:
    """out = x + expand(elu(squeeze(elu(x)))), all [n, steps, width], over the context of `name`.

    squeeze: weight [inner, taps * width] and bias. expand: weight [width, inner] and bias.
    """
    rows, steps, width = x.shape
    inner, block = len(squeeze[0]), max(16, next_power_of_2(width))
    launch(
        _residual_kernel,
        (triton.cdiv(rows * steps, _TILE),),
        x,
        *squeeze,
        *expand,
        out,
        memory.part(name),
        memory.slots,
        memory.state.position,
        rows,
        STEPS=steps,
        TAPS=taps,
        DILATION=dilation,
        K=width,
        INNER=inner,
        ENTRIES=memory.entries,
        FLOATS=memory.floats,
        ELU_OUT=elu_behind,
        LINES=_TILE,
        BI=max(16, next_power_of_2(inner)),
        BK=block,
        CHUNK=min(_CHUNK, block),
        PRECISION=precision,
        num_warps=4,
        **launch_options(),
    )


def last(x: Tensor, weight: Tensor, bias: Tensor, taps: int, memory: Memory, name: str, sound: Tensor) -> None:
    """x [n, samples, width] -> sound [n, samples] by weight [1, taps * width], and the rows' slots have moved on.

    Runs last in a pass: kernels find their place in memory by the slots' positions.
    """
    rows, steps, width = x.shape
    lines = 32
    launch(
        _last_kernel,
        (rows, triton.cdiv(steps, lines)),
        x,
        weight,
        bias,
        sound,
        memory.part(name),
        memory.slots,
        memory.state.position,
        memory.state.filled,
        memory.began,
        memory.state.capacity,
        STEPS=steps,
        TAPS=taps,
        K=width,
        ENTRIES=memory.entries,
        FLOATS=memory.floats,
        LINES=lines,
        BK=next_power_of_2(width),
        num_warps=4,
        **launch_options(),
    )

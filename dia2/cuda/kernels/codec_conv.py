"""The codec's causal convolutions for few rows: each is one kernel with its ELU, bias, residual sum and memory.

A convolution sees a frame's inputs behind the last inputs of the frame before, its *context*. A kernel reads the
context from the log of the slot (dia2/codec/state.py), where the plain way copies it in front of the frame, and writes
the next context into the next carry of the log. Inputs and the sums over them are *lines*: line t of row i is number
i * steps + t.

Two forms. With few lines and much to read, `_conv_sum_kernel` has all lines in every program, which multiplies and sums
them up in registers; what the context gives is summed up before the wait for the kernel ahead. With more lines,
`_conv_dot_kernel` works in tiles of lines and outputs. A narrow residual block is a kernel of its own
(codec_residual.py), transposed convolutions are in codec_transposed.py.
"""

import triton
import triton.language as tl
from torch import Tensor

from dia2.cuda.kernels.codec_front import Memory, carries
from dia2.cuda.kernels.launch import launch, launch_options, next_power_of_2, wait_for_previous

SUMMED_LINES = 16
"""Up to so many lines, products are summed up in registers."""
TILE = 16
"""Lines and outputs of a tile of products: the least that Triton's `dot` takes, as a frame has few of both."""
_CHUNK = 64  # inputs that a tile reads at once
_PRODUCTS = 16384  # numbers that a program of eight warps multiplies and sums up at once


@triton.jit
def elu(x):
    return tl.where(x > 0.0, x, tl.exp(tl.minimum(x, 0.0)) - 1.0)


@triton.jit
def from_context(log_ptr, old, j, k, live, CONTEXT: tl.constexpr, K: tl.constexpr):
    """Inputs j of [context, frame], channels k, where they are of the context; else zero. [lines, BK]."""
    mask = (live & (j >= 0) & (j < CONTEXT))[:, None] & (k < K)[None, :]
    return tl.load(log_ptr + old[:, None] + j[:, None] * K + k[None, :], mask=mask, other=0.0)


@triton.jit
def from_frame(x_ptr, row, j, k, live, STEPS: tl.constexpr, CONTEXT: tl.constexpr, K: tl.constexpr, ELU: tl.constexpr):
    """Inputs j of [context, frame], channels k, where they are of the frame, behind the ELU; else zero. [lines, BK]."""
    mask = (live & (j >= CONTEXT))[:, None] & (k < K)[None, :]
    x = tl.load(x_ptr + (row * STEPS + j - CONTEXT)[:, None] * K + k[None, :], mask=mask, other=0.0)
    if ELU:
        x = elu(x)
    return x


@triton.jit
def keep_context(
    x_ptr,
    log_ptr,
    slots_ptr,
    position_ptr,
    R,
    program,
    programs,
    STEPS: tl.constexpr,
    CONTEXT: tl.constexpr,
    K: tl.constexpr,
    ELU: tl.constexpr,
    ENTRIES: tl.constexpr,
    FLOATS: tl.constexpr,
    BK: tl.constexpr,
):
    """Writes the last CONTEXT inputs of all R rows into their next carries, which the programs divide among them."""
    k = tl.arange(0, BK)
    for i in range(program, R * CONTEXT, programs):
        row, kept = i // CONTEXT + tl.arange(0, 1), i % CONTEXT + tl.arange(0, 1)
        live = row < R
        old, new = carries(slots_ptr, position_ptr, row, live, ENTRIES, FLOATS)
        j = kept + STEPS
        x = from_context(log_ptr, old, j, k, live, CONTEXT, K)
        x += from_frame(x_ptr, row, j, k, live, STEPS, CONTEXT, K, ELU)
        tl.store(log_ptr + new[:, None] + kept[:, None] * K + k[None, :], x, mask=(k < K)[None, :])


@triton.jit
def tap_products(
    x_ptr,
    w_ptr,
    log_ptr,
    old,
    row,
    t,
    n,
    live,
    STEPS: tl.constexpr,
    TAPS: tl.constexpr,
    DILATION: tl.constexpr,
    K: tl.constexpr,
    N: tl.constexpr,
    ELU: tl.constexpr,
    LINES: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A tile of a convolution: lines of [context, frame], behind the ELU, by w [N, TAPS * K]. [LINES, BN]."""
    CONTEXT: tl.constexpr = (TAPS - 1) * DILATION
    y = tl.zeros([LINES, BN], tl.float32)
    for tap in tl.static_range(TAPS):
        j = t + tap * DILATION
        for start in range(0, K, BK):
            k = start + tl.arange(0, BK)
            there = (n < N)[:, None] & (k < K)[None, :]
            w = tl.load(w_ptr + n[:, None] * (TAPS * K) + tap * K + k[None, :], mask=there, other=0.0)
            x = from_frame(x_ptr, row, j, k, live, STEPS, CONTEXT, K, ELU)
            if CONTEXT > 0:
                x += from_context(log_ptr, old, j, k, live, CONTEXT, K)
            y = tl.dot(x, tl.trans(w), y, input_precision=PRECISION)
    return y


@triton.jit
def finished(y, bias_ptr, more_ptr, line, n, inside, N: tl.constexpr, ADD: tl.constexpr, ELU: tl.constexpr):
    """Sums [lines, BN] with their bias, and what is added to them, and behind an ELU."""
    y += tl.load(bias_ptr + n, mask=n < N, other=0.0)[None, :]
    if ADD:
        y += tl.load(more_ptr + line[:, None] * N + n[None, :], mask=inside, other=0.0)
    if ELU:
        y = elu(y)
    return y


@triton.jit
def _conv_sum_kernel(
    x_ptr,
    w_ptr,
    bias_ptr,
    more_ptr,
    out_ptr,
    log_ptr,
    slots_ptr,
    position_ptr,
    R,
    STEPS: tl.constexpr,
    TAPS: tl.constexpr,
    DILATION: tl.constexpr,
    K: tl.constexpr,
    N: tl.constexpr,
    ENTRIES: tl.constexpr,
    FLOATS: tl.constexpr,
    ELU_IN: tl.constexpr,
    ADD: tl.constexpr,
    ELU_OUT: tl.constexpr,
    LINES: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PDL: tl.constexpr,
):
    """out [R * STEPS, N] of x [R * STEPS, K] by w [N, TAPS * K]. Programs: (outputs)."""
    CONTEXT: tl.constexpr = (TAPS - 1) * DILATION
    line, k = tl.arange(0, LINES), tl.arange(0, BK)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    row, t, live = line // STEPS, line % STEPS, line < R * STEPS
    tile = w_ptr + n[:, None] * (TAPS * K) + k[None, :]
    there = (n < N)[:, None] & (k < K)[None, :]
    sums = tl.zeros([LINES, BN, BK], tl.float32)
    if CONTEXT > 0:
        old, _ = carries(slots_ptr, position_ptr, row, live, ENTRIES, FLOATS)
        for tap in tl.static_range(TAPS - 1):
            w = tl.load(tile + tap * K, mask=there, other=0.0)
            sums += w[None, :, :] * from_context(log_ptr, old, t + tap * DILATION, k, live, CONTEXT, K)[:, None, :]
    wait_for_previous(PDL)
    for tap in tl.static_range(TAPS):
        if STEPS - 1 + tap * DILATION >= CONTEXT:
            w = tl.load(tile + tap * K, mask=there, other=0.0)
            x = from_frame(x_ptr, row, t + tap * DILATION, k, live, STEPS, CONTEXT, K, ELU_IN)
            sums += w[None, :, :] * x[:, None, :]
    inside = live[:, None] & (n < N)[None, :]
    y = finished(tl.sum(sums, axis=2), bias_ptr, more_ptr, line, n, inside, N, ADD, ELU_OUT)
    tl.store(out_ptr + line[:, None] * N + n[None, :], y, mask=inside)
    if CONTEXT > 0:
        program, programs = tl.program_id(0), tl.num_programs(0)
        keep_context(
            x_ptr,
            log_ptr,
            slots_ptr,
            position_ptr,
            R,
            program,
            programs,
            STEPS,
            CONTEXT,
            K,
            ELU_IN,
            ENTRIES,
            FLOATS,
            BK,
        )


@triton.jit
def _conv_dot_kernel(
    x_ptr,
    w_ptr,
    bias_ptr,
    more_ptr,
    out_ptr,
    log_ptr,
    slots_ptr,
    position_ptr,
    R,
    STEPS: tl.constexpr,
    TAPS: tl.constexpr,
    DILATION: tl.constexpr,
    K: tl.constexpr,
    N: tl.constexpr,
    ENTRIES: tl.constexpr,
    FLOATS: tl.constexpr,
    ELU_IN: tl.constexpr,
    ADD: tl.constexpr,
    ELU_OUT: tl.constexpr,
    LINES: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    """out [R * STEPS, N] of x [R * STEPS, K] by w [N, TAPS * K]. Programs: (outputs, lines)."""
    CONTEXT: tl.constexpr = (TAPS - 1) * DILATION
    line = tl.program_id(1) * LINES + tl.arange(0, LINES)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    row, t, live = line // STEPS, line % STEPS, line < R * STEPS
    old = row
    if CONTEXT > 0:
        old, _ = carries(slots_ptr, position_ptr, row, live, ENTRIES, FLOATS)
    wait_for_previous(PDL)
    y = tap_products(
        x_ptr, w_ptr, log_ptr, old, row, t, n, live, STEPS, TAPS, DILATION, K, N, ELU_IN, LINES, BN, BK, PRECISION
    )
    inside = live[:, None] & (n < N)[None, :]
    y = finished(y, bias_ptr, more_ptr, line, n, inside, N, ADD, ELU_OUT)
    tl.store(out_ptr + line[:, None] * N + n[None, :], y, mask=inside)
    if CONTEXT > 0:
        program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
        programs = tl.num_programs(0) * tl.num_programs(1)
        keep_context(
            x_ptr,
            log_ptr,
            slots_ptr,
            position_ptr,
            R,
            program,
            programs,
            STEPS,
            CONTEXT,
            K,
            ELU_IN,
            ENTRIES,
            FLOATS,
            WHOLE,
        )


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    taps: int,
    dilation: int,
    memory: Memory,
    name: str,
    out: Tensor,
    *,
    elu_before: bool = False,
    add: Tensor | None = None,
    elu_behind: bool = False,
    precision: str = "ieee",
) -> None:
    """x [n, steps, inputs] -> out [n, steps, outputs] by weight [outputs, taps * inputs], over the context of `name`.

    add: summed up with the result. elu_behind: of that sum. precision: of products in tiles, as `tl.dot` names it.
    """
    rows, steps, inputs = x.shape
    outputs, lines, width = len(weight), rows * steps, next_power_of_2(inputs)
    log = memory.part(name) if taps > 1 else x
    sizes = {"STEPS": steps, "TAPS": taps, "DILATION": dilation, "K": inputs, "N": outputs}
    carry = {"ENTRIES": memory.entries, "FLOATS": memory.floats}
    forms = {"ELU_IN": elu_before, "ADD": add is not None, "ELU_OUT": elu_behind}
    given = (x, weight, bias, x if add is None else add, out, log, memory.slots, memory.state.position, rows)
    options = {**sizes, **carry, **forms, **launch_options()}
    if lines <= SUMMED_LINES:
        tile = next_power_of_2(lines)
        block = min(8, max(1, _PRODUCTS // (tile * width)))
        launch(
            _conv_sum_kernel,
            (triton.cdiv(outputs, block),),
            *given,
            **options,
            LINES=tile,
            BN=block,
            BK=width,
            num_warps=8,
        )
    else:
        grid = (triton.cdiv(outputs, TILE), triton.cdiv(lines, TILE))
        chunk = min(_CHUNK, max(16, width))
        tiles = {"LINES": TILE, "BN": TILE, "BK": chunk, "WHOLE": width, "PRECISION": precision}
        launch(_conv_dot_kernel, grid, *given, **options, **tiles, num_warps=4)

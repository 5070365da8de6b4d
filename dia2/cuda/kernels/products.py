"""Triton kernels for matrix products of a few rows, with what comes before and after them.

At two to eight rows a transformer step is one long read of its weights: 2.8 GB for the backbone, 3.6 GB for the
depformer. Arithmetic costs nothing beside it. What keeps separate operations from the memory's speed is the time
between reads: a kernel for the norm, one for the rotation, one for the activation, each of which waits for the one
before. So every product here also does what comes before it (norm, embedding) and after it (activation, residual).
Likewise attention is one kernel with norm, rotation and cache write (attention.py), and a draw is one kernel from
logits to token (draws.py). Each of them has a plain twin in torch, which the tests compare it with.

Four rules hold for all kernels:

- **Weights first.** A program loads its tile of the weights, which no kernel writes, before it waits for the kernel
  ahead (launch.py). So the memory keeps reading while the activations are being finished.
- **Round where the layers round.** Products accumulate in float32; results are rounded to the model's dtype at the
  places where dia2/model/layers.py does, so that eager and fast agree to rounding of sums.
- **Weights leave the cache first.** Most weights are read once a step and are larger than L2, so they are loaded as the
  first to be evicted (`evict_first`). Activations, gains and tables stay, and the few weights that the next stage reads
  again.
- **The same bits every time.** There are no float atomics: every sum has one order, so a conversation repeats exactly.

Products are for up to four rows, summed up in registers. They read 8-bit weights (fp8.py) as they are. With more rows,
cuBLAS computes the products on the matrix units, and norm and activation are kernels of their own.

Every function writes into buffers that it is given. Nothing here allocates, so all of it can be captured in a CUDA
graph. Knows nothing about models or steps. Importing this module imports triton.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from dia2.cuda.kernels.launch import (
    INTERPRETED,
    STEP_FIELDS,
    launch,
    launch_options,
    next_power_of_2,
    wait_for_previous,
)
from dia2.model.fp8 import Fp8Matrix, Matrix

MOST_ROWS = 4
"""Up to so many rows, products are summed up in registers; with more, cuBLAS on the matrix units is faster."""
_ACTIVATIONS = {"silu": 1, "swish": 1, "swiglu": 1, "gelu": 2, "geglu": 2, "relu": 3, "linear": 0, "identity": 0}


def _parts(matrix: Matrix) -> tuple[Tensor, Tensor, bool]:
    """Values, scales and whether there are any, as kernels take them: 8-bit values as bytes where a GPU has no e4m3."""
    if not isinstance(matrix, Fp8Matrix):
        return matrix, matrix, False
    values = matrix.values.data
    known = not INTERPRETED and torch.cuda.get_device_capability() >= (8, 9)
    return values if known else values.view(torch.uint8), matrix.scale.data, True


# ---- Products ----


@triton.jit
def _weights(w, n, k, N, K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, AGAIN: tl.constexpr):
    """Rows n and columns k of a matrix [N, K] -> [BN, BK]. AGAIN: they are read again soon and shall stay in L2."""
    offsets = n[:, None].to(tl.int64) * K + k[None, :]
    mask = (n < N)[:, None]
    if K % BK != 0:
        mask = mask & (k < K)[None, :]
    if AGAIN:
        return tl.load(w + offsets, mask=mask, other=0.0)
    return tl.load(w + offsets, mask=mask, other=0.0, eviction_policy="evict_first")


@triton.jit
def _widened(w):
    """Weights as float32. Bytes are 8-bit floats of the format e4m3."""
    if w.dtype == tl.uint8:  # moves its bits to where float32 has them, and corrects the exponent's bias
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
    """x float32 [ROWS, BK] plus their lines' entries of a table, rounded to the sum's dtype; a line has two rows."""
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
    wait_for_previous(PDL)
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
    wait_for_previous(PDL)
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
    """out [R, N]: the embedding of every line's column, in row 2 i as it is and in row 2 i + 1 without text."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    r = tl.arange(0, ROWS)
    w_main = _weights(main_ptr, n, k, N, K, BN, BK, False)
    w_second = _weights(second_ptr, n, k, N, K, BN, BK, False)
    wait_for_previous(PDL)
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
    slot = tl.maximum(tl.load(step + 5, mask=live, other=0), 0)
    code = tl.load(codes_ptr + (slot[:, None] * C + c[None, :]) * capacity + column[:, None], mask=have, other=0)
    entry = (c[None, :] * V + code)[:, :, None] * N + n[None, None, :]
    audio = tl.load(audio_ptr + entry, mask=have[:, :, None] & (n < N)[None, None, :], other=0.0).to(tl.float32)
    y += tl.sum(audio, axis=1).to(dtype).to(tl.float32)
    tl.store(out_ptr + r[:, None] * N + n[None, :], y.to(dtype), mask=live[:, None] & (n < N)[None, :])


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
    wait_for_previous(PDL)
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
    wait_for_previous(PDL)
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
"""(kind, outputs, inputs) of a product -> its tile, if whole steps on an H100 were faster than with the usual one."""


@dataclass(frozen=True)
class Tiles:
    """The tile of every product: the usual one, but for some. special: as `TILES`."""

    usual: Tile
    special: Mapping[tuple[str, int, int], Tile]

    def of(self, kind: str, outputs: int, inputs: int) -> Tile:
        return self.special.get((kind, outputs, inputs), self.usual)


TILE_SETS = {
    "h100": Tiles(Tile(), TILES),
    "4": Tiles(Tile(), {}),
    "2": Tiles(Tile(2, 2), {}),
    "8": Tiles(Tile(8, 8), {}),
}
"""Tiles by name: those for an H100, and some that are the same for every product, for cards that nobody has tuned."""
H100_TILES = TILE_SETS["h100"]


@dataclass(frozen=True)
class Embedding:
    """What a product's input gets added first: row token[i] of a table, to both rows of line i of the step."""

    table: Tensor  # [vocabulary, K]
    token: Tensor  # int64 [n], any stride, for rows 2 i and 2 i + 1
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
    tiles: Tiles = H100_TILES,
) -> None:
    """out [R, N] = (out +) norm(x [R, K] + embedding) @ matrix [N, K].T; x may have a stride.

    again: the matrix is read again soon, and small enough to stay in L2 until then.
    """
    rows, (outputs, inputs) = x.shape[0], matrix.shape
    values, scale, scaled = _parts(matrix)
    tile = tiles.of("linear", outputs, inputs)
    whole = norm is not None or embedding is not None  # the norm needs the row in one piece
    width = next_power_of_2(inputs) if whole else min(next_power_of_2(inputs), _WIDEST)
    extra = embedding or Embedding(x, out, x)
    launch(
        _linear_kernel,
        (triton.cdiv(outputs, tile.outputs),),
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
        ROWS=next_power_of_2(rows),
        BN=tile.outputs,
        BK=width,
        NORM=norm is not None,
        ADD=add,
        EMBED=embedding is not None,
        SCALED=scaled,
        AGAIN=again,
        num_warps=tile.warps,
        **launch_options(),
    )


def gated(
    x: Tensor,
    norm: Tensor,
    eps: float,
    matrix: Matrix,
    out: Tensor,
    activations: tuple[str, ...],
    tiles: Tiles = H100_TILES,
) -> None:
    """out [R, N] = act0(gate) * act1(up) of norm(x [R, K]) @ matrix [2 N, K].T."""
    (rows, inputs), outputs = x.shape, out.shape[1]
    values, scale, scaled = _parts(matrix)
    tile = tiles.of("gated", outputs, inputs)
    launch(
        _gated_kernel,
        (triton.cdiv(outputs, tile.outputs),),
        x,
        norm,
        values,
        scale,
        out,
        rows,
        outputs,
        eps,
        K=inputs,
        ROWS=next_power_of_2(rows),
        BN=tile.outputs,
        BK=next_power_of_2(inputs),
        GATE=_ACTIVATIONS[activations[0]],
        UP=_ACTIVATIONS[activations[1]],
        SCALED=scaled,
        num_warps=tile.warps,
        **launch_options(),
    )


def normed(x: Tensor, norm: Tensor, eps: float, out: Tensor, embedding: Embedding | None = None) -> None:
    """out = norm(x + embedding), [rows, K]; x may have a stride."""
    rows, width = x.shape
    extra = embedding or Embedding(x, out, x)
    launch(
        _norm_kernel,
        (rows,),
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
        BK=next_power_of_2(width),
        EMBED=embedding is not None,
        num_warps=4,
        **launch_options(),
    )


def product(both: Tensor, out: Tensor, activations: tuple[str, ...]) -> None:
    """out [rows, N] = act0(first half) * act1(second half) of both [rows, 2 N]."""
    rows, width = out.shape
    gate, up = (_ACTIVATIONS[name] for name in activations)
    grid = (rows, triton.cdiv(width, 1024))
    launch(_product_kernel, grid, both, out, width, BN=1024, GATE=gate, UP=up, num_warps=4, **launch_options())


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
    tiles: Tiles = H100_TILES,
) -> None:
    """out [2 n, D]: the column and text of n lines of the step's fields, embedded; odd rows have no text.

    codes: int64 [slots, C, capacity]. zero, pad: the two text tokens of the rows without text.
    """
    outputs, inputs = main_proj.shape
    codebooks, vocabulary = audio.shape[:2]
    tile = tiles.of("embed", outputs, inputs)
    launch(
        _embed_kernel,
        (triton.cdiv(outputs, tile.outputs),),
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
        ROWS=next_power_of_2(out.shape[0]),
        BN=tile.outputs,
        BK=next_power_of_2(inputs),
        BC=next_power_of_2(codebooks),
        num_warps=tile.warps,
        **launch_options(),
    )

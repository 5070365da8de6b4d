"""Kernels for many columns of one conversation at once: what a pass needs beside the products of many rows.

A pass runs columns whose text and codes are known. Products of so many rows are cuBLAS's (programs.py). What lies
between them are these kernels: the sum of a column's code embeddings, norm and rotation of queries and keys with the
write into the cache, and attention in which every column sees those before it.

Row 2 i belongs to line i of the pass with its text, row 2 i + 1 without it, as in a step. All lines belong to one slot,
or each slot has its lines in tiles of TILE. The columns of a pass may be a tree (dia2/steps/speculation.py): then a
line's `seen` says which of the columns before it are on its own way.
Lines that only fill up the pass stand behind the others and have no slot: they write nothing, and nobody reads what
comes out of them. Each kernel has a plain twin in torch, which the tests compare it with.
"""

import triton
import triton.language as tl
from torch import Tensor

from dia2.cuda.kernels.attention import place, turned
from dia2.cuda.kernels.launch import STEP_FIELDS, launch, launch_options, next_power_of_2, wait_for_previous

TILE = 16
"""Lines that a program of the attention has, in passes of at most MOST_IN_TILES; in longer ones it has more."""
MOST_IN_TILES = 128


@triton.jit
def _codes_kernel(
    step_ptr,
    codes_ptr,
    audio_ptr,
    x_ptr,
    N,
    capacity,
    FIELDS: tl.constexpr,
    C: tl.constexpr,
    V: tl.constexpr,
    BN: tl.constexpr,
    PDL: tl.constexpr,
):
    """x [rows, N] += the embeddings of the codes of each row's column. Programs: (line, BN outputs)."""
    line = tl.program_id(0)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    wait_for_previous(PDL)
    dtype = x_ptr.dtype.element_ty
    column = tl.load(step_ptr + line * FIELDS)
    slot = tl.maximum(tl.load(step_ptr + line * FIELDS + 5), 0)
    audio = tl.zeros([BN], tl.float32)
    for c in range(C):
        code = tl.load(codes_ptr + (slot * C + c) * capacity + column)
        audio += tl.load(audio_ptr + (c * V + code) * N + n, mask=n < N, other=0.0).to(tl.float32)
    audio = audio.to(dtype).to(tl.float32)
    for branch in tl.static_range(2):
        at = x_ptr + (2 * line + branch) * N + n
        x = tl.load(at, mask=n < N, other=0.0).to(tl.float32)
        tl.store(at, (x + audio).to(dtype), mask=n < N)


def add_codes(fields: Tensor, codes: Tensor, audio: Tensor, x: Tensor) -> None:
    """x [2 n, D] += the embeddings of the codes of n lines' columns, in both rows of each.

    fields: of the lines, int64 [n, STEP_FIELDS]. codes: int64 [slots, C, capacity]. audio: the tables [C, V, D].
    """
    codebooks, vocabulary, width = audio.shape
    block = min(1024, next_power_of_2(width))
    launch(
        _codes_kernel,
        (len(fields), triton.cdiv(width, block)),
        fields,
        codes,
        audio,
        x,
        width,
        codes.shape[2],
        FIELDS=STEP_FIELDS,
        C=codebooks,
        V=vocabulary,
        BN=block,
        num_warps=4,
        **launch_options(),
    )


@triton.jit
def _turn_kernel(
    qkv_ptr,
    q_norm_ptr,
    k_norm_ptr,
    cos_ptr,
    sin_ptr,
    k_ptr,
    v_ptr,
    step_ptr,
    table_ptr,
    eps,
    FIELDS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TABLE_WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    KV: tl.constexpr,
    HALF: tl.constexpr,
    BH: tl.constexpr,
    BKV: tl.constexpr,
    PDL: tl.constexpr,
):
    """Norm and rotation of a row's queries, where they lie, and of its keys, which go into the cache with the values.

    Programs: row.
    """
    DIM: tl.constexpr = 2 * HALF
    row = tl.program_id(0)
    d, both = tl.arange(0, HALF), tl.arange(0, DIM)
    h, kv = tl.arange(0, BH)[:, None], tl.arange(0, BKV)[:, None]
    wait_for_previous(PDL)
    step = step_ptr + (row // 2) * FIELDS
    slot = tl.load(step + 5)
    if slot < 0:
        return
    position, index = tl.load(step), tl.load(step + 1).to(tl.int32)
    cos = tl.load(cos_ptr + position * HALF + d)[None, :]
    sin = tl.load(sin_ptr + position * HALF + d)[None, :]
    qkv = qkv_ptr + row * ((HEADS + 2 * KV) * DIM)

    q_at = qkv + h * DIM + d[None, :]
    q1 = tl.load(q_at, mask=h < HEADS, other=0.0).to(tl.float32)
    q2 = tl.load(q_at + HALF, mask=h < HEADS, other=0.0).to(tl.float32)
    q1, q2 = turned(q1, q2, q_norm_ptr, d, cos, sin, eps, HALF, True)
    tl.store(q_at, q1.to(qkv_ptr.dtype.element_ty), mask=h < HEADS)
    tl.store(q_at + HALF, q2.to(qkv_ptr.dtype.element_ty), mask=h < HEADS)

    k_at = qkv + (HEADS + kv) * DIM + d[None, :]
    k1 = tl.load(k_at, mask=kv < KV, other=0.0).to(tl.float32)
    k2 = tl.load(k_at + HALF, mask=kv < KV, other=0.0).to(tl.float32)
    k1, k2 = turned(k1, k2, k_norm_ptr, d, cos, sin, eps, HALF, True)
    v = tl.load(qkv + (HEADS + KV + kv) * DIM + both[None, :], mask=kv < KV, other=0.0)
    into = place(table_ptr + slot * TABLE_WIDTH, row % 2 * KV + kv, index, True, 2 * KV, DIM, COLUMNS, True)
    tl.store(k_ptr + into + d[None, :], k1.to(k_ptr.dtype.element_ty), mask=kv < KV)
    tl.store(k_ptr + into + HALF + d[None, :], k2.to(k_ptr.dtype.element_ty), mask=kv < KV)
    tl.store(v_ptr + into + both[None, :], v, mask=kv < KV)


@triton.jit
def _causal_kernel(
    qkv_ptr,
    k_ptr,
    v_ptr,
    step_ptr,
    table_ptr,
    out_ptr,
    n,
    FIELDS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TABLE_WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    KV: tl.constexpr,
    DIM: tl.constexpr,
    GROUP: tl.constexpr,
    LINES: tl.constexpr,
    BLOCK: tl.constexpr,
    TREE: tl.constexpr,
    PDL: tl.constexpr,
):
    """Attention of LINES lines over the columns up to each line's own. Programs: (branch x KV head, tile of lines).

    With TREE, a line sees the column j places before its own if bit j of its `seen` is set; bit 63 stands for all that
    are further back, too.

    A program has all query heads that share a KV head, for all of its lines: LINES x GROUP queries. It reads the cache
    BLOCK columns at a time, as far as its last line sees.
    """
    pair, tile = tl.program_id(0), tl.program_id(1)
    branch, kv = pair // KV, pair % KV
    ours: tl.constexpr = HEADS // KV
    m = tl.arange(0, LINES * GROUP)
    line, g = tile * LINES + m // GROUP, m % GROUP
    t, d = tl.arange(0, BLOCK), tl.arange(0, DIM)
    wait_for_previous(PDL)
    slot = tl.load(step_ptr + tile * LINES * FIELDS + 5)
    if slot < 0:
        return
    # A line that fills up the pass sees column 0, so that what comes out of it is a number.
    used = tl.load(step_ptr + line * FIELDS + 5, mask=line < n, other=-1) >= 0
    index = tl.load(step_ptr + line * FIELDS + 1, mask=used, other=0).to(tl.int32)
    seen = tl.load(step_ptr + line * FIELDS + 2, mask=used, other=-1)
    stop = tl.max(index, axis=0) + 1
    mine = ((line < n) & (g < ours))[:, None]
    row = 2 * line + branch
    q_at = qkv_ptr + (row * ((HEADS + 2 * KV) * DIM) + (kv * ours + g) * DIM)[:, None] + d[None, :]
    q = tl.load(q_at, mask=mine, other=0.0)
    table_ptr += slot * TABLE_WIDTH

    best = tl.full([LINES * GROUP], float("-inf"), tl.float32)
    total = tl.zeros([LINES * GROUP], tl.float32)
    mixed = tl.zeros([LINES * GROUP, DIM], tl.float32)
    for start in range(0, stop, BLOCK):
        at = place(table_ptr, pair, start, True, 2 * KV, DIM, COLUMNS, True) + t[:, None] * DIM + d[None, :]
        there = (start + t < stop)[:, None]
        k = tl.load(k_ptr + at, mask=there, other=0.0)
        v = tl.load(v_ptr + at, mask=there, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        back = index[:, None] - (start + t)[None, :]
        visible = back >= 0
        if TREE:
            places = tl.minimum(tl.maximum(back, 0), 63).to(tl.int64)
            visible = visible & (((seen[:, None] >> places) & 1) != 0)
        scores = tl.where(visible, scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, axis=1))
        weights = tl.exp(scores - higher[:, None])
        shrink = tl.exp(best - higher)
        total = total * shrink + tl.sum(weights, axis=1)
        mixed = mixed * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        best = higher
    out_at = out_ptr + (row * (HEADS * DIM) + (kv * ours + g) * DIM)[:, None] + d[None, :]
    tl.store(out_at, (mixed / total[:, None]).to(out_ptr.dtype.element_ty), mask=mine)


class ColumnsAttention:
    """Attention of the columns of a pass, for models of one shape."""

    def __init__(self, heads: int, kv_heads: int, head_dim: int) -> None:
        self.heads, self.kv_heads, self.dim = heads, kv_heads, head_dim

    def __call__(
        self,
        qkv: Tensor,
        norms: tuple[Tensor, Tensor],
        eps: float,
        tables: tuple[Tensor, Tensor],
        cache: tuple[Tensor, Tensor],
        out: Tensor,
        fields: Tensor,
        table: Tensor,
        tree: bool = False,
    ) -> None:
        """qkv [2 n, (heads + 2 kv_heads) head_dim] -> out [2 n, heads head_dim], writing k and v into the cache.

        tables: cosines and sines [positions, head_dim / 2]. cache: keys and values [blocks, 2, kv_heads, columns,
        head_dim] each; columns: a multiple of 16, or a whole context. fields: int64 [n, STEP_FIELDS] of the lines,
        whose cache indices rise. table: int32 [slots, blocks of a context]. The queries in qkv are turned in place.
        tree: the fields' `SEEN` says what each line sees.
        """
        lines, columns = len(fields), cache[0].shape[-2]
        shape = {
            "FIELDS": STEP_FIELDS,
            "COLUMNS": columns,
            "TABLE_WIDTH": table.shape[1],
            "HEADS": self.heads,
            "KV": self.kv_heads,
            **launch_options(),
        }
        heads = {"BH": next_power_of_2(self.heads), "BKV": next_power_of_2(self.kv_heads)}
        at = *cache, fields, table
        half = self.dim // 2
        launch(_turn_kernel, (2 * lines,), qkv, *norms, *tables, *at, eps, HALF=half, num_warps=4, **heads, **shape)
        group = next_power_of_2(self.heads // self.kv_heads)
        # Few lines in small tiles fill more of the GPU; many in large ones read the cache less often.
        tile = TILE if lines <= MOST_IN_TILES else 64
        block = next(size for size in (64, 32, 16) if columns % size == 0 or table.shape[1] == 1)
        launch(
            _causal_kernel,
            (2 * self.kv_heads, triton.cdiv(lines, tile)),
            qkv,
            *at,
            out,
            lines,
            DIM=self.dim,
            GROUP=group,
            LINES=tile,
            BLOCK=block,
            TREE=tree,
            num_warps=4 if tile * group <= 64 else 8,
            num_stages=2,
            **shape,
        )

"""The first kernel of a codec's frame: codes to latents, their upsampling, and what the kernels behind it look up.

Codebooks are tables that are projected already (dia2/codec/decoder.py), so a frame's latent is a sum of one row of each
table. The upsampling is a transposed convolution of each channel alone: a latent makes two steps of this frame, and
waits in the carry for two steps of the next one.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from dia2.codec.state import CodecState
from dia2.cuda.kernels.launch import launch, launch_options, next_power_of_2


@dataclass(frozen=True)
class Memory:
    """The slots that a pass works on, as kernels find them.

    slots: int64 [n], the slot of each row. began: int64 [n], the rows' positions before the pass, which the first
    kernel writes down, because the last one moves the slots on.
    """

    state: CodecState
    slots: Tensor
    began: Tensor

    @property
    def entries(self) -> int:
        """How many carries the log of a slot holds. A pass reads one and writes the next: two at least."""
        return self.state.log.shape[1]

    @property
    def floats(self) -> int:
        """Of one carry."""
        return self.state.log.shape[2]

    def part(self, name: str) -> Tensor:
        """The log, from where a part's floats lie in the first slot's first carry."""
        start = 0
        for part, size in zip(self.state.shape.carries, self.state.shape.sizes, strict=True):
            if part == name:
                break
            start += size
        return self.state.log.view(-1)[start:]


@triton.jit
def carries(slots_ptr, position_ptr, row, live, ENTRIES: tl.constexpr, FLOATS: tl.constexpr):
    """Where the carries lie that the rows' pass reads and writes, as offsets into the log.

    No kernel but the last one of a pass changes positions, and the first one lets no other start before it has waited
    for all that came before the pass. So those between them may call this before they wait.
    """
    slot = tl.load(slots_ptr + row, mask=live, other=0)
    frame = tl.load(position_ptr + slot, mask=live, other=0) // 2
    return (slot * ENTRIES + frame % ENTRIES) * FLOATS, (slot * ENTRIES + (frame + 1) % ENTRIES) * FLOATS


@triton.jit
def _front_kernel(
    codes_ptr,
    table_ptr,
    taps_ptr,
    frequencies_ptr,
    log_ptr,
    slots_ptr,
    position_ptr,
    out_ptr,
    turns_ptr,
    began_ptr,
    SIZE: tl.constexpr,
    CODEBOOKS: tl.constexpr,
    HIDDEN: tl.constexpr,
    HALF: tl.constexpr,
    ENTRIES: tl.constexpr,
    FLOATS: tl.constexpr,
    BC: tl.constexpr,
    BN: tl.constexpr,
    BH: tl.constexpr,
    PDL: tl.constexpr,
):
    """Two steps [2, HIDDEN] of a row, and RoPE's cosines and sines [2, HALF, 2] of them. Programs: (row, channels)."""
    row = tl.program_id(0)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    c = tl.arange(0, BC)
    if PDL:  # the other way round than elsewhere: kernels behind this one read positions before they wait
        gdc_wait()
        gdc_launch_dependents()
    old, new = carries(slots_ptr, position_ptr, row, row >= 0, ENTRIES, FLOATS)
    code = tl.load(codes_ptr + row * CODEBOOKS + c, mask=c < CODEBOOKS, other=-1)
    known = (code >= 0) & (code < SIZE)
    entry = tl.where(known, c * SIZE + code, CODEBOOKS * SIZE)  # the last row is zero
    inside = (c < CODEBOOKS)[:, None] & (n < HIDDEN)[None, :]
    latent = tl.sum(tl.load(table_ptr + entry[:, None] * HIDDEN + n[None, :], mask=inside, other=0.0), axis=0)
    for step in tl.static_range(2):
        waiting = tl.load(log_ptr + old + step * HIDDEN + n, mask=n < HIDDEN, other=0.0)
        now = tl.load(taps_ptr + step * HIDDEN + n, mask=n < HIDDEN, other=0.0)
        later = tl.load(taps_ptr + (step + 2) * HIDDEN + n, mask=n < HIDDEN, other=0.0)
        tl.store(out_ptr + (row * 2 + step) * HIDDEN + n, latent * now + waiting, mask=n < HIDDEN)
        tl.store(log_ptr + new + step * HIDDEN + n, latent * later, mask=n < HIDDEN)
    if tl.program_id(1) == 0:
        position = tl.load(position_ptr + tl.load(slots_ptr + row))
        tl.store(began_ptr + row, position)
        d = tl.arange(0, BH)
        frequency = tl.load(frequencies_ptr + d, mask=d < HALF, other=0.0)
        for step in tl.static_range(2):
            angle = (position + step).to(tl.float64) * frequency  # float64: exact enough after years
            at = turns_ptr + ((row * 2 + step) * HALF + d) * 2
            tl.store(at, tl.cos(angle).to(tl.float32), mask=d < HALF)
            tl.store(at + 1, tl.sin(angle).to(tl.float32), mask=d < HALF)


def front(
    codes: Tensor, table: Tensor, size: int, taps: Tensor, frequencies: Tensor, memory: Memory, name: str, out: Tensor
) -> Tensor:
    """Codes int64 [n, codebooks, 1] -> two steps of each row, in out [n, 2, hidden], and their turns [n, 2, half, 2].

    table: [codebooks * size + 1, hidden]. taps: [4, hidden], of the upsampling, whose carry is `name`'s.
    """
    rows, _, hidden = out.shape
    turns = torch.empty(rows, 2, len(frequencies), 2, device=out.device)
    width = min(64, next_power_of_2(hidden))
    launch(
        _front_kernel,
        (rows, triton.cdiv(hidden, width)),
        codes,
        table,
        taps,
        frequencies,
        memory.part(name),
        memory.slots,
        memory.state.position,
        out,
        turns,
        memory.began,
        SIZE=size,
        CODEBOOKS=codes.shape[1],
        HIDDEN=hidden,
        HALF=len(frequencies),
        ENTRIES=memory.entries,
        FLOATS=memory.floats,
        BC=next_power_of_2(codes.shape[1]),
        BN=width,
        BH=next_power_of_2(len(frequencies)),
        num_warps=4,
        **launch_options(),
    )
    return turns

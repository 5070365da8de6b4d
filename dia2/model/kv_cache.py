"""The backbone's key/value cache. It has a fixed size, and going back in it costs nothing.

A column is written at its index, and a query at index i reads columns 0..i. What lies behind i is never read. So a
conversation goes back by stepping on from an earlier index, and a new one begins by stepping on from index 0: nothing
is cleared.

The columns lie in blocks (blocks.py), and a table on the device says which blocks a slot has. Where each slot has a
single block for its whole context, as on a CPU, passes over neighbouring slots read the cache where it lies. Else the
attention kernel reads the table (dia2/cuda/kernels/attention.py), and plain operations copy what they read.

Index and rotary position of a column are the same number, except after the published voice prefix: the published code
runs its last column twice, so every index behind it is one more than its position.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dia2.model.blocks import Blocks, blocks_of
from dia2.model.config import Dia2Config
from dia2.model.slots import SlotIndex, on_device

Update = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Writes a layer's k and v [rows, n, kv_heads, head_dim] where a pass writes, and returns what the pass may read.

That is the layer's first `live` columns of every row, [rows, kv_heads, live, head_dim] each.
"""


class CacheView(Protocol):
    """What a pass over some slots reads and writes. Row = slot's place in the pass * branches + branch."""

    def at(self, index: Tensor, live: int) -> Update:
        """Of a pass that writes the columns index [rows, n], and reads the first `live` columns."""


class WholeView:
    """Slots whose contexts lie in one piece, side by side: k and v are [layers, slots, branches, kv_heads, capacity,
    head_dim], slices of the cache over the same memory."""

    def __init__(self, k: Tensor, v: Tensor) -> None:
        self.k, self.v = k, v

    def at(self, index: Tensor, live: int) -> Update:
        where = index[:, None, :, None].expand(-1, self.k.shape[3], -1, self.k.shape[5])

        def update(layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            keys, values = self.k[layer].flatten(0, 1), self.v[layer].flatten(0, 1)
            keys.scatter_(2, where, k.transpose(1, 2))
            values.scatter_(2, where, v.transpose(1, 2))
            return keys[:, :, :live], values[:, :, :live]

        return update


class BlockView:
    """Slots whose columns lie in any blocks. They are written where they lie; reading them makes a copy.

    k, v: the whole cache. table: int64 [slots, blocks of a context], of the slots of the pass.
    """

    def __init__(self, k: Tensor, v: Tensor, table: Tensor, branches: int) -> None:
        self.k, self.v, self.table, self.branches = k, v, table, branches

    def at(self, index: Tensor, live: int) -> Update:
        columns = self.k.shape[4]
        branch, head = (torch.arange(size, device=index.device) for size in (self.branches, self.k.shape[3]))
        index = index.unflatten(0, (-1, self.branches))  # [slots, branches, n]
        block = self.table.gather(1, (index // columns).flatten(1)).view_as(index)
        write = block, branch[:, None], slice(None), index % columns
        used = self.table[:, None, None, : -(-live // columns)]
        read = used, branch[:, None, None], head[:, None], slice(min(columns, live))

        def update(layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            parts = []
            for whole, new in ((self.k[layer], k), (self.v[layer], v)):
                whole[write] = new.unflatten(0, (-1, self.branches))
                parts.append(whole[read].flatten(3, 4)[:, :, :, :live].flatten(0, 1))
            return parts[0], parts[1]

        return update


@dataclass(frozen=True, eq=False)
class Columns:
    """A copy of the first columns of some slot: keys and values, [layers, branches, kv_heads, columns, head_dim]."""

    k: Tensor
    v: Tensor

    @property
    def bytes(self) -> int:
        """Device memory that it takes."""
        return self.k.nbytes + self.v.nbytes


class KVCache:
    """The cache of all slots and branches.

    k, v: [layers, blocks, branches, kv_heads, columns of a block, head_dim]. blocks: who has which of them.
    table: int32 [slots, blocks of a context], the blocks of every slot.
    """

    def __init__(
        self,
        config: Dia2Config,
        slots: int,
        branches: int,
        capacity: int,
        device: torch.device,
        dtype: torch.dtype,
        block_columns: int | None = None,
        blocks: int | None = None,
    ) -> None:
        """An empty cache for `slots` contexts of at most `capacity` columns.

        block_columns: columns of a block; None: a context is one block. blocks: how many there are, see `Blocks`.
        """
        columns = min(block_columns or capacity, capacity)
        self.table = torch.empty(slots, blocks_of(capacity, columns), dtype=torch.int32, device=device)
        self.blocks = Blocks(slots, capacity, columns, blocks, partial(_write_table, self.table))
        self.table.fill_(self.blocks.total)
        self.table[:, 0] = torch.arange(slots, device=device)
        # Where a context has several blocks, there is one more: entries of the table without a block point to it.
        count = self.blocks.total + (self.blocks.most > 1)
        sizes = config.model.decoder
        shape = (sizes.n_layer, count, branches, sizes.kv_heads, self.blocks.columns, sizes.gqa_head_dim)
        self.k, self.v = _zeros(shape, device, dtype), _zeros(shape, device, dtype)

    def view(self, slots: SlotIndex, branches: int) -> CacheView:
        """What a pass over some slots reads and writes: their first `branches` branches (one, or all)."""
        if self.blocks.most == 1 and isinstance(slots.at, slice):
            return WholeView(self.k[:, slots.at, :branches], self.v[:, slots.at, :branches])
        return BlockView(self.k, self.v, self.table[slots.rows].long(), branches)

    def copied(self, slot: int, branches: int, columns: int, start: int = 0) -> Columns:
        """A copy of columns start..columns - 1 of a slot, at least one, for its first `branches` branches."""
        pieces = [(block, self._in_block(at)) for block, at in self.blocks.pieces(slot, columns, start)]
        parts = (
            torch.cat([whole[:, block, :branches, :, at] for block, at in pieces], dim=3) for whole in (self.k, self.v)
        )
        return Columns(*parts)

    def paste(self, slot: int, copy: Columns, start: int = 0) -> None:
        """Writes a copy that `copied` made, of any slot, into the columns of a slot from `start` on."""
        _, branches, _, columns, _ = copy.k.shape
        self.blocks.hold(slot, start + columns)
        for block, at in self.blocks.pieces(slot, start + columns, start):
            for whole, part in ((self.k, copy.k), (self.v, copy.v)):
                whole[:, block, :branches, :, self._in_block(at)] = part[:, :, :, at.start - start : at.stop - start]

    def move(self, slot: int, columns: Sequence[int], start: int) -> None:
        """Copies columns of a slot, by rising indices, to those from `start` on."""
        device = self.table.device
        source, target = on_device(columns, device), torch.arange(start, start + len(columns), device=device)
        size = self.blocks.columns
        for whole in (self.k, self.v):
            kept = whole[:, self.table[slot, source // size], :, :, source % size]
            whole[:, self.table[slot, target // size], :, :, target % size] = kept

    def _in_block(self, columns: slice) -> slice:
        """Where columns of a slot, all of one block, lie in that block."""
        first = columns.start % self.blocks.columns
        return slice(first, first + columns.stop - columns.start)

    def copy(self, source: int, target: int, columns: int) -> None:
        """Copies the first columns of a slot into another one. Raises RuntimeError where that cannot have as many."""
        self.blocks.trim(target, columns)
        self.blocks.hold(target, columns)
        pairs = zip(self.blocks.pieces(source, columns), self.blocks.pieces(target, columns), strict=True)
        for (old, at), (new, _) in pairs:
            for whole in (self.k, self.v):
                whole[:, new, :, :, : at.stop - at.start] = whole[:, old, :, :, : at.stop - at.start]

    @property
    def bytes(self) -> int:
        """Device memory that it takes."""
        return self.k.nbytes + self.v.nbytes


def _write_table(table: Tensor, slot: int, first: int, numbers: Sequence[int]) -> None:
    """Says on the device which blocks a slot has, from number `first` on: behind all that the device has to do."""
    row = torch.tensor(numbers, dtype=torch.int32, pin_memory=table.is_cuda)
    table[slot, first : first + len(numbers)].copy_(row, non_blocking=True)


def context_columns(config: Dia2Config) -> int:
    """How many columns the cache has for a context.

    Two more than the context: the last step draws the codes of one, and the published voice prefix runs one of its
    columns twice.
    """
    return config.runtime.max_context_steps + 2


def _zeros(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Zeros, not empty: a mask gives unwritten columns the weight 0, but 0 x NaN would still be NaN."""
    if device.type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    # The system gives such memory page by page when it is first written. So contexts that stay short take little.
    size, border = math.prod(shape) * dtype.itemsize, 64
    memory = np.zeros(size + border, np.uint8)
    start = -memory.ctypes.data % border
    return torch.from_numpy(memory[start : start + size]).view(dtype).view(shape)

"""Who has which block of the key/value cache: slots take blocks as their contexts grow, and give them back.

A cache is a pool of blocks of some columns each. Column t of a slot lies in the slot's block number t // columns. A
slot always has its first block. It takes another one when its context crosses a block's border, and gives blocks back
when the conversation is over or its context is rebuilt.

The pool may be smaller than all slots' full contexts together, because few of them are full at the same time. Then this
rule keeps every conversation going: each slot has a right to two thirds of a full context (`assured` blocks), which
nobody else gets, and the blocks beyond go to whoever comes first. `reach` says how many columns a slot can have as
things are now. A context that finds no further block is rebuilt, as one that is full is; two thirds are enough for the
longest voice, which takes half, some history, and the next sentences.

Pure bookkeeping: no torch.
"""

from collections.abc import Callable, Iterator, Sequence

BLOCK_COLUMNS = 64
"""Columns of a block on a GPU that holds many conversations: 14.7 MB with the 2B model in 16 bits and guidance."""


def blocks_of(columns: int, block_columns: int) -> int:
    """How many blocks so many columns take."""
    return -(-columns // block_columns)


def assured_blocks(capacity: int, block_columns: int) -> int:
    """How many blocks a slot has a right to, when a full context has `capacity` columns."""
    return blocks_of(blocks_of(2 * capacity, 3), block_columns)


class Blocks:
    """The blocks of a cache for `slots` contexts of at most `capacity` columns.

    columns: of each block. total: how many blocks there are, at least `assured` for each slot; None: as many as all
    slots' full contexts take. The blocks are numbered 0..total - 1; number `total` stands for no block.
    moved: is told of every change as (slot, first, blocks): the slot's blocks from number `first` on are now these.
    """

    def __init__(
        self,
        slots: int,
        capacity: int,
        columns: int,
        total: int | None = None,
        moved: Callable[[int, int, Sequence[int]], None] | None = None,
    ) -> None:
        self.capacity, self.columns = capacity, min(columns, capacity)
        self.most = blocks_of(capacity, self.columns)
        self.assured = assured_blocks(capacity, self.columns)
        self.total = slots * self.most if total is None else min(total, slots * self.most)
        if self.total < slots * self.assured:
            raise ValueError(f"{total} blocks for {slots} slots; each needs at least {self.assured}")
        self._moved = moved
        self._held = [[slot] for slot in range(slots)]
        self._free = list(range(self.total - 1, slots - 1, -1))
        self._spare = self.total - slots * self.assured  # free blocks that no slot has a right to

    @property
    def taken(self) -> int:
        """How many blocks slots have."""
        return self.total - len(self._free)

    def reach(self, slot: int) -> int:
        """How many columns the slot can have, if no other slot takes a block meanwhile."""
        blocks = max(len(self._held[slot]), self.assured) + self._spare
        return min(self.capacity, blocks * self.columns)

    def hold(self, slot: int, columns: int) -> None:
        """Makes sure that the slot has the blocks of its first columns. Raises RuntimeError beyond `reach`."""
        held = self._held[slot]
        have = len(held)
        if columns <= have * self.columns:
            return
        if columns > self.reach(slot):
            raise RuntimeError(f"slot {slot} needs {columns} columns of the cache; it can have {self.reach(slot)}")
        held.extend(self._free.pop() for _ in range(blocks_of(columns, self.columns) - have))
        self._changed(slot, have, have, held[have:])

    def trim(self, slot: int, columns: int) -> None:
        """Gives back the slot's blocks behind its first `columns` columns."""
        held = self._held[slot]
        have, keep = len(held), max(1, blocks_of(columns, self.columns))
        if keep < have:
            self._free.extend(reversed(held[keep:]))
            del held[keep:]
            self._changed(slot, keep, have, [self.total] * (have - keep))

    def held(self, slot: int) -> int:
        """How many columns the slot's blocks have."""
        return len(self._held[slot]) * self.columns

    def pieces(self, slot: int, columns: int, start: int = 0) -> Iterator[tuple[int, slice]]:
        """Columns start..columns - 1 of a slot, which it holds, block by block: the block, and which columns."""
        for block, first in zip(self._held[slot], range(0, max(1, columns), self.columns), strict=False):
            stop = min(first + self.columns, columns)
            if stop > start or columns == start == 0:
                yield block, slice(max(first, start), stop)

    def _changed(self, slot: int, first: int, had: int, blocks: Sequence[int]) -> None:
        self._spare += max(had, self.assured) - max(len(self._held[slot]), self.assured)
        if self._moved is not None:
            self._moved(slot, first, blocks)

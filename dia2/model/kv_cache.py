"""The backbone's key/value cache. It has a fixed size, and going back in it costs nothing.

A column is written at its index, and a query at index i reads columns 0..i. What lies behind i is never read. So a
conversation goes back by stepping on from an earlier index, and a new one begins by stepping on from index 0: nothing
is cleared, nothing is allocated.

Index and rotary position of a column are the same number, except after the published voice prefix: the published code
runs its last column twice, so every index behind it is one more than its position.
"""

import torch
from torch import Tensor

from dia2.model.config import Dia2Config
from dia2.model.slots import SlotIndex


class CacheView:
    """Keys and values of neighbouring slots, each [layers, slots, branches, kv_heads, capacity, head_dim].

    They are the whole cache, or slices of it over the same memory.
    """

    def __init__(self, k: Tensor, v: Tensor) -> None:
        self.k, self.v = k, v

    def rows(self, layer: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values, each [rows, kv_heads, capacity, head_dim]; row = slot * branches + branch."""
        return self.k[layer].flatten(0, 1), self.v[layer].flatten(0, 1)

    def update(self, layer: int, index: Tensor, k: Tensor, v: Tensor, live: int) -> tuple[Tensor, Tensor]:
        """Writes a layer's k and v [rows, n, kv_heads, head_dim] at columns index [rows, n].

        Returns the layer's first `live` columns, [rows, kv_heads, live, head_dim] each.
        """
        keys, values = self.rows(layer)
        where = index[:, None, :, None].expand(-1, k.shape[2], -1, k.shape[3])
        keys.scatter_(2, where, k.transpose(1, 2))
        values.scatter_(2, where, v.transpose(1, 2))
        return keys[:, :, :live], values[:, :, :live]


class ScatteredView(CacheView):
    """The cache of slots that are not neighbours. They are written where they lie; reading them makes a copy."""

    def __init__(self, k: Tensor, v: Tensor, slots: Tensor, branches: int) -> None:
        super().__init__(k, v)
        self.slots, self.branches = slots, branches

    def update(self, layer: int, index: Tensor, k: Tensor, v: Tensor, live: int) -> tuple[Tensor, Tensor]:
        slots, branches = self.slots[:, None, None], torch.arange(self.branches, device=index.device)[None, :, None]
        index = index.unflatten(0, (-1, self.branches))  # [slots, branches, n]
        parts = []
        for whole, new in ((self.k[layer], k), (self.v[layer], v)):
            whole[slots, branches, :, index] = new.unflatten(0, (-1, self.branches))
            parts.append(whole[self.slots, : self.branches, :, :live].flatten(0, 1))
        return parts[0], parts[1]


class KVCache(CacheView):
    """The whole cache: all slots, all branches."""

    @classmethod
    def allocate(
        cls, config: Dia2Config, slots: int, branches: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> "KVCache":
        """An empty cache of `capacity` columns for `slots` conversations."""
        sizes = config.model.decoder
        shape = (sizes.n_layer, slots, branches, sizes.kv_heads, capacity, sizes.gqa_head_dim)
        # Zeros, not empty: a mask gives unwritten columns the weight 0, but 0 x NaN would still be NaN.
        return cls(torch.zeros(shape, device=device, dtype=dtype), torch.zeros(shape, device=device, dtype=dtype))

    def view(self, slots: SlotIndex, branches: int) -> "CacheView":
        """What a pass over some slots reads and writes: their first `branches` branches (one, or all)."""
        if isinstance(slots.at, slice):
            return CacheView(self.k[:, slots.at, :branches], self.v[:, slots.at, :branches])
        return ScatteredView(self.k, self.v, slots.rows, branches)

    def copied(self, slot: int, branches: int, columns: int) -> "KVCache":
        """A copy of the first columns of a slot, for its first `branches` branches."""
        part = _part(slot, branches, columns)
        return KVCache(self.k[part].clone(), self.v[part].clone())

    def paste(self, slot: int, copy: "KVCache") -> None:
        """Writes a copy that `copied` made, of any slot, into the first columns of a slot."""
        _, _, branches, _, columns, _ = copy.k.shape
        part = _part(slot, branches, columns)
        self.k[part], self.v[part] = copy.k, copy.v

    @property
    def bytes(self) -> int:
        """Device memory it takes."""
        return 2 * self.k.numel() * self.k.element_size()


def _part(slot: int, branches: int, columns: int) -> tuple[slice, ...]:
    """Where one slot's first columns are."""
    return slice(None), slice(slot, slot + 1), slice(branches), slice(None), slice(columns)

"""The backbone's static key/value cache, which rewinds for nothing.

Two numbers say where a conversation stands: its `length`, the number of columns the cache holds, and its rotary
position. They are the same but after a published voice prefix, whose last column is run twice (model.md section 9).
A column is written at index `length`; whatever lies at or after `length` is never read. So going back is setting
`length`, and forgetting is setting it to 0: nothing is cleared, nothing is allocated.
"""

import torch
from torch import Tensor


class KVCache:
    """Keys and values of `layers` layers: each [rows, kv_heads, capacity, head_dim], rows = slots x branches."""

    def __init__(
        self,
        layers: int,
        slots: int,
        branches: int,
        kv_heads: int,
        capacity: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (layers, slots * branches, kv_heads, capacity, head_dim)
        # Zeros, not empty: columns past a slot's length are masked, but a NaN in them would survive 0 x NaN.
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)
        self.capacity = capacity
        self.branches = branches

    @property
    def bytes(self) -> int:
        """Device memory it takes."""
        return 2 * self.k.numel() * self.k.element_size()

    def write(self, layer: int, index: Tensor, k: Tensor, v: Tensor) -> None:
        """Writes k and v [rows, n, kv_heads, head_dim] of one layer at columns index [rows, n]."""
        where = index[:, None, :, None].expand(-1, k.shape[2], -1, k.shape[3])
        self.k[layer].scatter_(2, where, k.transpose(1, 2))
        self.v[layer].scatter_(2, where, v.transpose(1, 2))

    def copy_columns(self, source: "KVCache", slot: int, length: int, source_slot: int = 0) -> None:
        """Takes the first `length` columns of `source_slot` in another cache: how a known prefix is put back."""
        here = slice(slot * self.branches, (slot + 1) * self.branches)
        there = slice(source_slot * self.branches, (source_slot + 1) * self.branches)
        self.k[:, here, :, :length].copy_(source.k[:, there, :, :length])
        self.v[:, here, :, :length].copy_(source.v[:, there, :, :length])

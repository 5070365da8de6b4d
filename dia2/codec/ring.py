"""Attention of the codec over its rings: a few new positions of n slots, and those of the last 10 s.

Position p of a slot lies at p % capacity of its ring. A query sees the positions of its window, itself included, that
were written since the slot began. `attend_ring` is the plain way; on a GPU dia2/cuda/kernels/ring.py does the same
without copying the rings of slots that are not neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class RingView:
    """What attention needs to know about the new positions of one pass; the same for all layers.

    rotation: complex64 [n, steps, 1, width / 2], RoPE's turn of each new position.
    slots: int64 [n]. read: the same as an index into tensors [slots, ...], which is a slice if it is all of them.
    position, filled: int64 [n], before the pass (CodecState). window: positions that a query sees.
    """

    rotation: Tensor
    slots: Tensor
    read: Tensor | slice
    position: Tensor
    filled: Tensor
    steps: int
    capacity: int
    window: int

    @cached_property
    def places(self) -> Tensor:
        """Where in its ring each new position goes, int64 [n, steps]."""
        return (self.position[:, None] + torch.arange(self.steps, device=self.position.device)) % self.capacity

    @cached_property
    def mask(self) -> Tensor:
        """What each new position sees of the ring, once all of them are written: float32 [n, 1, steps, capacity]."""
        ring = torch.arange(self.capacity, device=self.position.device)
        last = self.position[:, None] + self.steps - 1
        # How many positions before the last new one each entry of the ring was written, or would have been.
        age = (last - ring) % self.capacity  # [n, capacity]
        written = age < self.filled[:, None] + self.steps
        behind = self.steps - 1 - ring[: self.steps]
        distance = age[:, None] - behind[:, None]  # [n, steps, capacity], from query back to key
        visible = (distance >= 0) & (distance < self.window) & written[:, None]
        mask = torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, -math.inf)
        return mask[:, None]


Attend = Callable[[Tensor, Tensor, Tensor, RingView], Tensor]
"""Attention of one layer: turns queries and keys, writes the new keys and values into the rings, and attends.

qkv [n, steps, (heads + 2 groups) * width], keys and values [slots, groups, capacity, width] and the view of the pass ->
[n, steps, heads * width].
"""


def attend_ring(qkv: Tensor, keys: Tensor, values: Tensor, view: RingView) -> Tensor:
    """Attention by plain operations. The pairs that RoPE turns lie beside each other in qkv."""
    slots, steps, _ = qkv.shape
    _, groups, _, width = keys.shape
    heads = qkv.shape[2] // width - 2 * groups
    pairs = qkv.view(slots, steps, -1, width // 2, 2)
    turned, value = torch.split(pairs, [heads + groups, groups], dim=2)
    turned = torch.view_as_real(torch.view_as_complex(turned) * view.rotation)
    query, key = torch.split(turned.flatten(3), [heads, groups], dim=2)
    keys[view.slots[:, None], :, view.places] = key
    values[view.slots[:, None], :, view.places] = value.flatten(3)
    keys, values = keys[view.read], values[view.read]
    # The query heads that share a key head are treated as more steps. Attention is written out, because a fused kernel,
    # which works along the keys, takes three times as long for so few queries.
    query = query.transpose(1, 2).reshape(slots, groups, -1, width)
    scores = (query @ keys.transpose(2, 3)).view(slots, heads, steps, -1).add_(view.mask)
    mixed = torch.softmax(scores, dim=3).view(slots, groups, -1, scores.shape[3]) @ values
    return mixed.view(slots, heads, steps, width).transpose(1, 2).flatten(2)

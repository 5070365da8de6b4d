"""Which slots an operation is about: any of them, in any order.

A slot is a place in the model's batch, and every tensor that remembers something of a conversation has a leading
dimension of slots. An operation on some of them, as a step of the conversations whose turn it is, reads and writes
those rows alone. Neighbours in order are a slice, which indexes without copying; others are an index tensor.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SlotIndex:
    """Some slots, each at most once.

    numbers: the slots, in the order of the rows. rows: the same, int64 [n] on the device.
    at: what to index a tensor [slots, ...] with to read their rows, a slice (a view) or `rows` (a copy).
    """

    numbers: tuple[int, ...]
    rows: Tensor
    at: slice | Tensor

    @classmethod
    def of(cls, numbers: Iterable[int], device: torch.device) -> "SlotIndex":
        """The slots by their numbers. Raises ValueError when there are none, or one twice."""
        numbers = tuple(numbers)
        if not numbers or len(set(numbers)) < len(numbers):
            raise ValueError(f"slots are {list(numbers)}, there must be at least one and none twice")
        rows = torch.tensor(numbers, device=device)
        neighbours = numbers == tuple(range(numbers[0], numbers[0] + len(numbers)))
        return cls(numbers, rows, slice(numbers[0], numbers[0] + len(numbers)) if neighbours else rows)

    def __len__(self) -> int:
        return len(self.numbers)

"""Which slots an operation is about: any of them, in any order.

A slot is a place in the model's batch, and every tensor that remembers something of a conversation has a leading
dimension of slots. An operation on some of them, as a step of the conversations whose turn it is, reads and writes
those rows alone. Neighbours in order are a slice, which indexes without copying; others are an index tensor.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def on_device(numbers: Sequence[int] | Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Whole numbers as an int64 tensor on the device, without waiting for the device to get there.

    A copy from ordinary memory waits until the stream has done all it was given; one from pinned memory does not.
    """
    if device.type != "cuda":
        return torch.tensor(numbers, dtype=torch.int64, device=device)
    return torch.tensor(numbers, dtype=torch.int64, pin_memory=True).to(device, non_blocking=True)


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
        rows = on_device(numbers, device)
        neighbours = numbers == tuple(range(numbers[0], numbers[0] + len(numbers)))
        return cls(numbers, rows, slice(numbers[0], numbers[0] + len(numbers)) if neighbours else rows)

    def __len__(self) -> int:
        return len(self.numbers)

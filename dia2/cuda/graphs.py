"""Capturing work as CUDA graphs, one for each batch size."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dia2.model.slots import on_device

MOST_SLOTS = 128
"""Slots that one step, or one pass of the codec, takes at most; there may be more of them in all."""


def batch_sizes(slots: int) -> tuple[int, ...]:
    """The sizes that graphs are captured for: 1, 2, 4 and so on, up to the first that `slots` fit in, or MOST_SLOTS.

    A batch runs as the smallest size that it fits in. Example: 5 of 20 slots run as a batch of 8, 3 rows of it unused.
    """
    sizes = [1]
    while sizes[-1] < min(slots, MOST_SLOTS):
        sizes.append(2 * sizes[-1])
    return tuple(sizes)


def size_for(count: int, sizes: tuple[int, ...]) -> int:
    """The smallest of the sizes that `count` slots fit in. Raises ValueError when there is none."""
    for size in sizes:
        if count <= size:
            return size
    raise ValueError(f"{count} slots at once; at most {sizes[-1]} can be")


class BatchRows:
    """Which slots the rows of a batch stand for: a tensor that graphs read, each as many rows as its size.

    sizes: of the graphs. Rows that a batch does not need stand for a spare slot that nobody has, number `slots`.
    """

    def __init__(self, slots: int, device: torch.device) -> None:
        self.sizes = batch_sizes(slots)
        self._spare, self._rows = slots, torch.full((self.sizes[-1],), slots, device=device)

    def first(self, size: int) -> Tensor:
        """What the graph of a size reads, int64 [size]."""
        return self._rows[:size]

    def fill(self, slots: Sequence[int]) -> int:
        """Says which slots the next batch is of. Returns the size of the graph for it."""
        size = size_for(len(slots), self.sizes)
        unused = [self._spare] * (size - len(slots))
        self._rows[:size] = on_device([*slots, *unused], self._rows.device)
        return size


class Capture:
    """Captures graphs on a device, which share the memory of their intermediate results.

    So their graphs must not run at the same time as each other: they are replayed on one stream.
    """

    def __init__(self, device: torch.device, stream: torch.cuda.Stream | None = None) -> None:
        self.device = device
        self.stream = stream or torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], object], warm_ups: int = 2) -> Callable[[], None]:
        """Runs `work`, so that kernels are compiled and libraries choose theirs; captures it and returns the replay."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            for _ in range(warm_ups):
                work()
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self.stream):
            work()
        return graph.replay

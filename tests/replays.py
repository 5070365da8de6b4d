"""Ten thousand launches of a kernel in a row, watched: clusters that wait for each other would wait for ever."""

import threading
from collections.abc import Callable

import torch
from torch import Tensor

LAUNCHES, SECONDS = 10_000, 120


def assert_every_launch_makes(
    expected: Tensor, made: Tensor, launch: Callable[[], object], prepare: Callable[[], object]
) -> None:
    """Replays a captured launch. made: where it leaves what it makes.

    prepare: puts the launch's input there before each one, and overwrites what the launch before has made.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    differing = torch.zeros((), dtype=torch.int64, device=made.device)

    def replay() -> None:
        with torch.inference_mode():
            for _ in range(LAUNCHES):
                prepare()
                graph.replay()
                differing.add_((made != expected).any())
            torch.cuda.synchronize()

    watched = threading.Thread(target=replay, daemon=True)
    watched.start()
    watched.join(timeout=SECONDS)
    assert not watched.is_alive(), f"{LAUNCHES} launches were not done within {SECONDS} seconds"
    assert not differing

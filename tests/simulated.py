"""An event loop whose clock is simulated: it jumps to the next timer instead of waiting for it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Time passes only while every task waits, and then at once."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._select = self._selector.select  # type: ignore[attr-defined]
        self._selector.select = self._jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._now

    def _jump(self, timeout: float | None) -> Any:
        assert timeout is not None, "every task waits, and nothing will ever come"
        self._now += timeout
        return self._select(0)


def simulate(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine in simulated time."""
    loop = SimulatedLoop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

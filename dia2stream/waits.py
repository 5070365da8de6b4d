"""Waiting for a while."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


async def within(seconds: float | None, work: Coroutine[Any, Any, _T]) -> _T:
    """What `work` returns, if it takes no longer; otherwise it is cancelled. None: it may take for ever.

    Like `asyncio.wait_for`, which before Python 3.12 loses a cancellation that comes just as `work` ends: whoever was
    cancelled then goes on. Raises asyncio.TimeoutError, and what `work` raises.
    """
    if seconds is None:
        return await work
    task = asyncio.ensure_future(work)
    try:
        in_time, _ = await asyncio.wait({task}, timeout=seconds)
    finally:
        task.cancel()  # no effect on one that has ended
        await asyncio.gather(task, return_exceptions=True)
    if task.cancelled() and not in_time:
        raise asyncio.TimeoutError
    return task.result()

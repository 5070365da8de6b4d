"""Waiting for a while: what comes in time, what does not, and whoever is cancelled meanwhile."""

import asyncio

import pytest
from serving import on_loop

from dia2stream.waits import within


@on_loop
async def test_what_ends_in_time_is_returned_or_raised():
    async def end(problem: Exception | None = None) -> str:
        await asyncio.sleep(0)
        if problem is not None:
            raise problem
        return "done"

    for seconds in (None, 60):
        assert await within(seconds, end()) == "done"
        with pytest.raises(ValueError, match="no"):
            await within(seconds, end(ValueError("no")))


@on_loop
async def test_what_takes_longer_has_ended_when_that_is_told():
    ended = []

    async def stay() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append("stay")

    with pytest.raises(asyncio.TimeoutError):
        await within(0.01, stay())
    assert ended == ["stay"]


@pytest.mark.parametrize("turns", range(6))
def test_a_cancellation_is_not_lost_however_soon_it_comes_after_what_was_waited_for(turns):
    @on_loop
    async def check() -> None:
        event, went_on = asyncio.Event(), []

        async def wait() -> None:
            await within(60, event.wait())
            await asyncio.sleep(0.01)
            went_on.append(turns)

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0.01)
        event.set()
        for _ in range(turns):  # of the event loop
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not went_on

    check()

"""A conversation outlives its server: another one with the same journal goes on with it."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from journals import redis_running
from piping import PATIENCE, a_second
from serving import Serve, events, hear, on_loop, sound
from tools import needs

from dia2stream.client import Client, connect
from dia2stream.errors import Disconnected
from dia2stream.journal.folder import FolderStore
from dia2stream.journal.store import LEASE_SECONDS, Fenced, LogLost, Renewal, Store
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Done, Paused, WordEvent

pytestmark = needs("redis-server")
WORDS = "One two three four five six seven eight nine ten eleven twelve"
TEXT = f"[S1] {WORDS}."


@pytest.fixture(params=["folder", "redis"])
def place(request: Any, tmp_path: Path) -> Iterator[str]:
    """Where a journal is."""
    if request.param == "folder":
        yield str(tmp_path / "journal")
    else:
        with redis_running(tmp_path) as (url, _):
            yield url


def opened(place: str, linger: float = 30.0) -> Store:
    if place.startswith("redis:"):
        from dia2stream.journal.redis_store import RedisStore

        return RedisStore(place, linger)
    return FolderStore(place, linger)


# ---- Stores ----


def test_a_log_has_one_owner_and_an_old_one_writes_no_more(place: str) -> None:
    one, other = opened(place), opened(place)
    assert one.acquire("k") is None  # there is no such log
    lease = one.acquire("k", new=True)
    assert lease is not None
    one.append(lease, 0, b"abc")
    one.append(lease, 3, b"defg")
    one.append(lease, 3, b"de")  # tried again, with what is known now
    assert one.read(lease) == b"abcde"
    assert other.acquire("k") is None
    assert one.renew(lease) is Renewal.HELD
    other.want("k")
    assert one.renew(lease) is Renewal.WANTED
    one.release(lease)
    taken = other.acquire("k")
    assert taken is not None
    assert (taken.size, taken.fence > lease.fence) == (5, True)
    assert other.renew(taken) is Renewal.HELD
    with pytest.raises(Fenced):
        one.append(lease, 5, b"late")
    with pytest.raises(LogLost):
        other.append(taken, 9, b"far")
    other.delete(taken)
    assert one.acquire("k") is None
    one.close()
    other.close()


def test_a_log_without_an_owner_expires(place: str) -> None:
    linger = 0.3 * a_second()  # on a busy machine the owner renews its lease late
    one, other = opened(place, linger), opened(place, linger)
    lease, kept = one.acquire("k", new=True), one.acquire("kept", new=True)
    assert lease is not None
    assert kept is not None
    one.append(lease, 0, b"abc")
    one.append(kept, 0, b"abc")
    one.release(lease)
    expired = time.monotonic() + 2 * linger + LEASE_SECONDS
    while time.monotonic() < expired:
        time.sleep(0.05)
        one.renew(kept)
        other.sweep()
    assert other.acquire("k") is None
    assert one.read(kept) == b"abc"
    one.close()
    other.close()


def test_a_lease_in_redis_ends_when_it_is_not_renewed(tmp_path: Path) -> None:
    with redis_running(tmp_path) as (url, _):
        one, other = opened(url), opened(url)
        lease = one.acquire("k", new=True)
        assert lease is not None
        time.sleep(0.7 * LEASE_SECONDS)
        one.append(lease, 0, b"abc")  # renews it
        time.sleep(0.5 * LEASE_SECONDS)
        assert other.acquire("k") is None
        time.sleep(0.5 * LEASE_SECONDS + 0.1)
        assert other.acquire("k") is not None
        assert one.renew(lease) is Renewal.LOST


# ---- Servers ----


async def back(server: Serve, lost: Client, seconds: float = PATIENCE) -> Client:
    """The client of a conversation comes to another server."""
    return await connect(server.url, conversation=lost.ready.conversation, received_ms=lost.received_ms)


async def heard_until_gone(client: Client, seconds: float, end: Any) -> list[Any]:
    """What comes until so many seconds of audio are there, and then until the server is gone."""
    items = []
    with contextlib.suppress(Disconnected):
        async for item in client:
            items.append(item)
            if client.received_ms >= seconds * 1000 and end is not None:
                end()
                end = None
    return items


def words(items: list[Any]) -> list[str]:
    """Each once: an event just ahead of the first frame that a client has not got may be told twice."""
    told = {(item.id, item.start_ms): item.word.strip(".") for item in items if isinstance(item, WordEvent)}
    return [*told.values()]


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_call_goes_on_at_another_server(place: str, how: signal.Signals) -> None:
    flags = {"journal": place, "max_lead_ms": 240}
    took = 0.0
    parts: list[list[Any]] = []
    whole: list[Any] = []

    @on_loop
    async def call() -> None:
        nonlocal took, whole
        async with await connect(two.url) as undisturbed:
            await undisturbed.start(TEXT, seed=5)
            whole = await hear(undisturbed)
            await undisturbed.hang_up()
        client = await connect(one.url)
        await client.start(TEXT, seed=5)
        parts.append(await heard_until_gone(client, 0.8, lambda: one.process.send_signal(how)))
        began = time.monotonic()
        client = await back(two, client)
        took = time.monotonic() - began
        paused = await hear(client, Paused)
        assert paused[-1].heard_ms == sum(a.samples for a in map_audio(parts[0])) / 24
        await client.resume()
        parts.append(await hear(client, Done))
        assert parts[-1][-1].audio_ms == client.received_ms
        await client.hang_up()

    with Serve(**flags) as one, Serve(**flags) as two:
        call()
        assert two.metric("dia2stream_take_overs_total") == 1
        assert not two.faults
    assert took < 2.0 + PATIENCE / 20
    assert words(parts[0] + parts[1]) == WORDS.split()
    original = np.frombuffer(sound(whole), "<i2").astype(int)
    pieced = np.frombuffer(sound(parts[0]) + sound(parts[1]), "<i2").astype(int)
    assert len(pieced) == len(original)
    assert abs(pieced - original).max() <= 1
    assert events(parts[1])[-1] == events(whole)[-1]


def map_audio(items: list[Any]) -> list[Audio]:
    return [item for item in items if isinstance(item, Audio)]


def test_a_client_may_leave_a_server_that_lives(place: str) -> None:
    flags = {"journal": place, "max_lead_ms": 240}

    @on_loop
    async def call() -> None:
        client = await connect(one.url)
        await client.start(TEXT, seed=5)
        items = await hear(client, lambda item: client.received_ms >= 800)
        other = await back(two, client)
        await hear(other, Paused)
        await other.resume()
        items += await hear(other, Done)
        assert words(items) == WORDS.split()
        late = await heard_until_gone(client, 1e9, None)
        assert client.received_ms <= 800 + 80 * len(map_audio(late)) + 1
        await other.hang_up()

    with Serve(**flags) as one, Serve(**flags) as two:
        call()
        assert one.metric("dia2stream_handed_over_total") == 1


@pytest.mark.parametrize(
    "seconds", [pytest.param(4, marks=pytest.mark.long), pytest.param(30, marks=pytest.mark.outlives)]
)
def test_a_redis_that_hangs_delays_nothing_and_loses_nothing(tmp_path: Path, seconds: int) -> None:
    gaps: list[float] = []
    times = 3 + seconds // 3  # a text is spoken in 3.7 s

    @on_loop
    async def call() -> None:
        client = await connect(one.url)
        await client.start(" ".join([TEXT] * times), seed=5)
        items = await hear(client, lambda item: client.received_ms >= 400)
        redis.send_signal(signal.SIGSTOP)
        until, last = time.monotonic() + seconds, time.monotonic()
        async for item in client:
            items.append(item)
            if isinstance(item, Audio):
                gaps.append(time.monotonic() - last)
                last = time.monotonic()
            if last > until:
                break
        assert one.metric("dia2stream_journal_behind_seconds") > seconds - 3
        assert one.metric("dia2stream_journal_failures_total") > seconds / 4
        assert "the journal is" in one.get("/readyz")[1]
        redis.send_signal(signal.SIGCONT)
        until = time.monotonic() + PATIENCE
        while one.metric("dia2stream_journal_behind_seconds") > 0.5:
            assert time.monotonic() < until
            await asyncio.sleep(0.05)
        one.process.kill()
        items += await heard_until_gone(client, 1e9, None)
        other = await back(two, client)
        await hear(other, Paused)
        await other.resume()
        items += await hear(other, Done)
        assert words(items) == WORDS.split() * times
        await other.hang_up()

    with redis_running(tmp_path) as (url, redis), Serve(journal=url) as two, Serve(journal=url, max_lead_ms=800) as one:
        call()
    print(f"a Redis that hung for {seconds} s: the longest wait for 80 ms was {1000 * max(gaps):.0f} ms")
    assert max(gaps) < 0.8  # what a listener has in hand


def test_a_reset_deletes_at_once(place: str) -> None:
    @on_loop
    async def call() -> None:
        client = await connect(server.url)
        await client.start(TEXT, seed=5)
        await hear(client, Audio)
        await asyncio.sleep(0.3)
        assert kept(place)
        await client.hang_up()

    with Serve(journal=place) as server:
        call()
        server.until(lambda: not kept(place))


def kept(place: str) -> list[str]:
    if place.startswith("redis:"):
        import redis

        with redis.Redis.from_url(place) as asked:
            return [name.decode() for name in asked.keys("*:log")]
    return [name for name in os.listdir(place) if name.endswith(".log")]

"""Several servers at once, on a Ray cluster and behind HAProxy: `scripts/test-cluster`."""

import asyncio
import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet import opened, through_trouble, until
from fleet_calls import PATIENT, row
from piping import PATIENCE
from serving import SHORT, hear, on_loop
from test_journal import redis_running
from tools import needs

from dia2stream.client import Client, connect
from dia2stream.errors import CommandError, Disconnected
from dia2stream.protocol.messages import WordEvent

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(540),
    pytest.mark.filterwarnings("ignore"),
    needs("haproxy", "ray", "redis-server"),
]
TOKEN = {"Authorization": "Bearer secret"}
CALLS, WORDS, EVERY = 24, 60, 5.0


@pytest.fixture(scope="module")
def only_fleet(tmp_path_factory: Any) -> Iterator[Any]:
    """A Ray cluster, which takes half a minute to start."""
    folder = tmp_path_factory.mktemp("ray")
    with (
        redis_running(folder) as (journal, _),
        opened("ray", folder, journal, token="secret", max_message_bytes=4096) as fleet,
    ):
        yield fleet


@pytest.fixture
def ray_fleet(only_fleet: Any) -> Iterator[Any]:
    """The same with three replicas and every slot free, whatever the test before has done or failed to do."""
    only_fleet.settle()
    return only_fleet


@contextlib.asynccontextmanager
async def connected(fleet: Any, count: int, at_once: bool = False) -> AsyncIterator[list[Client]]:
    """So many clients, who hang up at the end."""
    clients: list[Client] = []

    async def come() -> None:
        clients.append(await connect(fleet.url, token="secret", **PATIENT))

    try:
        if at_once:
            outcomes = await asyncio.gather(*(come() for _ in range(count)), return_exceptions=True)
            for error in filter(None, outcomes):
                raise error
        else:
            for _ in range(count):
                await come()
        yield clients
    finally:
        await asyncio.gather(*(client.hang_up() for client in clients), return_exceptions=True)


async def taken(fleet: Any) -> list[int]:
    """How many slots of each replica are taken."""
    return [slots - free for slots, free in (await asyncio.to_thread(fleet.free_slots)).values()]


def asked(fleet: Any, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(fleet.url.replace("ws", "http", 1) + path, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read()


def test_everything_that_a_server_serves_goes_through_rays_proxy(ray_fleet):
    assert asked(ray_fleet, "/readyz")[0] == 200
    assert asked(ray_fleet, "/info")[0] == 401
    assert json.loads(asked(ray_fleet, "/info", **TOKEN)[1])["slots"] == 24
    body = json.dumps({"input": "One two.", "response_format": "pcm"}).encode()
    status, sound = asked(ray_fleet, "/v1/audio/speech", body, **TOKEN)
    assert (status, len(sound) > 24_000) == (200, True)
    assert asked(ray_fleet, "/v1/audio/speech", body)[0] == 401

    @on_loop
    async def talk() -> None:
        with pytest.raises(CommandError, match="token"):
            await connect(ray_fleet.url)
        async with connect(ray_fleet.url, token="secret") as client:
            await client.start(SHORT, seed=1)
            words = [item.word for item in await hear(client) if isinstance(item, WordEvent)]
            assert " ".join(words) == "One two three four."
            await client.inject("x" * 5000)
            with pytest.raises(Disconnected, match="1009"):
                await hear(client, lambda _: False)

    talk()


def test_one_scrape_has_the_metrics_of_all_replicas(ray_fleet):
    assert asked(ray_fleet, "/metrics")[0] == 401
    assert list(ray_fleet.free_slots().values()) == [(24, 24)] * 3


def test_clients_are_spread_by_slots(ray_fleet):
    @on_loop
    async def fill() -> None:
        async with connected(ray_fleet, 30, at_once=True):
            assert sorted(await taken(ray_fleet)) == [10, 10, 10]

    fill()


@pytest.mark.parametrize("at_once", [True, False])
def test_nobody_is_refused_until_every_slot_of_every_replica_is_taken(ray_fleet, at_once):
    @on_loop
    async def fill() -> None:
        async with connected(ray_fleet, 72, at_once) as clients:
            assert await taken(ray_fleet) == [24, 24, 24]
            with pytest.raises(CommandError, match="every slot is taken"):
                await connect(ray_fleet.url, token="secret", **PATIENT)
            for _ in range(3):  # one slot in all the cluster is free, of which the last report does not tell yet
                await clients.pop().hang_up()
                while sum(await taken(ray_fleet)) == 72:
                    await asyncio.sleep(0.01)
                clients.append(await connect(ray_fleet.url, token="secret", **PATIENT))

    fill()


def test_requests_that_take_no_slot_keep_none_from_clients(ray_fleet):
    @on_loop
    async def fill() -> None:
        stop = asyncio.Event()

        async def bother() -> None:
            while not stop.is_set():
                await asyncio.to_thread(asked, ray_fleet, "/info", **TOKEN)
                assert (await asyncio.to_thread(asked, ray_fleet, "/v1/audio/speech", b"{}"))[0] == 401
                with pytest.raises(CommandError, match="token"):
                    await connect(ray_fleet.url, **PATIENT)

        bothering = asyncio.create_task(bother())
        async with connected(ray_fleet, 71):  # the last slot may be kept for the one who bothers, for a moment
            stop.set()
            await bothering
            async with connected(ray_fleet, 1):
                assert await taken(ray_fleet) == [24, 24, 24]

    fill()


def test_there_are_more_replicas_when_most_slots_are_taken(ray_fleet):
    @on_loop
    async def crowd() -> None:
        ray_fleet.let_scale(4)
        async with connected(ray_fleet, 52):  # of 3 x 24 slots, of which 0.7 are 50
            await asyncio.to_thread(until, lambda: sum(ray_fleet.states().values()) == 4, "there is no fourth replica")

    crowd()


@pytest.mark.parametrize("kind", ["ray", "haproxy"])
def test_calls_go_on_while_a_server_is_stopped_another_killed_and_one_added(kind, request, tmp_path: Path):
    if kind == "ray":
        fleet = request.getfixturevalue("ray_fleet")
        calls = asyncio.run(through_trouble(fleet, CALLS, WORDS, EVERY, token="secret"))
    else:
        with redis_running(tmp_path) as (journal, _), opened(kind, tmp_path, journal) as fleet:
            calls = asyncio.run(through_trouble(fleet, CALLS, WORDS, EVERY))
    print(row(calls))
    assert [call.said_as_asked for call in calls] == [True] * CALLS
    assert sum(call.refusals for call in calls) == 0
    assert sum(call.returns for call in calls) >= 2

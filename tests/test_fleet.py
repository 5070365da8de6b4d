"""Several servers at once, on a Ray cluster and behind HAProxy: `scripts/test-cluster`."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet import opened, through_trouble, until
from fleet_calls import row
from piping import PATIENCE
from serving import SHORT, hear, on_loop
from test_journal import redis_running
from tools import needs

from dia2stream.client import connect
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
def ray_fleet(tmp_path_factory: Any) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("ray")
    with (
        redis_running(folder) as (journal, _),
        opened("ray", folder, journal, token="secret", max_message_bytes=4096) as fleet,
    ):
        yield fleet


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
    text = asked(ray_fleet, "/metrics", **TOKEN)[1].decode()
    lines = [line for line in text.splitlines() if line.startswith("dia2stream_slots{")]
    assert [line.endswith(" 24.0") for line in lines] == [True] * 3
    assert len({line.split('"')[1] for line in lines}) == 3


def test_clients_are_spread_by_slots(ray_fleet):
    @on_loop
    async def fill() -> None:
        clients = await asyncio.gather(*(connect(ray_fleet.url, token="secret") for _ in range(30)))
        text = (await asyncio.to_thread(asked, ray_fleet, "/metrics", **TOKEN))[1].decode()
        taken = [line.split()[-1] for line in text.splitlines() if line.startswith("dia2stream_slots_taken{")]
        assert sum(map(float, taken)) == 30
        assert all(7 <= float(count) <= 13 for count in taken), taken
        for client in clients:
            await client.hang_up()

    fill()


def test_there_are_more_replicas_when_most_slots_are_taken(ray_fleet):
    @on_loop
    async def crowd() -> None:
        ray_fleet.let_scale(4)
        clients = []
        for _ in range(52):  # of 3 x 24 slots, of which 0.7 are 50
            clients.append(await connect(ray_fleet.url, token="secret"))
        await asyncio.to_thread(until, lambda: sum(ray_fleet.states().values()) == 4, "there is no fourth replica")
        for client in clients:
            await client.hang_up()

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

"""What HAProxy's agent-check is told: as many percent as there are free slots."""

import socket

import pytest
from serving import SHORT, Serve, hear, on_loop

from dia2stream.client import connect
from dia2stream.errors import Dia2StreamError
from dia2stream.server.agent import Agent


def told(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as asked, asked.makefile() as lines:
        return lines.read()


@pytest.mark.parametrize(("free", "line"), [(None, "0%"), (0, "1%"), (1, "1%"), (5, "5%"), (1000, "256%")])
def test_the_weight_is_the_free_slots_and_only_a_server_that_serves_nobody_has_none(free, line):
    @on_loop
    async def ask() -> None:
        import asyncio

        agent = Agent(lambda: free)
        port = await agent.open("127.0.0.1", 0)
        assert await asyncio.to_thread(told, port) == f"{line} ready up\n"
        agent.close()

    ask()


def test_a_port_that_is_taken_is_told_with_its_flag():
    @on_loop
    async def ask() -> None:
        one, two = Agent(lambda: 1), Agent(lambda: 1)
        port = await one.open("127.0.0.1", 0)
        with pytest.raises(Dia2StreamError, match="--agent-port"):
            await two.open("127.0.0.1", port)
        one.close()
        two.close()

    ask()


def test_a_server_tells_the_slots_that_a_client_could_have():
    @on_loop
    async def talk() -> None:
        assert told(port) == "2% ready up\n"
        async with connect(server.url) as one:
            await one.start(SHORT, seed=1)
            await hear(one)
            assert told(port) == "1% ready up\n"
            assert server.metric("dia2stream_slots_free") == 1
            await one.hang_up()

    with Serve(slots=2, agent_port=0) as server:
        port = int(server.logged(r"agent host.*port=(\d+)")[1])
        talk()
        server.until(lambda: told(port) == "2% ready up\n")

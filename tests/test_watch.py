"""An engine that hangs or dies: clients are told, probes too, and the process ends so that it is started again."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest
from piping import PATIENCE, a_second
from serving import DIES, HANGS, LONG, SHORT, Serve, hear, on_loop, take_slot

from dia2stream.client import Client, connect
from dia2stream.errors import CommandError, Disconnected
from dia2stream.options import ModelOptions, ServeOptions, SpeechOptions
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Error
from dia2stream.server.server import Server
from dia2stream.server.watch import LOST_SECONDS, STUCK_SECONDS, Watch


class Looking:
    """A watch over an engine that is not there, and a clock."""

    def __init__(self, watch: Watch) -> None:
        self.watch, self.now = watch, 1000.0
        self.engine = SimpleNamespace(has_work=True, broken=None, stats=SimpleNamespace(last_progress=5.0))
        watch.engine = self.engine
        watch.look(self.now)

    def wait(self, seconds: float) -> None:
        """Looks every second."""
        for _ in range(round(seconds)):
            self.now += 1
            self.watch.look(self.now)


def test_a_stuck_engine_turns_readyz_to_503_and_is_logged_with_its_stack_until_it_goes_on(caplog):
    server, go_on = Server(ModelOptions(), SpeechOptions(), ServeOptions()), threading.Event()
    server.stage = None
    thread = threading.Thread(target=go_on.wait, name="dia2-engine")
    thread.start()
    looking = Looking(server.watch)
    looking.engine.has_work = False
    looking.wait(100)  # idle for long, then work comes
    looking.engine.has_work = True
    looking.wait(STUCK_SECONDS)
    assert server.unready() is None
    looking.wait(1)
    assert server.unready() == f"no step has finished for {STUCK_SECONDS + 1:.0f} s, and there is work"
    assert server.unhealthy() is None
    [logged] = caplog.records
    assert "in wait" in logged.stack
    looking.engine.stats.last_progress = 6.0
    looking.wait(1)
    assert server.unready() is None
    looking.wait(LOST_SECONDS + 1)
    assert server.unhealthy() == server.unready() is not None
    go_on.set()
    thread.join()


def test_a_process_that_was_suspended_does_not_blame_the_engine():
    looking = Looking(Watch())
    looking.wait(STUCK_SECONDS - 5)
    looking.now += 1000  # it stood still, and so did the engine
    looking.wait(STUCK_SECONDS - 5)
    assert looking.watch.problem is None
    looking.wait(10)
    assert looking.watch.problem is not None


async def receive_all(client: Client) -> None:
    """Everything that was under way; then the error that ended the connection."""
    while True:
        await client.receive()


@on_loop
async def test_an_engine_whose_thread_dies_ends_the_process_and_its_clients_are_told(tmp_path):
    flag = tmp_path / "now"
    with Serve(before=DIES.format(flag=str(flag))) as server:
        async with await take_slot(server) as client:
            await client.start(LONG, seed=1)
            await hear(client, Audio)
            flag.touch()
            assert (await hear(client, Error))[-1].code == "internal"
            with pytest.raises(Disconnected, match="1011"):
                await receive_all(client)
        assert await asyncio.to_thread(server.process.wait, PATIENCE) == 1
        assert server.logged("the engine is lost.*out of luck")


@pytest.mark.long
@on_loop
async def test_a_step_that_hangs_lets_the_clients_go_and_then_ends_the_process(tmp_path):
    flag, stuck = tmp_path / "now", 2 * min(a_second(), 4)  # a busy machine takes longer for a step
    with Serve(before=HANGS.format(flag=str(flag), stuck=stuck, lost=3 * stuck)) as server:
        async with await take_slot(server) as client:
            await client.start(LONG, seed=1)
            await hear(client, Audio)
            flag.touch()
            began = time.monotonic()
            assert (await hear(client, Error))[-1].code == "internal"
            assert time.monotonic() - began >= stuck
            with pytest.raises(Disconnected, match="1011"):
                await receive_all(client)
        assert server.get("/healthz")[0] == 200
        assert "no step has finished" in server.get("/readyz")[1]
        with pytest.raises(CommandError, match="no step has finished"):
            await connect(server.url)
        assert await asyncio.to_thread(server.process.wait, PATIENCE) == 1
        assert server.logged("no step finishes.*hangs")  # where it hangs


@pytest.mark.long
@on_loop
async def test_an_engine_that_hung_and_goes_on_serves_again(tmp_path):
    flag = tmp_path / "now"
    with Serve(before=HANGS.format(flag=str(flag), stuck=2 * min(a_second(), 4), lost=3600.0)) as server:
        client = await take_slot(server)
        await client.start(LONG, seed=1)
        await hear(client, Audio)
        flag.touch()
        await hear(client, Error)
        flag.unlink()
        async with await take_slot(server) as other:
            await other.start(SHORT)
            await hear(other)
        assert server.get("/readyz")[:2] == (200, "ok\n")

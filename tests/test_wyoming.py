"""scripts/examples/wyoming_server.py, asked by Wyoming's own client, as Home Assistant does."""

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
from piping import ENVIRONMENT, PATIENCE, ROOT
from serving import Serve, killed, on_loop
from tools import needs

# wyoming tries Python's own audioop first, which warns up to Python 3.12.
pytestmark = [needs("wyoming"), pytest.mark.filterwarnings("ignore:'audioop' is deprecated:DeprecationWarning")]

TEXT = "One two three four five."


class Bridge:
    """The example, as a process."""

    def __init__(self, server: Serve) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        program = str(ROOT / "scripts" / "examples" / "wyoming_server.py")
        command = [sys.executable, program, "--host", "127.0.0.1", "--port", str(self.port)]
        environment = ENVIRONMENT | {"DIA2STREAM_URL": server.url, "DIA2STREAM_TOKEN": "secret"}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator["Client"]:
        """Wyoming's client, as soon as the bridge listens."""
        from wyoming.client import AsyncTcpClient

        client = AsyncTcpClient("127.0.0.1", self.port)
        for _ in range(int(PATIENCE / 0.1)):
            try:
                await client.connect()
                break
            except OSError:
                await asyncio.sleep(0.1)
        try:
            yield Client(client)
        finally:
            await client.disconnect()


class Client:
    def __init__(self, wyoming) -> None:
        self.wyoming = wyoming

    async def say(self, *events) -> None:
        for event in events:
            await self.wyoming.write_event(event.event())

    async def until(self, last: str) -> tuple[bytes, list[str]]:
        """Sound up to an event of that type, and the types of all that came, each run of the same once."""
        from wyoming.audio import AudioChunk

        pcm, types = b"", []
        while True:
            event = await asyncio.wait_for(self.wyoming.read_event(), PATIENCE)
            assert event is not None, types
            if event.type not in types[-1:]:
                types.append(event.type)
            if AudioChunk.is_type(event.type):
                chunk = AudioChunk.from_event(event)
                assert (chunk.rate, chunk.width, chunk.channels) == (24000, 2, 1)
                pcm += chunk.audio
            if event.type == last:
                return pcm, types


@pytest.fixture(scope="module")
def bridge() -> Iterator[Bridge]:
    with Serve(token="secret") as server:
        bridge = Bridge(server)
        with killed(bridge.process):
            yield bridge
        assert not server.faults


def test_what_there_is_is_described_and_a_ping_is_answered(bridge):
    from wyoming.info import Describe, Info
    from wyoming.ping import Ping, Pong

    @on_loop
    async def ask() -> None:
        async with bridge.client() as client:
            await client.say(Describe())
            info = Info.from_event(await client.wyoming.read_event())
            assert [voice.name for voice in info.tts[0].voices] == ["default"]
            assert info.tts[0].supports_synthesize_streaming
            await client.say(Ping(text="17"))
            assert Pong.from_event(await client.wyoming.read_event()).text == "17"

    ask()


def test_a_text_is_spoken_and_the_next_one_in_the_same_voice(bridge):
    from wyoming.tts import Synthesize, SynthesizeVoice

    @on_loop
    async def ask() -> None:
        async with bridge.client() as client:
            await client.say(Synthesize(TEXT), Synthesize(TEXT, voice=SynthesizeVoice("default")))
            first, types = await client.until("audio-stop")
            assert types == ["audio-start", "audio-chunk", "audio-stop"]
            assert len(first) > 24000
            assert (await client.until("audio-stop"))[0] == first

    ask()


def test_text_is_spoken_while_it_comes_and_its_repetition_is_passed_over(bridge):
    from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop

    @on_loop
    async def ask() -> None:
        async with bridge.client() as client:
            await client.say(Synthesize(TEXT))
            whole, _ = await client.until("audio-stop")
            await client.say(SynthesizeStart(), *(SynthesizeChunk(f"{word} ") for word in TEXT.split()))
            await client.say(Synthesize(TEXT), SynthesizeStop())
            pcm, types = await client.until("synthesize-stopped")
            assert types == ["audio-start", "audio-chunk", "audio-stop", "synthesize-stopped"]
            assert abs(len(pcm) - len(whole)) < len(whole) / 2, "the text was said once"
            await client.say(Synthesize(TEXT))
            assert (await client.until("audio-stop"))[0] == whole

    ask()


def test_a_client_that_hangs_up_leaves_its_slot(bridge):
    from wyoming.tts import Synthesize

    @on_loop
    async def ask() -> None:
        for _ in range(3):
            async with bridge.client() as client:
                await client.say(Synthesize(TEXT * 40))
                await client.until("audio-chunk")

    ask()


def test_what_cannot_be_said_is_an_error_and_the_next_text_is_said(bridge):
    from wyoming.tts import Synthesize

    @on_loop
    async def ask() -> None:
        async with bridge.client() as client:
            await client.say(Synthesize('One <break time="99s"/>'), Synthesize(TEXT))
            _, types = await client.until("audio-stop")
            assert "error" in types
            pcm, _ = await client.until("audio-stop")
            assert len(pcm) > 24000

    ask()

"""scripts/examples/phone.py, called by telephone networks as their documents describe them; and the caller listens."""

import asyncio
import base64
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from piping import ENVIRONMENT, PATIENCE, ROOT
from serving import Serve, killed, on_loop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from dia2stream.audio import encode_samples

sys.path.append(str(ROOT / "scripts" / "examples"))
from phone import Ear, from_mulaw

GREETING = "Hello, you have reached the pharmacy. How can I help you today?"
ANSWER = "I see. Let me have a look at that for you."


class Bridge:
    """The example, as a process; what it prints comes line by line."""

    def __init__(self, server: Serve) -> None:
        command = [sys.executable, str(ROOT / "scripts" / "examples" / "phone.py"), "--port", "0"]
        self.process = subprocess.Popen(
            command, env=ENVIRONMENT | {"DIA2STREAM_URL": server.url}, stdout=subprocess.PIPE, text=True
        )
        self.port = int(self.line().rpartition(" ")[2])

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    async def heard(self) -> tuple[int, str, str]:
        """What it says of an interruption: milliseconds, the text that was heard, and that which was not."""
        line = await asyncio.wait_for(asyncio.to_thread(self.line), PATIENCE)
        told = re.fullmatch(r"(\d+) ms: heard '(.*)', not '(.*)'\n", line)
        assert told, line
        return int(told[1]), told[2], told[3]


class Network:
    """A telephone network with one call. It plays as fast as the test says, 80 ms a piece, and sends marks back."""

    path = encoding = ""
    rate = 8000

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.queue: list[tuple[str, Any]] = []  # sound and marks that were not played yet
        self.cleared = 0
        self.played = 0  # bytes

    async def next(self) -> None:
        """Takes a message of the bridge."""
        kind, value = self.read(await asyncio.wait_for(self.socket.recv(), PATIENCE))
        if kind == "clear":
            self.cleared += 1
            await self.clear()
        else:
            self.queue.append((kind, value))

    async def play(self, pieces: int) -> None:
        """Plays so many pieces of sound, with the marks behind them."""
        while pieces or (self.queue and self.queue[0][0] == "mark"):
            while not self.queue:
                await self.next()
            kind, value = self.queue.pop(0)
            if kind == "mark":
                await self.say_mark(value)
            else:
                pieces -= 1
                self.played += len(value)
                if not self.queue:
                    await self.next()  # the mark

    async def until_cleared(self) -> None:
        """Takes what comes until the bridge has it thrown away."""
        before = self.cleared
        while self.cleared == before:
            await self.next()

    async def speak(self, seconds: float, loud: bool) -> None:
        """The caller's sound, 20 ms a message."""
        for _ in range(round(seconds / 0.02)):
            size = self.rate // 50
            tone = np.sin(np.arange(size) * 0.3).astype(np.float32) * (0.3 if loud else 0.001)
            await self.say_sound(encode_samples(tone, self.encoding))  # type: ignore[arg-type]

    def read(self, message: str | bytes) -> tuple[str, Any]:
        raise NotImplementedError

    async def clear(self) -> None:
        """Throws away what was not played."""
        raise NotImplementedError

    async def start(self) -> None:
        raise NotImplementedError

    async def say_sound(self, data: bytes) -> None:
        raise NotImplementedError

    async def say_mark(self, name: str) -> None:
        raise NotImplementedError

    async def press(self, digit: str) -> None:
        raise NotImplementedError


class Twilio(Network):
    """Messages as Twilio documents them."""

    path, encoding = "/twilio", "mulaw"

    async def _tell(self, event: str, **fields: object) -> None:
        await self.socket.send(json.dumps({"event": event, "sequenceNumber": "1", "streamSid": "MZ17", **fields}))

    async def start(self) -> None:
        await self.socket.send(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
        about = {"streamSid": "MZ17", "accountSid": "AC1", "callSid": "CA1", "tracks": ["inbound"]}
        form = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
        await self._tell("start", start={**about, "mediaFormat": form, "customParameters": {}})

    def read(self, message: str | bytes) -> tuple[str, Any]:
        told = json.loads(message)
        assert told["streamSid"] == "MZ17"
        match told["event"]:
            case "media":
                return "sound", base64.b64decode(told["media"]["payload"])
            case "mark":
                return "mark", told["mark"]["name"]
        assert told["event"] == "clear"
        return "clear", None

    async def clear(self) -> None:
        """Twilio sends back the marks of what it throws away."""
        for kind, name in self.queue:
            if kind == "mark":
                await self.say_mark(name)
        self.queue.clear()

    async def say_sound(self, data: bytes) -> None:
        media = {"track": "inbound", "chunk": "1", "timestamp": "5", "payload": base64.b64encode(data).decode()}
        await self._tell("media", media=media)

    async def say_mark(self, name: str) -> None:
        await self._tell("mark", mark={"name": name})

    async def press(self, digit: str) -> None:
        await self._tell("dtmf", dtmf={"track": "inbound_track", "digit": digit})

    async def hang_up(self) -> None:
        await self._tell("stop", stop={"accountSid": "AC1", "callSid": "CA1"})


class Asterisk(Network):
    """Messages as chan_websocket.c writes and reads them, in JSON."""

    path, encoding, format = "/asterisk", "mulaw", "ulaw"

    async def _tell(self, event: str, **fields: object) -> None:
        await self.socket.send(json.dumps({"event": event, "channel_id": "1700000000.1", **fields}))

    async def start(self) -> None:
        assert self.socket.subprotocol == "media"
        about = {"connection_id": "dia2stream", "channel": "WebSocket/dia2stream/0x7f", "format": self.format}
        size = self.rate // 50 * (1 if self.encoding == "mulaw" else 2)
        await self._tell("MEDIA_START", **about, optimal_frame_size=size, ptime=20, channel_variables={})

    def read(self, message: str | bytes) -> tuple[str, Any]:
        if isinstance(message, bytes):
            return "sound", message
        assert len(message) <= 128, "Asterisk does not read longer ones"
        return self.command(message)

    def command(self, message: str) -> tuple[str, Any]:
        told = json.loads(message)
        if told["command"] == "MARK_MEDIA":
            return "mark", told["correlation_id"]
        assert told == {"command": "FLUSH_MEDIA"}
        return "clear", None

    async def clear(self) -> None:
        """Asterisk throws the marks away, too."""
        self.queue.clear()

    async def say_sound(self, data: bytes) -> None:
        await self.socket.send(data)

    async def say_mark(self, name: str) -> None:
        await self._tell("MEDIA_MARK_PROCESSED", correlation_id=name)

    async def press(self, digit: str) -> None:
        await self._tell("DTMF_END", digit=digit)

    async def hang_up(self) -> None:
        await self.socket.close()


class WideAsterisk(Asterisk):
    """With samples of 16 kHz."""

    encoding, format, rate = "pcm16", "slin16", 16000


class PlainAsterisk(Asterisk):
    """With control messages as plain text, which is Asterisk's default."""

    async def _tell(self, event: str, **fields: object) -> None:
        if event == "MEDIA_MARK_PROCESSED":
            await self.socket.send(f"{event} {fields['correlation_id']}")
            return
        fields.pop("channel_variables", None)
        named = " ".join(f"{name}:{value}" for name, value in {**fields, "channel_id": "1700000000.1"}.items())
        await self.socket.send(f"{event} {named}")

    def command(self, message: str) -> tuple[str, Any]:
        command, _, id = message.partition(" ")
        if command == "MARK_MEDIA":
            return "mark", id
        assert message == "FLUSH_MEDIA"
        return "clear", None


@pytest.fixture(scope="module")
def bridge() -> Iterator[Bridge]:
    with Serve(slots=2) as server:
        bridge = Bridge(server)
        with killed(bridge.process):
            yield bridge
        assert not server.faults


@asynccontextmanager
async def called(bridge: Bridge, kind: type[Network]) -> AsyncIterator[Network]:
    asterisk = {"subprotocols": ["media"]} if issubclass(kind, Asterisk) else {}
    async with connect(f"ws://127.0.0.1:{bridge.port}{kind.path}", **asterisk) as socket:
        network = kind(socket)
        await network.start()
        yield network


@pytest.mark.parametrize("kind", [Twilio, Asterisk, WideAsterisk, PlainAsterisk])
def test_a_caller_is_greeted_interrupts_and_is_answered(bridge, kind):
    @on_loop
    async def call() -> None:
        async with called(bridge, kind) as network:
            await network.play(9)
            piece = network.rate * 80 // 1000 * (1 if network.encoding == "mulaw" else 2)
            assert network.played == 9 * piece
            await network.speak(0.3, loud=True)
            await network.until_cleared()
            heard_ms, spoken, pending = await bridge.heard()
            assert heard_ms == 9 * 80
            assert f"{spoken} {pending}".strip() == GREETING
            await network.speak(0.8, loud=False)
            await network.play(5)  # of the answer

            # A key interrupts, too, and is answered.
            await network.press("7")
            await network.until_cleared()
            _, spoken, pending = await bridge.heard()
            assert f"{spoken} {pending}".strip().endswith(ANSWER)
            await network.play(5)
            await network.hang_up()

    call()


def test_the_next_caller_is_served_when_one_has_hung_up(bridge):
    @on_loop
    async def call() -> None:
        for _ in range(3):  # more than there are slots
            async with called(bridge, Twilio) as network:
                await network.play(2)

    call()


def test_another_path_is_refused_and_told_what_there_is(bridge):
    @on_loop
    async def call() -> None:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://127.0.0.1:{bridge.port}/else")
        assert refused.value.response.status_code == 404
        assert b"/twilio" in bytes(refused.value.response.body or b"")

    call()


def test_mu_law_is_read_as_it_is_written():
    codes = bytes(range(256))
    pcm = from_mulaw(codes)
    assert encode_samples(pcm.astype(np.float32) / 32768, "mulaw") == codes.replace(b"\x7f", b"\xff")  # minus nought
    assert pcm.max() == -pcm.min() == 32124


def test_speech_begins_when_it_is_loud_for_a_while_and_ends_when_it_is_silent_for_longer():
    ear = Ear("pcm16", 8000)
    loud, silence = np.full(160, 3000, "<i2").tobytes(), bytes(320)
    click = [ear.hear(loud) for _ in range(5)] + [ear.hear(silence) for _ in range(5)]
    assert click == [None] * 10
    speech = [ear.hear(loud) for _ in range(20)]
    assert [n for n, event in enumerate(speech) if event == "began"] == [9]
    pauses = [ear.hear(silence) for _ in range(30)] + [ear.hear(loud) for _ in range(5)]
    assert pauses == [None] * 35
    ends = [ear.hear(silence) for _ in range(35)]
    assert [n for n, event in enumerate(ends) if event == "ended"] == [34]
    assert len(ear.take()) == 160 * (20 + 35 + 35)
    assert len(ear.take()) == 0

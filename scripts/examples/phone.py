"""A voice on the telephone, by Twilio's Media Streams or by Asterisk's chan_websocket.

    DIA2STREAM_URL=ws://127.0.0.1:8765 python scripts/examples/phone.py --port 8766

    Twilio     <Connect><Stream url="wss://HOST/twilio"/></Connect>
    Asterisk   Dial(WebSocket/dia2stream/c(ulaw)f(json)), and in websocket_client.conf: uri = ws://HOST:8766/asterisk

The voice greets the caller, and answers when the caller has spoken or pressed a key. A caller who speaks interrupts
it. Marks behind each piece of sound come back when it was played, so the model remembers what the caller heard, to
80 ms. Your speech recognition and your language model go into `answer`; the wire formats are in `phone_lines.py`.
"""

import argparse
import asyncio
import os
from http import HTTPStatus
from typing import Any

import numpy as np
from phone_lines import Asterisk, Twilio
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from dia2stream.client import Client, connect
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Done, Error, Paused

URL, TOKEN = os.environ.get("DIA2STREAM_URL", "ws://127.0.0.1:8765"), os.environ.get("DIA2STREAM_TOKEN")
LINES = {"/twilio": Twilio, "/asterisk": Asterisk}
GREETING = "Hello, you have reached the pharmacy. How can I help you today?"


async def answer(speech: np.ndarray, key: str) -> str:
    """What to say to a caller who spoke, int16 samples, or pressed a key."""
    return f"You have pressed {key}." if key else "I see. Let me have a look at that for you."


class Ear:
    """Tells speech from silence by loudness alone: enough for a quiet line, and to be replaced on a loud one."""

    LOUD, BEGINS_MS, ENDS_MS = 600, 200, 700

    def __init__(self, encoding: str, rate: int) -> None:
        self.speech = np.zeros(0, np.int16)  # what the caller has said since they began
        self._encoding, self._samples_a_ms = encoding, rate // 1000
        self._samples = 0  # of sound before speech has begun, or of silence behind it
        self.speaking = False

    def hear(self, data: bytes) -> str | None:
        """`began` or `ended` where the caller's speech does."""
        pcm = from_mulaw(data) if self._encoding == "mulaw" else np.frombuffer(data, "<i2")
        loud = bool(len(pcm) and np.abs(pcm.astype(np.int32)).mean() > self.LOUD)
        self._samples = self._samples + len(pcm) if loud != self.speaking else 0
        self.speech = np.concatenate([self.speech, pcm]) if self.speaking or loud else self.speech[:0]
        if self._samples < (self.ENDS_MS if self.speaking else self.BEGINS_MS) * self._samples_a_ms:
            return None
        self.speaking, self._samples = not self.speaking, 0
        return "began" if self.speaking else "ended"

    def take(self) -> np.ndarray:
        """What was said, which is then forgotten."""
        speech, self.speech = self.speech, self.speech[:0]
        return speech


def from_mulaw(data: bytes) -> np.ndarray:
    """int16 samples. In a code are the sign, 3 bits of exponent and 4 of mantissa, all inverted."""
    code = ~np.frombuffer(data, np.uint8)
    magnitude = (((code & 15).astype(np.int16) << 3) + 132 << (code >> 4 & 7)) - 132
    return np.where(code & 128, -magnitude, magnitude).astype(np.int16)


class Call:
    """The telephone network on one side, a conversation with the server on the other."""

    def __init__(self, phone: ServerConnection, line: Twilio | Asterisk, voice: Client) -> None:
        self.phone, self.line, self.voice = phone, line, voice
        self.ear = Ear(line.encoding, line.rate)
        self.played_ms = 0.0  # on the conversation's clock, as the marks say
        self.turn = 0  # marks of earlier turns do not count: Twilio sends back those of sound that was cleared, too
        self.unsaid = 0  # texts that the voice has not said to their end
        self.stopping = False  # what still comes was under way when the caller interrupted

    async def run(self) -> None:
        await self.voice.start(GREETING)
        self.unsaid = 1
        tasks = [asyncio.create_task(work) for work in (self.listen(), self.speak())]
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def listen(self) -> None:
        """The network -> the voice."""
        async for message in self.phone:
            match self.line.read(message):
                case "sound", data:
                    await self.hear(data)
                case "key", digit:
                    await self.interrupt()
                    await self.reply(await answer(self.ear.take(), digit))
                case "mark", name:
                    turn, _, position_ms = name.partition(":")
                    self.played_ms = float(position_ms) if int(turn) == self.turn else self.played_ms
                case "stop", _:
                    return

    async def hear(self, data: bytes) -> None:
        event = self.ear.hear(data)
        if event == "began":
            await self.interrupt()
        elif event == "ended":
            await self.reply(await answer(self.ear.take(), ""))

    async def reply(self, text: str) -> None:
        self.unsaid += 1
        await self.voice.inject(text)

    async def interrupt(self) -> None:
        """What was not played is not going to be: the network throws it away, and the model has not said it."""
        if not self.unsaid and self.played_ms >= self.voice.received_ms:
            return
        self.turn, self.stopping, self.unsaid = self.turn + 1, True, 0
        await self.phone.send(self.line.clear())
        await self.voice.pause(self.played_ms)

    async def speak(self) -> None:
        """The voice -> the network."""
        async for item in self.voice:
            match item:
                case Audio() if not self.stopping:
                    mark = self.line.mark(f"{self.turn}:{self.voice.received_ms:.0f}")
                    await self.phone.send(self.line.sound(item.data))
                    await self.phone.send(mark)
                case Paused():
                    self.stopping = False
                    print(f"{item.heard_ms} ms: heard {item.spoken!r}, not {item.pending!r}", flush=True)
                case Done():
                    self.unsaid = max(0, self.unsaid - 1)
                case Error():
                    self.stopping = False
                    print(f"{item.code}: {item.message}", flush=True)


async def take_call(phone: ServerConnection) -> None:
    line = LINES[path_of(phone.request)]()
    try:
        async for message in phone:
            if line.read(message)[0] == "start":  # now it is known how the sound is encoded
                break
        async with connect(URL, token=TOKEN, encoding=line.encoding, sample_rate=line.rate, wait=5) as voice:
            await Call(phone, line, voice).run()
            await voice.hang_up()
    except ConnectionClosed:
        pass  # the caller has hung up


def path_of(request: Any) -> str:
    return request.path.partition("?")[0]


def check_path(phone: ServerConnection, request: Any) -> Any:
    known = path_of(request) in LINES
    return None if known else phone.respond(HTTPStatus.NOT_FOUND, f"known are {', '.join(LINES)}\n")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=8766, help="the port to listen on; 0 is any that is free")
    arguments = parser.parse_args()
    asterisk = {"select_subprotocol": lambda _, offered: "media" if "media" in offered else None}
    async with serve(take_call, arguments.host, arguments.port, process_request=check_path, **asterisk) as server:
        print(f"listening on port {server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())

"""A voice for Home Assistant, by the Wyoming protocol: add this address as a Wyoming integration.

    pip install wyoming
    DIA2STREAM_URL=ws://127.0.0.1:8765 python scripts/examples/wyoming_server.py --port 10200

Text is spoken as it comes (synthesize-start, -chunk, -stop), or whole (synthesize). A client that hangs up interrupts.
The voices are those of the server; without any there is one, which is always the same.
"""

import argparse
import asyncio
import json
import os
import urllib.request

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error as WyomingError
from wyoming.event import Event
from wyoming.info import Attribution, Describe, Info, TtsProgram, TtsVoice
from wyoming.ping import Ping, Pong
from wyoming.server import AsyncEventHandler, AsyncTcpServer
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeStopped, SynthesizeVoice

from dia2stream import __version__
from dia2stream.client import Client, connect
from dia2stream.errors import Dia2StreamError
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Done, Error

URL, TOKEN = os.environ.get("DIA2STREAM_URL", "ws://127.0.0.1:8765"), os.environ.get("DIA2STREAM_TOKEN", "")
SEED = 17  # of the voice where the server has none to choose from
SOUND = {"rate": 24000, "width": 2, "channels": 1}
BY = Attribution(name="dia2stream", url="https://huggingface.co/nari-labs/Dia2-2B")


def voices() -> list[str]:
    """The names of the server's voices."""
    asked = urllib.request.Request(f"{URL.replace('ws', 'http', 1)}/v1/audio/voices")
    asked.add_header("Authorization", f"Bearer {TOKEN}")
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return [voice["id"] for voice in json.load(answer)["voices"]]


def described(names: list[str]) -> Info:
    about = {"attribution": BY, "installed": True, "version": __version__}
    spoken = [TtsVoice(name, description=name, languages=["en"], **about) for name in names]
    program = TtsProgram("dia2stream", description="Dia2", voices=spoken, supports_synthesize_streaming=True, **about)
    return Info(tts=[program])


class Speaker(AsyncEventHandler):
    """One connection of Home Assistant's; it mostly makes one for each reply."""

    voice: Client | None = None
    streaming = False  # text comes piece by piece
    speaking: asyncio.Task[None] | None = None

    async def handle_event(self, event: Event) -> bool:
        """Returns False to hang up."""
        try:
            await self.obey(event)
        except Dia2StreamError as error:
            await self.write_event(WyomingError(text=str(error), code="tts").event())
            await self.disconnect()
        return True

    async def obey(self, event: Event) -> None:
        if Describe.is_type(event.type):
            await self.write_event(described(await asyncio.to_thread(voices)).event())
        elif Ping.is_type(event.type):
            await self.write_event(Pong(text=Ping.from_event(event).text).event())
        elif Synthesize.is_type(event.type) and not self.streaming:  # else it repeats, for old servers, what streams
            whole = Synthesize.from_event(event)
            await self.begin(whole.voice, whole.text, final=True)
        elif SynthesizeStart.is_type(event.type):
            await self.begin(SynthesizeStart.from_event(event).voice, "", final=False)
        elif SynthesizeChunk.is_type(event.type) and self.streaming and self.voice is not None:
            await self.voice.inject(SynthesizeChunk.from_event(event).text, final=False)
        elif SynthesizeStop.is_type(event.type) and self.streaming and self.voice is not None:
            self.streaming = False
            await self.voice.end()

    async def begin(self, asked: SynthesizeVoice | None, text: str, final: bool) -> None:
        """Begins to speak, when what was begun before has been spoken."""
        if self.speaking is not None:
            await self.speaking
        self.voice, self.streaming = await connect(URL, token=TOKEN or None, wait=10), not final
        known = self.voice.ready.voices
        name = asked.name if asked is not None and asked.name in known else None
        await self.voice.start(text, final=final, voice=name, seed=None if known else SEED)
        self.speaking = asyncio.create_task(self.speak(self.voice, streams=not final))

    async def speak(self, voice: Client, streams: bool) -> None:
        """Sound, as it is made, to the end of the text."""
        await self.write_event(AudioStart(**SOUND).event())
        async for item in voice:
            if isinstance(item, Audio):
                await self.write_event(AudioChunk(**SOUND, audio=item.data).event())
            elif isinstance(item, Error):
                await self.write_event(WyomingError(text=item.message, code=item.code).event())
                break
            elif isinstance(item, Done):
                break
        await self.write_event(AudioStop().event())
        if streams:
            await self.write_event(SynthesizeStopped().event())
        self.streaming = False
        await voice.hang_up()

    async def disconnect(self) -> None:
        """The client is gone, and its slot is free at once."""
        speaking, voice, self.speaking, self.voice, self.streaming = self.speaking, self.voice, None, None, False
        if speaking is not None:
            speaking.cancel()
        if voice is not None:
            await voice.hang_up()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--host", default="0.0.0.0", help="the address to listen on")
    parser.add_argument("--port", type=int, default=10200, help="the port to listen on")
    arguments = parser.parse_args()
    await AsyncTcpServer(arguments.host, arguments.port).run(Speaker)


if __name__ == "__main__":
    asyncio.run(main())

"""Our own protocol by our own client, to compare the others with."""

import asyncio

from report import KEY, WS_URL, Stopwatch, asked_meanwhile, tell_turn, tokens

from dia2stream.client import connect
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Done


async def main() -> None:
    async with connect(WS_URL, token=KEY) as client:
        speak = client.start
        async for name, text in asked_meanwhile():
            watch, pcm = Stopwatch(), b""
            for token in tokens(text):
                await speak(token, final=False)
                speak = client.inject
            await client.end()
            async for item in client:
                if isinstance(item, Audio):
                    watch.sound()
                    pcm += item.data
                elif isinstance(item, Done):
                    break
            tell_turn(name, pcm, watch)


asyncio.run(main())

"""LiveKit Agents: one of its own TTS plugins, or ours, streamed to as an agent session does, and played in real time.

python livekit_plugin.py URL KEY FOLDER whole|turns PLUGIN
"""

import asyncio
import time

import aiohttp
from livekit.agents import tts as agents_tts
from livekit.agents.tokenize import blingfire
from livekit.plugins import cartesia, deepgram, elevenlabs, openai
from report import (
    FIRST,
    KEY,
    LONG,
    MODE,
    SECOND,
    SERVICE,
    URL,
    WS_URL,
    Stopwatch,
    asked_meanwhile,
    save,
    tell,
    tell_turn,
    tokens,
    wait,
)

from dia2stream.plugins import livekit as dia2

RATE = 24000


def plugins(session: aiohttp.ClientSession) -> dict:
    return {
        "openai": lambda: openai.TTS(api_key=KEY, base_url=f"{URL}/v1"),
        "cartesia": lambda: cartesia.TTS(api_key=KEY, base_url=URL, http_session=session),
        "deepgram": lambda: deepgram.TTS(api_key=KEY, base_url=f"{URL}/v1/speak", http_session=session),
        "flux": lambda: deepgram.TTSv2(api_key=KEY, base_url=f"{URL}/v2/speak", http_session=session),
        "elevenlabs": lambda: elevenlabs.TTS(
            api_key=KEY, base_url=f"{URL}/v1", voice_id="any", encoding="pcm_24000", http_session=session
        ),
        "dia2": lambda: dia2.TTS(url=WS_URL, token=KEY),
    }


def seconds_of(given) -> float | None:
    """A time, where the plugin has one."""
    return given if isinstance(given, float | int) else None


async def hear(stream, until_s: float | None = None) -> tuple[bytes, list, Stopwatch]:
    """The sound of a stream, taken as a loudspeaker takes it, up to so many seconds."""
    watch, pcm, words, due = Stopwatch(), bytearray(), [], 0.0
    async for audio in stream:
        watch.sound()
        for word in audio.frame.userdata.get("lk.timed_transcripts", []):
            words.append((str(word), seconds_of(word.start_time), seconds_of(word.end_time)))
        pcm += bytes(audio.frame.data)
        due = max(due, time.monotonic()) + audio.frame.duration
        await asyncio.sleep(max(0.0, due - time.monotonic() - 0.2))
        if until_s is not None and len(pcm) >= until_s * RATE * 2:
            break
    return bytes(pcm), words, watch


async def speak(tts, text: str, until_s: float | None = None):
    """A reply, token by token. Closing the stream before its end is how LiveKit interrupts."""
    async with tts.stream() as stream:

        async def push() -> None:
            for token in tokens(text):
                stream.push_text(token)
                await asyncio.sleep(0.005)
            stream.flush()
            stream.end_input()

        pushing = asyncio.create_task(push())
        heard = await hear(stream, until_s)
        pushing.cancel()
    return heard


async def main() -> None:
    async with aiohttp.ClientSession() as session:
        tts = plugins(session)[SERVICE]()
        if not tts.capabilities.streaming:
            tts = agents_tts.StreamAdapter(tts=tts, sentence_tokenizer=blingfire.SentenceTokenizer())
        await (turns if MODE == "turns" else whole)(tts)
        await tts.aclose()


async def whole(tts) -> None:
    for what, text, until_s in (("turn", FIRST, None), ("cut", LONG, 1.5), ("after", SECOND, None)):
        pcm, words, watch = await speak(tts, text, until_s)
        tell(what, words=words, seconds=save(what, pcm, RATE), first_ms=watch.first_ms)
    tell("restart")
    await asyncio.to_thread(wait)
    pcm, words, watch = await speak(tts, SECOND)
    tell("restarted", words=words, seconds=save("restarted", pcm, RATE), first_ms=watch.first_ms)


async def turns(tts) -> None:
    async for name, text in asked_meanwhile():
        pcm, _, watch = await speak(tts, text)
        tell_turn(name, pcm, watch)


asyncio.run(main())

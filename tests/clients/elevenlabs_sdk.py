"""ElevenLabs' SDK: requests, times of characters, and its streaming of text."""

import base64

from elevenlabs.client import ElevenLabs
from elevenlabs.core.api_error import ApiError
from report import (
    FIRST,
    FOLDER,
    KEY,
    LONG,
    MODE,
    SECOND,
    URL,
    WS_URL,
    Stopwatch,
    asked,
    save,
    tell,
    tell_turn,
    tokens,
    wait,
)

client = ElevenLabs(api_key=KEY, base_url=URL)
client.text_to_speech._ws_base_url = WS_URL  # the SDK knows https alone
SAID = {"voice_id": "any", "model_id": "eleven_flash_v2_5"}


def realtime(text: str, watch: Stopwatch, seconds: float | None = None) -> bytes:
    """The sound of a text that comes token by token; up to so many seconds, after which the SDK hangs up."""
    pcm = b""
    said = client.text_to_speech.convert_realtime(text=iter(tokens(text)), output_format="pcm_24000", **SAID)
    for chunk in said:
        watch.sound()
        pcm += chunk
        if seconds is not None and len(pcm) > seconds * 48000:
            said.close()
            break
    return pcm


def requests() -> None:
    tell("voices", names=[voice.name for voice in client.voices.get_all().voices])
    pcm = b"".join(client.text_to_speech.stream(text=SECOND, output_format="pcm_24000", **SAID))
    tell("stream", seconds=save("stream", pcm))
    (FOLDER / "convert.mp3").write_bytes(b"".join(client.text_to_speech.convert(text=SECOND, **SAID)))

    pcm, chars, starts = b"", "", []
    for chunk in client.text_to_speech.stream_with_timestamps(text=SECOND, output_format="pcm_24000", **SAID):
        pcm += base64.b64decode(chunk.audio_base_64)
        if chunk.alignment is not None:
            chars += "".join(chunk.alignment.characters)
            starts += chunk.alignment.character_start_times_seconds
    tell("timestamps", chars=chars, starts=starts, seconds=save("timestamps", pcm))
    whole = client.text_to_speech.convert_with_timestamps(text=SECOND, output_format="pcm_24000", **SAID)
    tell(
        "whole", chars="".join(whole.alignment.characters), seconds=save("whole", base64.b64decode(whole.audio_base_64))
    )
    try:
        b"".join(client.text_to_speech.stream(text=" ", output_format="pcm_24000", **SAID))
    except ApiError as error:
        tell("refused", status=error.status_code, body=error.body)


def streaming() -> None:
    """Two turns, one that is interrupted in mid-speech, and another one."""
    for name, text in (("realtime-0", FIRST), ("realtime-1", SECOND)):
        watch = Stopwatch()
        tell("realtime", seconds=save(name, realtime(text, watch)), first_ms=watch.first_ms)
    tell("interrupted", seconds=save("cut", realtime(LONG, Stopwatch(), seconds=1.0)))
    tell("after", seconds=save("after", realtime(SECOND, Stopwatch())))


def restart() -> None:
    tell("restart")
    wait()
    pcm = b"".join(client.text_to_speech.stream(text=SECOND, output_format="pcm_24000", **SAID))
    tell("restarted", seconds=save("restarted", pcm))


def turns() -> None:
    for name, text in asked():
        watch = Stopwatch()
        tell_turn(name, realtime(text, watch), watch)


if MODE == "turns":
    turns()
else:
    requests()
    streaming()
    restart()

"""Deepgram's SDK: a request, and both of its sockets."""

import time

from deepgram import DeepgramClient
from deepgram.core.api_error import ApiError
from deepgram.environment import DeepgramClientEnvironment
from deepgram.speak.v1.types import SpeakV1Text
from deepgram.speak.v2.types import SpeakV2Interrupt, SpeakV2InterruptPlaybackOffset, SpeakV2Speak
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
    asked,
    save,
    tell,
    tell_turn,
    tokens,
    wait,
)

environment = DeepgramClientEnvironment(base=URL, production=WS_URL, agent=WS_URL, agent_rest=URL)
client = DeepgramClient(api_key=KEY, environment=environment)
SOUND = {"encoding": "linear16", "sample_rate": 24000}


def until(socket, last, watch=None):
    """Sound up to a message of that type, and the messages."""
    pcm, messages = b"", []
    while True:
        message = socket.recv()
        if isinstance(message, bytes):
            if watch is not None:
                watch.sound()
            pcm += message
            continue
        messages.append(message.dict())
        if message.type in (last, "Error"):
            return pcm, messages


def speak_v1(socket, text, watch):
    """A turn: its sound and its messages."""
    for token in tokens(text):
        socket.send_text(SpeakV1Text(type="Speak", text=token))
    socket.send_flush()
    return until(socket, "Flushed", watch)


def speak_v2(socket, text, watch):
    """A turn: its sound and its messages."""
    for token in tokens(text):
        socket.send_speak(SpeakV2Speak(text=token))
    socket.send_flush()
    return until(socket, "SpeechMetadata", watch)


def requests() -> None:
    pcm = b"".join(client.speak.v1.audio.generate(text=SECOND, model="aura-2-thalia-en", container="none", **SOUND))
    tell("request", seconds=save("request", pcm))
    try:
        b"".join(client.speak.v1.audio.generate(text=SECOND, model="aura-2-thalia-en", encoding="aac"))
    except ApiError as error:
        tell("refused", status=error.status_code, body=error.body)


def aura() -> None:
    with client.speak.v1.connect(model="aura-2-thalia-en", **SOUND) as socket:
        for number, text in enumerate((FIRST, SECOND)):
            watch = Stopwatch()
            pcm, messages = speak_v1(socket, text, watch)
            kinds, seconds = [each["type"] for each in messages], save(f"aura-{number}", pcm)
            tell("aura", types=kinds, seconds=seconds, first_ms=watch.first_ms)
        socket.send_text(SpeakV1Text(type="Speak", text=LONG))
        socket.send_flush()
        heard = b""
        while len(heard) < 48000:
            heard += socket.recv()
        socket.send_clear()
        until(socket, "Cleared")
        pcm, messages = speak_v1(socket, SECOND, Stopwatch())
        tell("after", seconds=save("aura-after", pcm))
        socket.send_close()


def flux() -> None:
    with client.speak.v2.connect(model="flux-alexis-en", **SOUND) as socket:
        for number, text in enumerate((FIRST, SECOND)):
            watch = Stopwatch()
            pcm, messages = speak_v2(socket, text, watch)
            kinds, seconds = [each["type"] for each in messages], save(f"flux-{number}", pcm)
            tell("flux", types=kinds, seconds=seconds, first_ms=watch.first_ms)
            if number == 0:
                played = len(pcm) / 48
        played += len(pcm) / 48
        socket.send_speak(SpeakV2Speak(text=LONG))
        socket.send_flush()
        heard = b""
        while len(heard) < 120000:
            message = socket.recv()
            heard += message if isinstance(message, bytes) else b""
        offset = round(played + 2000)
        socket.send_interrupt(
            SpeakV2Interrupt(playback_offset=SpeakV2InterruptPlaybackOffset(type="time_ms", value=offset))
        )
        _, messages = until(socket, "SpeechInterrupted")
        interrupted = messages[-1]
        save("flux-cut", heard[:96000])
        told = {key: interrupted.get(key) for key in ("audio_played_ms", "text_spoken", "text_remaining")}
        tell("interrupted", offset=offset, **told)
        pcm, messages = speak_v2(socket, SECOND, Stopwatch())
        tell("after", seconds=save("flux-after", pcm))
        socket.send_close()
        _, messages = until(socket, "SessionMetadata")
        tell("session", **messages[-1])


def restart() -> None:
    tell("restart")
    wait()
    for _ in range(20):
        try:
            with client.speak.v2.connect(model="flux-alexis-en", **SOUND) as socket:
                tell("restarted", seconds=save("restarted", speak_v2(socket, SECOND, Stopwatch())[0]))
                break
        except (OSError, ApiError):
            time.sleep(0.5)


def turns() -> None:
    version, model, speak = {
        "aura": (client.speak.v1, "aura-2-thalia-en", speak_v1),
        "flux": (client.speak.v2, "flux-alexis-en", speak_v2),
    }[SERVICE]
    with version.connect(model=model, **SOUND) as socket:
        for name, text in asked():
            watch = Stopwatch()
            tell_turn(name, speak(socket, text, watch)[0], watch)


if MODE == "turns":
    turns()
else:
    requests()
    aura()
    flux()
    restart()

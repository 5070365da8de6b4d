"""Cartesia's SDK: bytes, events, and contexts over its socket."""

import base64
import time

from cartesia import Cartesia
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

FORM = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 24000}
VOICE = {"mode": "id", "id": "any"}
SAID = {"model_id": "sonic-3", "voice": VOICE, "output_format": FORM, "add_timestamps": True}
client = Cartesia(api_key=KEY, base_url=URL, websocket_base_url=WS_URL)


def receive(context, watch=None):
    """All of a context: its sound and its words."""
    pcm, words = b"", []
    for event in context.receive():
        if event.context_id != context._context_id:
            continue  # what was on its way when another context was cancelled
        if event.type == "chunk":
            if watch is not None:
                watch.sound()
            pcm += base64.b64decode(event.data)
        elif event.type == "timestamps":
            times = event.word_timestamps
            words += zip(times.words, times.start, times.end, strict=True)
        elif event.type == "error":
            raise RuntimeError(event.message)
    return pcm, words


def requests() -> None:
    wav = {"container": "wav", "encoding": "pcm_s16le", "sample_rate": 44100}
    answer = client.tts.generate(model_id="sonic-3", transcript=SECOND, voice="any", output_format=wav)
    (FOLDER / "bytes.wav").write_bytes(answer.read())

    pcm, kinds = b"", []
    for event in client.tts.generate_sse(transcript=SECOND, **SAID):
        kinds.append(event.type)
        pcm += event.audio if event.type == "chunk" else b""
    tell("events", kinds=sorted(set(kinds)), last=kinds[-1], seconds=save("events", pcm))


def contexts() -> None:
    with client.tts.websocket_connect() as connection:
        for number, text in enumerate((FIRST, SECOND)):
            context, watch = connection.context(**SAID), Stopwatch()
            for token in tokens(text):
                context.push(token)
            context.no_more_inputs()
            pcm, words = receive(context, watch)
            tell("context", words=words, seconds=save(f"context-{number}", pcm), first_ms=watch.first_ms)

        # Two contexts at once, as the SDK routes them.
        both = [connection.context(**SAID) for _ in range(2)]
        for context, text in zip(both, (FIRST, SECOND), strict=True):
            context.push(text)
            context.no_more_inputs()
        for number, context in enumerate(both):
            pcm, words = receive(context)
            tell("both", words=words, seconds=save(f"both-{number}", pcm))

        # Interrupted in mid-speech, and then another turn.
        context, heard = connection.context(**SAID), b""
        context.push(LONG)
        context.no_more_inputs()
        for event in context.receive():
            heard += base64.b64decode(event.data) if event.type == "chunk" else b""
            if len(heard) > 48000:
                break
        time.sleep(0.5)
        context.cancel()
        save("cut", heard)
        context = connection.context(**SAID)
        context.push(SECOND)
        context.no_more_inputs()
        pcm, words = receive(context)
        tell("after", words=words, seconds=save("after", pcm))

        wrong = connection.context(model_id="sonic-3", voice=VOICE, output_format={**FORM, "sample_rate": 12345})
        wrong.push(SECOND)
        (event,) = list(wrong.receive())
        tell("refused", type=event.type, message=event.message, code=event.status_code)


def restart() -> None:
    tell("restart")
    wait()
    with client.tts.websocket_connect() as connection:
        context = connection.context(**SAID)
        context.push(SECOND)
        context.no_more_inputs()
        tell("restarted", seconds=save("restarted", receive(context)[0]))


def turns() -> None:
    with client.tts.websocket_connect() as connection:
        for name, text in asked():
            context, watch = connection.context(**SAID), Stopwatch()
            for token in tokens(text):
                context.push(token)
            context.no_more_inputs()
            tell_turn(name, receive(context, watch)[0], watch)


if MODE == "turns":
    turns()
else:
    requests()
    contexts()
    restart()

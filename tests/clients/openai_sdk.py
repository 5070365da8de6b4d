"""OpenAI's SDK: text to speech by its base URL."""

import openai
from report import FIRST, FOLDER, KEY, LONG, MODE, SECOND, URL, Stopwatch, asked, save, tell, tell_turn, wait

client = openai.OpenAI(api_key=KEY, base_url=f"{URL}/v1", max_retries=0)
speech = client.audio.speech


def streamed(text: str, watch: Stopwatch) -> bytes:
    """The sound of a text, taken as it comes."""
    pcm = b""
    with speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", voice="alloy", input=text, response_format="pcm"
    ) as answer:
        for chunk in answer.iter_bytes(3840):
            watch.sound()
            pcm += chunk
    return pcm


def requests() -> None:
    tell("models", ids=[model.id for model in client.models.list()], one=client.models.retrieve("tts-1").id)

    watch = Stopwatch()
    tell("speech", seconds=save("speech", streamed(FIRST, watch)), first_ms=watch.first_ms)

    for form in ("mp3", "wav", "flac", "opus"):
        answer = speech.create(model="tts-1", voice={"id": "any"}, input=SECOND, response_format=form)
        answer.write_to_file(FOLDER / f"speech.{form}")
        tell("form", name=form, content_type=answer.response.headers["content-type"])

    events = []
    with speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input=SECOND, response_format="pcm", stream_format="sse"
    ) as answer:
        events = [line for line in answer.iter_lines() if line]
    tell("events", first=events[0][:60], last=events[-1])

    for name, fields in {"aac": {"response_format": "aac"}, "speed": {"speed": 2.0}, "empty": {"input": ""}}.items():
        try:
            speech.create(**{"model": "tts-1", "voice": "alloy", "input": SECOND, **fields})
        except openai.BadRequestError as error:
            tell("refused", name=name, param=error.param, message=error.message)
    try:
        client.with_options(api_key="wrong").models.list()
    except openai.AuthenticationError as error:
        tell("refused", name="key", param=error.param, message=error.message)


def conversation() -> None:
    """The second request of the same user is interrupted, the third goes on."""
    mine = {"model": "tts-1", "voice": "alloy", "response_format": "pcm", "extra_body": {"user": "call-17"}}
    save("turn-1", speech.create(input=SECOND, **mine).content)
    heard = b""
    with speech.with_streaming_response.create(input=LONG, **mine) as answer:
        for chunk in answer.iter_bytes(3840):
            heard += chunk
            if len(heard) > 48000:
                break
    tell("interrupted", seconds=save("cut", heard))
    save("turn-2", speech.create(input=SECOND, **mine).content)
    tell("turns")


def restart() -> None:
    tell("restart")
    wait()
    patient = client.with_options(max_retries=10)
    answer = patient.audio.speech.create(model="tts-1", voice="alloy", input=SECOND, response_format="pcm")
    tell("restarted", seconds=save("restarted", answer.content))


def turns() -> None:
    for name, text in asked():
        watch = Stopwatch()
        tell_turn(name, streamed(text, watch), watch)


if MODE == "turns":
    turns()
else:
    requests()
    conversation()
    restart()

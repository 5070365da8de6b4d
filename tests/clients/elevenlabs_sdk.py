"""ElevenLabs' SDK: requests, times of characters, and its streaming of text."""

import base64

from elevenlabs.client import ElevenLabs
from elevenlabs.core.api_error import ApiError
from report import FIRST, FOLDER, KEY, SECOND, URL, WS_URL, Stopwatch, save, tell, wait

client = ElevenLabs(api_key=KEY, base_url=URL)
client.text_to_speech._ws_base_url = WS_URL  # the SDK knows https alone
SAID = {"voice_id": "any", "model_id": "eleven_flash_v2_5"}

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
tell("whole", chars="".join(whole.alignment.characters), seconds=save("whole", base64.b64decode(whole.audio_base_64)))

for number, text in enumerate((FIRST, SECOND)):
    watch, pcm = Stopwatch(), b""
    words = (f"{word} " for word in text.split(" "))
    for chunk in client.text_to_speech.convert_realtime(text=words, output_format="pcm_24000", **SAID):
        watch.sound()
        pcm += chunk
    tell("realtime", seconds=save(f"realtime-{number}", pcm), first_ms=watch.first_ms)

try:
    b"".join(client.text_to_speech.stream(text=" ", output_format="pcm_24000", **SAID))
except ApiError as error:
    tell("refused", status=error.status_code, body=error.body)

tell("restart")
wait()
pcm = b"".join(client.text_to_speech.stream(text=SECOND, output_format="pcm_24000", **SAID))
tell("restarted", seconds=save("restarted", pcm))

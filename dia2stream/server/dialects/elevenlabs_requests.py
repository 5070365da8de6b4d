"""ElevenLabs' requests, with and without times, its lists of voices, its names of forms of sound, and its errors."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping

from dia2stream.errors import CommandError
from dia2stream.protocol.fields import shown
from dia2stream.server.dialects.character_times import Aligner
from dia2stream.server.dialects.containers import MP3_RATES, Wanted, open_body
from dia2stream.server.dialects.context_items import Audio, Finished, Word
from dia2stream.server.dialects.dialect import (
    Request,
    Response,
    Served,
    Translator,
    choose_voice,
    retry_after,
    status_of,
)
from dia2stream.server.dialects.fields import text_of
from dia2stream.server.dialects.spoken import SoundWriter, SpokenAnswer, Writer

_DEFAULT_FORMAT = "mp3_44100_128"
_FORMAT = re.compile(r"(mp3|pcm|wav|ulaw|alaw|opus)_(\d{4,5})(?:_(\d{2,3}))?")
_PCM_RATES = (8000, 16000, 22050, 24000, 32000, 44100, 48000)
_MP3_KBPS = (32, 48, 64, 96, 128, 192, 240, 320)


def wanted_of(query: Mapping[str, str]) -> Wanted:
    """The form that output_format names. Raises CommandError."""
    name = text_of(query, "output_format", "") or _DEFAULT_FORMAT
    wanted = _read_format(name.lower())
    if wanted is None:
        examples = "mp3_44100_128, pcm_24000, wav_24000, ulaw_8000, alaw_8000 or opus_48000_64"
        problem = f"output_format must be one like {examples}, not {shown(name)}"
        raise CommandError("bad_field", problem, field="output_format")
    return wanted


def _read_format(name: str) -> Wanted | None:
    found = _FORMAT.fullmatch(name)
    if found is None:
        return None
    kind, rate, kbps = found[1], int(found[2]), int(found[3] or 0)
    match kind:
        case "mp3" if rate in MP3_RATES and kbps in _MP3_KBPS:
            return Wanted("mp3", rate, bit_rate=kbps * 1000)
        case "pcm" if rate in _PCM_RATES and not kbps:
            return Wanted("raw", rate)
        case "wav" if rate in _PCM_RATES and not kbps:
            return Wanted("wav", rate)
        case "ulaw" | "alaw" if rate == 8000 and not kbps:
            return Wanted("raw", rate, "mulaw" if kind == "ulaw" else "alaw")
        case "opus" if rate == 48000 and 6 <= kbps <= 256:
            return Wanted("opus", rate, bit_rate=kbps * 1000)
    return None


# --- speech ---


def speak(request: Request, served: Served) -> Translator | Response:
    """POST /v1/text-to-speech/{voice} and .../stream. Raises CommandError."""
    return _answer(request, served, SoundWriter(wanted_of(request.query)))


def speak_with_timestamps(request: Request, served: Served) -> Translator | Response:
    """POST /v1/text-to-speech/{voice}/stream/with-timestamps. Raises CommandError."""
    return _answer(request, served, LinesWriter(wanted_of(request.query)))


def speak_whole_with_timestamps(request: Request, served: Served) -> Translator | Response:
    """POST /v1/text-to-speech/{voice}/with-timestamps. Raises CommandError."""
    return _answer(request, served, WholeWriter(wanted_of(request.query)))


def _answer(request: Request, served: Served, writer: Writer) -> Translator:
    text = text_of(request.json(), "text")
    if not text.strip():
        raise CommandError("bad_field", "text must hold at least one word", field="text")
    return SpokenAnswer(text, choose_voice(request.path_values.get("voice"), served), writer, refuse)


class LinesWriter(Writer):
    """Lines of JSON, with sound and the characters that begin in it. Times are of the whole sound."""

    def __init__(self, wanted: Wanted) -> None:
        self._sound = open_body(wanted)
        self._aligner = Aligner(of_context=True)
        self.headers: Mapping[str, str] = {"Content-Type": "application/json"}

    def audio(self, audio: Audio) -> bytes:
        return self._line(self._sound.encode(audio.pcm))

    def word(self, word: Word) -> bytes:
        self._aligner.add(word)
        return b""

    def finish(self, finished: Finished) -> bytes:
        last = self._sound.finish()
        return self._line(last) if last or self._aligner else b""

    def _line(self, sound: bytes) -> bytes:
        aligned = self._aligner.take().as_seconds() if self._aligner else None
        return (json.dumps(_timed(sound, aligned)) + "\n").encode()


class WholeWriter(Writer):
    """All of it in one object."""

    def __init__(self, wanted: Wanted) -> None:
        self._sound = open_body(wanted)
        self._data = bytearray()
        self._aligner = Aligner(of_context=True)
        self.headers: Mapping[str, str] = {"Content-Type": "application/json"}

    def audio(self, audio: Audio) -> bytes:
        self._data += self._sound.encode(audio.pcm)
        return b""

    def word(self, word: Word) -> bytes:
        self._aligner.add(word)
        return b""

    def finish(self, finished: Finished) -> bytes:
        self._data += self._sound.finish()
        return json.dumps(_timed(bytes(self._data), self._aligner.take().as_seconds())).encode()


def _timed(sound: bytes, aligned: dict[str, object] | None) -> dict[str, object]:
    audio = base64.b64encode(sound).decode()
    return {"audio_base64": audio, "alignment": aligned, "normalized_alignment": aligned}


def list_voices(request: Request, served: Served) -> Response:
    """GET /v1/voices."""
    voices = [_described(name) for name in served.voices or ("default",)]
    return _json(200, {"voices": voices})


def get_voice(request: Request, served: Served) -> Response:
    """GET /v1/voices/{voice}."""
    name = request.path_values["voice"]
    if name in (served.voices or ("default",)):
        return _json(200, _described(name))
    return _json(404, {"detail": {"status": "voice_not_found", "message": f"there is no voice {shown(name)}"}})


def _described(name: str) -> dict[str, object]:
    return {"voice_id": name, "name": name, "category": "cloned", "labels": {}, "samples": None, "settings": None}


# --- errors ---


def refuse(error: CommandError) -> Response:
    """The error as their clients read it."""
    return _json(status_of(error), {"detail": {"status": kind_of(error), "message": error.message}}, retry_after(error))


def kind_of(error: CommandError) -> str:
    known = {"unauthorized": "invalid_api_key", "busy": "too_many_concurrent_requests", "overloaded": "system_busy"}
    return known.get(error.code, "internal_server_error" if error.code == "internal" else "invalid_request")


def _json(status: int, body: dict[str, object], headers: dict[str, str] | None = None) -> Response:
    return Response(status, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})})

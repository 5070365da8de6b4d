"""Deepgram's requests, and what its sockets have in common with them: names of forms and voices, errors."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping

from dia2stream.audio import SampleFormat
from dia2stream.errors import CommandError
from dia2stream.server.dialects.containers import MP3_RATES, OPUS_RATES, Container, Wanted
from dia2stream.server.dialects.dialect import (
    Request,
    Response,
    Served,
    Translator,
    Voice,
    choose_voice,
    retry_after,
    status_of,
)
from dia2stream.server.dialects.fields import choice_of, number_of, text_of
from dia2stream.server.dialects.spoken import SoundWriter, SpokenAnswer

ENCODINGS: dict[str, SampleFormat] = {"linear16": "pcm16", "mulaw": "mulaw", "alaw": "alaw"}
RATES = {rate: rate for rate in (8000, 16000, 24000, 32000, 44100, 48000)}
_VOICE = re.compile(r"(?:flux|aura(?:-\d+)?)-(.+)-[a-z]{2}")  # of a model's name


def speak(request: Request, served: Served) -> Translator | Response:
    """POST /v1/speak and /v2/speak. Raises CommandError."""
    if number_of(request.query, "speed", 1.0, 0.1, 10.0) != 1.0:
        raise CommandError("bad_field", "speed must be 1.0: this model sets its own pace", field="speed")
    text = text_of(request.json(), "text")
    if not text.strip():
        raise CommandError("bad_field", "text must hold at least one word", field="text")
    return SpokenAnswer(text, voice_of(request.query, served), _Body(request, served, text), refuse)


class _Body(SoundWriter):
    """The sound, with the headers that their SDK hands on."""

    def __init__(self, request: Request, served: Served, text: str) -> None:
        super().__init__(_wanted(request.query))
        about = {"dg-request-id": str(uuid.uuid4()), "dg-model-name": text_of(request.query, "model", served.model)}
        self.headers = {**self.headers, **about, "dg-char-count": str(len(text))}


def _wanted(query: Mapping[str, str]) -> Wanted:
    """Raises CommandError for a form of sound that there is not."""
    files: dict[str, Container] = {"mp3": "mp3", "opus": "opus", "flac": "flac"}
    encoding = choice_of(query, "encoding", {name: name for name in (*ENCODINGS, *files)}, "mp3")
    if encoding in files:
        offered = {"mp3": MP3_RATES, "opus": OPUS_RATES, "flac": tuple(RATES)}[encoding]
        default_rate = 22050 if encoding == "mp3" else 48000
        rate = choice_of(query, "sample_rate", {rate: rate for rate in offered}, default_rate)
        bit_rate = number_of(query, "bit_rate", None, 4000, 650_000)
        return Wanted(files[encoding], rate, bit_rate=_mp3_rate(bit_rate) if encoding == "mp3" else _whole(bit_rate))
    containers: dict[str, Container] = {"none": "raw", "wav": "wav"}
    container = choice_of(query, "container", containers, "wav")
    rate = choice_of(query, "sample_rate", RATES, 24000 if encoding == "linear16" else 8000)
    return Wanted(container, rate, ENCODINGS[encoding])


def _mp3_rate(bit_rate: float | None) -> int | None:
    """The nearest of the rates that MP3 has at every sample rate."""
    rates = (32000, 40000, 48000, 56000, 64000)
    return None if bit_rate is None else min(rates, key=lambda rate: abs(rate - bit_rate))


def _whole(bit_rate: float | None) -> int | None:
    return None if bit_rate is None else min(max(round(bit_rate), 6000), 256_000)


def voice_of(query: Mapping[str, str], served: Served) -> Voice:
    """The model's name is a voice, or has one in it: flux-anna-en."""
    model = text_of(query, "model", "")
    inner = _VOICE.fullmatch(model)
    return choose_voice(inner[1] if inner and inner[1] in served.voices else model, served)


def refuse(error: CommandError) -> Response:
    """The error as their clients read it."""
    codes = {401: "INVALID_AUTH", 429: "TOO_MANY_REQUESTS", 500: "INTERNAL_SERVER_ERROR", 503: "SERVICE_UNAVAILABLE"}
    status, request_id = status_of(error), str(uuid.uuid4())
    body = {"err_code": codes.get(status, "Bad Request"), "err_msg": error.message, "request_id": request_id}
    headers = {"Content-Type": "application/json", "dg-request-id": request_id, "dg-error": body["err_code"]}
    return Response(status, json.dumps(body).encode(), {**headers, **retry_after(error)})

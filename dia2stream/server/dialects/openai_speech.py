"""OpenAI's `POST /v1/audio/speech`, with `/v1/models` and the list of voices that other self-hosted servers have.

    {"model": "any", "voice": "alloy", "input": "Hello.", "response_format": "pcm"}   -> audio, as it is made
    {..., "stream_format": "sse"}       -> data: {"type": "speech.audio.delta", "audio": "..."}, ..., speech.audio.done

Every model name of theirs is ours, so that a client only has to change its base URL. `user` is the conversation: the
next request of that user goes on in the same voice, and remembers what was said. Without it a request stands alone and
is answered as fast as speech can be made. Errors are {"error": {"message", "type", "param", "code"}}.
"""

from __future__ import annotations

import base64
import json

from dia2stream.errors import CommandError
from dia2stream.protocol.fields import shown
from dia2stream.server.dialects.containers import MP3_RATES, OPUS_RATES, Container, Wanted
from dia2stream.server.dialects.context_items import Audio, Finished
from dia2stream.server.dialects.dialect import (
    Request,
    Response,
    Route,
    Served,
    Translator,
    checked_key,
    choose_voice,
    retry_after,
    status_of,
)
from dia2stream.server.dialects.fields import choice_of, number_of, text_of
from dia2stream.server.dialects.spoken import SoundWriter, SpokenAnswer

# Their names for models that speak; all of them stand for the one that is served.
THEIR_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
_CONTAINERS: dict[str, Container] = {"mp3": "mp3", "opus": "opus", "flac": "flac", "wav": "wav", "pcm": "raw"}
_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_DEFAULT_RATE = 24000
_FRAME_MS = 80


def speak(request: Request, served: Served) -> Translator | Response:
    """POST /v1/audio/speech. Raises CommandError."""
    fields = request.json()
    text = text_of(fields, "input")
    if not text.strip():
        raise CommandError("bad_field", "input must hold at least one word", field="input")
    if (speed := number_of(fields, "speed", 1.0, 0.25, 4.0)) != 1.0:
        raise CommandError(
            "bad_field", f"speed must be 1.0, not {speed:g}: this model sets its own pace", field="speed"
        )
    wanted = _wanted(fields)
    as_events = choice_of(fields, "stream_format", {"audio": False, "sse": True}, False)
    writer = EventWriter(wanted, text) if as_events else SoundWriter(wanted)
    user = fields.get("user")
    conversation = checked_key(user) if isinstance(user, str) and user else None
    return SpokenAnswer(text, choose_voice(_voice(fields), served), writer, refuse, conversation)


def _wanted(fields: dict[str, object]) -> Wanted:
    if str(fields.get("response_format")).lower() == "aac":
        problem = f"response_format aac is not made here; it must be one of {', '.join(_CONTAINERS)}"
        raise CommandError("bad_field", problem, field="response_format")
    container = choice_of(fields, "response_format", _CONTAINERS, "mp3")
    rates = {"mp3": MP3_RATES, "opus": OPUS_RATES}.get(container, _RATES)
    rate = choice_of(fields, "sample_rate", {rate: rate for rate in rates}, _DEFAULT_RATE)
    return Wanted(container, rate)


def _voice(fields: dict[str, object]) -> str | None:
    """The voice's name, which may also come as {"id": name}."""
    voice = fields.get("voice")
    if isinstance(voice, dict):
        voice = voice.get("id")
    if voice is not None and not isinstance(voice, str):
        raise CommandError("bad_field", f'voice must be a name or {{"id": name}}, not {shown(voice)}', field="voice")
    return voice


class EventWriter(SoundWriter):
    """Server-sent events that carry the sound."""

    def __init__(self, wanted: Wanted, text: str) -> None:
        super().__init__(wanted)
        self._words = len(text.split())
        self.headers = {**self.headers, "Content-Type": "text/event-stream", "Cache-Control": "no-cache"}

    def audio(self, audio: Audio) -> bytes:
        return _delta(super().audio(audio))

    def finish(self, finished: Finished) -> bytes:
        """The rest of the sound, and what it took: words in, frames of 80 ms out."""
        frames = finished.audio_ms // _FRAME_MS
        usage = {"input_tokens": self._words, "output_tokens": frames, "total_tokens": self._words + frames}
        return _delta(super().finish(finished)) + _event({"type": "speech.audio.done", "usage": usage})

    def error(self, error: CommandError) -> bytes | None:
        return _event({"type": "error", **_error(error)})


def _delta(data: bytes) -> bytes:
    return _event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()}) if data else b""


def _event(event: dict[str, object]) -> bytes:
    return f"data: {json.dumps(event)}\n\n".encode()


# --- lists ---


def list_models(request: Request, served: Served) -> Response:
    """GET /v1/models."""
    return _json(200, {"object": "list", "data": [_model(served.model, served)]})


def get_model(request: Request, served: Served) -> Response:
    """GET /v1/models/{model}."""
    name = request.path_values["model"]
    if name in (served.model, *THEIR_MODELS):
        return _json(200, _model(name, served))
    error = {
        "message": f"the model {shown(name)} does not exist; this server has {served.model}",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    return _json(404, {"error": error})


def list_voices(request: Request, served: Served) -> Response:
    """GET /v1/audio/voices: a custom of self-hosted servers, which Open WebUI and Home Assistant ask for."""
    names = served.voices or ("default",)
    return _json(200, {"voices": [{"id": name, "name": name} for name in names]})


def _model(name: str, served: Served) -> dict[str, object]:
    owner = served.model.partition("/")[0] if "/" in served.model else "dia2stream"
    return {"id": name, "object": "model", "created": served.created, "owned_by": owner, "shutdown_date": None}


# --- errors ---


def refuse(error: CommandError) -> Response:
    """The error as their clients read it."""
    return _json(status_of(error), _error(error), retry_after(error))


def _error(error: CommandError) -> dict[str, object]:
    types = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}
    codes = {401: "invalid_api_key", 429: "rate_limit_exceeded", 503: "overloaded"}
    status = status_of(error)
    kind, code = types.get(status, "invalid_request_error"), codes.get(status)
    param = "input" if error.field == "text" else error.field
    return {"error": {"message": error.message, "type": kind, "param": param, "code": code}}


def _json(status: int, body: dict[str, object], headers: dict[str, str] | None = None) -> Response:
    return Response(status, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})})


ROUTES = [
    Route("POST", "/v1/audio/speech", speak, refuse),
    Route("GET", "/v1/models", list_models, refuse),
    Route("GET", "/v1/models/{model:path}", get_model, refuse),
    Route("GET", "/v1/audio/voices", list_voices, refuse),
]

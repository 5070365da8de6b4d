"""Cartesia's `/tts/websocket`, `/tts/bytes` and `/tts/sse`, of every API version in use.

    {"context_id": "a", "transcript": "Hello ", "continue": true, "output_format": {...}, "voice": {...}, ...}
    <- {"type": "chunk", "context_id": "a", "data": "<base64>", "done": false, ...}
    <- {"type": "timestamps", "context_id": "a", "word_timestamps": {"words": [...], "start": [...], "end": [...]}, ...}
    {"context_id": "a", "transcript": "", "continue": false}    <- ..., {"type": "done", "context_id": "a", ...}
    {"context_id": "a", "cancel": true}                         nothing more of a; the memory holds what was heard

Transcripts of a context are joined as they are. Contexts are spoken one after another. Every message names its context,
because pipecat looks for it in every message.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections import deque
from collections.abc import Mapping

from dia2stream.audio import Encoder, SampleFormat
from dia2stream.errors import CommandError
from dia2stream.protocol.fields import shown
from dia2stream.server.dialects.containers import Container, Wanted
from dia2stream.server.dialects.context_items import Audio, ContextItem, Failed, Finished, Flushed, Word
from dia2stream.server.dialects.context_translator import ContextTranslator
from dia2stream.server.dialects.contexts import PATIENCE
from dia2stream.server.dialects.dialect import (
    Close,
    Output,
    Request,
    Response,
    Route,
    Served,
    Translator,
    Voice,
    choose_voice,
    read_object,
    retry_after,
    status_of,
)
from dia2stream.server.dialects.fields import bool_of, choice_of, number_of, object_of, text_of
from dia2stream.server.dialects.spoken import SoundWriter, SpokenAnswer, Writer

_ENCODINGS: dict[str, SampleFormat] = {
    "pcm_f32le": "f32",
    "pcm_s16le": "pcm16",
    "pcm_mulaw": "mulaw",
    "pcm_alaw": "alaw",
}
_RATES = {rate: rate for rate in (8000, 16000, 22050, 24000, 44100, 48000)}
_BIT_RATES = {rate: rate for rate in (32000, 64000, 96000, 128000, 192000)}
_CONTAINERS: dict[str, Container] = {"raw": "raw", "wav": "wav", "mp3": "mp3"}
_LONGEST_DELAY_MS = 5000
_KEPT_CANCELLED = 100  # names of contexts whose text may still be under way


# --- WebSocket ---


def open_socket(request: Request, served: Served) -> Translator | Response:
    """/tts/websocket."""
    return CartesiaSocket(served)


class CartesiaSocket(ContextTranslator):
    """One socket and its contexts."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self._served = served
        self._forms: dict[str, _Form] = {}  # by context
        self._cancelled: deque[str] = deque(maxlen=_KEPT_CANCELLED)

    def receive(self, message: str | bytes, now: float) -> list[Output]:
        name = ""
        try:
            fields = read_object(message)
            name = text_of(fields, "context_id", "") or str(uuid.uuid4())
            return self._cancel(name, now) if bool_of(fields, "cancel") else self._speak(name, fields, now)
        except CommandError as error:
            return [_socket_error(error, name)]

    def fail(self, error: CommandError) -> list[Output]:
        names = self._contexts.names or [""]
        return [*(_socket_error(error, name) for name in names), Close(error.close_code or 1011, error.code)]

    def _cancel(self, name: str, now: float) -> list[Output]:
        self._cancelled.append(name)
        self._forms.pop(name, None)
        return self._outputs(self._contexts.cancel(name, now))

    def _speak(self, name: str, fields: dict[str, object], now: float) -> list[Output]:
        if name in self._cancelled:
            return []
        # A flush or an end of what is there needs no text.
        text = text_of(fields, "transcript", "" if name in self._forms else None)
        delay_ms = number_of(fields, "max_buffer_delay_ms", PATIENCE * 1000, 0, _LONGEST_DELAY_MS)
        more, flush = bool_of(fields, "continue"), bool_of(fields, "flush")
        form = self._forms.get(name)
        if form is None:
            form = self._forms[name] = _Form(fields, self._served)
        turned = self._contexts.speak(
            name, text, now, voice=form.voice, last=not more, flush=flush, patience=(delay_ms or 0.0) / 1000
        )
        return self._outputs(turned)

    def _tell(self, item: ContextItem) -> list[Output]:
        match item:
            case Audio():
                data = self._forms[item.context].encoder.encode(item.pcm)
                return [json.dumps(_chunk(data, item.context))]
            case Word():
                return [json.dumps(_timestamps(item, item.context))] if self._forms[item.context].timestamps else []
            case Flushed():
                told = {"type": "flush_done", "flush_done": True, "flush_id": item.number}
                return [json.dumps({**told, "done": False, "status_code": 206, "context_id": item.context})]
            case Finished():
                del self._forms[item.context]
                return [json.dumps(_done(item.context))]
            case Failed():
                self._forms.pop(item.context or "", None)
                return [_socket_error(item.error, item.context or "")]
        return []


class _Form:
    """How a context wants its answer."""

    def __init__(self, fields: Mapping[str, object], served: Served) -> None:
        wanted = _wanted(fields, {"raw": "raw"})
        self.encoder = Encoder(wanted.encoding, wanted.sample_rate)
        self.encoder.restart()
        self.timestamps = bool_of(fields, "add_timestamps")
        self.voice = _voice(fields, served)


def _socket_error(error: CommandError, context: str) -> str:
    return json.dumps({"type": "error", "done": True, **_error(error), "context_id": context})


# --- HTTP ---


def speak_bytes(request: Request, served: Served) -> Translator | Response:
    """POST /tts/bytes. Raises CommandError."""
    fields = request.json()
    writer = SoundWriter(_wanted(fields, _CONTAINERS))
    return SpokenAnswer(_transcript(fields), _voice(fields, served), writer, refuse)


def speak_events(request: Request, served: Served) -> Translator | Response:
    """POST /tts/sse. Raises CommandError."""
    fields = request.json()
    writer = EventWriter(_wanted(fields, {"raw": "raw"}), fields)
    return SpokenAnswer(_transcript(fields), _voice(fields, served), writer, refuse)


class EventWriter(Writer):
    """Server-sent events, named like the socket's messages."""

    def __init__(self, wanted: Wanted, fields: Mapping[str, object]) -> None:
        self._encoder = Encoder(wanted.encoding, wanted.sample_rate)
        self._encoder.restart()
        self._timestamps = bool_of(fields, "add_timestamps")
        self._context = text_of(fields, "context_id", "") or None
        self.headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}

    def audio(self, audio: Audio) -> bytes:
        return _event(_chunk(self._encoder.encode(audio.pcm), self._context))

    def word(self, word: Word) -> bytes:
        return _event(_timestamps(word, self._context)) if self._timestamps else b""

    def finish(self, finished: Finished) -> bytes:
        return _event(_done(self._context))

    def error(self, error: CommandError) -> bytes | None:
        return _event({"type": "error", "done": True, **_error(error), "context_id": self._context})


def _event(message: dict[str, object]) -> bytes:
    return f"event: {message['type']}\ndata: {json.dumps(message)}\n\n".encode()


# --- what both have ---


def _chunk(data: bytes, context: str | None) -> dict[str, object]:
    sound = base64.b64encode(data).decode()
    return {
        "type": "chunk",
        "data": sound,
        "done": False,
        "status_code": 206,
        "step_time": 0.0,
        "context_id": context,
    }


def _timestamps(word: Word, context: str | None) -> dict[str, object]:
    times = {"words": [word.word], "start": [word.start_ms / 1000], "end": [word.end_ms / 1000]}
    return {
        "type": "timestamps",
        "done": False,
        "status_code": 206,
        "context_id": context,
        "word_timestamps": times,
    }


def _done(context: str | None) -> dict[str, object]:
    return {"type": "done", "done": True, "status_code": 200, "context_id": context}


def _transcript(fields: Mapping[str, object]) -> str:
    text = text_of(fields, "transcript")
    if not text.strip():
        raise CommandError("bad_field", "transcript must hold at least one word", field="transcript")
    return text


def _wanted(fields: Mapping[str, object], containers: Mapping[str, Container]) -> Wanted:
    """Raises CommandError for a form of sound that there is not."""
    form = object_of(fields, "output_format")
    if not form:
        example = '{"container": "raw", "encoding": "pcm_s16le", "sample_rate": 24000}'
        raise CommandError("bad_field", f"output_format is missing; an example is {example}", field="output_format")
    container = choice_of(form, "container", containers, "raw")
    rate = choice_of(form, "sample_rate", _RATES)
    if container == "mp3":
        return Wanted(container, rate, bit_rate=choice_of(form, "bit_rate", _BIT_RATES, 128000))
    return Wanted(container, rate, choice_of(form, "encoding", _ENCODINGS))


def _voice(fields: Mapping[str, object], served: Served) -> Voice:
    """The voice of a name, of {"mode": "id", "id": name}, or of an embedding, which stands for a name here."""
    voice = fields.get("voice")
    if isinstance(voice, dict):
        voice = voice.get("id") or (json.dumps(voice["embedding"]) if "embedding" in voice else None)
    if voice is not None and not isinstance(voice, str):
        raise CommandError("bad_field", f'voice must be a name or {{"id": name}}, not {shown(voice)}', field="voice")
    return choose_voice(voice, served)


# --- errors ---


def refuse(error: CommandError) -> Response:
    """The error as their clients read it."""
    headers = {"Content-Type": "application/json", **retry_after(error)}
    return Response(status_of(error), json.dumps(_error(error)).encode(), headers)


def _error(error: CommandError) -> dict[str, object]:
    titles = {401: "Unauthorized", 429: "Too many requests", 500: "Server error", 503: "Overloaded"}
    status = status_of(error)
    return {
        "title": titles.get(status, "Invalid request"),
        "message": error.message,
        "error_code": error.code,
        "status_code": status,
        "request_id": str(uuid.uuid4()),
        "doc_url": None,
    }


ROUTES = [
    Route("WEBSOCKET", "/tts/websocket", open_socket, refuse),
    Route("POST", "/tts/bytes", speak_bytes, refuse),
    Route("POST", "/tts/sse", speak_events, refuse),
]

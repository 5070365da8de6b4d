"""ElevenLabs' `/v1/text-to-speech/{voice}`: both sockets, the requests with and without times, and `/v1/voices`.

    wss://HOST/v1/text-to-speech/anna/multi-stream-input?output_format=pcm_24000&auto_mode=true
    {"text": " ", "context_id": "a", "voice_settings": {...}}       opens a context
    {"text": "Hello there. ", "context_id": "a"}
    <- {"audio": "<base64>", "contextId": "a", "alignment": {"chars": [...], "charStartTimesMs": [...], ...}, ...}
    {"context_id": "a", "flush": true}  {"context_id": "a", "close_context": true}   <- ..., {"isFinal": true, ...}

**Interruptions.** These sockets have no word for one: clients close the context, as they do when all is well, or only
go on with another one. So a context counts as interrupted when it is closed for the second time; when it is closed with
no flush before, while it sounds or a while after its last text; and when text comes for another context after it was
closed and while it is heard.

**Times** of characters are those of the message they come in, which `sync_alignment=true` changes to those of the
context: LiveKit asks for it and adds nothing, pipecat does not and adds up. A message's time begins where the alignment
before it ended.
"""

from __future__ import annotations

import base64
import json
import re
from collections import deque
from collections.abc import Mapping

from dia2stream.errors import CommandError
from dia2stream.items import Item
from dia2stream.protocol.fields import shown
from dia2stream.server.dialects.containers import MP3_RATES, Body, Wanted, open_body
from dia2stream.server.dialects.contexts import (
    PATIENCE,
    Audio,
    ContextItem,
    Contexts,
    Failed,
    Finished,
    Interrupted,
    Word,
    outputs,
)
from dia2stream.server.dialects.dialect import (
    Close,
    Output,
    Request,
    Response,
    Route,
    Served,
    Standing,
    Translator,
    choose_voice,
    read_object,
    retry_after,
    status_of,
)
from dia2stream.server.dialects.fields import bool_of, text_of
from dia2stream.server.dialects.spoken import SoundWriter, SpokenAnswer, Writer

_ONLY = "default"  # the context of messages that name none
_DEFAULT_FORMAT = "mp3_44100_128"
_POLICY = 1008  # the close code for what a client should not have sent
# A client that closes a context at once has said all; one that closes it later has been interrupted.
_SOON = 0.1
_KEPT_CANCELLED = 100


# --- sockets ---


def open_single(request: Request, served: Served) -> Translator | Response:
    """/v1/text-to-speech/{voice}/stream-input. Raises CommandError."""
    return SingleSocket(request, served)


def open_multi(request: Request, served: Served) -> Translator | Response:
    """/v1/text-to-speech/{voice}/multi-stream-input. Raises CommandError."""
    return MultiSocket(request, served)


class _Context:
    """What a context's messages need: its sound so far, and its characters."""

    def __init__(self, wanted: Wanted, of_context: bool) -> None:
        self.body: Body = open_body(wanted)
        self.aligner = Aligner(of_context)
        self.waiting = Characters()  # that go with the next sound
        self.flushed = False  # whether a flush of its own came after its last text
        self.said: float | None = None  # when its last text came
        self.sounds = False


class _Socket(Translator):
    def __init__(self, request: Request, served: Served) -> None:
        self._wanted = _wanted(request.query)
        open_body(self._wanted)  # now, while it can still be refused
        self._voice = choose_voice(request.path_values.get("voice"), served)
        self._of_context = bool_of(request.query, "sync_alignment")
        self._patience = 0.0 if bool_of(request.query, "auto_mode") else PATIENCE
        self._contexts = Contexts()
        self._open: dict[str, _Context] = {}

    def begin(self, standing: Standing, now: float) -> list[Output]:
        self._contexts.begin(standing, now)
        return []

    def receive(self, message: str | bytes, now: float) -> list[Output]:
        try:
            return self._obey(read_object(message), now)
        except CommandError as error:
            return [_socket_error(error, None), Close(_POLICY, error.code)]

    def take(self, item: Item, now: float) -> list[Output]:
        return outputs(self._contexts.take(item, now), self._tell)

    def look(self, now: float) -> list[Output]:
        return outputs(self._contexts.look(now), self._tell)

    def leave(self, now: float) -> list[Output]:
        return [*self._contexts.leave(now)]

    def fail(self, error: CommandError) -> list[Output]:
        return [_socket_error(error, None), Close(error.close_code or 1011, error.code)]

    def _obey(self, fields: Mapping[str, object], now: float) -> list[Output]:
        raise NotImplementedError

    def _name(self, context: str) -> dict[str, object]:
        """How a message names its context."""
        raise NotImplementedError

    def _ended(self, name: str, last: bytes) -> list[Output]:
        raise NotImplementedError

    def _failed(self, failed: Failed) -> list[Output]:
        raise NotImplementedError

    def _speak(self, name: str, text: str, now: float, *, flush: bool = False, last: bool = False) -> list[Output]:
        context = self._open.get(name)
        if context is None:
            context = self._open[name] = _Context(self._wanted, self._of_context)
        if text.strip():
            context.said, context.flushed = now, False
        elif flush:
            context.flushed = True
        turned = self._contexts.speak(
            name, text, now, voice=self._voice, last=last, flush=flush, patience=self._patience
        )
        return outputs(turned, self._tell)

    def _tell(self, item: ContextItem) -> list[Output]:
        match item:
            case Word():
                self._open[item.context].waiting += self._open[item.context].aligner.add(item)
            case Audio():
                context = self._open[item.context]
                context.sounds = True
                return [self._message(item.context, context.body.encode(item.pcm))]
            case Finished():
                return self._ended(item.context, self._open[item.context].body.finish())
            case Interrupted():
                return self._ended(item.context, b"") if item.context in self._open else []
            case Failed():
                return self._failed(item)
        return []

    def _message(self, name: str, sound: bytes) -> str:
        context = self._open[name]
        aligned = context.waiting.as_milliseconds() if context.waiting else None
        context.waiting = Characters()
        audio = base64.b64encode(sound).decode()
        times = {"alignment": aligned, "normalizedAlignment": aligned}
        return json.dumps({"audio": audio, "isFinal": None, **times, **self._name(name)})

    def _rest(self, name: str, last: bytes) -> list[Output]:
        """What is left of a context's sound."""
        return [self._message(name, last)] if last or self._open[name].waiting else []


class SingleSocket(_Socket):
    """stream-input: one context, which an empty text ends."""

    def __init__(self, request: Request, served: Served) -> None:
        super().__init__(request, served)
        self._ending = False

    def _obey(self, fields: Mapping[str, object], now: float) -> list[Output]:
        if self._ending:
            return []
        text = text_of(fields, "text")
        self._ending = text == ""
        return self._speak(_ONLY, text, now, flush=bool_of(fields, "flush") and not self._ending, last=self._ending)

    def _name(self, context: str) -> dict[str, object]:
        return {}

    def _ended(self, name: str, last: bytes) -> list[Output]:
        final = json.dumps({"audio": None, "isFinal": True, "alignment": None, "normalizedAlignment": None})
        return [*self._rest(name, last), final, Close()]

    def _failed(self, failed: Failed) -> list[Output]:
        return [_socket_error(failed.error, None), Close(_POLICY, failed.error.code)]


class MultiSocket(_Socket):
    """multi-stream-input: contexts by name."""

    def __init__(self, request: Request, served: Served) -> None:
        super().__init__(request, served)
        self._closing: set[str] = set()  # contexts that were asked to end and have not ended
        self._cancelled: deque[str] = deque(maxlen=_KEPT_CANCELLED)  # whose text may still be under way
        self._leaving = False

    def _obey(self, fields: Mapping[str, object], now: float) -> list[Output]:
        if self._leaving:
            return []
        if bool_of(fields, "close_socket"):
            return self._close_all(now)
        name = text_of(fields, "context_id", "") or text_of(fields, "contextId", "") or _ONLY
        text, flush = text_of(fields, "text", ""), bool_of(fields, "flush")
        told: list[Output] = []
        if (text or flush) and name not in self._closing and name not in self._cancelled:
            if text.strip():
                told += self._interrupt_others(name, now)
            told += self._speak(name, text, now, flush=flush)
        if bool_of(fields, "close_context"):
            told += self._close(name, now)
        return told

    def _interrupt_others(self, name: str, now: float) -> list[Output]:
        """Who speaks on in another context has not listened to the end of the one before."""
        told: list[Output] = []
        for other in [*self._closing - {name}]:
            if self._open[other].sounds:
                told += self._cancel(other, now)
        return told

    def _close(self, name: str, now: float) -> list[Output]:
        context = self._open.get(name)
        if context is None or name in self._closing:
            return self._cancel(name, now)
        if context.said is not None and not context.flushed and (context.sounds or now - context.said > _SOON):
            return self._cancel(name, now)
        self._closing.add(name)
        return self._speak(name, "", now, last=True)

    def _cancel(self, name: str, now: float) -> list[Output]:
        if name in self._open:
            self._cancelled.append(name)
        return outputs(self._contexts.cancel(name, now), self._tell)

    def _close_all(self, now: float) -> list[Output]:
        """What was asked for is said before the socket closes."""
        self._leaving = True
        told: list[Output] = []
        for name in [*self._open]:
            told += self._speak(name, "", now, last=True)
        return told if self._open else [*told, Close()]

    def _name(self, context: str) -> dict[str, object]:
        return {"contextId": context, "context_id": context}

    def _ended(self, name: str, last: bytes) -> list[Output]:
        told = self._rest(name, last)
        self._forget(name)
        final = json.dumps({"audio": None, "isFinal": True, **self._name(name)})
        return [*told, final, *([Close()] if self._leaving and not self._open else [])]

    def _failed(self, failed: Failed) -> list[Output]:
        self._forget(failed.context or "")
        return [_socket_error(failed.error, failed.context)]

    def _forget(self, name: str) -> None:
        self._open.pop(name, None)
        self._closing.discard(name)


def _socket_error(error: CommandError, context: str | None) -> str:
    named = {} if context is None else {"contextId": context, "context_id": context}
    status = status_of(error)
    return json.dumps({"message": error.message, "error": _kind(error), "code": status, **named})


# --- times of characters ---


class Characters:
    """Characters with their starts and ends in milliseconds."""

    def __init__(self) -> None:
        self.chars: list[str] = []
        self.starts: list[int] = []
        self.ends: list[int] = []

    def __bool__(self) -> bool:
        return bool(self.chars)

    def __iadd__(self, other: Characters) -> Characters:
        self.chars += other.chars
        self.starts += other.starts
        self.ends += other.ends
        return self

    def add(self, text: str, start: int, end: int) -> None:
        """Spreads characters evenly over a time."""
        edges = [start + (end - start) * n // len(text) for n in range(len(text) + 1)] if text else []
        self.chars += text
        self.starts += edges[:-1]
        self.ends += edges[1:]

    def as_milliseconds(self) -> dict[str, object]:
        """As the sockets' messages have it."""
        durations = [end - start for start, end in zip(self.starts, self.ends, strict=True)]
        return {"chars": self.chars, "charStartTimesMs": self.starts, "charDurationsMs": durations}

    def as_seconds(self) -> dict[str, object]:
        """As the answers to requests have it."""
        starts, ends = [ms / 1000 for ms in self.starts], [ms / 1000 for ms in self.ends]
        return {
            "characters": self.chars,
            "character_start_times_seconds": starts,
            "character_end_times_seconds": ends,
        }


class Aligner:
    """Words -> characters. of_context: whether times begin with the context; else where those before ended."""

    def __init__(self, of_context: bool) -> None:
        self._of_context = of_context
        self._ends_ms = 0  # where the characters so far end

    def add(self, word: Word) -> Characters:
        """The characters of a word, and the space behind it: clients take a word for complete at a space."""
        characters = Characters()
        base = 0 if self._of_context else self._ends_ms
        start = max(word.start_ms, self._ends_ms)
        self._ends_ms = max(word.end_ms, start)
        characters.add(word.word, start - base, self._ends_ms - base)
        characters.add(" ", self._ends_ms - base, self._ends_ms - base)
        return characters


# --- requests ---


def speak(request: Request, served: Served) -> Translator | Response:
    """POST /v1/text-to-speech/{voice} and .../stream. Raises CommandError."""
    return _answer(request, served, SoundWriter(_wanted(request.query)))


def speak_with_timestamps(request: Request, served: Served) -> Translator | Response:
    """POST /v1/text-to-speech/{voice}/stream/with-timestamps. Raises CommandError."""
    return _answer(request, served, LinesWriter(_wanted(request.query)))


def speak_whole_with_timestamps(request: Request, served: Served) -> Translator | Response:
    """POST /v1/text-to-speech/{voice}/with-timestamps. Raises CommandError."""
    return _answer(request, served, WholeWriter(_wanted(request.query)))


def _answer(request: Request, served: Served, writer: Writer) -> Translator:
    text = text_of(request.json(), "text")
    if not text.strip():
        raise CommandError("bad_field", "text must hold at least one word", field="text")
    return SpokenAnswer(text, choose_voice(request.path_values.get("voice"), served), writer, refuse)


class LinesWriter(Writer):
    """Lines of JSON, with sound and the characters that begin in it. Times are of the whole sound."""

    def __init__(self, wanted: Wanted) -> None:
        self._sound = open_body(wanted)
        self._aligner, self._waiting = Aligner(of_context=True), Characters()
        self.headers: Mapping[str, str] = {"Content-Type": "application/json"}

    def audio(self, audio: Audio) -> bytes:
        return self._line(self._sound.encode(audio.pcm))

    def word(self, word: Word) -> bytes:
        self._waiting += self._aligner.add(word)
        return b""

    def finish(self, finished: Finished) -> bytes:
        last = self._sound.finish()
        return self._line(last) if last or self._waiting else b""

    def _line(self, sound: bytes) -> bytes:
        aligned = self._waiting.as_seconds() if self._waiting else None
        self._waiting = Characters()
        return (json.dumps(_timed(sound, aligned)) + "\n").encode()


class WholeWriter(Writer):
    """All of it in one object."""

    def __init__(self, wanted: Wanted) -> None:
        self._sound = open_body(wanted)
        self._data = bytearray()
        self._aligner, self._characters = Aligner(of_context=True), Characters()
        self.headers: Mapping[str, str] = {"Content-Type": "application/json"}

    def audio(self, audio: Audio) -> bytes:
        self._data += self._sound.encode(audio.pcm)
        return b""

    def word(self, word: Word) -> bytes:
        self._characters += self._aligner.add(word)
        return b""

    def finish(self, finished: Finished) -> bytes:
        self._data += self._sound.finish()
        return json.dumps(_timed(bytes(self._data), self._characters.as_seconds())).encode()


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


# --- what both have ---

_FORMAT = re.compile(r"(mp3|pcm|wav|ulaw|alaw|opus)_(\d{4,5})(?:_(\d{2,3}))?")
_PCM_RATES = (8000, 16000, 22050, 24000, 32000, 44100, 48000)
_MP3_KBPS = (32, 48, 64, 96, 128, 192, 240, 320)


def _wanted(query: Mapping[str, str]) -> Wanted:
    """The form that output_format names. Raises CommandError."""
    name = text_of(query, "output_format", _DEFAULT_FORMAT)
    wanted = _read_format(name)
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


def refuse(error: CommandError) -> Response:
    """The error as their clients read it."""
    return _json(status_of(error), {"detail": {"status": _kind(error), "message": error.message}}, retry_after(error))


def _kind(error: CommandError) -> str:
    known = {"unauthorized": "invalid_api_key", "busy": "too_many_concurrent_requests", "overloaded": "system_busy"}
    return known.get(error.code, "internal_server_error" if error.code == "internal" else "invalid_request")


def _json(status: int, body: dict[str, object], headers: dict[str, str] | None = None) -> Response:
    return Response(status, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})})


_VOICE = "/v1/text-to-speech/{voice}"
ROUTES = [
    Route("WEBSOCKET", f"{_VOICE}/stream-input", open_single, refuse),
    Route("WEBSOCKET", f"{_VOICE}/multi-stream-input", open_multi, refuse),
    Route("POST", f"{_VOICE}", speak, refuse),
    Route("POST", f"{_VOICE}/stream", speak, refuse),
    Route("POST", f"{_VOICE}/stream/with-timestamps", speak_with_timestamps, refuse),
    Route("POST", f"{_VOICE}/with-timestamps", speak_whole_with_timestamps, refuse),
    Route("GET", "/v1/voices", list_voices, refuse),
    Route("GET", "/v1/voices/{voice}", get_voice, refuse),
]

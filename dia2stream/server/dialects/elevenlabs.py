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
from collections import deque
from collections.abc import Mapping
from functools import partial

from dia2stream.errors import CommandError
from dia2stream.server.dialects.character_times import Aligner
from dia2stream.server.dialects.containers import Body, Wanted, open_body
from dia2stream.server.dialects.context_items import Audio, ContextItem, Failed, Finished, Word
from dia2stream.server.dialects.context_translator import ContextTranslator
from dia2stream.server.dialects.contexts import PATIENCE
from dia2stream.server.dialects.dialect import (
    Close,
    FirstKey,
    Output,
    Request,
    Response,
    Route,
    Served,
    Translator,
    choose_voice,
    read_object,
    status_of,
)
from dia2stream.server.dialects.elevenlabs_requests import (
    get_voice,
    kind_of,
    list_voices,
    refuse,
    speak,
    speak_whole_with_timestamps,
    speak_with_timestamps,
    wanted_of,
)
from dia2stream.server.dialects.fields import bool_of, text_of

_ONLY = "default"  # the context of messages that name none
_POLICY = 1008  # the close code for what a client should not have sent
# A client that closes a context at once has said all; one that closes it later has been interrupted.
_SOON = 0.1
_KEPT_CANCELLED = 100
_SETTINGS = {"voice_settings", "generation_config", "pronunciation_dictionary_locators"}  # of a context's first message


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
        self.flushed = False  # whether a flush of its own came after its last text
        self.said: float | None = None  # when its last text came
        self.sounds = False


class _Socket(ContextTranslator):
    def __init__(self, request: Request, served: Served) -> None:
        super().__init__()
        self._wanted = wanted_of(request.query)
        open_body(self._wanted)  # now, while it can still be refused
        self._voice = choose_voice(request.path_values.get("voice"), served)
        self._of_context = bool_of(request.query, "sync_alignment")
        self._patience = 0.0 if bool_of(request.query, "auto_mode") else PATIENCE
        self._open: dict[str, _Context] = {}

    def receive(self, message: str | bytes, now: float) -> list[Output]:
        try:
            return self._obey(read_object(message), now)
        except CommandError as error:
            return [_socket_error(error, None), Close(_POLICY, error.code)]

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
        return self._outputs(turned)

    def _tell(self, item: ContextItem) -> list[Output]:
        match item:
            case Word():
                self._open[item.context].aligner.add(item)
            case Audio():
                context = self._open[item.context]
                context.sounds = True
                return [self._message(item.context, context.body.encode(item.pcm))]
            case Finished():
                return self._ended(item.context, self._open[item.context].body.finish())
            case Failed():
                return self._failed(item)
        return []

    def _message(self, name: str, sound: bytes) -> str:
        context = self._open[name]
        aligned = context.aligner.take().as_milliseconds() if context.aligner else None
        audio = base64.b64encode(sound).decode()
        times = {"alignment": aligned, "normalizedAlignment": aligned}
        return json.dumps({"audio": audio, "isFinal": None, **times, **self._name(name)})

    def _rest(self, name: str, last: bytes) -> list[Output]:
        """What is left of a context's sound."""
        return [self._message(name, last)] if last or self._open[name].aligner else []


class SingleSocket(_Socket):
    """stream-input: one context, which an empty text ends."""

    def __init__(self, request: Request, served: Served) -> None:
        super().__init__(request, served)
        self._ending = False

    def _obey(self, fields: Mapping[str, object], now: float) -> list[Output]:
        if self._ending:
            return []
        text = text_of(fields, "text", "")
        self._ending = fields.get("text") == ""  # a message without a text ends nothing
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
        if name == _ONLY or not _SETTINGS.isdisjoint(fields):
            self._open_again(name)
        if (text or flush) and name not in self._closing and name not in self._cancelled:
            if text.strip():
                told += self._interrupt_others(name, now)
            told += self._speak(name, text, now, flush=flush)
        if bool_of(fields, "close_context"):
            told += self._close(name, now)
        return told

    def _open_again(self, name: str) -> None:
        """What was interrupted may be the name of a new context, if this is not the rest of the old one's text."""
        if name in self._cancelled:
            self._cancelled.remove(name)

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
        """The context is over for the client at once, so that the next one of this name is not taken for it."""
        told = self._outputs(self._contexts.cancel(name, now))
        if name not in self._open:
            return told
        self._cancelled.append(name)
        return [*told, *self._ended(name, b"")]

    def _close_all(self, now: float) -> list[Output]:
        """What was asked for is said before the socket closes."""
        told: list[Output] = []
        for name in [*self._open]:
            told += self._speak(name, "", now, last=True)
        self._leaving = True  # behind them: a context that ends at once is not what the socket closes for
        return told + self._close_if_done()

    def _close_if_done(self) -> list[Output]:
        return [Close()] if self._leaving and not self._open else []

    def _name(self, context: str) -> dict[str, object]:
        return {"contextId": context, "context_id": context}

    def _ended(self, name: str, last: bytes) -> list[Output]:
        told = self._rest(name, last)
        self._forget(name)
        final = json.dumps({"audio": None, "isFinal": True, **self._name(name)})
        return [*told, final, *self._close_if_done()]

    def _failed(self, failed: Failed) -> list[Output]:
        self._forget(failed.context or "")
        return [_socket_error(failed.error, failed.context), *self._close_if_done()]

    def _forget(self, name: str) -> None:
        self._open.pop(name, None)
        self._closing.discard(name)


def first_key(message: str | bytes) -> str | None:
    """The key in a socket's first message, whose spelling is not the same in all of the service's documents."""
    try:
        fields = read_object(message)
        found = [text_of(fields, name, "") for name in ("xi_api_key", "xi-api-key", "authorization")]
    except CommandError:
        return None
    return next((key for key in found if key), None)


def _socket_error(error: CommandError, context: str | None) -> str:
    named = {} if context is None else {"contextId": context, "context_id": context}
    status = status_of(error)
    return json.dumps({"message": error.message, "error": kind_of(error), "code": status, **named})


_VOICE = "/v1/text-to-speech/{voice}"
_FIRST_KEY = FirstKey(first_key, partial(_socket_error, context=None))
ROUTES = [
    Route("WEBSOCKET", f"{_VOICE}/stream-input", open_single, refuse, _FIRST_KEY),
    Route("WEBSOCKET", f"{_VOICE}/multi-stream-input", open_multi, refuse, _FIRST_KEY),
    Route("POST", f"{_VOICE}", speak, refuse),
    Route("POST", f"{_VOICE}/stream", speak, refuse),
    Route("POST", f"{_VOICE}/stream/with-timestamps", speak_with_timestamps, refuse),
    Route("POST", f"{_VOICE}/with-timestamps", speak_whole_with_timestamps, refuse),
    Route("GET", "/v1/voices", list_voices, refuse),
    Route("GET", "/v1/voices/{voice}", get_voice, refuse),
]

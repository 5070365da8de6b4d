"""Deepgram's `/v1/speak` (Aura) and `/v2/speak` (Flux), as sockets and as requests.

    wss://HOST/v2/speak?model=flux-anna-en&encoding=linear16&sample_rate=24000
    <- {"type": "Connected", ...}
    {"type": "Speak", "text": "Hello "}  {"type": "Speak", "text": "there."}  {"type": "Flush"}
    <- {"type": "SpeechStarted", ...}, binary sound, {"type": "SpeechMetadata", ...}
    {"type": "Interrupt", "playback_offset": {"type": "time_ms", "value": 840}}
    <- {"type": "SpeechInterrupted", "audio_played_ms": 840, "text_spoken": "Hello ", "text_remaining": "there.", ...}

A turn is what lies between two flushes, and a context here. `/v1/speak` has Clear for Interrupt, which does not tell
what was heard, and Flushed for SpeechMetadata. The voice is the model's name, or the part of it that Deepgram's names
have it in. There is no control of speed; who asks for one is told so, and gets the model's own pace.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Mapping

from dia2stream.audio import Encoder
from dia2stream.errors import CommandError
from dia2stream.items import Item
from dia2stream.protocol.fields import shown
from dia2stream.server.dialects.context_items import Audio, ContextItem, Failed, Finished, Interrupted
from dia2stream.server.dialects.context_translator import ContextTranslator
from dia2stream.server.dialects.deepgram_requests import ENCODINGS, RATES, refuse, speak, voice_of
from dia2stream.server.dialects.dialect import (
    Close,
    Output,
    Request,
    Response,
    Route,
    Served,
    Standing,
    Translator,
    read_object,
)
from dia2stream.server.dialects.fields import choice_of, number_of, object_of, text_of

_NO_SPEED = "this model sets its own pace; speed is passed over"


def open_v1(request: Request, served: Served) -> Translator | Response:
    """/v1/speak as a WebSocket. Raises CommandError."""
    return AuraSocket(request, served)


def open_v2(request: Request, served: Served) -> Translator | Response:
    """/v2/speak as a WebSocket. Raises CommandError."""
    return FluxSocket(request, served)


class _Socket(ContextTranslator):
    """What the two versions share: turns, and a close that waits for the last one."""

    def __init__(self, request: Request, served: Served) -> None:
        super().__init__()
        encoding = choice_of(request.query, "encoding", ENCODINGS, "pcm16")
        rate = choice_of(request.query, "sample_rate", RATES, 24000 if encoding == "pcm16" else 8000)
        self._encoder = Encoder(encoding, rate)
        self._voice, self._served = voice_of(request.query, served), served
        self._model = text_of(request.query, "model", served.model)
        self._speed = number_of(request.query, "speed", 1.0, 0.1, 10.0)
        self.request_id = str(uuid.uuid4())
        self.headers = {"dg-request-id": self.request_id, "dg-model-name": self._model}
        self._turn: str | None = None  # the one that still takes text
        self._closing = False

    def begin(self, standing: Standing, now: float) -> list[Output]:
        super().begin(standing, now)
        slow = [] if self._speed == 1.0 else [_warning("SPEED_NOT_SUPPORTED", _NO_SPEED)]
        return [self._hello(), *slow]

    def receive(self, message: str | bytes, now: float) -> list[Output]:
        if self._closing:
            return []
        try:
            fields = read_object(message)
            return self._obey(text_of(fields, "type"), fields, now)
        except CommandError as error:
            return [self._misunderstood(error)]

    def take(self, item: Item, now: float) -> list[Output]:
        return [*super().take(item, now), *self._close_if_done()]

    def fail(self, error: CommandError) -> list[Output]:
        return [_error("NET-0000", error.message), Close(error.close_code or 1011, error.code)]

    # ---- What each version does in its way ----

    def _hello(self) -> str:
        raise NotImplementedError

    def _goodbye(self) -> list[Output]:
        return []

    def _new_turn(self) -> str:
        raise NotImplementedError

    def _obey(self, type: str, fields: Mapping[str, object], now: float) -> list[Output]:
        raise NotImplementedError

    def _misunderstood(self, error: CommandError) -> str:
        raise NotImplementedError

    # ---- Turns ----

    def _speak(self, text: str, now: float) -> list[Output]:
        if self._turn is None:
            self._turn = self._new_turn()
        return self._outputs(self._contexts.speak(self._turn, text, now, voice=self._voice))

    def _flush(self, now: float) -> list[Output]:
        """The turn's text is complete."""
        assert self._turn is not None
        turn, self._turn = self._turn, None
        return self._outputs(self._contexts.speak(turn, "", now, voice=self._voice, last=True))

    def _cancel(self, now: float, played_ms: float | None = None) -> list[Output]:
        """Nothing of what is being said, was sent, or waits is wanted any more. The first turn is told of last."""
        self._turn = None
        told: list[Output] = []
        for turn in [*reversed(self._contexts.names)] or [self._contexts.last_heard]:
            told += self._outputs(self._contexts.cancel(turn, now, played_ms))
        return told

    def _close(self, now: float) -> list[Output]:
        """What was asked for is said before the socket closes."""
        rest = [] if self._turn is None else self._flush(now)
        self._closing = True
        return [*rest, *self._close_if_done()]

    def _close_if_done(self) -> list[Output]:
        if not self._closing or self._contexts.names:
            return []
        return [*self._goodbye(), Close()]

    def _sound(self, audio: Audio, first: bool) -> bytes:
        if first:
            self._encoder.restart()
        return self._encoder.encode(audio.pcm)


class AuraSocket(_Socket):
    """/v1/speak."""

    def __init__(self, request: Request, served: Served) -> None:
        super().__init__(request, served)
        self._turns = 0
        self._sequence = 0
        self._sounding: str | None = None

    def _hello(self) -> str:
        about = {"model_name": self._model, "model_version": "1", "model_uuid": _uuid_of(self._served.model)}
        return json.dumps({"type": "Metadata", "request_id": self.request_id, **about, "additional_model_uuids": []})

    def _new_turn(self) -> str:
        self._turns += 1
        return str(self._turns)

    def _obey(self, type: str, fields: Mapping[str, object], now: float) -> list[Output]:
        match type:
            case "Speak":
                return self._speak(text_of(fields, "text"), now)
            case "Flush":
                self._turn = self._turn or self._new_turn()  # a flush of nothing is answered in its turn too
                return self._flush(now)
            case "Clear":
                return [*self._cancel(now), self._numbered("Cleared")]
            case "Close":
                return self._close(now)
            case "KeepAlive":
                return []
        known = "Speak, Flush, Clear, KeepAlive and Close"
        raise CommandError("bad_field", f"type must be one of {known}, not {shown(type)}", field="type")

    def _tell(self, item: ContextItem) -> list[Output]:
        match item:
            case Audio():
                first, self._sounding = item.context != self._sounding, item.context
                return [self._sound(item, first)]
            case Finished():
                return [self._numbered("Flushed")]
            case Failed():
                if item.context == self._turn:
                    self._turn = None
                return [_error("DATA-0000", item.error.message)]
        return []

    def _numbered(self, type: str) -> str:
        message = json.dumps({"type": type, "sequence_id": self._sequence})
        self._sequence += 1
        return message

    def _misunderstood(self, error: CommandError) -> str:
        return _warning("DATA-0000", error.message)


class FluxSocket(_Socket):
    """/v2/speak."""

    def __init__(self, request: Request, served: Served) -> None:
        super().__init__(request, served)
        self._given: dict[str, int] = {}  # characters of the turns that are not over
        self._started: set[str] = set()
        self._characters = self._interrupted_at = 0
        self._told_offset: int | None = None  # of the interrupt that is being carried out

    def _hello(self) -> str:
        about = {"model_name": self._model, "model_version": "1", "model_uuids": [_uuid_of(self._served.model)]}
        return json.dumps({"type": "Connected", "request_id": self.request_id, **about})

    def _goodbye(self) -> list[Output]:
        totals = {"total_input_character_count": self._characters, "total_billable_character_count": self._characters}
        played = {"total_audio_duration_ms": self._contexts.position_ms}
        return [json.dumps({"type": "SessionMetadata", **played, **totals})]

    def _new_turn(self) -> str:
        turn = f"dg_sp_{secrets.token_hex(6)}"
        self._given[turn] = 0
        return turn

    def _obey(self, type: str, fields: Mapping[str, object], now: float) -> list[Output]:
        match type:
            case "Speak":
                text = text_of(fields, "text")
                told = self._speak(text, now)
                self._characters += len(text)
                if self._turn is not None:
                    self._given[self._turn] += len(text)
                return told
            case "Flush":
                if self._turn is None:
                    return [_warning("NO_ACTIVE_SPEECH", "there is no turn to flush")]
                flushed = json.dumps({"type": "Flushed", "speech_id": self._turn})
                return [flushed, *self._flush(now)]
            case "Interrupt":
                return self._interrupt(fields, now)
            case "Configure":
                return [self._configure(fields)]
            case "Close":
                return self._close(now)
            case "KeepAlive":
                return []
        known = "Speak, Flush, Interrupt, Configure, KeepAlive and Close"
        raise CommandError("bad_field", f"type must be one of {known}, not {shown(type)}", field="type")

    def _interrupt(self, fields: Mapping[str, object], now: float) -> list[Output]:
        if self._contexts.pausing:
            return [_warning("INTERRUPT_IN_PROGRESS", "an earlier Interrupt is still being carried out")]
        offset = object_of(fields, "playback_offset")
        choice_of(offset, "type", {"time_ms": None}) if offset else None
        value = number_of(offset, "value", None, 0, 10**12)
        if offset and (value is None or value < self._interrupted_at):
            problem = f"playback_offset must be {self._interrupted_at} ms or more, where the last Interrupt was"
            return [_warning("INVALID_INTERRUPT_OFFSET", problem)]
        self._told_offset = None if value is None else round(value)
        told = self._cancel(now, value)
        return told or [_warning("NO_ACTIVE_SPEECH", "nothing is being said, and all that was said was heard")]

    def _configure(self, fields: Mapping[str, object]) -> str:
        speed = number_of(fields, "speed", None, -1e9, 1e9)
        if speed in (None, 1.0):
            return json.dumps({"type": "ConfigureSuccess", "applied": {} if speed is None else {"speed": speed}})
        refused = {"code": "SPEED_NOT_SUPPORTED", "field": "speed", "value": speed, "description": _NO_SPEED}
        return json.dumps({"type": "ConfigureFailure", **refused})

    def _tell(self, item: ContextItem) -> list[Output]:
        match item:
            case Audio():
                first = item.context not in self._started
                return [*self._start(item.context), self._sound(item, first)]
            case Finished():
                nothing = "the text of this turn holds nothing that can be spoken"
                silent = [] if item.audio_ms else [_warning("NO_SYNTHESIZABLE_TEXT", nothing)]
                started = self._start(item.context)
                metadata = self._metadata(item.context, item.audio_ms)
                return [*started, *silent, json.dumps({"type": "SpeechMetadata", **metadata})]
            case Interrupted():
                return self._interrupted(item)
            case Failed():
                self._given.pop(item.context or "", None)
                self._started.discard(item.context or "")
                if item.context == self._turn:
                    self._turn = None
                return [_error("DATA-0000", item.error.message)]
        return []

    def _start(self, turn: str) -> list[Output]:
        if turn in self._started:
            return []
        self._started.add(turn)
        return [json.dumps({"type": "SpeechStarted", "speech_id": turn})]

    def _interrupted(self, item: Interrupted) -> list[Output]:
        """The turn that sounds has an answer; turns that waited behind it go without one."""
        if self._contexts.names and item.context != self._contexts.names[0]:
            self._given.pop(item.context, None)
            return []
        self._interrupted_at = self._contexts.position_ms
        played = self._interrupted_at if self._told_offset is None else self._told_offset
        texts = {} if self._told_offset is None else {"text_spoken": item.spoken, "text_remaining": item.remaining}
        metadata = self._metadata(item.context, item.heard_ms)
        told = {"type": "SpeechInterrupted", "audio_played_ms": played, **texts, "metadata": metadata}
        return [json.dumps(told)]

    def _metadata(self, turn: str, audio_ms: int) -> dict[str, object]:
        self._started.discard(turn)
        characters = self._given.pop(turn, 0)
        applied = {"pronunciations_applied": 0, "breaks_applied": 0, "pronunciation_warnings": 0}
        return {
            "speech_id": turn,
            "audio_duration_ms": audio_ms,
            "input_character_count": characters,
            "billable_character_count": characters,
            "controls_applied": applied,
        }

    def _misunderstood(self, error: CommandError) -> str:
        return _error("MESSAGE-0000", error.message)


def _warning(code: str, description: str) -> str:
    """With the older names of the same fields, which LiveKit reads."""
    message = {"type": "Warning", "code": code, "description": description}
    return json.dumps({**message, "warn_code": code, "warn_msg": description})


def _error(code: str, description: str) -> str:
    return json.dumps({"type": "Error", "code": code, "description": description, "message": description})


def _uuid_of(model: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, model))


ROUTES = [
    Route("WEBSOCKET", "/v1/speak", open_v1, refuse),
    Route("WEBSOCKET", "/v2/speak", open_v2, refuse),
    Route("POST", "/v1/speak", speak, refuse),
    Route("POST", "/v2/speak", speak, refuse),
]

"""Commands and events: what goes over the wire, and nothing that moves it.

A client sends commands, JSON objects, one a WebSocket text message or one a line; the server answers with events:

    {"cmd": "start", "text": "[S1] Hello.", "id": "a"}      a new conversation, speaking
    {"event": "started", "id": "a", "seed": 7}              then {"event": "first_audio", "latency_ms": 41.3, ...}
    {"event": "word", "id": "a", "word": "Hello.", ...}     each word ahead of its audio; audio is binary, see Audio
    {"cmd": "inject", "text": "How are", "final": false}    more text, while it speaks; final: false leaves it open,
    {"cmd": "end"}                                          and end closes it
    {"cmd": "pause", "played_ms": 840}                      {"event": "paused", "spoken": ..., "pending": ...}
    {"cmd": "resume"}  or  {"cmd": "inject", ...}           go on where it stopped, or drop the rest and say this
    {"cmd": "listen", "audio": "UklGR...", "text": "Hi"}    what the caller said, for the reply to answer to
    {"cmd": "reset"}                                        forget the conversation
    {"event": "done", "id": "a", "audio_ms": 2320}          or {"event": "error", "code": "bad_field", ...}

The dataclasses below give names, order and defaults; FIELDS gives every field's type and range, once for all messages.
A new command is a dataclass, its row in COMMANDS and a row in FIELDS for each new name. Messages check themselves when
they are made, so a Start built in Python is held to the same limits as one that was parsed. This module knows nothing
of conversations: whether a command fits the moment (no_session, not_paused, ...) is decided elsewhere.
"""

import base64
import binascii
import json
import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from types import MappingProxyType
from typing import Any, NoReturn, Protocol, TypeAlias

from dia2stream.errors import CommandError, ErrorCode, ProtocolError, UnknownEvent

__all__ = [
    "COMMANDS",
    "EVENTS",
    "FIELDS",
    "MAX_COMMAND_BYTES",
    "MAX_ID_CHARS",
    "MAX_SEED",
    "MAX_TEXT_CHARS",
    "Audio",
    "Command",
    "Done",
    "End",
    "Error",
    "Event",
    "FirstAudio",
    "Inject",
    "Listen",
    "Pause",
    "Paused",
    "Ready",
    "Reset",
    "ResetDone",
    "Resume",
    "Resumed",
    "Start",
    "Started",
    "Word",
    "dump_command",
    "dump_event",
    "error_event",
    "pack_audio",
    "parse_command",
    "parse_event",
    "shown",
    "unpack_audio",
]

MAX_TEXT_CHARS = 20_000  # Unicode characters of `text` in one command
MAX_COMMAND_BYTES = 256 * 1024  # a full text of 12-byte escapes ("\ud83d\ude00") is 240,000 bytes and still fits
MAX_ID_CHARS = 128
MAX_SEED = 2**32 - 1  # exact in every language's JSON numbers, also where they are doubles


# --- what a field may hold ---


class _Refused(Exception):
    """A value or line that is not acceptable; the caller adds which command or event it was in."""

    def __init__(self, reason: str, code: ErrorCode = "bad_field") -> None:
        super().__init__(reason)
        self.code = code
        self.field: str | None = None


class Rule(Protocol):
    """One field's type and range; str() says them, for error messages."""

    def accept(self, value: object) -> object:
        """The value in its final form; raises _Refused."""
        ...


@dataclass(frozen=True)
class Text:
    """Any string."""

    def __str__(self) -> str:
        return "a string"

    def accept(self, value: object) -> str:
        if not isinstance(value, str):
            _refuse(self, value)
        return value


@dataclass(frozen=True)
class Name:
    """A short string that is echoed or looked up: any characters, but whole ones."""

    limit: int

    def __str__(self) -> str:
        return f"a string of up to {self.limit} characters"

    def accept(self, value: object) -> str:
        if not isinstance(value, str):
            _refuse(self, value)
        if len(value) > self.limit:
            raise _Refused(f"must be {self}, not {len(value)}: {shown(value)}")
        _refuse_half_characters(value)
        return value


@dataclass(frozen=True)
class Speech:
    """Text to speak. Control characters have no sound and become spaces, so they end a word as whitespace does."""

    limit: int

    def __str__(self) -> str:
        return f"a string of up to {self.limit} characters"

    def accept(self, value: object) -> str:
        if not isinstance(value, str):
            _refuse(self, value)
        if len(value) > self.limit:
            reason = f"is {len(value)} characters long; the limit is {self.limit} a command, send the rest with inject"
            raise _Refused(reason, "too_long")
        _refuse_half_characters(value)
        return _CONTROL.sub(" ", value)


@dataclass(frozen=True)
class Flag:
    """true or false."""

    def __str__(self) -> str:
        return "true or false"

    def accept(self, value: object) -> bool:
        if not isinstance(value, bool):
            _refuse(self, value)
        return value


@dataclass(frozen=True)
class Whole:
    """An integer from low to high. 3.0 is none: an integer that went through a float may have lost digits."""

    low: int
    high: int | None = None

    def __str__(self) -> str:
        return "a whole number " + _range(self.low, self.high)

    def accept(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not _between(value, self.low, self.high):
            _refuse(self, value)
        return value


@dataclass(frozen=True)
class Number:
    """A finite number from low to high; with `digits`, rounded to that many decimals."""

    low: int
    high: int | None = None
    digits: int | None = None

    def __str__(self) -> str:
        return "a number " + _range(self.low, self.high)

    def accept(self, value: object) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not _between(value, self.low, self.high):
            _refuse(self, value)
        if self.digits is None:
            return value
        return round(value, self.digits) if self.digits else round(value)


@dataclass(frozen=True)
class Names:
    """A list of strings, kept as a tuple."""

    def __str__(self) -> str:
        return "a list of strings"

    def accept(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
            _refuse(self, value)
        return tuple(value)


@dataclass(frozen=True)
class Choice:
    """One of a few strings."""

    values: tuple[str, ...]

    def __str__(self) -> str:
        return " or ".join(self.values)

    def accept(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.values:
            _refuse(self, value)
        return value


@dataclass(frozen=True)
class Samples:
    """Mono PCM16, little-endian, as base64. In Python bytes will do, and become it."""

    def __str__(self) -> str:
        return "base64 of 16-bit little-endian samples"

    def accept(self, value: object) -> str:
        if isinstance(value, bytes | bytearray | memoryview):
            value = base64.b64encode(value).decode()
        if not isinstance(value, str):
            _refuse(self, value)
        try:
            data = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            _refuse(self, value)
        if len(data) % 2:
            raise _Refused(f"must be {self}, not {len(data)} bytes, an odd number")
        return value


@dataclass(frozen=True)
class Times:
    """Words with their start and end in seconds, kept as tuples."""

    most: int

    def __str__(self) -> str:
        return f"a list of [word, start, end], in seconds from 0 to {self.most}"

    def accept(self, value: object) -> tuple[tuple[str, float, float], ...]:
        if not isinstance(value, list | tuple):
            _refuse(self, value)
        return tuple(self._word(item, number) for number, item in enumerate(value, start=1))

    def _word(self, item: object, number: int) -> tuple[str, float, float]:
        if isinstance(item, list | tuple) and len(item) == 3:
            word, start, end = item
            numbers = all(isinstance(t, int | float) and not isinstance(t, bool) for t in (start, end))
            if isinstance(word, str) and word.strip() and numbers and 0 <= start <= end <= self.most:
                _refuse_half_characters(word)
                return _CONTROL.sub(" ", word).strip(), float(start), float(end)
        raise _Refused(f"must be {self}; item {number} is not one")


_LARGEST = 1.7976931348623157e308  # an integer above it cannot become a float
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")  # category Cc but for what str.split() splits at
_HALF = re.compile(r"[\ud800-\udfff]")


def _between(value: int | float, low: int, high: int | None) -> bool:
    return low <= value <= (_LARGEST if high is None else high)


def _range(low: int, high: int | None) -> str:
    return f"of {low} or more" if high is None else f"from {low} to {high}"


def _refuse(rule: Rule, value: object) -> NoReturn:
    raise _Refused(f"must be {rule}, not {shown(value)}")


def _refuse_half_characters(value: str) -> None:
    if half := _HALF.search(value):
        raise _Refused(
            f"holds half a character, the lone surrogate U+{ord(half[0]):04X} at index {half.start()}; "
            "both halves of a pair must come in one command"
        )


# One row a field. A name means the same in every command and event that has it. Times are milliseconds of audio.
FIELDS: Mapping[str, Rule] = MappingProxyType(
    {
        "text": Speech(MAX_TEXT_CHARS),
        "id": Name(MAX_ID_CHARS),
        "final": Flag(),
        "voice": Name(MAX_ID_CHARS),
        "seed": Whole(0, MAX_SEED),
        "cfg_scale": Number(0, 20),
        "cfg_filter_k": Whole(0, 2048),
        "text_temperature": Number(0, 2),
        "text_top_k": Whole(1, 2048),
        "audio_temperature": Number(0, 2),
        "audio_top_k": Whole(1, 2048),
        "initial_padding": Whole(0, 100),
        "played_ms": Number(0),
        "audio": Samples(),
        "words": Times(60),
        "speaker": Choice(("S1", "S2")),
        "sample_rate": Whole(8000, 48000),
        # events only
        "version": Text(),
        "model": Text(),
        "device": Text(),
        "encoding": Text(),
        "frame_ms": Whole(1),
        "voices": Names(),
        "conversation": Text(),
        "latency_ms": Number(0, digits=1),
        "word": Text(),
        "start_ms": Number(0, digits=0),
        "audio_ms": Number(0, digits=0),
        "heard_ms": Number(0, digits=0),
        "spoken": Text(),
        "pending": Text(),
        "code": Text(),
        "message": Text(),
        "cmd": Text(),
        "field": Text(),
    }
)


def _settle(message: Any) -> None:
    """Put every field through its rule; one that is None by default may stay None."""
    for field in fields(message):
        value = getattr(message, field.name)
        if value is None and field.default is None:
            continue
        try:
            object.__setattr__(message, field.name, FIELDS[field.name].accept(value))
        except _Refused as refused:
            refused.field = field.name
            raise


class _Command:
    __slots__ = ()

    def __post_init__(self) -> None:
        """Raises CommandError for a field out of its range."""
        try:
            _settle(self)
        except _Refused as refused:
            id = _echo(getattr(self, "id", None))
            message = f"{refused.field} {refused}"
            raise CommandError(refused.code, message, _NAMES[type(self)], id, refused.field) from None


class _Event:
    __slots__ = ()

    def __post_init__(self) -> None:
        """Raises ProtocolError for a field that is not of its type."""
        try:
            _settle(self)
        except _Refused as refused:
            raise ProtocolError(f"{_NAMES[type(self)]} event: {refused.field} {refused}") from None


# --- commands ---


@dataclass(frozen=True, slots=True)
class Start(_Command):
    """A new conversation that speaks `text`; one that was there is forgotten, the voices stay loaded.

    text: up to 20,000 characters, may be empty; speakers are [S1] and [S2], <break time="0.5s"/> is a pause
    id: names the utterance in events, any string up to 128 characters; the server numbers those without one
    final: False says that more of this utterance follows, by Inject or End
    voice: the name of a voice that the server has, up to 128 characters
    seed: 0 to 2**32 - 1; the same seed and text give the same audio
    cfg_scale: 0 to 20, 1 is off; cfg_filter_k: 0 (all) to 2048 candidates
    text_temperature, audio_temperature: 0 (always the likeliest) to 2; text_top_k, audio_top_k: 1 to 2048 tokens
    initial_padding: 0 to 100 frames of 80 ms before the first word
    None stands for the server's own setting.
    """

    text: str
    id: str | None = None
    final: bool = True
    voice: str | None = None
    seed: int | None = None
    cfg_scale: float | None = None
    cfg_filter_k: int | None = None
    text_temperature: float | None = None
    text_top_k: int | None = None
    audio_temperature: float | None = None
    audio_top_k: int | None = None
    initial_padding: int | None = None


@dataclass(frozen=True, slots=True)
class Inject(_Command):
    """More text in this conversation; while paused it replaces what was not heard. Fields as in Start."""

    text: str
    id: str | None = None
    final: bool = True


@dataclass(frozen=True, slots=True)
class End(_Command):
    """Closes text that was opened with final=False."""


@dataclass(frozen=True, slots=True)
class Pause(_Command):
    """Stop now. played_ms: how much of this conversation's audio the listener has heard; None for all that was sent."""

    played_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Resume(_Command):
    """Go on exactly where it stopped."""


@dataclass(frozen=True, slots=True)
class Reset(_Command):
    """Forget the conversation; the model stays warm."""


@dataclass(frozen=True, slots=True)
class Listen(_Command):
    """What the caller said, so that the reply answers it; it goes into the model's memory and is never played.

    audio: base64 of mono PCM16, little-endian, at sample_rate (8000 to 48000); a command's 256 KiB hold 4 s at 24 kHz
    words: [[word, start, end], ...] in seconds from the start of this audio
    text: the words without times, where there are no `words`; they are spread over what sounds
    speaker: S2, the caller, or S1
    final: False says that more of what they say follows; text to speak ends it too
    """

    audio: str = ""
    text: str = ""
    words: tuple[tuple[str, float, float], ...] | None = None
    speaker: str = "S2"
    sample_rate: int = 24000
    final: bool = True

    @property
    def pcm(self) -> bytes:
        """The samples."""
        return base64.b64decode(self.audio)


Command: TypeAlias = Start | Inject | End | Pause | Resume | Reset | Listen

COMMANDS: Mapping[str, type[Command]] = MappingProxyType(
    {"start": Start, "inject": Inject, "end": End, "pause": Pause, "resume": Resume, "reset": Reset, "listen": Listen}
)


def parse_command(line: str | bytes) -> Command:
    """The command in one line or message, or a CommandError with as much of its cmd and id as could be read.

    Null is the same as leaving the field out. What is refused, in the order of looking:
    - too_long: over 256 KiB
    - bad_json: invalid UTF-8 or JSON, NaN, Infinity, a key given twice, numbers of over 400 digits, deep nesting
    - bad_command: anything but an object with a known "cmd"
    - bad_field: a field that is unknown, missing, of the wrong type or out of range
    - too_long: over 20,000 characters of text
    """
    try:
        _check_size(line)
        message = _load(line)
    except _Refused as refused:
        raise CommandError(refused.code, str(refused)) from None
    if not isinstance(message, dict):
        raise CommandError("bad_command", f"a command is an object like {_EXAMPLE}, not {shown(message)}")
    cmd, id = message.pop("cmd", None), _echo(message.get("id"))
    if not isinstance(cmd, str) or cmd not in COMMANDS:
        problem = "cmd is missing" if cmd is None else f"unknown cmd {shown(cmd)}"
        raise CommandError("bad_command", f"{problem}; known are {_listed(COMMANDS)}", _echo(cmd), id, "cmd")
    given = {name: value for name, value in message.items() if value is not None}
    _check_names(cmd, id, message, given)
    command: Command = COMMANDS[cmd](**given)
    return command


def dump_command(command: Command) -> str:
    """The command as one line of JSON without its newline; fields at their defaults are left out."""
    given = {field.name: getattr(command, field.name) for field in fields(command)}
    changed = {field.name: given[field.name] for field in fields(command) if given[field.name] != field.default}
    return _line({"cmd": _NAMES[type(command)], **changed})


_EXAMPLE = '{"cmd": "start", "text": "Hello."}'


def _check_size(line: str | bytes) -> None:
    size = len(line.encode(errors="surrogatepass")) if isinstance(line, str) else len(line)
    if size > MAX_COMMAND_BYTES:
        raise _Refused(f"the command is {size} bytes long; the limit is {MAX_COMMAND_BYTES}", "too_long")


def _check_names(cmd: str, id: str | None, message: dict[str, Any], given: dict[str, Any]) -> None:
    """Refuse fields that the command does not have, or that it needs and are not given."""
    known = {field.name: field for field in fields(COMMANDS[cmd])}
    unknown = next((name for name in message if name not in known), None)
    if unknown is not None:
        takes = f"it takes {_listed(known)}" if known else "it takes none"
        raise CommandError("bad_field", f"{cmd} has no field {shown(unknown)}; {takes}", cmd, id, _echo(unknown))
    for name, field in known.items():
        if field.default is MISSING and name not in given:
            raise CommandError("bad_field", f"{cmd} needs {name}, {FIELDS[name]}", cmd, id, name)


# --- events ---


@dataclass(frozen=True, slots=True)
class Ready(_Event):
    """The first event: what is served. sample_rate: Hz; frame_ms: audio per message; conversation: to come back to."""

    version: str
    model: str
    device: str
    sample_rate: int
    encoding: str
    frame_ms: int
    voices: tuple[str, ...]
    conversation: str | None = None


@dataclass(frozen=True, slots=True)
class Started(_Event):
    """An utterance was taken. seed: what Start gave or the server drew; with it the audio can be had again."""

    id: str
    seed: int


@dataclass(frozen=True, slots=True)
class FirstAudio(_Event):
    """An utterance's first audio follows. latency_ms: since its command arrived, to 0.1 ms."""

    id: str
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Word(_Event):
    """A word, sent ahead of its audio. speaker: "S1" or "S2"; start_ms: on the conversation's audio clock, to 1 ms."""

    id: str
    word: str
    speaker: str
    start_ms: int


@dataclass(frozen=True, slots=True)
class Done(_Event):
    """An utterance's last sample was sent. audio_ms: audio sent so far in this conversation, to 1 ms."""

    id: str
    audio_ms: int


@dataclass(frozen=True, slots=True)
class Paused(_Event):
    """No audio after this. heard_ms: on the audio clock, to 1 ms; spoken, pending: the text heard and not heard."""

    heard_ms: int
    spoken: str
    pending: str


@dataclass(frozen=True, slots=True)
class Resumed(_Event):
    """The audio goes on."""


@dataclass(frozen=True, slots=True)
class ResetDone(_Event):
    """The conversation is gone (event "reset")."""


@dataclass(frozen=True, slots=True)
class Error(_Event):
    """A command was refused, or something broke. code: see errors.CLOSE_CODES; cmd, id, field where they apply."""

    code: str
    message: str
    cmd: str | None = None
    id: str | None = None
    field: str | None = None


Event: TypeAlias = Ready | Started | FirstAudio | Word | Done | Paused | Resumed | ResetDone | Error

EVENTS: Mapping[str, type[Event]] = MappingProxyType(
    {
        "ready": Ready,
        "started": Started,
        "first_audio": FirstAudio,
        "word": Word,
        "done": Done,
        "paused": Paused,
        "resumed": Resumed,
        "reset": ResetDone,
        "error": Error,
    }
)

_NAMES: dict[type[Any], str] = {cls: name for table in (COMMANDS, EVENTS) for name, cls in table.items()}


def error_event(error: CommandError) -> Error:
    """The event that tells a client of the error."""
    return Error(error.code, error.message, error.cmd, _echo(error.id), error.field)


def dump_event(event: Event) -> str:
    """The event as one line of JSON without its newline, "event" first; fields that are None are left out."""
    values = {field.name: getattr(event, field.name) for field in fields(event)}
    return _line({"event": _NAMES[type(event)], **{name: value for name, value in values.items() if value is not None}})


def parse_event(line: str | bytes) -> Event:
    """The event in one line or message; raises ProtocolError, or UnknownEvent for a name of a newer version.

    Fields this version does not know are passed over; those it knows must be there and be of their type.
    """
    try:
        message = _load(line)
    except _Refused as refused:
        raise ProtocolError(str(refused)) from None
    name = message.get("event") if isinstance(message, dict) else None
    if not isinstance(name, str):
        raise ProtocolError(f'an event is an object with an "event" name, not {shown(message)}')
    if name not in EVENTS:
        raise UnknownEvent(f"unknown event {shown(name)}; known are {_listed(EVENTS)}")
    known = {field.name: field for field in fields(EVENTS[name])}
    given = {key: value for key, value in message.items() if key in known and value is not None}
    missing = [key for key, field in known.items() if field.default is MISSING and key not in given]
    if missing:
        raise ProtocolError(f"{name} event: {_listed(missing)} missing")
    event: Event = EVENTS[name](**given)
    return event


# --- audio ---


@dataclass(frozen=True, slots=True)
class Audio:
    """One binary message. data: `samples` mono samples, two bytes each (pcm16, little-endian) or one (mulaw, alaw)."""

    samples: int
    data: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.samples < 2**32:
            raise ProtocolError(f"an audio message holds 0 to {2**32 - 1} samples, not {shown(self.samples)}")
        if len(self.data) not in (self.samples, 2 * self.samples):
            sizes = f"{2 * self.samples} bytes (pcm16) or {self.samples} (mulaw, alaw)"
            raise ProtocolError(f"{self.samples} samples are {sizes}, not {len(self.data)}")


_COUNT = struct.Struct("<I")


def pack_audio(count: int, data: bytes) -> bytes:
    """The message for `count` samples: their number in 4 bytes, little-endian unsigned, then the samples."""
    audio = Audio(count, data)
    return _COUNT.pack(audio.samples) + audio.data


def unpack_audio(message: bytes) -> Audio:
    """What pack_audio packed; raises ProtocolError when the count does not fit the bytes."""
    if len(message) < _COUNT.size:
        raise ProtocolError(f"an audio message starts with {_COUNT.size} bytes of count, not {len(message)}")
    return Audio(_COUNT.unpack_from(message)[0], message[_COUNT.size :])


# --- JSON, stricter than the json module on the way in, safe as a line on the way out ---

_MAX_DIGITS = 400  # more than any double has; int() takes quadratic time, and on newer Pythons refuses 4,300
# What json.dumps leaves as it is, though it breaks lines somewhere, upsets a terminal or cannot be encoded.
_UNSAFE = re.compile(r"[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def shown(value: object, limit: int = 40) -> str:
    """A value from outside as error messages show it: shortened, printable, on one line."""
    if isinstance(value, str):
        return repr(value) if len(value) <= limit else repr(value[:limit]) + "..."
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return f"a number of about {round(value.bit_length() * 0.30103)} digits"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return f"a Python {type(value).__name__}"


def _echo(value: object) -> str | None:
    """The value if it is a string fit to be sent back."""
    fit = isinstance(value, str) and len(value) <= MAX_ID_CHARS and not _HALF.search(value)
    return str(value) if fit else None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _line(message: dict[str, Any]) -> str:
    text = json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _load(line: str | bytes) -> Any:
    """Strict JSON; raises _Refused (bad_json) and nothing else."""
    try:
        text = line.encode().decode() if isinstance(line, str) else line.decode()
    except (UnicodeEncodeError, UnicodeDecodeError) as error:
        raise _Refused(f"not valid UTF-8: {error.reason} at {error.start}", "bad_json") from None
    text = text.removeprefix("\ufeff")  # a byte order mark, as Windows shells send ahead of the first line
    if not text.strip():
        raise _Refused("the line is empty; expected a JSON object", "bad_json")
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        problem = error.msg[:1].lower() + error.msg[1:].removesuffix(" at")
        raise _Refused(f"not valid JSON: {problem} at character {error.pos}", "bad_json") from None
    except RecursionError:
        raise _Refused("not usable JSON: nested too deeply", "bad_json") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _Refused(f"not usable JSON: key {shown(twice)} is given more than once", "bad_json")
    return result


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise _Refused(f"not usable JSON: a number of {len(digits)} digits; the limit is {_MAX_DIGITS}", "bad_json")
    return int(digits)


def _constant(name: str) -> NoReturn:
    raise _Refused(f"not valid JSON: {name}; numbers must be finite", "bad_json")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole, parse_constant=_constant)

"""Commands and events: what goes over the wire, and nothing that moves it.

A client sends commands, JSON objects, one a WebSocket text message or one a line; the server answers with events:

    {"cmd": "start", "text": "[S1] Hello.", "id": "a"}      a new conversation, speaking
    {"event": "started", "id": "a", "seed": 7}              then {"event": "first_audio", "latency_ms": 41.3, ...}
    {"event": "word", "id": "a", "word": "Hello.", ...}     each word ahead of its audio; audio is binary, see Audio
    {"cmd": "inject", "text": "How are", "final": false}    more text, while it speaks; final: false leaves it open,
    {"cmd": "end"}                                          and end closes it
    {"cmd": "cancel", "id": "b"}                            {"event": "cancelled", "id": "b"}: "b" waited to be spoken
    {"cmd": "prepare", "text": "Sure", "id": "c"}           made in advance and not sent: {"event": "prepared", ...}
    {"cmd": "commit", "id": "c"}                            its first frame leaves at once; or "discard": it never was
    {"cmd": "pause", "played_ms": 840}                      {"event": "paused", "spoken": ..., "pending": ..., ...}
    {"cmd": "resume"}  or  {"cmd": "inject", ...}           go on where it stopped, or drop the rest and say this
    {"cmd": "listen", "audio": "UklGR...", "text": "Hi"}    what the caller said, for the reply to answer to
    {"cmd": "fork"}                                         {"event": "forked", "conversation": "kJ3f...", ...}
    {"cmd": "reset"}                                        forget the conversation
    {"event": "notice", "code": "unknown_tag", ...}         something in the text was changed or left out
    {"event": "done", "id": "a", "audio_ms": 2320}          or {"event": "error", "code": "bad_field", ...}

The dataclasses below give names, order and defaults; FIELDS gives every field's type and range, once for all messages.
A new command is a dataclass, its row in COMMANDS and a row in FIELDS for each new name. Messages check themselves when
they are made, so a Start built in Python is held to the same limits as one that was parsed. This module knows nothing
of conversations: whether a command fits the moment (no_session, not_paused, ...) is decided elsewhere.
"""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from types import MappingProxyType
from typing import Any, TypeAlias

from dia2stream.errors import CommandError, ProtocolError, UnknownEvent
from dia2stream.protocol.fields import FIELDS, HALF, MAX_ID_CHARS, HeardWord, Refused, settle, shown
from dia2stream.protocol.strict_json import line, load

MAX_COMMAND_BYTES = 256 * 1024  # a full text of 12-byte escapes ("\ud83d\ude00") is 240,000 bytes and still fits


class _Command:
    __slots__ = ()

    def __post_init__(self) -> None:
        """Raises CommandError for a field out of its range."""
        try:
            settle(self)
        except Refused as refused:
            id = _echo(getattr(self, "id", None))
            message = f"{refused.field} {refused}"
            raise CommandError(refused.code, message, _NAMES[type(self)], id, refused.field) from None


class _Event:
    __slots__ = ()

    def __post_init__(self) -> None:
        """Raises ProtocolError for a field that is not of its type."""
        try:
            settle(self)
        except Refused as refused:
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
    text_rules: what the text front end does: off, clean, spoken, or auto, which depends on the model
    say: how words are said, {"GIF": "jiff"}; whole words, in any case, before the server's own
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
    text_rules: str | None = None
    say: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Inject(_Command):
    """More text in this conversation; while paused it replaces what was not heard. Fields as in Start.

    voice: the utterance begins a turn, and the conversation goes on in this voice from there; nothing is forgotten
    """

    text: str
    id: str | None = None
    final: bool = True
    voice: str | None = None


@dataclass(frozen=True, slots=True)
class End(_Command):
    """Closes text that was opened with final=False.

    id: of the utterance; one that is complete already stays as it is. None: the open one
    """

    id: str | None = None


@dataclass(frozen=True, slots=True)
class Cancel(_Command):
    """An utterance that waits to be spoken is not wanted. One that is spoken already is stopped by Pause."""

    id: str


@dataclass(frozen=True, slots=True)
class Prepare(_Command):
    """Makes a reply in advance that may never be heard: Commit has it spoken, Discard forgets it.

    id: names the reply, for Commit, Discard, and the Inject and End that bring more of its text
    A conversation has one prepared reply at most; the next Prepare takes its place. Other fields as in Inject.
    """

    text: str
    id: str
    final: bool = True
    voice: str | None = None


@dataclass(frozen=True, slots=True)
class Commit(_Command):
    """The prepared reply is wanted: means what an Inject of its text would mean now, and its audio is there already."""

    id: str


@dataclass(frozen=True, slots=True)
class Discard(_Command):
    """The prepared reply is not wanted: its text, its audio and the model's memory of it are as if it never was."""

    id: str


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


@dataclass(frozen=True, slots=True)
class Fork(_Command):
    """Copies the conversation as it is now. The copy has an id of its own and stands still until somebody connects."""


Command: TypeAlias = Start | Inject | End | Cancel | Prepare | Commit | Discard | Pause | Resume | Reset | Listen | Fork
COMMANDS: Mapping[str, type[Command]] = MappingProxyType(
    {
        "start": Start,
        "inject": Inject,
        "end": End,
        "cancel": Cancel,
        "prepare": Prepare,
        "commit": Commit,
        "discard": Discard,
        "pause": Pause,
        "resume": Resume,
        "reset": Reset,
        "listen": Listen,
        "fork": Fork,
    }
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
        message = load(line)
    except Refused as refused:
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
    return line({"cmd": _NAMES[type(command)], **changed})


_EXAMPLE = '{"cmd": "start", "text": "Hello."}'


def _check_size(line: str | bytes) -> None:
    size = len(line.encode(errors="surrogatepass")) if isinstance(line, str) else len(line)
    if size > MAX_COMMAND_BYTES:
        raise Refused(f"the command is {size} bytes long; the limit is {MAX_COMMAND_BYTES}", "too_long")


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
    """The first event: what is served.

    sample_rate: Hz; frame_ms: audio per message; conversation: to come back to
    sampling: what `start` leaves open is spoken with these, by the names of its fields
    """

    version: str
    model: str
    device: str
    sample_rate: int
    encoding: str
    frame_ms: int
    voices: tuple[str, ...]
    conversation: str | None = None
    sampling: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Started(_Event):
    """An utterance was taken. seed: what Start gave or the server drew; with it the audio can be had again."""

    id: str
    seed: int


@dataclass(frozen=True, slots=True)
class FirstAudio(_Event):
    """An utterance's first audio follows.

    latency_ms: since its command arrived, to 0.1 ms
    words_ms: from there until the last words arrived that this audio needed; none if the command brought them
    """

    id: str
    latency_ms: float
    words_ms: float | None = None


@dataclass(frozen=True, slots=True)
class WordEvent(_Event):
    """A word, sent ahead of its audio.

    word: as the caller wrote it; said: what is spoken for it, where that is something else
    speaker: "S1" or "S2"
    start_ms, end_ms: on the conversation's audio clock, to 1 ms; the end is that of the next word's beginning where it
    is known, else start_ms + 400 for each word that is spoken
    text_start, text_end: its place in the utterance's text, in code points
    """

    id: str
    word: str
    speaker: str
    start_ms: int
    said: str | None = None
    end_ms: int | None = None
    text_start: int | None = None
    text_end: int | None = None


@dataclass(frozen=True, slots=True)
class Done(_Event):
    """An utterance's last sample was sent. audio_ms: audio sent so far in this conversation, to 1 ms."""

    id: str
    audio_ms: int


@dataclass(frozen=True, slots=True)
class Cancelled(_Event):
    """An utterance that waited is forgotten: no other event of it follows."""

    id: str


@dataclass(frozen=True, slots=True)
class Prepared(_Event):
    """The prepared reply's first frame is there; told again when its audio had to be made anew.

    ready_ms: since its command arrived, or the command because of which it was made anew, to 0.1 ms
    """

    id: str
    ready_ms: float


@dataclass(frozen=True, slots=True)
class Discarded(_Event):
    """The prepared reply is forgotten: it was discarded, or another one, resume, start or reset took its place."""

    id: str


@dataclass(frozen=True, slots=True)
class Paused(_Event):
    """No audio after this.

    heard_ms: on the audio clock, to 1 ms
    spoken, pending: the text heard and not heard, as it was written; pending, with its tags and breaks, can be injected
    words: the same, word by word
    """

    heard_ms: int
    spoken: str
    pending: str
    words: tuple[HeardWord, ...] = ()


@dataclass(frozen=True, slots=True)
class Forked(_Event):
    """There is a copy of the conversation. conversation: its id, to connect to; audio_ms: where its audio stands."""

    conversation: str
    audio_ms: int


@dataclass(frozen=True, slots=True)
class Notice(_Event):
    """Something in the text was changed or left out; no error. text_start: where, in code points of the utterance."""

    code: str
    message: str
    id: str | None = None
    text_start: int | None = None


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


Event: TypeAlias = (
    Ready
    | Started
    | FirstAudio
    | WordEvent
    | Done
    | Cancelled
    | Prepared
    | Discarded
    | Paused
    | Resumed
    | ResetDone
    | Forked
    | Notice
    | Error
)
EVENTS: Mapping[str, type[Event]] = MappingProxyType(
    {
        "ready": Ready,
        "started": Started,
        "first_audio": FirstAudio,
        "word": WordEvent,
        "done": Done,
        "cancelled": Cancelled,
        "prepared": Prepared,
        "discarded": Discarded,
        "paused": Paused,
        "resumed": Resumed,
        "reset": ResetDone,
        "forked": Forked,
        "notice": Notice,
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
    if isinstance(event, Paused):
        values["words"] = [word._asdict() for word in event.words]
    return line({"event": _NAMES[type(event)], **{name: value for name, value in values.items() if value is not None}})


def parse_event(line: str | bytes) -> Event:
    """The event in one line or message; raises ProtocolError, or UnknownEvent for a name of a newer version.

    Fields this version does not know are passed over; those it knows must be there and be of their type.
    """
    try:
        message = load(line)
    except Refused as refused:
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


def _echo(value: object) -> str | None:
    """The value if it is a string fit to be sent back."""
    fit = isinstance(value, str) and len(value) <= MAX_ID_CHARS and not HALF.search(value)
    return str(value) if fit else None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)

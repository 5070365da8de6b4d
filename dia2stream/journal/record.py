"""The record of a conversation, as bytes: settings, commands, and what the model drew, in the order it happened.

A record is enough to compute the conversation again: what the model has drawn and the commands between its steps decide
everything else, such as words, the audio clock, and which columns the model's context holds. README.md has the format.

    record = read_record(data)        # raises RecordError for anything that is no whole record of this version
    for entry in record.entries: ...
    data = MAGIC + pack(header) + pack(entry) + ...

A file that grows may end in the middle of an entry, because its writer died: `read_record` leaves that entry out and
says so in `Record.torn`. Any other damage is an error.

Knows neither the model nor files.
"""

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dia2stream.errors import RecordError
from dia2stream.protocol.fields import Refused
from dia2stream.protocol.strict_json import line, load

VERSION = 2
MAGIC = b"dia2rec\n"
MAX_ENTRY_BYTES = 16 * 2**20  # of one entry; the longest are the codes of a caller who speaks for a minute

LEVELS = 8  # of a frame

Codes: TypeAlias = NDArray[np.int16]
Levels: TypeAlias = NDArray[np.uint8]

_FRAME = struct.Struct("<II")  # before each entry: the length of its payload, and its CRC-32
_STEPS = struct.Struct("<IIHH")  # first step, frames sent, number of steps, codebooks
_EAR = struct.Struct("<HI")  # codebooks, frames
_CLOCK = struct.Struct("<II")  # frame of the audio clock, step
_NUMBER = struct.Struct("<I")
_VOICE = struct.Struct("<IHI")  # bytes of JSON, codebooks, frames


@dataclass(frozen=True)
class Header:
    """What a record begins with.

    version: of the format. made_by: the version of dia2stream. model: its name, for people. fingerprint: of the model.
    dtype, weights: in which the model was computed. codebooks: of a frame. context_steps, history_frames: of the
    model's context. gain_db: of all that is spoken. began: seconds since 1970. has_text: False where the text was left
    out; such a record can be heard again, but not computed.
    text: how text is read: rules, auto, makes_sounds, lexicon; empty where the text was left out.
    """

    version: int
    made_by: str
    model: str
    fingerprint: str
    dtype: str
    weights: str
    codebooks: int
    delays: tuple[int, ...]
    context_steps: int
    history_frames: int
    began: float
    has_text: bool
    gain_db: float
    text: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class VoiceEntry:
    """A voice that a command names: codes int16 [C, frames]; entries: (tokens, text, padding, speaker) of each word;
    steps: at which each word is taken.
    """

    name: str
    entries: tuple[tuple[tuple[int, ...], str, int, int], ...]
    steps: tuple[int, ...]
    codes: Codes


@dataclass(frozen=True)
class CommandEntry:
    """A command that was carried out.

    command: its JSON object; of `listen` without its audio. samples: how many samples that had. step: the model's next
    step when it came. sent: frames that had been sent when it was carried out. made: how many frames of the audio clock
    were made then, behind an interruption those that were sent. frames: how many frames of the conversation are known
    behind it.
    """

    command: dict[str, Any]
    step: int
    sent: int
    made: int
    frames: int
    samples: int | None = None


@dataclass(frozen=True)
class StepsEntry:
    """Steps that follow each other. step: the first one. sent: frames that had been sent. actions: int, 0 or 1 of each.

    codes: int16 [n, C], of the column behind each step. levels: uint8 [n, 8], of the frame that each step completed, as
    words are placed by them: dB below full scale in every 10 ms, 255 where they were not measured.
    """

    step: int
    sent: int
    actions: tuple[int, ...]
    codes: Codes
    levels: Levels


@dataclass(frozen=True)
class EarEntry:
    """Codes int16 [C, n] of what the caller said, as the codec encoded it for the command or step that follows."""

    codes: Codes


@dataclass(frozen=True)
class ClockEntry:
    """From frame `clock` of the audio clock on, the listener hears the model's steps from `step` on."""

    clock: int
    step: int


@dataclass(frozen=True)
class ArrivalEntry:
    """Another server has taken the conversation over, for a client that had received so many frames."""

    received: int


@dataclass(frozen=True)
class ReachEntry:
    """So many columns the model's context could have from here on: fewer than context_steps where memory was short."""

    columns: int


Entry: TypeAlias = VoiceEntry | CommandEntry | StepsEntry | EarEntry | ClockEntry | ArrivalEntry | ReachEntry


@dataclass(frozen=True)
class Record:
    """A whole record. size: bytes of it that are whole. torn: bytes behind these, of an entry that is not."""

    header: Header
    entries: tuple[Entry, ...]
    size: int
    torn: int


# ---- Writing ----


def begin(header: Header) -> bytes:
    """The bytes that a record begins with."""
    return MAGIC + _framed(b"H" + _json({f.name: getattr(header, f.name) for f in fields(header)}))


def pack(entry: Entry) -> bytes:
    """The bytes of an entry."""
    match entry:
        case VoiceEntry():
            about = _json({"name": entry.name, "entries": entry.entries, "steps": entry.steps})
            return _framed(b"V" + _VOICE.pack(len(about), *entry.codes.shape) + about + _bytes(entry.codes))
        case CommandEntry():
            return _framed(b"C" + _json({f.name: getattr(entry, f.name) for f in fields(entry)}))
        case StepsEntry():
            head = _STEPS.pack(entry.step, entry.sent, *entry.codes.shape)
            return _framed(b"S" + head + bytes(entry.actions) + entry.levels.tobytes() + _bytes(entry.codes))
        case EarEntry():
            return _framed(b"E" + _EAR.pack(*entry.codes.shape) + _bytes(entry.codes))
        case ClockEntry():
            return _framed(b"K" + _CLOCK.pack(entry.clock, entry.step))
        case ArrivalEntry():
            return _framed(b"A" + _NUMBER.pack(entry.received))
        case ReachEntry():
            return _framed(b"R" + _NUMBER.pack(entry.columns))


def _framed(payload: bytes) -> bytes:
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _json(message: dict[str, Any]) -> bytes:
    return line(message).encode()


def _bytes(codes: Codes) -> bytes:
    return np.ascontiguousarray(codes, "<i2").tobytes()


# ---- Reading ----


def read_record(data: bytes, name: str = "the record") -> Record:
    """A record. name: of what is read, for errors. Raises RecordError."""
    if not data.startswith(MAGIC):
        raise RecordError(f"{name} is no record of a conversation: it does not begin with {MAGIC.decode().strip()}")
    header: Header | None = None
    entries: list[Entry] = []
    size = len(MAGIC)
    for payload, end in _payloads(data, name):
        try:
            if header is None:
                header = _header(payload, name)
            else:
                entries.append(_entry(payload, header))
        except (struct.error, Refused, ValueError, KeyError, TypeError) as error:
            raise RecordError(f"{name} is damaged at byte {size}: {error}") from None
        size = end
    if header is None:
        raise RecordError(f"{name} is cut short: it has no header")
    return Record(header, tuple(entries), size, len(data) - size)


def _payloads(data: bytes, name: str) -> Iterator[tuple[bytes, int]]:
    """The payloads that are whole, and where each ends. Only the last one may be torn."""
    at = len(MAGIC)
    while at + _FRAME.size <= len(data):
        length, check = _FRAME.unpack_from(data, at)
        end = at + _FRAME.size + length
        if end > len(data) and length <= MAX_ENTRY_BYTES:
            return
        payload = data[at + _FRAME.size : end]
        if not 0 < length <= MAX_ENTRY_BYTES or zlib.crc32(payload) != check:
            # A write that was cut off by a crash may leave zeros, or nothing that was meant, up to the file's end.
            if end >= len(data) or not any(data[at:]):
                return
            raise RecordError(f"{name} is damaged at byte {at}: the checksum of an entry does not fit")
        yield payload, end
        at = end


def _header(payload: bytes, name: str) -> Header:
    if payload[:1] != b"H":
        raise ValueError("the first entry is no header")
    given = load(payload[1:])
    version = given.get("version") if isinstance(given, dict) else None
    if version != VERSION:
        raise RecordError(f"{name} has version {version!r} of the format; this dia2stream reads version {VERSION}")
    _check_keys(given, {f.name for f in fields(Header)})
    return Header(**{**given, "delays": tuple(given["delays"])})


def _entry(payload: bytes, header: Header) -> Entry:
    kind, body = payload[:1], payload[1:]
    if kind not in _READERS:
        raise ValueError(f"an entry of kind {kind!r}; known are {b''.join(_READERS).decode()}")
    entry = _READERS[kind](body)
    codes = getattr(entry, "codes", None)
    if codes is not None and codes.shape[isinstance(entry, StepsEntry)] != header.codebooks:
        raise ValueError(f"codes of shape {codes.shape}, and the model has {header.codebooks} codebooks")
    return entry


def _voice(body: bytes) -> VoiceEntry:
    size, codebooks, frames = _VOICE.unpack_from(body)
    about = load(body[_VOICE.size : _VOICE.size + size])
    _check_keys(about, {"name", "entries", "steps"})
    entries = tuple((tuple(tokens), text, padding, speaker) for tokens, text, padding, speaker in about["entries"])
    codes = _codes(body, _VOICE.size + size, codebooks, frames)
    return VoiceEntry(about["name"], entries, tuple(about["steps"]), codes)


def _command(body: bytes) -> CommandEntry:
    given = load(body)
    _check_keys(given, {f.name for f in fields(CommandEntry)})
    numbers = [given[name] for name in ("step", "sent", "made", "frames")]
    if not isinstance(given["command"], dict) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("a command without its place")
    return CommandEntry(**given)


def _steps(body: bytes) -> StepsEntry:
    step, sent, count, codebooks = _STEPS.unpack_from(body)
    levels_at = _STEPS.size + count
    codes_at = levels_at + count * LEVELS
    levels = np.frombuffer(body[levels_at:codes_at], np.uint8).reshape(count, LEVELS)
    actions = tuple(body[_STEPS.size : levels_at])
    return StepsEntry(step, sent, actions, _codes(body, codes_at, count, codebooks), levels)


def _ear(body: bytes) -> EarEntry:
    return EarEntry(_codes(body, _EAR.size, *_EAR.unpack_from(body)))


def _clock(body: bytes) -> ClockEntry:
    return ClockEntry(*_CLOCK.unpack(body))


def _arrival(body: bytes) -> ArrivalEntry:
    return ArrivalEntry(*_NUMBER.unpack(body))


def _reach(body: bytes) -> ReachEntry:
    return ReachEntry(*_NUMBER.unpack(body))


_READERS: dict[bytes, Callable[[bytes], Entry]] = {
    b"V": _voice,
    b"C": _command,
    b"S": _steps,
    b"E": _ear,
    b"K": _clock,
    b"A": _arrival,
    b"R": _reach,
}


def _codes(body: bytes, start: int, rows: int, columns: int) -> Codes:
    if len(body) - start != 2 * rows * columns:
        raise ValueError(f"{len(body) - start} bytes of codes where {rows} x {columns} are announced")
    return np.frombuffer(body, "<i2", offset=start).reshape(rows, columns)


def _check_keys(given: object, known: set[str]) -> None:
    if not isinstance(given, dict) or set(given) != known:
        found = json.dumps(sorted(given) if isinstance(given, dict) else given)[:200]
        raise ValueError(f"fields {found} where {', '.join(sorted(known))} belong")
